//! Measures the time of a compilation, on one core.
//!
//! `cargo run --release -p cofferdam-compiler --example compile_scale [WORKLOADS]
//! [POLICIES] [LOCAL]`: that many workloads in 100 namespaces, ten to an
//! application, each with a label of its own that nothing selects on; each policy
//! selects one application, and allows another of its namespace, a team of
//! namespaces, a block with exceptions, and a named port. LOCAL workloads are this
//! node's (default: all).

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use cofferdam_compiler::{Input, SlotPlan, compile};
use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_inventory::{
    Inventory, Mode, NamedPort, NetworkPolicy, ObjectName, Peer, PortRange, Ports, Protocol, Rule,
    Workload,
};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::capacity::Limits;

const NAMESPACES: usize = 100;
const REPLICAS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |a| a.parse());
    let workloads = number(100_000)?;
    let policies = number(10_000)?;
    let local = number(workloads)?;

    let inventory = inventory(workloads, policies)?;
    let started = Instant::now();
    let slots = SlotPlan::assign(&inventory);
    println!("slots assigned in {:?}", started.elapsed());
    let is_local = |workload: &Workload| {
        let (_, index) = workload.name.name.split_once('-').unwrap_or_default();
        index.parse().is_ok_and(|index: usize| index < local)
    };
    let input = Input {
        inventory: &inventory,
        slots: &slots,
        is_local: &is_local,
        own_node: None,
        limits: Limits {
            slots: 1 << 18,
            table_pages: 1 << 14,
            rules: 1 << 20,
            ..Limits::default()
        },
        revision: 1,
    };
    let started = Instant::now();
    let compiled = compile(&input)?;
    println!("compiled in {:?}", started.elapsed());
    for usage in &compiled.usage {
        println!(
            "{:12} {:9} {:12} bytes",
            usage.table, usage.used, usage.bytes
        );
    }
    Ok(())
}

fn inventory(workloads: usize, policies: usize) -> Result<Inventory, Box<dyn Error>> {
    let mut inventory = Inventory::default();
    for namespace in 0..NAMESPACES {
        let team = format!("team-{}", namespace % 10);
        inventory.set_namespace(
            &format!("ns-{namespace}"),
            &Labels::from_iter([("team", &team)]),
        );
    }
    for index in 0..workloads {
        let application = index / REPLICAS;
        let address = Ipv4Addr::from(0x0a00_0000 + u32::try_from(index)?);
        inventory.set_workload(Workload {
            name: ObjectName::new(
                &format!("ns-{}", application % NAMESPACES),
                &format!("pod-{index}"),
            ),
            labels: Labels::from_iter([
                ("app", format!("app-{application}")),
                ("tier", format!("tier-{}", application % 4)),
                ("pod-template-hash", format!("{index:x}")),
            ]),
            node: None,
            host_network: false,
            finished: false,
            addresses: vec![IpAddr::V4(address)],
            ports: vec![NamedPort {
                name: "web".into(),
                protocol: Protocol::Tcp,
                number: u16::try_from(8000 + application % 3)?,
            }],
        })?;
    }
    let applications = (workloads / REPLICAS).max(1);
    for index in 0..policies {
        inventory.set_policy(policy(index, applications)?);
    }
    Ok(inventory)
}

fn policy(index: usize, applications: usize) -> Result<NetworkPolicy, Box<dyn Error>> {
    let application = index % applications;
    let neighbour = (application + NAMESPACES) % applications;
    let with = |key: &str, value: String| {
        LabelSelector::from_iter([Requirement::new(
            key,
            Operator::In(Box::from([value.into_boxed_str()])),
        )])
    };
    let place = Place {
        file: Arc::from("generated"),
        line: 1,
        column: 1,
    };
    let rule = |peers: Vec<Peer>, ports: Ports| Rule {
        place: place.clone(),
        peers: Some(peers),
        ports: Some(vec![PortRange {
            protocol: Protocol::Tcp,
            ports,
        }]),
    };
    let own = |selector| Peer::Workloads {
        namespaces: None,
        workloads: selector,
    };
    let team = Peer::Workloads {
        namespaces: Some(with("team", format!("team-{}", index % 10))),
        workloads: with("tier", format!("tier-{}", index % 4)),
    };
    let block = Peer::Block {
        cidr: "0.0.0.0/0".parse()?,
        except: vec![
            "10.0.0.0/8".parse()?,
            format!("172.{}.0.0/16", index % 200).parse()?,
        ],
    };
    Ok(NetworkPolicy {
        name: ObjectName::new(
            &format!("ns-{}", application % NAMESPACES),
            &format!("policy-{index}"),
        ),
        place: place.clone(),
        mode: Mode::Enforce,
        subject: with("app", format!("app-{application}")),
        ingress: Some(vec![
            rule(
                vec![own(with("app", format!("app-{neighbour}")))],
                Ports::Named("web".into()),
            ),
            rule(vec![team], Ports::Range(80, 90)),
        ]),
        egress: Some(vec![
            rule(vec![block], Ports::Range(443, 443)),
            rule(
                vec![own(with("app", format!("app-{neighbour}")))],
                Ports::Named("web".into()),
            ),
        ]),
    })
}
