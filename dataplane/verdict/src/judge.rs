//! From a frame on a hook to a verdict: the pipeline of the programs.
//!
//! [`inspect`] looks at the frame: whose interface, which headers, what a
//! workload may not send at all. What is left is a [`Case`] of plain words, which
//! [`answer`] decides from the shared tables alone. The cut between the two is
//! where the kernel programs call a function that the verifier checks by itself:
//! without it, every way through the headers is followed through every way
//! through the tables, and a million steps do not suffice.
//!
//! For a packet from a workload the egress policy is asked; for a packet towards
//! a workload its ingress policy and, when the sender is a local workload, the
//! sender's egress policy too, under one table: no packet passes on one table's
//! egress and another's ingress.
//!
//! Identity comes from the host-side interface, never from the packet; the
//! packet's source must then agree with it.

use crate::{
    address::{Address, Family},
    bucket::{Found, find, find_address},
    counter::Hook,
    endpoint::{EndpointRecord, MAX_ADDRESSES_V4, MAX_ADDRESSES_V6, flags},
    memory::{BucketSet, Memory},
    packet::{self, Frame, Packet, Part, ethertype, icmpv6, protocol},
    reason::Reason,
    table::{DecisionWords, Profile, SlotKind, Table, row_key},
    verdict::{Action, Direction, Verdict, word_action},
};

/// What the kernel says of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Interface of the hook.
    pub ifindex: u32,
    /// Interface the packet came in by; 0 when it began on this node, or when
    /// the kernel has forgotten (a refragmented IPv6 datagram).
    pub ingress_ifindex: u32,
    /// Whether a local socket sent it.
    pub has_socket: bool,
    /// Whether a VLAN tag lies beside the frame.
    pub tagged: bool,
}

/// Bits of [`Case::marks`].
mod mark {
    /// The packet goes to the workload; otherwise it comes from it.
    pub(super) const TO_WORKLOAD: u32 = 1 << 0;
    /// A local socket sent it.
    pub(super) const SOCKET: u32 = 1 << 1;
    /// A later fragment, without ports.
    pub(super) const LATER: u32 = 1 << 2;
    /// The addresses are IPv6.
    pub(super) const V6: u32 = 1 << 3;
}

/// A packet that the tables must decide, and the answer. Words only, so that a
/// program can hand it to a function of its own.
///
/// Fields that begin as zero stand apart from each other: a run of them becomes a
/// call of `memset`, which on BPF is a loop over bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Case {
    /// Source address, host-order words.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Interface the packet came in by, 0 if unknown.
    pub ingress_ifindex: u32,
    /// Answer: [`Direction`] of the policy that decided.
    pub direction: u32,
    /// Protocol and port, as rows are searched by.
    pub key: u32,
    /// Answer: source slot, 0 if it was not looked up.
    pub source_slot: u32,
    /// See [`mark`].
    marks: u32,
    /// Answer: destination slot, 0 if it was not looked up.
    pub destination_slot: u32,
    /// Answer: the verdict in force, [`Verdict::to_word`].
    pub enforced: u32,
    /// Answer: 1 when other filters stand on the hook, so that an allowed packet
    /// must go on to them.
    pub shared_hooks: u32,
    /// Answer: the verdict with audit policies in force as well.
    pub audited: u32,
    /// Number of the endpoint's record.
    pub endpoint: u32,
}

const _: () = assert!(size_of::<Case>() == 72);

impl Case {
    /// A case that is decided already.
    #[inline(always)]
    const fn decided(hook: Hook, verdict: Verdict) -> Self {
        let direction = match hook {
            Hook::FromWorkload => Direction::Egress,
            Hook::ToWorkload | Hook::UplinkIngress => Direction::Ingress,
        };
        Self {
            source: [0; 4],
            destination: [0; 4],
            endpoint: 0,
            ingress_ifindex: 0,
            key: 0,
            marks: 0,
            enforced: verdict.to_word(),
            audited: verdict.to_word(),
            direction: direction as u32,
            source_slot: 0,
            destination_slot: 0,
            shared_hooks: 0,
        }
    }

