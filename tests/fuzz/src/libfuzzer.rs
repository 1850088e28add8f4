//! A target driven by libFuzzer, in the process of its test: it ends with that.
//!
//! The only unsafe code of the targets. Needs coverage of the crates that are tried (`cargo xtask fuzz` builds them so).

#![expect(unsafe_code, reason = "libFuzzer is called, and calls back, through its C interface")]

use std::ffi::{CString, c_char, c_int, c_uint};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libfuzzer_sys as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{FOLDER, mutate_json};

type Decoder<'d> = &'d mut dyn FnMut(&[u8]);

/// The decoder that is driven, for as long as [`Driver::run`] has not returned, which it does not.
static DECODER: AtomicPtr<Decoder<'static>> = AtomicPtr::new(ptr::null_mut());
static WORDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        arguments: *mut *mut *mut c_char,
        one: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
    fn LLVMFuzzerMutate(data: *mut u8, size: usize, room: usize) -> usize;
}

/// What is to be driven, and how.
pub(crate) struct Driver {
    name: &'static str,
    /// Where it keeps what it makes.
    folder: PathBuf,
    flags: String,
}

impl Driver {
    /// What the environment asks of this target, if it does.
    pub(crate) fn asked_for(name: &'static str) -> Option<Self> {
        let of = |name: &str| std::env::var(name).ok();
        let folder = PathBuf::from(of("OARLOCK_FUZZ_FOLDER")?);
        let flags = of("OARLOCK_FUZZ_FLAGS").unwrap_or_default();
        (of("OARLOCK_FUZZ")? == name).then_some(Self { name, folder, flags })
    }

    /// Drives the decoder; the process ends with it.
    pub(crate) fn run(&self, made: &[Vec<u8>], words: Vec<Vec<u8>>, mut decoder: Decoder<'_>) -> ! {
        let arguments = self.arguments(made);
        WORDS.get_or_init(|| words);
        let default = std::panic::take_hook();
        // Nobody may catch it on its way: libFuzzer keeps the input of a process that aborts.
        std::panic::set_hook(Box::new(move |info| {
            default(info);
            std::process::abort();
        }));
        DECODER.store((&raw mut decoder).cast(), Ordering::SeqCst);
        let mut arguments: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let mut count = c_int::try_from(arguments.len()).expect("a few");
        arguments.push(ptr::null_mut());
        let mut first = arguments.as_mut_ptr();
        // SAFETY: the arguments are strings that end with a zero and live on, and a null pointer follows them.
        let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut first, one) };
        std::process::exit(code);
    }

    fn arguments(&self, made: &[Vec<u8>]) -> Vec<CString> {
        let [corpus, seeds, found] =
            ["corpus", "made", "found"].map(|part| self.folder.join(part).join(self.name));
        for folder in [&corpus, &seeds, &found] {
            std::fs::create_dir_all(folder).expect("the folder of what is found can be made");
        }
        for (index, bytes) in made.iter().enumerate() {
            std::fs::write(seeds.join(index.to_string()), bytes).expect("an input can be written");
        }
        let mut arguments = vec!["oarlock-fuzz".to_owned()];
        let kept = PathBuf::from(FOLDER).join("inputs").join(self.name);
        arguments.extend([&corpus, &kept, &seeds].map(|folder| folder.display().to_string()));
        let words = PathBuf::from(FOLDER).join("words").join(format!("{}.dict", self.name));
        if words.exists() {
            arguments.push(format!("-dict={}", words.display()));
        }
        arguments.push(format!("-artifact_prefix={}/", found.display()));
        arguments.extend(self.flags.split_whitespace().map(str::to_owned));
        arguments.into_iter().map(|text| CString::new(text).expect("no zero is in a path")).collect()
    }
}

extern "C" fn one(data: *const u8, size: usize) -> c_int {
    let bytes = match size {
        0 => &[],
        // SAFETY: libFuzzer hands over as many bytes as it says, which live until we return.
        _ => unsafe { std::slice::from_raw_parts(data, size) },
    };
    // SAFETY: it was set before libFuzzer was started, from what outlives it; libFuzzer calls from one thread.
    if let Some(decoder) = unsafe { DECODER.load(Ordering::SeqCst).as_mut() } {
        decoder(bytes);
    }
    0
}

/// Every other mutation of JSON is one of its values; the others are libFuzzer's own.
// SAFETY: nobody else has this name; libFuzzer looks for it.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerCustomMutator(data: *mut u8, size: usize, room: usize, seed: c_uint) -> usize {
    let mut random = StdRng::seed_from_u64(seed.into());
    if random.random_bool(0.5) {
        // SAFETY: libFuzzer hands over a buffer with as much room, of which as many bytes are set.
        let buffer = unsafe { std::slice::from_raw_parts_mut(data, room) };
        let mut input = buffer.get(..size).unwrap_or_default().to_vec();
        let words = WORDS.get().map_or(&[][..], Vec::as_slice);
        if mutate_json(&mut input, words, &mut random)
            && let Some(to) = buffer.get_mut(..input.len())
        {
            to.copy_from_slice(&input);
            return input.len();
        }
    }
    // SAFETY: what libFuzzer handed over to us is handed back.
    unsafe { LLVMFuzzerMutate(data, size, room) }
}
