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
use std::ops::RangeInclusive;
use std::sync::Arc;

use foldhash::HashMap;

use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Decision, Profile, SlotKind, row_key};
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use crate::inventory::{Inventory, ObjectName, Owner, Protocol, Workload};
use crate::services::{Backend, Moved, Services};

use super::reader::Reader;
use super::{Compiled, SlotEntry, SlotPlan};

/// A protocol and port.
pub type Port = (Protocol, u16);

/// Share of a Service's backends that may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reached {
    /// No backend is known.
    Nobody,
    /// All of them may be; of the first, what the sender's egress says.
    All(Verdict),
    /// None may be; of the first, a direction and verdict that deny it to all of the kind.
    None(Direction, Verdict),
    /// Some may be, or which depends on more than the kind of the sender.
    Some,
    /// As [`Self::Some`], and one that may not be is where no hook sees what is translated
    /// to it: this node, or a workload here without an endpoint.
    Unseen,
}

impl Reached {
    /// Returns the share that holds for senders of two kinds.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All(_), Self::All(_))
            | (Self::None(..), Self::None(..))
            | (Self::Nobody, Self::Nobody) => self,
            (Self::Unseen, _) | (_, Self::Unseen) => Self::Unseen,
            _ => Self::Some,
        }
    }
}

/// Decision about a port of a virtual address, with and without audit policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// In force.
    pub enforced: Reached,
    /// With audit policies in force as well.
    pub audited: Reached,
}

/// A backend as policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct End {
    profile: Profile,
    /// The key of its port.
    key: u32,
    /// A hook sees what is translated to its address.
    is_seen: bool,
}

/// Backends, and the decision for each kind of sender, in the order of senders.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    ends: Box<[End]>,
    pub(super) outcomes: Box<[Outcome]>,
}

/// The table in force, and who has which slot of it.
#[derive(Debug, Clone, Copy)]
pub struct InForce<'a> {
    /// The table.
    pub compiled: &'a Compiled,
    /// The slots.
    pub plan: &'a SlotPlan,
    /// Entries that the table is about to be given, by slot.
    pub added: &'a [SlotEntry],
    /// The name of this node, and the workloads that have an endpoint on it.
    pub here: Option<(&'a str, &'a BTreeSet<ObjectName>)>,
}

impl InForce<'_> {
    /// Returns the profile of an address.
    pub(super) fn profile(&self, address: IpAddr) -> Profile {
        let added = (self.plan.of(address))
            .and_then(|slot| self.added.binary_search_by_key(&slot, |one| one.slot).ok())
            .and_then(|at| self.compiled.profile_numbered(self.added[at].profile));
        let known = added.or_else(|| Some(self.compiled.slot_of(self.plan, address)?.1));
        match known {
            Some(profile) if is_workload(profile.kind) => profile,
            // Nothing is translated twice: behind a Service it is an address like any other.
            Some(profile) if profile.kind == SlotKind::Virtual => Profile {
                kind: SlotKind::Outside,
                class: 0,
                atom: self.compiled.atoms.of_outside_address(address),
            },
            // Only workloads have classes.
            Some(profile) => Profile {
                class: 0,
                ..profile
            },
            // As of a broken table: denied to everybody.
            None => Profile {
                kind: SlotKind::Spare,
                class: u32::MAX,
                atom: u32::MAX,
            },
        }
    }

    /// Returns `true` if a hook sees what is translated to this address: that of a local
    /// endpoint, or of an interface that leads off the node.
    fn is_seen(&self, inventory: &Inventory, address: IpAddr, kind: SlotKind) -> bool {
        match (kind, self.here) {
            (SlotKind::OwnNode, _) => false,
            (SlotKind::RemoteWorkload, Some((node, local))) => match inventory.owner(address) {
                Some(Owner::Workload(name)) => {
                    let pod = inventory.workloads().get(&name);
                    let is_here = pod.is_some_and(|pod| pod.node.as_deref() == Some(node));
                    !is_here || local.contains(&name)
                }
                _ => true,
            },
            _ => true,
        }
    }
}

const fn is_workload(kind: SlotKind) -> bool {
    matches!(kind, SlotKind::LocalWorkload | SlotKind::RemoteWorkload)
}

/// Kinds of senders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    /// The kinds, in order.
    kinds: Vec<Profile>,
    /// Kinds of which one workload may be both, by two of its addresses or by one.
    siblings: BTreeSet<(Profile, Profile)>,
}

impl Senders {
    /// The kinds of workloads of this node.
    #[must_use]
    pub fn new<'w>(
        in_force: InForce<'_>,
        workloads: impl IntoIterator<Item = &'w Workload>,
    ) -> Self {
        let mut kinds = BTreeSet::new();
        let mut siblings = BTreeSet::new();
        for workload in workloads {
            let own = workload.own_addresses().iter();
            let own: BTreeSet<Profile> = own
                .map(|address| in_force.profile(*address))
                .filter(|profile| profile.kind == SlotKind::LocalWorkload)
                .collect();
            let pairs = own
                .iter()
                .flat_map(|one| own.iter().map(|other| (*one, *other)));
            siblings.extend(pairs);
            kinds.extend(own);
        }
        Self {
            kinds: kinds.into_iter().collect(),
            siblings,
        }
    }
}

