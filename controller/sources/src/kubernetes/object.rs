//! Objects of the API, stripped to what documents are read for.
//!
//! Everything else is passed over while the answer is read and is never kept: managed
//! fields, annotations of others, containers without ports, conditions. The `spec` of a
//! policy is kept whole, because a key that is not known there is a mistake.

mod id;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::{API_PREFIX, Kind};
use cofferdam_syntax::shared_text::shared;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use id::{Created, Uid};

/// Prefix of our annotations' names.
const OWN_ANNOTATIONS: &str = "cofferdam.dev/";
/// Annotations by which a pod of a file on its node names the id that its runtime knows:
/// the API server gives the mirror of such a pod another one.
const MIRRORED: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];

/// An object whose `spec` is read as `S`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<S> {
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<S>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address_type: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing)]
    uid: Option<String>,
    #[serde(skip_serializing)]
    resource_version: Option<String>,
    #[serde(skip_serializing)]
    creation_timestamp: Option<String>,
    #[serde(skip_serializing)]
    deletion_timestamp: Option<String>,
}

/// The parts of a pod's and a Service's `spec` that are used.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_network: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<Vec<Container>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_containers: Option<Vec<Container>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    service_type: Option<Value>,
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    cluster_ip: Option<Value>,
    #[serde(rename = "clusterIPs", skip_serializing_if = "Option::is_none")]
    cluster_ips: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_families: Option<Value>,
    #[serde(rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    external_ips: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    container_port: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pod_ips: Option<Vec<PodIp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<NodeAddress>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct NodeAddress {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct PodIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<TargetRef>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct TargetRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Value>,
}

/// A document's text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Text<'o, S> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    object: &'o Object<S>,
}

/// An object as it is kept: a document's text, and what is known beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stripped {
    /// Its name: `kubernetes:Pod/shop/db`.
    pub(super) name: Arc<str>,
    /// The text of its document.
    pub(super) text: Arc<[u8]>,
    /// Its id, which no other object ever has.
    pub(super) uid: Uid,
    /// Its version; orders the versions of one kind where it is a number.
    pub(super) version: Option<u64>,
    /// Facts by which pods and nodes that claim one address are told apart.
    pub(super) facts: Option<Facts>,
}

/// Facts about a pod or a node beside its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The node that a pod is bound to.
    pub(super) node: Option<Arc<str>>,
    /// The id by which the runtime knows it, if it is the mirror of a file on its node.
    pub(super) mirrored: Option<Box<str>>,
    /// `true` once it is to be deleted.
    pub(super) is_terminating: bool,
    /// Time of its making, RFC 3339 in UTC.
    pub(super) created: Created,
    /// Addresses that are its own; none of a finished pod, or of one in its node's network.
    pub(super) addresses: Box<[IpAddr]>,
}

/// Returns the name that stands for an object in place of a file's.
pub(super) fn name_of(kind: Kind, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{API_PREFIX}{kind}/{namespace}/{name}"),
        None => format!("{API_PREFIX}{kind}/{name}"),
    }
}

