//! Reading back: whether the kernel has what it was given.
//!
//! After each change the whole table and every record are compared, and some of the rest
//! by turns; from time to time everything. The loaded programs are asked as well: they must
//! say of an endpoint's packets what the same code says here. Where only addresses of other
//! nodes have got another place, that alone is read at once, and the rest within a second.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use cofferdam_dataplane::{Endpoint, Program, TestContext};
use cofferdam_verdict::address::Address;
use cofferdam_verdict::bucket::{Found, find, find_address};
use cofferdam_verdict::endpoint::{Binding, EndpointRecord, flags};
use cofferdam_verdict::judge::{Context, judge, probe};
use cofferdam_verdict::memory::BucketSet;
use cofferdam_verdict::slices::{SliceFrame, SliceMemory};
use cofferdam_verdict::table::Table;
use cofferdam_verdict::verdict::Verdict;
use nix::net::if_::if_indextoname;
use thiserror::Error;

use super::Enforcer;
use super::dataplane::Dataplane;
use super::plan::InForce;
use crate::self_check::{TestPacket, test_packets};

/// Addresses that are read back after a change, beside those that are new, by turns.
const ADDRESSES_AT_ONCE: usize = 1_024;
/// Endpoints that are asked about after a change, beside those that are new, by turns:
/// asking about one costs about a millisecond.
const ENDPOINTS_AT_ONCE: usize = 8;
/// So many where there are new ones: whoever added them waits for the answer.
const ENDPOINTS_BESIDE_NEW: usize = 1;
/// So many where everything else is read back.
const ENDPOINTS_OF_THE_WHOLE: usize = 64;

/// The first in the order of addresses.
pub(super) const FIRST_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Extent of a comparison between the kernel's state and what was put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The slots of addresses that came, moved or went, and the entries of these slots.
    Places,
    /// The whole table, all records, what is new, and some of the rest by turns.
    Change,
    /// Everything; the programs are asked about what is new, and some of the rest by turns.
    Whole,
}

/// Difference between the kernel's state and what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// Somebody has changed something.
    #[error("{what} in the kernel is not what was put there")]
    Changed {
        /// Subject of the change.
        what: String,
    },
    /// A loaded program could not be asked.
    #[error("the loaded programs cannot be asked about interface {ifindex}: {why}")]
    Unanswered {
        /// The interface.
        ifindex: u32,
        /// Answer of the kernel.
        why: String,
    },
}

impl<D: Dataplane> Enforcer<D> {
    /// Compares what the kernel has with what it was given.
    ///
    /// # Errors
    /// The first difference.
    pub fn read_back(&mut self, depth: Depth) -> Result<(), Mismatch> {
        let differs = |what: String| Err(Mismatch::Changed { what });
        if let Some(address) = self.unread_places() {
            return differs(format!("the place of address {address}"));
        }
        if depth == Depth::Places {
            self.in_force.unread.0.clear();
            return Ok(());
        }
        let (addresses, asked) = self.to_read(depth);
        let memory = self.kernel.memory();
        if let Some((_, compiled)) = &self.in_force.published {
            let pages = compiled.pages();
            let page = pages.iter().zip(memory.table).position(|(a, b)| a != b);
            if let Some(page) = page {
                return differs(format!("page {page} of the decision table"));
            }
            if pages.len() > memory.table.len() {
                return differs("the length of the decision table".to_owned());
            }
        }
        for (address, slot) in &addresses {
            if find_address(&memory, &Address::from(*address)) != Found::Value(*slot) {
                return differs(format!("the slot of address {address}"));
            }
        }
        for endpoint in self.in_force.endpoints.values() {
            let number = match find(&memory, BucketSet::Endpoint, &[endpoint.ifindex]) {
                Found::Value(number) => number as usize - 1,
                Found::Absent | Found::Unknown => {
                    return differs(format!("the endpoint of interface {}", endpoint.ifindex));
                }
            };
            let record = memory.endpoints.get(number);
            if !record.is_some_and(|record| says(record, endpoint)) {
                return differs(format!("the record of interface {}", endpoint.ifindex));
            }
            let until = self.bypasses.get(&endpoint.ifindex).copied().unwrap_or(0);
            let mut bindings = endpoint
                .addresses
                .iter()
                .map(|(_, slot)| memory.bindings.get(*slot as usize));
            if !bindings.all(|binding| binding.is_some_and(|one| binds(one, endpoint, until))) {
                return differs(format!("a binding of interface {}", endpoint.ifindex));
            }
            if asked.contains(&endpoint.ifindex) && !self.answers(endpoint)? {
                return differs(format!("the verdict on interface {}", endpoint.ifindex));
            }
        }
        if depth == Depth::Whole
            && let Some(what) = self.more()
        {
            return differs(what);
        }
        self.in_force.unread = <_>::default();
        let next = addresses
            .last()
            .map_or(FIRST_ADDRESS, |(address, _)| *address);
        let after_last = asked.last().map_or(0, |ifindex| ifindex + 1);
        self.next_read = (next, after_last);
        Ok(())
    }

