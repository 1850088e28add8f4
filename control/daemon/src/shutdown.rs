//! The signals that ask a daemon to end.

use tokio::signal::unix::{SignalKind, signal};

/// Completes on SIGTERM or SIGINT and says which it was. A future passed into the composition root: libraries never
/// install signal handlers of their own.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn shutdown_signal() -> std::io::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}
