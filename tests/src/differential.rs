//! Three roads to one verdict: the loaded programs, the same code over the same
//! memory in user space, and the oracle from the documents alone.
//!
//! A run goes through worlds of random policies, and asks all three about random
//! packets of each: of every shape that a right packet can have, and of every shape
//! that is wrong in one place. What the oracle cannot know, as it has never seen a
//! packet, [`shapes`] expect from the threat model alone.
//!
//! Questions are probes: they count nothing and open no flow, so that packets do
//! not depend on each other and any of them can be asked again by its seed.
//!
//! Invariant: a run that could not have noticed a mistake is no run. What occurred
//! is counted ([`Coverage`]), and what must occur is named.

mod coverage;
mod shapes;
mod trial;

use std::{collections::BTreeSet, fmt, time::Instant};

use cofferdam_compiler::{Compiled, PolicyKind, RuleKey};
use cofferdam_oracle::{self as oracle, Judgement, Oracle, RuleName, Side};
use cofferdam_verdict::{
    counter::Hook,
    door,
    judge::Case,
    reason::Reason,
    slices::SliceFrame,
    verdict::{Action, Direction, Verdict},
};
use fastrand::Rng;

use crate::{
    firewall::{Firewall, Pod},
    generate,
    world::{Error, Wiring, World},
};

pub use coverage::Coverage;
use shapes::{Expected, Shaped};
use trial::Trial;

/// The world of all runs: the pods of [`generate::pods`], routed, and an outside.
///
/// # Errors
///
/// Fails if the kernel refuses it.
pub fn world() -> Result<World, Error> {
    let pods = generate::pods(&mut Rng::with_seed(0));
    World::plan(Wiring::Ptp)
        .workloads(pods.into_iter().map(|pod| pod.name))
        .outside()
        .build()
}

/// Extent of a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed of the first world; the next ones count on from it.
    pub seed: u64,
    /// Worlds of policies.
    pub worlds: u64,
    /// Packets in each.
    pub packets: u64,
    /// Time at which to stop, wherever the run is.
    pub deadline: Option<Instant>,
}

/// Outcome of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Worlds gone through.
    pub worlds: u64,
    /// Packets asked about.
    pub packets: u64,
    /// Cases that occurred.
    pub coverage: Coverage,
    /// Worlds in which the roads came to different verdicts; each was left at the
    /// first.
    pub disagreements: Vec<Disagreement>,
}

impl Outcome {
    /// Adds what a later run came to.
    pub fn join(&mut self, later: Self) {
        self.worlds += later.worlds;
        self.packets += later.packets;
        self.coverage.join(later.coverage);
        self.disagreements.extend(later.disagreements);
    }
}

/// Two roads came to different verdicts.
#[derive(Debug)]
pub struct Disagreement {
    /// The seed of the world.
    pub seed: u64,
    /// Number of the packet in its world, from 0.
    pub packet: u64,
    /// Verdicts about it, and the roads that came to them.
    pub said: String,
    /// The pods on the node, as they were generated.
    pub pods: String,
    /// All other documents.
    pub documents: String,
    /// A program let pass what the oracle denies.
    pub leaked: bool,
    /// A program denied what the oracle allows.
    pub lost: bool,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            packet,
            said,
            pods,
            documents,
            ..
        } = self;
        write!(
            f,
            "seed {seed}, packet {packet}: {said}\n{pods}\n{documents}"
        )
    }
}

/// Asks all roads. The caller is in the node's namespace of `world`.
pub fn run(firewall: &mut Firewall, world: &World, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let is_late = || plan.deadline.is_some_and(|end| Instant::now() >= end);
    for seed in (plan.seed..).take(plan.worlds as usize) {
        if is_late() {
            break;
        }
        go_through(firewall, world, plan, seed, &mut outcome);
        outcome.worlds += 1;
    }
    outcome
}

/// Result of the comparison of both ways in.
#[derive(Debug, Default)]
pub struct EarlyOutcome {
    /// Packets to workloads of the node that passed the uplink.
    pub passed: u64,
    /// Packets that were dropped there.
    pub dropped: u64,
    /// Packets that were dropped there, and that the workload's hook lets pass.
    pub lost: Vec<String>,
}

/// Gives packets that come in by the uplink to the program that drops early, and asks the
/// workload's hook about the same. The caller is in the node's namespace of `world`, and has
/// loaded the program.
///
/// # Panics
///
/// Panics if the kernel refuses a frame.
pub fn run_early(firewall: &mut Firewall, world: &World, plan: &Plan) -> EarlyOutcome {
    let mut outcome = EarlyOutcome::default();
    for seed in (plan.seed..).take(plan.worlds as usize) {
        let mut rng = Rng::with_seed(seed);
        let pods: Vec<Pod> = generate::pods(&mut rng);
        let documents = generate::documents(&mut rng);
        firewall.enforce(world, &pods, &documents);
        for _ in 0..plan.packets {
            let trial = Trial::random(&mut rng, world);
            let shaped = shapes::random(&mut rng, &trial);
            let Some((program, context)) = trial.by_uplink() else {
                continue;
            };
            let passes = firewall.kernel().test_run_xdp(&shaped.frame);
            if passes.unwrap_or_else(|error| panic!("{error}")) {
                outcome.passed += 1;
                continue;
            }
            outcome.dropped += 1;
            let frame = SliceFrame {
                bytes: &shaped.frame,
                gso: false,
            };
            let mut case = Case::blank(Hook::UplinkIngress, 0);
            if door::refuses(&firewall.kernel().memory(), &frame, &mut case) {
                // The interface drops a workload's address anyway, signalling too.
                continue;
            }
            let [verdict, _] = firewall.ask(program, &shaped.frame, &context);
            if verdict.action != Action::Deny {
                let Shaped { shape, text, .. } = shaped;
                let said = format!("seed {seed}: {shape}: {text}: {verdict:?}\n{documents}");
                outcome.lost.push(said);
            }
        }
    }
    outcome
}