impl Object<Spec> {
    /// Leaves out what no document of this kind is read for.
    fn strip(&mut self) {
        let Some(spec) = &mut self.spec else {
            return;
        };
        if let Some(containers) = &mut spec.init_containers {
            containers.retain(|one| one.restart_policy.as_deref() == Some("Always"));
        }
        for containers in [&mut spec.containers, &mut spec.init_containers] {
            let Some(all) = containers else {
                continue;
            };
            for container in all.iter_mut() {
                if let Some(ports) = &mut container.ports {
                    ports.retain(|port| port.name.as_ref().is_some_and(|name| !name.is_empty()));
                }
            }
            all.retain(|one| one.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
            if all.is_empty() {
                *containers = None;
            }
        }
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        let spec = self.spec.as_ref();
        let is_of_node = spec.is_some_and(|spec| spec.host_network == Some(true));
        let Some(status) = self.status.as_ref().filter(|_| !is_of_node) else {
            return Vec::new();
        };
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Vec::new();
        }
        let listed = status.pod_ips.iter().flatten().map(|one| &one.ip);
        let of_node = status.addresses.iter().flatten().filter(|one| {
            // Names stand in the same list.
            matches!(one.kind.as_deref(), Some("InternalIP" | "ExternalIP"))
        });
        let of_node = of_node.map(|one| &one.address);
        let all = listed.chain([&status.pod_ip]).chain(of_node).flatten();
        let mut addresses: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    fn facts(&self) -> Facts {
        let metadata = &self.metadata;
        let annotation = |key: &&str| metadata.annotations.as_ref()?.get(*key).cloned();
        Facts {
            node: (self.spec.as_ref())
                .and_then(|spec| spec.node_name.as_deref())
                .filter(|node| !node.is_empty())
                .map(shared),
            mirrored: MIRRORED.iter().find_map(annotation).map(Into::into),
            is_terminating: metadata.deletion_timestamp.is_some(),
            created: Created::new(metadata.creation_timestamp.as_deref().unwrap_or_default()),
            addresses: self.own_addresses().into(),
        }
    }
}

impl<S: Serialize> Object<S> {
    fn stripped(mut self, kind: Kind, facts: Option<Facts>) -> Stripped {
        if kind.is_policy() {
            // What others have found out about it.
            self.status = None;
        }
        let metadata = &mut self.metadata;
        let mut annotations = metadata.annotations.take().unwrap_or_default();
        annotations.retain(|key, _| key.starts_with(OWN_ANNOTATIONS));
        if !annotations.is_empty() {
            metadata.annotations = Some(annotations);
        }
        let version = metadata.resource_version.take();
        let uid = Uid::new(&metadata.uid.take().unwrap_or_default());
        let text = Text {
            api_version: kind.api_version(),
            kind: kind.as_str(),
            object: &self,
        };
        Stripped {
            name: name_of(
                kind,
                self.metadata.namespace.as_deref(),
                &self.metadata.name,
            )
            .into(),
            // In as much memory as it needs: thousands are held until a list is whole.
            text: serde_json::to_vec(&text)
                .expect("text, numbers and lists are JSON")
                .into(),
            uid,
            version: version.and_then(|version| version.parse().ok()),
            facts,
        }
    }
}

/// A page of a list of any kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<O> {
    /// Metadata of the whole list.
    pub(super) metadata: PageMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<O>,
}

/// Metadata of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version from which to watch.
    #[serde(default)]
    pub(super) resource_version: String,
    /// The next page's token; absent or empty at the end.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// Kinds of objects, by how their `spec` is read.
pub(super) trait Read: DeserializeOwned + Clone + Send + 'static {
    /// Returns the version that the server gives it.
    fn version(&self) -> Option<&str>;

    /// Strips an object of this kind.
    fn strip_to(self, kind: Kind) -> Stripped;
}

impl Read for Object<Spec> {
    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    fn strip_to(mut self, kind: Kind) -> Stripped {
        let facts = matches!(kind, Kind::Pod | Kind::Node).then(|| self.facts());
        self.strip();
        self.stripped(kind, facts)
    }
}

impl Read for Object<Value> {
    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    fn strip_to(self, kind: Kind) -> Stripped {
        self.stripped(kind, None)
    }
}

impl<O: Read> Page<O> {
    /// Strips all objects of the page.
    pub(super) fn strip_to(self, kind: Kind) -> (PageMetadata, Vec<Stripped>) {
        let items = self.items.into_iter().map(|one| one.strip_to(kind));
        (self.metadata, items.collect())
    }
}

