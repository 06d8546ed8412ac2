//! Honest traffic: what no firewall may stop.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Cast, Errand, Isolation, Party, Row, Stage,
    cast::OPEN_PORT,
    offload::{TCP_CHECKSUM, UDP_CHECKSUM, segments, transport},
    signalling::group,
    stage::PATIENCE,
    tool,
};
use crate::{
    packet::{
        Body, Extension, Family, Packet, arp_announcement, arp_request, destination_unreachable,
        flag, group_record, group_report, ip_protocol, neighbour_advertisement,
        neighbour_solicitation, ping, protocol, sctp, tcp, time_exceeded, udp,
    },
    traffic::Unfinished,
};

/// Bytes of a transfer: enough for segments to be put together, and for many windows.
const BULK: usize = 1 << 20;
/// Bytes of a transfer that has to find out what a path carries.
const SMALL_BULK: usize = 100_000;
/// A path that carries less than its ends believe, and no less than IPv6 asks for.
const NARROW: u32 = 1300;

const fn errand(
    claim: &'static str,
    row: Row,
    under: &'static [Isolation],
    done: fn(&Stage, &Cast<'_>) -> Result<(), String>,
) -> Errand {
    Errand {
        claim,
        row,
        under,
        done,
    }
}

pub(super) const ERRANDS: &[Errand] = &[
    errand(
        "a transfer between workloads arrives whole in both directions",
        Row::Offloads,
        Isolation::ALL,
        |_, cast| transfer(cast, Party::A, Party::B, BULK),
    ),
    errand(
        "a transfer through the uplink arrives whole in both directions",
        Row::Offloads,
        Isolation::ALL,
        |_, cast| {
            transfer(cast, Party::A, Party::Outside, BULK)?;
            transfer(cast, Party::Outside, Party::B, BULK)
        },
    ),
    errand(
        "datagrams of one packet are answered",
        Row::UdpReplies,
        Isolation::ALL,
        |stage, cast| {
            for size in [0, 1, 100, 1400] {
                datagram(stage, cast, Party::A, Party::B, size)?;
                datagram(stage, cast, Party::A, Party::Outside, size)?;
                datagram(stage, cast, Party::Outside, Party::B, size)?;
            }
            Ok(())
        },
    ),
    errand(
        "pings are answered where a rule has no ports",
        Row::Echo,
        Isolation::ALL,
        |_, cast| {
            for size in [0, 56, 1400] {
                echo(cast, Party::A, Party::C, size)?;
            }
            Ok(())
        },
    ),
    errand(
        "the node reaches its workloads",
        Row::Host,
        Isolation::ALL,
        |stage, cast| {
            for size in [100, 1400] {
                datagram(stage, cast, Party::Node, Party::B, size)?;
            }
            echo(cast, Party::Node, Party::A, 56)?;
            transfer(cast, Party::Node, Party::B, SMALL_BULK)
        },
    ),
    errand(
        "neighbours find each other again",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |stage, cast| {
            for party in [Party::A, Party::B, Party::Node] {
                tool::run(cast.namespace(party), "ip", &["neigh", "flush", "all"], "");
            }
            datagram(stage, cast, Party::A, Party::B, 100)?;
            datagram(stage, cast, Party::Node, Party::A, 100)
        },
    ),
    errand(
        "an announcement of an own address arrives",
        Row::NeighbourSpoofing,
        Isolation::ALL,
        |stage, cast| {
            let a = cast.end(Party::A);
            // Where there is no bridge it goes to the node, which takes no notice.
            if !cast.setup.is_bridged() {
                return Ok(());
            }
            match cast.family {
                Family::V4 => arrives(
                    stage,
                    cast,
                    arp_announcement().from(a).padded_to(60),
                    Party::B,
                ),
                Family::V6 => {
                    let own = a.ipv6.expect("everyone has both families");
                    let news = neighbour_advertisement(own)
                        .target_link_address(a.mac)
                        .from(a);
                    arrives(stage, cast, news.rest([0x20, 0, 0, 0]), Party::B)
                }
            }
        },
    ),
    errand(
        "options and padding in an allowed packet arrive",
        Row::Options,
        Isolation::ALL,
        |stage, cast| {
            if cast.family == Family::V4 {
                arrives(stage, cast, cast.udp().ip_options(&[1, 1, 1, 0]), Party::B)?;
                arrives(stage, cast, cast.syn().ip_options(&[1; 40]), Party::B)?;
            }
            arrives(stage, cast, cast.udp().trailer(&[0; 17]), Party::B)?;
            arrives(stage, cast, cast.udp().traffic_class(0xb8), Party::B)
        },
    ),
    errand(
        "an allowed packet behind extension headers arrives",
        Row::Chains,
        Isolation::ALL,
        |stage, cast| {
            if cast.family == Family::V4 {
                return Ok(());
            }
            let chains = [
                vec![
                    Extension::hop_by_hop(&[]),
                    Extension::destination_options(&[]),
                ],
                vec![Extension::destination_options(&[0; 60])],
                vec![Extension::authentication(&[0; 12])],
                // An atomic fragment is whole (RFC 6946).
                vec![Extension::fragment(cast.identification(), 0, false)],
            ];
            for chain in chains {
                let packet = chain.into_iter().fold(cast.udp(), Packet::extension);
                arrives(stage, cast, packet, Party::B)?;
            }
            Ok(())
        },
    ),
    errand(
        "an allowed packet outside the linear part arrives",
        Row::NotLinear,
        Isolation::ALL,
        |stage, cast| {
            if cast.setup.mtu < 9000 {
                return Ok(());
            }
            let payload = [cast.mark(), vec![0x55; 8000]].concat();
            arrives(stage, cast, cast.udp().payload(&payload), Party::B)?;
            arrives(stage, cast, cast.syn().payload(&payload), Party::B)
        },
    ),
    errand(
        "protocols by number arrive where a rule has no ports",
        Row::Protocols,
        Isolation::ALL,
        |stage, cast| {
            for number in [protocol::ESP, protocol::GRE, 89, 112] {
                let packet = ip_protocol(number).payload(&cast.mark());
                arrives(
                    stage,
                    cast,
                    cast.between(packet, Party::A, Party::C),
                    Party::C,
                )?;
            }
            Ok(())
        },
    ),
    errand(
        "SCTP arrives where a rule names it",
        Row::Sctp,
        Isolation::ALL,
        |stage, cast| {
            let init = sctp()
                .sport(cast.port())
                .dport(81)
                .init(7)
                .data(1, &cast.mark());
            arrives(
                stage,
                cast,
                cast.between(init, Party::A, Party::B),
                Party::B,
            )
        },
    ),
    errand(
        "a policy about an IPv4 block opens it",
        Row::Versions,
        Isolation::ALL,
        |stage, cast| {
            if cast.family == Family::V6 {
                return Ok(());
            }
            let packet = udp().sport(cast.port()).dport(82).payload(&cast.mark());
            arrives(
                stage,
                cast,
                cast.between(packet, Party::A, Party::Outside),
                Party::Outside,
            )
        },
    ),
    errand(
        "a connection outlives resets that are out of its window",
        Row::BlindReset,
        Isolation::ALL,
        |stage, cast| {
            let mut talk = Talk::open(cast, Party::A, Party::B)?;
            talk.exchange(b"before")?;
            for (from, to, sport, dport) in [
                (Party::A, Party::B, talk.port, OPEN_PORT),
                (Party::B, Party::A, OPEN_PORT, talk.port),
            ] {
                let blind = tcp()
                    .sport(sport)
                    .dport(dport)
                    .seq(0x1234_5678)
                    .ack_number(77);
                let blind = cast.between(blind.flag(flag::RST), from, to);
                stage.send_packet(from, &blind).map_err(words)?;
            }
            talk.exchange(b"after")
        },
    ),
    errand(
        "a port is used again after its connection has ended",
        Row::Reuse,
        Isolation::ALL,
        |_, cast| {
            // A port that the kernel chose may be another socket's, too, which goes elsewhere and
            // keeps everybody else from binding to it.
            let port = cast.port();
            drop(Talk::open_from(cast, Party::A, Party::B, port)?);
            let mut again = Talk::open_from(cast, Party::A, Party::B, port)?;
            again.exchange(b"again")
        },
    ),
    errand(
        "two ends that open at once meet where policy allows both",
        Row::Reuse,
        &[Isolation::Open],
        |stage, cast| {
            // Both SYNs are on their way before either has arrived; then each end's answer.
            let port = cast.port();
            let from = |from, to| cast.between(tcp().sport(port).dport(port), from, to);
            let opening = [(Party::A, Party::B), (Party::B, Party::A)];
            for (one, other) in opening {
                let syn = from(one, other).syn().seq(100).payload(&cast.mark());
                arrives_by(stage, cast, one, syn, other)?;
            }
            for (one, other) in opening {
                let answer = from(one, other).syn().ack().seq(100).ack_number(101);
                arrives_by(stage, cast, one, answer.payload(&cast.mark()), other)?;
            }
            Ok(())
        },
    ),
    errand(
        "datagrams in fragments are answered",
        Row::AllowedFragments,
        Isolation::ALL,
        |stage, cast| {
            for size in [4000, 8900] {
                datagram(stage, cast, Party::A, Party::B, size)?;
                datagram(stage, cast, Party::A, Party::Outside, size)?;
                datagram(stage, cast, Party::Outside, Party::B, size)?;
                datagram(stage, cast, Party::Node, Party::B, size)?;
            }
            echo(cast, Party::A, Party::C, 8000)
        },
    ),
    errand(
        "a datagram whose first fragment came late passes at the next try",
        Row::AllowedFragments,
        Isolation::ALL,
        |stage, cast| {
            let whole = cast
                .udp()
                .payload(&[&[0; 24][..], &cast.mark()].concat())
                .identification(cast.identification());
            let pieces = whole.fragments(&[32]);
            stage.send_packet(Party::A, &pieces[1]).map_err(words)?;
            stage.send_packet(Party::A, &pieces[0]).map_err(words)?;
            arrives(stage, cast, pieces[1].clone(), Party::B)
        },
    ),
    errand(
        "an upload and a download find a narrow path out",
        Row::Errors,
        Isolation::ALL,
        |stage, cast| {
            let uplink = stage.world.outside().uplink;
            let mtu = |mtu| {
                let set = stage.world.node().namespace.set_mtu(uplink, mtu);
                set.map_err(|error| error.to_string())
            };
            mtu(NARROW)?;
            let done = narrow(cast);
            mtu(stage.setup.mtu)?;
            done
        },
    ),
    errand(
        "errors about live flows arrive in both directions",
        Row::Errors,
        Isolation::ALL,
        |stage, cast| {
            // By the receiver, and by a router on the way that nobody knows.
            let flow = cast.udp().payload(&[]);
            arrives(stage, cast, cast.udp(), Party::B)?;
            let refusal = destination_unreachable(&cast.udp());
            let refusal = cast.between(refusal, Party::B, Party::A);
            arrives_by(stage, cast, Party::B, refusal, Party::A)?;
            let out = cast.between(flow, Party::A, Party::Outside);
            stage.send_packet(Party::A, &out).map_err(words)?;
            let quoted = cast.between(cast.udp(), Party::A, Party::Outside);
            let router: IpAddr = match cast.family {
                Family::V4 => "203.0.113.1".parse().expect("an address"),
                Family::V6 => "2001:db8::1".parse().expect("an address"),
            };
            let expiry = cast.between(time_exceeded(&quoted), Party::Outside, Party::A);
            arrives_by(
                stage,
                cast,
                Party::Outside,
                expiry.source_ip(router),
                Party::A,
            )
        },
    ),
    errand(
        "the node's own errors about live flows arrive",
        Row::Errors,
        Isolation::ALL,
        |stage, cast| {
            let last_hop = cast
                .between(cast.udp(), Party::A, Party::Outside)
                .hop_limit(1);
            arrives(stage, cast, last_hop, Party::A)
        },
    ),
    errand(
        "work left to the kernel is done on allowed packets",
        Row::Offloads,
        Isolation::ALL,
        |stage, cast| {
            let checksum_start = transport(cast.family);
            let datagram = Unfinished {
                checksum_start,
                checksum_offset: UDP_CHECKSUM,
                ..Unfinished::default()
            };
            let segment = Unfinished {
                checksum_offset: TCP_CHECKSUM,
                ..datagram
            };
            let payload = [cast.mark(), vec![0x55; 4000]].concat();
            let many = cast.syn().sport(cast.port() ^ 1).payload(&payload);
            for (frame, left) in [
                (cast.udp().bytes(), datagram),
                (cast.syn().bytes(), segment),
                (many.bytes(), segments(cast)),
            ] {
                let attack = cast.attack_bytes(frame.clone());
                stage.socket(Party::B).forget().map_err(words)?;
                stage
                    .send_unfinished(Party::A, &frame, left)
                    .map_err(words)?;
                let seen = stage
                    .socket(Party::B)
                    .next(PATIENCE, |frame| attack.is_seen_in(frame));
                if seen.map_err(words)?.is_none() {
                    return Err(format!("a frame with {left:?} did not arrive"));
                }
            }
            Ok(())
        },
    ),
    errand(
        "hosts report which groups they listen to",
        Row::Signalling,
        Isolation::ALL,
        |stage, cast| {
            let records = [group_record(group(cast.family, 7))];
            let report = group_report(cast.family, &records, None).from(cast.end(Party::B));
            passes(stage, &report.erased())
        },
    ),
    errand(
        "workloads that may not talk still find each other's addresses",
        Row::Signalling,
        Isolation::ALL,
        |stage, cast| {
            let (b, c) = (cast.end(Party::B), cast.end(Party::C));
            let question = match cast.family {
                Family::V4 => arp_request().from(b).to(c).padded_to(60).erased(),
                Family::V6 => {
                    let target = c.ipv6.expect("everyone has both families");
                    let question = neighbour_solicitation(target).source_link_address(b.mac);
                    question.from(b).nd_option(14, &[7; 6]).erased()
                }
            };
            if !cast.setup.is_bridged() {
                return passes(stage, &question);
            }
            arrives_by(stage, cast, Party::B, question, Party::C)
        },
    ),
];

fn words(error: io::Error) -> String {
    error.to_string()
}

/// Sends a packet of `a` and waits until another party has it.
fn arrives<S: Body>(
    stage: &Stage,
    cast: &Cast<'_>,
    packet: Packet<S>,
    at: Party,
) -> Result<(), String> {
    arrives_by(stage, cast, Party::A, packet, at)
}

fn arrives_by<S: Body>(
    stage: &Stage,
    cast: &Cast<'_>,
    by: Party,
    packet: Packet<S>,
    at: Party,
) -> Result<(), String> {
    let attack = cast.attack(packet.clone());
    stage.socket(at).forget().map_err(words)?;
    stage.send_packet(by, &packet).map_err(words)?;
    let seen = stage
        .socket(at)
        .next(PATIENCE, |frame| attack.is_seen_in(frame));
    match seen.map_err(words)? {
        Some(_) => Ok(()),
        None => Err(format!("{packet} did not reach {at:?}")),
    }
}

/// Sends a packet of `b` and waits until it has passed the hook of its sender.
fn passes(stage: &Stage, packet: &Packet) -> Result<(), String> {
    stage.behind().forget().map_err(words)?;
    stage.send_packet(Party::B, packet).map_err(words)?;
    let sent = packet.bytes();
    let seen = stage
        .behind()
        .next(PATIENCE, |frame| frame.starts_with(&sent));
    match seen.map_err(words)? {
        Some(_) => Ok(()),
        None => Err(format!("{packet} did not pass the hook of its sender")),
    }
}

/// Both directions of two flows through an uplink that carries less than their ends know.
fn narrow(cast: &Cast<'_>) -> Result<(), String> {
    for (from, to) in [(Party::A, Party::Outside), (Party::Outside, Party::B)] {
        let flush = match cast.family {
            Family::V4 => "net/ipv4/route/flush",
            Family::V6 => "net/ipv6/route/flush",
        };
        for party in [from, to] {
            let forgotten = cast.namespace(party).set(flush, "1");
            forgotten.map_err(|error| error.to_string())?;
        }
        // Only what leaves the node meets the narrow link.
        let talk = Talk::open(cast, from, to)?;
        let (inside, outside) = match from {
            Party::Outside => (&talk.server, &talk.client),
            _ => (&talk.client, &talk.server),
        };
        one_way(inside, outside, SMALL_BULK)
            .map_err(|error| format!("{SMALL_BULK} bytes out, opened by {from:?}: {error}"))?;
    }
    Ok(())
}

/// Sends so many bytes over a connection and reads them at its other end.
fn one_way(mut sender: &Socket, mut receiver: &Socket, bytes: usize) -> io::Result<()> {
    let data: Vec<u8> = (0..bytes).map(|at| (at ^ at >> 8) as u8).collect();
    let mut heard = vec![0; bytes];
    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| sender.write_all(&data));
        let received = receiver.read_exact(&mut heard);
        (sending.join().expect("no panic"), received)
    });
    sent.and(received)?;
    match heard == data {
        true => Ok(()),
        false => Err(io::Error::other("other bytes arrived")),
    }
}

