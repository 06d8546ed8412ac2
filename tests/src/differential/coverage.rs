//! Coverage: the cases that occurred in a run, and those that must.

use std::collections::BTreeMap;

use cofferdam_oracle::{self as oracle, Side};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Verdict};

use super::shapes;

/// Features that documents must have had somewhere, and the words of their text that tell it.
const WRITTEN: [(&str, &[&str]); 31] = [
    ("an except", &["except: [\""]),
    ("an empty except", &["except: []"]),
    ("a named port", &["port: serve"]),
    ("a range of ports", &["endPort: "]),
    ("an empty list of peers", &["from: []"]),
    ("no list of peers", &["from: null"]),
    ("an empty list of ports", &["{ports: []}"]),
    ("no list of ports", &["ports: null"]),
    ("a port of nothing", &["ports: [{}"]),
    ("NotIn", &["operator: NotIn"]),
    ("no podSelector", &["podSelector: null"]),
    ("an empty policyTypes", &["policyTypes: []"]),
    ("no policyTypes", &["policyTypes: null"]),
    ("a policy in audit", &["kind: NetworkPolicy", "mode: audit"]),
    ("an Admin policy in audit", &["tier: Admin", "mode: audit"]),
    (
        "a Baseline policy in audit",
        &["tier: Baseline", "mode: audit"],
    ),
    ("a namespace on audit", &["enforcement: audit"]),
    ("26 rules and more", &["- {", "kind: NetworkPolicy"]),
    ("25 rules of the cluster", &["none: none"]),
    ("Accept in Admin", &["tier: Admin", "action: Accept"]),
    ("Deny in Admin", &["tier: Admin", "action: Deny"]),
    ("Pass in Admin", &["tier: Admin", "action: Pass"]),
    ("Pass in Baseline", &["tier: Baseline", "action: Pass"]),
    ("networks", &["networks: ["]),
    ("nodes", &["nodes: {"]),
    ("domain names", &["domainNames: ["]),
    ("an unknown peer", &["serviceAccounts"]),
    ("a peer of nothing", &["from: [{}"]),
    ("every TCP port", &["{tcp: {}}"]),
    ("a range of the cluster", &["range: {start"]),
    ("a name of the cluster", &["destinationNamedPort: serve"]),
];

/// Answers that the oracle must have had reason to give.
const SAID: [&str; 14] = [
    "not isolated",
    "isolated",
    "isolated by several policies",
    "allowed by a rule of a namespace",
    "allowed by several rules of a namespace",
    "allowed by the 26th rule of a policy or a later one",
    "accepted by a rule of the cluster",
    "denied by a rule of the cluster",
    "decided by the 25th rule of a policy of the cluster",
    "own node",
    "self",
    "audit would deny what passes",
    "audit would allow what does not pass",
    "audit would decide by another rule",
];

/// Reasons that the programs must have answered on either hook.
const ANSWERED: [(Hook, &[Reason]); 2] = [
    (
        Hook::FromWorkload,
        &[
            Reason::Rule,
            Reason::NotIsolated,
            Reason::Isolated,
            Reason::SelfOnWire,
            Reason::NeighbourDiscovery,
            Reason::SpoofedSource,
            Reason::SpoofedMac,
            Reason::UntruthfulArp,
            Reason::UntruthfulNd,
            Reason::RouterAdvertisement,
            Reason::DhcpServer,
            Reason::VlanTag,
            Reason::Ethertype,
            Reason::Malformed,
            Reason::Ipv6Chain,
            Reason::FragmentNoFirst,
            Reason::Arp,
            Reason::MulticastListener,
            Reason::Redirect,
        ],
    ),
    (
        Hook::ToWorkload,
        &[
            Reason::Rule,
            Reason::NotIsolated,
            Reason::Isolated,
            Reason::OwnNode,
            Reason::SelfTraffic,
            Reason::NeighbourDiscovery,
            Reason::ForeignLocalAddress,
            Reason::NotReceiversAddress,
            Reason::UntruthfulArp,
            Reason::UntruthfulNd,
            Reason::VlanTag,
            Reason::Ethertype,
            Reason::Malformed,
            Reason::Ipv6Chain,
            Reason::FragmentNoFirst,
            Reason::Arp,
        ],
    ),
];

