//! Decisions about virtual addresses, before a proxy has chosen a backend.
//!
//! The hook of a sender sees the virtual address, and not which backend a proxy will
//! choose. For each kind of sender and each port of a Service it is worked out here what
//! holds whichever it is: all backends may be reached, none may, or some.
//!
//! A kind of sender is a profile of this node's workloads: what the sender's egress says
//! follows from its class, what a backend's ingress says of it from its atom. Backends
//! are profiles, too, with a port: five pods of one application are mostly one. Services
//! with the same backends share what is known of them. Where backends lie is kept from one
//! table to the next, and rows of a backend's profile are looked up once for all kinds.
//!
//! Invariants: *all* and *none* are so for every workload of the kind, also for one that
//! is a backend itself; what depends on which workload it is, is *some*. Following a
//! change comes to what making everything anew does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use cofferdam_inventory::services::{Backend, Moved, Services};
use cofferdam_inventory::{Inventory, ObjectName, Owner, Protocol, Workload};
use foldhash::{HashMap, HashSet};

use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{Decision, Profile, SlotKind, row_key};
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// In force.
    pub enforced: Reached,
    /// With audit policies in force as well.
    pub audited: Reached,
}

/// A backend as policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SeenBackend {
    profile: Profile,
    /// The key of its port.
    key: u32,
    /// A hook sees what is translated to its address.
    is_seen: bool,
}

/// A backend where it was found, whatever a table takes it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct FoundBackend {
    address: IpAddr,
    /// The key of its port.
    key: u32,
    /// It is a workload of this node without an endpoint.
    is_bare: bool,
}

/// The backends of a port of an address, and what is decided about them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Behind {
    found: Box<[FoundBackend]>,
    entry: Arc<Entry>,
}

/// Backends, and the decision for each kind of sender, in the order of senders.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    seen: Box<[SeenBackend]>,
    /// Shared with the entries whose outcomes are the same: there are few different ones.
    pub(super) outcomes: Arc<[Outcome]>,
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
            Some(profile) if is_workload(profile.kind) => Profile {
                is_shared: false,
                ..profile
            },
            // Nothing is translated twice: behind a Service it is an address like any other.
            Some(profile) if profile.kind == SlotKind::Virtual => Profile {
                kind: SlotKind::Outside,
                class: 0,
                atom: self.compiled.atoms.of_outside_address(address),
                is_shared: false,
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
                is_shared: false,
            },
        }
    }

    /// Returns `true` if the address is that of a workload of this node without an endpoint,
    /// which no hook sees.
    fn is_bare(&self, inventory: &Inventory, address: IpAddr) -> bool {
        let Some((node, local)) = self.here else {
            return false;
        };
        let Some(Owner::Workload(name)) = inventory.owner(address) else {
            return false;
        };
        let pod = inventory.workloads().get(&name);
        pod.is_some_and(|pod| pod.node.as_deref() == Some(node)) && !local.contains(&name)
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
    addresses: BTreeMap<(IpAddr, Port), Behind>,
    node_ports: BTreeMap<(Family, Port), Behind>,
    /// Entries by their backends.
    known: Known,
}

