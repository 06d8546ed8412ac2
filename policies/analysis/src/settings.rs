//! Settings of ours where nobody reads them, and those by which policies deny nothing.

use std::sync::Arc;

use cofferdam_documents::ENFORCEMENT;
use cofferdam_documents::reader::Shown;
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::yaml::{Entry, Node, Value};

use super::places::{entries, entry, place, value};
use super::{Findings, Project};

/// Prefix of the names of Cofferdam's settings.
const PREFIX: &str = "cofferdam.dev/";

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    for file in &project.files {
        if !project.places.mentions(file, PREFIX) {
            continue;
        }
        for document in project.places.documents(file) {
            let Some(metadata) = value(document, "metadata") else {
                continue;
            };
            let (file, hint) = (
                &Arc::from(*file),
                "write it under `annotations` of a policy",
            );
            let elsewhere = "on anything but a policy";
            match text(value(document, "kind")) {
                Some(kind) if kind.ends_with("NetworkPolicy") => misplaced(
                    findings,
                    (file, ours(metadata, "labels")),
                    "as a label: the policy is in force as if it were not there",
                    "write it under `annotations`",
                ),
                Some("Namespace") => {
                    misplaced(
                        findings,
                        (file, ours(metadata, "labels")),
                        "as a label: policies are enforced as if it were not there",
                        "write it under `annotations`",
                    );
                    audited(findings, file, metadata);
                }
                _ => {
                    for key in ["labels", "annotations"] {
                        misplaced(findings, (file, ours(metadata, key)), elsewhere, hint);
                    }
                }
            }
        }
    }
}

fn text<'n>(node: Option<&'n Node<'_>>) -> Option<&'n str> {
    match &node?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The settings of ours under a key of `metadata`, with their names.
fn ours<'n, 't>(
    metadata: &'n Node<'t>,
    key: &str,
) -> impl Iterator<Item = (&'n str, &'n Entry<'t>)> {
    let all = value(metadata, key).map_or(&[][..], entries).iter();
    let named = all.filter_map(|entry| Some((text(Some(&entry.key))?, entry)));
    named.filter(|(name, _)| name.starts_with(PREFIX))
}

fn misplaced<'n, 't: 'n>(
    findings: &mut Findings,
    (file, settings): (&Arc<str>, impl Iterator<Item = (&'n str, &'n Entry<'t>)>),
    message: &str,
    hint: &str,
) {
    for (name, entry) in settings {
        findings.warn(
            place(file, entry.key.mark),
            Code::MisplacedSetting,
            format!("`{}` has no effect {message}", Shown(name)),
            hint.to_owned(),
        );
    }
}

/// Says that a namespace is on audit.
fn audited(findings: &mut Findings, file: &Arc<str>, metadata: &Node<'_>) {
    let setting = value(metadata, "annotations").and_then(|node| entry(node, ENFORCEMENT));
    let Some(setting) = setting.filter(|entry| text(Some(&entry.value)) == Some("audit")) else {
        return;
    };
    let name = text(value(metadata, "name")).unwrap_or_default();
    findings.warn(
        place(file, setting.key.mark),
        Code::AuditedNamespace,
        format!(
            "namespace `{}` is on audit: what policies deny its workloads passes, and is only \
             reported",
            Shown(name)
        ),
        format!("when no audit record is left that matters, remove `{ENFORCEMENT}`"),
    );
}
