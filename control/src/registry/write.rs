//! Creates and updates down to the transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{
    CERTIFICATE_SIGNING_REQUESTS, Kind, NAMESPACES, PERSISTENT_VOLUME_CLAIMS, POD_TEMPLATES, PODS,
    PRIORITY_CLASSES, SERVICES,
};
use oarlock_api::pod_security::Policy;
use oarlock_api::status::Status;
use oarlock_api::{certificates, defaults, meta, pod_security, validate};
use oarlock_store::{Compare, Op, Outcome, Record};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Value, json};

use super::claims::{Claim, claims_of};
use super::quota::{Charge, Charges};
use super::{
    ATTEMPTS, Present, Registry, Sub, WriteOptions, admit, bounded, owners, prepare, scale, set_version,
};

/// Keys that a write takes and frees beside its object.
pub(super) type Claims = Vec<ClaimOp>;

/// One such key.
#[derive(Debug, Clone)]
pub(super) enum ClaimOp {
    Take(Claim),
    Free(Claim),
}

impl Registry {
    /// Creates an object.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, `Forbidden` (a namespace that ends), `NotFound` (no such namespace), or the store is away.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let now = Timestamp::now();
        let owners = owners::sent(&object);
        let mut object = prepare::create(kind, namespace, object, now)?;
        let mut home = self.home(kind, namespace, meta::name(&object), false).await?;
        defaults::apply(kind, &mut object);
        self.admit(kind, namespace, &mut object).await?;
        owners::created(kind, options, &mut object, owners, now);
        let generated = meta::name(&object).is_empty();
        for attempt in 0..ATTEMPTS {
            let mut wanted = object.clone();
            if generated {
                let prefix = meta::text(&object, "generateName");
                if prefix.is_empty() {
                    let why = "name or generateName is required";
                    return Err(prepare::required(kind, "", "metadata.name", why));
                }
                let name = meta::generate_name(prefix, rand::random());
                meta::metadata_mut(&mut wanted).insert("name".to_owned(), json!(name));
            }
            defaults::identify(kind, &mut wanted);
            let claims = self.allocate(kind, None, &mut wanted, attempt)?;
            let causes = validate::create(kind, &wanted);
            let name = meta::name(&wanted).to_owned();
            if !causes.is_empty() {
                return Err(Status::invalid(kind, &name, causes));
            }
            if let Some(home) = &home {
                admit::is_within(&home.policy, kind, &wanted)?;
            }
            self.within_ranges(kind, &name, &claims)?;
            let charges = self.charges(kind, namespace, None, &wanted).await?;
            if options.dry_run {
                let (present, _) = bounded(self.store.get(&kind.key(namespace, &name))).await?;
                return if present.is_some() { Err(Status::already_exists(kind, &name)) } else { Ok(wanted) };
            }
            let key = kind.key(namespace, &name);
            let absent = Compare::Absent(key.clone());
            let moved = home.map(|home| home.compare);
            match self.commit(absent, moved, &key, &wanted, (&claims, &charges.list)).await? {
                Committed::At(revision) => {
                    set_version(&mut wanted, revision);
                    return Ok(wanted);
                }
                Committed::Moved => {}
                Committed::Taken(claim) if claim.requested => return Err(claim.refusal(kind, &name)),
                // What was picked blindly is somebody else's: look before the next.
                Committed::Taken(_) => self.catch_up().await?,
                Committed::Changed if generated => {}
                Committed::Changed => return Err(Status::already_exists(kind, &name)),
            }
            home = self.home(kind, namespace, &name, true).await?;
        }
        Err(Status::too_many_requests("no free name or address was found in time; try again", 1))
    }

    /// Writes `wanted` over `present`; `None` when somebody else wrote in between.
    pub(super) async fn write_over(
        &self,
        kind: &'static Kind,
        present: Present,
        sub: Sub,
        wanted: Value,
        options: &WriteOptions,
        attempt: usize,
    ) -> Result<Option<Value>, Status> {
        let name = meta::name(&present.value).to_owned();
        let asked_uid = meta::uid(&wanted);
        if !asked_uid.is_empty() && asked_uid != meta::uid(&present.value) && sub != Sub::Scale {
            let why = format!(
                "Precondition failed: UID in precondition: {asked_uid}, UID in object meta: {}",
                meta::uid(&present.value)
            );
            return Err(Status::conflict(kind, &name, &why));
        }
        let owners = owners::sent(&wanted);
        let mut next = match sub {
            Sub::Main => prepare::update(kind, &present.value, wanted),
            Sub::Status => prepare::update_status(kind, &present.value, wanted),
            Sub::Scale => scale::apply(kind, &present.value, &wanted)?,
            Sub::Finalize => prepare::finalize(&present.value, wanted),
            Sub::Ephemeral => prepare::debug(&present.value, &wanted),
            Sub::Approval => prepare::approve(&present.value, wanted),
        };
        if *kind == CERTIFICATE_SIGNING_REQUESTS {
            certificates::date(&present.value, &mut next, Timestamp::now());
        }
        if *kind == PODS {
            admit::keep_priority(&present.value, &mut next);
        }
        // A Service's status has defaults, too.
        if sub != Sub::Status || *kind == SERVICES {
            defaults::apply(kind, &mut next);
        }
        owners::changed(kind, sub, options, &present.value, &mut next, owners);
        let claims = self.allocate(kind, Some(&present.value), &mut next, attempt)?;
        let mut causes = match sub {
            Sub::Ephemeral => validate::debug(&present.value, &next),
            _ => validate::update(kind, &present.value, &next),
        };
        if *kind == CERTIFICATE_SIGNING_REQUESTS {
            causes.extend(validate::signing(&present.value, &next, sub.name()));
        }
        if !causes.is_empty() {
            return Err(Status::invalid(kind, &name, causes));
        }
        if *kind == PRIORITY_CLASSES && next["globalDefault"] != present.value["globalDefault"] {
            self.one_default(&next)?;
        }
        let sets_containers = *kind == PODS && matches!(sub, Sub::Main | Sub::Ephemeral);
        if sets_containers && pod_security::is_significant(&present.value, &next) {
            admit::is_within(&self.policy(meta::namespace(&next)), kind, &next)?;
        }
        self.within_ranges(kind, &name, &claims)?;
        let counted = if *kind == POD_TEMPLATES { "template" } else { "spec" };
        if kind.has_generation && next.get(counted) != present.value.get(counted) {
            let generation = present.value["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
            meta::metadata_mut(&mut next).insert("generation".to_owned(), json!(generation));
        }
        let grows = sub == Sub::Main && (*kind == SERVICES || *kind == PERSISTENT_VOLUME_CLAIMS);
        let charges = match grows {
            true => self.charges(kind, meta::namespace(&next), Some(&present.value), &next).await?,
            false => Charges::default(),
        };
        let beside = (claims, charges.list.as_slice());
        let written = self.commit_update(kind, &present.record, next, beside, options.dry_run).await?;
        match written {
            Some(written) if sub == Sub::Scale => scale::view(kind, &written).map(Some),
            other => Ok(other),
        }
    }

    /// The transaction of an update. What equals the present is not written; what may go, goes.
    pub(super) async fn commit_update(
        &self,
        kind: &'static Kind,
        record: &Record,
        mut next: Value,
        (claims, charges): (Claims, &[Charge]),
        dry_run: bool,
    ) -> Result<Option<Value>, Status> {
        let compare = Compare::ModifiedAt(record.key.clone(), record.modified);
        if may_go(kind, &next) {
            if !dry_run && !self.commit_removal(kind, compare, &record.key, &next).await? {
                return Ok(None);
            }
            return Ok(Some(next));
        }
        if dry_run || is_same(&encode(&next), &record.value) {
            set_version(&mut next, record.modified.0);
            return Ok(Some(next));
        }
        match self.commit(compare, None, &record.key, &next, (&claims, charges)).await? {
            Committed::At(revision) => {
                set_version(&mut next, revision);
                Ok(Some(next))
            }
            Committed::Taken(claim) if claim.requested => Err(claim.refusal(kind, meta::name(&next))),
            Committed::Taken(_) | Committed::Moved | Committed::Changed => Ok(None),
        }
    }

    /// Removes an object and everything it has claimed; false when somebody else wrote in between.
    pub(super) async fn commit_removal(
        &self,
        kind: &'static Kind,
        compare: Compare,
        key: &str,
        object: &Value,
    ) -> Result<bool, Status> {
        let freed = claims_of(kind, object).into_iter().map(|claim| Op::Delete(claim.key()));
        let ops = std::iter::once(Op::Delete(key.to_owned())).chain(freed).collect();
        let outcome = bounded(self.store.txn(vec![compare], ops)).await?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }

    async fn commit(
        &self,
        compare: Compare,
        home: Option<Compare>,
        key: &str,
        object: &Value,
        (claims, charges): (&Claims, &[Charge]),
    ) -> Result<Committed, Status> {
        let mut compares = vec![compare];
        let mut ops = vec![Op::Put(key.to_owned(), encode(object), None)];
        let mut taken = Vec::new();
        let keeps: BTreeSet<String> =
            claims.iter().filter(|op| matches!(op, ClaimOp::Take(_))).map(|op| op.claim().key()).collect();
        for op in claims {
            match op {
                ClaimOp::Take(claim) => {
                    compares.push(Compare::Absent(claim.key()));
                    ops.push(Op::Put(claim.key(), key.as_bytes().to_vec().into(), None));
                    taken.push(claim);
                }
                ClaimOp::Free(claim) if keeps.contains(&claim.key()) => {}
                ClaimOp::Free(claim) => ops.push(Op::Delete(claim.key())),
            }
        }
        let object_holds = holds(&compares[0]);
        compares.extend(home);
        // Who is behind with a quota looks again, as with a namespace that moved.
        for charge in charges {
            compares.push(charge.compare.clone());
            ops.push(charge.op.clone());
        }
        match bounded(self.store.txn(compares, ops)).await? {
            Outcome::Committed(revision) => Ok(Committed::At(revision.0)),
            Outcome::Conflict(present) => {
                if !object_holds(present.first().and_then(Option::as_ref)) {
                    return Ok(Committed::Changed);
                }
                let clash = present.iter().skip(1).zip(taken).find(|(record, _)| record.is_some());
                Ok(clash.map_or(Committed::Moved, |(_, claim)| Committed::Taken(claim.clone())))
            }
        }
    }

    /// The namespace of a new object, which must exist, not be ending, and not change until the object is written: an
    /// object that is created while its namespace ends would be left over. `fresh` asks the store, not the cache.
    async fn home(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        fresh: bool,
    ) -> Result<Option<Home>, Status> {
        if !kind.namespaced {
            return Ok(None);
        }
        let cached = self.cache.get(&NAMESPACES, "", namespace).filter(|_| !fresh);
        let (revision, object) = match cached {
            Some(object) => (object.revision, object.value()),
            // The cache may be behind: only the store knows that there is none.
            None => {
                let present = self.read(&NAMESPACES, "", namespace).await?;
                (present.record.modified, Arc::new(present.value))
            }
        };
        if meta::is_terminating(&object) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let message = format!("namespace {namespace} is being terminated");
            let status = Status::forbidden(kind, name, &why);
            return Err(status.with_cause("NamespaceTerminating", message, "metadata.namespace"));
        }
        let compare = Compare::ModifiedAt(NAMESPACES.key("", namespace), revision);
        Ok(Some(Home { compare, policy: Policy::of(&object) }))
    }
}

