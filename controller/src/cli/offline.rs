//! Documents that a command is given on its command line, and what is asked of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::ValueEnum;
use cofferdam_answers::reach::NotJudged;
use cofferdam_documents::context::ForeignPolicy;
use cofferdam_documents::{Source, assemble_layers};
use cofferdam_inventory::Inventory;
use cofferdam_protocol::output;
use cofferdam_reach::policy_test;
use cofferdam_reach::{self as reach, Externals, PodNetworks, Reach, StandIn};
use cofferdam_syntax::diagnostic::{Diagnostic, Severity};
use cofferdam_verdict::address::Family;

pub(super) use cofferdam_answers::explain::family_number;

/// Most policies of other products that a remark names.
const MOST_NAMED: usize = 5;

/// All documents of some paths.
pub(super) struct Documents {
    /// Desired state of the valid documents; templates stand for pods that have no document.
    pub(super) inventory: Inventory,
    /// Findings about the documents, in the order of places.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Ends that stand for pods of templates.
    pub(super) stand_ins: Vec<StandIn>,
    /// Policies of other products, which no verdict counts.
    foreign: Vec<ForeignPolicy>,
    /// Outside hosts that PolicyTests among them speak of; a name that they use for
    /// different addresses is nobody's.
    externals: Externals,
}

impl Documents {
    /// Puts the documents of files together.
    pub(super) fn of(sources: &[Source]) -> Self {
        Self::asked_about(sources, [])
    }

    /// Puts the documents of files together for questions that name these ends, which may be
    /// further pods of a workload.
    pub(super) fn asked_about<'e>(
        sources: &[Source],
        ends: impl IntoIterator<Item = &'e str>,
    ) -> Self {
        let parsed = || sources.iter().map(|source| &source.parsed);
        let documents = parsed().flat_map(|file| file.documents.iter().cloned());
        let mut assembled = assemble_layers(documents);
        let contexts = parsed().map(|file| &*file.context);
        let stand_ins = reach::add_templates(&mut assembled.inventory, contexts, ends);
        let mut diagnostics: Vec<Diagnostic> = parsed()
            .flat_map(|file| file.diagnostics.iter().cloned())
            .chain(assembled.diagnostics)
            .collect();
        diagnostics.sort();
        let tests = sources
            .iter()
            .map(|source| policy_test::read(&source.file, &source.text));
        let mut named: BTreeMap<String, Option<Vec<IpAddr>>> = BTreeMap::new();
        for (name, addresses) in tests
            .flat_map(|read| read.tests)
            .flat_map(|test| test.externals)
        {
            let known = named.entry(name).or_insert_with(|| Some(addresses.clone()));
            if known.as_ref() != Some(&addresses) {
                *known = None;
            }
        }
        let externals = named
            .into_iter()
            .filter_map(|(name, known)| Some((name, known?)));
        Self {
            inventory: assembled.inventory,
            diagnostics,
            stand_ins,
            externals: externals.collect(),
            foreign: parsed()
                .flat_map(|file| file.context.foreign.iter().cloned())
                .collect(),
        }
    }

    /// The policies of other products that may be about an end.
    pub(super) fn not_judged(&self, end: &str) -> Vec<NotJudged> {
        let Some((namespace, _)) = end.split_once('/') else {
            return Vec::new();
        };
        let is_about = |policy: &&ForeignPolicy| match &policy.namespace {
            Some(own) => **own == *namespace,
            None => !["external", "service"].contains(&namespace),
        };
        let about = self.foreign.iter().filter(is_about);
        about.map(NotJudged::new).collect()
    }

    /// Says which policies of other products may be about some of these ends; empty if none.
    pub(super) fn remark<'e>(&self, ends: impl Iterator<Item = &'e str>) -> String {
        let mut named: BTreeSet<String> = BTreeSet::new();
        if !self.foreign.is_empty() {
            for one in ends.flat_map(|end| self.not_judged(end)) {
                let namespace = one.namespace.map(|name| name + "/").unwrap_or_default();
                let NotJudged {
                    kind,
                    name,
                    file,
                    line,
                    ..
                } = one;
                named.insert(format!("{kind} {namespace}{name} ({file}:{line})"));
            }
        }
        let more = named.len().saturating_sub(MOST_NAMED);
        let mut text: Vec<String> = named.into_iter().take(MOST_NAMED).collect();
        if more > 0 {
            text.push(format!("{more} more"));
        }
        match text.is_empty() {
            true => String::new(),
            false => format!(
                "policies of other products may be about these ends, and are not judged: {}\n",
                text.join(", ")
            ),
        }
    }

    /// Outside hosts that may be asked about: those given, and those of PolicyTests.
    pub(super) fn known_externals(&self, given: Externals) -> Externals {
        let mut known = self.externals.clone();
        known.extend(given);
        known
    }

    /// Returns `true` if no document is in error.
    pub(super) fn are_good(&self) -> bool {
        (self.diagnostics.iter()).all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// Reports what is wrong to standard error.
    pub(super) fn complain(&self) {
        for diagnostic in &self.diagnostics {
            eprintln!("{diagnostic}");
        }
    }

    /// The same for programs.
    pub(super) fn reported(&self) -> Vec<output::Diagnostic> {
        self.diagnostics
            .iter()
            .map(cofferdam_answers::diagnostic)
            .collect()
    }

    /// Makes the good ones ready to be asked, where pods without an address are in these
    /// networks.
    pub(super) fn reach_in(&self, networks: &PodNetworks, own_node: OwnNodeArg) -> Result<Reach> {
        let reach = Reach::in_networks(&self.inventory, networks)?;
        Ok(reach.with_own_node_allowed(own_node == OwnNodeArg::Allow))
    }
}

