//! What others send, in any form: text, JSON and protobuf that nobody has checked. Each of these takes anything, and what it takes it
//! can say again.

use std::path::Path;

use jiff::Timestamp;
use oarlock_fuzz::Target;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::catalogue::{self, Kind};
use crate::k8s::api::core::v1::{Node, Pod, Service};
use crate::k8s::api::discovery::v1::EndpointSlice;
use crate::k8s::api::networking::v1::NetworkPolicy;
use crate::managed::{self, Writer};
use crate::node_selector::NodeSelector;
use crate::quantity::Quantity;
use crate::schedule::Schedule;
use crate::schema::{self, EncodeError, Schema};
use crate::selector::{FieldSelector, Selector};
use crate::{
    certificates, convert, defaults, disruption, limits, meta, pod_security, quota, ranges, service, storage,
    table, validate,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// The objects of the documents that users apply.
fn manifests(folder: &Path) -> Vec<Value> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            objects.extend(manifests(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let documents = serde_yaml::Deserializer::from_str(&text);
            let read = documents.filter_map(|document| serde::Deserialize::deserialize(document).ok());
            objects.extend(read.filter(Value::is_object));
        }
    }
    objects
}

/// What kubectl has sent, by the ending of its file.
fn recorded(ending: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubectl-1.33");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn objects() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut objects = manifests(&folder);
    // Directories have no order of their own.
    objects.sort_by_key(Value::to_string);
    objects.iter().map(|object| object.to_string().into_bytes()).chain(recorded("json")).collect()
}

#[test]
fn fuzz_selectors() {
    Target::new("selectors").run(|input| {
        let text = String::from_utf8_lossy(input);
        let labels = json!({"app": "web", "tier": "a", "n": "7"});
        if let Ok(selector) = Selector::parse(&text) {
            let said = selector.to_string();
            let again = Selector::parse(&said)
                .unwrap_or_else(|error| panic!("{text:?} is shown as {said:?}: {error}"));
            assert_eq!(again.to_string(), said);
            assert_eq!(again.matches(labels.as_object()), selector.matches(labels.as_object()), "{text:?}");
        }
        if let Ok(fields) = FieldSelector::parse(&text) {
            let _ = fields.renamed(str::to_owned).matches_with(str::to_owned);
        }
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = Selector::from_label_selector(Some(&value))
                .map(|selector| selector.map(|selector| selector.matches(labels.as_object())));
            let _ =
                NodeSelector::parse(&value).map(|nodes| nodes.matches("n1", |label| labels[label].as_str()));
        }
    });
}

#[test]
fn fuzz_quantities() {
    Target::new("quantities").run(|input| {
        let text = String::from_utf8_lossy(input);
        for part in text.split(' ') {
            let Ok(quantity) = part.parse::<Quantity>() else { continue };
            let said = quantity.to_string();
            let again: Quantity = said.parse().unwrap_or_else(|_| panic!("{part:?} is shown as {said:?}"));
            assert_eq!(again.to_string(), said, "{part:?}");
            let others = text.split(' ').filter_map(|other| other.parse::<Quantity>().ok());
            for other in others {
                let _ = (
                    quantity.plus(&other),
                    quantity.minus(&other),
                    quantity.over(&other),
                    quantity.cmp(&other),
                );
            }
            let _ = (quantity.value(), quantity.milli_value());
        }
    });
}

#[test]
fn fuzz_protobuf() {
    Target::new("protobuf").with(recorded("pb")).run(|input| {
        let schema = Schema::builtin();
        let Ok(body) = schema.decode_body(input) else { return };
        let _ = schema.check(body.message, &body.object);
        // What was read can be answered, and is read as the same again.
        let Ok(written) = schema.encode_body(&body.object) else { return };
        let again = schema.decode_body(&written).unwrap_or_else(|error| panic!("{}: {error}", body.object));
        let twice =
            schema.encode_body(&again.object).unwrap_or_else(|error| panic!("{}: {error}", again.object));
        assert_eq!(schema.decode_body(&twice).unwrap().object, again.object);
    });
}

#[test]
fn fuzz_json_and_yaml() {
    Target::new("json_and_yaml").with(objects()).run(|input| {
        let _ = schema::json_findings(input, &[]);
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = schema::yaml_findings(text, &[]);
        let _ = serde_yaml::from_str::<Value>(text);
    });
}

/// An object that has come so far is read by agents as its type.
fn is<T: DeserializeOwned>(object: &Value) {
    if let Err(error) = T::deserialize(object) {
        panic!("no agent can read it: {error}: {object}");
    }
}

