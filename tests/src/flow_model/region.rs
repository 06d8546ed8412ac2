//! Region: its parties, their labels, and the traffic that policies allow them.
//!
//! A [`Region`] answers [`Region::permits`] from its labels and rules, one by one, and
//! is compiled to a decision table from documents that say the same. The model trusts
//! the first alone.

use std::{fmt::Write as _, net::IpAddr};

use cofferdam_compiler::{Input, Slot, SlotPlan, compile};
use cofferdam_documents as documents;
use cofferdam_inventory::{Inventory, ObjectName, Owner, Workload};
use cofferdam_verdict::{
    capacity::Limits,
    table::{Page, header},
    verdict::Direction,
};
use fastrand::Rng;

use crate::packet::Family;

/// Workloads of the node.
pub(super) const PODS: usize = 4;
/// Values of the label that policies select by.
pub(super) const ROLES: usize = 3;
/// Ports that rules and packets are about: of servers, of clients, and of both.
pub(super) const PORTS: [u16; 3] = [80, 53, 5000];

/// Name of the node in the documents.
const NODE: &str = "n1";
/// Room for the slots below and some sets of outside addresses.
pub(super) const LIMITS: Limits = Limits {
    endpoints: 8,
    slots: 128,
    table_pages: 8,
    rules: 256,
    flows_per_endpoint: 64,
    event_bytes: 4096,
};

/// Somebody who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Party {
    /// A workload of the node.
    Pod(usize),
    /// A workload of another node.
    Remote,
    /// The node.
    Node,
    /// Another node.
    OtherNode,
    /// A host outside.
    Outside,
}

/// Party that an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A workload of the node, by its number.
    Pod(usize),
    /// The workload of another node.
    Remote,
    /// The node.
    Node,
    /// Another node.
    OtherNode,
    /// A host that no workload or node is.
    Outside,
    /// A virtual address, of which policies know nothing.
    Virtual,
    /// An address for workloads that none has.
    Nobody,
}

/// Address number `n` for workloads of the node.
pub(super) fn pod_address(n: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 0, 0, 1 + n as u8].into(),
        Family::V6 => [0xfd00, 0, 0, 0, 0, 0, 0, 1 + n as u16].into(),
    }
}

/// The address of everybody who is no workload of the node.
pub(super) fn fixed_address(standing: Standing, family: Family) -> IpAddr {
    let (v4, v6): ([u8; 4], [u16; 8]) = match standing {
        Standing::Remote => ([10, 1, 0, 1], [0xfd01, 0, 0, 0, 0, 0, 0, 1]),
        Standing::Node => ([10, 9, 0, 1], [0xfd09, 0, 0, 0, 0, 0, 0, 1]),
        Standing::OtherNode => ([10, 9, 0, 2], [0xfd09, 0, 0, 0, 0, 0, 0, 2]),
        Standing::Outside => ([198, 51, 100, 7], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]),
        Standing::Virtual => ([10, 96, 0, 10], [0xfd96, 0, 0, 0, 0, 0, 0, 10]),
        Standing::Pod(_) | Standing::Nobody => unreachable!("not a fixed address"),
    };
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

/// Everybody with a fixed address.
const FIXED: [Standing; 5] = [
    Standing::Remote,
    Standing::Node,
    Standing::OtherNode,
    Standing::Outside,
    Standing::Virtual,
];

/// Peers that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    Anybody,
    Role(usize),
    Outside,
    Node,
    Virtual,
}

/// Service that a packet asks for, as a policy sees it: the ports of the packet that would open
/// its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Service {
    /// The protocol.
    pub(super) protocol: u8,
    /// Destination port, where rules can name it.
    pub(super) port: Option<u16>,
}

/// One rule: peers, and one protocol and port, or all of them.
#[derive(Clone, Copy, Debug)]
struct Rule {
    direction: Direction,
    peers: Peers,
    service: Option<(u8, u16)>,
}

/// The policy for a role.
#[derive(Clone, Debug, Default)]
struct Policy {
    /// By [`Direction`].
    isolates: [bool; 2],
    rules: Vec<Rule>,
}

