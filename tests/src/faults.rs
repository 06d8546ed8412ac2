//! Faults of a node with a real agent, under traffic that must not notice them.
//!
//! A [`Stand`] has a shop of three workloads: web may ask the database, and the stranger,
//! whom nobody has added, may not. [`watch::during`] lets all of them talk while something
//! goes wrong. Each module below has one kind of fault, for tests and soaks alike, which
//! differ in numbers.
//!
//! | module | what goes wrong |
//! |---|---|
//! | [`calls`] | system calls fail |
//! | [`churn`] | endpoints come and go, and calls of the plugin are killed |
//! | [`kills`] | the agent is killed |
//! | [`limits`] | the agent runs out of descriptors, threads or memory |
//! | [`stalls`] | the agent stands still, and the kernel's news are lost |
//! | [`tamper`] | others change what it has put in force |
//! | [`starts`] | processes send before their interface is adopted |
//! | [`state`] | its state files are damaged |
//! | [`versions`] | an agent follows that has other programs or maps |
//!
//! Findings are counts that the caller holds against what is promised. A step that must
//! succeed and does not panics, with the agent's log.

pub mod bpf;
pub mod calls;
pub mod churn;
pub mod inventory;
pub mod kills;
pub mod limits;
pub mod stalls;
pub mod starts;
pub mod state;
pub mod tamper;
pub mod versions;
pub mod watch;

use std::path::Path;
use std::time::Duration;

use cofferdam_protocol::output::{EndpointStatus, StatusReport};

use crate::agent::Agent;
use crate::firewall::named;
use crate::shop::DB_FROM_WEB;
use crate::traffic::{Place, Probe, Server};
use crate::world::{Wiring, Workload, World};

/// Port of the database.
pub const PORT: u16 = 5432;

/// Limits that are made fast.
pub const SMALL: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\n";

/// Nobody may connect to web. A policy that comes and goes, and that changes nothing for those
/// who talk.
pub const WEB_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-closed, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
";

/// Lets time pass in which a fault has its effect, or has none.
#[expect(
    clippy::disallowed_methods,
    reason = "the time itself counts; nothing is waited for"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A node with a shop and an agent.
#[derive(Debug)]
pub struct Stand {
    // Ends first.
    /// The agent.
    pub agent: Agent,
    /// The node and its workloads.
    pub world: World,
    _servers: Vec<Server>,
}

impl Stand {
    /// Makes a node whose agent does not run yet.
    ///
    /// # Panics
    ///
    /// Panics if there can be no namespaces.
    pub fn new(cofferdam: &Path, wiring: Wiring, settings: &str) -> Self {
        let world = World::plan(wiring)
            .workloads(["shop/web", "shop/db", "shop/stranger"])
            .build()
            .expect("a world");
        let places = world.workloads().iter().map(Place::from);
        let servers = Server::start_all(places, &[Probe::Tcp(PORT)]).expect("servers");
        let agent = Agent::new(cofferdam, &world).settings(settings);
        agent.document("policies.yaml", DB_FROM_WEB);
        Self {
            agent,
            world,
            _servers: servers,
        }
    }

    /// Makes one whose agent enforces the policy of the shop.
    ///
    /// # Panics
    ///
    /// Panics if it does not.
    pub fn enforced(cofferdam: &Path, wiring: Wiring, settings: &str) -> Self {
        let mut stand = Self::new(cofferdam, wiring, settings);
        stand.agent.start_enforced();
        add_both(&stand.agent, &stand.world);
        stand
    }

    /// A workload.
    pub fn workload(&self, name: &str) -> &Workload {
        named(&self.world, name)
    }
}

/// Adds web and the database.
///
/// # Panics
///
/// Panics if one is refused.
pub fn add_both(agent: &Agent, world: &World) {
    agent.add(named(world, "shop/web"), &["app=web"]);
    agent.add(named(world, "shop/db"), &["app=db"]);
}

/// Waits until everything stands first on every hook: links follow the filters when nobody asks
/// for anything.
///
/// # Panics
///
/// Panics if that does not come about.
pub fn wait_attached(agent: &Agent) -> StatusReport {
    agent.wait_until("attached", |status| {
        let attached = |endpoint: &EndpointStatus| {
            let links = &endpoint.links;
            !links.is_empty() && links.iter().all(|link| link.ok && link.first)
        };
        status.enforced && status.endpoints.iter().all(attached)
    })
}
