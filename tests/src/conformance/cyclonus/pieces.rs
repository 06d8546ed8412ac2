//! Pieces that policies are put together from, and the cells that each piece opens.

use crate::conformance::cluster::{Change, End, network_policy};
use crate::conformance::expected::Expected;
use crate::traffic::Probe;

/// A peer of a rule, and the pods that it selects.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// For an `ipBlock`, one for each family.
    pub(super) text: &'static str,
    pub(super) tags: &'static [&'static str],
    /// The pods it is, in a policy of this namespace.
    pub(super) is: fn(namespace: &str, &End) -> bool,
}

/// Port of a rule, and the probes that it opens.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) text: &'static str,
    pub(super) tags: &'static [&'static str],
    pub(super) opens: fn(Probe) -> bool,
}

/// Pods that a policy is about, of those in its namespace.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) text: &'static str,
    pub(super) is: fn(&str) -> bool,
}

/// One rule: from or to these, on these ports. An empty list is everything.
#[derive(Clone, Default)]
pub(super) struct Rule {
    pub(super) peers: Vec<Peer>,
    pub(super) ports: Vec<Port>,
}

/// A policy, as far as it is varied.
#[derive(Clone)]
pub(super) struct Policy {
    pub(super) namespace: &'static str,
    pub(super) target: Target,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

/// A pod's way, of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

pub(super) const TARGETS: [Target; 3] = [
    Target {
        text: "{}",
        is: |_| true,
    },
    POD_A,
    Target {
        text: "{matchExpressions: [{key: pod, operator: In, values: [a, b]}]}",
        is: |pod| pod == "a" || pod == "b",
    },
];

pub(super) const POD_A: Target = Target {
    text: "{matchLabels: {pod: a}}",
    is: |pod| pod == "a",
};

/// The ten kinds of peers.
pub(super) const PEERS: [Peer; 10] = [
    Peer {
        name: "all pods of the policy's namespace",
        text: "{podSelector: {}}",
        tags: &["policy-namespace", "all-pods"],
        is: |namespace, end| end.namespace() == namespace,
    },
    Peer {
        name: "pods c of the policy's namespace",
        text: "{podSelector: {matchLabels: {pod: c}}}",
        tags: &["policy-namespace", "pods-by-label"],
        is: |namespace, end| end.namespace() == namespace && end.name() == "c",
    },
    Peer {
        name: "all namespaces",
        text: "{namespaceSelector: {}}",
        tags: &["all-namespaces", "all-pods"],
        is: |_, _| true,
    },
    Peer {
        name: "all pods of all namespaces",
        text: "{podSelector: {}, namespaceSelector: {}}",
        tags: &["all-namespaces", "all-pods"],
        is: |_, _| true,
    },
    Peer {
        name: "pods c of all namespaces",
        text: "{podSelector: {matchLabels: {pod: c}}, namespaceSelector: {}}",
        tags: &["all-namespaces", "pods-by-label"],
        is: |_, end| end.name() == "c",
    },
    Peer {
        name: "namespace x",
        text: "{namespaceSelector: {matchLabels: {ns: x}}}",
        tags: &["namespaces-by-label", "all-pods"],
        is: |_, end| end.namespace() == "x",
    },
    Peer {
        name: "all pods of namespace x",
        text: "{podSelector: {}, namespaceSelector: {matchLabels: {ns: x}}}",
        tags: &["namespaces-by-label", "all-pods"],
        is: |_, end| end.namespace() == "x",
    },
    Peer {
        name: "pods c of namespace x",
        text: "{podSelector: {matchLabels: {pod: c}}, namespaceSelector: {matchLabels: {ns: x}}}",
        tags: &["namespaces-by-label", "pods-by-label"],
        is: |_, end| end.to_string() == "x/c",
    },
    Peer {
        name: "a block of addresses",
        text: "{ipBlock: {cidr: 10.64.0.0/24}}, {ipBlock: {cidr: 'fd64::/120'}}",
        tags: &["ip-block-no-except"],
        is: |_, _| true,
    },
    // Pods have addresses in the order of their names: those of z end in 8, 9 and 10.
    Peer {
        name: "a block of addresses but some",
        text: "{ipBlock: {cidr: 10.64.0.0/24, except: [10.64.0.8/30]}}, {ipBlock: {cidr: \
               'fd64::/120', except: ['fd64::8/126']}}",
        tags: &["ip-block-with-except"],
        is: |_, end| end.namespace() != "z",
    },
];

/// The peer of the base policy's ingress. A namespace `y-2` has the labels of `y`.
pub(super) const BASE_FROM: Peer = Peer {
    name: "pods b and c of x and y",
    text: "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, \
           namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [x, y]}]}}",
    tags: &[],
    is: |_, end| ["x", "y", "y-2"].contains(&end.namespace()) && ["b", "c"].contains(&end.name()),
};

/// The peer of the base policy's egress.
pub(super) const BASE_TO: Peer = Peer {
    name: "pods a and b of y and z",
    text: "{podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}, \
           namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y, z]}]}}",
    tags: &[],
    is: |_, end| ["y", "y-2", "z"].contains(&end.namespace()) && ["a", "b"].contains(&end.name()),
};

pub(super) const TCP_80: Port = Port {
    text: "{protocol: TCP, port: 80}",
    tags: &["numbered-port", "tcp"],
    opens: |probe| probe == Probe::Tcp(80),
};

pub(super) const UDP_81_BY_NAME: Port = Port {
    text: "{protocol: UDP, port: serve-81-udp}",
    tags: &["named-port", "udp"],
    opens: |probe| probe == Probe::Udp(81),
};

/// Every form a single port is given in.
pub(super) const PORTS: [Port; 24] = [
    Port {
        text: "{}",
        tags: &["any-port"],
        opens: |probe| matches!(probe, Probe::Tcp(_)),
    },
    Port {
        text: "{port: 80}",
        tags: &["numbered-port"],
        opens: |probe| probe == Probe::Tcp(80),
    },
    Port {
        text: "{port: 81}",
        tags: &["numbered-port"],
        opens: |probe| probe == Probe::Tcp(81),
    },
    Port {
        text: "{protocol: TCP}",
        tags: &["any-port", "tcp"],
        opens: |probe| matches!(probe, Probe::Tcp(_)),
    },
    TCP_80,
    Port {
        text: "{protocol: TCP, port: 81}",
        tags: &["numbered-port", "tcp"],
        opens: |probe| probe == Probe::Tcp(81),
    },
    Port {
        text: "{protocol: UDP}",
        tags: &["any-port", "udp"],
        opens: |probe| matches!(probe, Probe::Udp(_)),
    },
    Port {
        text: "{protocol: UDP, port: 80}",
        tags: &["numbered-port", "udp"],
        opens: |probe| probe == Probe::Udp(80),
    },
    Port {
        text: "{protocol: UDP, port: 81}",
        tags: &["numbered-port", "udp"],
        opens: |probe| probe == Probe::Udp(81),
    },
    Port {
        text: "{protocol: SCTP}",
        tags: &["any-port", "sctp"],
        opens: |probe| matches!(probe, Probe::Sctp(_)),
    },
    Port {
        text: "{protocol: SCTP, port: 80}",
        tags: &["numbered-port", "sctp"],
        opens: |probe| probe == Probe::Sctp(80),
    },
    Port {
        text: "{protocol: SCTP, port: 81}",
        tags: &["numbered-port", "sctp"],
        opens: |probe| probe == Probe::Sctp(81),
    },
    Port {
        text: "{protocol: TCP, port: serve-80-tcp}",
        tags: &["named-port", "tcp"],
        opens: |probe| probe == Probe::Tcp(80),
    },
    Port {
        text: "{protocol: TCP, port: serve-81-tcp}",
        tags: &["named-port", "tcp"],
        opens: |probe| probe == Probe::Tcp(81),
    },
    Port {
        text: "{protocol: UDP, port: serve-80-udp}",
        tags: &["named-port", "udp"],
        opens: |probe| probe == Probe::Udp(80),
    },
    UDP_81_BY_NAME,
    Port {
        text: "{protocol: SCTP, port: serve-80-sctp}",
        tags: &["named-port", "sctp"],
        opens: |probe| probe == Probe::Sctp(80),
    },
    Port {
        text: "{protocol: SCTP, port: serve-81-sctp}",
        tags: &["named-port", "sctp"],
        opens: |probe| probe == Probe::Sctp(81),
    },
    Port {
        text: "{protocol: TCP, port: 53, endPort: 80}",
        tags: &["numbered-port", "tcp", "end-port"],
        opens: |probe| probe == Probe::Tcp(80),
    },
    Port {
        text: "{protocol: TCP, port: 53, endPort: 84}",
        tags: &["numbered-port", "tcp", "end-port"],
        opens: |probe| matches!(probe, Probe::Tcp(_)),
    },
    Port {
        text: "{protocol: UDP, port: 53, endPort: 80}",
        tags: &["numbered-port", "udp", "end-port"],
        opens: |probe| probe == Probe::Udp(80),
    },
    Port {
        text: "{protocol: UDP, port: 53, endPort: 84}",
        tags: &["numbered-port", "udp", "end-port"],
        opens: |probe| matches!(probe, Probe::Udp(_)),
    },
    Port {
        text: "{protocol: SCTP, port: 53, endPort: 80}",
        tags: &["numbered-port", "sctp", "end-port"],
        opens: |probe| probe == Probe::Sctp(80),
    },
    Port {
        text: "{protocol: SCTP, port: 53, endPort: 84}",
        tags: &["numbered-port", "sctp", "end-port"],
        opens: |probe| matches!(probe, Probe::Sctp(_)),
    },
];

/// Ports that open nothing here: a name of another protocol, and what nobody serves.
pub(super) const PATHOLOGICAL: [Port; 3] = [
    Port {
        text: "{protocol: TCP, port: serve-81-udp}",
        tags: &["named-port", "tcp", "pathological"],
        opens: |_| false,
    },
    Port {
        text: "{protocol: TCP, port: serve-7981-udp}",
        tags: &["named-port", "tcp", "pathological"],
        opens: |_| false,
    },
    Port {
        text: "{protocol: TCP, port: 7981}",
        tags: &["numbered-port", "tcp", "pathological"],
        opens: |_| false,
    },
];

const TCP_80_BY_NAME: Port = Port {
    text: "{port: serve-80-tcp}",
    tags: &["named-port"],
    opens: |probe| probe == Probe::Tcp(80),
};

const TCP_81_BY_NAME: Port = Port {
    text: "{port: serve-81-tcp}",
    tags: &["named-port"],
    opens: |probe| probe == Probe::Tcp(81),
};

/// Two ports in one rule.
pub(super) const PAIRS: [[Port; 2]; 7] = [
    // Every TCP port, and one of them by number, one by name, every UDP port.
    [PORTS[0], PORTS[1]],
    [PORTS[0], TCP_80_BY_NAME],
    [PORTS[0], PORTS[6]],
    // By numbers; by number and name; of two protocols; both UDP.
    [PORTS[1], PORTS[2]],
    [PORTS[1], TCP_81_BY_NAME],
    [PORTS[1], UDP_81_BY_NAME],
    [PORTS[7], UDP_81_BY_NAME],
];

/// Nothing that is tried here: name resolution.
const DNS: Port = Port {
    text: "{protocol: UDP, port: 53}, {protocol: TCP, port: 53}",
    tags: &[],
    opens: |_| false,
};

impl Rule {
    fn text(&self, peers: &str) -> String {
        let list = |texts: Vec<&str>| texts.join(", ");
        let mut parts = Vec::new();
        if !self.peers.is_empty() {
            let texts = self.peers.iter().map(|peer| peer.text).collect();
            parts.push(format!("{peers}: [{}]", list(texts)));
        }
        if !self.ports.is_empty() {
            let texts = self.ports.iter().map(|port| port.text).collect();
            parts.push(format!("ports: [{}]", list(texts)));
        }
        format!("{{{}}}", parts.join(", "))
    }

