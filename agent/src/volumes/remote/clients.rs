//! Clients of GlusterFS: processes that serve a mount. They leave the group of the helper that started them, and would mount when the server
//! comes back, whoever still wants it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

const LOOK: Duration = Duration::from_millis(50);

/// Ends those that serve, or are to serve, a mount at or below a folder. What is still under way in them is waited for so long.
pub(super) async fn end(folder: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let found = below(folder);
        if found.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            for id in found {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// By their arguments, of which the last says where (proc_pid_cmdline(5)).
fn below(folder: &Path) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_one = |id: &i32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
        let is_client = words.next().is_some_and(|program| program.ends_with(b"/glusterfs"));
        let place = words.next_back().map(|word| Path::new(std::ffi::OsStr::from_bytes(word)));
        is_client && place.is_some_and(|place| place.starts_with(folder))
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    #[tokio::test]
    async fn only_clients_of_the_folder_are_ended() {
        let start = |program: &str, place: &str| {
            let mut command = Command::new("/bin/sh");
            command.arg0(program).args(["-c", "sleep 100; true", "x", place]).spawn().unwrap()
        };
        let mut ours = start("/usr/sbin/glusterfs", "/pods/u1/volumes/v");
        let mut others = [start("/usr/sbin/glusterfs", "/pods/u11/v"), start("/bin/sh", "/pods/u1/v")];
        end(Path::new("/pods/u1"), Duration::ZERO).await;
        let ended = ours.wait().unwrap();
        let alive = others.iter_mut().map(|one| one.try_wait().unwrap().is_none()).collect::<Vec<_>>();
        for one in &mut others {
            one.kill().unwrap();
            one.wait().unwrap();
        }
        assert!(!ended.success() && alive == [true, true], "{ended} {alive:?}");
    }
}