/// Returns the text of a pod's or a node's document without some of its addresses.
pub(super) fn without_addresses(kind: Kind, text: &[u8], withheld: &[IpAddr]) -> Arc<[u8]> {
    let mut object: Object<Spec> =
        serde_json::from_slice(text).expect("what was written here is read here");
    let is_withheld = |ip: &Option<String>| {
        let address = ip.as_ref().and_then(|ip| ip.parse().ok());
        address.is_some_and(|address| withheld.contains(&address))
    };
    if let Some(status) = &mut object.status {
        if let Some(listed) = &mut status.pod_ips {
            listed.retain(|one| !is_withheld(&one.ip));
        }
        if is_withheld(&status.pod_ip) {
            status.pod_ip = None;
        }
        if let Some(listed) = &mut status.addresses {
            listed.retain(|one| !is_withheld(&one.address));
        }
    }
    object.stripped(kind, None).text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stripped<O: Read>(kind: Kind, object: Value) -> Stripped {
        let object: O = serde_json::from_value(object).unwrap();
        object.strip_to(kind)
    }

    fn pod() -> Value {
        json!({
            "metadata": {
                "name": "db", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "db"},
                "annotations": {"kubernetes.io/config.hash": "h", "other": "secret"},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {
                "nodeName": "n1",
                "serviceAccountName": "x",
                "containers": [
                    {"name": "a", "env": [{"name": "P", "value": "secret"}],
                     "ports": [{"name": "serve", "containerPort": 80}, {"containerPort": 81}]},
                    {"name": "b"},
                ],
                "initContainers": [{"name": "c", "ports": [{"name": "i", "containerPort": 1}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1",
                       "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "10.9.0.1"},
        })
    }

    #[test]
    fn a_pod_keeps_what_is_used_and_no_more() {
        let kept = stripped::<Object<Spec>>(Kind::Pod, pod());
        assert_eq!(&*kept.name, "kubernetes:Pod/shop/db");
        let text: Value = serde_json::from_slice(&kept.text).unwrap();
        assert_eq!(
            text,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
                "spec": {"nodeName": "n1",
                         "containers": [{"ports": [{"name": "serve", "containerPort": 80}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1",
                           "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
            })
        );
        let facts = kept.facts.unwrap();
        assert_eq!(facts.addresses.len(), 2);
        assert_eq!(facts.mirrored.as_deref(), Some("h"));
        assert_eq!((kept.uid, kept.version), (Uid::new("u1"), Some(7)));
        let less = without_addresses(Kind::Pod, &kept.text, &["10.0.0.1".parse().unwrap()]);
        let less: Value = serde_json::from_slice(&less).unwrap();
        assert_eq!(
            less["status"],
            json!({"phase": "Running", "podIPs": [{"ip": "fd00::1"}]})
        );
        assert_eq!(less["spec"], text["spec"]);
    }

    #[test]
    fn pods_that_have_ended_or_are_in_their_nodes_network_claim_no_address() {
        for (pointer, value) in [
            ("/status/phase", json!("Succeeded")),
            ("/status/phase", json!("Failed")),
            ("/spec/hostNetwork", json!(true)),
        ] {
            let mut pod = pod();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[key] = value;
            let kept = stripped::<Object<Spec>>(Kind::Pod, pod);
            assert!(kept.facts.unwrap().addresses.is_empty(), "{pointer}");
        }
    }

    #[test]
    fn the_spec_of_a_policy_is_kept_whole() {
        let policy = json!({
            "metadata": {"name": "p", "annotations": {"cofferdam.dev/mode": "audit", "x": "y"}},
            "spec": {"podSelektor": {}},
            "status": {"conditions": []},
        });
        let kept = stripped::<Object<Value>>(Kind::ClusterNetworkPolicy, policy);
        let text: Value = serde_json::from_slice(&kept.text).unwrap();
        assert_eq!(
            text,
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": "p", "annotations": {"cofferdam.dev/mode": "audit"}},
                "spec": {"podSelektor": {}},
            })
        );
        assert_eq!(&*kept.name, "kubernetes:ClusterNetworkPolicy/p");
    }
}
