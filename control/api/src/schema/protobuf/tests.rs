//! Every message goes there and back: objects made from the table are encoded and decoded again. That both
//! do not err alike is seen by what kubectl sends (`tests/kubectl_protobuf.rs`). Random bytes end in a value or an error.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Writes the wire form of an object.
struct Encoder<'s>(&'s Schema);

impl Encoder<'_> {
    fn message(&self, message: MessageRef, object: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        self.0.encode_protobuf(message, object, &mut out).unwrap();
        out
    }
}

fn tagged(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    super::encode::bytes(tag, bytes, out);
}

/// An object of a message with about every field, chosen by the bits of a seed.
struct Maker<'s> {
    schema: &'s Schema,
    seed: u64,
}

impl Maker<'_> {
    fn next(&mut self) -> u64 {
        // SplitMix64; good enough to choose.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    fn object(&mut self, message: MessageRef, depth: u32) -> Value {
        let schema = self.schema;
        let mut object = Map::new();
        for field in schema.fields(message).iter().filter(|field| field.tag != 0) {
            if depth == 0 && field.message().is_some() || self.next().is_multiple_of(3) {
                continue;
            }
            let value = match field.shape {
                Shape::One => self.value(field.kind, depth),
                Shape::List => json!([self.value(field.kind, depth), self.value(field.kind, depth)]),
                Shape::Map => {
                    json!({"a": self.value(field.kind, depth), "b/c": self.value(field.kind, depth)})
                }
            };
            object.insert(field.name.to_owned(), value);
        }
        Value::Object(object)
    }

    fn value(&mut self, kind: Type, depth: u32) -> Value {
        let odd = self.next() % 2 == 1;
        let schema = |maker: &mut Self| maker.object(maker.schema.props, depth.saturating_sub(1));
        match kind {
            Type::String => format!("text-{}é", self.next() % 100).into(),
            Type::Bool => true.into(),
            Type::Int32 => (self.next() as i32 | 1).into(),
            Type::Int64 => (self.next() as i64 | 1).into(),
            Type::Double => 1.5.into(),
            Type::Bytes => "AAH/".into(),
            Type::Time => "2024-02-29T12:00:01Z".into(),
            Type::MicroTime => "2024-02-29T12:00:01.000001Z".into(),
            Type::Duration => "1m30s".into(),
            Type::Quantity => "100m".into(),
            Type::IntOrString if odd => "http".into(),
            Type::IntOrString => (self.next() as i32).into(),
            Type::Raw => json!({"apiVersion": "x/v1", "kind": "X", "null": null}),
            Type::Fields | Type::Json => json!({"f:metadata": {"f:labels": {}}}),
            Type::Strings => json!(["a", ""]),
            Type::PropsOrArray if odd && depth > 0 => json!([schema(self)]),
            Type::PropsOrArray | Type::PropsOrStrings | Type::PropsOrBool if depth > 0 => schema(self),
            Type::PropsOrArray => json!([]),
            Type::PropsOrStrings => json!(["x"]),
            Type::PropsOrBool => odd.into(),
            Type::Message(message) => self.object(message, depth.saturating_sub(1)),
        }
    }
}

#[test]
fn every_message_survives_the_way_there_and_back() {
    let schema = Schema::builtin();
    let mut tried = 0;
    for message in schema.messages() {
        if schema.fields(message).iter().any(|field| field.tag == 0) {
            continue;
        }
        let object = Maker { schema, seed: u64::from(message.0) }.object(message, 2);
        let bytes = Encoder(schema).message(message, &object);
        let back = schema.decode_protobuf(message, &bytes).unwrap();
        assert!(back == object, "{}: {back} is not {object}", schema.message(message).definition());
        assert_eq!(schema.check(message, &object), Default::default());
        tried += 1;
    }
    assert!(tried > 600, "{tried}");
}

fn pod() -> MessageRef {
    Schema::builtin().kind("", "v1", "Pod").unwrap()
}

fn decode(message: MessageRef, bytes: &[u8]) -> Result<Value, DecodeError> {
    Schema::builtin().decode_protobuf(message, bytes)
}

