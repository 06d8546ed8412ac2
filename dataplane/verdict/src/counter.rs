//! Counters of the hooks.
//!
//! One array, indexed by hook and reason. Every packet that is judged is counted
//! twice, in two places of the code: as seen when it enters, under its verdict
//! when it leaves. The sums must agree, whatever happens in between.
//!
//! Beside that, what policy let pass and audit policies would have denied is counted
//! under the reason that they would have had.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    reason::{MAX_REASONS, Reason},
    verdict::{Action, word_action, word_reason},
};

/// Place in which packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// tc ingress of the host-side veth.
    FromWorkload = 0,
    /// tc egress of the host-side veth.
    ToWorkload = 1,
    /// XDP on an uplink.
    UplinkIngress = 2,
    /// tc egress of an interface that leads off the node.
    UplinkEgress = 3,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 4] = [
        Self::FromWorkload,
        Self::ToWorkload,
        Self::UplinkIngress,
        Self::UplinkEgress,
    ];

    /// The name in JSON and as the `hook` label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromWorkload => "from_workload",
            Self::ToWorkload => "to_workload",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
        }
    }

    /// The hook with this number; the last one for numbers that no hook has.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::FromWorkload,
            1 => Self::ToWorkload,
            2 => Self::UplinkIngress,
            _ => Self::UplinkEgress,
        }
    }
}

/// One counter.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    /// Packets; a GSO packet is one.
    pub packets: u64,
    /// Bytes of those packets from the Ethernet header on.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

/// Counters per hook: seen, then an allow and a deny for each reason; reason 0 does
/// not exist, and its deny is the count of unreported packets.
pub const PER_HOOK: u32 = 2 * MAX_REASONS;
/// Counters in all, a power of two: those of the hooks, then those of audit policies.
pub const COUNTERS: u32 = 8 * PER_HOOK;

/// Index of the first counter of audit policies.
const AUDITED: u32 = Hook::ALL.len() as u32 * PER_HOOK;
/// Counters of audit policies per hook, by reason; those of rows have lower numbers.
/// Reason 0 does not exist, and is the count of unreported packets; two reasons that no row
/// denies for are those of flows.
const AUDITED_PER_HOOK: u32 = 32;

/// Index of what a hook has seen.
#[inline(always)]
pub const fn seen(hook: Hook) -> u32 {
    hook as u32 * PER_HOOK
}

/// Index of the denied packets that a hook could not report as events.
#[inline(always)]
pub const fn unreported(hook: Hook) -> u32 {
    hook as u32 * PER_HOOK + MAX_REASONS
}

/// Index of what a hook let pass and audit policies would have denied, for a reason
/// of [`AUDIT_REASONS`].
#[inline(always)]
pub const fn audited(hook: Hook, reason: Reason) -> u32 {
    audited_index(hook, reason as u32)
}

/// Index for a verdict's word, without reading it as a verdict first.
#[inline(always)]
pub const fn audited_word(hook: Hook, word: u32) -> u32 {
    audited_index(hook, word_reason(word))
}

/// Index of the packets of [`audited`] that a hook could not report as events.
#[inline(always)]
pub const fn unreported_audit(hook: Hook) -> u32 {
    audited_index(hook, 0)
}

/// Index of the flows that have begun at a hook, were to be told of, and could not be.
#[inline(always)]
pub const fn unreported_new(hook: Hook) -> u32 {
    audited_index(hook, Reason::NotIsolated as u32)
}

/// Index of the flows that have ended, were to be told of, and could not be; the hook is not
/// known, and they are counted as [`Hook::ToWorkload`]'s.
pub const UNREPORTED_ENDED: u32 = audited_index(Hook::ToWorkload, Reason::Flow as u32);

#[inline(always)]
const fn audited_index(hook: Hook, reason: u32) -> u32 {
    AUDITED + hook as u32 * AUDITED_PER_HOOK + reason % AUDITED_PER_HOOK
}

/// The reasons that a row can deny for, and so the reasons of [`audited`].
pub const AUDIT_REASONS: [Reason; 3] = [Reason::Rule, Reason::Isolated, Reason::TableCorrupt];

const _: () = {
    assert!(AUDITED + Hook::ALL.len() as u32 * AUDITED_PER_HOOK <= COUNTERS);
    let mut i = 0;
    while i < AUDIT_REASONS.len() {
        assert!((AUDIT_REASONS[i] as u32) < AUDITED_PER_HOOK);
        i += 1;
    }
};

/// Index of what a hook allowed or denied for a reason.
#[inline(always)]
pub const fn judged(hook: Hook, action: Action, reason: Reason) -> u32 {
    let denied = (action as u32 == Action::Deny as u32) as u32;
    hook as u32 * PER_HOOK + denied * MAX_REASONS + reason as u32
}

/// Index for a verdict's word, without reading it as a verdict first.
#[inline(always)]
pub const fn judged_word(hook: Hook, word: u32) -> u32 {
    let denied = (word_action(word) != Action::Allow as u32) as u32;
    hook as u32 * PER_HOOK + denied * MAX_REASONS + word_reason(word) % MAX_REASONS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{MAX_RULE, Verdict};

    #[test]
    fn no_two_counters_share_an_index() {
        let mut taken = [false; COUNTERS as usize];
        let mut take = |index: u32| {
            assert!(
                !core::mem::replace(&mut taken[index as usize], true),
                "{index}"
            );
        };
        take(UNREPORTED_ENDED);
        for hook in Hook::ALL {
            assert_eq!(Hook::of_number(hook as u32), hook);
            take(seen(hook));
            take(unreported(hook));
            take(unreported_audit(hook));
            take(unreported_new(hook));
            for reason in AUDIT_REASONS {
                take(audited(hook, reason));
                let word = Verdict {
                    action: Action::Deny,
                    reason,
                    rule: MAX_RULE,
                }
                .to_word();
                assert_eq!(audited_word(hook, word), audited(hook, reason));
            }
            for &reason in Reason::ALL {
                take(judged(hook, Action::Allow, reason));
                take(judged(hook, Action::Deny, reason));
                for action in [Action::Allow, Action::Deny] {
                    let word = Verdict {
                        action,
                        reason,
                        rule: MAX_RULE,
                    }
                    .to_word();
                    assert_eq!(judged_word(hook, word), judged(hook, action, reason));
                }
            }
        }
    }
}
