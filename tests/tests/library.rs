//! The policies of the library do what is stated beside them.
//!
//! Judged by the oracle, which reads the documents and nothing that was made of
//! them; by the loaded programs, packet by packet; and tried with real connections,
//! the policies being in force.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use cofferdam_compiler::PolicyKind;
use cofferdam_dataplane::{Program, TestContext};
use cofferdam_inventory::Workload;
use cofferdam_oracle::{self as oracle, End, Oracle, Payload, Query};
use cofferdam_tests::{
    expectations::{Expected, Question, Template, external},
    firewall::{Firewall, NODE, Pod, named, stamp},
    packet::{self, Family, Packet, icmp, icmpv6, protocol, sctp, tcp, udp},
    skip::Feature,
    skip_unless,
    traffic::{Cell, Matrix, Place, Probe, Server},
    world::{Wiring, World},
};
use cofferdam_verdict::verdict::{Action, Verdict};
use serde::Deserialize as _;
use serde_yaml::Value;

fn templates() -> Vec<(PathBuf, Template)> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/library");
    let folders = fs::read_dir(library).expect("the library").map(|entry| {
        let folder = entry.expect("an entry of the library").path();
        let template = Template::read(&folder)
            .unwrap_or_else(|error| panic!("{}: {error:?}", folder.display()));
        (folder, template)
    });
    let templates: Vec<_> = folders.collect();
    assert!(!templates.is_empty());
    templates
}

