//! `Service` and `EndpointSlice`: where connections end that begin at virtual addresses.
//!
//! Read leniently, as the other objects that policies are about: only what a verdict
//! can depend on is looked at, and that must be right. Defaults are those of an API
//! server, so that what was written by hand means what it would mean there.

use std::net::IpAddr;

use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::{
    Endpoint, EndpointPort, EndpointSlice, Families, ObjectName, Protocol, Service, ServiceKind,
    ServicePort, TargetPort, family_of,
};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{Node, Value};
use cofferdam_verdict::address::Family;

use super::objects::{address, each_once, port_number, protocol};
use super::reader::{Fields, Reader};

/// Most ports of a Service or a slice; that of slices upstream.
pub const MAX_SERVICE_PORTS: usize = 20_000;
/// Most endpoints of a slice, as upstream has it.
pub const MAX_ENDPOINTS: usize = 1_000;
/// Most addresses of an endpoint, as upstream has it, and of one kind of a Service.
pub const MAX_ENDPOINT_ADDRESSES: usize = 100;

/// The label by which a slice says whose it is.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The `clusterIP` of a Service that has none and will get none.
const NO_ADDRESS: &str = "None";

/// Reads a `Service`.
pub(super) fn service(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    name: ObjectName,
) -> Option<Service> {
    let node = reader.required(document, "spec")?;
    let spec = reader.mapping(node, "`spec`")?;
    let word = spec
        .get("type")
        .map(|node| (node, reader.string(node, "`spec.type`")));
    let (is_elsewhere, has_node_ports) = match word {
        None | Some((_, None | Some("" | "ClusterIP"))) => (false, false),
        Some((_, Some("NodePort" | "LoadBalancer"))) => (false, true),
        Some((_, Some("ExternalName"))) => (true, false),
        Some((node, Some(other))) => {
            let known = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
            reader.unknown_word(
                node.mark,
                Code::ServiceType,
                "the type of a Service",
                other,
                &known,
            );
            (false, false)
        }
    };
    let cluster = cluster_addresses(reader, spec, has_node_ports);
    let kind = match cluster {
        _ if is_elsewhere => ServiceKind::ExternalName,
        None => ServiceKind::Headless,
        Some(_) => ServiceKind::Virtual,
    };
    let cluster_addresses = cluster.unwrap_or_default();
    let selector: Labels = match spec.get("selector") {
        None => Labels::default(),
        Some(node) => (reader.string_map(node, "`spec.selector`")?.iter())
            .map(|pair| (pair.key, pair.value))
            .collect(),
    };
    let ports = match spec.get("ports") {
        None => Vec::new(),
        Some(node) => reader
            .counted_list(node, "`spec.ports`", 0, MAX_SERVICE_PORTS)?
            .into_iter()
            .filter_map(|item| service_port(reader, item, has_node_ports))
            .collect(),
    };
    let families = match families(reader, spec) {
        _ if !cluster_addresses.is_empty() => {
            cluster_addresses.iter().copied().map(family_of).collect()
        }
        Some(families) => families,
        None => Families::BOTH,
    };
    let mut outside_addresses = Vec::new();
    // Of a Service without an address of its own, proxies translate nothing.
    if kind == ServiceKind::Virtual {
        outside_addresses = external_addresses(reader, spec);
        outside_addresses.extend(balancer_addresses(reader, document));
    }
    Some(Service {
        name,
        kind,
        selector,
        ports,
        cluster_addresses,
        outside_addresses: each_once(outside_addresses),
        families,
    })
}

/// `clusterIPs`, and `clusterIP` where that is all there is; `None` when the Service is
/// headless, and none when it has yet to be given one. `has_node_ports`: its type cannot be
/// without.
fn cluster_addresses(
    reader: &mut Reader,
    spec: Fields<'_, '_>,
    has_node_ports: bool,
) -> Option<Vec<IpAddr>> {
    let is_none = |node: &Node<'_>| matches!(&node.value, Value::Text(text) if text == NO_ADDRESS);
    let list = spec
        .get("clusterIPs")
        .and_then(|node| reader.counted_list(node, "`spec.clusterIPs`", 0, MAX_ENDPOINT_ADDRESSES));
    let mut all = list.unwrap_or_default();
    let first = all.first().copied();
    let own = (spec.get("clusterIP"))
        .filter(|node| !matches!(&node.value, Value::Text(text) if text.is_empty()));
    all.extend(own);
    if all.is_empty() {
        return Some(Vec::new());
    }
    let addresses: Vec<IpAddr> = (all.iter())
        .filter(|node| !is_none(node))
        .filter_map(|node| address(reader, node))
        .collect();
    let without = all.iter().find(|node| is_none(node));
    let is_first = |own: &Node<'_>, first: &Node<'_>| match (&own.value, &first.value) {
        (Value::Text(own), Value::Text(first)) => {
            own == first || own.parse::<IpAddr>().ok() == first.parse().ok()
        }
        _ => true,
    };
    let is_torn = own
        .zip(first)
        .is_some_and(|(own, first)| !is_first(own, first));
    match (without, own) {
        (Some(node), _) if has_node_ports => reader.error_hint(
            node.mark,
            Code::ServiceType,
            "a Service with ports of nodes cannot be without an address".to_owned(),
            "leave `clusterIP` out, or make it of type `ClusterIP`".to_owned(),
        ),
        (_, Some(own)) if is_torn => reader.error(
            own.mark,
            Code::Address,
            "`clusterIP` is not the first of `clusterIPs`".to_owned(),
        ),
        (Some(node), _) if !addresses.is_empty() => reader.error(
            node.mark,
            Code::Address,
            "a Service is without an address, or has some".to_owned(),
        ),
        _ => {}
    }
    without.is_none().then(|| each_once(addresses))
}

