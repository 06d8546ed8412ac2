//! A node whose containers are attached by plugins, its agent, and what tests ask of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_protocol::output::EndpointReport;
use cofferdam_tests::agent::Agent;
use cofferdam_tests::cni::{Attaching, Network, PluginError, Plugins, Runtime, standard_plugins};
use cofferdam_tests::cofferdam;
use cofferdam_tests::packet::Family;
pub(crate) use cofferdam_tests::shop::DB_FROM_WEB;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Probe, Server, probe};
use cofferdam_tests::world::{Wiring, World};
use serde_json::{Value, json};

pub(crate) const PORT: u16 = 5432;

/// Time that a packet has to get through where it should be blocked.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);
/// Time that a packet has to get through where it should.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(5);

/// The standard plugins.
pub(crate) const PLUGINS: Feature = Feature::Other("cni-plugins", || standard_plugins().map(drop));

/// Path of `cofferdam-cni`.
pub(crate) fn plugin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cofferdam-cni-in-tests"))
}

pub(crate) struct Scene {
    // Before the plugins' folder: the agent is stopped first.
    pub(crate) agent: Agent,
    pub(crate) plugins: Plugins,
    pub(crate) world: World,
}

impl Scene {
    /// A node with an agent that does not run yet.
    pub(crate) fn new() -> Self {
        let world = World::plan(Wiring::Ptp).build().expect("a node");
        let agent = Agent::new(cofferdam!(), &world);
        let plugins = Plugins::with(plugin());
        Self {
            agent,
            plugins,
            world,
        }
    }

    /// A node with this policy in force.
    pub(crate) fn enforced(documents: &str) -> Self {
        let mut scene = Self::new();
        scene.agent.document("policies.yaml", documents);
        scene.agent.start_enforced();
        scene
    }

    pub(crate) fn runtime(&self) -> Runtime<'_> {
        Runtime {
            node: &self.world.node().namespace,
            plugins: &self.plugins,
        }
    }

    /// Folder in which `host-local` keeps what it has given out.
    pub(crate) fn leases(&self) -> PathBuf {
        self.agent.path("leases")
    }

    /// `cofferdam-cni` with what is asked for beside its run directory.
    pub(crate) fn cofferdam(&self, more: &Value) -> Value {
        let mut plugin = json!({
            "type": "cofferdam-cni",
            "runDir": self.agent.path("run"),
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        });
        let fields = more.as_object().into_iter().flatten();
        for (name, value) in fields {
            plugin[name] = value.clone();
        }
        plugin
    }

    /// A network of these plugins with `cofferdam-cni` behind them.
    pub(crate) fn network(&self, name: &str, plugins: Vec<Value>) -> Network {
        let mut plugins = plugins;
        plugins.push(self.cofferdam(&json!({})));
        Network {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            plugins,
        }
    }

    /// Runs `cofferdam-cni` of a network, which is its last plugin, alone.
    pub(crate) fn alone(
        &self,
        command: &str,
        network: &Network,
        one: Option<&Attaching>,
    ) -> Result<Vec<u8>, PluginError> {
        let last = network.plugins.last().expect("it is the last");
        self.runtime().call(command, network, last, one)
    }

    /// Attaches a container with these labels, and has it answer.
    pub(crate) fn attached(&self, network: &Network, name: &str, labels: &str) -> Container {
        let mut one = container(name, labels);
        (self.runtime().add(network, &mut one)).unwrap_or_else(|error| panic!("{error:?}"));
        Container::serving(one)
    }

    pub(crate) fn endpoint(&self, id: &str) -> Option<EndpointReport> {
        let mut all = self.agent.endpoints().into_iter();
        all.find(|one| one.called() == id && !one.leaving)
    }

    /// Ids of the endpoints that are there, and not leaving.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let all = self.agent.endpoints().into_iter();
        let living = all.filter(|one| !one.leaving);
        living.filter_map(|one| one.id).collect()
    }
}

/// A container of namespace `shop` that is not attached yet.
pub(crate) fn container(name: &str, labels: &str) -> Attaching {
    let annotations = json!({"cofferdam.dev/labels": labels, "other": "é"});
    Attaching::new(&format!("{name}-0a1b"))
        .named("shop", name)
        .capability("io.kubernetes.cri.pod-annotations", annotations)
}

/// An attached container with a server at [`PORT`].
pub(crate) struct Container {
    pub(crate) attaching: Attaching,
    _server: Server,
}

impl Container {
    pub(crate) fn serving(attaching: Attaching) -> Self {
        let server = Server::start(attaching.place(), &[Probe::Tcp(PORT)]).expect("a server");
        Self {
            attaching,
            _server: server,
        }
    }

    /// Says if it can connect to another, in either family; both must agree.
    pub(crate) fn reaches(&self, other: &Self, expected: bool) -> bool {
        let patience = if expected {
            UNTIL_GIVEN_UP
        } else {
            UNTIL_BLOCKED
        };
        let outcomes = Family::BOTH.map(|family| {
            let to = other.attaching.place().ip(family);
            let outcome = probe(self.attaching.place(), to, Probe::Tcp(PORT), patience);
            outcome.expect("a probe").is_reached()
        });
        assert_eq!(outcomes[0], outcomes[1], "families differ");
        outcomes[0]
    }

    #[track_caller]
    pub(crate) fn assert_reaches(&self, other: &Self) {
        let [from, to] = [self, other].map(|one| &one.attaching.container_id);
        assert!(self.reaches(other, true), "{from} reaches {to}");
    }

    #[track_caller]
    pub(crate) fn assert_blocked(&self, other: &Self) {
        let [from, to] = [self, other].map(|one| &one.attaching.container_id);
        assert!(!self.reaches(other, false), "{from} does not reach {to}");
    }
}