    /// Returns an address that does not lead where it does since it was last changed, or to
    /// another entry.
    fn unread_places(&self) -> Option<IpAddr> {
        let memory = self.kernel.memory();
        let compiled = self.compiled();
        let table = compiled.and_then(|_| Table::open(&memory));
        let mut unread = self.in_force.unread.0.iter();
        let is_there = |address: &&IpAddr| {
            let found = find_address(&memory, &Address::from(**address));
            let Some(slot) = self.in_force.bound.get(*address) else {
                return found == Found::Absent;
            };
            let expected = compiled.and_then(|compiled| compiled.profile(*slot));
            let entry = table.as_ref().and_then(|table| table.slot(*slot));
            found == Found::Value(*slot) && (compiled.is_none() || entry == expected)
        };
        unread.find(|address| !is_there(address)).copied()
    }

    /// Names something that leads somewhere and that nobody has put there.
    fn more(&self) -> Option<String> {
        let addresses = self.kernel.bound_addresses().into_iter();
        let mut strange = addresses.filter(|(one, _)| self.in_force.bound.get(one).is_none());
        if let Some((address, _)) = strange.next() {
            return Some(format!("address {address}, which leads to a slot,"));
        }
        let known = &self.in_force.endpoints;
        let endpoints = self.kernel.endpoints().into_iter();
        let mut strange = endpoints.filter(|one| !known.contains_key(&one.ifindex));
        if let Some(endpoint) = strange.next() {
            return Some(format!("an endpoint of interface {}", endpoint.ifindex));
        }
        let slots = known.values().flat_map(|endpoint| &endpoint.addresses);
        let slots: BTreeSet<u32> = slots.map(|(_, slot)| *slot).collect();
        let bindings = (0..).zip(self.kernel.memory().bindings);
        let mut strange =
            bindings.filter(|(slot, one)| one.ifindex.load() != 0 && !slots.contains(slot));
        let slot = strange.next()?.0;
        Some(format!("the binding of slot {slot}"))
    }

    /// The addresses, with their slots, and the interfaces that are to be read back.
    fn to_read(&self, depth: Depth) -> (Vec<(IpAddr, u32)>, Vec<u32>) {
        let pair = |(address, slot): (&IpAddr, &u32)| (*address, *slot);
        let InForce {
            bound,
            endpoints,
            unread: (new, new_endpoints),
            ..
        } = &self.in_force;
        let (next, next_endpoint) = self.next_read;
        let count = match (depth, new_endpoints.is_empty()) {
            (Depth::Whole, _) => ENDPOINTS_OF_THE_WHOLE,
            (Depth::Places | Depth::Change, true) => ENDPOINTS_AT_ONCE,
            (Depth::Places | Depth::Change, false) => ENDPOINTS_BESIDE_NEW,
        };
        let rest = endpoints
            .range(next_endpoint..)
            .chain(endpoints)
            .map(|(ifindex, _)| *ifindex)
            .take(count.min(endpoints.len()));
        let asked = new_endpoints.iter().copied().chain(rest).collect();
        if depth == Depth::Whole {
            return (bound.iter().map(pair).collect(), asked);
        }
        let new = new
            .iter()
            .filter_map(|address| Some((*address, *bound.get(address)?)));
        let rest = bound.starting_at(&next).chain(bound.iter());
        let addresses = new.chain(rest.map(pair).take(ADDRESSES_AT_ONCE)).collect();
        (addresses, asked)
    }

