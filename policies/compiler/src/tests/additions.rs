//! A table that is given entries is as good as one that is made anew.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_inventory::selectors::{LabelSelector, Labels};
use cofferdam_inventory::{
    ClusterNetworkPolicy, Mode, Namespace, ObjectName, Tier, WorkloadSelector,
};
use cofferdam_verdict::table::PAGE_BYTES;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::again::{Edit, address, apply, edit, pod};
use super::*;

/// So few that owned slots and those of outside addresses meet.
const FEW: Limits = Limits {
    slots: 40,
    ..LIMITS
};

/// Outcome of following one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Entries were enough, and the words are those of a table made anew.
    SameWords,
    /// Entries were enough, and atoms of own addresses have other numbers.
    OtherNumbers,
    /// One of the entries is a local workload's.
    Local,
    /// Nothing had to be written.
    NoEntry,
    /// Somebody elsewhere has gone, or is another one now.
    InPlace,
    NewTable,
}

/// A desired state, the table in force, and what it was made of.
struct InForce {
    inventory: Inventory,
    local: BTreeSet<ObjectName>,
    plan: SlotPlan,
    compiled: Compiled,
}

fn snapshot<'a>(
    inventory: &'a Inventory,
    slots: &'a SlotPlan,
    local: &'a BTreeSet<ObjectName>,
) -> Snapshot<'a> {
    Snapshot {
        inventory,
        slots,
        local,
        own_node: Some("m0"),
        limits: FEW,
        revision: 7,
    }
}

impl InForce {
    fn new(inventory: Inventory, local: BTreeSet<ObjectName>) -> Option<Self> {
        let plan = SlotPlan::assign(&inventory);
        let compiled = Compiler::default().compile(&snapshot(&inventory, &plan, &local));
        Some(Self {
            compiled: compiled.ok()?,
            inventory,
            local,
            plan,
        })
    }

    /// Puts the next desired state in force, by entries where they are enough.
    fn follow(&mut self, inventory: Inventory, local: BTreeSet<ObjectName>) -> Vec<Outcome> {
        let mut plan = self.plan.in_place(&inventory);
        let rested = plan.resting() > self.plan.resting();
        let next = snapshot(&inventory, &plan, &local);
        let entries = (self.compiled).additions(&self.inventory, &self.local, &next);
        let anew = match entries {
            Some(_) => Compiler::default().compile(&next),
            None => {
                plan = self.plan.successor(&inventory);
                Compiler::default().compile(&snapshot(&inventory, &plan, &local))
            }
        };
        let outcomes = match (entries, anew) {
            (None, Err(_)) => return vec![Outcome::NewTable],
            (None, Ok(anew)) => {
                self.compiled = anew;
                vec![Outcome::NewTable]
            }
            (Some(entries), anew) => {
                let anew = anew.expect("what fits into a table fits into the next");
                let has = |entry: &SlotEntry| self.compiled.profile(entry.slot).is_some();
                assert!(!entries.iter().any(has), "an entry is written once");
                for entry in &entries {
                    assert!(self.compiled.fill(*entry));
                    assert!(!self.compiled.fill(*entry), "an entry is written once");
                }
                let mut outcomes = match plan.resting() {
                    0 => compare(&self.compiled, &anew, &plan),
                    _ => {
                        says_the_same(&self.compiled, &anew, &plan);
                        rested.then_some(Outcome::InPlace).into_iter().collect()
                    }
                };
                let kinds = (entries.iter())
                    .map(|entry| self.compiled.profile(entry.slot).expect("filled").kind);
                if kinds
                    .into_iter()
                    .any(|kind| kind == SlotKind::LocalWorkload)
                {
                    outcomes.push(Outcome::Local);
                }
                if entries.is_empty() && !rested {
                    outcomes = vec![Outcome::NoEntry];
                }
                outcomes
            }
        };
        (self.inventory, self.local, self.plan) = (inventory, local, plan);
        outcomes
    }
}

