//! Cost of one packet in the programs, net of an empty program.
//!
//! A test run sends one packet many times over. To measure as a node works, the programs
//! write a random one of the workloads' addresses into the packet before each judgement,
//! and one of some ports; the empty program does the same. The two are run in turn, and
//! the median of the differences is the figure. Test runs overlap cache misses of one
//! packet with work on the next, which flatters the large worlds.
//!
//! Packets that open flows, or are denied, come in bursts, and before each burst the flow
//! table is emptied and the ring of events drained: neither is full on a node that has
//! no more to do than it can.
//!
//! Beside both runs the reference: one load from a random place of an array with a
//! cache line for each workload. What a cache miss costs depends on the machine and
//! on what else runs there, so figures of two runs compare by their ratio to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use aya::include_bytes_aligned;
use cofferdam_compiler::{Input, SlotPlan, compile};
use cofferdam_dataplane::{Behaviour, Endpoint, Events, Kernel, TestContext};
use cofferdam_documents as documents;
use cofferdam_inventory::{Inventory, ObjectName, Owner, Workload};
use cofferdam_tests::packet::{End, Family, Mac, Packet, Tcp, tcp};
use cofferdam_verdict::capacity::Limits;
use serde::Serialize;

static OBJECT: &[u8] = include_bytes_aligned!(env!("COFFERDAM_BENCH_OBJECT"));

/// Pattern of the workloads' addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Addresses {
    name: &'static str,
    /// Distance of one workload's address from the next one's; odd.
    stride: u32,
}

/// Consecutive ones.
const DENSE: Addresses = Addresses {
    name: "dense",
    stride: 1,
};
/// Scattered over 10.0.0.0/8, or the last 64 bits of an IPv6 network: 2^32 by the
/// golden ratio, of which no two multiples come near each other.
const SPARSE: Addresses = Addresses {
    name: "sparse",
    stride: 0x9e37_79b1,
};

/// Workloads, rules and flows of a measured node.
#[derive(Clone, Copy)]
struct World {
    /// Workloads of other nodes.
    workloads: u32,
    addresses: Addresses,
    /// Ports that the receiver's rule names.
    rules: u32,
    /// Flows that are open, among which packets are at random. None: packets open flows.
    flows: Option<u32>,
}

const fn world(workloads: u32, addresses: Addresses, rules: u32, flows: Option<u32>) -> World {
    World {
        workloads,
        addresses,
        rules,
        flows,
    }
}

const WORLDS: [World; 10] = [
    world(1, DENSE, 1, None),
    world(1_000, DENSE, 1, None),
    world(100_000, DENSE, 1, None),
    world(100_000, SPARSE, 1, None),
    world(500_000, DENSE, 1, None),
    world(100_000, DENSE, 100, None),
    world(100_000, DENSE, 1_000, None),
    world(100_000, DENSE, 1, Some(1)),
    world(100_000, DENSE, 1, Some(10_000)),
    world(100_000, DENSE, 1, Some(200_000)),
];

/// The one policy that isolates the receiver: TCP 80 from web pods and to them, and what
/// the rules' number adds.
fn policy(rules: u32) -> String {
    let mut ports = String::from("{port: 80}");
    for n in 1..rules {
        // Apart, so that each is an interval of its own.
        ports += &format!(", {{port: {}}}", 1_000 + 2 * n);
    }
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p, namespace: bench}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
    ports: [{ports}]
  egress:
  - to: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
    ports: [{ports}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: q, namespace: bench}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: db}}}}}}]
    ports: [{{port: 80}}]
"
    )
}

/// The interface of all test runs that name none.
const LOOPBACK: u32 = 1;
/// Packets come from elsewhere.
const CONTEXT: TestContext = TestContext {
    ifindex: 0,
    ingress_ifindex: 77_777,
    cb: [0; 5],
    gso_size: 0,
};

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct PacketResult {
    program: &'static str,
    case: &'static str,
    family: u8,
    workloads: u32,
    addresses: &'static str,
    rules: u32,
    flows: u32,
    flows_per_endpoint: u32,
    net_ns_median: i64,
    p10: i64,
    p90: i64,
    samples: usize,
    baseline_ns: i64,
    /// Net cost of one random load, measured in turn with the figure.
    array_random_ns: i64,
}

/// Sender of the packets that a program judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// One of the workloads elsewhere.
    Peer,
    /// The endpoint.
    Endpoint,
    /// The endpoint, in a peer's name.
    Spoofer,
}

