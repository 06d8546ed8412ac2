//! Context: documents that no policy is made of, and that tell what policies mean: the
//! templates that pods are made from, the objects that operators make pods of, and policies of
//! other products.
//!
//! Read for [`analysis`](cofferdam_analysis) and for questions that are asked of documents
//! alone ([`reach`](cofferdam_reach)), and leniently: what is wrong in a kind that is not
//! ours is not for us to report. A workload that cannot be used is noted with its place.
//!
//! Invariant: nothing here reaches the inventory that documents are put together to, so
//! that a template changes nothing that is in force.

use std::ops::Deref;

use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::{ObjectName, Workload};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{Mark, Node, Value};

use super::entrances::entrance;
use super::reader::{Fields, Reader};
use super::{metadata, objects};

/// Templates, custom resources and policies of other products of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Templates of pods.
    pub templates: Vec<Template>,
    /// Workloads that are missing here.
    pub unusable: Vec<Unusable>,
    /// Workloads of which something decides the number of pods.
    pub scaled: Vec<ObjectName>,
    /// Custom resources. Operators make pods of some, and those commonly have the labels of
    /// what they are made of.
    pub resources: Vec<Resource>,
    /// Ways into the cluster.
    pub entrances: Vec<Entrance>,
    /// Policies of other products, which are not judged.
    pub foreign: Vec<ForeignPolicy>,
    /// Count of objects of kinds that say nothing about policies and workloads.
    pub others: usize,
}

/// A context that takes memory of its own only if it says something: of 100 000 objects of an API
/// server hardly one does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoxedContext(Option<Box<Context>>);

impl From<Context> for BoxedContext {
    fn from(context: Context) -> Self {
        Self((context != Context::EMPTY).then(|| Box::new(context)))
    }
}

impl Deref for BoxedContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        static EMPTY: Context = Context::EMPTY;
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

/// A template of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The kind of what holds it.
    pub kind: Box<str>,
    /// A workload without addresses, under the name of what holds the template, or under
    /// the beginning of that name where the API server makes up the rest.
    pub workload: Workload,
    /// Number of pods that are made of it.
    pub replicas: Replicas,
    /// Place of what holds it.
    pub place: Place,
}

/// Number of pods that are made of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// One at a time.
    One,
    /// A number that nothing says.
    Unknown,
    /// More than one.
    Many,
}

/// A workload of which nothing is known but its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Its kind.
    pub kind: Box<str>,
    /// Its name; `None` if it cannot be read either.
    pub name: Option<ObjectName>,
    /// Its place.
    pub place: Place,
    /// Reason for which it cannot be used.
    pub why: WhyUnusable,
}

/// Reason for which a workload cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyUnusable {
    /// It has no template, as patches have none.
    Patch,
    /// Something in its template is wrong.
    Unreadable,
}

/// A custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its group.
    pub group: Box<str>,
    /// Its kind.
    pub kind: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its own labels.
    pub labels: Labels,
}

/// A way to Services from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// Its kind.
    pub kind: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its place.
    pub place: Place,
    /// Connections come from something in the cluster that forwards them.
    pub is_forwarded: bool,
    /// Namespace, name and port of the Services; no port where it is by name or not said.
    pub backends: Vec<(Box<str>, Box<str>, Option<u16>)>,
}

/// A policy of another product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignPolicy {
    /// Its group and version.
    pub api_version: Box<str>,
    /// Its kind.
    pub kind: Box<str>,
    /// Its namespace; `None` for kinds that lie in none.
    pub namespace: Option<Box<str>>,
    /// Its name; empty if it has none that can be read.
    pub name: Box<str>,
    /// Its place.
    pub place: Place,
}

/// Path of the template in a kind of workload.
struct Home {
    path: &'static [&'static str],
    /// A document of this kind without a template is a patch.
    is_certain: bool,
}

impl Context {
    const EMPTY: Self = Self {
        templates: Vec::new(),
        unusable: Vec::new(),
        scaled: Vec::new(),
        resources: Vec::new(),
        entrances: Vec::new(),
        foreign: Vec::new(),
        others: 0,
    };

    /// Takes a document, if it holds a template or is a custom resource.
    pub(super) fn take(
        &mut self,
        (api_version, kind): (&str, &str),
        node: &Node<'_>,
        fields: Fields<'_, '_>,
        place: impl Fn(Mark) -> Place,
    ) {
        let place = place(node.mark);
        if let Some(scaled) = scaled(fields) {
            self.scaled.push(scaled);
        }
        self.entrances
            .extend(entrance((api_version, kind), fields, &place));
        let home = home(api_version, kind);
        if let Some(found) = find(fields, &home) {
            match template((api_version, kind), fields, found, &place) {
                Some(template) if template.is_patch(home.is_certain, fields) => {
                    self.miss(kind, fields, place, WhyUnusable::Patch);
                }
                Some(template) => self.templates.push(template),
                None => self.miss(kind, fields, place, WhyUnusable::Unreadable),
            }
        } else if home.is_certain {
            // It has the template of what it refers to.
            if value(fields, &["spec", "workloadRef"]).is_none() {
                self.miss(kind, fields, place, WhyUnusable::Patch);
            }
        } else if is_custom(api_version) {
            self.resources.extend(resource(api_version, kind, fields));
            self.others += 1;
        } else {
            self.others += 1;
        }
    }

