//! Flow tracking: finds a packet's entry in the flow table, and stores its verdict there.
//!
//! [`track`] comes before the policy is asked: a packet of a live flow passes
//! ([`step::SETTLED`]). [`choose`] and [`remember`] come after: what policy has
//! allowed becomes a flow, what it denies is one no longer. In between, a flow that was decided under
//! another table is decided again, in its own direction: the case of a reply is
//! turned round for that, and back afterwards.
//!
//! | the packet | its entry | policy is asked | allowed | denied |
//! |---|---|---|---|---|
//! | opens a flow | none | yes | entry made | – |
//! | of a flow | current | no | | |
//! | of a flow | of an older table, or its peer's address or labels changed | yes, in the flow's direction | entry renewed | entry removed |
//! | of an established TCP connection | idle for too long | yes, in the flow's direction | entry renewed | entry removed |
//! | TCP SYN from the opener | any | yes | entry renewed, or begun again | entry removed |
//! | TCP SYN from the other end | any | yes, as new | entry kept; a closing one begun again the other way | entry kept |
//! | TCP without SYN | none | yes, see [`adopt`](mod@super::adopt) | `no_flow`, unless such segments are adopted | – |
//!
//! The stamp tells who sent a packet towards a workload. An entry whose peer is a
//! workload of this node, or the node itself, counts only for packets that come from
//! there; others are decided anew.
//!
//! Invariant: no failure allows. An entry that changes while it is read is read again, some
//! times ([`READS`]), and then is no entry. A packet whose flow finds no room passes without
//! an entry if policy allows both directions, so that none is needed, and is dropped as
//! `flow_table_full` otherwise.

use crate::{
    address::{Address, Family},
    bypass::kept_revision,
    case::{Case, mark},
    endpoint::EndpointRecord,
    flow::{
        Checked, FlowEntry, FlowKey, FlowSet, FlowState, IDLE_TIMES, Idle, KEY_PAIRS,
        OPENED_BY_PEER, Places, Size, StateWord, TOLD_ELSEWHERE, TRANSLATED, WAYS,
        account::account,
        flow_mark,
        room::{Room, best_place},
        step,
    },
    judge::own_slot,
    memory::{FlowMemory, generation},
    packet::{icmp, icmpv6, protocol, tcp_flag},
    reason::Reason,
    table::{SlotKind, Table, row_key},
    verdict::{Verdict, word_for, word_reason},
};

/// Times that an insertion is tried when other processors are quicker.
pub const ATTEMPTS: u32 = 3;
/// Times that an entry is read while other processors change it. A change takes them less
/// time than a read.
pub const READS: u32 = 8;
/// No place in the table.
pub(super) const NOWHERE: u32 = u32::MAX;
/// No place in the table, unless it is one whose entry is locked.
pub(super) const LOCKED: u32 = u32::MAX - 1;

/// The flow that a packet would belong to.
pub(super) struct Candidate {
    pub(super) key: FlowKey,
    /// The endpoint sends the packet.
    sent: bool,
}

/// The key of a packet's flow; none if packets like it have no flow.
#[inline(always)]
pub(super) fn candidate(record: &EndpointRecord, case: &Case) -> Option<Candidate> {
    if case.is(mark::LATER) {
        return None;
    }
    let sent = !case.is(mark::TO_WORKLOAD);
    let (source, destination) = case.addresses();
    let (from, to) = ((case.ports >> 16) as u16, case.ports as u16);
    let (local, peer, local_port, peer_port) = if sent {
        (source, destination, from, to)
    } else {
        (destination, source, to, from)
    };
    let leaving = case.is(mark::LEAVING);
    // A spoofed source, traffic with itself, and broadcasts are the judge's. What leaves the
    // node may have the node's address.
    if !leaving && own_slot(record, &local) == 0 || own_slot(record, &peer) != 0 {
        return None;
    }
    let protocol = case.protocol();
    let mut key = FlowKey::new(&local, &peer, protocol, local_port, peer_port);
    if leaving {
        key.kind |= TRANSLATED;
    }
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        protocol::ICMP | protocol::ICMPV6 => {
            let (request, reply) = echo(&local, protocol)?;
            let kind = to >> 8;
            if kind != u16::from(request) && kind != u16::from(reply) {
                return None;
            }
            key.ports = u32::from(from) << 16 | u32::from(from);
            if sent != (kind == u16::from(request)) {
                key.kind |= OPENED_BY_PEER;
            }
        }
        _ => key.ports = 0,
    }
    Some(Candidate { key, sent })
}