/// Decisions about all virtual addresses for the workloads of a node.
#[derive(Debug, Clone, Default)]
pub struct Virtuals {
    senders: Senders,
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
    /// Works everything out.
    #[must_use]
    pub fn new(services: &Services, in_force: InForce<'_>, senders: Senders) -> Self {
        let mut virtuals = Self {
            senders,
            ..Self::default()
        };
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
    pub fn kinds(&self) -> &[Profile] {
        &self.senders.kinds
    }

    /// The senders that it was worked out for.
    #[must_use]
    pub fn senders(&self) -> &Senders {
        &self.senders
    }

    /// The ports of a virtual address, in order.
    pub(super) fn ports_of(&self, address: IpAddr) -> impl Iterator<Item = (Port, &Arc<Entry>)> {
        let ports = self.addresses.range(ports_of(address));
        ports.map(|((_, port), entry)| (*port, entry))
    }

    /// The ports of all nodes in a family that lead to Services, in order.
    pub(super) fn ports_of_nodes(
        &self,
        family: Family,
    ) -> impl Iterator<Item = (Port, &Arc<Entry>)> {
        let ports = (self.node_ports.iter()).filter(move |((of, _), _)| *of == family);
        ports.map(|((_, port), entry)| (*port, entry))
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
        let at = self.senders.kinds.binary_search(&sender).ok()?;
        entry.outcomes.get(at).copied()
    }

    fn set_address(&mut self, services: &Services, in_force: InForce<'_>, address: IpAddr) {
        let gone: Vec<_> = (self.addresses.range(ports_of(address)))
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
            let entry = self.entry(services, in_force, &backends, port.0);
            self.addresses.insert((address, port), entry);
        }
    }

    fn set_node_port(&mut self, services: &Services, in_force: InForce<'_>, port: Port) {
        for family in [Family::V4, Family::V6] {
            match services.behind_node_port(port, family) {
                Some(backends) => {
                    let entry = self.entry(services, in_force, &backends, port.0);
                    self.node_ports.insert((family, port), entry);
                }
                None => _ = self.node_ports.remove(&(family, port)),
            }
        }
    }

    /// Returns the entry of these backends, made where there is none.
    fn entry(
        &mut self,
        services: &Services,
        in_force: InForce<'_>,
        backends: &[Backend],
        protocol: Protocol,
    ) -> Arc<Entry> {
        let ends = backends.iter().map(|backend| {
            let profile = in_force.profile(backend.address);
            let port = backend.port.unwrap_or_default();
            End {
                profile,
                key: row_key(protocol.number(), port),
                is_seen: in_force.is_seen(services.inventory(), backend.address, profile.kind),
            }
        });
        let ends: BTreeSet<End> = ends.collect();
        let ends: Box<[End]> = ends.into_iter().collect();
        if let Some(known) = self.known.get(&ends) {
            return known.clone();
        }
        let siblings = &self.senders.siblings;
        let entry = Arc::new(Entry {
            outcomes: (self.senders.kinds.iter())
                .map(|sender| outcome(in_force.compiled.reader(), siblings, *sender, &ends))
                .collect(),
            ends: ends.clone(),
        });
        self.known.insert(ends, entry.clone());
        entry
    }
}

/// The keys of all ports of an address.
fn ports_of(address: IpAddr) -> RangeInclusive<(IpAddr, Port)> {
    (address, (Protocol::Tcp, 0))..=(address, (Protocol::Sctp, u16::MAX))
}

/// The decision about one backend.
#[derive(Clone, Copy)]
struct Judged {
    /// Verdict of the sender's egress.
    egress: Verdict,
    /// The side that denies it.
    denial: Option<(Direction, Verdict)>,
    /// It may be the sender itself, which policies of a namespace cannot keep out.
    is_excused: bool,
    /// A hook sees what is translated to it.
    is_seen: bool,
}

/// Decides for one kind of sender about backends.
fn outcome(
    table: Reader<'_>,
    siblings: &BTreeSet<(Profile, Profile)>,
    sender: Profile,
    ends: &[End],
) -> Outcome {
    let mut enforced = Summary::default();
    let mut audited = Summary::default();
    for end in ends {
        let [egress, ingress] = decide(table, sender, end.profile, end.key);
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
            let may_be_itself = siblings.contains(&(sender, end.profile));
            let for_all = denied(may_be_itself);
            Judged {
                egress: of(&egress),
                is_seen: end.is_seen,
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
fn decide(table: Reader<'_>, sender: Profile, end: Profile, key: u32) -> [Decision; 2] {
    let same = |verdict| Decision {
        enforced: verdict,
        audited: verdict,
    };
    let broken = || same(Verdict::deny(Reason::TableCorrupt));
    let egress = table.decide(sender.class, Direction::Egress, end.atom, key);
    let ingress = match end.kind {
        SlotKind::LocalWorkload | SlotKind::RemoteWorkload => {
            table.decide(end.class, Direction::Ingress, sender.atom, key)
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
    /// The egress of the first that is allowed.
    allowed: Option<Verdict>,
    depends: bool,
    /// One is denied where no hook sees it.
    is_unseen: bool,
    first: Option<(Direction, Verdict)>,
}

impl Summary {
    fn take(&mut self, judged: Judged) {
        match judged.denial {
            None => _ = self.allowed.get_or_insert(judged.egress),
            Some(denial) => {
                self.depends |= judged.is_excused;
                self.is_unseen |= !judged.is_seen;
                self.first.get_or_insert(denial);
            }
        }
    }

    fn reached(self) -> Reached {
        match (self.first, self.allowed) {
            (None, Some(egress)) => Reached::All(egress),
            (None, None) => Reached::Nobody,
            (Some(_), allowed) if allowed.is_some() || self.depends => {
                if self.is_unseen {
                    Reached::Unseen
                } else {
                    Reached::Some
                }
            }
            (Some((direction, verdict)), _) => Reached::None(direction, verdict),
        }
    }
}
