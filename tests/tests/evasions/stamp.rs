//! Senders are known by their stamp wherever neither interface nor source address names
//! them: behind masquerade, refragmentation, foreign filters and redirection.
//!
//! Every test first shows, without the firewall, that each datagram it sends arrives.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use cofferdam_tests::{
    evasions::tool,
    firewall::{Firewall, Pod, Turn, named, stamp},
    packet::{End, Extension, Family, Mac, udp, vxlan},
    skip::Feature,
    skip_unless,
    traffic::FrameSocket,
    world::{Namespace, Wiring, World},
};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Action};

/// Longest wait for a datagram. It takes a millisecond; the rest is for a machine that is
/// busy with something else.
const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const OPEN: u16 = 80;
const SHUT: u16 = 22;
/// Sizes of datagrams: in one packet, and in several that the node puts together, and
/// apart again, where it tracks connections.
const SIZES: [usize; 2] = [100, 4000];

/// Leads the virtual addresses to `b`, behind the node's own address.
pub(crate) const VIRTUAL: &str = "\
table inet virtual {
    chain in {
        type nat hook prerouting priority dstnat
        ip daddr 10.99.0.1 dnat ip to 10.64.0.3
        ip6 daddr fd99::1 dnat ip6 to fd64::3
    }
    chain out {
        type nat hook postrouting priority srcnat
        ct status dnat masquerade
    }
}
";

/// Tracks every connection, so that the node puts fragments together.
const TRACKING: &str = "\
table inet tracking {
    chain way {
        type filter hook forward priority filter
        ct state invalid counter
    }
    chain own {
        type filter hook output priority filter
        ct state invalid counter
    }
}
";

/// `b` takes datagrams to the open port from `a` alone.
pub(crate) const INGRESS: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b-in, namespace: t}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{protocol: UDP, port: 80}]
";

/// `a` reaches the open port of `b`, and any port of the virtual addresses.
const EGRESS: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a-out, namespace: t}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: b}}}]
    ports: [{protocol: UDP, port: 80}]
  - to: [{ipBlock: {cidr: 10.99.0.0/16}}, {ipBlock: {cidr: fd99::/64}}]
";

/// Sender and receiver of a datagram, and whether it must pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    from: &'static str,
    to: To,
    port: u16,
    passes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// `b` by its own address.
    B,
    /// `b` by the virtual address.
    Virtual,
}

pub(crate) const fn passes(from: &'static str, to: To, port: u16) -> Talk {
    Talk {
        from,
        to,
        port,
        passes: true,
    }
}

const fn denied(from: &'static str, to: To, port: u16) -> Talk {
    Talk {
        from,
        to,
        port,
        passes: false,
    }
}

/// A node with workloads, and who listens there.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) firewall: Turn,
    listeners: Vec<(Family, u16, UdpSocket)>,
}

/// Source ports, none of which is used twice: the node's table of connections would take
/// the second for the first.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

impl Scene {
    pub(crate) fn build(wiring: Wiring, rules: &[&str]) -> Self {
        let world = World::plan(wiring)
            .workloads(["t/a", "t/b", "t/c"])
            .outside()
            .build()
            .expect("a world");
        for rules in rules {
            tool::run(&world.node().namespace, "nft", &["-f", "-"], rules);
        }
        let b = named(&world, "t/b");
        let mut listeners = Vec::new();
        for family in Family::BOTH {
            for port in [OPEN, SHUT] {
                let _inside = b.namespace.enter().expect("a namespace");
                let socket = UdpSocket::bind((b.ip(family), port)).expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("an option");
                listeners.push((family, port, socket));
            }
        }
        Self {
            world,
            firewall: Firewall::turn(),
            listeners,
        }
    }

    /// Puts policies in force and the programs on every workload's interface.
    pub(crate) fn guard(&mut self, policies: &str) {
        let pods =
            ["a", "b", "c"].map(|name| Pod::new(&format!("t/{name}"), &[&format!("app={name}")]));
        self.firewall.enforce(&self.world, &pods, policies);
        self.firewall.attach(&self.world);
    }

