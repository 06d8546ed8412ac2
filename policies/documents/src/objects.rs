//! `Namespace`, `Pod` and `Node`: what policies are about.
//!
//! Read leniently, for the documents come from elsewhere and mostly speak of other
//! things: only what matters here is looked at, and everything else passes. What
//! is looked at must be right.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use cofferdam_inventory::{NamedPort, Node as ClusterNode, ObjectName, Protocol, Workload};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::shared_text::shared;
use cofferdam_syntax::yaml::{Node, Value};

use super::hints::nearest;
use super::metadata;
use super::reader::{Fields, Reader, Shown};

/// Reads a `Node`.
pub(super) fn node(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    metadata: Fields<'_, '_>,
) -> ClusterNode {
    let labels = metadata::labels(reader, metadata);
    let mut addresses = Vec::new();
    let status = document
        .get("status")
        .and_then(|node| reader.mapping(node, "`status`"));
    let list = status
        .and_then(|status| status.get("addresses"))
        .and_then(|node| reader.list(node, "`status.addresses`"))
        .unwrap_or_default();
    for item in list {
        let Some(fields) = reader.mapping(item, "an address") else {
            continue;
        };
        // Host and DNS names stand in the same list.
        let kind = fields
            .get("type")
            .and_then(|node| reader.string(node, "`type`"));
        if let Some("InternalIP" | "ExternalIP") = kind
            && let Some(address) = fields.get("address").and_then(|node| address(reader, node))
        {
            addresses.push(address);
        }
    }
    ClusterNode {
        labels,
        addresses: each_once(addresses),
    }
}

/// Reads a `Pod`.
pub(super) fn pod(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    metadata: Fields<'_, '_>,
    name: ObjectName,
) -> Workload {
    let labels = metadata::labels(reader, metadata);
    let spec = document
        .get("spec")
        .and_then(|node| reader.mapping(node, "`spec`"));
    let node = spec.and_then(|spec| spec.get("nodeName")).and_then(|node| {
        let name = reader.string(node, "`spec.nodeName`")?;
        // Empty until the pod is scheduled.
        if name.is_empty() {
            return None;
        }
        reader
            .check_name(
                node.mark,
                Code::Name,
                "the node's name",
                name,
                names::subdomain,
            )
            .then(|| shared(name))
    });
    let host_network = spec
        .and_then(|spec| spec.get("hostNetwork"))
        .and_then(|node| reader.boolean(node, "`spec.hostNetwork`"))
        .unwrap_or(false);
    let ports = spec.map_or_else(Vec::new, |spec| ports(reader, spec));
    let status = document
        .get("status")
        .and_then(|node| reader.mapping(node, "`status`"));
    let finished = status
        .and_then(|status| status.get("phase"))
        .and_then(|node| reader.string(node, "`status.phase`"))
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
    let addresses = status.map_or_else(Vec::new, |status| addresses(reader, status));
    Workload {
        name,
        labels,
        node,
        host_network,
        finished,
        addresses,
        ports,
    }
}

/// The named ports of all containers, in their order, each once: where two have one
/// name, the first is a Service's. Of the init containers
/// those count that are restarted and so run beside the others.
fn ports(reader: &mut Reader, spec: Fields<'_, '_>) -> Vec<NamedPort> {
    let mut containers = Vec::new();
    for key in ["containers", "initContainers"] {
        let listed = spec
            .get(key)
            .and_then(|node| reader.list(node, &format!("`spec.{key}`")))
            .unwrap_or_default();
        let listed: Vec<_> = listed
            .into_iter()
            .filter_map(|node| reader.mapping(node, "a container"))
            .collect();
        containers.extend(
            listed
                .into_iter()
                .filter(|container| key == "containers" || is_restarted(*container)),
        );
    }
    let mut named = Vec::new();
    for container in containers {
        let ports = container
            .get("ports")
            .and_then(|node| reader.list(node, "`ports`"))
            .unwrap_or_default();
        for port in ports {
            if let Some(port) = reader
                .mapping(port, "a port")
                .and_then(|port| named_port(reader, port))
            {
                named.push(port);
            }
        }
    }
    each_once(named)
}

