//! Rule hits: how often each rule of a table has decided.
//!
//! A number means one thing in one table only ([`crate::verdict::Verdict::rule`]), so
//! that a packet is counted among the counts of the very table that judged it. There are
//! two sets of counts, and the lowest bit of the revision says which is a table's. While a
//! table is published, packets are judged by it and by the one before: two revisions of
//! different parity.
//!
//! An allowed packet counts when it begins a flow, or has none; one on which a flow is
//! decided again does not. The rules of both ends count at the last hook of the node that
//! judges, each once. A denied packet counts where it is dropped, by the hook that drops it.
//!
//! Invariant, exact: what a hook has dropped for a reason that has a rule
//! ([`crate::counter::judged`]) is the sum of [`RuleCount::denied`] of that hook over all
//! numbers whose meaning is of that reason.

use crate::{
    case::{Case, mark},
    counter::Hook,
    memory::FlowMemory,
    reason::Reason,
    shared::SharedWord64,
    verdict::{Direction, MAX_RULE},
};

/// Counts of one number in one set.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RuleCount {
    /// Flows that the rule allowed.
    pub allowed: SharedWord64,
    /// Packets that it would have denied with audit policies in force.
    pub audited: SharedWord64,
    /// Packets that it denied, by the [`Hook`] that dropped them.
    pub denied: [SharedWord64; HOOKS],
}

/// Number of hooks, a power of two.
const HOOKS: usize = Hook::ALL.len();

const _: () = assert!(size_of::<RuleCount>() == 48 && HOOKS.is_power_of_two());

/// Sets of counts: one for each parity of revisions.
pub const SETS: u32 = 2;

/// Index of a number's counts under a revision, of which the low word suffices.
#[inline(always)]
pub const fn place(number: u32, revision: u32) -> u32 {
    number * SETS + revision % SETS
}

/// Returns the direction of a packet that a hook drops, for its record and for its counter.
/// A denial of policy has that of the rule; any other is the hook's own, whatever policy was
/// asked before.
pub const fn dropped_direction(hook: Hook, reason: Reason, of_rule: Direction) -> Direction {
    match (reason, hook) {
        (Reason::Rule | Reason::Isolated, _) => of_rule,
        (_, Hook::FromWorkload | Hook::UplinkEgress) => Direction::Egress,
        (_, Hook::ToWorkload | Hook::UplinkIngress) => Direction::Ingress,
    }
}

/// Counts what policy has said of a packet on a hook.
#[inline(always)]
pub fn count<M: FlowMemory>(memory: &M, case: &Case, hook: Hook) {
    let counts = |word: u32| {
        // Number 0 is no rule's, and has no counts.
        let number = word & MAX_RULE;
        match number {
            0 => None,
            _ => memory.rule_count(place(number, case.revision)),
        }
    };
    let hit = |word: u32| {
        if let Some(count) = counts(word) {
            memory.add(&count.allowed, 1);
        }
    };
    if !case.is_allowed() {
        if let Some(count) = counts(case.enforced) {
            memory.add(&count.denied[hook as usize & (HOOKS - 1)], 1);
        }
        return;
    }
    if !case.is(mark::RENEWED) {
        if case.is(mark::COUNTED) {
            hit(case.enforced);
        }
        hit(case.second);
    }
    if case.is_audited()
        && let Some(count) = counts(case.audited)
    {
        memory.add(&count.audited, 1);
    }
}
