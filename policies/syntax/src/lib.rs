//! Syntax: text with places, and findings that name them.
//!
//! [`yaml`] reads text into trees that know their lines, [`names`] has the rules for names
//! and labels, [`patterns`] says some of them as regular expressions, and a
//! [`diagnostic`] is a finding with a place and a code. [`shared_text`] keeps names that many
//! documents have in common once.
//!
//! The crate must not know what a document means: no kind of object, no policy, no file.
//!
//! Invariants: no input panics; a code of a diagnostic never changes its meaning.

#![forbid(unsafe_code)]

pub mod diagnostic;
pub mod names;
pub mod patterns;
pub mod shared_text;
pub mod yaml;
