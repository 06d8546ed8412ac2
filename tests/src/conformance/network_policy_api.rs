//! The 24 conformance tests of the network policy API, each tier with the other's
//! names, told in documents and tables of our own.
//!
//! That suite tries one cell after the other; here every cell is stated. Rules change
//! places, actions, priorities and labels while everything runs.

use super::cluster::{Change, End, OTHER_NODE, cluster_policy, delete, namespace, network_policy};
use super::{Case, Setting, Suite};
use crate::firewall::NODE;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tier in [ADMIN, BASELINE] {
        for direction in [EGRESS, INGRESS] {
            cases.extend(ORDERS.map(|order| in_order(tier, direction, &order)));
            cases.push(by_name(tier, direction));
        }
        cases.push(both_directions(tier));
        cases.push(networks(tier));
        cases.push(nodes(tier));
    }
    cases.push(priorities());
    cases.push(all_tiers());
    cases
}

/// A tier as documents write it, and the priority its cases give.
#[derive(Clone, Copy)]
struct Tier {
    name: &'static str,
    priority: u16,
    /// `true` if the suite passes in it: where it leads to nothing, it does not.
    passes: bool,
}

const ADMIN: Tier = Tier {
    name: "Admin",
    priority: 6,
    passes: true,
};
const BASELINE: Tier = Tier {
    name: "Baseline",
    priority: 10,
    passes: false,
};

/// A direction of the subject, as documents write it.
#[derive(Clone, Copy)]
struct Direction {
    section: &'static str,
    peers: &'static str,
}

const EGRESS: Direction = Direction {
    section: "egress",
    peers: "to",
};
const INGRESS: Direction = Direction {
    section: "ingress",
    peers: "from",
};

/// Ends and ports of the ordered rules: `denied` towards `at`, and `open`, the only ports towards
/// `but`.
#[derive(Clone, Copy)]
struct Order {
    subject: &'static str,
    whole: &'static str,
    at: &'static str,
    denied: &'static str,
    but: &'static str,
    open: &'static str,
}

const ORDERS: [Order; 3] = [
    Order {
        subject: "north",
        whole: "west",
        at: "south",
        denied: "tcp/80",
        but: "east",
        open: "tcp/8080",
    },
    Order {
        subject: "east",
        whole: "west",
        at: "south",
        denied: "udp/5353",
        but: "north",
        open: "udp/53",
    },
    Order {
        subject: "south",
        whole: "west",
        at: "north",
        denied: "sctp/9003",
        but: "east",
        open: "sctp/9005",
    },
];

/// The ways of all protocols at once.
const TOGETHER: Order = Order {
    subject: "north",
    whole: "west",
    at: "south",
    denied: "tcp/80,udp/53,sctp/9003",
    but: "east",
    open: "tcp/8080,udp/5353,sctp/9003",
};

fn case(tier: Tier, name: &str) -> Case {
    let name = format!("{} tier: {name}", tier.name);
    Case::new(Suite::NetworkPolicyApi, Setting::Quarters, name)
}

fn subject(namespace: &str) -> String {
    format!(
        "subject: {{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}\n"
    )
}

/// One rule towards or from the pods of a namespace, in these ways.
fn rule(direction: Direction, action: &str, namespace: &str, ways: &str) -> String {
    let peer =
        format!("{{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}");
    rule_of(direction, action, &peer, ways)
}

fn rule_of(direction: Direction, action: &str, peer: &str, ways: &str) -> String {
    let protocols: Vec<String> = (ways.split(',').filter(|way| !way.is_empty()))
        .map(|way| match way.split_once('/') {
            Some((protocol, port)) => {
                format!("{{{protocol}: {{destinationPort: {{number: {port}}}}}}}")
            }
            None => format!("{{destinationNamedPort: {way}}}"),
        })
        .collect();
    let protocols = if protocols.is_empty() {
        String::new()
    } else {
        format!(", protocols: [{}]", protocols.join(", "))
    };
    let peers = direction.peers;
    format!("- {{action: {action}, {peers}: [{peer}]{protocols}}}\n")
}

/// The policy of a tier's cases.
fn policy(tier: Tier, rest: &str) -> Change {
    cluster_policy("ordered", tier.name, tier.priority, rest)
}