    fn namespace(&self, who: &str) -> &Namespace {
        match who {
            "node" => &self.world.node().namespace,
            "outside" => &self.world.outside().namespace,
            workload => &named(&self.world, workload).namespace,
        }
    }

    fn listener(&self, family: Family, port: u16) -> &UdpSocket {
        let found = (self.listeners.iter()).find(|one| (one.0, one.1) == (family, port));
        &found.expect("a port that is listened to").2
    }

    /// Sends a datagram from a port of its own.
    pub(crate) fn send(&self, talk: Talk, family: Family, data: &[u8]) {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        self.send_from(talk, family, port, data);
    }

    fn send_from(&self, talk: Talk, family: Family, port: u16, data: &[u8]) {
        let to = match (talk.to, family) {
            (To::B, family) => named(&self.world, "t/b").ip(family),
            (To::Virtual, Family::V4) => "10.99.0.1".parse().expect("an address"),
            (To::Virtual, Family::V6) => "fd99::1".parse().expect("an address"),
        };
        let any: IpAddr = match family {
            Family::V4 => "0.0.0.0".parse().expect("an address"),
            Family::V6 => "::".parse().expect("an address"),
        };
        let _inside = self.namespace(talk.from).enter().expect("a namespace");
        let socket = UdpSocket::bind((any, port)).expect("a socket");
        let sent = socket.send_to(data, SocketAddr::new(to, talk.port));
        sent.unwrap_or_else(|error| panic!("{talk:?} {family}: {error}"));
    }

