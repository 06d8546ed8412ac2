//! What documents say that no policy is made of, and that tells what policies mean:
//! the templates that pods are made from, and what operators make pods of.
//!
//! Read for [`analysis`](crate::analysis) and for questions that are asked of documents
//! alone ([`reach`](crate::reach)), and leniently: what is wrong in a kind that is not
//! ours is not for us to report, and is passed over.
//!
//! Invariant: nothing here reaches the inventory that documents are put together to, so
//! that a template changes nothing that is in force.

use crate::inventory::{ObjectName, Workload};
use crate::names;
use crate::selectors::Labels;

use super::reader::{Fields, Reader};
use super::{metadata, objects};

/// Templates and custom resources of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// What pods will be made of templates: workloads without addresses, under the
    /// names of what holds the templates.
    pub templates: Vec<Workload>,
    /// Whether something was to be a template and cannot be read as one, so that
    /// workloads are missing here.
    pub is_missing_templates: bool,
    /// Custom resources with labels. Operators make pods of some, and those commonly
    /// have the labels of what they are made of.
    pub resources: Vec<Resource>,
}

/// A custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its own labels.
    pub labels: Labels,
}

impl Context {
    /// Takes a document, if it holds a template or is a custom resource.
    pub(super) fn take(&mut self, api_version: &str, kind: &str, fields: Fields<'_, '_>) {
        let mut reader = Reader::new(&"".into());
        match (api_version, kind) {
            ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet")
            | ("batch/v1", "Job")
            | ("v1", "ReplicationController") => {
                self.take_template(template(&mut reader, fields, &["spec", "template"]));
            }
            ("batch/v1", "CronJob") => {
                let path = ["spec", "jobTemplate", "spec", "template"];
                self.take_template(template(&mut reader, fields, &path));
            }
            _ if is_custom(api_version) => self.resources.extend(resource(&mut reader, fields)),
            _ => {}
        }
    }
}

impl Context {
    fn take_template(&mut self, template: Option<Workload>) {
        self.is_missing_templates |= template.is_none();
        self.templates.extend(template);
    }
}

/// Whether a group is neither one of Kubernetes' own, which have no dot or end like
/// this, nor ours, of which nobody makes pods.
fn is_custom(api_version: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    group.contains('.') && !group.ends_with(".k8s.io") && group != "cofferdam.dev"
}

fn resource(reader: &mut Reader, fields: Fields<'_, '_>) -> Option<Resource> {
    let (name, metadata) = object_name(reader, fields)?;
    let labels = metadata::labels(reader, metadata);
    (reader.errors() == 0 && labels.iter().len() > 0).then(|| Resource {
        namespace: (&*name.namespace).into(),
        labels,
    })
}

/// The name that a document carries, and its `metadata`.
fn object_name<'n, 't>(
    reader: &mut Reader,
    fields: Fields<'n, 't>,
) -> Option<(ObjectName, Fields<'n, 't>)> {
    let metadata = reader.mapping(fields.get("metadata")?, "`metadata`")?;
    let name = metadata::name(reader, metadata, names::subdomain)?;
    let namespace = metadata::namespace(reader, metadata)?;
    Some((ObjectName::new(namespace, name), metadata))
}

/// A pod as the template under `path` makes it.
fn template(reader: &mut Reader, fields: Fields<'_, '_>, path: &[&str]) -> Option<Workload> {
    let (name, _) = object_name(reader, fields)?;
    let mut template = fields;
    for key in path {
        template = reader.mapping(template.get(key)?, "a template")?;
    }
    let metadata = reader.mapping(template.get("metadata")?, "`metadata`")?;
    let workload = objects::pod(reader, template, metadata, name);
    (reader.errors() == 0).then(|| Workload {
        node: None,
        finished: false,
        addresses: Vec::new(),
        ..workload
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{assemble, parse};

    const TEXT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: a, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}}}}}
---
{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: k8s, namespace: m, labels: {app: prometheus}}}
---
{apiVersion: cofferdam.dev/v1alpha1, kind: PolicyTest, metadata: {name: t, labels: {app: t}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g, labels: {app: g}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: broken}, spec: {template: {metadata: {labels: [a]}}}}
"#;

    #[test]
    fn templates_are_read_and_what_is_wrong_in_them_is_passed_over() {
        let parsed = parse("a.yaml", TEXT.as_bytes());
        let context = &parsed.context;
        let names: Vec<String> = (context.templates.iter())
            .map(|template| template.name.to_string())
            .collect();
        assert_eq!(names, ["shop/api", "shop/nightly"]);
        assert_eq!(context.templates[0].ports.len(), 1);
        assert!(context.is_missing_templates);
        let without_broken = TEXT.rsplit_once("---").unwrap().0;
        assert!(
            !parse("a.yaml", without_broken.as_bytes())
                .context
                .is_missing_templates
        );
        let resource = Resource {
            namespace: "m".into(),
            labels: [("app", "prometheus")].into_iter().collect(),
        };
        assert_eq!(context.resources, [resource]);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        assert!(parsed.rejected.is_empty());
    }

    #[test]
    fn the_desired_state_has_nothing_of_them() {
        let parsed = parse("a.yaml", TEXT.as_bytes());
        assert_eq!(
            assemble(parsed.documents).inventory,
            crate::inventory::Inventory::default()
        );
    }
}