/// Both tables say the same of every two slots; and with the same profiles their words
/// are the same.
fn compare(filled: &Compiled, anew: &Compiled, plan: &SlotPlan) -> Vec<Outcome> {
    assert_eq!(filled.rules, anew.rules);
    assert_eq!(filled.outside, anew.outside);
    let owned = plan.slots().map(|slot| slot.number);
    let outside = anew.outside.iter().map(|set| set.slot);
    let slots: BTreeSet<u32> = owned.chain(outside).collect();
    let mut pairs = Vec::new();
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    for slot in 0..FEW.slots {
        let of = |compiled: &Compiled| compiled.profile(slot);
        let (one, other) = (of(filled), of(anew));
        assert_eq!(one.is_some(), slots.contains(&slot), "{slot}");
        let Some((one, other)) = one.zip(other) else {
            assert_eq!(one, other, "{slot}");
            continue;
        };
        assert_eq!(one.kind, other.kind, "{slot}");
        assert_eq!(one.class, other.class, "{slot}");
        let atom = *numbers.entry(one.atom).or_insert(other.atom);
        assert_eq!(atom, other.atom, "atoms differ in their numbers alone");
        pairs.push((one, other));
    }
    for (subject, of_subject) in &pairs {
        for (peer, of_peer) in &pairs {
            for direction in [Direction::Ingress, Direction::Egress] {
                for port in 79..83 {
                    let key = row_key(6, port);
                    assert_eq!(
                        filled.decide(*subject, direction, *peer, key),
                        anew.decide(*of_subject, direction, *of_peer, key)
                    );
                }
            }
        }
    }
    // Under other numbers of atoms other blocks may happen to be the same.
    let used = |compiled: &Compiled, besides: &[&str]| -> Vec<Usage> {
        let usage = compiled.usage.iter();
        (usage
            .filter(|usage| !besides.contains(&usage.table))
            .copied())
        .collect()
    };
    if pairs.iter().any(|(one, other)| one != other) {
        let blocks = ["groups", "blocks", "table_pages"];
        assert_eq!(used(filled, &blocks), used(anew, &blocks));
        return vec![Outcome::OtherNumbers];
    }
    assert_eq!(filled.usage, anew.usage);
    assert_eq!(filled.words, anew.words);
    vec![Outcome::SameWords]
}

/// Returns what a verdict says, whatever the numbers of rules are.
fn meaning(compiled: &Compiled, verdict: Verdict) -> (Action, Reason, Vec<RuleKey>) {
    let rules = &compiled.rules;
    let keys = match rules.rule(verdict.rule) {
        Some(rule) => vec![rule.key.clone()],
        None => (rules.isolated_by(verdict.rule))
            .map(|(_, rule)| rule.key.clone())
            .collect(),
    };
    (verdict.action, verdict.reason, keys)
}

/// Both tables say the same of every two slots that some address leads to, by the same rules.
fn says_the_same(placed: &Compiled, anew: &Compiled, plan: &SlotPlan) {
    assert_eq!(placed.outside, anew.outside);
    let owned = plan.slots().map(|slot| slot.number);
    let outside = anew.outside.iter().map(|set| set.slot);
    let slots = owned.chain(outside).map(|slot| {
        let both = placed.profile(slot).zip(anew.profile(slot));
        both.unwrap_or_else(|| panic!("slot {slot} has an entry"))
    });
    let slots: Vec<(Profile, Profile)> = slots.collect();
    for (subject, of_subject) in &slots {
        assert_eq!(subject.kind, of_subject.kind);
        let is_subject = matches!(
            subject.kind,
            SlotKind::LocalWorkload | SlotKind::RemoteWorkload
        );
        for (peer, of_peer) in slots.iter().filter(|_| is_subject) {
            for direction in [Direction::Ingress, Direction::Egress] {
                // Of workloads elsewhere this node asks what they take in from its own.
                if subject.kind == SlotKind::RemoteWorkload
                    && (direction == Direction::Egress || peer.kind != SlotKind::LocalWorkload)
                {
                    continue;
                }
                for port in 79..83 {
                    let key = row_key(6, port);
                    let one = placed.decide(*subject, direction, *peer, key);
                    let other = anew.decide(*of_subject, direction, *of_peer, key);
                    let (one, other) = one.zip(other).expect("both tables decide");
                    for (one, other) in
                        [(one.enforced, other.enforced), (one.audited, other.audited)]
                    {
                        assert_eq!(meaning(placed, one), meaning(anew, other));
                    }
                }
            }
        }
    }
}

