//! Services whose addresses a proxy translates on this node: policy is judged on the
//! backends, on the way there and back.
//!
//! Every test first shows, without the firewall, that what it tries is answered.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use cofferdam_tests::{
    evasions::tool,
    firewall::{Firewall, Pod, Turn, named},
    ledger::Ledger,
    packet::Family,
    skip::Feature,
    skip_unless,
    traffic::{Outcome, Probe, Server, probe},
    world::{Wiring, World},
};
use cofferdam_verdict::{
    counter::Hook,
    reason::Reason,
    verdict::Action::{Allow, Deny},
};

/// An answer takes less than a millisecond; this is for a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which no answer is expected any more: far more than any here has taken.
const SILENCE: Duration = Duration::from_millis(150);
/// Ports of the Service and of its backends.
const PORTS: [u16; 2] = [80, 8080];
const NODE_PORT: u16 = 30_080;
/// Tries in which each of two backends is chosen, but for one time in 30 000.
const TRIES: usize = 16;

/// Says which connections' senders the node's address stands for.
#[derive(Clone, Copy, Debug)]
enum Masquerade {
    /// Those that come back to their sender, as kube-proxy does it.
    Hairpins,
    /// All that are translated.
    All,
}

/// Rules like those that kube-proxy writes for nftables, for the Service in [`SERVICE`].
fn rules(masquerade: Masquerade) -> String {
    let mut rules = String::from(
        "table inet services {\n chain in {\n  type nat hook prerouting priority dstnat\n",
    );
    for (family, virtual_address, node, backends) in [
        ("ip", "10.99.0.1", "10.64.0.1", ["10.64.0.3", "10.64.0.4"]),
        ("ip6", "fd99::1", "fd64::1", ["fd64::3", "fd64::4"]),
    ] {
        let [first, second] = backends;
        for protocol in ["tcp", "udp"] {
            for (address, port) in [(virtual_address, PORTS[0]), (node, NODE_PORT)] {
                writeln!(
                    rules,
                    "  {family} daddr {address} {protocol} dport {port} dnat {family} to \
                     numgen random mod 2 map {{ 0 : {first} . {inner}, 1 : {second} . {inner} }}",
                    inner = PORTS[1]
                )
                .expect("writing to a string");
            }
        }
    }
    rules.push_str(" }\n chain out {\n  type nat hook postrouting priority srcnat\n");
    match masquerade {
        Masquerade::Hairpins => {
            for (family, backend) in [
                ("ip", "10.64.0.3"),
                ("ip", "10.64.0.4"),
                ("ip6", "fd64::3"),
                ("ip6", "fd64::4"),
            ] {
                writeln!(
                    rules,
                    "  {family} saddr {backend} {family} daddr {backend} ct status dnat masquerade"
                )
                .expect("writing to a string");
            }
        }
        Masquerade::All => rules.push_str("  ct status dnat masquerade\n"),
    }
    rules.push_str(" }\n}\n");
    rules
}

/// A Service of both families, before two pods.
const SERVICE: &str = "\
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: t}
spec:
  type: NodePort
  selector: {app: web}
  clusterIP: 10.99.0.1
  clusterIPs: [10.99.0.1, \"fd99::1\"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30080}
";

/// Isolates workloads in both directions.
const CLOSED: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: t}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Allows both ends of connections to pods with a label, at a port.
fn connects(name: &str, label: &str, port: u16) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}-out, namespace: t}}
spec:
  podSelector: {{matchLabels: {{app: client}}}}
  policyTypes: [Egress]
  egress:
  - to: [{{podSelector: {{matchLabels: {{{label}}}}}}}]
    ports: [{{protocol: TCP, port: {port}}}, {{protocol: UDP, port: {port}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}-in, namespace: t}}
spec:
  podSelector: {{matchLabels: {{{label}}}}}
  policyTypes: [Ingress]
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]
    ports: [{{protocol: TCP, port: {port}}}, {{protocol: UDP, port: {port}}}]
"
    )
}

/// Where a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Virtual,
    NodePort,
}

impl At {
    const ALL: [Self; 2] = [Self::Virtual, Self::NodePort];

    fn address(self, family: Family) -> std::net::IpAddr {
        let text = match (self, family) {
            (Self::Virtual, Family::V4) => "10.99.0.1",
            (Self::Virtual, Family::V6) => "fd99::1",
            (Self::NodePort, Family::V4) => "10.64.0.1",
            (Self::NodePort, Family::V6) => "fd64::1",
        };
        text.parse().expect("an address")
    }

    const fn port(self) -> u16 {
        match self {
            Self::Virtual => PORTS[0],
            Self::NodePort => NODE_PORT,
        }
    }
}

