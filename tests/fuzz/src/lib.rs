//! Decoders tried with inputs: those that are kept, mutations of them, and libFuzzer's (`cargo xtask fuzz`).
//!
//! A target is a test `fuzz_NAME` beside the decoder, which hands it to [`Target::run`]: it must take any bytes without a panic. Its
//! inputs are the files of `inputs/NAME`, one each, small: what clients send, and what has once been too much for it. Words that the
//! decoder thinks about are in `words/NAME.dict`, as libFuzzer reads them.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a part of tests: it panics and prints as they do, and the environment says how long"
)]

#[cfg(feature = "libfuzzer")]
mod libfuzzer;
mod mutate;
mod words;

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

pub use mutate::{mutate, mutate_json};

/// Where inputs and words are.
const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
/// How many mutations a run of the tests tries.
const MUTATIONS: u64 = 3_000;

/// A decoder that is tried.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    made: Vec<Vec<u8>>,
    mutations: u64,
}

impl Target {
    /// Of a name: a folder of inputs has it, too.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, made: Vec::new(), mutations: MUTATIONS }
    }

    /// Further inputs, which are made of what is there anyway.
    #[must_use]
    pub fn with(mut self, inputs: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.made.extend(inputs);
        self
    }

    /// Takes longer than others: so many mutations are enough for a run of the tests.
    #[must_use]
    pub fn mutations(self, mutations: u64) -> Self {
        Self { mutations, ..self }
    }

    /// Tries the decoder with every input, then with mutations of them. `OARLOCK_INPUTS` and `OARLOCK_SEED` say how many and which.
    ///
    /// # Panics
    /// Where the decoder does; the input is told.
    pub fn run(self, mut decoder: impl FnMut(&[u8])) {
        let mut inputs = files(&Path::new(FOLDER).join("inputs").join(self.name));
        assert!(!inputs.is_empty(), "no inputs are kept for {}: is it spelt so?", self.name);
        inputs.extend(self.made.iter().map(|bytes| ("made".to_owned(), bytes.clone())));
        let words = words::of(self.name);
        #[cfg(feature = "libfuzzer")]
        if let Some(driver) = libfuzzer::Driver::asked_for(self.name) {
            driver.run(&self.made, words, &mut decoder);
        }
        for (name, bytes) in &inputs {
            let told = Told { target: self.name, from: name, bytes };
            decoder(told.bytes);
        }
        let mut random = StdRng::seed_from_u64(number("OARLOCK_SEED", 1));
        for _ in 0..number("OARLOCK_INPUTS", self.mutations) {
            let (name, bytes) = &inputs[random.random_range(0..inputs.len())];
            let mut bytes = bytes.clone();
            for _ in 0..random.random_range(1..5) {
                mutate(&mut bytes, &words, &mut random);
            }
            let told = Told { target: self.name, from: name, bytes: &bytes };
            decoder(told.bytes);
        }
    }
}

/// Tells the input when the decoder panics at it.
struct Told<'i> {
    target: &'static str,
    from: &'i str,
    bytes: &'i [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { target, from, bytes } = self;
            println!("{target}, of {from}: as a file of tests/fuzz/inputs/{target} it stays an input:");
            println!("printf '{}'", shell(bytes));
        }
    }
}

/// Bytes as printf of a shell takes them.
fn shell(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'%' => "%%".to_owned(),
        b'\'' | b'\\' => format!("\\{byte:03o}"),
        b' '..=b'~' => char::from(*byte).to_string(),
        other => format!("\\{other:03o}"),
    };
    bytes.iter().map(one).collect()
}

/// The files of a folder by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), std::fs::read(&path).expect("a file that is kept can be read"))
    };
    paths.into_iter().map(read).collect()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_told_can_be_typed_in() {
        assert_eq!(shell(b"a'%\n\x00\\"), "a\\047%%\\012\\000\\134");
    }

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let made = |seed| {
            let (mut bytes, mut random) =
                (br#"{"a":[1,"b"]} and more"#.to_vec(), StdRng::seed_from_u64(seed));
            for _ in 0..40 {
                mutate(&mut bytes, &[b"word".to_vec()], &mut random);
            }
            bytes
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }

    #[test]
    #[should_panic(expected = "no inputs are kept for nobody")]
    fn a_target_without_inputs_is_told() {
        Target::new("nobody").run(|_| {});
    }
}
