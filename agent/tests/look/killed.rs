//! An agent that is killed at any moment: what it leaves is of each Service the old answer or the new one, whole, and the next agent
//! ends in the tables of a fresh compile.

#![expect(
    clippy::disallowed_methods,
    reason = "an agent that is to be killed at some moment: how many and when is said by variables"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use oarlock_agent::dataplane::picture::Picture;
use oarlock_agent::dataplane::{self, Dataplane};
use oarlock_agent::desired::Snapshot;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::Node;
use crate::histories::{Step, step, take};

/// How to this test says that it is the agent: the node's name, the seed of the history, and the step that it goes on from.
const ROLE: &str = "OARLOCK_KILLED";
/// After so many steps a history begins again.
const STEPS: usize = 2000;
/// How often an agent is killed, unless `OARLOCK_KILLS` says.
const KILLS: u32 = 8;

#[test]
fn a_killed_agent_leaves_whole_services_and_the_next_one_completes_them() {
    if let Ok(role) = std::env::var(ROLE) {
        return be_killed(&role);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("OARLOCK_KILLS").unwrap_or(KILLS.into());
    let seed = number("OARLOCK_SEED").unwrap_or(1);
    let node = Node::new("killed");
    let history = history(seed);
    let mut random = runner(seed);
    let mut snapshot = Snapshot::default();
    // The first step that no agent has begun.
    let mut next = 0;
    node.open().sync(&snapshot).unwrap();
    for kill in 0..kills {
        let mut agent = Agent::start(&node, seed, next);
        // While it takes over the tables, while it changes them.
        let longest = if kill % 3 == 0 { 500_u64 } else { 40 };
        let delay = (0..longest).new_tree(&mut random).unwrap().current();
        if kill % 3 != 0 {
            agent.has_begun();
        }
        std::thread::sleep(Duration::from_millis(delay));
        let begun = agent.kill();
        let before = node.wanted(&snapshot);
        let (last, mut after) = (begun.unwrap_or(next), vec![before]);
        for number in next..=last {
            take(&mut snapshot, &history[number % STEPS], &node.config.node_name);
            after.push(node.wanted(&snapshot));
        }
        if begun.is_some() {
            next = last + 1;
        }
        // It was in the last step that it said, or had not come to say the next one.
        let moment = format!("seed {seed}, kill {kill} after {delay} ms, in step {begun:?} of the history");
        are_whole(&node, &after[after.len() - 2..], &moment);
        let mut heir = node.open();
        heir.sync(&snapshot).unwrap();
        let differences = node.said(&snapshot);
        assert!(differences.is_empty(), "{moment}: {differences:#?}");
        if begun.is_none() {
            // The step was looked at and not taken: it is the next one's first.
            next += 1;
        }
    }
    assert!(next > 10, "agents were killed while they changed the tables: {next} steps");
}

/// The agent: says which step it begins, takes it, and so on until it is killed.
fn be_killed(role: &str) {
    let mut words = role.split(' ');
    let mut word = || words.next().expect(ROLE);
    let (name, seed, from) = (word(), word().parse().unwrap(), word().parse().unwrap());
    let mut node = Node::new("killed");
    name.clone_into(&mut node.config.node_name);
    node.config.cgroup = format!("/oarlock/{name}");
    let mut snapshot = Snapshot::default();
    let history = history(seed);
    for number in 0..from {
        take(&mut snapshot, &history[number % STEPS], name);
    }
    say("opening");
    let mut agent = Dataplane::open(node.config.clone()).unwrap();
    for number in from.. {
        take(&mut snapshot, &history[number % STEPS], name);
        say(&number.to_string());
        agent.sync(&snapshot).unwrap();
    }
}

/// The test harness keeps what is printed to itself; the pipe gets this.
fn say(what: &str) {
    let mut out = std::fs::File::options().write(true).open("/proc/self/fd/1").unwrap();
    writeln!(out, "says {what}").unwrap();
}

/// The same for each who knows the seed.
fn history(seed: u64) -> Vec<Step> {
    let steps = prop::collection::vec(step(), STEPS).new_tree(&mut runner(seed)).unwrap().current();
    // Agents begin anew when they are killed.
    steps.into_iter().map(|step| if matches!(step, Step::Restart) { Step::Nodes(2) } else { step }).collect()
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

struct Agent {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    begun: Option<usize>,
}

impl Agent {
    fn start(node: &Node, seed: u64, from: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "killed::a_killed_agent_leaves_whole_services_and_the_next_one_completes_them",
        ]);
        command.arg("--nocapture").env(ROLE, format!("{} {seed} {from}", node.config.node_name));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut agent = Self { process, lines, begun: None };
        assert!(agent.hears("opening"), "the agent has not begun");
        agent
    }

    /// Waits until it changes tables.
    fn has_begun(&mut self) {
        assert!(self.hears(""), "the agent has ended by itself");
    }

    fn hears(&mut self, wanted: &str) -> bool {
        for line in self.lines.by_ref() {
            // The harness' own words may stand before it.
            let line = line.unwrap();
            let Some((_, said)) = line.split_once("says ") else { continue };
            self.begun = said.parse().ok();
            if wanted.is_empty() == self.begun.is_some() {
                return true;
            }
        }
        false
    }

    /// Kills it; the last step that it began.
    fn kill(mut self) -> Option<usize> {
        self.process.kill().unwrap();
        let ended = self.process.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "the agent has ended by itself: {ended}");
        while self.hears("") {}
        self.begun
    }
}

type Key = (IpAddr, u16, String);
type Answer = (Vec<SocketAddr>, Vec<SocketAddr>);

/// Who answers, whatever the order of the slots.
fn answers(picture: &Picture) -> BTreeMap<Key, Answer> {
    let sorted = |peers: &[SocketAddr]| {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers
    };
    let answer = |f: &dataplane::picture::FrontendPicture| {
        ((f.address, f.port, f.protocol.clone()), (sorted(&f.inside), sorted(&f.outside)))
    };
    picture.frontends.iter().map(answer).collect()
}

/// Each Service is answered as before or as after.
fn are_whole(node: &Node, moments: &[Picture], moment: &str) {
    let kernel = dataplane::kernel(&node.config.bpffs, &node.config.node_name).unwrap();
    // Nobody is led to what is left over; the next agent takes it away.
    let flaws: Vec<_> = kernel.flaws.iter().filter(|flaw| flaw.problem != "is not wanted").collect();
    assert!(flaws.is_empty(), "{moment}: {flaws:#?}");
    let present = answers(&kernel.tables);
    let moments: Vec<BTreeMap<Key, Answer>> = moments.iter().map(answers).collect();
    for (key, answer) in &present {
        let wanted: Vec<_> = moments.iter().map(|moment| moment.get(key)).collect();
        assert!(
            wanted.contains(&Some(answer)),
            "{moment}: {key:?} is answered by {answer:?}, not {wanted:?}"
        );
    }
    for key in moments[0].keys().filter(|key| moments[1].contains_key(key)) {
        assert!(
            present.contains_key(key),
            "{moment}: {key:?} is not answered, and was before and would be after"
        );
    }
}
