//! Watches: one JSON object a line, until the client goes, the time is up, or history is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use oarlock_api::status::Status;
use oarlock_store::Revision;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::encode::{self, Include};
use super::list::Scope;
use super::negotiate::{Form, Wanted};
use super::protobuf;
use super::query::Query;
use super::respond::{self, Body};
use crate::cache::{CacheWatch, Change, Expired, Object};
use crate::registry::Registry;

/// Bookmarks tell an idle watcher how far it is.
const BOOKMARK: Duration = Duration::from_secs(60);
/// Upstream's bounds for watches that say no time of their own.
const LONGEST: (u64, u64) = (1800, 3600);

/// Answers a watch.
pub(super) async fn watch(
    registry: &Arc<Registry>,
    scope: Scope,
    query: &Query,
    Wanted { form, is_protobuf }: Wanted,
    shutdown: CancellationToken,
) -> Result<Response<Body>, Status> {
    let version = query.version()?;
    let initial = query.initial_events()?;
    let streaming_list = initial == Some(true);
    let mut ready = VecDeque::new();
    let mut session = Session {
        include: Include::parse(query.get("includeObject")),
        form,
        is_protobuf: is_protobuf && protobuf::has(scope.served, form),
        bookmarks: query.flag("allowWatchBookmarks"),
        columns_sent: false,
        scope,
    };
    let after = match version {
        Some(version) if version > 0 && !streaming_list => {
            registry.reach(Revision(version)).await?;
            Revision(version)
        }
        _ if initial == Some(false) => {
            registry.catch_up().await?;
            registry.cache().revision()
        }
        version => {
            match version {
                None => registry.catch_up().await?,
                Some(version) => registry.reach(Revision(version)).await?,
            }
            let (objects, revision) =
                registry.cache().list(session.scope.kind, session.scope.namespace.as_deref());
            for object in &objects {
                if session.scope.matches(object) {
                    ready.push_back(session.line("ADDED", object));
                }
            }
            if streaming_list && session.bookmarks {
                ready.push_back(session.bookmark(revision, true));
            }
            revision
        }
    };
    let watch = match registry.cache().watch(Some(session.scope.kind), after) {
        Ok(watch) => watch,
        Err(expired) => {
            let went_on = go_on(registry, &mut session, after).await?;
            let Some((lines, watch)) = went_on else {
                ready.push_back(session.error(expired));
                return Ok(respond::stream(session.content_type(), stream::iter(ready)));
            };
            ready.extend(lines);
            watch
        }
    };
    let seconds = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::random_range(LONGEST.0..LONGEST.1),
    };
    let content_type = session.content_type();
    let state = State {
        session,
        watch,
        ready,
        // Clients may ask for more time than a clock has.
        end: Instant::now() + Duration::from_secs(seconds.min(LONGEST.1 * 24)),
        bookmark: Instant::now() + BOOKMARK,
        shutdown,
        ended: false,
    };
    let lines =
        stream::unfold(state, |mut state| async move { state.next().await.map(|line| (line, state)) });
    Ok(respond::stream(content_type, lines))
}

/// What the store knows of changes that the cache does not hold, and a watch from there; none where that is gone, too.
async fn go_on(
    registry: &Arc<Registry>,
    session: &mut Session,
    after: Revision,
) -> Result<Option<(Vec<Bytes>, CacheWatch)>, Status> {
    let (changes, until) = match registry.past(session.scope.kind, after).await {
        Ok(past) => past,
        Err(status) if status.is("Expired") => return Ok(None),
        Err(status) => return Err(status),
    };
    let lines = changes.iter().filter_map(|change| session.change(change)).collect();
    let watch = registry.cache().watch(Some(session.scope.kind), until);
    Ok(watch.ok().map(|watch| (lines, watch)))
}

struct State {
    session: Session,
    watch: CacheWatch,
    ready: VecDeque<Bytes>,
    end: Instant,
    /// When the next bookmark is due: a fixed time, lest a kind on which much happens but nothing for us starves it.
    bookmark: Instant,
    shutdown: CancellationToken,
    ended: bool,
}

impl State {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let changes = tokio::select! {
                changes = self.watch.next() => changes,
                () = tokio::time::sleep_until(self.bookmark), if self.session.bookmarks => {
                    self.bookmark = Instant::now() + BOOKMARK;
                    return Some(self.session.bookmark(self.watch.seen(), false));
                }
                () = tokio::time::sleep_until(self.end) => {
                    self.ended = true;
                    return self.session.bookmarks.then(|| self.session.bookmark(self.watch.seen(), false));
                }
                () = self.shutdown.cancelled() => return None,
            };
            match changes {
                Ok(changes) => {
                    let lines = changes.iter().filter_map(|change| self.session.change(change));
                    let lines: Vec<Bytes> = lines.collect();
                    self.ready.extend(lines);
                }
                Err(expired) => {
                    self.ended = true;
                    return Some(self.session.error(expired));
                }
            }
        }
    }
}

struct Session {
    scope: Scope,
    form: Form,
    include: Include,
    is_protobuf: bool,
    bookmarks: bool,
    columns_sent: bool,
}

impl Session {
    /// A change as this watcher sees it: entering its selectors is ADDED, leaving them DELETED.
    fn change(&mut self, change: &Change) -> Option<Bytes> {
        match change {
            Change::Put { new, old } => {
                let was = old.as_ref().filter(|old| self.scope.matches(old));
                match (was, self.scope.matches(new)) {
                    (None, false) => None,
                    (None, true) => Some(self.line("ADDED", new)),
                    (Some(_), true) => Some(self.line("MODIFIED", new)),
                    (Some(old), false) => Some(self.deleted(old, new.revision)),
                }
            }
            Change::Delete { old, revision } => {
                let was = self.scope.matches(old);
                was.then(|| self.deleted(old, *revision))
            }
        }
    }

    fn deleted(&mut self, old: &Object, revision: Revision) -> Bytes {
        let mut value = Value::clone(&old.value());
        value["metadata"]["resourceVersion"] = json!(revision.0.to_string());
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let mut shown = encode::object(self.scope.served, self.form, self.include, &value);
        if !columns && matches!(self.form, Form::Table(_)) {
            shown["columnDefinitions"] = json!([]);
        }
        self.told("DELETED", &shown)
    }

    fn content_type(&self) -> &'static str {
        if self.is_protobuf { protobuf::WATCH } else { "application/json" }
    }

    /// An event about something that is not encoded yet.
    fn told(&self, kind: &str, object: &Value) -> Bytes {
        if self.is_protobuf {
            return protobuf::event(kind, object);
        }
        line(kind, object.to_string().as_bytes())
    }

    fn error(&self, expired: Expired) -> Bytes {
        self.told("ERROR", &Status::expired(expired.to_string()).to_json())
    }

    fn line(&mut self, kind: &str, object: &Object) -> Bytes {
        if self.is_protobuf {
            return protobuf::event(kind, &encode::shown(self.scope.served, self.form, &object.value()));
        }
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        line(kind, &encode::event(self.scope.served, self.form, self.include, object, columns))
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.0.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Objects => {
                json!({"kind": self.scope.served.kind, "apiVersion": self.scope.served.api_version(), "metadata": metadata})
            }
            Form::Metadata(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata})
            }
            Form::Table(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                json!({"kind": "Table", "apiVersion": api_version, "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
        };
        self.told("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(br#"{"type":""#);
    line.put_slice(kind.as_bytes());
    line.put_slice(br#"","object":"#);
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}
