//! Asks the table about connections that were seen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use cofferdam_inventory::{Inventory, Mode, ObjectName};
use cofferdam_protocol::output::{Diagnostic, Schema};
use cofferdam_reach::{
    Cell, End, EndKind, Externals, PodNetworks, Probe, Reach, ReachError, StandIn,
};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Action;

use super::ends::{self, Ends, Resolved, names_ports};
use super::observed::{PodName, Time, Who};
use super::report::{
    HypotheticalReport, PassedOverReport, ReadReport, ReplayedReport, SeenReport, UnchangedReport,
    UnjudgedReport, WhatIfReport,
};
use super::{Key, Records, Seen};
use crate::explain::{Rules, family_number};
use crate::reach::{CellReport, Word};

/// Circumstances that documents do not say.
#[derive(Debug, Clone)]
pub struct Settings<'s> {
    /// Ends that stand in for templates of pods.
    pub stand_ins: &'s [StandIn],
    /// Networks of pods without an address.
    pub networks: &'s PodNetworks,
    /// A workload's own node may always connect to it.
    pub own_node_allowed: bool,
    /// Policies in audit mode count as enforced.
    pub audited: bool,
}

/// Replays records against documents. The report has no lines that were unreadable: the
/// reader of files knows those.
///
/// # Errors
/// When the documents are too large for one table.
pub fn replay(
    records: &Records,
    inventory: &Inventory,
    settings: &Settings<'_>,
    diagnostics: Vec<Diagnostic>,
) -> Result<WhatIfReport, ReachError> {
    let mut supposed = inventory.clone();
    if settings.audited {
        enforce(&mut supposed);
    }
    let Ends {
        resolved,
        hypothetical,
    } = ends::resolve(&records.ends, &mut supposed, settings.stand_ins);
    let reach = Reach::in_networks(&supposed, settings.networks)?;
    let judge = Judge {
        reach: reach.with_own_node_allowed(settings.own_node_allowed),
        given: inventory,
        hypothetical: hypothetical.iter().map(|one| one.id.as_str()).collect(),
    };
    let mut joined = Joined::default();
    for (key, seen) in &records.connections {
        let ends = [key.source, key.destination];
        let [source, destination] = ends.map(|end| &resolved[end]);
        let is_same = is_one_pod(ends.map(|end| &records.ends[end]));
        match judge.judge(source, destination, is_same, key) {
            Ok(judged) => joined.take_judged(judged, key.probe, seen),
            Err(why) => {
                let [source, destination] = ends.map(|end| records.ends[end].to_string());
                joined.take_unjudged((source, destination, key.probe, key.family), why, seen);
            }
        }
    }
    let mut report = joined.report(&judge.reach, diagnostics);
    report.read = read(records);
    let named: BTreeSet<&str> = (report.changes.iter())
        .flat_map(|change| [&*change.cell.source, &*change.cell.destination])
        .collect();
    let hypothetical = hypothetical.iter().filter(|one| {
        named.contains(one.id.as_str()) || named.contains(format!("{}#2", one.id).as_str())
    });
    report.hypothetical = hypothetical
        .map(|one| HypotheticalReport {
            id: one.id.clone(),
            labels: (one.labels.iter())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        })
        .collect();
    Ok(report)
}

/// Returns `true` if both ends are one pod, or one address. What stands for several pods is
/// none: their records are of one and another.
fn is_one_pod([source, destination]: [&Who; 2]) -> bool {
    match [source, destination].map(|who| match who {
        Who::Workload {
            namespace,
            name: PodName::Whole(name),
            ..
        } => Ok((namespace, name)),
        other => Err(other),
    }) {
        [Ok(source), Ok(destination)] => source == destination,
        [Err(Who::Workload { .. }), _] => false,
        [Err(source), Err(destination)] => source == destination,
        _ => false,
    }
}

