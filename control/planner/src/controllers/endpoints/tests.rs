//! What endpoints look like, and how few writes a change is.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_api::defaults;
use serde_json::{Value, json};

use super::*;
use crate::change::Part;

/// A namespace `d`: objects as a store would keep them, and the world of them.
#[derive(Default)]
struct Space {
    world: World,
    objects: BTreeMap<(&'static str, String), Value>,
    revision: u64,
}

impl Space {
    fn put(&mut self, kind: &'static Kind, mut object: Value) {
        self.revision += 1;
        let name = meta::name(&object).to_owned();
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        defaults::apply(kind, &mut object);
        let namespace = if kind.namespaced { "d" } else { "" };
        self.world.put(kind, namespace, &name, &Arc::new(object.clone()), self.revision);
        self.objects.insert((kind.plural, name), object);
    }

    fn delete(&mut self, kind: &'static Kind, name: &str) {
        self.revision += 1;
        self.world.delete(kind, if kind.namespaced { "d" } else { "" }, name, self.revision);
        self.objects.remove(&(kind.plural, name.to_owned()));
    }

    fn pod(&mut self, name: &str, ips: &[&str], change: impl FnOnce(&mut Value)) {
        let mut pod = json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "podIP": ips[0], "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                "conditions": [{"type": "Ready", "status": "True"}]}});
        change(&mut pod);
        self.put(&PODS, pod);
    }

    /// Plans for the Service `web` and writes what was planned; the number of writes.
    fn settle(&mut self) -> usize {
        let changes = self.planned();
        for change in changes.clone() {
            match change {
                Change::Create { kind, mut object, .. } => {
                    if meta::name(&object).is_empty() {
                        object["metadata"]["name"] = json!(format!("web-{}", self.revision));
                    }
                    object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
                    self.put(kind, object);
                }
                Change::Patch { kind, name, part: Part::Main, mut patch, .. } => {
                    let mut object = self.objects[&(kind.plural, name)].clone();
                    patch["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
                    merge(&mut object, &patch);
                    self.put(kind, object);
                }
                Change::Delete { kind, name, .. } => self.delete(kind, &name),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.planned(), [], "at rest after one round");
        changes.len()
    }

    fn planned(&self) -> Vec<Change> {
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        plan(&self.world, &settings, &("d".into(), "web".into()), Timestamp::UNIX_EPOCH).changes
    }

    fn all(&self, kind: &Kind) -> Vec<&Value> {
        self.objects
            .iter()
            .filter(|((plural, _), _)| *plural == kind.plural)
            .map(|(_, value)| value)
            .collect()
    }

    fn slices(&self) -> Vec<&Value> {
        self.all(&ENDPOINT_SLICES)
    }

    /// The one endpoint of the one slice.
    fn endpoint(&self) -> &Value {
        let slices = self.slices();
        assert_eq!(
            (slices.len(), slices[0]["endpoints"].as_array().map(Vec::len)),
            (1, Some(1)),
            "{slices:#?}"
        );
        &slices[0]["endpoints"][0]
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let target = meta::map_of(target);
    for (field, value) in patch {
        if value.is_null() {
            target.shift_remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A Service `web` with these fields, and a node.
fn space(spec: &Value) -> Space {
    let mut space = Space::default();
    space.put(&NODES, json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}}}));
    space.put(&SERVICES, web(spec));
    space
}

fn web(spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": "web", "uid": "uid-web", "labels": {"team": "x"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}});
    merge(&mut service["spec"], spec);
    service
}

#[test]
fn conditions_say_who_is_ready_who_can_still_answer_and_who_ends() {
    let unready = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = json!("False");
    let ending = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    type Change = fn(&mut Value);
    let both: Change = |pod| {
        pod["status"]["conditions"][0]["status"] = json!("False");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    };
    for (publish, change, [ready, serving, terminating], in_object) in [
        (false, (|_| {}) as Change, [true, true, false], "addresses"),
        (false, unready as Change, [false, false, false], "notReadyAddresses"),
        (false, ending as Change, [false, true, true], ""),
        (false, both, [false, false, true], ""),
        (true, unready as Change, [true, false, false], "addresses"),
        (true, ending as Change, [true, true, true], "addresses"),
    ] {
        let mut space = space(&json!({"publishNotReadyAddresses": publish}));
        space.pod("p", &["10.0.0.1"], change);
        space.settle();
        let wanted = json!({"ready": ready, "serving": serving, "terminating": terminating});
        assert_eq!(space.endpoint()["conditions"], wanted);
        let subset = &space.all(&ENDPOINTS)[0]["subsets"][0];
        for field in ["addresses", "notReadyAddresses"] {
            let count = subset[field].as_array().map_or(0, Vec::len);
            assert_eq!(count, usize::from(field == in_object), "{field}: {subset}");
        }
    }
}

#[test]
fn an_endpoint_knows_its_node_and_zone_and_its_name_if_it_asks_for_one() {
    let mut space = space(&json!({"trafficDistribution": "PreferClose"}));
    space.pod("p", &["10.0.0.1"], |pod| {
        pod["spec"]["hostname"] = json!("first");
        pod["spec"]["subdomain"] = json!("web");
    });
    space.settle();
    let endpoint = space.endpoint();
    assert_eq!((&endpoint["nodeName"], &endpoint["zone"]), (&json!("n1"), &json!("a")));
    assert_eq!(
        (&endpoint["hostname"], &endpoint["hints"]),
        (&json!("first"), &json!({"forZones": [{"name": "a"}]}))
    );
    // The node moves; a node that merely reports touches no Service.
    let key = (String::new(), "n1".to_owned());
    space.put(&NODES, json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "b"}}}));
    assert_eq!(affected(&space.world, &NODES, &key).len(), 1);
    assert_eq!(space.settle(), 1);
    assert_eq!(space.endpoint()["hints"]["forZones"][0]["name"], "b");
    space.put(
        &NODES,
        json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "b", "x": "y"}}}),
    );
    assert_eq!(affected(&space.world, &NODES, &key), []);
    // Another Service's name is none of ours, and nobody is preferred by default.
    space.put(&SERVICES, web(&json!({})));
    space.pod("p", &["10.0.0.1"], |pod| pod["spec"]["hostname"] = json!("first"));
    space.settle();
    assert_eq!((space.endpoint().get("hints"), space.endpoint().get("hostname")), (None, None));
    // The pod of a node that is gone is nobody's endpoint.
    space.delete(&NODES, "n1");
    assert_eq!(affected(&space.world, &NODES, &key).len(), 1);
    space.settle();
    assert_eq!(space.slices()[0]["endpoints"], json!([]));
}

