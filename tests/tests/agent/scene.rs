//! A shop of two workloads, its node's agent, and what tests ask of them.

use std::time::Duration;

use cofferdam_tests::agent::Agent;
use cofferdam_tests::cofferdam;
use cofferdam_tests::firewall::named;
use cofferdam_tests::packet::Family;
pub(crate) use cofferdam_tests::shop::DB_FROM_WEB;
use cofferdam_tests::traffic::{Place, Probe, Server, probe};
use cofferdam_tests::world::{Wiring, Workload, World};

pub(crate) const PORT: u16 = 5432;

/// Time in which a blocked connection must not get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);
/// Longest wait for a connection that must get through.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(5);

/// Nobody may connect to the database.
pub(crate) const DB_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
";

/// Not a policy, by one letter.
pub(crate) const DB_BROKEN: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelektor: {matchLabels: {app: db}}
";

/// Lets time pass in which something must not happen, or may.
#[expect(
    clippy::disallowed_methods,
    reason = "the time itself counts; nothing is waited for"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) world: World,
    _servers: Vec<Server>,
}

impl Scene {
    /// A world and an agent that does not run yet.
    pub(crate) fn new(wiring: Wiring) -> Self {
        Self::of(wiring, &["shop/web", "shop/db", "shop/stranger"])
    }

    /// The same with these workloads.
    pub(crate) fn of(wiring: Wiring, workloads: &[&str]) -> Self {
        let world = World::plan(wiring)
            .workloads(workloads.iter().copied())
            .build()
            .expect("a world");
        let places = world.workloads().iter().map(Place::from);
        let servers = Server::start_all(places, &[Probe::Tcp(PORT)]).expect("servers");
        Self {
            agent: Agent::new(cofferdam!(), &world),
            world,
            _servers: servers,
        }
    }

    /// The same with documents, a running agent and both endpoints.
    pub(crate) fn enforced(wiring: Wiring, documents: &str) -> Self {
        Self::new(wiring).in_force(documents)
    }

    /// Puts documents, an agent and both endpoints into a world.
    pub(crate) fn in_force(mut self, documents: &str) -> Self {
        self.agent.document("policies.yaml", documents);
        self.agent.start_enforced();
        self.add_both();
        self
    }

    pub(crate) fn add_both(&self) {
        self.agent.add(self.workload("shop/web"), &["app=web"]);
        self.agent.add(self.workload("shop/db"), &["app=db"]);
    }

    pub(crate) fn workload(&self, name: &str) -> &Workload {
        named(&self.world, name)
    }

    /// Returns `true` if one workload can connect to another; both families must agree.
    pub(crate) fn reaches(&self, from: &str, to: &str, expected: bool) -> bool {
        let patience = if expected {
            UNTIL_GIVEN_UP
        } else {
            UNTIL_BLOCKED
        };
        let outcomes = Family::BOTH.map(|family| {
            let to = Place::from(self.workload(to)).ip(family);
            let from = self.workload(from);
            let outcome = probe(from, to, Probe::Tcp(PORT), patience).expect("a probe");
            outcome.is_reached()
        });
        assert_eq!(outcomes[0], outcomes[1], "families differ");
        outcomes[0]
    }

    #[track_caller]
    pub(crate) fn assert_reaches(&self, from: &str, to: &str) {
        assert!(self.reaches(from, to, true), "{from} reaches {to}");
    }

    #[track_caller]
    pub(crate) fn assert_blocked(&self, from: &str, to: &str) {
        assert!(!self.reaches(from, to, false), "{from} does not reach {to}");
    }
}
