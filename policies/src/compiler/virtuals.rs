//! Decisions about virtual addresses, before a proxy has chosen a backend.
//!
//! The hook of a sender sees the virtual address, and not which backend a proxy will
//! choose. For each kind of sender and each port of a Service it is worked out here what
//! holds whichever it is: all backends may be reached, none may, or some.
//!
//! A kind of sender is a profile of this node's workloads: what the sender's egress says
//! follows from its class, what a backend's ingress says of it from its atom. Backends
//! are profiles, too, with a port: five pods of one application are mostly one. Services
//! with the same backends share what is known of them.
//!
//! Invariants: *all* and *none* are so for every workload of the kind, also for one that
//! is a backend itself; what depends on which workload it is, is *some*. Following a
//! change comes to what making everything anew does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Decision, Profile, SlotKind, row_key};
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use crate::inventory::{Protocol, Workload};
use crate::services::{Backend, Moved, Services};

use super::{Compiled, SlotPlan};

/// A protocol and port.
pub type Port = (Protocol, u16);

/// Share of a Service's backends that may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// No backend is known.
    Nobody,
    /// All of them may be.
    All,
    /// None may be; of the first, a direction and verdict that deny it to all of the kind.
    None(Direction, Verdict),
    /// Some may be, or which depends on more than the kind of the sender.
    Some,
}

/// Decision about a port of a virtual address, with and without audit policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// In force.
    pub enforced: Reached,
    /// With audit policies in force as well.
    pub audited: Reached,
}

/// A backend as policies see it: its profile, and the key of its port.
type End = (Profile, u32);

/// Backends, and the decision for each kind of sender, in the order of senders.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    ends: Box<[End]>,
    outcomes: Box<[Outcome]>,
}

/// The table in force, and who has which slot of it.
#[derive(Debug, Clone, Copy)]
pub struct InForce<'a> {
    /// The table.
    pub compiled: &'a Compiled,
    /// The slots.
    pub plan: &'a SlotPlan,
}

/// Decisions about all virtual addresses for the workloads of a node.
#[derive(Debug, Clone, Default)]
pub struct Virtuals {
    /// The kinds of senders, in order.
    senders: Vec<Profile>,
    /// Kinds of which one workload may be both, by two of its addresses or by one.
    siblings: BTreeSet<(Profile, Profile)>,
    addresses: BTreeMap<(IpAddr, Port), Arc<Entry>>,
    node_ports: BTreeMap<(Family, Port), Arc<Entry>>,
    /// Entries by their backends.
    known: HashMap<Box<[End]>, Arc<Entry>>,
}

impl PartialEq for Virtuals {
    fn eq(&self, other: &Self) -> bool {
        (&self.senders, &self.addresses, &self.node_ports)
            == (&other.senders, &other.addresses, &other.node_ports)
    }
}

impl Virtuals {
    /// Works everything out. `senders` are this node's workloads.
    #[must_use]
    pub fn new<'w>(
        services: &Services,
        in_force: InForce<'_>,
        senders: impl IntoIterator<Item = &'w Workload>,
    ) -> Self {
        let mut kinds = BTreeSet::new();
        let mut virtuals = Self::default();
        for workload in senders {
            let own = workload.own_addresses().iter();
            let slots = own.filter_map(|one| in_force.compiled.slot_of(in_force.plan, *one));
            let own: BTreeSet<Profile> = slots
                .map(|(_, profile)| profile)
                .filter(|profile| profile.kind == SlotKind::LocalWorkload)
                .collect();
            let pairs = own
                .iter()
                .flat_map(|one| own.iter().map(|other| (*one, *other)));
            virtuals.siblings.extend(pairs);
            kinds.extend(own);
        }
        virtuals.senders = kinds.into_iter().collect();
        for address in services.virtual_addresses() {
            virtuals.set_address(services, in_force, address);
        }
        for port in services.node_ports() {
            virtuals.set_node_port(services, in_force, port);
        }
        virtuals
    }

    /// Works out what has changed since [`Services::follow`] said what moved. The table is
    /// the same as before, but for entries added to it, and so are the senders.
    pub fn follow(&mut self, services: &Services, in_force: InForce<'_>, moved: &Moved) {
        for address in &moved.addresses {
            self.set_address(services, in_force, *address);
        }
        for port in &moved.node_ports {
            self.set_node_port(services, in_force, *port);
        }
        // What nothing has any more is forgotten now and then.
        if self.known.len() > self.len() {
            self.known.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
    }

    /// Number of ports of virtual addresses, and of nodes in either family.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len() + self.node_ports.len()
    }

    /// Returns `true` if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kinds of senders, in order.
    #[must_use]
    pub fn senders(&self) -> &[Profile] {
        &self.senders
    }

    /// Returns the decision for a kind of sender at a port of a virtual address; `None` if the
    /// address has no such port, or the sender is of no kind that was asked about.
    #[must_use]
    pub fn at_address(&self, sender: Profile, address: IpAddr, port: Port) -> Option<Outcome> {
        self.outcome(sender, self.addresses.get(&(address, port))?)
    }

    /// The same at a port of every node.
    #[must_use]
    pub fn at_node_port(&self, sender: Profile, family: Family, port: Port) -> Option<Outcome> {
        self.outcome(sender, self.node_ports.get(&(family, port))?)
    }

    fn outcome(&self, sender: Profile, entry: &Entry) -> Option<Outcome> {
        let at = self.senders.binary_search(&sender).ok()?;
        entry.outcomes.get(at).copied()
    }

    fn set_address(&mut self, services: &Services, in_force: InForce<'_>, address: IpAddr) {
        let first = (address, (Protocol::Tcp, 0));
        let last = (address, (Protocol::Sctp, u16::MAX));
        let gone: Vec<_> = self
            .addresses
            .range(first..=last)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.addresses.remove(&key);
        }
        let ports: BTreeSet<Port> = (services.at(address))
            .flat_map(|service| &service.ports)
            .map(|port| (port.protocol, port.port))
            .collect();
        for port in ports {
            let backends = services.translate(address, Some(port)).unwrap_or_default();
            let entry = self.entry(in_force, &backends, port.0);
            self.addresses.insert((address, port), entry);
        }
    }

    fn set_node_port(&mut self, services: &Services, in_force: InForce<'_>, port: Port) {
        for family in [Family::V4, Family::V6] {
            match services.behind_node_port(port, family) {
                Some(backends) => {
                    let entry = self.entry(in_force, &backends, port.0);
                    self.node_ports.insert((family, port), entry);
                }
                None => _ = self.node_ports.remove(&(family, port)),
            }
        }
    }

    /// Returns the entry of these backends, made where there is none.
    fn entry(
        &mut self,
        in_force: InForce<'_>,
        backends: &[Backend],
        protocol: Protocol,
    ) -> Arc<Entry> {
        let ends = backends.iter().map(|backend| {
            let slot = in_force.compiled.slot_of(in_force.plan, backend.address);
            // As of a broken table: denied to everybody.
            let broken = Profile {
                kind: SlotKind::Spare,
                class: u32::MAX,
                atom: u32::MAX,
            };
            let profile = slot.map_or(broken, |(_, profile)| profile);
            let port = backend.port.unwrap_or_default();
            (profile, row_key(protocol.number(), port))
        });
        let ends: BTreeSet<End> = ends.collect();
        let ends: Box<[End]> = ends.into_iter().collect();
        if let Some(known) = self.known.get(&ends) {
            return known.clone();
        }
        let senders = self.senders.iter();
        let entry = Arc::new(Entry {
            outcomes: senders
                .map(|sender| outcome(in_force.compiled, &self.siblings, *sender, &ends))
                .collect(),
            ends: ends.clone(),
        });
        self.known.insert(ends, entry.clone());
        entry
    }
}