    /// Waits for a datagram, and returns `true` if it arrives.
    pub(crate) fn arrives(&self, talk: Talk, family: Family, data: &[u8]) -> bool {
        let listener = self.listener(family, talk.port);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match listener.recv_from(&mut buffer) {
                Ok((length, _)) if buffer[..length] == *data => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next datagram that arrives.
    pub(crate) fn next(&self, family: Family, port: u16) -> Vec<u8> {
        let mut buffer = [0; 100];
        let heard = self.listener(family, port).recv_from(&mut buffer);
        let (length, _) = heard.expect("a datagram in time");
        buffer[..length].to_vec()
    }

    /// Waits until packets have been denied, or some time has passed.
    pub(crate) fn wait_for_denial(&self, before: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.denials() == before && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    pub(crate) fn denials(&self) -> u64 {
        let ledger = self.firewall.ledger();
        let hooks = [Hook::FromWorkload, Hook::ToWorkload];
        hooks
            .map(|hook| ledger.total(hook, Action::Deny))
            .iter()
            .sum()
    }

    /// Tries every talk in both families and sizes: what must pass arrives; what must not
    /// is denied, and does not arrive before an allowed datagram behind it.
    fn try_all(&self, talks: &[Talk], about: &str) {
        for family in Family::BOTH {
            for (talk, size) in talks
                .iter()
                .flat_map(|talk| SIZES.map(|size| (*talk, size)))
            {
                let mark = NEXT_PORT.load(Ordering::Relaxed) as u8;
                let data: Vec<u8> = (0..size).map(|at| at as u8 ^ mark).collect();
                let case = format!("{about}: {talk:?}, {family}, {size} bytes");
                let before = self.denials();
                self.send(talk, family, &data);
                if talk.passes {
                    assert!(
                        self.arrives(talk, family, &data),
                        "{case}: {}",
                        self.firewall.ledger()
                    );
                    continue;
                }
                self.wait_for_denial(before);
                assert_ne!(self.denials(), before, "{case}: denied by nobody");
                let probe = passes("t/a", To::B, OPEN);
                let allowed = [&data[..50], b"allowed"].concat();
                self.send(probe, family, &allowed);
                assert!(
                    self.arrives(probe, family, &allowed),
                    "{case}: the allowed one behind it"
                );
                let listener = self.listener(family, talk.port);
                listener.set_nonblocking(true).expect("an option");
                let mut buffer = [0; 16];
                let leaked = listener.recv_from(&mut buffer);
                listener.set_nonblocking(false).expect("an option");
                assert!(leaked.is_err(), "{case}: arrived");
            }
        }
    }

    /// Shows that without the firewall everything arrives.
    fn show_all(&self, talks: &[Talk], about: &str) {
        let open: Vec<Talk> = talks
            .iter()
            .map(|talk| Talk {
                passes: true,
                ..*talk
            })
            .collect();
        self.try_all(&open, &format!("{about}, no firewall"));
    }

    /// Takes the tcx links off: the filters do the same alone.
    fn keep_filters_alone(&mut self) {
        for attachments in self.firewall.attached() {
            attachments.drop_links();
        }
    }
}

/// Shows the talks without the firewall, then tries them under each of the policies, by
/// tcx and by filters alone.
fn hold(wiring: Wiring, rules: &[&str], prepare: impl Fn(&Scene), under: &[(&str, &[Talk])]) {
    let mut scene = Scene::build(wiring, rules);
    prepare(&scene);
    for (_, talks) in under {
        scene.show_all(talks, &wiring.to_string());
    }
    for (policies, talks) in under {
        scene.guard(policies);
        scene.try_all(talks, &format!("{wiring}, tcx"));
        scene.keep_filters_alone();
        scene.try_all(talks, &format!("{wiring}, clsact"));
        scene.firewall.ledger().assert_conserved();
        scene.firewall.detach();
    }
}

fn both() -> String {
    [INGRESS, EGRESS].concat()
}

#[test]
fn a_masqueraded_sender_is_judged_as_itself() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let from_a = [
            passes("t/a", To::Virtual, OPEN),
            denied("t/a", To::Virtual, SHUT),
        ];
        let from_both = [
            passes("t/a", To::Virtual, OPEN),
            denied("t/a", To::Virtual, SHUT),
            denied("t/c", To::Virtual, OPEN),
            denied("t/c", To::B, OPEN),
            passes("node", To::B, OPEN),
        ];
        hold(
            wiring,
            &[VIRTUAL],
            |_| (),
            &[
                (EGRESS, &from_a),
                (INGRESS, &from_both),
                (&both(), &from_both),
            ],
        );
    }
}

#[test]
fn a_refragmented_datagram_keeps_its_sender() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let talks = [
            passes("t/a", To::B, OPEN),
            denied("t/a", To::B, SHUT),
            denied("t/c", To::B, OPEN),
            // The node's own, which is put together and apart as well.
            passes("node", To::B, OPEN),
            passes("node", To::B, SHUT),
        ];
        hold(
            wiring,
            &[TRACKING],
            |scene| {
                // A bridge shows its packets to the node's rules only if asked to.
                for parameter in [
                    "net/bridge/bridge-nf-call-iptables",
                    "net/bridge/bridge-nf-call-ip6tables",
                ] {
                    scene
                        .world
                        .node()
                        .namespace
                        .set(parameter, "1")
                        .expect("bridge netfilter");
                }
            },
            &[(INGRESS, &talks), (&both(), &talks)],
        );
    }
}

/// A datagram of which only the first fragment has an extension header loses its
/// interface when it is put together and apart again.
#[test]
fn fragments_with_headers_of_their_own_are_not_the_node_s() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = Scene::build(wiring, &[TRACKING, VIRTUAL]);
        let send = |scene: &Scene, from: &str, to: To, mark: u8| {
            let sender = named(&scene.world, from);
            let b = named(&scene.world, "t/b").end;
            let end = match to {
                To::B => b,
                To::Virtual => sender
                    .gateway
                    .with_ip("fd99::1".parse::<IpAddr>().expect("an address")),
            };
            let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            let whole = udp()
                .family(Family::V6)
                .from(sender.end)
                .to(end)
                .via(sender.gateway.mac)
                .sport(port)
                .dport(OPEN)
                .payload(&[mark; 1000]);
            let pieces = whole
                .clone()
                .identification(0x7000 + u32::from(port))
                .fragments(&[504]);
            let socket = FrameSocket::open(&sender.namespace, "eth0").expect("a socket");
            let destination = Extension::destination_options(&[]);
            let late = whole
                .extension(destination)
                .identification(0x7000 + u32::from(port));
            let first = late.fragments(&[504]).swap_remove(0);
            socket.send(&first).expect("a frame");
            socket.send(&pieces[1]).expect("a frame");
        };
        for to in [To::B, To::Virtual] {
            send(&scene, "t/c", to, 7);
            let talk = passes("t/c", to, OPEN);
            assert!(
                scene.arrives(talk, Family::V6, &[7; 1000]),
                "{wiring} {to:?}: no firewall"
            );
        }
        scene.guard(&both());
        for to in [To::B, To::Virtual] {
            let before = scene.denials();
            send(&scene, "t/c", to, 8);
            scene.wait_for_denial(before);
            assert_ne!(scene.denials(), before, "{wiring} {to:?}: denied by nobody");
            send(&scene, "t/a", to, 9);
            let listener = scene.listener(Family::V6, OPEN);
            let mut buffer = [0; 2000];
            let first = listener.recv_from(&mut buffer).expect("the allowed one");
            assert_eq!((first.0, buffer[0]), (1000, 9), "{wiring} {to:?}");
        }
    }
}

