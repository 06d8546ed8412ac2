//! Packets to virtual addresses, judged translated where they leave the node: by a link of
//! Ethernet, and by tunnels with and without Ethernet inside.
//!
//! `from_workload` marks the packets of `a`; here a filter of the test does, behind it.

use std::{net::IpAddr, time::Duration};

use cofferdam_dataplane::{Attachments, Program, Uplink};
use cofferdam_tests::{
    differential::{self, Plan},
    evasions::tool,
    firewall::{Firewall, Pod, Turn, named, stamp},
    ledger::{Ledger, allowed, denied},
    packet::Family,
    skip::Feature,
    skip_unless,
    traffic::{Outcome, Place, Probe, Server, probe},
    translation::{to_host, virtual_address},
    world::{Namespace, Wiring, World},
};
use cofferdam_verdict::{
    counter::Hook::{UplinkEgress, UplinkIngress},
    endpoint::UNDECIDED,
    reason::Reason,
    verdict::Action,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which no answer is expected any more.
const UNTIL_DENIED: Duration = Duration::from_millis(100);
const OPEN: u16 = 80;
const SHUT: u16 = 22;
const PROBES: [Probe; 4] = [
    Probe::Tcp(OPEN),
    Probe::Udp(OPEN),
    Probe::Tcp(SHUT),
    Probe::Udp(SHUT),
];

/// `a` reaches any port of the virtual addresses, and the open port of what is behind them;
/// nobody reaches `a`.
fn policies(far: [IpAddr; 2]) -> String {
    let [v4, v6] = far;
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: a, namespace: t}}
spec:
  podSelector: {{matchLabels: {{app: a}}}}
  policyTypes: [Ingress, Egress]
  egress:
  - to: [{{ipBlock: {{cidr: 10.99.0.0/16}}}}, {{ipBlock: {{cidr: fd99::/64}}}}]
  - to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: {v6}/128}}}}]
    ports: [{{protocol: TCP, port: {OPEN}}}, {{protocol: UDP, port: {OPEN}}}]
"
    )
}

/// A node with the firewall, `a` behind a bridge, and a host outside with a server.
struct Stage {
    firewall: Turn,
    world: World,
    _server: Server,
}

impl Stage {
    /// `prepare` leads to the far addresses over what is to be an uplink.
    fn open(masquerades: bool, far: Option<[&str; 2]>, prepare: impl Fn(&World)) -> Self {
        let world = World::plan(Wiring::Bridge)
            .workloads(["t/a"])
            .outside()
            .build()
            .expect("a world");
        prepare(&world);
        let outside = Place::from(world.outside());
        let mut end = outside.end;
        if let Some(far) = far {
            for address in far {
                end = end.with_ip(address.parse::<IpAddr>().expect("an address"));
            }
        }
        let far = Family::BOTH.map(|family| end.ip(family).expect("both families"));
        let server = Server::start(Place { end, ..outside }, &PROBES).expect("a server");
        let node = &world.node().namespace;
        tool::run(node, "nft", &["-f", "-"], &to_host(far, masquerades));
        let mut firewall = Firewall::turn();
        let a = Pod::new("t/a", &["app=a"]);
        firewall.enforce(&world, &[a], &policies(far));
        firewall.attach(&world);
        // What the bridge hands up to the node is `a`'s.
        let carried = UNDECIDED | u32::from(stamp(named(&world, "t/a")));
        run(node, "tc qdisc add dev br0 clsact");
        run(
            node,
            &format!(
                "tc filter add dev br0 ingress protocol all prio 1 u32 match u32 0 0 \
                 classid 1:{carried:x}"
            ),
        );
        Self {
            firewall,
            world,
            _server: server,
        }
    }

    fn attach(&mut self, interface: &str, uplink: Uplink) {
        self.firewall.attach_uplink(&self.world, interface, uplink);
    }

    #[track_caller]
    fn ask(&self, family: Family, asked: Probe, patience: Duration) -> bool {
        let a = named(&self.world, "t/a");
        let outcome = probe(a, virtual_address(family), asked, patience).expect("a socket");
        matches!(outcome, Outcome::Reached(name) if name == "outside")
    }

    #[track_caller]
    fn reaches(&self, family: Family, asked: Probe) {
        let reached = self.ask(family, asked, PATIENCE);
        assert!(reached, "{family} {asked:?}: {}", self.firewall.ledger());
    }

