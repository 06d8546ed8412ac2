//! The policies of the library do what is stated beside them.
//!
//! Judged by the oracle, which reads the documents and nothing that was made of
//! them; and tried with packets, the policies being in force.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use cofferdam_policies::{
    inventory::Workload,
    oracle::{Action, End, Oracle, Payload, Query, Side},
};
use cofferdam_tests::{
    expectations::{Expected, Question, Template, external},
    firewall::{Firewall, Pod},
    packet::{Family, protocol},
    skip::Feature,
    skip_unless,
    traffic::{Cell, Matrix, Place, Probe, Server},
    world::{Wiring, World},
};

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

/// The oracle's word for an end, and an address it might have.
fn end(template: &Template, name: &str, family: Family) -> (End, IpAddr) {
    if let Some(external) = name.strip_prefix("external/") {
        let mut addresses = template.externals[external].iter();
        let address = addresses.find(|address| Family::of(**address) == family);
        return (End::External, *address.expect("an address of each family"));
    }
    let (namespace, pod) = name.split_once('/').expect("namespace/pod");
    let number = template.ends().iter().position(|end| end == name);
    let number = u8::try_from(number.expect("an end")).expect("a small world");
    let address = match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    };
    let end = End::Pod {
        namespace: namespace.to_owned(),
        name: pod.to_owned(),
    };
    (end, address)
}

fn payload(probe: Probe) -> Payload {
    match probe {
        Probe::Tcp(port) => Payload::Port(protocol::TCP, port),
        Probe::Udp(port) => Payload::Port(protocol::UDP, port),
        Probe::Sctp(port) => Payload::Port(protocol::SCTP, port),
        Probe::Ping => unreachable!("statements have ports"),
    }
}

/// What is wrong with a statement, in the oracle's eyes.
fn objection(
    template: &Template,
    oracle: &Oracle,
    (question, expected): (&Question, &Expected),
    family: Family,
) -> Option<String> {
    let (source, source_address) = end(template, &question.source, family);
    let (destination, destination_address) = end(template, &question.destination, family);
    let answer = oracle.evaluate(&Query {
        source,
        destination,
        source_address,
        destination_address,
        payload: payload(question.probe),
        own_node_allowed: true,
    });
    let judgement = answer.enforced;
    if (judgement.action == Action::Allow) != expected.allowed {
        return Some(format!("{question} {family}: {:?}", judgement.action));
    }
    let named = |side: &Side| {
        let rules = match side.action {
            Action::Allow => &side.allowing,
            Action::Deny => &side.isolating,
        };
        let mut rules = side.rule.iter().chain(rules);
        side.action == judgement.action && rules.any(|rule| expected.by == Some(rule.policy()))
    };
    let by = expected.by.is_none() || named(&judgement.egress) || named(&judgement.ingress);
    (!by).then(|| {
        format!(
            "{question} {family}: not by {:?}: {judgement:?}",
            expected.by
        )
    })
}

#[test]
fn library_does_what_is_stated_beside_it() {
    for (folder, template) in templates() {
        let oracle = Oracle::new(template.texts.values()).expect("YAML");
        let objections: Vec<String> = Family::BOTH
            .into_iter()
            .flat_map(|family| template.expected.iter().map(move |stated| (stated, family)))
            .filter_map(|(stated, family)| objection(&template, &oracle, stated, family))
            .collect();
        assert!(
            objections.is_empty(),
            "{}:\n{}",
            folder.display(),
            objections.join("\n")
        );
    }
}

/// What nobody states, nobody has thought of.
#[test]
fn library_states_every_pair_of_ends_on_every_port() {
    for (folder, template) in templates() {
        let open = template.unanswered();
        assert!(open.is_empty(), "{}: {open:#?}", folder.display());
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

#[test]
fn packets_do_what_is_stated_beside_the_library() {
    skip_unless!(Feature::NetworkNamespaces);
    for (folder, template) in templates() {
        let pods = pods(&template);
        let names = pods.iter().map(|pod| pod.name.as_str());
        let world = World::plan(Wiring::Bridge).workloads(names).outside();
        let world = world.build().expect("a world");
        // One host stands for all that are outside.
        assert_eq!(template.externals.len(), 1, "{}", folder.display());
        let outside = external(template.externals.keys().next().expect("one"));
        let mut places: Vec<Place<'_>> = world.workloads().iter().map(Place::from).collect();
        places.push(Place {
            name: &outside,
            ..Place::from(world.outside())
        });
        let probes = template.probes();
        let _servers = Server::start_all(places.iter().copied(), &probes).expect("servers");
        let matrix = Matrix::among(places, &probes);
        matrix.run(|_| true).expect("a run").assert_as_expected();

        // The kit writes documents of pods itself, with their addresses.
        let texts = template
            .texts
            .iter()
            .filter(|(name, _)| *name != "pods.yaml");
        let texts: Vec<&str> = texts.map(|(_, text)| text.as_str()).collect();
        let mut firewall = Firewall::turn();
        firewall.enforce(&world, &pods, &texts.join("\n---\n"));
        firewall.attach(&world);
        let stated = |cell: &Cell<'_>| {
            let question = Question {
                source: cell.source.to_owned(),
                destination: cell.destination.to_owned(),
                probe: cell.probe,
            };
            template.expected[&question].allowed
        };
        matrix.run(stated).expect("a run").assert_as_expected();
        firewall.ledger().assert_conserved();
    }
}