/// Opens a socket in a party's namespace.
fn socket(cast: &Cast<'_>, party: Party, kind: Type, protocol: Protocol) -> Result<Socket, String> {
    let _inside = (cast.namespace(party).enter()).map_err(|error| error.to_string())?;
    let domain = match cast.family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, kind, Some(protocol)).map_err(words)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(words)?;
    Ok(socket)
}

/// A datagram of so many bytes, and the same back.
fn datagram(
    stage: &Stage,
    cast: &Cast<'_>,
    from: Party,
    to: Party,
    size: usize,
) -> Result<(), String> {
    let failed = |what: &str, error: io::Error| {
        format!("{size} bytes from {from:?} to {to:?}: {what}: {error}")
    };
    let socket: UdpSocket = socket(cast, from, Type::DGRAM, Protocol::UDP)?.into();
    let sink = stage.sink(to, cast.family);
    drain(sink).map_err(words)?;
    sink.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    let data: Vec<u8> = (0..size)
        .map(|at| (at * 31 + cast.number as usize) as u8)
        .collect();
    let mut buffer = vec![0; 1 << 16];
    (socket.send_to(&data, (cast.ip(to), OPEN_PORT))).map_err(|error| failed("send", error))?;
    loop {
        let (length, sender) = sink
            .recv_from(&mut buffer)
            .map_err(|error| failed("there", error))?;
        if buffer[..length] == data {
            sink.send_to(&data, sender)
                .map_err(|error| failed("send back", error))?;
            break;
        }
    }
    let length = socket
        .recv(&mut buffer)
        .map_err(|error| failed("back", error))?;
    if buffer[..length] != data {
        return Err(format!(
            "{size} bytes from {from:?} to {to:?} came back as others"
        ));
    }
    Ok(())
}

