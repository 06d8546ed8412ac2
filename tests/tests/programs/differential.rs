//! Three roads to one verdict: the loaded programs, the same code over the same
//! memory in user space, and the oracle from the documents alone.

use std::{collections::BTreeSet, net::IpAddr};

use cofferdam_dataplane::{Program, TestContext};
use cofferdam_policies::{
    compiler::{Compiled, PolicyKind, RuleKey},
    oracle::{self, Answer, End, Oracle, Payload, Query, RuleName, Side},
};
use cofferdam_tests::{
    firewall::{Firewall, NODE, Pod, named},
    generate,
    packet::{Family, Packet, icmp, icmpv6, ip_protocol, sctp, tcp, udp},
    world::{Wiring, World},
};
use cofferdam_verdict::{
    counter::Hook,
    reason::Reason,
    verdict::{Action, Direction, Verdict},
};
use fastrand::Rng;

/// Worlds of policies in every run, and packets in each. `COFFERDAM_WORLDS` sets
/// another number of worlds: fewer where the processor is emulated.
const WORLDS: u64 = 60;
const PACKETS: usize = 250;

/// Who sends or receives.
#[derive(Clone, Copy, Debug)]
enum Who<'w> {
    Pod(&'w str),
    Outside(IpAddr),
    Node,
}

struct Trial<'w> {
    world: &'w World,
    source: Who<'w>,
    destination: Who<'w>,
    family: Family,
    payload: Payload,
}

impl<'w> Trial<'w> {
    fn random(rng: &mut Rng, world: &'w World) -> Self {
        let family = if rng.bool() { Family::V4 } else { Family::V6 };
        let pod = |rng: &mut Rng| {
            let all = world.workloads();
            Who::Pod(&all[rng.usize(..all.len())].name)
        };
        let outside = |rng: &mut Rng| loop {
            let text = generate::OUTSIDE[rng.usize(..generate::OUTSIDE.len())];
            let address: IpAddr = text.parse().expect("an address");
            if address.is_ipv4() == (family == Family::V4) {
                break Who::Outside(address);
            }
        };
        let (source, destination) = match rng.u8(..8) {
            0 | 1 => (outside(rng), pod(rng)),
            2 | 3 => (pod(rng), outside(rng)),
            4 => (Who::Node, pod(rng)),
            _ => (pod(rng), pod(rng)),
        };
        let port = generate::PORTS[rng.usize(..generate::PORTS.len())];
        let payload = match rng.u8(..8) {
            0..=3 => Payload::Port(6, port),
            4 => Payload::Port(17, port),
            5 => Payload::Port(132, port),
            6 if family == Family::V4 => Payload::Icmp(1, 8, 0),
            6 => Payload::Icmp(58, 128, 0),
            _ => Payload::Bare([4, 41, 47, 50, 89, 255][rng.usize(..6)]),
        };
        Self {
            world,
            source,
            destination,
            family,
            payload,
        }
    }

    fn address(&self, who: Who<'_>) -> IpAddr {
        let end = match who {
            Who::Pod(name) => named(self.world, name).end,
            Who::Outside(address) => return address,
            Who::Node => self.world.node().end,
        };
        end.ip(self.family).expect("worlds have both families")
    }

    fn packet(&self) -> Packet {
        let mac = |who| match who {
            Who::Pod(name) => named(self.world, name).end.mac,
            _ => self.world.node().end.mac,
        };
        let to = |who| cofferdam_tests::packet::End::from(self.address(who)).with_mac(mac(who));
        let (from, to) = (to(self.source), to(self.destination));
        let family = self.family;
        match self.payload {
            Payload::Port(6, port) => tcp()
                .family(family)
                .from(from)
                .to(to)
                .dport(port)
                .syn()
                .erased(),
            Payload::Port(17, port) => udp().family(family).from(from).to(to).dport(port).erased(),
            Payload::Port(_, port) => sctp()
                .family(family)
                .from(from)
                .to(to)
                .dport(port)
                .init(1)
                .erased(),
            Payload::Icmp(1, kind, code) => icmp(kind, code).from(from).to(to).erased(),
            Payload::Icmp(_, kind, code) => icmpv6(kind, code).from(from).to(to).erased(),
            Payload::Bare(number) => ip_protocol(number)
                .family(family)
                .from(from)
                .to(to)
                .payload(&[0; 40])
                .erased(),
        }
    }

    fn query(&self) -> Query {
        let end = |who| match who {
            Who::Pod(name) => {
                let (namespace, name) = name.split_once('/').expect("namespace/name");
                End::Pod {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }
            }
            Who::Outside(_) => End::External,
            Who::Node => End::Node {
                name: NODE.to_owned(),
            },
        };
        Query {
            source: end(self.source),
            destination: end(self.destination),
            source_address: self.address(self.source),
            destination_address: self.address(self.destination),
            payload: self.payload,
            own_node_allowed: true,
        }
    }

