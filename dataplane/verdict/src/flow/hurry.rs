//! The short way of plain packets of established flows.
//!
//! Nearly all packets are plain: TCP or UDP without IPv4 options, extension headers or
//! fragments, between an endpoint's first address and another one. [`hurry`] passes such a
//! packet when its flow is established, the packet changes nothing about the flow, and
//! [`track`](super::track()) has checked that the flow's entry counts since anything changed
//! that this depends on ([`Checked`]). Everything else goes the long way.
//!
//! Invariant: a packet that passes here passes the long way, too, with the same verdict,
//! counts and entry. No packet is dropped here.

use crate::{
    address::Family,
    bucket::guess_endpoint,
    checksum::PartialChecksum,
    counter::Hook,
    endpoint::{EndpointRecord, MAX_STAMP, flags},
    flow::{
        Checked, FlowEntry, FlowSet, FlowState, IDLE_TIMES, Idle, KEY_PAIRS, Places, Size,
        StateWord, WAYS, flow_mark, pair,
    },
    hash::{Keys, choices, summand},
    memory::{FlowMemory, generation},
    packet::{ETHERNET_BYTES, ethertype, protocol, tcp_flag},
    table::Table,
};

/// A packet as the short way reads it: each part where it is needed. In the kernel programs,
/// parts that are read beforehand take room on the stack.
pub trait Glance {
    /// Words of the frame.
    type Words: Words;
    /// `N` words at an even offset; `None` past the end, or where the kernel does not hold
    /// them in one piece.
    fn words<const N: usize>(&self, offset: u32) -> Option<Self::Words>;
    /// Length of the whole frame in bytes.
    fn length(&self) -> u32;
    /// As [`crate::packet::Frame::is_gso`].
    fn is_gso(&self) -> bool;
    /// As [`crate::packet::Frame::partial_checksum`].
    fn partial_checksum(&self) -> Option<PartialChecksum>;
    /// Interface of the hook.
    fn ifindex(&self) -> u32;
    /// Interface the packet came in by, 0 if unknown.
    fn ingress_ifindex(&self) -> u32;
    /// Stamp that the packet carries, 0 if none.
    fn stamp(&self) -> u32;
    /// Returns `true` if a VLAN tag lies beside the frame.
    fn is_tagged(&self) -> bool;
    /// Returns `true` if a local socket sent the packet.
    fn has_socket(&self) -> bool;
}

/// Words of a frame that are all there.
pub trait Words {
    /// Reads the word of this number, in host order.
    fn word(&self, number: usize) -> u32;
}

/// Offset of the transport header of a plain IPv4 packet.
const AFTER_IPV4: u32 = ETHERNET_BYTES + 20;
/// Offset of the transport header of a plain IPv6 packet.
const AFTER_IPV6: u32 = ETHERNET_BYTES + 40;

/// Place and kind of a plain packet's transport header.
struct Transport {
    /// The endpoint sends the packet.
    sent: bool,
    at: u32,
    protocol: u8,
}

/// Passes a plain packet of an established flow: returns the stamp that it gets. `None` if
/// the packet must go the long way.
///
/// The packet is looked at first: those that open connections need no more.
#[inline(always)]
pub fn hurry<M: FlowMemory, G: Glance>(memory: &M, packet: &G, hook: Hook) -> Option<u32> {
    let sent = matches!(hook, Hook::FromWorkload);
    match packet.words::<2>(6)?.word(1) as u16 {
        ethertype::IPV4 => ipv4(memory, packet, sent),
        ethertype::IPV6 => ipv6(memory, packet, sent),
        _ => None,
    }
}

/// The record of the endpoint behind the packet's interface; `None` if it cannot be found at
/// once, is closed, shares its hooks, or does not have the source's link-layer address.
#[inline(always)]
fn endpoint<'a, M: FlowMemory, G: Glance>(
    memory: &'a M,
    packet: &G,
    sent: bool,
) -> Option<&'a EndpointRecord> {
    let ifindex = packet.ifindex();
    let record = memory.endpoint(guess_endpoint(memory, ifindex).wrapping_sub(1))?;
    if packet.is_tagged()
        || record.ifindex != ifindex
        || record.flags.load() & (flags::DENY_ALL | flags::SHARED_HOOKS) != 0
    {
        return None;
    }
    if sent {
        let source = packet.words::<2>(6)?;
        if pair(source.word(1), source.word(0)) >> 16 != record.mac {
            return None;
        }
    }
    Some(record)
}