/// The node has talked to `b` from a port; when its table of connections has forgotten
/// that, a masqueraded workload gets the same port.
#[test]
fn a_masqueraded_workload_does_not_go_on_with_the_node_s_flow() {
    skip_unless!(Feature::NetworkNamespaces);
    // The node's own datagrams leave no trace there.
    let untracked = "\
table inet untracked {
    chain own {
        type filter hook output priority raw
        notrack
    }
}
";
    for wiring in Wiring::BOTH {
        for family in Family::BOTH {
            let mut scene = Scene::build(wiring, &[VIRTUAL, untracked]);
            let from_c = passes("t/c", To::Virtual, OPEN);
            let shown = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            scene.send_from(from_c, family, shown, b"without a firewall");
            let listener = scene.listener(family, OPEN);
            let mut buffer = [0; 100];
            let (_, sender) = listener.recv_from(&mut buffer).expect("without a firewall");
            assert_eq!(
                sender.port(),
                shown,
                "the masqueraded port is the sender's own"
            );

            scene.guard(INGRESS);
            let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            let from_node = passes("node", To::B, OPEN);
            scene.send_from(from_node, family, port, b"by the node");
            assert!(scene.arrives(from_node, family, b"by the node"));
            let before = scene.firewall.ledger();
            let isolated = |ledger: &cofferdam_tests::ledger::Ledger| {
                ledger.judged(Hook::ToWorkload, Action::Deny, Reason::Isolated)
            };
            let denials = scene.denials();
            scene.send_from(from_c, family, port, b"by a workload");
            scene.wait_for_denial(denials);
            scene.send_from(from_node, family, port, b"by the node again");
            let listener = scene.listener(family, OPEN);
            let (length, _) = listener.recv_from(&mut buffer).expect("the node goes on");
            assert_eq!(&buffer[..length], b"by the node again", "{wiring} {family}");
            let after = scene.firewall.ledger();
            assert_eq!(
                isolated(&after),
                isolated(&before) + 1,
                "{wiring} {family}: {after}"
            );
        }
    }
}

/// A workload with CAP_NET_ADMIN writes another's stamp on what it sends.
#[test]
fn a_stamp_written_inside_a_workload_counts_for_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let talks = [
            denied("t/c", To::Virtual, OPEN),
            denied("t/c", To::B, OPEN),
            passes("t/a", To::Virtual, OPEN),
            denied("t/a", To::Virtual, SHUT),
        ];
        hold(
            wiring,
            &[VIRTUAL],
            |scene| {
                let (a, c) = (named(&scene.world, "t/a"), named(&scene.world, "t/c"));
                classify(&c.namespace, "eth0", "egress", stamp(a));
                classify(&a.namespace, "eth0", "egress", stamp(c));
            },
            &[(&both(), &talks)],
        );
    }
}

