//! The files of pods: one folder a pod, one folder in it a volume, filled from ConfigMaps, Secrets and the pod itself.
//!
//! In: a pod and the objects it names. Out: host paths to mount, those of other machines' volumes once they are mounted ([`remote`]).
//! Calling again brings what changed up to date; running containers see it at once and whole (the `..data` link is replaced). Removed
//! with the pod.

mod atomic;
mod claim;
mod directories;
mod host_path;
mod mounted;
mod ownership;
mod payload;
mod remote;
pub(crate) mod sub_path;
mod tmpfs;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock_api::k8s::api::core::v1::{PersistentVolume, Pod, PodSpec, Volume};
use oarlock_api::quantity::Quantity;

use crate::desired::Snapshot;
use crate::plan::downward::Place;
pub(crate) use mounted::{mounts_below, unmount_below};
use ownership::Heir;
use payload::Payload;
pub use remote::Host;
#[cfg(test)]
pub(crate) use remote::Pretended;
use remote::Remotes;
pub(crate) use remote::{Remote, disks};

/// Why a volume cannot be mounted; the text is that of the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Volume { volume: String, message: String },
    #[error("{step} failed for volume \"{volume}\" : {message}")]
    Step { step: &'static str, volume: String, message: String },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
}

/// The folder of all pods on this node.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    root: PathBuf,
    /// Directories that were provisioned for claims; they outlive pods.
    claimed: PathBuf,
    /// What pods share of other machines' volumes.
    remotes: Arc<Remotes>,
}

/// Where things are, by volume name.
pub(crate) type HostPaths = BTreeMap<String, String>;

impl Volumes {
    pub(crate) fn new(data_dir: &Path, claimed: &Path) -> Self {
        let remotes = Arc::new(Remotes::new(Host::default(), data_dir));
        Self { root: data_dir.join("pods"), claimed: claimed.to_path_buf(), remotes }
    }

    /// The same, with helpers of that host.
    pub(crate) fn on(self, host: Host) -> Self {
        let data_dir = self.root.parent().unwrap_or(&self.root);
        Self { remotes: Arc::new(Remotes::new(host, data_dir)), ..self }
    }

