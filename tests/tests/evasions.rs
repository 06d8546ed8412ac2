//! Attacks that must not pass the firewall, and traffic that it must not stop, in real
//! network namespaces: see [`cofferdam_tests::evasions`].

#[path = "evasions/ipvs.rs"]
mod ipvs;
#[path = "evasions/own_interface.rs"]
mod own_interface;
#[path = "evasions/services.rs"]
mod services;
#[path = "evasions/stamp.rs"]
mod stamp;
#[path = "evasions/unmanaged.rs"]
mod unmanaged;

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

use cofferdam_tests::{
    evasions::{self, Count, Finding, Row, Setup},
    skip::Feature,
    skip_unless,
};

/// Setups that are tried at a time.
const AT_A_TIME: usize = 2;

#[test]
fn nothing_evil_arrives_and_nothing_honest_is_lost() {
    skip_unless!(Feature::NetworkNamespaces);
    let setups = Mutex::new(Setup::pairwise());
    let next = || setups.lock().expect("no panic").pop();
    let through_setups = || {
        let mut firewall = evasions::firewall();
        let mut count = Count::default();
        let mut findings: Vec<Finding> = Vec::new();
        while let Some(setup) = next() {
            let (done, found) = evasions::run(&mut firewall, setup, "");
            println!("{setup}: {done}");
            count += done;
            findings.extend(found);
        }
        (count, findings)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..AT_A_TIME)
            .map(|_| scope.spawn(through_setups))
            .collect();
        let ended = running.into_iter().map(|one| one.join());
        ended.map(|result| result.expect("findings")).collect()
    });
    let findings: Vec<String> = (results.iter())
        .flat_map(|(_, findings)| findings.iter().map(ToString::to_string))
        .collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    // Each setup has at least the scenarios of one family under one policy.
    let scenarios = evasions::scenarios().count() as u64;
    let attacks: u64 = results.iter().map(|(count, _)| count.attacks).sum();
    assert!(attacks > scenarios * Setup::pairwise().len() as u64);
}

#[test]
fn every_row_in_scope_has_a_claim_and_no_claim_is_made_twice() {
    let claims = || {
        let evil = evasions::scenarios().map(|scenario| (scenario.row, scenario.claim));
        evil.chain(evasions::errands().map(|errand| (errand.row, errand.claim)))
    };
    let rows: HashSet<Row> = claims().map(|(row, _)| row).collect();
    let missing: Vec<_> = (Row::ALL.iter())
        .filter(|row| !rows.contains(row))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let distinct: HashSet<&str> = claims().map(|(_, claim)| claim).collect();
    assert_eq!(distinct.len(), claims().count());
}
