//! Decides packets: parsing, addresses, decision table, flows, verdicts.
//!
//! Everything that the kernel programs and user space must agree on is defined
//! here, once: the layouts of all shared memory, and the code that reads them.
//! The kernel programs run this code on BPF maps; `explain`, `matrix`, `test`
//! and the test kits run it on ordinary memory. The operating system is behind
//! two traits: [`packet::Frame`] for the bytes of a packet, [`memory::Memory`]
//! for the shared tables.
//!
//! [`pipeline`] has the order in which a packet meets the rest: [`packet`] parses it,
//! [`endpoint`] says whose interface it is on, `signalling` decides ARP, neighbour
//! discovery and their like, [`flow`], [`fragment`] and [`related`] know what was allowed
//! before, [`judge`] (off the node: [`uplink`]) asks the [`table`] about the rest, after [`bucket`]
//! has turned addresses into slots, and the [`verdict`] that comes out is counted ([`counter`], [`hits`])
//! and perhaps reported ([`event`], [`share`]).
//!
//! Invariant, total: every input yields a verdict. Nothing in this crate can
//! panic, loop without a named bound, or allocate; whatever cannot be understood
//! is denied, with a reason of its own.
//!
//! Absent on purpose: clocks, system calls, any knowledge of labels or YAML, and
//! `unsafe`, but for the loads and stores of [`shared`] words on the BPF target.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(target_arch = "bpf"), forbid(unsafe_code))]
#![cfg_attr(target_arch = "bpf", deny(unsafe_code))]

/// The kit of the tests names this crate from outside.
#[cfg(test)]
extern crate self as cofferdam_verdict;

pub mod address;
pub mod arrival;
pub mod bucket;
pub mod bypass;
pub mod capacity;
mod case;
pub mod checksum;
pub mod counter;
pub mod door;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod groups;
pub mod hash;
pub mod hits;
pub mod judge;
pub mod memory;
pub mod packet;
pub mod pipeline;
pub mod reason;
pub mod related;
pub mod share;
pub mod shared;
mod signalling;
#[cfg(not(target_arch = "bpf"))]
pub mod slices;
pub mod table;
pub mod uplink;
pub mod verdict;

/// Version of the layouts of tables, counters and event records. It moves with any change
/// to one of them; memory written under another version is never adopted.
pub const LAYOUT_VERSION: u32 = 7;

/// Version of the layouts that flows rest on: flow entries, fragments, bindings,
/// endpoint records, buckets and blocks of addresses, hash keys. It moves with any change
/// to one of them, and with what their fields mean; as long as it stays, flows survive a
/// change of everything else.
pub const STATE_VERSION: u32 = 3;
