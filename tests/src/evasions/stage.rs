//! Trying scenarios and errands in one setup.

use std::{
    cell::Cell,
    fmt, io,
    net::{IpAddr, UdpSocket},
    ops::AddAssign,
    time::{Duration, Instant},
};

use cofferdam_dataplane::{Behaviour, Kernel};
use cofferdam_verdict::{
    capacity::Limits,
    counter::Hook,
    event::EventRecord,
    verdict::{Action, Verdict},
};

use super::{
    Attack, Cast, Errand, Finding, Hooks, Isolation, Kind, Offloads, Party, Scenario, Setup,
    cast::OPEN_PORT, errands, scenarios, tool,
};
use crate::{
    firewall::{Firewall, LIMITS, Pod, named},
    ledger::Moved,
    packet::{Body, Family, Mac, Packet, ether, protocol, udp},
    traffic::{FrameSocket, Unfinished, UnfinishedSocket, carrying},
    world::{Namespace, World},
};

/// Longest time for packets that must come, which takes a millisecond; this is for a machine
/// that does other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Number of times that the node may send by itself while one scenario is tried. It does so
/// some three times in the second after a link came up.
const DISTURBANCES: usize = 10;
/// The ICMPv6 type of a report about listeners (RFC 3810).
const LISTENER_REPORT: u8 = 143;
/// The source port of the datagrams that must arrive.
const PROBE_PORT: u16 = 40_000;

/// A node with three workloads and a host outside.
pub struct Stage {
    /// The setup it is in.
    pub setup: Setup,
    /// Its namespaces.
    pub world: World,
    sockets: Vec<(Party, FrameSocket)>,
    /// Take what comes to the open port, so that nobody answers that it is closed.
    sinks: Vec<(Party, Family, UdpSocket)>,
    /// Shows what has passed the hook of its sender, and the outside host's way in.
    behind: FrameSocket,
    _spy: Namespace,
    number: Cell<u32>,
}

/// Numbers of things that were tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Attacks under the firewall.
    pub attacks: u64,
    /// Errands under the firewall.
    pub errands: u64,
    /// Attacks and errands without it.
    pub shown: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.attacks += other.attacks;
        self.errands += other.errands;
        self.shown += other.shown;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attacks,
            errands,
            shown,
        } = self;
        write!(
            f,
            "{attacks} attacks and {errands} errands, {shown} shown without the firewall"
        )
    }
}

/// The workloads, as documents have them.
fn pods() -> Vec<Pod> {
    vec![
        Pod::new("t/a", &["app=a"]),
        Pod::new("t/b", &["app=b"]),
        Pod::new("t/c", &["app=c"]),
    ]
}

/// Flows of each endpoint: no scenario may meet a set that earlier ones have filled.
const FLOWS: u32 = 4096;

/// Loads the programs for [`run`].
///
/// # Panics
///
/// Panics if the kernel refuses them.
pub fn firewall() -> Firewall {
    let limits = Limits {
        flows_per_endpoint: FLOWS,
        ..LIMITS
    };
    let kernel = Kernel::load(limits, &Behaviour::default());
    Firewall::over(kernel.unwrap_or_else(|error| panic!("{error}")))
}

/// Tries every scenario and errand whose claim contains `filter` in one setup, first
/// without the firewall.
///
/// # Panics
///
/// Panics if the namespaces cannot be made, or the kernel refuses the firewall.
pub fn run(firewall: &mut Firewall, setup: Setup, filter: &str) -> (Count, Vec<Finding>) {
    let mut count = Count::default();
    let mut findings = Vec::new();
    let scenarios: Vec<_> = scenarios()
        .filter(|scenario| scenario.claim.contains(filter))
        .collect();
    let errands: Vec<_> = errands()
        .filter(|errand| errand.claim.contains(filter))
        .collect();

    let stage = Stage::build(setup);
    stage.pin_neighbours();
    for family in Family::BOTH {
        for errand in &errands {
            let cast = stage.cast(errand.under[0], family);
            count.shown += 1;
            findings.extend(stage.go(errand, &cast, None));
        }
        for scenario in &scenarios {
            let cast = stage.cast(scenario.under[0], family);
            if let Some(attack) = (scenario.attack)(&cast) {
                count.shown += 1;
                findings.extend(stage.show(scenario, &cast, &attack));
            }
        }
    }
    drop(stage);

    let stage = Stage::build(setup);
    stage.guard(firewall);
    for &isolation in Isolation::ALL {
        firewall.replace_policies(&isolation.policies());
        for family in Family::BOTH {
            for errand in &errands {
                if errand.under.contains(&isolation) {
                    count.errands += 1;
                    let cast = stage.cast(isolation, family);
                    findings.extend(stage.go(errand, &cast, Some(isolation)));
                }
            }
            for scenario in &scenarios {
                if !scenario.under.contains(&isolation) {
                    continue;
                }
                let tried = stage.try_undisturbed(firewall, scenario, isolation, family);
                if let Some(found) = tried {
                    count.attacks += 1;
                    findings.extend(found);
                }
            }
        }
    }
    firewall.clear();
    (count, findings)
}

