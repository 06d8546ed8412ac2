//! Workloads that policies forgot, and peers that mean everybody.

use std::collections::BTreeMap;

use cofferdam_documents::{Identity, Kind};
use cofferdam_inventory::{ObjectName, Peer};
use cofferdam_syntax::diagnostic::{Code, Place};
use cofferdam_verdict::verdict::Direction;
use ipnet::IpNet;

use super::places::{self, PathStep};
use super::rules::{Policy, Rule, Written, peers_key, section};
use super::{Findings, Project};

pub(super) fn check(project: &Project<'_>, findings: &mut Findings) {
    forgotten(project, findings);
    let mut mentions: BTreeMap<&str, bool> = BTreeMap::new();
    for rule in &project.rules {
        let Written::Namespace(written) = rule.written else {
            continue;
        };
        match &written.peers {
            None => {
                let file: &str = &rule.place.file;
                let mentions = mentions.entry(file).or_insert_with(|| {
                    [
                        "from: []",
                        "to: []",
                        "\"from\": []",
                        "\"to\": []",
                        "from:[]",
                        "to:[]",
                    ]
                    .iter()
                    .any(|word| project.places.mentions(file, word))
                });
                if *mentions {
                    empty_list(project, rule, findings);
                }
            }
            Some(peers) => beside_everybody(project, rule, peers, findings),
        }
    }
}

/// Says of the workloads of a namespace that no policy is about, in the directions in which
/// policies isolate most of the others. One that a policy isolates in the other direction was
/// thought of.
fn forgotten(project: &Project<'_>, findings: &mut Findings) {
    let world = &project.world;
    let count = world.groups.len();
    let mut is_known = vec![false; count];
    let mut isolated = [Direction::Ingress, Direction::Egress].map(|_| vec![false; count]);
    for policy in world.inventory.policies().values() {
        let subjects = Policy::Namespace(policy).subjects(world);
        let sections = [
            (Direction::Ingress, policy.ingress.is_some()),
            (Direction::Egress, policy.egress.is_some()),
        ];
        for group in &*subjects {
            is_known[*group as usize] = true;
            for (direction, isolates) in sections {
                isolated[direction as usize][*group as usize] |= isolates;
            }
        }
    }
    // Policies of the whole cluster may be all that is meant.
    for rule in &project.rules {
        if matches!(rule.policy, Policy::Cluster(_)) {
            for group in &*rule.subjects {
                is_known[*group as usize] = true;
            }
        }
    }
    for (namespace, groups) in world.namespaces() {
        if project.gaps.in_policies_of(namespace) {
            continue;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let of_direction = &isolated[direction as usize];
            let closed = groups
                .iter()
                .filter(|group| of_direction[**group as usize])
                .count();
            if closed * 2 > groups.len() {
                let open = groups.iter().filter(|group| !is_known[**group as usize]);
                open.for_each(|group| tell_forgotten(project, *group, direction, findings));
            }
        }
    }
}

fn tell_forgotten(
    project: &Project<'_>,
    group: u32,
    direction: Direction,
    findings: &mut Findings,
) {
    let members = &project.world.groups[group as usize].members;
    let Some((name, place)) = members
        .iter()
        .find_map(|workload| Some((&workload.name, workload_place(project, &workload.name)?)))
    else {
        return;
    };
    let others = match members.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} like it"),
    };
    let (key, who) = match direction {
        Direction::Ingress => ("Ingress", "anybody may reach it"),
        Direction::Egress => ("Egress", "it may reach anybody"),
    };
    findings.warn(
        place,
        Code::OpenDirection,
        format!(
            "no policy isolates {name}{others} for {}: {who}, unlike most of its namespace",
            section(direction)
        ),
        format!("write a policy for it with `policyTypes: [{key}]`"),
    );
}

/// Returns the place of a workload, or of what makes it.
fn workload_place(project: &Project<'_>, name: &ObjectName) -> Option<Place> {
    let pod = Identity {
        kind: Kind::Pod,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let document = project.documents.get(&pod).copied();
    document
        .or_else(|| project.templates.get(name).copied())
        .cloned()
}

/// An empty list of peers means everybody, and looks like nobody.
fn empty_list(project: &Project<'_>, rule: &Rule<'_>, findings: &mut Findings) {
    let key = peers_key(rule.direction);
    let Some(spec) = project.places.spec(rule.policy.place()) else {
        return;
    };
    let written = places::value(spec, section(rule.direction))
        .and_then(|rules| places::items(rules).get(rule.index))
        .and_then(|rule| places::value(rule, key));
    if written.is_none() {
        return;
    }
    findings.warn(
        project.place_in(rule, &[PathStep::Key(key)]),
        Code::EverybodyMeant,
        format!("`{key}: []` means everybody, outside hosts too"),
        format!("leave `{key}` out to say so; to mean nobody leave out the rule"),
    );
}

/// A peer that means all workloads, or all addresses, leaves the narrower ones beside it
/// nothing to say.
fn beside_everybody(
    project: &Project<'_>,
    rule: &Rule<'_>,
    peers: &[Peer],
    findings: &mut Findings,
) {
    let is_narrow =
        |peer: &&Peer| matches!(peer, Peer::Workloads { .. }) && !is_all_workloads(peer);
    let all = peers.iter().position(is_all_workloads);
    let narrow = peers.iter().filter(is_narrow).count();
    let everywhere = |wanted: &IpNet| {
        peers.iter().position(|peer| {
            matches!(peer, Peer::Block { cidr, except } if except.is_empty() && cidr == wanted)
        })
    };
    let blocks = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|block| {
        let block: IpNet = block.parse().ok()?;
        let is_within = |peer: &&Peer| {
            matches!(peer, Peer::Block { cidr, except } if *cidr != block && block.contains(cidr) && except.is_empty())
        };
        let others = peers.iter().filter(is_within).count();
        Some((everywhere(&block)?, others, "addresses"))
    });
    let all = all.map(|index| (index, narrow, "workloads"));
    for (index, others, what) in all.into_iter().chain(blocks) {
        if others == 0 {
            continue;
        }
        findings.warn(
            project.place_in(
                rule,
                &[
                    PathStep::Key(peers_key(rule.direction)),
                    PathStep::Item(index),
                ],
            ),
            Code::EverybodyMeant,
            format!("the peer means all {what}, those that are named beside it too"),
            "leave it out to mean the others alone, or leave those out".to_owned(),
        );
    }
}

fn is_all_workloads(peer: &Peer) -> bool {
    matches!(
        peer,
        Peer::Workloads { namespaces: Some(namespaces), workloads }
            if namespaces.requirements().is_empty() && workloads.requirements().is_empty()
    )
}
