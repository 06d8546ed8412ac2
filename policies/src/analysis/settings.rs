//! Settings of ours where nobody reads them.

use crate::diagnostic::Code;
use crate::documents::reader::Shown;
use crate::yaml::{Node, Value};

use super::places::{entries, place, value};
use super::{Findings, Project};

/// What begins the names of our settings.
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
            let is_policy = matches!(
                value(document, "kind"),
                Some(Node { value: Value::Text(kind), .. }) if kind.ends_with("NetworkPolicy")
            );
            let mut report = |key: &str, message: &str, hint: &str| {
                for entry in value(metadata, key).map_or(&[][..], entries) {
                    if let Value::Text(name) = &entry.key.value
                        && name.starts_with(PREFIX)
                    {
                        findings.warn(
                            place(&(*file).into(), entry.key.mark),
                            Code::MisplacedSetting,
                            format!("`{}` has no effect {message}", Shown(name)),
                            hint.to_owned(),
                        );
                    }
                }
            };
            if is_policy {
                report(
                    "labels",
                    "as a label: the policy is in force as if it were not there",
                    "write it under `annotations`",
                );
            } else {
                let hint = "write it under `annotations` of a policy";
                report("labels", "on anything but a policy", hint);
                report("annotations", "on anything but a policy", hint);
            }
        }
    }
}
