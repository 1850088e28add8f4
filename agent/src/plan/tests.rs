//! Plans as text in the situations that matter, and random histories that have to converge without running anything twice.

mod world;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use world::World;

fn two_containers() -> serde_json::Value {
    json!({"initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "terminationGracePeriodSeconds": 10})
}

fn one(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]})
}

#[test]
fn a_pod_is_built_from_the_ground_up_and_in_order() {
    let mut world = World::new(two_containers());
    world.settle();
    assert_eq!(world.history(), "volumes; sandbox 0; attach; image init; start init 0");
    world.exits("init", 0);
    world.settle();
    assert_eq!(
        world.history(),
        "volumes; sandbox 0; attach; image init; start init 0; image a; image b; start a 0; start b 0"
    );
}

#[test]
fn a_container_that_crashes_waits_longer_each_time_and_a_long_run_is_forgiven() {
    let mut world = World::new(one("Always"));
    world.settle();
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.exits("a", 1);
        let before = world.now();
        world.run_until_started("a");
        waits.push(world.now().duration_since(before).as_secs());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    world.pass(601);
    world.exits("a", 1);
    let before = world.now();
    world.run_until_started("a");
    assert_eq!(world.now().duration_since(before).as_secs(), 0);
}

#[test]
fn restart_policies_decide_what_is_over() {
    for (policy, code, over) in [
        ("Never", 0, true),
        ("Never", 1, true),
        ("OnFailure", 0, true),
        ("OnFailure", 1, false),
        ("Always", 0, false),
    ] {
        let mut world = World::new(one(policy));
        world.settle();
        world.exits("a", code);
        world.run(30);
        let ended = world.observed().is_still();
        assert_eq!(ended, over, "{policy} {code}");
        assert_eq!(world.starts_of("a"), if over { 1 } else { 2 }, "{policy} {code}");
    }
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let mut spec = two_containers();
    spec["restartPolicy"] = json!("Never");
    let mut world = World::new(spec);
    world.settle();
    world.exits("init", 2);
    assert_eq!(course(world.spec(), world.observed(), world.memory()), Course::Over { failed: true });
    world.run(30);
    assert_eq!(world.starts_of("a"), 0);
    assert!(world.observed().is_still());
}

fn with_sidecars(policy: &str) -> serde_json::Value {
    let beside = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 10,
        "initContainers": [beside("s1"), {"name": "init", "image": "i"}, beside("s2")],
        "containers": [{"name": "a", "image": "i"}]})
}

#[test]
fn sidecars_start_in_order_run_on_and_end_last_in_reverse() {
    let mut world = World::new(with_sidecars("Never"));
    world.settle();
    assert_eq!(world.history(), "volumes; sandbox 0; attach; image s1; start s1 0; image init; start init 0");
    world.exits("init", 0);
    world.settle();
    assert!(world.history().ends_with("image s2; start s2 0; image a; start a 0"), "{}", world.history());
    world.exits("s1", 1);
    world.run(30);
    assert_eq!((world.starts_of("s1"), world.starts_of("a")), (2, 1), "whatever the pod's policy says");
    world.forget_history();
    world.exits("a", 0);
    world.run(30);
    assert_eq!(world.history(), "stop s2; term s2; stop s1; term s1; detach; kill POD; settle; files");
    assert_eq!(course(world.spec(), world.observed(), world.memory()), Course::Over { failed: false });
}

#[test]
fn what_comes_after_a_sidecar_waits_until_that_has_started() {
    let mut world = World::new(with_sidecars("Always"));
    world.starts_slowly("s1");
    world.run(30);
    assert_eq!((world.starts_of("s1"), world.starts_of("init")), (1, 0));
    world.has_started("s1");
    world.settle();
    assert_eq!(world.starts_of("init"), 1);
    world.forget_history();
    world.exits("init", 0);
    world.settle();
    world.delete(7);
    world.forget_history();
    world.settle();
    assert!(
        world.history().starts_with("stop a; term a; stop s2; term s2; stop s1; term s1; detach"),
        "{}",
        world.history()
    );
}