    /// Whether the answer is to let the packet pass.
    #[inline(always)]
    pub const fn is_allowed(&self) -> bool {
        word_action(self.enforced) == Action::Allow as u32
    }

    /// The case of a whole packet towards a workload, made without a frame.
    #[inline(always)]
    pub const fn to_workload(
        source: &Address,
        destination: &Address,
        endpoint: u32,
        ingress_ifindex: u32,
        key: u32,
    ) -> Self {
        let unanswered = Verdict::deny(Reason::TableCorrupt).to_word();
        Self {
            source: source.words,
            destination: destination.words,
            ingress_ifindex,
            direction: Direction::Ingress as u32,
            key,
            source_slot: 0,
            marks: match source.family {
                Family::V4 => mark::TO_WORKLOAD,
                Family::V6 => mark::TO_WORKLOAD | mark::V6,
            },
            destination_slot: 0,
            enforced: unanswered,
            shared_hooks: 0,
            audited: unanswered,
            endpoint,
        }
    }

    #[inline(always)]
    const fn is(&self, mark: u32) -> bool {
        self.marks & mark != 0
    }

    #[inline(always)]
    const fn addresses(&self) -> (Address, Address) {
        let family = if self.is(mark::V6) {
            Family::V6
        } else {
            Family::V4
        };
        (
            Address {
                family,
                words: self.source,
            },
            Address {
                family,
                words: self.destination,
            },
        )
    }

    #[inline(always)]
    fn settle(&mut self, verdict: Verdict) {
        self.enforced = verdict.to_word();
        self.audited = verdict.to_word();
    }
}

/// What [`inspect`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The frame itself decides: the case has its answer.
    Decided(Case),
    /// The tables must be asked.
    Open(Case),
}

/// Judges a frame: [`inspect`], then [`answer`].
pub fn judge<M: Memory, F: Frame>(memory: &M, frame: &F, context: &Context, hook: Hook) -> Case {
    match inspect(memory, frame, context, hook) {
        Inspected::Decided(case) => case,
        Inspected::Open(mut case) => {
            answer(memory, &mut case);
            case
        }
    }
}

/// The number and record of the endpoint behind an interface.
#[inline(always)]
fn endpoint<M: Memory>(memory: &M, ifindex: u32) -> Result<(u32, &EndpointRecord), Reason> {
    match find::<_, 1>(memory, BucketSet::Endpoint, &[ifindex]) {
        Found::Value(value) => {
            let number = value.wrapping_sub(1);
            let record = memory.endpoint(number).ok_or(Reason::EndpointUnknown)?;
            if record.ifindex == ifindex {
                Ok((number, record))
            } else {
                Err(Reason::EndpointUnknown)
            }
        }
        Found::Absent => Err(Reason::EndpointUnknown),
        Found::Unknown => Err(Reason::AddressContended),
    }
}

/// The slot of one of the endpoint's own addresses, 0 if it is not one.
#[inline(always)]
fn own_slot(record: &EndpointRecord, address: &Address) -> u32 {
    match address.family {
        Family::V4 => {
            let mut i = 0;
            while i < MAX_ADDRESSES_V4 {
                if record.v4[i] == address.words[0] && record.v4_slots[i] != 0 {
                    return record.v4_slots[i];
                }
                i += 1;
            }
        }
        Family::V6 => {
            let mut i = 0;
            while i < MAX_ADDRESSES_V6 {
                let own = &record.v6[i];
                let different = own[0] ^ address.words[0]
                    | own[1] ^ address.words[1]
                    | own[2] ^ address.words[2]
                    | own[3] ^ address.words[3];
                if different == 0 && record.v6_slots[i] != 0 {
                    return record.v6_slots[i];
                }
                i += 1;
            }
        }
    }
    0
}