    #[track_caller]
    fn is_denied(&self, family: Family, asked: Probe) {
        let reached = self.ask(family, asked, UNTIL_DENIED);
        assert!(!reached, "{family} {asked:?}: {}", self.firewall.ledger());
    }

    /// Tries everything; the hook sees every packet of `a`'s once.
    #[track_caller]
    fn hold(&self) {
        self.hold_in(&Family::BOTH);
    }

    /// Like [`Stage::hold`], in these families.
    #[track_caller]
    fn hold_in(&self, families: &[Family]) {
        for &family in families {
            let before = self.firewall.ledger();
            self.reaches(family, Probe::Udp(OPEN));
            self.moved(&before, &[allowed(UplinkEgress, Reason::Rule, 1)]);
            let before = self.firewall.ledger();
            self.is_denied(family, Probe::Udp(SHUT));
            self.moved(&before, &[denied(UplinkEgress, Reason::Isolated, 1)]);
            let before = self.firewall.ledger();
            self.reaches(family, Probe::Tcp(OPEN));
            let now = self.firewall.ledger();
            let judged = |reason| {
                let count = |ledger: &Ledger| ledger.judged(UplinkEgress, Action::Allow, reason);
                count(&now) - count(&before)
            };
            assert_eq!(judged(Reason::Rule), 1, "{now}");
            assert!(judged(Reason::Flow) > 0, "{now}");
            self.is_denied(family, Probe::Tcp(SHUT));
            let denials = |ledger: &Ledger| ledger.total(UplinkEgress, Action::Deny);
            assert!(denials(&self.firewall.ledger()) > denials(&now), "{now}");
        }
        self.firewall.ledger().assert_conserved();
    }

    /// Checks what has moved at the uplink.
    #[track_caller]
    fn moved(&self, before: &Ledger, expected: &[cofferdam_tests::ledger::Moved]) {
        let moved = self.firewall.ledger().since(before).into_iter();
        let moved: Vec<_> = moved.filter(|one| one.hook == UplinkEgress).collect();
        assert_eq!(moved, expected);
    }
}

/// Runs a command, written in one line, in a namespace.
fn run(namespace: &Namespace, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    tool::run(namespace, words[0], &words[1..], "");
}

/// Far addresses behind a tunnel.
const BEHIND: [&str; 2] = ["10.200.0.9", "fd02::9"];

/// Makes both ends of a tunnel over the uplink, of a kind with `HERE` and `THERE` for the
/// addresses of its ends, `HERE6` and `THERE6` for those of IPv6.
fn tunnel(world: &World, kind: &str) {
    let (node, outside) = (&world.node().namespace, &world.outside().namespace);
    for (namespace, here, there) in [(node, 1, 2), (outside, 2, 1)] {
        let kind = (kind.replace("THERE6", &format!("fd51::{there}")))
            .replace("HERE6", &format!("fd51::{here}"))
            .replace("THERE", &format!("198.51.100.{there}"))
            .replace("HERE", &format!("198.51.100.{here}"));
        run(namespace, &format!("ip link add over0 type {kind}"));
    }
    lead_over(world);
}

/// Leads to the far addresses by the device `over0` at either end.
fn lead_over(world: &World) {
    for (namespace, number) in [
        (&world.node().namespace, 1),
        (&world.outside().namespace, 9),
    ] {
        run(namespace, "ip link set over0 up");
        run(
            namespace,
            &format!("ip addr add 10.200.0.{number}/24 dev over0"),
        );
        run(
            namespace,
            &format!("ip addr add fd02::{number}/64 dev over0 nodad"),
        );
        if number == 9 {
            run(namespace, "ip route add 10.64.0.0/16 via 10.200.0.1");
            run(namespace, "ip route add fd64::/64 via fd02::1");
        }
    }
}

#[test]
fn translated_packets_are_judged_on_their_way_off_the_node() {
    skip_unless!(Feature::NetworkNamespaces);
    for masquerades in [false, true] {
        let mut stage = Stage::open(masquerades, None, |_| ());
        stage.attach("uplink0", Uplink::Door);
        stage.hold();
    }
}

#[test]
fn the_filter_alone_judges_them_too() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut stage = Stage::open(true, None, |_| ());
    stage.attach("uplink0", Uplink::Door);
    for attachments in stage.firewall.attached() {
        attachments.drop_links();
    }
    stage.hold();
}

