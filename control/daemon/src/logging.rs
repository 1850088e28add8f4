//! Logs: constant messages with values as fields. Plain text on a terminal, JSON elsewhere unless asked otherwise.
//!
//! Levels: TRACE follows every packet or loop turn; DEBUG marks a deviation; INFO a change that a user would notice; WARN
//! may wake someone; ERROR means that we stop or are broken. Nothing sensitive at any level.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("unknown log format {other:?}: use auto, text or json")),
        }
    }
}

/// Starts logging to standard error. `filter` is in the syntax of `RUST_LOG` (`info,oarlock_store=debug`).
///
/// # Errors
/// A filter that does not parse, or logging that was started before.
pub fn init(filter: &str, format: Format) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        anyhow::anyhow!("invalid log filter {filter:?}: {e}; for example: info,oarlock_store=debug")
    })?;
    let terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    started.map_err(|e| anyhow::anyhow!("logging cannot start: {e}"))
}