/// The decision about one backend.
#[derive(Clone, Copy)]
struct Judged {
    /// The side that denies it.
    denial: Option<(Direction, Verdict)>,
    /// It may be the sender itself, which policies of a namespace cannot keep out.
    is_excused: bool,
}

/// Decides for one kind of sender about backends.
fn outcome(
    compiled: &Compiled,
    siblings: &BTreeSet<(Profile, Profile)>,
    sender: Profile,
    ends: &[End],
) -> Outcome {
    let mut enforced = Summary::default();
    let mut audited = Summary::default();
    for (end, key) in ends {
        let [egress, ingress] = decide(compiled, sender, *end, *key);
        let judge = |of: fn(&Decision) -> Verdict| {
            let sides = [
                (Direction::Egress, of(&egress)),
                (Direction::Ingress, of(&ingress)),
            ];
            let denied = |of_rules: bool| {
                let mut denials = sides.iter().copied();
                denials.find(|(_, verdict)| {
                    let is_by_isolation = verdict.reason == Reason::Isolated;
                    verdict.action == Action::Deny && !(of_rules && is_by_isolation)
                })
            };
            let may_be_itself = siblings.contains(&(sender, *end));
            let for_all = denied(may_be_itself);
            Judged {
                denial: for_all.or_else(|| denied(false)),
                is_excused: may_be_itself && for_all.is_none(),
            }
        };
        enforced.take(judge(|decision| decision.enforced));
        audited.take(judge(|decision| decision.audited));
    }
    Outcome {
        enforced: enforced.reached(),
        audited: audited.reached(),
    }
}

/// The sender's egress and the backend's ingress.
fn decide(compiled: &Compiled, sender: Profile, end: Profile, key: u32) -> [Decision; 2] {
    let same = |verdict| Decision {
        enforced: verdict,
        audited: verdict,
    };
    let broken = || same(Verdict::deny(Reason::TableCorrupt));
    let egress = compiled.decide(sender, Direction::Egress, end, key);
    let ingress = match end.kind {
        SlotKind::LocalWorkload | SlotKind::RemoteWorkload => {
            compiled.decide(end, Direction::Ingress, sender, key)
        }
        // Policies of what is no workload are nobody's to ask.
        _ => Some(same(Verdict::allow(Reason::NotIsolated))),
    };
    [
        egress.unwrap_or_else(broken),
        ingress.unwrap_or_else(broken),
    ]
}

#[derive(Default)]
struct Summary {
    allowed: bool,
    depends: bool,
    first: Option<(Direction, Verdict)>,
}

impl Summary {
    fn take(&mut self, judged: Judged) {
        match judged.denial {
            None => self.allowed = true,
            Some(denial) => {
                self.depends |= judged.is_excused;
                self.first.get_or_insert(denial);
            }
        }
    }

    fn reached(self) -> Reached {
        match self.first {
            None if self.allowed => Reached::All,
            None => Reached::Nobody,
            Some(_) if self.allowed || self.depends => Reached::Some,
            Some((direction, verdict)) => Reached::None(direction, verdict),
        }
    }
}
