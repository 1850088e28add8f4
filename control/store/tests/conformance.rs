//! One suite for every backend: each sentence of the trait's documentation, against the embedded store and against etcd.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]
#![expect(clippy::disallowed_methods, reason = "a test's concurrent clients are plain tasks")]

#[path = "conformance/suite.rs"]
mod suite;
#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "only the crash tests kill it")]
mod support;

use std::sync::Arc;

use oarlock_store::{Embedded, Retention, Store};

/// A fresh embedded store; its folder lives as long as the guard.
fn embedded() -> (Arc<dyn Store>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), Retention::default()).unwrap();
    (Arc::new(store), folder)
}

/// A client of an empty etcd of the test's own.
async fn etcd() -> (Arc<dyn Store>, support::Server) {
    let server = support::Server::start().await;
    (Arc::new(server.client().await), server)
}

/// The same, whose writes go together as a control plane's do.
async fn etcd_together() -> (Arc<dyn Store>, support::Server) {
    let server = support::Server::start().await;
    let client = Arc::new(server.client().await);
    let writes = Arc::clone(&client);
    tokio::spawn(async move { writes.write_together().await });
    (client, server)
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let (store, _folder) = super::embedded();
                    super::suite::$name(store).await;
                }
            )*
        }
        mod on_etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let (store, _server) = super::etcd().await;
                    super::suite::$name(store).await;
                }
            )*
        }
        mod on_etcd_together {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let (store, _server) = super::etcd_together().await;
                    super::suite::$name(store).await;
                }
            )*
        }
    };
}

on_both!(
    an_absent_key_is_none_at_the_present_revision,
    a_created_key_reads_back_with_its_revisions,
    a_compare_that_fails_writes_nothing_and_shows_what_is_there,
    a_transaction_is_one_revision,
    deleting_an_absent_key_changes_nothing,
    a_list_is_sorted_and_stays_under_its_prefix,
    a_list_is_paged_at_one_revision,
    a_list_at_an_older_revision_shows_the_past,
    a_revision_in_the_future_is_refused,
    a_watch_sees_every_change_once_in_order,
    a_watch_starts_anywhere_in_history,
    a_watch_batches_a_transaction_as_one,
    a_watch_narrows_to_its_prefix,
    history_that_was_compacted_is_refused,
    concurrent_counters_lose_no_increment,
    keys_of_a_lease_end_with_it,
    a_lease_that_is_kept_alive_lives_on,
    a_value_that_is_too_large_is_refused,
    watchers_under_concurrent_writers_miss_nothing,
);
