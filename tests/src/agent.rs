//! A real agent as the agent of a world's node, and its command line.
//!
//! An [`Agent`] has directories of its own for documents, run files, state and pins,
//! so that many can run on one machine. It ends with the test, however that ends.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cofferdam_protocol::output::{
    EndpointList, EndpointReport, FlowRecord, RemoveReport, StatusReport, SyncReport,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::world::{Namespace, Workload, World};

/// Longest time that an agent may take for anything, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prefix of the names of all directories of agents under test; the process that runs the test
/// and a number follow.
const PREFIX: &str = "cofferdam-agent-";

/// The BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// Removes what tests pinned that were killed: a BPF file system forgets nothing by
/// itself.
fn remove_dead_pins() {
    let Ok(entries) = fs::read_dir(BPFFS) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = (name.to_str())
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next())
            .map(|process| Path::new("/proc").join(process));
        if process.is_some_and(|process| !process.exists()) {
            // Another test may be doing the same.
            _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The `cofferdam` that was built with the running test.
///
/// It is the controller's `main` in a binary of this package, because only those are
/// certain to be there, and of now, when a test runs.
#[macro_export]
macro_rules! cofferdam {
    () => {
        ::std::path::Path::new(env!("CARGO_BIN_EXE_cofferdam-in-tests"))
    };
}

/// An agent's directories, and the agent, when it runs.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    directory: PathBuf,
    namespace: Namespace,
    /// Name of its node.
    node: String,
    /// Sources of documents beside its own directory.
    sources: Vec<String>,
    /// Settings of the configuration, beside names and directories.
    settings: String,
    /// Variables of its environment, beside those of the test.
    environment: Vec<(&'static str, PathBuf)>,
    process: Option<Child>,
}

impl Agent {
    /// Prepares an agent for a node; it does not run yet. It is called `n1`.
    ///
    /// # Panics
    ///
    /// Panics if its directories cannot be made.
    pub fn new(binary: &Path, world: &World) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        remove_dead_pins();
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("policies")).expect("a directory");
        let namespace = &world.node().namespace;
        Self {
            binary: binary.to_owned(),
            directory,
            node: "n1".to_owned(),
            sources: Vec::new(),
            namespace: namespace.try_clone().expect("a descriptor"),
            settings: "limits: {endpoints: 32, slots: 8192, table_pages: 32}\n".to_owned(),
            environment: Vec::new(),
            process: None,
        }
    }

    /// Calls its node so.
    pub fn called(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// Lets it read documents from there as well.
    pub fn read_also(&mut self, source: &str) {
        self.sources.push(source.to_owned());
    }

    /// Uses these settings instead of small limits; more YAML for the configuration.
    pub fn settings(mut self, settings: &str) -> Self {
        self.settings = settings.to_owned();
        self
    }

    /// Uses other settings from the next start on.
    pub fn set(&mut self, settings: &str) {
        self.settings = settings.to_owned();
    }

    /// Sets a variable of its environment to a path in its own directory.
    pub fn environment(&mut self, variable: &'static str, name: &str) {
        let path = self.path(name);
        self.environment.push((variable, path));
    }

    /// The program that it is.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A path in the agent's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the directory in which it pins.
    ///
    /// # Panics
    ///
    /// Never: its directory has a name.
    pub fn pins(&self) -> PathBuf {
        let name = self.directory.file_name().expect("it has a name");
        Path::new(BPFFS).join(name)
    }

    /// Writes the configuration, and returns where.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn write_config(&self) -> PathBuf {
        let directory = self.directory.display();
        let sources: String = (self.sources.iter())
            .map(|source| format!(", '{source}'"))
            .collect();
        let text = format!(
            "node: {{name: {}}}\npolicies: [{directory}/policies{sources}]\n\
             run_dir: {directory}/run\n\
             state_dir: {directory}/state\nbpffs: {}\n{}",
            self.node,
            self.pins().display(),
            self.settings
        );
        let path = self.path("config.yaml");
        fs::write(&path, text).expect("the configuration can be written");
        path
    }

    /// Puts a document's file in place, at once.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn document(&self, name: &str, text: &str) {
        let beside = self.path("beside");
        fs::write(&beside, text).expect("a file can be written");
        fs::rename(beside, self.path("policies").join(name)).expect("a file can be renamed");
    }

    /// Removes a document's file.
    ///
    /// # Panics
    ///
    /// Panics if it is not there.
    pub fn remove_document(&self, name: &str) {
        fs::remove_file(self.path("policies").join(name)).expect("the file is there");
    }

    /// Starts it; it may not be up yet.
    ///
    /// # Panics
    ///
    /// Panics if it runs, or cannot be started.
    pub fn start(&mut self, arguments: &[&str]) {
        self.start_by(&[], arguments);
    }

    /// Starts it by way of another program, which ends as the agent does: `prlimit`.
    ///
    /// # Panics
    ///
    /// Panics if it runs, or cannot be started.
    pub fn start_by(&mut self, by: &[&str], arguments: &[&str]) {
        assert!(self.process.is_none(), "the agent runs");
        let config = self.write_config();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("a log file");
        let _inside = self.namespace.enter().expect("a namespace");
        // Killed when this thread ends, or the program between: a test that is stopped leaves
        // no agent.
        let dies = ["setpriv", "--pdeathsig", "KILL"];
        let between: &[&str] = if by.is_empty() { &[] } else { &dies };
        let process = Command::new(dies[0])
            .args(&dies[1..])
            .args(by)
            .args(between)
            .arg(&self.binary)
            .args(["agent", "--config"])
            .arg(config)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, path)| (name, path)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("the agent can be started"));
    }

    /// Starts it, and waits until everything is enforced.
    ///
    /// # Panics
    ///
    /// Panics if that does not come about.
    pub fn start_enforced(&mut self) -> StatusReport {
        self.start(&[]);
        self.wait_enforced()
    }

    /// Waits until everything is enforced.
    ///
    /// # Panics
    ///
    /// Panics if that does not come about.
    pub fn wait_enforced(&self) -> StatusReport {
        let arguments = ["status", "--wait", "enforced", "--timeout", "30s"];
        let status: StatusReport = self.json(&arguments);
        assert!(status.enforced, "{status:?}\n{}", self.log());
        status
    }

    /// Waits until it answers.
    ///
    /// # Panics
    ///
    /// Panics if it does not.
    pub fn wait_up(&self) -> StatusReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.cli(&["status", "--format", "json"]);
            if output.status.success() {
                return serde_json::from_slice(&output.stdout).expect("a status");
            }
            assert!(
                Instant::now() < deadline,
                "no answer: {output:?}\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Waits until the status is as it should be.
    ///
    /// # Panics
    ///
    /// Panics if that does not come about.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&StatusReport) -> bool) -> StatusReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "not {what}: {status:?}\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// Runs the command line by itself, and returns its output.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be run.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        if arguments.first() != Some(&"agent") {
            command.arg("--run-dir").arg(self.path("run"));
        }
        command.output().expect("the command can be run")
    }

    /// Runs the command line and reads its JSON, whatever its exit status.
    ///
    /// # Panics
    ///
    /// Panics if it is not of this type.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let output = self.cli(&[arguments, &["--format", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", self.log()))
    }

    /// The number of a series of its metrics.
    ///
    /// # Panics
    ///
    /// Panics if there is no such series.
    pub fn metric(&self, series: &str) -> u64 {
        let (_, text) = self.http("/metrics");
        let value = (text.lines())
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{series}: {text}"));
        value.trim().parse().expect("a number")
    }

    /// `cofferdam sync`.
    pub fn sync(&self) -> SyncReport {
        self.json(&["sync", "--timeout", "30s"])
    }

    /// `cofferdam status`.
    pub fn status(&self) -> StatusReport {
        self.json(&["status"])
    }

    /// Those of `cofferdam endpoint list` that have a name.
    pub fn endpoints(&self) -> Vec<EndpointReport> {
        let mut endpoints = self.json::<EndpointList>(&["endpoint", "list"]).endpoints;
        endpoints.retain(|endpoint| endpoint.id.is_some());
        endpoints
    }

    /// Those of `cofferdam endpoint list` that have none.
    pub fn strangers(&self) -> Vec<EndpointReport> {
        let mut endpoints = self.json::<EndpointList>(&["endpoint", "list"]).endpoints;
        endpoints.retain(|endpoint| endpoint.id.is_none());
        endpoints
    }

    /// `cofferdam observe` of the past.
    pub fn records(&self) -> Vec<FlowRecord> {
        let output = self.cli(&["observe", "--format", "json"]);
        let text = String::from_utf8(output.stdout).expect("text");
        let records = text.lines().map(serde_json::from_str);
        records.collect::<Result<_, _>>().expect("records")
    }

    /// The arguments of `cofferdam endpoint add` for a workload called
    /// `namespace/name`.
    ///
    /// # Panics
    ///
    /// Panics if it is not.
    pub fn add_arguments(workload: &Workload, labels: &[&str]) -> Vec<String> {
        let [namespace, name] = split(&workload.name);
        let netns = workload.namespace.path();
        let mut arguments: Vec<String> = ["endpoint", "add", "--netns"]
            .map(str::to_owned)
            .into_iter()
            .chain([netns.to_string_lossy().into_owned()])
            .collect();
        for (flag, value) in [
            ("--ifname", workload.interface),
            ("--namespace", namespace),
            ("--name", name),
        ] {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        for label in labels {
            arguments.extend(["--label".to_owned(), (*label).to_owned()]);
        }
        arguments
    }

    /// `cofferdam endpoint add` for a workload called `namespace/name`.
    ///
    /// # Panics
    ///
    /// Panics if it is refused.
    #[track_caller]
    pub fn add(&self, workload: &Workload, labels: &[&str]) -> EndpointReport {
        let arguments = Self::add_arguments(workload, labels);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.json(&arguments)
    }

    /// `cofferdam endpoint add` for a workload that is called `name` there.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be run.
    pub fn add_as(&self, workload: &Workload, name: &str, more: &[&str]) -> Output {
        let mut arguments = Self::add_arguments(workload, &[]);
        for (flag, value) in ["--namespace", "--name"].into_iter().zip(split(name)) {
            let at = arguments.iter().position(|one| one == flag);
            arguments[at.expect("both are given") + 1] = value.to_owned();
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        arguments.extend(["--format", "json"].map(str::to_owned));
        self.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `cofferdam endpoint remove` for a workload called `namespace/name`.
    ///
    /// # Panics
    ///
    /// Panics if it is refused.
    pub fn remove(&self, workload: &str) -> RemoveReport {
        self.remove_with(workload, &[])
    }

    /// The same with more arguments.
    ///
    /// # Panics
    ///
    /// Panics if it is refused.
    pub fn remove_with(&self, workload: &str, more: &[&str]) -> RemoveReport {
        let [namespace, name] = split(workload);
        let remove = ["endpoint", "remove", "--namespace", namespace];
        self.json(&[&remove[..], &["--name", name], more].concat())
    }

    /// Status and body of a page of the agent's HTTP server at the default address; of metrics
    /// one that is of now, for which a busy agent may be asked again.
    ///
    /// # Panics
    ///
    /// Panics if it does not answer.
    pub fn http(&self, page: &str) -> (u16, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.ask_http(page);
            let is_old = |line: &str| {
                let age = line.strip_prefix("cofferdam_page_age_seconds ");
                age.is_some_and(|age| age != "0")
            };
            if !body.lines().any(is_old) || Instant::now() > deadline {
                return (status, body);
            }
        }
    }

    fn ask_http(&self, page: &str) -> (u16, String) {
        let inside = self.namespace.enter().expect("a namespace");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
        let mut stream = TcpStream::connect(address).expect("the agent listens");
        drop(inside);
        write!(stream, "GET {page} HTTP/1.1\r\nhost: agent\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    /// Returns the log since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the agent runs").id()
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Panics
    ///
    /// Panics if it does not run, or not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut process = self.process.take().expect("the agent runs");
        process.wait().expect("the agent ends")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// Panics if it does not run, or not end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the agent runs");
        process.wait().expect("the agent ends")
    }

    /// Returns `true` once it answers, and `false` if it has ended.
    ///
    /// # Panics
    ///
    /// Panics if it does neither.
    pub fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.cli(&["status"]).status.success() {
                return true;
            }
            if !self.is_running() {
                return false;
            }
        }
        panic!("no answer, and no end:\n{}", self.log());
    }

    /// Lets it stand still, until [`Agent::resume`].
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Lets it read its configuration again.
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Kills it.
    ///
    /// # Panics
    ///
    /// Panics if it does not run.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let mut process = self.process.take().expect("the agent runs");
        let status = process.wait().expect("the agent ends");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("process ids are small");
        kill(Pid::from_raw(pid), signal).expect("a signal can be sent to it");
    }
}

/// Namespace and name of a workload written `namespace/name`.
fn split(name: &str) -> [&str; 2] {
    let parts = name.split_once('/').expect("namespace/name");
    parts.into()
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended.
            _ = process.kill();
            _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        // What is pinned outlives an agent, and a namespace's links.
        _ = fs::remove_dir_all(self.pins());
        _ = fs::remove_dir_all(&self.directory);
    }
}