/// A filter of another tool on the uplink writes a workload's stamp on what comes in.
#[test]
fn a_stamp_written_on_the_uplink_makes_no_workload_of_a_host() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let talks = [denied("outside", To::B, OPEN), passes("t/a", To::B, OPEN)];
        hold(
            wiring,
            &[],
            |scene| {
                let outside = scene.world.outside();
                let number = stamp(named(&scene.world, "t/a"));
                classify(
                    &scene.world.node().namespace,
                    outside.uplink,
                    "ingress",
                    number,
                );
            },
            &[(&both(), &talks)],
        );
    }
}

/// A filter of another tool behind ours replaces the stamp. What has lost it is nobody's:
/// neither the outside's, which a policy may allow, nor another workload's.
#[test]
fn a_stamp_that_is_lost_or_replaced_on_the_way_opens_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    // Everybody but workloads reaches `b`.
    let anybody = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b-in, namespace: t}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
  ingress:
  - from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: \"::/0\"}}]
";
    for wiring in Wiring::BOTH {
        for number in [0, 0x77] {
            let mut scene = Scene::build(wiring, &[]);
            let node = &scene.world.node().namespace;
            let c = named(&scene.world, "t/c");
            classify(node, &c.host_interface, "ingress", number);
            let talk = denied("t/c", To::B, OPEN);
            scene.show_all(&[talk], &format!("{wiring}, stamp {number:#x}"));
            scene.guard(anybody);
            // Filters alone: an allowed packet ends the chain at tcx.
            scene.keep_filters_alone();
            let mut endpoint = scene.firewall.endpoint(&scene.world, "t/c");
            endpoint.shared_hooks = true;
            scene
                .firewall
                .kernel()
                .set_endpoint(&endpoint)
                .expect("there is room");
            for family in Family::BOTH {
                let foreign = |scene: &Scene| {
                    let ledger = scene.firewall.ledger();
                    ledger.judged(Hook::ToWorkload, Action::Deny, Reason::ForeignLocalAddress)
                };
                let (before, denials) = (foreign(&scene), scene.denials());
                scene.send(talk, family, b"without a stamp");
                scene.wait_for_denial(denials);
                assert_eq!(
                    foreign(&scene),
                    before + 1,
                    "{wiring} {family} {number:#x}: {}",
                    scene.firewall.ledger()
                );
                let probe = passes("t/a", To::B, OPEN);
                scene.send(probe, family, b"with one");
                let mut buffer = [0; 100];
                let (length, _) = scene
                    .listener(family, OPEN)
                    .recv_from(&mut buffer)
                    .expect("with one");
                assert_eq!(
                    &buffer[..length],
                    b"with one",
                    "{wiring} {family} {number:#x}"
                );
            }
        }
    }
}

/// As the bandwidth plugin does it: what a workload sends takes a way through another
/// device, behind the hook.
#[test]
fn a_stamp_survives_the_bandwidth_plugin_s_device() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = Scene::build(wiring, &[VIRTUAL]);
        let node = &scene.world.node().namespace;
        let a = named(&scene.world, "t/a");
        let tc = |words: &str| {
            let words: Vec<&str> = words.split_whitespace().collect();
            tool::run(node, "tc", &words, "")
        };
        tool::run(node, "ip", &["link", "add", "ifb0", "type", "ifb"], "");
        tool::run(node, "ip", &["link", "set", "ifb0", "up"], "");
        let shape = "root tbf rate 1gbit burst 1mb latency 100ms";
        tc(&format!("qdisc add dev ifb0 {shape}"));
        tc(&format!("qdisc add dev {} clsact", a.host_interface));
        tc(&format!(
            "filter add dev {} ingress pref 100 protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0",
            a.host_interface
        ));
        let talks = [
            passes("t/a", To::Virtual, OPEN),
            denied("t/a", To::Virtual, SHUT),
            passes("t/a", To::B, OPEN),
            denied("t/a", To::B, SHUT),
        ];
        scene.show_all(&talks, &format!("{wiring}, ifb"));
        let through = |scene: &Scene| {
            let device = ["-s", "-s", "qdisc", "show", "dev", "ifb0"];
            tool::run(&scene.world.node().namespace, "tc", &device, "")
        };
        let before = through(&scene);
        scene.guard(&both());
        let mut endpoint = scene.firewall.endpoint(&scene.world, "t/a");
        endpoint.shared_hooks = true;
        scene
            .firewall
            .kernel()
            .set_endpoint(&endpoint)
            .expect("there is room");
        scene.try_all(&talks, &format!("{wiring}, ifb, tcx"));
        assert_ne!(
            before,
            through(&scene),
            "{wiring}: nothing went through the device"
        );
        scene.keep_filters_alone();
        scene.try_all(&talks, &format!("{wiring}, ifb, clsact"));
    }
}

