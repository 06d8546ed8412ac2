//! Objects that documents describe, beside rules.

use std::net::IpAddr;

use serde_yaml::Value;

use super::tree::{field, list, string};

pub(super) fn name_of(object: &Value) -> &str {
    field(object, "metadata")
        .and_then(|metadata| string(metadata, "name"))
        .unwrap_or("")
}

pub(super) fn namespace_of(object: &Value) -> &str {
    field(object, "metadata")
        .and_then(|metadata| string(metadata, "namespace"))
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or("default")
}

pub(super) fn labels_of(object: &Value) -> Vec<(String, String)> {
    let Some(Value::Mapping(labels)) =
        field(object, "metadata").and_then(|metadata| field(metadata, "labels"))
    else {
        return Vec::new();
    };
    labels
        .iter()
        .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned())))
        .collect()
}

pub(super) fn is_host_network(pod: &Value) -> bool {
    field(pod, "spec")
        .and_then(|spec| field(spec, "hostNetwork"))
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// Returns `true` if a policy is judged and reported, but not in force.
pub(super) fn is_audit(policy: &Value) -> bool {
    field(policy, "metadata")
        .and_then(|metadata| field(metadata, "annotations"))
        .and_then(|annotations| string(annotations, "cofferdam.dev/mode"))
        == Some("audit")
}

/// Returns `true` if policies deny the pods of a namespace nothing, and are judged all the same.
pub(super) fn is_on_audit(namespace: &Value) -> bool {
    field(namespace, "metadata")
        .and_then(|metadata| field(metadata, "annotations"))
        .and_then(|annotations| string(annotations, "cofferdam.dev/enforcement"))
        == Some("audit")
}

/// Returns `true` if it has ended, and given up its addresses.
pub(super) fn is_finished(pod: &Value) -> bool {
    let phase = field(pod, "status").and_then(|status| string(status, "phase"));
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The node it runs on.
pub(super) fn node_name(pod: &Value) -> Option<&str> {
    string(field(pod, "spec")?, "nodeName")
}

/// The addresses in a node's status.
pub(super) fn addresses_of_node(node: &Value) -> Vec<IpAddr> {
    let addresses = field(node, "status").map_or(&[][..], |status| list(status, "addresses"));
    addresses
        .iter()
        .filter_map(|entry| string(entry, "address")?.parse().ok())
        .collect()
}

/// The addresses in a pod's status.
pub(super) fn addresses_of_pod(pod: &Value) -> Vec<IpAddr> {
    let Some(status) = field(pod, "status") else {
        return Vec::new();
    };
    let listed = list(status, "podIPs").iter();
    listed
        .filter_map(|entry| string(entry, "ip"))
        .chain(string(status, "podIP"))
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// The protocols and numbers of the ports that a pod's containers call `name`.
pub(super) fn ports_named<'v>(pod: &'v Value, name: &str) -> Vec<(&'v str, u64)> {
    let of = |key| field(pod, "spec").map_or(&[][..], |spec| list(spec, key));
    // An init container that is always restarted runs beside the others.
    let beside = of("initContainers")
        .iter()
        .filter(|container| string(container, "restartPolicy") == Some("Always"));
    of("containers")
        .iter()
        .chain(beside)
        .flat_map(|container| list(container, "ports"))
        .filter(|port| string(port, "name") == Some(name))
        .filter_map(|port| {
            let number = field(port, "containerPort")?.as_u64()?;
            Some((string(port, "protocol").unwrap_or("TCP"), number))
        })
        .collect()
}

/// The protocol number of a word that documents have for it.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}
