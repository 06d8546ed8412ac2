//! Selectors that select nothing: which requirement empties them, and what was
//! probably meant.

use std::sync::LazyLock;

use cofferdam_documents::context::Resource;
use cofferdam_documents::{Identity, Kind};
use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_inventory::{ClusterPeer, NAMESPACE_NAME_LABEL, Peer, Workload};
use cofferdam_syntax::diagnostic::{Code, Place};

use super::nearest::nearest;
use super::places::PathStep;
use super::rules::{Policy, Rule, Written, peers_key};
use super::together::contradiction;
use super::world::{Group, Scope, World};
use super::{Findings, Project};

/// Most objects whose labels are looked through for a key that was meant.
const MOST_OBJECTS: usize = 1_000;
/// Most labels, values or names that a message lists.
const MOST_LISTED: usize = 5;

/// Hint for requirements that no single object can fulfil together.
const ALL_MUST_HOLD: &str =
    "all requirements of a selector must hold; write two peers or two policies for either";

/// Selects every namespace.
static EVERYWHERE: LazyLock<LabelSelector> = LazyLock::new(LabelSelector::default);

/// Namespace of a cluster's name servers, which no project has documents of.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// The labels of that namespace, and of the name servers in it.
static SYSTEM: LazyLock<[Labels; 2]> = LazyLock::new(|| {
    [
        Labels::from_iter([(NAMESPACE_NAME_LABEL, SYSTEM_NAMESPACE)]),
        Labels::from_iter([("k8s-app", "kube-dns")]),
    ]
});

/// Labels that controllers give to pods when they make them.
const ADDED_LABELS: &[&str] = &[
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "deploymentconfig",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Groups of custom resources of which nobody makes pods.
const WITHOUT_PODS: &[&str] = &[
    "cert-manager.io",
    "cilium.io",
    "crd.projectcalico.org",
    "external-secrets.io",
    "networking.istio.io",
    "security.istio.io",
    "traefik.containo.us",
    "traefik.io",
];

/// Kinds of other groups of which nobody makes pods.
const KINDS_WITHOUT_PODS: &[&str] = &[
    "PodMonitor",
    "Probe",
    "PrometheusRule",
    "Route",
    "SealedSecret",
    "ServiceMonitor",
    "VerticalPodAutoscaler",
];

/// Explanation for a selector that selects nothing.
struct Why<'s> {
    /// Way from the subject or peer to the requirement that is to blame.
    path: Vec<PathStep<'s>>,
    message: String,
    hint: String,
    /// Something is there that was probably meant.
    is_slip: bool,
}

/// Subject of a selector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The workloads that a policy is about, whose documents mostly lie beside it.
    Subject,
    /// Their peers, which may be other projects'.
    Peer,
}

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    // Without workloads there is nothing to hold against: policies alone are checked.
    let has_workloads = !world.groups.is_empty();
    subjects(project, has_workloads, findings);
    for rule in &project.rules {
        match (rule.policy, rule.written) {
            (Policy::Namespace(policy), Written::Namespace(written)) => {
                let own: &str = &policy.name.namespace;
                for (index, peer) in written.peers.iter().flatten().enumerate() {
                    let Peer::Workloads {
                        namespaces,
                        workloads,
                    } = peer
                    else {
                        continue;
                    };
                    let scope =
                        (namespaces.as_ref()).map_or(Scope::Namespace(own), Scope::Namespaces);
                    let step = PathStep::Item(index);
                    if let Some(why) = never(namespaces.as_ref(), workloads) {
                        never_matches(project, rule, step, why, findings);
                        continue;
                    }
                    // Of a namespace without workloads the subject says it already.
                    if has_workloads
                        && (namespaces.is_some() || !world.of_namespace(own).is_empty())
                    {
                        peer_of_workloads(project, rule, step, (scope, workloads), findings);
                    }
                }
            }
            (_, Written::Cluster(written)) => {
                for (index, peer) in written.peers.iter().flatten().enumerate() {
                    let step = PathStep::Peer(index);
                    match peer {
                        ClusterPeer::Networks(_) => {}
                        ClusterPeer::Nodes(selector) => {
                            if let Some(mut why) = never(None, selector) {
                                why.path[0] = PathStep::Key("nodes");
                                never_matches(project, rule, step, why, findings);
                                continue;
                            }
                            peer_of_nodes(project, rule, step, selector, findings);
                        }
                        ClusterPeer::Workloads(selector) => {
                            let (namespaces, own) = (&selector.namespaces, &selector.workloads);
                            if let Some(why) = never(Some(namespaces), own) {
                                never_matches(project, rule, step, why, findings);
                                continue;
                            }
                            if !has_workloads {
                                continue;
                            }
                            let scope = Scope::Namespaces(&selector.namespaces);
                            let asked = (scope, &selector.workloads);
                            peer_of_workloads(project, rule, step, asked, findings);
                        }
                    }
                }
            }
            // A rule is written as its policy is.
            (Policy::Cluster(_), Written::Namespace(_)) => {}
        }
    }
}