/// Types of an echo request and its reply; none when the family has no such ICMP.
#[inline(always)]
const fn echo(address: &Address, protocol: u8) -> Option<(u8, u8)> {
    match (address.family, protocol) {
        (Family::V4, protocol::ICMP) => Some((icmp::ECHO_REQUEST, icmp::ECHO_REPLY)),
        (Family::V6, protocol::ICMPV6) => Some((icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY)),
        _ => None,
    }
}

/// A SYN that opens a connection.
#[inline(always)]
pub(crate) const fn is_opening(case: &Case) -> bool {
    case.protocol() == protocol::TCP
        && case.tcp_flags() & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN
}

#[inline(always)]
pub(super) fn way_of(set: &FlowSet, place: u32) -> &FlowEntry {
    &set.ways[(place & (WAYS as u32 - 1)) as usize]
}

/// The place of a key's entry among `mask + 1` sets, by its set and way; [`LOCKED`] if it is none
/// of those that can be read.
#[inline(always)]
pub(super) fn find<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    key: &FlowKey,
    mask: u32,
    unknown: u32,
) -> u32 {
    let Places { sets, tag } = key.places(&memory.settings().keys, mask);
    let pairs = key.pairs();
    let mut place = NOWHERE;
    let mut locked = 0;
    let mut choice = 0;
    while choice < 2 && place == NOWHERE {
        let index = sets[choice];
        let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), index) else {
            break;
        };
        let mut way = 0;
        while way < WAYS {
            if set.ways[0].tags[way].load() == tag {
                let entry = &set.ways[way];
                let word = StateWord(entry.state.load());
                memory.order_loads();
                // What a locked entry holds may be of two flows.
                locked = memory.blur(locked | word.0 as u32 & 1, unknown);
                let alive = !matches!(word.state(), FlowState::Free) && !word.is_locked();
                if alive && entry.differs(&pairs) == 0 {
                    place = index << 2 | way as u32;
                    break;
                }
            }
            way += 1;
        }
        choice += 1;
    }
    if place == NOWHERE {
        place = NOWHERE - locked;
    }
    memory.blur(place, unknown)
}

/// Places in which a flow is looked for, one after the other; see [`Size`].
///
/// A flow is found in its place of before until it can be found where it belongs. So one that
/// was in neither has been moved between the two looks, or is nowhere: a third look tells.
#[derive(Clone, Copy)]
struct Search {
    /// Number of sets − 1.
    mask: u32,
    /// A [`step`].
    next: u32,
}

impl Search {
    /// The search that the step of a case asks for. `last` is the step when a flow is nowhere.
    #[inline(always)]
    fn of<M: FlowMemory>(
        memory: &M,
        record: &EndpointRecord,
        flow_step: u32,
        last: u32,
        unknown: u32,
    ) -> Self {
        let size = Size(record.flow_size.load());
        let is_step = |step: u32| 0u32.wrapping_sub(memory.less(flow_step ^ step, 1));
        let (earlier, moved) = (is_step(step::EARLIER), is_step(step::MOVED));
        let grows = memory.less(0, size.growth());
        let grows = 0u32.wrapping_sub(grows);
        // Numbers without branches, of which the verifier knows nothing.
        let again = step::EARLIER & !earlier | step::MOVED & earlier;
        let again = again & grows & !moved;
        let next = again | last & 0u32.wrapping_sub(memory.less(again, 1));
        Self {
            mask: memory.blur(size.mask_by(earlier), unknown),
            next: memory.blur(next, unknown),
        }
    }
}

