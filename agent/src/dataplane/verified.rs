//! Programs and the kernel's verifier, which gives up with EAGAIN when a signal comes for the thread meanwhile. libbpf tries again,
//! aya does not.

use aya::programs::ProgramError;
use nix::libc::EAGAIN;

/// As often as libbpf (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Loads a program, and again where only that was in the way.
///
/// # Errors
/// As `load`.
pub fn verified(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    attempt(load, |error| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(EAGAIN),
        _ => false,
    })
}

fn attempt<E>(mut load: impl FnMut() -> Result<(), E>, is_interrupted: impl Fn(&E) -> bool) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(error) if is_interrupted(&error) => {}
            other => return other,
        }
    }
    load()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was tried to load what is interrupted so often and then ends so, and how it ended.
    fn tried(interrupted: usize, end: Result<(), &'static str>) -> (usize, Result<(), &'static str>) {
        let mut tries = 0;
        let load = || {
            tries += 1;
            if tries > interrupted { end } else { Err("interrupted") }
        };
        let ended = attempt(load, |error| *error == "interrupted");
        (tries, ended)
    }

    #[test]
    fn an_interrupted_load_is_tried_again_and_no_other() {
        assert_eq!(tried(0, Ok(())), (1, Ok(())));
        assert_eq!(tried(2, Ok(())), (3, Ok(())));
        assert_eq!(tried(1, Err("refused")), (2, Err("refused")));
        assert_eq!(tried(100, Ok(())), (ATTEMPTS, Err("interrupted")));
    }
}
