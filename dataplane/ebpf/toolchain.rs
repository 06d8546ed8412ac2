//! Finds a way to compile the kernel programs on this machine.
//!
//! Included by build scripts, which compile, and by `xtask`, which sets a
//! toolchain up when this finds none. It installs nothing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The target the kernel programs are compiled for: little-endian BPF.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler, from `rustc-web`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's cargo, from `cargo-web`.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// The prebuilt `core`, from `libstd-rust-web-dev-bpf`.
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
/// The libraries that the linker was built against, from `llvm-22-dev`.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22/lib";

/// The two roads to a kernel program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// A nightly toolchain managed by rustup, which builds `core` from source.
    Nightly,
    /// Debian's packages, which bring a prebuilt `core`.
    Debian,
}

/// A toolchain that is present.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// Origin of the toolchain, one of the two.
    pub(crate) road: Road,
    /// The folder of `bpf-linker`, put before everything else in PATH.
    linker_folder: PathBuf,
}

/// The first road that is complete on this machine, nightly first.
pub(crate) fn find() -> Option<Toolchain> {
    let linker_folder = linker_folder()?;
    let road = if nightly_has_source() {
        Road::Nightly
    } else if debian_is_complete() {
        Road::Debian
    } else {
        return None;
    };
    Some(Toolchain {
        road,
        linker_folder,
    })
}

/// The folder in which `bpf-linker` lies: where cargo installs to, or any of PATH.
pub(crate) fn linker_folder() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    cargo_home
        .map(|home| home.join("bin"))
        .into_iter()
        .chain(env::split_paths(&path).collect::<Vec<_>>())
        .find(|folder| folder.join("bpf-linker").is_file())
}

/// Returns `true` if Debian's compiler, cargo, `core` and LLVM are all installed.
pub(crate) fn debian_is_complete() -> bool {
    [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_CORE, DEBIAN_LLVM]
        .iter()
        .all(|path| Path::new(path).exists())
}

/// Returns `true` if rustup has a nightly with the sources of `core`.
fn nightly_has_source() -> bool {
    let output = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output();
    let Ok(output) = output else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success()
        && Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
}

impl Toolchain {
    /// A `cargo build` for the kernel programs; the caller adds the package, the
    /// target folder and what else it wants.
    pub(crate) fn cargo_build(&self) -> Command {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![self.linker_folder.clone()];
        let mut command = match self.road {
            Road::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                command
            }
            Road::Debian => {
                folders.push(PathBuf::from("/usr/bin"));
                let mut command = Command::new(DEBIAN_CARGO);
                // The BPF target and inline assembly for it are unstable.
                command
                    .arg("build")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", DEBIAN_RUSTC);
                command
            }
        };
        folders.extend(env::split_paths(&inherited));
        command
            .env("PATH", env::join_paths(folders).unwrap_or(inherited))
            .env("CARGO_ENCODED_RUSTFLAGS", flags().join("\x1f"))
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("LD_LIBRARY_PATH")
            .args(["--release", "--target", TARGET]);
        if self.road == Road::Nightly {
            command.env_remove("RUSTC").env_remove("RUSTDOC");
        }
        command
    }
}

/// Compiles one binary of the kernel programs for a build script, and tells cargo
/// where its object lies, as the environment variable `variable`. An error is a
/// sentence for people.
pub(crate) fn compile(binary: &str, variable: &str) -> Result<(), String> {
    let cargo = |name: &str| {
        env::var(name).map_err(|_| format!("{name} is not set: cargo does that for build scripts"))
    };
    // Every crate that asks lies beside `dataplane`.
    let programs = PathBuf::from(cargo("CARGO_MANIFEST_DIR")?).join("../dataplane/ebpf");
    for watched in ["src", "Cargo.toml", "toolchain.rs", "../verdict/src"] {
        println!(
            "cargo::rerun-if-changed={}",
            programs.join(watched).display()
        );
    }
    let toolchain =
        find().ok_or("no toolchain for the kernel programs: run `cargo xtask setup`")?;
    // One folder for all of them, so that what they share is compiled once.
    let out = PathBuf::from(cargo("OUT_DIR")?);
    let target = out.ancestors().nth(3).unwrap_or(&out).join("ebpf");
    let status = toolchain
        .cargo_build()
        .current_dir(&programs)
        .args(["--package", "cofferdam-ebpf", "--quiet"])
        .args(["--bin", binary, "--target-dir"])
        .arg(&target)
        .status()
        .map_err(|error| format!("cannot run the cargo of the kernel programs: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the kernel programs do not compile: cargo ended with {status}"
        ));
    }
    let object = target.join(TARGET).join("release").join(binary);
    println!("cargo::rustc-env={variable}={}", object.display());
    Ok(())
}

/// Compiler flags of the kernel programs: those of `aya-build`, and the v3
/// instruction set (32-bit jumps, atomics), which every kernel we support has.
fn flags() -> Vec<String> {
    // A build script runs on one architecture and builds for another.
    let architecture =
        env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
    ]
    .into()
}
