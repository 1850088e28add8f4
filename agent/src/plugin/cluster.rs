//! The API server, as far as it is asked: nodes' own words, and addresses of what has a name.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A cluster.
pub(super) struct Cluster(Client);

/// A node.
pub(super) struct Node {
    pub(super) name: String,
    addresses: Vec<IpAddr>,
}

/// Who would send a packet.
pub(super) struct Sender {
    addresses: Vec<IpAddr>,
    /// The node that it is on, or that it is.
    pub(super) node: Option<String>,
}

/// Who would get it.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    /// The node that it is.
    pub(super) node: Option<String>,
    /// The protocol of a Service's port.
    pub(super) protocol: Option<String>,
}

impl Sender {
    /// The address by which it would send to another one: of the same family, if it has one.
    pub(super) fn address(&self, to: IpAddr) -> Option<IpAddr> {
        let fits = self.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
        fits.or(self.addresses.first()).copied()
    }
}

/// A client of the cluster that a kubeconfig names, with kubectl's own credentials.
pub(crate) async fn client(kubeconfig: Option<&Path>, context: Option<String>) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await,
        None => Config::from_kubeconfig(&options).await,
    };
    let config = config.context("no cluster is known: give --kubeconfig, or set KUBECONFIG")?;
    Ok(Client::try_from(config)?)
}

impl Cluster {
    pub(super) async fn open(kubeconfig: Option<&Path>, context: Option<String>) -> anyhow::Result<Self> {
        Ok(Self(client(kubeconfig, context).await?))
    }

    /// Reads a path.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = http::Request::get(path).body(Vec::new())?;
        match self.0.request(request).await {
            Ok(answer) => Ok(answer),
            // The sentence that is meant for people.
            Err(kube::Error::Api(status)) if !status.message.is_empty() => bail!(status.message.clone()),
            Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
        }
    }

    /// Asks a node.
    pub(super) async fn ask<T: DeserializeOwned>(&self, node: &str, question: &str) -> anyhow::Result<T> {
        self.get(&format!("/api/v1/nodes/{node}/proxy/dataplane/{question}")).await
    }

    /// Asks all nodes at once, or only one.
    pub(super) async fn ask_all<T: DeserializeOwned>(
        &self,
        only: Option<&str>,
        question: &str,
    ) -> anyhow::Result<Vec<(String, anyhow::Result<T>)>> {
        let nodes = self.nodes(only).await?;
        let asked = nodes.into_iter().map(async |node| {
            let answer = self.ask(&node.name, question).await;
            (node.name, answer)
        });
        Ok(join_all(asked).await)
    }

    /// All nodes, or only one.
    pub(super) async fn nodes(&self, only: Option<&str>) -> anyhow::Result<Vec<Node>> {
        let list: Value = self.get("/api/v1/nodes").await?;
        let nodes = items(&list).map(|node| {
            let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
            let internal = addresses.filter(|a| a["type"] == "InternalIP");
            let addresses = internal.filter_map(|a| a["address"].as_str()?.parse().ok()).collect();
            Node { name: text(&node["metadata"]["name"]), addresses }
        });
        let nodes: Vec<Node> = nodes.filter(|node| only.is_none_or(|only| only == node.name)).collect();
        anyhow::ensure!(!nodes.is_empty(), "there is no node {}", only.unwrap_or_default());
        Ok(nodes)
    }

    /// Who is meant by `pod/NAME`, `node/NAME` or an address.
    pub(super) async fn sender(&self, words: &str, namespace: Option<&str>) -> anyhow::Result<Sender> {
        if let Some(name) = words.strip_prefix("node/") {
            let addresses = self.node_addresses(name).await?;
            return Ok(Sender { addresses, node: Some(name.to_owned()) });
        }
        if let Some(name) = words.strip_prefix("pod/") {
            let (addresses, node) = self.pod(&self.qualified(name, namespace)).await?;
            return Ok(Sender { addresses, node: Some(node) });
        }
        let address: IpAddr =
            words.parse().with_context(|| format!("{words} is no pod/NAME, node/NAME or IP address"))?;
        let addresses = vec![address];
        let node = self.nodes(None).await?.into_iter().find(|node| node.addresses.contains(&address));
        if let Some(node) = node {
            return Ok(Sender { addresses, node: Some(node.name) });
        }
        let pods: Value = self.get("/api/v1/pods").await?;
        let pod = items(&pods).find(|pod| {
            pod_ips(pod).any(|ip| ip == address)
                && pod["status"]["phase"] != "Succeeded"
                && pod["status"]["phase"] != "Failed"
        });
        Ok(Sender { addresses, node: pod.map(|pod| text(&pod["spec"]["nodeName"])) })
    }

    /// Who is meant by `svc/NAME:PORT`, `pod/NAME:PORT`, `node/NAME:PORT` or `ADDRESS:PORT`.
    pub(super) async fn receiver(&self, words: &str, namespace: Option<&str>) -> anyhow::Result<Receiver> {
        let service = words.strip_prefix("svc/").or_else(|| words.strip_prefix("service/"));
        if let Some(rest) = service {
            let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
            let (namespace, name) = self.qualified(name, namespace);
            let object: Value = self.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await?;
            let (address, protocol) = port_of(&object, port)?;
            return Ok(Receiver { address, node: None, protocol: Some(protocol) });
        }
        let (who, port) = words.rsplit_once(':').with_context(|| format!("{words} has no :PORT"))?;
        let port: u16 = port.parse().with_context(|| format!("{port} is no number of a port"))?;
        let (ip, node) = if let Some(name) = who.strip_prefix("pod/") {
            (first(&self.pod(&self.qualified(name, namespace)).await?.0, name)?, None)
        } else if let Some(name) = who.strip_prefix("node/") {
            (first(&self.node_addresses(name).await?, name)?, Some(name.to_owned()))
        } else {
            let ip: IpAddr = who
                .trim_matches(['[', ']'])
                .parse()
                .with_context(|| format!("{who} is no svc/NAME, pod/NAME, node/NAME or IP address"))?;
            let node = self.nodes(None).await?.into_iter().find(|node| node.addresses.contains(&ip));
            (ip, node.map(|node| node.name))
        };
        Ok(Receiver { address: SocketAddr::new(ip, port), node, protocol: None })
    }

    /// The namespace of the context.
    pub(super) fn default_namespace(&self) -> &str {
        self.0.default_namespace()
    }

    /// A namespace and a name, of `NAME` or `NAMESPACE/NAME`.
    fn qualified(&self, name: &str, namespace: Option<&str>) -> (String, String) {
        let default = namespace.unwrap_or_else(|| self.default_namespace());
        let (namespace, name) = name.split_once('/').unwrap_or((default, name));
        (namespace.to_owned(), name.to_owned())
    }

    async fn node_addresses(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let node = self.nodes(Some(name)).await?.into_iter().next();
        Ok(node.map(|node| node.addresses).unwrap_or_default())
    }

    async fn pod(&self, (namespace, name): &(String, String)) -> anyhow::Result<(Vec<IpAddr>, String)> {
        let pod: Value = self.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
        Ok((pod_ips(&pod).collect(), text(&pod["spec"]["nodeName"])))
    }
}

