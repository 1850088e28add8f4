//! What the kernel makes of each program: instructions that the verifier walked, bytes of machine code, time to load.

use std::time::Instant;

use aya::Ebpf;
use aya::programs::{Program, ProgramInfo};

use crate::packets::OBJECT;
use crate::{Measured, ROUNDS};

pub(crate) fn measure() -> Vec<Measured> {
    let mut names: Vec<String> = Vec::new();
    let mut rounds: Vec<[Vec<f64>; 3]> = Vec::new();
    for _ in 0..ROUNDS {
        let mut ebpf = Ebpf::load(OBJECT).expect("needs root and `cargo xtask build`");
        let mut programs: Vec<(String, &mut Program)> =
            ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
        programs.sort_by(|a, b| a.0.cmp(&b.0));
        for (at, (name, program)) in programs.into_iter().enumerate() {
            let start = Instant::now();
            let info = load(program);
            let seconds = start.elapsed().as_secs_f64();
            if rounds.len() <= at {
                names.push(name);
                rounds.push([vec![], vec![], vec![]]);
            }
            let [time, verified, jited] = &mut rounds[at];
            time.push(seconds * 1000.0);
            verified.push(f64::from(info.verified_instruction_count().unwrap_or_default()));
            jited.push(f64::from(info.size_jitted()));
        }
    }
    let of_program = |(name, [time, verified, jited]): (String, [Vec<f64>; 3])| {
        [
            Measured::new(format!("{name}, verified"), "instructions", verified),
            Measured::new(format!("{name}, machine code"), "bytes", jited),
            Measured::new(format!("{name}, load"), "ms", time),
        ]
    };
    names.into_iter().zip(rounds).flat_map(of_program).collect()
}

fn load(program: &mut Program) -> ProgramInfo {
    match program {
        Program::Xdp(program) => program.load().unwrap(),
        Program::SchedClassifier(program) => program.load().unwrap(),
        Program::CgroupSockAddr(program) => program.load().unwrap(),
        other => panic!("a kind of program that is not measured: {other:?}"),
    }
    program.info().unwrap()
}