/// Finds a requirement, in two selectors of one peer or subject, that no label can fulfil.
/// The path of the result begins with a step to the selector.
fn never<'s>(namespaces: Option<&'s LabelSelector>, own: &'s LabelSelector) -> Option<Why<'s>> {
    let of_namespaces = namespaces.and_then(|selector| contradiction(selector, true));
    let (step, key) = match of_namespaces {
        Some(key) => (PathStep::NamespaceSelector, key),
        None => (PathStep::WorkloadSelector, contradiction(own, false)?),
    };
    Some(Why {
        path: vec![step, PathStep::Requirement(key)],
        message: format!("no value of `{key}` fulfils all that is required of it"),
        hint: ALL_MUST_HOLD.to_owned(),
        is_slip: true,
    })
}

fn never_matches<'s>(
    project: &Project<'_>,
    rule: &Rule<'_>,
    step: PathStep<'s>,
    why: Why<'s>,
    findings: &mut Findings,
) {
    let mut path = vec![PathStep::Key(peers_key(rule.direction)), step];
    path.extend(why.path);
    findings.warn(
        project.place_in(rule, &path),
        Code::NeverMatches,
        format!(
            "the peer is nobody, whatever workloads there are: {}",
            why.message
        ),
        why.hint,
    );
}

fn subjects(project: &Project<'_>, has_workloads: bool, findings: &mut Findings) {
    let world = &project.world;
    let mut report = |place: &Place, key: &str, scope, selector| {
        let namespaces = match scope {
            Scope::Namespace(_) => None,
            Scope::Namespaces(selector) => Some(selector),
        };
        let why = match never(namespaces, selector) {
            Some(why) => why,
            None if !has_workloads || selects(project, scope, selector) => return,
            None => match to_blame(project, scope, selector, Asked::Subject) {
                Some(why) => why,
                None => return,
            },
        };
        let mut path = vec![PathStep::Key(key)];
        if key == "podSelector" {
            // The subject is the selector itself.
            path.extend(why.path.iter().skip(1));
        } else {
            path.extend(&why.path);
        }
        findings.warn(
            project.places.find(place, &path),
            Code::SubjectEmpty,
            format!("the policy selects no workload: {}", why.message),
            why.hint,
        );
    };
    for policy in world.inventory.policies().values() {
        let scope = Scope::Namespace(&policy.name.namespace);
        report(&policy.place, "podSelector", scope, &policy.subject);
    }
    for policy in world.inventory.cluster_policies().values() {
        let scope = Scope::Namespaces(&policy.subject.namespaces);
        report(&policy.place, "subject", scope, &policy.subject.workloads);
    }
}

