//! `cargo xtask package`: what is shipped, in `dist/`.
//!
//! | file | what it is |
//! |---|---|
//! | `TARGET/cofferdam`, `TARGET/cofferdam-cni` | the binaries: static, the first with the kernel programs inside |
//! | `cofferdam-VERSION-TARGET.tar.gz` | the binaries, the licences, the guides, the policy library, a systemd unit and a configuration, man pages and completions |
//! | `cofferdam_VERSION_ARCHITECTURE.deb` | the same as a Debian package |
//! | `cofferdam-VERSION-ARCHITECTURE.oci.tar` | with `--image`: a container image of the binaries and nothing else, in the OCI layout |
//! | `cofferdam-VERSION-TARGET.cdx.json` | every crate that is in the binaries (CycloneDX) |
//! | `SHA256SUMS` | checksums of all of these |
//!
//! All of it for each architecture whose Rust target can be had. The binaries of this
//! machine write the man pages and completions for all.
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
//! interpreter, no library, the kernel programs inside, and it runs: in an emulated machine,
//! where the agent loads its programs, and on this one where there is no other file.

mod check;
mod deb;
mod image;
mod oci;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    architecture::{Architecture, Target},
    outcome::Failed,
    run,
    setup::{self, Need},
};

/// Folders of the crates whose binaries are shipped: of the one that has the kernel programs
/// inside, and of the one that has not.
const SHIPPED: [&str; 2] = ["controller", "controller/plugin"];
const KERNEL_PROGRAMS: &str = "dataplane/ebpf";
/// The agent's unit for systemd.
const UNIT: &str = "xtask/shipped/cofferdam.service";
/// A configuration of the agent, with what most nodes change.
const CONFIGURATION: &str = "xtask/shipped/config.yaml";
/// Contents of the archive beside the binaries, and their names there.
const BESIDE: [(&str, &str); 8] = [
    ("LICENSE", "LICENSE"),
    ("dataplane/ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0"),
    ("README.md", "README.md"),
    ("docs", "docs"),
    ("policies/library", "policies"),
    (UNIT, "lib/systemd/system/cofferdam.service"),
    (CONFIGURATION, "config.yaml"),
    ("xtask/shipped/kubectl-cofferdam", "kubectl-cofferdam"),
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
    /// Folder to put it into [default: dist].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Package for this architecture; by default for each that can be built for here.
    #[arg(long = "arch", value_name = "ARCH")]
    architectures: Vec<Architecture>,
    /// Make container images as well, and run the agent of this machine's.
    #[arg(long)]
    image: bool,
}

/// Builds, checks and packs.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(&[
        Need::KernelCompiler,
        Need::ProtocolCompiler,
        Need::DebianPackager,
    ])?;
    let dist = match &options.out {
        Some(folder) => std::path::absolute(folder)?,
        None => run::root().join("dist"),
    };
    let time = time_of_commit()?;
    let (targets, missing) = targets(&options.architectures)?;
    if dist.exists() {
        fs::remove_dir_all(&dist)
            .with_context(|| format!("cannot empty the folder {}", dist.display()))?;
    }
    create(&dist)?;

    let documents = run::target().join("package/documents");
    write_documents(&documents)?;
    let mut files = Vec::new();
    for target in &targets {
        files.extend(package(target, &documents, &dist, time, options.image)?);
    }
    let sums = run::output(Command::new("sha256sum").args(&files).current_dir(&dist))?;
    fs::write(dist.join("SHA256SUMS"), &sums).context("cannot write the checksums")?;
    print!("{sums}");
    for architecture in missing {
        println!("package: nothing for {}, see above", architecture.rust());
    }
    println!("package: ok {}", dist.display());
    Ok(())
}

