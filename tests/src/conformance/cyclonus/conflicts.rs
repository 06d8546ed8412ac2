//! Policies that say different things about the same traffic. There is no order among
//! them and no denial: what one of them allows is allowed.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::network_policy;

const NOBODY: &str = "";
const EVERYBODY: &str = "{}";
const ALL_PODS: &str = "{PEERS: [{namespaceSelector: {}}]}";
/// Every address, of one family.
const ALL_ADDRESSES: &str = "{PEERS: [{ipBlock: {cidr: 0.0.0.0/0}}]}";
/// Addresses that nobody has.
const NO_ADDRESS: &str = "{PEERS: [{ipBlock: {cidr: 0.0.0.0/31}}]}";
/// Pods that there are not.
const NO_POD: &str = "{PEERS: [{namespaceSelector: {matchLabels: {nobody: has}}}]}";

const CLIENT: (&str, &str) = ("x", "b");
const SERVER: (&str, &str) = ("y", "c");

/// A policy about one pod: its direction, and its rules.
type About = ((&'static str, &'static str), &'static str, &'static str);

const OUT: &str = "egress";
const IN: &str = "ingress";

pub(super) fn cases() -> Vec<Case> {
    let (nothing, none_out, none_in) = ("", "- x/b > *", "- * > x/b");
    let (none_out_v6, none_in_v6) = ("- x/b > * v6", "- * > x/b v6");
    let made: [(&str, &[&str], &[About], &str); 16] = [
        (
            "nothing from the client, everything to the server",
            &["deny-all", "allow-all", "ingress", "egress"],
            &[(CLIENT, OUT, NOBODY), (SERVER, IN, EVERYBODY)],
            none_out,
        ),
        (
            "everything from the client, nothing to the server",
            &["deny-all", "allow-all", "ingress", "egress"],
            &[(CLIENT, OUT, EVERYBODY), (SERVER, IN, NOBODY)],
            "- * > y/c",
        ),
        (
            "egress: nothing and everything",
            &["deny-all", "allow-all", "egress"],
            &[(CLIENT, OUT, NOBODY), (CLIENT, OUT, EVERYBODY)],
            nothing,
        ),
        (
            "ingress: nothing and everything",
            &["deny-all", "allow-all", "ingress"],
            &[(SERVER, IN, NOBODY), (SERVER, IN, EVERYBODY)],
            nothing,
        ),
        (
            "egress: nothing and all pods",
            &["deny-all", "all-pods", "all-namespaces", "egress"],
            &[(CLIENT, OUT, NOBODY), (CLIENT, OUT, ALL_PODS)],
            nothing,
        ),
        (
            "egress: nothing and all addresses",
            &["deny-all", "egress"],
            &[(CLIENT, OUT, NOBODY), (CLIENT, OUT, ALL_ADDRESSES)],
            none_out_v6,
        ),
        (
            "egress: no address and all pods",
            &["all-pods", "all-namespaces", "egress"],
            &[(CLIENT, OUT, NO_ADDRESS), (CLIENT, OUT, ALL_PODS)],
            nothing,
        ),
        (
            "egress: no pod and all addresses",
            &["egress"],
            &[(CLIENT, OUT, NO_POD), (CLIENT, OUT, ALL_ADDRESSES)],
            none_out_v6,
        ),
        (
            "ingress: nothing and all pods",
            &["deny-all", "all-pods", "all-namespaces", "ingress"],
            &[(CLIENT, IN, NOBODY), (CLIENT, IN, ALL_PODS)],
            nothing,
        ),
        (
            "ingress: nothing and all addresses",
            &["deny-all", "ingress"],
            &[(CLIENT, IN, NOBODY), (CLIENT, IN, ALL_ADDRESSES)],
            none_in_v6,
        ),
        (
            "ingress: no address and all pods",
            &["all-pods", "all-namespaces", "ingress"],
            &[(CLIENT, IN, NO_ADDRESS), (CLIENT, IN, ALL_PODS)],
            nothing,
        ),
        (
            "ingress: no pod and all addresses",
            &["ingress"],
            &[(CLIENT, IN, NO_POD), (CLIENT, IN, ALL_ADDRESSES)],
            none_in_v6,
        ),
        (
            "egress: no address",
            &["egress"],
            &[(CLIENT, OUT, NO_ADDRESS)],
            none_out,
        ),
        (
            "egress: no pod",
            &["egress"],
            &[(CLIENT, OUT, NO_POD)],
            none_out,
        ),
        (
            "ingress: no address",
            &["ingress"],
            &[(CLIENT, IN, NO_ADDRESS)],
            none_in,
        ),
        (
            "ingress: no pod",
            &["ingress"],
            &[(CLIENT, IN, NO_POD)],
            none_in,
        ),
    ];
    made.into_iter()
        .map(|(name, tags, policies, expected)| {
            let policies = policies.iter().enumerate().map(|(number, about)| {
                let ((namespace, pod), direction, rules) = *about;
                let (policy_type, peers) = match direction {
                    IN => ("Ingress", "from"),
                    _ => ("Egress", "to"),
                };
                let rules = rules.replace("PEERS", peers);
                let spec = format!(
                    "{{podSelector: {{matchLabels: {{pod: {pod}}}}}, policyTypes: \
                     [{policy_type}], {direction}: [{rules}]}}"
                );
                network_policy(&format!("{namespace}/policy-{number}"), &spec)
            });
            let tags = tags.iter().copied().chain(["conflict"]);
            case(name, tags).step(policies, expected)
        })
        .collect()
}