    /// The hooks that judge it.
    fn hooks(&self) -> Vec<(Program, TestContext)> {
        let mut hooks = Vec::new();
        let ifindex = |who| match who {
            Who::Pod(name) => named(self.world, name).host_ifindex,
            Who::Outside(_) => self.world.outside().uplink_ifindex,
            Who::Node => 0,
        };
        let context = |ifindex, ingress_ifindex| TestContext {
            ifindex,
            ingress_ifindex,
            ..TestContext::default()
        };
        let came_by = ifindex(self.source);
        if let Who::Pod(_) = self.source {
            hooks.push((Program::FROM_WORKLOAD, context(came_by, came_by)));
        }
        if let Who::Pod(_) = self.destination {
            hooks.push((
                Program::TO_WORKLOAD,
                context(ifindex(self.destination), came_by),
            ));
        }
        hooks
    }
}

/// A rule as the oracle names it.
fn rule_name(key: &RuleKey) -> RuleName {
    RuleName {
        namespace: match key.kind {
            PolicyKind::NetworkPolicy => Some(key.policy.namespace.to_string()),
            PolicyKind::ClusterNetworkPolicy => None,
        },
        name: key.policy.name.to_string(),
        direction: match key.direction {
            Direction::Ingress => oracle::Direction::Ingress,
            Direction::Egress => oracle::Direction::Egress,
        },
        index: key.index.map(|index| index as usize),
    }
}

/// The oracle's side must explain the verdict: the first of the rules that allow,
/// or exactly the policies that isolate.
fn explains(side: &Side, verdict: Verdict, compiled: &Compiled) -> Result<(), String> {
    let action = match side.action {
        oracle::Action::Allow => Action::Allow,
        oracle::Action::Deny => Action::Deny,
    };
    if verdict.action != action {
        return Err(format!("the oracle says {action:?}"));
    }
    match verdict.reason {
        Reason::Rule => {
            let rule = compiled
                .rules
                .rule(verdict.rule)
                .map(|entry| rule_name(&entry.key));
            if rule != side.rule {
                return Err(format!("names {rule:?}, the oracle {:?}", side.rule));
            }
        }
        Reason::Isolated => {
            let by: BTreeSet<RuleName> = compiled
                .rules
                .isolated_by(verdict.rule)
                .map(|(_, entry)| rule_name(&entry.key))
                .collect();
            if by != side.isolating {
                return Err(format!(
                    "isolated by {by:?}, the oracle says {:?}",
                    side.isolating
                ));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Judges a trial by all roads, hook by hook.
fn agree(firewall: &mut Firewall, oracle: &Oracle, trial: &Trial<'_>) -> Result<(), String> {
    let packet = trial.packet();
    let frame = packet.bytes();
    let Answer { enforced, audited } = oracle.evaluate(&trial.query());
    for (program, context) in trial.hooks() {
        let about = |said: String| format!("{program}: {packet}: {said}");
        let loaded = firewall.ask(program, &frame, &context);
        let (case, verdict) = firewall.judge(program.hook, &frame, &context);
        let here = [case.enforced, case.audited].map(Verdict::from_any_word);
        if loaded.map(Some) != here {
            return Err(about(format!("loaded {loaded:?}, in user space {here:?}")));
        }
        // Leaving, the sender's egress is judged alone; arriving, both are.
        let side = |judgement: &oracle::Judgement| match program.hook {
            Hook::FromWorkload => judgement.egress.clone(),
            _ if judgement.egress.action == oracle::Action::Deny => judgement.egress.clone(),
            _ => judgement.ingress.clone(),
        };
        let audit_word = Verdict::from_any_word(case.audited).ok_or("no audited verdict")?;
        let judged = [(verdict, side(&enforced)), (audit_word, side(&audited))];
        for (verdict, side) in judged {
            let explained = explains(&side, verdict, firewall.compiled());
            explained.map_err(|said| about(format!("{verdict:?}: {said}")))?;
        }
    }
    Ok(())
}

fn run(seed: u64, world: &World) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let pods: Vec<Pod> = generate::pods(&mut rng);
    let policies = generate::policies(&mut rng);
    let mut firewall = Firewall::turn();
    firewall.enforce(world, &pods, &policies);
    let oracle = firewall.oracle();
    let before = firewall.ledger();
    for _ in 0..PACKETS {
        let trial = Trial::random(&mut rng, world);
        agree(&mut firewall, &oracle, &trial)
            .map_err(|said| format!("seed {seed}: {said}\n{pods:?}\n{policies}"))?;
    }
    assert_eq!(
        firewall.ledger(),
        before,
        "a question to the programs is no packet"
    );
    Ok(())
}

#[test]
fn programs_user_space_and_oracle_agree() {
    let mut rng = Rng::with_seed(0);
    let names: Vec<String> = generate::pods(&mut rng)
        .into_iter()
        .map(|pod| pod.name)
        .collect();
    let world = World::plan(Wiring::Ptp)
        .workloads(names)
        .outside()
        .build()
        .expect("a world");
    let _inside = world.node().namespace.enter().expect("the node");
    let worlds = std::env::var("COFFERDAM_WORLDS").ok();
    let worlds = worlds.map_or(WORLDS, |number| number.parse().expect("a number of worlds"));
    for seed in 0..worlds {
        run(seed, &world).unwrap_or_else(|said| panic!("{said}"));
    }
}