/// One change of the desired state.
#[derive(Debug, Clone)]
enum Round {
    Any(Vec<Edit>),
    /// Workloads like others: like which, with which address, and whether here.
    Twins(Vec<(prop::sample::Index, u8, bool)>),
    /// Workloads that are elsewhere go, or become like another one.
    Turns(Vec<(prop::sample::Index, Option<prop::sample::Index>)>),
    /// The address of one elsewhere is a new one's, which is like another.
    Reused(prop::sample::Index, prop::sample::Index),
}

/// A world, and rounds of changes of which most are workloads that come.
fn worlds() -> impl Strategy<Value = (Vec<Edit>, Vec<Round>)> {
    let index = any::<prop::sample::Index>;
    let twin = (index(), 0..16u8, any::<bool>());
    let turn = (index(), prop::option::of(index()));
    let round = prop_oneof![
        3 => prop::collection::vec(turn, 1..3).prop_map(Round::Turns),
        1 => (index(), index()).prop_map(|(whose, like)| Round::Reused(whose, like)),
        6 => prop::collection::vec(twin, 1..3).prop_map(Round::Twins),
        2 => prop::collection::vec(pod(), 1..3).prop_map(Round::Any),
        1 => prop::collection::vec(edit(), 1..3).prop_map(Round::Any),
    ];
    (
        prop::collection::vec(edit(), 8..40),
        prop::collection::vec(round, 1..12),
    )
}

/// A workload that is not of this node.
fn elsewhere(
    inventory: &Inventory,
    local: &BTreeSet<ObjectName>,
    which: prop::sample::Index,
) -> Option<Workload> {
    let workloads = inventory.workloads().values();
    let remote: Vec<&Workload> = workloads
        .filter(|one| !local.contains(&one.name) && !one.own_addresses().is_empty())
        .collect();
    (!remote.is_empty()).then(|| (*which.get(&remote)).clone())
}

fn play((world, rounds): (Vec<Edit>, Vec<Round>)) -> Vec<Outcome> {
    let (mut inventory, mut local) = (Inventory::default(), BTreeSet::new());
    for edit in world {
        apply(edit, &mut inventory, &mut local);
    }
    let Some(mut in_force) = InForce::new(inventory.clone(), local.clone()) else {
        return Vec::new();
    };
    let mut outcomes = Vec::new();
    for (number, round) in rounds.into_iter().enumerate() {
        match round {
            Round::Any(edits) => {
                for edit in edits {
                    apply(edit, &mut inventory, &mut local);
                }
            }
            Round::Turns(turns) => {
                for (which, like) in turns {
                    let Some(mut workload) = elsewhere(&inventory, &local, which) else {
                        continue;
                    };
                    inventory.remove_workload(&workload.name);
                    if let Some(like) = like.and_then(|like| elsewhere(&inventory, &local, like)) {
                        (workload.labels, workload.ports) = (like.labels, like.ports);
                        inventory
                            .set_workload(workload)
                            .expect("it had its address");
                    }
                }
            }
            Round::Reused(whose, like) => {
                let both =
                    elsewhere(&inventory, &local, whose).zip(elsewhere(&inventory, &local, like));
                if let Some((before, mut new)) = both {
                    inventory.remove_workload(&before.name);
                    new.name.name = format!("r{number}").into();
                    new.addresses = before.addresses;
                    inventory.set_workload(new).expect("it was just left");
                }
            }
            Round::Twins(twins) => {
                for (index, (like, owned, is_local)) in twins.into_iter().enumerate() {
                    let count = inventory.workloads().len();
                    if count == 0 {
                        continue;
                    }
                    let mut twin = (inventory.workloads().values())
                        .nth(like.index(count))
                        .expect("there are as many")
                        .clone();
                    twin.name.name = format!("t{number}-{index}").into();
                    twin.addresses = vec![address(owned)];
                    let name = twin.name.clone();
                    if inventory.set_workload(twin).is_ok() && is_local {
                        local.insert(name);
                    }
                }
            }
        }
        outcomes.extend(in_force.follow(inventory.clone(), local.clone()));
    }
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn entries_make_what_a_new_table_would_be(world in worlds()) {
        play(world);
    }
}