impl ClaimOp {
    fn claim(&self) -> &Claim {
        match self {
            Self::Take(claim) | Self::Free(claim) => claim,
        }
    }
}

/// The namespace of a new object.
struct Home {
    /// It is as it was looked at.
    compare: Compare,
    /// What it asks of pods.
    policy: Policy,
}

enum Committed {
    At(u64),
    Taken(Claim),
    /// The object is not (or no longer) as it was compared.
    Changed,
    /// Its namespace is not.
    Moved,
}

/// Whether the present record of a compared key is what the compare wants.
fn holds(compare: &Compare) -> impl Fn(Option<&Record>) -> bool + use<> {
    let wanted = match compare {
        Compare::Absent(_) => None,
        Compare::ModifiedAt(_, revision) => Some(*revision),
    };
    move |record| record.map(|r| r.modified) == wanted
}

/// The stored form: apiVersion, kind and metadata first, without the resourceVersion.
pub(super) fn encode(object: &Value) -> bytes::Bytes {
    // A JSON value always serializes.
    serde_json::to_vec(&Stored(object, &["metadata", "resourceVersion"])).unwrap_or_default().into()
}

/// A value without the field at a path.
struct Stored<'a>(&'a Value, &'a [&'static str]);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (Value::Object(map), [field, below @ ..]) = (self.0, self.1) else {
            return self.0.serialize(serializer);
        };
        let mut written = serializer.serialize_map(None)?;
        for (key, value) in map {
            if key != field {
                written.serialize_entry(key, value)?;
            } else if !below.is_empty() {
                written.serialize_entry(key, &Self(value, below))?;
            }
        }
        written.end()
    }
}