/// What the control plane asks of an object that it has let in.
fn asked(kind: &'static Kind, object: &Value) {
    let _ = (table::cells(kind, object, NOW), table::conditions(kind, object), quota::usage(kind, object));
    for version in catalogue::Catalogue::builtin().served().filter(|version| version.stored() == kind) {
        convert::from_stored(version, &mut object.clone());
    }
    let wrong = Schema::builtin().encode_body(object);
    assert!(!matches!(wrong, Err(EncodeError::Value(_))), "{wrong:?}: {object}");
    match kind.plural {
        "pods" => {
            is::<Pod>(object);
            let _ = (limits::whole(object), disruption::is_free(object));
        }
        "services" => {
            is::<Service>(object);
            let spec = &object["spec"];
            let _ =
                (service::kind(spec), service::needs_health_check(spec), service::cluster_ips(spec).count());
        }
        "endpointslices" => is::<EndpointSlice>(object),
        "networkpolicies" => is::<NetworkPolicy>(object),
        "nodes" => is::<Node>(object),
        "limitranges" => limits::complete(object, &mut json!({"spec": {"containers": [{"name": "c"}]}})),
        "persistentvolumeclaims" => drop(storage::size(&object["spec"]["resources"]["requests"])),
        _ => {}
    }
    if let Some((metadata, spec)) = pod_security::template(kind.plural, object) {
        let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let _ = pod_security::violations(pod_security::Policy::of(&labels).enforce, metadata, spec);
    }
}

#[test]
fn fuzz_objects() {
    let schema = Schema::builtin();
    let known = catalogue::Catalogue::builtin();
    Target::new("objects").with(objects()).run(|input| {
        let Ok(mut object) = serde_json::from_slice::<Value>(input) else { return };
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let Some(version) = known.by_kind(&text(&object["apiVersion"]), &text(&object["kind"])) else {
            return;
        };
        let Some(message) = schema.kind(version.group, version.version, version.kind) else { return };
        if !schema.check(message, &object).wrong_type.is_empty() {
            return;
        }
        schema.prune(message, &mut object);
        convert::to_stored(version, &mut object);
        let kind = version.stored();
        let _ = meta::metadata_mut(&mut object);
        let _ = validate::version(version, &object);
        defaults::apply(kind, &mut object);
        let mut twice = object.clone();
        defaults::apply(kind, &mut twice);
        assert_eq!(twice, object, "defaults that are there already");
        let writer = Writer { kind, version, manager: "m", subresource: "", time: "2026-01-01T00:00:00Z" };
        managed::put(&mut object, &writer.update(&Value::Null, &twice, Vec::new()));
        let wrong = validate::create(kind, &object);
        let _ = validate::update(kind, &object, &twice);
        if wrong.is_empty() {
            asked(kind, &object);
        }
    });
}

#[test]
fn fuzz_owners() {
    let kind = catalogue::builtin("apps", "v1", "Deployment").unwrap();
    let writer = Writer { kind, version: kind, manager: "m", subresource: "", time: "2026-01-01T00:00:00Z" };
    let live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"b": "c"}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}});
    Target::new("owners").run(|input| {
        let Ok(config) = serde_json::from_slice::<Value>(input) else { return };
        let mut owned = live.clone();
        if let Ok(entries) = managed::read(&config["metadata"]["managedFields"]) {
            let told = writer.update(&live, &config, entries);
            managed::put(&mut owned, &told);
        }
        let _ = writer.apply(&owned, &config, false);
        if let Ok(applied) = writer.apply(&owned, &config, true) {
            assert!(managed::of(&applied).is_ok(), "{applied}");
        }
    });
}

#[test]
fn fuzz_times_and_names() {
    Target::new("times_and_names").run(|input| {
        let text = String::from_utf8_lossy(input);
        let (one, other) = text.split_once('\n').unwrap_or((&text, "UTC"));
        if let Ok(schedule) = Schedule::parse(one, Some(other)) {
            let _ = schedule.next(NOW).map(|first| {
                assert!(first > NOW, "{one:?}");
                schedule.next(first)
            });
        }
        let _ = (meta::parse_time(one), one.parse::<ranges::AddressRanges>(), service::Family::parse(one));
        let _ = (
            meta::check_dns1123_label(one),
            meta::check_dns1123_subdomain(one),
            meta::check_path_segment(one),
        );
        let _ =
            (meta::check_dns1035_label(one), meta::check_label_value(one), meta::check_qualified_name(one));
        let _ = (
            meta::generate_name(one, 7),
            certificates::decode(one).map(|pem| String::from_utf8(pem).map(|pem| certificates::read(&pem))),
        );
        let _ = certificates::read(&text);
    });
}