/// Always the same worlds, so that this says something of the generator alone.
#[test]
fn the_worlds_have_additions_of_every_kind() {
    const WORLDS: usize = 400;
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    for _ in 0..WORLDS {
        let world = worlds().new_tree(&mut runner).unwrap().current();
        for outcome in play(world) {
            *counts.entry(outcome).or_default() += 1;
        }
    }
    println!("{counts:?}");
    for (outcome, least) in [
        (Outcome::SameWords, 100),
        (Outcome::Local, 100),
        (Outcome::NoEntry, 100),
        (Outcome::InPlace, 100),
        (Outcome::NewTable, 100),
    ] {
        assert!(counts.get(&outcome) >= Some(&least), "{counts:?}");
    }
}

const POLICY: &str =
    "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}";

/// The world of [`PODS`] with one policy, everything local but `y/c`, in force.
fn in_force() -> InForce {
    let inventory = inventory(&[policy("p", POLICY)]);
    let local = ["a", "b"].map(|name| ObjectName::new("x", name));
    InForce::new(inventory, local.into()).expect("it fits")
}

/// A workload like `x/a`, with another name and address.
fn like_a(in_force: &InForce, name: &str, address: &str) -> Workload {
    let mut workload = in_force.inventory.workloads()[&ObjectName::new("x", "a")].clone();
    workload.name = ObjectName::new("x", name);
    workload.addresses = vec![address.parse().unwrap()];
    workload
}