/// Labels, addresses and policies, at one time.
#[derive(Clone, Debug)]
pub(super) struct Region {
    /// Role of each workload of the node.
    roles: [usize; PODS],
    remote_role: usize,
    /// Owner of each address for workloads.
    owners: [Option<usize>; PODS],
    policies: [Policy; ROLES],
    pages: Vec<Page>,
}

impl Region {
    /// Any region.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let mut region = Self {
            roles: std::array::from_fn(|_| rng.usize(..ROLES)),
            remote_role: rng.usize(..ROLES),
            owners: std::array::from_fn(Some),
            policies: std::array::from_fn(|_| policy(rng)),
            pages: Vec::new(),
        };
        region.compile();
        region
    }

    /// A region that differs from this one in labels, addresses or policies.
    pub(super) fn changed(&self, rng: &mut Rng) -> Self {
        let mut next = self.clone();
        for _ in 0..rng.usize(1..3) {
            match rng.u8(..8) {
                0 | 1 => next.roles[rng.usize(..PODS)] = rng.usize(..ROLES),
                2 => next.remote_role = rng.usize(..ROLES),
                3 => {
                    let owner = (rng.u8(..4) > 0).then(|| rng.usize(..PODS));
                    next.owners[rng.usize(..PODS)] = owner;
                }
                _ => next.policies[rng.usize(..ROLES)] = policy(rng),
            }
        }
        next.compile();
        next
    }

    /// Returns `true` if policies let `from` open a conversation with `to`, as far as
    /// this node judges it: the sender's egress where the sender is a workload of the
    /// node, and the receiver's ingress where the receiver is a workload.
    pub(super) fn permits(&self, from: Standing, to: Standing, service: Service) -> bool {
        let sends = match from {
            Standing::Pod(pod) => self.allows(Direction::Egress, self.roles[pod], to, service),
            _ => true,
        };
        let receives = match to {
            Standing::Pod(pod) => self.allows(Direction::Ingress, self.roles[pod], from, service),
            Standing::Remote => self.allows(Direction::Ingress, self.remote_role, from, service),
            _ => true,
        };
        sends && receives
    }

    fn allows(
        &self,
        direction: Direction,
        subject: usize,
        peer: Standing,
        service: Service,
    ) -> bool {
        let policy = &self.policies[subject];
        !policy.isolates[direction as usize]
            || policy.rules.iter().any(|rule| {
                rule.direction == direction
                    && self.is_about(rule.peers, peer)
                    && (rule.service).is_none_or(|(protocol, port)| {
                        service.protocol == protocol && service.port == Some(port)
                    })
            })
    }

    fn is_about(&self, peers: Peers, peer: Standing) -> bool {
        match peers {
            Peers::Anybody => true,
            Peers::Role(role) => match peer {
                Standing::Pod(pod) => self.roles[pod] == role,
                Standing::Remote => self.remote_role == role,
                _ => false,
            },
            Peers::Outside => peer == Standing::Outside,
            Peers::Node => peer == Standing::Node,
            Peers::Virtual => peer == Standing::Virtual,
        }
    }

    /// Returns the party that an address stands for.
    pub(super) fn standing(&self, address: IpAddr) -> Standing {
        for family in Family::BOTH {
            for (n, owner) in self.owners.iter().enumerate() {
                if pod_address(n, family) == address {
                    return owner.map_or(Standing::Nobody, Standing::Pod);
                }
            }
        }
        let fixed = FIXED.into_iter().find(|&standing| {
            Family::BOTH
                .into_iter()
                .any(|family| fixed_address(standing, family) == address)
        });
        fixed.expect("an address of the region")
    }

    /// Addresses of a workload of the node.
    pub(super) fn addresses(&self, pod: usize, family: Family) -> Vec<IpAddr> {
        (0..PODS)
            .filter(|&n| self.owners[n] == Some(pod))
            .map(|n| pod_address(n, family))
            .collect()
    }

    /// Returns `true` if a workload has addresses.
    pub(super) fn has_addresses(&self, pod: usize) -> bool {
        self.owners.contains(&Some(pod))
    }

    /// Returns `true` if a workload has another role or other addresses there.
    pub(super) fn differs_in(&self, other: &Self, pod: usize) -> bool {
        let owned = |owners: &[Option<usize>; PODS]| owners.map(|owner| owner == Some(pod));
        self.roles[pod] != other.roles[pod] || owned(&self.owners) != owned(&other.owners)
    }

    /// Isolation of both ends, where both are workloads: of the sender's egress and of
    /// the receiver's ingress.
    pub(super) fn isolation(&self, from: Standing, to: Standing) -> Option<[bool; 2]> {
        let role = |standing| match standing {
            Standing::Pod(pod) => Some(self.roles[pod]),
            Standing::Remote => Some(self.remote_role),
            _ => None,
        };
        let of = |role: usize, direction| self.policies[role].isolates[direction as usize];
        Some([
            of(role(from)?, Direction::Egress),
            of(role(to)?, Direction::Ingress),
        ])
    }

    /// Slot of every address of a workload or node. A workload's slots move with its
    /// labels.
    pub(super) fn slots(&self) -> Vec<(IpAddr, u32)> {
        let mut slots = Vec::new();
        let mut base = 1;
        for family in Family::BOTH {
            for n in 0..PODS {
                if let Some(owner) = self.owners[n] {
                    slots.push((pod_address(n, family), base + self.roles[owner] as u32));
                }
                base += ROLES as u32;
            }
            let remote = fixed_address(Standing::Remote, family);
            slots.push((remote, base + self.remote_role as u32));
            base += ROLES as u32;
            for standing in [Standing::Node, Standing::OtherNode] {
                slots.push((fixed_address(standing, family), base));
                base += 1;
            }
        }
        slots
    }

    /// The decision table, as this revision.
    pub(super) fn publish(&mut self, revision: u32) {
        self.pages[0][header::REVISION_LOW] = revision;
    }

    /// The same region, as the model wants it.
    pub(super) fn clone_without_table(&self) -> Self {
        Self {
            pages: Vec::new(),
            policies: self.policies.clone(),
            ..*self
        }
    }

    /// The decision table.
    pub(super) fn table(&self) -> &[Page] {
        &self.pages
    }

    fn compile(&mut self) {
        let text = self.documents();
        let parsed = documents::parse("region.yaml", text.as_bytes());
        assert!(
            parsed.rejected.is_empty(),
            "{:?}\n{text}",
            parsed.diagnostics
        );
        let assembled = documents::assemble(parsed.documents);
        assert!(assembled.rejected.is_empty(), "{:?}", assembled.diagnostics);
        let inventory = assembled.inventory;
        let plan = SlotPlan::from_slots(self.slots().into_iter().map(|(address, number)| Slot {
            number,
            owner: owner_of(&inventory, address),
            address,
        }))
        .expect("slots are each of one address");
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &plan,
            is_local: &|workload: &Workload| workload.node.as_deref() == Some(NODE),
            own_node: Some(NODE),
            limits: LIMITS,
            revision: 1,
        })
        .expect("a small region fits");
        self.pages = compiled.pages().to_vec();
    }

    /// The documents that say what this region is.
    pub(super) fn documents(&self) -> String {
        let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n");
        let both = |standing| {
            Family::BOTH
                .map(|family| fixed_address(standing, family))
                .to_vec()
        };
        for (pod, &role) in self.roles.iter().enumerate() {
            let addresses: Vec<IpAddr> = Family::BOTH
                .into_iter()
                .flat_map(|family| self.addresses(pod, family))
                .collect();
            if !addresses.is_empty() {
                pod_document(&mut text, &format!("p{pod}"), role, NODE, &addresses);
            }
        }
        pod_document(
            &mut text,
            "r",
            self.remote_role,
            "n2",
            &both(Standing::Remote),
        );
        for (name, standing) in [(NODE, Standing::Node), ("n2", Standing::OtherNode)] {
            let addresses: Vec<String> = both(standing)
                .iter()
                .map(|address| format!("{{type: InternalIP, address: \"{address}\"}}"))
                .collect();
            write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 status: {{addresses: [{}]}}\n",
                addresses.join(", ")
            )
            .expect("a string");
        }
        for (role, policy) in self.policies.iter().enumerate() {
            policy.document(&mut text, role);
        }
        text
    }
}