/// Reads an address that proxies translate, or translate to. An API server refuses those that
/// are every host's own, and so does this: the node would be meant, behind all hooks.
fn unicast(reader: &mut Reader, node: &Node<'_>) -> Option<IpAddr> {
    let address = address(reader, node)?;
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.segments()[0] & 0xff0f == 0xff02
                || v6.to_ipv4_mapped().is_some()
        }
    };
    if is_local || address.is_unspecified() || address.is_loopback() {
        reader.error(
            node.mark,
            Code::Address,
            format!("{address} is no address of a Service or its endpoints"),
        );
        return None;
    }
    Some(address)
}

/// `ipFamilies`, if they are given.
fn families(reader: &mut Reader, spec: Fields<'_, '_>) -> Option<Families> {
    let node = spec.get("ipFamilies")?;
    let list = reader.list(node, "`spec.ipFamilies`")?;
    let families: Vec<Family> = list
        .into_iter()
        .filter_map(|item| match reader.string(item, "a family")? {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            other => {
                let known = ["IPv4", "IPv6"];
                reader.unknown_word(item.mark, Code::ServiceType, "the family", other, &known);
                None
            }
        })
        .collect();
    (!families.is_empty()).then(|| families.into_iter().collect())
}

fn external_addresses(reader: &mut Reader, spec: Fields<'_, '_>) -> Vec<IpAddr> {
    let list = spec
        .get("externalIPs")
        .and_then(|node| reader.counted_list(node, "`spec.externalIPs`", 0, MAX_ENDPOINT_ADDRESSES))
        .unwrap_or_default()
        .into_iter();
    list.filter_map(|node| unicast(reader, node)).collect()
}

/// The addresses of a load balancer, but for those of one that opens connections of its
/// own to a node's port.
fn balancer_addresses(reader: &mut Reader, document: Fields<'_, '_>) -> Vec<IpAddr> {
    let mut at = Some(document);
    for key in ["status", "loadBalancer"] {
        at = at
            .and_then(|fields| fields.get(key))
            .and_then(|node| reader.mapping(node, &format!("`{key}`")));
    }
    let list = at
        .and_then(|fields| fields.get("ingress"))
        .and_then(|node| {
            let what = "`status.loadBalancer.ingress`";
            reader.counted_list(node, what, 0, MAX_ENDPOINT_ADDRESSES)
        });
    let mut addresses = Vec::new();
    for item in list.unwrap_or_default() {
        let Some(fields) = reader.mapping(item, "an entry of `ingress`") else {
            continue;
        };
        let mode = fields
            .get("ipMode")
            .and_then(|node| reader.string(node, "`ipMode`"));
        if let Some(node) = fields.get("ip").filter(|_| mode != Some("Proxy")) {
            addresses.extend(address(reader, node));
        }
    }
    addresses
}

fn service_port(reader: &mut Reader, item: &Node<'_>, has_node_ports: bool) -> Option<ServicePort> {
    let fields = reader.mapping(item, "a port")?;
    let (name, protocol) = name_and_protocol(reader, fields)?;
    let node = reader.required(fields, "port")?;
    let port = port_number(reader, node, "`port`")?;
    let target = match fields.get("targetPort") {
        None => TargetPort::Number(port),
        // An API server takes these for absent.
        Some(Node {
            value: Value::Integer(0),
            ..
        }) => TargetPort::Number(port),
        Some(Node {
            value: Value::Text(name),
            ..
        }) if name.is_empty() => TargetPort::Number(port),
        Some(
            node @ Node {
                value: Value::Text(name),
                ..
            },
        ) => {
            let what = "the name of the target port";
            reader
                .check_name(node.mark, Code::Name, what, name, names::port_name)
                .then(|| TargetPort::Name(Box::from(name.as_ref())))?
        }
        Some(node) => TargetPort::Number(port_number(reader, node, "`targetPort`")?),
    };
    let node_port = match fields.get("nodePort").filter(|_| has_node_ports) {
        // 0 until it is given one.
        None
        | Some(Node {
            value: Value::Integer(0),
            ..
        }) => None,
        Some(node) => Some(port_number(reader, node, "`nodePort`")?),
    };
    Some(ServicePort {
        name,
        protocol,
        port,
        target,
        node_port,
    })
}