#[inline(always)]
fn ipv4<M: FlowMemory, G: Glance>(memory: &M, packet: &G, sent: bool) -> Option<u32> {
    const FRAGMENT: u32 = 0x3fff;
    let header = packet.words::<5>(ETHERNET_BYTES)?;
    let first = header.word(0);
    let total = first & 0xffff;
    let room = packet.length().wrapping_sub(ETHERNET_BYTES);
    if first >> 24 != 0x45 || total < 20 || total > room || header.word(1) & FRAGMENT != 0 {
        return None;
    }
    let transport = Transport {
        sent,
        at: AFTER_IPV4,
        protocol: (header.word(2) >> 16) as u8,
    };
    let ports = ports(packet, &transport, total - 20)?;
    let record = endpoint(memory, packet, sent)?;
    let (own_at, peer_at) = if sent { (3, 4) } else { (4, 3) };
    // Read again where they are needed, in place of being kept on the stack.
    let peer = || header.word(peer_at);
    let own = || header.word(own_at);
    if own() != record.v4[0] || record.v4_slots[0] == 0 {
        return None;
    }
    let kind = (Family::V4 as u32) << 8 | u32::from(transport.protocol);
    let last = pair(ports, kind);
    let sum = |keys: &Keys| {
        summand(keys, 0, peer(), 0)
            .wrapping_add(summand(keys, 2, 0, 0))
            .wrapping_add(summand(keys, 4, own(), 0))
            .wrapping_add(summand(keys, 6, 0, 0))
            .wrapping_add(summand(keys, 8, ports, kind))
    };
    let is_of = |entry: &FlowEntry| {
        entry.key[KEY_PAIRS - 1].load() == last
            && entry.key[0].load() == u64::from(peer())
            && entry.key[2].load() == u64::from(own())
            && entry.key[1].load() | entry.key[3].load() == 0
    };
    pass(memory, packet, record, &transport, sum, is_of)
}

#[inline(always)]
fn ipv6<M: FlowMemory, G: Glance>(memory: &M, packet: &G, sent: bool) -> Option<u32> {
    let header = packet.words::<10>(ETHERNET_BYTES)?;
    let second = header.word(1);
    let payload = second >> 16;
    let room = packet.length().wrapping_sub(AFTER_IPV6);
    if header.word(0) >> 28 != 6 || payload == 0 || payload > room {
        return None;
    }
    let transport = Transport {
        sent,
        at: AFTER_IPV6,
        protocol: (second >> 8) as u8,
    };
    let ports = ports(packet, &transport, payload)?;
    let record = endpoint(memory, packet, sent)?;
    let (own_at, peer_at) = if sent { (2, 6) } else { (6, 2) };
    let own = &record.v6[0];
    let mut different = 0;
    let mut i = 0;
    while i < 4 {
        different |= own[i] ^ header.word(own_at + i);
        i += 1;
    }
    if different != 0 || record.v6_slots[0] == 0 {
        return None;
    }
    let kind = (Family::V6 as u32) << 8 | u32::from(transport.protocol);
    let last = pair(ports, kind);
    let peer = |i: usize| header.word(peer_at + i);
    let sum = |keys: &Keys| {
        summand(keys, 0, peer(0), peer(1))
            .wrapping_add(summand(keys, 2, peer(2), peer(3)))
            .wrapping_add(summand(keys, 4, own[0], own[1]))
            .wrapping_add(summand(keys, 6, own[2], own[3]))
            .wrapping_add(summand(keys, 8, ports, kind))
    };
    let is_of = |entry: &FlowEntry| {
        entry.key[KEY_PAIRS - 1].load() == last
            && entry.key[0].load() == pair(peer(0), peer(1))
            && entry.key[1].load() == pair(peer(2), peer(3))
            && entry.key[2].load() == pair(own[0], own[1])
            && entry.key[3].load() == pair(own[2], own[3])
    };
    pass(memory, packet, record, &transport, sum, is_of)
}

/// Ports of a plain packet, as in [`FlowKey::ports`](super::FlowKey::ports); `None` if the
/// packet is not plain, or may change its flow. `left` is the bytes from the transport header
/// on.
#[inline(always)]
fn ports<G: Glance>(packet: &G, on: &Transport, left: u32) -> Option<u32> {
    let at = on.at;
    let (ports, sum) = if on.protocol == protocol::TCP {
        let segment = packet.words::<5>(at)?;
        let fourth = segment.word(3);
        let header = fourth >> 28 << 2;
        let flags = (fourth >> 16) as u8;
        if header < 20
            || header > left
            || flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0
        {
            return None;
        }
        (segment.word(0), 16)
    } else if on.protocol == protocol::UDP {
        let datagram = packet.words::<2>(at)?;
        let ports = datagram.word(0);
        let length = datagram.word(1) >> 16;
        if left < 8 || !packet.is_gso() && (length < 8 || length > left) || is_dhcp(ports) {
            return None;
        }
        (ports, 6)
    } else {
        return None;
    };
    if let Some(left) = packet.partial_checksum()
        && (left.start != at || left.offset != sum)
    {
        return None;
    }
    Some(if on.sent {
        ports
    } else {
        ports.rotate_left(16)
    })
}

