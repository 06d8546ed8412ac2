//! A node in ordinary memory: endpoints, addresses, a decision table written by hand, a
//! flow table and a clock. Packets meet the very code of the programs here, with
//! everything the kernel says of a packet in the test's hand.

/// The packet builder of the `tests` crate. It knows nothing of verdicts.
#[path = "../../../../tests/src/packet/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "written for the `tests` crate, which uses the rest"
)]
pub(crate) mod packet;

/// The comparison of the `tests` crate. It knows nothing of that crate.
#[path = "../../../../tests/src/both_ways.rs"]
#[expect(unreachable_pub, reason = "written for the `tests` crate")]
mod both_ways;

pub(crate) use both_ways::{Judged, judge_both_ways};
use cofferdam_verdict::{
    LAYOUT_VERSION,
    address::Address,
    bucket::{AddressBlock, AddressWriter, Bucket, Writer},
    counter::Hook,
    endpoint::{Binding, EndpointRecord, STAMP_KEY},
    flow::{FlowSet, Size},
    fragment::{self, FragmentSet},
    hash::Keys,
    hits::{RuleCount, place},
    judge::{Case, Context},
    memory::Settings,
    packet::Frame,
    reason::Reason,
    shared::{SharedWord, SharedWord64},
    slices::{SliceFlows, SliceFrame, SliceMemory},
    table::{
        BLOCK_WORDS, CLASS_WORDS, MAGIC, PAGE_WORDS, PROFILE_WORDS, Page, Profile, SLOTS_OFFSET,
        SlotKind, header, row_key, slot_place,
    },
    verdict::{
        Action::{self, Allow, Deny},
        Direction::{self, Egress, Ingress},
        Verdict,
    },
};
use packet::{Body, End, Family, Mac, Packet};

/// Fate of a packet, and its reason.
pub(crate) type Outcome = (Action, Reason);

/// Allowed as part of a flow.
pub(crate) const FLOW: Outcome = (Allow, Reason::Flow);
/// Allowed because nothing isolates.
pub(crate) const FREE: Outcome = (Allow, Reason::NotIsolated);
/// Allowed by a rule.
pub(crate) const RULE: Outcome = (Allow, Reason::Rule);
/// Denied because no rule allows.
pub(crate) const ISOLATED: Outcome = (Deny, Reason::Isolated);

/// Denied for a reason of its own.
pub(crate) const fn denied(reason: Reason) -> Outcome {
    (Deny, reason)
}

/// The cast. The first three are workloads of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A workload.
    Web,
    /// Another one.
    Db,
    /// A third one.
    Cache,
    /// A workload of another node.
    Far,
    /// This node.
    Node,
    /// Another node.
    OtherNode,
    /// Somebody whose address is nobody's here.
    Outside,
    /// A virtual address.
    Service,
}

use Who::{Cache, Db, Far, Node as ThisNode, OtherNode, Outside, Service, Web};

const EVERYBODY: [Who; 8] = [Web, Db, Cache, Far, ThisNode, OtherNode, Outside, Service];
const LOCAL: [Who; 3] = [Web, Db, Cache];

impl Who {
    /// Its MAC and addresses; all lie side by side.
    pub(crate) const fn end(self) -> End {
        End::number(1 + self as u8)
    }

    /// Its interface on this node.
    pub(crate) const fn ifindex(self) -> u32 {
        11 + self as u32
    }

    /// The stamp of its endpoint.
    pub(crate) const fn stamp(self) -> u32 {
        101 + self as u32
    }

    /// The slot of its address.
    pub(crate) const fn slot(self, family: Family) -> u32 {
        1 + 2 * self as u32 + matches!(family, Family::V6) as u32
    }

    const fn kind(self) -> SlotKind {
        match self {
            Web | Db | Cache => SlotKind::LocalWorkload,
            Far => SlotKind::RemoteWorkload,
            ThisNode => SlotKind::OwnNode,
            OtherNode => SlotKind::OtherNode,
            Outside => SlotKind::Outside,
            Service => SlotKind::Virtual,
        }
    }

    fn address(self, family: Family) -> Address {
        self.end().ip(family).expect("both families").into()
    }
}

/// A protocol and port, or all of them.
pub(crate) type Port = Option<(u8, u16)>;

/// Number of the set of policies that isolate a direction of a workload.
pub(crate) const fn isolation(subject: Who, direction: Direction) -> u32 {
    100 + 2 * subject as u32 + direction as u32
}

/// Rule of a policy for one direction of a workload.
#[derive(Clone, Copy)]
struct Rule {
    subject: Who,
    direction: Direction,
    peer: Who,
    port: Port,
    action: Action,
}