impl Stage {
    /// Makes the namespaces, without a firewall.
    fn build(setup: Setup) -> Self {
        let world = World::plan(setup.wiring)
            .mtu(setup.mtu)
            .outside()
            .workloads(["t/a", "t/b", "t/c"])
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        let node = &world.node().namespace;
        let on = setup.offloads == Offloads::On;
        let uplink = world.outside().uplink;
        let mut links = vec![(node, uplink), (&world.outside().namespace, "eth0")];
        for workload in world.workloads() {
            links.push((node, workload.host_interface.as_str()));
            links.push((&workload.namespace, workload.interface));
        }
        // A workload chooses its own offloads: what `a` leaves to the kernel must reach the
        // hook, and be done behind it where the node's links have none.
        let own = &named(&world, "t/a").namespace;
        for (namespace, interface) in links {
            let on = on || std::ptr::eq(namespace, own);
            let set = namespace.set_offloads(interface, on);
            set.unwrap_or_else(|error| panic!("{error}"));
        }
        let spy = Namespace::new().expect("a namespace");
        node.join("spy0", &spy, "spy1").expect("a veth pair");
        for (namespace, interface) in [(node, "spy0"), (&spy, "spy1")] {
            namespace.set_mtu(interface, 9000).expect("an MTU");
        }
        let behind = FrameSocket::open(&spy, "spy1").expect("a socket");
        // Netfilter's hook on a device comes behind those of tc, and takes packets of
        // any kind, whatever IP makes of them later.
        let ports: Vec<&str> = (world.workloads().iter())
            .map(|workload| workload.host_interface.as_str())
            .chain([uplink])
            .collect();
        let copies = format!(
            "table netdev spy {{\nchain spy {{\ntype filter hook ingress devices = {{ {} }} priority 0\ndup to \"spy0\"\n}}\n}}\n",
            ports.join(", ")
        );
        tool::run(node, "nft", &["-f", "-"], &copies);
        let mut sockets = Vec::new();
        let mut sinks = Vec::new();
        for party in Party::HOSTS {
            let (namespace, end) = match party.workload() {
                Some(name) => (&named(&world, name).namespace, named(&world, name).end),
                None => (&world.outside().namespace, world.outside().end),
            };
            let socket = FrameSocket::open(namespace, "eth0");
            sockets.push((party, socket.expect("a socket")));
            let _inside = namespace.enter().expect("a namespace");
            for family in Family::BOTH {
                let address = end.ip(family).expect("everyone has both families");
                let sink = UdpSocket::bind((address, OPEN_PORT)).expect("a socket");
                sinks.push((party, family, sink));
            }
        }
        Self {
            setup,
            sockets,
            sinks,
            world,
            behind,
            _spy: spy,
            number: Cell::new(0),
        }
    }