/// Puts all policies in audit mode in force.
fn enforce(inventory: &mut Inventory) {
    inventory.set_enforcement(Mode::Enforce);
    let namespaces = inventory.namespaces().clone();
    for (name, namespace) in &namespaces {
        let mut namespace = namespace.clone();
        namespace.enforcement = Mode::Enforce;
        inventory.set_namespace(name, namespace);
    }
    let policies = inventory.policies().clone();
    for policy in policies
        .values()
        .filter(|policy| policy.mode == Mode::Audit)
    {
        let mut policy = policy.clone();
        policy.mode = Mode::Enforce;
        inventory.set_policy(policy);
    }
    let policies = inventory.cluster_policies().clone();
    for policy in policies
        .values()
        .filter(|policy| policy.mode == Mode::Audit)
    {
        let mut policy = policy.clone();
        policy.mode = Mode::Enforce;
        inventory.set_cluster_policy(policy);
    }
}

fn read(records: &Records) -> ReadReport {
    ReadReport {
        lines: records.lines,
        records: records.count(),
        forms: records.forms.clone(),
        connections: records.connections.len() as u64,
        passed_over: (records.passed_over.iter())
            .map(|(why, count)| PassedOverReport {
                why: *why,
                records: *count,
            })
            .collect(),
        unreadable: records.unreadable,
    }
}

/// A connection with the cell that decides it.
struct Judged {
    source: End,
    destination: End,
    family: Family,
    cell: Cell,
}

struct Judge<'i> {
    reach: Reach,
    /// The documents, without what was added for records.
    given: &'i Inventory,
    hypothetical: BTreeSet<&'i str>,
}

