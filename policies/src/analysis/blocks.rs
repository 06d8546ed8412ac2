//! Address blocks that mean nothing, or workloads that were not thought of.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::diagnostic::Code;
use crate::documents::context::Service;
use crate::inventory::{ClusterPeer, Peer, RuleAction};

use super::places::Step;
use super::ranges::Ranges;
use super::rules::{Rule, Written, peers_key};
use super::{Findings, Project};

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    let mut services = HashMap::new();
    for service in &project.services {
        for address in &service.addresses {
            services.insert(*address, *service);
        }
    }
    for rule in &project.rules {
        let peers = Step::Key(peers_key(rule.direction));
        match rule.written {
            Written::Namespace(written) => {
                for (index, peer) in written.peers.iter().flatten().enumerate() {
                    let Peer::Block { cidr, except } = peer else {
                        continue;
                    };
                    let block = [peers, Step::Item(index), Step::Key("ipBlock")];
                    let ranges = Ranges::block(*cidr, except);
                    if ranges.is_empty() {
                        let path = [&block[..], &[Step::Key("except")]].concat();
                        findings.warn(
                            project.place_in(rule, &path),
                            Code::NeverMatches,
                            format!("`except` leaves nothing of {cidr}"),
                            "leave out what is not to be cut out, or the whole peer".to_owned(),
                        );
                    } else {
                        let path = [&block[..], &[Step::Key("cidr"), Step::Value]].concat();
                        covered(project, rule, &path, *cidr, &ranges, findings);
                        address_of_service(project, rule, &path, *cidr, &services, findings);
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
                            Step::Peer(index),
                            Step::Key("networks"),
                            Step::Cidr(*network),
                        ];
                        address_of_service(project, rule, &path, *network, &services, findings);
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

/// A virtual address is translated before anything is judged.
fn address_of_service(
    project: &Project<'_>,
    rule: &Rule<'_>,
    path: &[Step<'_>],
    cidr: IpNet,
    services: &HashMap<IpAddr, &Service>,
    findings: &mut Findings,
) {
    let Some(service) = services.get(&cidr.addr()) else {
        return;
    };
    if cidr.prefix_len() == cidr.max_prefix_len() {
        findings.warn(
            project.place_in(rule, path),
            Code::ServiceAddress,
            format!(
                "{} is the address of Service {}, which no packet has when it is judged",
                cidr.addr(),
                service.name
            ),
            "select the workloads behind it by their labels".to_owned(),
        );
    }
}

fn covered(
    project: &Project<'_>,
    rule: &Rule<'_>,
    path: &[Step<'_>],
    cidr: IpNet,
    ranges: &Ranges,
    findings: &mut Findings,
) {
    let world = &project.world;
    let (groups, count) = world.within(ranges);
    let Some(first) = groups.first() else { return };
    let members = &world.groups[*first as usize].members;
    let example = members.iter().find_map(|workload| {
        let mut addresses = workload.own_addresses().iter();
        let address = addresses.find(|address| ranges.contains(**address))?;
        Some(format!("{} ({address})", workload.name))
    });
    let example = example.unwrap_or_default();
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
