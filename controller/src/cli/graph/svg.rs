//! Graphs as pictures. What colours tell is told by shapes and signs as well.

use std::fmt::Write as _;

use cofferdam_answers::graph::{GraphEdge, GraphNode, GraphReport};

use super::layout::{Layout, lay_out};
use super::text::{label, name, positions};

/// Width of a character, in pixels, of the font that is asked for; none is measured.
const CHARACTER: usize = 8;
/// Height of a node.
const HEIGHT: usize = 34;
/// Height of a bend of an edge that leads past the nodes of a layer.
const BEND: usize = 8;
/// Room between nodes of a layer.
const GAP: usize = 26;
/// Room between layers, for the words of edges.
const BETWEEN: usize = 190;
/// Room around everything.
const MARGIN: usize = 30;
/// Most characters of a name that are drawn; the rest is in its title.
const MOST: usize = 44;

/// Fills by namespace, pale enough for black words.
const FILLS: [&str; 6] = [
    "#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#cffafe",
];

/// Looks of the parts of a picture.
const STYLE: &str = "\
text{font:13px ui-monospace,monospace;fill:#111}\
.node rect,.node polygon,.node ellipse{stroke:#333;stroke-width:1.5}\
.edge path{fill:none;stroke:#555;stroke-width:1.3}\
.edge text{font-size:11px;fill:#333;paint-order:stroke;stroke:#fff;stroke-width:3px}\
.added path{stroke:#15803d;stroke-width:3}.added text{fill:#15803d}\
.removed path{stroke:#b91c1c;stroke-dasharray:6 4}.removed text{fill:#b91c1c}";

/// A place in the picture, in pixels.
#[derive(Clone, Copy, Default)]
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

impl Place {
    fn middle(self) -> usize {
        self.y + self.height / 2
    }

    fn end(self) -> usize {
        self.x + self.width
    }
}

/// Text that is no markup.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML has no way to write these.
            other if other.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

fn shortened(text: &str) -> String {
    match text.chars().count() {
        length if length > MOST => text.chars().take(MOST - 1).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

pub(super) fn picture(report: &GraphReport) -> String {
    let positions = positions(report);
    let ends = |edge: &GraphEdge| {
        (
            positions[edge.source.as_str()],
            positions[edge.destination.as_str()],
        )
    };
    let edges: Vec<(usize, usize)> = report.edges.iter().map(ends).collect();
    let names: Vec<String> = report
        .nodes
        .iter()
        .map(|node| shortened(&name(node)))
        .collect();
    let Layout { layers, bends } = lay_out(names.len(), &edges);
    let mut places = vec![Place::default(); layers.iter().map(Vec::len).sum()];
    let (mut right, mut bottom) = (MARGIN, 0);
    for layer in layers {
        let width = layer
            .iter()
            .filter_map(|node| names.get(*node))
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0);
        let width = width * CHARACTER + 24;
        let mut y = MARGIN;
        for node in &layer {
            let height = match names.get(*node) {
                Some(_) => HEIGHT,
                None => BEND,
            };
            places[*node] = Place {
                x: right,
                y,
                width,
                height,
            };
            bottom = bottom.max(y + height);
            y += height + GAP;
        }
        right += width + BETWEEN;
    }
    let width = (right + MARGIN).saturating_sub(BETWEEN).max(360);
    let height = bottom + 2 * MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>Who reaches whom</title>\n\
         <style>{STYLE}</style>\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" \
         markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\">\
         <path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n"
    );
    if report.edges.is_empty() && report.nodes.is_empty() {
        writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"{MARGIN}\">There is nothing to draw.</text>"
        )
        .expect("writing to a string");
    }
    for (edge, (from, to)) in report.edges.iter().zip(&edges) {
        let label = label(report, edge, (*from, *to));
        let bends = bends.get(&(*from, *to)).into_iter().flatten();
        let stops = [from].into_iter().chain(bends).chain([to]);
        let stops: Vec<Place> = stops.map(|node| places[*node]).collect();
        draw_edge(&mut text, edge, &label, &stops, (*from, *to)).expect("writing to a string");
    }
    for (at, (node, name)) in report.nodes.iter().zip(&names).enumerate() {
        draw_node(&mut text, at, node, name, places[at]).expect("writing to a string");
    }
    text + "</svg>\n"
}

