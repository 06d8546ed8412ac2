//! Others change what the agent has put in force.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::bpf::{self, AttachType};
use super::watch::{self, Seen, Watch};
use super::{Stand, pause, wait_attached};
use crate::agent::Agent;
use crate::firewall::named;
use crate::world::World;

/// Time within which everything is put right, and alarmed.
pub const PROMISED: Duration = Duration::from_secs(1);
/// Series of the alarm. Asked for by metrics: asking for the status would have the agent look
/// at its hooks.
const ALARM: &str = "cofferdam_tamper_events_total";
/// Time after which an alarm has not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at the alarm.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// The BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// A way to tamper, at the database's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    /// Its tcx links are detached: the filters behind judge.
    LinksDetached,
    /// Its qdisc goes with all filters: the links before judge.
    FiltersDeleted,
    /// Both: nothing judges until the agent, which the kernel tells of filters, has acted.
    Both,
    /// A program that passes everything stands before ours: nothing judges.
    ProgramBefore,
    /// A filter that passes everything stands before ours, and behind the links, which judge.
    FilterBefore,
    /// The pins are removed.
    PinsRemoved,
    /// The BPF file system is unmounted, and an empty one mounted.
    Unmounted,
    /// The same while no agent runs: the links go with their pins, and the filters judge.
    UnmountedDead,
}

impl Tampering {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::LinksDetached,
        Self::FiltersDeleted,
        Self::Both,
        Self::ProgramBefore,
        Self::FilterBefore,
        Self::PinsRemoved,
        Self::Unmounted,
        Self::UnmountedDead,
    ];

    /// Returns `true` if nothing judges for a while, so that packets may leak.
    pub fn opens(self) -> bool {
        matches!(self, Self::Both | Self::ProgramBefore)
    }
}

/// Outcome of a tampering.
#[derive(Clone, Copy, Debug)]
pub struct Tampered {
    /// Kind of the tampering.
    pub how: Tampering,
    /// Denied packets that passed.
    pub packets: u64,
    /// Time from the first to the last of them.
    pub window: Duration,
    /// Time until the alarm; where no agent ran, since the next one is up.
    pub alarmed: Duration,
}

/// Gives the calling thread a BPF file system of its own, which can be unmounted. Agents that
/// it starts have that one.
///
/// # Panics
///
/// Without the right to mount.
pub fn own_file_system() {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let none = None::<&str>;
    mount(none, "/", none, private, none).expect("a private namespace");
    mount_empty();
}

fn mount_empty() {
    let (kind, none) = (Some("bpf"), None::<&str>);
    mount(kind, BPFFS, kind, MsFlags::empty(), none).expect("a mount");
}

/// Tampers so often, or until the deadline, in each way in turn. To be called on a thread of
/// [`own_file_system`].
///
/// # Panics
///
/// Panics if there is no alarm, or the agent does not say that everything is enforced again.
pub fn tamper(
    stand: &mut Stand,
    number: usize,
    deadline: Option<Instant>,
) -> (Seen, Vec<Tampered>) {
    let Stand { agent, world, .. } = stand;
    wait_attached(agent);
    watch::during(world, |watch| {
        let mut all = Vec::new();
        for how in Tampering::ALL.into_iter().cycle().take(number) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            all.push(once(agent, world, watch, how));
        }
        all
    })
}

/// Tampers once, and waits until all is right.
fn once(agent: &mut Agent, world: &World, watch: &Watch, how: Tampering) -> Tampered {
    let leaked = watch.take_leaks();
    assert_eq!(leaked.packets, 0, "before {how:?}");
    if how == Tampering::UnmountedDead {
        agent.kill();
    }
    let before = match how {
        Tampering::UnmountedDead => 0,
        _ => agent.metric(ALARM),
    };
    let mut began = Instant::now();
    let _foreign = disturb(agent, world, how);
    if how == Tampering::UnmountedDead {
        pause(Duration::from_millis(100));
        agent.start(&[]);
        agent.wait_up();
        began = Instant::now();
    }
    while agent.metric(ALARM) == before {
        assert!(began.elapsed() < PATIENCE, "{how:?}: {}", agent.log());
        pause(BETWEEN_LOOKS);
    }
    let alarmed = began.elapsed();
    let leaks = watch.take_leaks();
    // Not before: it has the agent look at everything at once.
    let status = wait_attached(agent);
    assert_eq!(status.endpoints.len(), 2, "{status:?}");
    Tampered {
        how,
        packets: leaks.packets,
        window: leaks.window(),
        alarmed,
    }
}

/// Tampers. What is returned stands until it is dropped.
fn disturb(agent: &Agent, world: &World, how: Tampering) -> Option<OwnedFd> {
    let db = named(world, "shop/db");
    let _inside = world.node().namespace.enter().expect("a namespace");
    let tc = |arguments: &[&str]| {
        let [verb, object, more @ ..] = arguments else {
            unreachable!("a verb and its object");
        };
        let status = Command::new("tc")
            .args([verb, object, "dev", &db.host_interface])
            .args(more)
            .status();
        assert!(status.expect("tc is there").success(), "tc {arguments:?}");
    };
    let detach = || {
        let pins = fs::read_dir(agent.pins().join("links")).expect("pins");
        for pin in pins {
            let path = pin.expect("a pin").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if name.starts_with(&format!("{}-", db.host_ifindex)) {
                let link = bpf::pinned(&path).expect("a link");
                bpf::detach(&link).expect("it stands");
            }
        }
    };
    match how {
        Tampering::LinksDetached => detach(),
        Tampering::FiltersDeleted => tc(&["qdisc", "del", "clsact"]),
        Tampering::Both => {
            detach();
            tc(&["qdisc", "del", "clsact"]);
        }
        Tampering::ProgramBefore => {
            let link = bpf::pass_before_all(db.host_ifindex, AttachType::Egress);
            return Some(link.expect("tcx"));
        }
        Tampering::FilterBefore => {
            let pass = ["bpf", "direct-action", "bytecode", "1,6 0 0 0"];
            let before = ["filter", "add", "egress", "prio", "1", "protocol", "all"];
            tc(&[&before[..], &pass].concat());
        }
        Tampering::PinsRemoved => fs::remove_dir_all(agent.pins()).expect("pins"),
        Tampering::Unmounted | Tampering::UnmountedDead => {
            umount2(BPFFS, MntFlags::MNT_DETACH).expect("it was mounted");
            mount_empty();
        }
    }
    None
}