/// Packet of a measurement, and its due verdict.
struct Case {
    name: &'static str,
    program: &'static str,
    bench_program: &'static str,
    sender: Sender,
    port: u16,
    /// `true` if the packets are of flows that were opened before.
    in_flow: bool,
    /// `true` if the workloads are where the packets come from.
    known_sources: bool,
    /// Value that the program returns.
    returns: i32,
}

/// A packet of this name for a program, to or from a port of the server.
const fn case(
    name: &'static str,
    program: &'static str,
    bench_program: &'static str,
    sender: Sender,
    port: u16,
    returns: i32,
) -> Case {
    Case {
        name,
        program,
        bench_program,
        sender,
        port,
        in_flow: false,
        known_sources: true,
        returns,
    }
}

const TO: &str = "to_workload";
const FROM: &str = "from_workload";
const BENCH_TO: &str = "bench_to_workload";
const BENCH_FROM: &str = "bench_from_workload";

const CASES: [Case; 10] = [
    case(
        "first_packet",
        "address",
        "bench_address",
        Sender::Peer,
        80,
        0,
    ),
    case(
        "first_packet",
        "decision",
        "bench_decision",
        Sender::Peer,
        80,
        0,
    ),
    case("first_packet", TO, BENCH_TO, Sender::Peer, 80, 0),
    case("first_packet", FROM, BENCH_FROM, Sender::Endpoint, 80, 0),
    case("denied_port", TO, BENCH_TO, Sender::Peer, 81, 2),
    case("denied_port", FROM, BENCH_FROM, Sender::Endpoint, 81, 2),
    Case {
        known_sources: false,
        ..case("denied_source", TO, BENCH_TO, Sender::Peer, 80, 2)
    },
    case("spoofed", FROM, "bench_spoofed", Sender::Spoofer, 80, 2),
    Case {
        in_flow: true,
        ..case("established", TO, BENCH_TO, Sender::Peer, 80, 0)
    },
    Case {
        in_flow: true,
        ..case("established", FROM, BENCH_FROM, Sender::Endpoint, 80, 0)
    },
];

/// Packets of a burst that opens flows: the flow table has twice the room, the ring of
/// events, too.
const BURST: u32 = 4_000;
/// Ports of a peer whose packets open flows.
const PORTS: u32 = 32_768;

/// Figures that are wanted; all that it does not name.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) workloads: Option<u32>,
    pub(crate) case: Option<String>,
}

impl Wanted {
    fn case(&self, case: &Case) -> bool {
        self.case.as_deref().is_none_or(|name| name == case.name)
    }

    fn world(&self, world: &World) -> bool {
        self.workloads
            .is_none_or(|number| number == world.workloads)
    }
}

/// Measures all cases that are wanted.
pub(crate) fn run(
    samples: usize,
    packets: u32,
    wanted: &Wanted,
) -> anyhow::Result<Vec<PacketResult>> {
    let mut results = Vec::new();
    for world in WORLDS.iter().filter(|world| wanted.world(world)) {
        for (known_sources, family) in [true, false]
            .into_iter()
            .flat_map(|known| Family::BOTH.map(|family| (known, family)))
        {
            let cases: Vec<&Case> = CASES
                .iter()
                .filter(|case| case.known_sources == known_sources)
                .filter(|case| case.in_flow == world.flows.is_some())
                .filter(|case| wanted.case(case))
                .collect();
            if cases.is_empty() {
                continue;
            }
            let mut node = Node::new(world, known_sources, family)?;
            for case in cases {
                let result = node.measure(case, samples, packets)?;
                println!(
                    "{:>13} {:<13} {family} {:>7} workloads, {:<6}, {:>4} rules, {:>6} flows: \
                     {:>4} ns net ({} to {}), array_random {}",
                    result.program,
                    result.case,
                    result.workloads,
                    result.addresses,
                    result.rules,
                    result.flows,
                    result.net_ns_median,
                    result.p10,
                    result.p90,
                    result.array_random_ns
                );
                results.push(result);
            }
        }
    }
    Ok(results)
}

/// The receiver, out of the way of all sources.
fn receiver() -> End {
    let (v4, v6) = (
        Ipv4Addr::new(172, 16, 0, 1),
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1),
    );
    End {
        mac: Mac::local(0, 1),
        ipv4: Some(v4),
        ipv6: Some(v6),
    }
}

/// A node under measurement.
struct Node {
    kernel: Kernel,
    events: Events,
    world: World,
    family: Family,
}