/// A node with a client and two backends.
struct Scene {
    world: World,
    firewall: Turn,
    _servers: Vec<Server>,
}

impl Scene {
    fn build(wiring: Wiring, masquerade: Masquerade) -> Self {
        let world = World::plan(wiring)
            .workloads(["t/client", "t/one", "t/two"])
            .outside()
            .build()
            .expect("a world");
        let node = &world.node().namespace;
        tool::run(node, "nft", &["-f", "-"], &rules(masquerade));
        let backends = ["t/one", "t/two"].map(|name| named(&world, name));
        let open = [Probe::Tcp(PORTS[1]), Probe::Udp(PORTS[1])];
        let servers = Server::start_all(backends, &open).expect("servers");
        Self {
            world,
            firewall: Firewall::turn(),
            _servers: servers,
        }
    }

    fn guard(&mut self, policies: &str) {
        let pods = [
            Pod::new("t/client", &["app=client"]),
            Pod::new("t/one", &["app=web", "which=one"]),
            Pod::new("t/two", &["app=web", "which=two"]),
        ];
        self.firewall.enforce(&self.world, &pods, policies);
        self.firewall.attach(&self.world);
    }

    fn tries(
        &self,
        from: &str,
        at: At,
        family: Family,
        what: Probe,
        patience: Duration,
    ) -> Outcome {
        let from = named(&self.world, from);
        let outcome = probe(from, at.address(family), what, patience);
        outcome.expect("a socket")
    }

    /// Tries several times, until both backends or only one may be expected to have
    /// answered; returns who did.
    fn answer(&self, from: &str, at: At, family: Family, what: Probe) -> BTreeSet<String> {
        let outcomes = (0..TRIES).map(|_| self.tries(from, at, family, what, PATIENCE));
        let names = outcomes.map(|outcome| match outcome {
            Outcome::Reached(name) => name,
            other => panic!(
                "{at:?} {family} {what}: {other}: {}",
                self.firewall.ledger()
            ),
        });
        names.collect()
    }

    /// Every way to the Service, in both families.
    fn ways() -> impl Iterator<Item = (At, Family, Probe)> {
        At::ALL.into_iter().flat_map(|at| {
            let probes = [Probe::Tcp(at.port()), Probe::Udp(at.port())];
            let families = Family::BOTH.into_iter();
            families.flat_map(move |family| probes.map(|what| (at, family, what)))
        })
    }

    /// Shows that both backends answer without the firewall.
    fn show(&self) {
        for (at, family, what) in Self::ways() {
            let names = self.answer("t/client", at, family, what);
            assert_eq!(names.len(), 2, "{at:?} {family} {what}: {names:?}");
        }
    }

    /// Packets dropped by a hook for a reason.
    fn drops(&self, hook: Hook, reason: Reason) -> u64 {
        self.firewall.ledger().judged(hook, Deny, reason)
    }
}

/// Runs a trial in both wirings, with and without masquerade.
fn everywhere(trial: impl Fn(&mut Scene)) {
    // On a bridge a backend's answer to a neighbour does not come by the node's tables.
    for (wiring, masquerade) in [
        (Wiring::Ptp, Masquerade::Hairpins),
        (Wiring::Ptp, Masquerade::All),
        (Wiring::Bridge, Masquerade::All),
    ] {
        let mut scene = Scene::build(wiring, masquerade);
        scene.show();
        trial(&mut scene);
        scene.firewall.ledger().assert_conserved();
    }
}

/// Packets of a Ledger that a hook dropped.
fn dropped(ledger: &Ledger, hook: Hook) -> u64 {
    ledger.total(hook, Deny)
}

#[test]
fn a_rule_that_names_the_backends_opens_their_service() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|scene| {
        let policies = [SERVICE, CLOSED, &connects("web", "app: web", PORTS[1])].concat();
        scene.guard(&policies);
        let before = scene.firewall.ledger();
        for (at, family, what) in Scene::ways() {
            let names = scene.answer("t/client", at, family, what);
            assert_eq!(names.len(), 2, "{at:?} {family} {what}: {names:?}");
        }
        let after = scene.firewall.ledger();
        for hook in [Hook::FromWorkload, Hook::ToWorkload] {
            assert_eq!(dropped(&after, hook), dropped(&before, hook), "{after}");
        }
        let undecided =
            |ledger: &Ledger| ledger.judged(Hook::FromWorkload, Allow, Reason::VirtualUndecided);
        assert_eq!(undecided(&after), undecided(&before), "all may be reached");
    });
}