/// Returns [`step::SETTLED`] if a flow with this key has an entry that counts now, under the
/// table in force, [`step::CONTENDED`] if its entry must be read again, and otherwise where else
/// it may lie, or [`step::NOTHING`].
#[inline(always)]
pub(crate) fn look_up<M: FlowMemory>(
    memory: &M,
    table: &Table<'_, M>,
    record: &EndpointRecord,
    key: &FlowKey,
    case: &Case,
) -> u32 {
    let unknown = case.bytes;
    let Search { mask, next } = Search::of(memory, record, case.flow_step, step::NOTHING, unknown);
    let place = find(memory, record, key, mask, unknown);
    if place == LOCKED {
        return step::CONTENDED;
    }
    let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), place >> 2) else {
        return next;
    };
    let entry = way_of(set, place);
    let word = StateWord(entry.state.load());
    memory.order_loads();
    let different = entry.differs(&key.pairs());
    let peer_slot = entry.peer_slot.load();
    let peer_epoch = entry.peer_epoch.load();
    let last_seen = entry.last_seen.load();
    memory.order_loads();
    let again = entry.state.load();
    if again != word.0 || word.is_locked() {
        return step::CONTENDED;
    }
    let idle = memory.jiffies().wrapping_sub(last_seen);
    let Some(binding) = memory.binding(peer_slot) else {
        return step::NOTHING;
    };
    let counts = different == 0
        && !matches!(word.state(), FlowState::Free)
        && word.is_current(table.revision() as u32, record.incarnation)
        && binding.epoch.load() == peer_epoch
        && idle <= idle_time(memory, record, key.kind as u8, word.state(), unknown);
    if counts { step::SETTLED } else { next }
}

/// Asks the flow table about a packet whose headers are known. Says in the case
/// how to go on: see [`step`].
#[inline(always)]
pub fn track<M: FlowMemory>(memory: &M, case: &mut Case) {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let Some(Candidate { key, sent }) = candidate(record, case) else {
        return;
    };
    let Search { mask, next } =
        Search::of(memory, record, case.flow_step, step::UNKNOWN, case.bytes);
    case.flow_step = step::UNKNOWN;
    let place = find(memory, record, &key, mask, case.bytes);
    if place == LOCKED {
        case.flow_step = step::CONTENDED;
        return;
    }
    let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), place >> 2) else {
        case.flow_step = next;
        return;
    };
    let entry = way_of(set, place);
    let word = StateWord(entry.state.load());
    memory.order_loads();
    let different = entry.differs(&key.pairs());
    let peer_slot = entry.peer_slot.load();
    let peer_epoch = entry.peer_epoch.load();
    let last_seen = entry.last_seen.load();
    memory.order_loads();
    let again = entry.state.load();
    let state = word.state();
    let idle = memory.jiffies().wrapping_sub(last_seen);
    // Numbers, of which the verifier knows nothing: conditions would double the ways.
    let kind = idle_kind(memory, case.protocol(), state, case.bytes);
    let is_idle = memory.less(longest_idle(memory, record, kind), idle);
    // An established connection goes on after any silence, if its place was not needed and
    // policy still allows it.
    let is_over = is_idle & memory.less(Idle::TcpEstablished as u32, kind);
    if again != word.0 || word.is_locked() {
        case.flow_step = step::CONTENDED;
        return;
    }
    let gone = different != 0
        || matches!(state, FlowState::Free)
        || !word.is_of(record.incarnation)
        || is_over != 0;
    if gone {
        // It may have been moved since it was found.
        case.flow_step = next;
        return;
    }
    let is_idle = memory.blur(is_idle, case.bytes);
    // Before all that it is about: who checks the entry while that changes has checked
    // nothing.
    let generation = generation(memory);
    memory.order_loads();
    let Some(table) = Table::open(memory) else {
        return;
    };
    let Some(binding) = memory.binding(peer_slot) else {
        return;
    };
    let marks = word.marks();
    let from_opener = sent == (marks & flow_mark::OPENED_BY_ENDPOINT != 0);
    // Behind a proxy anybody may be who answers; that one's own hook asks about it.
    let may_be_translated = !from_opener && word.undecided() != 0;
    if !sent && !may_be_translated && !is_from_peer(case, binding.stamp.load(), marks, from_opener)
    {
        return;
    }
    let same_epoch = binding.epoch.load() == peer_epoch;
    if marks & flow_mark::MASQUERADED != 0 && !same_epoch {
        // Nobody knows any more which workload the node's address stood for.
        return;
    }
    case.flow_word = [word.0 as u32, (word.0 >> 32) as u32];
    case.flow_place = place;
    if is_opening(case) {
        case.flow_step = if from_opener {
            step::REOPENED
        } else {
            step::CROSSED
        };
        return;
    }
    if sent {
        case.destination_slot = peer_slot;
    } else {
        case.source_slot = peer_slot;
    }
    let is_current = word.is_current(table.revision() as u32, record.incarnation);
    if !(is_current && same_epoch) || is_idle != 0 {
        case.flow_step = step::STALE;
        if marks & flow_mark::OWN_NODE != 0 {
            case.marks |= mark::OWN_NODE_FLOW;
        }
        if !from_opener {
            turn(case);
            case.marks |= mark::TURNED | mark::REPLY;
            if marks & flow_mark::MASQUERADED != 0 {
                case.marks |= mark::MASQUERADED;
                case.source_slot = peer_slot;
            }
        }
        return;
    }
    if !sent && !may_be_translated && case.stamp != 0 && is_elsewhere(&table, peer_slot) {
        // A workload of this node has wrapped a packet in another one's name: the judge
        // denies it.
        return;
    }
    case.flow_step = step::SETTLED;
    case.revision = table.revision() as u32;
    if sent {
        case.stamp |= word.undecided();
    }
    if generation & 1 == 0 {
        let stamp = (!sent).then_some(case.stamp);
        let checked = Checked(entry.checked.load()).and(generation, word, stamp);
        entry.checked.put(checked.0);
    }
    account(memory, entry, case, word, from_opener);
    case.settle(Verdict::allow(Reason::Flow));
}

