//! containerd.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use super::{Ground, PATIENCE, within};
use crate::world::Namespace;

/// containerd in the node's network namespace, with everything in a folder.
#[derive(Debug)]
pub struct Daemon {
    /// The folder.
    pub ground: Ground,
    process: Child,
}

impl Daemon {
    /// Starts it, with this text in its configuration before the other sections. It ends with
    /// this thread.
    ///
    /// # Panics
    ///
    /// Panics if it does not answer.
    pub fn start(node: &Namespace, ground: Ground, settings: &str) -> Self {
        Self::start_behind(node, ground, settings, &[])
    }

    /// The same behind words that run it.
    ///
    /// # Panics
    ///
    /// Panics if it does not answer.
    pub(super) fn start_behind(
        node: &Namespace,
        ground: Ground,
        settings: &str,
        words: &[String],
    ) -> Self {
        let path = |name: &str| ground.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{settings}\
             [grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("root"),
            path("state"),
            ground.socket(),
            path("opt"),
        );
        fs::write(ground.path("config.toml"), config).expect("a file");
        let log = File::create(ground.path("log")).expect("a file");
        let process = within(node, "setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(words)
            .args(["containerd", "--config"])
            .arg(ground.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let daemon = Self {
            process: process.expect("it can be started"),
            ground,
        };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.ctr(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "no answer: {}", daemon.log());
            std::thread::yield_now();
        }
        daemon
    }

    /// Runs `ctr`.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be run.
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.ground.socket());
        // As in `within`.
        ctr.process_group(0);
        ctr.args(arguments).output().expect("it can be run")
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.ground.path("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its shims have gone with their containers.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
