//! Honest traffic under load: see [`cofferdam_tests::load`] and [`cofferdam_tests::flood`].

use std::time::Duration;

use cofferdam_tests::{
    flood::{Flooded, flood},
    load::{self, Attendance, Rates, Served},
    skip::Feature,
    skip_unless,
};

/// `cargo xtask soak swaps` publishes 10 000 tables.
#[test]
fn no_answer_is_lost_while_tables_are_replaced() {
    const SWAPS: u64 = 150;
    skip_unless!(Feature::NetworkNamespaces);
    let swapped = load::swaps(SWAPS, None).expect("traffic");
    assert!(swapped.answered > SWAPS, "{swapped:?}");
    assert_eq!((swapped.lost, swapped.leaked), (0, 0), "{swapped:?}");
}

/// Flows are moved while packets look for them on other processors.
#[test]
fn no_answer_is_lost_while_flow_tables_grow() {
    skip_unless!(Feature::NetworkNamespaces);
    let grown = load::growths().expect("traffic");
    assert_eq!(grown.changes, 10, "{grown:?}");
    assert!(grown.answered > 100, "{grown:?}");
    assert_eq!((grown.lost, grown.leaked), (0, 0), "{grown:?}");
}

/// Opens short flows for some seconds, and finds all of them served.
#[track_caller]
fn serves(rates: Rates, attendance: Attendance) {
    let served = load::short_flows(rates, attendance, Duration::from_secs(5)).expect("traffic");
    let Served {
        questions,
        unanswered,
        connections,
        failed,
        ..
    } = &served;
    // An emulated machine is a hundred times slower, and comes to no full table.
    assert!(*questions > 100 && *connections > 100, "{served:?}");
    assert_eq!((*unanswered, *failed), (0, 0), "{served:?}");
}

/// Flows that are over make room for new ones: some thousand a second, where there is room for
/// 8 192. `cargo xtask soak load` goes on for ten minutes.
#[test]
fn a_busy_server_loses_no_question_and_no_connection() {
    skip_unless!(Feature::NetworkNamespaces);
    let rates = Rates {
        questions: 10_000,
        connections: 5_000,
    };
    serves(rates, Attendance::Attended);
}

/// Flow tables do not grow while the agent is dead. `cargo xtask soak load --unattended` goes on
/// for ten minutes.
#[test]
fn a_tenth_of_that_load_loses_nothing_without_an_agent() {
    skip_unless!(Feature::NetworkNamespaces);
    let rates = Rates {
        questions: 1_000,
        connections: 500,
    };
    serves(rates, Attendance::Unattended);
}

/// Requests of senders that do not exist never stay. `cargo xtask soak flood` goes on for a
/// minute.
#[test]
fn a_flood_of_requests_breaks_no_flow_and_keeps_no_client_out() {
    skip_unless!(Feature::NetworkNamespaces);
    let flooded = flood(100_000, Duration::from_secs(5), 1).expect("traffic");
    let Flooded {
        requests,
        exchanges,
        lost,
        clients,
        refused,
        ..
    } = &flooded;
    // An emulated machine is a hundred times slower, and comes to no full table.
    assert!(
        *requests > 100 && *exchanges > 10 && *clients > 1,
        "{flooded:?}"
    );
    assert_eq!((*lost, *refused), (0, 0), "{flooded:?}");
}
