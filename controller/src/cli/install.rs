//! `cofferdam install` and `cofferdam uninstall`.

mod watching;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use cofferdam_sources::kubernetes::DaemonSet;

use super::print;
use crate::install::{Change, Folder, FolderError, PLUGIN, entry, replace};

#[derive(Debug, Args)]
pub(super) struct Places {
    /// Folder of the runtime's network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Folder of the runtime's plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Run directory of the agent, with its control socket.
    #[arg(long, value_name = "DIR", default_value = "/run/cofferdam")]
    run_dir: PathBuf,
    /// Prints the difference and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    places: Places,
    /// The plugin; `cofferdam-cni` beside this program unless told.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Stays, and puts the entry back whenever it is gone.
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// With `--watch`: asks the API server for this DaemonSet when it is told to end, and
    /// uninstalls if that has been removed. An update does not remove it.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "watch")]
    uninstall_with: Option<DaemonSet>,
    /// The kubeconfig for that; by default the service account of the pod that it runs in.
    #[arg(long, value_name = "FILE", requires = "uninstall_with")]
    kubeconfig: Option<PathBuf>,
}

pub(super) fn install(args: &InstallArgs) -> Result<bool> {
    let places = &args.places;
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe()
            .context("cannot find this program")?
            .with_file_name(PLUGIN),
    };
    let content = fs::read(&plugin)
        .with_context(|| format!("cannot read the plugin {}", plugin.display()))?;
    if args.watch {
        watching::watch(args, &content)
    } else {
        install_once(places, &content)
    }
}

/// Puts plugin and entry in place. Returns `false` if the network is none for the plugin.
fn install_once(places: &Places, content: &[u8]) -> Result<bool> {
    let folder = Folder::new(&places.cni_conf_dir);
    let entry = entry(&places.run_dir.to_string_lossy());
    let change = match folder.plan_entry(&entry) {
        Err(error @ (FolderError::Refused { .. } | FolderError::NoNetwork { .. })) => {
            eprintln!("cofferdam: {:#}", anyhow::Error::from(error));
            return Ok(false);
        }
        planned => planned?,
    };
    let binary = places.cni_bin_dir.join(PLUGIN);
    let has_binary = fs::read(&binary).is_ok_and(|standing| standing == content);
    if places.dry_run {
        if !has_binary {
            print(&format!("+ {}\n", binary.display()))?;
        }
        print(&change.map(|change| difference(&change)).unwrap_or_default())?;
        return Ok(true);
    }
    // The plugin first: a runtime that finds its entry runs it.
    if !has_binary {
        fs::create_dir_all(&places.cni_bin_dir)
            .with_context(|| format!("cannot make {}", places.cni_bin_dir.display()))?;
        replace(&binary, content, 0o755)?;
        print(&format!("installed {}\n", binary.display()))?;
    }
    if let Some(change) = change {
        folder.make(&change)?;
        print(&format!("{PLUGIN} stands in {}\n", change.to.display()))?;
    }
    Ok(true)
}

pub(super) fn uninstall(places: &Places) -> Result<bool> {
    let folder = Folder::new(&places.cni_conf_dir);
    let entry = entry(&places.run_dir.to_string_lossy());
    let binary = places.cni_bin_dir.join(PLUGIN);
    for change in folder.plan_removal(&entry)? {
        if places.dry_run {
            print(&difference(&change))?;
        } else {
            folder.make(&change)?;
            print(&format!("restored {}\n", change.to.display()))?;
        }
    }
    // Last: no runtime runs it any more.
    remove(&binary, places.dry_run)?;
    Ok(true)
}

fn remove(binary: &Path, is_dry: bool) -> Result<()> {
    if is_dry {
        return match binary.exists() {
            true => print(&format!("- {}\n", binary.display())),
            false => Ok(()),
        };
    }
    match fs::remove_file(binary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", binary.display())),
        Ok(()) => print(&format!("removed {}\n", binary.display())),
    }
}

/// Shows a change, line by line: what both texts begin and end with is left out.
fn difference(change: &Change) -> String {
    let before: Vec<&str> = change.before.lines().collect();
    let after: Vec<&str> = change.after.lines().collect();
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| {
        pairs.take_while(|(one, other)| one == other).count()
    };
    let first = same(&mut before.iter().zip(&after));
    let last = same(
        &mut before[first..]
            .iter()
            .rev()
            .zip(after[first..].iter().rev()),
    );
    let mut text = format!(
        "--- {}\n+++ {}\n",
        change.from.display(),
        change.to.display()
    );
    for (sign, lines) in [('-', &before), ('+', &after)] {
        for line in &lines[first..lines.len() - last] {
            text.push_str(&format!("{sign}{line}\n"));
        }
    }
    text
}
