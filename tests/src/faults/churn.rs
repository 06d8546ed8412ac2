//! Endpoints that come and go by the CNI plugin, many at a time, some calls of which are
//! killed midway.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::inventory::Inventory;
use super::watch::{self, Seen};
use super::{Stand, pause};
use crate::agent::Agent;
use crate::cni::{Attaching, Network, PluginError, Plugins, Runtime};
use crate::world::Namespace;

/// Endpoints that come and go at a time.
const AT_A_TIME: u64 = 16;
/// Room for them, and for those whose interfaces the kernel is still clearing away.
pub const SETTINGS: &str = "limits: {endpoints: 512, slots: 8192, table_pages: 32}\n";
/// Interfaces and addresses are used again after so many.
const NUMBERS: u64 = 50_000;
/// Longest life of a call that is killed, in microseconds: they take some 30 ms.
const MIDWAY: u64 = 40_000;
/// Time in which the kernel clears away what has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Outcome of churn.
#[derive(Clone, Debug, Default)]
pub struct Churned {
    /// Endpoints that came and went.
    pub endpoints: u64,
    /// Calls of the plugin that were killed.
    pub killed: u64,
    /// Calls that failed and were not killed.
    pub failed: u64,
    /// Reason of one of them.
    pub reason: Option<String>,
    /// Objects that the agent held before and after.
    pub held: [Inventory; 2],
    /// Counts of the traffic.
    pub seen: Seen,
}

/// Those that come and go share this.
struct Ground<'g> {
    node: &'g Namespace,
    plugins: Plugins,
    network: Network,
    seed: u64,
    next: AtomicU64,
    killed: AtomicU64,
    failed: AtomicU64,
    reason: std::sync::Mutex<Option<String>>,
}

/// Lets so many endpoints come and go, or as many as there is time for.
///
/// # Panics
///
/// Panics if namespaces cannot be made.
pub fn churn(
    stand: &Stand,
    plugin: &Path,
    number: u64,
    deadline: Option<Instant>,
    seed: u64,
) -> Churned {
    let Stand { agent, world, .. } = stand;
    let ground = Ground {
        node: &world.node().namespace,
        plugins: Plugins::with(plugin),
        network: network(agent),
        seed,
        next: AtomicU64::new(0),
        killed: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        reason: std::sync::Mutex::new(None),
    };
    // What the first endpoints need for good.
    ground.crowd(AT_A_TIME, None);
    let before = settled(stand, None);
    let done = ground.next.load(Ordering::Relaxed);
    let (seen, ()) = watch::during(world, |_| ground.crowd(number, deadline));
    let after = settled(stand, Some(&before));
    Churned {
        endpoints: ground.next.into_inner() - done,
        killed: ground.killed.into_inner(),
        failed: ground.failed.into_inner(),
        reason: ground.reason.into_inner().expect("a reason"),
        held: [before, after],
        seen,
    }
}

/// Takes stock when it is as wanted, or two looks are alike; or after a while, however it is.
fn settled(stand: &Stand, wanted: Option<&Inventory>) -> Inventory {
    let began = Instant::now();
    let mut last = Inventory::of(&stand.agent);
    loop {
        pause(BETWEEN_LOOKS);
        let now = Inventory::of(&stand.agent);
        let is_settled = match wanted {
            Some(wanted) => now == *wanted,
            None => now == last && now.endpoints.iter().all(|one| !one.contains("churn")),
        };
        if is_settled || began.elapsed() > PATIENCE {
            return now;
        }
        last = now;
    }
}

impl Ground<'_> {
    /// Lets so many more come and go.
    fn crowd(&self, number: u64, deadline: Option<Instant>) {
        let end = self.next.load(Ordering::Relaxed).saturating_add(number);
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                        let claim = |next: u64| (next < end).then_some(next + 1);
                        let number =
                            (self.next).fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim);
                        let Ok(number) = number else { break };
                        self.live(number);
                    }
                });
            }
        });
    }

    /// One endpoint's life.
    fn live(&self, number: u64) {
        let mut rng = fastrand::Rng::with_seed(self.seed.wrapping_add(number));
        let one = wired(self.node, number);
        let runtime = Runtime {
            node: self.node,
            plugins: &self.plugins,
        };
        let plugin = &self.network.plugins[0];
        let call = |command| runtime.call(command, &self.network, plugin, Some(&one));
        let cut_short = |command, rng: &mut fastrand::Rng| {
            let mut child = runtime.begin(command, &self.network, plugin, Some(&one));
            pause(Duration::from_micros(rng.u64(..MIDWAY)));
            // It may have ended.
            _ = child.kill();
            _ = child.wait();
            self.killed.fetch_add(1, Ordering::Relaxed);
        };
        // A runtime tries again, or gives the container up.
        let is_cut = rng.u8(..5) == 0;
        if is_cut {
            cut_short("ADD", &mut rng);
        }
        if !is_cut || rng.bool() {
            self.note(call("ADD"));
        }
        if rng.u8(..5) == 0 {
            cut_short("DEL", &mut rng);
        }
        self.note(call("DEL"));
    }

    fn note(&self, called: Result<Vec<u8>, PluginError>) {
        if let Err(error) = called {
            self.failed.fetch_add(1, Ordering::Relaxed);
            *self.reason.lock().expect("a reason") = Some(format!("{error:?}"));
        }
    }
}

/// A network of `cofferdam-cni` behind a plugin whose results [`wired`] makes up.
pub(super) fn network(agent: &Agent) -> Network {
    Network {
        name: "churn".to_owned(),
        version: "1.0.0".to_owned(),
        plugins: vec![json!({"type": "cofferdam-cni", "runDir": agent.path("run")})],
    }
}

/// A container called `shop/churnN`, wired by another plugin, which left its result.
///
/// # Panics
///
/// Panics if there can be no link.
pub(super) fn wired(node: &Namespace, number: u64) -> Attaching {
    let name = format!("churn{number}");
    let mut one = Attaching::new(&format!("{name}-0a1b")).named("shop", &name);
    let number = number % NUMBERS;
    let host = format!("churn{number}");
    // One call, and nothing waited for: announcements of all the others would drown its
    // answer in a socket that hears them.
    let inside = node.enter().expect("a namespace");
    let made = Command::new("ip")
        .args(["link", "add", &host, "up", "type", "veth"])
        .args(["peer", "name", "eth0", "netns"])
        .arg(one.namespace.path())
        .status();
    assert!(made.expect("ip is there").success(), "a link {host}");
    drop(inside);
    let [_, _, high, low] = u32::try_from(number).expect("small").to_be_bytes();
    one.result = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": host},
            {"name": "eth0", "sandbox": one.namespace.path()},
        ],
        "ips": [
            {"address": format!("10.80.{high}.{low}/32"), "interface": 1},
            {"address": format!("fd80::{number:x}/128"), "interface": 1},
        ],
    });
    one
}

impl std::fmt::Display for Churned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            endpoints,
            killed,
            failed,
            reason,
            held: [_, held],
            seen,
        } = self;
        write!(
            f,
            "{endpoints} endpoints came and went, {killed} calls were killed, {failed} failed"
        )?;
        if let Some(reason) = reason {
            write!(f, " ({reason})")?;
        }
        let Inventory {
            tables,
            objects,
            descriptors,
            threads,
            ..
        } = held;
        write!(
            f,
            "; {seen:?}; left: {descriptors} descriptors, {threads} threads, {objects:?}, {tables:?}"
        )
    }
}
