//! The agent of the shop's node, and the commands that talk to it.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{premises::Premises, shop::Site};

/// Address at which the agent serves its metrics, on the node.
pub(crate) const METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// Longest time that the agent may take to answer for its metrics.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agent.
pub(crate) struct Agent<'p> {
    cofferdam: PathBuf,
    premises: &'p Premises,
    process: u32,
}

impl<'p> Agent<'p> {
    /// Starts it on the shop's node. Nothing is in force before [`Agent::wait`].
    pub(crate) fn start(
        cofferdam: &Path,
        site: &Site,
        policies: &Path,
        premises: &'p Premises,
    ) -> Result<Self> {
        if !cofferdam.is_file() {
            bail!("there is no program {}", cofferdam.display());
        }
        let configuration = premises.folder().join("agent.yaml");
        fs::write(&configuration, settings(site, policies, premises))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(Self::log(premises))
            .context("cannot make the agent's log")?;
        // A namespace is a thread's, and so is being its parent: this thread goes on
        // as long as the demonstration.
        let _inside = site.node.enter()?;
        let process = premises.start(
            dying_with_us(cofferdam)
                .arg("agent")
                .arg("--config")
                .arg(&configuration)
                // A terminal's interrupt ends the containers first: it is told of that.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        Ok(Self {
            cofferdam: cofferdam.to_owned(),
            premises,
            process,
        })
    }

    /// Returns the file of its log.
    pub(crate) fn log(premises: &Premises) -> PathBuf {
        premises.folder().join("agent.log")
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Waits until what it should enforce is in force.
    pub(crate) fn wait(&self) -> Result<Value> {
        self.ask(["status", "--wait", "enforced", "--timeout", "10s"])
    }

    /// Runs a command that answers with one object.
    pub(crate) fn ask<const N: usize>(&self, arguments: [&str; N]) -> Result<Value> {
        let text = self.run(&arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`cofferdam {}` did not print JSON", arguments.join(" ")))
    }

    /// Returns when what the files say is in force; its revision.
    pub(crate) fn sync(&self) -> Result<u64> {
        let done = self.ask(["sync", "--timeout", "10s"])?;
        if done["enforced"] != true || done["rejected"] != 0 {
            bail!("the policies are not in force: {done}");
        }
        done["revision"].as_u64().context("a revision")
    }

    /// The newest flow records.
    pub(crate) fn records(&self) -> Result<Vec<Value>> {
        let text = self.run(&["observe", "--last", "10000"])?;
        text.lines()
            .map(|line| serde_json::from_str(line).context("`cofferdam observe` prints JSON lines"))
            .collect()
    }

    /// Fetches the text that it serves at `/metrics`.
    pub(crate) fn metrics(&self, site: &Site) -> Result<String> {
        let mut stream = {
            let _inside = site.node.enter()?;
            TcpStream::connect_timeout(&METRICS, PATIENCE).context("cannot reach /metrics")?
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        if !status.contains(" 200 ") {
            bail!("/metrics answers `{status}`");
        }
        Ok(body.to_owned())
    }

    /// Kills it, so that it can do nothing more, and gives up on it.
    pub(crate) fn kill(self) {
        self.premises.kill(self.process);
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = dying_with_us(&self.cofferdam)
            .args(arguments)
            .args(["--format", "json", "--run-dir"])
            .arg(self.premises.run_dir())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.cofferdam.display()))?;
        if !output.status.success() {
            bail!(
                "`cofferdam {}` failed ({})\n{}{}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                self.last_words(),
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The end of its log, and whether it still runs.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(Self::log(self.premises)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(10);
        let runs = if self.premises.runs(self.process) {
            "runs"
        } else {
            "does not run"
        };
        format!(
            "the agent {runs}; its last words:\n  {}",
            lines[from..].join("\n  ")
        )
    }
}

/// A program that is killed when this thread ends, however that comes about.
pub(crate) fn dying_with_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The agent's configuration.
fn settings(site: &Site, policies: &Path, premises: &Premises) -> String {
    let mut text = String::from("node:\n  name: shop-node\n  addresses:\n");
    for address in &site.addresses {
        writeln!(text, "  - \"{address}\"").expect("writing to a string");
    }
    for (key, path) in [
        ("run_dir", premises.run_dir()),
        ("state_dir", premises.folder().join("state")),
        ("bpffs", premises.bpffs().join("cofferdam")),
    ] {
        writeln!(text, "{key}: {}", path.display()).expect("writing to a string");
    }
    writeln!(text, "policies: [{}]", policies.display()).expect("writing to a string");
    writeln!(text, "metrics: {METRICS}").expect("writing to a string");
    writeln!(text, "metrics_labels: [namespace, workload]").expect("writing to a string");
    text
}