#[test]
fn zeros_are_left_out_unless_they_mean_something() {
    let schema = Schema::builtin();
    let encode = |message, object| Encoder(schema).message(message, &object);
    let deployment = schema.kind("apps", "v1", "Deployment").unwrap();
    let zeros = json!({"metadata": {"name": "", "generation": 0}, "spec": {"replicas": 0, "paused": false, "minReadySeconds": 0}});
    assert_eq!(
        decode(deployment, &encode(deployment, zeros)).unwrap(),
        json!({"metadata": {}, "spec": {"replicas": 0}})
    );
    let pointers = json!({"spec": {"enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 0, "runAsNonRoot": false}, "hostNetwork": false}});
    let kept = json!({"spec": {"enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 0, "runAsNonRoot": false}}});
    assert_eq!(decode(pod(), &encode(pod(), pointers)).unwrap(), kept);
    let claim = schema.kind("", "v1", "PersistentVolumeClaim").unwrap();
    let unset_class = json!({"spec": {"storageClassName": ""}});
    assert_eq!(decode(claim, &encode(claim, unset_class.clone())).unwrap(), unset_class);
}

#[test]
fn unknown_tags_are_skipped_and_pieces_add_up() {
    // metadata {name: "a"}, an unknown varint (tag 99), metadata {namespace: "b"}
    let bytes = [&[0x0a, 3, 0x0a, 1, b'a'][..], &[0x98, 0x06, 7], &[0x0a, 3, 0x1a, 1, b'b']].concat();
    assert_eq!(decode(pod(), &bytes).unwrap(), json!({"metadata": {"name": "a", "namespace": "b"}}));
}

#[test]
fn packed_numbers_are_lists_too() {
    let context = Schema::builtin()
        .messages()
        .find(|message| Schema::builtin().message(*message).name == "PodSecurityContext")
        .unwrap();
    // supplementalGroups is tag 4
    assert_eq!(decode(context, &[0x22, 2, 1, 2, 0x20, 0]).unwrap(), json!({"supplementalGroups": [1, 2, 0]}));
}

#[test]
fn malformed_bytes_are_refused_with_a_reason() {
    let error = |bytes: &[u8]| decode(pod(), bytes).unwrap_err().to_string();
    assert_eq!(error(&[0x0a, 5, 1]), "unexpected end of the body");
    assert_eq!(error(&[0x08, 1]), "field metadata has an unexpected wire type");
    assert_eq!(error(&[0x0a, 3, 0x0a, 1, 0xff]), "field name is not valid UTF-8");
    assert_eq!(error(&[0x0b]), "malformed number or tag");
    assert_eq!(error(&[0xff; 11]), "malformed number or tag");
    assert_eq!(error(&[0x00]), "malformed number or tag");
}

#[test]
fn bodies_of_unknown_kinds_name_them() {
    let mut envelope = b"k8s\0".to_vec();
    let mut type_meta = Vec::new();
    tagged(&mut type_meta, 1, b"example.com/v1");
    tagged(&mut type_meta, 2, b"Widget");
    tagged(&mut envelope, 1, &type_meta);
    let error = Schema::builtin().decode_body(&envelope).unwrap_err().to_string();
    assert_eq!(error, "no kind \"Widget\" is registered for version \"example.com/v1\"");
    assert!(matches!(Schema::builtin().decode_body(b"{}"), Err(DecodeError::NoMagic)));
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let props = Schema::builtin().json_schema_props();
    let mut nested = Vec::new();
    for _ in 0..500 {
        let inner = std::mem::take(&mut nested);
        tagged(&mut nested, 28, &inner); // not
    }
    assert!(matches!(decode(props, &nested), Err(DecodeError::TooDeep)));
    // tolerations: an empty message each
    let tolerations = [0xb2, 0x01, 0].repeat(MAX_VALUES + 1);
    let mut pod_bytes = Vec::new();
    tagged(&mut pod_bytes, 2, &tolerations);
    assert!(matches!(decode(pod(), &pod_bytes), Err(DecodeError::TooMany)));
}

#[test]
fn raw_extensions_hold_json_or_protobuf() {
    let schema = Schema::builtin();
    let list = schema.kind("", "v1", "List").unwrap();
    let mut inner = b"k8s\0".to_vec();
    let mut type_meta = Vec::new();
    tagged(&mut type_meta, 1, b"v1");
    tagged(&mut type_meta, 2, b"Pod");
    tagged(&mut inner, 1, &type_meta);
    tagged(&mut inner, 2, &[]);
    let mut bytes = Vec::new();
    for raw in [&b"{\"a\":1}"[..], &inner] {
        let mut item = Vec::new();
        tagged(&mut item, 1, raw);
        tagged(&mut bytes, 2, &item);
    }
    assert_eq!(
        decode(list, &bytes).unwrap(),
        json!({"items": [{"a": 1}, {"apiVersion": "v1", "kind": "Pod"}]})
    );
}

#[test]
fn bodies_lists_and_events_are_written_as_upstream_reads_them() {
    let schema = Schema::builtin();
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "creationTimestamp": null},
        "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": 5}}], "nodeName": ""}, "status": {"startTime": "1969-12-31T23:59:59Z"}})
    };
    let body = schema.encode_body(&pod("a")).unwrap();
    let back = schema.decode_body(&body).unwrap().object;
    let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "5"}}]}, "status": {"startTime": "1969-12-31T23:59:59Z"}});
    assert_eq!(back, wanted);
    let list = super::super::List::new(schema, ("v1", "Pod"), &json!({"resourceVersion": "7"})).unwrap();
    let mut items = Vec::new();
    for name in ["a", "b"] {
        list.item(&pod(name), &mut items).unwrap();
    }
    let whole = [list.head("v1", "PodList", items.len()), items].concat();
    let decoded = schema.decode_body(&whole).unwrap().object;
    assert_eq!(
        (&decoded["kind"], &decoded["metadata"]),
        (&json!("PodList"), &json!({"resourceVersion": "7"}))
    );
    assert_eq!(decoded["items"][1]["metadata"]["name"], "b");
    let frame = super::super::watch_event("ADDED", &body);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let event = schema.messages().find(|message| schema.message(*message).name == "WatchEvent").unwrap();
    assert_eq!(decode(event, &frame[4..]).unwrap(), json!({"type": "ADDED", "object": wanted}));
    let review = schema.encode_body(&json!({"apiVersion": "apps/v1", "kind": "Nothing"}));
    assert!(matches!(review, Err(EncodeError::UnknownKind(..))));
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": 7}});
    assert_eq!(schema.encode_body(&wrong), Err(EncodeError::Value("nodeName")));
}

