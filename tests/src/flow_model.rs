//! Flows of several workloads over both hooks, against a model that is plain enough to
//! be right.
//!
//! A sequence is a few dozen packets between the workloads of a node, a workload of
//! another node, the node, another node and a host outside, through every hook on their
//! way, translated or not, whole or in fragments, honest or forged. Meanwhile policies,
//! labels and addresses change, interfaces are made anew, and time passes. Each packet
//! is judged by the pipeline of the kernel programs, over ordinary memory, and by
//! `truth`, the model: a list of conversations, and policies read label by label.
//!
//! A packet that passes though the model denies it is a *leak*, always. One that is
//! dropped though the model allows it is *lost*, unless one of [`Tolerance`] says why the
//! programs may be stricter.
//!
//! Decision tables come from the compiler of policies, from documents; the model does
//! not see them. Nothing here needs a kernel.

mod memory;
mod node;
mod region;
mod sight;
mod steps;
mod truth;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::IpAddr,
    time::Instant,
};

use cofferdam_verdict::{
    counter::Hook,
    endpoint::MAX_STAMP,
    judge::Context,
    verdict::{Action, Verdict},
};
use fastrand::Rng;

use crate::both_ways::Judged;
use crate::packet::{End, Family, Mac, Packet, ip_protocol, ping, sctp, tcp, time_exceeded, udp};

use node::{Endpoint, Node};
use region::{PODS, PORTS, Party, Region, Standing, fixed_address, pod_address};
use sight::{Kind, Part, Quoted, Segment, Sight, Way};
use steps::{Event, Fault, Protocol, Talk};
use truth::{Opinion, Truth};

pub use sight::Tolerance;

/// Sequences that go through the same regions, which take longer to make than a
/// sequence.
const SEQUENCES_OF_REGIONS: u64 = 20;
/// Regions that a sequence goes through.
const REGIONS: usize = 6;
/// Sets of an endpoint's partition: enough for all flows of a sequence, or for some.
const SETS: [usize; 4] = [64, 64, 1, 2];
/// Interface of the first workload.
const FIRST_IFINDEX: u32 = 10;
/// Interface by which everybody else's packets come.
const UPLINK: u32 = 5;

/// Extent of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of the first sequence; the next ones count on from it.
    pub seed: u64,
    /// Sequences.
    pub sequences: u64,
    /// Time at which to stop, wherever the run is.
    pub deadline: Option<Instant>,
}

/// A packet about which programs and model disagree.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// Seed of the sequence.
    pub seed: u64,
    /// The programs let it pass and the model does not; otherwise the reverse.
    pub leaked: bool,
    trace: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.leaked { "leak" } else { "loss" };
        write!(
            f,
            "{kind} in the sequence of seed {}:\n{}",
            self.seed, self.trace
        )
    }
}

/// Cases that must have occurred for a run to say something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeSet<String>);

impl Coverage {
    /// Returns the cases that have not occurred.
    pub fn missing(&self) -> Vec<String> {
        let mut wanted = Vec::new();
        for from in [false, true] {
            for to in [false, true] {
                for verdict in ["passed", "dropped"] {
                    if from || to || verdict == "passed" {
                        wanted.push(isolation([from, to], verdict == "passed"));
                    }
                }
            }
        }
        let ways = [
            Way::ByItself,
            Way::Conversation,
            Way::Adopted,
            Way::Answer,
            Way::Fragment,
            Way::Related,
            Way::Itself,
        ];
        wanted.extend(ways.iter().map(|way| format!("passed: {way:?}")));
        let hooks = [Hook::FromWorkload, Hook::ToWorkload];
        wanted.extend(hooks.map(hurried_on));
        wanted.retain(|case| !self.0.contains(case));
        wanted
    }
}

fn hurried_on(hook: Hook) -> String {
    format!("passed the short way: {hook:?}")
}

fn isolation([egress, ingress]: [bool; 2], passed: bool) -> String {
    let verdict = if passed { "passed" } else { "dropped" };
    format!("sender isolated: {egress}, receiver isolated: {ingress}, {verdict}")
}

/// Outcome of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Sequences gone through.
    pub sequences: u64,
    /// Packets judged, each at every hook on its way.
    pub packets: u64,
    /// Packets that passed.
    pub passed: u64,
    /// Packets that the programs dropped and the model would have let pass, by why they
    /// may.
    pub tolerated: BTreeMap<Tolerance, u64>,
    /// The others about which programs and model disagree.
    pub disagreements: Vec<Disagreement>,
    /// Cases that have occurred.
    pub coverage: Coverage,
}