    /// Keeps what attacks say of addresses from the node's neighbour table, which
    /// nothing protects while there is no firewall.
    fn pin_neighbours(&self) {
        let node = self.world.node();
        for workload in self.world.workloads() {
            let interface = match &node.bridge {
                Some(bridge) => &bridge.interface,
                None => &workload.host_interface,
            };
            for family in Family::BOTH {
                let pinned =
                    node.namespace
                        .pin_neighbour(interface, workload.ip(family), workload.end.mac);
                pinned.unwrap_or_else(|error| panic!("{error}"));
            }
        }
        let outside = self.world.outside();
        for family in Family::BOTH {
            let (address, mac) = (outside.ip(family), outside.end.mac);
            let pinned = node.namespace.pin_neighbour(outside.uplink, address, mac);
            pinned.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Puts the firewall on every workload's interface, as the setup has it.
    fn guard(&self, firewall: &mut Firewall) {
        firewall.enforce(&self.world, &pods(), "");
        firewall.attach(&self.world);
        if self.setup.hooks == Hooks::Clsact {
            for attachments in firewall.attached() {
                attachments.drop_links();
            }
        }
    }

    /// The ends of the next attack or errand.
    fn cast(&self, isolation: Isolation, family: Family) -> Cast<'_> {
        self.number.set(self.number.get() + 1);
        Cast {
            world: &self.world,
            setup: self.setup,
            isolation,
            family,
            number: self.number.get(),
        }
    }

    /// Shows what has passed the hook of its sender.
    pub(super) fn behind(&self) -> &FrameSocket {
        &self.behind
    }

    /// The socket on a party's open port.
    pub(super) fn sink(&self, party: Party, of: Family) -> &UdpSocket {
        let found = (self.sinks.iter()).find(|(whose, family, _)| (*whose, *family) == (party, of));
        &found.expect("the node has no open port").2
    }

    pub(super) fn socket(&self, party: Party) -> &FrameSocket {
        let found = self.sockets.iter().find(|(of, _)| *of == party);
        &found.expect("the node sends no frames").1
    }

    /// Sends the frames of an attack.
    fn send(&self, attack: &Attack) {
        for shot in &attack.frames {
            let sent = match shot.unfinished {
                None => self.socket(shot.by).send_bytes(&shot.bytes),
                Some(left) => self.send_unfinished(shot.by, &shot.bytes, left),
            };
            sent.unwrap_or_else(|error| panic!("a frame of {} bytes: {error}", shot.bytes.len()));
        }
    }

    /// Sends a frame as a party, and leaves work on it to the kernel.
    pub(super) fn send_unfinished(
        &self,
        by: Party,
        frame: &[u8],
        left: Unfinished,
    ) -> io::Result<()> {
        let namespace = match by.workload() {
            Some(name) => &named(&self.world, name).namespace,
            None => &self.world.outside().namespace,
        };
        UnfinishedSocket::open(namespace, "eth0")?.send(frame, left)
    }

    /// Throws away what has arrived so far.
    fn forget(&self) {
        for (_, socket) in &self.sockets {
            socket.forget().expect("a capture");
        }
        self.behind.forget().expect("a capture");
    }

    /// Returns the parties at which something of an attack has arrived.
    fn arrived(&self, attack: &Attack) -> Vec<Party> {
        let mut receivers = Vec::new();
        for (party, socket) in &self.sockets {
            for frame in socket.drain().expect("a capture") {
                if attack.is_seen_in(&frame) {
                    receivers.push(*party);
                }
            }
        }
        receivers
    }

    /// Lets every neighbour be where it was: some attacks move addresses on a bridge.
    fn heal(&self) {
        if !self.setup.is_bridged() {
            return;
        }
        for (party, socket) in &self.sockets {
            if let Some(name) = party.workload() {
                let end = named(&self.world, name).end;
                let frame = ether(0x88b5).from(end).via(Mac::BROADCAST).padded_to(60);
                socket.send(&frame).expect("a frame");
            }
        }
    }

    /// Shows that without the firewall the attack does what it is said to do.
    fn show(&self, scenario: &Scenario, cast: &Cast<'_>, attack: &Attack) -> Option<Finding> {
        self.heal();
        self.forget();
        self.send(attack);
        let wanted = attack.evil_frames() as usize;
        let deadline = Instant::now() + PATIENCE;
        let mut receivers = Vec::new();
        let mut passed = 0;
        loop {
            receivers.extend(self.arrived(attack));
            let frames = self.behind.drain().expect("a capture");
            passed += (frames.iter())
                .filter(|frame| attack.is_seen_in(frame))
                .count();
            let enough = match attack.kept {
                None => receivers.len() >= wanted,
                Some(_) => passed >= wanted,
            };
            if enough {
                break;
            }
            if Instant::now() >= deadline {
                let seen = format!(
                    "of {wanted} evil frames {passed} passed the sender's hook, and arrived at {receivers:?}"
                );
                return Some(cast.finding(Kind::Unshown, scenario.claim, None, seen));
            }
            std::thread::yield_now();
        }
        // The node may say that it does not take the packet, and quote it.
        receivers.retain(|party| *party != attack.by);
        match attack.kept {
            Some(reason) if !receivers.is_empty() => {
                let seen = format!("arrived at {receivers:?} though {reason}");
                Some(cast.finding(Kind::Unshown, scenario.claim, None, seen))
            }
            _ => None,
        }
    }

    /// Tries a scenario under the firewall, again when the node disturbs it; `None`
    /// where it has no attack.
    fn try_undisturbed(
        &self,
        firewall: &mut Firewall,
        scenario: &Scenario,
        isolation: Isolation,
        family: Family,
    ) -> Option<Vec<Finding>> {
        for _ in 0..DISTURBANCES {
            let cast = self.cast(isolation, family);
            let attack = (scenario.attack)(&cast)?;
            let tried = self.try_out(firewall, scenario, &cast, &attack);
            if tried.is_some() {
                return tried;
            }
        }
        panic!("the node sends reports about listeners again and again");
    }

    /// Tries an attack under the firewall; `None` when the node itself sent something
    /// meanwhile, so that the counters tell nothing.
    fn try_out(
        &self,
        firewall: &mut Firewall,
        scenario: &Scenario,
        cast: &Cast<'_>,
        attack: &Attack,
    ) -> Option<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut find = |kind, seen| {
            let isolation = Some(cast.isolation);
            findings.push(cast.finding(kind, scenario.claim, isolation, seen));
        };
        self.forget();
        firewall.reported();
        let before = firewall.ledger();
        self.send(attack);
        let (receiver, probe) = self.probe(cast, attack.by);
        let earlier = (self.socket(receiver))
            .before(PATIENCE, carrying(&probe))
            .expect("a capture");
        let ledger = firewall.ledger();
        let mut leaked = self.arrived(attack);
        match earlier {
            None => find(
                Kind::Lost,
                format!("the allowed datagram behind it did not reach {receiver:?}"),
            ),
            Some(frames) => {
                let evil = frames.iter().filter(|frame| attack.is_seen_in(frame));
                leaked.extend(evil.map(|_| receiver));
            }
        }
        if !leaked.is_empty() {
            find(Kind::Leaked, format!("arrived at {leaked:?}"));
        }
        let at_sender = |moved: &Moved| moved.hook == Hook::FromWorkload;
        if attack.by.workload().is_some() && attack.denied.iter().all(at_sender) {
            let frames = self.behind.drain().expect("a capture");
            let passed = (frames.iter())
                .filter(|frame| attack.is_seen_in(frame))
                .count();
            if passed > 0 {
                find(
                    Kind::Leaked,
                    format!("{passed} frames passed the sender's hook"),
                );
            }
        }
        let reports = firewall.reported();
        if reports.iter().any(is_own_report) {
            return None;
        }
        let moved: Vec<Moved> = (ledger.since(&before).into_iter())
            .filter(|moved| moved.action == Action::Deny)
            .collect();
        let same = moved.len() == attack.denied.len()
            && attack.denied.iter().all(|denied| moved.contains(denied));
        if !same {
            let reports: String = reports.iter().map(line).collect();
            let expected = &attack.denied;
            find(
                Kind::Miscounted,
                format!("expected {expected:?}, moved {moved:?}, reported:{reports}"),
            );
        }
        ledger.assert_conserved();
        Some(findings)
    }