/// Throws away what a socket has received.
fn drain(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 16];
    let end = loop {
        match socket.recv_from(&mut buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
            // An error about an earlier datagram of this socket is read with it.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => break Err(error),
        }
    };
    socket.set_nonblocking(false)?;
    end
}

/// An echo request of so many bytes, and its reply.
fn echo(cast: &Cast<'_>, from: Party, to: Party, size: usize) -> Result<(), String> {
    let kind = match cast.family {
        Family::V4 => Protocol::ICMPV4,
        Family::V6 => Protocol::ICMPV6,
    };
    let socket: UdpSocket = socket(cast, from, Type::DGRAM, kind)?.into();
    let request = ping(cast.family)
        .echo(0, cast.number as u16)
        .payload(&vec![0x42; size])
        .transport_bytes();
    let failed =
        |error: io::Error| format!("a ping of {size} bytes from {from:?} to {to:?}: {error}");
    socket.send_to(&request, (cast.ip(to), 0)).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).map_err(failed)?;
    if length != request.len() {
        return Err(format!(
            "a ping of {} bytes is answered with {length}",
            request.len()
        ));
    }
    Ok(())
}

/// A TCP connection between two parties.
struct Talk {
    client: Socket,
    server: Socket,
    /// The client's port.
    port: u16,
}

