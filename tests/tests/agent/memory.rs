//! Memory of the kernel's maps: small while endpoints are idle, given back when they go.

use std::collections::BTreeMap;
use std::fs;

use cofferdam_tests::agent::Agent;
use cofferdam_tests::cofferdam;
use cofferdam_tests::firewall::named;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::{Wiring, World};

use super::scene::{DB_FROM_WEB, Scene};
use super::sweeps::fill;

/// Memory of maps that a node with so many idle endpoints may take, with room for 100 000
/// workloads: maps have their size from the beginning, whatever is in them.
const MOST: u64 = 64 << 20;
const ENDPOINTS: usize = 110;

/// Bytes of all maps that a process holds, by what the kernel says of its descriptors.
fn held(pid: u32) -> u64 {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
    let mut maps = BTreeMap::new();
    for descriptor in descriptors {
        let path = descriptor.expect("a descriptor").path();
        // One may have been closed meanwhile.
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let Some(id) = value("map_id:") {
            maps.insert(id, value("memlock:").expect("maps take memory"));
        }
    }
    maps.values().sum()
}

fn metric(agent: &Agent, name: &str) -> u64 {
    let (status, text) = agent.http("/metrics");
    assert_eq!(status, 200);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("{text}"));
    value.trim().parse().expect("a number")
}

#[test]
fn idle_endpoints_take_little_memory_and_give_it_back() {
    skip_unless!(Feature::NetworkNamespaces);
    let names: Vec<String> = (0..ENDPOINTS)
        .map(|number| format!("shop/idle{number}"))
        .collect();
    let world = World::plan(Wiring::Ptp)
        .workloads(names.iter().map(String::as_str))
        .build()
        .expect("a world");
    let mut agent = Agent::new(cofferdam!(), &world).settings("");
    agent.document("policies.yaml", DB_FROM_WEB);
    agent.start_enforced();
    let before = agent.status().memory_bytes;
    for name in &names {
        agent.add(named(&world, name), &[]);
    }
    let status = agent.wait_until("all are in force", |status| {
        status.endpoints.len() == ENDPOINTS && status.memory_bytes >= before + (25 << 20)
    });
    let bytes = status.memory_bytes;
    println!(
        "{} MiB of maps for {ENDPOINTS} endpoints, {} for none",
        bytes >> 20,
        before >> 20
    );
    assert!(bytes <= MOST, "{bytes}");
    agent.wait_until("what is said is what the kernel says", |status| {
        status.memory_bytes == held(agent.pid())
            && metric(&agent, "cofferdam_map_memory_bytes ") == status.memory_bytes
    });
    let log = agent.log();
    assert!(log.contains("memory of the kernel's maps in MiB"), "{log}");
    assert!(log.contains("all_endpoints_idle="), "{log}");

    for name in &names {
        agent.remove_with(name, &["--release"]);
    }
    agent.wait_until("it is given back", |status| status.memory_bytes == before);
}

/// `status` has the flows that an endpoint carries while no agent runs.
#[test]
fn a_flow_table_grows_under_an_agent_alone() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = scene.agent.settings("idle: {udp_one_way: 10m}\n");
    let mut scene = scene.in_force(DB_FROM_WEB);
    let flows = |scene: &Scene| {
        let status = scene.agent.status();
        let web =
            (status.endpoints.into_iter()).find(|endpoint| endpoint.called() == "shop/web/eth0");
        web.and_then(|web| web.flows).expect("it has a flow table")
    };
    let few = flows(&scene);
    assert_eq!((few.capacity, few.capacity_max), (2_048, 16_384));
    fill(&scene, 0..700);
    scene.agent.kill();
    // Many more than make it grow. They make room for each other, not for what is established.
    fill(&scene, 700..2_700);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.start(&[]);
    scene.agent.wait_up();
    scene
        .agent
        .wait_until("the next one lets it grow", |status| {
            let mut endpoints = status.endpoints.iter();
            let web = endpoints.find(|endpoint| endpoint.called() == "shop/web/eth0");
            let flows = web.and_then(|web| web.flows);
            flows.is_some_and(|flows| flows.capacity == 8_192)
        });
    let full = flows(&scene);
    // With a larger table there would have been room for all of them.
    assert!((1_000..2_048).contains(&full.used), "{full:?}");
    scene.assert_reaches("shop/web", "shop/db");
}
