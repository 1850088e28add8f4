//! Which volumes of a pod other machines have, and what the objects say of them. Pure.

use std::path::{Path, PathBuf};

use oarlock_api::k8s::api::core::v1::{
    GlusterfsPersistentVolumeSource, ISCSIPersistentVolumeSource, NFSVolumeSource, PersistentVolume, Pod,
    RBDPersistentVolumeSource, Secret, SecretReference, Volume,
};
use serde::{Deserialize, Serialize};

use super::super::ownership::Heir;
use super::super::{VolumeError, claim};
use super::folder;
use crate::desired::Snapshot;

/// The plugins as kubelet calls them in folders.
pub(super) const PLUGINS: [&str; 4] = ["nfs", "glusterfs", "iscsi", "rbd"];
/// The older place of `mountOptions`.
const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A volume of a pod that another machine has.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    /// Its name in the pod.
    pub(super) volume: String,
    /// Its name in events: that of the PersistentVolume where there is one.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) read_only: bool,
    /// `mountOptions`.
    pub(super) options: Vec<String>,
    /// To whom a disk is given.
    pub(super) heir: Option<Heir>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Nfs { server: String, path: String },
    Glusterfs(Glusterfs),
    Disk(Disk),
}

#[derive(Debug, Clone)]
pub(super) struct Glusterfs {
    pub(super) servers: Vec<String>,
    pub(super) path: String,
}

/// A disk that is attached to the node.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) fs_type: String,
    pub(super) target: Target,
}

/// Which disk, and what only attaching needs.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Iscsi { disk: Iscsi, chap: Chap },
    Rbd { disk: Rbd, access: Access },
}

/// What an iSCSI disk is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Iscsi {
    /// Where the target may be reached, most wanted first.
    pub(super) portals: Vec<String>,
    pub(super) iqn: String,
    pub(super) lun: i32,
    pub(super) interface: String,
}

/// Who logs in to a target; the keys are those of iscsiadm's records.
#[derive(Clone, Default)]
pub(super) struct Chap {
    pub(super) discovery: Vec<(String, String)>,
    pub(super) session: Vec<(String, String)>,
}

/// What an image of Ceph is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rbd {
    pub(super) pool: String,
    pub(super) image: String,
}

/// How it is reached.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) monitors: Vec<String>,
    pub(super) user: String,
    pub(super) keyring: String,
    /// Instead of the keyring.
    pub(super) key: Option<String>,
}

// What is secret is never printed.
impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chap").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("monitors", &self.monitors).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn plugin(&self) -> &'static str {
        match &self.kind {
            Kind::Nfs { .. } => "nfs",
            Kind::Glusterfs(_) => "glusterfs",
            Kind::Disk(Disk { target: Target::Iscsi { .. }, .. }) => "iscsi",
            Kind::Disk(Disk { target: Target::Rbd { .. }, .. }) => "rbd",
        }
    }

    /// Where it is mounted.
    pub(super) fn place(&self, pod_dir: &Path) -> PathBuf {
        folder(pod_dir, self.plugin()).join(&self.volume)
    }
}

/// The sources of which one is set, as a pod's volume and a PersistentVolume have them: a Secret without a namespace is of the pod's.
#[derive(Default, Deserialize)]
struct Sources {
    nfs: Option<NFSVolumeSource>,
    glusterfs: Option<GlusterfsPersistentVolumeSource>,
    iscsi: Option<ISCSIPersistentVolumeSource>,
    rbd: Option<RBDPersistentVolumeSource>,
}

/// All such volumes of a pod. A claim that cannot be used is left to who prepares the others, and says why.
pub(crate) fn of(pod: &Pod, snapshot: &Snapshot, pod_dir: &Path) -> Result<Vec<Remote>, VolumeError> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| one(pod, snapshot, pod_dir, volume).transpose()).collect()
}