#[test]
fn a_rule_that_names_the_services_port_opens_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|scene| {
        let policies = [SERVICE, CLOSED, &connects("web", "app: web", PORTS[0])].concat();
        scene.guard(&policies);
        for (at, family, what) in Scene::ways() {
            let before = scene.drops(Hook::FromWorkload, Reason::Isolated);
            let outcome = scene.tries("t/client", at, family, what, SILENCE);
            assert_eq!(outcome, Outcome::Blocked, "{at:?} {family} {what}");
            assert!(scene.drops(Hook::FromWorkload, Reason::Isolated) > before);
        }
    });
}

#[test]
fn of_two_backends_the_allowed_one_alone_is_reached() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|scene| {
        let policies = [SERVICE, CLOSED, &connects("one", "which: one", PORTS[1])].concat();
        scene.guard(&policies);
        for (at, family, what) in Scene::ways() {
            let before = scene.firewall.ledger();
            let outcomes = (0..TRIES).map(|_| scene.tries("t/client", at, family, what, SILENCE));
            let outcomes: Vec<Outcome> = outcomes.collect();
            let allowed = Outcome::Reached("t/one".to_owned());
            let reached = outcomes
                .iter()
                .filter(|outcome| **outcome == allowed)
                .count();
            let blocked = outcomes
                .iter()
                .filter(|outcome| **outcome == Outcome::Blocked)
                .count();
            let case = format!("{at:?} {family} {what}: {outcomes:?}");
            assert!(
                reached > 0 && blocked > 0 && reached + blocked == TRIES,
                "{case}"
            );
            let after = scene.firewall.ledger();
            let moved = |hook| dropped(&after, hook) - dropped(&before, hook);
            assert_eq!(moved(Hook::FromWorkload), 0, "{case}: {after}");
            assert!(moved(Hook::ToWorkload) >= blocked as u64, "{case}: {after}");
        }
    });
}

#[test]
fn a_service_whose_backends_are_closed_is_denied_where_it_is_asked_for() {
    skip_unless!(Feature::NetworkNamespaces);
    let ingress_alone = CLOSED
        .replace(", Egress", "")
        .replace("{}", "{matchLabels: {app: web}}");
    everywhere(|scene| {
        scene.guard(&[SERVICE, &ingress_alone].concat());
        scene.firewall.reported();
        for (at, family, what) in Scene::ways() {
            let before = scene.drops(Hook::FromWorkload, Reason::Isolated);
            let outcome = scene.tries("t/client", at, family, what, SILENCE);
            assert_eq!(outcome, Outcome::Blocked, "{at:?} {family} {what}");
            assert!(scene.drops(Hook::FromWorkload, Reason::Isolated) > before);
        }
        let directions: BTreeSet<u32> = (scene.firewall.reported().iter())
            .map(|event| u32::from(event.direction))
            .collect();
        assert_eq!(directions.len(), 1, "all by the ingress of the backends");
    });
}

#[test]
fn a_workload_reaches_itself_through_its_service() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(|scene| {
        scene.guard(&[SERVICE, CLOSED].concat());
        for family in Family::BOTH {
            for what in [Probe::Tcp(PORTS[0]), Probe::Udp(PORTS[0])] {
                let outcomes: Vec<Outcome> = (0..TRIES)
                    .map(|_| scene.tries("t/one", At::Virtual, family, what, SILENCE))
                    .collect();
                let itself = Outcome::Reached("t/one".to_owned());
                let only = outcomes
                    .iter()
                    .all(|outcome| *outcome == itself || *outcome == Outcome::Blocked);
                assert!(
                    only && outcomes.contains(&itself),
                    "{family} {what}: {outcomes:?}"
                );
            }
        }
    });
}

#[test]
fn a_block_with_a_services_address_opens_nothing_there() {
    skip_unless!(Feature::NetworkNamespaces);
    let block = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: block, namespace: t}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.99.0.0/16}}, {ipBlock: {cidr: fd99::/64}}]
";
    everywhere(|scene| {
        scene.guard(&[SERVICE, CLOSED, block].concat());
        for family in Family::BOTH {
            for what in [Probe::Tcp(80), Probe::Udp(80), Probe::Tcp(81), Probe::Ping] {
                let before = scene.drops(Hook::FromWorkload, Reason::Isolated);
                let outcome = scene.tries("t/client", At::Virtual, family, what, SILENCE);
                assert_eq!(outcome, Outcome::Blocked, "{family} {what}");
                let after = scene.drops(Hook::FromWorkload, Reason::Isolated);
                assert!(
                    after > before,
                    "{family} {what}: {}",
                    scene.firewall.ledger()
                );
            }
        }
    });
}
