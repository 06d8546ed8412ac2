//! Packets that come in by an uplink: what is dropped there, what passes up, and that nothing
//! is dropped that the workload's own hook lets pass.

use super::scene::{
    FLOW, FREE, FROM_UPLINK, ISOLATED, Node, Outcome, Policy, RULE,
    Who::{self, Cache, Db, Far, Node as ThisNode, OtherNode, Outside, Web},
    denied, outcome,
    packet::{Body, Family, Packet, ping, tcp, udp},
};
use cofferdam_verdict::{
    arrival::{self, Arrived},
    bypass::ANY_SLOT,
    counter::Hook,
    endpoint::UNDECIDED,
    flow::{self, FlowSet},
    hits,
    judge::{Case, Context},
    packet::ethertype,
    pipeline::{Host, Steps as _},
    reason::Reason,
    slices::SliceFrame,
    uplink,
    verdict::{
        Action::Deny,
        Direction::{Egress, Ingress},
    },
};
use proptest::prelude::*;

/// A frame on the way in by the uplink; `None` if it passes up unjudged.
fn arrives(node: &Node, bytes: &[u8]) -> Option<Outcome> {
    arrived(node, bytes).map(|case| outcome(&case))
}

/// The case of such a frame, with its rule counted as the program does.
pub(super) fn arrived(node: &Node, bytes: &[u8]) -> Option<Case> {
    let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
    let flows = node.flows(&partitions);
    let frame = SliceFrame { bytes, gso: false };
    let mut case = Case::blank(Hook::UplinkIngress, bytes.len() as u32);
    match arrival::inspect(&flows, &frame, &mut case) {
        Arrived::Passes => return None,
        Arrived::Dropped => return Some(case),
        Arrived::Open => {}
    }
    let is_judged = arrival::cover(&flows, &mut case)
        && (case.is_settled() || arrival::answer(&flows, &mut case));
    is_judged.then(|| {
        hits::count(&flows, &case, Hook::UplinkIngress);
        case
    })
}

/// Notes a packet of web's that leaves by the uplink, if it need be.
fn note(node: &Node, bytes: &[u8]) -> bool {
    let partitions: Vec<&[FlowSet]> = node.partitions().iter().map(Vec::as_slice).collect();
    let flows = node.flows(&partitions);
    let frame = SliceFrame { bytes, gso: false };
    let context = Context::default();
    let steps = Host {
        memory: &flows,
        frame: &frame,
        context: &context,
        hook: Hook::UplinkEgress,
    };
    let kind = u16::from_be_bytes([bytes[12], bytes[13]]);
    assert!(matches!(kind, ethertype::IPV4 | ethertype::IPV6));
    let mut case = Case::blank(Hook::UplinkEgress, bytes.len() as u32);
    uplink::inspect(&flows, &frame, kind, Web.stamp(), &mut case);
    if !flow::leaves(&flows, &mut case) {
        return false;
    }
    steps.choose(&mut case);
    let is_placed = flow::is_placed(&case);
    if is_placed {
        steps.remember(&mut case);
    }
    is_placed
}

#[test]
fn policy_is_asked_about_what_opens_and_what_no_flow_covers() {
    let open =
        Policy::default()
            .isolates(Web, Ingress)
            .allows(Web, Ingress, Outside, Some((6, 80)));
    for family in Family::BOTH {
        let node = Node::under(&open);
        let to = |port: u16| {
            let packet = tcp().family(family).from(Outside.end()).to(Web.end());
            packet.sport(4000).dport(port)
        };
        assert_eq!(arrives(&node, &to(80).syn().bytes()), Some(RULE));
        assert_eq!(arrives(&node, &to(22).syn().bytes()), Some(ISOLATED));
        assert_eq!(arrives(&node, &to(22).ack().bytes()), Some(ISOLATED));
        let answer = udp()
            .family(family)
            .from(Outside.end())
            .to(Web.end())
            .sport(53)
            .dport(4000);
        assert_eq!(arrives(&node, &answer.bytes()), Some(ISOLATED));
        assert_eq!(node.sends(Web, &answer.clone().reply()), FREE);
        assert_eq!(arrives(&node, &answer.bytes()), Some(FLOW));
    }
}

