//! Makes this machine able to build and test; every other verb begins here.
//!
//! Invariants:
//! - Looking costs milliseconds and prints nothing when nothing is missing.
//! - What will be changed is printed before it is changed.
//! - What cannot be done from here (no root, not Debian) is named, all of it at
//!   once, as commands to type; then the exit status is "could not run".

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{run, toolchain, tools};

/// Debian's compiler for the kernel programs, and the LLVM its linker needs.
const COMPILER_PACKAGES: [&str; 4] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
];

/// Folder of that LLVM; its version is that of `rustc-web`, and the linker must
/// read the bitcode of that compiler.
const LLVM: &str = "/usr/lib/llvm-22";

/// The linker of the kernel programs. Its default features want a newer LLVM.
const LINKER: [&str; 8] = [
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--locked",
    "--no-default-features",
    "--features",
    "llvm-22",
];

/// The maker of the Debian package. It knows the scripts by which Debian's packages bring
/// systemd units, and needs no Debian machine.
const PACKAGER: [&str; 5] = ["install", "cargo-deb", "--version", "3.8.0", "--locked"];

/// Advice where Debian's packages are not to be had.
const OTHER_ROAD: &str = "\
Where there are no such packages, the kernel programs build as well with:
  rustup toolchain install nightly --component rust-src
  cargo install bpf-linker --locked";

/// Mount point of the BPF file system.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Folders into which distributions and container runtimes put CNI plugins.
const PLUGIN_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// A message that `protoc` comes with, which the messages of etcd are made of.
const PROTOCOL_MESSAGES: &str = "/usr/include/google/protobuf/descriptor.proto";

/// Files in which distributions have podman's maker of networks.
const NETAVARK: [&str; 2] = ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"];

/// Emulators of machines, each with Debian's package of it; a name ends in the processor's.
const EMULATORS: [(&str, &str); 2] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-aarch64", "qemu-system-arm"),
];

/// A library for Python that tests use. Version and library move together.
#[derive(Debug, PartialEq, Eq)]
struct Library {
    /// Its folder below our cache, with a Python of its own; tests look there as well.
    folder: &'static str,
    /// Name on the index of packages.
    name: &'static str,
    version: &'static str,
}

/// Helm's own library.
const HELM: Library = Library {
    folder: "helm",
    name: "helm-python-sdk",
    version: "0.2.2",
};

/// Models of Grafana's dashboards, which Grafana's own schema is made into.
const DASHBOARD_MODELS: Library = Library {
    folder: "grafana",
    name: "grafana-foundation-sdk",
    version: "1769699379!11.6.0",
};

/// The typeface of pictures, and Debian's package of it.
const TYPEFACE: (&str, &str) = (
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "fonts-liberation",
);

/// C compilers for code of other architectures, each with Debian's packages of it and of the
/// headers that it looks for.
const CROSS_COMPILERS: [(&str, [&str; 2]); 2] = [
    (
        "x86_64-linux-gnu-gcc",
        ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
    ),
    (
        "aarch64-linux-gnu-gcc",
        ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    ),
];

/// Something a verb cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `cargo fmt` and `cargo clippy`.
    Checkers,
    /// A compiler and a linker for the kernel programs.
    KernelCompiler,
    /// The BPF file system, for pinning programs and maps.
    BpfFileSystem,
    /// `ip`, `tc`, `nft` and other programs that tests run.
    NetworkTools,
    /// The packet filters that a benchmark compares with.
    PacketFilters,
    /// The standard CNI plugins, and what enters the namespaces that they wire.
    NetworkPlugins,
    /// The container runtimes that tests start containers with.
    ContainerRuntimes,
    /// Prometheus and Alertmanager, which tests have scrape an agent.
    Monitoring,
    /// Models of Grafana's dashboards, by which tests read ours strictly.
    DashboardModels,
    /// A browser that draws pictures of dashboards. No test does, and `setup` leaves it out.
    Browser,
    /// `protoc` and the messages that come with it, for the client of etcd, and for those by
    /// which tests ask a container runtime.
    ProtocolCompiler,
    /// `kubectl`, and Helm's library, by which tests render what installs agents.
    ClusterTools,
    /// etcd and its `etcdctl`, which tests have agents share.
    Etcd,
    /// A virtual machine and what goes into it.
    VirtualMachine,
    /// Virtual machines of every architecture, and compilers for them.
    ForeignMachine,
    /// A compiler for the engine of the fuzzer.
    CppCompiler,
    /// `cargo deb`, and what takes its package apart again.
    DebianPackager,
}