/// Where a volume of a claim is mounted, if another machine has it.
pub(crate) fn place(volume: &PersistentVolume, name: &str, pod_dir: &Path) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    let is = [spec.nfs.is_some(), spec.glusterfs.is_some(), spec.iscsi.is_some(), spec.rbd.is_some()];
    let (plugin, _) = PLUGINS.iter().zip(is).find(|(_, is)| *is)?;
    Some(folder(pod_dir, plugin).join(name))
}

/// The same of a pod's own volume.
pub(crate) fn own_place(volume: &Volume, pod_dir: &Path) -> Option<PathBuf> {
    let is = [volume.nfs.is_some(), volume.glusterfs.is_some(), volume.iscsi.is_some(), volume.rbd.is_some()];
    let (plugin, _) = PLUGINS.iter().zip(is).find(|(_, is)| *is)?;
    Some(folder(pod_dir, plugin).join(&volume.name))
}

fn one(
    pod: &Pod,
    snapshot: &Snapshot,
    pod_dir: &Path,
    volume: &Volume,
) -> Result<Option<Remote>, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (sources, name, options, read_only) = if own_place(volume, pod_dir).is_some() {
        (parse(volume), volume.name.clone(), Vec::new(), false)
    } else {
        let Some(found) =
            claim::of(volume, pod).and_then(|name| claim::volume(&name, volume, pod, snapshot).ok())
        else {
            return Ok(None);
        };
        if place(found, &volume.name, pod_dir).is_none() {
            return Ok(None);
        }
        let read_only = volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only);
        let name = found.metadata.name.clone().unwrap_or_default();
        (found.spec.as_ref().map(parse).unwrap_or_default(), name, options(found), read_only == Some(true))
    };
    let objects = Objects { snapshot, namespace };
    let (kind, own_read_only) = objects.kind(sources).map_err(|message| VolumeError::Step {
        step: "MountVolume.NewMounter initialization",
        volume: name.clone(),
        message,
    })?;
    let heir = Heir::of(pod, pod_dir, &volume.name).filter(|_| matches!(kind, Kind::Disk(_)));
    let read_only = read_only || own_read_only;
    Ok(Some(Remote { volume: volume.name.clone(), name, kind, read_only, options, heir }))
}

/// The types of the Kubernetes API serialize always, and to what they were read from.
fn parse<T: Serialize>(of: &T) -> Sources {
    serde_json::to_value(of).and_then(serde_json::from_value).unwrap_or_default()
}

fn options(volume: &PersistentVolume) -> Vec<String> {
    let annotated = volume.metadata.annotations.as_ref().and_then(|all| all.get(OPTIONS));
    if let Some(text) = annotated {
        return text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
    }
    volume.spec.as_ref().and_then(|spec| spec.mount_options.clone()).unwrap_or_default()
}

struct Objects<'a> {
    snapshot: &'a Snapshot,
    /// The pod's.
    namespace: &'a str,
}

