//! Graphs as text for other programs: Graphviz, Mermaid, Markdown.
//!
//! Invariant: what a document calls something is data in the text, never part of its
//! language.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cofferdam_answers::graph::{GraphEdge, GraphNode, GraphReport};

/// The sign of a change before the ports of an edge.
pub(super) fn sign(edge: &GraphEdge) -> &'static str {
    match edge.change.as_deref() {
        Some("added") => "+ ",
        Some(_) => "- ",
        None => "",
    }
}

/// The ports of an edge, with the change, and the family if there is but one between ends
/// whose names do not tell it.
pub(super) fn label(report: &GraphReport, edge: &GraphEdge, ends: (usize, usize)) -> String {
    let is_outside = |at: usize| report.nodes[at].kind == "external";
    let family = match edge.families.as_slice() {
        [family] if !is_outside(ends.0) && !is_outside(ends.1) => format!(" (IPv{family})"),
        _ => String::new(),
    };
    format!("{}{}{family}", sign(edge), edge.ports)
}

/// The name of an end, and how many it is.
pub(super) fn name(node: &GraphNode) -> String {
    match node.members {
        0 | 1 => node.id.clone(),
        many => format!("{} ({many})", node.id),
    }
}

/// Nodes by namespace; those without one under "".
fn by_namespace(report: &GraphReport) -> BTreeMap<&str, Vec<(usize, &GraphNode)>> {
    let mut namespaces: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (at, node) in report.nodes.iter().enumerate() {
        let namespace = node.namespace.as_deref().unwrap_or_default();
        namespaces.entry(namespace).or_default().push((at, node));
    }
    namespaces
}

/// Positions of nodes by their ids.
pub(super) fn positions(report: &GraphReport) -> BTreeMap<&str, usize> {
    let nodes = report.nodes.iter().zip(0..);
    nodes.map(|(node, at)| (node.id.as_str(), at)).collect()
}

fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', " ")
    )
}

pub(super) fn dot(report: &GraphReport) -> String {
    let mut text =
        "digraph cofferdam {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n".to_owned();
    let put = &mut text;
    for (number, (namespace, nodes)) in by_namespace(report).into_iter().enumerate() {
        if !namespace.is_empty() {
            line(put, format_args!("  subgraph cluster_{number} {{"));
            line(put, format_args!("    label={};", quoted(namespace)));
        }
        for (at, node) in nodes {
            let shape = match node.kind.as_str() {
                "pod" => "box",
                "node" => "hexagon",
                "service" => "parallelogram",
                _ => "ellipse",
            };
            line(
                put,
                format_args!("    n{at} [label={}, shape={shape}];", quoted(&name(node))),
            );
        }
        if !namespace.is_empty() {
            line(put, format_args!("  }}"));
        }
    }
    let positions = positions(report);
    for edge in &report.edges {
        let (from, to) = (
            positions[edge.source.as_str()],
            positions[edge.destination.as_str()],
        );
        let look = match edge.change.as_deref() {
            Some("added") => ", color=darkgreen, penwidth=2",
            Some(_) => ", color=firebrick, style=dashed",
            None => "",
        };
        let label = quoted(&label(report, edge, (from, to)));
        let rules = quoted(&edge.rules.join(", "));
        line(
            put,
            format_args!("  n{from} -> n{to} [label={label}, tooltip={rules}{look}];"),
        );
    }
    text + "}\n"
}

/// Text within quotes of Mermaid, which knows entities by number.
fn entities(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '/' | '-' | '.' | ',' | '_' | '+' => {
                safe.push(character)
            }
            other => write!(safe, "#{};", u32::from(other)).expect("writing to a string"),
        }
    }
    safe
}

pub(super) fn mermaid(report: &GraphReport) -> String {
    let mut text = "flowchart LR\n".to_owned();
    let put = &mut text;
    for (number, (namespace, nodes)) in by_namespace(report).into_iter().enumerate() {
        if !namespace.is_empty() {
            line(
                put,
                format_args!("  subgraph s{number} [\"{}\"]", entities(namespace)),
            );
        }
        for (at, node) in nodes {
            let name = entities(&name(node));
            match node.kind.as_str() {
                "pod" => line(put, format_args!("    n{at}[\"{name}\"]")),
                "node" => line(put, format_args!("    n{at}{{{{\"{name}\"}}}}")),
                "service" => line(put, format_args!("    n{at}[/\"{name}\"/]")),
                _ => line(put, format_args!("    n{at}([\"{name}\"])")),
            }
        }
        if !namespace.is_empty() {
            line(put, format_args!("  end"));
        }
    }
    let positions = positions(report);
    for edge in &report.edges {
        let (from, to) = (
            positions[edge.source.as_str()],
            positions[edge.destination.as_str()],
        );
        let arrow = match edge.change.as_deref() {
            Some("added") => "==>",
            Some(_) => "-.->",
            None => "-->",
        };
        let label = entities(&label(report, edge, (from, to)));
        line(put, format_args!("  n{from} {arrow}|\"{label}\"| n{to}"));
    }
    text
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('\n', " ")
        .replace('<', "&lt;")
}

pub(super) fn markdown(report: &GraphReport) -> String {
    let mut text = format!("```mermaid\n{}```\n", mermaid(report));
    if report.edges.is_empty() {
        return text + "\nThere is nothing to draw.\n";
    }
    text += "\n| from | to | ports | by |\n|---|---|---|---|\n";
    let positions = positions(report);
    for edge in &report.edges {
        let ends = (
            positions[edge.source.as_str()],
            positions[edge.destination.as_str()],
        );
        let [source, destination, ports, rules] = [
            edge.source.as_str(),
            &edge.destination,
            &label(report, edge, ends),
            &edge.rules.join(", "),
        ]
        .map(cell);
        line(
            &mut text,
            format_args!("| {source} | {destination} | {ports} | {rules} |"),
        );
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(quoted("a\" ]; b \\"), "\"a\\\" ]; b \\\\\"");
        assert_eq!(entities("node/* (2)\"<"), "node/#42; #40;2#41;#34;#60;");
        assert_eq!(cell("a|b<c"), "a\\|b&lt;c");
    }
}
