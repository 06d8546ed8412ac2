//! The report for people: each finding with its line, as compilers show them.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use cofferdam_protocol::output::{Diagnostic, Severity};

use super::excerpt::Texts;
use crate::output::{CapacityReport, CheckReport};

pub(super) fn report(report: &CheckReport, texts: &Texts<'_>) -> String {
    // Colours are for eyes: a file or a pipe gets none.
    let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let renderer = if is_coloured {
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
    let count = |number: u64, one: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    };
    let left_out = match report.rejected {
        0 => String::new(),
        rejected => format!(" ({rejected} left out)"),
    };
    let found = match (report.errors, report.warnings) {
        (0, 0) => "nothing found".to_owned(),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    writeln!(
        text,
        "{} in {}{left_out}: {found}",
        count(report.accepted + report.rejected, "document"),
        count(report.files, "file"),
    )
    .expect("writing to a string");
    text
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
