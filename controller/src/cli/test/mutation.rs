//! `--mutate`: one part of a policy left out or widened after the other, and what no
//! expectation notices.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use cofferdam_analysis::connectivity::{Changes, Connectivity, View};
use cofferdam_analysis::{Mutant, mutants};
use cofferdam_answers::reach::{MutantReport, MutationReport};
use cofferdam_documents::Source;
use cofferdam_inventory::Inventory;
use cofferdam_reach::policy_test::{self, Outcome, PolicyTest};
use cofferdam_reach::{PodNetworks, Reach};

/// Fate of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// An expectation does not hold any more.
    Noticed,
    /// No connection is treated otherwise, in force or in audit.
    Equivalent,
    /// Some connection is, and every expectation holds.
    Unnoticed,
}

/// State that mutants are held against.
pub(super) struct Original<'o> {
    /// The documents' desired state.
    pub(super) inventory: &'o Inventory,
    /// The same, ready to be asked.
    pub(super) reach: &'o Reach,
    pub(super) sources: &'o [Source],
    pub(super) tests: &'o [PolicyTest],
    pub(super) networks: &'o PodNetworks,
}

/// Tries all mutants of policies for which every expectation holds.
///
/// # Errors
/// When a mutant does not fit into a table.
pub(super) fn run(original: &Original<'_>) -> Result<MutationReport> {
    let mutants = mutants(original.inventory, original.sources);
    let next = AtomicUsize::new(0);
    let fates: Vec<Mutex<Option<Result<Fate>>>> =
        mutants.iter().map(|_| Mutex::default()).collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers.min(mutants.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(at) else {
                        return;
                    };
                    let fate = original.fate(mutant);
                    *fates[at].lock().expect("no worker panics with it") = Some(fate);
                }
            });
        }
    });
    let mut report = MutationReport {
        mutants: mutants.len() as u64,
        noticed: 0,
        score: None,
        unnoticed: Vec::new(),
        equivalent: Vec::new(),
    };
    for (mutant, fate) in mutants.iter().zip(fates) {
        let fate = fate
            .into_inner()
            .expect("no worker panics with it")
            .context("a mutant was not tried")?
            .with_context(|| format!("{}: {}", mutant.policy, mutant.what))?;
        match fate {
            Fate::Noticed => report.noticed += 1,
            Fate::Equivalent => report.equivalent.push(told(mutant)),
            Fate::Unnoticed => report.unnoticed.push(told(mutant)),
        }
    }
    let counted = report.noticed + report.unnoticed.len() as u64;
    report.score = (report.noticed * 100).checked_div(counted);
    Ok(report)
}

fn told(mutant: &Mutant) -> MutantReport {
    MutantReport {
        policy: mutant.policy.clone(),
        what: mutant.what.clone(),
        file: mutant.place.file.to_string(),
        line: mutant.place.line,
        column: mutant.place.column,
    }
}

impl Original<'_> {
    fn fate(&self, mutant: &Mutant) -> Result<Fate> {
        let changed = mutant.of(self.inventory);
        let reach = Reach::in_networks(&changed, self.networks)?
            .with_own_node_allowed(self.reach.is_own_node_allowed());
        let results = policy_test::check(&reach, self.tests);
        if !results.outcomes.iter().all(Outcome::holds) {
            return Ok(Fate::Noticed);
        }
        for view in [View::Enforced, View::Audited] {
            let states = [self.reach, &reach].map(|reach| Connectivity::new(reach.clone(), view));
            let [old, new] = states;
            if !Changes::new(old, new).all().is_empty() {
                return Ok(Fate::Unnoticed);
            }
        }
        Ok(Fate::Equivalent)
    }
}
