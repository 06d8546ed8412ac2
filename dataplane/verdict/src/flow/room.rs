//! Places of flows, and the order in which flows give way where there is no room.

use crate::{
    endpoint::EndpointRecord,
    flow::{
        FlowEntry, FlowKey, FlowSet, FlowState, Idle, KEY_PAIRS, Places, Size, StateWord, WAYS,
        flow_mark,
        track::{NOWHERE, idle_time, way_of},
    },
    memory::FlowMemory,
    packet::protocol,
};

/// Rank of an entry that may not be replaced.
const TAKEN: u32 = u32::MAX;

/// Result of [`best_place`].
pub(super) enum Room {
    /// A place, and the word that stands there.
    At(u32, StateWord),
    /// Another processor has put a flow into the place, or a packet of its flow has come: there
    /// may be another place.
    Changed,
    /// No flow gives way.
    Full,
}

/// Finds a place for a new flow, and the word that stands there: where its key lies already, else
/// in a free place of the set in which fewer flows stay, else in the place of the flow that gives
/// way first; see [`Rank`]. The same order as in the table's host model. `by_endpoint` says if the
/// endpoint opens the flow.
#[inline(always)]
pub(super) fn best_place<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    key: &FlowKey,
    by_endpoint: bool,
    unknown: u32,
) -> Room {
    let partition = record.flow_partition.wrapping_sub(1);
    let mask = Size(record.flow_size.load()).mask();
    let Places { sets, .. } = key.places(&memory.settings().keys, mask);
    let pairs = key.pairs();
    let mut best = TAKEN;
    let mut place = NOWHERE;
    let mut choice = 0;
    while choice < 2 {
        let index = sets[choice];
        let Some(set) = memory.flow_set(partition, index) else {
            return Room::Full;
        };
        let mut taken = 0;
        let mut here = TAKEN;
        let mut here_way = 0;
        let mut way = 0;
        while way < WAYS {
            let rank = rank(memory, record, &set.ways[way], &pairs, unknown);
            let rank = memory.blur(rank, unknown);
            taken += u32::from(rank >= LAST_RESORT);
            if rank < here {
                here = rank;
                here_way = way as u32;
            }
            here = memory.blur(here, unknown);
            here_way = memory.blur(here_way, unknown);
            taken = memory.blur(taken, unknown);
            way += 1;
        }
        if here != 0 && here >> IDLE_BITS == 0 {
            here += taken;
        } else if here != 0 && here < LAST_RESORT {
            here |= taken << STAYING_AT;
        } else if here != 0 && here != TAKEN {
            here |= 1 << LAST_RESORT_AT;
        }
        if here < best {
            best = here;
            place = index << 2 | here_way;
        }
        best = memory.blur(best, unknown);
        place = memory.blur(place, unknown);
        choice += 1;
    }
    if best >= ASKING {
        let place = crowded_place(memory, record, sets, (&pairs, by_endpoint), best, unknown);
        if let Some((place, word)) = place {
            return Room::At(place, word);
        }
        if best == TAKEN {
            return Room::Full;
        }
    }
    let Some(set) = memory.flow_set(partition, place >> 2) else {
        return Room::Full;
    };
    let entry = way_of(set, place);
    let word = StateWord(entry.state.load());
    memory.order_loads();
    if rank(memory, record, entry, &pairs, unknown) <= best & IN_SET {
        Room::At(place, word)
    } else {
        Room::Changed
    }
}

