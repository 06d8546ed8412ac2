//! Compiles the kernel programs and hands their object to the crate.
//!
//! A build script rather than a step of its own, so that no test can run against
//! programs older than their source.

#[path = "ebpf/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    match toolchain::compile("cofferdam-ebpf", "COFFERDAM_EBPF_OBJECT") {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
