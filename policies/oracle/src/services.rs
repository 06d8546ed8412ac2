//! `v1 Service` and `discovery.k8s.io/v1 EndpointSlice`: who takes a connection to a
//! Service, as the proxies of Kubernetes choose.
//!
//! Everything is looked for in all documents at every question.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_yaml::Value;

use super::objects::{
    addresses_of_node, addresses_of_pod, is_finished, is_host_network, labels_of, name_of,
    namespace_of, node_name, protocol_number,
};
use super::tree::{field, list, string};
use super::{End, Oracle};

/// An end that may take a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taker {
    /// The end.
    pub end: End,
    /// The address at which the connection arrives; `None` of a pod to which no document
    /// gives any.
    pub address: Option<IpAddr>,
    /// The port at which it arrives; `None` where that is the client's.
    pub port: Option<u16>,
}

/// The way of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To the address itself.
    Straight,
    /// To one of these, who may be nobody.
    Service(BTreeSet<Taker>),
}

/// Protocol number and port.
type Port = (u8, u16);

impl Oracle {
    /// Returns all that may take a connection to a Service by its name. Of a headless one
    /// the name leads to everybody behind it, whatever port is meant. `None` when the
    /// Service has no address of the family, or there is no such Service.
    #[must_use]
    pub fn takers(
        &self,
        namespace: &str,
        name: &str,
        port: Option<Port>,
        is_ipv4: bool,
    ) -> Option<BTreeSet<Taker>> {
        let service = self
            .services
            .iter()
            .find(|service| namespace_of(service) == namespace && name_of(service) == name)?;
        if !serves(service, is_ipv4) {
            return None;
        }
        if is_headless(service) {
            return Some(self.behind(service, None, is_ipv4));
        }
        Some(self.at_ports(service, port, "port", is_ipv4))
    }

    /// Returns the way that a connection to an address takes.
    #[must_use]
    pub fn way(&self, address: IpAddr, port: Option<Port>) -> Way {
        let is_ipv4 = address.is_ipv4();
        // A proxy does nothing for a Service without an address in the cluster, nor in a
        // family that it does not have.
        let translated: Vec<&Value> = self
            .services
            .iter()
            .filter(|service| !is_headless(service) && !is_external_name(service))
            .filter(|service| serves(service, is_ipv4))
            .collect();
        let mut takers = BTreeSet::new();
        let mut is_port_of_service = false;
        let has_it = |service: &&&Value| virtual_addresses(service).contains(&address);
        for service in translated.iter().filter(has_it) {
            is_port_of_service |= has_port(service, port, "port");
            takers.extend(self.at_ports(service, port, "port", is_ipv4));
        }
        let is_nodes = (self.nodes.iter()).any(|node| addresses_of_node(node).contains(&address));
        if is_nodes {
            let with_node_ports = translated
                .iter()
                .filter(|service| matches!(type_of(service), "NodePort" | "LoadBalancer"));
            for service in with_node_ports {
                is_port_of_service |= has_port(service, port, "nodePort");
                takers.extend(self.at_ports(service, port, "nodePort", is_ipv4));
            }
        }
        let is_somebodys = is_nodes || self.pod_at(address).is_some();
        let is_virtual = translated.iter().any(|service| has_it(&service));
        if is_port_of_service || (is_virtual && !is_somebodys) {
            Way::Service(takers)
        } else {
            Way::Straight
        }
    }

    fn at_ports(
        &self,
        service: &Value,
        port: Option<Port>,
        key: &str,
        is_ipv4: bool,
    ) -> BTreeSet<Taker> {
        (ports(service).iter())
            .filter(|entry| port.is_some() && number_of(entry, key) == port)
            .flat_map(|entry| self.behind(service, Some(entry), is_ipv4))
            .collect()
    }

