//! Compiles the kernel programs that only the packet benchmark loads.

#[path = "../dataplane/ebpf/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    match toolchain::compile("cofferdam-ebpf-bench", "COFFERDAM_BENCH_OBJECT") {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
