//! Containers that no agent was told of, with a real agent: they are nobody's, whatever
//! they write on their packets.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use cofferdam_agent::config;
use cofferdam_dataplane::Kernel;
use cofferdam_tests::agent::Agent;
use cofferdam_tests::evasions::tool;
use cofferdam_tests::firewall::named;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::{Wiring, Workload, World};
use cofferdam_tests::{cofferdam, skip_unless};

use crate::stamp::{INGRESS, VIRTUAL, classify};

const PATIENCE: Duration = Duration::from_secs(10);
/// Time in which a dropped packet must not arrive, after one that does arrive.
const UNTIL_DROPPED: Duration = Duration::from_millis(100);
const OPEN: u16 = 80;

/// The stamp of a workload's packets; the agent does not run.
fn stamp(agent: &Agent, workload: &Workload) -> u16 {
    let text = std::fs::read(agent.write_config()).expect("it was written");
    let config = config::parse("config.yaml", &text).expect("it is right");
    let kernel = Kernel::open(&config.bpffs, config.limits(), &config.behaviour());
    let endpoints = kernel.expect("it was in force").endpoints();
    let found = (endpoints.iter()).find(|one| one.ifindex == workload.host_ifindex);
    found.expect("it is in force").stamp
}

/// Sends to the virtual address from a workload.
fn send(from: &Workload, family: Family, data: &[u8]) {
    let (own, to): (&str, &str) = match family {
        Family::V4 => ("0.0.0.0", "10.99.0.1"),
        Family::V6 => ("::", "fd99::1"),
    };
    let [own, to] = [own, to].map(|text| text.parse::<IpAddr>().expect("an address"));
    let _inside = from.namespace.enter().expect("a namespace");
    let socket = UdpSocket::bind((own, 0)).expect("a socket");
    (socket.send_to(data, SocketAddr::new(to, OPEN))).expect("a way");
}

/// Returns the next datagram that the database receives, or `None` after `within`.
fn hear(listener: &UdpSocket, within: Duration) -> Option<Vec<u8>> {
    listener.set_read_timeout(Some(within)).expect("an option");
    let mut buffer = [0; 100];
    match listener.recv_from(&mut buffer) {
        Ok((length, _)) => Some(buffer[..length].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// With CAP_NET_ADMIN in its namespace it writes a workload's stamp on what it sends;
/// masqueraded, only the stamp says who sent it.
#[test]
fn a_container_with_a_forged_stamp_is_no_workload_behind_masquerade() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let world = World::plan(wiring)
            .workloads(["t/a", "t/b", "t/u"])
            .build()
            .expect("a world");
        tool::run(&world.node().namespace, "nft", &["-f", "-"], VIRTUAL);
        let [a, b, u] = ["t/a", "t/b", "t/u"].map(|name| named(&world, name));
        let listeners = Family::BOTH.map(|family| {
            let _inside = b.namespace.enter().expect("a namespace");
            (
                family,
                UdpSocket::bind((b.ip(family), OPEN)).expect("a socket"),
            )
        });
        for (family, listener) in &listeners {
            send(u, *family, b"no agent");
            let heard = hear(listener, PATIENCE);
            assert_eq!(
                heard.as_deref(),
                Some(&b"no agent"[..]),
                "{wiring} {family}"
            );
        }

        let mut agent = Agent::new(cofferdam!(), &world);
        agent.document("policies.yaml", INGRESS);
        agent.start_enforced();
        agent.add(a, &["app=a"]);
        agent.add(b, &["app=b"]);
        agent.kill();
        classify(&u.namespace, "eth0", "egress", stamp(&agent, a));
        agent.start_enforced();
        for is_alive in [true, false] {
            if !is_alive {
                agent.kill();
            }
            for (family, listener) in &listeners {
                send(u, *family, b"forged");
                send(a, *family, b"honest");
                let case = format!("{wiring} {family}, agent alive: {is_alive}");
                let heard = hear(listener, PATIENCE);
                assert_eq!(heard.as_deref(), Some(&b"honest"[..]), "{case}");
                assert_eq!(hear(listener, UNTIL_DROPPED), None, "{case}");
            }
        }
    }
}