/// Count of each case that occurred.
#[derive(Debug, Default)]
pub struct Coverage {
    seen: BTreeMap<String, u64>,
}

impl Coverage {
    /// Returns the cases that must occur in a run of some length.
    fn all() -> impl Iterator<Item = String> {
        let shapes = shapes::names().map(|name| format!("shape: {name}"));
        let written = WRITTEN.iter().map(|(name, _)| format!("document: {name}"));
        let said = SAID.iter().map(|name| format!("oracle: {name}"));
        let answered = ANSWERED.iter().flat_map(|(hook, reasons)| {
            let answer = |reason: &Reason| format!("{}: {}", hook.name(), reason.name());
            reasons.iter().map(answer)
        });
        shapes.chain(written).chain(said).chain(answered)
    }

    /// Returns the number of them.
    pub fn required() -> usize {
        Self::all().count()
    }

    /// Returns those of them that did not occur.
    pub fn missing(&self) -> Vec<String> {
        Self::all()
            .filter(|name| !self.seen.contains_key(name))
            .collect()
    }

    /// Adds what occurred in a later run.
    pub(super) fn join(&mut self, later: Self) {
        for (name, times) in later.seen {
            *self.seen.entry(name).or_default() += times;
        }
    }

    fn see(&mut self, name: String) {
        *self.seen.entry(name).or_default() += 1;
    }

    pub(super) fn see_shape(&mut self, shape: &str) {
        self.see(format!("shape: {shape}"));
    }

    pub(super) fn see_documents(&mut self, documents: &str) {
        for document in documents.split("---\n") {
            for (name, words) in WRITTEN {
                let has = |word: &&str| match *word {
                    "- {" => document.matches(word).count() > 25,
                    word => document.contains(word),
                };
                if words.iter().all(has) {
                    self.see(format!("document: {name}"));
                }
            }
        }
    }

    pub(super) fn see_verdict(&mut self, hook: Hook, verdict: Verdict) {
        self.see(format!("{}: {}", hook.name(), verdict.reason.name()));
    }

    pub(super) fn see_sides(&mut self, enforced: &Side, audited: &Side) {
        let mut said = |name: &str| self.see(format!("oracle: {name}"));
        match (enforced.reason, enforced.action) {
            (oracle::Reason::NotIsolated, _) => said("not isolated"),
            (oracle::Reason::OwnNode, _) => said("own node"),
            (oracle::Reason::SelfTraffic, _) => said("self"),
            (oracle::Reason::Isolated, _) => said("isolated"),
            _ => {}
        }
        if enforced.reason == oracle::Reason::Isolated && enforced.isolating.len() > 1 {
            said("isolated by several policies");
        }
        if let Some(rule) = &enforced.rule {
            let index = rule.index.unwrap_or_default();
            match (&rule.namespace, enforced.action) {
                (Some(_), _) => {
                    said("allowed by a rule of a namespace");
                    if enforced.allowing.len() > 1 {
                        said("allowed by several rules of a namespace");
                    }
                    if index >= 25 {
                        said("allowed by the 26th rule of a policy or a later one");
                    }
                }
                (None, action) => {
                    said(match action {
                        oracle::Action::Allow => "accepted by a rule of the cluster",
                        oracle::Action::Deny => "denied by a rule of the cluster",
                    });
                    if index == 24 {
                        said("decided by the 25th rule of a policy of the cluster");
                    }
                }
            }
        }
        match (enforced.action, audited.action) {
            (oracle::Action::Allow, oracle::Action::Deny) => said("audit would deny what passes"),
            (oracle::Action::Deny, oracle::Action::Allow) => {
                said("audit would allow what does not pass");
            }
            _ if enforced.rule != audited.rule => said("audit would decide by another rule"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_verdict::verdict::Action;

    use super::*;

    #[test]
    fn what_has_not_occurred_is_missing() {
        let mut coverage = Coverage::default();
        let all = coverage.missing().len();
        coverage.see_documents("kind: NetworkPolicy\nspec: {egress: [], podSelector: null}\n");
        assert_eq!(coverage.missing().len(), all - 1);
        coverage.see_verdict(
            Hook::ToWorkload,
            Verdict {
                action: Action::Deny,
                reason: Reason::Malformed,
                rule: 0,
            },
        );
        assert_eq!(coverage.missing().len(), all - 2);
    }
}
