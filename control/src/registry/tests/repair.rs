//! Claims that lost their objects and objects that lost their claims.

use std::time::Duration;

use oarlock_api::catalogue::SERVICES;
use oarlock_store::{Compare, Op, Outcome};
use serde_json::json;

use super::super::repair::{Repaired, Suspects};
use super::{Fixture, fixture};

impl Fixture {
    async fn break_in(&self, ops: Vec<Op>) {
        assert!(matches!(
            self.registry.store.txn(Vec::<Compare>::new(), ops).await.unwrap(),
            Outcome::Committed(_)
        ));
    }

    async fn repair(&self, suspects: &mut Suspects, grace: u64) -> Repaired {
        self.registry.repair(suspects, Duration::from_millis(grace)).await.unwrap()
    }
}

fn reasons(repaired: &Repaired) -> Vec<(&str, &str)> {
    let mut all: Vec<_> =
        repaired.notices.iter().map(|n| (n.about["name"].as_str().unwrap(), n.reason)).collect();
    all.sort_unstable();
    all
}

fn service(name: &str, ip: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": ip,
        "ports": [{"port": 80, "nodePort": 30001}]}})
}

#[tokio::test]
async fn a_sound_store_is_left_alone() {
    let f = fixture().await;
    f.create(&SERVICES, "d", service("a", "10.96.0.9")).await.unwrap();
    // Who leads is a claim of another sort.
    f.break_in(vec![Op::Put("/registry/claims/leader".to_owned(), "me".into(), None)]).await;
    let repaired = f.repair(&mut Suspects::default(), 0).await;
    assert_eq!((repaired.given, repaired.removed, repaired.notices.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_claim_of_nobody_goes_after_a_grace_and_not_before() {
    let f = fixture().await;
    let claim = "/registry/claims/serviceips/10.96.0.9".to_owned();
    let owner = SERVICES.key("d", "gone");
    f.break_in(vec![Op::Put(claim.clone(), owner.into_bytes().into(), None)]).await;
    let taken = f.create(&SERVICES, "d", service("a", "10.96.0.9")).await.unwrap_err();
    assert!(taken.message.contains("already allocated"), "{taken}");
    let mut suspects = Suspects::default();
    assert_eq!(f.repair(&mut suspects, 60_000).await.removed, 0);
    assert_eq!(f.repair(&mut suspects, 60_000).await.removed, 0, "still in its grace");
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(f.repair(&mut suspects, 1).await.removed, 1);
    f.create(&SERVICES, "d", service("a", "10.96.0.9")).await.unwrap();
    assert_eq!(f.repair(&mut suspects, 0).await.removed, 0);
}

#[tokio::test]
async fn services_get_their_claims_back_once() {
    let f = fixture().await;
    f.create(&SERVICES, "d", service("a", "10.96.0.9")).await.unwrap();
    let (claims, _) = f.claims().await;
    assert_eq!(claims.len(), 2);
    f.break_in(claims.into_iter().map(Op::Delete).collect()).await;
    let mut suspects = Suspects::default();
    let repaired = f.repair(&mut suspects, 0).await;
    assert_eq!((repaired.given, repaired.removed), (2, 0));
    assert_eq!(reasons(&repaired), [("a", "ClusterIPNotAllocated"), ("a", "PortNotAllocated")]);
    let (are, should) = f.claims().await;
    assert_eq!(are, should);
    let again = f.repair(&mut suspects, 0).await;
    assert_eq!((again.given, again.notices.len()), (0, 0), "idempotent");
}

#[tokio::test]
async fn two_services_with_one_address_are_named_and_the_first_keeps_it() {
    let f = fixture().await;
    f.create(&SERVICES, "d", service("a", "10.96.0.9")).await.unwrap();
    let mut other = f.registry.get(&SERVICES, "d", "a").await.unwrap();
    other["metadata"]["name"] = json!("b");
    other["spec"]["ports"][0]["nodePort"] = json!(40000);
    let key = SERVICES.key("d", "b");
    f.break_in(vec![Op::Put(key, serde_json::to_vec(&other).unwrap().into(), None)]).await;
    let mut suspects = Suspects::default();
    let repaired = f.repair(&mut suspects, 0).await;
    assert_eq!(
        reasons(&repaired),
        [("b", "ClusterIPAlreadyAllocated"), ("b", "PortNotAllocated"), ("b", "PortOutOfRange")]
    );
    let message = &repaired.notices.iter().find(|n| n.reason == "ClusterIPAlreadyAllocated").unwrap().message;
    assert_eq!(
        message,
        "Cluster IP [IPv4]:10.96.0.9 was assigned to multiple services; please recreate service"
    );
    f.delete(&SERVICES, "a").await.unwrap();
    let repaired = f.repair(&mut suspects, 0).await;
    assert_eq!(repaired.given, 1, "the other has it now");
}
