//! An endpoint as the agent remembers it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::{NamedPort, ObjectName, Protocol, Workload};
use cofferdam_protocol::names as runtime;
use cofferdam_protocol::{Attachment, EndpointSpec, Membership, PortSpec};
use cofferdam_syntax::names;
use cofferdam_telemetry::snapshots::NamedEndpoint;
use cofferdam_verdict::endpoint::{MAX_ADDRESSES_V4, MAX_ADDRESSES_V6};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most labels of one endpoint.
const MAX_LABELS: usize = 256;
/// Most named ports of one endpoint.
const MAX_PORTS: usize = 256;

/// Key of an endpoint: a workload's interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub name: String,
    /// The interface, as the workload calls it.
    pub interface: String,
}

impl EndpointId {
    /// The workload.
    #[must_use]
    pub fn workload(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.interface)
    }
}

/// Both ends of an endpoint's link. What it was when the endpoint was added is what
/// it must be for as long as the endpoint is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointLink {
    /// Path of the workload's network namespace.
    pub netns: PathBuf,
    /// Its inode.
    pub netns_inode: u64,
    /// Index of the workload's side in there.
    pub inner_ifindex: u32,
    /// MAC address of the workload's side.
    pub mac: [u8; 6],
    /// Index of the node's side.
    pub host_ifindex: u32,
    /// Name of the node's side.
    pub host_interface: String,
    /// MAC address of the node's side, which tells it from a later link of the same
    /// index.
    pub host_mac: [u8; 6],
}

/// A workload's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its key.
    pub id: EndpointId,
    /// The runtime's id of its container, if the caller knew it.
    #[serde(default)]
    pub container_id: Option<String>,
    /// The network that a plugin added it for.
    #[serde(default)]
    pub member_of: Option<Membership>,
    /// Its link.
    pub link: EndpointLink,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Link-local IPv6 address that stood on the workload's interface when it was added.
    #[serde(default)]
    pub link_local: Option<Ipv6Addr>,
    /// Its labels as the caller said.
    pub labels: BTreeMap<String, String>,
    /// Its named ports as the caller said.
    pub ports: Vec<PortSpec>,
    /// Never repeats on this node.
    pub incarnation: u32,
}

/// Reasons to refuse a call that would add an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// A name breaks its rule.
    #[error("the {what} {text:?} is not valid: {expected}")]
    Name {
        /// Kind of name, for the message.
        what: &'static str,
        /// The name.
        text: String,
        /// The rule.
        expected: String,
    },
    /// A port without a number.
    #[error("the port {name:?} has number 0")]
    PortZero {
        /// Its name.
        name: String,
    },
    /// A protocol that ports are not given for.
    #[error("the protocol {protocol:?} is none of TCP, UDP, SCTP")]
    Protocol {
        /// The protocol.
        protocol: String,
    },
    /// Something comes too often.
    #[error("{what} are more than {max}")]
    TooMany {
        /// Name of the list, for the message.
        what: &'static str,
        /// Most entries of that list.
        max: usize,
    },
    /// An address that cannot be one workload's.
    #[error("{address} cannot be the address of one workload")]
    Address {
        /// The address.
        address: IpAddr,
    },
}

impl SpecError {
    fn name(what: &'static str, text: &str, expected: &dyn fmt::Display) -> Self {
        Self::Name {
            what,
            text: text.to_owned(),
            expected: expected.to_string(),
        }
    }
}

/// Checks what a caller says of an endpoint; nothing of it is believed before.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(spec: &EndpointSpec) -> Result<(), SpecError> {
    let of_runtimes = |what, text: &str, rule: fn(&str) -> Result<(), runtime::NameError>| {
        rule(text).map_err(|expected| SpecError::name(what, text, &expected))
    };
    let name = |what, text: &str, rule: fn(&str) -> Result<(), names::NameError>| {
        rule(text).map_err(|expected| SpecError::name(what, text, &expected))
    };
    of_runtimes("namespace", &spec.namespace, runtime::namespace)?;
    of_runtimes("name", &spec.name, runtime::workload)?;
    of_runtimes("interface", &spec.interface, runtime::interface)?;
    if let Some(id) = &spec.container_id {
        of_runtimes("container id", id, runtime::container_id)?;
    }
    if let Some(member_of) = &spec.member_of {
        of_runtimes("network", &member_of.network, runtime::network)?;
        of_runtimes("interface", &member_of.interface, runtime::interface)?;
    }
    for (what, count, max) in [
        ("labels", spec.labels.len(), MAX_LABELS),
        ("ports", spec.ports.len(), MAX_PORTS),
    ] {
        if count > max {
            return Err(SpecError::TooMany { what, max });
        }
    }
    for (key, value) in &spec.labels {
        name("label key", key, names::label_key)?;
        name("label value", value, names::label_value)?;
    }
    for port in &spec.ports {
        name("port name", &port.name, names::port_name)?;
        if Protocol::from_name(&port.protocol).is_none() {
            return Err(SpecError::Protocol {
                protocol: port.protocol.clone(),
            });
        }
        if port.number == 0 {
            return Err(SpecError::PortZero {
                name: port.name.clone(),
            });
        }
    }
    check_addresses(&spec.addresses)
}

/// Checks the addresses of one endpoint.
///
/// # Errors
/// One that no workload can have, or too many.
pub fn check_addresses(addresses: &[IpAddr]) -> Result<(), SpecError> {
    let wrong = |address: &&IpAddr| {
        let special = match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
        };
        special || address.is_unspecified() || address.is_loopback() || address.is_multicast()
    };
    if let Some(address) = addresses.iter().find(wrong) {
        return Err(SpecError::Address { address: *address });
    }
    let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    for (what, count, max) in [
        ("IPv4 addresses", v4, MAX_ADDRESSES_V4),
        ("IPv6 addresses", addresses.len() - v4, MAX_ADDRESSES_V6),
    ] {
        if count > max {
            return Err(SpecError::TooMany { what, max });
        }
    }
    Ok(())
}

