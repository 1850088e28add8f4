//! Claims of a set's pods: made before them, kept or given away as the policy says.

use super::*;

fn with_claims(spec: Value) -> Case {
    let template = json!({"metadata": {"name": "data", "labels": {"tier": "x"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let mut all = json!({"volumeClaimTemplates": [template]});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    Case::new(all)
}

impl Case {
    fn claim(mut self, name: &str, owners: Value) -> Self {
        self.claims.push(
            json!({"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": owners}}),
        );
        self
    }
}

fn owner(api: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}])
}

#[test]
fn a_pod_has_a_claim_of_its_own_which_is_made_once() {
    let plan = with_claims(json!({})).plan();
    let [
        Change::Create { object: claim, .. },
        Change::Event { message, .. },
        Change::Create { object: pod, .. },
        ..,
    ] = plan.changes.as_slice()
    else {
        panic!("{plan:?}")
    };
    assert_eq!(claim["metadata"], json!({"name": "data-web-0", "labels": {"tier": "x", "app": "web"}}));
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(message, "create Claim data-web-0 Pod web-0 in StatefulSet web success");
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}]);
    assert_eq!(pod["spec"]["volumes"], volumes);
    let again = with_claims(json!({})).claim("data-web-0", json!([]));
    assert_eq!(again.does(), "create web-0 i:1", "a pod that comes back finds its claim");
    let mut going = with_claims(json!({})).claim("data-web-0", json!([]));
    going.claims[0]["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(going.does(), "", "and waits until one that goes is gone");
}

#[test]
fn claims_go_with_the_set_or_with_their_pod_as_the_policy_says() {
    let (set, pod) = (owner("apps/v1", "StatefulSet", "web", "u"), owner("v1", "Pod", "web-1", "web-1"));
    let policy = |deleted: &str, scaled: &str| {
        with_claims(json!({"replicas": 1, "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}))
        .pod(0, 1, "ready")
        .pod(1, 1, "ready")
    };
    let deleted = "delete web-1\nNormal SuccessfulDelete: delete Pod web-1 in StatefulSet web successful";
    let patched = |name: &str, owners: &Value| {
        format!("patch {name} {}", json!({"metadata": {"resourceVersion": "2", "ownerReferences": owners}}))
    };
    let none = json!([]);
    let kept = policy("Retain", "Retain").claim("data-web-0", none.clone()).claim("data-web-1", none.clone());
    assert_eq!(kept.does(), deleted);
    let scaled =
        policy("Retain", "Delete").claim("data-web-0", none.clone()).claim("data-web-1", none.clone());
    assert_eq!(scaled.does(), patched("data-web-1", &pod), "the pod goes when its claim goes with it");
    let ready = policy("Retain", "Delete").claim("data-web-0", none.clone()).claim("data-web-1", pod.clone());
    assert_eq!(ready.does(), deleted);
    let both = policy("Delete", "Delete").claim("data-web-0", none.clone()).claim("data-web-1", set.clone());
    assert_eq!(both.does(), format!("{}\n{}", patched("data-web-0", &set), patched("data-web-1", &pod)));
    let back = policy("Retain", "Retain").claim("data-web-0", set).claim("data-web-1", pod);
    assert_eq!(back.does(), format!("{}\n{}", patched("data-web-0", &none), patched("data-web-1", &none)));
}
