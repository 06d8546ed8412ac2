//! Checks that a binary is what it is shipped as.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{architecture::Architecture, outcome::Failed, run, tools, vm};

/// First bytes of an ELF file that is 64 bits wide and little-endian.
const ELF: &[u8] = b"\x7fELF\x02\x01\x01";
/// Offset of the machine's number in its header, and the number of BPF.
const MACHINE_AT: usize = 18;
const BPF: [u8; 2] = 247_u16.to_le_bytes();

/// The kernel of the machine that binaries are tried in.
const KERNEL: &str = "6.12";
/// Time after which that machine is stopped.
const LIMIT: Duration = Duration::from_secs(600);
/// The program that the machine runs beside the binaries, and its last word.
const TRIAL: &str = include_str!("trial.sh");
const TRIED: &str = "trial: ok";

/// It is for the architecture, and asks for no interpreter and no library.
pub(super) fn is_static(binary: &Path, architecture: Architecture) -> Result<()> {
    if machine(binary)? != architecture.elf() {
        return Err(Failed::error(format!(
            "{} is not for {}",
            binary.display(),
            architecture.rust()
        )));
    }
    let headers = run::output(
        Command::new("readelf")
            .args(["--wide", "--program-headers", "--dynamic"])
            .arg(binary),
    )?;
    match asks_for(&headers) {
        Some(line) => Err(Failed::error(format!(
            "{} is not static: {line}",
            binary.display()
        ))),
        None => Ok(()),
    }
}

/// Number of the machine that an ELF file is for.
fn machine(binary: &Path) -> Result<u16> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let number = bytes.get(MACHINE_AT..MACHINE_AT + 2).unwrap_or(&[0, 0]);
    Ok(u16::from_le_bytes([number[0], number[1]]))
}

/// The first line that tells of an interpreter or a library.
fn asks_for(headers: &str) -> Option<&str> {
    let telling = |line: &&str| {
        let mut words = line.split_whitespace();
        line.contains("(NEEDED)") || words.next() == Some("INTERP")
    };
    headers.lines().find(telling).map(str::trim)
}

/// The kernel programs are inside: an object for BPF.
pub(super) fn has_kernel_programs(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    if holds_bpf(&bytes) {
        Ok(())
    } else {
        Err(Failed::error(format!(
            "{} has no kernel programs inside",
            binary.display()
        )))
    }
}

fn holds_bpf(bytes: &[u8]) -> bool {
    bytes
        .windows(MACHINE_AT + BPF.len())
        .any(|window| window.starts_with(ELF) && window[MACHINE_AT..] == BPF)
}

/// It runs where there is no other file; the first line it says.
pub(super) fn runs_alone(binary: &Path) -> Result<String> {
    let name = binary.file_name().context("a binary has a name")?;
    let root = run::target().join("package").join("empty-root");
    let cannot = || format!("cannot prepare the folder {}", root.display());
    if root.exists() {
        fs::remove_dir_all(&root).with_context(cannot)?;
    }
    fs::create_dir_all(&root).with_context(cannot)?;
    fs::copy(binary, root.join(name)).with_context(cannot)?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--root"]);
    unshare.arg(&root);
    if !tools::is_root() {
        unshare.arg("--map-root-user");
    }
    let mut child = unshare
        .arg(Path::new("/").join(name))
        .arg("--version")
        // A network plugin has no flags, and is asked in the way of plugins.
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start unshare (Debian package util-linux)")?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    // Who has flags does not read it.
    let _ = stdin.write_all(b"{\"cniVersion\":\"1.0.0\"}");
    drop(stdin);
    let output = child.wait_with_output()?;
    fs::remove_dir_all(&root).with_context(cannot)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let first = said.lines().next().unwrap_or_default();
    if !output.status.success() || first.is_empty() {
        return Err(Failed::error(format!(
            "{} does not run in an empty file system ({})",
            binary.display(),
            output.status
        )));
    }
    Ok(first.to_owned())
}

/// The binaries run in an emulated machine with their processor, where the agent loads its
/// kernel programs.
pub(super) fn runs_in_machine(binaries: &Path, architecture: Architecture) -> Result<()> {
    let script = run::target().join("package/trial.sh");
    fs::write(&script, TRIAL).with_context(|| format!("cannot write {}", script.display()))?;
    let files =
        ["cofferdam", "cofferdam-cni"].map(|name| (format!("package/{name}"), binaries.join(name)));
    let job = vm::Job {
        architecture,
        series: KERNEL,
        program: &script,
        arguments: &[],
        beside: &files,
        limit: LIMIT,
        bless: false,
        complete: false,
    };
    let report = job.report(&mut |line| println!("  {line}"))?;
    if report.status != 0 || !report.output.iter().any(|line| line == TRIED) {
        return Err(Failed::error(format!(
            "the binaries for {} do not run in a machine with such a processor (status {})",
            architecture.rust(),
            report.status
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_and_a_library_are_seen() {
        let headers = "  LOAD           0x0 0x0\n  INTERP         0x318 0x318\n";
        assert!(asks_for(headers).is_some());
        let headers = " 0x0000000000000001 (NEEDED)  Shared library: [libc.so.6]\n";
        assert!(asks_for(headers).is_some());
        let headers = "  LOAD 0x0\n  DYNAMIC 0x0\n 0x000000006ffffffb (FLAGS_1) Flags: NOW PIE\n";
        assert_eq!(asks_for(headers), None);
    }

    /// The test itself is linked to libraries and has no kernel programs.
    #[test]
    fn an_ordinary_program_fails_each_check() {
        let own = std::env::current_exe().expect("a test has a binary");
        for architecture in Architecture::ALL {
            assert!(is_static(&own, architecture).is_err());
            assert_eq!(
                machine(&own).expect("a file") == architecture.elf(),
                architecture.is_here()
            );
        }
        assert!(runs_alone(&own).is_err());
        assert!(!holds_bpf(&[ELF, &[0; 64]].concat()));
    }

    #[test]
    fn an_object_inside_is_found_wherever_it_lies() {
        let mut object = [ELF, &[0; 11]].concat();
        object.extend(BPF);
        let inside = [b"some data".as_slice(), &object, &[0; 100]].concat();
        assert!(holds_bpf(&inside));
        let (_, beheaded) = object.split_at(1);
        assert!(!holds_bpf(beheaded));
    }
}
