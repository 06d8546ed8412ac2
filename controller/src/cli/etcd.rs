//! Documents of an etcd where a command reads files: `--etcd URL`.
//!
//! The environment has the credentials, as for etcdctl: `ETCDCTL_CACERT`, `ETCDCTL_CERT`,
//! `ETCDCTL_KEY`, `ETCDCTL_USER` (a name, or `name:password`) and `ETCDCTL_PASSWORD`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cofferdam_documents::Source;
use cofferdam_sources::etcd::{Address, Credentials, Password, Settings, read_once};

/// The etcd beside the paths of a command.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct EtcdArgs {
    /// Reads the documents under the prefix of an etcd as well, and the Pods that nodes announce
    /// there: `etcd://HOST[:PORT][,HOST[:PORT]]/PREFIX`, or `etcds://` for TLS. Certificates and
    /// user are those of `etcdctl`, in `ETCDCTL_CACERT`, `ETCDCTL_CERT`, `ETCDCTL_KEY`,
    /// `ETCDCTL_USER` and `ETCDCTL_PASSWORD`.
    #[arg(id = "etcd", long = "etcd", value_name = "URL", value_parser = address)]
    address: Option<Address>,
}

impl EtcdArgs {
    /// Returns the paths of a command, with the etcd among them.
    pub(super) fn and(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let etcd = self.address.as_ref().map(|one| one.to_string().into());
        paths.iter().cloned().chain(etcd).collect()
    }
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    let address = text.parse::<Address>();
    address.map_err(|form| format!("{text:?} is not the address of an etcd: write {form}"))
}

/// Reads the documents of those paths that are addresses of an etcd, as they are at one
/// revision. Returns them with the other paths.
pub(super) fn read(paths: &[PathBuf]) -> Result<(Vec<Source>, Vec<PathBuf>)> {
    let is_etcd = |path: &PathBuf| path.to_str().is_some_and(Address::is_meant);
    let (addresses, others): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.iter().cloned().partition(is_etcd);
    let mut sources = Vec::new();
    for text in addresses {
        let text = text.to_string_lossy();
        let settings = Settings::new(address(&text).map_err(anyhow::Error::msg)?, credentials());
        let failed = || format!("cannot read {text}");
        let read = read_once(&settings).with_context(failed)?;
        if read.is_empty() {
            let prefix = settings.address.prefix();
            bail!("there is no key below {prefix}documents/ or {prefix}endpoints/ in {text}");
        }
        sources.extend(read);
    }
    Ok((sources, others))
}

/// Returns who asks, by the environment.
pub(super) fn credentials() -> Credentials {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let file = |name: &str| given(name).map(PathBuf::from);
    let user = given("ETCDCTL_USER");
    let (username, password) = match user.as_deref().and_then(|user| user.split_once(':')) {
        Some((name, password)) => (Some(name.to_owned()), Some(password.to_owned())),
        None => (user, given("ETCDCTL_PASSWORD")),
    };
    Credentials {
        ca: file("ETCDCTL_CACERT"),
        certificate: file("ETCDCTL_CERT"),
        key: file("ETCDCTL_KEY"),
        username,
        password: password.map(Password::Text),
    }
}