impl Talk {
    fn open(cast: &Cast<'_>, from: Party, to: Party) -> Result<Self, String> {
        Self::open_from(cast, from, to, 0)
    }

    fn open_from(cast: &Cast<'_>, from: Party, to: Party, port: u16) -> Result<Self, String> {
        let failed = |error: io::Error| format!("a connection from {from:?} to {to:?}: {error}");
        let listener = socket(cast, to, Type::STREAM, Protocol::TCP)?;
        listener.set_reuse_address(true).map_err(failed)?;
        let address = SocketAddr::new(cast.ip(to), OPEN_PORT);
        listener.bind(&address.into()).map_err(failed)?;
        listener.listen(1).map_err(failed)?;
        let client = socket(cast, from, Type::STREAM, Protocol::TCP)?;
        client.set_reuse_address(true).map_err(failed)?;
        if port != 0 {
            let own = SocketAddr::new(cast.ip(from), port);
            client.bind(&own.into()).map_err(failed)?;
        }
        client
            .connect_timeout(&address.into(), PATIENCE)
            .map_err(failed)?;
        let (server, _) = listener.accept().map_err(failed)?;
        server.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        server.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let own = client.local_addr().map_err(failed)?;
        let port = own.as_socket().map_or(0, |own| own.port());
        Ok(Self {
            client,
            server,
            port,
        })
    }

    /// Says something in each direction.
    fn exchange(&mut self, what: &[u8]) -> Result<(), String> {
        let mut heard = vec![0; what.len()];
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            from.write_all(what).map_err(words)?;
            to.read_exact(&mut heard).map_err(words)?;
            if heard != what {
                return Err(format!("{what:?} was heard as {heard:?}"));
            }
        }
        Ok(())
    }
}

/// Closing a connection so that neither end waits for stray segments afterwards.
impl Drop for Talk {
    fn drop(&mut self) {
        for socket in [&self.client, &self.server] {
            // A socket that is closed already needs no more.
            _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// So many bytes there and as many back, over one connection.
fn transfer(cast: &Cast<'_>, from: Party, to: Party, bytes: usize) -> Result<(), String> {
    let talk = Talk::open(cast, from, to)?;
    one_way(&talk.client, &talk.server, bytes)
        .map_err(|error| format!("{bytes} bytes from {from:?} to {to:?}: {error}"))?;
    one_way(&talk.server, &talk.client, bytes)
        .map_err(|error| format!("{bytes} bytes back from {to:?} to {from:?}: {error}"))
}
