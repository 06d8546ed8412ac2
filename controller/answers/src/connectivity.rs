//! Answers of `list` and `diff`.

use std::collections::BTreeMap;

use cofferdam_analysis::connectivity::{
    AllowedSpan, Change, ChangeKind, ChangedEnd, ChangedSpan, Changes, Connection, Connectivity,
    Group, Lane, ListedEnd, Outside, PortSpan, ServiceBackend, ServiceEnd, Set,
};
use cofferdam_compiler::RuleEntry;
use cofferdam_protocol::output::{Diagnostic, Schema};
use cofferdam_reach::EndKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::explain::family_number;
use crate::reach::{RuleReport, direction_word};

/// The word for every protocol, and for every port.
const ALL: &str = "all";

/// Ends that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupReport {
    /// `namespace/workload`, `node/NAME`, `node/*`, `service/NAMESPACE/NAME`, or CIDRs.
    pub id: String,
    /// `pod`, `node`, `service`, or `external` for outside addresses.
    pub kind: String,
    /// The pods or nodes; of a Service those behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// The outside addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// `old` or `new` where only one of the sets that are compared has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
}

impl From<&Group> for GroupReport {
    fn from(group: &Group) -> Self {
        let members = group.members.iter().map(|member| member.id.to_string());
        Self {
            id: group.id.to_string(),
            kind: group.kind.as_str().to_owned(),
            members: members.collect(),
            cidrs: group.outside.iter().flat_map(cidrs).collect(),
            only: None,
        }
    }
}

impl From<&ServiceEnd> for GroupReport {
    fn from(service: &ServiceEnd) -> Self {
        Self {
            id: service.id.to_string(),
            kind: EndKind::Service.as_str().to_owned(),
            members: service.members.iter().map(ToString::to_string).collect(),
            cidrs: Vec::new(),
            only: None,
        }
    }
}

impl From<&Outside> for GroupReport {
    fn from(outside: &Outside) -> Self {
        Self {
            id: outside.id(),
            kind: EndKind::External.as_str().to_owned(),
            members: Vec::new(),
            cidrs: cidrs(outside),
            only: None,
        }
    }
}

impl From<&ChangedEnd> for GroupReport {
    fn from(end: &ChangedEnd) -> Self {
        Self {
            id: end.id.to_string(),
            kind: end.kind.as_str().to_owned(),
            members: end.members.iter().map(ToString::to_string).collect(),
            cidrs: end.outside.iter().flat_map(cidrs).collect(),
            only: end.only.map(|set| set_word(set).to_owned()),
        }
    }
}

fn cidrs(outside: &Outside) -> Vec<String> {
    outside.cidrs().iter().map(ToString::to_string).collect()
}

/// The word for one of two sets in JSON.
#[must_use]
pub fn set_word(set: Set) -> &'static str {
    match set {
        Set::Old => "old",
        Set::New => "new",
    }
}

/// An end behind a Service.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct BackendReport {
    /// The workload or node, or an address that is nobody's.
    pub id: String,
    /// The port at which it takes the connections, `80`; null if it is the one that was asked
    /// for.
    pub port: Option<u16>,
}

impl From<ServiceBackend> for BackendReport {
    fn from(backend: ServiceBackend) -> Self {
        Self {
            id: backend.id.to_string(),
            port: backend.port,
        }
    }
}

/// The backends of a Service behind ports that changed.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct ChangedBackends {
    /// In the old set.
    pub old: Vec<BackendReport>,
    /// In the new set.
    pub new: Vec<BackendReport>,
}

/// Connections that are allowed between two groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionReport {
    /// The sender.
    pub source: String,
    /// The receiver.
    pub destination: String,
    /// The family: 4 or 6.
    pub family: u8,
    /// `tcp`, `udp`, `sctp`, `other` for all protocols without ports, or `all`.
    pub protocol: String,
    /// `80`, `8000-8080`, or `all`.
    pub ports: String,
    /// Rules by which the sender's egress allows; none where no policy isolates it.
    pub egress: Vec<u32>,
    /// Rules by which the receiver's ingress allows; none where no policy isolates it.
    pub ingress: Vec<u32>,
    /// Of a Service, who takes the connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendReport>,
}

impl ConnectionReport {
    /// A connection, each range of ports by itself.
    #[must_use]
    pub fn of(connection: &Connection<'_>) -> Vec<Self> {
        let said = |span: &AllowedSpan| AllowedSpan {
            ports: PortSpan::whole(Lane::Portless),
            ..span.clone()
        };
        let ranges = ranges(&connection.allowed, |span| span.ports, said);
        let (source, destination) = (connection.source.id(), connection.destination.id());
        let report = |(protocol, ports, span): (String, String, &AllowedSpan)| Self {
            source: source.to_string(),
            destination: destination.to_string(),
            family: family_number(connection.family),
            protocol,
            ports,
            egress: span.egress.clone(),
            ingress: span.ingress.clone(),
            backends: span.backends.iter().cloned().map(Into::into).collect(),
        };
        ranges.into_iter().map(report).collect()
    }
}

