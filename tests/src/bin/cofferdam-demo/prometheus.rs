//! Prometheus over the agent of the shop's node, for a look around and for pictures.
//!
//! It runs where the caller is, so that a browser there reaches it. The node has no way there:
//! scrapes go through a door, a socket of this process.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use cofferdam_tests::world::Namespace;

use crate::{
    agent::{METRICS, dying_with_us},
    premises::Premises,
    shop::Site,
};

/// Address of Prometheus, beside one that the machine may have.
pub(crate) const ADDRESS: &str = "127.0.0.1:9490";
/// Address at which it scrapes the agent.
const DOOR: &str = "127.0.0.1:9489";
/// Time that a scrape may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request.
const REQUEST: usize = 8 << 10;

/// Name under which it knows the agent.
const INSTANCE: &str = "shop-node";
/// Time from one scrape to the next, in seconds.
pub(crate) const SCRAPES: u64 = 2;

/// Starts it, with the rules of a folder. It ends with the demonstration.
pub(crate) fn start(site: &Site, deployed: &Path, premises: &Premises) -> Result<()> {
    let door = TcpListener::bind(DOOR).with_context(|| format!("cannot listen at {DOOR}"))?;
    let node = site.node.try_clone()?;
    thread::Builder::new()
        .name("door".to_owned())
        .spawn(move || {
            for scrape in door.incoming().flatten() {
                // The next scrape comes soon.
                _ = carry(scrape, &node);
            }
        })
        .context("cannot start a thread")?;
    let folder = premises.folder().join("prometheus");
    fs::create_dir_all(&folder).context("cannot make Prometheus's folder")?;
    let rules = fs::canonicalize(deployed.join("cofferdam.rules.yml"))
        .with_context(|| format!("there are no rules in {}", deployed.display()))?;
    let config = fs::read_to_string(deployed.join("prometheus.yml"))
        .with_context(|| format!("there is no configuration in {}", deployed.display()))?
        .replace(
            "[\"127.0.0.1:9464\"]",
            &format!("[\"{DOOR}\"]\n    labels: {{instance: {INSTANCE}}}"),
        )
        .replace("cofferdam.rules.yml", &rules.to_string_lossy())
        .replace("15s", &format!("{SCRAPES}s"));
    let path = folder.join("prometheus.yml");
    fs::write(&path, config).context("cannot write Prometheus's configuration")?;
    let log = fs::File::create(folder.join("log")).context("cannot make Prometheus's log")?;
    premises.start(
        dying_with_us(Path::new("prometheus"))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("series").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    Ok(())
}

/// Carries a scrape to the agent, and its answer back.
fn carry(mut scrape: TcpStream, node: &Namespace) -> io::Result<()> {
    scrape.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; REQUEST];
    let count = scrape.read(&mut request)?;
    let mut agent = {
        let _inside = node.enter().map_err(io::Error::other)?;
        TcpStream::connect_timeout(&METRICS, PATIENCE)?
    };
    agent.set_read_timeout(Some(PATIENCE))?;
    agent.write_all(request.get(..count).unwrap_or_default())?;
    io::copy(&mut agent, &mut scrape).map(drop)
}