#[test]
fn a_reply_is_covered_by_what_was_noted_as_it_left() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default().isolates(Web, Ingress));
        let asked = udp()
            .family(family)
            .from(Web.end())
            .to(Far.end())
            .sport(4000)
            .dport(53);
        let answer = asked.clone().reply();
        assert_eq!(arrives(&node, &answer.bytes()), Some(ISOLATED));
        assert!(note(&node, &asked.bytes()));
        assert!(!note(&node, &asked.bytes()), "it is noted already");
        assert_eq!(arrives(&node, &answer.bytes()), Some(FLOW));
        // It is no flow of the workload's hook.
        assert_eq!(node.receives(Web, &answer, FROM_UPLINK), ISOLATED);
        // What the node's address stands for comes back to the node's address.
        let masqueraded = asked
            .clone()
            .source_ip(ThisNode.end().ip(family).expect("both"));
        assert!(!note(&node, &masqueraded.bytes()));
        // What a flow covers need not be noted.
        let plain = asked.clone().sport(4001);
        assert_eq!(node.sends(Web, &plain), FREE);
        assert!(!note(&node, &plain.bytes()));
    }
}

/// A noted packet says nothing of policy.
#[test]
fn what_was_noted_does_not_let_a_marked_packet_leave() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::default().isolates(Web, Egress));
        let packet = udp()
            .family(family)
            .from(Web.end())
            .to(Outside.end())
            .sport(4000)
            .dport(53);
        assert!(note(&node, &packet.bytes()));
        let context = Context {
            stamp: UNDECIDED | Web.stamp(),
            ..Context::default()
        };
        let judged = node.judge(&packet.bytes(), &context, Hook::UplinkEgress);
        assert_eq!(outcome(&judged), ISOLATED);
    }
}

#[test]
fn a_connection_from_before_may_be_adopted_behind() {
    let mut node = Node::under(&Policy::default().isolates(Web, Ingress));
    let packet = || {
        tcp()
            .from(Outside.end())
            .to(Web.end())
            .sport(80)
            .dport(4000)
    };
    assert_eq!(arrives(&node, &packet().ack().bytes()), Some(ISOLATED));
    let until = node.jiffies.wrapping_add(100);
    node.endpoints[Web as usize].adopt_until.store(until);
    assert_eq!(arrives(&node, &packet().ack().bytes()), None);
    assert_eq!(arrives(&node, &packet().syn().bytes()), Some(ISOLATED));
    node.jiffies = node.jiffies.wrapping_add(101);
    assert_eq!(arrives(&node, &packet().ack().bytes()), Some(ISOLATED));
}

#[test]
fn a_local_workloads_address_is_nobodys_outside() {
    let node = Node::under(&Policy::default());
    for family in Family::BOTH {
        for to in [Web, ThisNode, Outside] {
            let packet = udp().family(family).from(Db.end()).to(to.end());
            let foreign = denied(Reason::ForeignLocalAddress);
            assert_eq!(arrives(&node, &packet.bytes()), Some(foreign));
        }
    }
}

#[test]
fn what_is_not_for_a_local_workload_passes_up() {
    let node = Node::under(&Policy::closed());
    for family in Family::BOTH {
        for to in [ThisNode, OtherNode, Far, Outside] {
            let packet = tcp().family(family).from(Outside.end()).to(to.end()).syn();
            assert_eq!(arrives(&node, &packet.bytes()), None, "{to:?}");
        }
        // The node's own address, from outside, is another hook's.
        let packet = tcp()
            .family(family)
            .from(ThisNode.end())
            .to(Web.end())
            .syn();
        assert_eq!(arrives(&node, &packet.bytes()), None);
    }
}

#[test]
fn only_what_no_reassembly_mends_is_malformed() {
    let node = Node::under(&Policy::default());
    let whole = udp().from(Outside.end()).to(Web.end()).payload(&[0; 64]);
    let malformed = denied(Reason::Malformed);
    let cut = whole.clone().udp_length(4);
    assert_eq!(arrives(&node, &cut.bytes()), Some(malformed));
    // The node puts the header together.
    let segment = tcp().from(Outside.end()).to(Web.end()).syn();
    let tiny = &segment.payload(&[0; 64]).fragments(&[8])[0];
    assert_eq!(arrives(&node, &tiny.bytes()), None);
    let later = &whole.fragments(&[24])[1];
    assert_eq!(arrives(&node, &later.bytes()), None);
}

