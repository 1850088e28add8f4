//! `cargo xtask bench pods`: what a node does with pods, beside Docker's own command line on the same daemon, and what its agent costs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::report::{Figure, median};
use super::{kubectl, memory_of, wait, xtask};
use crate::daemons;
use crate::exec::{output, state, step};

/// How `pods` measures.
#[derive(Debug, Args)]
pub(crate) struct PodsOptions {
    /// How many rounds of pods created at once; in each Docker alone makes as many.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// How many pods of two containers are created at once.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100))]
    pods: u32,
    /// How many single pods are timed.
    #[arg(long, default_value_t = 40)]
    singles: u32,
    /// How many pods the agent idles with.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    idle: u32,
    /// How many times ten pods are made and removed.
    #[arg(long, default_value_t = 20)]
    churn: u32,
    /// How the daemons are built: without optimisations for trying the benchmark itself.
    #[arg(long, default_value = "release", value_parser = ["release", "dev"])]
    profile: String,
}

const NODE: &str = "node1";
const IMAGE: &str = "oarlock/web:0.1.0";
const PAUSE: &str = "oarlock/pause:0.1.0";
/// How many containers Docker's command line makes at a time.
const AT_ONCE: usize = 4;
/// For how long an idle agent's use of the processor is looked at.
const IDLE: Duration = Duration::from_secs(30);

/// On a cluster of its own, of one node.
pub(super) fn pods(options: &PodsOptions) -> Result<Vec<Figure>> {
    xtask(&["up", "--nodes", "1", "--profile", &options.profile])?;
    let _ = raw(options.pods, "warm")?;
    burst(options.pods, "warm")?;
    let (mut ours, mut docker) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        step(&format!("{} pods at once, round {round} of {}", options.pods, options.rounds), || {
            // Who comes first changes.
            if round % 2 == 0 {
                docker.push(raw(options.pods, "raw")?);
            }
            ours.push(burst(options.pods, "burst")?);
            if round % 2 == 1 {
                docker.push(raw(options.pods, "raw")?);
            }
            Ok(())
        })?;
    }
    let name = format!("{} pods of two containers, created at once, to all Ready", options.pods);
    let mut figures = vec![Figure::of(name, "s", &ours).compared(&ours, &docker)];
    let singles = step("single pods", || (0..options.singles).map(single).collect::<Result<Vec<f64>>>())?;
    figures.push(Figure::of("a single pod from create to Ready, median", "s", &singles));
    figures.push(Figure::of(
        "a single pod from create to Ready, 99th of 100",
        "s",
        &[percentile(&singles, 99)],
    ));
    figures.extend(step(&format!("idling without pods and with {}", options.idle), || idle(options.idle))?);
    figures.extend(step("pods that come and go", || churn(options.churn))?);
    Ok(figures)
}

/// Pods of one container on the node; it and the pause container make two.
fn list(names: &[String]) -> String {
    let pod = |name: &String| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"bench": "pods"}},
            "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": IMAGE}]}})
    };
    json!({"apiVersion": "v1", "kind": "List", "items": names.iter().map(pod).collect::<Vec<_>>()})
        .to_string()
}

fn create(names: &[String]) -> Result<()> {
    let file = state().join("bench/pods.json");
    std::fs::create_dir_all(state().join("bench"))?;
    std::fs::write(&file, list(names))?;
    kubectl(&format!("create -f {}", file.display())).map(drop)
}

fn names(prefix: &str, count: u32) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// Seconds from before `kubectl create` until all are told to be Ready to who watches.
fn burst(count: u32, prefix: &str) -> Result<f64> {
    let names = names(prefix, count);
    let took = watched(|lines| {
        let start = Instant::now();
        create(&names)?;
        all_ready(lines, &names)?;
        Ok(start.elapsed().as_secs_f64())
    });
    clear()?;
    took
}

/// The same containers, by `docker run`, so many at a time: one that holds a network namespace, one that joins it.
fn raw(count: u32, prefix: &str) -> Result<f64> {
    let one = format!(
        "docker run -d --name raw-pause-$0 --network none {PAUSE} >/dev/null && \
         docker run -d --name raw-app-$0 --network container:raw-pause-$0 {IMAGE} >/dev/null"
    );
    let all = names(prefix, count).join("\n");
    let script = format!("printf '%s\\n' '{all}' | xargs -P {AT_ONCE} -n 1 sh -c '{one}'");
    let start = Instant::now();
    let made = output("sh", &["-c", &script]);
    let took = start.elapsed().as_secs_f64();
    output("sh", &["-c", "docker ps -aq --filter name=^raw- | xargs -r docker rm -f >/dev/null"])?;
    made.context("Docker's own containers cannot be made")?;
    Ok(took)
}

fn clear() -> Result<()> {
    kubectl("delete pods -l bench=pods --wait=false")?;
    let gone = || {
        let left = output("docker", &["ps", "-aq", "--filter", &format!("label=oarlock.io/node={NODE}")]);
        let known = kubectl("get pods -l bench=pods -o name");
        left.is_ok_and(|left| left.is_empty()) && known.is_ok_and(|known| known.is_empty())
    };
    wait("the pods are gone", gone)
}

/// Seconds from a pod's creation until it is Ready, as it is told who watches: the start of kubectl is not in it.
fn single(number: u32) -> Result<f64> {
    let name = format!("single-{number}");
    let timed = watched(|lines| {
        create(std::slice::from_ref(&name))?;
        timed(lines, &name)
    });
    clear()?;
    timed
}

