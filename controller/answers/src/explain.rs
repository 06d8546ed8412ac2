//! Explains the verdict about a connection between two ends.
//!
//! The command line gives the same answer about documents as an agent about the state that
//! it has in force.

use std::collections::BTreeMap;

use cofferdam_compiler::{RuleEntry, RuleKey};
use cofferdam_inventory::Inventory;
use cofferdam_protocol::Question;
use cofferdam_protocol::output::{Diagnostic, Schema};
use cofferdam_reach::{
    Cell, End, Explanation, Externals, PodNetworks, Probe, ProbeError, Reach, ReachError, Step,
    UnknownEnd,
};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Direction;
use thiserror::Error;

use crate::reach::{
    BackendReport, CellReport, EndReport, ExplainReport, JudgedReport, NearestReport, RuleReport,
    StepReport, direction_word,
};

/// Reasons for which a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// An end does not exist.
    #[error(transparent)]
    End(#[from] UnknownEnd),
    /// The port is none.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The documents cannot be asked.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The ends cannot talk to each other.
    #[error("{from} and {to} have no addresses of {}", family_words(*.family))]
    Family {
        /// Sender, as the question names it.
        from: String,
        /// Receiver, as the question names it.
        to: String,
        /// The family that was asked for.
        family: Option<u8>,
    },
    /// Nobody is behind the receiver's address.
    #[error("{message}")]
    Nowhere {
        /// Reason, for people.
        message: String,
    },
}

fn family_words(family: Option<u8>) -> String {
    match family {
        Some(number) => format!("IPv{number} both"),
        None => "one family".to_owned(),
    }
}

/// The number of a family.
#[must_use]
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// Answers a question.
///
/// # Errors
/// When it is about nothing, or the ends have no addresses of one family.
pub fn explain(
    inventory: &Inventory,
    question: &Question,
    own_node_allowed: bool,
    networks: &PodNetworks,
    diagnostics: Vec<Diagnostic>,
) -> Result<ExplainReport, ExplainError> {
    let probe: Probe = question.port.parse()?;
    let externals: &Externals = &question.externals;
    let ends = [question.from.as_str(), question.to.as_str()];
    let reach = Reach::about(inventory, &ends, externals, probe, networks)?;
    let reach = &reach.with_own_node_allowed(own_node_allowed);
    let from = reach.sender(&question.from, externals)?;
    let to = reach.end(&question.to, externals)?;
    // What is only sent over one family is asked of that one.
    let own_family = probe.family().map(family_number);
    let asked = question.family.or(own_family);
    let wanted = || {
        let families = [Family::V4, Family::V6].into_iter();
        families.filter(|family| asked.is_none_or(|wanted| wanted == family_number(*family)))
    };
    let mut cells =
        wanted().filter_map(|family| Some((family, reach.cell(&from, &to, probe, family)?)));
    let (family, cell) = cells.next().ok_or_else(|| {
        if wanted().any(|family| reach.leads_nowhere(&from, &to, probe, family)) {
            return ExplainError::Nowhere {
                message: reach.why_nowhere(&to, probe),
            };
        }
        ExplainError::Family {
            from: from.id().to_owned(),
            to: to.id().to_owned(),
            family: asked,
        }
    })?;
    let explanation = reach.explain(&cell);
    Ok(report(
        reach,
        (&from, &to),
        probe,
        family,
        &explanation,
        diagnostics,
    ))
}

fn report(
    reach: &Reach,
    (from, to): (&End, &End),
    probe: Probe,
    family: Family,
    explanation: &Explanation,
    diagnostics: Vec<Diagnostic>,
) -> ExplainReport {
    let mut rules = Rules::new(reach);
    let cell = &explanation.cell;
    rules.cell(cell);
    let mut walk = Vec::new();
    for one in explanation.walks() {
        for entry in &one.isolating {
            rules.number(entry);
        }
        for step in &one.steps {
            walk.push(StepReport {
                direction: direction_word(one.direction).to_owned(),
                tier: step.rule.tier.as_str().to_owned(),
                rule: rules.number(&step.rule),
                action: step.action.as_str().to_lowercase(),
                matched: step.is_match(),
                field: step.missed.first().map(|field| field.as_str().to_owned()),
                peers: step.peers.clone(),
                ports: step.ports.clone(),
            });
        }
    }
    let backends = reach.backend_cells(from, to, probe, family);
    for backend in &backends {
        rules.cell(&backend.cell);
    }
    let nearest = reach
        .nearest(explanation)
        .map(|(direction, step)| rules.nearest(direction, &step));
    let mut ends = vec![EndReport::from(from)];
    if from.id() != to.id() {
        ends.push(to.into());
    }
    ExplainReport {
        schema: Schema,
        family: family_number(family),
        cell: CellReport::new(reach, (from, to), probe, Some(cell)),
        backends: (backends.iter())
            .map(|backend| BackendReport::new(reach, backend))
            .collect(),
        judged: JudgedReport {
            egress: (&cell.egress).into(),
            ingress: (&cell.ingress).into(),
        },
        walk,
        nearest,
        audited_namespaces: (reach.waived(explanation).iter())
            .map(ToString::to_string)
            .collect(),
        record: None,
        ends,
        rules: rules.into_reports(),
        diagnostics,
    }
}

/// The rules that are named, under the numbers of the table; those of policies that
/// select nobody have none there, and get the next.
pub struct Rules<'r> {
    reach: &'r Reach,
    numbers: BTreeMap<RuleKey, u32>,
    next: u32,
    named: BTreeMap<u32, RuleReport>,
}

impl<'r> Rules<'r> {
    /// Returns the numbers of the table, with no rule named.
    #[must_use]
    pub fn new(reach: &'r Reach) -> Self {
        let table = reach.rules();
        let numbers: BTreeMap<_, _> = (table.rules())
            .map(|(number, entry)| (entry.key.clone(), number))
            .collect();
        Self {
            reach,
            next: u32::try_from(table.len())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            numbers,
            named: BTreeMap::new(),
        }
    }

    /// The number of a rule, which is named from now on.
    pub fn number(&mut self, entry: &RuleEntry) -> u32 {
        let next = &mut self.next;
        let number = *self.numbers.entry(entry.key.clone()).or_insert_with(|| {
            let new = *next;
            *next = new.saturating_add(1);
            new
        });
        (self.named.entry(number)).or_insert_with(|| RuleReport::new(number, entry));
        number
    }

    /// Names the rules that a cell is put down to.
    pub fn cell(&mut self, cell: &Cell) {
        for side in [&cell.egress, &cell.ingress] {
            let isolating = self
                .reach
                .isolated_by(&side.verdict)
                .map(|(_, entry)| entry);
            let deciding = self.reach.rule_of(&side.verdict).map(|(_, entry)| entry);
            for entry in deciding.into_iter().chain(isolating) {
                self.number(entry);
            }
        }
    }

    /// Names the rule that came nearest.
    pub fn nearest(&mut self, direction: Direction, step: &Step) -> NearestReport {
        let missed = step.missed.iter();
        NearestReport {
            direction: direction_word(direction).to_owned(),
            rule: self.number(&step.rule),
            missed: missed.map(|field| field.as_str().to_owned()).collect(),
            peers: step.peers.clone(),
            ports: step.ports.clone(),
        }
    }

    /// All that were named, by their numbers.
    #[must_use]
    pub fn into_reports(self) -> Vec<RuleReport> {
        self.named.into_values().collect()
    }
}
