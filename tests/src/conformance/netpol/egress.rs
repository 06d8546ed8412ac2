//! Egress: the ends that are let out, and the addresses that they may reach.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::{Change, delete, network_policy};

/// A policy of `x/a` with these rules of egress.
fn out_of_a(rules: &str) -> Change {
    network_policy(
        "x/out-of-a",
        &format!(
            "{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: [{rules}]}}"
        ),
    )
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = by_selectors();
    cases.extend(both_directions());
    cases.extend(by_blocks());
    cases
}

fn by_selectors() -> Vec<Case> {
    vec![
        case("no egress from one pod").step([out_of_a("")], "- x/a > *"),
        case("no egress from a namespace").step(
            [network_policy(
                "x/no-egress",
                "{podSelector: {}, policyTypes: [Egress]}",
            )],
            "- x/* > *",
        ),
        case("egress to one pod of another namespace").step(
            [out_of_a(
                "{to: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: \
                 {pod: a}}}]}",
            )],
            "- x/a > *
             + x/a > y/a",
        ),
    ]
}

fn both_directions() -> Vec<Case> {
    let from_xa = |pod: &str| {
        network_policy(
            &format!("y/from-xa-to-{pod}"),
            &format!(
                "{{podSelector: {{matchLabels: {{pod: {pod}}}}}, policyTypes: [Ingress], ingress: \
                 [{{from: [{{namespaceSelector: {{matchLabels: {{ns: x}}}}, podSelector: \
                 {{matchLabels: {{pod: a}}}}}}]}}]}}"
            ),
        )
    };
    vec![
        case("ingress and egress in one policy").step(
            [network_policy(
                "x/both",
                "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: \
                 [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{ports: [{port: \
                 80}]}]}",
            )],
            "- * > x/a
             + x/b > x/a
             - x/a > *
             + x/a > * tcp/80",
        ),
        case("what the server allows, the client may not do").step(
            [
                out_of_a(
                    "{to: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: \
                     {pod: a}}}]}",
                ),
                from_xa("a"),
                from_xa("b"),
            ],
            "- x/a > *
             - * > y/a,y/b
             + x/a > y/a",
        ),
        case("each direction has its own policies")
            .step([out_of_a("{}")], "")
            .step(
                [network_policy(
                    "x/no-ingress",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress], ingress: []}",
                )],
                "- * > x/a",
            ),
    ]
}

/// By address: of pods, in both families.
fn by_blocks() -> Vec<Case> {
    let around_b = "{to: [{ipBlock: {cidr: 0.0.0.0/4, except: [@4(x/b)/32]}}, {ipBlock: {cidr: \
                    'f000::/4', except: ['@6(x/b)/128']}}]}";
    vec![
        case("egress to one address").step(
            [out_of_a(
                "{to: [{ipBlock: {cidr: @4(y/b)/32}}, {ipBlock: {cidr: '@6(y/b)/128'}}]}",
            )],
            "- x/a > *
             + x/a > y/b",
        ),
        case("egress to a block but one address").step([out_of_a(around_b)], "- x/a > x/b"),
        case("an excepted address, allowed by another policy's block")
            .step([out_of_a(around_b)], "- x/a > x/b")
            .step(
                [network_policy(
                    "x/to-b",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: \
                     [{ipBlock: {cidr: @4(x/b)/32}}, {ipBlock: {cidr: '@6(x/b)/128'}}]}]}",
                )],
                "",
            )
            .step(
                // As the original has it: the second policy is the first one's next version.
                [
                    delete("x/to-b"),
                    out_of_a(
                        "{to: [{ipBlock: {cidr: @4(x/b)/32}}, {ipBlock: {cidr: '@6(x/b)/128'}}]}",
                    ),
                ],
                "- x/a > *
                 + x/a > x/b",
            ),
    ]
}