    /// All ends behind a port of a Service, or behind all of a headless one.
    fn behind(&self, service: &Value, port: Option<&Value>, is_ipv4: bool) -> BTreeSet<Taker> {
        if is_external_name(service) {
            return BTreeSet::new();
        }
        let slices: Vec<&Value> = self
            .slices
            .iter()
            .filter(|slice| namespace_of(slice) == namespace_of(service))
            .filter(|slice| {
                let name = (
                    "kubernetes.io/service-name".to_owned(),
                    name_of(service).to_owned(),
                );
                labels_of(slice).contains(&name)
            })
            .collect();
        // Whoever writes slices says who takes connections; labels then say nothing.
        if !slices.is_empty() {
            return self.in_slices(&slices, port, is_ipv4);
        }
        let Some(Value::Mapping(selector)) =
            field(service, "spec").and_then(|spec| field(spec, "selector"))
        else {
            return BTreeSet::new();
        };
        let wanted: Vec<(String, String)> = selector
            .iter()
            .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned())))
            .collect();
        let pods = self.pods.iter().filter(|pod| {
            let labels = labels_of(pod);
            namespace_of(pod) == namespace_of(service)
                && !is_finished(pod)
                && !wanted.is_empty()
                && wanted.iter().all(|pair| labels.contains(pair))
        });
        pods.filter_map(|pod| {
            let port = match port {
                None => None,
                Some(port) => Some(target(port, pod)?),
            };
            let mut own = addresses_of_pod(pod);
            if own.is_empty() && is_host_network(pod) {
                let name = node_name(pod);
                let mut nodes = self.nodes.iter();
                let node = nodes.find(|node| Some(name_of(node)) == name);
                own = node.map(addresses_of_node).unwrap_or_default();
            }
            let of_family = own.iter().find(|address| address.is_ipv4() == is_ipv4);
            if of_family.is_none() && !own.is_empty() {
                return None;
            }
            Some(Taker {
                end: of_family.map_or_else(|| pod_end(pod), |address| self.end_at(*address)),
                address: of_family.copied(),
                port,
            })
        })
        .collect()
    }

    fn in_slices(&self, slices: &[&Value], port: Option<&Value>, is_ipv4: bool) -> BTreeSet<Taker> {
        let family = if is_ipv4 { "IPv4" } else { "IPv6" };
        let mut ready = BTreeSet::new();
        let mut draining = BTreeSet::new();
        for slice in slices {
            if string(slice, "addressType") != Some(family) {
                continue;
            }
            let numbers: Vec<Option<u16>> = match port {
                None => vec![None],
                Some(port) => list(slice, "ports")
                    .iter()
                    .filter(|entry| name_and_protocol(entry) == name_and_protocol(port))
                    .filter_map(|entry| number(entry, "port").map(Some))
                    .collect(),
            };
            for endpoint in list(slice, "endpoints") {
                let says = |key: &str| {
                    field(endpoint, "conditions")
                        .and_then(|conditions| field(conditions, key))
                        .and_then(Value::as_bool)
                };
                let Some(address) = list(endpoint, "addresses")
                    .first()
                    .and_then(|first| first.as_str()?.parse::<IpAddr>().ok())
                else {
                    continue;
                };
                for port in &numbers {
                    let taker = Taker {
                        end: self.end_at(address),
                        address: Some(address),
                        port: *port,
                    };
                    if says("ready") != Some(false) {
                        ready.insert(taker);
                    } else if says("serving") != Some(false) && says("terminating") == Some(true) {
                        draining.insert(taker);
                    }
                }
            }
        }
        // Names lead to what is ready alone; a proxy would rather take what is about to
        // end than nobody.
        if ready.is_empty() && port.is_some() {
            draining
        } else {
            ready
        }
    }

    /// The end that has an address.
    fn end_at(&self, address: IpAddr) -> End {
        if let Some(pod) = self.pod_at(address) {
            return pod_end(pod);
        }
        let mut nodes = self.nodes.iter();
        match nodes.find(|node| addresses_of_node(node).contains(&address)) {
            Some(node) => End::Node {
                name: name_of(node).to_owned(),
            },
            None => End::External,
        }
    }

    fn pod_at(&self, address: IpAddr) -> Option<&Value> {
        self.pods.iter().find(|pod| {
            !is_finished(pod) && !is_host_network(pod) && addresses_of_pod(pod).contains(&address)
        })
    }
}

