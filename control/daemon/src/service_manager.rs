//! What the service manager is told (sd_notify(3)): that the process serves, that it ends, and, where it asks for that, that it still
//! does something. Nobody is told anything where there is none.

use sd_notify::NotifyState;

use crate::Tasks;

/// Says that the process serves. From then on says again and again that it lives, as often as the manager wants to hear it: a
/// process that no longer turns is started anew.
pub fn serving(tasks: &Tasks) {
    tell(NotifyState::Ready);
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let token = tasks.token();
    let again = patience / 3;
    tasks.spawn("watchdog", async move {
        loop {
            tell(NotifyState::Watchdog);
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                () = token.cancelled() => return,
            }
        }
    });
}

/// Says that the process ends.
pub fn ending() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