/// Entries by their backends.
type Known = HashMap<Box<[SeenBackend]>, Arc<Entry>>;

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
        let everything = Moved {
            addresses: services.virtual_addresses().collect(),
            node_ports: services.node_ports().collect(),
        };
        let mut deciding = Deciding::new(in_force);
        virtuals.set(services, &mut deciding, &everything);
        virtuals
    }

    /// Works out what has changed since [`Services::follow`] said what moved. The table is
    /// the same as before, but for entries added to it, and so are the senders.
    pub fn follow(&mut self, services: &Services, in_force: InForce<'_>, moved: &Moved) {
        self.set(services, &mut Deciding::new(in_force), moved);
        // What nothing has any more is forgotten now and then.
        if self.known.len() > self.len() {
            self.known.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
    }

    /// Works out what another table says of other senders. Backends are looked for where
    /// something moved.
    pub(super) fn decide_anew(
        &mut self,
        services: &Services,
        in_force: InForce<'_>,
        senders: Senders,
        moved: &Moved,
    ) {
        self.senders = senders;
        self.known.clear();
        let mut deciding = Deciding::new(in_force);
        for behind in self
            .addresses
            .values_mut()
            .chain(self.node_ports.values_mut())
        {
            behind.entry = deciding.entry(&self.senders, &mut self.known, &behind.found);
        }
        self.set(services, &mut deciding, moved);
    }

    fn set(&mut self, services: &Services, deciding: &mut Deciding<'_>, moved: &Moved) {
        for address in &moved.addresses {
            self.set_address(services, deciding, *address);
        }
        for port in &moved.node_ports {
            self.set_node_port(services, deciding, *port);
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
        ports.map(|((_, port), behind)| (*port, &behind.entry))
    }

    /// The ports of all nodes in a family that lead to Services, in order.
    pub(super) fn ports_of_nodes(
        &self,
        family: Family,
    ) -> impl Iterator<Item = (Port, &Arc<Entry>)> {
        let ports = (self.node_ports.iter()).filter(move |((of, _), _)| *of == family);
        ports.map(|((_, port), behind)| (*port, &behind.entry))
    }

    /// Returns the decision for a kind of sender at a port of a virtual address; `None` if the
    /// address has no such port, or the sender is of no kind that was asked about.
    #[must_use]
    pub fn at_address(&self, sender: Profile, address: IpAddr, port: Port) -> Option<Outcome> {
        self.outcome(sender, &self.addresses.get(&(address, port))?.entry)
    }

    /// The same at a port of every node.
    #[must_use]
    pub fn at_node_port(&self, sender: Profile, family: Family, port: Port) -> Option<Outcome> {
        self.outcome(sender, &self.node_ports.get(&(family, port))?.entry)
    }

    fn outcome(&self, sender: Profile, entry: &Entry) -> Option<Outcome> {
        // What others send to the sender's own address does not count here.
        let sender = Profile {
            is_shared: false,
            ..sender
        };
        let at = self.senders.kinds.binary_search(&sender).ok()?;
        entry.outcomes.get(at).copied()
    }

    fn set_address(&mut self, services: &Services, deciding: &mut Deciding<'_>, address: IpAddr) {
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
            let behind = self.behind(services, deciding, &backends, port.0);
            self.addresses.insert((address, port), behind);
        }
    }

    fn set_node_port(&mut self, services: &Services, deciding: &mut Deciding<'_>, port: Port) {
        for family in [Family::V4, Family::V6] {
            match services.behind_node_port(port, family) {
                Some(backends) => {
                    let behind = self.behind(services, deciding, &backends, port.0);
                    self.node_ports.insert((family, port), behind);
                }
                None => _ = self.node_ports.remove(&(family, port)),
            }
        }
    }

    fn behind(
        &mut self,
        services: &Services,
        deciding: &mut Deciding<'_>,
        backends: &[Backend],
        protocol: Protocol,
    ) -> Behind {
        let found = backends.iter().map(|backend| FoundBackend {
            address: backend.address,
            key: row_key(protocol.number(), backend.port.unwrap_or_default()),
            is_bare: (deciding.in_force).is_bare(services.inventory(), backend.address),
        });
        let found: Box<[FoundBackend]> = found.collect();
        let entry = deciding.entry(&self.senders, &mut self.known, &found);
        Behind { found, entry }
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

/// Works out decisions under one table, each part of them once.
struct Deciding<'a> {
    in_force: InForce<'a>,
    profiles: HashMap<IpAddr, Profile>,
    rows: HashMap<Profile, Rows>,
    outcomes: HashSet<Arc<[Outcome]>>,
}

/// The rows that decide between kinds of senders, in their order, and a profile; `None` where
/// the table has no such row.
struct Rows {
    egress: Box<[Option<u32>]>,
    ingress: Box<[Option<u32>]>,
}

impl Rows {
    fn new(table: Reader<'_>, senders: &Senders, backend: Profile) -> Self {
        let kinds = senders.kinds.iter();
        let egress = kinds.map(|sender| table.row(sender.class, Direction::Egress, backend.atom));
        let kinds = senders.kinds.iter();
        let ingress = kinds.map(|sender| table.row(backend.class, Direction::Ingress, sender.atom));
        Self {
            egress: egress.collect(),
            // Policies of what is no workload are nobody's to ask.
            ingress: match is_workload(backend.kind) {
                true => ingress.collect(),
                false => Box::default(),
            },
        }
    }
}

impl<'a> Deciding<'a> {
    fn new(in_force: InForce<'a>) -> Self {
        Self {
            in_force,
            profiles: HashMap::default(),
            rows: HashMap::default(),
            outcomes: HashSet::default(),
        }
    }

    /// Returns the entry of backends that were found, made where there is none.
    fn entry(
        &mut self,
        senders: &Senders,
        known: &mut Known,
        found: &[FoundBackend],
    ) -> Arc<Entry> {
        let mut seen: Vec<SeenBackend> = Vec::with_capacity(found.len());
        for backend in found {
            let profile = *(self.profiles.entry(backend.address))
                .or_insert_with(|| self.in_force.profile(backend.address));
            let is_seen = match profile.kind {
                SlotKind::OwnNode => false,
                SlotKind::RemoteWorkload => !backend.is_bare,
                _ => true,
            };
            seen.push(SeenBackend {
                profile,
                key: backend.key,
                is_seen,
            });
        }
        seen.sort_unstable();
        seen.dedup();
        if let Some(entry) = known.get(seen.as_slice()) {
            return entry.clone();
        }
        let seen: Box<[SeenBackend]> = seen.into();
        let outcomes = self.outcomes(senders, &seen);
        let outcomes = match self.outcomes.get(&*outcomes) {
            Some(known) => known.clone(),
            None => {
                let outcomes: Arc<[Outcome]> = outcomes.into();
                self.outcomes.insert(outcomes.clone());
                outcomes
            }
        };
        let entry = Arc::new(Entry {
            outcomes,
            seen: seen.clone(),
        });
        known.insert(seen, entry.clone());
        entry
    }

    /// Decides for all kinds of senders about backends.
    fn outcomes(&mut self, senders: &Senders, seen: &[SeenBackend]) -> Vec<Outcome> {
        let table = self.in_force.compiled.reader();
        for backend in seen {
            let rows = self.rows.entry(backend.profile);
            rows.or_insert_with(|| Rows::new(table, senders, backend.profile));
        }
        let asked = seen.iter().map(|backend| Asked {
            backend,
            rows: &self.rows[&backend.profile],
            is_of_kind: senders.kinds.binary_search(&backend.profile).is_ok(),
            egress: Recent::default(),
            ingress: Recent::default(),
        });
        let mut asked: Vec<Asked<'_>> = asked.collect();
        let kinds = senders.kinds.iter().enumerate();
        let outcomes = kinds.map(|(at, sender)| {
            let mut summaries = [Summary::default(); 2];
            for one in &mut asked {
                let may_be_itself =
                    one.is_of_kind && senders.siblings.contains(&(*sender, one.backend.profile));
                let judged = one.judge(table, at, may_be_itself);
                for (summary, judged) in summaries.iter_mut().zip(judged) {
                    summary.take(judged);
                }
            }
            let [enforced, audited] = summaries.map(Summary::reached);
            Outcome { enforced, audited }
        });
        outcomes.collect()
    }
}

/// The last row that was asked, and its decision: most kinds are treated alike.
#[derive(Default)]
struct Recent(Option<(u32, Decision)>);

impl Recent {
    fn decide(&mut self, table: Reader<'_>, row: Option<u32>, key: u32) -> Decision {
        let Some(row) = row else {
            return same(Verdict::deny(Reason::TableCorrupt));
        };
        if let Some((last, decision)) = self.0
            && last == row
        {
            return decision;
        }
        let decision = table.decision(row, key);
        self.0 = Some((row, decision));
        decision
    }
}

const fn same(verdict: Verdict) -> Decision {
    Decision {
        enforced: verdict,
        audited: verdict,
    }
}

/// A backend about which one kind of sender after the other is asked.
struct Asked<'a> {
    backend: &'a SeenBackend,
    rows: &'a Rows,
    /// Some workload here may be the backend.
    is_of_kind: bool,
    egress: Recent,
    ingress: Recent,
}

