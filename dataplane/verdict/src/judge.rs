//! From a frame on a hook to a verdict: the pipeline of the programs.
//!
//! [`inspect`] looks at the frame: whose interface, which headers, what a
//! workload may not send at all. What is left is a [`Case`] of plain words, which
//! [`answer`] decides from the shared tables alone. The cut between the two is
//! where the kernel programs call a function that the verifier checks by itself:
//! without it, every way through the headers is followed through every way
//! through the tables, and a million steps do not suffice.
//!
//! Both ends' policies are asked together, under one table: for a packet from a workload
//! its egress policy and, when the destination is a workload, here or on another node,
//! that one's ingress policy; for a packet towards a workload its ingress policy and, when
//! the sender is a workload of this node, the sender's egress policy. So no flow begins
//! on half a decision, and no packet passes on one table's egress and another's ingress.
//!
//! Packets that audit policies would have denied are reported once: by the hook of a local
//! receiver, which has both ends' policies before it, else by the sender's.
//!
//! Identity comes from the host-side interface, never from the packet; the packet's source
//! must then agree with it. Behind bridge, routing and NAT it is the stamp that tells the
//! sender: `from_workload` writes it, `to_workload` reads it.

use core::hint::black_box;

use crate::{
    address::{Address, Family},
    bucket::{Found, find, find_address},
    case::mark,
    checksum,
    counter::Hook,
    endpoint::{
        EndpointRecord, MAX_ADDRESSES_V4, MAX_ADDRESSES_V6, MAX_STAMP, STAMP_KEY, UNDECIDED, flags,
    },
    memory::{BucketSet, Memory},
    packet::{self, Frame, Packet, Part, ethertype, icmp, icmpv6, protocol},
    reason::Reason,
    signalling::{self, Sender, is_own},
    table::{Profile, SlotKind, Table},
    verdict::{Direction, Verdict, row_flag},
};

pub use crate::case::{Case, Context, PROBE, probe};

/// Outcome of [`inspect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The frame itself decides: the case has its answer.
    Decided,
    /// The tables must be asked.
    Open,
}

