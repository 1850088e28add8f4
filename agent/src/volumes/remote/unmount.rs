//! Takes mounts away whose servers may be gone: in order while that works, whatever it takes after a bound.

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tokio::time::Instant;

/// How long what is still to be written, or somebody who uses it, is waited for.
pub(super) const BOUND: Duration = Duration::from_secs(10);
/// How often it is tried while somebody uses it.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a volume may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Unmounts what is mounted at a place.
pub(super) async fn unmount(place: &Path) -> io::Result<()> {
    let deadline = Instant::now() + BOUND;
    loop {
        let why = match tokio::time::timeout_at(deadline, call(place, MntFlags::UMOUNT_NOFOLLOW)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if is_gone(&error) => return Ok(()),
            Ok(Err(error))
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() + AGAIN < deadline =>
            {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(place = %place.display(), why, "a volume is unmounted by force: what is not written by now may be lost");
        break;
    }
    // Requests that wait for a server end with errors; the place is free at once, whoever still has files of it open.
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match tokio::time::timeout(BOUND, call(place, flags)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not unmount it")),
    }
}

/// Nothing is mounted there (any more).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::EINVAL as i32)
}

async fn call(place: &Path, flags: MntFlags) -> io::Result<()> {
    let place = place.to_owned();
    apart("umount", move || umount2(&place, flags).map_err(io::Error::from)).await
}

/// Waits for what asks a volume itself, but not for ever.
pub(crate) async fn bounded<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the volume does not answer: is its server there?");
    tokio::time::timeout(ANSWER, apart(name, work)).await.map_err(|_| late())?
}

/// Runs what may never end on a thread of its own: the process' end waits for all others.
pub(super) async fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, outcome) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    // Nobody may wait any more.
    thread.spawn(move || drop(sender.send(work())))?;
    outcome.await.map_err(|_| io::Error::other("its thread ended"))?
}