/// The place of an established flow whose opener holds more than half of the set, if it gives way
/// before a rank.
///
/// A flow of the new one's opener, but of TCP, ranks with questions that wait for an answer.
/// Otherwise a client whose ports come again soon fills both sets with flows that last, and its
/// next question takes the place of the one before, whose answer is then lost.
#[inline(always)]
fn crowded_place<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    sets: [u32; 2],
    (key, by_endpoint): (&[u64; KEY_PAIRS], bool),
    before: u32,
    unknown: u32,
) -> Option<(u32, StateWord)> {
    let mut best = before;
    let mut place = NOWHERE;
    let mut choice = 0;
    while choice < 2 {
        let set = memory.flow_set(record.flow_partition.wrapping_sub(1), sets[choice])?;
        let Crowd { ways, one } = Crowd::of(memory, record, set, unknown);
        let one = &set.ways[(one & (WAYS as u32 - 1)) as usize];
        let peers = [[key[0], key[1]], peer_of(one)];
        let by = [u32::from(by_endpoint), by_endpoint_of(one)];
        let is_anothers = memory.less(0, openers_differ(peers, by));
        let mut way = 0;
        while way < WAYS {
            let entry = &set.ways[way];
            let is_established = matches!(
                StateWord(entry.state.load()).state(),
                FlowState::Established
            );
            let crowds = memory.blur(u32::from(is_established), unknown) & ways >> way;
            // Not idle at all if a packet has come since the clock was read.
            let idle = memory.jiffies().wrapping_sub(entry.last_seen.load());
            let idle = idle & (idle >> 31).wrapping_sub(1);
            let is_tcp = memory.less(u32::from(entry.protocol() ^ protocol::TCP), 1);
            let rank = ASKING + ((is_tcp | is_anothers) << IDLE_BITS) + idle_rank(idle);
            let rank = TAKEN - (crowds & 1) * (TAKEN - rank);
            if rank < best {
                best = rank;
                place = sets[choice] << 2 | way as u32;
            }
            best = memory.blur(best, unknown);
            place = memory.blur(place, unknown);
            way += 1;
        }
        choice += 1;
    }
    let set = memory.flow_set(record.flow_partition.wrapping_sub(1), place >> 2)?;
    let word = StateWord(way_of(set, place).state.load());
    let stays = word.is_locked()
        || !matches!(word.state(), FlowState::Established)
        || !word.is_of(record.incarnation);
    (place != NOWHERE && !stays).then_some((place, word))
}

/// Flows of an opener that holds more than half of their set.
struct Crowd {
    /// Their ways, a bit each; none if no opener holds so many.
    ways: u32,
    /// One of them.
    one: u32,
}

impl Crowd {
    #[inline(always)]
    fn of<M: FlowMemory>(memory: &M, record: &EndpointRecord, set: &FlowSet, unknown: u32) -> Self {
        let mut alive = 0;
        let mut way = 0;
        while way < WAYS {
            let word = StateWord(set.ways[way].state.load());
            let is_used =
                !matches!(word.state(), FlowState::Free) && word.is_of(record.incarnation);
            alive |= memory.blur(u32::from(is_used && !word.is_locked()), unknown) << way;
            way += 1;
        }
        let same = |one: &FlowEntry, other: &FlowEntry| {
            let peers = [peer_of(one), peer_of(other)];
            let by_endpoint = [by_endpoint_of(one), by_endpoint_of(other)];
            memory.less(openers_differ(peers, by_endpoint), 1)
        };
        // Of four flows at least three are of the opener: the first two, or the last two.
        const _: () = assert!(WAYS == 4);
        let are_first = same(&set.ways[0], &set.ways[1]) & alive & alive >> 1;
        let one = memory.blur(2 - 2 * are_first, unknown);
        let opened = &set.ways[(one & (WAYS as u32 - 1)) as usize];
        let mut ways = 0;
        let mut count = 0;
        let mut way = 0;
        while way < WAYS {
            let crowds = same(opened, &set.ways[way]) & alive >> way;
            ways |= crowds << way;
            count += crowds;
            way += 1;
        }
        Self {
            ways: ways * memory.less(WAYS as u32 / 2, count),
            one,
        }
    }
}

/// Returns 0 if two flows have one opener: the endpoint, or a peer. `peers` are the peers'
/// addresses as in [`FlowKey::pairs`], `by_endpoint` is 1 for a flow that the endpoint has opened.
#[inline(always)]
const fn openers_differ(peers: [[u64; 2]; 2], by_endpoint: [u32; 2]) -> u32 {
    let wide = peers[0][0] ^ peers[1][0] | peers[0][1] ^ peers[1][1];
    let difference = wide as u32 | (wide >> 32) as u32;
    let both = by_endpoint[0] & by_endpoint[1];
    difference & both.wrapping_sub(1) | by_endpoint[0] ^ by_endpoint[1]
}

/// The peer's address in an entry's key.
#[inline(always)]
fn peer_of(entry: &FlowEntry) -> [u64; 2] {
    [entry.key[0].load(), entry.key[1].load()]
}

/// 1 if the endpoint has opened an entry's flow, else 0.
#[inline(always)]
fn by_endpoint_of(entry: &FlowEntry) -> u32 {
    StateWord(entry.state.load()).marks() & flow_mark::OPENED_BY_ENDPOINT
}

/// Rank of a free entry. One in a set in which more flows stay ranks behind, by their number.
const FREE: u32 = 1;
/// Rank of an entry that has been idle for too long; as before.
const EXPIRED: u32 = 8;

