//! Compiles the kernel programs that only the packet benchmark loads.

#[path = "../dataplane/ebpf/toolchain.rs"]
mod toolchain;

fn main() {
    let object = toolchain::compile("cofferdam-ebpf-bench");
    println!("cargo::rustc-env=COFFERDAM_BENCH_OBJECT={}", object.display());
}
