//! Reports what the kernel programs have done: records of packets, hits of rules, metrics.
//!
//! ```text
//! ring buffer ──> records <─ describe <─ names        (names of the last revisions)
//!                     ├────> outputs ─> flow log, syslog, OTLP
//!                     └────> tally, scans ─┐
//! rules' hits ──> hits, drops ──> metrics <─ counters
//! ```
//!
//! This crate knows what the kernel has counted and reported, and the names of what it is
//! about. It must not decide anything, nor change the kernel's state: it takes the reading
//! end of the ring buffer and counts that the agent has read.
//!
//! Invariant: nothing here holds a packet up. A report for which there is no room is counted
//! by the program; of the records that are kept, old ones make room.

#![forbid(unsafe_code)]

mod describe;
pub mod drops;
mod ended;
pub mod hits;
mod joining;
mod kept;
pub mod metrics;
pub mod outputs;
pub mod records;
pub mod scans;
pub mod snapshots;
pub mod tally;
pub mod time;
pub mod usage;
