//! Policies: from the documents people write to the table the kernel reads.
//!
//! The way of a policy through the modules: [`documents`] reads YAML and reports
//! mistakes as [`diagnostic`]s; what is good becomes the desired state, an
//! [`inventory`]; [`selectors`] say which labels a policy means.
//!
//! The crate is pure. It opens files where [`documents::read`] is asked to, and
//! otherwise has neither clock, network nor system calls.
//!
//! Invariants: no input panics; nothing that is wrong, missing or unknown in a
//! document makes a policy wider than it would be without it.

#![forbid(unsafe_code)]

pub mod analysis;
pub mod compiler;
pub mod connectivity;
pub mod diagnostic;
pub mod documents;
pub mod exposure;
pub mod inventory;
pub mod names;
pub mod patterns;
pub mod policy_test;
pub mod reach;
pub mod selectors;
pub mod services;
pub mod shared_map;
pub mod yaml;