/// A statement about a subject's traffic in a direction.
fn line(direction: Direction, sign: char, subject: &str, peer: &str, ways: &str) -> String {
    let (from, to) = match direction.section {
        "egress" => (subject, peer),
        _ => (peer, subject),
    };
    format!("{sign} {from}/* > {to}/* {ways}\n")
}

/// The rules in the order of a step: first of `whole`, then of `at`, then of `but`.
fn ordered(direction: Direction, order: &Order, whole: &[&str], at: &[&str]) -> String {
    let whole = (whole.iter()).map(|action| rule(direction, action, order.whole, ""));
    let at = (at.iter()).map(|action| rule(direction, action, order.at, order.denied));
    let but = [
        rule(direction, "Accept", order.but, order.open),
        rule(direction, "Deny", order.but, ""),
    ];
    let rules: String = whole.chain(at).chain(but).collect();
    format!("{}:\n{rules}", direction.section)
}

/// Returns the statements for `whole` and `at` denied, or not.
fn stated(direction: Direction, order: &Order, whole_denied: bool, at_denied: bool) -> String {
    let mut lines = line(direction, '-', order.subject, order.but, "")
        + &line(direction, '+', order.subject, order.but, order.open);
    if whole_denied {
        lines += &line(direction, '-', order.subject, order.whole, "");
    }
    if at_denied {
        lines += &line(direction, '-', order.subject, order.at, order.denied);
    }
    lines
}

/// The steps of rules that change places: the actions for `whole` and for `at`, and
/// whether either is denied then.
type Places = (&'static [&'static str], &'static [&'static str], bool, bool);

fn places(tier: Tier) -> Vec<Places> {
    if tier.passes {
        vec![
            (&["Accept", "Deny", "Pass"], &["Deny", "Pass"], false, true),
            (&["Deny", "Accept", "Pass"], &["Deny", "Pass"], true, true),
            (&["Pass", "Accept", "Deny"], &["Deny", "Pass"], false, true),
            (&["Pass", "Accept", "Deny"], &["Pass", "Deny"], false, false),
        ]
    } else {
        vec![
            (&["Accept", "Deny"], &["Deny"], false, true),
            (&["Deny", "Accept"], &["Deny"], true, true),
        ]
    }
}

fn in_order(tier: Tier, direction: Direction, order: &Order) -> Case {
    let name = format!("{} rules in order, {}", direction.section, order.denied);
    places(tier)
        .into_iter()
        .fold(case(tier, &name), |case, (whole, at, denied, at_denied)| {
            let rest = subject(order.subject) + &ordered(direction, order, whole, at);
            case.step(
                [policy(tier, &rest)],
                stated(direction, order, denied, at_denied),
            )
        })
}

fn both_directions(tier: Tier) -> Case {
    let order = &TOGETHER;
    places(tier).into_iter().fold(
        case(tier, "both directions and all protocols at once"),
        |case, (whole, at, denied, at_denied)| {
            let rest = subject(order.subject)
                + &ordered(EGRESS, order, whole, at)
                + &ordered(INGRESS, order, whole, at);
            let lines = stated(EGRESS, order, denied, at_denied)
                + &stated(INGRESS, order, denied, at_denied);
            case.step([policy(tier, &rest)], lines)
        },
    )
}

/// A port by its number, then by its name, which brings its own protocol.
fn by_name(tier: Tier, direction: Direction) -> Case {
    let (name, number, open) = match (tier.name, direction.section) {
        ("Admin", "egress") | ("Baseline", "ingress") => ("web", "tcp/8080", "tcp/80"),
        _ => ("dns", "udp/5353", "udp/53"),
    };
    let rest = |ways: &str| {
        subject("north")
            + direction.section
            + ":\n"
            + &rule(direction, "Accept", "east", ways)
            + &rule(direction, "Deny", "east", "")
    };
    let lines = |ways: &str| {
        line(direction, '-', "north", "east", "") + &line(direction, '+', "north", "east", ways)
    };
    case(
        tier,
        &format!("{} by the name of a port", direction.section),
    )
    .step([policy(tier, &rest(number))], lines(number))
    .step([policy(tier, &rest(name))], lines(open))
}

