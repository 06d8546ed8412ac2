//! All cases without a kernel.

use std::num::NonZero;

use cofferdam_tests::conformance::offline::{Count, check};
use cofferdam_tests::conformance::{Case, cyclonus, netpol, network_policy_api, own, tags};

use crate::checked;

fn asked(cases: &[Case]) -> Count {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    checked(cases, threads, |_| (), |(), _, case| check(case))
}

#[test]
fn netpol_tables_come_out_as_stated() {
    let count = asked(&netpol::cases());
    assert_eq!(count.cases, 48);
}

#[test]
fn cyclonus_tables_come_out_as_stated() {
    let count = asked(&cyclonus::cases());
    assert_eq!((count.cases, count.steps), (230, 256));
}

#[test]
fn network_policy_api_tables_come_out_as_stated() {
    let count = asked(&network_policy_api::cases());
    assert_eq!(count.cases, 24);
}

#[test]
fn tables_that_no_public_suite_has_come_out_as_stated() {
    asked(&own::cases());
}

/// The makeup of the suite, as it was counted in what its own generator makes.
#[test]
fn cyclonus_cases_are_of_all_its_kinds() {
    let tags = tags(&cyclonus::cases());
    for (tag, count) in [
        ("direction", 206),
        ("rule", 124),
        ("peer-pods", 110),
        ("ingress", 105),
        ("egress", 103),
        ("multi-peer", 90),
        ("all-pods", 84),
        ("port", 69),
        ("all-namespaces", 58),
        ("protocol", 54),
        ("pods-by-label", 54),
        ("namespaces-by-label", 54),
        ("numbered-port", 40),
        ("peer-ipblock", 38),
        ("policy-namespace", 38),
        ("named-port", 25),
        ("tcp", 20),
        ("udp", 20),
        ("ip-block-no-except", 20),
        ("ip-block-with-except", 20),
        ("conflict", 17),
        ("sctp", 14),
        ("multi-port/protocol", 14),
        ("any-port", 14),
        ("deny-all", 13),
        ("upstream-e2e", 13),
        ("end-port", 12),
        ("action", 7),
        ("allow-all", 7),
        ("target", 6),
        ("pathological", 6),
    ] {
        assert_eq!(tags.get(tag), Some(&count), "{tag}");
    }
}