fn pod_document(text: &mut String, name: &str, role: usize, node: &str, addresses: &[IpAddr]) {
    let addresses: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{ip: \"{address}\"}}"))
        .collect();
    write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{role: r{role}}}}}\n\
         spec: {{nodeName: {node}}}\nstatus: {{podIPs: [{}]}}\n",
        addresses.join(", ")
    )
    .expect("a string");
}

fn owner_of(inventory: &Inventory, address: IpAddr) -> Owner {
    inventory.owner(address).unwrap_or_else(|| {
        // A slot that no document claims is left spare by the compiler.
        Owner::Workload(ObjectName::new("x", "nobody"))
    })
}

fn policy(rng: &mut Rng) -> Policy {
    let isolates = [rng.u8(..3) > 0, rng.u8(..3) > 0];
    let rules = (0..rng.usize(..4)).map(|_| {
        let peers = match rng.u8(..8) {
            0 => Peers::Anybody,
            1 => Peers::Outside,
            2 => Peers::Node,
            3 => Peers::Virtual,
            _ => Peers::Role(rng.usize(..ROLES)),
        };
        let port = PORTS[rng.usize(..PORTS.len())];
        Rule {
            direction: if rng.bool() {
                Direction::Ingress
            } else {
                Direction::Egress
            },
            peers,
            service: match rng.u8(..5) {
                0 | 1 => None,
                2 => Some((6, port)),
                3 => Some((17, port)),
                _ => Some((132, port)),
            },
        }
    });
    Policy {
        isolates,
        rules: rules.collect(),
    }
}