/// The addresses of a pod, the primary family first.
fn pod_ips(pod: &Value) -> impl Iterator<Item = IpAddr> {
    let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
    listed.filter_map(|ip| ip["ip"].as_str()?.parse().ok())
}

fn first(addresses: &[IpAddr], name: &str) -> anyhow::Result<IpAddr> {
    addresses.first().copied().with_context(|| format!("{name} has no address yet"))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number_of(port: &Value) -> u16 {
    port["port"].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or_default()
}

/// The ClusterIP and the port that is meant by its name or number; the only one when none is said.
fn port_of(service: &Value, wanted: Option<&str>) -> anyhow::Result<(SocketAddr, String)> {
    let name = text(&service["metadata"]["name"]);
    let ip = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
    let ip: IpAddr = ip.with_context(|| format!("the Service {name} has no ClusterIP"))?;
    let ports: Vec<&Value> = service["spec"]["ports"].as_array().into_iter().flatten().collect();
    let is_meant = |port: &Value| {
        wanted.is_none_or(|wanted| port["name"] == wanted || wanted.parse() == Ok(number_of(port)))
    };
    let mut meant = ports.iter().filter(|port| is_meant(port));
    let (Some(port), None) = (meant.next(), meant.next()) else {
        let all: Vec<String> = ports.iter().map(|port| number_of(port).to_string()).collect();
        bail!("say which port of the Service {name} is meant: {}", all.join(" "));
    };
    let number = number_of(port);
    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
    Ok((SocketAddr::new(ip, number), protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_of_services_are_meant_by_name_by_number_or_by_being_the_only_one() {
        let mut service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.10", "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        let of = |service: &Value, wanted| {
            port_of(service, wanted)
                .map(|(at, protocol)| format!("{protocol} {at}"))
                .map_err(|e| e.to_string())
        };
        assert_eq!(of(&service, Some("http")).unwrap(), "TCP 10.96.0.10:80");
        assert_eq!(of(&service, Some("53")).unwrap(), "UDP 10.96.0.10:53");
        assert_eq!(of(&service, None).unwrap_err(), "say which port of the Service web is meant: 80 53");
        service["spec"]["ports"].as_array_mut().unwrap().pop();
        assert_eq!(of(&service, None).unwrap(), "TCP 10.96.0.10:80");
        service["spec"]["clusterIP"] = json!("None");
        assert!(of(&service, None).is_err());
    }
}
