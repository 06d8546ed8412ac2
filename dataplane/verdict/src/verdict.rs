//! Verdict: an action, a reason, and the rule that decided.

use crate::reason::Reason;

/// Bits of a rule number: a node has at most 2^20 − 1 rules and sets of isolating policies.
pub const RULE_BITS: u32 = 20;
/// The greatest rule number.
pub const MAX_RULE: u32 = (1 << RULE_BITS) - 1;

const REASON_SHIFT: u32 = RULE_BITS;
const ACTION_SHIFT: u32 = REASON_SHIFT + 8;

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Action {
    /// The packet goes on.
    Allow = 1,
    /// The packet is dropped.
    Deny = 2,
}

/// Direction of a packet, as its workload sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the workload.
    Ingress = 0,
    /// Away from the workload.
    Egress = 1,
}

/// An action, why, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Fate of the packet.
    pub action: Action,
    /// Reason of the action.
    pub reason: Reason,
    /// Number in the side table of rules: of the deciding rule for
    /// [`Reason::Rule`], of the set of isolating policies for
    /// [`Reason::Isolated`], else 0. At most [`MAX_RULE`].
    pub rule: u32,
}

impl Verdict {
    /// Allowed for a reason that is not a rule's.
    #[inline(always)]
    pub const fn allow(reason: Reason) -> Self {
        Self {
            action: Action::Allow,
            reason,
            rule: 0,
        }
    }

    /// Denied for a reason that is not a rule's.
    #[inline(always)]
    pub const fn deny(reason: Reason) -> Self {
        Self {
            action: Action::Deny,
            reason,
            rule: 0,
        }
    }

    /// The word that stands in rows: action, 2 bits; reason, 8; rule, 20.
    pub const fn to_word(self) -> u32 {
        (self.action as u32) << ACTION_SHIFT
            | (self.reason as u32) << REASON_SHIFT
            | self.rule & MAX_RULE
    }

    /// Reads any word that [`Verdict::to_word`] made.
    pub const fn from_any_word(word: u32) -> Option<Self> {
        let action = match word_action(word) {
            1 => Action::Allow,
            2 => Action::Deny,
            _ => return None,
        };
        match Reason::from_number(word_reason(word) as u8) {
            Some(reason) => Some(Self {
                action,
                reason,
                rule: word & MAX_RULE,
            }),
            None => None,
        }
    }

    /// The verdict's word in a row, without [`row_flag`]s, if a compiler can have written
    /// that; else, zero above all, the word of a denial for a broken table.
    #[inline(always)]
    pub const fn row_word(word: u32) -> u32 {
        const fn kind(action: Action, reason: Reason) -> u32 {
            Verdict {
                action,
                reason,
                rule: 0,
            }
            .to_word()
                >> REASON_SHIFT
        }
        const ALLOWED: u32 = kind(Action::Allow, Reason::Rule);
        const NOT_ISOLATED: u32 = kind(Action::Allow, Reason::NotIsolated);
        const DENIED: u32 = kind(Action::Deny, Reason::Rule);
        const ISOLATED: u32 = kind(Action::Deny, Reason::Isolated);
        const UNDECIDED: u32 = kind(Action::Allow, Reason::VirtualUndecided);
        const NOWHERE_JUDGED: u32 = kind(Action::Deny, Reason::VirtualUndecided);
        let word = word & !row_flag::ALL;
        match word >> REASON_SHIFT {
            ALLOWED | NOT_ISOLATED | DENIED | ISOLATED | UNDECIDED | NOWHERE_JUDGED => word,
            _ => Self::deny(Reason::TableCorrupt).to_word(),
        }
    }

    /// Reads a word of a row; see [`Verdict::row_word`].
    pub fn from_word(word: u32) -> Self {
        Self::from_any_word(Self::row_word(word)).unwrap_or(Self::deny(Reason::TableCorrupt))
    }
}

/// Bits beside a verdict's word in a row.
pub mod row_flag {
    /// The interval is a port of a Service: the verdict is about its backends, which policy
    /// is asked about again where the packet bears the address of one.
    pub const SERVICE: u32 = 1 << 31;
    /// With [`SERVICE`]: it is the backends' ingress that denies.
    pub const OF_INGRESS: u32 = 1 << 30;
    /// All of them.
    pub const ALL: u32 = SERVICE | OF_INGRESS;
}

/// The action bits of a verdict's word.
#[inline(always)]
pub const fn word_action(word: u32) -> u32 {
    word >> ACTION_SHIFT
}

/// The reason bits of a verdict's word.
#[inline(always)]
pub const fn word_reason(word: u32) -> u32 {
    word >> REASON_SHIFT & 0xff
}

/// The word of the same action and rule for another reason.
#[inline(always)]
pub(crate) const fn word_for(word: u32, reason: Reason) -> u32 {
    word & !(0xff << REASON_SHIFT) | (reason as u32) << REASON_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_of_rows_survive_the_way_to_a_word_and_back() {
        for rule in [0, 1, MAX_RULE] {
            for (action, reason) in [
                (Action::Allow, Reason::Rule),
                (Action::Deny, Reason::Rule),
                (Action::Allow, Reason::NotIsolated),
                (Action::Deny, Reason::Isolated),
                (Action::Allow, Reason::VirtualUndecided),
                (Action::Deny, Reason::VirtualUndecided),
            ] {
                let verdict = Verdict {
                    action,
                    reason,
                    rule,
                };
                assert_eq!(Verdict::from_word(verdict.to_word()), verdict);
                let flagged = verdict.to_word() | row_flag::ALL;
                assert_eq!(Verdict::from_word(flagged), verdict);
            }
        }
    }

    #[test]
    fn words_no_compiler_writes_are_denied() {
        let own_node = Verdict::allow(Reason::OwnNode).to_word();
        let isolated = Verdict::allow(Reason::Isolated).to_word();
        for word in [0, u32::MAX, 1 << 30, row_flag::ALL, own_node, isolated] {
            assert_eq!(
                Verdict::from_word(word),
                Verdict::deny(Reason::TableCorrupt),
                "{word:#x}"
            );
        }
    }
}
