//! System calls of the agent that fail once, by strace(1) that injects an error.
//!
//! Calls are counted by thread: with `when=3` the third of each thread fails. A change is asked
//! for while calls fail; afterwards the old policy is in force or the new one, each whole, and
//! the next try succeeds.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::watch::{self, Seen};
use super::{PORT, Stand, WEB_CLOSED, pause};
use crate::agent::Agent;
use crate::firewall::named;
use crate::packet::Family;
use crate::skip::Feature;
use crate::traffic::{Probe, probe};
use crate::world::World;

/// strace(1), which must be allowed to trace.
pub const STRACE: Feature = Feature::Other("strace", || {
    let traced = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .status();
    match traced {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("strace cannot trace here: {status}")),
        Err(error) => Err(format!("{error}: `cargo xtask setup` installs it")),
    }
});

/// A change that is asked for while a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// A policy more that closes web, or the same one less.
    Policy,
    /// The stranger as an endpoint like web, which may ask the database, or not.
    Endpoint,
}

/// A call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    name: &'static str,
    error: &'static str,
    /// The change that makes such calls.
    change: Change,
    /// `true` if only those for files of the state fail: others of this name never do.
    of_state: bool,
}

/// Calls that fail, with error, change, and whether only those for files of the state count.
const CALLS: [Call; 16] = {
    const fn call(name: &'static str, error: &'static str, change: Change, of_state: bool) -> Call {
        Call {
            name,
            error,
            change,
            of_state,
        }
    }
    use Change::{Endpoint, Policy};
    [
        call("bpf", "ENOMEM", Policy, false),
        call("bpf", "EPERM", Endpoint, false),
        call("openat", "EMFILE", Policy, false),
        call("openat", "EMFILE", Endpoint, false),
        call("write", "ENOSPC", Endpoint, true),
        call("fsync", "EIO", Policy, false),
        call("rename", "EROFS", Endpoint, false),
        call("mmap", "ENOMEM", Policy, false),
        call("socket", "EMFILE", Endpoint, false),
        call("sendto", "ENOBUFS", Endpoint, false),
        call("recvfrom", "ENOMEM", Policy, false),
        call("recvfrom", "ENOMEM", Endpoint, false),
        call("sendmsg", "ENOBUFS", Endpoint, false),
        call("recvmsg", "ENOMEM", Endpoint, false),
        call("setns", "ENOMEM", Endpoint, false),
        call("clone3", "EAGAIN", Endpoint, false),
    ]
};

/// Changes of a test: each of the calls fails once.
pub const ONCE: u64 = CALLS.len() as u64;

/// Time in which a tracer has attached to all threads, or let go of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks for that.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);
/// Time that what is closed has to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(100);

/// Outcome of failing calls.
#[derive(Clone, Debug, Default)]
pub struct Failed {
    /// Changes that were asked for while a call was to fail.
    pub changes: u64,
    /// Those in which one did.
    pub injected: u64,
    /// Those that were refused, or not in force afterwards.
    pub refused: u64,
    /// Those after which the agent had ended.
    pub ended: u64,
    /// Changes after which neither the old policy nor the new one was in force, or not that
    /// which the agent said, or the next try failed.
    pub wrong: Vec<String>,
    /// Counts of the traffic.
    pub seen: Seen,
}

/// A tracer of all threads of an agent.
struct Tracer {
    strace: Child,
    output: PathBuf,
}

impl Tracer {
    /// Attaches one, that has the call of this number fail.
    fn attach(agent: &Agent, call: Call, number: u64) -> Self {
        let Call { name, error, .. } = call;
        let output = agent.path("strace");
        _ = fs::remove_file(&output);
        let mut strace = Command::new("setpriv");
        strace
            .args(["--pdeathsig", "TERM", "strace", "-f", "-qq", "-o"])
            .arg(&output)
            .args(["-e", &format!("trace={name}")])
            .args(["-e", &format!("inject={name}:error={error}:when={number}")])
            .args(["-p", &agent.pid().to_string()]);
        if call.of_state {
            let file = agent.path("state").join(".endpoints.json.new");
            strace.arg("-P").arg(file);
        }
        let strace = strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut tracer = Self {
            strace: strace.expect("strace is there"),
            output,
        };
        let began = Instant::now();
        while !threads(agent.pid()).iter().all(|tracer| *tracer != 0) {
            let ended = tracer.strace.try_wait().expect("a child");
            assert!(
                began.elapsed() < PATIENCE && ended.is_none(),
                "strace cannot attach: {ended:?}"
            );
            pause(BETWEEN_LOOKS);
        }
        tracer
    }

