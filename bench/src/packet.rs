//! What one packet costs in the programs, net of an empty program.
//!
//! A test run sends one packet many times over. With one source everything is in
//! the caches; to measure otherwise, the programs write a random one of the
//! workloads' addresses into the packet before each judgement, and the empty
//! program does the same. The two are run in turn, and the median of the
//! differences is the figure. Test runs overlap cache misses of one packet with
//! work on the next, which flatters the large worlds.
//!
//! Beside both runs the reference: one load from a random place of an array with a
//! cache line for each workload. What a cache miss costs depends on the machine and
//! on what else runs there, so figures of two runs compare by their ratio to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, ensure};
use aya::include_bytes_aligned;
use cofferdam_dataplane::{Behaviour, Endpoint, Kernel, TestContext};
use cofferdam_policies::{
    compiler::{Input, SlotPlan, compile},
    documents,
    inventory::{Inventory, ObjectName, Owner, Workload},
};
use cofferdam_tests::packet::{End, Family, Mac, tcp};
use cofferdam_verdict::capacity::Limits;
use serde::Serialize;

static OBJECT: &[u8] = include_bytes_aligned!(env!("COFFERDAM_BENCH_OBJECT"));

/// Which addresses the workloads have.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Addresses {
    name: &'static str,
    /// How far one workload's address is from the next one's; odd.
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

/// Numbers of workloads, and their addresses.
const WORLDS: [(u32, Addresses); 4] = [
    (1, DENSE),
    (1_000, DENSE),
    (100_000, DENSE),
    (100_000, SPARSE),
];

/// The one policy: the receiver takes TCP 80 from web pods.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: bench}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 80}]
";

/// The interface of all test runs that name none.
const LOOPBACK: u32 = 1;
/// Where packets are said to come from.
const ELSEWHERE: u32 = 77_777;

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

/// What a packet is, and what must become of it.
struct Case {
    name: &'static str,
    program: &'static str,
    bench_program: &'static str,
    port: u16,
    /// Whether the packets are of flows that were opened before.
    in_flow: bool,
    /// Whether the workloads are where the packets come from.
    known_sources: bool,
    /// What the program returns.
    returns: i32,
}

const CASES: [Case; 7] = [
    Case {
        name: "first_packet",
        program: "address",
        bench_program: "bench_address",
        port: 80,
        in_flow: false,
        known_sources: true,
        returns: 0,
    },
    Case {
        name: "first_packet",
        program: "decision",
        bench_program: "bench_decision",
        port: 80,
        in_flow: false,
        known_sources: true,
        returns: 0,
    },
    Case {
        name: "first_packet",
        program: "to_workload",
        bench_program: "bench_to_workload",
        port: 80,
        in_flow: false,
        known_sources: true,
        returns: 0,
    },
    Case {
        name: "established",
        program: "to_workload",
        bench_program: "bench_to_workload",
        port: 80,
        in_flow: true,
        known_sources: true,
        returns: 0,
    },
    Case {
        name: "denied_port",
        program: "to_workload",
        bench_program: "bench_to_workload",
        port: 81,
        in_flow: false,
        known_sources: true,
        returns: 2,
    },
    Case {
        name: "denied_source",
        program: "to_workload",
        bench_program: "bench_to_workload",
        port: 80,
        in_flow: false,
        known_sources: false,
        returns: 2,
    },
    Case {
        name: "spoofed",
        program: "from_workload",
        bench_program: "bench_from_workload",
        port: 80,
        in_flow: false,
        known_sources: true,
        returns: 2,
    },
];