/// Finds the targets of the architectures that are asked for. If none is, finds those of all,
/// and returns as well the architectures that cannot be packaged for here.
fn targets(asked: &[Architecture]) -> Result<(Vec<Target>, Vec<Architecture>)> {
    let wanted = if asked.is_empty() {
        &Architecture::ALL
    } else {
        asked
    };
    let (mut targets, mut missing) = (Vec::new(), Vec::new());
    for architecture in wanted {
        match target(*architecture) {
            Ok(target) => targets.push(target),
            Err(error) if asked.is_empty() => {
                eprintln!("package: {error:#}");
                missing.push(*architecture);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((targets, missing))
}

/// Finds the target of an architecture, and what its binaries are tried with.
fn target(architecture: Architecture) -> Result<Target> {
    setup::ensure(&[Need::VirtualMachine])?;
    if !architecture.is_here() {
        setup::ensure(&[Need::ForeignMachine])?;
    }
    Target::find(architecture)?
        .with_context(|| format!("binaries for {} cannot be built here", architecture.rust()))
}

/// Lets the command line of this machine write its man pages and completions into a folder.
///
/// A build for development will do: it has the same flags.
fn write_documents(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot empty the folder {}", folder.display()))?;
    }
    create(folder)?;
    let mut build = run::cargo();
    build.arg("build").args(run::WORKSPACE).arg("--locked");
    let status = run::status(build.args(["--bin", COMMAND_LINE]))?;
    if !status.success() {
        return Err(Failed::program("cargo build", status));
    }
    let binary = run::target().join("debug").join(COMMAND_LINE);
    documents_of_itself(&binary, folder)
}

/// Builds, checks and packs for one target; returns the files it has put into `dist`.
fn package(
    target: &Target,
    documents: &Path,
    dist: &Path,
    time: u64,
    with_image: bool,
) -> Result<Vec<String>> {
    let shipped = Shipped::read(&target.name)?;
    let compiler = run::output(run::command("rustc").arg("--version"))?;
    println!("== building for {} with {}", target.name, compiler.trim());
    let built = build(&shipped, target)?;

    println!("== checking");
    let binaries = dist.join(&target.name);
    create(&binaries)?;
    let mut files = Vec::new();
    for name in &shipped.binaries {
        let packed = binaries.join(name);
        fs::copy(built.join(name), &packed)
            .with_context(|| format!("cannot copy {name} to {}", binaries.display()))?;
        check::is_static(&packed, target.architecture)?;
        let inside = if name == COMMAND_LINE {
            check::has_kernel_programs(&packed)?;
            ", kernel programs inside"
        } else {
            ""
        };
        println!("  {name}: static{inside}");
        files.push(format!("{}/{name}", target.name));
    }
    if target.architecture.is_here() {
        for name in &shipped.binaries {
            let says = check::runs_alone(&binaries.join(name))?;
            println!("  {name}: runs alone: {says}");
        }
    }
    check::runs_in_machine(&binaries, target.architecture)?;

    println!("== packing");
    let list = format!("{}-{}.cdx.json", shipped.title(), target.name);
    let bill = sbom::bill(&shipped.version, &target.name, time, &shipped.sources)?;
    fs::write(dist.join(&list), bill).with_context(|| format!("cannot write {list}"))?;
    let archive = format!("{}-{}", shipped.title(), target.name);
    pack(dist, &archive, &binaries, documents, time)?;
    let debian = deb::Package {
        target,
        version: &shipped.version,
        binaries: &binaries,
        bill: &dist.join(&list),
        documents,
        time,
    };
    let deb = debian.make(dist)?;
    files.extend([format!("{archive}.tar.gz"), deb, list]);
    if with_image {
        files.push(image::make(
            &shipped.version,
            target,
            &binaries,
            dist,
            time,
        )?);
    }
    Ok(files)
}

/// Makes a folder and those it lies in.
fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Binaries that are built, and the names of their packages.
struct Shipped {
    /// The packages of the binaries.
    packages: Vec<String>,
    version: String,
    binaries: Vec<String>,
    /// Cargo's description of the binaries, and of the kernel programs inside.
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
fn build(shipped: &Shipped, target: &Target) -> Result<PathBuf> {
    let root = run::root();
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // Panics name their source: by the same path on every machine.
    let flags = [
        format!("--remap-path-prefix={home}=/cargo"),
        format!("--remap-path-prefix={}=/cofferdam", root.display()),
    ];
    let mut command = run::cargo();
    command
        .args(["build", "--release", "--locked", "--bins"])
        .args(shipped.packages.iter().flat_map(|name| ["--package", name]))
        .args(["--config", "profile.release.strip=\"symbols\""]);
    target.apply(&mut command, &flags);
    let status = run::status(&mut command)?;
    if !status.success() {
        return Err(Failed::program("cargo build", status));
    }
    Ok(run::target().join(&target.name).join("release"))
}

/// Packs the binaries and what belongs to them, everything in one folder.
fn pack(dist: &Path, archive: &str, binaries: &Path, documents: &Path, time: u64) -> Result<()> {
    let folder = dist.join(archive);
    create(&folder)?;
    for contents in [binaries, documents] {
        copy(&contents.join("."), &folder)?;
    }
    for (from, to) in BESIDE {
        let to_folder = folder.join(to);
        create(to_folder.parent().context("it lies in a folder")?)?;
        copy(&run::root().join(from), &to_folder)?;
    }
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

/// Copies a file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    run::output(copy.arg("--recursive").arg(from).arg(to))?;
    Ok(())
}

/// Lets the command line write its man pages and completions into a folder.
fn documents_of_itself(binary: &Path, folder: &Path) -> Result<()> {
    run::output(Command::new(binary).arg("man").arg(folder.join(MAN_PAGES)))?;
    for (shell, place) in COMPLETIONS {
        let script = run::output(Command::new(binary).args(["completions", shell]))?;
        let path = folder.join(place);
        create(path.parent().context("completions lie in a folder")?)?;
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
