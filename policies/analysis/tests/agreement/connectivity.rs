//! Lists and differences against cells, one by one, in random worlds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;

use cofferdam_analysis::connectivity::{
    AllowedSpan, ChangeKind, ChangedSpan, Changes, Connectivity, Focus, ListedEnd, PortSpan, Set,
    View,
};
use cofferdam_inventory::ObjectName;
use cofferdam_reach::{Cell, End, EndKind, Externals, Probe, Reach};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Action;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::reach::inventory;
use super::worlds::{self, World};

const PROBES: [&str; 16] = [
    "tcp/1",
    "tcp/53",
    "tcp/79",
    "tcp/80",
    "tcp/81",
    "tcp/82",
    "tcp/443",
    "tcp/30080",
    "tcp/65535",
    "udp/53",
    "udp/80",
    "udp/65535",
    "sctp/80",
    "icmp/8",
    "icmpv6/128",
    "proto/47",
];

/// Ends that are asked about one by one: those of the documents, and hosts at the ends of
/// all outside ranges.
fn asked(reach: &Reach, connectivity: &Connectivity) -> Vec<End> {
    let mut hosts: Vec<IpAddr> = ["203.0.113.9", "2001:db8::9"]
        .map(|a| a.parse().unwrap())
        .into();
    for outside in connectivity
        .groups()
        .iter()
        .filter_map(|group| group.outside.as_ref())
    {
        let cidrs = outside.cidrs();
        let (first, last) = (cidrs.first().unwrap(), cidrs.last().unwrap());
        hosts.extend([
            first.network(),
            first.broadcast(),
            last.network(),
            last.broadcast(),
        ]);
    }
    hosts.sort();
    hosts.dedup();
    let hosts = hosts
        .into_iter()
        .map(|address| reach.address(address))
        .filter(|host| host.kind() == EndKind::External);
    reach.ends().iter().cloned().chain(hosts).collect()
}

/// The Services that can be asked about.
fn services(reach: &Reach) -> Vec<End> {
    let names = reach.inventory().services().keys();
    let ends = names.map(|name| reach.end(&format!("service/{name}"), &Externals::new()));
    ends.filter_map(Result::ok).collect()
}

/// Returns `true` if some backend takes this because it runs on the sender's node.
fn is_own_node_of_backend(
    reach: &Reach,
    source: &End,
    destination: &End,
    probe: Probe,
    family: Family,
) -> bool {
    let backends = reach.backend_cells(source, destination, probe, family);
    let mut cells = backends.iter().map(|backend| &backend.cell);
    cells.any(|cell| cell.ingress.verdict.reason == Reason::OwnNode)
}

/// Returns `true` if this is a connection that no list is about.
fn is_own(source: &End, destination: &End, cell: Option<&Cell>) -> bool {
    let is_own_node = cell.is_some_and(|cell| cell.ingress.verdict.reason == Reason::OwnNode);
    let is_outside = |end: &End| end.kind() == EndKind::External;
    source.id() == destination.id() || is_own_node || is_outside(source) && is_outside(destination)
}

/// The listed connections, by the ids of members, or by outside addresses.
type Listed<'c> = Vec<(ListedEnd<'c>, ListedEnd<'c>, Family, Vec<AllowedSpan>)>;

fn listed(connectivity: &Connectivity) -> Listed<'_> {
    let mut all = Vec::new();
    let focus = Focus {
        services: true,
        ..Focus::default()
    };
    let done = connectivity.connections(&focus, |found| {
        all.push((found.source, found.destination, found.family, found.allowed));
        Ok::<(), Infallible>(())
    });
    match done {
        Ok(()) => all,
        Err(never) => match never {},
    }
}

fn is_of(listed: &ListedEnd<'_>, end: &End) -> bool {
    match listed {
        ListedEnd::Group(group) => group.members.iter().any(|member| *member.id == *end.id()),
        ListedEnd::Service(service) => *service.id == *end.id(),
        ListedEnd::Outside(outside) => {
            end.kind() == EndKind::External
                && end.addresses().all(|address| outside.contains(address))
        }
    }
}

