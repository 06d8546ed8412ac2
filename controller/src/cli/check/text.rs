//! The report for people: each finding with its line, as compilers show them.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use cofferdam_protocol::output::{Diagnostic, Severity};

use super::super::is_coloured;
use super::super::text::count;
use super::excerpt::Texts;
use crate::output::{self, CapacityReport, CheckReport, LookedAt, PassedOver, Unrendered};

/// Most folders that are named with the command that renders them.
const MOST_FOLDERS: usize = 5;

pub(super) fn report(report: &CheckReport, texts: &Texts<'_>) -> String {
    let renderer = if is_coloured() {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = String::new();
    for diagnostic in &report.diagnostics {
        text += &finding(diagnostic, texts, &renderer);
        text += "\n\n";
    }
    if let Some(capacity) = &report.capacity {
        put_capacity(&mut text, capacity);
    }
    let found = match (report.errors, report.warnings) {
        (0, 0) => "nothing found".to_owned(),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    let documents = count(report.accepted + report.rejected, "document");
    let files = count(report.files, "file");
    let left_out = match report.rejected {
        0 => String::new(),
        rejected => format!(" ({rejected} left out)"),
    };
    put(
        &mut text,
        format_args!("{documents} in {files}{left_out}: {found}"),
    );
    put_looked_at(&mut text, report);
    text
}

/// Says what was looked at, where that is not what the documents are alone, and what was
/// not.
fn put_looked_at(text: &mut String, report: &CheckReport) {
    let LookedAt {
        policies,
        workloads,
        namespaces,
        nodes,
        services,
        others,
    } = report.looked_at;
    // Documents alone, policies among them: the line above says it.
    let documents = policies + workloads + namespaces + nodes + services;
    let is_said = policies > 0
        && others == 0
        && documents == report.accepted
        && report.passed_over == PassedOver::default()
        && report.unrendered.is_empty();
    if is_said {
        return;
    }
    let kinds = [
        (policies, "policy"),
        (workloads, "workload"),
        (namespaces, "namespace"),
        (nodes, "node"),
        (services, "Service"),
    ];
    let kinds: Vec<String> = (kinds.into_iter())
        .filter(|(number, _)| *number > 0)
        .map(|(number, one)| count(number, one))
        .collect();
    let others = match others {
        0 => String::new(),
        others => format!("; {} of other kinds", count(others, "object")),
    };
    if kinds.is_empty() {
        put(
            text,
            format_args!("no policy and no workload was looked at{others}"),
        );
    } else {
        put(text, format_args!("looked at {}{others}", kinds.join(", ")));
    }
    if policies == 0 && !kinds.is_empty() {
        put(text, format_args!("there is no policy among them"));
    }
    let PassedOver {
        no_objects,
        templates,
        patches,
        left_out,
        unreadable,
    } = report.passed_over;
    let passed = [
        (no_objects, "document", "no Kubernetes object"),
        (templates, "template", "to be rendered"),
        (patches, "file", "of patches"),
        (left_out, "path", "left out by patterns"),
        (unreadable, "name", "that leads to no file"),
    ];
    let passed: Vec<String> = (passed.into_iter())
        .filter(|(number, ..)| *number > 0)
        .map(|(number, one, why)| match one {
            "document" => format!("{} ({why})", count(number, one)),
            _ => format!("{} {why}", count(number, one)),
        })
        .collect();
    if !passed.is_empty() {
        put(text, format_args!("passed over: {}", passed.join(", ")));
    }
    for one in report.unrendered.iter().take(MOST_FOLDERS) {
        let renderer = match one.renderer {
            output::Renderer::Kustomize => "kustomize folder",
            output::Renderer::Helm => "chart",
        };
        let Unrendered {
            folder, command, ..
        } = one;
        put(
            text,
            format_args!("{renderer} {folder} is not rendered: {command} | cofferdam check -"),
        );
    }
    let beyond = report.unrendered.len().saturating_sub(MOST_FOLDERS);
    if beyond > 0 {
        put(
            text,
            format_args!("{} more to render", count(beyond as u64, "folder")),
        );
    }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string");
}

fn finding(diagnostic: &Diagnostic, texts: &Texts<'_>, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code.as_str());
    let mut group = Group::with_title(title);
    match texts.excerpt(diagnostic) {
        Some(excerpt) => {
            let snippet = Snippet::source(excerpt.line)
                .path(diagnostic.file.as_str())
                .line_start(diagnostic.line as usize)
                .annotation(AnnotationKind::Primary.span(excerpt.part));
            group = group.element(snippet);
        }
        None if diagnostic.file.is_empty() => {}
        None => {
            let origin = Origin::path(diagnostic.file.as_str())
                .line(diagnostic.line as usize)
                .char_column(diagnostic.column as usize);
            group = group.element(origin);
        }
    }
    if let Some(hint) = &diagnostic.hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    renderer.render(&[group])
}

fn put_capacity(text: &mut String, capacity: &CapacityReport) {
    for node in &capacity.nodes {
        let name = node.node.as_deref().unwrap_or("a node with all workloads");
        writeln!(text, "capacity of {name}, {} workloads:", node.workloads)
            .expect("writing to a string");
        for table in &node.tables {
            let max = match table.max {
                0 => String::new(),
                max => format!(" of {max}"),
            };
            writeln!(
                text,
                "  {:<12} {:>9}{max}{}",
                table.table,
                table.used,
                match table.bytes {
                    0 => String::new(),
                    bytes => format!(", {bytes} bytes"),
                }
            )
            .expect("writing to a string");
        }
    }
    if capacity.untried > 0 {
        writeln!(
            text,
            "{} nodes with fewer workloads were not tried; `--node NAME` tries one",
            capacity.untried
        )
        .expect("writing to a string");
    }
    text.push('\n');
}
