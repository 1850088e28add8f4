//! CronJobs: a Job whenever the schedule says so.
//!
//! Source: k8s.io/kubernetes/pkg/controller/cronjob. The Job's name tells the minute it is for, so that one is never made
//! twice; what the status says is read off the Jobs that are there, so that a crash between two writes loses nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::catalogue::{CRON_JOBS, JOBS, Kind};
use oarlock_api::meta;
use oarlock_api::schedule::Schedule;
use serde_json::{Value, json};

use super::template::{annotate, owner_reference};
use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, World};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const COMPONENT: &str = "cronjob-controller";
/// Spans in which the last missed time is looked for, the shortest first: few steps even after a long pause.
const SPANS: [i64; 4] = [3600, 86_400, 31 * 86_400, 366 * 86_400];

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind != JOBS {
        return own(kind, &CRON_JOBS, key);
    }
    let owner = world.get(&JOBS, key).and_then(|job| meta::controller_of(&job.value)?["uid"].as_str());
    let owner = owner.and_then(|uid| world.by_uid(uid)).filter(|(kind, _)| **kind == CRON_JOBS);
    owner.map(|(_, key)| key.clone()).into_iter().collect()
}

struct View<'w> {
    key: &'w Key,
    held: &'w Held,
    /// Oldest first.
    jobs: Vec<(&'w Key, &'w Held)>,
    now: Timestamp,
}

/// Complete or Failed.
fn ending(job: &Value) -> Option<&str> {
    let mut all = job["status"]["conditions"].as_array().into_iter().flatten();
    let end = all.find(|c| c["status"] == "True" && (c["type"] == "Complete" || c["type"] == "Failed"));
    end.and_then(|c| c["type"].as_str())
}

/// The time that a Job was made for; none for one that a user made.
fn scheduled(job: &Value) -> Option<Timestamp> {
    meta::parse_time(meta::annotation(job, SCHEDULED)?)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&CRON_JOBS, key) else { return Plan::nothing() };
    let cron = &*held.value;
    let table = (JOBS.group, JOBS.plural);
    let mut jobs: Vec<(&Key, &Held)> = world
        .dependents(meta::uid(cron))
        .filter(|(group, plural, _)| (*group, *plural) == table)
        .filter_map(|(_, _, key)| Some((key, world.get(&JOBS, key)?)))
        .collect();
    jobs.sort_by_key(|(key, job)| (meta::text(&job.value, "creationTimestamp").to_owned(), (*key).clone()));
    let view = View { key, held, jobs, now };
    let mut changes = view.status();
    changes.extend(view.history());
    if meta::is_terminating(cron) || view.spec()["suspend"] == true {
        return Plan::of(changes);
    }
    let text = view.spec()["schedule"].as_str().unwrap_or("");
    let Ok(schedule) = Schedule::parse(text, view.spec()["timeZone"].as_str()) else {
        // Validation lets none in.
        return Plan::of(changes);
    };
    if let Some(due) = view.due(&schedule) {
        changes.extend(view.start(world, due));
    }
    let next = schedule.next(now).map_or(3600, |next| next.as_second() - now.as_second());
    Plan::of(changes).again(Duration::from_secs(next.clamp(1, 3600).unsigned_abs()))
}

