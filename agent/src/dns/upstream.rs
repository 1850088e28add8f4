//! Names outside the cluster: asked of the node's name servers, answers remembered.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::Response;

/// How long one name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of them may take: resolvers of pods ask again after five seconds (resolv.conf(5)), and are to have been told by then.
const ALTOGETHER: Duration = Duration::from_secs(4);
/// How many answers are remembered.
const REMEMBERED: u64 = 10_000;

/// The name servers of the node. None: names outside the cluster are answered SERVFAIL.
#[derive(Debug)]
pub(super) struct Upstream(Option<TokioResolver>);

impl Upstream {
    /// These, or those of `/etc/resolv.conf`.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let config = if servers.is_empty() {
            hickory_resolver::system_conf::read_system_conf().map(|(config, _)| config)
        } else {
            Ok(ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect()))
        };
        let built = config.and_then(|config| {
            let config = ResolverConfig::from_parts(None, Vec::new(), config.name_servers().to_vec());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options();
            builder.build()
        });
        match built {
            Ok(resolver) => Self(Some(resolver)),
            Err(error) => {
                tracing::warn!(%error, "names outside the cluster are not resolved: --upstream-dns names a server");
                Self(None)
            }
        }
    }

    /// Adds what is known of a name to the response.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType, response: &mut Response) {
        let Some(resolver) = &self.0 else {
            response.code = ResponseCode::ServFail;
            return;
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        let found = tokio::time::timeout(ALTOGETHER, resolver.lookup(name, kind)).await;
        match found.unwrap_or(Err(NetError::Timeout)) {
            Ok(found) => response.answers.extend(found.answers().iter().cloned()),
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                response.code = nothing.response_code;
                response.authorities.extend(nothing.soa.map(|soa| soa.into_record_of_rdata()));
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => response.code = code,
            Err(error) => {
                tracing::debug!(%error, "a name outside the cluster was not resolved");
                response.code = ResponseCode::ServFail;
            }
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut config.connections {
        connection.port = address.port();
    }
    config
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = PATIENCE;
    options.attempts = 1;
    options.cache_size = REMEMBERED;
    // What the node's own file of hosts says is not for pods.
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    options
}
