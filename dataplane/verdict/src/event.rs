//! The records that programs send to user space: of one packet that was denied, that was
//! allowed and that audit policies would have denied, or that has begun a flow; and of a flow
//! that has ended.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::Family,
    case::{Case, mark},
    counter::Hook,
    flow::{FlowEntry, KEY_PAIRS},
    packet::ethertype,
    verdict::Direction,
};

/// Values of [`EventRecord::kind`].
pub mod kind {
    /// The packet was denied, or audit policies would have denied it.
    pub const JUDGED: u8 = 0;
    /// The packet has begun a flow.
    pub const BEGUN: u8 = 1;
}

/// Flags of a report.
pub mod flag {
    use crate::case::mark;

    /// The packet was denied, and ends a flow that an earlier table has allowed.
    pub const CUT: u8 = (mark::CUT >> 24) as u8;
}

/// A reported packet. Slots, rule and revision say what was decided from.
///
/// Of a denied packet, addresses and ports are as in the packet. Of an allowed one
/// they are as its flow was opened, which is what audit policies were asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventRecord {
    /// Jiffies when the packet was judged.
    pub jiffies: u64,
    /// Revision of the table that decided, low word; 0 when none was asked.
    pub revision: u32,
    /// Sequence number of TCP, 0 for others.
    pub sequence: u32,
    /// Source address, host-order words.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
    /// Source slot, 0 if not looked up.
    pub source_slot: u32,
    /// Destination slot, 0 if not looked up.
    pub destination_slot: u32,
    /// [`crate::verdict::Verdict::to_word`] in force.
    pub verdict: u32,
    /// The verdict with audit policies in force.
    pub audited: u32,
    /// Interface of the hook.
    pub ifindex: u32,
    /// Incarnation of the endpoint.
    pub incarnation: u32,
    /// Bytes of the packet from the Ethernet header on.
    pub bytes: u32,
    /// Source port; the identifier for ICMP echo.
    pub source_port: u16,
    /// Destination port; for ICMP `type << 8 | code`.
    pub destination_port: u16,
    /// EtherType.
    pub ethertype: u16,
    /// IP protocol.
    pub protocol: u8,
    /// [`crate::address::Family`], 0 when the packet is not IP.
    pub family: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// [`crate::counter::Hook`].
    pub hook: u8,
    /// [`crate::verdict::Direction`] of the verdict that denies.
    pub direction: u8,
    /// 1 when the packet itself went the other way: an allowed reply, on which its
    /// flow was decided again.
    pub reversed: u8,
    /// Stamp of the endpoint that sent the packet on this node; 0 when none did.
    pub stamp: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// High byte of the case's marks; only [`flag`] has a meaning here.
    pub flags: u8,
    /// Zero.
    pub _pad: [u8; 2],
}

impl EventRecord {
    /// The record of a case that has its answer; `kind` is one of [`kind`].
    #[inline(always)]
    pub const fn new(
        case: &Case,
        kind: u8,
        hook: Hook,
        (ifindex, incarnation): (u32, u32),
        jiffies: u64,
    ) -> Self {
        let audited = kind == kind::JUDGED && case.is_audited();
        let direction = if !audited {
            case.direction
        } else if case.is(mark::AUDIT_EGRESS) {
            Direction::Egress as u32
        } else {
            Direction::Ingress as u32
        };
        let reversed = audited && case.is(mark::REPLY);
        let (source_port, destination_port) = if reversed {
            case.opener_ports()
        } else {
            ((case.ports >> 16) as u16, case.ports as u16)
        };
        let (source, destination) = if reversed {
            (case.destination, case.source)
        } else {
            (case.source, case.destination)
        };
        let (source_slot, destination_slot) = if reversed {
            (case.destination_slot, case.source_slot)
        } else {
            (case.source_slot, case.destination_slot)
        };
        Self {
            jiffies,
            revision: case.revision,
            sequence: case.sequence,
            source,
            destination,
            source_slot,
            destination_slot,
            verdict: case.enforced,
            audited: case.audited,
            ifindex,
            incarnation,
            bytes: case.bytes,
            source_port,
            destination_port,
            ethertype: (case.kind >> 16) as u16,
            protocol: case.protocol(),
            family: match (case.kind >> 16) as u16 {
                ethertype::IPV4 => Family::V4 as u8,
                ethertype::IPV6 => Family::V6 as u8,
                _ => 0,
            },
            tcp_flags: case.tcp_flags(),
            hook: hook as u8,
            direction: direction as u8,
            reversed: reversed as u8,
            stamp: case.stamp,
            kind,
            // As it is: a test of one mark would be walked once more for each of its values.
            flags: (case.marks >> 24) as u8,
            _pad: [0; 2],
        }
    }
}

const _: () = assert!(
    size_of::<EventRecord>() == 96
        && core::mem::offset_of!(EventRecord, source_slot) == 48
        && core::mem::offset_of!(EventRecord, source_port) == 76
        && core::mem::offset_of!(EventRecord, tcp_flags) == 84
        && core::mem::offset_of!(EventRecord, reversed) == 87
);

/// A flow that has ended, as its entry was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EndRecord {
    /// Jiffies when it was found to have ended.
    pub jiffies: u64,
    /// [`FlowEntry::state`], locked or not.
    pub state: u64,
    /// [`FlowEntry::key`].
    pub key: [u64; KEY_PAIRS],
    /// [`FlowEntry::packets`].
    pub packets: [u64; 2],
    /// [`FlowEntry::bytes`].
    pub bytes: [u64; 2],
    /// Interface of the endpoint whose partition it was in.
    pub ifindex: u32,
    /// Incarnation of that endpoint.
    pub incarnation: u32,
    /// [`FlowEntry::peer_slot`].
    pub peer_slot: u32,
    /// Jiffies, low word, of the last packet.
    pub last_seen: u32,
    /// Jiffies, low word, of the first packet.
    pub opened: u32,
    /// Zero.
    pub _pad: u32,
}

const _: () = assert!(size_of::<EndRecord>() == 112);

impl EndRecord {
    /// The record of a flow in the partition of an endpoint.
    #[inline(always)]
    pub fn new(entry: &FlowEntry, (ifindex, incarnation): (u32, u32), jiffies: u64) -> Self {
        let mut key = [0; KEY_PAIRS];
        let mut i = 0;
        while i < KEY_PAIRS {
            key[i] = entry.key[i].load();
            i += 1;
        }
        Self {
            jiffies,
            state: entry.state.load(),
            key,
            packets: [entry.packets[0].load(), entry.packets[1].load()],
            bytes: [entry.bytes[0].load(), entry.bytes[1].load()],
            ifindex,
            incarnation,
            peer_slot: entry.peer_slot.load(),
            last_seen: entry.last_seen.load(),
            opened: entry.opened.load(),
            _pad: 0,
        }
    }
}
