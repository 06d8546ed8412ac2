//! The command line, `cofferdam`.
//!
//! Some commands ask an agent, some read documents, and one runs the agent. This crate
//! knows flags, texts and formats. It must not know the kernel side, nor decide anything:
//! what a command prints is an answer of the agent or of `answers`.
//!
//! Invariant: a command's exit status and what it prints as JSON are promises to scripts.

#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod install;
pub mod library;
pub mod output;
pub mod schemas;
