//! An agent of another make takes over the pins of the one before.

use super::watch::{self, Seen};
use super::{SMALL, Stand, wait_attached};

/// Settings of agents that follow each other, each with words that the log must have: what
/// the agent found.
fn successors() -> [(String, &'static str); 6] {
    let small = |more: &str| format!("{SMALL}{more}");
    let (programs, state, other) = (
        "took up what was in force, with new programs",
        "took over addresses, endpoints and flows",
        "was made with other limits or by another version",
    );
    [
        (small("idle: {udp: 2m}\n"), programs),
        (small("own_node: policy\n"), programs),
        (SMALL.replace("table_pages: 32", "table_pages: 64"), state),
        (small(""), state),
        (SMALL.replace("slots: 8192", "slots: 16384"), other),
        (small(""), other),
    ]
}

/// Lets agents follow each other so often, each with other programs or maps than the one
/// before. All allowed connections go on: where flows are lost, they are adopted.
///
/// # Panics
///
/// Panics if one does not come up, or does not find what it should.
pub fn cross(stand: &mut Stand, number: usize) -> Seen {
    let Stand { agent, world, .. } = stand;
    let (seen, ()) = watch::during(world, |_| {
        for (settings, found) in successors().into_iter().cycle().take(number) {
            agent.kill();
            let before = agent.log().len();
            agent.set(&settings);
            let status = agent.start_enforced();
            assert_eq!(status.endpoints.len(), 2, "{status:?}");
            let log = agent.log();
            assert!(log[before..].contains(found), "{settings}: {log}");
            wait_attached(agent);
        }
    });
    seen
}
