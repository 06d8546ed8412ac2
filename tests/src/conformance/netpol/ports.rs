//! Cases about ports and protocols.

use super::case;
use crate::conformance::Case;
use crate::conformance::cluster::{Change, network_policy};

/// A policy of `x` with one rule of ingress.
fn ingress(name: &str, subject: &str, rule: &str) -> Change {
    network_policy(
        &format!("x/{name}"),
        &format!("{{podSelector: {subject}, policyTypes: [Ingress], ingress: [{rule}]}}"),
    )
}

const ALL: &str = "{}";
const POD_A: &str = "{matchLabels: {pod: a}}";

/// From namespace `y` on one port.
fn from_y(port: &str) -> String {
    format!("{{from: [{{namespaceSelector: {{matchLabels: {{ns: y}}}}}}], ports: [{port}]}}")
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = by_number();
    cases.extend(by_name());
    cases.extend(by_protocol());
    cases
}

fn by_number() -> Vec<Case> {
    let on_81 = |protocol: &str| {
        let port = format!("{{protocol: {protocol}, port: 81}}");
        ingress("y-on-81", POD_A, &from_y(&port))
    };
    vec![
        case("one port for one namespace").step(
            [on_81("TCP")],
            "- * > x/a
             + y/* > x/a tcp/81",
        ),
        case("one port for one namespace, udp").step(
            [on_81("UDP")],
            "- * > x/a
             + y/* > x/a udp/81",
        ),
        case("one port for one namespace, sctp").step(
            [on_81("SCTP")],
            "- * > x/a
             + y/* > x/a sctp/81",
        ),
        case("stacked policies about the same pod")
            .step(
                [on_81("TCP")],
                "- * > x/a
                 + y/* > x/a tcp/81",
            )
            .step(
                [ingress(
                    "y-on-80",
                    POD_A,
                    &from_y("{protocol: TCP, port: 80}"),
                )],
                "- * > x/a
                 + y/* > x/a tcp/80,tcp/81",
            ),
        case("an allow-all policy of ingress counts over a narrower one")
            .step(
                [ingress("on-80", ALL, "{ports: [{port: 80}]}")],
                "- * > x/*
                 + * > x/* tcp/80",
            )
            .step([ingress("on-all", ALL, "{}")], ""),
        case("an allow-all policy of egress counts over a narrower one")
            .step(
                [network_policy(
                    "x/to-80",
                    "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}",
                )],
                "- x/* > *
                 + x/* > * tcp/80",
            )
            .step(
                [network_policy(
                    "x/to-all",
                    "{podSelector: {}, policyTypes: [Egress], egress: [{}]}",
                )],
                "",
            ),
    ]
}

fn by_name() -> Vec<Case> {
    vec![
        case("ingress on one named port").step(
            [ingress("named", ALL, "{ports: [{port: serve-81-tcp}]}")],
            "- * > x/*
             + * > x/* tcp/81",
        ),
        case("ingress from one namespace on one named port").step(
            [ingress(
                "named",
                POD_A,
                &from_y("{protocol: TCP, port: serve-80-tcp}"),
            )],
            "- * > x/a
             + y/* > x/a tcp/80",
        ),
        case("egress to one named port").step(
            [network_policy(
                "x/named",
                "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: \
                 serve-80-tcp}]}]}",
            )],
            "- x/* > *
             + x/* > * tcp/80",
        ),
    ]
}

fn by_protocol() -> Vec<Case> {
    vec![
        case("every port of one protocol").step(
            [ingress("tcp", POD_A, "{ports: [{protocol: TCP}]}")],
            "- * > x/a
             + * > x/a tcp",
        ),
        case("sctp is not read as tcp").step(
            [
                ingress("deny", ALL, ""),
                ingress("sctp-81", POD_A, "{ports: [{protocol: SCTP, port: 81}]}"),
            ],
            "- * > x/*
             + * > x/a sctp/81",
        ),
        case("a rule for sctp isolates from all protocols").step(
            [ingress(
                "sctp-80",
                POD_A,
                "{ports: [{protocol: SCTP, port: 80}]}",
            )],
            "- * > x/a
             + * > x/a sctp/80",
        ),
        case("no tcp where udp is meant").step(
            [ingress(
                "udp-81",
                POD_A,
                "{ports: [{protocol: UDP, port: 81}]}",
            )],
            "- * > x/a
             + * > x/a udp/81",
        ),
    ]
}