/// With what a watch tells of the pods, a line for each change: `NAME True` of one that is Ready. Not by `kubectl wait`, which asks for one pod
/// after the other, five in a second (client-go's default): that would be what is measured.
fn watched<T>(look: impl FnOnce(&mut dyn BufRead) -> Result<T>) -> Result<T> {
    let program = crate::setup::kubectl_path().context("no kubectl: run `cargo xtask setup`")?;
    let config = format!("--kubeconfig={}", state().join("kubeconfig").display());
    let ready = r#"{.metadata.name}{" "}{.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;
    let mut watching = Command::new(program)
        .args([&config, "--request-timeout=120s", "get", "pods", "-l", "bench=pods", "--watch"])
        .args(["-o", &format!("jsonpath={ready}")])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let lines = watching.stdout.take().context("no output");
    // It listens first.
    std::thread::sleep(Duration::from_millis(500));
    let outcome = lines.and_then(|lines| look(&mut BufReader::new(lines)));
    let _ = watching.kill();
    let _ = watching.wait();
    outcome
}

/// Until each of them was told to be Ready.
fn all_ready(lines: impl BufRead, names: &[String]) -> Result<()> {
    let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for line in lines.lines() {
        if let Some(name) = line?.strip_suffix(" True") {
            missing.remove(name);
        }
        if missing.is_empty() {
            return Ok(());
        }
    }
    bail!("not told to be Ready: {missing:?}")
}

/// From the first word of a pod, which is its creation, to its being Ready.
fn timed(lines: impl BufRead, name: &str) -> Result<f64> {
    let mut created = None;
    for line in lines.lines() {
        let line = line?;
        if !line.starts_with(name) {
            continue;
        }
        let created = *created.get_or_insert_with(Instant::now);
        if line.ends_with(" True") {
            return Ok(created.elapsed().as_secs_f64());
        }
    }
    bail!("{name} is not told to be Ready")
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

/// Memory and processor of the agent without pods and with many.
fn idle(count: u32) -> Result<Vec<Figure>> {
    std::thread::sleep(Duration::from_secs(10));
    let empty = memory_of(NODE, "Rss:")?;
    create(&names("idle", count))?;
    kubectl("wait pods -l bench=pods --for=condition=Ready --timeout=300s")?;
    std::thread::sleep(Duration::from_secs(10));
    let full = memory_of(NODE, "Rss:")?;
    let before = processor_time()?;
    std::thread::sleep(IDLE);
    let used = (processor_time()? - before) / IDLE.as_secs_f64() * 100.0;
    clear()?;
    Ok(vec![
        Figure::of("agent, RSS without pods", "MB", &[empty]),
        Figure::of(format!("agent, RSS with {count} pods"), "MB", &[full]),
        Figure::of("agent, RSS a pod", "MB", &[(full - empty) / f64::from(count)]),
        Figure::of(format!("agent, processor with {count} idle pods"), "% of a core", &[used]),
    ])
}

/// Seconds of the processor that the agent has used: fields 14 and 15 of /proc/PID/stat, in hundredths.
fn processor_time() -> Result<f64> {
    let pid = daemons::running_pid(NODE).context("the agent has ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no such statistics")?;
    let fields: Vec<f64> = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / 100.0)
}

/// Pods that are made and removed, ten at a time: memory and open files of the agent after the first part and at the end.
fn churn(times: u32) -> Result<Vec<Figure>> {
    let mut memory = Vec::new();
    let mut files = Vec::new();
    for _ in 0..times {
        create(&names("churn", 10))?;
        kubectl("wait pods -l bench=pods --for=condition=Ready --timeout=120s")?;
        clear()?;
        memory.push(memory_of(NODE, "Rss:")?);
        files.push(open_files()?);
    }
    let part = memory.len().div_ceil(4);
    let [early, late] =
        [memory.get(..part), memory.get(memory.len() - part..)].map(Option::unwrap_or_default);
    let [few, many] = [files.get(..part), files.get(files.len() - part..)].map(Option::unwrap_or_default);
    let made = times * 10;
    let grown = |name: &str, unit: &str, late: &[f64], early: &[f64]| {
        Figure::of(name, unit, late).compared(&[median(late)], &[median(early)])
    };
    Ok(vec![
        grown(&format!("agent, RSS after {made} pods came and went"), "MB", late, early),
        grown(&format!("agent, open files after {made} pods came and went"), "files", many, few),
    ])
}

fn open_files() -> Result<f64> {
    let pid = daemons::running_pid(NODE).context("the agent has ended")?;
    let count = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(f64::from(u32::try_from(count)?))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_99th_of_a_hundred_is_the_second_worst() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&values, 99), percentile(&[3.0], 99), percentile(&[], 99)), (99.0, 3.0, 0.0));
    }

    #[test]
    fn pods_are_on_the_node_and_have_one_container_each() {
        let list: Value = serde_json::from_str(&list(&names("a", 2))).unwrap();
        assert_eq!(
            (&list["items"][1]["metadata"]["name"], &list["items"][1]["spec"]["nodeName"]),
            (&json!("a-1"), &json!(NODE))
        );
    }

    #[test]
    fn all_are_ready_when_each_was_told_to_be() {
        let names = names("a", 2);
        let told = "a-0 \na-1 False\na-1 True\na-10 True\na-1 True\na-0 True\n";
        all_ready(told.as_bytes(), &names).unwrap();
        let error = all_ready(told.rsplit_once("a-0").unwrap().0.as_bytes(), &names).unwrap_err();
        assert!(error.to_string().contains(r#"{"a-0"}"#), "{error}");
    }
}