/// Returns `true` if a selector selects a workload, or may select pods that an operator
/// makes.
fn selects<'a>(project: &Project<'a>, scope: Scope<'a>, selector: &'a LabelSelector) -> bool {
    let world = &project.world;
    if !world.select(scope, selector).is_empty() {
        return true;
    }
    // Resources about a workload have its labels too: where it is known, it is meant.
    unselectable(world, scope, selector).is_none()
        && (project.resources.iter()).any(|resource| {
            selector.matches(&resource.labels) && world.is_in(scope, &resource.namespace)
        })
}

/// Returns `true` if an operator may make what a Service's selector asks for: resources have the
/// labels of what is made of them.
pub(super) fn may_be_made(
    project: &Project<'_>,
    namespace: &str,
    selector: &LabelSelector,
) -> bool {
    let mut resources = project.resources.iter();
    resources
        .any(|resource| &*resource.namespace == namespace && selector.matches(&resource.labels))
}

/// Names the label of a selector that no workload of a namespace has, and the one that was
/// probably meant.
pub(super) fn labels_to_blame(
    world: &World<'_>,
    namespace: &str,
    selector: &LabelSelector,
) -> (Option<String>, String, String) {
    let groups = world.of_namespace(namespace).iter();
    let labels: Vec<&Labels> = groups
        .map(|group| world.groups[*group as usize].labels())
        .collect();
    let noun = format!("workload of namespace `{namespace}`");
    let (key, message, hint, _) = blame(selector, &labels, [], &noun);
    (key.map(str::to_owned), message, hint)
}

/// Explains a selector that selects nothing; returns `None` if it may be meant for objects
/// that the documents lack.
///
/// Documents of one application are not a cluster: its policies speak of namespaces and
/// workloads of others, and controllers make pods that no document has.
fn to_blame<'s>(
    project: &Project<'s>,
    scope: Scope<'s>,
    selector: &'s LabelSelector,
    asked: Asked,
) -> Option<Why<'s>> {
    let world = &project.world;
    let is_in = |namespace: &str| world.is_in(scope, namespace);
    let mut gaps = project.gaps.namespaces();
    if gaps.any(is_in) || asks_for_added_labels(selector) {
        return None;
    }
    let why = why(world, scope, selector);
    if is_cluster(world) || why.is_slip {
        return Some(why);
    }
    let named: Vec<&str> = world
        .labels
        .keys()
        .copied()
        .filter(|name| is_in(name))
        .collect();
    let is_known = |namespace: &&str| {
        let is_documented = match (asked, scope) {
            // Workloads beside a policy are those that it is about.
            (Asked::Subject, Scope::Namespace(_)) => true,
            _ => world
                .inventory
                .namespaces()
                .get(*namespace)
                .is_some_and(|_| {
                    let name = Identity {
                        kind: Kind::Namespace,
                        namespace: "".into(),
                        name: (*namespace).into(),
                    };
                    project.documents.contains_key(&name)
                }),
        };
        let has_workloads = !world.of_namespace(namespace).is_empty();
        is_documented && has_workloads && !project.operated.contains(*namespace)
    };
    let has_known_keys = || {
        let mut requirements = selector.requirements().iter();
        requirements.all(|requirement| {
            let mut groups = world.groups.iter();
            groups.any(|group| group.labels().get(requirement.key()).is_some())
        })
    };
    let is_certain = !named.is_empty()
        && named.iter().all(is_known)
        && (asked == Asked::Subject || has_known_keys());
    is_certain.then_some(why)
}

/// A label by which a selector asks for a namespace's name, and that no namespace has, and
/// the namespace that is called so.
fn by_own_label<'s>(project: &Project<'_>, asked: &'s LabelSelector) -> Option<(&'s str, &'s str)> {
    let world = &project.world;
    let names = ["name", "namespace", "kubernetes.io/name"];
    asked.requirements().iter().find_map(|requirement| {
        let Operator::In(values) = requirement.operator() else {
            return None;
        };
        let key = requirement.key();
        let mut labels = world.labels.values();
        if !names.contains(&key) || labels.any(|labels| labels.get(key).is_some()) {
            return None;
        }
        let is_documented = |value: &&str| {
            let name = Identity {
                kind: Kind::Namespace,
                namespace: "".into(),
                name: (*value).into(),
            };
            project.documents.contains_key(&name)
        };
        let value = values.iter().map(AsRef::as_ref).find(is_documented)?;
        Some((key, value))
    })
}