    /// Sends an allowed datagram; returns its receiver and what it carries.
    fn probe(&self, cast: &Cast<'_>, by: Party) -> (Party, Vec<u8>) {
        let to = match by {
            Party::A | Party::Outside => Party::B,
            Party::B => Party::Outside,
            Party::C => Party::A,
            Party::Node => unreachable!("the node sends no frames"),
        };
        let mark = format!("allowed {:06};", cast.number).into_bytes();
        let probe = udp().sport(PROBE_PORT).dport(OPEN_PORT).payload(&mark);
        let sent = self.send_packet(by, &cast.between(probe, by, to));
        sent.expect("a frame");
        (to, mark)
    }

    /// Sends a packet as a party.
    pub(super) fn send_packet<S: Body>(&self, by: Party, packet: &Packet<S>) -> io::Result<()> {
        self.socket(by).send(packet)
    }

    /// Lets an errand be done.
    fn go(
        &self,
        errand: &Errand,
        cast: &Cast<'_>,
        isolation: Option<Isolation>,
    ) -> Option<Finding> {
        let kind = match isolation {
            Some(_) => Kind::Lost,
            None => Kind::Unshown,
        };
        let done = (errand.done)(self, cast);
        done.err()
            .map(|seen| cast.finding(kind, errand.claim, isolation, seen))
    }
}

/// Returns `true` for what the node sends by itself once a link has come up: reports
/// about its own multicast groups.
fn is_own_report(report: &EventRecord) -> bool {
    let [kind, _] = report.destination_port.to_be_bytes();
    let about_listeners = match report.protocol {
        protocol::IGMP => true,
        protocol::ICMPV6 => kind == LISTENER_REPORT,
        _ => false,
    };
    about_listeners && report.hook == Hook::ToWorkload as u8
}

/// A reported packet in one line.
fn line(report: &EventRecord) -> String {
    let address = |words: [u32; 4]| match report.family {
        4 => IpAddr::from(words[0].to_be_bytes()),
        _ => {
            let bits = words
                .iter()
                .fold(0, |bits, word| bits << 32 | u128::from(*word));
            IpAddr::from(bits.to_be_bytes())
        }
    };
    let reason = Verdict::from_any_word(report.verdict).map(|verdict| verdict.reason.name());
    format!(
        "\n    hook {} {}: {} > {} protocol {} port {} ({} bytes)",
        report.hook,
        reason.unwrap_or("?"),
        address(report.source),
        address(report.destination),
        report.protocol,
        report.destination_port,
        report.bytes
    )
}

impl Cast<'_> {
    fn finding(
        &self,
        kind: Kind,
        claim: &'static str,
        isolation: Option<Isolation>,
        seen: String,
    ) -> Finding {
        Finding {
            kind,
            claim,
            setup: self.setup,
            isolation,
            family: self.family,
            seen,
        }
    }
}
