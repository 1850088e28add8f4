//! What kind of links the uplinks are.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use super::NetError;
use crate::dataplane::Uplink;

/// Looks at the uplinks.
///
/// # Errors
/// One of them does not exist.
pub async fn uplinks(names: &[String]) -> Result<Vec<Uplink>, NetError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|source| NetError::Io { what: "open a netlink socket".to_owned(), source })?;
    let look = async {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let mut links = handle.link().get().match_name(name.clone()).execute();
            let link = links
                .try_next()
                .await
                .map_err(|source| NetError::Netlink { what: format!("find the uplink {name}"), source })?;
            let is_veth = link.iter().flat_map(|l| &l.attributes).any(|attribute| {
                matches!(attribute, LinkAttribute::LinkInfo(infos)
                    if infos.contains(&LinkInfo::Kind(InfoKind::Veth)))
            });
            found.push(Uplink { name: name.clone(), is_veth });
        }
        Ok(found)
    };
    tokio::select! {
        found = look => found,
        // Ends with the socket: an answer can no longer come.
        () = connection => Err(NetError::Io {
            what: "look at the uplinks".to_owned(),
            source: std::io::ErrorKind::ConnectionAborted.into(),
        }),
    }
}