impl Outcome {
    /// Adds what another run came to.
    pub fn join(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.packets += other.packets;
        self.passed += other.passed;
        for (tolerance, times) in other.tolerated {
            *self.tolerated.entry(tolerance).or_default() += times;
        }
        self.disagreements.extend(other.disagreements);
        self.coverage.0.extend(other.coverage.0);
    }
}

/// Goes through sequences. At the first disagreement of a sequence, the sequence is
/// shortened as long as it disagrees in the same way.
pub fn run(plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let mut regions: Option<(u64, Vec<Region>)> = None;
    for number in 0..plan.sequences {
        if plan
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            break;
        }
        let seed = plan.seed.wrapping_add(number);
        let of_regions = seed / SEQUENCES_OF_REGIONS;
        let known = regions.take().filter(|(known, _)| *known == of_regions);
        let (_, regions) = regions.insert(known.unwrap_or_else(|| (of_regions, make(of_regions))));
        sequence(seed, regions, &mut outcome);
        outcome.sequences += 1;
    }
    outcome
}

fn make(seed: u64) -> Vec<Region> {
    let mut rng = Rng::with_seed(seed ^ 0x5eed);
    let mut regions = vec![Region::random(&mut rng)];
    while regions.len() < REGIONS {
        let next = regions[rng.usize(..regions.len())].changed(&mut rng);
        regions.push(next);
    }
    regions
}

fn sequence(seed: u64, regions: &mut [Region], outcome: &mut Outcome) {
    let mut steps = steps::random(&mut Rng::with_seed(seed), regions.len());
    let mut stage = Stage::new(seed, regions);
    let failed = stage.take(&steps);
    outcome.packets += stage.packets;
    outcome.passed += stage.passed;
    for (tolerance, times) in std::mem::take(&mut stage.tolerated) {
        *outcome.tolerated.entry(tolerance).or_default() += times;
    }
    outcome.coverage.0.append(&mut stage.coverage);
    let Some(leaked) = failed else {
        return;
    };
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if Stage::new(seed, regions).take(&fewer) == Some(leaked) {
            steps = fewer;
        } else {
            at += 1;
        }
    }
    let mut stage = Stage::new(seed, regions);
    stage.tells = true;
    stage.take(&steps);
    let trace = stage.trace;
    outcome.disagreements.push(Disagreement {
        seed,
        leaked,
        trace,
    });
}

/// A node, its model, and what happens to both.
struct Stage<'r> {
    regions: &'r mut [Region],
    in_force: usize,
    node: Node,
    truth: Truth,
    endpoints: [Endpoint; PODS],
    former_stamps: [u32; PODS],
    next_stamp: u32,
    packets: u64,
    passed: u64,
    tolerated: BTreeMap<Tolerance, u64>,
    coverage: BTreeSet<String>,
    trace: String,
    tells: bool,
}

impl<'r> Stage<'r> {
    fn new(seed: u64, regions: &'r mut [Region]) -> Self {
        let mut rng = Rng::with_seed(!seed);
        let sets = SETS[rng.usize(..SETS.len())];
        let own_node_allowed = rng.u8(..4) > 0;
        let node = Node::new(&mut rng, sets, own_node_allowed);
        let truth = Truth::new(regions[0].clone(), own_node_allowed, sets <= 2, node.now);
        let endpoints = std::array::from_fn(|pod| Endpoint {
            ifindex: FIRST_IFINDEX + pod as u32,
            mac: mac_number(mac(pod)),
            incarnation: rng.u32(1..1 << 20),
            stamp: 0,
            adopt_until: match rng.u8(..3) {
                0 => node.now.wrapping_add(rng.u32(1..200)),
                _ => 0,
            },
            listeners: {
                let mut listens = |_: &u16| rng.u8(..4) == 0;
                PORTS.into_iter().filter(|port| listens(port)).collect()
            },
            addresses: Vec::new(),
        });
        let mut stage = Self {
            regions,
            in_force: 0,
            node,
            truth,
            endpoints,
            former_stamps: [0; PODS],
            next_stamp: 1,
            packets: 0,
            passed: 0,
            tolerated: BTreeMap::new(),
            coverage: BTreeSet::new(),
            trace: String::new(),
            tells: false,
        };
        for pod in 0..PODS {
            stage.truth.adopt_until[pod] = stage.endpoints[pod].adopt_until;
            stage.truth.listeners[pod] = stage.endpoints[pod].listeners.clone();
            stage.stamp(pod);
        }
        stage.change(0);
        stage
    }