/// Returns `true` if documents are those of a whole cluster, in which nothing is missing.
fn is_cluster(world: &World<'_>) -> bool {
    !world.inventory.nodes().is_empty()
}

/// Returns `true` if something is asked for that only controllers know.
fn asks_for_added_labels(selector: &LabelSelector) -> bool {
    let mut requirements = selector.requirements().iter();
    requirements.any(|requirement| ADDED_LABELS.contains(&requirement.key()))
}

/// Returns `true` if an operator may make pods of a resource.
pub(super) fn may_make_pods(resource: &Resource) -> bool {
    !WITHOUT_PODS.contains(&&*resource.group) && !KINDS_WITHOUT_PODS.contains(&&*resource.kind)
}

/// Returns `true` if a selector selects the name servers that every cluster has, and the
/// documents are not about `kube-system`. Policies of a project let its workloads look
/// names up, and its documents mostly leave that namespace out.
fn selects_name_servers(world: &World<'_>, scope: Scope<'_>, selector: &LabelSelector) -> bool {
    let [namespace, name_server] = &*SYSTEM;
    let is_in_scope = match scope {
        Scope::Namespace(_) => false,
        Scope::Namespaces(asked) => asked.matches(namespace),
    };
    is_in_scope && !world.labels.contains_key(SYSTEM_NAMESPACE) && selector.matches(name_server)
}

fn peer_of_workloads<'a>(
    project: &Project<'a>,
    rule: &Rule<'_>,
    step: PathStep<'_>,
    (scope, selector): (Scope<'a>, &'a LabelSelector),
    findings: &mut Findings,
) {
    if selects(project, scope, selector) || selects_name_servers(&project.world, scope, selector) {
        return;
    }
    if let Scope::Namespaces(asked) = scope
        && let Some((key, name)) = by_own_label(project, asked)
    {
        let path = [
            PathStep::Key(peers_key(rule.direction)),
            step,
            PathStep::NamespaceSelector,
            PathStep::Requirement(key),
        ];
        findings.warn(
            project.place_in(rule, &path),
            Code::NamespaceByName,
            format!("no namespace has a label `{key}`, and namespace `{name}` is called so"),
            format!("write `{NAMESPACE_NAME_LABEL}: {name}`, which every namespace has"),
        );
        return;
    }
    let Some(why) = to_blame(project, scope, selector, Asked::Peer) else {
        return;
    };
    let mut path = vec![PathStep::Key(peers_key(rule.direction)), step];
    path.extend(&why.path);
    findings.warn(
        project.place_in(rule, &path),
        Code::PeerEmpty,
        format!("the peer selects no workload: {}", why.message),
        why.hint,
    );
}

fn peer_of_nodes(
    project: &Project<'_>,
    rule: &Rule<'_>,
    step: PathStep<'_>,
    selector: &LabelSelector,
    findings: &mut Findings,
) {
    let nodes = project.world.inventory.nodes();
    if nodes.is_empty() || project.gaps.in_nodes() || !project.world.nodes(selector).is_empty() {
        return;
    }
    let labels: Vec<&Labels> = nodes.values().map(|node| &node.labels).collect();
    let (key, message, hint, _) = blame(selector, &labels, [], "node");
    let mut path = vec![
        PathStep::Key(peers_key(rule.direction)),
        step,
        PathStep::Key("nodes"),
    ];
    path.extend(key.map(PathStep::Requirement));
    findings.warn(
        project.place_in(rule, &path),
        Code::PeerEmpty,
        format!("the peer selects no node: {message}"),
        hint,
    );
}