/// A packet of a random conversation.
#[derive(Clone, Copy, Debug)]
struct Sent {
    far: usize,
    near: usize,
    shape: u8,
    port: u16,
    sends: bool,
    family: Family,
}

fn step() -> impl Strategy<Value = Sent> {
    let all = (
        0..5usize,
        0..3usize,
        0..8u8,
        0..3u16,
        any::<bool>(),
        any::<bool>(),
    );
    all.prop_map(|(far, near, shape, port, sends, is_v6)| Sent {
        far,
        near,
        shape,
        port,
        sends,
        family: if is_v6 { Family::V6 } else { Family::V4 },
    })
}

impl Sent {
    fn bytes(&self) -> (Who, Vec<u8>) {
        let far = [Far, OtherNode, Outside, ThisNode, Db][self.far];
        let near = [Web, Db, Cache][self.near];
        let (from, to) = if self.sends { (near, far) } else { (far, near) };
        let (here, there) = (4000 + self.port, 80);
        let (sport, dport) = if self.sends {
            (here, there)
        } else {
            (there, here)
        };
        fn on<S: Body>(step: &Sent, packet: Packet<S>, from: Who, to: Who) -> Packet<S> {
            packet.family(step.family).from(from.end()).to(to.end())
        }
        let segment = || on(self, tcp(), from, to).sport(sport).dport(dport);
        let bytes = match self.shape {
            0 => segment().syn().bytes(),
            1 => segment().ack().bytes(),
            2 => segment().syn().ack().bytes(),
            3 => segment().fin().ack().bytes(),
            4 => segment().rst().bytes(),
            5 => on(self, ping(self.family), from, to).bytes(),
            _ => on(self, udp(), from, to).sport(sport).dport(dport).bytes(),
        };
        (near, bytes)
    }
}

proptest! {
    /// The same packets at both hooks: what the uplink drops, the workload's hook drops.
    #[test]
    fn nothing_is_dropped_early_that_the_workloads_hook_lets_pass(
        isolates in proptest::collection::vec((0..3usize, any::<bool>()), 0..4),
        allows in proptest::collection::vec((0..3usize, any::<bool>(), 0..5usize), 0..4),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let locals = [Web, Db, Cache];
        let direction = |ingress| if ingress { Ingress } else { Egress };
        let mut policy = Policy::default();
        for (who, ingress) in isolates {
            policy = policy.isolates(locals[who], direction(ingress));
        }
        for (who, ingress, peer) in allows {
            let peer = [Far, OtherNode, Outside, ThisNode, Cache][peer];
            policy = policy.allows(locals[who], direction(ingress), peer, None);
        }
        let node = Node::under(&policy);
        for step in steps {
            let (near, bytes) = step.bytes();
            if step.sends {
                node.sent(near, &bytes);
                continue;
            }
            let early = arrives(&node, &bytes);
            let there = outcome(&node.received(near, &bytes, FROM_UPLINK));
            if early.is_some_and(|early| early.0 == Deny) {
                prop_assert_eq!(there.0, Deny, "{:?}: {:?}, then {:?}", step, early, there);
            }
        }
    }
}

#[test]
fn what_policy_may_not_deny_just_now_passes_up() {
    for family in Family::BOTH {
        let node = Node::under(&Policy::closed());
        let syn = tcp()
            .family(family)
            .from(Outside.end())
            .to(Web.end())
            .sport(4000)
            .dport(5432)
            .syn()
            .bytes();
        assert_eq!(arrives(&node, &syn), Some(ISOLATED), "{family}");
        let until = &node.bindings[Web.slot(Family::V4) as usize].bypassed_until;
        until.store(node.jiffies.wrapping_add(1));
        let any = &node.bindings[ANY_SLOT as usize].bypassed_until;
        assert_eq!(arrives(&node, &syn), Some(ISOLATED), "{family}");
        any.store(1);
        assert_eq!(arrives(&node, &syn), None, "{family}");
    }
}
