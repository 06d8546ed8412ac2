//! Fragments that are alone, too small, or two for one place.

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{Cast, Isolation, Row, Scenario, cast::SHUT_PORT, scenario};
use crate::packet::{Packet, Protocol, Tcp, Udp, protocol};

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "a later fragment that looks like an allowed packet is dropped",
        Row::LoneFragment,
        Isolation::ALL,
        |cast| {
            let lone = cast.udp().fragment(cast.identification(), 8, false);
            let far = cast.syn().fragment(cast.identification() + 1, 1480, true);
            Some(cast.attack(lone).then(far).dropped(Reason::FragmentNoFirst))
        },
    ),
    scenario(
        "a later fragment before its first is dropped",
        Row::AllowedFragments,
        Isolation::ALL,
        |cast| {
            let [_, later] = halves(cast, &cast.udp());
            Some(cast.attack(later).dropped(Reason::FragmentNoFirst))
        },
    ),
    scenario(
        "a fragment of another datagram's number, protocol or family of ends is dropped",
        Row::LoneFragment,
        Isolation::ALL,
        |cast| {
            let [first, later] = halves(cast, &cast.udp());
            let renumbered = halves_of(cast.identification() + 7, &cast.udp())[1].clone();
            let other_protocol = later.clone().protocol(protocol::TCP);
            let other_way = cast.between(later, super::Party::A, super::Party::C);
            let attack = cast.attack(renumbered).then(other_protocol).then(other_way);
            Some(
                attack
                    .dropped(Reason::FragmentNoFirst)
                    .after(super::Party::A, first.payload(&first_bytes(cast))),
            )
        },
    ),
    scenario(
        "a first fragment short of its transport header is dropped",
        Row::FragmentOverlap,
        Isolation::ALL,
        |cast| {
            let [first, _] = tiny(cast, &cast.syn());
            // Eight bytes hold the ports and a sequence number.
            let mark = cast.syn().transport_bytes()[..8].to_vec();
            Some(cast.attack(first).marked(mark).dropped(Reason::Malformed))
        },
    ),
    scenario(
        "every first fragment is judged alone",
        Row::FragmentOverlap,
        Isolation::CLOSED,
        |cast| {
            let [honest, _] = halves(cast, &cast.udp());
            let [shut, _] = halves(cast, &cast.udp().dport(SHUT_PORT));
            // The same datagram again, now to another port.
            let attack = cast.forbidden(shut);
            Some(attack.after(super::Party::A, honest.payload(&first_bytes(cast))))
        },
    ),
    scenario(
        "fragments of a datagram that policy denies are dropped",
        Row::AllowedFragments,
        Isolation::CLOSED,
        |cast| {
            let [first, later] = halves(cast, &cast.udp().dport(SHUT_PORT));
            let attack = cast
                .attack(first)
                .denied(cast.deciding_hook(), Reason::Isolated);
            Some(
                attack
                    .then(later)
                    .denied_times(Hook::FromWorkload, Reason::FragmentNoFirst, 1),
            )
        },
    ),
];

/// Two fragments of a datagram, the first with its ports, the second with the mark.
fn halves(cast: &Cast<'_>, whole: &Packet<Udp>) -> [Packet<Protocol>; 2] {
    halves_of(cast.identification(), whole)
}

fn halves_of(identification: u32, whole: &Packet<Udp>) -> [Packet<Protocol>; 2] {
    let mark = whole.transport_bytes()[8..].to_vec();
    let whole = whole
        .clone()
        .payload(&[mark.as_slice(), &[0; 4], &mark].concat());
    let pieces = whole.identification(identification).fragments(&[24]);
    pieces.try_into().expect("cut once")
}

/// A first fragment with the ports alone, and the rest.
fn tiny(cast: &Cast<'_>, whole: &Packet<Tcp>) -> [Packet<Protocol>; 2] {
    let pieces = whole
        .clone()
        .identification(cast.identification())
        .fragments(&[8]);
    pieces.try_into().expect("cut once")
}

/// The first bytes of a datagram to the open port, unmarked.
fn first_bytes(cast: &Cast<'_>) -> Vec<u8> {
    let whole = cast.udp().payload(&[0; 24]);
    whole.transport_bytes()[..24].to_vec()
}
