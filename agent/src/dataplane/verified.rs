//! Programs and the kernel's verifier, which gives up with EAGAIN when a signal comes for the thread meanwhile. libbpf tries again,
//! aya does not.
//!
//! It works in the thread that asks, and takes most of the time in which an agent starts: programs are verified by all processors.

use std::collections::VecDeque;
use std::thread;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};
use nix::libc::EAGAIN;
use parking_lot::Mutex;

use super::DataplaneError;
use super::load::chain;

/// As often as libbpf (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Loads programs of these names. Those that take the longest had better be named first.
pub(super) fn load_all<'n>(
    ebpf: &mut Ebpf,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<(), DataplaneError> {
    let mut programs: Vec<(&str, Option<&mut Program>)> =
        names.into_iter().map(|name| (name, None)).collect();
    for (name, program) in ebpf.programs_mut() {
        if let Some((_, place)) = programs.iter_mut().find(|(wanted, _)| *wanted == name) {
            *place = Some(program);
        }
    }
    each(programs, |(name, program)| {
        let failed = |why: String| DataplaneError::kernel(format!("load {name}"), why);
        let program = program.ok_or_else(|| failed("the object does not hold it".to_owned()))?;
        verified(|| load(program)).map_err(|e| failed(chain(&e)))
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Does something with each, in as many threads as there are processors; the first thing that went wrong, after which no more is begun.
fn each<T: Send, E: Send>(all: Vec<T>, work: impl Fn(T) -> Result<(), E> + Sync) -> Result<(), E> {
    let helpers = thread::available_parallelism().map_or(1, usize::from).min(all.len()).saturating_sub(1);
    let waiting = Mutex::new(VecDeque::from(all));
    let failure = Mutex::new(None);
    let run = || {
        while let Some(next) = { waiting.lock().pop_front() } {
            if let Err(error) = work(next) {
                waiting.lock().clear();
                failure.lock().get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..helpers {
            // Without a thread the others do its part.
            let _ = thread::Builder::new().name("verifier".to_owned()).spawn_scoped(scope, run);
        }
        run();
    });
    failure.into_inner().map_or(Ok(()), Err)
}

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
    fn all_are_done_once_and_nothing_is_begun_after_a_failure() {
        let done = Mutex::new(Vec::new());
        let work = |number: u32| {
            done.lock().push(number);
            if number == 30 { Err(number) } else { Ok(()) }
        };
        assert_eq!(each((0..30).collect(), work), Ok(()));
        let mut all = std::mem::take(&mut *done.lock());
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
        assert_eq!(each((30..10_000).collect(), work), Err(30));
        assert!(done.lock().len() < 1000);
    }

    #[test]
    fn an_interrupted_load_is_tried_again_and_no_other() {
        assert_eq!(tried(0, Ok(())), (1, Ok(())));
        assert_eq!(tried(2, Ok(())), (3, Ok(())));
        assert_eq!(tried(1, Err("refused")), (2, Err("refused")));
        assert_eq!(tried(100, Ok(())), (ATTEMPTS, Err("interrupted")));
    }
}
