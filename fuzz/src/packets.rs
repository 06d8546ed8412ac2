//! Frames that no stack has to have sent, and sequences of packets on both hooks.
//!
//! The node is the one of the verdict crate's own tests: a table written by hand, flows
//! and a clock in ordinary memory. Both targets run the pipeline of the kernel programs.

/// The node of the verdict crate's tests.
#[path = "../../dataplane/verdict/tests/host/scene.rs"]
#[expect(
    dead_code,
    reason = "written for the verdict crate's tests, which use the rest"
)]
mod scene;

use std::collections::HashSet;

use cofferdam_verdict::{
    counter::Hook,
    door,
    flow::{FlowState, StateWord},
    judge::{self, Case, Context},
    packet::{self, Packet, Part, ethertype},
    reason::Reason,
    slices::SliceFrame,
    verdict::{Action, Direction, Verdict},
};

use scene::{
    FROM_NODE_ITSELF, FROM_UPLINK, Node, Policy, Way, Who,
    packet::{Family, ip_protocol, ping, sctp, tcp, udp},
};

/// Workloads of the node, and those that they talk to.
const LOCAL: [Who; 3] = [Who::Web, Who::Db, Who::Cache];
const EVERYBODY: [Who; 7] = [
    Who::Web,
    Who::Db,
    Who::Cache,
    Who::Far,
    Who::Node,
    Who::OtherNode,
    Who::Outside,
];
const PORTS: [u16; 2] = [80, 5000];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A frame is parsed or refused, and twice the same way; what was parsed lies within the
/// frame; every hook and the door have an answer.
pub(crate) fn parser(bytes: &[u8]) {
    // The first byte chooses, so that frames of every kind come from short inputs.
    let Some((&choice, rest)) = bytes.split_first() else {
        return;
    };
    let node = Node::under(&Policy::closed());
    let sender = LOCAL[usize::from(choice % 3)];
    let mut frame = Vec::with_capacity(14 + rest.len());
    frame.extend(Who::Node.end().mac.0);
    frame.extend(sender.end().mac.0);
    match choice >> 2 & 3 {
        0 => {}
        1 => frame.extend(ethertype::IPV4.to_be_bytes()),
        2 => frame.extend(ethertype::IPV6.to_be_bytes()),
        _ => frame.extend(ethertype::ARP.to_be_bytes()),
    }
    frame.extend(rest);
    let [single, many] = [false, true].map(|gso| SliceFrame { bytes: &frame, gso });
    for kind in [ethertype::IPV4, ethertype::IPV6] {
        let parsed = packet::parse(&single, kind);
        assert_eq!(parsed, packet::parse(&single, kind), "parsed twice");
        let of_many = packet::parse(&many, kind);
        for packet in [&parsed, &of_many].into_iter().flatten() {
            lies_within(packet, frame.len());
        }
        if let Ok(packet) = &parsed
            && packet.transport_bytes > 0
        {
            // A length that is zero means something only where the frame stands for many.
            assert_eq!(of_many.as_ref(), Ok(packet), "as several frames");
        }
    }
    for (way, hook) in [
        (Way::of(sender), Hook::FromWorkload),
        (Way::of(sender), Hook::ToWorkload),
        (FROM_NODE_ITSELF, Hook::ToWorkload),
        (FROM_UPLINK, Hook::ToWorkload),
    ] {
        let context = Context {
            ifindex: sender.ifindex(),
            ingress_ifindex: way.ingress_ifindex,
            stamp: way.stamp,
            has_socket: way.has_socket,
            tagged: false,
        };
        for frame in [&single, &many] {
            let case = judge::judge(&node.memory(), frame, &context, hook);
            let again = judge::judge(&node.memory(), frame, &context, hook);
            assert_eq!(case, again, "judged twice");
            answered(&case);
        }
        let case = match hook {
            Hook::FromWorkload => node.sent(sender, &frame),
            _ => node.received(sender, &frame, way),
        };
        answered(&case);
    }
    let mut case = Case::blank(Hook::ToWorkload, frame.len() as u32);
    if door::refuses(&node.memory(), &single, &mut case) {
        let verdict = answered(&case);
        assert_eq!(
            (verdict.action, verdict.reason),
            (Action::Deny, Reason::ForeignLocalAddress)
        );
        let source = cofferdam_verdict::address::Address {
            family: match case.kind >> 16 {
                kind if kind == u32::from(ethertype::IPV6) => {
                    cofferdam_verdict::address::Family::V6
                }
                _ => cofferdam_verdict::address::Family::V4,
            },
            words: case.source,
        };
        let is_local = LOCAL.into_iter().any(|who| {
            Family::BOTH
                .into_iter()
                .filter_map(|family| who.end().ip(family))
                .any(|ip| source == ip.into())
        });
        assert!(is_local, "{source:?} is no workload's");
    }
}

