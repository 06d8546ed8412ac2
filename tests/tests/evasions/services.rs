//! Services whose addresses a proxy translates on this node: policy is judged on the
//! backends, on the way there and back.
//!
//! Every test first shows, without the firewall, that what it tries is answered.

use std::{collections::BTreeSet, fmt::Write as _, thread, time::Duration};

use super::ipvs;
use cofferdam_dataplane::Uplink;
use cofferdam_tests::{
    evasions::tool,
    firewall::{Firewall, Pod, Turn, named},
    ledger::Ledger,
    packet::Family,
    skip::Feature,
    skip_unless,
    traffic::{Outcome, Place, Probe, Server, probe},
    world::{Namespace, Wiring, World},
};
use cofferdam_verdict::{
    counter::Hook,
    event::EventRecord,
    packet::{icmpv6, protocol},
    reason::Reason,
    verdict::{
        Action::{Allow, Deny},
        Direction, Verdict,
    },
};

/// An answer takes less than a millisecond; this is for a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which no answer is expected any more: far more than any here has taken.
const SILENCE: Duration = Duration::from_millis(150);
/// Ports of the Service and of its backends.
pub(super) const PORTS: [u16; 2] = [80, 8080];
pub(super) const NODE_PORT: u16 = 30_080;
/// Tries in which each of two backends is chosen, but for one time in 30 000.
const TRIES: usize = 16;

/// Says which connections' senders the node's address stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Masquerade {
    /// Those that come back to their sender, as kube-proxy does it.
    Hairpins,
    /// All that are translated.
    All,
}

/// A proxy, by whose rules its own are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proxy {
    Nftables,
    Iptables,
    Ipvs,
}

/// Translation on a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    proxy: Proxy,
    pub(super) masquerade: Masquerade,
    /// The second backend is on another node.
    is_far: bool,
}

/// Addresses of one family.
pub(super) struct Rules {
    pub(super) family: &'static str,
    pub(super) virtual_address: &'static str,
    pub(super) node: &'static str,
    pub(super) backends: [&'static str; 2],
}

impl Translation {
    pub(super) fn families(self) -> [Rules; 2] {
        let [far_v4, far_v6] = match self.is_far {
            true => ["198.51.100.2", "fd51::2"],
            false => ["10.64.0.4", "fd64::4"],
        };
        [
            Rules {
                family: "ip",
                virtual_address: "10.99.0.1",
                node: "10.64.0.1",
                backends: ["10.64.0.3", far_v4],
            },
            Rules {
                family: "ip6",
                virtual_address: "fd99::1",
                node: "fd64::1",
                backends: ["fd64::3", far_v6],
            },
        ]
    }

    /// Translates on a node, as kube-proxy does it for the Service in [`SERVICE`].
    fn apply(self, node: &Namespace) {
        match self.proxy {
            Proxy::Nftables => {
                tool::run(node, "nft", &["-f", "-"], &self.nftables());
            }
            Proxy::Iptables => {
                for (rules, tool) in
                    (self.families().iter()).zip(["iptables-nft-restore", "ip6tables-nft-restore"])
                {
                    tool::run(node, tool, &[], &self.iptables(rules));
                }
            }
            Proxy::Ipvs => ipvs::apply(self, node),
        }
    }

