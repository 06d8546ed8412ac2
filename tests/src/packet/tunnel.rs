//! Packets inside packets.
//!
//! A tunnel takes the packet it carries and is then addressed like any other:
//! `vxlan(7, &inner).from(web).to(db)`.

use super::{Body, Packet, Position, Protocol, Udp, ethertype, ip_protocol, protocol, udp};

/// The UDP ports tunnels are known by.
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;

/// IP in IP: 4 over anything and 6 over anything (6in4), by the inner version.
///
/// # Panics
///
/// Panics if what is inside is not an IP packet, as in [`gre`].
pub fn ipip<S: Body>(inner: &Packet<S>) -> Packet<Protocol> {
    let number = match ethertype_of(inner) {
        ethertype::IPV4 => protocol::IPIP,
        _ => protocol::IPV6,
    };
    ip_protocol(number).payload(&inner.network_bytes())
}

/// An IP packet in GRE (RFC 2784).
pub fn gre<S: Body>(inner: &Packet<S>) -> Packet<Protocol> {
    gre_with(ethertype_of(inner), &inner.network_bytes())
}

/// A whole frame in GRE.
pub fn gre_ethernet<S: Body>(inner: &Packet<S>) -> Packet<Protocol> {
    gre_with(ethertype::ETHERNET, &inner.bytes())
}

fn gre_with(ethertype: u16, inner: &[u8]) -> Packet<Protocol> {
    let header = [&[0, 0], &ethertype.to_be_bytes()[..]].concat();
    ip_protocol(protocol::GRE).payload(&[&header, inner].concat())
}

/// A frame in VXLAN (RFC 7348) on network `vni`.
pub fn vxlan<S: Body>(vni: u32, inner: &Packet<S>) -> Packet<Udp> {
    let [_, a, b, c] = vni.to_be_bytes();
    let header = [0x08, 0, 0, 0, a, b, c, 0];
    udp()
        .dport(VXLAN_PORT)
        .payload(&[&header, inner.bytes().as_slice()].concat())
}

/// A frame in Geneve (RFC 8926) on network `vni`.
pub fn geneve<S: Body>(vni: u32, inner: &Packet<S>) -> Packet<Udp> {
    let [_, a, b, c] = vni.to_be_bytes();
    let [e0, e1] = ethertype::ETHERNET.to_be_bytes();
    let header = [0, 0, e0, e1, a, b, c, 0];
    udp()
        .dport(GENEVE_PORT)
        .payload(&[&header, inner.bytes().as_slice()].concat())
}

fn ethertype_of<S: Body>(inner: &Packet<S>) -> u16 {
    match inner.segment.place() {
        Position::Ip(_) if inner.ip.family() == super::Family::V4 => ethertype::IPV4,
        Position::Ip(_) => ethertype::IPV6,
        Position::Ethertype(_) => panic!("only IP packets travel in this tunnel: {inner}"),
    }
}