/// The protocol and ports of each span in words; of all lanes, of which the same is to be
/// said, together.
fn ranges<T, S: PartialEq>(
    spans: &[T],
    ports: impl Fn(&T) -> PortSpan,
    said: impl Fn(&T) -> S,
) -> Vec<(String, String, &T)> {
    let is_all = spans.len() == Lane::ALL.len()
        && spans.iter().all(|span| ports(span).is_whole())
        && spans.windows(2).all(|two| said(&two[0]) == said(&two[1]));
    if is_all {
        return vec![(ALL.to_owned(), ALL.to_owned(), &spans[0])];
    }
    let range = |span| {
        let ports = ports(span);
        (ports.lane.as_str().to_owned(), ports.ports(), span)
    };
    spans.iter().map(range).collect()
}

/// Numbers of what was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LookedAt {
    /// Pods that have not ended, templates included.
    pub pods: u64,
    /// Groups of pods that are treated alike.
    pub workloads: u64,
    /// Nodes.
    pub nodes: u64,
    /// Sets of outside addresses that policies tell apart.
    pub outside: u64,
    /// Policies of both kinds.
    pub policies: u64,
}

impl LookedAt {
    /// Counts what a list is about.
    #[must_use]
    pub fn new(connectivity: &Connectivity) -> Self {
        let of = |kind: EndKind| {
            let groups = connectivity.groups().iter();
            groups.filter(move |group| group.kind == kind)
        };
        let members = |kind| {
            of(kind)
                .map(|group| group.members.len() as u64)
                .sum::<u64>()
        };
        let inventory = connectivity.inventory();
        let policies =
            inventory.policies().values().count() + inventory.cluster_policies().values().count();
        Self {
            pods: members(EndKind::Pod),
            workloads: of(EndKind::Pod).count() as u64,
            nodes: members(EndKind::Node),
            outside: of(EndKind::External).count() as u64,
            policies: policies as u64,
        }
    }
}

/// Answer of `list`.
///
/// `Connections` and `Groups` are lists as they are read; as they are written, they may be
/// streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListReport")]
pub struct ListReport<Connections = Vec<ConnectionReport>, Groups = Vec<GroupReport>> {
    /// The version of this object.
    pub schema: Schema,
    /// Numbers of what was looked at.
    pub looked_at: LookedAt,
    /// Connections that are allowed, by sender and receiver. Those of a workload to itself,
    /// and of its own node to it, are not among them.
    pub connections: Connections,
    /// The ends.
    pub ends: Groups,
    /// The rules that are named here, and those of all other policies that select a pod.
    pub rules: Vec<RuleReport>,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

/// One change of what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReport {
    /// `added` or `removed`.
    pub kind: String,
    /// The sender.
    pub source: String,
    /// The receiver.
    pub destination: String,
    /// The family: 4 or 6.
    pub family: u8,
    /// `tcp`, `udp`, `sctp`, `other` for all protocols without ports, or `all`.
    pub protocol: String,
    /// `80`, `8000-8080`, or `all`.
    pub ports: String,
    /// The direction whose verdict makes the difference, `ingress` or `egress`; null where
    /// one set has not both ends.
    pub direction: Option<String>,
    /// The rule of the new set that allows or denies now, or the first policy that
    /// isolates; null where no policy of the new set does.
    pub rule: Option<u32>,
    /// The same of the old set.
    pub was: Option<u32>,
    /// Of a Service, who takes these connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<ChangedBackends>,
    /// The reason for which an exception approves of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<String>,
}

/// A rule of one of the sets that are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleOfSet {
    /// `old` or `new`.
    pub set: String,
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleReport,
}

/// An exception of which something is to be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExceptionReport {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The reason that it gives.
    pub reason: String,
    /// The day after which it does not count.
    pub expires: String,
    /// `used`, `unused` or `expired`.
    pub state: String,
}

/// Answer of `diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiffReport {
    /// The version of this object.
    pub schema: Schema,
    /// Number of changes that are added connections that no exception approves of.
    pub added: u64,
    /// Number of changes that are removed connections that no exception approves of.
    pub removed: u64,
    /// Numbers of what was looked at in the old set.
    pub old: LookedAt,
    /// Numbers of what was looked at in the new set.
    pub new: LookedAt,
    /// All changes, by sender and receiver.
    pub changes: Vec<ChangeReport>,
    /// The ends that changes name.
    pub ends: Vec<GroupReport>,
    /// The rules that changes name.
    pub rules: Vec<RuleOfSet>,
    /// Exceptions that were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<ExceptionReport>,
    /// Findings about the documents of both sets.
    pub diagnostics: Vec<Diagnostic>,
}

