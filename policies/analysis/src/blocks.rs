//! Address blocks that mean nothing, or workloads that were not thought of.

use std::collections::HashMap;
use std::net::IpAddr;

use cofferdam_inventory::{ClusterPeer, Peer, RuleAction, Service};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_verdict::verdict::Direction;
use ipnet::IpNet;

use super::places::PathStep;
use super::ranges::Ranges;
use super::rules::{Rule, Written, peers_key};
use super::services::{self, Gap};
use super::together::Budget;
use super::{Findings, Project};

/// Most pairs of workloads and rules that are compared for blocks of Services' addresses.
const MOST_COMPARED: u64 = 10_000_000;

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let budget = Budget::new(MOST_COMPARED);
    let mut services = HashMap::new();
    for service in &project.services {
        for address in service.addresses() {
            services.insert(address, *service);
        }
    }
    for rule in &project.rules {
        let peers = PathStep::Key(peers_key(rule.direction));
        match rule.written {
            Written::Namespace(written) => {
                for (index, peer) in written.peers.iter().flatten().enumerate() {
                    let Peer::Block { cidr, except } = peer else {
                        continue;
                    };
                    let block = [peers, PathStep::Item(index), PathStep::Key("ipBlock")];
                    let ranges = Ranges::block(*cidr, except);
                    if ranges.is_empty() {
                        let path = [&block[..], &[PathStep::Key("except")]].concat();
                        findings.warn(
                            project.place_in(rule, &path),
                            Code::NeverMatches,
                            format!("`except` leaves nothing of {cidr}"),
                            "leave out what is not to be cut out, or the whole peer".to_owned(),
                        );
                    } else {
                        let path = [&block[..], &[PathStep::Key("cidr"), PathStep::Value]].concat();
                        if senseless(project, rule, &path, *cidr, findings) {
                            continue;
                        }
                        covered(project, rule, &path, *cidr, &ranges, findings);
                        let asked = (*cidr, &services, &budget);
                        address_of_service(project, rule, &path, asked, findings);
                    }
                }
            }
            Written::Cluster(written) => {
                for (index, peer) in written.peers.iter().flatten().enumerate() {
                    let ClusterPeer::Networks(networks) = peer else {
                        continue;
                    };
                    for network in networks {
                        let path = [
                            peers,
                            PathStep::Peer(index),
                            PathStep::Key("networks"),
                            PathStep::Cidr(*network),
                        ];
                        if senseless(project, rule, &path, *network, findings) {
                            continue;
                        }
                        let asked = (*network, &services, &budget);
                        address_of_service(project, rule, &path, asked, findings);
                        // To deny everything there is one says so of all addresses;
                        // Pass decides nothing.
                        let is_meant = match rule.action {
                            RuleAction::Accept => false,
                            RuleAction::Deny => network.prefix_len() == 0,
                            RuleAction::Pass => true,
                        };
                        if is_meant {
                            continue;
                        }
                        let ranges = Ranges::block(*network, &[]);
                        covered(project, rule, &path, *network, &ranges, findings);
                    }
                }
            }
        }
    }
}

/// Blocks that hold no address from which or to which hosts send, and what those are.
const SENSELESS: [(&str, &str); 6] = [
    (
        "0.0.0.0/8",
        "addresses of this network, which hosts have not",
    ),
    (
        "127.0.0.0/8",
        "loopback addresses, which no packet between hosts has",
    ),
    ("224.0.0.0/4", "multicast addresses"),
    ("240.0.0.0/4", "reserved addresses"),
    ("::/127", "the unspecified and the loopback address"),
    ("ff00::/8", "multicast addresses"),
];

/// Says of a block that nobody can mean it. Returns `true` if it did.
fn senseless(
    project: &Project<'_>,
    rule: &Rule<'_>,
    path: &[PathStep<'_>],
    cidr: IpNet,
    findings: &mut Findings,
) -> bool {
    let what = SENSELESS.iter().find(|(block, _)| {
        block.parse::<IpNet>().is_ok_and(|block| {
            // Workloads may send to groups, and nobody sends from one.
            let is_group = block.addr().is_multicast();
            block.contains(&cidr) && (!is_group || rule.direction == Direction::Ingress)
        })
    });
    let Some((_, what)) = what else { return false };
    let hint = match cidr.to_string().as_str() {
        "0.0.0.0/32" => "did you mean `0.0.0.0/0`?",
        "::/128" => "did you mean `::/0`?",
        _ => "take it out; connections of a workload to itself need no rule",
    };
    findings.warn(
        project.place_in(rule, path),
        Code::SenselessBlock,
        format!("{cidr} holds {what}: the block matches nothing that is meant"),
        hint.to_owned(),
    );
    true
}

/// A virtual address is translated before anything is judged: a rule about it does at the
/// workloads behind it what other rules do, and nothing of its own.
fn address_of_service(
    project: &Project<'_>,
    rule: &Rule<'_>,
    path: &[PathStep<'_>],
    (cidr, services, budget): (IpNet, &HashMap<IpAddr, &Service>, &Budget),
    findings: &mut Findings,
) {
    let is_one = cidr.prefix_len() == cidr.max_prefix_len();
    let Some(service) = services.get(&cidr.addr()).filter(|_| is_one) else {
        return;
    };
    let address = cidr.addr();
    let name = &service.name;
    let message = match (rule.direction, rule.action) {
        (Direction::Ingress, _) => {
            format!("{address} is the address of Service {name}, which sends nothing")
        }
        (Direction::Egress, RuleAction::Pass) => return,
        (Direction::Egress, action) => {
            let Some(Gap { subject, backend }) = services::gap(project, rule, service, budget)
            else {
                return;
            };
            let said = match action {
                RuleAction::Deny => "keeps",
                RuleAction::Accept | RuleAction::Pass => "lets",
            };
            let to = match action {
                RuleAction::Deny => "from",
                RuleAction::Accept | RuleAction::Pass => "reach",
            };
            format!(
                "{address} is the address of Service {name}, and no rule {said} {subject} {to} \
                 {backend} behind it"
            )
        }
    };
    findings.warn(
        project.place_in(rule, path),
        Code::ServiceAddress,
        message,
        "select the workloads behind it by their labels, and write their port".to_owned(),
    );
}

fn covered(
    project: &Project<'_>,
    rule: &Rule<'_>,
    path: &[PathStep<'_>],
    cidr: IpNet,
    ranges: &Ranges,
    findings: &mut Findings,
) {
    let world = &project.world;
    let (groups, count) = world.within(ranges);
    let Some(first) = groups.first() else { return };
    let members = &world.groups[*first as usize].members;
    let example = members
        .iter()
        .find_map(|workload| {
            let mut addresses = workload.own_addresses().iter();
            let address = addresses.find(|address| ranges.contains(**address))?;
            Some(format!("{} ({address})", workload.name))
        })
        .unwrap_or_default();
    let what = if count == 1 {
        format!("the address of {example}")
    } else {
        format!("{count} addresses of workloads, such as {example}")
    };
    let hint = match rule.written {
        Written::Namespace(_) if cidr.prefix_len() == 0 => {
            "cut the workloads' addresses out with `except` if only what is outside is meant"
        }
        Written::Namespace(_) => {
            "workloads change their addresses: select them by labels, or cut them out with `except`"
        }
        Written::Cluster(_) => {
            "workloads change their addresses: select them by labels, or write smaller networks"
        }
    };
    findings.warn(
        project.place_in(rule, path),
        Code::BlockCoversWorkloads,
        format!("{cidr} covers {what}"),
        hint.to_owned(),
    );
}