/// Holds a list against cells; returns the number of connections to Services that are allowed.
fn check_list(reach: Reach, view: View) -> Result<usize, String> {
    let connectivity = Connectivity::new(reach.clone(), view);
    let ends = asked(&reach, &connectivity);
    let services = services(&reach);
    let listed = listed(&connectivity);
    let mut through = 0;
    let receivers = || ends.iter().chain(&services);
    for (source, destination) in ends.iter().flat_map(|s| receivers().map(move |d| (s, d))) {
        let of_ends: Vec<_> = (listed.iter())
            .filter(|(from, to, ..)| is_of(from, source) && is_of(to, destination))
            .collect();
        for family in [Family::V4, Family::V6] {
            for text in PROBES {
                let probe: Probe = text.parse().unwrap();
                let cell = reach.cell(source, destination, probe, family);
                if is_own(source, destination, cell.as_ref())
                    || is_own_node_of_backend(&reach, source, destination, probe, family)
                {
                    continue;
                }
                let span = PortSpan::of_probe(probe);
                let mut found = (of_ends.iter())
                    .filter(|(.., of, _)| *of == family)
                    .flat_map(|(.., spans)| spans)
                    .filter(|allowed| allowed.ports.contains(&span));
                let (listed, twice) = (found.next(), found.next());
                let action = cell.map(|cell| match view {
                    View::Enforced => cell.action(),
                    View::Audited => cell.audited_action(),
                });
                let is_allowed = action == Some(Action::Allow);
                if is_allowed && services.iter().any(|one| one.id() == destination.id()) {
                    through += 1;
                    let behind = cell.and_then(|cell| cell.backends).map(|all| all.total);
                    let said = listed.map(|span| span.backends.len());
                    if said.is_some_and(|said| said == 0 || Some(said) > behind.map(|n| n as usize))
                    {
                        return Err(format!("{said:?} of {behind:?} backends"));
                    }
                }
                let asked = || format!("{} > {} {text} {family:?}", source.id(), destination.id());
                if listed.is_some() != is_allowed || twice.is_some() {
                    return Err(format!("{}: {listed:?}, {twice:?} where {cell:?}", asked()));
                }
                if let (Some(listed), Some(cell), View::Enforced) = (listed, cell, view) {
                    for (side, rules) in [
                        (cell.egress, &listed.egress),
                        (cell.ingress, &listed.ingress),
                    ] {
                        let rule = reach.rule_of(&side.verdict).map(|(number, _)| number);
                        // Of backends the first counts, which is another for a pod that is
                        // one of them itself.
                        let is_own = cell.backends.is_none() || !listed.backends.is_empty();
                        if is_own && rule.is_some_and(|rule| !rules.contains(&rule)) {
                            return Err(format!("{}: {rules:?} without {rule:?}", asked()));
                        }
                    }
                }
            }
        }
    }
    Ok(through)
}

/// A world, and one with other documents in the place of some.
fn changed<W: Strategy<Value = World>>(world: fn() -> W) -> impl Strategy<Value = (World, World)> {
    (world(), world()).prop_flat_map(|(one, other)| {
        let (first, second) = (one.texts().to_vec(), other.texts().to_vec());
        let kept = subsequence(first.clone(), first.len().saturating_sub(2)..=first.len());
        let taken = subsequence(second.clone(), 0..=second.len().min(3));
        (Just(one), kept, taken).prop_map(|(one, kept, taken)| {
            let named = |document: &str| {
                let kind = document
                    .split("kind: ")
                    .nth(1)
                    .map(|rest| rest.split(',').next().unwrap_or("").to_owned());
                let name = document
                    .split("name: ")
                    .nth(1)
                    .map(|rest| rest.split([',', '}']).next().unwrap_or("").to_owned());
                (kind, name)
            };
            let mut documents: BTreeMap<_, String> = BTreeMap::new();
            for document in kept.into_iter().chain(taken) {
                documents.insert(named(&document), document);
            }
            let changed = World::of(documents.into_values().collect());
            (one, changed)
        })
    })
}

