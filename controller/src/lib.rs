//! The agent of a node, and the commands that talk to it.
//!
//! ```text
//! files ─> sources ─> documents that count ─┐
//!                                           ├─> desired ─> force ─> kernel
//! control socket ─> endpoints ──────────────┘      (one thread: reconcile)
//! ```
//!
//! Everything asynchronous only carries messages to and from that thread: it knows
//! files, interfaces and sockets, and nothing of policies.
//!
//! Invariant: what the agent is told or finds is checked before it is believed, and
//! whatever it cannot bring into force leaves in force what was.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod client;
pub mod config;
pub mod desired;
pub mod endpoint;
pub mod force;
pub mod install;
pub mod library;
pub mod links;
mod listeners;
pub mod netlink;
pub mod output;
pub mod probe;
pub mod reconcile;
pub mod schemas;
pub mod state;
pub mod uptime;
