//! Compiles the kernel programs that only benchmarks load.

#[path = "../dataplane/ebpf/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    for (binary, variable) in [
        ("cofferdam-ebpf-bench", "COFFERDAM_BENCH_OBJECT"),
        ("cofferdam-ebpf-plain", "COFFERDAM_PLAIN_OBJECT"),
    ] {
        if let Err(message) = toolchain::compile(binary, variable) {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
