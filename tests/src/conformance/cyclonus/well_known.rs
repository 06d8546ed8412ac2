//! Thirteen cases that cyclonus has from Kubernetes' own tests.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::{Change, delete, namespace, network_policy, relabel};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = standing();
    cases.extend(of_several_steps());
    cases.extend(relabelled());
    cases
}

fn from(policy: &str, subject: &str, peer: &str, ports: &str) -> Change {
    network_policy(
        policy,
        &format!(
            "{{podSelector: {{matchLabels: {{{subject}}}}}, policyTypes: [Ingress], ingress: \
             [{{from: [{peer}], ports: [{ports}]}}]}}"
        ),
    )
}

fn standing() -> Vec<Case> {
    vec![
        case(
            "default deny of ingress",
            ["upstream-e2e", "ingress", "deny-all"],
        )
        .step(
            [network_policy(
                "x/deny-ingress",
                "{podSelector: {}, policyTypes: [Ingress], ingress: []}",
            )],
            "- * > x/*",
        ),
        case(
            "default deny of everything but name resolution",
            ["upstream-e2e", "deny-all"],
        )
        .step(
            [network_policy(
                "x/dns-alone",
                "{podSelector: {}, policyTypes: [Egress, Ingress], ingress: [], egress: [{ports: \
                 [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}]}",
            )],
            "- x/* > *
             - * > x/*",
        ),
        case("several pods of several namespaces", ["upstream-e2e"]).step(
            [from(
                "x/b-and-c",
                "pod: a",
                "{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: \
                 [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, \
                 c]}]}}",
                "",
            )],
            "- * > x/a
             + y/b,y/c,z/b,z/c > x/a",
        ),
        case(
            "what servers allow, the client may not do",
            ["upstream-e2e", "conflict"],
        )
        .step(
            [
                network_policy(
                    "x/to-ya",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: \
                     [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: \
                     {pod: a}}}]}, {ports: [{protocol: UDP, port: 53}]}]}",
                ),
                from("y/to-a", "pod: a", XA, ""),
                from("y/to-b", "pod: b", XA, ""),
            ],
            "- x/a > *
             - * > y/a,y/b
             + x/a > y/a",
        ),
    ]
}

const XA: &str =
    "{namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}";

fn of_several_steps() -> Vec<Case> {
    let from_y = |port: u16| {
        from(
            &format!("x/y-on-{port}"),
            "pod: a",
            "{namespaceSelector: {matchLabels: {ns: y}}}",
            &format!("{{port: {port}, protocol: TCP}}"),
        )
    };
    let on_81 = "- * > x/a\n+ y/* > x/a tcp/81";
    let ingress = |name: &str, rules: &str| {
        network_policy(
            name,
            &format!(
                "{{podSelector: {{matchLabels: {{}}}}, policyTypes: [Ingress], ingress: [{rules}]}}"
            ),
        )
    };
    let named = "- * > x/*\n+ * > x/* tcp/81";
    let both = "- * > x/a\n+ x/b > x/a\n- x/a > *\n+ x/a > * tcp/80";
    vec![
        case("stacked policies about the same pod", ["upstream-e2e"])
            .step([from_y(81)], on_81)
            .step([], on_81)
            .step([from_y(80)], "- * > x/a\n+ y/* > x/a tcp"),
        case("an allow-all policy", ["upstream-e2e", "allow-all"])
            .step([ingress("x/allow-all", "{}")], "")
            .step([], ""),
        case(
            "ingress on one named port",
            ["upstream-e2e", "ingress", "named-port"],
        )
        .step(
            [ingress("x/named", "{ports: [{port: serve-81-tcp}]}")],
            named,
        )
        .tries([("y/b > x/b tcp/81".to_owned(), true)])
        .step([], named),
        case("an updated policy", ["upstream-e2e"])
            .step([ingress("x/changing", "{}")], "")
            .step([ingress("x/changing", "")], "- * > x/*"),
        case("ingress and egress in one policy", ["upstream-e2e"])
            .step(
                [network_policy(
                    "x/both",
                    "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], \
                     ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: \
                     [{ports: [{port: 80}, {protocol: UDP, port: 53}]}]}",
                )],
                both,
            )
            .step([], both),
        case(
            "a deleted policy is in force no more",
            ["upstream-e2e", "deny-all", "delete-policy"],
        )
        .step(
            [network_policy(
                "x/deny-all",
                "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}",
            )],
            "- x/* > *
             - * > x/*",
        )
        .step([delete("x/deny-all")], ""),
    ]
}

fn relabelled() -> Vec<Case> {
    vec![
        case("a namespace's new label lets its pods in", ["upstream-e2e"])
            .step(
                [from(
                    "x/by-namespace",
                    "pod: a",
                    "{namespaceSelector: {matchLabels: {ns2: updated}}}",
                    "",
                )],
                "- * > x/a",
            )
            .step(
                [namespace("y", &["ns=y", "ns2=updated"])],
                "- * > x/a
                 + y/* > x/a",
            ),
        case("a pod's new label lets it in", ["upstream-e2e"])
            .step(
                [from(
                    "x/by-pod",
                    "pod: a",
                    "{podSelector: {matchLabels: {pod: b, pod2: updated}}}",
                    "",
                )],
                "- * > x/a",
            )
            .step(
                [relabel("x/b", &["pod=b", "pod2=updated"])],
                "- * > x/a
                 + x/b > x/a",
            ),
        case("a pod's new labels isolate it", ["upstream-e2e"])
            .step(
                [network_policy(
                    "x/isolated",
                    "{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress], \
                     ingress: []}",
                )],
                "",
            )
            .step([relabel("x/a", &["target=isolated"])], "- * > x/a"),
    ]
}