/// Returns `true` if a datagram with these ports may be signalling.
#[inline(always)]
const fn is_dhcp(ports: u32) -> bool {
    const PAIRS: [u32; 2] = [67 << 16 | 68, 546 << 16 | 547];
    let turned = ports.rotate_left(16);
    ports == PAIRS[0] || turned == PAIRS[0] || ports == PAIRS[1] || turned == PAIRS[1]
}

/// Passes a packet by its flow's entry, counts it there, and returns the stamp that it gets.
/// `sum` is the sum of its key's [`summand`]s; `is_of` says if an entry has the key.
#[inline(always)]
fn pass<M: FlowMemory, G: Glance>(
    memory: &M,
    packet: &G,
    record: &EndpointRecord,
    on: &Transport,
    sum: impl Fn(&Keys) -> u64,
    is_of: impl Fn(&FlowEntry) -> bool,
) -> Option<u32> {
    let partition = record.flow_partition.wrapping_sub(1);
    let keys = &memory.settings_at_hand().keys;
    let size = Size(record.flow_size.load());
    let Places { sets, tag } = Places::of(choices(keys, sum(keys)), size.mask());
    let mut set = memory.flow_set(partition, sets[0])?;
    let (mut way, mut word) = way_in(memory, set, tag, &is_of);
    if way == WAYS as u32 {
        set = memory.flow_set(partition, sets[1])?;
        (way, word) = way_in(memory, set, tag, &is_of);
        if way == WAYS as u32 {
            return None;
        }
    }
    let way = memory.blur(way, packet.length());
    let entry = &set.ways[(way & (WAYS as u32 - 1)) as usize];
    let last_seen = entry.last_seen.load();
    let checked = Checked(entry.checked.load());
    memory.order_loads();
    let again = entry.state.load();
    let marks = word.marks();
    let from_opener = on.sent == (marks & flow_mark::OPENED_BY_ENDPOINT != 0);
    let revision = Table::open(memory)?.revision() as u32;
    if again != word.0
        || word.is_locked()
        || !matches!(word.state(), FlowState::Established)
        || !word.is_current(revision, record.incarnation)
    {
        return None;
    }
    let generation = generation(memory);
    if on.sent {
        if !checked.holds_from_workload(generation, word) {
            return None;
        }
    } else {
        let stamp = packet.stamp() & MAX_STAMP;
        let by_node = from_opener && marks & flow_mark::OWN_NODE != 0;
        if !checked.holds_to_workload(generation, word, stamp)
            || by_node && !(packet.ingress_ifindex() == 0 && stamp == 0 && packet.has_socket())
        {
            return None;
        }
    }
    let is_tcp = on.protocol == protocol::TCP;
    let idle = if is_tcp {
        Idle::TcpEstablished
    } else {
        Idle::Udp
    };
    let kind = memory.blur(idle as u32, packet.length());
    let idle = memory.settings_at_hand().idle[kind as usize & (IDLE_TIMES - 1)];
    let now = memory.jiffies();
    if now.wrapping_sub(last_seen) > size.shorten(idle, kind) {
        return None;
    }
    let side = usize::from(!from_opener);
    memory.add(&entry.packets[side], 1);
    memory.add(&entry.bytes[side], u64::from(packet.length()));
    if last_seen != now {
        entry.last_seen.put(now);
    }
    if is_tcp
        && let Some(segment) = packet.words::<4>(on.at)
        && (segment.word(3) >> 16) as u8 & tcp_flag::ACK != 0
    {
        entry.acknowledged[side].put(segment.word(2));
    }
    Some(record.stamp | if on.sent { word.undecided() } else { 0 })
}

/// The way with a key, and its state word, which was loaded before the key; [`WAYS`] if there
/// is none.
#[inline(always)]
fn way_in<M: FlowMemory>(
    memory: &M,
    set: &FlowSet,
    tag: u8,
    is_of: &impl Fn(&FlowEntry) -> bool,
) -> (u32, StateWord) {
    let mut way = 0;
    while way < WAYS {
        if set.ways[0].tags[way].load() == tag {
            let entry = &set.ways[way];
            let word = StateWord(entry.state.load());
            memory.order_loads();
            if !matches!(word.state(), FlowState::Free) && is_of(entry) {
                return (way as u32, word);
            }
        }
        way += 1;
    }
    (WAYS as u32, StateWord(0))
}