#[test]
fn what_a_tunnel_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("vxlan"));
    for masquerades in [false, true] {
        let mut stage = Stage::open(masquerades, Some(BEHIND), |world| {
            tunnel(world, "vxlan id 7 dstport 4789 local HERE remote THERE");
        });
        stage.attach("uplink0", Uplink::Door);
        stage.attach("over0", Uplink::Tunnel);
        stage.hold();
    }
    if Feature::LinkKind("gre").probe().is_ok() {
        without_ethernet();
        to_several_ends();
    }
}

/// Judges at a tunnel and at the uplink below it what leaves, in these families.
fn hold_over(kind: &str, families: &[Family]) {
    let mut stage = Stage::open(false, Some(BEHIND), |world| tunnel(world, kind));
    stage.attach("uplink0", Uplink::Door);
    stage.attach("over0", Uplink::Tunnel);
    stage.hold_in(families);
}

#[test]
fn what_geneve_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("geneve"));
    hold_over("geneve id 7 remote THERE", &Family::BOTH);
}

#[test]
fn what_a_tunnel_of_ipv4_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("ipip"));
    hold_over("ipip local HERE remote THERE", &[Family::V4]);
}

#[test]
fn what_a_tunnel_over_ipv4_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("sit"));
    hold_over("sit mode any local HERE remote THERE", &Family::BOTH);
}

#[test]
fn what_a_tunnel_over_ipv6_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("ip6tnl"));
    hold_over("ip6tnl mode any local HERE6 remote THERE6", &Family::BOTH);
}

/// WireGuard takes all marks off what it has encrypted: at the uplink that is the node's.
#[test]
fn what_wireguard_carries_is_judged_once_inside() {
    skip_unless!(Feature::LinkKind("wireguard"));
    let mut stage = Stage::open(false, Some(BEHIND), |world| {
        let (node, outside) = (&world.node().namespace, &world.outside().namespace);
        let secrets = [node, outside].map(|end| tool::run(end, "wg", &["genkey"], ""));
        let [here, there] = secrets
            .each_ref()
            .map(|secret| tool::run(node, "wg", &["pubkey"], secret));
        for (namespace, secret, peer, number) in [
            (node, &secrets[0], there, 2),
            (outside, &secrets[1], here, 1),
        ] {
            run(namespace, "ip link add over0 type wireguard");
            let set = format!(
                "set over0 listen-port 51820 private-key /proc/self/fd/0 peer {} allowed-ips \
                 0.0.0.0/0,::/0 endpoint 198.51.100.{number}:51820",
                peer.trim()
            );
            let words: Vec<_> = set.split_whitespace().collect();
            tool::run(namespace, "wg", &words, secret);
        }
        lead_over(world);
    });
    stage.attach("uplink0", Uplink::Door);
    stage.attach("over0", Uplink::Tunnel);
    stage.hold();
}

/// Tunnels of IP have no Ethernet header.
fn without_ethernet() {
    let mut stage = Stage::open(false, Some(BEHIND), |world| {
        tunnel(world, "gre local HERE remote THERE");
    });
    stage.attach("uplink0", Uplink::Door);
    stage.attach("over0", Uplink::Tunnel);
    stage.hold();
}

/// A tunnel to several ends puts its own header before the packet.
fn to_several_ends() {
    let mut stage = Stage::open(false, Some(BEHIND), |world| {
        tunnel(world, "gre local HERE");
        for (namespace, number, there) in [
            (&world.node().namespace, 9, "198.51.100.2"),
            (&world.outside().namespace, 1, "198.51.100.1"),
        ] {
            run(
                namespace,
                &format!("ip neigh add 10.200.0.{number} lladdr {there} dev over0"),
            );
        }
    });
    stage.attach("uplink0", Uplink::Door);
    stage.attach("over0", Uplink::Tunnel);
    let family = Family::V4;
    let before = stage.firewall.ledger();
    stage.reaches(family, Probe::Udp(OPEN));
    stage.is_denied(family, Probe::Udp(SHUT));
    let expected = [
        allowed(UplinkEgress, Reason::Rule, 1),
        denied(UplinkEgress, Reason::Isolated, 1),
    ];
    stage.moved(&before, &expected);
}