    /// The pod's volumes that other machines have, as far as its claims are bound.
    pub(crate) fn remote(&self, pod: &Pod, snapshot: &Snapshot) -> Result<Vec<Remote>, VolumeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        remote::of(pod, snapshot, &self.pod_dir(uid))
    }

    /// Mounts them; what could not be.
    pub(crate) async fn mount_remote(&self, uid: &str, wanted: &[Remote]) -> Vec<VolumeError> {
        self.remotes.mount(&self.pod_dir(uid), wanted).await
    }

    /// Takes all of a pod's away again. To be called before [`Self::remove`].
    pub(crate) async fn unmount_remote(&self, uid: &str) -> Result<(), VolumeError> {
        if !is_uid(uid) {
            return Ok(());
        }
        let dir = self.pod_dir(uid);
        // A part of a volume that a container has keeps its disk in use.
        let parts = unmount_below(&dir.join("volume-subpaths"));
        let unmounted = match parts {
            Ok(()) => self.remotes.unmount(&dir).await,
            Err(error) => Err(error),
        };
        unmounted.map_err(|source| VolumeError::Io { what: format!("unmount volumes of {uid}"), source })
    }

    /// The folder of one pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// Pods that have a folder: leftovers, if nobody wants them.
    pub(crate) fn pods(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Makes every volume of the pod, or brings it up to date.
    pub(crate) fn prepare(
        &self,
        pod: &Pod,
        snapshot: &Snapshot,
        place: &Place,
    ) -> Result<HostPaths, VolumeError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let dir = self.pod_dir(uid);
        create_dir(&dir, 0o750)?;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let group = spec.security_context.as_ref().and_then(|s| s.fs_group);
        let group = group.and_then(|g| u32::try_from(g).ok());
        let context = Context { pod, snapshot, place, dir: &dir, claimed: &self.claimed, group };
        let volumes = spec.volumes.iter().flatten();
        volumes.map(|volume| Ok((volume.name.clone(), context.volume(volume)?))).collect()
    }

    /// Detaches disks that no pod of the node has any more.
    pub(crate) async fn release_disks(&self) {
        self.remotes.release().await;
    }

    /// Writes one of the files that every container gets; returns its path. The file keeps its inode: it is mounted.
    pub(crate) fn managed_file(&self, uid: &str, name: &str, content: &str) -> Result<String, VolumeError> {
        let path = self.pod_dir(uid).join(name);
        let failed = |source| VolumeError::Io { what: format!("write {}", path.display()), source };
        if let Some(parent) = path.parent() {
            create_dir(parent, 0o750)?;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(content) {
            fs::write(&path, content).map_err(failed)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// The file into which a container writes its last words; any user may.
    pub(crate) fn termination_file(
        &self,
        uid: &str,
        container: &str,
        attempt: u32,
    ) -> Result<String, VolumeError> {
        let path = self.managed_file(uid, &format!("termination/{container}-{attempt}"), "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .map_err(|source| VolumeError::Io { what: format!("open {path} to all"), source })?;
        Ok(path)
    }

    /// What the container wrote there: at most 4 KiB, as in Kubernetes.
    pub(crate) fn termination_message(&self, uid: &str, container: &str, attempt: u32) -> String {
        use std::io::Read as _;
        let path = self.pod_dir(uid).join(format!("termination/{container}-{attempt}"));
        let mut text = Vec::new();
        if let Ok(file) = fs::File::open(path) {
            // What cannot be read counts as nothing written.
            let _ = file.take(4096).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Makes a part of a volume ready to be mounted in a container; returns its path.
    pub(crate) async fn sub_path(
        &self,
        uid: &str,
        whose: sub_path::Whose,
        root: &str,
        part: String,
    ) -> io::Result<String> {
        let (pod_dir, root) = (self.pod_dir(uid), root.to_owned());
        // The volume's server may be away.
        let place =
            remote::bounded("subPath", move || sub_path::bind(&pod_dir, &whose, &root, &part)).await?;
        Ok(place.to_string_lossy().into_owned())
    }

    /// Removes the directory that was provisioned for a claim.
    pub(crate) fn remove_claimed(&self, volume: &PersistentVolume) -> Result<(), String> {
        directories::remove(&self.claimed, volume)
    }

    /// Removes everything of a pod. A pod without files is no error.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), VolumeError> {
        if !is_uid(uid) {
            return Ok(());
        }
        let dir = self.pod_dir(uid);
        let failed = |source| VolumeError::Io { what: format!("remove {}", dir.display()), source };
        unmount_below(&dir).map_err(failed)?;
        sub_path::remove(&dir).map_err(failed)?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }
}

struct Context<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    place: &'a Place,
    dir: &'a Path,
    claimed: &'a Path,
    group: Option<u32>,
}

impl Context<'_> {
    fn volume(&self, volume: &Volume) -> Result<String, VolumeError> {
        let failed = |message: String| VolumeError::Volume { volume: volume.name.clone(), message };
        if let Some(source) = &volume.host_path {
            host_path::check(&source.path, source.type_.as_deref().unwrap_or_default()).map_err(failed)?;
            return Ok(source.path.clone());
        }
        if let Some(claim) = claim::of(volume, self.pod) {
            let found = claim::volume(&claim, volume, self.pod, self.snapshot).map_err(failed)?;
            if let Some(place) = remote::place(found, &volume.name, self.dir) {
                return mounted_at(&place).map_err(failed);
            }
            let heir = Heir::of(self.pod, self.dir, &volume.name);
            return claim::path(found, self.claimed, heir.as_ref()).map_err(failed);
        }
        if let Some(place) = remote::own_place(volume, self.dir) {
            return mounted_at(&place).map_err(failed);
        }
        let own = |plugin: &str| {
            self.dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name)
        };
        if let Some(source) = &volume.empty_dir {
            let path = own("empty-dir");
            let limit = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok());
            let memory = source.medium.as_deref() == Some("Memory");
            self.empty_dir(&path, memory, limit.map(|l| l.value()))?;
            return Ok(path.to_string_lossy().into_owned());
        }
        let (plugin, payload, secret) =
            payload::of(self.pod, self.snapshot, self.place, volume).map_err(failed)?.ok_or_else(|| {
                failed("this type of volume is not supported by this version of Oarlock".to_owned())
            })?;
        let path = own(plugin);
        create_dir(&path, 0o755)?;
        if secret {
            tmpfs::mount(&path, None).map_err(|e| failed(format!("cannot mount a tmpfs: {e}")))?;
        }
        self.write(&path, &payload).map_err(|e| failed(e.to_string()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn write(&self, path: &Path, payload: &Payload) -> io::Result<()> {
        atomic::write(path, payload, self.group)
    }

    fn empty_dir(&self, path: &Path, memory: bool, limit: Option<i64>) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Io { what: format!("prepare {}", path.display()), source };
        let fresh = !path.exists();
        create_dir(path, 0o777)?;
        if memory {
            tmpfs::mount(path, limit).map_err(failed)?;
        }
        if fresh {
            let mode = if self.group.is_some() { 0o2777 } else { 0o777 };
            chown(path, None, self.group).map_err(failed)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Ok(())
    }
}

/// An empty uid would be the folder of all pods.
fn is_uid(uid: &str) -> bool {
    !uid.is_empty() && !uid.contains(['/', '.'])
}

/// The place of a volume that another machine has, once it is there.
fn mounted_at(place: &Path) -> Result<String, String> {
    match mounted::is_mounted(place) {
        Ok(true) => Ok(place.to_string_lossy().into_owned()),
        Ok(false) => Err("it is not mounted yet".to_owned()),
        Err(error) => Err(format!("cannot read what is mounted: {error}")),
    }
}

fn create_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| VolumeError::Io { what: format!("create {}", path.display()), source })
}

#[cfg(test)]
mod tests;