/// Returns `true` if a packet towards a workload comes from the peer of the flow that it would
/// belong to. `stamp` is that of the peer's endpoint, 0 when the peer is not local.
///
/// A reply from the node's address may carry the stamp of the workload that a Service
/// led to.
#[inline(always)]
fn is_from_peer(case: &Case, stamp: u32, marks: u32, from_opener: bool) -> bool {
    if stamp != 0 {
        return case.stamp == stamp;
    }
    if from_opener && marks & flow_mark::OWN_NODE != 0 {
        return case.is_from_node_itself();
    }
    !(from_opener && marks & flow_mark::NODE_ADDRESS != 0 && case.stamp != 0)
}

/// Returns `true` if a slot is that of an address on another node.
#[inline(always)]
fn is_elsewhere<M: FlowMemory>(table: &Table<'_, M>, slot: u32) -> bool {
    table.slot(slot).is_some_and(|profile| {
        matches!(profile.kind, SlotKind::RemoteWorkload | SlotKind::OtherNode)
    })
}

/// Number of the idle time that holds for a flow.
#[inline(always)]
fn idle_kind<M: FlowMemory>(memory: &M, protocol: u8, state: FlowState, unknown: u32) -> u32 {
    memory.blur(Idle::of(protocol, state) as u32, unknown)
}

/// Jiffies that a flow may be idle.
#[inline(always)]
fn longest_idle<M: FlowMemory>(memory: &M, record: &EndpointRecord, kind: u32) -> u32 {
    // The bound of the index is checked where the verifier of Linux 6.1 sees it.
    let idle = memory.settings().idle[kind as usize & (IDLE_TIMES - 1)];
    Size(record.flow_size.load()).shorten(idle, kind)
}

/// Jiffies that a flow may be idle.
#[inline(always)]
pub(super) fn idle_time<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    protocol: u8,
    state: FlowState,
    unknown: u32,
) -> u32 {
    longest_idle(memory, record, idle_kind(memory, protocol, state, unknown))
}

/// Turns a case round: the other end's packet to this endpoint becomes this
/// endpoint's to the other end, with the port that policy asks about.
#[inline(always)]
pub(super) fn turn(case: &mut Case) {
    core::mem::swap(&mut case.source, &mut case.destination);
    case.marks ^= mark::TO_WORKLOAD;
    let (_, port) = case.opener_ports();
    case.key = row_key(case.protocol(), port);
}

/// Turns a case back, as the packet was.
#[inline(always)]
pub(super) fn turn_back(case: &mut Case) {
    core::mem::swap(&mut case.source, &mut case.destination);
    core::mem::swap(&mut case.source_slot, &mut case.destination_slot);
    case.marks ^= mark::TO_WORKLOAD;
    case.key = row_key(case.protocol(), case.ports as u16);
}

/// Denies what could not be remembered.
#[inline(always)]
pub fn give_up(case: &mut Case) {
    if case.is_tracked() {
        refuse(case, Reason::FlowTableFull);
    }
}

#[inline(always)]
pub(super) fn refuse(case: &mut Case, reason: Reason) {
    case.settle(Verdict::deny(reason));
    case.flow_step = step::SETTLED;
}