/// Looks at a frame: everything that needs its bytes.
#[inline(always)]
pub fn inspect<M: Memory, F: Frame>(
    memory: &M,
    frame: &F,
    context: &Context,
    hook: Hook,
) -> Inspected {
    let (number, record) = match endpoint(memory, context.ifindex) {
        Ok(found) => found,
        Err(reason) => return Inspected::Decided(Case::decided(hook, Verdict::deny(reason))),
    };
    let (mut case, open) = match open(record, frame, context, hook) {
        Ok(case) => (case, true),
        Err(verdict) => (Case::decided(hook, verdict), false),
    };
    case.shared_hooks = u32::from(record.flags.load() & flags::SHARED_HOOKS != 0);
    case.endpoint = number;
    if open {
        Inspected::Open(case)
    } else {
        Inspected::Decided(case)
    }
}

/// The case of a frame, or the verdict that needs no table.
#[inline(always)]
fn open<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    context: &Context,
    hook: Hook,
) -> Result<Case, Verdict> {
    let sent = matches!(hook, Hook::FromWorkload);
    if record.flags.load() & flags::DENY_ALL != 0 {
        return Err(Verdict::deny(Reason::EndpointDenyAll));
    }
    let ethernet = packet::ethernet(frame).map_err(Verdict::deny)?;
    if context.tagged || is_tag(ethernet.ethertype) {
        return Err(Verdict::deny(Reason::VlanTag));
    }
    if sent && ethernet.source != record.mac {
        return Err(Verdict::deny(Reason::SpoofedMac));
    }
    if ethernet.ethertype == ethertype::ARP {
        return Err(arp(record, frame, sent));
    }
    let packet = packet::parse(frame, ethernet.ethertype).map_err(Verdict::deny)?;
    if packet::is_icmpv6(&packet) {
        link_scoped(frame, record, &packet, sent)?;
    }
    let later = matches!(packet.part, Part::Later);
    if sent && !later && is_dhcp_server(&packet) {
        return Err(Verdict::deny(Reason::DhcpServer));
    }
    let mut case = Case::decided(hook, Verdict::deny(Reason::TableCorrupt));
    case.source = packet.source.words;
    case.destination = packet.destination.words;
    case.ingress_ifindex = context.ingress_ifindex;
    case.key = row_key(packet.protocol, packet.destination_port);
    case.marks = if sent { 0 } else { mark::TO_WORKLOAD }
        | if context.has_socket { mark::SOCKET } else { 0 }
        | if later { mark::LATER } else { 0 }
        | if matches!(packet.source.family, Family::V6) {
            mark::V6
        } else {
            0
        };
    Ok(case)
}

/// An ARP message: a workload's must be truthful; towards it, whole.
#[inline(always)]
fn arp<F: Frame>(record: &EndpointRecord, frame: &F, sent: bool) -> Verdict {
    let Some(arp) = packet::arp(frame) else {
        return Verdict::deny(Reason::UntruthfulArp);
    };
    // An address probe (RFC 5227) names no sender address.
    let own = arp.sender.is_unspecified() || own_slot(record, &arp.sender) != 0;
    if sent && (arp.sender_mac != record.mac || !own) {
        return Verdict::deny(Reason::UntruthfulArp);
    }
    Verdict::allow(Reason::Arp)
}

/// Decides a case from the tables, and writes the answer into it.
#[inline(always)]
pub fn answer<M: Memory>(memory: &M, case: &mut Case) {
    let Some(table) = Table::open(memory) else {
        return;
    };
    let result = if case.is(mark::TO_WORKLOAD) {
        deliver(memory, &table, case)
    } else {
        send(memory, &table, case)
    };
    if let Err(reason) = result {
        case.settle(Verdict::deny(reason));
    }
}

/// The slot of any address: a workload's or a node's, else of the set of
/// outside addresses that it belongs to.
#[inline(always)]
fn any_slot<M: Memory>(memory: &M, table: &Table<'_, M>, address: &Address) -> Result<u32, Reason> {
    match find_address(memory, address) {
        Found::Value(slot) => Ok(slot),
        Found::Absent => table.outside_slot(address).ok_or(Reason::TableCorrupt),
        Found::Unknown => Err(Reason::AddressContended),
    }
}

