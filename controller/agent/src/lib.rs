//! The agent of a node: brings documents and endpoints into force.
//!
//! ```text
//! sources ─> documents that count ─┐
//!                                  ├─> desired ─> force ─> kernel
//! control socket ─> endpoints ─────┘      (one thread: reconcile)
//! ```
//!
//! Everything asynchronous only carries messages to and from that thread: it knows
//! interfaces and sockets, and nothing of policies. This crate answers by the types of the
//! protocol. It must not know how commands print, nor who asks.
//!
//! Invariant: what the agent is told or finds is checked before it is believed, and
//! whatever it cannot bring into force leaves in force what was.

#![forbid(unsafe_code)]

mod agent;
pub mod config;
pub mod desired;
pub mod endpoint;
pub mod enforcer;
pub mod links;
mod listeners;
pub mod netlink;
pub mod reconcile;
pub mod self_check;
pub mod state;
pub mod uptime;

pub use agent::run;
