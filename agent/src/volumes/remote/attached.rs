//! What the node has attached, written down before it is: an agent that is killed leaves nothing that the next one cannot detach.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::source::{Iscsi, Rbd, Target};

const FILE: &str = "attached.json";

/// A disk, as far as detaching needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Attached {
    Iscsi(Iscsi),
    Rbd(Rbd),
}

impl Attached {
    pub(super) fn of(target: &Target) -> Self {
        match target {
            Target::Iscsi { disk, .. } => Self::Iscsi(disk.clone()),
            Target::Rbd { disk, .. } => Self::Rbd(disk.clone()),
        }
    }

    /// Who attaches or detaches at the same time would be in each other's way: sessions are those of a target, whatever its disks.
    pub(super) fn lock(&self) -> String {
        match self {
            Self::Iscsi(disk) => format!("iscsi {}", disk.iqn),
            Self::Rbd(disk) => format!("rbd {}/{}", disk.pool, disk.image),
        }
    }

    /// The name of its folder.
    pub(super) fn name(&self) -> String {
        let name = match self {
            Self::Iscsi(disk) => {
                let portal = disk.portals.first().map_or("", String::as_str);
                format!("iscsi-{}-{portal}-{}-lun-{}", disk.interface, disk.iqn, disk.lun)
            }
            Self::Rbd(disk) => format!("rbd-{}-image-{}", disk.pool, disk.image),
        };
        name.replace('/', "~")
    }
}

/// The folder of a disk, and where in it the disk is mounted for all pods.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn of(disks: &Path, disk: &Attached) -> Self {
        Self(disks.join(disk.name()))
    }

    /// All that there are.
    pub(super) fn all(disks: &Path) -> io::Result<Vec<Self>> {
        match fs::read_dir(disks) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(Self(entry?.path()))).collect(),
        }
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.0.join("mount")
    }

    /// Where a key is for as long as a helper reads it.
    pub(super) fn key_file(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Makes it, with what is about to be attached.
    pub(super) fn make(&self, disk: &Attached) -> io::Result<()> {
        fs::create_dir_all(self.mount_point())?;
        let temporary = self.0.join("attached.tmp");
        fs::write(&temporary, serde_json::to_vec(disk)?)?;
        fs::rename(temporary, self.0.join(FILE))
    }

    /// What is, or was about to be, attached; none: it had not come so far.
    pub(super) fn read(&self) -> io::Result<Option<Attached>> {
        match fs::read(self.0.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
        }
    }

    /// Removes it. What is mounted in it keeps it.
    pub(super) fn remove(&self) -> io::Result<()> {
        for path in [self.mount_point(), self.key_file(), self.0.join("attached.tmp"), self.0.join(FILE)] {
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        fs::remove_dir(&self.0)
    }
}