impl Judge<'_> {
    /// Judges a connection; the error says why the documents do not decide it.
    fn judge(
        &self,
        source: &Resolved,
        destination: &Resolved,
        is_same: bool,
        key: &Key,
    ) -> Result<Judged, String> {
        let mut judged: Option<Judged> = None;
        for (from, to) in self.pairs(source, destination, is_same)? {
            let [source, destination] = [self.end(&from)?, self.end(&to)?];
            for family in families(key) {
                let Some(cell) = self.cell(&source, &destination, key.probe, family)? else {
                    continue;
                };
                let is_as_before = judged
                    .as_ref()
                    .is_none_or(|judged| judged.cell.action() == cell.action());
                if !is_as_before {
                    return Err(
                        "the record may mean several ends or families, and they differ".to_owned(),
                    );
                }
                judged.get_or_insert_with(|| Judged {
                    source: source.clone(),
                    destination: destination.clone(),
                    family,
                    cell,
                });
            }
        }
        judged.ok_or_else(|| "its ends have no addresses of one family".to_owned())
    }

    /// Returns the names of all pairs of ends that a record may mean.
    fn pairs(
        &self,
        source: &Resolved,
        destination: &Resolved,
        is_same: bool,
    ) -> Result<Vec<(String, String)>, String> {
        let from = names(source)?;
        let to = names(destination)?;
        if is_same {
            // A pod to itself, if the record has the pod's own name.
            return match &from[..] {
                [only] => Ok(vec![(only.clone(), only.clone())]),
                _ => Err("the record may mean one pod or two".to_owned()),
            };
        }
        let is_one = |resolved: &Resolved| {
            matches!(
                resolved,
                Resolved::OfTemplate {
                    is_exact: false,
                    ..
                } | Resolved::Hypothetical(_)
            )
        };
        if is_one(source) && is_one(destination) && from == to {
            let other = format!("{}#2", to[0]);
            let name = other
                .split_once('/')
                .map(|(namespace, name)| ObjectName::new(namespace, name));
            let is_there =
                name.is_some_and(|name| self.reach.inventory().workloads().contains_key(&name));
            return match is_there {
                true => Ok(vec![(from[0].clone(), other)]),
                false => Err(format!("the documents have one pod of {}", to[0])),
            };
        }
        let pairs: Vec<(String, String)> = from
            .iter()
            .flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone())))
            // Two ends of a record that mean pods of one set are two of them.
            .filter(|(from, to)| from != to)
            .collect();
        match pairs.is_empty() {
            true => Err("the record may mean one pod or two".to_owned()),
            false => Ok(pairs),
        }
    }

    fn end(&self, name: &str) -> Result<End, String> {
        let end = self
            .reach
            .end(name, &Externals::new())
            .map_err(|unknown| unknown.to_string())?;
        // What stands in for an unknown address has not been asked about.
        if let Ok(address) = name.parse()
            && self.reach.inventory().owner(address).is_some()
            && self.given.owner(address).is_none()
        {
            return Err(format!(
                "{address} stands in for the address of a pod that no document gives one: say \
                 with --pod-cidr where pods are"
            ));
        }
        Ok(end)
    }

    /// Returns the cell; `None` if not both ends have an address of the family.
    fn cell(
        &self,
        source: &End,
        destination: &End,
        probe: Probe,
        family: Family,
    ) -> Result<Option<Cell>, String> {
        let reach = &self.reach;
        if source.kind() == EndKind::Service {
            return Err(format!(
                "{} is the address of a Service, which opens no connections",
                source.id()
            ));
        }
        let Some(cell) = reach.cell(source, destination, probe, family) else {
            if reach.leads_nowhere(source, destination, probe, family) {
                return Err(reach.why_nowhere(destination, probe));
            }
            return Ok(None);
        };
        if cell.depends_on_address {
            return Err(
                "it depends on the address of an end that no document gives one: say with \
                 --pod-cidr where pods are"
                    .to_owned(),
            );
        }
        let is_supposed = self
            .hypothetical
            .contains(destination.id().trim_end_matches("#2"));
        if let (true, Some((protocol, _))) = (is_supposed, probe.port())
            && names_ports(reach.inventory(), protocol)
        {
            return Err(format!(
                "policies name ports, and nothing says what {} calls its own",
                destination.id()
            ));
        }
        if cell.action() == Action::Deny
            && reach.is_own_node_allowed()
            && (source.kind() == EndKind::Node || source.host_of_network().is_some())
            && let Some(pod) = self.pod_without_node(source, destination, probe, family)
        {
            return Err(format!(
                "{} may be the node of {pod}, and no document says on which that is",
                source.id()
            ));
        }
        Ok(Some(cell))
    }

    /// Returns a pod that receives and of which no document says where it runs.
    fn pod_without_node(
        &self,
        source: &End,
        destination: &End,
        probe: Probe,
        family: Family,
    ) -> Option<String> {
        let backends = self
            .reach
            .backend_cells(source, destination, probe, family)
            .into_iter()
            .map(|backend| backend.id);
        let mut receivers = backends.chain([destination.id().to_owned()]);
        receivers.find(|id| {
            let name = id
                .split_once('/')
                .map(|(namespace, name)| ObjectName::new(namespace, name));
            let pod = name.and_then(|name| self.reach.inventory().workloads().get(&name));
            pod.is_some_and(|pod| pod.node.is_none())
        })
    }
}

/// Names of the ends that an end of a record may be.
fn names(resolved: &Resolved) -> Result<Vec<String>, String> {
    match resolved {
        Resolved::Known(ids) => Ok(ids.clone()),
        Resolved::OfTemplate { id, .. } | Resolved::Hypothetical(id) => Ok(vec![id.clone()]),
        Resolved::Address(address) => Ok(vec![address.to_string()]),
        Resolved::Undecided(why) => Err(why.clone()),
    }
}

fn families(key: &Key) -> impl Iterator<Item = Family> {
    let (own, known) = (key.probe.family().map(family_number), key.family);
    [Family::V4, Family::V6].into_iter().filter(move |family| {
        let number = family_number(*family);
        own.is_none_or(|own| own == number) && known.is_none_or(|known| known == number)
    })
}

/// A connection by the names of the documents.
type Named = (String, String, Probe, u8);

/// Connections of the same ends.
struct Row {
    judged: Judged,
    seen: SeenReport,
}

