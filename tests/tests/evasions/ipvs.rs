//! Services that the kernel's load balancer (IPVS) translates, as kube-proxy has it do in
//! that mode: virtual addresses on an interface that carries nothing, and translation where
//! packets have come to the node itself.
//!
//! A packet to a Service so passes the node's input and output hooks, never its forwarding.

use std::{fmt::Write as _, path::Path};

use cofferdam_tests::{
    evasions::tool,
    skip::Feature,
    skip_unless,
    world::{Namespace, Wiring},
};

use super::services::{self, Masquerade, NODE_PORT, PORTS, Proxy, Scene, Translation};

/// The kernel's load balancer, with its module loaded.
const LOAD_BALANCER: Feature = Feature::Other("ip-vs", || {
    let listing = Path::new("/proc/net/ip_vs");
    match listing.exists() {
        true => Ok(()),
        false => Err(format!("{} is not there", listing.display())),
    }
});

/// Mark of connections that are to be masqueraded.
const MARK: &str = "0x4000";

/// Translates on a node by IPVS.
pub(super) fn apply(translation: Translation, node: &Namespace) {
    let ip = |line: &str| {
        let arguments: Vec<_> = line.split(' ').collect();
        tool::run(node, "ip", &arguments, "");
    };
    // Down, as kube-proxy leaves it: its addresses are the node's all the same.
    ip("link add kube-ipvs0 type dummy");
    let [mut servers, mut marks, mut outer] = [const { String::new() }; 3];
    for rules in translation.families() {
        let virtual_address = rules.virtual_address;
        let [bits, bracketed] = match rules.family {
            "ip" => ["32", ""],
            _ => ["128", "[]"],
        };
        ip(&format!("addr add {virtual_address}/{bits} dev kube-ipvs0"));
        let (open, close) = bracketed.split_at(bracketed.len() / 2);
        let place = |address: &str, port: u16| format!("{open}{address}{close}:{port}");
        for (address, port) in [(virtual_address, PORTS[0]), (rules.node, NODE_PORT)] {
            for protocol in ["-t", "-u"] {
                let service = format!("{protocol} {}", place(address, port));
                writeln!(servers, "-A {service} -s rr").expect("writing to a string");
                for backend in rules.backends {
                    let backend = place(backend, PORTS[1]);
                    writeln!(servers, "-a {service} -r {backend} -m").expect("writing to a string");
                }
            }
            writeln!(
                marks,
                "{family} daddr {address} meta l4proto {{ tcp, udp }} th dport {port} \
                 meta mark set {MARK}",
                family = rules.family
            )
            .expect("writing to a string");
        }
        for backend in rules.backends {
            let family = rules.family;
            writeln!(
                outer,
                "{family} saddr {backend} {family} daddr {backend} masquerade"
            )
            .expect("writing to a string");
        }
    }
    match translation.masquerade {
        Masquerade::Hairpins => marks.clear(),
        Masquerade::All => outer = format!("meta mark {MARK} masquerade"),
    }
    let rules = format!(
        "table inet services {{
 chain in {{
  type filter hook prerouting priority mangle
  {marks}
 }}
 chain out {{
  type nat hook postrouting priority srcnat
  {outer}
 }}
}}
"
    );
    tool::run(node, "nft", &["-f", "-"], &rules);
    tool::run(node, "ipvsadm", &["-R"], &servers);
    // Without this nothing masquerades what it has translated.
    node.set("net/ipv4/vs/conntrack", "1").expect("a parameter");
}

/// Runs a trial behind IPVS. On a bridge a backend's answer to a neighbour does not come by
/// the node, unless the node's address stands for the neighbour's.
fn behind_ipvs(is_far: bool, trial: impl Fn(&mut Scene)) {
    let setups = [
        (Wiring::Ptp, Proxy::Ipvs, Masquerade::Hairpins),
        (Wiring::Ptp, Proxy::Ipvs, Masquerade::All),
        (Wiring::Bridge, Proxy::Ipvs, Masquerade::All),
    ];
    services::run(&setups, is_far, trial);
}

#[test]
fn a_rule_that_names_the_backends_opens_their_service() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(false, services::opened_by_its_backends);
}

#[test]
fn a_rule_that_names_the_services_port_opens_nothing() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(false, services::shut_by_its_own_port);
}

#[test]
fn of_two_backends_the_allowed_one_alone_is_reached() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(false, services::one_backend_allowed);
}

#[test]
fn a_service_whose_backends_are_closed_is_denied_where_it_is_asked_for() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(false, services::backends_closed);
}

#[test]
fn a_workload_reaches_itself_through_its_service() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(false, services::reached_by_its_backend);
}

#[test]
fn both_of_two_backends_are_reached_one_of_them_on_another_node() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(true, services::both_backends_allowed);
}

#[test]
fn a_denied_backend_on_another_node_is_not_reached() {
    skip_unless!(LOAD_BALANCER);
    behind_ipvs(true, services::far_or_near_denied);
}
