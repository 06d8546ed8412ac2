//! `cargo xtask package`: what is shipped, in `dist/`.
//!
//! | file | what it is |
//! |---|---|
//! | `cofferdam`, `cofferdam-cni` | the binaries: static, the first with the kernel programs inside |
//! | `cofferdam-VERSION-TARGET.tar.gz` | the binaries, the licences, the guides, the policy library, a systemd unit and a configuration, man pages and completions |
//! | `cofferdam-VERSION.cdx.json` | every crate that is in the binaries (CycloneDX) |
//! | `SHA256SUMS` | checksums of all of these |
//!
//! The C library is musl, whose licence asks for no more than a notice; compiling the
//! policies of 100 000 workloads takes a third longer with its allocator. Where its
//! target can be neither found nor added, it is glibc, and we say so: a static glibc
//! cannot load the modules by which names of hosts and users are looked up (Cofferdam
//! looks up neither), and whoever passes such a binary on has the duties of its
//! licence, the LGPL.
//!
//! Invariants: the same commit and compilers, in the same folder, give the same bytes
//! (the kernel programs name their sources by path); what is packed has been checked: no
//! interpreter, no library, the kernel programs inside, and it runs where there is no
//! other file.

mod check;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    outcome::Failed,
    run,
    setup::{self, Need},
    tools,
};

/// Folders of the crates whose binaries are shipped: of the one that has the kernel programs
/// inside, and of the one that has not.
const SHIPPED: [&str; 2] = ["controller", "controller/plugin"];
const KERNEL_PROGRAMS: &str = "dataplane/ebpf";
/// The agent's unit for systemd.
const UNIT: &str = "xtask/shipped/cofferdam.service";
/// A configuration of the agent, with what most nodes change.
const CONFIGURATION: &str = "xtask/shipped/config.yaml";
/// What goes into the archive beside the binaries, and what it is called there.
const BESIDE: [(&str, &str); 7] = [
    ("LICENSE", "LICENSE"),
    ("dataplane/ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0"),
    ("README.md", "README.md"),
    ("docs", "docs"),
    ("policies/library", "policies"),
    (UNIT, "lib/systemd/system/cofferdam.service"),
    (CONFIGURATION, "config.yaml"),
];
/// The binary that writes its own man pages and completions, and where they belong
/// below `/usr` or `/usr/local`.
const COMMAND_LINE: &str = "cofferdam";
const MAN_PAGES: &str = "share/man/man1";
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/cofferdam"),
    ("fish", "share/fish/vendor_completions.d/cofferdam.fish"),
    ("zsh", "share/zsh/site-functions/_cofferdam"),
];

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to put it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds, checks and packs.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[Need::KernelCompiler])?;
    let target = target()?;
    let shipped = Shipped::read(&target)?;
    let dist = match &options.out {
        Some(folder) => std::path::absolute(folder)?,
        None => run::root().join("dist"),
    };
    let time = time_of_commit()?;

    println!("== building for {target}");
    let built = build(&shipped, &target)?;
    if dist.exists() {
        fs::remove_dir_all(&dist)
            .with_context(|| format!("cannot empty the folder {}", dist.display()))?;
    }
    fs::create_dir_all(&dist)
        .with_context(|| format!("cannot make the folder {}", dist.display()))?;

    println!("== checking");
    let mut files = Vec::new();
    for name in &shipped.binaries {
        let packed = dist.join(name);
        fs::copy(built.join(name), &packed)
            .with_context(|| format!("cannot copy {name} to {}", dist.display()))?;
        check::is_static(&packed)?;
        let inside = if name == COMMAND_LINE {
            check::has_kernel_programs(&packed)?;
            " kernel programs inside,"
        } else {
            ""
        };
        let says = check::runs_alone(&packed)?;
        println!("  {name}: static,{inside} runs alone: {says}");
        files.push(name.clone());
    }

    println!("== packing");
    let archive = format!("{}-{target}", shipped.title());
    pack(&dist, &archive, &shipped.binaries, time)?;
    files.push(format!("{archive}.tar.gz"));
    let list = format!("{}.cdx.json", shipped.title());
    let bill = sbom::bill(&shipped.version, &target, time, &shipped.sources)?;
    fs::write(dist.join(&list), bill).with_context(|| format!("cannot write {list}"))?;
    files.push(list);
    let sums = run::output(Command::new("sha256sum").args(&files).current_dir(&dist))?;
    fs::write(dist.join("SHA256SUMS"), &sums).context("cannot write the checksums")?;
    print!("{sums}");
    println!("package: ok {}", dist.display());
    Ok(())
}

/// What is built and under which name.
struct Shipped {
    /// The packages of the binaries.
    packages: Vec<String>,
    version: String,
    binaries: Vec<String>,
    /// What cargo says of the binaries, and of the kernel programs inside.
    sources: Vec<sbom::Source>,
}