    /// Returns `true` if the loaded programs say of an endpoint's packets what the same code
    /// says here, with some other endpoints and addresses as peers.
    fn answers(&self, endpoint: &Endpoint) -> Result<bool, Mismatch> {
        const PEERS: usize = 2;
        let others = self
            .in_force
            .endpoints
            .range(endpoint.ifindex + 1..)
            .chain(self.in_force.endpoints.range(..endpoint.ifindex));
        let local = others.take(PEERS).flat_map(|(_, other)| {
            let addresses = other.addresses.iter();
            addresses.map(|(address, _)| (*address, other.stamp))
        });
        let any = self
            .in_force
            .bound
            .keys()
            .take(PEERS)
            .map(|address| (*address, 0));
        let peers: Vec<(IpAddr, u16)> = local.chain(any).collect();
        let memory = self.kernel.memory();
        for packet in test_packets(endpoint, &peers) {
            let TestPacket {
                program,
                frame,
                context,
            } = packet;
            let answer = match self.kernel.probe(program, &frame, &context) {
                Ok(answer) => answer,
                Err(error) if is_there(endpoint.ifindex) => {
                    return Err(Mismatch::Unanswered {
                        ifindex: endpoint.ifindex,
                        why: chain(&error),
                    });
                }
                // The interface has gone, and word of it is on its way.
                Err(_) => continue,
            };
            if answer != judged(&memory, program, &frame, &context) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The verdicts of the same code as the programs' about a packet that nobody sends: in force,
/// and with audit policies.
pub(super) fn judged(
    memory: &SliceMemory<'_>,
    program: Program,
    frame: &[u8],
    context: &TestContext,
) -> Option<(Verdict, Verdict)> {
    let about = Context {
        ifindex: context.ifindex,
        ingress_ifindex: context.ingress_ifindex,
        stamp: context.cb[probe::STAMP],
        // A program that is run on a made-up packet finds one always.
        has_socket: true,
        tagged: false,
    };
    let whole = SliceFrame {
        bytes: frame,
        gso: false,
    };
    let case = judge(memory, &whole, &about, program.hook);
    Verdict::from_any_word(case.enforced).zip(Verdict::from_any_word(case.audited))
}

/// Returns `true` if an interface is in the agent's namespace.
fn is_there(ifindex: u32) -> bool {
    // An unknown index comes back as an empty name.
    if_indextoname(ifindex).is_ok_and(|name| !name.is_empty())
}

/// Returns `true` if a slot is bound to an endpoint, and bypassed until then.
fn binds(binding: &Binding, endpoint: &Endpoint, until: u32) -> bool {
    binding.ifindex.load() == endpoint.ifindex
        && binding.stamp.load() == u32::from(endpoint.stamp)
        && binding.bypassed_until.load() == until
}

/// Returns `true` if a record is an endpoint's.
fn says(record: &EndpointRecord, endpoint: &Endpoint) -> bool {
    let mac = (endpoint.mac.iter()).fold(0, |mac, &byte| mac << 8 | u64::from(byte));
    let bits = record.flags.load();
    let is_closed = bits & flags::DENY_ALL != 0;
    let shares_hooks = bits & flags::SHARED_HOOKS != 0;
    let slots = record.v4_slots.iter().chain(&record.v6_slots);
    let mut slots: Vec<u32> = slots.copied().filter(|slot| *slot != 0).collect();
    slots.sort_unstable();
    let mut expected: Vec<u32> = endpoint.addresses.iter().map(|(_, slot)| *slot).collect();
    expected.sort_unstable();
    let has = |address: &IpAddr| {
        let Address { family, words } = Address::from(*address);
        match family {
            cofferdam_verdict::address::Family::V4 => record.v4.contains(&words[0]),
            cofferdam_verdict::address::Family::V6 => record.v6.contains(&words),
        }
    };
    let link_local = endpoint
        .link_local
        .map_or([0; 4], |v6| Address::from(IpAddr::V6(v6)).words);
    record.ifindex == endpoint.ifindex
        && record.stamp == u32::from(endpoint.stamp)
        && record.link_local == link_local
        && record.adopt_until.load() == endpoint.adopt_until
        && record.listeners == endpoint.listeners
        && record.incarnation == endpoint.incarnation
        && record.mac == mac
        && is_closed == endpoint.deny_all
        && shares_hooks == endpoint.shared_hooks
        && record.flow_partition != 0
        && slots == expected
        && endpoint.addresses.iter().all(|(address, _)| has(address))
}