#[test]
fn what_is_added_for_debugging_runs_once_and_waits_for_its_target() {
    let mut world = World::new(two_containers());
    let mut spec = two_containers();
    spec["ephemeralContainers"] = json!([{"name": "d", "image": "i", "targetContainerName": "a"},
        {"name": "e", "image": "i"}]);
    world.change(spec);
    world.settle();
    assert_eq!((world.starts_of("d"), world.starts_of("e")), (0, 1), "before init containers are done");
    world.exits("init", 0);
    world.settle();
    assert_eq!((world.starts_of("d"), world.starts_of("a")), (1, 1));
    // An agent that dies between making and starting it.
    let mut observed = world.observed().clone();
    let made = observed.containers.iter_mut().find(|c| c.name() == "d").unwrap();
    made.state = State::Created;
    let resumed = Step::Resume { id: made.id.clone() };
    let pod = Pod { spec: Some(world.spec().clone()), ..Pod::default() };
    assert_eq!(plan(&pod, &observed, world.memory(), world.now()).steps, [resumed]);
    world.exits("d", 1);
    world.run(60);
    assert_eq!(world.starts_of("d"), 1);
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn a_dead_sandbox_takes_everything_with_it_and_all_starts_again() {
    let mut world = World::new(two_containers());
    world.settle();
    world.exits("init", 0);
    world.settle();
    world.sandbox_dies();
    world.run(60);
    world.exits("init", 0);
    world.run(60);
    assert_eq!((world.starts_of("init"), world.starts_of("a"), world.starts_of("b")), (2, 2, 2));
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn a_deletion_asks_then_waits_then_forces_and_leaves_nothing() {
    let mut world = World::new(one("Always"));
    world.stubborn();
    world.settle();
    world.forget_history();
    world.delete(7);
    world.run(20);
    assert_eq!(
        world.history(),
        "stop a; term a; kill a; detach; kill POD; remove a; remove POD; files; gone"
    );
    assert!(world.is_gone());
}

#[test]
fn a_condemned_container_is_ended_within_its_own_grace_and_started_again() {
    let mut world = World::new(one("Always"));
    world.settle();
    world.forget_history();
    world.condemn("a", "Container a failed liveness probe, will be restarted", Some(3));
    world.run(30);
    assert_eq!(world.history(), "stop a; term a; image a; start a 1");
}

#[test]
fn a_new_image_replaces_the_container() {
    let mut world = World::new(one("Always"));
    world.settle();
    world.forget_history();
    world.change(json!({"containers": [{"name": "a", "image": "j"}]}));
    world.run(30);
    assert_eq!(world.history(), "stop a; term a; image a; start a 1");
}

#[test]
fn a_deadline_ends_the_pod_for_good() {
    let mut spec = one("Always");
    spec["activeDeadlineSeconds"] = json!(5);
    let mut world = World::new(spec);
    world.settle();
    world.run(60);
    assert_eq!(world.memory().end, Some(PodEnd::deadline_exceeded()));
    assert!(world.observed().is_still());
    assert_eq!(world.starts_of("a"), 1);
}

#[test]
fn a_pod_that_was_over_before_the_agent_started_stays_over() {
    let mut world = World::new(one("Always"));
    world.was_over();
    world.run(30);
    assert_eq!(world.starts_of("a"), 0);
}

#[derive(Debug, Clone)]
enum Fault {
    Exit { which: usize, code: i32 },
    SandboxDies,
    AgentRestarts,
    StepFails,
    Condemn { which: usize },
    Pass { seconds: i64 },
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..4usize, 0..2i32).prop_map(|(which, code)| Fault::Exit { which, code }),
        Just(Fault::SandboxDies),
        Just(Fault::AgentRestarts),
        Just(Fault::StepFails),
        (1..4usize).prop_map(|which| Fault::Condemn { which }),
        (1..400i64).prop_map(|seconds| Fault::Pass { seconds }),
    ]
}

#[test]
fn what_a_pod_kept_in_volumes_goes_when_it_is_over_and_its_logs_where_the_disk_is_short() {
    let ended = |end: PodEnd| {
        let mut world = World::new(one("Always"));
        world.settle();
        world.forget_history();
        world.ends(end);
        world.settle();
        world
    };
    let world = ended(PodEnd::evicted("short".to_owned()).freeing_disk());
    assert_eq!(world.history(), "stop a; term a; detach; kill POD; settle; remove a; remove POD; files");
    let world = ended(PodEnd::evicted("short".to_owned()));
    assert_eq!(world.history(), "stop a; term a; detach; kill POD; settle; files", "its logs stay");
    assert!(world.observed().is_still());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The world itself refuses a second container of a name while one runs, and a name and attempt made twice.
    #[test]
    fn random_histories_converge_and_nothing_runs_twice(
        faults in prop::collection::vec((fault(), 0..12u32), 0..25),
        delete in any::<bool>(),
        stubborn in any::<bool>(),
        sidecars in any::<bool>(),
    ) {
        let mut spec = two_containers();
        if sidecars {
            let beside = json!({"name": "s", "image": "i", "restartPolicy": "Always"});
            spec["initContainers"] = json!([beside, {"name": "init", "image": "i"}]);
        }
        let mut world = World::new(spec);
        if stubborn {
            world.stubborn();
        }
        for (fault, turns) in faults {
            let name = |which| ["init", "a", "b", "s"][which];
            match fault {
                Fault::Exit { which, code } => world.exits(name(which), code),
                Fault::SandboxDies => world.sandbox_dies(),
                Fault::AgentRestarts => world.agent_restarts(),
                Fault::StepFails => world.next_step_fails(),
                Fault::Condemn { which } => world.condemn(name(which), "on purpose", None),
                Fault::Pass { seconds } => world.pass(seconds),
            }
            for _ in 0..turns {
                world.turn();
            }
        }
        if delete {
            world.delete(10);
            world.run(900);
            prop_assert!(world.is_gone(), "{}", world.history());
            prop_assert!(world.observed().containers.is_empty() && world.observed().sandboxes.is_empty());
        } else {
            for _ in 0..4 {
                world.run(700);
                if world.runs("init") {
                    world.exits("init", 0);
                }
            }
            prop_assert!(world.runs("a") && world.runs("b"), "{}", world.history());
            prop_assert_eq!(world.runs("s"), sidecars);
            prop_assert!(world.observed().containers.iter().filter(|c| c.name() == "a").count() <= 2);
        }
    }
}
