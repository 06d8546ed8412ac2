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
//! What audit policies would have denied is said once: by the hook of a local
//! receiver, which has both ends' policies before it, else by the sender's.
//!
//! Identity comes from the host-side interface, never from the packet; the
//! packet's source must then agree with it.

use crate::{
    address::{Address, Family},
    bucket::{Found, find, find_address},
    case::mark,
    counter::Hook,
    endpoint::{EndpointRecord, MAX_ADDRESSES_V4, MAX_ADDRESSES_V6, flags},
    flow::{conclude, track},
    memory::{BucketSet, FlowMemory, Memory},
    packet::{self, Frame, Part, ethertype},
    reason::Reason,
    signalling,
    table::{DecisionWords, Profile, SlotKind, Table},
    verdict::{Direction, Verdict},
};

pub use crate::case::{Case, Context, PROBE, probe};

/// What [`inspect`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The frame itself decides: the case has its answer.
    Decided,
    /// The tables must be asked.
    Open,
}

/// Judges a frame by policy alone: [`inspect`], then [`answer`]. Flows count for
/// nothing.
pub fn judge<M: Memory, F: Frame>(memory: &M, frame: &F, context: &Context, hook: Hook) -> Case {
    let mut case = Case::blank(hook, frame.length());
    if inspect(memory, frame, context, hook, &mut case) == Inspected::Open {
        answer(memory, &mut case);
    }
    case
}

/// Judges a frame as the programs do: what belongs to an allowed flow passes, and
/// what is allowed becomes a flow.
pub fn judge_flow<M: FlowMemory, F: Frame>(
    memory: &M,
    frame: &F,
    context: &Context,
    hook: Hook,
) -> Case {
    let mut case = Case::blank(hook, frame.length());
    if inspect(memory, frame, context, hook, &mut case) == Inspected::Decided {
        return case;
    }
    if !context.is_probe() {
        track(memory, &mut case);
    }
    if !case.is_settled() {
        answer(memory, &mut case);
    }
    conclude(memory, &mut case);
    case
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
pub(crate) fn own_slot(record: &EndpointRecord, address: &Address) -> u32 {
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

/// Looks at a frame, everything that needs its bytes, and fills in a blank case.
#[inline(always)]
pub fn inspect<M: Memory, F: Frame>(
    memory: &M,
    frame: &F,
    context: &Context,
    hook: Hook,
    case: &mut Case,
) -> Inspected {
    let result = match endpoint(memory, context.ifindex) {
        Ok((number, record)) => {
            case.shared_hooks = u32::from(record.flags.load() & flags::SHARED_HOOKS != 0);
            case.endpoint = number;
            open(record, frame, context, hook, case)
        }
        Err(reason) => Err(Verdict::deny(reason)),
    };
    match result {
        Ok(()) => Inspected::Open,
        Err(verdict) => {
            case.settle(verdict);
            Inspected::Decided
        }
    }
}

/// Fills in the case of a frame, or says the verdict that needs no table.
#[inline(always)]
fn open<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    context: &Context,
    hook: Hook,
    case: &mut Case,
) -> Result<(), Verdict> {
    let sent = matches!(hook, Hook::FromWorkload);
    if record.flags.load() & flags::DENY_ALL != 0 {
        return Err(Verdict::deny(Reason::EndpointDenyAll));
    }
    let ethernet = packet::ethernet(frame).map_err(Verdict::deny)?;
    case.kind = u32::from(ethernet.ethertype) << 16;
    if context.tagged || is_tag(ethernet.ethertype) {
        return Err(Verdict::deny(Reason::VlanTag));
    }
    if sent && ethernet.source != record.mac {
        return Err(Verdict::deny(Reason::SpoofedMac));
    }
    if ethernet.ethertype == ethertype::ARP {
        return Err(signalling::arp(record, frame, sent));
    }
    let packet = packet::parse(frame, ethernet.ethertype).map_err(Verdict::deny)?;
    case.describe(&packet, ethernet.ethertype);
    let later = matches!(packet.part, Part::Later);
    case.ingress_ifindex = context.ingress_ifindex & !PROBE;
    case.marks |= if context.has_socket { mark::SOCKET } else { 0 }
        | if later { mark::LATER } else { 0 }
        | if matches!(packet.source.family, Family::V6) {
            mark::V6
        } else {
            0
        };
    signalling::ip(record, frame, &packet, sent)
}

/// Decides a case from the tables, and writes the answer into it.
#[inline(always)]
pub fn answer<M: Memory>(memory: &M, case: &mut Case) {
    let Some(table) = Table::open(memory) else {
        return;
    };
    case.revision = table.revision() as u32;
    let result = if case.is(mark::TO_WORKLOAD) {
        case.direction = Direction::Ingress as u32;
        deliver(memory, &table, case)
    } else {
        case.direction = Direction::Egress as u32;
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
    if case.is(mark::TURNED) && matches!(peer.kind, SlotKind::LocalWorkload) {
        // The packet is a reply, and the peer its sender.
        came_from(memory, case.destination_slot, case.ingress_ifindex)?;
    }
    let decision = decide(table, &subject, &peer, Direction::Egress, case.key)?;
    case.enforced = decision.enforced;
    case.audited = decision.audited;
    if !matches!(peer.kind, SlotKind::LocalWorkload) {
        case.note_audit(Direction::Egress);
    }
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
        if !case.is(mark::TURNED) {
            came_from(memory, case.source_slot, case.ingress_ifindex)?;
        }
        if own != 0 && own_slot(record, &source) != 0 {
            // What a workload sends to its own address does not leave it: this has come
            // back through a Service.
            case.marks |= mark::TO_ITSELF;
        }
    }
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    let by_node = if case.is(mark::TURNED) {
        case.is(mark::OWN_NODE_FLOW)
    } else {
        case.ingress_ifindex == 0 && case.is(mark::SOCKET)
    };
    let own_node = matches!(sender.kind, SlotKind::OwnNode) && by_node;
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
    let mut audited_by = Some(Direction::Ingress);
    if let Some(egress) = egress {
        if case.denies(egress.enforced) {
            decision.enforced = egress.enforced;
            case.direction = Direction::Egress as u32;
        }
        if case.denies(egress.audited) {
            decision.audited = egress.audited;
            // The sender's hook has said so already when the packet names nobody here:
            // once for a broadcast, not once for each receiver. A report of multicast
            // groups passes there unasked, and is not said at all.
            audited_by = (own != 0).then_some(Direction::Egress);
        }
    }
    case.enforced = decision.enforced;
    case.audited = decision.audited;
    if case.is(mark::TO_ITSELF) {
        case.excuse();
    }
    if let Some(direction) = audited_by {
        case.note_audit(direction);
    }
    Ok(())
}

/// Whether a packet with a local workload's address came from that workload.
#[inline(always)]
pub(crate) fn came_from<M: Memory>(memory: &M, slot: u32, by: u32) -> Result<(), Reason> {
    let binding = memory.binding(slot).ok_or(Reason::TableCorrupt)?;
    if by == 0 || by != binding.ifindex.load() && by != binding.bridge.load() {
        return Err(Reason::ForeignLocalAddress);
    }
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

#[inline(always)]
const fn is_tag(kind: u16) -> bool {
    kind == ethertype::VLAN || kind == ethertype::QINQ
}