#[test]
fn named_ports_may_differ_and_share_nothing() {
    let mut space =
        space(&json!({"ports": [{"name": "w", "port": 80, "targetPort": "http", "appProtocol": "http"}]}));
    for (name, ip, port) in [("p", "10.0.0.1", 8080), ("q", "10.0.0.2", 9090)] {
        space.pod(name, &[ip], |pod| {
            pod["spec"]["containers"] =
                json!([{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]);
        });
    }
    space.pod("r", &["10.0.0.3"], |_| {});
    space.settle();
    let mut ports: Vec<String> = space.slices().iter().map(|s| s["ports"].to_string()).collect();
    ports.sort();
    let port = |number| format!(r#"[{{"name":"w","port":{number},"protocol":"TCP","appProtocol":"http"}}]"#);
    assert_eq!(ports, ["[]".to_owned(), port(8080), port(9090)]);
    let subsets = space.all(&ENDPOINTS)[0]["subsets"].as_array().unwrap().len();
    assert_eq!(subsets, 2, "a pod that serves no port is no address");
}

#[test]
fn a_dual_stack_service_has_slices_of_each_family_until_it_has_not() {
    let mut space = space(&json!({"ipFamilies": ["IPv6", "IPv4"]}));
    space.pod("p", &["10.0.0.1", "fd00::1"], |_| {});
    space.pod("q", &["10.0.0.2"], |_| {});
    space.settle();
    let count = |space: &Space, kind: &str| {
        let of = space.slices().into_iter().filter(|s| s["addressType"] == kind).collect::<Vec<_>>();
        of.iter().map(|s| s["endpoints"].as_array().unwrap().len()).sum::<usize>()
    };
    assert_eq!((count(&space, "IPv4"), count(&space, "IPv6")), (2, 1));
    assert_eq!(space.all(&ENDPOINTS)[0]["subsets"][0]["addresses"][0]["ip"], "fd00::1");
    space.put(&SERVICES, web(&json!({"ipFamilies": ["IPv6"]})));
    space.settle();
    assert_eq!((space.slices().len(), count(&space, "IPv6")), (1, 1));
}

#[test]
fn labels_follow_the_service() {
    let mut space = space(&json!({"clusterIP": "None", "ports": null}));
    space.pod("p", &["10.0.0.1"], |_| {});
    space.settle();
    let label = |space: &Space, name: &str| space.slices()[0]["metadata"]["labels"].get(name).cloned();
    assert_eq!((label(&space, HEADLESS_LABEL), label(&space, "team")), (Some(json!("")), Some(json!("x"))));
    assert_eq!(space.all(&ENDPOINTS)[0]["subsets"][0]["addresses"][0]["ip"], "10.0.0.1", "without ports");
    let mut service = web(&json!({"clusterIP": "None", "ports": null}));
    service["metadata"]["labels"] = json!({"kind": "y"});
    space.put(&SERVICES, service);
    assert_eq!(space.settle(), 2);
    assert_eq!((label(&space, "team"), label(&space, "kind")), (None, Some(json!("y"))));
}

#[test]
fn an_empty_service_has_an_empty_slice_and_reuses_it() {
    let mut space = space(&json!({}));
    space.settle();
    assert_eq!((&space.slices()[0]["endpoints"], &space.slices()[0]["ports"]), (&json!([]), &json!([])));
    let name = meta::name(space.slices()[0]).to_owned();
    space.pod("p", &["10.0.0.1"], |_| {});
    space.settle();
    assert_eq!(
        (meta::name(space.slices()[0]), &space.endpoint()["addresses"][0]),
        (&*name, &json!("10.0.0.1"))
    );
    space.delete(&PODS, "p");
    space.settle();
    assert_eq!((space.slices().len(), meta::name(space.slices()[0])), (1, &*name));
    space.delete(&SERVICES, "web");
    space.settle();
    assert_eq!((space.slices().len(), space.all(&ENDPOINTS).len()), (0, 0));
}

#[test]
fn one_pod_of_five_thousand_writes_one_slice() {
    let mut space = space(&json!({}));
    let ip = |i: usize| format!("10.1.{}.{}", i / 250, i % 250);
    for i in 0..5000 {
        space.pod(&format!("p{i}"), &[&ip(i)], |_| {});
    }
    assert_eq!(space.settle(), 51, "fifty slices and the Endpoints object");
    let object = space.all(&ENDPOINTS)[0];
    assert_eq!(object["subsets"][0]["addresses"].as_array().unwrap().len(), 1000);
    assert_eq!(object["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"], "truncated");
    let place = |space: &Space, i: usize| {
        let slices = space.slices();
        let holds =
            |s: &&&Value| s["endpoints"].as_array().unwrap().iter().any(|e| e["addresses"][0] == ip(i));
        slices.iter().find(holds).map(|s| meta::name(s).to_owned())
    };
    let before = (place(&space, 3000), place(&space, 4999));
    space.pod("p3000", &[&ip(3000)], |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    assert_eq!(space.settle(), 1);
    space.delete(&PODS, "p4000");
    assert_eq!(space.settle(), 1);
    space.pod("new", &["10.2.0.1"], |_| {});
    assert_eq!(space.settle(), 1, "into the slice with room");
    space.pod("newer", &["10.2.0.2"], |_| {});
    assert_eq!(space.settle(), 1, "a slice of its own");
    assert_eq!((place(&space, 3000), place(&space, 4999)), before, "endpoints keep their slices");
    assert_eq!(space.slices().len(), 51);
}

#[test]
fn hand_written_endpoints_become_slices() {
    let mut space = Space::default();
    let endpoints = |addresses: Value, labels: Value| {
        json!({"metadata": {"name": "web", "uid": "uid-e", "labels": labels, "annotations": {"note": "n"}},
            "subsets": [{"addresses": addresses, "notReadyAddresses": [{"ip": "192.0.2.9"}],
                "ports": [{"port": 80, "name": "w"}]}]})
    };
    let two = json!([{"ip": "192.0.2.1", "nodeName": "n1"}, {"ip": "2001:db8::1"}]);
    space.put(&ENDPOINTS, endpoints(two.clone(), json!({"team": "x"})));
    assert_eq!(space.planned(), [], "its Service is still to come");
    space.put(&SERVICES, web(&json!({"selector": null})));
    assert_eq!(space.settle(), 2, "one of each family");
    for slice in space.slices() {
        let metadata = &slice["metadata"];
        assert_eq!(metadata["labels"], json!({"team": "x", SERVICE_LABEL: "web", MANAGER_LABEL: MIRROR}));
        assert_eq!(
            (&metadata["annotations"]["note"], &metadata["ownerReferences"][0]["kind"]),
            (&json!("n"), &json!("Endpoints"))
        );
    }
    let four = space.slices().into_iter().find(|s| s["addressType"] == "IPv4").unwrap();
    assert_eq!(
        four["endpoints"][0],
        json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "nodeName": "n1"})
    );
    assert_eq!(four["endpoints"][1]["conditions"], json!({"ready": false}));
    space.put(&ENDPOINTS, endpoints(json!([{"ip": "192.0.2.2"}]), json!({"team": "x"})));
    assert_eq!(space.settle(), 2, "one changes, one goes");
    space.put(&ENDPOINTS, endpoints(two.clone(), json!({"endpointslice.kubernetes.io/skip-mirror": "true"})));
    space.settle();
    assert_eq!(space.slices().len(), 0);
    space.put(&ENDPOINTS, endpoints(two, json!({})));
    space.settle();
    space.delete(&SERVICES, "web");
    space.settle();
    assert_eq!((space.slices().len(), space.all(&ENDPOINTS).len()), (0, 0), "all goes with the Service");
}