    /// Takes a `Service`, if it leads into the cluster.
    pub(super) fn take_service(&mut self, fields: Fields<'_, '_>, place: &Place) {
        self.entrances
            .extend(entrance(("v1", "Service"), fields, place));
    }

    /// Takes a `Pod` to whose name the API server adds something.
    pub(super) fn take_generated(&mut self, fields: Fields<'_, '_>, place: Place) {
        match template(("v1", "Pod"), fields, fields.node, &place) {
            Some(template) => self.templates.push(template),
            None => self.miss("Pod", fields, place, WhyUnusable::Unreadable),
        }
    }

    /// Takes a policy of another product.
    pub(super) fn take_foreign(
        &mut self,
        (api_version, kind): (&str, &str),
        fields: Fields<'_, '_>,
        place: Place,
    ) {
        let text = |key| match value(fields, &["metadata", key]).map(|node| &node.value) {
            Some(Value::Text(text)) => Some(Box::from(text.as_ref())),
            _ => None,
        };
        let lies_in_none = ["Global", "Clusterwide", "Cluster", "Admin"]
            .iter()
            .any(|word| kind.contains(word));
        let namespace = (!lies_in_none).then(|| text("namespace").unwrap_or("default".into()));
        self.foreign.push(ForeignPolicy {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace,
            name: text("name").unwrap_or_default(),
            place,
        });
    }

    fn miss(&mut self, kind: &str, fields: Fields<'_, '_>, place: Place, why: WhyUnusable) {
        let mut reader = Reader::new(&"".into());
        self.unusable.push(Unusable {
            kind: kind.into(),
            name: object_name(&mut reader, fields).map(|(name, _)| name),
            place,
            why,
        });
    }
}

impl Template {
    /// Returns `true` for part of a workload: the API server takes none of these kinds
    /// whose selector, or the labels that it selects, are missing.
    fn is_patch(&self, is_certain: bool, fields: Fields<'_, '_>) -> bool {
        let has_selector = matches!(
            self.kind.as_ref(),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Rollout"
        );
        is_certain
            && has_selector
            && self.workload.labels.iter().len() == 0
            && value(fields, &["spec", "selector"]).is_none()
    }
}

/// The group of an API version; empty for the first one.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Returns the path of the template in a document of this kind.
fn home(api_version: &str, kind: &str) -> Home {
    const USUAL: &[&str] = &["spec", "template"];
    const OF_JOBS: &[&str] = &["spec", "jobTemplate", "spec", "template"];
    let certain = |path| Home {
        path,
        is_certain: true,
    };
    match (group(api_version), kind) {
        ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "ReplicationController")
        | ("argoproj.io", "Rollout")
        | ("apps.openshift.io", "DeploymentConfig")
        | ("serving.knative.dev", "Service" | "Configuration")
        | ("kubevirt.io", "VirtualMachine" | "VirtualMachineInstanceReplicaSet") => certain(USUAL),
        ("batch", "CronJob") => certain(OF_JOBS),
        ("kubevirt.io", "VirtualMachineInstance") => certain(&[]),
        ("", "PodTemplate") => certain(&["template"]),
        (_, kind) => Home {
            path: if kind.ends_with("CronJob") {
                OF_JOBS
            } else {
                USUAL
            },
            is_certain: false,
        },
    }
}

/// The template of a document. Of a kind that is not known only one with containers is
/// a template of pods.
fn find<'n, 't>(fields: Fields<'n, 't>, home: &Home) -> Option<&'n Node<'t>> {
    if home.path.is_empty() {
        return Some(fields.node);
    }
    let node = value(fields, home.path)?;
    let containers = [home.path, &["spec", "containers"]].concat();
    let is_template = home.is_certain
        || value(fields, &containers).is_some_and(|node| matches!(node.value, Value::List(_)));
    is_template.then_some(node)
}

/// The value at the end of a path of keys; `None` if it is null or not there.
fn value<'n, 't>(fields: Fields<'n, 't>, path: &[&str]) -> Option<&'n Node<'t>> {
    let (first, rest) = path.split_first()?;
    let mut node = fields.get(first)?;
    for key in rest {
        node = child(node, key)?;
    }
    Some(node)
}

fn child<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Node<'t>> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let is_key = |node: &Node<'_>| matches!(&node.value, Value::Text(text) if text == key);
    let entry = entries.iter().find(|entry| is_key(&entry.key))?;
    (!matches!(entry.value.value, Value::Null)).then_some(&entry.value)
}

