//! Truth tables of the public conformance suites, cell by cell.
//!
//! Offline all of them, in both families: what the case states, what the oracle finds
//! and what the compiled table says must agree.

#[path = "conformance/offline.rs"]
mod offline;