#[derive(Default)]
struct Joined {
    /// By the connection and its fate so far; denials first.
    changes: BTreeMap<(Reverse<Word>, Named), Row>,
    unchanged: HashSet<(Word, Named)>,
    unjudged: BTreeMap<(String, String, Probe, Option<u8>, String), SeenReport>,
}

impl Joined {
    fn take_judged(&mut self, judged: Judged, probe: Probe, seen: &Seen) {
        let (was, now) = (seen.action(), judged.cell.action());
        let named = (
            judged.source.id().to_owned(),
            judged.destination.id().to_owned(),
            probe,
            family_number(judged.family),
        );
        if was == now {
            self.unchanged.insert((now.into(), named));
            return;
        }
        let row = self
            .changes
            .entry((Reverse(now.into()), named))
            .or_insert_with(|| Row {
                judged,
                seen: nothing_of(seen),
            });
        add(&mut row.seen, seen);
    }

    fn take_unjudged(
        &mut self,
        (source, destination, probe, family): (String, String, Probe, Option<u8>),
        why: String,
        seen: &Seen,
    ) {
        let known = self
            .unjudged
            .entry((source, destination, probe, family, why))
            .or_insert_with(|| nothing_of(seen));
        add(known, seen);
    }

    fn report(self, reach: &Reach, diagnostics: Vec<Diagnostic>) -> WhatIfReport {
        let mut rules = Rules::new(reach);
        let now = |word| {
            let keys = self.changes.keys();
            keys.filter(|(now, _)| now.0 == word).count() as u64
        };
        let same = |word| {
            let keys = self.unchanged.iter();
            keys.filter(|(now, _)| *now == word).count() as u64
        };
        let (denied, allowed) = (now(Word::Deny), now(Word::Allow));
        let unchanged = UnchangedReport {
            allowed: same(Word::Allow),
            denied: same(Word::Deny),
        };
        let changes = self
            .changes
            .into_iter()
            .map(|((Reverse(now), named), row)| {
                let Judged {
                    source,
                    destination,
                    family,
                    cell,
                } = &row.judged;
                rules.cell(cell);
                let nearest = (now == Word::Deny)
                    .then(|| reach.nearest(&reach.explain(cell)))
                    .flatten();
                ReplayedReport {
                    kind: match now {
                        Word::Deny => "denied".to_owned(),
                        Word::Allow => "allowed".to_owned(),
                    },
                    family: family_number(*family),
                    seen: row.seen,
                    nearest: nearest.map(|(direction, step)| rules.nearest(direction, &step)),
                    cell: CellReport::new(reach, (source, destination), named.2, Some(cell)),
                }
            })
            .collect();
        let unjudged = self.unjudged.into_iter();
        let unjudged =
            unjudged.map(
                |((source, destination, probe, family, why), seen)| UnjudgedReport {
                    source,
                    destination,
                    probe: probe.to_string(),
                    family,
                    why,
                    seen,
                },
            );
        WhatIfReport {
            schema: Schema,
            denied,
            allowed,
            unchanged,
            changes,
            unjudged: unjudged.collect(),
            hypothetical: Vec::new(),
            read: ReadReport::default(),
            unreadable: Vec::new(),
            rules: rules.into_reports(),
            diagnostics,
        }
    }
}

/// Counts nothing yet.
fn nothing_of(seen: &Seen) -> SeenReport {
    SeenReport {
        allowed: 0,
        denied: 0,
        first: text(&seen.first),
        last: text(&seen.last),
    }
}

fn text(time: &Time) -> String {
    time.as_str().to_owned()
}

fn add(report: &mut SeenReport, seen: &Seen) {
    report.allowed = report.allowed.saturating_add(seen.allowed());
    report.denied = report.denied.saturating_add(seen.denied);
    if seen.first.as_str() < report.first.as_str() {
        report.first = text(&seen.first);
    }
    if seen.last.as_str() > report.last.as_str() {
        report.last = text(&seen.last);
    }
}