    /// Takes steps until programs and model disagree. Returns `Some(true)` for a leak,
    /// `Some(false)` for a loss.
    fn take(&mut self, steps: &[Event]) -> Option<bool> {
        if self.tells {
            let regions: BTreeSet<usize> = steps
                .iter()
                .filter_map(|step| match step {
                    Event::Change(region) => Some(*region),
                    Event::Send { between, .. } => *between,
                    _ => None,
                })
                .chain([0])
                .collect();
            for region in regions {
                let documents = self.regions[region].documents();
                writeln!(self.trace, "region {region}:\n{documents}").expect("a string");
            }
            let truth = &self.truth;
            writeln!(
                self.trace,
                "own node allowed: {}, small partitions: {}",
                truth.own_node_allowed, truth.is_small
            )
            .expect("a string");
        }
        steps.iter().find_map(|step| {
            if self.tells {
                writeln!(self.trace, "{step}").expect("a string");
            }
            match *step {
                Event::Change(region) => self.change(region),
                Event::Publish => self.change(self.in_force),
                Event::Reincarnate(pod) => self.reincarnate(pod),
                Event::Wait(jiffies) => {
                    self.node.now = self.node.now.wrapping_add(jiffies);
                    self.truth.now = self.node.now;
                }
                Event::Report {
                    talk,
                    back,
                    reporter,
                    long,
                } => return self.report(&talk, back, reporter, long).err(),
                Event::Send { .. } => return self.send(step).err(),
            }
            None
        })
    }

    fn stamp(&mut self, pod: usize) {
        self.former_stamps[pod] = self.endpoints[pod].stamp;
        self.endpoints[pod].stamp = self.next_stamp;
        self.truth.reincarnate(pod, self.next_stamp);
        self.next_stamp += 1;
    }

    fn reincarnate(&mut self, pod: usize) {
        self.endpoints[pod].incarnation += 1;
        self.stamp(pod);
        self.node.set_endpoint(pod, &self.endpoints[pod]);
    }

    /// Puts a region in force: the table, then endpoints and addresses that differ.
    fn change(&mut self, region: usize) {
        let revision = self.truth.revision + 1;
        self.in_force = region;
        let region = &mut self.regions[region];
        region.publish(revision);
        let slots = region.slots();
        for pod in 0..PODS {
            let own = slots
                .iter()
                .filter(|(address, _)| region.standing(*address) == Standing::Pod(pod));
            let addresses: Vec<(IpAddr, u32)> = own.copied().collect();
            let endpoint = &mut self.endpoints[pod];
            if endpoint.addresses != addresses || revision == 1 {
                endpoint.addresses = addresses;
                self.node.set_endpoint(pod, endpoint);
            }
        }
        self.node.bind(region.table(), &slots);
        self.truth.change(region.clone_without_table(), revision);
    }

    /// The address of a party in the region in force.
    fn address(&self, party: Party, family: Family) -> IpAddr {
        let standing = match party {
            Party::Pod(pod) => {
                let own = self.truth.region.addresses(pod, family);
                // One that has none goes on with the address it had.
                return own.first().copied().unwrap_or(pod_address(pod, family));
            }
            Party::Remote => Standing::Remote,
            Party::Node => Standing::Node,
            Party::OtherNode => Standing::OtherNode,
            Party::Outside => Standing::Outside,
        };
        fixed_address(standing, family)
    }