impl Asked<'_> {
    /// Judges a kind, by its position: what is in force, and with audit policies as well.
    fn judge(&mut self, table: Reader<'_>, at: usize, may_be_itself: bool) -> [Judged; 2] {
        let key = self.backend.key;
        let egress = self.egress.decide(table, self.rows.egress[at], key);
        let ingress = match self.rows.ingress.get(at) {
            Some(row) => self.ingress.decide(table, *row, key),
            None => same(Verdict::allow(Reason::NotIsolated)),
        };
        let enforced = self.judged(egress.enforced, ingress.enforced, may_be_itself);
        if egress.enforced == egress.audited && ingress.enforced == ingress.audited {
            return [enforced; 2];
        }
        let audited = self.judged(egress.audited, ingress.audited, may_be_itself);
        [enforced, audited]
    }

    fn judged(&self, egress: Verdict, ingress: Verdict, may_be_itself: bool) -> Judged {
        let sides = [(Direction::Egress, egress), (Direction::Ingress, ingress)];
        let denied = |of_rules: bool| {
            let mut denials = sides.iter().copied();
            denials.find(|(_, verdict)| {
                let is_by_isolation = verdict.reason == Reason::Isolated;
                verdict.action == Action::Deny && !(of_rules && is_by_isolation)
            })
        };
        let for_all = denied(may_be_itself);
        Judged {
            egress,
            is_seen: self.backend.is_seen,
            denial: for_all.or_else(|| denied(false)),
            is_excused: may_be_itself && for_all.is_none(),
        }
    }
}

#[derive(Clone, Copy, Default)]
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