/// Judges a frame by policy alone: [`inspect`], [`signal`], then [`answer`]. Flows count
/// for nothing.
pub fn judge<M: Memory, F: Frame>(memory: &M, frame: &F, context: &Context, hook: Hook) -> Case {
    let mut case = Case::blank(hook, frame.length());
    if inspect(memory, frame, context, hook, &mut case) == Inspected::Open
        && signal(memory, frame, &mut case) == Inspected::Open
    {
        answer(memory, &mut case);
    }
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

/// Returns `true` if others have programs on the hooks of an interface's endpoint.
#[inline(always)]
pub fn shares_hooks<M: Memory>(memory: &M, ifindex: u32) -> bool {
    endpoint(memory, ifindex)
        .is_ok_and(|(_, record)| record.flags.load() & flags::SHARED_HOOKS != 0)
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
    let word = match endpoint(memory, context.ifindex) {
        Ok((number, record)) => {
            if record.flags.load() & flags::SHARED_HOOKS != 0 {
                case.marks |= mark::SHARED_HOOKS;
            }
            case.endpoint = number;
            // A workload's own packets arrive with whatever its namespace wrote there.
            case.stamp = if matches!(hook, Hook::FromWorkload) {
                record.stamp
            } else {
                if context.stamp & UNDECIDED != 0 {
                    case.marks |= mark::PASSED_ON;
                }
                context.stamp & MAX_STAMP
            };
            read_headers(record, frame, context, case)
        }
        Err(reason) => denial(reason),
    };
    if word == OPEN {
        return Inspected::Open;
    }
    case.enforced = word;
    case.audited = word;
    Inspected::Decided
}

/// Answer of [`open`] for a packet that the tables must decide: no verdict's word.
pub(crate) const OPEN: u32 = 0;

/// The word of a denial.
#[inline(always)]
pub(crate) const fn denial(reason: Reason) -> u32 {
    Verdict::deny(reason).to_word()
}

/// Fills in the case of a frame, and returns [`OPEN`], or the word of the verdict that needs
/// no table. A word, not a `Result`: where that has no error the compiler computes with
/// whatever the register held, and the kernel's verifier refuses arithmetic on pointers.
#[inline(always)]
fn read_headers<F: Frame>(
    record: &EndpointRecord,
    frame: &F,
    context: &Context,
    case: &mut Case,
) -> u32 {
    // Blurred at each use: the compiler would write all that follows twice, and the verifier
    // follow it twice.
    let received = case.marks & mark::TO_WORKLOAD;
    let sent = || frame.blur(received) == 0;
    // It has been looked at for the mark of a probe.
    let ingress = frame.blur(context.ingress_ifindex);
    if record.flags.load() & flags::DENY_ALL != 0 {
        return denial(Reason::EndpointDenyAll);
    }
    let ethernet = match packet::ethernet(frame) {
        Ok(ethernet) => ethernet,
        Err(reason) => return denial(reason),
    };
    case.kind = u32::from(ethernet.ethertype) << 16;
    if context.tagged || is_tag(ethernet.ethertype) {
        return denial(Reason::VlanTag);
    }
    if ethernet.source != record.mac && sent() {
        return denial(Reason::SpoofedMac);
    }
    if ethernet.ethertype == ethertype::ARP {
        if frame.partial_checksum().is_some() {
            return denial(Reason::PartialChecksum);
        }
        return signalling::arp(record, frame, sent()).to_word();
    }
    let packet = match packet::parse(frame, ethernet.ethertype) {
        Ok(packet) => packet,
        Err(reason) => return denial(reason),
    };
    case.describe(&packet, ethernet.ethertype);
    if let Some(left) = frame.partial_checksum()
        && let Err(reason) = checksum::check(&packet, left, frame.length())
    {
        return denial(reason);
    }
    case.ingress_ifindex = ingress & !PROBE;
    let is_group = ethernet.destination >> 40 & 1 != 0 || packet.destination.is_group();
    case.marks |= if context.has_socket { mark::SOCKET } else { 0 }
        | match packet.part {
            Part::Whole => 0,
            Part::First => mark::FIRST,
            Part::Later => mark::LATER,
        }
        | if is_group { mark::GROUP } else { 0 }
        | if is_error(&packet) { mark::ERROR } else { 0 }
        | if matches!(packet.source.family, Family::V6) {
            mark::V6
        } else {
            0
        };
    if signalling::is_possible(&packet) {
        case.marks |= mark::SIGNALLING;
    }
    OPEN
}

/// Decides a packet that may be signalling, which needs its bytes once more.
#[inline(always)]
pub fn signal<M: Memory, F: Frame>(memory: &M, frame: &F, case: &mut Case) -> Inspected {
    if !case.is(mark::SIGNALLING) {
        return Inspected::Open;
    }
    let decided = match memory.endpoint(case.endpoint) {
        Some(record) => signalling::ip(record, frame, case),
        None => Err(Verdict::deny(Reason::EndpointUnknown)),
    };
    match decided {
        Ok(Sender::ByAddress) => Inspected::Open,
        Ok(Sender::ByInterface) => {
            case.marks |= mark::BY_INTERFACE;
            Inspected::Open
        }
        Err(verdict) => {
            case.settle(verdict);
            Inspected::Decided
        }
    }
}

/// Returns `true` if a packet is a whole ICMP error, which quotes the packet that it is about.
#[inline(always)]
pub(crate) const fn is_error(packet: &Packet) -> bool {
    if !matches!(packet.part, Part::Whole) {
        return false;
    }
    let kind = (packet.destination_port >> 8) as u8;
    match (packet.source.family, packet.protocol) {
        (Family::V4, protocol::ICMP) => matches!(
            kind,
            icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM
        ),
        (Family::V6, protocol::ICMPV6) => {
            matches!(kind, icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM)
        }
        _ => false,
    }
}

/// Most questions that one packet takes: a sender's egress to the group that the packet
/// names and to the receiver, and the receiver's ingress.
pub(crate) const QUESTIONS: usize = 3;

/// Directions of the questions, in the order in which their denials count.
const DIRECTIONS: [Direction; QUESTIONS] =
    [Direction::Egress, Direction::Egress, Direction::Ingress];

/// Class of a question that is not asked.
const UNASKED: u32 = u32::MAX;

/// One direction's policy, asked about one packet.
#[derive(Clone, Copy)]
pub(crate) struct PolicyQuestion {
    class: u32,
    atom: u32,
    /// 1 if it is this hook's to report that audit policies would deny, and to count the
    /// rule, else 0.
    reported: u32,
}

impl PolicyQuestion {
    pub(crate) const UNASKED: Self = Self {
        class: UNASKED,
        atom: 0,
        reported: 0,
    };

    #[inline(always)]
    pub(crate) const fn new(subject: &Profile, peer: &Profile, is_reported: bool) -> Self {
        Self {
            class: subject.class,
            atom: peer.atom,
            reported: is_reported as u32,
        }
    }

    /// Makes the verifier forget what it knows of the question.
    #[inline(always)]
    pub(crate) fn blur<M: Memory>(&mut self, memory: &M, unknown: u32) {
        self.class = memory.blur(self.class, unknown);
        self.atom = memory.blur(self.atom, unknown);
        self.reported = memory.blur(self.reported, unknown);
    }
}

/// Decides a case from the tables, and writes the answer into it.
#[inline(always)]
pub fn answer<M: Memory>(memory: &M, case: &mut Case) {
    decide(memory, case, questions);
}

/// Decides a case by these questions, all under one table, and writes the answer into it.
#[inline(always)]
pub(crate) fn decide<M: Memory>(
    memory: &M,
    case: &mut Case,
    questions: impl Fn(&M, &Table<'_, M>, &mut Case) -> Asked,
) {
    let Some(table) = Table::open(memory) else {
        return;
    };
    let revision = table.revision() as u32;
    if case.is(mark::ASSUMED) && case.revision != revision {
        // Published since the first question: no packet passes on two tables' answers, and
        // a TCP segment is sent again.
        case.settle(Verdict::deny(Reason::NoFlow));
        return;
    }
    case.revision = revision;
    case.direction = if case.is(mark::TO_WORKLOAD) {
        Direction::Ingress as u32
    } else {
        Direction::Egress as u32
    };
    let result = match questions(memory, &table, case) {
        Ok(Some(asked)) => ask(memory, &table, case, &asked),
        Ok(None) => Ok(()),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = result {
        case.settle(Verdict::deny(reason));
    }
}

/// Questions about a packet; `None` if its case has its answer.
pub(crate) type Asked = Result<Option<[PolicyQuestion; QUESTIONS]>, Reason>;

/// Asks policy: the first denial counts, else the verdict of the direction that the packet
/// has at this hook.
#[inline(always)]
fn ask<M: Memory>(
    memory: &M,
    table: &Table<'_, M>,
    case: &mut Case,
    asked: &[PolicyQuestion; QUESTIONS],
) -> Result<(), Reason> {
    let principal = case.direction;
    let mut denied = 0;
    let mut audit_denied = 0;
    if case.is(mark::WAIVED) {
        // What audit policies say has been said.
        audit_denied = 1;
        case.enforced = Verdict::allow(Reason::Bypassed).to_word();
    }
    let mut i = 0;
    while i < QUESTIONS {
        let question = &asked[i];
        let direction = DIRECTIONS[i];
        i += 1;
        // Blurred, so that the ways which the answers before took become one.
        denied = memory.blur(denied, case.bytes);
        audit_denied = memory.blur(audit_denied, case.bytes);
        let waived = match direction {
            Direction::Egress => mark::EGRESS_WAIVED,
            Direction::Ingress => mark::INGRESS_WAIVED,
        };
        if question.class == UNASKED || case.is(waived) {
            continue;
        }
        let words = table
            .decide_words(question.class, direction, question.atom, case.key)
            .ok_or(Reason::TableCorrupt)?;
        let is_principal = direction as u32 == principal;
        // The hook that sees a backend's address reports, and counts.
        let is_service = words.flags & row_flag::SERVICE != 0;
        let is_reported = question.reported != 0 && !is_service;
        if is_service {
            case.marks |= mark::SERVICE;
        }
        if is_reported && !case.is(mark::ASSUMED) {
            if is_principal {
                case.marks |= mark::COUNTED;
            } else {
                case.second = words.enforced;
            }
        }
        if denied == 0 {
            let denies = case.denies(words.enforced);
            if denies || is_principal {
                case.enforced = words.enforced;
            }
            if denies {
                denied = 1;
                case.direction = if words.flags & row_flag::OF_INGRESS != 0 {
                    Direction::Ingress as u32
                } else {
                    direction as u32
                };
            }
        }
        if audit_denied == 0 {
            let denies = case.denies(words.audited);
            if denies || is_principal {
                case.audited = words.audited;
            }
            if denies {
                audit_denied = 1;
                if is_reported {
                    case.note_audit(direction);
                }
            }
        }
    }
    if case.is(mark::TO_ITSELF) {
        case.excuse();
    }
    Ok(())
}

/// The slot of any address: a workload's or a node's, else of the set of
/// outside addresses that it belongs to.
#[inline(always)]
pub(crate) fn any_slot<M: Memory>(
    memory: &M,
    table: &Table<'_, M>,
    address: &Address,
) -> Result<u32, Reason> {
    match find_address(memory, address) {
        Found::Value(slot) => Ok(slot),
        Found::Absent => table.outside_slot(address).ok_or(Reason::TableCorrupt),
        Found::Unknown => Err(Reason::AddressContended),
    }
}

/// The questions that policy is asked about a packet; `None` if the case has its answer.
///
/// The near end is the hook's workload, the far end is whom it talks to. Both are looked up
/// by the same code for both hooks, and what is found is put into the case: by the black
/// boxes the kernel's verifier takes it from there anew, and knows nothing of how it came
/// there. It follows each part once instead of once for each way that leads to it.
#[inline(always)]
fn questions<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Asked {
    let record = memory
        .endpoint(case.endpoint)
        .ok_or(Reason::EndpointUnknown)?;
    near_end(record, case)?;
    let case = black_box(case);
    far_end(memory, table, case)?;
    let case = black_box(case);
    let received = case.is(mark::TO_WORKLOAD);
    let own = case.destination_slot;
    let far_slot = if received {
        case.source_slot
    } else {
        case.destination_slot
    };
    let far = table.slot(far_slot).ok_or(Reason::TableCorrupt)?;
    let Some(far) = (if received {
        deliver(memory, table, record, case, far)?
    } else {
        send(memory, case, far)?
    }) else {
        return Ok(None);
    };
    // Broadcast and multicast name none of the receiver's addresses; they are judged as its
    // own, to the address they name and to the receiver.
    let near_slot = if !received {
        case.source_slot
    } else if own != 0 {
        own
    } else {
        let (_, destination) = case.addresses();
        family_slot(record, destination.family)
    };
    let near_slot = memory.blur(near_slot, case.bytes);
    let near = table.slot(near_slot).ok_or(Reason::TableCorrupt)?;
    let is_local = matches!(far.kind, SlotKind::LocalWorkload);
    let is_workload = is_local || matches!(far.kind, SlotKind::RemoteWorkload);
    let mut asked = [PolicyQuestion::UNASKED; QUESTIONS];
    if received {
        if is_local {
            asked[1] = PolicyQuestion::new(&far, &near, true);
        }
        if is_local && own == 0 {
            let (_, destination) = case.addresses();
            case.destination_slot = any_slot(memory, table, &destination)?;
            let named = table.slot(case.destination_slot);
            // The sender's hook has reported its egress to the group that the packet
            // names: once, not once for each receiver.
            asked[0] = PolicyQuestion::new(&far, &named.ok_or(Reason::TableCorrupt)?, false);
        }
        asked[2] = PolicyQuestion::new(&near, &far, true);
    } else {
        // A local receiver's hook reports for both ends, a remote one's node for itself. Where
        // a proxy may have another receiver, the hook behind it reports.
        asked[1] = PolicyQuestion::new(&near, &far, !is_local && !far.is_shared);
        if far.is_translated() {
            asked[1].class = table.service_class(near.class);
            asked[1].atom = far.class;
        }
        if is_workload {
            asked[2] = PolicyQuestion::new(&far, &near, false);
        }
    }
    for question in &mut asked {
        question.blur(memory, case.bytes);
    }
    Ok(Some(asked))
}

/// Finds the slot of the hook's workload: 0 for a receiver that has another address.
#[inline(always)]
fn near_end(record: &EndpointRecord, case: &mut Case) -> Result<(), Reason> {
    let (source, destination) = case.addresses();
    if case.is(mark::TO_WORKLOAD) {
        case.destination_slot = own_slot(record, &destination);
        return Ok(());
    }
    case.source_slot = if case.is(mark::BY_INTERFACE) {
        family_slot(record, source.family)
    } else {
        own_slot(record, &source)
    };
    if case.source_slot == 0 {
        return Err(Reason::SpoofedSource);
    }
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    if own_slot(record, &destination) != 0 {
        return Err(Reason::SelfOnWire);
    }
    Ok(())
}

/// Finds the slot of the far end.
#[inline(always)]
fn far_end<M: Memory>(memory: &M, table: &Table<'_, M>, case: &mut Case) -> Result<(), Reason> {
    let unknown = case.bytes;
    let is = |case: &Case, mark| memory.blur(case.marks & mark, unknown) != 0;
    if is(case, mark::TO_WORKLOAD) && is(case, mark::TURNED) && is(case, mark::MASQUERADED) {
        // The node's address stands for the sender, who is known by the flow.
        return Ok(());
    }
    let words = if is(case, mark::TO_WORKLOAD) {
        case.source
    } else {
        case.destination
    };
    let address = Address {
        family: if is(case, mark::V6) {
            Family::V6
        } else {
            Family::V4
        },
        words,
    };
    let slot = any_slot(memory, table, &address)?;
    if is(case, mark::TO_WORKLOAD) {
        case.source_slot = slot;
    } else {
        case.destination_slot = slot;
    }
    Ok(())
}

/// A packet that a workload sends: marks what its receiver is. The receiver's ingress policy
/// is asked too when that is a workload: no flow begins on half a decision.
#[inline(always)]
fn send<M: Memory>(
    memory: &M,
    case: &mut Case,
    receiver: Profile,
) -> Result<Option<Profile>, Reason> {
    if case.is(mark::TURNED) && !case.is(mark::ASSUMED) && !receiver.is_shared {
        // The packet is a reply, and the peer its sender, or a backend behind its address.
        agrees(memory, receiver.kind, case.destination_slot, case.stamp)?;
    }
    case.marks |= match receiver.kind {
        SlotKind::OwnNode => mark::NODE_ADDRESS,
        SlotKind::LocalWorkload => mark::RECEIVED_HERE,
        _ => 0,
    };
    if receiver.is_shared {
        case.marks |= mark::SHARED_ADDRESS;
    }
    Ok(Some(receiver))
}

/// A packet towards a workload: finds out who sent it, whose egress policy is asked too
/// when that is a workload of this node. `None` if the node itself may always send it.
#[inline(always)]
fn deliver<M: Memory>(
    memory: &M,
    table: &Table<'_, M>,
    record: &EndpointRecord,
    case: &mut Case,
    mut sender: Profile,
) -> Result<Option<Profile>, Reason> {
    let (source, destination) = case.addresses();
    let own = case.destination_slot;
    let turned = case.is(mark::TURNED);
    if !turned {
        let is_node = matches!(sender.kind, SlotKind::OwnNode);
        match sender.kind {
            SlotKind::OwnNode | SlotKind::Outside
                if case.stamp != 0
                    && (is_node || names_no_host(&source) || case.is(mark::PASSED_ON)) =>
            {
                // A proxy has given it a source that is not the node's, and policy has yet to
                // be asked: it is judged by its stamp, like a masqueraded one.
                if is_node {
                    // The node's address stands for a workload (masquerade).
                    case.marks |= mark::MASQUERADED;
                }
                case.source_slot = stamped_slot(memory, case.stamp, source.family)?;
                sender = table.slot(case.source_slot).ok_or(Reason::TableCorrupt)?;
            }
            kind => agrees(memory, kind, case.source_slot, case.stamp)?,
        }
    }
    let masqueraded = case.is(mark::MASQUERADED);
    if masqueraded || matches!(sender.kind, SlotKind::OwnNode) {
        case.marks |= mark::NODE_ADDRESS;
    }
    let local = matches!(sender.kind, SlotKind::LocalWorkload);
    if local && own != 0 && owns_slot(record, case.source_slot) {
        // What a workload sends to its own address does not leave it: this has come
        // back through a Service.
        case.marks |= mark::TO_ITSELF;
    }
    if case.is(mark::LATER) {
        return Err(Reason::FragmentNoFirst);
    }
    if own == 0 && !case.is(mark::GROUP) && !is_own_link_local(record, &destination) {
        return Err(Reason::NotReceiversAddress);
    }
    let by_node = if turned {
        case.is(mark::OWN_NODE_FLOW)
    } else {
        case.is_from_node_itself()
    };
    let own_node = matches!(sender.kind, SlotKind::OwnNode) && by_node;
    if own_node && own != 0 && memory.settings().own_node_allowed != 0 {
        case.settle(Verdict::allow(Reason::OwnNode));
        return Ok(None);
    }
    Ok(Some(sender))
}

/// Returns `Ok` if the stamp of a packet towards a workload agrees with what its source address
/// is, but for the node's, which may stand for a workload.
#[inline(always)]
pub(crate) fn agrees<M: Memory>(
    memory: &M,
    kind: SlotKind,
    slot: u32,
    stamp: u32,
) -> Result<(), Reason> {
    match kind {
        SlotKind::LocalWorkload => came_from(memory, slot, stamp),
        // A tunnel keeps the stamp of what it carries: a workload of this node has wrapped
        // a packet in another one's name.
        SlotKind::RemoteWorkload | SlotKind::OtherNode if stamp != 0 => {
            Err(Reason::ForeignLocalAddress)
        }
        _ => Ok(()),
    }
}

/// Checks that a packet with a local workload's address came from that workload: it carries the
/// stamp of the workload's endpoint.
#[inline(always)]
fn came_from<M: Memory>(memory: &M, slot: u32, stamp: u32) -> Result<(), Reason> {
    let binding = memory.binding(slot).ok_or(Reason::TableCorrupt)?;
    if stamp == 0 || stamp != binding.stamp.load() {
        return Err(Reason::ForeignLocalAddress);
    }
    Ok(())
}

/// The slot that a packet's sender is judged by when only its stamp tells who it is: the
/// endpoint's first address of the packet's family.
#[inline(always)]
fn stamped_slot<M: Memory>(memory: &M, stamp: u32, family: Family) -> Result<u32, Reason> {
    let (_, record) = stamped(memory, stamp).ok_or(Reason::ForeignLocalAddress)?;
    let slot = family_slot(record, family);
    if slot == 0 {
        return Err(Reason::ForeignLocalAddress);
    }
    Ok(slot)
}

/// The number and record of the endpoint that a stamp names.
#[inline(always)]
pub(crate) fn stamped<M: Memory>(memory: &M, stamp: u32) -> Option<(u32, &EndpointRecord)> {
    let Found::Value(value) = find::<_, 1>(memory, BucketSet::Endpoint, &[STAMP_KEY | stamp])
    else {
        return None;
    };
    let number = value.wrapping_sub(1);
    let record = memory.endpoint(number)?;
    (record.stamp == stamp && stamp != 0).then_some((number, record))
}

/// The slot that an endpoint is judged by when a packet names none of its addresses: that
/// of its first address of the packet's family, else its primary one.
#[inline(always)]
pub(crate) const fn family_slot(record: &EndpointRecord, family: Family) -> u32 {
    let slot = match family {
        Family::V4 => record.v4_slots[0],
        Family::V6 => record.v6_slots[0],
    };
    if slot != 0 { slot } else { record.primary_slot }
}

/// Returns `true` if a slot is that of one of the endpoint's addresses.
#[inline(always)]
fn owns_slot(record: &EndpointRecord, slot: u32) -> bool {
    let mut i = 0;
    while i < MAX_ADDRESSES_V4 {
        if record.v4_slots[i] == slot {
            return true;
        }
        i += 1;
    }
    i = 0;
    while i < MAX_ADDRESSES_V6 {
        if record.v6_slots[i] == slot {
            return true;
        }
        i += 1;
    }
    false
}

/// Returns `true` if an address says nothing of who has it on this node: a workload that asks
/// for an address has none, or a link-local one.
#[inline(always)]
fn names_no_host(address: &Address) -> bool {
    address.is_unspecified() || address.is_link_local_v6()
}

/// Returns `true` if an address is the link-local one of the endpoint's interface.
#[inline(always)]
fn is_own_link_local(record: &EndpointRecord, address: &Address) -> bool {
    address.is_link_local_v6() && is_own(record, address)
}

#[inline(always)]
pub(crate) const fn is_tag(kind: u16) -> bool {
    kind == ethertype::VLAN || kind == ethertype::QINQ
}
