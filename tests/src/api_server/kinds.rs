//! The kinds that the server has, and the paths that lead to their objects.

use serde_json::Value;

/// The kinds that are there by their definitions alone.
pub(super) const CLUSTER_NETWORK_POLICY: &str = "ClusterNetworkPolicy";
pub(super) const NODE_STATUS: &str = "NodeStatus";

/// A kind of objects.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Group and version, or the version of the first group.
    pub(super) version: &'static str,
    /// Its word in paths.
    pub(super) plural: &'static str,
    pub(super) is_namespaced: bool,
    /// `true` of a kind that agents list and watch.
    pub(super) is_followed: bool,
}

const fn kind(name: &'static str, version: &'static str, plural: &'static str) -> Kind {
    Kind {
        name,
        version,
        plural,
        is_namespaced: true,
        is_followed: true,
    }
}

const fn of_cluster(kind: Kind) -> Kind {
    Kind {
        is_namespaced: false,
        ..kind
    }
}

const fn unfollowed(kind: Kind) -> Kind {
    Kind {
        is_followed: false,
        ..kind
    }
}

pub(super) const KINDS: &[Kind] = &[
    of_cluster(kind("Namespace", "v1", "namespaces")),
    of_cluster(kind("Node", "v1", "nodes")),
    kind("Pod", "v1", "pods"),
    kind("Service", "v1", "services"),
    kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices"),
    kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    of_cluster(kind(
        CLUSTER_NETWORK_POLICY,
        "policy.networking.k8s.io/v1alpha2",
        "clusternetworkpolicies",
    )),
    unfollowed(kind("DaemonSet", "apps/v1", "daemonsets")),
    unfollowed(kind("Event", "events.k8s.io/v1", "events")),
    unfollowed(of_cluster(kind(
        NODE_STATUS,
        "cofferdam.dev/v1alpha1",
        "nodestatuses",
    ))),
];

impl Kind {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// The group, empty for the first one.
    pub(super) fn group(&self) -> &'static str {
        (self.version.split_once('/')).map_or("", |(group, _)| group)
    }
}

/// Kind, namespace and name of an object.
pub(super) type Key = (String, String, String);

pub(super) fn key(kind: &str, object: &Value) -> Key {
    let metadata = &object["metadata"];
    let word = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
    (kind.to_owned(), word("namespace"), word("name"))
}

pub(super) fn owned_key(kind: &str, namespace: &str, name: &str) -> Key {
    (kind.to_owned(), namespace.to_owned(), name.to_owned())
}

/// The objects, or the one object, that a path leads to.
#[derive(Debug)]
pub(super) struct Target<'p> {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<&'p str>,
    pub(super) name: Option<&'p str>,
}

impl<'p> Target<'p> {
    /// Reads a path: `/api/v1/namespaces/shop/pods/db`.
    pub(super) fn parse(path: &'p str) -> Option<Self> {
        let words: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (version, rest) = match words.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            [plural] => (None, plural, None),
            ["namespaces", namespace, plural] => (Some(*namespace), plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), plural, Some(*name)),
            [plural, name] => (None, plural, Some(*name)),
            _ => return None,
        };
        let kinds = KINDS.iter();
        let mut named = kinds.filter(|kind| kind.version == version && kind.plural == *plural);
        let kind = named.next()?;
        let is_right = namespace.is_none() || kind.is_namespaced;
        is_right.then_some(Self {
            kind,
            namespace,
            name,
        })
    }

    pub(super) fn key(&self, name: &str) -> Key {
        let namespace = self.namespace.unwrap_or_default().to_owned();
        (self.kind.name.to_owned(), namespace, name.to_owned())
    }
}