/// Policies, as far as these tests need them.
#[derive(Clone, Default)]
pub(crate) struct Policy {
    isolated: Vec<(Who, Direction)>,
    audited: Vec<(Who, Direction)>,
    rules: Vec<Rule>,
    services: Vec<(Who, Who, (u8, u16), u32)>,
    shared: Option<Who>,
}

impl Policy {
    /// Every direction of every workload here is isolated.
    pub(crate) fn closed() -> Self {
        let isolated = LOCAL.map(|who| [(who, Ingress), (who, Egress)]);
        Self {
            isolated: isolated.concat(),
            ..Self::default()
        }
    }

    /// Isolates a direction of a workload.
    #[must_use]
    pub(crate) fn isolates(mut self, subject: Who, direction: Direction) -> Self {
        self.isolated.push((subject, direction));
        self
    }

    /// Isolates it in an audit policy alone.
    #[must_use]
    pub(crate) fn audits(mut self, subject: Who, direction: Direction) -> Self {
        self.audited.push((subject, direction));
        self
    }

    /// Allows a peer; the first rule that fits counts.
    #[must_use]
    pub(crate) fn allows(self, subject: Who, direction: Direction, peer: Who, port: Port) -> Self {
        self.with(subject, direction, peer, port, Allow)
    }

    /// Denies a peer.
    #[must_use]
    pub(crate) fn denies(self, subject: Who, direction: Direction, peer: Who, port: Port) -> Self {
        self.with(subject, direction, peer, port, Deny)
    }

    /// Allows a peer at both ends.
    #[must_use]
    pub(crate) fn connects(self, from: Who, to: Who, port: Port) -> Self {
        self.allows(from, Egress, to, port)
            .allows(to, Ingress, from, port)
    }

    /// Leads a port of an address, a Service's or a node's, to backends, with this word for
    /// the workload that asks.
    #[must_use]
    pub(crate) fn serves(mut self, subject: Who, at: Who, port: (u8, u16), word: u32) -> Self {
        self.services.push((subject, at, port, word));
        self
    }

    /// Gives a Service the address of a workload.
    #[must_use]
    pub(crate) fn shares(mut self, at: Who) -> Self {
        self.shared = Some(at);
        self
    }

    fn with(
        mut self,
        subject: Who,
        direction: Direction,
        peer: Who,
        port: Port,
        action: Action,
    ) -> Self {
        self.rules.push(Rule {
            subject,
            direction,
            peer,
            port,
            action,
        });
        self
    }

    /// The verdict words of one row from this key on.
    fn words(&self, subject: Who, direction: Direction, peer: Who, key: u32) -> [u32; 2] {
        let fits = |(_, rule): &(usize, &Rule)| {
            let port = rule.port.map(|(protocol, port)| row_key(protocol, port));
            (rule.subject, rule.direction, rule.peer) == (subject, direction, peer)
                && port.is_none_or(|port| port == key)
        };
        if let Some((place, rule)) = self.rules.iter().enumerate().find(fits) {
            let verdict = Verdict {
                action: rule.action,
                reason: Reason::Rule,
                rule: place as u32 + 1,
            };
            return [verdict.to_word(); 2];
        }
        let word = |isolated: bool| match isolated {
            true => Verdict {
                rule: isolation(subject, direction),
                ..Verdict::deny(Reason::Isolated)
            }
            .to_word(),
            false => Verdict::allow(Reason::NotIsolated).to_word(),
        };
        let isolated = self.isolated.contains(&(subject, direction));
        let audited = self.audited.contains(&(subject, direction));
        [word(isolated), word(isolated || audited)]
    }

    /// The row of a direction of a subject towards a peer; see `Table::row`.
    fn row(&self, subject: Who, direction: Direction, peer: Who) -> Vec<u32> {
        self.row_of(|key| self.words(subject, direction, peer, key))
    }

    /// The row of a subject towards an address that may be translated.
    fn service_row(&self, subject: Who, at: Who) -> Vec<u32> {
        self.row_of(|key| {
            let here = |(one, other, port, _): &&(Who, Who, (u8, u16), u32)| {
                (*one, *other) == (subject, at) && row_key(port.0, port.1) == key
            };
            match self.services.iter().find(here) {
                Some((.., word)) => [*word; 2],
                None => self.words(subject, Egress, at, key),
            }
        })
    }