impl Endpoint {
    /// Returns `true` unless the endpoint and a call name different containers. Where one
    /// of them names none, the workload's name says what is meant.
    #[must_use]
    pub fn may_be_of(&self, container_id: Option<&str>) -> bool {
        let own = self.container_id.as_deref();
        own.zip(container_id).is_none_or(|(own, id)| own == id)
    }

    /// Returns `true` if the endpoint belongs to an attachment: to the one that a plugin
    /// added it for, or else to that of its own interface.
    #[must_use]
    pub fn is_of(&self, attachment: &Attachment) -> bool {
        let interface = self.member_of.as_ref().map(|member| &member.interface);
        self.container_id.as_ref() == Some(&attachment.container_id)
            && interface.unwrap_or(&self.id.interface) == &attachment.interface
    }

    /// The workload as the caller described it, with this endpoint's addresses.
    #[must_use]
    pub fn workload(&self, node: &str) -> Workload {
        let mut ports: Vec<NamedPort> = (self.ports.iter())
            .filter_map(|port| {
                Some(NamedPort {
                    name: port.name.as_str().into(),
                    protocol: Protocol::from_name(&port.protocol)?,
                    number: port.number,
                })
            })
            .collect();
        ports.sort();
        ports.dedup();
        Workload {
            name: self.id.workload(),
            labels: self.labels.iter().collect(),
            node: Some(node.into()),
            host_network: false,
            finished: false,
            addresses: self.addresses.clone(),
            ports,
        }
    }

    /// The MAC as people write it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        let bytes = self.link.mac.map(|byte| format!("{byte:02x}"));
        bytes.join(":")
    }
}

impl NamedEndpoint for Endpoint {
    fn key(&self) -> (u32, u32) {
        (self.link.host_ifindex, self.incarnation)
    }

    fn owner(&self) -> ObjectName {
        self.id.workload()
    }

    fn labels(&self) -> Labels {
        self.labels.iter().collect()
    }
}

#[cfg(test)]
impl Endpoint {
    /// An endpoint of a workload in namespace `x`, on interface 3 of the node.
    pub(crate) fn example(name: &str, interface: &str, address: &str) -> Self {
        Self {
            id: EndpointId {
                namespace: "x".to_owned(),
                name: name.to_owned(),
                interface: interface.to_owned(),
            },
            container_id: None,
            member_of: None,
            link: EndpointLink {
                netns: "/n".into(),
                netns_inode: 1,
                inner_ifindex: 2,
                mac: [2; 6],
                host_ifindex: 3,
                host_interface: "v".to_owned(),
                host_mac: [4; 6],
            },
            addresses: vec![address.parse().unwrap()],
            link_local: None,
            labels: BTreeMap::from([("from".to_owned(), "call".to_owned())]),
            ports: Vec::new(),
            incarnation: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> EndpointSpec {
        EndpointSpec {
            netns: PathBuf::from("/proc/1/ns/net"),
            interface: "eth0".to_owned(),
            namespace: "x".to_owned(),
            name: "a.b".to_owned(),
            container_id: Some("0a1b".to_owned()),
            member_of: None,
            pod: None,
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ports: vec![PortSpec {
                name: "serve".to_owned(),
                protocol: "TCP".to_owned(),
                number: 80,
            }],
        }
    }

    #[test]
    fn what_a_caller_says_is_checked() {
        check(&spec()).unwrap();
        type Change = fn(&mut EndpointSpec);
        let wrong: [Change; 14] = [
            |spec| spec.namespace = "../x".to_owned(),
            |spec| spec.name = "a\nb".to_owned(),
            |spec| spec.interface = "a/b".to_owned(),
            |spec| spec.container_id = Some("../a".to_owned()),
            |spec| spec.container_id = Some("a".repeat(runtime::MAX_CONTAINER_ID + 1)),
            |spec| spec.interface = "sixteen-letters-".to_owned(),
            |spec| drop(spec.labels.insert("a b".to_owned(), String::new())),
            |spec| drop(spec.labels.insert("a".to_owned(), "\u{430}".to_owned())),
            |spec| spec.ports[0].number = 0,
            |spec| spec.ports[0].protocol = "tcp".to_owned(),
            |spec| spec.ports[0].name = "no name".to_owned(),
            |spec| spec.addresses = vec!["127.0.0.1".parse().unwrap()],
            |spec| spec.addresses = vec!["::ffff:10.0.0.1".parse().unwrap()],
            |spec| spec.addresses = (1..=9).map(|n| IpAddr::from([10, 0, 0, n])).collect(),
        ];
        for (index, change) in wrong.into_iter().enumerate() {
            let mut spec = spec();
            change(&mut spec);
            assert!(check(&spec).is_err(), "{index}");
        }
    }

    #[test]
    fn records_name_an_endpoint_by_its_link_and_incarnation() {
        let mut endpoint = Endpoint::example("a", "eth0", "10.0.0.1");
        (endpoint.link.host_ifindex, endpoint.incarnation) = (7, 3);
        assert_eq!(endpoint.key(), (7, 3));
        assert_eq!(endpoint.owner(), ObjectName::new("x", "a"));
        assert_eq!(endpoint.labels(), [("from", "call")].into_iter().collect());
    }
}
