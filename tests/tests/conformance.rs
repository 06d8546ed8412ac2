//! Truth tables of the public conformance suites, cell by cell.
//!
//! Offline all of them, in both families: what the case states, what the oracle finds
//! and what the compiled table says must agree. With packets, through a real agent,
//! in one family a step.

#[path = "conformance/offline.rs"]
mod offline;
#[path = "conformance/packets.rs"]
mod packets;

use cofferdam_tests::conformance::offline::Count;

/// Checks cases in shares, at once, and says how much there was to check. A share has
/// whatever `begin` makes for it, by its number.
fn checked<C: Sync, S>(
    cases: &[C],
    shares: usize,
    begin: impl Fn(usize) -> S + Sync,
    check: impl Fn(&mut S, usize, &C) -> Result<Count, String> + Sync,
) -> Count {
    let found: Vec<Result<Count, String>> = std::thread::scope(|scope| {
        let (begin, check) = (&begin, &check);
        let size = cases.len().div_ceil(shares).max(1);
        let running: Vec<_> = (cases.chunks(size).enumerate())
            .map(|(share, cases)| {
                scope.spawn(move || {
                    let mut state = begin(share);
                    let numbered = cases.iter().enumerate();
                    let found = numbered.map(|(number, case)| check(&mut state, number, case));
                    found.collect::<Vec<_>>()
                })
            })
            .collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended
            .flat_map(|share| share.expect("it does not panic"))
            .collect()
    });
    let mut all = Count::default();
    let mut wrong = Vec::new();
    for one in found {
        match one {
            Ok(count) => all += count,
            Err(words) => wrong.push(words),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    println!("{all:?}");
    all
}
