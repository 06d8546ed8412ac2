//! Rows of the threat model's table of evasions.

/// A row in scope: each has scenarios or errands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// Headers not in the linear part of the packet.
    NotLinear,
    /// IPv4 options that move the transport header, or route the packet.
    Options,
    /// A later fragment alone.
    LoneFragment,
    /// Second first fragments, overlaps, tiny fragments.
    FragmentOverlap,
    /// Fragments of allowed datagrams.
    AllowedFragments,
    /// Another host, or another workload, with a local workload's address.
    LocalAddress,
    /// VLAN tags.
    Tags,
    /// Anything but IP and ARP.
    Ethertypes,
    /// IP version, EtherType and family of the policy disagree.
    Versions,
    /// Lengths that lie.
    Lengths,
    /// Chains of IPv6 extension headers.
    Chains,
    /// IPv6 headers without a transport behind them, and those that are walked.
    OddHeaders,
    /// IP protocols known by number alone.
    Protocols,
    /// Tunnels.
    Tunnels,
    /// Source addresses that are another's, or no host's.
    SpoofedSource,
    /// IPv6 source addresses with an IPv4 address inside, `::`, foreign link-local ones.
    OddSources,
    /// MAC addresses, ARP and neighbour discovery that lie.
    NeighbourSpoofing,
    /// A workload that acts as a router or DHCP server.
    Routers,
    /// Neighbour discovery as a tunnel.
    Signalling,
    /// ICMP errors.
    Errors,
    /// Echo requests dressed as replies.
    Echo,
    /// TCP segments that open nothing, or carry data at once.
    OddSegments,
    /// Packets shaped like replies.
    ReplyShaped,
    /// A live flow's reverse tuple.
    ReverseTuple,
    /// Resets that nobody in the flow sent.
    BlindReset,
    /// A flow's end and its next beginning.
    Reuse,
    /// UDP replies from elsewhere.
    UdpReplies,
    /// SCTP.
    Sctp,
    /// Broadcast, multicast, and frames for another's MAC address.
    Receivers,
    /// The node, the metadata address, and hosts that pose as the node.
    Host,
    /// Super-packets and partial checksums.
    Offloads,
    /// Changes by a workload with CAP_NET_ADMIN to its own interface.
    OwnInterface,
}

impl Row {
    /// All rows in scope. Not here: XDP, other kinds of interfaces, a workload's own
    /// Service, and interfaces that are made anew.
    pub const ALL: [Self; 32] = [
        Self::NotLinear,
        Self::Options,
        Self::LoneFragment,
        Self::FragmentOverlap,
        Self::AllowedFragments,
        Self::LocalAddress,
        Self::Tags,
        Self::Ethertypes,
        Self::Versions,
        Self::Lengths,
        Self::Chains,
        Self::OddHeaders,
        Self::Protocols,
        Self::Tunnels,
        Self::SpoofedSource,
        Self::OddSources,
        Self::NeighbourSpoofing,
        Self::Routers,
        Self::Signalling,
        Self::Errors,
        Self::Echo,
        Self::OddSegments,
        Self::ReplyShaped,
        Self::ReverseTuple,
        Self::BlindReset,
        Self::Reuse,
        Self::UdpReplies,
        Self::Sctp,
        Self::Receivers,
        Self::Host,
        Self::Offloads,
        Self::OwnInterface,
    ];
}