/// End of a statement, by its kind.
#[derive(Clone, Copy, Debug)]
enum Who<'n> {
    Workload(&'n str, &'n str),
    Node(&'n str),
    Outside(&'n str),
}

impl<'n> Who<'n> {
    fn named(name: &'n str) -> Self {
        match name.split_once('/') {
            Some(("node", name)) => Self::Node(name),
            Some(("external", name)) => Self::Outside(name),
            Some((namespace, name)) => Self::Workload(namespace, name),
            None => panic!("`{name}` is not called as ends of the library are"),
        }
    }

    fn for_the_oracle(self) -> End {
        match self {
            Self::Workload(namespace, name) => End::Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            Self::Node(name) => End::Node {
                name: name.to_owned(),
            },
            Self::Outside(_) => End::External,
        }
    }
}

/// The addresses of an end that the documents speak of. A workload without any gets
/// one by its place among the ends.
fn addresses(template: &Template, name: &str, family: Family) -> Vec<IpAddr> {
    let known = match Who::named(name) {
        Who::Outside(name) => template.externals[name].clone(),
        Who::Node(name) => template.inventory.nodes()[name].addresses.clone(),
        Who::Workload(..) => {
            let mut workloads = template.inventory.workloads().values();
            let workload = workloads.find(|workload| workload.name.to_string() == name);
            workload.expect("an end").addresses.clone()
        }
    };
    if known.is_empty() {
        let number = template.ends().iter().position(|end| end == name);
        let number = u8::try_from(number.expect("an end")).expect("a small world");
        return vec![match family {
            Family::V4 => Ipv4Addr::new(10, 0, 0, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }];
    }
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    known.into_iter().filter(of_family).collect()
}

fn payload(question: &Question) -> Payload {
    match (question.probe, question.family) {
        (Probe::Tcp(port), _) => Payload::Port(protocol::TCP, port),
        (Probe::Udp(port), _) => Payload::Port(protocol::UDP, port),
        (Probe::Sctp(port), _) => Payload::Port(protocol::SCTP, port),
        (Probe::Ping, Family::V4) => Payload::Icmp(protocol::ICMP, 8, 0),
        (Probe::Ping, Family::V6) => Payload::Icmp(protocol::ICMPV6, 128, 0),
    }
}

/// Returns the oracle's answer about a statement, for one pair of addresses, if it is not
/// as stated.
fn objection(
    oracle: &Oracle,
    (question, expected): (&Question, &Expected),
    [source_address, destination_address]: [IpAddr; 2],
) -> Option<String> {
    let answer = oracle.evaluate(&Query {
        source: Who::named(&question.source).for_the_oracle(),
        destination: Who::named(&question.destination).for_the_oracle(),
        source_address,
        destination_address,
        payload: payload(question),
        own_node_allowed: true,
    });
    let judgement = answer.enforced;
    if (judgement.action == oracle::Action::Allow) != expected.allowed {
        return Some(format!("{question}: {judgement:?}"));
    }
    let named = |side: &oracle::Side| {
        let mut rules = side.rule.iter().chain(&side.isolating);
        side.action == judgement.action && rules.any(|rule| expected.by == Some(rule.policy()))
    };
    let by = expected.by.is_none() || named(&judgement.egress) || named(&judgement.ingress);
    (!by).then(|| format!("{question}: not by {:?}: {judgement:?}", expected.by))
}

/// All pairs of addresses between which a question can be asked.
fn pairs(template: &Template, question: &Question) -> Vec<[IpAddr; 2]> {
    let of = |name: &str| addresses(template, name, question.family);
    let (from, to) = (of(&question.source), of(&question.destination));
    assert!(!from.is_empty() && !to.is_empty(), "{question}");
    let pairs = from
        .iter()
        .flat_map(|&from| to.iter().map(move |&to| [from, to]));
    pairs.collect()
}

/// Nothing of a folder of the library is otherwise than it states.
fn assert_none(folder: &Path, objections: &[String]) {
    assert!(
        objections.is_empty(),
        "{}:\n{}",
        folder.display(),
        objections.join("\n")
    );
}

#[test]
fn library_does_what_is_stated_beside_it() {
    for (folder, template) in templates() {
        let oracle = Oracle::new(template.texts.values()).expect("YAML");
        let mut objections = Vec::new();
        for stated in &template.expected {
            for pair in pairs(&template, stated.0) {
                objections.extend(objection(&oracle, stated, pair));
            }
        }
        assert_none(&folder, &objections);
    }
}

/// Every pair of ends is stated on every port: a pair without a statement was forgotten.
#[test]
fn library_states_every_pair_of_ends_on_every_port() {
    for (folder, template) in templates() {
        let open: Vec<String> = template
            .unanswered()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            open.is_empty(),
            "{}:\n{}",
            folder.display(),
            open.join("\n")
        );
    }
}

/// All documents of a template.
fn documents(template: &Template) -> Vec<Value> {
    let documents = template.texts.values().flat_map(|text| {
        serde_yaml::Deserializer::from_str(text)
            .map(|document| Value::deserialize(document).expect("YAML"))
    });
    documents.collect()
}

/// Policies, by template, of ways that are closed twice, at both of their ends or in two
/// tiers, so that one slip opens nothing: only what such a policy leaves out too much is noticed.
const CLOSED_TWICE: [(&str, &[&str]); 4] = [
    ("baseline-deny", &["baseline-deny", "client"]),
    (
        "monitoring-scraper",
        &["dashboard", "default-deny", "metrics", "scraper"],
    ),
    (
        "pci-enclave",
        &[
            "cde-boundary",
            "default-deny",
            "operations",
            "tokenizer",
            "vault",
        ],
    ),
    (
        "three-tier",
        &[
            "api",
            "db",
            "default-deny",
            "dns",
            "metrics",
            "scraper",
            "web",
        ],
    ),
];

/// A part of a policy that somebody forgets.
struct Slip {
    what: String,
    /// `true` if the policy may then allow more than before, and not less.
    widens: bool,
    without: Value,
}

/// A value without one entry of its lists, or one label of its selectors, each in turn.
fn slips(kind: &str, name: &str, value: &Value) -> Vec<Slip> {
    let mut all = Vec::new();
    match value {
        Value::Sequence(items) => {
            // Left out, the only entry would stand there by default, or both would.
            if name == "policyTypes" && items.len() == 1 {
                return all;
            }
            for (index, item) in items.iter().enumerate() {
                let mut rest = items.clone();
                rest.remove(index);
                let widens = match name {
                    "ingress" | "egress" | "except" => false,
                    "policyTypes" | "matchExpressions" => true,
                    // An empty list of peers or ports means all of them.
                    _ => rest.is_empty(),
                };
                // Rules of the cluster have peers, and none is no policy.
                let is_policy = kind == "NetworkPolicy" || name.ends_with("gress");
                if is_policy || !rest.is_empty() {
                    all.push(Slip {
                        what: format!("{name}[{index}]"),
                        widens,
                        without: Value::Sequence(rest),
                    });
                }
                for slip in slips(kind, "", item) {
                    let mut changed = items.clone();
                    changed[index] = slip.without;
                    all.push(Slip {
                        what: format!("{name}[{index}]{}", slip.what),
                        widens: slip.widens,
                        without: Value::Sequence(changed),
                    });
                }
            }
        }
        Value::Mapping(entries) => {
            for (key, item) in entries {
                let key_name = key.as_str().unwrap_or_default();
                if name == "matchLabels" {
                    let mut rest = entries.clone();
                    rest.remove(key);
                    all.push(Slip {
                        what: format!("{name}.{key_name}"),
                        widens: true,
                        without: Value::Mapping(rest),
                    });
                }
                for slip in slips(kind, key_name, item) {
                    let mut changed = entries.clone();
                    changed.insert(key.clone(), slip.without);
                    all.push(Slip {
                        what: format!("{name}.{}", slip.what),
                        widens: slip.widens,
                        without: Value::Mapping(changed),
                    });
                }
            }
        }
        _ => {}
    }
    all
}

/// Returns `true` if every statement of a template holds for other documents.
fn all_holds(template: &Template, documents: &[Value]) -> bool {
    let texts = documents.iter().map(serde_yaml::to_string);
    let texts: Vec<String> = texts.map(|text| text.expect("YAML")).collect();
    let oracle = Oracle::new(texts).expect("YAML");
    template.expected.iter().all(|stated| {
        let mut pairs = pairs(template, stated.0).into_iter();
        pairs.all(|pair| objection(&oracle, stated, pair).is_none())
    })
}

/// Every part of a policy is needed by a statement. A part that no statement needs is of no
/// use, or leaves a hole when it is lost.
#[test]
fn library_states_what_every_part_of_every_policy_is_for() {
    for (folder, template) in templates() {
        let documents = documents(&template);
        assert!(all_holds(&template, &documents), "{}", folder.display());
        let mut unnoticed = Vec::new();
        for (at, document) in documents.iter().enumerate() {
            let kind = document["kind"].as_str().unwrap_or_default();
            if !kind.ends_with("NetworkPolicy") {
                continue;
            }
            let name = document["metadata"]["name"].as_str().unwrap_or_default();
            let closed_twice = CLOSED_TWICE
                .iter()
                .any(|(of, policies)| folder.ends_with(of) && policies.contains(&name));
            let mut changed = documents.clone();
            changed.remove(at);
            if all_holds(&template, &changed) {
                unnoticed.push(format!("{kind} {name}"));
            }
            for slip in slips(kind, "spec", &document["spec"]) {
                let mut changed = documents.clone();
                changed[at]["spec"] = slip.without;
                if !(slip.widens && closed_twice) && all_holds(&template, &changed) {
                    unnoticed.push(format!("{kind} {name} {}", slip.what));
                }
            }
        }
        assert!(
            unnoticed.is_empty(),
            "{}: without these, every statement still holds:\n{}",
            folder.display(),
            unnoticed.join("\n")
        );
    }
}

/// The workloads of a template as the kit has them.
fn pods(template: &Template) -> Vec<Pod> {
    let pod = |workload: &Workload| {
        let labels: Vec<String> = workload
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let pod = Pod::new(&workload.name.to_string(), &labels);
        workload.ports.iter().fold(pod, |pod, port| {
            let protocol = format!("{:?}", port.protocol).to_uppercase();
            pod.port(&port.name, &protocol, port.number)
        })
    };
    template.inventory.workloads().values().map(pod).collect()
}

/// The documents of a template without those that the kit writes itself: of pods and
/// of the node they run on, with their addresses.
fn without_the_kits(template: &Template) -> String {
    let others = documents(template).into_iter().filter(|document| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match text(&document["kind"]).as_str() {
            "Pod" => false,
            "Node" => text(&document["metadata"]["name"]) != NODE,
            _ => true,
        }
    });
    let texts = others.map(|document| serde_yaml::to_string(&document).expect("YAML"));
    texts.collect::<Vec<_>>().join("---\n")
}