proptest! {
    #[test]
    fn objects_survive_with_any_seed(seed: u64, index in 0_usize..700) {
        let schema = Schema::builtin();
        let message = schema.messages().nth(index % schema.messages.len()).unwrap();
        prop_assume!(schema.fields(message).iter().all(|field| field.tag != 0));
        let object = Maker { schema, seed }.object(message, 2);
        let bytes = Encoder(schema).message(message, &object);
        prop_assert_eq!(schema.decode_protobuf(message, &bytes).unwrap(), object);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), index in 0_usize..700) {
        let schema = Schema::builtin();
        let message = schema.messages().nth(index % schema.messages.len()).unwrap();
        if let Ok(value) = schema.decode_protobuf(message, &bytes) {
            prop_assert!(value.is_object());
        }
        let body = [b"k8s\0", &bytes[..]].concat();
        let _ = schema.decode_body(&body);
    }

    #[test]
    fn damaged_messages_never_panic(seed: u64, index in 0_usize..700, at: prop::sample::Index, byte: u8) {
        let schema = Schema::builtin();
        let message = schema.messages().nth(index % schema.messages.len()).unwrap();
        prop_assume!(schema.fields(message).iter().all(|field| field.tag != 0));
        let object = Maker { schema, seed }.object(message, 2);
        let mut bytes = Encoder(schema).message(message, &object);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = schema.decode_protobuf(message, &bytes);
    }
}
