//! A small cluster that changes, and the documents it is written as.
//!
//! It knows names, labels, ports and the texts of policies, and nothing of what they
//! mean. Addresses are given from outside, when the documents are written: a text
//! says `@4(y/b)` and `@6(y/b)` for those of a pod or node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::firewall::{NODE, Pod};
use crate::traffic::Probe;

/// Every way in which pods of [`Cluster::trio`] are tried.
pub const TRIO_PROBES: [Probe; 6] = [
    Probe::Tcp(80),
    Probe::Tcp(81),
    Probe::Udp(80),
    Probe::Udp(81),
    Probe::Sctp(80),
    Probe::Sctp(81),
];

/// Every way in which pods of [`Cluster::quarters`] are tried.
pub const QUARTERS_PROBES: [Probe; 6] = [
    Probe::Tcp(80),
    Probe::Tcp(8080),
    Probe::Udp(53),
    Probe::Udp(5353),
    Probe::Sctp(9003),
    Probe::Sctp(9005),
];

/// Every way in which nodes of [`Cluster::quarters`] are tried.
pub const NODE_PROBES: [Probe; 6] = [
    Probe::Tcp(34345),
    Probe::Tcp(34346),
    Probe::Udp(34347),
    Probe::Udp(34348),
    Probe::Sctp(34349),
    Probe::Sctp(34350),
];

/// The other node.
pub const OTHER_NODE: &str = "n2";

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod: `namespace/name`.
    Pod(String),
    /// A node: `node/name`.
    Node(&'static str),
    /// A host that is neither: `external/name`.
    External(&'static str),
}

impl End {
    /// Returns `true` if it is a pod.
    pub fn is_pod(&self) -> bool {
        matches!(self, Self::Pod(_))
    }

    /// Namespace and name of a pod.
    pub fn pod(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pod(name) => name.split_once('/'),
            _ => None,
        }
    }

    /// A pod's namespace; nothing for other ends.
    pub fn namespace(&self) -> &str {
        self.pod().map_or("", |(namespace, _)| namespace)
    }

    /// A pod's name in its namespace; nothing for other ends.
    pub fn name(&self) -> &str {
        self.pod().map_or("", |(_, name)| name)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.write_str(name),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::External(name) => write!(f, "external/{name}"),
        }
    }
}

/// Labels, each written `key=value`.
pub type Labels = Vec<String>;

/// Something that happens in a cluster.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy is made, or one of its name replaced.
    Apply(Policy),
    /// A policy is deleted: `namespace/name`, or `name`.
    Delete(String),
    /// A namespace is made, or its labels replaced.
    Namespace(String, Labels),
    /// A namespace is deleted with its pods and policies.
    DeleteNamespace(String),
    /// A pod is made, or its labels and ports replaced.
    Pod(Pod),
    /// A pod is deleted.
    DeletePod(String),
    /// A pod's labels are replaced.
    Relabel(String, Labels),
}

/// A policy's document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `namespace/name`, or `name`.
    pub name: String,
    /// The document.
    pub text: String,
}

/// A `NetworkPolicy`, `namespace/name`, with this `spec`.
///
/// # Panics
///
/// Panics if its name is not of this form.
pub fn network_policy(name: &str, spec: &str) -> Change {
    annotated_network_policy(name, "{}", spec)
}

/// The same with annotations.
///
/// # Panics
///
/// Panics if its name is not of this form.
pub fn annotated_network_policy(name: &str, annotations: &str, spec: &str) -> Change {
    let (namespace, own) = name.split_once('/').expect("namespace/name");
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  namespace: \
         {namespace}\n  name: {own}\n  annotations: {annotations}\nspec: {spec}\n"
    );
    Change::Apply(Policy {
        name: name.to_owned(),
        text,
    })
}

/// A `ClusterNetworkPolicy` with the rest of its `spec`, a block of YAML.
pub fn cluster_policy(name: &str, tier: &str, priority: u16, rest: &str) -> Change {
    let mut text = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata:\n  \
         name: {name}\nspec:\n  tier: {tier}\n  priority: {priority}\n"
    );
    for line in rest.lines().filter(|line| !line.trim().is_empty()) {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    Change::Apply(Policy {
        name: name.to_owned(),
        text,
    })
}

/// Deletes a policy.
pub fn delete(name: &str) -> Change {
    Change::Delete(name.to_owned())
}

/// Replaces a pod's labels.
pub fn relabel(pod: &str, labels: &[&str]) -> Change {
    Change::Relabel(pod.to_owned(), owned(labels))
}

/// Makes a namespace or replaces its labels.
pub fn namespace(name: &str, labels: &[&str]) -> Change {
    Change::Namespace(name.to_owned(), owned(labels))
}

fn owned(labels: &[&str]) -> Labels {
    labels.iter().map(|&label| label.to_owned()).collect()
}

/// Namespaces, pods, nodes and policies.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<Pod>,
    policies: BTreeMap<String, String>,
    /// Documents that no change touches, by a name for their file.
    fixed: BTreeMap<&'static str, String>,
}

impl Cluster {
    /// Namespaces `x`, `y`, `z` with pods `a`, `b`, `c` each.
    pub fn trio() -> Self {
        let mut cluster = Self::default();
        for namespace in ["x", "y", "z"] {
            cluster.change(&Change::Namespace(
                namespace.to_owned(),
                vec![format!("ns={namespace}")],
            ));
            for name in ["a", "b", "c"] {
                cluster.change(&Change::Pod(trio_pod(namespace, name)));
            }
        }
        cluster.fixed.insert("node", node(NODE));
        cluster
    }

