//! Daemons in the background: started with a log and a pid file, found again, stopped.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::exec::{output, state};

/// Starts a daemon in the background, with its log and a pid file that a recycled pid does not fit.
pub(crate) fn spawn(name: &str, command: Command) -> Result<()> {
    let folder = state();
    std::fs::create_dir_all(&folder)?;
    let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")))?;
    // nsenter and setsid both become the daemon itself: the pid is its own.
    let mut outer = Command::new("setsid");
    outer.arg(command.get_program()).args(command.get_args());
    let child = outer
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let pid = child.id();
    let start = start_time(pid).unwrap_or_default();
    std::fs::write(folder.join(format!("{name}.pid")), format!("{pid} {start}"))?;
    Ok(())
}

/// When a process started, in clock ticks since boot: field 22 of /proc/<pid>/stat.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18).unwrap_or_default().to_owned())
}

/// The pid of a daemon of ours that is running.
pub(crate) fn running_pid(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(state().join(format!("{name}.pid"))).ok()?;
    let (pid, start) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid).as_deref() == Some(start)).then_some(pid)
}

/// Whether a daemon of ours is running.
pub(crate) fn is_running(name: &str) -> bool {
    running_pid(name).is_some()
}

/// Every daemon that has a pid file, in the order in which they are best stopped: the store last.
pub(crate) fn all() -> Vec<String> {
    let files = std::fs::read_dir(state()).into_iter().flatten().flatten();
    let names = files.filter_map(|f| f.file_name().to_string_lossy().strip_suffix(".pid").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort_by_key(|name| (name == "etcd", name == "control", name.clone()));
    names
}

/// Ends a daemon, by force if it does not listen.
pub(crate) fn stop(name: &str) {
    if let Some(pid) = running_pid(name) {
        let pid_text = pid.to_string();
        let _ = output("kill", &[&pid_text]);
        let start = Instant::now();
        while is_running(name) && start.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if is_running(name) {
            let _ = output("kill", &["-9", &pid_text]);
        }
    }
    let _ = std::fs::remove_file(state().join(format!("{name}.pid")));
}