    fn nftables(self) -> String {
        let [mut inner, mut outer] = [String::new(), String::new()];
        for rules in self.families() {
            let (family, [first, second]) = (rules.family, rules.backends);
            for protocol in ["tcp", "udp"] {
                for (address, port) in [(rules.virtual_address, PORTS[0]), (rules.node, NODE_PORT)]
                {
                    writeln!(
                        inner,
                        "{family} daddr {address} {protocol} dport {port} dnat {family} to numgen \
                         random mod 2 map {{ 0 : {first} . {to}, 1 : {second} . {to} }}",
                        to = PORTS[1]
                    )
                    .expect("writing to a string");
                }
            }
            for backend in rules.backends {
                writeln!(
                    outer,
                    "{family} saddr {backend} {family} daddr {backend} ct status dnat masquerade"
                )
                .expect("writing to a string");
            }
        }
        if matches!(self.masquerade, Masquerade::All) {
            outer = "ct status dnat masquerade".to_owned();
        }
        format!(
            "table inet services {{
 chain in {{
  type nat hook prerouting priority dstnat
  {inner}
 }}
 chain out {{
  type nat hook postrouting priority srcnat
  {outer}
 }}
}}
"
        )
    }

    fn iptables(self, rules: &Rules) -> String {
        let mut text = String::from("*nat\n:SVC - [0:0]\n:SEP-0 - [0:0]\n:SEP-1 - [0:0]\n");
        for protocol in ["tcp", "udp"] {
            for (address, port) in [(rules.virtual_address, PORTS[0]), (rules.node, NODE_PORT)] {
                writeln!(
                    text,
                    "-A PREROUTING -d {address} -p {protocol} --dport {port} -j SVC"
                )
                .expect("writing to a string");
            }
        }
        if matches!(self.masquerade, Masquerade::All) {
            text.push_str("-A SVC -j MARK --or-mark 0x4000\n");
        }
        text.push_str("-A SVC -m statistic --mode random --probability 0.5 -j SEP-0\n");
        text.push_str("-A SVC -j SEP-1\n");
        for (number, backend) in rules.backends.iter().enumerate() {
            writeln!(
                text,
                "-A SEP-{number} -s {backend} -j MARK --or-mark 0x4000"
            )
            .expect("writing to a string");
            for protocol in ["tcp", "udp"] {
                let to = match rules.family {
                    "ip" => format!("{backend}:{}", PORTS[1]),
                    _ => format!("[{backend}]:{}", PORTS[1]),
                };
                writeln!(
                    text,
                    "-A SEP-{number} -p {protocol} -j DNAT --to-destination {to}"
                )
                .expect("writing to a string");
            }
        }
        text.push_str("-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n");
        text
    }
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