/// Chooses the place of the flow that an allowed packet opens.
#[inline(always)]
pub fn choose<M: FlowMemory>(memory: &M, case: &mut Case) {
    if case.flow_step != step::UNKNOWN {
        return;
    }
    // What a workload sends itself needs no entry, unless its answer goes to the node's
    // address.
    let is_to_itself =
        word_reason(case.enforced) == Reason::SelfTraffic as u32 && !case.is(mark::MASQUERADED);
    if !case.is_allowed() || is_to_itself {
        case.flow_step = step::SETTLED;
        return;
    }
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let Some(Candidate { mut key, sent }) = candidate(record, case) else {
        return;
    };
    let protocol = case.protocol();
    let is_echo = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    if is_echo && sent == (key.kind & OPENED_BY_PEER != 0) {
        // A reply that nobody asked for: policy has allowed it, by itself.
        case.flow_step = step::SETTLED;
        return;
    }
    // What is known of these differs by protocol, and the search need not know it.
    key.ports = memory.blur(key.ports, case.bytes);
    key.kind = memory.blur(key.kind, case.bytes);
    let (place, word) = match best_place(memory, record, &key, sent, case.bytes) {
        Room::At(place, word) => (place, word),
        Room::Changed => return,
        Room::Full => {
            case.flow_step = step::FULL;
            return;
        }
    };
    if protocol == protocol::TCP && !is_opening(case) && !case.is(mark::ADOPTED | mark::BOTH_WAYS) {
        refuse(case, Reason::NoFlow);
        return;
    }
    case.flow_place = place;
    case.flow_word = [word.0 as u32, (word.0 >> 32) as u32];
    case.flow_step = step::PLACED;
}

/// Writes down what policy has answered.
#[inline(always)]
pub fn remember<M: FlowMemory>(memory: &M, case: &mut Case) {
    if case.is(mark::TURNED) {
        turn_back(case);
        case.marks &= !mark::TURNED;
    }
    let found = case.flow_step;
    if found == step::FULL {
        pass_unremembered(case);
        return;
    }
    if found == step::UNKNOWN {
        // Its place was taken meanwhile.
        return;
    }
    let Some(record) = memory.endpoint(case.endpoint) else {
        return;
    };
    let set = memory.flow_set(record.flow_partition.wrapping_sub(1), case.flow_place >> 2);
    let Some(set) = set else {
        return;
    };
    let entry = way_of(set, case.flow_place);
    case.flow_step = step::SETTLED;
    if !case.is_allowed() {
        // Only policy ends a flow: a packet with somebody else's address does not.
        if case.is_denied_by_policy() && (found == step::STALE || found == step::REOPENED) {
            let word = found_word(case);
            let free = word.published(0, 0, 0, FlowState::Free, 0);
            if found == step::STALE {
                case.marks |= mark::CUT;
            }
            if !memory.wants_flows() {
                memory.exchange(&entry.state, word.0, free.0);
            } else if memory.exchange(&entry.state, word.0, word.locked().0) == word.0 {
                memory.end_flow(record, entry);
                memory.exchange(&entry.state, word.locked().0, free.0);
            }
        }
        return;
    }
    let state = found_word(case).state();
    let begins = match found {
        step::PLACED => true,
        step::REOPENED => !matches!(state, FlowState::Established),
        step::CROSSED => matches!(state, FlowState::Closing),
        _ => false,
    };
    if begins {
        // A SYN that is sent again begins nothing.
        let again = found == step::REOPENED && entry.initial[0].load() == case.sequence;
        let stored = store(memory, record, case, set, entry);
        if !stored && found == step::PLACED {
            case.flow_step = step::UNKNOWN;
        } else if again || !stored {
            case.marks |= mark::RENEWED;
        } else if case.tells_of_flow() {
            case.marks |= mark::BEGUN;
        }
    } else {
        case.marks |= mark::RENEWED;
        if found != step::CROSSED {
            renew(memory, record, case, entry);
        }
    }
}

/// Lets a packet pass whose flow finds no room, if no packet of the flow needs an entry:
/// policy allows both directions by themselves.
#[inline(always)]
fn pass_unremembered(case: &mut Case) {
    if !case.is(mark::BOTH_WAYS) {
        let opens = case.protocol() != protocol::TCP || is_opening(case) || case.is(mark::ADOPTED);
        refuse(
            case,
            if opens {
                Reason::FlowTableFull
            } else {
                Reason::NoFlow
            },
        );
        return;
    }
    case.enforced = word_for(case.enforced, Reason::FlowTableFull);
    case.flow_step = step::SETTLED;
}

#[inline(always)]
const fn found_word(case: &Case) -> StateWord {
    StateWord(case.flow_word[0] as u64 | (case.flow_word[1] as u64) << 32)
}

