//! Ways in from outside the cluster, of the text of documents: Services that have ports on
//! nodes or at load balancers, Ingresses, and routes of the Gateway API.
//!
//! Read leniently: what is wrong in a kind that no policy is made of is passed over.

use cofferdam_inventory::ObjectName;
use cofferdam_syntax::yaml::{self, Node, Value};

/// The kind of a way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DoorKind {
    /// A Service with ports on every node.
    NodePort,
    /// A Service behind a load balancer.
    LoadBalancer,
    /// A Service with external addresses.
    ExternalAddress,
    /// An Ingress.
    Ingress,
    /// A route of the Gateway API.
    Route,
}

impl DoorKind {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodePort => "node_port",
            Self::LoadBalancer => "load_balancer",
            Self::ExternalAddress => "external_address",
            Self::Ingress => "ingress",
            Self::Route => "route",
        }
    }
}

/// A way in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// Its kind.
    pub kind: DoorKind,
    /// The document.
    pub name: ObjectName,
    /// The Service that it leads to.
    pub service: ObjectName,
}

/// The ways in that a file describes.
#[must_use]
pub fn read_doors(bytes: &[u8]) -> Vec<Door> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    let mut doors = Vec::new();
    if text.len() <= yaml::MAX_TEXT {
        for node in yaml::parse(text).into_iter().flatten() {
            document(&node, &mut doors);
        }
    }
    doors.sort();
    doors.dedup();
    doors
}

fn document(node: &Node<'_>, doors: &mut Vec<Door>) {
    if let Some(items) = get(node, "items") {
        list(items).for_each(|item| document(item, doors));
        return;
    }
    let word = |key: &str| get(node, key).and_then(text).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let Some(name) = path(node, &["metadata", "name"]).and_then(text) else {
        return;
    };
    let namespace = path(node, &["metadata", "namespace"])
        .and_then(text)
        .unwrap_or("default");
    let name = ObjectName::new(namespace, name);
    let mut add = |kind: DoorKind, namespace: &str, service: &str| {
        doors.push(Door {
            kind,
            name: name.clone(),
            service: ObjectName::new(namespace, service),
        });
    };
    match (group, kind) {
        ("", "Service") => {
            match path(node, &["spec", "type"]).and_then(text) {
                Some("NodePort") => add(DoorKind::NodePort, namespace, &name.name),
                Some("LoadBalancer") => add(DoorKind::LoadBalancer, namespace, &name.name),
                _ => {}
            }
            let addresses = path(node, &["spec", "externalIPs"]);
            if addresses.is_some_and(|addresses| list(addresses).next().is_some()) {
                add(DoorKind::ExternalAddress, namespace, &name.name);
            }
        }
        ("networking.k8s.io", "Ingress") => {
            let service = ["service", "name"];
            let default = path(node, &["spec", "defaultBackend"]);
            let rules = path(node, &["spec", "rules"]).into_iter().flat_map(list);
            let paths = rules
                .filter_map(|rule| path(rule, &["http", "paths"]))
                .flat_map(list);
            let backends = paths.filter_map(|path| get(path, "backend")).chain(default);
            for service in backends.filter_map(|backend| path(backend, &service).and_then(text)) {
                add(DoorKind::Ingress, namespace, service);
            }
        }
        ("gateway.networking.k8s.io", kind) if kind.ends_with("Route") => {
            let rules = path(node, &["spec", "rules"]).into_iter().flat_map(list);
            let backends = rules
                .filter_map(|rule| get(rule, "backendRefs"))
                .flat_map(list);
            for backend in backends {
                let word = |key: &str| get(backend, key).and_then(text);
                let is_service = word("kind").is_none_or(|kind| kind == "Service");
                if let Some(service) = word("name").filter(|_| is_service) {
                    add(
                        DoorKind::Route,
                        word("namespace").unwrap_or(namespace),
                        service,
                    );
                }
            }
        }
        _ => {}
    }
}

/// The value under a key.
fn get<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Node<'t>> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let is_key = |node: &Node<'_>| text(node) == Some(key);
    let entry = entries.iter().find(|entry| is_key(&entry.key));
    entry.map(|entry| &entry.value)
}

fn path<'n, 't>(node: &'n Node<'t>, keys: &[&str]) -> Option<&'n Node<'t>> {
    keys.iter().try_fold(node, |node, key| get(node, key))
}

fn text<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn list<'n, 't>(node: &'n Node<'t>) -> impl Iterator<Item = &'n Node<'t>> {
    let items: &[Node<'t>] = match &node.value {
        Value::List(items) => items,
        _ => &[],
    };
    items.iter()
}