/// Whether two stored forms are the same object, whatever the order of its fields.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    // In another order they have the same bytes. Times, which are what changes most, have the same length.
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let parsed = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    one.len() == other.len()
        && sum(one) == sum(other)
        && parsed(one).is_some_and(|one| parsed(other) == Some(one))
}

/// Whether an object that is being deleted has nothing left that holds it.
fn may_go(kind: &Kind, object: &Value) -> bool {
    if !meta::is_terminating(object) || meta::finalizers(object).next().is_some() {
        return false;
    }
    if *kind == NAMESPACES {
        return object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    }
    // A pod goes when its node confirms, by a delete without grace.
    *kind != PODS || object["metadata"]["deletionGracePeriodSeconds"].as_i64() == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_the_object_without_its_version() {
        let object = json!({"apiVersion": "v1", "metadata": {"resourceVersion": "7", "name": "a", "labels": {"resourceVersion": "x"}},
            "spec": {"metadata": {"resourceVersion": "kept"}, "resourceVersion": 1}});
        let stored = String::from_utf8(encode(&object).to_vec()).unwrap();
        assert_eq!(
            stored,
            r#"{"apiVersion":"v1","metadata":{"name":"a","labels":{"resourceVersion":"x"}},"spec":{"metadata":{"resourceVersion":"kept"},"resourceVersion":1}}"#
        );
        assert_eq!(&encode(&json!({"metadata": 1, "a": [null]}))[..], br#"{"metadata":1,"a":[null]}"#);
    }

    #[test]
    fn the_same_in_another_order_is_the_same_and_the_same_letters_are_not() {
        let same = |one: &str, other: &str| is_same(one.as_bytes(), other.as_bytes());
        assert!(same(r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#));
        assert!(same(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#));
        assert!(!same(r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#), "the same bytes, another object");
        assert!(!same(r#"{"a":12}"#, r#"{"a":13}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":11}"#));
    }
}
