//! State files that are cut, changed or gone when the agent starts.

use std::fs;
use std::path::Path;
use std::time::Instant;

use cofferdam_protocol::output::EndpointState;

use super::watch::{self, Seen};
use super::{Stand, add_both};
use crate::agent::Agent;

/// The file of endpoints.
const ENDPOINTS: &str = "endpoints.json";

/// What damage came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Files that were damaged.
    pub files: u64,
    /// Starts after which endpoints were closed until they were added again.
    pub closed: u64,
    /// Starts after which a damaged file of endpoints was believed.
    pub believed: u64,
    /// What traffic saw. Connections break where endpoints are closed.
    pub seen: Seen,
}

/// Damages state files so often, or until the deadline, each in another place, and lets an
/// agent start over each. Whatever is closed is added again.
///
/// # Panics
///
/// When an agent does not come up, or does not tell what is closed.
pub fn damage(
    stand: &mut Stand,
    number: u64,
    deadline: Option<Instant>,
    rng: &mut fastrand::Rng,
) -> Damaged {
    let Stand { agent, world, .. } = stand;
    let mut damaged = Damaged::default();
    let (seen, ()) = watch::during(world, |_| {
        for round in 0..number {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            agent.kill();
            let names = files(&agent.path("state"));
            // Every other time that on which endpoints rest.
            let name = match round % 2 {
                0 => ENDPOINTS,
                _ => &names[rng.usize(..names.len())],
            };
            spoil(&agent.path("state").join(name), rng);
            damaged.files += 1;
            agent.start(&[]);
            agent.wait_up();
            if is_closed(agent) {
                damaged.closed += 1;
                add_both(agent, world);
            } else {
                damaged.believed += u64::from(name == ENDPOINTS);
            }
            let status = agent.wait_enforced();
            assert_eq!(status.endpoints.len(), 2, "{status:?}");
        }
    });
    damaged.seen = seen;
    damaged
}

/// Returns `true` if both endpoints are closed, which the agent must tell, and `false` if both
/// are as before.
fn is_closed(agent: &Agent) -> bool {
    let known = agent.endpoints();
    if known.len() == 2 {
        return false;
    }
    let mut strangers = agent.strangers();
    strangers.retain(|one| one.state == EndpointState::DenyAll);
    assert_eq!((known.len(), strangers.len()), (0, 2), "{}", agent.log());
    assert!(!agent.status().ready, "{}", agent.log());
    true
}

fn files(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

/// Cuts a file somewhere, flips a bit, doubles it, or fills it with other bytes.
fn spoil(path: &Path, rng: &mut fastrand::Rng) {
    let mut bytes = fs::read(path).expect("a file");
    let at = rng.usize(..bytes.len().max(1));
    match rng.u8(..8) {
        0..3 => bytes.truncate(at),
        3..6 if !bytes.is_empty() => bytes[at] ^= 1 << rng.u8(..8),
        6 => bytes.extend(bytes.clone()),
        _ => bytes.iter_mut().for_each(|byte| *byte = rng.u8(..)),
    }
    fs::write(path, bytes).expect("it can be written");
}
