//! Cases that no public suite has, most of them after mistakes that were made in
//! public: blocks that overlap, names of ports that differ from pod to pod, `except`
//! over IPv6, tiers by direction, what is unknown, more rules and blocks than fit into
//! somebody's table, and pings, the node and hosts outside.

use std::fmt::Write as _;

use super::cluster::{
    Change, End, annotated_network_policy, cluster_policy, delete, network_policy, relabel,
};
use super::{Case, Setting, Suite};
use crate::firewall::{NODE, Pod};
use crate::traffic::Probe;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = blocks();
    cases.extend(ports());
    cases.extend(nothing());
    cases.extend(tiers());
    cases.extend(beyond_pods());
    cases
}

fn case(name: &str) -> Case {
    Case::new(Suite::Own, Setting::Trio, name)
}

/// Makes a policy of the traffic that comes in to `x/a`.
fn into_a(rules: &str) -> Change {
    network_policy(
        "x/into-a",
        &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: {rules}}}"),
    )
}

const EVERY_POD: &str = "{namespaceSelector: {}}";

fn blocks() -> Vec<Case> {
    let many: String = (0..400).fold(String::new(), |mut text, i| {
        write!(
            text,
            "{{ipBlock: {{cidr: 198.18.{}.{}/32}}}}, ",
            i / 250,
            i % 250
        )
        .expect("writing to a string");
        text
    });
    vec![
        case("overlapping blocks with different ports open the union").step(
            [into_a(
                "[{from: [{ipBlock: {cidr: 10.64.0.0/16}}, {ipBlock: {cidr: 'fd64::/64'}}], ports: \
                 [{port: 80}]}, {from: [{ipBlock: {cidr: '@4(y/a)/32'}}, {ipBlock: {cidr: \
                 '@6(y/a)/128'}}], ports: [{port: 81}]}]",
            )],
            "- * > x/a
             + * > x/a tcp/80
             + y/a > x/a tcp/81",
        ),
        case("an exception over IPv6 says nothing of IPv4").step(
            [into_a(
                "[{from: [{ipBlock: {cidr: '::/0', except: ['@6(y/a)/128']}}]}]",
            )],
            "- * > x/a
             + * > x/a v6
             - y/a > x/a",
        ),
        case("what one block leaves out, another peer lets in").step(
            [into_a(
                "[{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.64.0.0/16]}}, {ipBlock: {cidr: \
                 '@4(z/b)/32'}}]}]",
            )],
            "- * > x/a
             + z/b > x/a v4",
        ),
        case("more than three hundred blocks in one rule").step(
            [into_a(&format!(
                "[{{from: [{many}{{ipBlock: {{cidr: '@4(y/b)/32'}}}}, {{ipBlock: {{cidr: \
                 '@6(y/b)/128'}}}}]}}]"
            ))],
            "- * > x/a
             + y/b > x/a",
        ),
        case("two spellings of one block are one").step(
            [into_a(
                "[{from: [{ipBlock: {cidr: 10.64.7.9/16}}], ports: [{port: 80}]}, {from: [{ipBlock: \
                 {cidr: 10.64.0.0/16}}], ports: [{port: 81}]}]",
            )],
            "- * > x/a
             + * > x/a v4,tcp",
        ),
    ]
}