impl Shipped {
    fn read(target: &str) -> Result<Self> {
        let mut shipped = Self {
            packages: Vec::new(),
            version: String::new(),
            binaries: Vec::new(),
            sources: Vec::new(),
        };
        for folder in SHIPPED {
            let source = sbom::Source::read(folder, target)?;
            let package = source.root()?;
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let targets = package["targets"].as_array().map(Vec::as_slice);
            let names = targets
                .unwrap_or_default()
                .iter()
                .filter(|target| target["kind"] == Value::from(vec!["bin"]))
                .filter_map(|target| Some(target["name"].as_str()?.to_owned()));
            let before = shipped.binaries.len();
            shipped.binaries.extend(names);
            if shipped.binaries.len() == before {
                bail!("the package {} has no binaries", text("name"));
            }
            shipped.packages.push(text("name"));
            shipped.version = text("version");
            shipped.sources.push(source);
        }
        shipped.binaries.sort();
        let programs = sbom::Source::read(KERNEL_PROGRAMS, "bpfel-unknown-none")?;
        shipped.sources.push(programs);
        Ok(shipped)
    }

    fn title(&self) -> String {
        format!("cofferdam-{}", self.version)
    }
}

/// The target to build for: this machine, without anything of it.
fn target() -> Result<String> {
    let architecture = std::env::consts::ARCH;
    let musl = format!("{architecture}-unknown-linux-musl");
    if has_target(&musl)? {
        return Ok(musl);
    }
    if tools::find("rustup").is_some() {
        eprintln!("package: adding the Rust target {musl}");
        let added = run::status(run::command("rustup").args(["target", "add", &musl]))?;
        if added.success() && has_target(&musl)? {
            return Ok(musl);
        }
    }
    eprintln!(
        "package: the Rust target {musl} cannot be had here, so glibc is linked instead: \
         mind its licence when you pass the binaries on"
    );
    Ok(format!("{architecture}-unknown-linux-gnu"))
}

/// Whether the standard library for a target is installed.
fn has_target(target: &str) -> Result<bool> {
    let folder =
        run::output(run::command("rustc").args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// The time of the commit in seconds, or what `SOURCE_DATE_EPOCH` says: whatever has a
/// time in it has this one.
fn time_of_commit() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => run::output(run::command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    let text = text.trim();
    text.parse()
        .with_context(|| format!("`{text}` is not a time in seconds"))
}

/// Builds the binaries; the folder they are in.
fn build(shipped: &Shipped, target: &str) -> Result<PathBuf> {
    let root = run::root();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // Panics name their source: by the same path on every machine.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={home}=/cargo"),
        format!("--remap-path-prefix={}=/cofferdam", root.display()),
    ];
    let mut command = run::cargo();
    command
        .args(["build", "--release", "--locked", "--bins"])
        .args(shipped.packages.iter().flat_map(|name| ["--package", name]))
        // An explicit target: the flags are for what is shipped, and not for the
        // build scripts and macros that run here.
        .args(["--target", target])
        .args(["--config", "profile.release.strip=\"symbols\""])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = run::status(&mut command)?;
    if !status.success() {
        return Err(Failed::program("cargo build", status));
    }
    Ok(run::target().join(target).join("release"))
}

/// Packs the binaries and what belongs to them, everything in one folder.
fn pack(dist: &Path, archive: &str, binaries: &[String], time: u64) -> Result<()> {
    let folder = dist.join(archive);
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut copy = Command::new("cp");
    copy.args(binaries.iter().map(|name| dist.join(name)))
        .arg(&folder);
    run::output(&mut copy)?;
    for (from, to) in BESIDE {
        let to_folder = folder.join(to);
        let parent = to_folder.parent().context("it lies in a folder")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
        let mut copy = Command::new("cp");
        copy.arg("--recursive")
            .arg(run::root().join(from))
            .arg(to_folder);
        run::output(&mut copy)?;
    }
    documents_of_itself(&dist.join(COMMAND_LINE), &folder)?;
    // Nothing of this machine: not the order of its folders, its users, its clock.
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--format=ustar"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{time}")])
        .args(["--use-compress-program=gzip --no-name --best"])
        .arg(format!("--file={archive}.tar.gz"))
        .arg(archive)
        .current_dir(dist);
    run::output(&mut tar)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Lets the command line write its man pages and completions into a folder.
fn documents_of_itself(binary: &Path, folder: &Path) -> Result<()> {
    run::output(Command::new(binary).arg("man").arg(folder.join(MAN_PAGES)))?;
    for (shell, place) in COMPLETIONS {
        let script = run::output(Command::new(binary).args(["completions", shell]))?;
        let path = folder.join(place);
        let parent = path.parent().context("completions lie in a folder")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