impl DiffReport {
    /// Reports changes, of certain ports alone if some are given.
    #[must_use]
    pub fn new(changes: &Changes, only: &[PortSpan], diagnostics: Vec<Diagnostic>) -> Self {
        let mut rules = RuleBook {
            changes,
            numbers: BTreeMap::new(),
            rules: Vec::new(),
        };
        let mut named = std::collections::BTreeSet::new();
        let mut reports = Vec::new();
        for change in changes.all() {
            let spans: Vec<ChangedSpan> = match only {
                [] => change.spans.to_vec(),
                _ => (change.spans.iter())
                    .flat_map(|span| only.iter().map(move |port| (span, span.ports.within(port))))
                    .filter_map(|(span, ports)| {
                        Some(ChangedSpan {
                            ports: ports?,
                            ..*span
                        })
                    })
                    .collect(),
            };
            if spans.is_empty() {
                continue;
            }
            named.extend([change.source, change.destination]);
            reports.extend(change_reports(changes, change, &spans, &mut rules));
        }
        let ends = changes.ends();
        let mut report = Self {
            schema: Schema,
            added: 0,
            removed: 0,
            old: LookedAt::new(changes.state(Set::Old)),
            new: LookedAt::new(changes.state(Set::New)),
            changes: reports,
            ends: named
                .iter()
                .map(|at| GroupReport::from(&ends[*at]))
                .collect(),
            rules: rules.rules,
            exceptions: Vec::new(),
            diagnostics,
        };
        report.count();
        report
    }

    /// Counts changes that no exception approves of.
    pub fn count(&mut self) {
        let count = |kind: ChangeKind| {
            let open = self
                .changes
                .iter()
                .filter(|change| change.approved.is_none());
            open.filter(|change| change.kind == kind.as_str()).count() as u64
        };
        (self.added, self.removed) = (count(ChangeKind::Added), count(ChangeKind::Removed));
    }

    /// The rule of this number.
    #[must_use]
    pub fn rule(&self, id: u32) -> Option<&RuleOfSet> {
        self.rules.iter().find(|rule| rule.rule.id == id)
    }
}

fn change_reports(
    changes: &Changes,
    change: &Change,
    spans: &[ChangedSpan],
    rules: &mut RuleBook<'_>,
) -> Vec<ChangeReport> {
    let said = |span: &ChangedSpan| (span.kind, span.direction, span.rule, span.was);
    let ranges = ranges(spans, |span| span.ports, said);
    let id = |at: usize| changes.ends()[at].id.to_string();
    let report = |(protocol, ports, span): (String, String, &ChangedSpan)| ChangeReport {
        kind: span.kind.as_str().to_owned(),
        source: id(change.source),
        destination: id(change.destination),
        family: family_number(change.family),
        protocol,
        ports,
        direction: span
            .direction
            .map(|direction| direction_word(direction).to_owned()),
        rule: span.rule.and_then(|rule| rules.number(Set::New, rule)),
        was: span.was.and_then(|rule| rules.number(Set::Old, rule)),
        backends: backends(changes, change, span),
        approved: None,
    };
    ranges.into_iter().map(report).collect()
}

/// The backends of a Service behind ports that changed.
fn backends(changes: &Changes, change: &Change, span: &ChangedSpan) -> Option<ChangedBackends> {
    let is_service = changes.ends()[change.destination].kind == EndKind::Service;
    let of = |set| {
        let backends = changes.backends(set, change, &span.ports).into_iter();
        backends.map(BackendReport::from).collect()
    };
    is_service.then(|| ChangedBackends {
        old: of(Set::Old),
        new: of(Set::New),
    })
}

/// Numbers for the rules of two sets together.
struct RuleBook<'c> {
    changes: &'c Changes,
    numbers: BTreeMap<(Set, u32), u32>,
    rules: Vec<RuleOfSet>,
}

impl RuleBook<'_> {
    fn number(&mut self, set: Set, rule: u32) -> Option<u32> {
        if let Some(known) = self.numbers.get(&(set, rule)) {
            return Some(*known);
        }
        let entry: &RuleEntry = self.changes.state(set).rules().rule(rule)?;
        let number = u32::try_from(self.rules.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        self.rules.push(RuleOfSet {
            set: set_word(set).to_owned(),
            rule: RuleReport::new(number, entry),
        });
        self.numbers.insert((set, rule), number);
        Some(number)
    }
}

/// The report of one end as it is listed.
#[must_use]
pub fn listed_end(end: &ListedEnd<'_>) -> GroupReport {
    match end {
        ListedEnd::Group(group) => (*group).into(),
        ListedEnd::Service(service) => (*service).into(),
        ListedEnd::Outside(outside) => outside.into(),
    }
}
