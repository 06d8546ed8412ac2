//! Setups: the ways a node can be wired, sized, offloading and attached.

use std::fmt;

use crate::world::Wiring;

/// A node's wiring, size of packets, offloads and hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// Wiring of the workloads.
    pub wiring: Wiring,
    /// The MTU of every link.
    pub mtu: u32,
    /// The offloads of every interface.
    pub offloads: Offloads,
    /// Hooks on which the programs judge.
    pub hooks: Hooks,
}

/// Offloads of all interfaces, at both ends of each link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offloads {
    /// Checksums, segmentation, and putting segments together.
    On,
    /// None of them, but on the attacker's own interface.
    Off,
}

/// Attachment of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hooks {
    /// As the agent attaches them: tcx links before clsact filters.
    Tcx,
    /// The remainder after the loss of a BPF file system: clsact filters alone.
    Clsact,
}

/// Directions that policies isolate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// No policy at all.
    Open,
    /// Traffic to workloads.
    Ingress,
    /// Traffic from workloads.
    Egress,
    /// Both.
    Both,
}

/// MTUs that setups are made of.
const MTUS: [u32; 2] = [1500, 9000];

impl Setup {
    /// Every combination.
    pub fn all() -> Vec<Self> {
        (0..16).map(Self::numbered).collect()
    }

    /// Few combinations in which every value of one part meets every value of each
    /// other part.
    pub fn pairwise() -> Vec<Self> {
        [0b0000, 0b0111, 0b1011, 0b1101, 0b1110]
            .into_iter()
            .map(Self::numbered)
            .collect()
    }

    /// The combination with this number; each bit chooses a part.
    fn numbered(number: u8) -> Self {
        let bit = |at: u8| usize::from(number >> at & 1);
        Self {
            wiring: Wiring::BOTH[bit(3)],
            mtu: MTUS[bit(2)],
            offloads: [Offloads::On, Offloads::Off][bit(1)],
            hooks: [Hooks::Tcx, Hooks::Clsact][bit(0)],
        }
    }

    /// Returns `true` if workloads are neighbours on one bridge.
    pub fn is_bridged(&self) -> bool {
        self.wiring == Wiring::Bridge
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wiring = if self.is_bridged() {
            "bridged"
        } else {
            "routed"
        };
        let offloads = match self.offloads {
            Offloads::On => "offloads on",
            Offloads::Off => "offloads off",
        };
        let hooks = match self.hooks {
            Hooks::Tcx => "tcx",
            Hooks::Clsact => "clsact",
        };
        write!(f, "{wiring}, MTU {}, {offloads}, {hooks}", self.mtu)
    }
}

/// Policies that close every workload's ingress, and open as much as this module promises.
const INGRESS: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed-in, namespace: t}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a-in, namespace: t}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: c}}}]
    ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b-in, namespace: t}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: a}}
    - ipBlock: {cidr: 198.51.100.0/24}
    - ipBlock: {cidr: fd51::/64}
    ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}, {protocol: SCTP, port: 81}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: c-in, namespace: t}
spec:
  podSelector: {matchLabels: {app: c}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
";

/// Policies that close every workload's egress, and open the same.
const EGRESS: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed-out, namespace: t}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a-out, namespace: t}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Egress]
  egress:
  - to:
    - podSelector: {matchLabels: {app: b}}
    - ipBlock: {cidr: 198.51.100.0/24}
    - ipBlock: {cidr: fd51::/64}
    ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}, {protocol: SCTP, port: 81}]
  - to: [{ipBlock: {cidr: 198.51.100.0/24}}]
    ports: [{protocol: UDP, port: 82}]
  - to: [{podSelector: {matchLabels: {app: c}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b-out, namespace: t}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 198.51.100.0/24}
    - ipBlock: {cidr: fd51::/64}
    ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: c-out, namespace: t}
spec:
  podSelector: {matchLabels: {app: c}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 80}]
";

impl Isolation {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Open, Self::Ingress, Self::Egress, Self::Both];
    /// Those under which policies decide about a pair of workloads.
    pub const CLOSED: &'static [Self] = &[Self::Ingress, Self::Egress, Self::Both];
    /// Those that isolate the receiver.
    pub const RECEIVER: &'static [Self] = &[Self::Ingress, Self::Both];
    /// Those that isolate the sender.
    pub const SENDER: &'static [Self] = &[Self::Egress, Self::Both];

    /// The documents.
    ///
    /// Isolated directions allow this much, by TCP and UDP to port 80 where nothing else
    /// stands:
    ///
    /// | from | to |
    /// |---|---|
    /// | `a` | `b` (and SCTP to port 81), the outside (and, to its IPv4 address, UDP to port 82) |
    /// | `a` | `c`: everything |
    /// | `b` | the outside |
    /// | `c` | `a` |
    /// | the outside | `b` (and SCTP to port 81) |
    ///
    /// Hence nothing at all between `b` and `c`.
    pub fn policies(self) -> String {
        match self {
            Self::Open => String::new(),
            Self::Ingress => INGRESS.to_owned(),
            Self::Egress => EGRESS.to_owned(),
            Self::Both => [INGRESS, EGRESS].concat(),
        }
    }

    /// Returns `true` if what workloads send is isolated.
    pub fn has_egress(self) -> bool {
        matches!(self, Self::Egress | Self::Both)
    }

    /// Returns `true` if what goes to workloads is isolated.
    pub fn has_ingress(self) -> bool {
        matches!(self, Self::Ingress | Self::Both)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "no policy",
            Self::Ingress => "ingress isolated",
            Self::Egress => "egress isolated",
            Self::Both => "both directions isolated",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn parts(setup: &Setup) -> [u32; 4] {
        [
            u32::from(setup.is_bridged()),
            setup.mtu,
            u32::from(setup.offloads == Offloads::On),
            u32::from(setup.hooks == Hooks::Tcx),
        ]
    }

    #[test]
    fn every_pair_of_values_meets_in_few_setups() {
        let pairs = |setups: Vec<Setup>| -> HashSet<_> {
            let all = setups.iter().flat_map(|setup| {
                let parts = parts(setup);
                (0..4).flat_map(move |one| {
                    (0..one).map(move |other| (one, parts[one], other, parts[other]))
                })
            });
            all.collect()
        };
        assert_eq!(pairs(Setup::all()).len(), 6 * 4);
        assert_eq!(pairs(Setup::pairwise()), pairs(Setup::all()));
        assert_eq!(Setup::all().iter().collect::<HashSet<_>>().len(), 16);
    }
}
