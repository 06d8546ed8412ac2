//! Chooses the kernel modules that tests need, in an order in which they load.
//!
//! A kernel package has no `modules.dep`: that is made where it is installed. The
//! same facts stand in the modules themselves, as `depends=` and `softdep=`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::run;

/// Modules that tests need beyond what is built in. A kernel that lacks one of them still
/// starts; the tests that need it skip themselves and are counted.
///
/// Nothing loads itself: there is no `modprobe` for the kernel to call.
const WANTED: [&str; 30] = [
    // Interfaces of workloads, and what they are joined by.
    "veth",
    "bridge",
    "8021q",
    "macvlan",
    "dummy",
    "tun",
    // Tunnels that a workload may try.
    "ipip",
    "ip_gre",
    "vxlan",
    "geneve",
    "sit",
    "ip6_tunnel",
    "wireguard",
    // The hooks.
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    // A protocol that many kernels do not have built in.
    "sctp",
    // Connection tracking and masquerade, which change packets between our hooks.
    "nf_conntrack",
    "nft_masq",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
    "nft_numgen",
    "br_netfilter",
    // The kernel's load balancer, by which kube-proxy can translate.
    "ip_vs",
    "ip_vs_rr",
    // Other tools' filters and devices: classes, and the bandwidth plugin's detour.
    "cls_u32",
    "act_mirred",
    "sch_tbf",
    "ifb",
];

/// A module to load.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name, with underscores.
    pub(crate) name: String,
    /// Its content, not compressed.
    pub(crate) content: Vec<u8>,
}

/// Modules to load, and what the kernel does not have.
#[derive(Default)]
pub(crate) struct Chosen {
    /// In the order to load them.
    pub(crate) modules: Vec<Module>,
    /// Wanted, neither built in nor there as a module.
    pub(crate) absent: Vec<String>,
}

/// Picks the wanted modules and all they depend on from `folder`, the
/// `lib/modules/RELEASE` of a kernel package.
pub(crate) fn choose(folder: &Path) -> Result<Chosen> {
    let built_in = fs::read_to_string(folder.join("modules.builtin"))
        .with_context(|| format!("no modules.builtin in {}", folder.display()))?
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    let mut files = BTreeMap::new();
    collect(folder, &mut files)?;
    let mut choice = Choice {
        files,
        built_in,
        seen: BTreeSet::new(),
        chosen: Chosen::default(),
    };
    for name in WANTED {
        choice.add(name, true)?;
    }
    Ok(choice.chosen)
}

struct Choice {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    seen: BTreeSet<String>,
    chosen: Chosen,
}

impl Choice {
    /// Adds what `name` depends on, then `name`.
    fn add(&mut self, name: &str, named: bool) -> Result<()> {
        let name = name.replace('-', "_");
        if self.built_in.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else {
            // A soft dependency is often an alias of something built in.
            if named {
                self.chosen.absent.push(name);
            }
            return Ok(());
        };
        let content = load(file)?;
        for needed in dependencies(&content) {
            self.add(&needed, false)?;
        }
        self.chosen.modules.push(Module { name, content });
        Ok(())
    }
}

/// Name → file of every module below `folder`.
fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = entry.path();
        // Not following links: `build` and `source` point out of the package.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `crc32c_intel` of `kernel/arch/x86/crypto/crc32c-intel.ko.xz`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The module itself, whatever it is compressed with.
fn load(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = run::command(program)
        .args(["-d", "-c"])
        .arg(file)
        .output()
        .with_context(|| format!("{} needs {program}: please install it", file.display()))?;
    if !output.status.success() {
        bail!(
            "{program} cannot unpack {} ({})",
            file.display(),
            output.status
        );
    }
    Ok(output.stdout)
}

/// Names in the module's `depends=` and in what must come before it softly.
fn dependencies(module: &[u8]) -> Vec<String> {
    // Each fact is a string that ends in a zero, in a section full of them.
    let mut found = Vec::new();
    for fact in module.split(|byte| *byte == 0) {
        let Ok(fact) = std::str::from_utf8(fact) else {
            continue;
        };
        if let Some(names) = fact.strip_prefix("depends=") {
            found.extend(
                names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
            );
        } else if let Some(names) = fact.strip_prefix("softdep=") {
            let before = names
                .split_whitespace()
                .skip_while(|word| *word != "pre:")
                .skip(1)
                .take_while(|word| !word.ends_with(':'));
            found.extend(before.map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of modules made of these `(path, content)`.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(built_in: &str, files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            fs::create_dir_all(path.join("kernel")).unwrap();
            fs::write(path.join("modules.builtin"), built_in).unwrap();
            for (file, content) in files {
                fs::write(path.join("kernel").join(file), content).unwrap();
            }
            Self(folder)
        }
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let folder = Folder::new(
            "kernel/net/llc/llc.ko\n",
            &[
                ("bridge.ko", "\0depends=llc,stp\0"),
                ("stp.ko", "\0depends=llc\0"),
                ("veth.ko", "\0depends=\0"),
                ("sctp.ko", "\0depends=libcrc32c,stp\0"),
                (
                    "libcrc32c.ko",
                    "\0softdep=pre: crc32c-intel gone post: veth\0depends=\0",
                ),
                ("crc32c-intel.ko", "\0depends=\0"),
            ],
        );
        let chosen = choose(folder.0.path()).unwrap();
        let names: Vec<_> = chosen
            .modules
            .iter()
            .map(|module| module.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["veth", "stp", "bridge", "crc32c_intel", "libcrc32c", "sctp"]
        );
        assert!(chosen.absent.contains(&"tun".to_owned()));
        assert!(!chosen.absent.contains(&"gone".to_owned()));
    }

    #[test]
    fn names_do_not_depend_on_how_a_file_is_packed() {
        assert_eq!(
            module_name(Path::new("a/crc32c-intel.ko.xz")),
            "crc32c_intel"
        );
        assert_eq!(module_name(Path::new("veth.ko")), "veth");
    }
}
