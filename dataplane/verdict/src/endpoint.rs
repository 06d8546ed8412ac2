//! Endpoints and the bindings of slots to them.

use crate::{address::Family, shared::SharedWord};

/// Most IPv4 addresses of one endpoint.
pub const MAX_ADDRESSES_V4: usize = 8;
/// Most IPv6 addresses of one endpoint, a link-local one included.
pub const MAX_ADDRESSES_V6: usize = 8;

/// Most listeners of one endpoint that are remembered.
pub const MAX_LISTENERS: usize = 10;

/// A word of [`EndpointRecord::listeners`]: a port, and above it a bit for each family
/// that the listener takes.
pub mod listener {
    /// It takes connections by IPv4.
    pub const V4: u32 = 1 << 16;
    /// It takes connections by IPv6.
    pub const V6: u32 = 1 << 17;
    /// Bits of the port.
    pub const PORT: u32 = 0xffff;
}

/// Bits of [`EndpointRecord::flags`].
pub mod flags {
    /// Nothing passes: the endpoint's verdicts are not in force yet.
    pub const DENY_ALL: u32 = 1 << 0;
    /// Somebody else has filters on the hooks: an allowed packet goes on to
    /// them, marked.
    pub const SHARED_HOOKS: u32 = 1 << 1;
}

/// Greatest stamp of an endpoint: 15 bits. The last of the 16 that a packet carries is
/// [`UNDECIDED`].
pub const MAX_STAMP: u32 = 0x7fff;

/// Bit of a stamp: the packet goes to a port of a Service, and the hook that sees it with
/// the address of a backend has yet to ask policy about that.
pub const UNDECIDED: u32 = 0x8000;

/// In the index of endpoints, the bit that tells the key of a stamp from an interface
/// index: those are positive numbers of 32 bits.
pub const STAMP_KEY: u32 = 1 << 31;

/// Facts that the programs know of an endpoint.
///
/// Never changed once an interface index leads to it, but for `flags`, `flow_size` and the end
/// of `adopt_until`: a change is a new record under another number, and the old number rests
/// for a grace period. Unused addresses have slot 0.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct EndpointRecord {
    /// Host-side interface index, in full.
    pub ifindex: u32,
    /// See [`flags`]; user space stores it in one piece at any time.
    pub flags: SharedWord,
    /// Never repeats on this node; flows of another incarnation do not count.
    pub incarnation: u32,
    /// The subject's slot for packets that name none of its addresses
    /// (broadcast, multicast, a flooding bridge).
    pub primary_slot: u32,
    /// The workload's MAC as a number, in the low 48 bits.
    pub mac: u64,
    /// The endpoint's partition of the flow table, + 1; 0 when it has none.
    pub flow_partition: u32,
    /// Size of the partition, a [`Size`](crate::flow::Size); user space stores it in one piece
    /// at any time.
    pub flow_size: SharedWord,
    /// Number that the endpoint's packets carry on this node (`tc_index`), 1 to
    /// [`MAX_STAMP`]; 0 when the endpoint has none, and its packets count as nobody's.
    pub stamp: u32,
    /// Jiffies, low word, until which TCP connections from before the endpoint was first
    /// put in force are adopted; 0 = never.
    pub adopt_until: SharedWord,
    /// Link-local IPv6 address that stood on the workload's interface when it was added,
    /// host-order words; zero when there was none.
    pub link_local: [u32; 4],
    /// TCP ports at which the workload took connections when filters first went on its
    /// interface, see [`listener`]; 0 = none. Where there were more, the lowest.
    pub listeners: [u32; MAX_LISTENERS],
    /// IPv4 addresses, host order.
    pub v4: [u32; MAX_ADDRESSES_V4],
    /// Their slots.
    pub v4_slots: [u32; MAX_ADDRESSES_V4],
    /// IPv6 addresses, host-order words.
    pub v6: [[u32; 4]; MAX_ADDRESSES_V6],
    /// Their slots.
    pub v6_slots: [u32; MAX_ADDRESSES_V6],
}

const _: () = assert!(
    size_of::<EndpointRecord>() == 320
        && core::mem::offset_of!(EndpointRecord, mac) == 16
        && core::mem::offset_of!(EndpointRecord, link_local) == 40
        && core::mem::offset_of!(EndpointRecord, v4) == 96
        && core::mem::offset_of!(EndpointRecord, v6) == 160
);

impl EndpointRecord {
    /// Returns `true` if the workload is known to have taken TCP connections at a port
    /// when filters first went on its interface.
    #[inline(always)]
    pub(crate) fn listened(&self, family: Family, port: u16) -> bool {
        let bit = match family {
            Family::V4 => listener::V4,
            Family::V6 => listener::V6,
        };
        let mut i = 0;
        while i < MAX_LISTENERS {
            let word = self.listeners[i];
            if word & listener::PORT == port as u32 && word & bit != 0 {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// Present owner of a slot's address. One per slot, kept across policies.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Binding {
    /// Moves when the address changes its owner or the owner's labels change.
    /// A flow remembers its peer's.
    pub epoch: SharedWord,
    /// Host-side interface index of the local workload; 0 when it is not local.
    pub ifindex: SharedWord,
    /// Stamp of that workload's endpoint, which its packets carry; 0 when it is not
    /// local.
    pub stamp: SharedWord,
    /// Jiffies, low word, until which policy denies that workload nothing; 0 = it does. See
    /// [`crate::bypass`].
    pub bypassed_until: SharedWord,
}

const _: () = assert!(size_of::<Binding>() == 16 && core::mem::offset_of!(Binding, stamp) == 8);

#[cfg(not(target_arch = "bpf"))]
impl Binding {
    /// A binding to nobody.
    pub const fn new() -> Self {
        Self {
            epoch: SharedWord::new(0),
            ifindex: SharedWord::new(0),
            stamp: SharedWord::new(0),
            bypassed_until: SharedWord::new(0),
        }
    }
}