impl Policy {
    fn document(&self, text: &mut String, role: usize) {
        let types = [
            (Direction::Ingress, "Ingress"),
            (Direction::Egress, "Egress"),
        ];
        let types: Vec<&str> = types
            .into_iter()
            .filter(|&(direction, _)| self.isolates[direction as usize])
            .map(|(_, name)| name)
            .collect();
        if types.is_empty() {
            return;
        }
        write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{namespace: x, name: r{role}}}\nspec:\n  \
             podSelector: {{matchLabels: {{role: r{role}}}}}\n  policyTypes: [{}]\n",
            types.join(", ")
        )
        .expect("a string");
        for (direction, section, peers) in [
            (Direction::Ingress, "ingress", "from"),
            (Direction::Egress, "egress", "to"),
        ] {
            let rules = self.rules.iter().filter(|rule| rule.direction == direction);
            let rules: Vec<String> = rules.map(|rule| rule.document(peers)).collect();
            if self.isolates[direction as usize] && !rules.is_empty() {
                writeln!(text, "  {section}: [{}]", rules.join(", ")).expect("a string");
            }
        }
    }
}

impl Rule {
    fn document(&self, word: &str) -> String {
        let blocks = |blocks: &[&str]| {
            let blocks: Vec<String> = blocks
                .iter()
                .map(|block| format!("{{ipBlock: {{cidr: \"{block}\"}}}}"))
                .collect();
            format!("{word}: [{}]", blocks.join(", "))
        };
        let peers = match self.peers {
            Peers::Anybody => String::new(),
            Peers::Role(role) => {
                format!("{word}: [{{podSelector: {{matchLabels: {{role: r{role}}}}}}}]")
            }
            Peers::Outside => blocks(&["198.51.100.0/24", "2001:db8::/32"]),
            Peers::Node => blocks(&["10.9.0.1/32", "fd09::1/128"]),
            Peers::Virtual => blocks(&["10.96.0.0/16", "fd96::/64"]),
        };
        let ports = self.service.map_or(String::new(), |(protocol, port)| {
            let name = match protocol {
                6 => "TCP",
                17 => "UDP",
                _ => "SCTP",
            };
            format!("ports: [{{protocol: {name}, port: {port}}}]")
        });
        let parts: Vec<String> = [peers, ports]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}
