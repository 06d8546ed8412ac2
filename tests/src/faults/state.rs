//! State files that are cut, changed or gone when the agent starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cofferdam_protocol::output::EndpointState;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::watch::{self, Seen};
use super::{Stand, add_both};
use crate::agent::Agent;
use crate::firewall::named;

/// The file of endpoints.
const ENDPOINTS: &str = "endpoints.json";

/// Outcome of damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// Files that were damaged.
    pub files: u64,
    /// Starts after which endpoints were closed until they were added again.
    pub closed: u64,
    /// Starts after which a damaged file of endpoints was believed.
    pub believed: u64,
    /// Counts of the traffic. Connections break where endpoints are closed.
    pub seen: Seen,
}

/// Damages state files so often, or until the deadline, each in another place, and lets an
/// agent start over each. Whatever is closed is added again.
///
/// # Panics
///
/// Panics if an agent does not come up, or does not tell what is closed.
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

/// A file system of its own for the state, which can be made read-only.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    fn on(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a directory");
        let kind = Some("tmpfs");
        let mode = Some("mode=700");
        mount(kind, &path, kind, MsFlags::empty(), mode).expect("a file system");
        Self(path)
    }

    fn remount(&self, flags: MsFlags) {
        let (none, flags) = (None::<&str>, MsFlags::MS_REMOUNT | flags);
        mount(none, &self.0, none, flags, none).expect("it is mounted");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing depends on it.
        _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Makes the state read-only under an agent, which says so of an endpoint that is added then,
/// and has the next agent start over it: that one has the endpoints from before, and the new
/// one is closed. `stand` must not have started its agent yet.
///
/// # Panics
///
/// Panics if one of the agents does otherwise.
pub fn read_only(stand: &mut Stand) -> Seen {
    let Stand { agent, world, .. } = stand;
    let state = Mounted::on(agent.path("state"));
    agent.start_enforced();
    add_both(agent, world);
    let (seen, ()) = watch::during(world, |_| {
        // Asked for by its answer, the agent has nothing left to write.
        agent.sync();
        state.remount(MsFlags::MS_RDONLY);
        let added = agent.add(named(world, "shop/stranger"), &["app=none"]);
        assert_eq!(added.state, EndpointState::Enforced);
        let problem = added.problem.unwrap_or_default();
        assert!(problem.contains("must be added again"), "{problem}");
        agent.kill();
        agent.start(&[]);
        let status = agent.wait_up();
        assert!(!status.ready, "{status:?}");
        assert_eq!(agent.endpoints().len(), 2, "{}", agent.log());
        let closed = agent.strangers();
        assert_eq!(closed.len(), 1, "{closed:?}");
        assert_eq!(closed[0].state, EndpointState::DenyAll);
        state.remount(MsFlags::empty());
        let added = agent.add(named(world, "shop/stranger"), &["app=none"]);
        assert_eq!(
            (added.state, added.problem),
            (EndpointState::Enforced, None)
        );
    });
    agent.kill();
    seen
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
