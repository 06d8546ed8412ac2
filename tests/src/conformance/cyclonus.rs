//! The 230 cases, of 256 steps, that the generator cyclonus makes by default options,
//! told in its families but in words, documents and tables of our own.
//!
//! Most are one policy, varied in one place at a time. A piece that is varied (whom a
//! peer is, what a port opens) carries the text that goes into the policy beside a
//! predicate over the nine pods by their names, or over the six ports, written down by
//! hand: `{podSelector: {matchLabels: {pod: c}}}` beside "is called c and lives in x".
//! The table of a case is joined from these, and never read from the text.

mod changing;
mod conflicts;
mod pieces;
mod varied;
mod well_known;

use super::Case;
use super::Setting;
use super::Suite;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = varied::targets();
    cases.extend(varied::rules());
    cases.extend(varied::peers());
    cases.extend(varied::ports());
    cases.push(changing::example());
    cases.extend(changing::actions());
    cases.extend(conflicts::cases());
    cases.extend(varied::default_labels());
    cases.extend(well_known::cases());
    cases
}

fn case(name: impl Into<String>, tags: impl IntoIterator<Item = &'static str>) -> Case {
    let mut all: Vec<&'static str> = Vec::new();
    for tag in tags {
        for one in [tag, group(tag)] {
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    Case::new(Suite::Cyclonus, Setting::Trio, name).tagged(all)
}

/// Returns the group of a tag.
fn group(tag: &str) -> &'static str {
    match tag {
        "create-policy"
        | "delete-policy"
        | "update-policy"
        | "create-pod"
        | "delete-pod"
        | "set-pod-labels"
        | "create-namespace"
        | "delete-namespace"
        | "set-namespace-labels" => "action",
        "target-namespace" | "target-pod-selector" => "target",
        "ingress" | "egress" => "direction",
        "deny-all"
        | "allow-all"
        | "any-peer"
        | "any-port-protocol"
        | "multi-peer"
        | "multi-port/protocol" => "rule",
        "all-pods"
        | "pods-by-label"
        | "all-namespaces"
        | "namespaces-by-label"
        | "policy-namespace"
        | "namespaces-by-default-label" => "peer-pods",
        "ip-block-no-except" | "ip-block-with-except" => "peer-ipblock",
        "any-port" | "numbered-port" | "named-port" | "end-port" => "port",
        "tcp" | "udp" | "sctp" => "protocol",
        "pathological" | "conflict" | "example" | "upstream-e2e" => "miscellaneous",
        other => panic!("{other} is of no group"),
    }
}
