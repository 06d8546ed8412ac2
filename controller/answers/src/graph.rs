//! Connections as nodes and edges, for every form in which `graph` draws them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use cofferdam_analysis::connectivity::{
    Changes, Connectivity, Focus, ListedEnd, PortSpan, Set, words,
};
use cofferdam_compiler::RuleEntry;
use cofferdam_protocol::output::{Diagnostic, Schema, place as place_of};
use cofferdam_reach::EndKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::explain::family_number;

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphNode {
    /// `namespace/workload`, `node/NAME`, `node/*`, `service/NAMESPACE/NAME`, or CIDRs.
    pub id: String,
    /// `pod`, `node`, `service`, or `external` for outside addresses.
    pub kind: String,
    /// The namespace of a workload or Service.
    pub namespace: Option<String>,
    /// Number of pods or nodes that it is, or that are behind it; 0 for outside addresses.
    pub members: u64,
}

/// Connections from one end to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphEdge {
    /// The sender.
    pub source: String,
    /// The receiver.
    pub destination: String,
    /// `tcp/80, tcp/8000-8080`, `other` for protocols without ports, or `all`.
    pub ports: String,
    /// Over which families: 4, 6.
    pub families: Vec<u8>,
    /// The rules that allow, or that make the change: `namespace/policy (file:line)`.
    pub rules: Vec<String>,
    /// `added` or `removed` where two sets are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// Answer of `graph`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphReport {
    /// The version of this object.
    pub schema: Schema,
    /// The ends, in the order of their names; outside addresses come last.
    pub nodes: Vec<GraphNode>,
    /// Connections.
    pub edges: Vec<GraphEdge>,
    /// Pairs of ends of which nothing is drawn because no policy isolates either: everything
    /// is allowed there.
    pub left_out: u64,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parts that tell edges apart: ends, ports, and the change.
type EdgeKey = (String, String, String, Option<&'static str>);

/// Edges being put together.
#[derive(Default)]
struct Edges {
    nodes: BTreeMap<(EndKind, String), GraphNode>,
    edges: BTreeMap<EdgeKey, (BTreeSet<u8>, BTreeSet<String>)>,
}

impl Edges {
    fn node(&mut self, kind: EndKind, id: &str, namespace: Option<&str>, members: usize) {
        let node = || GraphNode {
            id: id.to_owned(),
            kind: kind.as_str().to_owned(),
            namespace: namespace.map(str::to_owned),
            members: members as u64,
        };
        self.nodes.entry((kind, id.to_owned())).or_insert_with(node);
    }

    fn listed(&mut self, end: &ListedEnd<'_>) {
        match end {
            ListedEnd::Group(group) => {
                let namespace = group.namespace.as_deref();
                self.node(group.kind, &group.id, namespace, group.members.len());
            }
            ListedEnd::Service(service) => {
                let namespace = Some(&*service.namespace);
                let members = service.members.len();
                self.node(EndKind::Service, &service.id, namespace, members);
            }
            ListedEnd::Outside(outside) => self.node(EndKind::External, &outside.id(), None, 0),
        }
    }

    fn report(self, left_out: u64, diagnostics: Vec<Diagnostic>) -> GraphReport {
        let edges = self.edges.into_iter().map(
            |((source, destination, ports, change), (families, rules))| GraphEdge {
                source,
                destination,
                ports,
                families: families.into_iter().collect(),
                rules: rules.into_iter().collect(),
                change: change.map(str::to_owned),
            },
        );
        GraphReport {
            schema: Schema,
            nodes: self.nodes.into_values().collect(),
            edges: edges.collect(),
            left_out,
            diagnostics,
        }
    }
}

/// A rule by its policy and place.
fn called(entry: &RuleEntry) -> String {
    let place = &entry.place;
    format!(
        "{} ({})",
        entry.key.policy,
        place_of(&place.file, &[place.line])
    )
}

impl GraphReport {
    /// Draws what is allowed; with `is_all` also where no policy isolates either end.
    #[must_use]
    pub fn of_state(
        connectivity: &Connectivity,
        focus: &Focus,
        is_all: bool,
        diagnostics: Vec<Diagnostic>,
    ) -> Self {
        let mut edges = Edges::default();
        let mut left_out = BTreeSet::new();
        for (at, group) in connectivity.groups().iter().enumerate() {
            let is_chosen = (focus.groups.as_ref()).is_none_or(|chosen| chosen.contains(&at));
            if group.outside.is_none() && is_chosen {
                edges.listed(&ListedEnd::Group(group));
            }
        }
        if focus.services {
            let positions = connectivity.groups().len()..;
            for (at, service) in positions.zip(connectivity.services()) {
                if (focus.groups.as_ref()).is_none_or(|chosen| chosen.contains(&at)) {
                    edges.listed(&ListedEnd::Service(service));
                }
            }
        }
        let done = connectivity.connections(focus, |connection| {
            let (source, destination) = (connection.source.id(), connection.destination.id());
            let allowed = connection.allowed.iter();
            let rules = allowed
                .flat_map(|span| span.egress.iter().chain(&span.ingress))
                .filter_map(|rule| connectivity.rules().rule(*rule))
                .map(called);
            let rules: Vec<String> = rules.collect();
            if rules.is_empty() && !is_all {
                left_out.insert((source, destination));
                return Ok::<(), Infallible>(());
            }
            edges.listed(&connection.source);
            edges.listed(&connection.destination);
            let ports: Vec<PortSpan> = connection.allowed.iter().map(|span| span.ports).collect();
            let key = (
                source.to_string(),
                destination.to_string(),
                words(&ports),
                None,
            );
            let (families, named) = edges.edges.entry(key).or_default();
            families.insert(family_number(connection.family));
            named.extend(rules);
            Ok(())
        });
        match done {
            Ok(()) => edges.report(left_out.len() as u64, diagnostics),
            Err(never) => match never {},
        }
    }

    /// Draws what has changed; of connections to Services only with these.
    #[must_use]
    pub fn of_changes(changes: &Changes, services: bool, diagnostics: Vec<Diagnostic>) -> Self {
        let mut edges = Edges::default();
        let is_drawn = |end: usize| services || changes.ends()[end].kind != EndKind::Service;
        let drawn = changes.all().iter();
        for change in drawn.filter(|change| is_drawn(change.destination)) {
            let ends = [change.source, change.destination].map(|at| &changes.ends()[at]);
            for end in ends {
                let name = match end.kind {
                    EndKind::Pod => Some(&*end.id),
                    EndKind::Service => end.id.strip_prefix("service/"),
                    EndKind::Node | EndKind::External => None,
                };
                let namespace = name
                    .and_then(|name| name.split_once('/'))
                    .map(|(namespace, _)| namespace);
                edges.node(end.kind, &end.id, namespace, end.members.len());
            }
            let mut by_kind: BTreeMap<&'static str, (Vec<PortSpan>, Vec<String>)> = BTreeMap::new();
            for span in change.spans.iter() {
                let (ports, rules) = by_kind.entry(span.kind.as_str()).or_default();
                ports.push(span.ports);
                for (set, rule) in [(Set::New, span.rule), (Set::Old, span.was)] {
                    let known = changes.state(set).rules();
                    rules.extend(rule.and_then(|rule| known.rule(rule)).map(called));
                }
            }
            for (kind, (ports, rules)) in by_kind {
                let [source, destination] = ends.map(|end| end.id.to_string());
                let key = (source, destination, words(&ports), Some(kind));
                let (families, named) = edges.edges.entry(key).or_default();
                families.insert(family_number(change.family));
                named.extend(rules);
            }
        }
        edges.report(0, diagnostics)
    }
}