    fn opens(&self, namespace: &str, peer: &End, probe: Probe) -> bool {
        let is_peer = self.peers.iter().any(|one| (one.is)(namespace, peer));
        let is_open = self.ports.iter().any(|one| (one.opens)(probe));
        (self.peers.is_empty() || is_peer) && (self.ports.is_empty() || is_open)
    }
}

impl Policy {
    /// Makes the policy that all variations begin with.
    pub(super) fn base() -> Self {
        let dns = Rule {
            peers: Vec::new(),
            ports: vec![DNS],
        };
        Self {
            namespace: "x",
            target: POD_A,
            ingress: vec![Rule {
                peers: vec![BASE_FROM],
                ports: vec![TCP_80],
            }],
            egress: vec![
                Rule {
                    peers: vec![BASE_TO],
                    ports: vec![TCP_80],
                },
                dns,
            ],
        }
    }

    pub(super) fn rules(mut self, direction: Direction, rules: Vec<Rule>) -> Self {
        match direction {
            Direction::Ingress => self.ingress = rules,
            Direction::Egress => self.egress = rules,
        }
        self
    }

    fn first(&mut self, direction: Direction) -> &mut Rule {
        match direction {
            Direction::Ingress => &mut self.ingress[0],
            Direction::Egress => &mut self.egress[0],
        }
    }