/// A template in force over a world of its workloads.
struct InForce<'t> {
    template: &'t Template,
    world: World,
    pods: Vec<Pod>,
}

impl<'t> InForce<'t> {
    fn new(template: &'t Template) -> Self {
        let pods = pods(template);
        let names = pods.iter().map(|pod| pod.name.as_str());
        let world = World::plan(Wiring::Bridge).workloads(names).outside();
        Self {
            template,
            world: world.build().expect("a world"),
            pods,
        }
    }

    /// The addresses of an end in this world.
    fn addresses(&self, name: &str, family: Family) -> Vec<IpAddr> {
        let end = match Who::named(name) {
            Who::Workload(..) => named(&self.world, name).end,
            Who::Node(NODE) => self.world.node().end,
            _ => return addresses(self.template, name, family),
        };
        vec![end.ip(family).expect("worlds have both families")]
    }

    fn packet(&self, question: &Question, [from, to]: [IpAddr; 2]) -> Packet {
        let end = |address: IpAddr, name: &str| {
            let mac = match Who::named(name) {
                Who::Workload(..) => named(&self.world, name).end.mac,
                _ => self.world.node().end.mac,
            };
            packet::End::from(address).with_mac(mac)
        };
        let from = end(from, &question.source);
        let to = end(to, &question.destination);
        let family = question.family;
        match question.probe {
            Probe::Tcp(port) => {
                let packet = tcp().family(family).from(from).to(to);
                packet.dport(port).syn().erased()
            }
            Probe::Udp(port) => {
                let packet = udp().family(family).from(from).to(to);
                packet.dport(port).erased()
            }
            Probe::Sctp(port) => {
                let packet = sctp().family(family).from(from).to(to);
                packet.dport(port).init(1).erased()
            }
            Probe::Ping => match family {
                Family::V4 => icmp(8, 0).from(from).to(to).erased(),
                Family::V6 => icmpv6(128, 0).from(from).to(to).erased(),
            },
        }
    }