    /// Sends a packet through the hooks on its way. `Err` is a disagreement.
    fn send(&mut self, step: &Event) -> Result<(), bool> {
        let &Event::Send {
            talk,
            back,
            segment,
            part,
            fault,
            numbers,
            between,
        } = step
        else {
            return Ok(());
        };
        let family = talk.family;
        let (client, server) = (
            self.address(talk.client, family),
            self.address(talk.server, family),
        );
        let named = if talk.is_virtual {
            fixed_address(Standing::Virtual, family)
        } else {
            server
        };
        let seen = if talk.is_masqueraded {
            fixed_address(Standing::Node, family)
        } else {
            client
        };
        // As the sender's hook has it, and as the receiver's.
        let (from, to, before, after) = if back {
            (talk.server, talk.client, (server, seen), (named, client))
        } else {
            (talk.client, talk.server, (client, named), (seen, server))
        };
        let mut sight = Sight {
            pod: 0,
            sent: true,
            source: before.0,
            destination: before.1,
            ports: ports(&talk, back),
            kind: kind(&talk, back, segment),
            numbers,
            part,
            stamp: 0,
            by_node: false,
        };
        let mut stamp = 0;
        if let Party::Pod(pod) = from {
            if let Fault::SourceOf(party) = fault {
                sight.source = self.address(party, family);
            }
            sight.pod = pod;
            let ingress = FIRST_IFINDEX + pod as u32;
            if !self.pass(&sight, ingress)? && fault != Fault::Bypass {
                return Ok(());
            }
            stamp = self.truth.stamps[pod];
        }
        if let Some(region) = between {
            self.change(region);
        }
        let Party::Pod(receiver) = to else {
            return Ok(());
        };
        sight.sent = false;
        sight.pod = receiver;
        (sight.source, sight.destination) = after;
        sight.by_node = from == Party::Node && fault != Fault::Forwarded;
        let ingress = match from {
            Party::Pod(pod) => FIRST_IFINDEX + pod as u32,
            Party::Node if sight.by_node => 0,
            _ => UPLINK,
        };
        match fault {
            Fault::NoStamp => stamp = 0,
            Fault::StampOf(pod) => stamp = self.truth.stamps[pod],
            Fault::FormerStamp(pod) => stamp = self.former_stamps[pod],
            Fault::NobodysStamp => stamp = MAX_STAMP,
            Fault::Interface(pod) => sight.pod = pod,
            Fault::SourceOf(party) if !matches!(from, Party::Pod(_)) => {
                sight.source = self.address(party, family);
            }
            _ => {}
        }
        sight.stamp = stamp;
        self.pass(&sight, ingress)?;
        Ok(())
    }

    /// Reports an error about a packet of a talk, as its receiver would see that packet,
    /// to its sender.
    fn report(&mut self, talk: &Talk, back: bool, reporter: Party, long: bool) -> Result<(), bool> {
        let family = talk.family;
        let (client, server) = (
            self.address(talk.client, family),
            self.address(talk.server, family),
        );
        let (from, to) = if back {
            ((talk.server, server), (talk.client, client))
        } else {
            ((talk.client, client), (talk.server, server))
        };
        let quoted = Quoted {
            source: from.1,
            destination: to.1,
            ports: ports(talk, back),
            kind: kind(talk, back, Segment::Ack),
        };
        let mut sight = Sight {
            pod: 0,
            sent: true,
            source: self.address(reporter, family),
            destination: quoted.source,
            ports: (0, 0),
            kind: Kind::Error {
                quoted: Box::new(quoted),
                long,
            },
            numbers: (1, 1),
            part: Part::Whole,
            stamp: 0,
            by_node: false,
        };
        let mut ingress = UPLINK;
        if let Party::Pod(pod) = reporter {
            sight.pod = pod;
            ingress = FIRST_IFINDEX + pod as u32;
            if !self.pass(&sight, ingress)? {
                return Ok(());
            }
            sight.stamp = self.truth.stamps[pod];
        }
        if let Party::Pod(pod) = from.0 {
            sight.sent = false;
            sight.pod = pod;
            sight.by_node = reporter == Party::Node;
            ingress = if sight.by_node { 0 } else { ingress };
            self.pass(&sight, ingress)?;
        }
        Ok(())
    }

    /// Shows a packet to a hook and to the model. Returns `true` if it passed, and
    /// `Err` if they disagree.
    fn pass(&mut self, sight: &Sight, ingress: u32) -> Result<bool, bool> {
        let packet = packet(sight);
        let hook = if sight.sent {
            Hook::FromWorkload
        } else {
            Hook::ToWorkload
        };
        let context = Context {
            ifindex: FIRST_IFINDEX + sight.pod as u32,
            ingress_ifindex: ingress,
            // A workload's own packets come with whatever it has written there.
            stamp: if sight.sent { 77 } else { sight.stamp },
            has_socket: sight.by_node,
            tagged: false,
        };
        let table = self.regions[self.in_force].table();
        let Judged { case, hurried } = self.node.judge(table, &packet.bytes(), &context, hook);
        if hurried {
            self.coverage.insert(hurried_on(hook));
        }
        let verdict = Verdict::from_any_word(case.enforced).expect("every case has an answer");
        let passed = verdict.action == Action::Allow;
        let opinion = self.truth.judge(sight);
        if self.tells {
            let place = if sight.sent { "from" } else { "to" };
            writeln!(
                self.trace,
                "  {place} p{}, stamp {}: {packet}\n    {:?} {}; model: {:?}",
                sight.pod,
                context.stamp,
                verdict.action,
                verdict.reason.name(),
                opinion.answer
            )
            .expect("a string");
        }
        self.packets += 1;
        self.passed += u64::from(passed);
        self.cover(sight, &opinion, passed);
        match (&opinion.answer, passed) {
            (Err(_), true) => return Err(true),
            (Ok(_), false) => match self.truth.excuse(sight, &opinion, verdict.reason) {
                Some(tolerance) => *self.tolerated.entry(tolerance).or_default() += 1,
                None => return Err(false),
            },
            _ => {}
        }
        self.truth.note(sight, &opinion, passed, verdict.reason);
        Ok(passed)
    }