/// Measures all cases.
pub(crate) fn run(samples: usize, packets: u32) -> anyhow::Result<Vec<PacketResult>> {
    let mut results = Vec::new();
    for (workloads, addresses) in WORLDS {
        for (known_sources, family) in [true, false]
            .into_iter()
            .flat_map(|known| Family::BOTH.map(|family| (known, family)))
        {
            let mut kernel = world(workloads, addresses, known_sources, family)?;
            // In a table fuller than that some flows would be opened again and again.
            let has_room = workloads <= kernel.limits().flows_per_endpoint / 2;
            for case in CASES
                .iter()
                .filter(|case| case.known_sources == known_sources)
                .filter(|case| !case.in_flow || has_room)
            {
                let result = measure(
                    &mut kernel,
                    case,
                    family,
                    (workloads, addresses),
                    samples,
                    packets,
                )?;
                println!(
                    "{:>13} {:<13} {} {:>7} workloads, {:<6}: {:>4} ns net ({} to {}), array_random {}",
                    result.program,
                    result.case,
                    family,
                    workloads,
                    addresses.name,
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

/// A node with one endpoint and so many remote workloads, with an address each,
/// under the limits that a node has by default.
fn world(
    workloads: u32,
    addresses: Addresses,
    known_sources: bool,
    family: Family,
) -> anyhow::Result<Kernel> {
    let mut inventory = Inventory::default();
    let parsed = documents::parse("bench.yaml", POLICY.as_bytes());
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
    for n in 0..workloads {
        // As the programs do.
        let apart = u64::from(n) * u64::from(addresses.stride);
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

    let limits = Limits::default();
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&Input {
        inventory: &inventory,
        slots: &plan,
        is_local: &|workload| &*workload.name.name == "db",
        own_node: None,
        limits,
        revision: 1,
    })?;
    let sources = [
        ("BENCH_SOURCES", workloads),
        ("BENCH_STRIDE", addresses.stride),
    ];
    let mut kernel = Kernel::load_object(OBJECT, limits, &Behaviour::default(), &sources)?;
    kernel.publish(compiled.pages())?;
    for slot in plan.slots() {
        kernel.bind_address(slot.address, slot.number)?;
    }
    let db = Owner::Workload(ObjectName::new("bench", "db"));
    let slots = plan.slots().filter(|slot| slot.owner == db);
    // Packets of a flow open it, if it is not there. The clock is asked of programs that are
    // not for measuring.
    let clock = Kernel::load(limits, &Behaviour::default())?;
    let adopt_until = clock.jiffies_after(std::time::Duration::MAX)?;
    drop(clock);
    kernel.set_endpoint(&Endpoint {
        ifindex: LOOPBACK,
        mac: to.mac.0,
        incarnation: 1,
        addresses: slots.map(|slot| (slot.address, slot.number)).collect(),
        stamp: 1,
        link_local: None,
        deny_all: false,
        shared_hooks: false,
        adopt_until,
        listeners: Default::default(),
    })?;
    Ok(kernel)
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

fn measure(
    kernel: &mut Kernel,
    case: &Case,
    family: Family,
    (workloads, addresses): (u32, Addresses),
    samples: usize,
    packets: u32,
) -> anyhow::Result<PacketResult> {
    // For `spoofed` the packet is the receiver's own, but for the source.
    let from = End::number(9).with_mac(receiver().mac);
    let packet = tcp()
        .family(family)
        .from(from)
        .to(receiver())
        .dport(case.port);
    let frame = if case.in_flow {
        packet.ack().bytes()
    } else {
        packet.syn().bytes()
    };
    let context = TestContext {
        ingress_ifindex: ELSEWHERE,
        ..TestContext::default()
    };
    let time = |name: &str, packets: u32, returns: i32| {
        let run = kernel.test_run(name, &frame, &context, packets)?;
        ensure!(
            run.returned == returns,
            "{name} returned {} for {}, {returns} was expected",
            run.returned,
            case.name
        );
        i64::try_from(run.duration.as_nanos()).context("a mean of nanoseconds")
    };
    let (flows, flows_per_endpoint) = if case.in_flow {
        (workloads, kernel.limits().flows_per_endpoint)
    } else {
        (0, 0)
    };
    // Once for the caches, and for the flows.
    time(case.bench_program, packets / 4 + 1, case.returns)?;
    let mut net = Vec::new();
    let mut baseline = Vec::new();
    let mut array_random = Vec::new();
    for _ in 0..samples {
        let empty = time("bench_nothing", packets, 0)?;
        net.push(time(case.bench_program, packets, case.returns)? - empty);
        array_random.push(time("bench_array_random", packets, 0)? - empty);
        baseline.push(empty);
    }
    Ok(PacketResult {
        program: case.program,
        case: case.name,
        family: match family {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        workloads,
        addresses: addresses.name,
        rules: 1,
        flows,
        flows_per_endpoint,
        net_ns_median: quantile(&mut net, 50),
        p10: quantile(&mut net, 10),
        p90: quantile(&mut net, 90),
        samples,
        baseline_ns: quantile(&mut baseline, 50),
        array_random_ns: quantile(&mut array_random, 50),
    })
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