/// Returns `true` if two ends are a workload and its own node, or what shares that one's network.
fn is_own_nodes(reach: &Reach, from: &str, to: &str) -> bool {
    let pod = |id: &str| {
        let (namespace, name) = id.split_once('/')?;
        let pods = reach.inventory().workloads();
        pods.get(&ObjectName::new(namespace, name)).cloned()
    };
    let node = match from.strip_prefix("node/") {
        Some(node) => Some(node.into()),
        None => pod(from)
            .filter(|pod| pod.host_network)
            .and_then(|pod| pod.node),
    };
    let workload = pod(to).filter(|pod| pod.is_selectable());
    node.is_some() && node == workload.and_then(|pod| pod.node)
}

fn check_changes(texts: [&[String]; 2], own_node: bool) -> Result<usize, String> {
    let states = texts.map(|texts| {
        let reach = Reach::new(&inventory(texts)).expect("a small world");
        reach.with_own_node_allowed(own_node)
    });
    let connectivities =
        [0, 1].map(|set: usize| Connectivity::new(states[set].clone(), View::Enforced));
    let mut ends: BTreeMap<String, [Option<End>; 2]> = BTreeMap::new();
    for set in [0, 1] {
        for other in [0, 1] {
            for end in asked(&states[set], &connectivities[other]) {
                let states = ends.entry(end.id().to_owned()).or_default();
                states[set] = Some(end);
            }
        }
        for service in services(&states[set]) {
            let states = ends.entry(service.id().to_owned()).or_default();
            states[set] = Some(service);
        }
    }
    // What was, or becomes, an address of a Service alone is another end.
    ends.retain(|id, ends| {
        let mut kinds = ends.iter().flatten().map(End::kind);
        id.starts_with("service/") || !kinds.any(|kind| kind == EndKind::Service)
    });
    // An address that somebody has in one state is no outside one.
    ends.retain(|_, ends| {
        let kinds = ends.iter().flatten().map(End::kind);
        let is_outside = kinds.clone().any(|kind| kind == EndKind::External);
        !is_outside || kinds.count() == 2
    });
    let [old, new] = connectivities;
    let changes = Changes::new(old, new);
    let is_of = |at: usize, id: &str| {
        let end = &changes.ends()[at];
        if end.kind == EndKind::Service {
            return *end.id == *id;
        }
        match (&end.outside, id.parse()) {
            (Some(outside), Ok(address)) => outside.contains(address),
            (None, Err(_)) => end.members.iter().any(|member| **member == *id),
            _ => false,
        }
    };
    let mut count = 0;
    for ((from, sources), (to, destinations)) in
        ends.iter().flat_map(|s| ends.iter().map(move |d| (s, d)))
    {
        let is_outside = |ends: &[Option<End>; 2]| {
            let mut kinds = ends.iter().flatten().map(End::kind);
            kinds.all(|kind| kind == EndKind::External)
        };
        let is_left_out = from == to
            || from.starts_with("service/")
            || is_outside(sources) && is_outside(destinations)
            || own_node && states.iter().any(|state| is_own_nodes(state, from, to));
        if is_left_out {
            continue;
        }
        let of_ends: Vec<_> = (changes.all().iter())
            .filter(|change| is_of(change.source, from) && is_of(change.destination, to))
            .collect();
        for family in [Family::V4, Family::V6] {
            for text in PROBES {
                let probe: Probe = text.parse().unwrap();
                let cells = [0, 1].map(|set: usize| {
                    let (source, destination) =
                        (sources[set].as_ref()?, destinations[set].as_ref()?);
                    let cell = states[set].cell(source, destination, probe, family);
                    Some((source, destination, cell))
                });
                let is_own_node = cells.iter().enumerate().any(|(set, cell)| {
                    cell.as_ref().is_some_and(|(source, destination, _)| {
                        let state = &states[set];
                        is_own_node_of_backend(state, source, destination, probe, family)
                    })
                });
                if is_own_node {
                    continue;
                }
                let is_allowed = |set: usize| {
                    let cell = cells[set].as_ref().and_then(|(.., cell)| *cell);
                    cell.is_some_and(|cell| cell.action() == Action::Allow)
                };
                let expected = match (is_allowed(0), is_allowed(1)) {
                    (false, true) => Some(ChangeKind::Added),
                    (true, false) => Some(ChangeKind::Removed),
                    _ => None,
                };
                let span = PortSpan::of_probe(probe);
                let found: Vec<&ChangedSpan> = (of_ends.iter())
                    .filter(|change| change.family == family)
                    .flat_map(|change| change.spans.iter())
                    .filter(|changed| changed.ports.contains(&span))
                    .collect();
                let said: Vec<ChangeKind> = found.iter().map(|changed| changed.kind).collect();
                if said != expected.into_iter().collect::<Vec<_>>() {
                    return Err(format!(
                        "{from} > {to} {text} {family:?}: {said:?} where {cells:?}"
                    ));
                }
                for changed in found {
                    count += 1;
                    names_rules(&changes, changed)?;
                }
            }
        }
    }
    Ok(count)
}