#[inline(always)]
fn send<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Result<(), Reason> {
    let record = memory
        .endpoint(case.endpoint)
        .ok_or(Reason::EndpointUnknown)?;
    let (source, destination) = case.addresses();
    case.source_slot = own_slot(record, &source);
    if case.source_slot == 0 {
        return Err(Reason::SpoofedSource);
    }
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    case.destination_slot = own_slot(record, &destination);
    if case.destination_slot != 0 {
        case.settle(Verdict::allow(Reason::SelfTraffic));
        return Ok(());
    }
    case.destination_slot = any_slot(memory, table, &destination)?;
    let subject = table.slot(case.source_slot).ok_or(Reason::TableCorrupt)?;
    let peer = table
        .slot(case.destination_slot)
        .ok_or(Reason::TableCorrupt)?;
    let decision = decide(table, &subject, &peer, Direction::Egress, case.key)?;
    case.enforced = decision.enforced;
    case.audited = decision.audited;
    Ok(())
}

#[inline(always)]
fn deliver<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Result<(), Reason> {
    let record = memory
        .endpoint(case.endpoint)
        .ok_or(Reason::EndpointUnknown)?;
    let (source, destination) = case.addresses();
    case.source_slot = any_slot(memory, table, &source)?;
    let sender = table.slot(case.source_slot).ok_or(Reason::TableCorrupt)?;
    let own = own_slot(record, &destination);
    case.destination_slot = own;
    let local = matches!(sender.kind, SlotKind::LocalWorkload);
    if local {
        let binding = memory
            .binding(case.source_slot)
            .ok_or(Reason::TableCorrupt)?;
        let by = case.ingress_ifindex;
        if by == 0 || by != binding.ifindex.load() && by != binding.bridge.load() {
            return Err(Reason::ForeignLocalAddress);
        }
        if own != 0 && own_slot(record, &source) != 0 {
            case.settle(Verdict::allow(Reason::SelfTraffic));
            return Ok(());
        }
    }
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    let own_node = matches!(sender.kind, SlotKind::OwnNode)
        && case.ingress_ifindex == 0
        && case.is(mark::SOCKET);
    if own_node && own != 0 && memory.settings().own_node_allowed != 0 {
        case.settle(Verdict::allow(Reason::OwnNode));
        return Ok(());
    }
    // Broadcast, multicast and a flooding bridge name none of the receiver's
    // addresses; they are judged as its own, to the address they name.
    let subject_slot = if own != 0 { own } else { record.primary_slot };
    let subject = table.slot(subject_slot).ok_or(Reason::TableCorrupt)?;
    let mut egress = None;
    if local {
        if own == 0 {
            case.destination_slot = any_slot(memory, table, &destination)?;
        }
        let receiver = table
            .slot(case.destination_slot)
            .ok_or(Reason::TableCorrupt)?;
        egress = Some(decide(
            table,
            &sender,
            &receiver,
            Direction::Egress,
            case.key,
        )?);
    }
    let ingress = decide(table, &subject, &sender, Direction::Ingress, case.key)?;
    let mut decision = ingress;
    if let Some(egress) = egress {
        if word_action(egress.enforced) == Action::Deny as u32 {
            decision.enforced = egress.enforced;
            case.direction = Direction::Egress as u32;
        }
        if word_action(egress.audited) == Action::Deny as u32 {
            decision.audited = egress.audited;
        }
    }
    case.enforced = decision.enforced;
    case.audited = decision.audited;
    Ok(())
}

#[inline(always)]
fn decide<M: Memory>(
    table: &Table<'_, M>,
    subject: &Profile,
    peer: &Profile,
    direction: Direction,
    key: u32,
) -> Result<DecisionWords, Reason> {
    table
        .decide_words(subject.class, direction, peer.atom, key)
        .ok_or(Reason::TableCorrupt)
}

