//! Architectures that binaries are built for, and the Rust targets of each.
//!
//! A binary for another architecture than this machine's is linked with musl by the
//! linker that comes with Rust. The only C and assembly code in it is ring's, for TLS, which
//! needs a compiler of that architecture, with the headers of any C library.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{run, tools};

/// A processor that binaries are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Architecture {
    /// 64-bit processors by Intel and AMD.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit processors by Arm.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// Every one that binaries are shipped for.
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Returns `true` if this machine has such a processor.
    pub(crate) fn is_here(self) -> bool {
        self.rust() == std::env::consts::ARCH
    }

    /// Name in Rust's targets.
    pub(crate) fn rust(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Name in Debian's packages.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The C compiler for it, as Debian names that on machines of another architecture.
    pub(crate) fn c_compiler(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu-gcc",
            Self::Aarch64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Number of its machines in the head of an ELF file.
    pub(crate) fn elf(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }
}

/// A Rust target for which static binaries can be built here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its processor.
    pub(crate) architecture: Architecture,
    /// Its name, such as `x86_64-unknown-linux-musl`.
    pub(crate) name: String,
}

impl Target {
    /// Finds the target of an architecture, and lets rustup add it where it is missing.
    /// Returns `None` if it cannot be had; standard error says why.
    ///
    /// On this machine's own processor glibc stands in for musl.
    pub(crate) fn find(architecture: Architecture) -> Result<Option<Self>> {
        let target = |library: &str| Self {
            architecture,
            name: format!("{}-unknown-linux-{library}", architecture.rust()),
        };
        let musl = target("musl");
        if has_standard_library(&musl.name)? {
            return Ok(Some(musl));
        }
        if tools::find("rustup").is_some() {
            eprintln!("target: adding the Rust target {}", musl.name);
            let added =
                run::status(run::command("rustup").args(["target", "add", musl.name.as_str()]))?;
            if added.success() && has_standard_library(&musl.name)? {
                return Ok(Some(musl));
            }
        }
        if architecture.is_here() {
            eprintln!(
                "target: the Rust target {} cannot be had here, so glibc is linked instead: \
                 mind its licence when you pass the binaries on",
                musl.name
            );
            return Ok(Some(target("gnu")));
        }
        eprintln!(
            "target: the Rust target {0} is missing, and rustup cannot add it: \
             `rustup target add {0}` where that works",
            musl.name
        );
        Ok(None)
    }

    /// Compiler flags of a static binary, with `more`, as the environment has them.
    ///
    /// Given beside an explicit target they are for it alone, and not for the build scripts
    /// and macros that run here.
    pub(crate) fn flags(&self, more: &[String]) -> String {
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
        if !self.architecture.is_here() {
            flags.push("-Clinker=rust-lld".to_owned());
        }
        flags.extend_from_slice(more);
        flags.join("\x1f")
    }

    /// Lets a cargo command build for the target.
    pub(crate) fn apply(&self, cargo: &mut Command, more: &[String]) {
        cargo
            .args(["--target", self.name.as_str()])
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(more))
            .env_remove("RUSTFLAGS");
        if !self.architecture.is_here() {
            let target = self.name.replace('-', "_");
            cargo.env(format!("CC_{target}"), self.architecture.c_compiler());
        }
    }
}

/// Returns `true` if the standard library of a target is installed.
fn has_standard_library(target: &str) -> Result<bool> {
    let folder =
        run::output(run::command("rustc").args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_processor_needs_another_linker() {
        let with_linker = Architecture::ALL.map(|architecture| {
            let target = Target {
                architecture,
                name: String::new(),
            };
            let flags = target.flags(&["-Cdebuginfo=0".to_owned()]);
            assert!(
                flags.starts_with("-Ctarget-feature=+crt-static"),
                "{flags:?}"
            );
            assert!(flags.ends_with("-Cdebuginfo=0"), "{flags:?}");
            flags.contains("rust-lld")
        });
        let foreign = Architecture::ALL.map(|architecture| !architecture.is_here());
        assert_eq!(with_linker, foreign);
    }
}