fn draw_edge(
    text: &mut String,
    edge: &GraphEdge,
    label: &str,
    stops: &[Place],
    (from, to): (usize, usize),
) -> std::fmt::Result {
    let [a, next, ..] = stops else {
        unreachable!("an edge has two ends");
    };
    // Forwards from right to left side; backwards and within a layer around the right.
    let (way, x, y) = if next.x > a.end() {
        let mut way = format!("M{} {}", a.end(), a.middle());
        for pair in stops.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            let (ay, by) = (before.middle(), after.middle());
            let middle = (before.end() + after.x) / 2;
            let curve = format!("C{middle} {ay} {middle} {by} {} {by}", after.x);
            way.push_str(&curve);
            if after.height == BEND {
                way.push_str(&format!("H{}", after.end()));
            }
        }
        let middle = (a.end() + next.x) / 2;
        (way, middle, usize::midpoint(a.middle(), next.middle()))
    } else {
        let (ay, by) = (a.middle(), next.middle());
        let around = a.end().max(next.end()) + 60;
        // What leads from an end to itself needs room to be seen.
        let ay = if from == to {
            ay.saturating_sub(10)
        } else {
            ay
        };
        let way = format!(
            "M{} {ay}C{around} {ay} {around} {by} {} {by}",
            a.end(),
            next.end()
        );
        (way, around, usize::midpoint(ay, by))
    };
    let class = edge.change.as_deref().unwrap_or("allowed");
    let title = format!(
        "{} -> {}: {label}\n{}",
        edge.source,
        edge.destination,
        edge.rules.join("\n")
    );
    let title: Vec<String> = title.lines().map(escaped).collect();
    writeln!(
        text,
        "<g class=\"edge {class}\" data-from=\"{from}\" data-to=\"{to}\"><title>{}</title>\
         <path d=\"{way}\" marker-end=\"url(#tip)\"/><text x=\"{x}\" y=\"{}\" \
         text-anchor=\"middle\">{}</text></g>",
        title.join("\n"),
        y.saturating_sub(4),
        escaped(&shortened(label)),
    )
}

fn draw_node(
    text: &mut String,
    at: usize,
    node: &GraphNode,
    name: &str,
    Place { x, y, width, .. }: Place,
) -> std::fmt::Result {
    let namespace = node.namespace.as_deref().unwrap_or_default();
    let sum: usize = namespace.bytes().map(usize::from).sum();
    let fill = match node.kind.as_str() {
        "pod" | "service" => FILLS[sum % FILLS.len()],
        _ => "#f3f4f6",
    };
    let (middle, half) = (x + width / 2, y + HEIGHT / 2);
    let shape = match node.kind.as_str() {
        "pod" => format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"{fill}\"/>"
        ),
        "node" => {
            let (right, bottom) = (x + width, y + HEIGHT);
            let (inner, outer) = (x + 12, right - 12);
            format!(
                "<polygon points=\"{x},{half} {inner},{y} {outer},{y} {right},{half} {outer},{bottom} {inner},{bottom}\" fill=\"{fill}\"/>"
            )
        }
        "service" => {
            let (right, bottom) = (x + width, y + HEIGHT);
            let (inner, outer) = (x + 12, right - 12);
            format!(
                "<polygon points=\"{inner},{y} {right},{y} {outer},{bottom} {x},{bottom}\" fill=\"{fill}\"/>"
            )
        }
        _ => format!(
            "<ellipse cx=\"{middle}\" cy=\"{half}\" rx=\"{}\" ry=\"{}\" fill=\"{fill}\"/>",
            width / 2,
            HEIGHT / 2
        ),
    };
    writeln!(
        text,
        "<g class=\"node {}\" data-at=\"{at}\" data-namespace=\"{}\" data-name=\"{}\"><title>{}</title>{shape}\
         <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text></g>",
        node.kind,
        escaped(namespace),
        escaped(&node.id),
        escaped(&node.id),
        half + 5,
        escaped(name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escaped("<a b='\"&\u{1}>"), "&lt;a b=&#39;&quot;&amp; &gt;");
        assert_eq!(shortened(&"x".repeat(50)).chars().count(), MOST);
    }
}