    /// Namespaces `north`, `east`, `south`, `west` with pods `p0`, `p1` each, on node
    /// `n1`; a second node, and on each a pod that lives in its network.
    pub fn quarters() -> Self {
        let mut cluster = Self::default();
        for namespace in ["north", "east", "south", "west"] {
            let label = format!("side={namespace}");
            cluster.change(&Change::Namespace(
                namespace.to_owned(),
                vec![label.clone()],
            ));
            for name in ["p0", "p1"] {
                let pod = Pod::new(&format!("{namespace}/{name}"), &[&label])
                    .port("web", "TCP", 80)
                    .port("dns", "UDP", 53);
                cluster.change(&Change::Pod(pod));
            }
        }
        cluster.change(&Change::Namespace(
            "roof".to_owned(),
            vec!["side=roof".to_owned()],
        ));
        cluster.fixed.insert("node", node(NODE));
        cluster.fixed.insert("other-node", node(OTHER_NODE));
        for (file, name, on) in [
            ("host-pod", "h0", NODE),
            ("other-host-pod", "h1", OTHER_NODE),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: roof, name: {name}, labels: \
                 {{side: roof}}}}\nspec:\n  nodeName: {on}\n  hostNetwork: true\n  containers:\n  \
                 - name: c\n    ports: [{{name: web, protocol: TCP, containerPort: 34345}}]\n\
                 status:\n  podIPs: [{{ip: \"@4(node/{on})\"}}, {{ip: \"@6(node/{on})\"}}]\n"
            );
            cluster.fixed.insert(file, text);
        }
        cluster
    }

    /// Its pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Its pods, as ends.
    pub fn ends(&self) -> impl Iterator<Item = End> {
        self.pods.iter().map(|pod| End::Pod(pod.name.clone()))
    }

    /// The texts of its policies.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        self.policies.values().map(String::as_str)
    }

    /// Lets something happen.
    ///
    /// # Panics
    ///
    /// Panics if it happens to nothing.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Apply(policy) => {
                self.policies
                    .insert(policy.name.clone(), policy.text.clone());
            }
            Change::Delete(name) => {
                let policy = self.policies.remove(name);
                assert!(policy.is_some(), "there is no policy {name}");
            }
            Change::Namespace(name, labels) => {
                self.namespaces.insert(name.clone(), labels.clone());
            }
            Change::DeleteNamespace(name) => {
                let labels = self.namespaces.remove(name);
                assert!(labels.is_some(), "there is no namespace {name}");
                let inside = format!("{name}/");
                self.pods.retain(|pod| !pod.name.starts_with(&inside));
                self.policies
                    .retain(|policy, _| !policy.starts_with(&inside));
            }
            Change::Pod(pod) => match self.pods.iter_mut().find(|old| old.name == pod.name) {
                Some(old) => old.clone_from(pod),
                None => self.pods.push(pod.clone()),
            },
            Change::DeletePod(name) => {
                self.pod(name);
                self.pods.retain(|pod| pod.name != *name);
            }
            Change::Relabel(name, labels) => {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                self.pod(name).labels = Pod::new(name, &labels).labels;
            }
        }
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        let found = self.pods.iter_mut().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("there is no pod {name}"))
    }

    /// Its documents, by names for their files.
    pub fn documents(&self, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> BTreeMap<String, String> {
        let mut documents = BTreeMap::new();
        for (name, labels) in &self.namespaces {
            let labels = yaml_labels(labels);
            documents.insert(
                format!("namespace-{name}.yaml"),
                format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"
                ),
            );
        }
        for pod in &self.pods {
            let file = format!("pod-{}.yaml", pod.name.replace('/', "-"));
            documents.insert(file, pod.document(&addresses(&pod.name)));
        }
        let fixed = self
            .fixed
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text));
        let policies = self.policies.iter().map(|(name, text)| {
            let file = format!("policy-{}", name.replace('/', "-"));
            (file, text)
        });
        for (file, text) in fixed.chain(policies) {
            documents.insert(format!("{file}.yaml"), with_addresses(text, addresses));
        }
        documents
    }
}

/// A pod of [`Cluster::trio`], or one that comes later and is like them.
pub fn trio_pod(namespace: &str, name: &str) -> Pod {
    let pod = Pod::new(&format!("{namespace}/{name}"), &[&format!("pod={name}")]);
    [80, 81].iter().fold(pod, |pod, &port| {
        ["TCP", "UDP", "SCTP"].iter().fold(pod, |pod, protocol| {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            pod.port(&name, protocol, port)
        })
    })
}

fn node(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{kubernetes.io/os: linux, \
         host: {name}}}}}\nstatus:\n  addresses:\n  - {{type: InternalIP, address: \
         \"@4(node/{name})\"}}\n  - {{type: InternalIP, address: \"@6(node/{name})\"}}\n"
    )
}

fn yaml_labels(labels: &[String]) -> String {
    let pairs = labels.iter().map(|label| {
        let (key, value) = label.split_once('=').expect("key=value");
        format!("{key}: \"{value}\"")
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

/// Puts addresses where a text has `@4(name)` and `@6(name)`.
fn with_addresses(text: &str, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        written.push_str(before);
        let (family, after) = after.split_once('(').expect("@4(name) or @6(name)");
        let (name, after) = after.split_once(')').expect("a closing bracket");
        let address = addresses(name)
            .into_iter()
            .find(|address| address.is_ipv4() == (family == "4"));
        let address = address.unwrap_or_else(|| panic!("{name} has no such address"));
        written.push_str(&address.to_string());
        rest = after;
    }
    written.push_str(rest);
    written
}