impl<'w> View<'w> {
    fn spec(&self) -> &'w Value {
        &self.held.value["spec"]
    }

    /// Jobs by schedule that have not ended.
    fn active(&self) -> impl Iterator<Item = (&'w Key, &'w Held)> {
        self.jobs.iter().copied().filter(|(_, j)| ending(&j.value).is_none() && scheduled(&j.value).is_some())
    }

    fn last_schedule(&self) -> Option<Timestamp> {
        let stored = self.held.value["status"]["lastScheduleTime"].as_str().and_then(meta::parse_time);
        self.jobs.iter().filter_map(|(_, job)| scheduled(&job.value)).chain(stored).max()
    }

    /// The last time that has come and has had no Job.
    fn due(&self, schedule: &Schedule) -> Option<Timestamp> {
        let created = meta::parse_time(meta::text(&self.held.value, "creationTimestamp"));
        let mut since = self.last_schedule().or(created)?;
        if let Some(deadline) = self.spec()["startingDeadlineSeconds"].as_i64() {
            since = since.max(self.now.checked_sub(SignedDuration::from_secs(deadline)).ok()?);
        }
        let in_span = |seconds: i64| {
            let from = self.now.checked_sub(SignedDuration::from_secs(seconds)).ok()?.max(since);
            let times = std::iter::successors(schedule.next(from), |time| schedule.next(*time));
            times.take_while(|time| *time <= self.now).last()
        };
        let longest = (self.now.as_second() - since.as_second()).max(0);
        SPANS.into_iter().take_while(|span| *span < longest).chain([longest]).find_map(in_span)
    }

    fn start(&self, world: &World, due: Timestamp) -> Vec<Change> {
        let name = format!("{}-{}", self.key.1, due.as_second() / 60);
        if world.get(&JOBS, &(self.key.0.clone(), name.clone())).is_some() {
            return Vec::new();
        }
        let mut changes = Vec::new();
        match self.spec()["concurrencyPolicy"].as_str() {
            Some("Forbid") if self.active().next().is_some() => {
                let why =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return vec![self.event("JobAlreadyActive", why.to_owned())];
            }
            Some("Replace") => changes.extend(self.active().flat_map(|(key, job)| self.delete(key, job))),
            _ => {}
        }
        let template = &self.spec()["jobTemplate"];
        let mut metadata = json!({"name": name, "ownerReferences": [owner_reference(&self.held.value)]});
        for field in ["labels", "annotations"] {
            if let Some(value) = template["metadata"].get(field) {
                metadata[field] = value.clone();
            }
        }
        let mut job = json!({"metadata": metadata, "spec": template["spec"]});
        annotate(&mut job, SCHEDULED, meta::time(due));
        changes.push(self.event("SuccessfulCreate", format!("Created job {name}")));
        changes.push(Change::Create { kind: &JOBS, namespace: self.key.0.clone(), object: job });
        changes
    }

    fn delete(&self, key: &Key, job: &Held) -> [Change; 2] {
        let delete = Change::Delete {
            kind: &JOBS,
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: meta::uid(&job.value).to_owned(),
            grace: None,
        };
        [delete, self.event("SuccessfulDelete", format!("Deleted job {}", key.1))]
    }

    /// Jobs that ended, beyond the limits: the oldest go.
    fn history(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (end, field) in [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")]
        {
            let limit = self.spec()[field].as_i64().and_then(|n| usize::try_from(n).ok());
            let ended: Vec<_> = self
                .jobs
                .iter()
                .filter(|(_, job)| ending(&job.value) == Some(end) && !meta::is_terminating(&job.value))
                .collect();
            let surplus = limit.map_or(0, |limit| ended.len().saturating_sub(limit));
            changes.extend(ended.into_iter().take(surplus).flat_map(|(key, job)| self.delete(key, job)));
        }
        changes
    }

    fn status(&self) -> Vec<Change> {
        let present = &self.held.value["status"];
        let active: Vec<Value> = self.active().map(|(key, job)| reference(key, job)).collect();
        let successes = self.jobs.iter().filter(|(_, job)| ending(&job.value) == Some("Complete"));
        let success = successes.filter_map(|(_, job)| job.value["status"]["completionTime"].as_str());
        let success = success.chain(present["lastSuccessfulTime"].as_str()).max();
        let wanted = [
            ("active", if active.is_empty() { Value::Null } else { json!(active) }),
            ("lastScheduleTime", self.last_schedule().map_or(Value::Null, |t| json!(meta::time(t)))),
            ("lastSuccessfulTime", json!(success)),
        ];
        if wanted.iter().all(|(field, value)| present[*field] == *value) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for reference in present["active"].as_array().into_iter().flatten() {
            let name = reference["name"].as_str().unwrap_or("");
            match self.jobs.iter().find(|(_, job)| job.value["metadata"]["uid"] == reference["uid"]) {
                None => changes.push(self.event("MissingJob", format!("Active job went missing: {name}"))),
                Some((_, job)) => changes.extend(ending(&job.value).map(|end| {
                    self.event("SawCompletedJob", format!("Saw completed job: {name}, condition: {end}"))
                })),
            }
        }
        let mut status = json!({});
        for (field, value) in wanted {
            status[field] = value;
        }
        changes.push(Change::Patch {
            kind: &CRON_JOBS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part: Part::Status,
            patch: json!({"metadata": {"resourceVersion": self.held.revision.to_string()}, "status": status}),
        });
        changes
    }

    fn event(&self, reason: &'static str, message: String) -> Change {
        let about = EventAbout {
            kind: &CRON_JOBS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        Change::Event { about, kind: "Normal", reason, message, component: COMPONENT }
    }
}

fn reference(key: &Key, job: &Held) -> Value {
    json!({
        "kind": "Job", "apiVersion": "batch/v1", "namespace": key.0, "name": key.1, "uid": meta::uid(&job.value),
    })
}

#[cfg(test)]
mod tests;