/// One world of policies, up to the first disagreement.
fn go_through(
    firewall: &mut Firewall,
    world: &World,
    plan: &Plan,
    seed: u64,
    outcome: &mut Outcome,
) {
    let mut rng = Rng::with_seed(seed);
    let pods: Vec<Pod> = generate::pods(&mut rng);
    let documents = generate::documents(&mut rng);
    outcome.coverage.see_documents(&documents);
    firewall.enforce(world, &pods, &documents);
    let oracle = firewall.oracle();
    for packet in 0..plan.packets {
        let trial = Trial::random(&mut rng, world);
        let shaped = shapes::random(&mut rng, &trial);
        outcome.packets += 1;
        let agreed = agree(firewall, &oracle, &trial, &shaped, &mut outcome.coverage);
        if let Err(Difference {
            said,
            loaded,
            expected,
        }) = agreed
        {
            outcome.disagreements.push(Disagreement {
                seed,
                packet,
                said,
                pods: format!("{pods:?}"),
                documents,
                leaked: (loaded, expected) == (Action::Allow, Some(Action::Deny)),
                lost: (loaded, expected) == (Action::Deny, Some(Action::Allow)),
            });
            return;
        }
    }
}

/// Difference between the roads.
struct Difference {
    said: String,
    /// The loaded program's action.
    loaded: Action,
    /// The one that it must come to, where anything is claimed of that.
    expected: Option<Action>,
}

/// Judges a packet by all roads, hook by hook.
fn agree(
    firewall: &mut Firewall,
    oracle: &Oracle,
    trial: &Trial<'_>,
    shaped: &Shaped,
    coverage: &mut Coverage,
) -> Result<(), Difference> {
    coverage.see_shape(shaped.shape);
    let mut audit = Audit::default();
    for (program, context) in trial.hooks() {
        let loaded = firewall.ask(program, &shaped.frame, &context);
        let (case, _) = firewall.judge(program.hook, &shaped.frame, &context);
        let here = [case.enforced, case.audited].map(Verdict::from_any_word);
        let expected = match program.hook {
            // No stack sends to itself by its interface.
            Hook::FromWorkload if shaped.leaving == Expected::Policy && trial.is_to_itself() => {
                Expected::Verdict(Action::Deny, Reason::SelfOnWire)
            }
            Hook::FromWorkload => shaped.leaving,
            _ => shaped.arriving,
        };
        let mut is_told_elsewhere = false;
        let (expected, objection) = match expected {
            Expected::Anything => {
                // What it is about is not known, nor whose policies an audit is of.
                audit.unclear |= trial.is_to_remote();
                (None, None)
            }
            Expected::Verdict(action, reason) => {
                let is_it =
                    |verdict: &Verdict| (verdict.action, verdict.reason) == (action, reason);
                let objection = format!("to be {action:?} for {reason:?}");
                (
                    Some(action),
                    (!loaded.iter().all(is_it)).then_some(objection),
                )
            }
            Expected::Policy => {
                let Answers {
                    enforced,
                    audited,
                    is_of_remote_ingress,
                } = Answers::of(oracle, trial, shaped, program.hook);
                is_told_elsewhere = is_of_remote_ingress;
                coverage.see_sides(&enforced, &audited);
                let explained = (loaded.iter().zip([&enforced, &audited]))
                    .try_for_each(|(verdict, side)| explains(side, *verdict, firewall.compiled()));
                (Some(action(&enforced)), explained.err())
            }
        };
        audit.meet(&case, loaded, is_told_elsewhere);
        let objection = if loaded.map(Some) == here {
            objection
        } else {
            Some(format!("in user space {here:?}"))
        };
        if let Some(objection) = objection {
            let Shaped { shape, text, .. } = shaped;
            return Err(Difference {
                said: format!("{program}: {shape}: {text}: loaded {loaded:?}: {objection}"),
                loaded: loaded[0].action,
                expected,
            });
        }
        coverage.see_verdict(program.hook, loaded[0]);
    }
    audit.objection().map_or(Ok(()), |objection| {
        let Shaped { shape, text, .. } = shaped;
        Err(Difference {
            said: format!("{shape}: {text}: {objection}"),
            loaded: Action::Allow,
            expected: None,
        })
    })
}

