//! Changes while everything runs.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::{delete, namespace, network_policy, relabel};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("an updated policy")
            .step(
                [network_policy(
                    "x/changing",
                    "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}",
                )],
                "",
            )
            .step(
                [network_policy(
                    "x/changing",
                    "{podSelector: {}, policyTypes: [Ingress], ingress: []}",
                )],
                "- * > x/*",
            ),
        case("a namespace's new label lets its pods in")
            .step(
                [network_policy(
                    "x/by-namespace",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: \
                     [{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}]}",
                )],
                "- * > x/a",
            )
            .step(
                [namespace("y", &["ns=y", "ns2=updated"])],
                "- * > x/a
                 + y/* > x/a",
            )
            .step([namespace("y", &["ns=y"])], "- * > x/a"),
        case("a pod's new label lets it in")
            .step(
                [network_policy(
                    "x/by-pod",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: \
                     [{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}]}",
                )],
                "- * > x/a",
            )
            .step(
                [relabel("x/b", &["pod=b", "pod2=updated"])],
                "- * > x/a
                 + x/b > x/a",
            )
            .step([relabel("x/b", &["pod=b"])], "- * > x/a"),
        case("a pod's new label isolates it")
            .step(
                [network_policy(
                    "x/isolated",
                    "{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress], \
                     ingress: []}",
                )],
                "",
            )
            .step([relabel("x/a", &["pod=a", "target=isolated"])], "- * > x/a")
            .step([relabel("x/a", &["pod=a"])], ""),
        case("a deleted policy is in force no more")
            .step(
                [network_policy(
                    "x/deny-all",
                    "{podSelector: {}, policyTypes: [Ingress, Egress]}",
                )],
                "- * > x/*
                 - x/* > *",
            )
            .step([delete("x/deny-all")], ""),
    ]
}