/// The agents' setting `own_node`: the rights of a workload's own node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OwnNodeArg {
    /// It may always connect, for probes of health.
    #[default]
    Allow,
    /// Policies decide.
    Policy,
}

/// The families as people number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FamilyArg {
    /// IPv4.
    #[value(name = "4")]
    V4,
    /// IPv6.
    #[value(name = "6")]
    V6,
}

impl From<FamilyArg> for Family {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::V4 => Self::V4,
            FamilyArg::V6 => Self::V6,
        }
    }
}

/// An outside host with a name.
#[derive(Debug, Clone)]
pub(super) struct External {
    name: String,
    addresses: Vec<IpAddr>,
}

/// Reads `NAME=IP[,IP]…`.
pub(super) fn external(text: &str) -> Result<External, String> {
    let (name, addresses) =
        (text.split_once('=')).ok_or("an outside host is written NAME=ADDRESS[,ADDRESS]")?;
    if name.is_empty() || name.contains(['/', ',']) || name.contains(char::is_whitespace) {
        return Err(format!("{name:?} cannot be the name of an outside host"));
    }
    let address =
        |text: &str| (text.parse()).map_err(|_| format!("{text:?} is not an IPv4 or IPv6 address"));
    Ok(External {
        name: name.to_owned(),
        addresses: addresses
            .split(',')
            .map(address)
            .collect::<Result<_, _>>()?,
    })
}

/// Outside hosts by their names, each given once.
pub(super) fn externals(given: &[External]) -> Result<Externals> {
    let mut all = Externals::new();
    for External { name, addresses } in given {
        if all.insert(name.clone(), addresses.clone()).is_some() {
            bail!("external/{name} is given twice: list its addresses with commas");
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_hosts_are_read_as_they_are_documented() {
        let host = external("internet=203.0.113.7,2001:db8::7").unwrap();
        assert_eq!((host.name.as_str(), host.addresses.len()), ("internet", 2));
        for wrong in [
            "internet",
            "=1.2.3.4",
            "a/b=1.2.3.4",
            "a=",
            "a=1.2.3",
            "a=1.2.3.4,",
        ] {
            assert!(external(wrong).is_err(), "{wrong}");
        }
        let twice = [external("a=1.2.3.4").unwrap(), external("a=::1").unwrap()];
        assert!(externals(&twice).is_err());
        assert_eq!(externals(&twice[..1]).unwrap().len(), 1);
    }
}