impl Node {
    /// A node with one endpoint and the workloads of a world, with an address each, under
    /// the limits that a node has by default, but for room.
    fn new(world: &World, known_sources: bool, family: Family) -> anyhow::Result<Self> {
        let mut inventory = Inventory::default();
        let parsed = documents::parse("bench.yaml", policy(world.rules).as_bytes());
        ensure!(
            parsed.rejected.is_empty(),
            "the policy is good: {:?}",
            parsed.diagnostics
        );
        let assembled = documents::assemble(parsed.documents);
        for policy in assembled.inventory.policies().values() {
            inventory.set_policy(policy.clone());
        }
        let net = if known_sources {
            0x0a00_0000
        } else {
            0x0b00_0000
        };
        let prefix: u128 = if known_sources { 0xfd00 } else { 0xfd0f };
        for n in 0..world.workloads {
            // As the programs do.
            let apart = u64::from(n) * u64::from(world.addresses.stride);
            let address = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::from(net | apart as u32 & 0xff_ffff)),
                Family::V6 => IpAddr::from(Ipv6Addr::from(prefix << 112 | u128::from(apart))),
            };
            inventory.set_workload(workload(&format!("web-{n}"), "web", &[address]))?;
        }
        let to = receiver();
        let own: Vec<IpAddr> = Family::BOTH
            .iter()
            .filter_map(|&family| to.ip(family))
            .collect();
        inventory.set_workload(workload("db", "db", &own))?;

        let mut limits = Limits::default();
        limits.slots = limits.slots.max(world.workloads + 1_000);
        let flows = world.flows.unwrap_or(0);
        limits.flows_per_endpoint = limits.flows_per_endpoint.max(flows);
        let plan = SlotPlan::assign(&inventory);
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &plan,
            is_local: &|workload| &*workload.name.name == "db",
            own_node: None,
            limits,
            revision: 1,
        })?;
        let (peers, ports) = match world.flows {
            Some(flows) => {
                let peers = flows.min(world.workloads);
                (peers, flows / peers)
            }
            None => (world.workloads, PORTS),
        };
        let variables = [
            ("BENCH_PEERS", peers),
            ("BENCH_STRIDE", world.addresses.stride),
            ("BENCH_PORTS", ports),
        ];
        let mut kernel = Kernel::load_object(OBJECT, limits, &Behaviour::default(), &variables)?;
        kernel.publish(compiled.pages())?;
        for slot in plan.slots() {
            kernel.bind_address(slot.address, slot.number)?;
        }
        let db = Owner::Workload(ObjectName::new("bench", "db"));
        let slots = plan.slots().filter(|slot| slot.owner == db);
        kernel.set_endpoint(&Endpoint {
            ifindex: LOOPBACK,
            mac: to.mac.0,
            incarnation: 1,
            addresses: slots.map(|slot| (slot.address, slot.number)).collect(),
            stamp: 1,
            link_local: None,
            deny_all: false,
            shared_hooks: false,
            adopt_until: 0,
            listeners: Default::default(),
        })?;
        // Bursts open more flows than a new endpoint has room for.
        kernel.flow_keeper()?.grow_all(limits.flow_sets())?;
        let events = kernel.events()?;
        let mut node = Self {
            kernel,
            events,
            world: *world,
            family,
        };
        if world.flows.is_some() {
            node.open()?;
        }
        Ok(node)
    }

    /// Opens the flows, has them answered, and acknowledges the answers: twelve packets of each
    /// kind for each flow at random leave out one of 160 000.
    fn open(&mut self) -> anyhow::Result<()> {
        let packets = self.world.flows.unwrap_or(0) * 12;
        for (program, frame) in [
            (BENCH_TO, self.frame(Sender::Peer, 80, false)),
            (
                BENCH_FROM,
                self.packet(Sender::Endpoint, 80).syn().ack().bytes(),
            ),
            (BENCH_TO, self.frame(Sender::Peer, 80, true)),
        ] {
            let run = self.kernel.test_run(program, &frame, &CONTEXT, packets)?;
            ensure!(run.returned == 0, "flows are allowed");
        }
        Ok(())
    }

    /// A frame of the server's port, of a connection or one that opens it.
    fn frame(&self, sender: Sender, port: u16, in_flow: bool) -> Vec<u8> {
        let packet = self.packet(sender, port);
        if in_flow {
            packet.ack().bytes()
        } else {
            packet.syn().bytes()
        }
    }

    /// A segment of the server's port. Both ends begin at the same number, and have seen each
    /// other's.
    fn packet(&self, sender: Sender, port: u16) -> Packet<Tcp> {
        const CLIENT: u16 = 20_000;
        const FIRST: u32 = 1000;
        let packet = tcp().family(self.family).seq(FIRST).ack_number(FIRST + 1);
        // Peers are chosen by the programs.
        let peer = End::number(9);
        let packet = match sender {
            Sender::Peer => packet.from(peer).to(receiver()),
            Sender::Endpoint => packet.from(receiver()).to(peer),
            Sender::Spoofer => packet.from(peer.with_mac(receiver().mac)).to(receiver()),
        };
        // The endpoint's part in a connection is the server's.
        if self.world.flows.is_some() && sender == Sender::Endpoint {
            packet.sport(port).dport(CLIENT)
        } else {
            packet.sport(CLIENT).dport(port)
        }
    }

    /// Empties the flow table, and the ring.
    fn forget(&mut self) -> anyhow::Result<()> {
        let sets = self.kernel.limits().flow_sets();
        let frame = self.frame(Sender::Peer, 80, false);
        // Twice, and some: wherever it begins, it comes to all.
        self.kernel
            .test_run("bench_forget", &frame, &CONTEXT, 2 * sets + 2)?;
        while self.events.next().is_some() {}
        Ok(())
    }

    fn measure(
        &mut self,
        case: &Case,
        samples: usize,
        packets: u32,
    ) -> anyhow::Result<PacketResult> {
        let frame = self.frame(case.sender, case.port, case.in_flow);
        let empty = match case.sender {
            Sender::Endpoint => "bench_nothing_sent",
            Sender::Peer | Sender::Spoofer => "bench_nothing",
        };
        // Bursts of what changes nothing are long.
        let burst = if case.in_flow {
            packets
        } else {
            packets.min(BURST)
        };
        let bursts = packets / burst;
        let time = |node: &Self, name: &str, returns: i32| {
            let run = node.kernel.test_run(name, &frame, &CONTEXT, burst)?;
            ensure!(
                run.returned == returns,
                "{name} returned {} for {}, {returns} was expected",
                run.returned,
                case.name
            );
            i64::try_from(run.duration.as_nanos()).context("a mean of nanoseconds")
        };
        // Once for the caches.
        time(self, case.bench_program, case.returns)?;
        let mut net = Vec::new();
        let mut baseline = Vec::new();
        let mut array_random = Vec::new();
        for _ in 0..samples {
            let (mut sum, mut sum_empty, mut sum_array) = (0, 0, 0);
            for _ in 0..bursts {
                if !case.in_flow {
                    self.forget()?;
                }
                sum += time(self, case.bench_program, case.returns)?;
                sum_empty += time(self, empty, 0)?;
                sum_array += time(self, "bench_array_random", 0)?;
            }
            let bursts = i64::from(bursts);
            net.push((sum - sum_empty) / bursts);
            array_random.push((sum_array - sum_empty) / bursts);
            baseline.push(sum_empty / bursts);
        }
        let flows = self.world.flows.unwrap_or(0);
        Ok(PacketResult {
            program: case.program,
            case: case.name,
            family: match self.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            workloads: self.world.workloads,
            addresses: self.world.addresses.name,
            rules: self.world.rules,
            flows,
            flows_per_endpoint: self.kernel.limits().flows_per_endpoint,
            net_ns_median: quantile(&mut net, 50),
            p10: quantile(&mut net, 10),
            p90: quantile(&mut net, 90),
            samples,
            baseline_ns: quantile(&mut baseline, 50),
            array_random_ns: quantile(&mut array_random, 50),
        })
    }
}

fn workload(name: &str, app: &str, addresses: &[IpAddr]) -> Workload {
    Workload {
        name: ObjectName::new("bench", name),
        labels: [("app", app)].into_iter().collect(),
        node: None,
        host_network: false,
        finished: false,
        addresses: addresses.to_vec(),
        ports: Vec::new(),
    }
}

/// The value below which so many percent of the values lie.
fn quantile(values: &mut [i64], percent: usize) -> i64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get(last * percent / 100).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use cofferdam_tests::bytecode::{Interpreter, Object};

    use super::*;

    /// The compiler would rather load the first of them where it is needed, behind the
    /// second.
    #[test]
    fn ordinary_loads_stay_before_the_order_of_loads() {
        let object = Object::parse(OBJECT);
        let mut run = Interpreter::new(&object);
        run.array("BENCH_ARRAY", [vec![0; 64]]);
        run.call("bench_order", &[]);
        let offsets = run.loads().iter().map(|load| load.offset);
        assert_eq!(offsets.collect::<Vec<_>>(), [4, 0, 8]);
    }
}