fn ports() -> Vec<Case> {
    let pod = |name: &str, label: &str, port: u16| {
        Change::Pod(Pod::new(name, &[label]).port("serve", "TCP", port))
    };
    let many = (1..80).fold(String::new(), |mut text, port| {
        write!(text, "{{ports: [{{port: {port}}}]}}, ").expect("writing to a string");
        text
    });
    vec![
        case("one name of a port, another number on every pod")
            .step(
                [
                    pod("x/a", "pod=a", 80),
                    pod("x/b", "pod=b", 81),
                    network_policy(
                        "x/by-name",
                        "{podSelector: {}, ingress: [{ports: [{port: serve}]}]}",
                    ),
                ],
                "- * > x/*
                 + * > x/a tcp/80
                 + * > x/b tcp/81",
            )
            .step(
                [
                    delete("x/by-name"),
                    network_policy(
                        "y/by-name",
                        &format!(
                            "{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: \
                             [{EVERY_POD}], ports: [{{port: serve}}]}}]}}"
                        ),
                    ),
                ],
                "- y/* > *
                 + y/* > x/a tcp/80
                 + y/* > x/b tcp/81",
            )
            .step(
                [pod("x/a", "pod=a", 81)],
                "- y/* > *
                 + y/* > x/a,x/b tcp/81",
            ),
        case("eighty rules in one policy").step(
            [into_a(&format!("[{many}{{ports: [{{port: 80}}]}}]"))],
            "- * > x/a
             + * > x/a tcp/80",
        ),
        case("an empty port is every port of TCP").step(
            [into_a("[{ports: [{}]}]")],
            "- * > x/a
             + * > x/a tcp",
        ),
        case("a protocol alone is every port of it").step(
            [into_a("[{ports: [{protocol: UDP}]}]")],
            "- * > x/a
             + * > x/a udp",
        ),
    ]
}

/// Empty, null and absent, and labels that are not there.
fn nothing() -> Vec<Case> {
    let mut cases: Vec<Case> = ["null", "[]"]
        .map(|rules| case(&format!("no rules, written {rules}")).step([into_a(rules)], "- * > x/a"))
        .into();
    cases.extend(
        ["{}", "{from: null, ports: null}", "{from: [], ports: []}"].map(|rule| {
            case(&format!("a rule for everything, written {rule}"))
                .step([into_a(&format!("[{rule}]"))], "")
        }),
    );
    cases.push(
        case("not in, of a label that is not there, matches")
            .step(
                [into_a(
                    "[{from: [{podSelector: {matchExpressions: [{key: role, operator: NotIn, values: \
                     [intruder]}]}}]}]",
                )],
                "- * > x/a
                 + x/* > x/a",
            )
            .step(
                [relabel("x/b", &["pod=b", "role=intruder"])],
                "- * > x/a
                 + x/c > x/a",
            ),
    );
    cases.push(case("a policy that is only audited stops nothing").step(
        [annotated_network_policy(
            "x/audited",
            "{cofferdam.dev/mode: audit}",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        )],
        "",
    ));
    cases
}

fn tiers() -> Vec<Case> {
    let on = |namespace: &str| {
        format!("subject: {{namespaces: {{matchLabels: {{ns: {namespace}}}}}}}\n")
    };
    let x = on("x");
    let on_a = "subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: \
                {pod: a}}}}\n";
    vec![
        case("a floor holds in the direction that no namespace's policy isolates").step(
            [
                network_policy("x/ingress-only", "{podSelector: {}, ingress: [{}]}"),
                cluster_policy(
                    "floor",
                    "Baseline",
                    1,
                    &format!(
                        "{x}egress:\n- {{action: Deny, to: [{{namespaces: {{matchLabels: {{ns: \
                         y}}}}}}]}}\ningress:\n- {{action: Deny, from: [{{namespaces: {{}}}}]}}"
                    ),
                ),
            ],
            "- x/* > y/*",
        ),
        case("passing leaves the tier, whatever stands below in it")
            .step(
                [
                    cluster_policy(
                        "first",
                        "Admin",
                        1,
                        &format!(
                            "{x}ingress:\n- {{action: Pass, from: [{{namespaces: {{matchLabels: \
                             {{ns: y}}}}}}]}}"
                        ),
                    ),
                    cluster_policy(
                        "second",
                        "Admin",
                        2,
                        &format!("{x}ingress:\n- {{action: Deny, from: [{{namespaces: {{}}}}]}}"),
                    ),
                    cluster_policy(
                        "floor",
                        "Baseline",
                        1,
                        &format!(
                            "{x}ingress:\n- {{action: Deny, from: [{{pods: {{namespaceSelector: {{}}, \
                             podSelector: {{matchLabels: {{pod: a}}}}}}}}], protocols: [{{tcp: \
                             {{destinationPort: {{number: 81}}}}}}]}}"
                        ),
                    ),
                ],
                "- * > x/*
                 + y/* > x/*
                 - y/a > x/* tcp/81",
            )
            .step([delete("second")], "- x/a,y/a,z/a > x/* tcp/81"),
        case("a rule of unknown peers accepts nobody and denies everybody")
            .step(
                [cluster_policy(
                    "unknown",
                    "Admin",
                    1,
                    &format!(
                        "{on_a}ingress:\n- {{action: Accept, from: [{{strangers: {{}}}}]}}\n- {{action: \
                         Deny, from: [{{namespaces: {{matchLabels: {{ns: y}}}}}}]}}"
                    ),
                )],
                "- y/* > x/a",
            )
            .step(
                [cluster_policy(
                    "unknown",
                    "Admin",
                    1,
                    &format!("{on_a}egress:\n- {{action: Pass, to: [{{strangers: {{}}}}]}}"),
                )],
                "- x/a > *",
            ),
        case("policies of one priority decide in the order of their names").step(
            [
                cluster_policy(
                    "b-opens",
                    "Admin",
                    7,
                    &format!("{x}ingress:\n- {{action: Accept, from: [{{namespaces: {{}}}}]}}"),
                ),
                cluster_policy(
                    "a-closes",
                    "Admin",
                    7,
                    &format!(
                        "{x}ingress:\n- {{action: Deny, from: [{{namespaces: {{matchLabels: {{ns: \
                         z}}}}}}]}}"
                    ),
                ),
                network_policy("x/closed", "{podSelector: {}, ingress: []}"),
            ],
            "- z/* > x/*",
        ),
        case("a protocol without ports is every port of it").step(
            [cluster_policy(
                "no-tcp",
                "Admin",
                7,
                &format!(
                    "{x}ingress:\n- {{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: \
                     {{}}}}, {{udp: {{destinationPort: {{range: {{start: 81, end: 90}}}}}}}}]}}"
                ),
            )],
            "- * > x/* tcp,udp/81",
        ),
        case("what the top accepts towards one pod, its own namespace may not forbid").step(
            [
                cluster_policy(
                    "opens",
                    "Admin",
                    7,
                    &format!(
                        "{on_a}ingress:\n- {{action: Accept, from: [{{namespaces: {{matchLabels: {{ns: \
                         y}}}}}}]}}"
                    ),
                ),
                network_policy("x/closed", "{podSelector: {}, ingress: []}"),
                network_policy(
                    "y/closed",
                    "{podSelector: {matchLabels: {pod: c}}, policyTypes: [Egress]}",
                ),
            ],
            "- * > x/*
             + y/* > x/a
             - y/c > *",
        ),
    ]
}

/// Pings, the own node, and a host that is neither pod nor node.
fn beyond_pods() -> Vec<Case> {
    let case = |name: &str| {
        case(name)
            .beside([End::Node(NODE), End::External("outside")])
            .probing([Probe::Tcp(80), Probe::Tcp(81), Probe::Ping])
    };
    let out_of_a = |rules: &str| {
        network_policy(
            "x/out-of-a",
            &format!(
                "{{podSelector: {{matchLabels: {{pod: a}}}}, policyTypes: [Egress], egress: {rules}}}"
            ),
        )
    };
    let both_of = |end: &str| {
        format!("{{ipBlock: {{cidr: '@4({end})/32'}}}}, {{ipBlock: {{cidr: '@6({end})/128'}}}}")
    };
    let to_x = "subject: {namespaces: {matchLabels: {ns: x}}}\ningress:\n";
    vec![
        case("a rule without ports is about pings, and one with ports is not")
            .step(
                [into_a(&format!("[{{from: [{EVERY_POD}]}}]"))],
                "- * > x/a
                 + x/*,y/*,z/*,node/* > x/a",
            )
            .step(
                [into_a(&format!("[{{from: [{EVERY_POD}], ports: [{{}}]}}]"))],
                "- * > x/a
                 + x/*,y/*,z/* > x/a tcp
                 + node/* > x/a",
            ),
        case("a host outside is let in by its address alone")
            .step(
                [into_a(
                    "[{from: [{ipBlock: {cidr: '@4(external/outside)/32'}}], ports: [{port: 81}]}]",
                )],
                "- * > x/a
                 + node/* > x/a
                 + external/outside > x/a tcp/81,v4",
            )
            .step(
                [into_a(&format!(
                    "[{{from: [{}]}}]",
                    both_of("external/outside")
                ))],
                "- * > x/a
                 + node/*,external/* > x/a",
            ),
        case("everybody is everybody, outside and by ping")
            .step([into_a("[]")], "- * > x/a\n+ node/* > x/a")
            .step([into_a("[{}]")], ""),
        case("the own node is let in, and let out to only by a rule")
            .step(
                [out_of_a(&format!("[{{to: [{EVERY_POD}]}}]"))],
                "- x/a > node/*,external/*",
            )
            .step(
                [out_of_a(&format!("[{{to: [{}]}}]", both_of("node/n1")))],
                "- x/a > *
                 + x/a > node/*",
            )
            .step(
                [out_of_a(&format!(
                    "[{{to: [{}], ports: [{{port: 80}}]}}]",
                    both_of("external/outside")
                ))],
                "- x/a > *
                 + x/a > external/* tcp/80",
            ),
        case("a tier denies pods by their labels, pings too, and nobody outside")
            .step(
                [cluster_policy(
                    "no-pods",
                    "Admin",
                    1,
                    &format!("{to_x}- {{action: Deny, from: [{{namespaces: {{}}}}]}}"),
                )],
                "- * > x/*
                 + node/*,external/* > x/*",
            )
            .step(
                [cluster_policy(
                    "no-pods",
                    "Admin",
                    1,
                    &format!(
                        "{to_x}- {{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: \
                         {{destinationPort: {{number: 81}}}}}}]}}"
                    ),
                )],
                "- * > x/* tcp/81
                 + node/*,external/* > x/*",
            ),
        case("a tier denies networks, whoever has an address in them").step(
            [cluster_policy(
                "nowhere",
                "Admin",
                1,
                "subject: {namespaces: {matchLabels: {ns: x}}}\negress:\n\
                 - {action: Accept, to: [{nodes: {}}], protocols: [{tcp: {}}]}\n\
                 - {action: Deny, to: [{networks: [0.0.0.0/0]}]}",
            )],
            "- x/* > * v4
             + x/* > node/* tcp",
        ),
    ]
}
