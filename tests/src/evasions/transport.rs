//! Packets that belong to no flow and are dressed as if they did; protocols known by
//! number, and tunnels.

use std::net::IpAddr;

use cofferdam_verdict::{counter::Hook, reason::Reason};

use super::{
    Attack, Cast, Isolation, Party, Row, Scenario,
    cast::{OPEN_PORT, SHUT_PORT},
    scenario,
};
use crate::packet::{
    Family, Packet, Udp, destination_unreachable, flag, geneve, gre, gre_ethernet, icmp, icmpv6,
    ip_protocol, ipip, packet_too_big, ping, protocol, sctp, tcp, time_exceeded, udp, vxlan,
};

/// Flags of scans, and of segments in the middle of a connection.
const NO_OPENINGS: [u16; 6] = [
    0,
    flag::FIN,
    flag::ACK,
    flag::FIN | flag::PSH | flag::URG,
    flag::SYN | flag::ACK,
    flag::PSH | flag::ACK,
];

/// An error about a datagram of `a` to `b`, between others than these.
fn misdirected(cast: &Cast<'_>, by: Party, to: Party) -> Attack {
    let about = cast.udp();
    let open = about.clone().payload(&[]);
    let error = cast.between(destination_unreachable(&about), by, to);
    cast.forbidden(error).by(by).after(Party::A, open)
}

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario(
        "a segment that opens nothing is dropped on an allowed port",
        Row::OddSegments,
        Isolation::ALL,
        |cast| {
            let segment = |flags| cast.segment().flag(flags);
            let first = cast.attack(segment(NO_OPENINGS[0]));
            let attack = NO_OPENINGS[1..]
                .iter()
                .fold(first, |attack, flags| attack.then(segment(*flags)));
            Some(attack.dropped(Reason::NoFlow))
        },
    ),
    scenario(
        "a segment of any shape is dropped on a shut port",
        Row::OddSegments,
        Isolation::CLOSED,
        |cast| {
            let segment = |flags| cast.segment().dport(SHUT_PORT).flag(flags);
            let first = cast.attack(segment(flag::SYN));
            let others = NO_OPENINGS
                .into_iter()
                .chain([flag::RST, flag::SYN | flag::FIN, 0x1ff]);
            let attack = others.fold(first, |attack, flags| attack.then(segment(flags)));
            Some(attack.dropped(Reason::Isolated))
        },
    ),
    scenario(
        "data in a SYN and port 0 are dropped where policy does not allow them",
        Row::OddSegments,
        Isolation::CLOSED,
        |cast| {
            let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8];
            let fast = cast.syn().dport(SHUT_PORT).tcp_options(&cookie);
            let attack = cast
                .attack(fast)
                .then(cast.syn().dport(0))
                .then(cast.udp().dport(0));
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a packet shaped like a reply is dropped",
        Row::ReplyShaped,
        Isolation::CLOSED,
        |cast| {
            let attack = cast
                .attack(cast.udp().sport(OPEN_PORT).dport(cast.port()))
                .then(cast.udp().sport(53).dport(SHUT_PORT));
            let syn = cast.syn().sport(OPEN_PORT).dport(SHUT_PORT);
            Some(
                attack
                    .then(syn)
                    .denied(cast.deciding_hook(), Reason::Isolated),
            )
        },
    ),
    scenario(
        "an allowed port of one protocol opens no other protocol",
        Row::ReplyShaped,
        Isolation::CLOSED,
        |cast| {
            let live = udp().sport(cast.port()).dport(OPEN_PORT);
            let init = sctp()
                .sport(cast.port())
                .dport(OPEN_PORT)
                .init(7)
                .data(1, &cast.mark());
            let attack = cast.forbidden(cast.between(init, Party::A, Party::B));
            Some(attack.after(Party::A, cast.between(live, Party::A, Party::B)))
        },
    ),
    scenario(
        "the reverse of a live flow opens nothing",
        Row::ReverseTuple,
        Isolation::CLOSED,
        |cast| {
            let live = tcp().sport(cast.port()).dport(OPEN_PORT).syn();
            let open = cast.between(live, Party::A, Party::B);
            let back = tcp()
                .sport(OPEN_PORT)
                .dport(cast.port())
                .syn()
                .payload(&cast.mark());
            let attack = cast
                .forbidden(cast.between(back, Party::B, Party::A))
                .by(Party::B);
            Some(attack.after(Party::A, open))
        },
    ),
    scenario(
        "a UDP reply from another port is dropped",
        Row::UdpReplies,
        Isolation::CLOSED,
        |cast| {
            let open = udp().sport(cast.port()).dport(OPEN_PORT);
            let back = udp()
                .sport(OPEN_PORT + 1)
                .dport(cast.port())
                .payload(&cast.mark());
            let attack = cast
                .forbidden(cast.between(back, Party::B, Party::A))
                .by(Party::B);
            Some(attack.after(Party::A, cast.between(open, Party::A, Party::B)))
        },
    ),
    scenario(
        "a UDP reply to another port is dropped",
        Row::UdpReplies,
        Isolation::CLOSED,
        |cast| {
            let open = udp().sport(cast.port()).dport(OPEN_PORT);
            let back = udp()
                .sport(OPEN_PORT)
                .dport(cast.port() + 1)
                .payload(&cast.mark());
            let attack = cast
                .forbidden(cast.between(back, Party::B, Party::A))
                .by(Party::B);
            Some(attack.after(Party::A, cast.between(open, Party::A, Party::B)))
        },
    ),
    scenario(
        "an echo request under a reply's number is judged as a request",
        Row::Echo,
        Isolation::CLOSED,
        |cast| {
            let request = ping(cast.family).echo(cast.port(), 1);
            let back = request.clone().payload(&cast.mark());
            let attack = cast
                .forbidden(cast.between(back, Party::C, Party::A))
                .by(Party::C);
            Some(attack.after(Party::A, cast.between(request, Party::A, Party::C)))
        },
    ),
    scenario(
        "an echo reply that nobody asked for is dropped",
        Row::Echo,
        Isolation::CLOSED,
        |cast| {
            let reply = match cast.family {
                Family::V4 => icmp(0, 0),
                Family::V6 => icmpv6(129, 0),
            };
            let reply = reply.echo(cast.port(), 1).payload(&cast.mark());
            Some(cast.forbidden(cast.between(reply, Party::A, Party::B)))
        },
    ),
    scenario(
        "errors about packets that never were are dropped",
        Row::Errors,
        Isolation::CLOSED,
        |cast| {
            let about = udp()
                .sport(OPEN_PORT)
                .dport(cast.port())
                .payload(&cast.mark());
            let about = cast.between(about, Party::B, Party::A);
            let error = |packet| cast.between(packet, Party::A, Party::B);
            let attack = cast
                .attack(error(destination_unreachable(&about)))
                .then(error(packet_too_big(&about, 1280)))
                .then(error(time_exceeded(&about)));
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "another host's reset does not pass for a local workload's",
        Row::BlindReset,
        Isolation::ALL,
        |cast| {
            let open = tcp().sport(cast.port()).dport(OPEN_PORT).syn();
            let reset = tcp()
                .sport(cast.port())
                .dport(OPEN_PORT)
                .seq(1001)
                .rst()
                .payload(&cast.mark());
            let reset = cast
                .between(reset, Party::Outside, Party::B)
                .source_ip(cast.ip(Party::A));
            let attack = cast
                .attack(reset)
                .by(Party::Outside)
                .denied(Hook::ToWorkload, Reason::ForeignLocalAddress);
            Some(attack.after(Party::A, cast.between(open, Party::A, Party::B)))
        },
    ),
    scenario(
        "SCTP is dropped unless a rule names it",
        Row::Sctp,
        Isolation::CLOSED,
        |cast| {
            let to = |port| {
                let init = sctp()
                    .sport(cast.port())
                    .dport(port)
                    .init(7)
                    .data(1, &cast.mark());
                cast.between(init, Party::A, Party::B)
            };
            let data = sctp()
                .sport(cast.port())
                .dport(OPEN_PORT)
                .data(1, &cast.mark());
            let data = cast.between(data, Party::A, Party::B);
            let attack = cast.attack(to(SHUT_PORT)).then(to(OPEN_PORT)).then(data);
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a protocol that no rule names is dropped",
        Row::Protocols,
        Isolation::CLOSED,
        |cast| {
            let numbered = |number| {
                let packet = ip_protocol(number).payload(&cast.mark());
                cast.between(packet, Party::A, Party::B)
            };
            let numbers = [protocol::ESP, 88, 89, 103, 112, 255];
            let attack = numbers
                .into_iter()
                .fold(cast.attack(numbered(136)), |attack, number| {
                    attack.then(numbered(number))
                });
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a tunnel is judged by its outer packet",
        Row::Tunnels,
        Isolation::CLOSED,
        |cast| {
            let inner = allowed(cast);
            let outer = |packet: Packet<_>| cast.between(packet, Party::A, Party::B);
            let attack = cast
                .attack(outer(ipip(&inner)))
                .then(outer(gre(&inner)))
                .then(outer(gre_ethernet(&inner)))
                .then(cast.between(vxlan(7, &inner), Party::A, Party::B))
                .then(cast.between(geneve(7, &inner), Party::A, Party::B));
            let nested = vxlan(7, &cast.between(gre_ethernet(&inner), Party::A, Party::B));
            let attack = attack.then(cast.between(nested, Party::A, Party::B));
            Some(attack.denied(cast.deciding_hook(), Reason::Isolated))
        },
    ),
    scenario(
        "a workload does not reach the node",
        Row::Host,
        Isolation::SENDER,
        |cast| {
            let to_node = cast.between(cast.udp(), Party::A, Party::Node);
            let attack = cast.attack(to_node).dropped(Reason::Isolated);
            Some(attack.kept("the node takes it for itself"))
        },
    ),
    scenario(
        "a workload does not reach the metadata address",
        Row::Host,
        Isolation::SENDER,
        |cast| {
            let metadata = match cast.family {
                Family::V4 => "169.254.169.254",
                Family::V6 => "fd00:ec2::254",
            };
            let metadata: IpAddr = metadata.parse().expect("an address");
            let packet = cast
                .between(cast.udp(), Party::A, Party::Outside)
                .destination_ip(metadata);
            Some(cast.attack(packet).dropped(Reason::Isolated))
        },
    ),
    scenario(
        "a host that poses as the node is no node",
        Row::Host,
        Isolation::RECEIVER,
        |cast| {
            // In IPv4 the node's own stack takes nothing from its own address.
            (cast.family == Family::V6).then_some(())?;
            let packet = cast.udp().dport(SHUT_PORT);
            let packet = cast
                .between(packet, Party::Outside, Party::B)
                .source_ip(cast.ip(Party::Node));
            let attack = cast.attack(packet).by(Party::Outside);
            Some(attack.denied(Hook::ToWorkload, Reason::Isolated))
        },
    ),
    scenario(
        "an error about another pair's flow is judged like any packet",
        Row::Errors,
        Isolation::CLOSED,
        |cast| Some(misdirected(cast, Party::C, Party::A)),
    ),
    scenario(
        "an error for another than the sender of what it quotes is judged like any packet",
        Row::Errors,
        Isolation::CLOSED,
        |cast| Some(misdirected(cast, Party::B, Party::C)),
    ),
    scenario(
        "an error longer than errors may be is dropped",
        Row::Errors,
        Isolation::CLOSED,
        |cast| {
            let about = cast.udp();
            let open = about.clone().payload(&[]);
            let length = match cast.family {
                Family::V4 => 576 - 28 + 1,
                Family::V6 => 1280 - 48 + 1,
            };
            let error = destination_unreachable(&about).quote_length(length);
            let error = cast.between(error, Party::B, Party::A);
            let attack = cast
                .attack(error)
                .by(Party::B)
                .dropped(Reason::SignallingSize);
            Some(attack.after(Party::A, open))
        },
    ),
];

/// A datagram that policy allows, to be carried inside another packet.
fn allowed(cast: &Cast<'_>) -> Packet<Udp> {
    cast.udp()
}