#[test]
fn only_workloads_that_come_need_no_new_table() {
    type Change = fn(&mut Inventory, &mut BTreeSet<ObjectName>);
    let remote = |name: &str| ObjectName::new("x", name);
    let new: [(&str, Change); 12] = [
        ("a policy", |inventory, _| {
            inventory.remove_policy(&ObjectName::new("x", "p"));
        }),
        ("labels of a namespace", |inventory, _| {
            let labels: Labels = [("team", "blue")].into_iter().collect();
            inventory.set_namespace("x", &labels);
        }),
        ("a namespace that goes on audit", |inventory, _| {
            let namespace = Namespace {
                enforcement: Mode::Audit,
                ..inventory.namespaces()["x"].clone()
            };
            inventory.set_namespace("x", namespace);
        }),
        ("a node that goes on audit", |inventory, _| {
            inventory.set_enforcement(Mode::Audit);
        }),
        ("labels of a workload", |inventory, _| {
            let mut b = inventory.workloads()[&ObjectName::new("x", "b")].clone();
            b.labels = [("app", "c")].into_iter().collect();
            inventory.set_workload(b).unwrap();
        }),
        ("a workload of this node less", |inventory, _| {
            inventory.remove_workload(&ObjectName::new("x", "b"));
        }),
        (
            "an address that a workload of this node leaves to another",
            |inventory, _| {
                let b = inventory
                    .remove_workload(&ObjectName::new("x", "b"))
                    .unwrap();
                let mut next = (*b).clone();
                next.name = ObjectName::new("x", "next");
                inventory.set_workload(next).unwrap();
            },
        ),
        ("a workload that comes to this node", |_, local| {
            local.insert(ObjectName::new("x", "remote"));
        }),
        ("a workload that leaves this node", |_, local| {
            local.remove(&ObjectName::new("x", "b"));
        }),
        ("labels of a node", |inventory, _| {
            let mut node = inventory.nodes()["n2"].clone();
            node.labels = [("zone", "z")].into_iter().collect();
            inventory.set_node("n2", node).unwrap();
        }),
        ("a policy of the cluster", |inventory, _| {
            inventory.set_cluster_policy(ClusterNetworkPolicy {
                name: "c".into(),
                place: inventory.policies()[&ObjectName::new("x", "p")]
                    .place
                    .clone(),
                mode: Mode::Enforce,
                tier: Tier::Admin,
                priority: 1,
                subject: WorkloadSelector {
                    namespaces: LabelSelector::default(),
                    workloads: LabelSelector::default(),
                },
                ingress: Vec::new(),
                egress: Vec::new(),
            });
        }),
        ("another policy", |inventory, _| {
            let mut policy = inventory.policies()[&ObjectName::new("x", "p")].clone();
            policy.name = ObjectName::new("x", "q");
            inventory.set_policy(policy);
        }),
    ];
    for (what, change) in new {
        let mut in_force = in_force();
        let mut inventory = in_force.inventory.clone();
        let mut local = in_force.local.clone();
        let first = like_a(&in_force, "remote", "10.0.0.70");
        inventory.set_workload(first).unwrap();
        // Nobody like it is elsewhere yet.
        assert_eq!(
            in_force.follow(inventory.clone(), local.clone()),
            [Outcome::NewTable]
        );
        let second = like_a(&in_force, "second", "10.0.0.71");
        inventory.set_workload(second).unwrap();
        let third = like_a(&in_force, "third", "10.0.0.72");
        inventory.set_workload(third).unwrap();
        local.insert(remote("third"));
        assert_eq!(
            in_force.follow(inventory.clone(), local.clone()),
            [Outcome::SameWords, Outcome::Local]
        );
        // Beside something that changes, a workload that comes is no addition.
        for with_more in [false, true] {
            let (mut inventory, mut local) = (inventory.clone(), local.clone());
            if with_more {
                let more = like_a(&in_force, "more", "10.0.0.73");
                inventory.set_workload(more).unwrap();
            }
            change(&mut inventory, &mut local);
            let plan = in_force.plan.in_place(&inventory);
            let next = snapshot(&inventory, &plan, &local);
            let additions =
                (in_force.compiled).additions(&in_force.inventory, &in_force.local, &next);
            assert_eq!(additions, None, "{what}");
        }
    }
}

#[test]
fn an_address_elsewhere_that_turns_goes_to_an_entry_of_its_own() {
    let mut in_force = in_force();
    let (mut inventory, local) = (in_force.inventory.clone(), in_force.local.clone());
    let mut like_b = like_a(&in_force, "like-b", "10.0.0.71");
    like_b.labels = inventory.workloads()[&ObjectName::new("x", "b")]
        .labels
        .clone();
    for workload in [like_a(&in_force, "like-a", "10.0.0.70"), like_b.clone()] {
        inventory.set_workload(workload).unwrap();
    }
    let outcome = in_force.follow(inventory.clone(), local.clone());
    assert_eq!(outcome, [Outcome::NewTable]);
    let of = |in_force: &InForce| {
        let slot = in_force.plan.of("10.0.0.70".parse().unwrap()).unwrap();
        (slot, in_force.compiled.profile(slot).unwrap())
    };
    let (slot, before) = of(&in_force);
    // Another name, the labels of another: each time another slot.
    for name in ["like-a", "next"] {
        inventory.remove_workload(&ObjectName::new("x", "like-a"));
        like_b.name = ObjectName::new("x", name);
        like_b.addresses = vec!["10.0.0.70".parse().unwrap()];
        inventory.set_workload(like_b.clone()).unwrap();
        let outcome = in_force.follow(inventory.clone(), local.clone());
        assert_eq!(outcome, [Outcome::InPlace]);
        let (now, profile) = of(&in_force);
        assert!(now != slot && profile != before, "{name}");
        assert_eq!(in_force.compiled.profile(slot), Some(before));
    }
    // It goes: nothing leads to its slot.
    inventory.remove_workload(&like_b.name);
    assert_eq!(in_force.follow(inventory, local), [Outcome::InPlace]);
    assert_eq!(in_force.plan.resting(), 3);
}