    /// Lets go of the agent. Returns `true` if a call failed.
    fn detach(mut self) -> bool {
        let pid = i32::try_from(self.strace.id()).expect("process ids are small");
        // It has ended if the agent has.
        _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        self.strace.wait().expect("it ends");
        let output = fs::read_to_string(&self.output).unwrap_or_default();
        output.contains("(INJECTED)")
    }
}

/// The tracer of each thread of a process, 0 for none; nothing when it has ended.
fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    let tracer = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let mut lines = status.lines();
        let tracer = lines.find_map(|line| line.strip_prefix("TracerPid:"))?;
        tracer.trim().parse().ok()
    };
    tasks.flatten().flatten().filter_map(tracer).collect()
}

/// Has calls fail, each kind in turn, while policy or endpoints change, until so many changes were
/// asked for or the deadline has come. The first [`ONCE`] are the first calls of their kinds.
///
/// # Panics
///
/// Panics if strace cannot attach.
pub fn fail(
    stand: &mut Stand,
    number: u64,
    deadline: Option<Instant>,
    rng: &mut fastrand::Rng,
) -> Failed {
    let Stand { agent, world, .. } = stand;
    let mut failed = Failed::default();
    let (seen, ()) = watch::during(world, |_| {
        for round in 0..number {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            let call = CALLS[(round % ONCE) as usize];
            // Most changes make few calls of a kind, and some make many.
            let when = match round < ONCE {
                true => 1,
                false => 1 + rng.u64(..4) * rng.u64(1..8),
            };
            if let Err(wrong) = once(agent, world, call, when, &mut failed) {
                failed
                    .wrong
                    .push(format!("{call:?} number {when}: {wrong}"));
            }
        }
    });
    failed.seen = seen;
    failed
}

/// Asks for a change, and back again, while a call fails.
fn once(
    agent: &mut Agent,
    world: &World,
    call: Call,
    when: u64,
    failed: &mut Failed,
) -> Result<(), String> {
    let change = call.change;
    failed.changes += 1;
    let tracer = Tracer::attach(agent, call, when);
    let done = ask(agent, world, change, true);
    failed.injected += u64::from(tracer.detach());
    failed.refused += u64::from(done.is_err());
    if !agent.answers() {
        failed.ended += 1;
        agent.ended();
        agent.start_enforced();
    }
    // The new one if it is called done, else either.
    if !holds(world, change, done.is_ok().then_some(true))? && done.is_ok() {
        return Err("it was called done, and is not in force".to_owned());
    }
    ask(agent, world, change, true).map_err(|error| format!("the next try: {error}"))?;
    if !holds(world, change, Some(true))? {
        return Err("the next try is not in force".to_owned());
    }
    ask(agent, world, change, false).map_err(|error| format!("the way back: {error}"))?;
    match holds(world, change, Some(false))? {
        true => Err("the way back is not in force".to_owned()),
        false => Ok(()),
    }
}

/// Returns `true` if a change is in force, and `false` if what was before is. What is expected
/// is waited for a little: a busy machine is slow.
fn holds(world: &World, change: Change, expected: Option<bool>) -> Result<bool, String> {
    let (to, opens) = match change {
        Change::Policy => ("shop/web", false),
        Change::Endpoint => ("shop/db", true),
    };
    let [from, to] = ["shop/stranger", to].map(|name| named(world, name));
    let began = Instant::now();
    loop {
        let [v4, v6] = Family::BOTH.map(|family| {
            let outcome = probe(from, to.ip(family), Probe::Tcp(PORT), UNTIL_BLOCKED);
            outcome.expect("a probe").is_reached()
        });
        let holds = v4 == opens;
        if v4 == v6 && expected.is_none_or(|expected| holds == expected) {
            return Ok(holds);
        }
        if began.elapsed() > PATIENCE {
            return match v4 == v6 {
                true => Ok(holds),
                false => Err("one family has the old policy, the other the new one".to_owned()),
            };
        }
    }
}

/// Asks for a change, or for its reverse; an error has what the agent said.
fn ask(agent: &Agent, world: &World, change: Change, forth: bool) -> Result<(), String> {
    let arguments = match (change, forth) {
        (Change::Policy, _) => {
            match forth {
                true => agent.document("web.yaml", WEB_CLOSED),
                // One that was emptied would stay in force.
                false => agent.remove_document("web.yaml"),
            }
            ["sync", "--timeout", "10s"].map(str::to_owned).to_vec()
        }
        (Change::Endpoint, true) => {
            Agent::add_arguments(named(world, "shop/stranger"), &["app=web"])
        }
        (Change::Endpoint, false) => ["endpoint", "remove", "--release", "--namespace", "shop"]
            .into_iter()
            .chain(["--name", "stranger"])
            .map(str::to_owned)
            .collect(),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = agent.cli(&arguments);
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if told.is_empty() {
        return Err(format!("nothing was said: {output:?}"));
    }
    Err(told)
}