/// Neighbour discovery and multicast listener reports, which the source check
/// knows more about than a list of addresses. `Ok`: judge it like any packet.
#[inline(always)]
fn link_scoped<F: Frame>(
    frame: &F,
    record: &EndpointRecord,
    packet: &Packet,
    sent: bool,
) -> Result<(), Verdict> {
    if matches!(packet.part, Part::Later) {
        return Ok(());
    }
    let kind = (packet.destination_port >> 8) as u8;
    let discovery = (icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind);
    if discovery && (packet.hop_limit != 255 || !matches!(packet.part, Part::Whole)) {
        // RFC 4861, 6.1 and 7.1: only from this link; RFC 6980: only whole.
        return Err(Verdict::deny(Reason::UntruthfulNd));
    }
    if !sent {
        return if discovery {
            Err(Verdict::allow(Reason::NeighbourDiscovery))
        } else {
            Ok(())
        };
    }
    match kind {
        icmpv6::ROUTER_ADVERTISEMENT => Err(Verdict::deny(Reason::RouterAdvertisement)),
        icmpv6::REDIRECT => Err(Verdict::deny(Reason::Redirect)),
        icmpv6::LISTENER_REPORT | icmpv6::LISTENER_DONE | icmpv6::LISTENER_REPORT_V2 => {
            // RFC 2710, 3: hop limit 1, from a link-local address; RFC 3590: or
            // from `::` while there is none. Groups are ff00::/8.
            if packet.hop_limit != 1 || packet.destination.words[0] >> 24 != 0xff {
                return Ok(());
            }
            if !packet.source.is_unspecified() && !is_own(record, &packet.source) {
                return Err(Verdict::deny(Reason::SpoofedSource));
            }
            Err(Verdict::allow(Reason::MulticastListener))
        }
        _ if discovery => Err(neighbour(frame, record, packet, kind)),
        _ => Ok(()),
    }
}

/// A solicitation or advertisement that a workload sends.
#[inline(always)]
fn neighbour<F: Frame>(frame: &F, record: &EndpointRecord, packet: &Packet, kind: u8) -> Verdict {
    let Some(message) = packet::neighbour(frame, packet) else {
        return Verdict::deny(Reason::UntruthfulNd);
    };
    let target_is_own = is_own(record, &message.target);
    let source = if packet.source.is_unspecified() {
        // Duplicate address detection asks from `::` for an own address, and
        // names no link-layer address (RFC 4861, 4.1 and 4.3).
        let detection = kind == icmpv6::NEIGHBOUR_SOLICITATION && target_is_own;
        message.mac.is_none() && (detection || kind == icmpv6::ROUTER_SOLICITATION)
    } else {
        is_own(record, &packet.source)
    };
    if !source {
        return Verdict::deny(Reason::SpoofedSource);
    }
    let claims_mac = message.mac.is_some_and(|claimed| claimed != record.mac);
    if claims_mac || kind == icmpv6::NEIGHBOUR_ADVERTISEMENT && !target_is_own {
        return Verdict::deny(Reason::UntruthfulNd);
    }
    Verdict::allow(Reason::NeighbourDiscovery)
}

/// An own address for link-scoped messages: a listed one, or the link-local
/// address that follows from the MAC, which no runtime lists.
#[inline(always)]
fn is_own(record: &EndpointRecord, address: &Address) -> bool {
    let derived = Address::eui64_link_local(record.mac);
    let different = derived.words[0] ^ address.words[0]
        | derived.words[1] ^ address.words[1]
        | derived.words[2] ^ address.words[2]
        | derived.words[3] ^ address.words[3];
    different == 0 || own_slot(record, address) != 0
}

#[inline(always)]
const fn is_tag(kind: u16) -> bool {
    kind == ethertype::VLAN || kind == ethertype::QINQ
}

/// Server to client, RFC 2131, 4.1, and RFC 8415, 7.2.
#[inline(always)]
fn is_dhcp_server(packet: &Packet) -> bool {
    if packet.protocol != protocol::UDP {
        return false;
    }
    match packet.source.family {
        Family::V4 => packet.source_port == 67 && packet.destination_port == 68,
        Family::V6 => packet.source_port == 547 && packet.destination_port == 546,
    }
}