    fn row_of(&self, words: impl Fn(u32) -> [u32; 2]) -> Vec<u32> {
        let services = self.services.iter().map(|(_, _, port, _)| *port);
        let ports = self
            .rules
            .iter()
            .filter_map(|rule| rule.port)
            .chain(services);
        let cuts = ports.flat_map(|(protocol, port)| {
            let key = row_key(protocol, port);
            [key, key + 1]
        });
        let mut firsts: Vec<u32> = cuts.chain([0]).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let words = firsts.iter().map(|&key| words(key));
        let (enforced, audited): (Vec<u32>, Vec<u32>) = words.map(|[a, b]| (a, b)).unzip();
        let count = firsts.len() as u32;
        [vec![count], firsts, enforced, audited].concat()
    }

    /// The decision table: everybody has a class and an atom, by the number in the cast.
    fn table(&self, revision: u32) -> Vec<Page> {
        const PAGE: u32 = PAGE_WORDS as u32;
        const PROFILES: u32 = 2 * PAGE;
        const CLASSES: u32 = PROFILES + 64;
        const GROUPS: u32 = CLASSES + 64;
        const BLOCKS: u32 = GROUPS + 64;
        const COUNT: u32 = EVERYBODY.len() as u32;
        let mut words = vec![0; 3 * PAGE_WORDS];
        let mut at = BLOCKS + 3 * COUNT * BLOCK_WORDS;
        for who in EVERYBODY {
            let number = who as u32;
            for family in Family::BOTH {
                let (offset, shift) = slot_place(who.slot(family));
                words[offset as usize] |= (number + 1) << shift;
            }
            let is_translated = self.services.iter().any(|(_, at, ..)| *at == who);
            let has_class = matches!(
                who.kind(),
                SlotKind::LocalWorkload | SlotKind::RemoteWorkload
            );
            let profile = Profile {
                kind: who.kind(),
                class: if has_class || is_translated {
                    number
                } else {
                    0
                },
                atom: number,
                is_shared: self.shared == Some(who),
            };
            let place = (PROFILES + (number + 1) * PROFILE_WORDS) as usize;
            words[place..place + 2].copy_from_slice(&profile.to_words());
            for direction in [Ingress, Egress] {
                let group = GROUPS + 2 * number + direction as u32;
                let block = BLOCKS + (2 * number + direction as u32) * BLOCK_WORDS;
                words[(CLASSES + CLASS_WORDS * number + direction as u32) as usize] = group;
                words[group as usize] = block;
                for peer in EVERYBODY {
                    let row = self.row(who, direction, peer);
                    words[(block + peer as u32) as usize] = at;
                    let start = at as usize;
                    words[start..start + row.len()].copy_from_slice(&row);
                    at += row.len() as u32;
                }
            }
            // Classes of rows for translated addresses come after all others.
            let group = GROUPS + 2 * COUNT + number;
            let block = BLOCKS + (2 * COUNT + number) * BLOCK_WORDS;
            words[(CLASSES + CLASS_WORDS * (COUNT + number) + Egress as u32) as usize] = group;
            words[group as usize] = block;
            for peer in EVERYBODY {
                let row = self.service_row(who, peer);
                words[(block + peer as u32) as usize] = at;
                let start = at as usize;
                words[start..start + row.len()].copy_from_slice(&row);
                at += row.len() as u32;
            }
        }
        for (place, word) in [
            (header::MAGIC, MAGIC),
            (header::VERSION, LAYOUT_VERSION),
            (header::REVISION_LOW, revision),
            (header::SLOTS, 2 * (COUNT + 1)),
            (header::CLASSES, CLASSES),
            (header::CLASS_COUNT, 2 * COUNT),
            (header::SERVICE_CLASSES, COUNT),
            (header::ATOM_COUNT, COUNT),
            (header::RANGES_V4, Outside.slot(Family::V4)),
            (header::RANGES_V6, Outside.slot(Family::V6)),
            (header::WORDS, at),
            (header::PROFILES, PROFILES),
            (header::PROFILE_COUNT, COUNT + 1),
        ] {
            words[place] = word;
        }
        assert_eq!(SLOTS_OFFSET, PAGE);
        let pages = words.chunks_exact(PAGE_WORDS);
        pages.map(|page| page.try_into().expect("a page")).collect()
    }
}

/// Context that the kernel gives with a packet on its way to a workload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// Interface that it came in by.
    pub(crate) ingress_ifindex: u32,
    /// Stamp that it carries.
    pub(crate) stamp: u32,
    /// A local socket sent it.
    pub(crate) has_socket: bool,
}

/// From a process of the node.
pub(crate) const FROM_NODE_ITSELF: Way = Way {
    ingress_ifindex: 0,
    stamp: 0,
    has_socket: true,
};

/// From the network, without a stamp.
pub(crate) const FROM_UPLINK: Way = Way {
    ingress_ifindex: 99,
    stamp: 0,
    has_socket: false,
};