    pub(super) fn peers(mut self, direction: Direction, peers: Vec<Peer>) -> Self {
        self.first(direction).peers = peers;
        self
    }

    pub(super) fn ports(mut self, direction: Direction, ports: Vec<Port>) -> Self {
        self.first(direction).ports = ports;
        self
    }

    pub(super) fn apply(&self) -> Change {
        let rules = |rules: &[Rule], peers: &str| {
            let texts: Vec<String> = rules.iter().map(|rule| rule.text(peers)).collect();
            texts.join(", ")
        };
        let spec = format!(
            "{{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}}",
            self.target.text,
            rules(&self.ingress, "from"),
            rules(&self.egress, "to")
        );
        network_policy(&format!("{}/base", self.namespace), &spec)
    }

    /// Returns the cells that it leaves open.
    pub(super) fn expected(&self) -> Expected {
        let policy = self.clone();
        Expected::when(move |question| {
            let is_target =
                |end: &End| end.namespace() == policy.namespace && (policy.target.is)(end.name());
            let opens = |rules: &[Rule], peer: &End| {
                let mut rules = rules.iter();
                rules.any(|rule| rule.opens(policy.namespace, peer, question.probe))
            };
            (!is_target(question.destination) || opens(&policy.ingress, question.source))
                && (!is_target(question.source) || opens(&policy.egress, question.destination))
        })
    }
}