fn is_restarted(container: Fields<'_, '_>) -> bool {
    container
        .get("restartPolicy")
        .is_some_and(|node| matches!(&node.value, Value::Text(text) if text == "Always"))
}

/// A port, if it has a name.
fn named_port(reader: &mut Reader, port: Fields<'_, '_>) -> Option<NamedPort> {
    let node = port.get("name")?;
    let name = reader.string(node, "`name`")?;
    if name.is_empty() {
        return None;
    }
    let valid = reader.check_name(
        node.mark,
        Code::Name,
        "the port's name",
        name,
        names::port_name,
    );
    let protocol = match port.get("protocol") {
        None => Some(Protocol::Tcp),
        Some(node) => protocol(reader, node),
    };
    let node = reader.required(port, "containerPort")?;
    let number = port_number(reader, node, "`containerPort`");
    valid.then_some(NamedPort {
        name: Box::from(name),
        protocol: protocol?,
        number: number?,
    })
}

/// `status.podIPs`, and `status.podIP` where that is all there is.
fn addresses(reader: &mut Reader, status: Fields<'_, '_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let list = status
        .get("podIPs")
        .and_then(|node| reader.list(node, "`status.podIPs`"))
        .unwrap_or_default();
    let listed: Vec<&Node<'_>> = list
        .into_iter()
        .filter_map(|item| {
            reader
                .mapping(item, "an entry of `status.podIPs`")?
                .get("ip")
        })
        .collect();
    for node in listed.into_iter().chain(status.get("podIP")) {
        addresses.extend(address(reader, node));
    }
    each_once(addresses)
}

/// The items without those that stood before, in their order, and without room for more. There
/// may be any number of them.
pub(super) fn each_once<T: Clone + Eq + Hash>(mut items: Vec<T>) -> Vec<T> {
    /// So many are compared sooner than hashed.
    const FEW: usize = 8;
    if items.len() <= FEW {
        let mut kept = 0;
        for at in 0..items.len() {
            if !items[..kept].contains(&items[at]) {
                items.swap(kept, at);
                kept += 1;
            }
        }
        items.truncate(kept);
    } else {
        let mut seen = HashSet::with_capacity(items.len());
        items.retain(|item| seen.insert(item.clone()));
    }
    items.shrink_to_fit();
    items
}

/// Reads an address; none is empty text, as an API server has it until there is one.
pub(super) fn address(reader: &mut Reader, node: &Node<'_>) -> Option<IpAddr> {
    let text = reader.string(node, "an address")?;
    if text.is_empty() {
        return None;
    }
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            reader.error(
                node.mark,
                Code::Address,
                format!("`{}` is not an IPv4 or IPv6 address", Shown(text)),
            );
            None
        }
    }
}

/// Reads `TCP`, `UDP` or `SCTP`.
pub(super) fn protocol(reader: &mut Reader, node: &Node<'_>) -> Option<Protocol> {
    let text = reader.string(node, "`protocol`")?;
    let protocol = Protocol::from_name(text);
    if protocol.is_none() {
        let hint = match nearest(text, &["TCP", "UDP", "SCTP"]) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "one of TCP, UDP, SCTP; to cover other protocols leave `ports` out".to_owned(),
        };
        reader.error_hint(
            node.mark,
            Code::Protocol,
            format!("protocol `{}` is not known", Shown(text)),
            hint,
        );
    }
    protocol
}

/// Reads a port number, 1 to 65535.
pub(super) fn port_number(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<u16> {
    let number = reader.integer(node, what)?;
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    if port.is_none() {
        reader.error(
            node.mark,
            Code::Port,
            format!("{what} must be between 1 and 65535, not {number}"),
        );
    }
    port
}