impl Way {
    /// From an endpoint, by its interface.
    pub(crate) const fn of(who: Who) -> Self {
        Self {
            ingress_ifindex: who.ifindex(),
            stamp: who.stamp(),
            has_socket: false,
        }
    }
}

/// Sets of a partition.
const FLOW_SETS: usize = 16;

/// The node: all that a decision reads and writes.
pub(crate) struct Node {
    /// Settings that were fixed at load.
    pub(crate) settings: Settings,
    /// Endpoint records, by the number in the cast.
    pub(crate) endpoints: Vec<EndpointRecord>,
    /// Bindings by slot.
    pub(crate) bindings: Vec<Binding>,
    /// The clock of flows.
    pub(crate) jiffies: u32,
    revision: u32,
    table: Vec<Page>,
    index: Vec<Bucket>,
    v4: Vec<Bucket>,
    v6: Vec<Bucket>,
    blocks: Vec<AddressBlock>,
    partitions: Vec<Vec<FlowSet>>,
    fragments: Vec<FragmentSet>,
    rule_counts: Vec<RuleCount>,
}

impl Node {
    /// A node under policies. The clock wraps soon.
    pub(crate) fn under(policy: &Policy) -> Self {
        let words = std::array::from_fn(|at| 0x9e37_79b9 ^ (at as u32).rotate_left(7));
        let buckets = || (0..16).map(|_| Bucket::default()).collect();
        let endpoints = LOCAL.map(|who| {
            let Mac([a, b, c, d, e, f]) = who.end().mac;
            let mut record = EndpointRecord {
                ifindex: who.ifindex(),
                incarnation: 1 + who as u32,
                primary_slot: who.slot(Family::V4),
                mac: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
                flow_partition: 1 + who as u32,
                flow_size: SharedWord::new(Size::of(FLOW_SETS as u32).0),
                stamp: who.stamp(),
                ..EndpointRecord::default()
            };
            record.v4[0] = who.address(Family::V4).words[0];
            record.v4_slots[0] = who.slot(Family::V4);
            record.v6[0] = who.address(Family::V6).words;
            record.v6_slots[0] = who.slot(Family::V6);
            record
        });
        let node = Self {
            settings: Settings {
                keys: Keys {
                    words,
                    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
                    ..Keys::default()
                },
                bucket_masks: [15; 3],
                own_node_allowed: 1,
                idle: [5000, 100, 200, 1000, 400, 3000, 600, 700],
                ..Settings::default()
            },
            endpoints: endpoints.into(),
            bindings: (0..32).map(|_| Binding::new()).collect(),
            jiffies: u32::MAX - 50,
            revision: 1,
            table: policy.table(1),
            index: buckets(),
            v4: buckets(),
            v6: buckets(),
            blocks: (0..32).map(|_| AddressBlock::default()).collect(),
            partitions: LOCAL
                .map(|_| (0..FLOW_SETS).map(|_| FlowSet::default()).collect())
                .into(),
            fragments: (0..3 * fragment::SETS)
                .map(|_| FragmentSet::default())
                .collect(),
            rule_counts: (0..256).map(|_| RuleCount::default()).collect(),
        };
        node.bind();
        node
    }

    /// Leads interfaces, stamps and addresses to what they are.
    fn bind(&self) {
        let writer = |buckets| Writer::new(&self.settings.keys, buckets).expect("a power of two");
        let addresses = AddressWriter {
            v4: writer(&self.v4),
            v6: writer(&self.v6),
            blocks: &self.blocks,
        };
        let index = writer(&self.index);
        for who in EVERYBODY.into_iter().filter(|&who| who != Outside) {
            let is_local = LOCAL.contains(&who);
            for family in Family::BOTH {
                let slot = who.slot(family);
                let bound = addresses.set(&who.address(family), slot);
                bound.expect("there is room");
                let binding = &self.bindings[slot as usize];
                binding.epoch.store(1);
                if is_local {
                    binding.ifindex.store(who.ifindex());
                    binding.stamp.store(who.stamp());
                }
            }
            if is_local {
                for key in [who.ifindex(), STAMP_KEY | who.stamp()] {
                    index.set(&[key], 1 + who as u32).expect("there is room");
                }
            }
        }
    }

    /// Publishes another table.
    pub(crate) fn publish(&mut self, policy: &Policy) {
        self.revision += 1;
        self.table = policy.table(self.revision);
    }

    /// Moves the epoch of a workload's slots: its labels changed.
    pub(crate) fn relabel(&self, who: Who) {
        for family in Family::BOTH {
            let epoch = &self.bindings[who.slot(family) as usize].epoch;
            epoch.store(epoch.load() + 1);
            self.move_generation(2);
        }
    }