    fn cover(&mut self, sight: &Sight, opinion: &Opinion, passed: bool) {
        if let (Ok(way), true) = (&opinion.answer, passed) {
            self.coverage.insert(format!("passed: {way:?}"));
        }
        let region = &self.truth.region;
        let (from, to) = (
            region.standing(sight.source),
            region.standing(sight.destination),
        );
        if let Some(ends) = region.isolation(from, to) {
            self.coverage.insert(isolation(ends, passed));
        }
    }
}

fn ports(talk: &Talk, back: bool) -> (u16, u16) {
    let (client, server) = match talk.protocol {
        Protocol::Other(_) => (0, 0),
        _ => talk.ports,
    };
    if back {
        (server, client)
    } else {
        (client, server)
    }
}

fn kind(talk: &Talk, back: bool, segment: Segment) -> Kind {
    match talk.protocol {
        Protocol::Tcp => Kind::Tcp(segment),
        Protocol::Udp => Kind::Udp,
        Protocol::Sctp => Kind::Sctp,
        Protocol::Echo => Kind::Echo { reply: back },
        Protocol::Other(number) => Kind::Other(number),
    }
}

const fn mac(pod: usize) -> Mac {
    Mac::local(9, pod as u16)
}

fn mac_number(Mac(bytes): Mac) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The frame that a hook sees, as the model describes it.
fn packet(sight: &Sight) -> Packet {
    let own = mac(sight.pod);
    let gateway = Mac::local(8, 1);
    let (from_mac, to_mac) = if sight.sent {
        (own, gateway)
    } else {
        (gateway, own)
    };
    let ends = (
        End::from(sight.source).with_mac(from_mac),
        End::from(sight.destination).with_mac(to_mac),
    );
    let described = describe(&sight.kind, ends, sight.ports, sight.numbers);
    match sight.part {
        Part::Whole => described,
        Part::First { id } => described.fragment(id.into(), 0, true),
        Part::Later { id, offset, more } => described.fragment(id.into(), offset.into(), more),
    }
}

fn describe(kind: &Kind, ends: (End, End), ports: (u16, u16), numbers: (u32, u32)) -> Packet {
    let family = if ends.0.ipv4.is_some() {
        Family::V4
    } else {
        Family::V6
    };
    match kind {
        Kind::Tcp(segment) => {
            let described = tcp()
                .from(ends.0)
                .to(ends.1)
                .sport(ports.0)
                .dport(ports.1)
                .seq(numbers.0)
                .ack_number(numbers.1);
            let described = match segment {
                Segment::Syn => described.syn(),
                Segment::SynAck => described.syn().ack(),
                Segment::Ack => described.ack(),
                Segment::Fin => described.fin().ack(),
                Segment::Rst => described.rst(),
            };
            described.erased()
        }
        Kind::Udp => udp()
            .from(ends.0)
            .to(ends.1)
            .sport(ports.0)
            .dport(ports.1)
            .payload(&[0; 16])
            .erased(),
        Kind::Sctp => sctp()
            .from(ends.0)
            .to(ends.1)
            .sport(ports.0)
            .dport(ports.1)
            .payload(&[0; 16])
            .erased(),
        Kind::Echo { reply } => {
            let request = ping(family).echo(ports.0, 1);
            let described = if *reply { request.reply() } else { request };
            described.from(ends.0).to(ends.1).payload(&[0; 16]).erased()
        }
        Kind::Other(number) => ip_protocol(*number)
            .from(ends.0)
            .to(ends.1)
            .payload(&[0; 24])
            .erased(),
        Kind::Error { quoted, long } => {
            let inner = (End::from(quoted.source), End::from(quoted.destination));
            let inner = describe(&quoted.kind, inner, quoted.ports, (1, 1));
            let error = time_exceeded(&inner).from(ends.0).to(ends.1);
            if *long {
                error.quote_length(1400).erased()
            } else {
                error.erased()
            }
        }
    }
}
