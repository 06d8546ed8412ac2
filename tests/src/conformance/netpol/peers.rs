//! Peers that are let in.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::{Change, network_policy};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = isolating();
    cases.extend(by_one_selector());
    cases.extend(by_both_selectors());
    cases.extend(by_the_namespace_s_own_name());
    cases
}

fn isolating() -> Vec<Case> {
    vec![
        case("default deny of ingress").step(
            [network_policy(
                "x/deny-ingress",
                "{podSelector: {}, policyTypes: [Ingress], ingress: []}",
            )],
            "- * > x/*",
        ),
        case("default deny of everything").step(
            [network_policy(
                "x/deny-all",
                "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}",
            )],
            "- * > x/*
             - x/* > *",
        ),
        case("ingress to one pod, above a default deny").step(
            [
                network_policy("x/deny-all", "{podSelector: {}, policyTypes: [Ingress]}"),
                network_policy(
                    "x/allow-all-to-a",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: \
                     [{from: [{podSelector: {}, namespaceSelector: {}}]}]}",
                ),
            ],
            "- * > x/*
             + * > x/a",
        ),
        case("an allow-all policy").step(
            [network_policy(
                "x/allow-all",
                "{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}",
            )],
            "",
        ),
        case("ingress from pods of the own namespace alone").step(
            [network_policy(
                "x/own-namespace",
                "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}",
            )],
            "- y/*,z/* > x/*",
        ),
    ]
}

/// A policy of `x` that lets these into `a`.
fn into_a(peers: &str) -> Change {
    network_policy(
        "x/into-a",
        &format!(
            "{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Ingress], ingress: [{{from: \
             {peers}}}]}}"
        ),
    )
}

fn by_one_selector() -> Vec<Case> {
    vec![
        case("pods of the server's namespace, by their labels").step(
            [into_a("[{podSelector: {matchLabels: {pod: b}}}]")],
            "- * > x/a
             + x/b > x/a",
        ),
        case("pods of all namespaces").step([into_a("[{namespaceSelector: {}}]")], ""),
        case("pods of another namespace alone").step(
            [into_a("[{namespaceSelector: {matchLabels: {ns: y}}}]")],
            "- x/*,z/* > x/a",
        ),
        case("pods by an expression").step(
            [into_a(
                "[{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]",
            )],
            "- * > x/a
             + x/b > x/a",
        ),
        case("namespaces by an expression").step(
            [into_a(
                "[{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y]}]}}]",
            )],
            "- x/*,z/* > x/a",
        ),
        case("several pods by their labels").step(
            [into_a(
                "[{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}]",
            )],
            "- * > x/a
             + x/b,x/c > x/a",
        ),
    ]
}

fn by_both_selectors() -> Vec<Case> {
    let not_x = "namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}";
    vec![
        case("pods or namespaces: two peers").step(
            [into_a(&format!(
                "[{{{not_x}}}, {{podSelector: {{matchLabels: {{pod: b}}}}}}]"
            ))],
            "- x/* > x/a
             + x/b > x/a",
        ),
        case("pods and namespaces: one peer").step(
            [into_a(&format!(
                "[{{{not_x}, podSelector: {{matchLabels: {{pod: b}}}}}}]"
            ))],
            "- * > x/a
             + y/b,z/b > x/a",
        ),
        case("several pods of several namespaces").step(
            [into_a(&format!(
                "[{{{not_x}, podSelector: {{matchExpressions: [{{key: pod, operator: In, values: \
                 [b, c]}}]}}}}]"
            ))],
            "- x/*,*/a > x/a",
        ),
        case("one pod of another namespace").step(
            [into_a(
                "[{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: \
                 a}}}]",
            )],
            "- * > x/a
             + y/a > x/a",
        ),
        case("one pod of another namespace, udp").step(
            [into_a(
                "[{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y]}]}, \
                 podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b, c]}]}}]",
            )],
            "- * > x/a
             + y/a > x/a",
        ),
        case("one pod of another namespace, sctp").step(
            [into_a(
                "[{namespaceSelector: {matchLabels: {ns: y}, matchExpressions: [{key: ns, \
                 operator: Exists}]}, podSelector: {matchLabels: {pod: a}}}]",
            )],
            "- * > x/a
             + y/a > x/a",
        ),
        case("default deny of ingress, udp").step(
            [network_policy("x/deny-ingress", "{policyTypes: [Ingress]}")],
            "- * > x/*",
        ),
        case("default deny of ingress, sctp").step(
            [network_policy("x/deny-ingress", "{podSelector: {}}")],
            "- * > x/*",
        ),
    ]
}

/// By the label that every namespace has without anybody's doing.
fn by_the_namespace_s_own_name() -> Vec<Case> {
    vec![
        case("a namespace by the label with its name").step(
            [into_a(
                "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}]",
            )],
            "- x/*,z/* > x/a",
        ),
        case("all namespaces but one by the label with its name").step(
            [network_policy(
                "x/not-to-y",
                "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: \
                 [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, \
                 operator: NotIn, values: [y]}]}}]}]}",
            )],
            "- x/a > y/*",
        ),
    ]
}