/// The workload whose number of pods an autoscaler decides.
fn scaled(fields: Fields<'_, '_>) -> Option<ObjectName> {
    let target = value(fields, &["spec", "scaleTargetRef", "name"])?;
    let Value::Text(name) = &target.value else {
        return None;
    };
    let mut reader = Reader::new(&"".into());
    let (own, _) = object_name(&mut reader, fields)?;
    Some(ObjectName::new(&own.namespace, name))
}

/// Returns `true` if a group is neither one of Kubernetes' own, which have no dot or end
/// like this, nor ours, of which nobody makes pods.
fn is_custom(api_version: &str) -> bool {
    let group = group(api_version);
    group.contains('.') && !group.ends_with(".k8s.io") && group != "cofferdam.dev"
}

fn resource(api_version: &str, kind: &str, fields: Fields<'_, '_>) -> Option<Resource> {
    let mut reader = Reader::new(&"".into());
    let (name, metadata) = object_name(&mut reader, fields)?;
    let labels = metadata::labels(&mut reader, metadata);
    (reader.errors() == 0).then(|| Resource {
        group: group(api_version).into(),
        kind: kind.into(),
        namespace: (&*name.namespace).into(),
        labels,
    })
}

/// The name that a document carries, or its beginning where the API server makes up the
/// rest, and its `metadata`.
fn object_name<'n, 't>(
    reader: &mut Reader,
    fields: Fields<'n, 't>,
) -> Option<(ObjectName, Fields<'n, 't>)> {
    let metadata = reader.mapping(fields.get("metadata")?, "`metadata`")?;
    let name = match (metadata.get("name"), metadata.get("generateName")) {
        (None, Some(generated)) => {
            let begin = reader.string(generated, "`metadata.generateName`")?;
            let is_name = names::subdomain(begin.trim_end_matches(['-', '.'])).is_ok();
            is_name.then_some(begin)?
        }
        _ => metadata::name(reader, metadata, names::subdomain)?,
    };
    let namespace = metadata::namespace(reader, metadata)?;
    Some((ObjectName::new(namespace, name), metadata))
}

/// A pod as the template at `found` makes it.
fn template(
    (api_version, kind): (&str, &str),
    fields: Fields<'_, '_>,
    found: &Node<'_>,
    place: &Place,
) -> Option<Template> {
    let mut reader = Reader::new(&"".into());
    let (name, _) = object_name(&mut reader, fields)?;
    let template = reader.mapping(found, "a template")?;
    // It may be left out, and then there are no labels.
    let empty = Node {
        mark: found.mark,
        value: Value::Map(Vec::new()),
    };
    let metadata = template.get("metadata").unwrap_or(&empty);
    let metadata = reader.mapping(metadata, "`metadata`")?;
    let own_name = name.name.clone();
    let mut workload = objects::pod(&mut reader, template, metadata, name);
    let added: &[(&str, &str)] = match group(api_version) {
        "serving.knative.dev" => &[("serving.knative.dev/service", &own_name)],
        "kubevirt.io" => &[
            ("kubevirt.io", "virt-launcher"),
            ("vm.kubevirt.io/name", &own_name),
        ],
        _ => &[],
    };
    if !added.is_empty() {
        workload.labels = (workload.labels.iter())
            .chain(added.iter().copied())
            .collect();
    }
    (reader.errors() == 0).then(|| Template {
        kind: kind.into(),
        replicas: replicas(api_version, kind, fields),
        place: place.clone(),
        workload: Workload {
            node: None,
            finished: false,
            addresses: Vec::new(),
            ..workload
        },
    })
}

fn replicas(api_version: &str, kind: &str, fields: Fields<'_, '_>) -> Replicas {
    let number = |path: &[&str]| match value(fields, path).map(|node| &node.value) {
        Some(Value::Integer(number)) => Some(*number),
        _ => None,
    };
    let of = |number: Option<i64>| match number {
        Some(..=1) => Replicas::One,
        Some(2..) => Replicas::Many,
        None => Replicas::Unknown,
    };
    match (group(api_version), kind) {
        // Of these the default is one.
        ("batch", "Job") => of(number(&["spec", "parallelism"]).or(Some(1))),
        ("batch", "CronJob") => {
            let path = ["spec", "jobTemplate", "spec", "parallelism"];
            of(number(&path).or(Some(1)))
        }
        ("kubevirt.io", "VirtualMachine" | "VirtualMachineInstance") | ("", "PodTemplate") => {
            Replicas::One
        }
        ("apps" | "extensions", "DaemonSet") => Replicas::Many,
        ("", "Pod") | ("serving.knative.dev", _) => Replicas::Unknown,
        _ => of(number(&["spec", "replicas"])),
    }
}

#[cfg(test)]
mod tests;