/// Ranks of live flows of a set, in the order in which they give way to a new one. Within a rank
/// the flow goes first that has been idle for the longest. The last two give way only where both
/// sets have no other; otherwise the set gives a place in which fewer flows stay: flows that stay
/// would fill some sets while others have room. After all of them comes any established
/// flow of an opener with more than its share; see [`crowded_place`].
///
/// A TCP connection that was asked for gives way before those that were answered, because a flood
/// of SYNs is answered by nobody, and behind those that are over; but not before it had time to
/// be answered. Questions in other protocols wait for one answer, and are over when it has come.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Rank {
    /// Not answered, and idle for [`REST`] of the closing time.
    Unanswered = 1,
    /// Closing, and idle as long.
    Closing = 2,
    /// TCP, not answered, and idle for [`YOUNG`] of the closing time.
    Opening = 3,
    /// Answered once; TCP, if it was not acknowledged for as long.
    Answered = 4,
    /// Closing, and idle for [`YOUNG`] of the closing time: all that may come is a FIN whose
    /// acknowledgement was lost.
    Finished = 5,
    /// Not answered yet, or TCP and not acknowledged yet. An established flow that is not TCP
    /// ranks here, too, if its opener opens the new flow and has more than its share.
    Asking = 6,
}

/// Part of the closing time for which a closing flow keeps its place, and after which an
/// unanswered one gives way first: 2 s of 20 unless configured.
const REST: u32 = 10;

/// Part of the closing time in which an answer comes to whom it comes at all: 0.1 s of 20 unless
/// configured.
const YOUNG: u32 = 200;

/// Bits of a rank that say how long the flow has been idle. Above them stands the [`Rank`].
const IDLE_BITS: u32 = 26;
/// Lowest bit of the number of flows of the set that stay, at most 3.
const STAYING_AT: u32 = IDLE_BITS + 3;
/// Bit that is set if no other flow of the set gives way.
const LAST_RESORT_AT: u32 = STAYING_AT + 2;
/// The first of the ranks of flows that give way only where no other does.
const LAST_RESORT: u32 = (Rank::Finished as u32) << IDLE_BITS;
/// The first rank of questions that wait for an answer, as [`best_place`] compares two sets.
const ASKING: u32 = 1 << LAST_RESORT_AT | (Rank::Asking as u32) << IDLE_BITS;
/// Bits of the rank within a set.
const IN_SET: u32 = (1 << STAYING_AT) - 1;

/// Ranks an entry: the lower the number, the sooner it gives way.
#[inline(always)]
fn rank<M: FlowMemory>(
    memory: &M,
    record: &EndpointRecord,
    entry: &FlowEntry,
    key: &[u64; KEY_PAIRS],
    unknown: u32,
) -> u32 {
    let word = StateWord(entry.state.load());
    let state = word.state();
    if word.is_locked() || word.is_reserved() {
        return TAKEN;
    }
    if matches!(state, FlowState::Free) || !word.is_of(record.incarnation) {
        return FREE;
    }
    if entry.differs(key) == 0 {
        return 0;
    }
    let idle = memory.jiffies().wrapping_sub(entry.last_seen.load());
    // On another processor a packet may have come after the clock was read: not
    // idle at all. Without a branch, for the verifier's sake.
    let idle = idle & (idle >> 31).wrapping_sub(1);
    let protocol = entry.protocol();
    if idle > idle_time(memory, record, protocol, state, unknown) {
        return EXPIRED;
    }
    let closing = memory.settings().idle[Idle::TcpClosing as usize];
    let rested = idle >= closing / REST;
    let is_young = idle < closing / YOUNG;
    let is_tcp = protocol == protocol::TCP;
    let rank = match state {
        FlowState::Embryonic if rested => Rank::Unanswered,
        FlowState::Embryonic if is_tcp && !is_young => Rank::Opening,
        FlowState::Embryonic => Rank::Asking,
        FlowState::Closing if rested => Rank::Closing,
        FlowState::Closing if !is_young => Rank::Finished,
        FlowState::Answered if is_tcp && is_young => Rank::Asking,
        FlowState::Answered => Rank::Answered,
        _ => return TAKEN,
    };
    (rank as u32) << IDLE_BITS | idle_rank(idle)
}

/// The part of a rank by which the longest idle flow comes first.
#[inline(always)]
const fn idle_rank(idle: u32) -> u32 {
    let most = (1 << IDLE_BITS) - 1;
    most - if idle < most { idle } else { most }
}
