//! A workload that takes its own interface elsewhere: it is known by the host side, which
//! stays.

use cofferdam_tests::{
    evasions::tool,
    firewall::named,
    packet::{End, Family, udp},
    skip::Feature,
    skip_unless,
    traffic::FrameSocket,
    world::{Namespace, Wiring},
};
use cofferdam_verdict::{counter::Hook, reason::Reason, verdict::Action};

use crate::stamp::{INGRESS, OPEN, Scene, To, passes};

/// Runs `ip` in a namespace.
fn ip(namespace: &Namespace, words: &str) {
    let words: Vec<&str> = words.split_whitespace().collect();
    tool::run(namespace, "ip", &words, "");
}

/// It moves its interface into a namespace of its own making, under another name, with
/// another MTU, and there is `c` as before, to whom `b` is closed; in `a`'s name it is
/// nobody.
#[test]
fn an_interface_that_its_workload_moves_is_judged_as_before() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::build(Wiring::Bridge, &[]);
    let talk = passes("t/a", To::B, OPEN);
    let [a, b, c] = ["t/a", "t/b", "t/c"].map(|name| named(&scene.world, name).end);
    let child = Namespace::new().expect("a namespace");
    let moved = format!("link set eth0 netns {}", child.path().display());
    ip(&named(&scene.world, "t/c").namespace, &moved);
    ip(&child, "link set eth0 name moved mtu 1400");
    ip(&child, "link set moved up");
    let send = |source: End, data: &[u8]| {
        let packet = udp().from(source.with_mac(c.mac)).to(b).dport(OPEN);
        let socket = FrameSocket::open(&child, "moved").expect("a socket");
        socket.send(&packet.payload(data)).expect("a frame");
    };
    // The bridge forwards for the port only once the kernel has noticed its carrier.
    let forwards = (0..20).any(|_| {
        send(c, b"as itself, without a firewall");
        scene.arrives(talk, Family::V4, b"as itself, without a firewall")
    });
    assert!(forwards);
    send(a, b"as a, without a firewall");
    assert!(scene.arrives(talk, Family::V4, b"as a, without a firewall"));

    scene.guard(INGRESS);
    let before = scene.denials();
    send(c, b"as itself");
    scene.wait_for_denial(before);
    send(a, b"as a");
    scene.wait_for_denial(before + 1);
    scene.send(talk, Family::V4, b"allowed");
    assert_eq!(scene.next(Family::V4, OPEN), b"allowed");
    let ledger = scene.firewall.ledger();
    let judged = |reason| ledger.judged(Hook::FromWorkload, Action::Deny, reason);
    assert_eq!(judged(Reason::Isolated), 1, "{ledger}");
    assert_eq!(judged(Reason::SpoofedSource), 1, "{ledger}");
    ledger.assert_conserved();
}