fn pod_end(pod: &Value) -> End {
    End::Pod {
        namespace: namespace_of(pod).to_owned(),
        name: name_of(pod).to_owned(),
    }
}

fn type_of(service: &Value) -> &str {
    let spec = field(service, "spec");
    spec.and_then(|spec| string(spec, "type"))
        .unwrap_or("ClusterIP")
}

fn is_external_name(service: &Value) -> bool {
    type_of(service) == "ExternalName"
}

/// The entries of `clusterIPs` and `clusterIP`.
fn cluster_addresses(service: &Value) -> Vec<&str> {
    let Some(spec) = field(service, "spec") else {
        return Vec::new();
    };
    let listed = list(spec, "clusterIPs").iter().filter_map(Value::as_str);
    listed.chain(string(spec, "clusterIP")).collect()
}

fn is_headless(service: &Value) -> bool {
    cluster_addresses(service).contains(&"None")
}

/// Returns `true` if a Service is there for clients of a family: its addresses say so, else what
/// it asks for, else it may be either.
fn serves(service: &Value, is_ipv4: bool) -> bool {
    let addresses: Vec<IpAddr> = cluster_addresses(service)
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect();
    if !addresses.is_empty() {
        return addresses.iter().any(|address| address.is_ipv4() == is_ipv4);
    }
    let families = field(service, "spec").map_or(&[][..], |spec| list(spec, "ipFamilies"));
    let wanted = if is_ipv4 { "IPv4" } else { "IPv6" };
    families.is_empty()
        || families
            .iter()
            .any(|family| family.as_str() == Some(wanted))
}

/// The addresses that are translated.
fn virtual_addresses(service: &Value) -> Vec<IpAddr> {
    let external = field(service, "spec").map_or(&[][..], |spec| list(spec, "externalIPs"));
    let balancer = field(service, "status")
        .and_then(|status| field(status, "loadBalancer"))
        .map_or(&[][..], |balancer| list(balancer, "ingress"));
    // One that is a proxy opens connections of its own.
    let balancer = (balancer.iter())
        .filter(|entry| string(entry, "ipMode") != Some("Proxy"))
        .filter_map(|entry| string(entry, "ip"));
    cluster_addresses(service)
        .into_iter()
        .chain(external.iter().filter_map(Value::as_str))
        .chain(balancer)
        .filter_map(|address| address.parse().ok())
        .collect()
}

fn ports(service: &Value) -> &[Value] {
    field(service, "spec").map_or(&[], |spec| list(spec, "ports"))
}

fn has_port(service: &Value, port: Option<Port>, key: &str) -> bool {
    let mut ports = ports(service).iter();
    port.is_some() && ports.any(|entry| number_of(entry, key) == port)
}

fn number(entry: &Value, key: &str) -> Option<u16> {
    let number = field(entry, key)?.as_u64()?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn number_of(entry: &Value, key: &str) -> Option<Port> {
    let protocol = protocol_number(string(entry, "protocol").unwrap_or("TCP"))?;
    Some((protocol, number(entry, key)?))
}

fn name_and_protocol(entry: &Value) -> (&str, &str) {
    (
        string(entry, "name").unwrap_or(""),
        string(entry, "protocol").unwrap_or("TCP"),
    )
}

/// The port of a pod that a Service's port leads to: a number, or that of the first
/// container port of the name and protocol.
fn target(port: &Value, pod: &Value) -> Option<u16> {
    let own = || number(port, "port");
    match field(port, "targetPort") {
        None => own(),
        Some(Value::String(name)) if name.is_empty() => own(),
        Some(Value::Number(zero)) if zero.as_u64() == Some(0) => own(),
        Some(Value::Number(number)) => u16::try_from(number.as_u64()?).ok(),
        Some(Value::String(name)) => {
            let protocol = string(port, "protocol").unwrap_or("TCP");
            let named = super::objects::ports_named(pod, name);
            let first = named.iter().find(|(of, _)| *of == protocol)?;
            u16::try_from(first.1).ok()
        }
        Some(_) => None,
    }
}
