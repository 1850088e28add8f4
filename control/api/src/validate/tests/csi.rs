//! What is refused of drivers of volumes, with upstream's words.

use serde_json::{Value, json};

use super::{changed, said};
use crate::catalogue::{CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, VOLUME_ATTACHMENTS};

fn with_spec(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

#[test]
fn a_driver_says_what_it_is_and_stays_so() {
    assert_eq!(said(&CSI_DRIVERS, with_spec("d", json!({}))), [""; 0]);
    let odd = json!({"fsGroupPolicy": "Some", "volumeLifecycleModes": ["Never"], "nodeAllocatableUpdatePeriodSeconds": 9,
        "tokenRequests": [{"audience": "a", "expirationSeconds": 599}, {"audience": "a"}]});
    assert_eq!(
        said(&CSI_DRIVERS, with_spec("d", odd)),
        [
            "spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
            "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            "spec.volumeLifecycleModes: Unsupported value: \"Never\": supported values: \"Ephemeral\", \"Persistent\"",
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
        ]
    );
    let of = |attach: bool| with_spec("d", json!({"attachRequired": attach, "fsGroupPolicy": "None"}));
    assert_eq!(
        changed(&CSI_DRIVERS, &of(true), &of(false)),
        ["spec.attachedRequired: Invalid value: false: field is immutable"]
    );
}

#[test]
fn nodes_have_drivers_by_name() {
    let node = |drivers: Value| with_spec("n", json!({"drivers": drivers}));
    let good = node(json!([{"name": "d.example.com", "nodeID": "n", "topologyKeys": ["example.com/zone"]}]));
    assert_eq!(said(&CSI_NODES, good.clone()), [""; 0]);
    let odd = json!([{"name": "d", "nodeID": ""}, {"name": "d", "nodeID": "x".repeat(193), "allocatable": {"count": -1}},
        {"name": "e", "nodeID": "e", "topologyKeys": ["a", "a", "-"]}]);
    let refused = said(&CSI_NODES, node(odd));
    for (i, start) in [
        "spec.drivers[0].nodeID: Required value",
        "spec.drivers[1].nodeID: Invalid value: \"xxx",
        "spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
        "spec.drivers[2]: Duplicate value: \"a\"",
        "spec.drivers[2]: Invalid value: \"-\": ",
        "spec.drivers[1].name: Duplicate value: \"d\"",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(refused[i].starts_with(start), "{refused:?}");
    }
    assert_eq!(refused.len(), 6);
    let other = node(json!([{"name": "d.example.com", "nodeID": "m"}]));
    assert!(changed(&CSI_NODES, &good, &other)[0].starts_with("spec.drivers: Invalid value"));
    assert_eq!(changed(&CSI_NODES, &good, &node(json!([]))), [""; 0]);
}

#[test]
fn capacities_and_attachments_are_of_something() {
    let capacity = |class: &str, left: &str| json!({"metadata": {"name": "c"}, "storageClassName": class, "capacity": left});
    assert_eq!(said(&CSI_STORAGE_CAPACITIES, capacity("fast", "1Gi")), [""; 0]);
    let refused = said(&CSI_STORAGE_CAPACITIES, capacity("", "-1"));
    assert!(refused[0].starts_with("storageClassName: Invalid value: \"\": "), "{refused:?}");
    assert_eq!(refused[1], "capacity: Invalid value: \"-1\": must be greater than or equal to 0");
    assert_eq!(
        changed(&CSI_STORAGE_CAPACITIES, &capacity("a", "1"), &capacity("b", "2")),
        ["storageClassName: Invalid value: \"b\": field is immutable"]
    );
    let attachment =
        |source: Value| with_spec("a", json!({"attacher": "d", "nodeName": "n", "source": source}));
    let good = attachment(json!({"persistentVolumeName": "v"}));
    assert_eq!(said(&VOLUME_ATTACHMENTS, good.clone()), [""; 0]);
    let exactly = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    assert_eq!(
        said(&VOLUME_ATTACHMENTS, attachment(json!({}))),
        [format!("spec.source: Required value: {exactly}")]
    );
    assert_eq!(
        said(&VOLUME_ATTACHMENTS, attachment(json!({"persistentVolumeName": "v", "inlineVolumeSpec": {}}))),
        [format!("spec.source: Forbidden: {exactly}")]
    );
    let inline = said(&VOLUME_ATTACHMENTS, attachment(json!({"inlineVolumeSpec": {}})));
    assert!(inline[0].ends_with("is not supported by this version of Oarlock"), "{inline:?}");
    let other = attachment(json!({"persistentVolumeName": "w"}));
    assert!(changed(&VOLUME_ATTACHMENTS, &good, &other)[0].ends_with("field is immutable"));
    let mut long = good.clone();
    long["status"] = json!({"attachError": {"message": "x".repeat(1025)}});
    assert!(
        changed(&VOLUME_ATTACHMENTS, &good, &long)[0].starts_with("status.attachError.message: Too long")
    );
}