/// A device without Ethernet whose packets go to a process.
#[test]
fn what_leaves_by_a_device_without_ethernet_is_judged() {
    skip_unless!(Feature::Other("tun", || {
        let opened = std::fs::File::open("/dev/net/tun");
        opened.map(drop).map_err(|error| error.to_string())
    }));
    let mut stage = Stage::open(false, Some(BEHIND), |world| {
        let node = &world.node().namespace;
        run(node, "ip tuntap add dev tun0 mode tun");
        run(node, "ip link set tun0 up");
        run(node, "ip route add 10.200.0.0/24 dev tun0");
        run(node, "ip route add fd02::/64 dev tun0");
        // The server needs its addresses somewhere, and at once.
        let outside = &world.outside().namespace;
        let [v4, v6] = BEHIND;
        run(outside, &format!("ip addr add {v4} dev lo"));
        run(outside, &format!("ip addr add {v6} dev lo nodad"));
    });
    stage.attach("tun0", Uplink::Exit);
    for family in Family::BOTH {
        for (port, expected) in [
            (OPEN, allowed(UplinkEgress, Reason::Rule, 1)),
            (SHUT, denied(UplinkEgress, Reason::Isolated, 1)),
        ] {
            let before = stage.firewall.ledger();
            stage.is_denied(family, Probe::Udp(port));
            stage.moved(&before, &[expected]);
        }
    }
}

/// A packet on another node, or at the next uplink, bears no mark any more.
#[test]
fn nothing_that_has_left_is_judged_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut stage = Stage::open(false, None, |_| ());
    stage.attach("uplink0", Uplink::Door);
    // The answer of a host outside that sends what it gets back by its own uplink.
    let outside = &stage.world.outside().namespace;
    run(outside, "sysctl -qw net.ipv4.ip_forward=1");
    run(outside, "ip link add next0 type veth peer name next1");
    run(outside, "ip link set next1 up");
    run(outside, "ip link set next0 up");
    run(outside, "ip route add 203.0.113.0/24 dev next0");
    let nat = "\
table ip nat {
    chain in {
        type nat hook prerouting priority dstnat
        udp dport 80 dnat to 203.0.113.9
    }
}
";
    tool::run(outside, "nft", &["-f", "-"], nat);
    run(
        outside,
        "ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev next0",
    );
    let inside = outside.enter().expect("a namespace");
    let next: Attachments = stage
        .firewall
        .kernel()
        .attach_uplink("next0", Uplink::Exit)
        .expect("it is attached");
    drop(inside);
    let before = stage.firewall.ledger();
    stage.is_denied(Family::V4, Probe::Udp(OPEN));
    stage.moved(&before, &[allowed(UplinkEgress, Reason::Rule, 1)]);
    let sent = tool::run(outside, "ip", &["-s", "link", "show", "next0"], "");
    let inside = outside.enter().expect("a namespace");
    drop(next);
    drop(inside);
    let packets = sent.lines().last().expect("counts of what was sent");
    assert!(!packets.trim_start().starts_with("0 "), "{sent}");
}

#[test]
fn what_bears_no_mark_passes_uncounted() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut stage = Stage::open(false, None, |_| ());
    stage.attach("uplink0", Uplink::Door);
    run(&stage.world.node().namespace, "tc qdisc del dev br0 clsact");
    let before = stage.firewall.ledger();
    for family in Family::BOTH {
        // The sender's hook has decided: it does not know what is behind the address.
        for port in [OPEN, SHUT] {
            stage.reaches(family, Probe::Udp(port));
        }
    }
    stage.moved(&before, &[]);
    let now = stage.firewall.ledger();
    assert_eq!(now.seen(UplinkEgress), before.seen(UplinkEgress));
}

/// The same random packets at the uplink and at the workload's hook, without flows.
#[test]
fn nothing_is_dropped_early_that_the_workloads_hook_lets_pass() {
    let world = differential::world().expect("a world");
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::turn();
    let loaded = firewall.kernel().load_later(Program::UPLINK_INGRESS);
    loaded.unwrap_or_else(|error| panic!("{error}"));
    let before = firewall.ledger();
    let plan = Plan {
        seed: 0,
        worlds: 40,
        packets: 500,
        deadline: None,
    };
    let outcome = differential::run_early(&mut firewall, &world, &plan);
    assert!(outcome.lost.is_empty(), "{}", outcome.lost.join("\n"));
    assert!(outcome.dropped > 1000, "{outcome:?}");
    assert!(outcome.passed > 1000, "{outcome:?}");
    let now = firewall.ledger();
    let dropped = |ledger: &Ledger| ledger.total(UplinkIngress, Action::Deny);
    assert_eq!(dropped(&now) - dropped(&before), outcome.dropped);
    now.assert_conserved();
}