/// The mark of a flow that the node's own permission has allowed, and not policy.
#[inline(always)]
const fn by_node(case: &Case) -> u32 {
    if word_reason(case.enforced) == Reason::OwnNode as u32 {
        flow_mark::OWN_NODE
    } else {
        0
    }
}

/// The mark of a flow to a port of a Service of which some backends may be reached, or to a
/// workload whose address a Service has too.
#[inline(always)]
const fn undecided(case: &Case) -> u32 {
    if word_reason(case.enforced) == Reason::VirtualUndecided as u32
        || case.is(mark::SHARED_ADDRESS)
    {
        flow_mark::UNDECIDED
    } else {
        0
    }
}

/// Decided again, and allowed: the entry counts under the table that did.
#[inline(always)]
fn renew<M: FlowMemory>(memory: &M, record: &EndpointRecord, case: &Case, entry: &FlowEntry) {
    let word = found_word(case);
    let sent = !case.is(mark::TO_WORKLOAD);
    let from_opener = sent == (word.marks() & flow_mark::OPENED_BY_ENDPOINT != 0);
    let renewed = word.published(
        kept_revision(case),
        record.incarnation,
        case.enforced,
        word.state(),
        word.marks() & !flow_mark::UNDECIDED | by_node(case) | undecided(case),
    );
    if memory.exchange(&entry.state, word.0, word.locked().0) == word.0 {
        let (slot, epoch) = peer(memory, case, sent);
        entry.peer_slot.put(slot);
        entry.peer_epoch.put(epoch);
        entry.checked.put(0);
        memory.exchange(&entry.state, word.locked().0, renewed.0);
        account(memory, entry, case, renewed, from_opener);
    }
    // Else another processor has renewed it, under this table or a newer one.
}

/// The other end's slot and its binding epoch.
#[inline(always)]
fn peer<M: FlowMemory>(memory: &M, case: &Case, sent: bool) -> (u32, u32) {
    let slot = if sent {
        case.destination_slot
    } else {
        case.source_slot
    };
    let epoch = memory
        .binding(slot)
        .map_or(0, |binding| binding.epoch.load());
    (slot, epoch)
}

/// Writes the entry of a flow that the packet opens; its word was read as the case
/// says. `false` when another processor was quicker.
#[inline(always)]
fn store<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    case: &Case,
    set: &FlowSet,
    entry: &FlowEntry,
) -> bool {
    let Some(Candidate { key, sent }) = candidate(record, case) else {
        return false;
    };
    let word = found_word(case);
    if memory.exchange(&entry.state, word.0, word.locked().0) != word.0 {
        return false;
    }
    let is_used = !matches!(word.state(), FlowState::Free) && word.is_of(record.incarnation);
    if is_used && memory.wants_flows() {
        memory.end_flow(record, entry);
    }
    let Places { tag, .. } = key.places(&memory.settings().keys, 0);
    set.ways[0].tags[case.flow_place as usize & (WAYS - 1)].put(tag);
    let pairs = key.pairs();
    let mut i = 0;
    while i < KEY_PAIRS {
        entry.key[i].put(pairs[i]);
        i += 1;
    }
    let by_endpoint = if sent {
        flow_mark::OPENED_BY_ENDPOINT
    } else {
        0
    };
    let by_address = if case.is(mark::NODE_ADDRESS) {
        flow_mark::NODE_ADDRESS
    } else {
        0
    };
    let masqueraded = if case.is(mark::MASQUERADED) {
        flow_mark::MASQUERADED
    } else {
        0
    };
    let now = memory.jiffies();
    let (slot, epoch) = peer(memory, case, sent);
    entry.peer_slot.put(slot);
    entry.peer_epoch.put(epoch);
    entry.last_seen.put(now);
    entry.opened.put(now);
    entry.initial[0].put(case.sequence);
    entry.initial[1].put(0);
    entry.answered.put(0);
    entry.acknowledged[0].put(case.acknowledged);
    entry.acknowledged[1].put(0);
    entry.packets[0].put(if case.tells_of_flow() {
        1
    } else {
        1 | TOLD_ELSEWHERE
    });
    entry.packets[1].put(0);
    entry.bytes[0].put(u64::from(case.bytes));
    entry.bytes[1].put(0);
    entry.checked.put(0);
    let published = word.published(
        kept_revision(case),
        record.incarnation,
        case.enforced,
        FlowState::Embryonic,
        by_endpoint | by_node(case) | by_address | masqueraded | undecided(case),
    );
    memory.exchange(&entry.state, word.locked().0, published.0);
    true
}