    /// The hooks that judge a packet.
    fn hooks(&self, question: &Question) -> Vec<(Program, TestContext)> {
        let ifindex = |name: &str| match Who::named(name) {
            Who::Workload(..) => named(&self.world, name).host_ifindex,
            Who::Node(NODE) => 0,
            _ => self.world.outside().uplink_ifindex,
        };
        let context = |ifindex, ingress_ifindex| TestContext {
            ifindex,
            ingress_ifindex,
            ..TestContext::default()
        };
        let came_by = ifindex(&question.source);
        let mut hooks = Vec::new();
        if let Who::Workload(..) = Who::named(&question.source) {
            hooks.push((Program::FROM_WORKLOAD, context(came_by, came_by)));
        }
        if let Who::Workload(..) = Who::named(&question.destination) {
            let leaves_by = ifindex(&question.destination);
            let stamp = match Who::named(&question.source) {
                Who::Workload(..) => stamp(named(&self.world, &question.source)),
                _ => 0,
            };
            let context = context(leaves_by, came_by);
            hooks.push((Program::TO_WORKLOAD, context.stamped(stamp)));
        }
        hooks
    }

    /// Returns the verdicts of the loaded programs about a statement, if they are not as
    /// stated.
    fn objection(
        &self,
        firewall: &mut Firewall,
        (question, expected): (&Question, &Expected),
        pair: [IpAddr; 2],
    ) -> Option<String> {
        let frame = self.packet(question, pair).bytes();
        let verdicts: Vec<Verdict> = (self.hooks(question).into_iter())
            .map(|(program, context)| firewall.ask(program, &frame, &context)[0])
            .collect();
        let allowed = verdicts
            .iter()
            .all(|verdict| verdict.action == Action::Allow);
        let action = if allowed { Action::Allow } else { Action::Deny };
        let names: Vec<String> = (verdicts.iter())
            .filter(|verdict| verdict.action == action)
            .flat_map(|verdict| policies_named(firewall, *verdict))
            .collect();
        let by = (expected.by.as_ref()).is_none_or(|by| names.contains(by));
        let as_stated = allowed == expected.allowed && by;
        (!as_stated).then(|| format!("{question} {pair:?}: {verdicts:?} by {names:?}"))
    }
}