fn lies_within(packet: &Packet, length: usize) {
    let end = packet.transport + packet.transport_bytes;
    assert!(end as usize <= length, "{packet:?} in {length} bytes");
    let header = match packet.part {
        Part::Later => 0,
        Part::Whole | Part::First => packet.fragment,
    };
    assert!(header <= packet.transport_bytes, "{packet:?}");
}

fn answered(case: &Case) -> Verdict {
    Verdict::from_any_word(case.enforced).expect("every case has an answer")
}

/// Rules of policies, kept beside the table that is made of them.
#[derive(Default)]
struct Rules {
    isolated: Vec<(Who, Direction)>,
    /// Subject, direction, peer, and one port of UDP and TCP or everything.
    allowed: Vec<(Who, Direction, Who, Option<u16>)>,
}

/// IP protocols of TCP and UDP.
const WITH_PORTS: [u8; 2] = [6, 17];

impl Rules {
    fn table(&self) -> Policy {
        let mut policy = Policy::default();
        for &(who, direction) in &self.isolated {
            policy = policy.isolates(who, direction);
        }
        for &(who, direction, peer, port) in &self.allowed {
            policy = match port {
                None => policy.allows(who, direction, peer, None),
                Some(port) => WITH_PORTS.into_iter().fold(policy, |policy, protocol| {
                    policy.allows(who, direction, peer, Some((protocol, port)))
                }),
            };
        }
        policy
    }

    fn permits(&self, from: Who, to: Who, port: Option<u16>) -> bool {
        self.allows(from, Direction::Egress, to, port)
            && self.allows(to, Direction::Ingress, from, port)
    }

    fn allows(&self, subject: Who, direction: Direction, peer: Who, port: Option<u16>) -> bool {
        !self.isolated.contains(&(subject, direction))
            || self.allowed.iter().any(|&(who, way, other, only)| {
                (who, way, other) == (subject, direction, peer) && (only.is_none() || only == port)
            })
    }
}

/// Whatever the sequence: every packet has an answer, none passes that policy denies in
/// both directions, and each entry of the flow table is whole, of an own address, and the
/// only one with its key.
pub(crate) fn flows(bytes: &[u8]) {
    let mut rules = Rules::default();
    let mut node = Node::under(&rules.table());
    for step in bytes.chunks_exact(4) {
        let &[what, ends, how, more] = step else {
            return;
        };
        match what % 16 {
            0 => change(&mut rules, &mut node, ends, how),
            1 => node.publish(&rules.table()),
            2 => node.relabel(EVERYBODY[usize::from(ends) % 6]),
            3 => node.endpoints[usize::from(ends) % 3].incarnation += 1,
            4 => node.jiffies = node.jiffies.wrapping_add(1 << (how % 14)),
            5 => {
                let until = node.jiffies.wrapping_add(u32::from(how));
                node.endpoints[usize::from(ends) % 3]
                    .adopt_until
                    .store(until);
            }
            _ => send(&rules, &node, [what, ends, how, more]),
        }
        whole(&node);
    }
}

/// Another policy: a direction is isolated or open, or a peer is allowed.
fn change(rules: &mut Rules, node: &mut Node, ends: u8, how: u8) {
    let subject = LOCAL[usize::from(ends) % 3];
    let peer = EVERYBODY[usize::from(ends >> 2) % 7];
    let direction = DIRECTIONS[usize::from(how & 1)];
    match how >> 1 & 3 {
        0 | 1 => rules.isolated.push((subject, direction)),
        2 => rules.isolated.retain(|one| *one != (subject, direction)),
        _ if how & 0x80 != 0 => rules.allowed.clear(),
        _ if subject == peer => {}
        _ => {
            let port = match how >> 3 & 3 {
                0 => None,
                which => Some(PORTS[usize::from(which & 1)]),
            };
            rules.allowed.push((subject, direction, peer, port));
        }
    }
    rules.allowed.truncate(12);
    node.publish(&rules.table());
}