/// Explains a selector that selects nothing; the caller has checked that.
fn why<'s>(world: &World<'s>, scope: Scope<'s>, selector: &'s LabelSelector) -> Why<'s> {
    let namespaces: Vec<(&str, &Labels)> = (world.labels.iter())
        .map(|(name, labels)| (*name, labels.as_ref()))
        .filter(|(name, _)| world.is_in(scope, name))
        .collect();
    if let (Scope::Namespaces(asked), true) = (scope, namespaces.is_empty()) {
        let labels: Vec<&Labels> = world.labels.values().map(AsRef::as_ref).collect();
        let (key, message, hint, is_slip) = blame(asked, &labels, [], "namespace");
        let mut path = vec![PathStep::NamespaceSelector];
        path.extend(key.map(PathStep::Requirement));
        return Why {
            path,
            message,
            hint,
            is_slip,
        };
    }
    if let Some(workload) = unselectable(world, scope, selector) {
        let (why, hint) = if workload.finished {
            ("has ended", "a workload that has ended has no traffic")
        } else {
            (
                "shares its node's network",
                "its traffic is the node's: no selector matches it",
            )
        };
        return Why {
            path: vec![PathStep::WorkloadSelector],
            message: format!("{}, whose labels match, {why}", workload.name),
            hint: hint.to_owned(),
            is_slip: true,
        };
    }
    let groups: Vec<u32> = (namespaces.iter())
        .flat_map(|(name, _)| world.of_namespace(name).iter().copied())
        .collect();
    if groups.is_empty() {
        return no_workloads(world, scope, &namespaces);
    }
    // Selectors take the members of a group for one another.
    let groups: Vec<&Group<'_>> = (groups.iter())
        .map(|group| &world.groups[*group as usize])
        .collect();
    let labels: Vec<&Labels> = groups.iter().map(|group| group.labels()).collect();
    let others = groups.iter().flat_map(|group| group.members.iter().skip(1));
    let noun = match scope {
        Scope::Namespace(name) => format!("workload of namespace `{name}`"),
        Scope::Namespaces(_) => "workload of these namespaces".to_owned(),
    };
    let keys = (others.take(MOST_OBJECTS)).flat_map(|workload| workload.labels.keys());
    let (key, message, mut hint, mut is_slip) = blame(selector, &labels, keys, &noun);
    if let Scope::Namespace(own) = scope {
        let elsewhere = world.select(Scope::Namespaces(&EVERYWHERE), selector);
        if let Some(group) = elsewhere.first() {
            hint = format!(
                "workloads of namespace `{}` match, and this looks in `{own}` alone",
                world.groups[*group as usize].namespace
            );
            is_slip = true;
        }
    }
    let mut path = vec![PathStep::WorkloadSelector];
    path.extend(key.map(PathStep::Requirement));
    Why {
        path,
        message,
        hint,
        is_slip,
    }
}

/// A workload in scope that would be selected, if selectors could match it.
fn unselectable<'s>(
    world: &World<'s>,
    scope: Scope<'_>,
    selector: &LabelSelector,
) -> Option<&'s Workload> {
    world.unselectable.iter().copied().find(|workload| {
        world.is_in(scope, &workload.name.namespace) && selector.matches(&workload.labels)
    })
}

/// There are namespaces, and nothing in them.
fn no_workloads<'s>(
    world: &World<'s>,
    scope: Scope<'s>,
    namespaces: &[(&str, &Labels)],
) -> Why<'s> {
    let (step, name) = match scope {
        Scope::Namespace(name) => (PathStep::WorkloadSelector, Some(name)),
        Scope::Namespaces(_) => (PathStep::NamespaceSelector, None),
    };
    let names = listed(namespaces.iter().map(|(name, _)| *name));
    let meant = name.and_then(|name| nearest(name, world.namespaces().map(|(name, _)| name)));
    Why {
        path: vec![step],
        is_slip: meant.is_some(),
        message: format!("there are no workloads in {names}"),
        hint: match meant {
            Some(meant) => format!("did you mean namespace `{meant}`?"),
            None => "add their documents, or is another namespace meant?".to_owned(),
        },
    }
}

