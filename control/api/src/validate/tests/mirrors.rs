//! Mirrors of static pods.

use serde_json::{Value, json};

use super::{said, update};
use crate::catalogue::PODS;

fn pod(annotation: Option<&str>, node: &str) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if let Some(hash) = annotation {
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": hash});
    }
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

#[test]
fn a_mirror_has_a_node_and_is_one_for_good() {
    assert_eq!(said(&PODS, pod(Some("h"), "n")), [""; 0]);
    let field = "metadata.annotations[kubernetes.io/config.mirror]";
    assert_eq!(
        said(&PODS, pod(Some("h"), "")),
        [format!("{field}: Invalid value: \"h\": must set spec.nodeName if mirror pod annotation is set")]
    );
    let changed = |from: Option<&str>, to: Option<&str>| {
        let causes = update(&PODS, &pod(from, "n"), &pod(to, "n")).into_iter();
        causes.map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>()
    };
    assert_eq!(changed(Some("h"), Some("h")), [""; 0]);
    assert_eq!(changed(None, Some("h")), [format!("{field}: Forbidden: may not add mirror pod annotation")]);
    for to in [None, Some("other")] {
        let why = "may not remove or update mirror pod annotation";
        assert_eq!(changed(Some("h"), to), [format!("{field}: Forbidden: {why}")]);
    }
}
