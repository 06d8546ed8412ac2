//! Reads the documents that say what is to be in force, and tells of their changes.
//!
//! A source hands over the documents that it has now, with findings about those that it
//! cannot read: [`files`], the objects of an API server ([`kubernetes`]), and the texts under a
//! prefix of [`etcd`], where a node puts texts as well. This crate knows documents and where
//! they come from. It must not know endpoints, kernel or tables: which version of a document
//! counts, and what follows from it, is the agent's.
//!
//! Invariant: a change that is told of only says when to look. A look yields all documents
//! that there are, whatever was told before.

#![forbid(unsafe_code)]

mod claims;
pub mod etcd;
pub mod files;
pub mod kubernetes;
mod pause;
mod progress;

pub use progress::Progress;
