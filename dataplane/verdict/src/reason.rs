//! Reasons for which a packet was allowed or denied: one closed table.
//!
//! Number, name, help and metric label of every reason stand here and nowhere
//! else; `docs/reasons.md` is generated from it. Numbers are never reused.

/// Reasons with numbers below this bound; the counters have that much room.
pub const MAX_REASONS: u32 = 64;

macro_rules! reasons {
    ($($number:literal $variant:ident $name:literal $help:literal)*) => {
        /// Reason of a verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $help] $variant = $number,)*
        }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in JSON, in logs, and as the `reason` label of metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// The reason with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    1 Rule "rule" "A rule of a policy decided."
    2 NotIsolated "not_isolated" "No policy isolates the workload in this direction."
    3 Isolated "isolated" "Policies isolate the workload in this direction, and no rule of theirs allows the packet."
    4 Flow "flow" "The packet belongs to an allowed flow."
    5 Related "related" "The ICMP error belongs to an allowed flow."
    6 OwnNode "own_node" "The node itself opens a connection to its own workload."
    7 SelfTraffic "self" "A workload reaches itself, by its own address or through a Service."
    8 NeighbourDiscovery "neighbour_discovery" "Valid IPv6 neighbour discovery."
    9 SpoofedSource "spoofed_source" "The source address is not one of the workload's."
    10 SpoofedMac "spoofed_mac" "The source MAC is not the workload's."
    11 ForeignLocalAddress "foreign_local_address" "The source address is a local workload's, but the packet did not come from it."
    12 UntruthfulArp "untruthful_arp" "The ARP message claims an address or MAC that is not the workload's, or is malformed."
    13 UntruthfulNd "untruthful_nd" "The neighbour discovery message claims an address or MAC that is not the workload's, is malformed, or stands behind an extension header, fragment headers among them."
    14 RouterAdvertisement "router_advertisement" "A workload spoke as a router: a router advertisement, a multicast router advertisement, or a query of multicast groups (IGMP, MLD)."
    15 DhcpServer "dhcp_server" "A workload answered as a DHCP server."
    16 VlanTag "vlan_tag" "The frame carries a VLAN tag."
    17 Ethertype "ethertype" "The EtherType is neither IPv4, IPv6 nor ARP."
    18 Malformed "malformed" "A header is cut short or contradicts itself."
    19 Ipv6Chain "ipv6_chain" "The IPv6 extension headers are too many, too long, in a forbidden place or unknown."
    20 FragmentNoFirst "fragment_no_first" "A fragment arrived without the first fragment of its datagram."
    21 FragmentTableFull "fragment_table_full" "No room to remember the first fragment of a datagram."
    22 FlowTableFull "flow_table_full" "No room for a new flow. The packet passes, without an entry, if policy allows both directions."
    23 EndpointDenyAll "endpoint_deny_all" "The endpoint's verdicts are not in force yet; until then nothing passes."
    24 EndpointUnknown "endpoint_unknown" "The interface is not an endpoint's, or the stamp of a packet that leaves the node names none."
    25 TableCorrupt "table_corrupt" "The decision table contradicts itself, or none is in force."
    26 Arp "arp" "A truthful ARP message."
    27 MulticastListener "multicast_listener" "A report of multicast groups (IGMP, MLD), or towards a workload a query of them."
    28 Redirect "redirect" "A workload sent a redirect."
    29 AddressContended "address_contended" "The address could not be read because its place was rewritten again and again."
    30 NoFlow "no_flow" "The TCP segment opens no connection and belongs to no allowed flow; policy would let a new connection pass."
    31 PartialChecksum "partial_checksum" "The packet leaves a checksum to be written where none of its own belongs: the write would change, after the verdict, what the verdict was made from."
    32 NotReceiversAddress "not_receivers_address" "The destination is a single address, and none of the receiver's."
    33 SelfOnWire "self_on_wire" "A workload sends to its own address by its interface, which no stack does."
    34 SourceRoute "source_route" "An IPv4 source route option or an IPv6 routing header with segments left leads the packet to other addresses than the one policy is asked about."
    35 SignallingSize "signalling_size" "A signalling message (ARP, neighbour discovery, IGMP, MLD, an ICMP error) is longer, or holds more, than such a message needs."
    36 VirtualUndecided "virtual_undecided" "The packet goes to a port of a Service of which some backends may be reached, or none is known. It passes, to be judged where its address has become a backend's; it is dropped where none of Cofferdam's hooks would see that."
    37 Bypassed "bypassed" "Policy denies the packet, and is not asked: somebody has bypassed it for a time."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_in_bounds() {
        for (i, a) in Reason::ALL.iter().enumerate() {
            assert!((*a as u32) > 0 && (*a as u32) < MAX_REASONS);
            assert_eq!(Reason::from_number(*a as u8), Some(*a));
            for b in &Reason::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert!((*a as u8) < (*b as u8));
            }
        }
    }
}
