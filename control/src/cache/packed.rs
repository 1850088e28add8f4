//! Objects that nobody has changed for a while, packed: most of what a large cluster holds is never looked at again. LZ4 against a sample
//! of the same kind, as siblings differ in little more than their names.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lz4_flex::block;
use oarlock_api::catalogue::{Kind, SECRETS};

/// A sample stays for so many objects at least, so that samples are no more than a small part of what is packed against them.
const EACH: u32 = 256;
/// Beyond this it helps no more than what lies within: in bytes.
const LARGEST_SAMPLE: usize = 32 << 10;

/// The encoded JSON of an object.
#[derive(Debug)]
pub(super) enum Encoded {
    /// As it is.
    Plain(Bytes),
    /// An LZ4 block.
    Packed {
        /// Without the length that some put before it.
        block: Box<[u8]>,
        /// What it was packed against.
        sample: Arc<[u8]>,
        /// How long the JSON is.
        len: usize,
    },
}

impl Encoded {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.len(),
            Self::Packed { len, .. } => *len,
        }
    }

    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Plain(bytes) => bytes.clone(),
            // It was unpacked once when it was packed.
            Self::Packed { block, sample, len } => unpack(block, sample, *len).unwrap_or_default(),
        }
    }
}

fn unpack(block: &[u8], sample: &[u8], len: usize) -> Option<Bytes> {
    block::decompress_with_dict(block, len, sample).ok().map(Bytes::from)
}

/// A sample of each kind.
#[derive(Debug, Default)]
pub(super) struct Samples(HashMap<&'static Kind, Sample>);

#[derive(Debug)]
struct Sample {
    bytes: Arc<[u8]>,
    used: u32,
}

impl Samples {
    /// Packs JSON of a kind, if that makes it smaller. Not of Secrets: what is in one would stay as long as others are packed against
    /// it, whoever deletes it.
    pub(super) fn pack(&mut self, kind: &'static Kind, plain: &Bytes) -> Option<Encoded> {
        if *kind == SECRETS {
            return None;
        }
        let fresh = || Sample { bytes: plain[..plain.len().min(LARGEST_SAMPLE)].into(), used: 0 };
        let sample = self.0.entry(kind).or_insert_with(fresh);
        let mut block = block::compress_with_dict(plain, &sample.bytes);
        sample.used += 1;
        if block.len() > plain.len() / 3 && sample.used >= EACH {
            // Others come now.
            *sample = fresh();
            block = block::compress_with_dict(plain, &sample.bytes);
        }
        // An object that came back otherwise would be lost to everybody.
        if block.len() > plain.len() / 2 || unpack(&block, &sample.bytes, plain.len())? != *plain {
            return None;
        }
        Some(Encoded::Packed { block: block.into(), sample: Arc::clone(&sample.bytes), len: plain.len() })
    }
}

#[cfg(test)]
mod tests {
    use oarlock_api::catalogue::PODS;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, image: &str) -> Bytes {
        let container = json!({"name": "app", "image": image, "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}});
        pod.to_string().into()
    }

    #[test]
    fn siblings_take_little() {
        let mut samples = Samples::default();
        samples.pack(&PODS, &pod("web-1", "web:1"));
        let plain = pod("web-2", "web:1");
        let packed = samples.pack(&PODS, &plain).expect("smaller");
        assert_eq!(packed.bytes(), plain);
        assert_eq!(packed.len(), plain.len());
        let Encoded::Packed { block, .. } = packed else { panic!("it is packed") };
        assert!(block.len() * 8 < plain.len(), "{} of {}", block.len(), plain.len());
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let noise: Vec<u8> =
            (0..2_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let mut samples = Samples::default();
        samples.pack(&PODS, &pod("a", "b"));
        assert!(samples.pack(&PODS, &noise.into()).is_none());
        assert!(samples.pack(&PODS, &Bytes::new()).is_none());
    }

    #[test]
    fn nothing_of_a_secret_is_kept_beside_it() {
        let mut samples = Samples::default();
        for name in ["a", "b"] {
            assert!(samples.pack(&SECRETS, &pod(name, "web:1")).is_none());
        }
        assert!(samples.0.is_empty());
    }

    #[test]
    fn a_sample_gives_way_to_others_but_not_often() {
        let mut samples = Samples::default();
        let first = pod("web-1", "web:1");
        let distinct = |salt: u32| -> Bytes {
            let names = (0..60).map(|i| (i ^ salt).wrapping_mul(2_654_435_761).to_string());
            serde_json::to_vec(&names.collect::<Vec<_>>()).unwrap().into()
        };
        samples.pack(&PODS, &first);
        for round in 0..EACH - 2 {
            samples.pack(&PODS, &distinct(round));
        }
        assert_eq!(*samples.0[&PODS].bytes, *first);
        samples.pack(&PODS, &distinct(1_000));
        assert_eq!(*samples.0[&PODS].bytes, *distinct(1_000));
    }

    proptest! {
        #[test]
        fn whatever_is_packed_comes_back(objects in prop::collection::vec(prop::collection::vec(0..9_u8, 0..3_000), 1..20)) {
            let mut samples = Samples::default();
            for plain in objects.into_iter().map(Bytes::from) {
                if let Some(packed) = samples.pack(&PODS, &plain) {
                    prop_assert_eq!(packed.bytes(), plain);
                }
            }
        }
    }
}