/// A backend on another node, behind the Service as well.
const FAR: &str = "\
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: t, labels: {app: web, which: far}}
spec: {nodeName: far, containers: [{name: c}]}
status: {podIPs: [{ip: 198.51.100.2}, {ip: \"fd51::2\"}]}
";

/// Slices say which backends there are where one is far.
const FAR_SLICES: &str = "\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: t, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: t, protocol: TCP, port: 8080}, {name: u, protocol: UDP, port: 8080}]
endpoints: [{addresses: [10.64.0.3]}, {addresses: [198.51.100.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: t, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: t, protocol: TCP, port: 8080}, {name: u, protocol: UDP, port: 8080}]
endpoints: [{addresses: [\"fd64::3\"]}, {addresses: [\"fd51::2\"]}]
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

/// Address by which a Service is reached.
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
pub(super) struct Scene {
    world: World,
    firewall: Turn,
    _servers: Vec<Server>,
}

impl Scene {
    fn build(wiring: Wiring, translation: Translation) -> Self {
        let world = World::plan(wiring)
            .workloads(["t/client", "t/one", "t/two"])
            .outside()
            .build()
            .expect("a world");
        translation.apply(&world.node().namespace);
        let backends = ["t/one", "t/two"].map(|name| Place::from(named(&world, name)));
        let far = Place {
            name: "t/far",
            ..Place::from(world.outside())
        };
        let open = [Probe::Tcp(PORTS[1]), Probe::Udp(PORTS[1])];
        let servers = Server::start_all(backends.into_iter().chain([far]), &open).expect("servers");
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
        (self.firewall).attach_uplink(&self.world, "uplink0", Uplink::Door);
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

    /// Tries several times at once: a backend is chosen for each.
    fn tries_often(
        &self,
        from: &str,
        at: At,
        family: Family,
        what: Probe,
        patience: Duration,
    ) -> Vec<Outcome> {
        thread::scope(|scope| {
            let all: Vec<_> = (0..TRIES)
                .map(|_| scope.spawn(|| self.tries(from, at, family, what, patience)))
                .collect();
            let ended = all.into_iter().map(|one| one.join());
            ended.map(|outcome| outcome.expect("an outcome")).collect()
        })
    }

    /// The backends that answer one of several tries each; all are answered.
    fn answer(&self, from: &str, at: At, family: Family, what: Probe) -> BTreeSet<String> {
        let outcomes = self.tries_often(from, at, family, what, PATIENCE);
        let names = outcomes.into_iter().map(|outcome| match outcome {
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

    /// Tries once, and finds that the client's own hook denies it by isolation.
    #[track_caller]
    fn is_denied_at_once(&self, at: At, family: Family, what: Probe) {
        let drops = || {
            let ledger = self.firewall.ledger();
            ledger.judged(Hook::FromWorkload, Deny, Reason::Isolated)
        };
        let before = drops();
        let outcome = self.tries("t/client", at, family, what, SILENCE);
        let about = format!("{at:?} {family} {what}: {}", self.firewall.ledger());
        assert_eq!(outcome, Outcome::Blocked, "{about}");
        assert!(drops() > before, "{about}");
    }

    /// Tries every way to the Service often, and finds both backends to answer.
    #[track_caller]
    fn reaches_both(&self) {
        for (at, family, what) in Self::ways() {
            let names = self.answer("t/client", at, family, what);
            assert_eq!(names.len(), 2, "{at:?} {family} {what}: {names:?}");
        }
    }
}

/// Runs a trial in both wirings, with and without masquerade.
fn everywhere(trial: impl Fn(&mut Scene)) {
    // On a bridge a backend's answer to a neighbour does not come by the node's tables.
    let setups = [
        (Wiring::Ptp, Proxy::Nftables, Masquerade::Hairpins),
        (Wiring::Ptp, Proxy::Iptables, Masquerade::All),
        (Wiring::Bridge, Proxy::Nftables, Masquerade::All),
    ];
    run(&setups, false, trial);
}

/// Runs a trial where the second backend is on another node.
fn with_a_far_backend(trial: impl Fn(&mut Scene)) {
    let setups = [
        (Wiring::Ptp, Proxy::Iptables, Masquerade::Hairpins),
        (Wiring::Bridge, Proxy::Nftables, Masquerade::All),
    ];
    run(&setups, true, trial);
}

/// Shows in each setup that without the firewall all is answered, and runs a trial there.
pub(super) fn run(
    setups: &[(Wiring, Proxy, Masquerade)],
    is_far: bool,
    trial: impl Fn(&mut Scene),
) {
    for (wiring, proxy, masquerade) in setups.iter().copied() {
        let translation = Translation {
            proxy,
            masquerade,
            is_far,
        };
        let mut scene = Scene::build(wiring, translation);
        scene.reaches_both();
        trial(&mut scene);
        scene.firewall.ledger().assert_conserved();
    }
}

/// Packets that a hook dropped.
fn dropped(ledger: &Ledger, hook: Hook) -> u64 {
    ledger.total(hook, Deny)
}

/// Redirects among what a hook dropped. The node sends them where two workloads on one bridge
/// talk by way of it; one that quotes a packet is dropped for its size, whatever policies say.
fn redirects(told: &[EventRecord], hook: Hook) -> u64 {
    let kind = |event: &EventRecord| event.destination_port >> 8;
    let redirects = told.iter().filter(|event| {
        (event.hook, event.protocol) == (hook as u8, protocol::ICMPV6)
            && kind(event) == u16::from(icmpv6::REDIRECT)
    });
    redirects.count() as u64
}

#[test]
fn a_rule_that_names_the_backends_opens_their_service() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(opened_by_its_backends);
}

pub(super) fn opened_by_its_backends(scene: &mut Scene) {
    let policies = [SERVICE, CLOSED, &connects("web", "app: web", PORTS[1])].concat();
    scene.guard(&policies);
    scene.firewall.reported();
    let before = scene.firewall.ledger();
    scene.reaches_both();
    let after = scene.firewall.ledger();
    let told = scene.firewall.reported();
    for hook in [Hook::FromWorkload, Hook::ToWorkload] {
        let lost = dropped(&after, hook) - dropped(&before, hook);
        assert_eq!(lost, redirects(&told, hook), "{after} {told:?}");
    }
    let undecided =
        |ledger: &Ledger| ledger.judged(Hook::FromWorkload, Allow, Reason::VirtualUndecided);
    assert_eq!(undecided(&after), undecided(&before), "all may be reached");
}

#[test]
fn a_rule_that_names_the_services_port_opens_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(shut_by_its_own_port);
}

pub(super) fn shut_by_its_own_port(scene: &mut Scene) {
    let policies = [SERVICE, CLOSED, &connects("web", "app: web", PORTS[0])].concat();
    scene.guard(&policies);
    for (at, family, what) in Scene::ways() {
        scene.is_denied_at_once(at, family, what);
    }
}

#[test]
fn of_two_backends_the_allowed_one_alone_is_reached() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(one_backend_allowed);
}

pub(super) fn one_backend_allowed(scene: &mut Scene) {
    let policies = [SERVICE, CLOSED, &connects("one", "which: one", PORTS[1])].concat();
    scene.guard(&policies);
    for (at, family, what) in Scene::ways() {
        let before = scene.firewall.ledger();
        let outcomes = scene.tries_often("t/client", at, family, what, SILENCE);
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
}

#[test]
fn a_service_whose_backends_are_closed_is_denied_where_it_is_asked_for() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(backends_closed);
}

pub(super) fn backends_closed(scene: &mut Scene) {
    let ingress_alone = CLOSED
        .replace(", Egress", "")
        .replace("{}", "{matchLabels: {app: web}}");
    scene.guard(&[SERVICE, &ingress_alone].concat());
    scene.firewall.reported();
    for (at, family, what) in Scene::ways() {
        scene.is_denied_at_once(at, family, what);
    }
    let events = scene.firewall.reported();
    // Whatever else is dropped meanwhile is no matter of policy.
    let by_policy = events.iter().filter(|event| {
        let verdict = Verdict::from_any_word(event.verdict);
        verdict.is_some_and(|verdict| verdict.reason == Reason::Isolated)
    });
    let directions: BTreeSet<u8> = by_policy.map(|event| event.direction).collect();
    let ingress = BTreeSet::from([Direction::Ingress as u8]);
    assert_eq!(directions, ingress, "all by the backends' own: {events:?}");
}

#[test]
fn a_workload_reaches_itself_through_its_service() {
    skip_unless!(Feature::NetworkNamespaces);
    everywhere(reached_by_its_backend);
}

pub(super) fn reached_by_its_backend(scene: &mut Scene) {
    scene.guard(&[SERVICE, CLOSED].concat());
    for family in Family::BOTH {
        for what in [Probe::Tcp(PORTS[0]), Probe::Udp(PORTS[0])] {
            let outcomes = scene.tries_often("t/one", At::Virtual, family, what, SILENCE);
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
                scene.is_denied_at_once(At::Virtual, family, what);
            }
        }
    });
}

#[test]
fn both_of_two_backends_are_reached_one_of_them_on_another_node() {
    skip_unless!(Feature::NetworkNamespaces);
    with_a_far_backend(both_backends_allowed);
}

pub(super) fn both_backends_allowed(scene: &mut Scene) {
    let allowed = connects("web", "app: web", PORTS[1]);
    scene.guard(&[SERVICE, FAR, FAR_SLICES, CLOSED, &allowed].concat());
    scene.firewall.reported();
    let before = scene.firewall.ledger();
    scene.reaches_both();
    let after = scene.firewall.ledger();
    let told = scene.firewall.reported();
    let hooks = [Hook::FromWorkload, Hook::ToWorkload, Hook::UplinkEgress];
    for hook in hooks {
        let lost = dropped(&after, hook) - dropped(&before, hook);
        assert_eq!(lost, redirects(&told, hook), "{after} {told:?}");
    }
    assert!(after.total(Hook::UplinkEgress, Allow) > 0, "{after}");
}

/// The sender's policy allows one backend, and a proxy chooses the other.
#[test]
fn a_denied_backend_on_another_node_is_not_reached() {
    skip_unless!(Feature::NetworkNamespaces);
    with_a_far_backend(far_or_near_denied);
}

pub(super) fn far_or_near_denied(scene: &mut Scene) {
    for (allowed, denying) in [("one", Hook::UplinkEgress), ("far", Hook::ToWorkload)] {
        let rules = connects("one", &format!("which: {allowed}"), PORTS[1]);
        scene.guard(&[SERVICE, FAR, FAR_SLICES, CLOSED, &rules].concat());
        for (at, family, what) in Scene::ways() {
            let before = scene.firewall.ledger();
            let outcomes = scene.tries_often("t/client", at, family, what, SILENCE);
            let wanted = Outcome::Reached(format!("t/{allowed}"));
            let count = |one: &Outcome| outcomes.iter().filter(|other| *other == one).count();
            let [reached, blocked] = [&wanted, &Outcome::Blocked].map(count);
            let case = format!("{allowed}: {at:?} {family} {what}: {outcomes:?}");
            assert!(
                reached > 0 && blocked > 0 && reached + blocked == TRIES,
                "{case}"
            );
            let after = scene.firewall.ledger();
            let moved = dropped(&after, denying) - dropped(&before, denying);
            assert!(moved >= blocked as u64, "{case}: {after}");
        }
        scene.firewall.detach();
    }
}

/// A Service has the address of a workload on another node, too (`externalIPs`). Who may reach
/// that workload reaches no backend by its address that is denied.
#[test]
fn a_service_with_a_workloads_address_opens_no_denied_backend() {
    skip_unless!(Feature::NetworkNamespaces);
    let other = "\
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: t, labels: {which: other}}
spec: {nodeName: far, containers: [{name: c}]}
status: {podIPs: [{ip: 10.99.0.1}, {ip: \"fd99::1\"}]}
";
    let service = SERVICE
        .replace(
            "clusterIPs: [10.99.0.1, \"fd99::1\"]",
            "clusterIPs: [10.99.9.9, \"fd99::9\"]
  externalIPs: [10.99.0.1, \"fd99::1\"]",
        )
        .replace("clusterIP: 10.99.0.1", "clusterIP: 10.99.9.9");
    let allowed = [("other", PORTS[0]), ("one", PORTS[1])]
        .map(|(which, port)| connects(which, &format!("which: {which}"), port))
        .concat();
    with_a_far_backend(|scene| {
        scene.guard(&[&service, other, FAR, FAR_SLICES, CLOSED, &allowed].concat());
        for family in Family::BOTH {
            for what in [Probe::Tcp(PORTS[0]), Probe::Udp(PORTS[0])] {
                let before = scene.firewall.ledger();
                let outcomes = scene.tries_often("t/client", At::Virtual, family, what, SILENCE);
                let one = Outcome::Reached("t/one".to_owned());
                let count = |one: &Outcome| outcomes.iter().filter(|other| *other == one).count();
                let [reached, blocked] = [&one, &Outcome::Blocked].map(count);
                let after = scene.firewall.ledger();
                let case = format!("{family} {what}: {outcomes:?}");
                assert!(
                    reached > 0 && blocked > 0 && reached + blocked == TRIES,
                    "{case}: {after}"
                );
                let hook = Hook::UplinkEgress;
                let moved = dropped(&after, hook) - dropped(&before, hook);
                assert!(moved >= blocked as u64, "{case}: {after}");
            }
        }
    });
}

/// A name server on the node has the address of the Service itself, and nothing translates
/// it.
#[test]
fn a_service_that_the_node_answers_itself_is_judged_by_its_backends() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = || {
        let world = World::plan(Wiring::Ptp)
            .workloads(["t/client", "t/one", "t/two"])
            .outside();
        let world = world.build().expect("a world");
        let node = &world.node().namespace;
        for address in ["10.99.0.1/32", "fd99::1/128"] {
            tool::run(node, "ip", &["addr", "add", address, "dev", "lo"], "");
        }
        let untracked = "\
table inet raw {
    chain in {
        type filter hook prerouting priority raw
        ip daddr 10.99.0.1 notrack
        ip6 daddr fd99::1 notrack
    }
    chain out {
        type filter hook output priority raw
        ip saddr 10.99.0.1 notrack
        ip6 saddr fd99::1 notrack
    }
}
";
        tool::run(node, "nft", &["-f", "-"], untracked);
        world
    };
    let world = world();
    let node = Place::from(world.node());
    let end = (node.end)
        .with_ip(At::Virtual.address(Family::V4))
        .with_ip(At::Virtual.address(Family::V6));
    let open = [Probe::Tcp(PORTS[0]), Probe::Udp(PORTS[0])];
    let server = Server::start(Place { end, ..node }, &open).expect("a server");
    let mut scene = Scene {
        world,
        firewall: Firewall::turn(),
        _servers: vec![server],
    };
    for (port, is_reached) in [(PORTS[1], true), (PORTS[0], false)] {
        scene.guard(&[SERVICE, CLOSED, &connects("web", "app: web", port)].concat());
        for family in Family::BOTH {
            for what in open {
                let patience = if is_reached { PATIENCE } else { SILENCE };
                let outcome = scene.tries("t/client", At::Virtual, family, what, patience);
                let about = format!("{family} {what}: {}", scene.firewall.ledger());
                assert_eq!(outcome.is_reached(), is_reached, "{about}");
            }
        }
        scene.firewall.detach();
    }
}