    /// Returns the memory that a decision reads.
    pub(crate) fn memory(&self) -> SliceMemory<'_> {
        SliceMemory {
            settings: &self.settings,
            table: &self.table,
            buckets: [&self.v4, &self.v6, &self.index],
            address_blocks: &self.blocks,
            endpoints: &self.endpoints,
            bindings: &self.bindings,
        }
    }

    /// The flow table's partitions, by the number in the cast.
    pub(crate) fn partitions(&self) -> &[Vec<FlowSet>] {
        &self.partitions
    }

    /// Returns the number of times that a rule has decided under the table in force, or the one
    /// before it, and would have with audit policies in force.
    pub(crate) fn hits(&self, rule: u32, tables_ago: u32) -> [u64; 2] {
        let count = self.count(rule, tables_ago);
        let denied: u64 = count.denied.iter().map(SharedWord64::load).sum();
        [count.allowed.load() + denied, count.audited.load()]
    }

    /// Packets that a rule has denied under the table in force, by hook.
    pub(crate) fn denied(&self, rule: u32) -> [u64; 4] {
        let denied = &self.count(rule, 0).denied;
        denied.each_ref().map(SharedWord64::load)
    }

    fn count(&self, rule: u32, tables_ago: u32) -> &RuleCount {
        let place = place(rule, self.revision - tables_ago);
        &self.rule_counts[place as usize]
    }

    /// Memory that programs read and write, with these partitions of the flow table.
    pub(crate) fn flows<'a>(&'a self, partitions: &'a [&'a [FlowSet]]) -> SliceFlows<'a> {
        SliceFlows {
            memory: self.memory(),
            partitions,
            fragments: &self.fragments,
            rule_counts: &self.rule_counts,
            jiffies: self.jiffies,
        }
    }

    /// Judges a frame on a hook.
    pub(crate) fn judge(&self, bytes: &[u8], context: &Context, hook: Hook) -> Case {
        let frame = SliceFrame { bytes, gso: false };
        self.judge_frame(&frame, context, hook).case
    }

    /// Judges a frame on a hook, the short way and the long way.
    pub(crate) fn judge_frame<F: Frame>(&self, frame: &F, context: &Context, hook: Hook) -> Judged {
        let partitions: Vec<&[FlowSet]> = self.partitions().iter().map(Vec::as_slice).collect();
        judge_both_ways(&self.flows(&partitions), frame, context, hook)
    }

    /// Moves the generation of all bindings by that many.
    pub(crate) fn move_generation(&self, by: u32) {
        self.bindings[0].epoch.add(by);
    }

    /// A packet on its sender's interface.
    pub(crate) fn sends<S: Body>(&self, who: Who, packet: &Packet<S>) -> Outcome {
        outcome(&self.sent(who, &packet.bytes()))
    }

    /// The case of a frame on its sender's interface. The stamp and the socket that it
    /// brings count for nothing there.
    pub(crate) fn sent(&self, who: Who, bytes: &[u8]) -> Case {
        let context = Context {
            ifindex: who.ifindex(),
            ingress_ifindex: who.ifindex(),
            stamp: Cache.stamp(),
            has_socket: true,
            tagged: false,
        };
        self.judge(bytes, &context, Hook::FromWorkload)
    }

    /// A packet on its receiver's interface.
    pub(crate) fn receives<S: Body>(&self, who: Who, packet: &Packet<S>, way: Way) -> Outcome {
        outcome(&self.received(who, &packet.bytes(), way))
    }

    /// The case of a frame on its receiver's interface.
    pub(crate) fn received(&self, who: Who, bytes: &[u8], way: Way) -> Case {
        let context = Context {
            ifindex: who.ifindex(),
            ingress_ifindex: way.ingress_ifindex,
            stamp: way.stamp,
            has_socket: way.has_socket,
            tagged: false,
        };
        self.judge(bytes, &context, Hook::ToWorkload)
    }

    /// A packet on the hooks of two workloads, as far as it gets.
    pub(crate) fn passes<S: Body>(&self, from: Who, to: Who, packet: &Packet<S>) -> Vec<Outcome> {
        let left = self.sends(from, packet);
        if left.0 == Deny {
            return vec![left];
        }
        vec![left, self.receives(to, packet, Way::of(from))]
    }
}

/// The verdict of a case.
pub(crate) fn outcome(case: &Case) -> Outcome {
    let verdict = Verdict::from_any_word(case.enforced).expect("every case has an answer");
    (verdict.action, verdict.reason)
}