impl Objects<'_> {
    fn kind(&self, sources: Sources) -> Result<(Kind, bool), String> {
        if let Some(nfs) = sources.nfs {
            let kind = Kind::Nfs { server: nfs.server, path: nfs.path };
            return Ok((kind, nfs.read_only == Some(true)));
        }
        if let Some(gluster) = sources.glusterfs {
            let namespace = gluster.endpoints_namespace.as_deref().filter(|n| !n.is_empty());
            let servers = self.servers(namespace.unwrap_or(self.namespace), &gluster.endpoints)?;
            let kind = Kind::Glusterfs(Glusterfs { servers, path: gluster.path });
            return Ok((kind, gluster.read_only == Some(true)));
        }
        if let Some(iscsi) = sources.iscsi {
            let read_only = iscsi.read_only == Some(true);
            return Ok((Kind::Disk(self.iscsi(iscsi)?), read_only));
        }
        let rbd = sources.rbd.ok_or("the volume has no source that is known")?;
        let read_only = rbd.read_only == Some(true);
        Ok((Kind::Disk(self.rbd(rbd)?), read_only))
    }

    /// The addresses behind a Service, or those that somebody wrote into Endpoints without one.
    fn servers(&self, namespace: &str, name: &str) -> Result<Vec<String>, String> {
        let slices = self.snapshot.endpoint_slices.iter().filter(|((place, _), slice)| {
            let labels = slice.metadata.labels.as_ref();
            place == namespace && labels.and_then(|all| all.get(SERVICE_LABEL)).is_some_and(|of| of == name)
        });
        let of_slices = slices.flat_map(|(_, slice)| &slice.endpoints).flat_map(|one| one.addresses.iter());
        let mut servers: Vec<String> = Vec::new();
        let mut add = |address: &String| {
            if !servers.contains(address) {
                servers.push(address.clone());
            }
        };
        of_slices.for_each(&mut add);
        let written = self.snapshot.endpoints.get(&(namespace.to_owned(), name.to_owned()));
        let subsets = written.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
        subsets.flat_map(|subset| subset.addresses.iter().flatten()).for_each(|one| add(&one.ip));
        if servers.is_empty() && written.is_none() {
            return Err(format!("endpoints {name:?} not found"));
        }
        Ok(servers)
    }

    fn iscsi(&self, source: ISCSIPersistentVolumeSource) -> Result<Disk, String> {
        let more = source.portals.into_iter().flatten();
        let mut portals: Vec<String> = Vec::new();
        for portal in std::iter::once(source.target_portal).chain(more).map(with_port) {
            if !portals.contains(&portal) {
                portals.push(portal);
            }
        }
        let secret = source.secret_ref.as_ref().map(|named| self.secret(named)).transpose()?;
        let keys = |wanted: Option<bool>, prefix: &str| -> Vec<(String, String)> {
            let names = ["username", "password", "username_in", "password_in"];
            let all = names.map(|name| format!("{prefix}.auth.{name}"));
            let found = all.into_iter().filter_map(|key| Some((value(secret?, &key)?, key)));
            if wanted == Some(true) { found.map(|(value, key)| (key, value)).collect() } else { Vec::new() }
        };
        let chap = Chap {
            discovery: keys(source.chap_auth_discovery, "discovery.sendtargets"),
            session: keys(source.chap_auth_session, "node.session"),
        };
        let interface = source.iscsi_interface.filter(|i| !i.is_empty());
        let disk = Iscsi {
            portals,
            iqn: source.iqn,
            lun: source.lun,
            interface: interface.unwrap_or_else(|| "default".to_owned()),
        };
        Ok(Disk { fs_type: fs_type(source.fs_type), target: Target::Iscsi { disk, chap } })
    }

    fn rbd(&self, source: RBDPersistentVolumeSource) -> Result<Disk, String> {
        let given = |text: Option<String>, default: &str| {
            text.filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let secret = source.secret_ref.as_ref().map(|named| self.secret(named)).transpose()?;
        let key = secret.map(|secret| {
            let only = secret.data.iter().flatten().next().map(|(key, _)| key.clone());
            let of = |key: &str| value(secret, key);
            of("key").or_else(|| of(&only?)).ok_or("the Secret of the rbd volume has no key \"key\"")
        });
        let access = Access {
            monitors: source.monitors,
            user: given(source.user, "admin"),
            keyring: given(source.keyring, "/etc/ceph/keyring"),
            key: key.transpose()?,
        };
        let disk = Rbd { pool: given(source.pool, "rbd"), image: source.image };
        Ok(Disk { fs_type: fs_type(source.fs_type), target: Target::Rbd { disk, access } })
    }

    fn secret(&self, named: &SecretReference) -> Result<&Secret, String> {
        let name = named.name.as_deref().unwrap_or_default();
        let place = named.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(self.namespace);
        let found = self.snapshot.secrets.get(&(place.to_owned(), name.to_owned()));
        found.map(|secret| &**secret).ok_or_else(|| format!("secret \"{place}/{name}\" not found"))
    }
}

fn value(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}

fn fs_type(given: Option<String>) -> String {
    given.filter(|text| !text.is_empty()).unwrap_or_else(|| "ext4".to_owned())
}

/// With the port of iSCSI where none is said.
fn with_port(portal: String) -> String {
    if portal.contains(':') { portal } else { format!("{portal}:3260") }
}