/// Lets a filter answer OK to every packet with a class identifier, which the kernel
/// writes where the stamp is.
pub(crate) fn classify(namespace: &Namespace, interface: &str, side: &str, number: u16) {
    // A qdisc that stands there already does as well.
    let qdisc = format!("qdisc replace dev {interface} clsact");
    let filter = format!(
        "filter add dev {interface} {side} pref 50000 protocol all u32 match u32 0 0 classid 1:{number:x}"
    );
    for words in [qdisc, filter] {
        let words: Vec<&str> = words.split_whitespace().collect();
        tool::run(namespace, "tc", &words, "");
    }
}

/// A workload wraps a packet in another node's workload's name and sends it to the node's
/// own end of a tunnel: unwrapped, it still has the stamp of who wrapped it.
#[test]
fn a_packet_that_a_workload_has_wrapped_is_not_another_node_s() {
    skip_unless!(Feature::LinkKind("vxlan"));
    let remote = "\
---
kind: Pod
apiVersion: v1
metadata: {namespace: t, name: remote, labels: {app: a}}
spec: {nodeName: n2, containers: []}
status: {podIPs: [{ip: 10.77.0.9}]}
";
    let end = Mac::local(0x55, 1);
    for wiring in Wiring::BOTH {
        let mut scene = Scene::build(wiring, &[]);
        let node = &scene.world.node().namespace;
        for words in [
            format!("link add vx0 address {end} type vxlan id 7 dstport 4789"),
            "link set vx0 up".to_owned(),
        ] {
            let words: Vec<&str> = words.split_whitespace().collect();
            tool::run(node, "ip", &words, "");
        }
        let wrapped = |scene: &Scene, data: &[u8]| {
            let b = named(&scene.world, "t/b").end;
            let sender = End::from(Ipv4Addr::new(10, 77, 0, 9));
            let inner = udp().from(sender).to(b).via(end).dport(OPEN);
            vxlan(7, &inner.payload(data)).sport(NEXT_PORT.fetch_add(1, Ordering::Relaxed))
        };
        let by_c = |scene: &Scene, data: &[u8]| {
            let c = named(&scene.world, "t/c");
            let packet = wrapped(scene, data)
                .from(c.end)
                .to(c.gateway)
                .via(c.gateway.mac);
            let socket = FrameSocket::open(&c.namespace, "eth0").expect("a socket");
            socket.send(&packet).expect("a frame");
        };
        let by_outside = |scene: &Scene, data: &[u8]| {
            let outside = scene.world.outside();
            let packet = wrapped(scene, data).from(outside.end).to(outside.gateway);
            let socket = FrameSocket::open(&outside.namespace, "eth0").expect("a socket");
            socket.send(&packet).expect("a frame");
        };
        let hears = |scene: &Scene| {
            let mut buffer = [0; 100];
            let listener = scene.listener(Family::V4, OPEN);
            let (length, _) = listener.recv_from(&mut buffer).expect("a datagram");
            buffer[..length].to_vec()
        };
        by_c(&scene, b"wrapped here");
        assert_eq!(hears(&scene), b"wrapped here", "{wiring}: no firewall");
        scene.guard(&[INGRESS, remote].concat());
        let denials = scene.denials();
        by_c(&scene, b"wrapped here again");
        scene.wait_for_denial(denials);
        by_outside(&scene, b"wrapped there");
        assert_eq!(hears(&scene), b"wrapped there", "{wiring}");
        let ledger = scene.firewall.ledger();
        let foreign = ledger.judged(Hook::ToWorkload, Action::Deny, Reason::ForeignLocalAddress);
        assert!(foreign > 0, "{wiring}: {ledger}");
    }
}