const SOUTH_PODS: &str = "{pods: {namespaceSelector: {matchLabels: {side: south}}, podSelector: \
                          {matchLabels: {side: south}}}}";
const NORTH_PODS: &str = "subject: {pods: {namespaceSelector: {matchLabels: {side: north}}, \
                          podSelector: {matchLabels: {side: north}}}}\n";

/// Networks match pods' addresses too, and rules before them count.
fn networks(tier: Tier) -> Case {
    let closed = rule_of(EGRESS, "Accept", SOUTH_PODS, "")
        + &rule_of(EGRESS, "Deny", "{networks: [0.0.0.0/0, '::/0']}", "");
    let some = "{networks: ['@4(west/p0)/32', '@4(east/p0)/32', '@6(west/p0)/128', \
                '@6(east/p0)/128']}";
    let opened = rule_of(EGRESS, "Accept", some, "") + &closed;
    let rest = |rules: &str| format!("{NORTH_PODS}egress:\n{rules}");
    let but_south = "- north/* > *\n+ north/* > south/*";
    case(tier, "networks as peers")
        .step([policy(tier, &rest(&closed))], but_south)
        .step([namespace("south", &["side=elsewhere"])], "- north/* > *")
        .step([namespace("south", &["side=south"])], but_south)
        .step(
            [policy(tier, &rest(&opened))],
            "- north/* > *\n+ north/* > south/*,west/p0,east/p0",
        )
}

/// Nodes by their labels, on their addresses.
fn nodes(tier: Tier) -> Case {
    let rest = |selector: &str| {
        let peer = format!("{{nodes: {{matchLabels: {{{selector}}}}}}}");
        let rule = |action, ways| rule_of(EGRESS, action, &peer, ways);
        subject("north")
            + "egress:\n"
            + &rule("Accept", "tcp/34345")
            + &rule("Deny", "tcp/34346")
            + &rule("Pass", "udp/34347")
            + &rule("Deny", "")
    };
    let both = [End::Node(NODE), End::Node(OTHER_NODE)];
    case(tier, "nodes as peers")
        .beside(both)
        .step(
            [policy(tier, &rest("kubernetes.io/os: linux"))],
            "- north/* > node/*
             + north/* > node/* tcp/34345,udp/34347",
        )
        .step(
            [policy(tier, &rest("host: n2"))],
            "- north/* > node/n2
             + north/* > node/n2 tcp/34345,udp/34347",
        )
}

/// One rule with an action for all traffic between north and south, both ways.
fn between(name: &str, tier: &str, priority: u16, ingress: &str, egress: &str) -> Change {
    let rest = format!(
        "{NORTH_PODS}ingress:\n{}egress:\n{}",
        rule_of(INGRESS, ingress, SOUTH_PODS, ""),
        rule_of(EGRESS, egress, SOUTH_PODS, "")
    );
    cluster_policy(name, tier, priority, &rest)
}

const APART: &str = "- north/* > south/*\n- south/* > north/*\n";

fn priorities() -> Case {
    case(ADMIN, "a priority that changes")
        .step(
            [
                between("first", "Admin", 50, "Deny", "Deny"),
                between("second", "Admin", 60, "Pass", "Pass"),
                between("floor", "Baseline", 10, "Accept", "Accept"),
            ],
            APART,
        )
        .step([between("second", "Admin", 40, "Pass", "Pass")], "")
}

fn all_tiers() -> Case {
    let closed = "- * > north/*\n- north/* > *\n";
    let south = "{namespaceSelector: {matchLabels: {side: south}}}";
    case(ADMIN, "down through all tiers")
        .step(
            [
                between("top", "Admin", 10, "Deny", "Deny"),
                network_policy(
                    "north/with-south",
                    &format!(
                        "{{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{from: \
                         [{south}]}}], egress: [{{to: [{south}]}}]}}"
                    ),
                ),
                between("floor", "Baseline", 10, "Deny", "Deny"),
            ],
            closed,
        )
        .step(
            [between("top", "Admin", 10, "Pass", "Deny")],
            format!("{closed}+ south/* > north/*"),
        )
        .step(
            [between("top", "Admin", 10, "Pass", "Pass")],
            format!("{closed}+ south/* > north/*\n+ north/* > south/*"),
        )
        .step([delete("north/with-south")], APART)
}