/// The policies that a verdict is put down to, as statements name them.
fn policies_named(firewall: &Firewall, verdict: Verdict) -> Vec<String> {
    let rules = &firewall.compiled().rules;
    let isolating = rules.isolated_by(verdict.rule).map(|(_, entry)| entry);
    let entries = rules.rule(verdict.rule).into_iter().chain(isolating);
    let name = |entry: &cofferdam_compiler::RuleEntry| match entry.key.kind {
        PolicyKind::NetworkPolicy => entry.key.policy.to_string(),
        PolicyKind::ClusterNetworkPolicy => entry.key.policy.name.to_string(),
    };
    entries.map(name).collect()
}

#[test]
fn programs_say_what_is_stated_beside_the_library() {
    skip_unless!(Feature::NetworkNamespaces);
    for (folder, template) in templates() {
        let there = InForce::new(&template);
        let mut firewall = Firewall::turn();
        firewall.enforce(&there.world, &there.pods, &without_the_kits(&template));
        let _inside = there.world.node().namespace.enter().expect("the node");
        let mut objections = Vec::new();
        for stated in &template.expected {
            let of = |name: &str| there.addresses(name, stated.0.family);
            for from in of(&stated.0.source) {
                for to in of(&stated.0.destination) {
                    objections.extend(there.objection(&mut firewall, stated, [from, to]));
                }
            }
        }
        assert_none(&folder, &objections);
    }
}

#[test]
fn packets_do_what_is_stated_beside_the_library() {
    skip_unless!(Feature::NetworkNamespaces);
    for (folder, template) in templates() {
        let there = InForce::new(&template);
        let workloads = there.world.workloads();
        let mut places: Vec<Place<'_>> = workloads.iter().map(Place::from).collect();
        // One host stands for all that are outside, where they are all alike.
        let outside = match template.externals.len() {
            1 => template.externals.keys().next().map(|name| external(name)),
            _ => None,
        };
        if let Some(name) = &outside {
            places.push(Place {
                name,
                ..Place::from(there.world.outside())
            });
        }
        let probes = template.probes();
        let _servers = Server::start_all(places.iter().copied(), &probes).expect("servers");
        let matrix = Matrix::among(places, &probes);
        matrix.run(|_| true).expect("a run").assert_as_expected();

        let mut firewall = Firewall::turn();
        firewall.enforce(&there.world, &there.pods, &without_the_kits(&template));
        firewall.attach(&there.world);
        let stated = |cell: &Cell<'_>| {
            let question = Question {
                source: cell.source.to_owned(),
                destination: cell.destination.to_owned(),
                probe: cell.probe,
                family: cell.family,
            };
            // Nobody states anything of ends that no policy selects.
            let expected = template.expected.get(&question);
            expected.is_none_or(|expected| expected.allowed)
        };
        let table = matrix.run(stated).expect("a run");
        assert!(
            table.surprises().next().is_none(),
            "{}:\n{table}",
            folder.display()
        );
        firewall.ledger().assert_conserved();
    }
}