/// Names the first requirement that no object fulfils: its label's key, a message that
/// calls the objects `noun`, a hint, and `true` if the hint is a guess at the word that was
/// meant, among the objects' keys and `more_keys`.
fn blame<'s, 'k>(
    selector: &'s LabelSelector,
    objects: &[&'k Labels],
    more_keys: impl IntoIterator<Item = &'k str>,
    noun: &str,
) -> (Option<&'s str>, String, String, bool) {
    let requirements = selector.requirements();
    let fulfilled = |requirement: &Requirement| {
        (objects.iter()).any(|labels| requirement.holds(labels.get(requirement.key())))
    };
    if let Some(requirement) = requirements.iter().find(|one| !fulfilled(one)) {
        let (message, hint, is_slip) = unfulfilled(requirement, objects, more_keys, noun);
        return (Some(requirement.key()), message, hint, is_slip);
    }
    // Each holds for some, all of them for none: the first that leaves nobody.
    let mut left = objects.to_vec();
    for requirement in requirements {
        left.retain(|labels| requirement.holds(labels.get(requirement.key())));
        if left.is_empty() {
            return (
                Some(requirement.key()),
                format!(
                    "no {noun} fulfils its requirement of `{}` together with the others",
                    requirement.key()
                ),
                ALL_MUST_HOLD.to_owned(),
                false,
            );
        }
    }
    (
        None,
        format!("there is no {noun}"),
        "add its documents".to_owned(),
        false,
    )
}

/// Explains a requirement that no object fulfils: message, hint, and `true` if the hint is
/// a guess at the word that was meant.
fn unfulfilled<'k>(
    requirement: &Requirement,
    objects: &[&'k Labels],
    more_keys: impl IntoIterator<Item = &'k str>,
    noun: &str,
) -> (String, String, bool) {
    let key = requirement.key();
    let mut values: Vec<&str> = objects
        .iter()
        .filter_map(|labels| labels.get(key))
        .collect();
    values.sort_unstable();
    values.dedup();
    let wanted: &[Box<str>] = match requirement.operator() {
        Operator::In(values) => values,
        Operator::Exists => &[],
        Operator::NotIn(_) | Operator::DoesNotExist => {
            return (
                format!("every {noun} has the label `{key}` that is ruled out here"),
                format!("values there: {}", listed(values.iter().copied())),
                false,
            );
        }
    };
    if values.is_empty() {
        let mut keys: Vec<&str> = (objects.iter())
            .flat_map(|labels| labels.keys())
            .chain(more_keys)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let near = nearest(key, keys.iter().copied());
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if keys.is_empty() => "they have no labels".to_owned(),
            None => format!("labels there: {}", listed(keys.iter().copied())),
        };
        return (
            format!("no {noun} has a label `{key}`"),
            hint,
            near.is_some(),
        );
    }
    let meant = (wanted.iter()).find_map(|value| nearest(value, values.iter().copied()));
    let hint = match meant {
        Some(near) => format!("did you mean `{key}: {near}`?"),
        None => format!("values there: {}", listed(values.iter().copied())),
    };
    let wanted = listed(wanted.iter().map(AsRef::as_ref));
    (
        format!("no {noun} has the label `{key}` as {wanted}"),
        hint,
        meant.is_some(),
    )
}

/// A few words, and how many more there are.
fn listed<'w>(words: impl ExactSizeIterator<Item = &'w str>) -> String {
    let more = words.len().saturating_sub(MOST_LISTED);
    let mut text: Vec<String> = (words.take(MOST_LISTED))
        .map(|word| format!("`{word}`"))
        .collect();
    if more > 0 {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}