/// All that builds and tests need: `cargo xtask setup`.
pub(crate) const EVERYTHING: [Need; 16] = [
    Need::Checkers,
    Need::KernelCompiler,
    Need::BpfFileSystem,
    Need::NetworkTools,
    Need::PacketFilters,
    Need::NetworkPlugins,
    Need::ContainerRuntimes,
    Need::Monitoring,
    Need::DashboardModels,
    Need::ProtocolCompiler,
    Need::ClusterTools,
    Need::Etcd,
    Need::VirtualMachine,
    Need::ForeignMachine,
    Need::CppCompiler,
    Need::DebianPackager,
];

/// A way to supply something that is missing.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Components of the Rust toolchain that runs us.
    Components(Vec<&'static str>),
    /// Debian packages.
    Packages(Vec<&'static str>),
    /// The linker of the kernel programs, compiled here.
    Linker,
    /// The maker of the Debian package, compiled here.
    Packager,
    /// A library for Python, in a folder of its own.
    Library(&'static Library),
    /// The BPF file system.
    Mount,
}

/// Supplies what is missing of `needs`.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let remedies = missing(needs);
    if remedies.is_empty() {
        return Ok(());
    }
    let able = Able::here();
    if !remedies.iter().all(|remedy| able.to(remedy)) {
        bail!("{}", by_hand(&remedies, &able));
    }
    eprintln!("setup: some things are missing here and will be supplied now:");
    for remedy in &remedies {
        eprintln!("  {}", remedy.described());
    }
    for remedy in &remedies {
        supply(remedy).with_context(|| remedy.failure())?;
    }
    let still = missing(needs);
    if !still.is_empty() {
        bail!(
            "setup: done, yet this is still missing:\n{}",
            commands(&still)
        );
    }
    eprintln!("setup: done");
    Ok(())
}

/// Lists what supplies those of `needs` that this machine lacks, in the order to do it.
fn missing(needs: &[Need]) -> Vec<Remedy> {
    let mut components = Vec::new();
    let mut packages = Vec::new();
    let mut linker = false;
    let mut packager = false;
    let mut libraries = Vec::new();
    let mut mount = false;
    for need in needs {
        match need {
            Need::Checkers => components.extend(missing_components()),
            Need::KernelCompiler => {
                if toolchain::find().is_none() {
                    // The linker we compile needs the LLVM of these packages, so
                    // they are wanted even where a nightly compiler is present.
                    if !toolchain::debian_is_complete() {
                        packages.extend(COMPILER_PACKAGES);
                    }
                    linker = toolchain::linker_folder().is_none();
                }
            }
            Need::BpfFileSystem => mount = !tools::is_mounted("bpf", Path::new(BPF_FILE_SYSTEM)),
            Need::NetworkTools => {
                packages.extend(missing_packages(&[
                    ("ip", "iproute2"),
                    ("tc", "iproute2"),
                    ("nft", "nftables"),
                    ("iptables-nft-restore", "iptables"),
                    ("ipvsadm", "ipvsadm"),
                    ("wg", "wireguard-tools"),
                    // Has system calls of the agent fail.
                    ("strace", "strace"),
                    // Runs the command line as its plugin.
                    ("kubectl", "kubernetes-client"),
                ]));
            }
            Need::PacketFilters => {
                packages.extend(missing_packages(&[
                    ("iptables-legacy-restore", "iptables"),
                    ("ipset", "ipset"),
                ]));
            }
            Need::NetworkPlugins => {
                packages.extend(missing_packages(&[
                    ("setpriv", "util-linux"),
                    ("nsenter", "util-linux"),
                ]));
                // They are no commands of their own, and lie in no PATH.
                if !PLUGIN_FOLDERS
                    .iter()
                    .any(|folder| Path::new(folder).join("bridge").is_file())
                {
                    packages.push("containernetworking-plugins");
                }
            }
            Need::ContainerRuntimes => {
                packages.extend(missing_packages(&[
                    ("ctr", "containerd"),
                    ("podman", "podman"),
                    ("runc", "runc"),
                    ("conmon", "conmon"),
                    // What runs in the containers.
                    ("busybox", "busybox-static"),
                ]));
                // Only podman starts it: it lies in no PATH.
                if !NETAVARK.iter().any(|path| Path::new(path).is_file()) {
                    packages.push("netavark");
                }
            }
            Need::Monitoring => {
                packages.extend(missing_packages(&[
                    ("prometheus", "prometheus"),
                    ("promtool", "prometheus"),
                    ("prometheus-alertmanager", "prometheus-alertmanager"),
                ]));
            }
            Need::ProtocolCompiler => {
                packages.extend(missing_packages(&[("protoc", "protobuf-compiler")]));
                if !Path::new(PROTOCOL_MESSAGES).is_file() {
                    packages.push("libprotobuf-dev");
                }
            }
            Need::Etcd => {
                packages.extend(missing_packages(&[
                    ("etcd", "etcd-server"),
                    ("etcdctl", "etcd-client"),
                ]));
            }
            Need::ClusterTools => {
                packages.extend(missing_packages(&[("kubectl", "kubernetes-client")]));
                libraries.push(&HELM);
            }
            Need::DashboardModels => libraries.push(&DASHBOARD_MODELS),
            Need::Browser => {
                packages.extend(missing_packages(&[
                    ("chromium-headless-shell", "chromium-headless-shell"),
                    // Halves what Chromium writes.
                    ("pngquant", "pngquant"),
                ]));
                let (file, package) = TYPEFACE;
                if !Path::new(file).is_file() {
                    packages.push(package);
                }
            }
            Need::VirtualMachine => {
                let mut own = EMULATORS.to_vec();
                own.retain(|(program, _)| program.ends_with(std::env::consts::ARCH));
                packages.extend(missing_packages(&own));
                packages.extend(missing_packages(&[
                    ("busybox", "busybox-static"),
                    // Newer kernel packages compress their modules.
                    ("xz", "xz-utils"),
                ]));
            }
            Need::ForeignMachine => {
                packages.extend(missing_packages(&EMULATORS));
                let cross = CROSS_COMPILERS.iter();
                let missing = cross.filter(|(name, _)| tools::find(name).is_none());
                packages.extend(missing.flat_map(|(_, packages)| *packages));
            }
            Need::CppCompiler => packages.extend(missing_packages(&[("c++", "g++")])),
            Need::DebianPackager => {
                packager = !has_packager();
                packages.extend(missing_packages(&[
                    ("dpkg-deb", "dpkg"),
                    ("readelf", "binutils"),
                ]));
            }
        }
    }
    libraries.retain(|library| !library.is_here());
    if !libraries.is_empty() && !can_make_libraries() {
        packages.push("python3-venv");
    }
    packages.dedup();
    let mut remedies = Vec::new();
    if !components.is_empty() {
        remedies.push(Remedy::Components(components));
    }
    if !packages.is_empty() {
        remedies.push(Remedy::Packages(packages));
    }
    if linker {
        remedies.push(Remedy::Linker);
    }
    if packager {
        remedies.push(Remedy::Packager);
    }
    remedies.extend(libraries.into_iter().map(Remedy::Library));
    if mount {
        remedies.push(Remedy::Mount);
    }
    remedies
}

/// Packages of those `(program, package)` pairs whose program is not here.
fn missing_packages(pairs: &[(&str, &'static str)]) -> Vec<&'static str> {
    pairs
        .iter()
        .filter(|(program, _)| tools::find(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

/// Returns `true` if cargo has its command `deb`, and in the version that is asked for:
/// another one writes other bytes.
fn has_packager() -> bool {
    let output = run::cargo().args(["deb", "--version"]).output();
    output.is_ok_and(|output| {
        let said = String::from_utf8_lossy(&output.stdout);
        output.status.success() && said.split_whitespace().last() == Some(PACKAGER[3])
    })
}

/// Returns `true` if a folder with a Python of its own can be made.
fn can_make_libraries() -> bool {
    let mut python = run::command("python3");
    let output = python.args(["-c", "import ensurepip, venv"]).output();
    output.is_ok_and(|output| output.status.success())
}

impl Library {
    /// Returns its folder.
    fn path(&self) -> PathBuf {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home)
            .unwrap_or_else(std::env::temp_dir);
        cache.join("cofferdam").join(self.folder)
    }

    /// Returns how it is asked for.
    fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// Returns `true` if it is there, in the version that is asked for.
    fn is_here(&self) -> bool {
        let mut python = Command::new(self.path().join("bin/python"));
        let version = "import importlib.metadata, sys; \
                       print(importlib.metadata.version(sys.argv[1]))";
        let output = python.args(["-c", version, self.name]).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == self.version)
    }
}

/// Components of the running toolchain that are not installed.
fn missing_components() -> Vec<&'static str> {
    // They lie beside the real cargo. The names in PATH are rustup's, which are
    // there whether or not the component is.
    let folder = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .and_then(|cargo| cargo.parent().map(Path::to_owned));
    [("rustfmt", "rustfmt"), ("clippy", "cargo-clippy")]
        .into_iter()
        .filter(|(_, file)| match &folder {
            Some(folder) => !folder.join(file).is_file(),
            None => tools::find(file).is_none(),
        })
        .map(|(component, _)| component)
        .collect()
}

/// Abilities of this process.
struct Able {
    root: bool,
    apt: bool,
    rustup: bool,
}

impl Able {
    fn here() -> Self {
        Self {
            root: tools::is_root(),
            apt: tools::find("apt-get").is_some() && Path::new("/etc/debian_version").is_file(),
            rustup: tools::find("rustup").is_some(),
        }
    }

    fn to(&self, remedy: &Remedy) -> bool {
        match remedy {
            Remedy::Components(_) => self.rustup,
            Remedy::Packages(_) => self.root && self.apt,
            Remedy::Linker => self.apt || Path::new(LLVM).is_dir(),
            Remedy::Packager | Remedy::Library(_) => true,
            Remedy::Mount => self.root,
        }
    }
}

impl Remedy {
    /// One line: what will be done.
    fn described(&self) -> String {
        match self {
            Self::Components(names) => format!("install Rust components: {}", names.join(" ")),
            Self::Packages(names) => format!("install Debian packages: {}", names.join(" ")),
            Self::Linker => "compile bpf-linker, the linker of the kernel programs \
                             (a minute or two)"
                .to_owned(),
            Self::Packager => {
                "compile cargo-deb, which makes the Debian package (a minute or two)".to_owned()
            }
            Self::Library(library) => format!(
                "install {} in {}",
                library.requirement(),
                library.path().display()
            ),
            Self::Mount => format!("mount the BPF file system at {BPF_FILE_SYSTEM}"),
        }
    }

    /// Message for when it did not work out.
    fn failure(&self) -> String {
        let mut text = format!("setup: cannot {}", self.described());
        let compiler =
            matches!(self, Self::Packages(names) if names.contains(&COMPILER_PACKAGES[0]));
        if compiler || *self == Self::Linker {
            let _ = write!(text, "\n{OTHER_ROAD}\n");
        }
        text
    }

    /// The commands that do it, as one would type them.
    fn typed(&self) -> Vec<String> {
        match self {
            Self::Components(names) => vec![format!("rustup component add {}", names.join(" "))],
            Self::Packages(names) => vec![
                "apt-get update".to_owned(),
                format!(
                    "apt-get install --no-install-recommends {}",
                    names.join(" ")
                ),
            ],
            Self::Linker => vec![format!("LLVM_PREFIX={LLVM} cargo {}", LINKER.join(" "))],
            Self::Packager => vec![format!("cargo {}", PACKAGER.join(" "))],
            Self::Library(library) => {
                let path = library.path();
                let folder = path.display();
                vec![
                    format!("python3 -m venv {folder}"),
                    format!("{folder}/bin/pip install '{}'", library.requirement()),
                ]
            }
            Self::Mount => vec![format!("mount -t bpf bpf {BPF_FILE_SYSTEM}")],
        }
    }
}

fn commands(remedies: &[Remedy]) -> String {
    remedies
        .iter()
        .flat_map(Remedy::typed)
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Commands to type, and the reason for which they were not run.
fn by_hand(remedies: &[Remedy], able: &Able) -> String {
    let mut text = String::from("this machine lacks something, and ");
    text.push_str(if !able.apt {
        "only on Debian can it be installed from here"
    } else if !able.root {
        "installing it needs root"
    } else {
        "it cannot be installed from here"
    });
    text.push_str(". Please run");
    if !able.root {
        text.push_str(" as root (cargo and rustup as yourself)");
    }
    let _ = write!(text, ":\n{}", commands(remedies));
    if remedies.contains(&Remedy::Linker) {
        let _ = write!(text, "\n{OTHER_ROAD}");
    }
    text
}

fn supply(remedy: &Remedy) -> Result<()> {
    match remedy {
        Remedy::Components(names) => succeed(
            run::command("rustup")
                .args(["component", "add"])
                .args(names),
        ),
        Remedy::Packages(names) => {
            let mut update = run::command("apt-get");
            // A third party's source that does not answer is not our concern; what
            // is really missing shows in the next step.
            run::status(update.args(["update", "--quiet"]))?;
            succeed(
                run::command("apt-get")
                    .args(["install", "--yes", "--quiet", "--no-install-recommends"])
                    .args(names)
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            )
        }
        Remedy::Linker => succeed(run::cargo().args(LINKER).env("LLVM_PREFIX", LLVM)),
        Remedy::Packager => succeed(run::cargo().args(PACKAGER)),
        Remedy::Library(library) => {
            let folder = library.path();
            let mut venv = run::command("python3");
            succeed(venv.args(["-m", "venv"]).arg(&folder))?;
            let mut pip = Command::new(folder.join("bin/pip"));
            succeed(pip.args(["install", "--quiet", &library.requirement()]))
        }
        Remedy::Mount => succeed(run::command("mount").args(["-t", "bpf", "bpf", BPF_FILE_SYSTEM])),
    }
}

/// Runs `command` with its output on standard error, where all of setup talks.
fn succeed(command: &mut Command) -> Result<()> {
    let status = run::status(command.stdout(std::io::stderr()))?;
    if !status.success() {
        bail!("{} failed ({status})", run::shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Able = Able {
        root: false,
        apt: true,
        rustup: true,
    };
    const ELSEWHERE: Able = Able {
        root: true,
        apt: false,
        rustup: true,
    };

    fn all() -> Vec<Remedy> {
        vec![
            Remedy::Components(vec!["clippy"]),
            Remedy::Packages(vec!["iproute2", "busybox-static"]),
            Remedy::Linker,
            Remedy::Packager,
            Remedy::Library(&DASHBOARD_MODELS),
            Remedy::Mount,
        ]
    }

    #[test]
    fn without_root_every_command_is_named() {
        let text = by_hand(&all(), &USER);
        for part in [
            "needs root",
            "rustup component add clippy",
            "apt-get install --no-install-recommends iproute2 busybox-static",
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker",
            "cargo install cargo-deb --version",
            "/cofferdam/grafana/bin/pip install 'grafana-foundation-sdk==",
            "mount -t bpf bpf /sys/fs/bpf",
        ] {
            assert!(text.contains(part), "{part} is missing from: {text}");
        }
    }

    #[test]
    fn elsewhere_the_road_without_packages_is_named() {
        let text = by_hand(&all(), &ELSEWHERE);
        assert!(text.contains("only on Debian"), "{text}");
        assert!(
            text.contains("rustup toolchain install nightly --component rust-src"),
            "{text}"
        );
    }

    #[test]
    fn a_user_may_add_components_but_not_packages() {
        assert!(USER.to(&Remedy::Components(vec!["clippy"])));
        assert!(!USER.to(&Remedy::Packages(vec!["iproute2"])));
        assert!(!USER.to(&Remedy::Mount));
        assert!(!ELSEWHERE.to(&Remedy::Packages(vec!["iproute2"])));
    }

    #[test]
    fn packages_that_cannot_be_had_are_not_the_end() {
        let compiler = Remedy::Packages(COMPILER_PACKAGES.to_vec());
        assert!(
            compiler
                .failure()
                .contains("rustup toolchain install nightly")
        );
        let other = Remedy::Packages(vec!["iproute2"]);
        assert_eq!(
            other.failure(),
            "setup: cannot install Debian packages: iproute2"
        );
    }

    #[test]
    fn a_program_that_exists_needs_no_package() {
        let pairs = [("sh", "dash"), ("no-such-program-here", "the-package")];
        assert_eq!(missing_packages(&pairs), ["the-package"]);
    }
}
