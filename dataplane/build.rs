//! Compiles the kernel programs and hands their object to the crate.
//!
//! A build script rather than a step of its own, so that no test can run against
//! programs older than their source.

#[path = "ebpf/toolchain.rs"]
mod toolchain;

fn main() {
    let object = toolchain::compile("cofferdam-ebpf");
    println!("cargo::rustc-env=COFFERDAM_EBPF_OBJECT={}", object.display());
}