/// Verdicts of the hooks on a packet's way, as to audit policies.
#[derive(Default)]
struct Audit {
    /// A hook drops the packet.
    dropped: bool,
    /// With audit policies in force one would.
    denied: bool,
    /// Nobody knows whether this node is to say so.
    unclear: bool,
    /// The sender's hook lets it pass without asking policy.
    unasked: bool,
    /// Hooks that say so of a packet which they let pass.
    told: u32,
}

impl Audit {
    /// Goes by another hook. What a remote workload's policies would deny, its own node
    /// tells.
    fn meet(&mut self, case: &Case, [enforced, audited]: [Verdict; 2], is_told_elsewhere: bool) {
        self.dropped |= enforced.action == Action::Deny;
        self.denied |= audited.action == Action::Deny && !is_told_elsewhere;
        self.unasked |= enforced.reason == Reason::MulticastListener;
        self.told += u32::from(case.is_audited());
    }

    /// Of a packet that passes it is said once; of one that is dropped later on it may
    /// have been. What policies of its sender would do to a report of multicast groups
    /// at others' hooks is nobody's loss, and not said.
    fn objection(&self) -> Option<String> {
        let expected = match (self.dropped || self.unasked || self.unclear, self.denied) {
            (_, false) => 0..=0,
            (false, true) => 1..=1,
            (true, true) => 0..=1,
        };
        let told = self.told;
        (!expected.contains(&told)).then(|| format!("audit policies are told of {told} times"))
    }
}

/// The sides that a hook judges by, in force and with audit policies.
struct Answers {
    enforced: Side,
    audited: Side,
    /// The audit verdict is that of a remote workload's ingress policies.
    is_of_remote_ingress: bool,
}

impl Answers {
    fn of(oracle: &Oracle, trial: &Trial<'_>, shaped: &Shaped, hook: Hook) -> Self {
        // What a workload sends to its own address does not leave it: where such a
        // packet arrives, it has come through a Service.
        let evaluate = |query| match hook {
            Hook::FromWorkload => oracle.evaluate(&query),
            _ => oracle.evaluate_through_service(&query),
        };
        let received = evaluate(trial.query(shaped.payload, None));
        let named = match shaped.named {
            Some(_) => &evaluate(trial.query(shaped.payload, shaped.named)),
            None => &received,
        };
        // Leaving, the sender's egress is judged, and the ingress of a workload that the
        // packet names; arriving, the receiver's ingress, and before it the egress of a
        // sender that is on this node.
        let is_denied = |side: &Side| side.action == oracle::Action::Deny;
        let side = |named: &Judgement, received: &Judgement| match hook {
            Hook::FromWorkload
                if shaped.named.is_none()
                    && trial.is_to_workload()
                    && !is_denied(&named.egress)
                    && is_denied(&received.ingress) =>
            {
                received.ingress.clone()
            }
            Hook::FromWorkload => named.egress.clone(),
            _ if trial.is_from_here() && is_denied(&named.egress) => named.egress.clone(),
            // A group is no way round what the sender may not reach.
            _ if trial.is_from_here() && is_denied(&received.egress) => received.egress.clone(),
            _ => received.ingress.clone(),
        };
        Self {
            enforced: side(&named.enforced, &received.enforced),
            audited: side(&named.audited, &received.audited),
            is_of_remote_ingress: trial.is_to_remote() && !is_denied(&named.audited.egress),
        }
    }
}

fn action(side: &Side) -> Action {
    match side.action {
        oracle::Action::Allow => Action::Allow,
        oracle::Action::Deny => Action::Deny,
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

/// The oracle's side must explain the verdict: action and reason, the deciding rule,
/// and exactly the policies that isolate.
fn explains(side: &Side, verdict: Verdict, compiled: &Compiled) -> Result<(), String> {
    let reason = match side.reason {
        oracle::Reason::SelfTraffic => Reason::SelfTraffic,
        oracle::Reason::OwnNode => Reason::OwnNode,
        oracle::Reason::NotIsolated => Reason::NotIsolated,
        oracle::Reason::Rule => Reason::Rule,
        oracle::Reason::Isolated => Reason::Isolated,
        // A hook has the side of a pod.
        oracle::Reason::NotASubject => return Err("the oracle knows of no such pod".to_owned()),
    };
    if (verdict.action, verdict.reason) != (action(side), reason) {
        return Err(format!("the oracle says {:?} for {reason:?}", side.action));
    }
    let rules = &compiled.rules;
    if verdict.reason == Reason::Rule {
        let rule = rules.rule(verdict.rule).map(|entry| rule_name(&entry.key));
        if rule != side.rule {
            return Err(format!("names {rule:?}, the oracle {:?}", side.rule));
        }
    }
    if verdict.reason == Reason::Isolated {
        let by = rules.isolated_by(verdict.rule);
        let by: BTreeSet<RuleName> = by.map(|(_, entry)| rule_name(&entry.key)).collect();
        if by != side.isolating {
            let isolating = &side.isolating;
            return Err(format!("isolated by {by:?}, the oracle says {isolating:?}"));
        }
    }
    Ok(())
}
