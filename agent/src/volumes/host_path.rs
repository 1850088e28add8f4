//! `hostPath`: a path of the node, made or checked as its type says.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes or checks the path. The text is kubelet's.
pub(super) fn check(path: &str, kind: &str) -> Result<(), String> {
    let target = Path::new(path);
    match kind {
        // Docker would refuse a source that is not there; container runtimes of Kubernetes create a folder.
        "" | "DirectoryOrCreate" if !target.exists() => {
            fs::create_dir_all(target).map_err(|e| format!("cannot create {path}: {e}"))?;
            let _ = fs::set_permissions(target, fs::Permissions::from_mode(0o755));
        }
        "FileOrCreate" if !target.exists() => {
            fs::File::create(target).map_err(|e| format!("cannot create {path}: {e}"))?;
        }
        _ => {}
    }
    let found =
        fs::metadata(target).map_err(|_| format!("hostPath type check failed: {path} does not exist"))?;
    let file_type = found.file_type();
    let (fits, what) = match kind {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (file_type.is_dir(), "a directory"),
        "File" | "FileOrCreate" => (file_type.is_file(), "a file"),
        "Socket" => (file_type.is_socket(), "a socket file"),
        "CharDevice" => (file_type.is_char_device(), "a character device"),
        "BlockDevice" => (file_type.is_block_device(), "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {path} is not {what}")) }
}
