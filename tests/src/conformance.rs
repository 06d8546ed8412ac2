//! Conformance: the table of ends that may reach each other, by the public suites.
//!
//! A [`Case`] is a small cluster and what happens in it; after each [`Phase`] stands
//! the whole table of who reaches whom, stated by whoever wrote the case and not
//! computed from the policies. The same cases are asked offline ([`offline`]), of
//! the oracle and of the compiled table, and tried with packets.
//!
//! | module | cases |
//! |---|---|
//! | [`netpol`] | those of Kubernetes' end-to-end tests of `NetworkPolicy`, stated as there: everything is open, but |
//! | [`cyclonus`] | the families that the generator of that name makes, each with a predicate of what it opened |
//! | [`network_policy_api`] | those of that API's conformance tests: both tiers of `ClusterNetworkPolicy` |
//! | [`own`] | what none of them tries |
//!
//! Policies, pods and labels change between the steps of a case while everything
//! keeps running.
//!
//! Invariant: every cell of a table is stated, and a statement that is about nobody
//! is an error.

pub mod cluster;
pub mod cyclonus;
pub mod expected;
pub mod netpol;
pub mod network_policy_api;
pub mod offline;
pub mod own;
pub mod packets;

use std::collections::BTreeMap;
use std::fmt;

use cluster::{Change, Cluster, End};
use expected::{Expected, Question};

use crate::packet::Family;
use crate::traffic::{Probe, write_attempt};

/// Origin of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// [`netpol`].
    Netpol,
    /// [`cyclonus`].
    Cyclonus,
    /// [`network_policy_api`].
    NetworkPolicyApi,
    /// [`own`].
    Own,
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netpol => "netpol",
            Self::Cyclonus => "cyclonus",
            Self::NetworkPolicyApi => "network policy API",
            Self::Own => "own",
        })
    }
}

/// The cluster that a case begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// Namespaces `x`, `y`, `z` with pods `a`, `b`, `c` each.
    Trio,
    /// Namespaces `north`, `east`, `south`, `west` with pods `p0`, `p1` each, and two
    /// nodes, `n1` with all of them and `n2`, with a pod in either's network.
    Quarters,
}

/// A cluster, and what happens in it.
#[derive(Debug)]
pub struct Case {
    /// Suite from which it comes.
    pub suite: Suite,
    /// Claim of the case.
    pub name: String,
    /// Subjects of the case, in the words of its suite.
    pub tags: Vec<&'static str>,
    /// Cluster that it begins with.
    pub setting: Setting,
    /// Ends that take part beside the pods.
    pub beside: Vec<End>,
    /// Probes by which everything is tried, when not in the [`Setting`]'s ways.
    pub probes: Option<Vec<Probe>>,
    /// Steps of the case, in order.
    pub steps: Vec<Phase>,
}

/// Something happens, and then stands a table.
#[derive(Debug)]
pub struct Phase {
    /// Changes, all at once.
    pub changes: Vec<Change>,
    /// Table that stands afterwards.
    pub expected: Expected,
    /// Cells that the public suite tries one by one, as it states them.
    pub tried: Vec<(String, bool)>,
}

/// One entry of a table: two ends, probe, family, and the expected outcome.
#[derive(Clone, Debug)]
pub struct Cell {
    /// End that tries.
    pub source: End,
    /// End that it tries to reach.
    pub destination: End,
    /// Probe by which it tries.
    pub probe: Probe,
    /// Address family.
    pub family: Family,
    /// `true` if the case says that it gets through.
    pub allowed: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_attempt(
            f,
            [&self.source, &self.destination],
            self.probe,
            self.family,
        )
    }
}

impl Case {
    /// A case without steps.
    pub fn new(suite: Suite, setting: Setting, name: impl Into<String>) -> Self {
        Self {
            suite,
            name: name.into(),
            tags: Vec::new(),
            setting,
            beside: Vec::new(),
            probes: None,
            steps: Vec::new(),
        }
    }

    /// Adds a step; no changes are a step too.
    pub fn step(
        mut self,
        changes: impl IntoIterator<Item = Change>,
        expected: impl Into<Expected>,
    ) -> Self {
        self.steps.push(Phase {
            changes: changes.into_iter().collect(),
            expected: expected.into(),
            tried: Vec::new(),
        });
        self
    }

    /// Has its last step try these, each written as in [`expected`].
    ///
    /// # Panics
    ///
    /// Panics if it has no step.
    pub fn tries(mut self, tried: impl IntoIterator<Item = (String, bool)>) -> Self {
        let step = self.steps.last_mut().expect("a step comes first");
        step.tried.extend(tried);
        self
    }

    /// Has these ends take part, too.
    pub fn beside(mut self, ends: impl IntoIterator<Item = End>) -> Self {
        self.beside.extend(ends);
        self
    }

    /// Has everything tried in these ways.
    pub fn probing(mut self, probes: impl IntoIterator<Item = Probe>) -> Self {
        self.probes = Some(probes.into_iter().collect());
        self
    }

    /// Says what it is about.
    pub fn tagged(mut self, tags: impl IntoIterator<Item = &'static str>) -> Self {
        self.tags.extend(tags);
        self
    }

    /// The cluster it begins with.
    pub fn begin(&self) -> Cluster {
        match self.setting {
            Setting::Trio => Cluster::trio(),
            Setting::Quarters => Cluster::quarters(),
        }
    }

    /// Returns the probes by which an end can be tried in this case.
    pub fn probes_of(&self, destination: &End) -> Vec<Probe> {
        match (&self.probes, self.setting) {
            (Some(probes), _) => probes.clone(),
            (None, Setting::Trio) => cluster::TRIO_PROBES.to_vec(),
            (None, Setting::Quarters) if destination.is_pod() => cluster::QUARTERS_PROBES.to_vec(),
            (None, Setting::Quarters) => cluster::NODE_PROBES.to_vec(),
        }
    }

    /// The table after a step, of all pairs of ends that policies are about.
    ///
    /// # Panics
    ///
    /// Panics if a statement of the step is about nobody.
    pub fn table(&self, step: &Phase, cluster: &Cluster, family: Family) -> Vec<Cell> {
        let ends: Vec<End> = cluster.ends().chain(self.beside.iter().cloned()).collect();
        let mut cells = Vec::new();
        for source in &ends {
            for destination in &ends {
                if !source.is_pod() && !destination.is_pod() {
                    continue;
                }
                for probe in self.probes_of(destination) {
                    let question = Question {
                        source,
                        destination,
                        probe,
                        family,
                    };
                    cells.push(Cell {
                        source: source.clone(),
                        destination: destination.clone(),
                        probe,
                        family,
                        // A pod cannot block access to itself.
                        allowed: source == destination || step.expected.of(&question),
                    });
                }
            }
        }
        step.expected.check(&ends, &self.name);
        cells
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.suite, self.name)
    }
}

/// All cases of all suites.
pub fn cases() -> Vec<Case> {
    let mut cases = netpol::cases();
    cases.extend(cyclonus::cases());
    cases.extend(network_policy_api::cases());
    cases.extend(own::cases());
    cases
}

/// Counts the cases of each tag.
pub fn tags(cases: &[Case]) -> BTreeMap<&'static str, usize> {
    let mut tags = BTreeMap::new();
    for tag in cases.iter().flat_map(|case| &case.tags) {
        *tags.entry(*tag).or_default() += 1;
    }
    tags
}