fn name_and_protocol(reader: &mut Reader, fields: Fields<'_, '_>) -> Option<(Box<str>, Protocol)> {
    let name = match fields.get("name") {
        None => "",
        Some(node) => reader.string(node, "`name`")?,
    };
    let protocol = match fields.get("protocol") {
        None => Protocol::Tcp,
        Some(node) => protocol(reader, node)?,
    };
    Some((Box::from(name), protocol))
}

/// Reads an `EndpointSlice`.
pub(super) fn endpoint_slice(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    metadata: Fields<'_, '_>,
    name: &ObjectName,
) -> Option<EndpointSlice> {
    let service = metadata
        .get("labels")
        .and_then(|node| reader.mapping(node, "`metadata.labels`"))
        .and_then(|labels| labels.get(SERVICE_NAME))
        .and_then(|node| reader.string(node, SERVICE_NAME))
        .filter(|name| !name.is_empty())
        .map(Into::into);
    let node = reader.required(document, "addressType")?;
    let family = match reader.string(node, "`addressType`")? {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        // No proxy resolves names.
        "FQDN" => None,
        other => {
            let known = ["IPv4", "IPv6", "FQDN"];
            let what = "the type of addresses";
            reader.unknown_word(node.mark, Code::ServiceType, what, other, &known);
            return None;
        }
    };
    let mut slice = EndpointSlice {
        service,
        ports: Vec::new(),
        endpoints: Vec::new(),
    };
    let Some(family) = family else {
        return Some(slice);
    };
    if let Some(node) = document.get("ports") {
        for item in reader.counted_list(node, "`ports`", 0, MAX_SERVICE_PORTS)? {
            slice.ports.extend(endpoint_port(reader, item));
        }
    }
    if let Some(node) = document.get("endpoints") {
        for item in reader.counted_list(node, "`endpoints`", 0, MAX_ENDPOINTS)? {
            let found = endpoint(reader, item, family, &name.namespace);
            slice.endpoints.extend(found);
        }
    }
    slice.ports.shrink_to_fit();
    slice.endpoints.shrink_to_fit();
    Some(slice)
}

/// A port, unless it is of no number: proxies leave such a port out.
fn endpoint_port(reader: &mut Reader, item: &Node<'_>) -> Option<EndpointPort> {
    let fields = reader.mapping(item, "a port")?;
    let (name, protocol) = name_and_protocol(reader, fields)?;
    let node = fields.get("port")?;
    Some(EndpointPort {
        name,
        protocol,
        port: port_number(reader, node, "`port`")?,
    })
}

fn endpoint(
    reader: &mut Reader,
    item: &Node<'_>,
    family: Family,
    namespace: &str,
) -> Option<Endpoint> {
    let fields = reader.mapping(item, "an endpoint")?;
    let node = reader.required(fields, "addresses")?;
    let first = reader
        .counted_list(node, "`addresses`", 1, MAX_ENDPOINT_ADDRESSES)?
        .into_iter()
        .next()?;
    let address = unicast(reader, first)?;
    if family_of(address) != family {
        reader.error(
            first.mark,
            Code::Address,
            format!("{address} is not of the family that `addressType` says"),
        );
        return None;
    }
    let conditions = match fields.get("conditions") {
        None => None,
        Some(node) => Some(reader.mapping(node, "`conditions`")?),
    };
    let mut condition = |key: &str, unless: bool| match conditions.and_then(|all| all.get(key)) {
        None => Some(unless),
        Some(node) => reader.boolean(node, &format!("`{key}`")),
    };
    // As proxies take what is not said.
    let ready = condition("ready", true)?;
    let serving = condition("serving", true)?;
    let terminating = condition("terminating", false)?;
    let pod = match fields.get("targetRef") {
        None => None,
        Some(node) => target(reader, node, namespace),
    };
    Some(Endpoint {
        address,
        ready,
        draining: serving && terminating,
        pod,
    })
}

/// The pod that an endpoint is, if it is one.
fn target(reader: &mut Reader, node: &Node<'_>, namespace: &str) -> Option<ObjectName> {
    let fields = reader.mapping(node, "`targetRef`")?;
    let mut word = |key: &str| {
        let node = fields.get(key)?;
        reader.string(node, &format!("`{key}`"))
    };
    if word("kind")? != "Pod" {
        return None;
    }
    let name = word("name")?;
    let namespace = word("namespace").unwrap_or(namespace);
    Some(ObjectName::new(namespace, name))
}
