//! Lists: pages from etcd, all at one revision, joined to what was asked for. In: prefix and options. Out: a [`Page`].

use etcd_client::GetOptions;

use super::{Etcd, errors::Failure, record, signed};
use crate::{Error, LeaseId, ListOptions, Page, Result, Revision};

/// Records asked of etcd at once: bounds what it and we hold twice, as kube-apiserver does.
const CHUNK: usize = 500;
/// How often a list of the present starts anew when the history under it is compacted.
const ATTEMPTS: usize = 3;

pub(super) async fn list(etcd: &Etcd, prefix: &str, options: ListOptions) -> Result<Page> {
    let mut attempt = 1;
    loop {
        match pages(etcd, prefix, &options).await {
            Ok(page) => return Ok(page),
            Err((Failure::Compacted, _)) if options.at.is_none() && attempt < ATTEMPTS => attempt += 1,
            Err((failure, Some(at))) => return Err(etcd.explain(failure, at).await),
            Err((failure, None)) => return Err(failure.into_error(LeaseId(0), 0)),
        }
    }
}

async fn pages(
    etcd: &Etcd,
    prefix: &str,
    options: &ListOptions,
) -> Result<Page, (Failure, Option<Revision>)> {
    let end = after_prefix(prefix);
    let mut key = match &options.start {
        Some(start) if start.as_str() > prefix => start.clone(),
        _ => prefix.to_owned(),
    };
    let mut at = options.at;
    let mut page = Page { records: Vec::new(), revision: Revision(0), more: false, count: 0 };
    loop {
        let wanted = match options.limit {
            0 => CHUNK,
            limit => CHUNK.min(limit - page.records.len()),
        };
        let mut get =
            GetOptions::new().with_range(end.clone()).with_limit(i64::try_from(wanted).unwrap_or(i64::MAX));
        if let Some(at) = at {
            // etcd takes 0 for now; its history starts, empty, at 1.
            get = get.with_revision(signed(at).max(1));
        }
        // An empty key would mean no key; the first one that can be is a zero byte.
        let from = if key.is_empty() { "\0" } else { key.as_str() };
        let (kvs, more, count, now) = etcd.range(from, &get).await.map_err(|failure| (failure, at))?;
        if page.records.is_empty() {
            page.count = count;
            page.revision = at.unwrap_or(now);
            at = Some(page.revision);
        }
        for kv in kvs {
            page.records.push(record(kv).map_err(|error| (Failure::Told(error), None::<Revision>))?);
        }
        page.more = more;
        match page.records.last() {
            Some(last) if more && (options.limit == 0 || page.records.len() < options.limit) => {
                key = format!("{}\0", last.key);
            }
            _ if more && page.records.is_empty() => {
                let error = Error::Corrupt("etcd answered an empty page with more to follow".to_owned());
                return Err((Failure::Told(error), None));
            }
            _ => return Ok(page),
        }
    }
}

/// The first key after all keys with the prefix; all keys for the empty prefix, which etcd writes as a zero byte.
pub(super) fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::after_prefix;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_lacks_it() {
        assert_eq!(after_prefix("/a/"), b"/a0");
        assert_eq!(after_prefix(""), [0]);
    }
}