/// A packet through the hooks on its way.
fn send(rules: &Rules, node: &Node, [what, ends, how, more]: [u8; 4]) {
    let local = LOCAL[usize::from(ends) % 3];
    let other = EVERYBODY[usize::from(ends >> 2) % 7];
    let (from, to) = if ends & 0x80 == 0 {
        (local, other)
    } else {
        (other, local)
    };
    if from == to {
        return;
    }
    let ports = [how, how >> 1].map(|bit| PORTS[usize::from(bit & 1)]);
    let family = Family::BOTH[usize::from(how >> 2 & 1)];
    let (source, destination) = (from.end(), to.end());
    let mut has_ports = true;
    let packet = match how >> 3 & 7 {
        0..=2 => {
            let segment = tcp()
                .from(source)
                .to(destination)
                .family(family)
                .sport(ports[0])
                .dport(ports[1]);
            segment.flag(u16::from(more & 0x1f)).erased()
        }
        3 | 4 => {
            let datagram = udp().from(source).to(destination).family(family);
            datagram
                .sport(ports[0])
                .dport(ports[1])
                .payload(&[0; 24])
                .erased()
        }
        5 => {
            has_ports = false;
            let request = ping(family).echo(u16::from(more & 1), 1);
            let echo = if more & 2 == 0 {
                request
            } else {
                request.reply()
            };
            echo.from(source).to(destination).payload(&[0; 24]).erased()
        }
        6 => {
            // No rule names a port of it.
            has_ports = false;
            let association = sctp().from(source).to(destination).family(family);
            association
                .sport(ports[0])
                .dport(ports[1])
                .payload(&[0; 24])
                .erased()
        }
        _ => {
            has_ports = false;
            let any = ip_protocol(47).from(source).to(destination).family(family);
            any.payload(&[0; 24]).erased()
        }
    };
    let packet = match what >> 4 {
        0 => packet.fragment(u32::from(more >> 5), 0, true),
        1 => packet.fragment(
            u32::from(more >> 5),
            8 * usize::from(more & 3),
            more & 4 == 0,
        ),
        _ => packet,
    };
    let [sport, dport] = ports.map(|port| has_ports.then_some(port));
    let is_denied = !rules.permits(from, to, dport) && !rules.permits(to, from, sport);
    let mut left = true;
    if LOCAL.contains(&from) {
        left = passes(node.sends(from, &packet));
        assert!(!(left && is_denied), "{packet} leaves {from:?}");
    }
    if LOCAL.contains(&to) && (left || more & 8 != 0) {
        let way = match from {
            Who::Node => FROM_UPLINK,
            _ if LOCAL.contains(&from) => Way::of(from),
            _ => FROM_UPLINK,
        };
        let arrived = passes(node.receives(to, &packet, way));
        assert!(!(arrived && is_denied), "{packet} arrives at {to:?}");
        // In the name of a workload, from anywhere else.
        if LOCAL.contains(&from) {
            let forged = passes(node.receives(to, &packet, FROM_UPLINK));
            assert!(!forged, "{packet} arrives without a stamp");
        }
    }
}

fn passes((action, _): scene::Outcome) -> bool {
    action == Action::Allow
}

/// Nobody writes while nobody is judging: no entry is locked, and each is what a packet of
/// its endpoint has made it.
fn whole(node: &Node) {
    for (who, sets) in LOCAL.into_iter().zip(node.partitions()) {
        let incarnation = node.endpoints[who as usize].incarnation;
        let mut keys = HashSet::new();
        for entry in sets.iter().flat_map(|set| &set.ways) {
            let word = StateWord(entry.state.load());
            assert!(!word.is_locked(), "{entry:?}");
            if word.state() == FlowState::Free || !word.is_of(incarnation) {
                continue;
            }
            let key = entry.key.each_ref().map(|word| word.load());
            let is_own = Family::BOTH.into_iter().any(|family| {
                let own = who.end().ip(family).expect("both families");
                let [a, b, c, d] = cofferdam_verdict::address::Address::from(own).words;
                key[2..4] == [(a, b), (c, d)].map(|(a, b)| u64::from(a) | u64::from(b) << 32)
            });
            assert!(is_own, "{entry:?} at {who:?}");
            assert!(keys.insert(key), "twice: {entry:?}");
        }
    }
}
