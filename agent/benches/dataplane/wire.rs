//! Packets per second over a veth: live frames go out of one end, are turned round by XDP at the other, and are dropped where they
//! came from. Once by the uplink's program, as an established flow of a NodePort, once by a program that swaps the hardware addresses and
//! knows nothing else.
//!
//! All of it runs on one core: the frames are made there, and each end's interrupt is run by who sends to it.

use std::ffi::CString;
use std::fs::remove_file;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;

use crate::packets::{Node, flow, frame, shuffled, xdp};
use crate::{Measured, ROUNDS};

/// How many frames are sent in a round.
const FRAMES: u32 = 1_000_000;
/// How many are made at a time: fewer than a ring of veth holds (256).
const BATCH: u32 = 64;

pub(crate) fn measure() -> Vec<Measured> {
    yield_to_the_kernel();
    let mut node = Node::new();
    let flows: Vec<_> = shuffled(1, 0).map(flow).collect();
    node.enter(&flows);
    let frame = frame(flows[0].0, false);
    let (mut sender, mut sink) = (bare("sender", &sender(&frame)), bare("sink", SINK));
    let mut reflector = bare("reflector", REFLECTOR);
    sink.attach("far", XdpMode::Driver).unwrap();
    let [mut ours, mut bare] = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            // Who is first changes, as the clock of the machine does.
            let is_ours = (round + turn).is_multiple_of(2);
            let program = if is_ours { xdp(&mut node.ebpf, "uplink_express") } else { &mut reflector };
            let link = program.attach("eth0", XdpMode::Driver).unwrap();
            let rate = send(&mut sender, &frame);
            if is_ours { &mut ours } else { &mut bare }.push(rate / 1e6);
            program.detach(link).unwrap();
        }
    }
    let baseline = "a bare XDP reflector on veth";
    vec![
        Measured::new(baseline, "million packets/s", bare),
        Measured::new("the uplink's program on veth, one established flow", "million packets/s", ours)
            .compared(baseline),
    ]
}

/// Gives up a priority over the kernel's own threads, of which one has to take the frames from the rings (`chrt -f`, for the other
/// parts, is above it).
fn yield_to_the_kernel() {
    let usual = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: this thread, and a structure that is ours.
    let said = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_OTHER, &raw const usual) };
    assert_eq!(said, 0, "{}", std::io::Error::last_os_error());
}

/// How many frames a second come back.
fn send(sender: &mut Xdp, frame: &[u8]) -> f64 {
    let length = u32::try_from(frame.len()).unwrap();
    let far = nix::net::if_::if_nametoindex("far").unwrap();
    let context: Vec<u8> =
        [0, length, 0, far, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let before = received();
    let start = Instant::now();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: FRAMES,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    sender.test_run(options).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let back = received() - before;
    assert!(back > u64::from(FRAMES) / 100 * 99, "{back} of {FRAMES} frames came back");
    back as f64 / seconds
}

/// What has come to the far end.
fn received() -> u64 {
    let said = Command::new("ip").args(["-s", "-j", "link", "show", "far"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// `struct bpf_insn`: operation, destination and source, offset, constant.
type Instruction = (u8, u8, i16, i32);

const EXIT: Instruction = (0x95, 0, 0, 0);
/// Makes it this frame, as pages come again with what was written into them, and sends it (`XDP_TX`).
fn sender(frame: &[u8]) -> Vec<Instruction> {
    let words = frame.chunks_exact(4);
    assert!(words.remainder().is_empty(), "the frame is words");
    let length = i32::try_from(frame.len()).unwrap();
    let skipped = i16::try_from(words.len() + 1).unwrap();
    let mut code = vec![
        (0x61, 0x12, 0, 0),
        (0x61, 0x13, 4, 0),
        (0xb7, 0, 0, 1),
        (0xbf, 0x24, 0, 0),
        (0x07, 4, 0, length),
        (0x2d, 0x34, skipped, 0),
    ];
    for (at, word) in (0..).step_by(4).zip(words) {
        code.push((0x62, 2, at, i32::from_ne_bytes(word.try_into().unwrap())));
    }
    code.extend([(0xb7, 0, 0, 3), EXIT]);
    code
}

/// `XDP_DROP`.
const SINK: &[Instruction] = &[(0xb7, 0, 0, 1), EXIT];
/// Swaps the hardware addresses of what has any: `XDP_TX`.
const REFLECTOR: &[Instruction] = &[
    (0x61, 0x12, 0, 0),
    (0x61, 0x13, 4, 0),
    (0xb7, 0, 0, 1),
    (0xbf, 0x24, 0, 0),
    (0x07, 4, 0, 14),
    (0x2d, 0x34, 9, 0),
    (0x61, 0x25, 0, 0),
    (0x69, 0x26, 4, 0),
    (0x61, 0x27, 6, 0),
    (0x69, 0x28, 10, 0),
    (0x63, 0x72, 0, 0),
    (0x6b, 0x82, 4, 0),
    (0x63, 0x52, 6, 0),
    (0x6b, 0x62, 10, 0),
    (0xb7, 0, 0, 3),
    EXIT,
];

/// A program of so few instructions that no compiler is asked: by way of a pin, as aya takes those of others.
fn bare(name: &str, code: &[Instruction]) -> Xdp {
    let path: PathBuf = Path::new("/sys/fs/bpf").join(format!("oarlock-bench-{name}-{}", std::process::id()));
    let code: Vec<u8> = code
        .iter()
        .flat_map(|(operation, registers, offset, constant)| {
            let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), constant.to_ne_bytes());
            [*operation, *registers, a, b, c, d, e, f]
        })
        .collect();
    let count = u32::try_from(code.len() / 8).unwrap();
    let license = c"GPL";
    // union bpf_attr of BPF_PROG_LOAD: the type, how many instructions, where they are, the licence.
    let mut load = Vec::new();
    load.extend(6_u32.to_ne_bytes());
    load.extend(count.to_ne_bytes());
    load.extend((code.as_ptr() as u64).to_ne_bytes());
    load.extend((license.as_ptr() as u64).to_ne_bytes());
    let number = bpf(5, &mut load);
    // SAFETY: the kernel has just made it for us.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(number).unwrap()) };
    let text = CString::new(path.to_str().unwrap()).unwrap();
    // The same of BPF_OBJ_PIN: the path, the program.
    let mut pin = Vec::new();
    pin.extend((text.as_ptr() as u64).to_ne_bytes());
    pin.extend(program.as_raw_fd().to_ne_bytes());
    bpf(6, &mut pin);
    let taken = Xdp::from_pin(&path, XdpAttachType::Interface);
    remove_file(&path).unwrap();
    taken.unwrap()
}

fn bpf(command: i64, attributes: &mut Vec<u8>) -> i64 {
    // What is not said is zero.
    attributes.resize(128, 0);
    // SAFETY: the attributes are 128 bytes, and what they point to lives in the caller.
    let said = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, attributes.as_mut_ptr(), 128) };
    assert!(said >= 0, "bpf command {command}: {}", std::io::Error::last_os_error());
    said
}
