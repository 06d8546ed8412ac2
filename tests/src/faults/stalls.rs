//! An agent that stands still, and misses what the kernel tells.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::churn::{network, wired};
use super::watch::{self, Seen};
use super::{Stand, pause, wait_attached};
use crate::agent::Agent;
use crate::cni::{Plugins, Runtime};
use crate::world::Namespace;

/// Interfaces whose news no socket's buffer holds.
const CROWD: usize = 400;

/// Fate of a container that is attached while the agent stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It waited until the agent went on.
    Waited,
    /// It failed with this number before.
    Failed(u64),
}

/// Lets the agent stand still for a time in which a container is attached.
///
/// # Panics
///
/// Panics if the agent does not go on as before.
pub fn stand_still(stand: &Stand, plugin: &Path, time: Duration) -> (Seen, Attached) {
    let Stand { agent, world, .. } = stand;
    let node = &world.node().namespace;
    let (plugins, network) = (Plugins::with(plugin), network(agent));
    let runtime = Runtime {
        node,
        plugins: &plugins,
    };
    let last = &network.plugins[0];
    let one = wired(node, 0);
    let (seen, attached) = watch::during(world, |_| {
        agent.pause();
        let mut child = runtime.begin("ADD", &network, last, Some(&one));
        pause(time);
        let ended = child.try_wait().expect("a child").is_some();
        agent.resume();
        let output = child.wait_with_output().expect("a child");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match (ended, output.status.success()) {
            (false, true) => Attached::Waited,
            (true, false) => Attached::Failed(said["code"].as_u64().unwrap_or_default()),
            _ => panic!("it ended early, or in vain: {output:?}"),
        }
    });
    let deleted = runtime.call("DEL", &network, last, Some(&one));
    assert_eq!(deleted, Ok(Vec::new()));
    drop(one);
    let status = agent.wait_until("forgotten", |status| status.endpoints.len() == 2);
    assert!(status.enforced, "{status:?}");
    (seen, attached)
}

/// News that an agent missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Messages that its sockets lost.
    pub messages: u64,
    /// Time until it had forgotten the endpoint that had gone.
    pub forgotten: Duration,
    /// Counts of the traffic.
    pub seen: Seen,
}

/// Makes and removes hundreds of interfaces while the agent stands still, an endpoint's among
/// them, and lets it go on.
///
/// # Panics
///
/// Panics if it does not find out what is there.
pub fn overrun(stand: &Stand, plugin: &Path) -> Missed {
    let Stand { agent, world, .. } = stand;
    let node = &world.node().namespace;
    let (plugins, network) = (Plugins::with(plugin), network(agent));
    let runtime = Runtime {
        node,
        plugins: &plugins,
    };
    let last = &network.plugins[0];
    let alarms = agent.status().tamper_events;
    let gone = wired(node, 1);
    let added = runtime.call("ADD", &network, last, Some(&gone));
    added.unwrap_or_else(|error| panic!("{error:?}"));
    let (seen, (messages, forgotten)) = watch::during(world, |_| {
        agent.pause();
        crowd(node, gone.result["interfaces"][0]["name"].as_str());
        drop(gone);
        let late = wired(node, 2);
        let lost = lost_messages(agent);
        agent.resume();
        let resumed = Instant::now();
        let status = agent.wait_until("what is gone is forgotten", |status| {
            let mut endpoints = status.endpoints.iter();
            endpoints.all(|one| one.called() != "shop/churn1/eth0")
        });
        let forgotten = resumed.elapsed();
        assert!(status.enforced && status.ready, "{status:?}");
        let added = runtime.call("ADD", &network, last, Some(&late));
        added.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(agent.endpoints().len(), 3);
        let deleted = runtime.call("DEL", &network, last, Some(&late));
        assert_eq!(deleted, Ok(Vec::new()));
        (lost, forgotten)
    });
    agent.wait_until("forgotten", |status| status.endpoints.len() == 2);
    let status = wait_attached(agent);
    assert_eq!(status.tamper_events, alarms, "{}", agent.log());
    Missed {
        messages,
        forgotten,
        seen,
    }
}

/// Removes an interface, and makes and removes hundreds of veth pairs: the end of a namespace
/// would remove them, too, but in its own time.
fn crowd(node: &Namespace, gone: Option<&str>) {
    let far = Namespace::new().expect("a namespace");
    let path = far.path();
    let inside = node.enter().expect("a namespace");
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip is there");
    drop(inside);
    let gone = gone.map(|gone| format!("link del {gone}\n"));
    let crowd = (0..CROWD).map(|number| {
        format!(
            "link add crowd{number} up type veth peer name far{number} netns {}\n\
             link del crowd{number}\n",
            path.display()
        )
    });
    let lines: String = gone.into_iter().chain(crowd).collect();
    let mut input = ip.stdin.take().expect("piped");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    assert!(ip.wait().expect("it ends").success());
}

/// Messages that netlink sockets of the agent's namespace have lost, by the kernel's list.
fn lost_messages(agent: &Agent) -> u64 {
    let list = fs::read_to_string(format!("/proc/{}/net/netlink", agent.pid()))
        .expect("the agent is there");
    let mut lines = list.lines();
    let head = lines.next().expect("a head").split_whitespace();
    let column = head.take_while(|name| *name != "Drops").count();
    let lost = lines.filter_map(|line| line.split_whitespace().nth(column)?.parse::<u64>().ok());
    lost.sum()
}
