//! Runs network plugins as their specification says: the configuration on standard
//! input, the rest in the environment, the result on standard output.

use std::{
    env,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use cofferdam_tests::{
    packet::{End, Mac},
    world::Namespace,
};
use serde::Deserialize;
use serde_json::Value;

/// Where distributions and container runtimes put plugins.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The name of a workload's interface.
pub(crate) const INTERFACE: &str = "eth0";

/// A folder with plugins.
pub(crate) struct Plugins {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Added {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    mac: String,
    /// Of those inside, not of the host's side.
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

impl Plugins {
    /// Finds those that are needed.
    pub(crate) fn find(needed: &[&str]) -> Result<Self> {
        let path = env::var_os("CNI_PATH").unwrap_or_default();
        let mut folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
        let folder = folders
            .find(|folder| needed.iter().all(|name| folder.join(name).is_file()))
            .with_context(|| {
                format!(
                    "the CNI plugins {} are not here; `cargo xtask setup` installs them, and \
                     CNI_PATH says where they are",
                    needed.join(", ")
                )
            })?;
        Ok(Self { folder })
    }

    /// Gives a namespace its interface; what it is.
    pub(crate) fn add(
        &self,
        node: &Namespace,
        container: &str,
        namespace: &Namespace,
        configuration: &Value,
    ) -> Result<End> {
        let plugin = configuration["type"].as_str().unwrap_or_default();
        let output = {
            let _inside = node.enter()?;
            run(
                Command::new(self.folder.join(plugin))
                    .env("CNI_COMMAND", "ADD")
                    .env("CNI_CONTAINERID", container)
                    .env("CNI_NETNS", namespace.path())
                    .env("CNI_IFNAME", INTERFACE)
                    .env("CNI_PATH", &self.folder),
                configuration,
            )?
        };
        let added: Added =
            serde_json::from_slice(&output).with_context(|| format!("{plugin} said no result"))?;
        added
            .end()
            .with_context(|| format!("{plugin} gave {container} no addresses"))
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Added {
    fn end(&self) -> Result<End> {
        let mut inside = self.interfaces.iter().filter(|one| one.sandbox.is_some());
        let mac = &inside.next().context("no interface inside")?.mac;
        let mut end = End {
            mac: parsed(mac)?,
            ipv4: None,
            ipv6: None,
        };
        for ip in &self.ips {
            let address = ip.address.split('/').next().unwrap_or_default();
            end = end.with_ip(address.parse::<IpAddr>()?);
        }
        if end.ipv4.is_none() || end.ipv6.is_none() {
            bail!("there is not one address of either family");
        }
        Ok(end)
    }
}

/// Reads `02:00:00:00:00:01`.
fn parsed(mac: &str) -> Result<Mac> {
    let bytes: Result<Vec<u8>, _> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    let bytes = bytes.with_context(|| format!("{mac} is not a MAC address"))?;
    let bytes = bytes.try_into();
    Ok(Mac(
        bytes.map_err(|_| anyhow!("{mac} is not a MAC address"))?
    ))
}

fn run(command: &mut Command, input: &Value) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    stdin.write_all(input.to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        // A plugin's errors are objects on standard output.
        let said = String::from_utf8_lossy(&output.stdout);
        bail!("{command:?} failed: {said}");
    }
    Ok(output.stdout)
}
