//! Ways into a cluster: Ingresses, routes of gateways, and Services with ports on nodes.

use cofferdam_syntax::diagnostic::Place;
use cofferdam_syntax::yaml::{Node, Value};

use super::context::Entrance;
use super::context::group;
use super::reader::Fields;

/// Reads what a document leads to; `None` if it leads nobody in.
pub(super) fn entrance(
    (api_version, kind): (&str, &str),
    fields: Fields<'_, '_>,
    place: &Place,
) -> Option<Entrance> {
    let is_route = group(api_version) == "gateway.networking.k8s.io"
        && ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"].contains(&kind);
    let is_ingress =
        ["networking.k8s.io", "extensions"].contains(&group(api_version)) && kind == "Ingress";
    let is_service = api_version == "v1" && kind == "Service";
    if !is_route && !is_ingress && !is_service {
        return None;
    }
    let metadata = fields.get("metadata").and_then(Fields::of)?;
    let name = text(metadata.get("name"))?;
    let namespace = text(metadata.get("namespace")).unwrap_or("default");
    let spec = fields.get("spec").and_then(Fields::of)?;
    let mut backends = Vec::new();
    if is_service {
        if !matches!(text(spec.get("type")), Some("LoadBalancer" | "NodePort")) {
            return None;
        }
        for port in list(spec.get("ports")) {
            let number = Fields::of(port).and_then(|port| number(port.get("port")));
            backends.push((namespace.into(), name.into(), number));
        }
    } else if is_ingress {
        backends.extend(
            spec.get("defaultBackend")
                .and_then(|one| of_ingress(one, namespace)),
        );
        for rule in list(spec.get("rules")).iter().filter_map(Fields::of) {
            let http = rule.get("http").and_then(Fields::of);
            let paths = http.and_then(|http| http.get("paths"));
            let paths = list(paths).iter().filter_map(Fields::of);
            let backend = paths.filter_map(|path| of_ingress(path.get("backend")?, namespace));
            backends.extend(backend);
        }
    } else {
        for rule in list(spec.get("rules")).iter().filter_map(Fields::of) {
            let of_rule = list(rule.get("backendRefs")).iter().filter_map(Fields::of);
            backends.extend(of_rule.filter_map(|backend| {
                let is_service = text(backend.get("kind")).is_none_or(|kind| kind == "Service");
                let name = text(backend.get("name")).filter(|_| is_service)?;
                let namespace = text(backend.get("namespace")).unwrap_or(namespace);
                Some((namespace.into(), name.into(), number(backend.get("port"))))
            }));
        }
    }
    Some(Entrance {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        place: place.clone(),
        is_forwarded: !is_service,
        backends,
    })
}

fn of_ingress(node: &Node<'_>, namespace: &str) -> Option<(Box<str>, Box<str>, Option<u16>)> {
    let backend = Fields::of(node)?;
    let service = backend.get("service").and_then(Fields::of)?;
    let port = service
        .get("port")
        .and_then(Fields::of)
        .and_then(|port| number(port.get("number")));
    Some((namespace.into(), text(service.get("name"))?.into(), port))
}

fn text<'n>(node: Option<&'n Node<'_>>) -> Option<&'n str> {
    match node.map(|node| &node.value) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

fn number(node: Option<&Node<'_>>) -> Option<u16> {
    match node.map(|node| &node.value) {
        Some(Value::Integer(number)) => u16::try_from(*number).ok(),
        _ => None,
    }
}

fn list<'n, 't>(node: Option<&'n Node<'t>>) -> &'n [Node<'t>] {
    match node.map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}