/// Every number is a rule's of its state.
fn names_rules(changes: &Changes, changed: &ChangedSpan) -> Result<(), String> {
    for (set, rule) in [(Set::New, changed.rule), (Set::Old, changed.was)] {
        let rules = changes.state(set).rules();
        if rule.is_some_and(|rule| rules.rule(rule).is_none()) {
            return Err(format!("{changed:?}: no such rule"));
        }
    }
    // A change between ends that both states have is due to some rule.
    if changed.direction.is_some() && changed.rule.or(changed.was).is_none() {
        return Err(format!("{changed:?}: due to no rule"));
    }
    Ok(())
}

/// Each world is some ten thousand questions.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: super::config().cases.div_ceil(4),
        ..super::config()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn lists_are_what_cells_say(world in worlds::world()) {
        for view in [View::Enforced, View::Audited] {
            let reach = Reach::new(&inventory(world.texts())).expect("a small world");
            check_list(reach, view).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn lists_are_what_cells_say_where_ports_lead_to_services(world in worlds::world_of_services()) {
        let reach = Reach::new(&inventory(world.texts())).expect("a small world").with_own_node_allowed(false);
        for view in [View::Enforced, View::Audited] {
            check_list(reach.clone(), view).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn what_has_changed_is_where_two_matrices_differ((old, new) in changed(worlds::world)) {
        for own_node in [true, false] {
            check_changes([old.texts(), new.texts()], own_node).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn so_it_is_where_services_have_changed((old, new) in changed(worlds::world_of_services)) {
        for own_node in [true, false] {
            check_changes([old.texts(), new.texts()], own_node).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn services_in_other_files_have_changed_nothing(
        world in worlds::world_of_services(),
        layout in super::layout::layout(),
    ) {
        let files = layout.files(world.texts());
        let found = check_changes([world.texts(), &files], true).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, 0);
    }

    #[test]
    fn the_same_documents_in_other_files_have_changed_nothing(
        world in worlds::world(),
        layout in super::layout::layout(),
    ) {
        let files = layout.files(world.texts());
        let found = check_changes([world.texts(), &files], true).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, 0);
    }
}

/// Always the same worlds: enough of them have connections through Services, and changes of
/// those, for the properties above to mean something.
#[test]
fn worlds_have_changes_through_services() {
    let mut runner = TestRunner::deterministic();
    let (mut listed, mut changes) = (0, 0);
    for _ in 0..20 {
        let worlds = changed(worlds::world_of_services)
            .new_tree(&mut runner)
            .unwrap();
        let (old, new) = worlds.current();
        let reach = Reach::new(&inventory(old.texts())).expect("a small world");
        listed += check_list(reach, View::Enforced).unwrap();
        let states = [old, new].map(|world| {
            let reach = Reach::new(&inventory(world.texts())).expect("a small world");
            Connectivity::new(reach, View::Enforced)
        });
        let [old, new] = states;
        let found = Changes::new(old, new);
        let to_services = found.all().iter();
        changes += to_services
            .filter(|change| found.ends()[change.destination].kind == EndKind::Service)
            .count();
    }
    assert!(listed > 200 && changes > 20, "{listed} {changes}");
}