#[test]
fn a_workload_that_comes_before_all_others_moves_no_atom() {
    let mut in_force = in_force();
    let (mut inventory, mut local) = (in_force.inventory.clone(), in_force.local.clone());
    let mut like_b = like_a(&in_force, "first", "10.0.0.0");
    let b = &inventory.workloads()[&ObjectName::new("x", "b")];
    (like_b.labels, like_b.ports) = (b.labels.clone(), b.ports.clone());
    inventory.set_workload(like_b).unwrap();
    local.insert(ObjectName::new("x", "first"));
    assert_eq!(
        in_force.follow(inventory, local),
        [Outcome::SameWords, Outcome::Local]
    );
}

#[test]
fn what_does_not_fit_into_a_new_table_does_not_fit_into_this_one() {
    let mut in_force = in_force();
    let (mut inventory, mut local) = (in_force.inventory.clone(), in_force.local.clone());
    let mut added = 0;
    loop {
        let name = format!("more-{added}");
        let more = like_a(&in_force, &name, &format!("10.0.1.{}", 100 + added));
        inventory.set_workload(more).unwrap();
        local.insert(ObjectName::new("x", &name));
        let plan = in_force.plan.successor(&inventory);
        let next = snapshot(&inventory, &plan, &local);
        if let Err(error) = Compiler::default().compile(&next) {
            assert!(error.to_string().contains("`limits.slots`"), "{error}");
            let additions =
                (in_force.compiled).additions(&in_force.inventory, &in_force.local, &next);
            assert_eq!(additions, None);
            break;
        }
        assert_eq!(
            in_force.follow(inventory.clone(), local.clone()),
            [Outcome::SameWords, Outcome::Local]
        );
        added += 1;
    }
    // Slot 0, those that were in use, and those of both families' outside addresses.
    assert_eq!(added, FEW.slots - 1 - 6 - 2);
}

#[test]
fn what_has_no_slot_needs_no_entry() {
    let mut in_force = in_force();
    let (mut inventory, local) = (in_force.inventory.clone(), in_force.local.clone());
    let mut hosted = like_a(&in_force, "hosted", "192.0.2.1");
    hosted.host_network = true;
    inventory.set_workload(hosted).unwrap();
    let mut finished = like_a(&in_force, "finished", "10.0.0.1");
    finished.finished = true;
    inventory.set_workload(finished).unwrap();
    let labels: Labels = [("team", "blue")].into_iter().collect();
    inventory.set_namespace("z", &labels);
    assert_eq!(in_force.follow(inventory, local), [Outcome::NoEntry]);
}

#[test]
fn a_table_has_no_entries_but_its_own() {
    let mut compiled = in_force().compiled;
    let before = compiled.words.clone();
    let most = u32::try_from(PAGE_BYTES).unwrap();
    // Nothing, a workload's, an outside set's, and none of the table's.
    for slot in [0, 1, FEW.slots - 1, FEW.slots, most, u32::MAX] {
        assert!(!compiled.fill(SlotEntry { slot, profile: 1 }), "{slot}");
    }
    assert_eq!(compiled.words, before);
}
