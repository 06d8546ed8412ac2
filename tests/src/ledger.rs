//! One ledger of all counters: a test names those that move, all others must not.
//!
//! Beside what the test names, the ledger checks what always holds: a hook has
//! allowed or denied every packet it has seen, and the bytes with them; what audit
//! policies would have denied is among what was allowed.

use std::fmt::Write as _;

use cofferdam_verdict::{
    counter::{
        self, AUDIT_REASONS, COUNTERS, Counter, Hook, judged, seen, unreported, unreported_audit,
    },
    reason::Reason,
    verdict::Action,
};

/// All counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    counters: Vec<Counter>,
}

/// Verdict that a counter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// The one in force.
    Enforced,
    /// The one with audit policies in force, where only those deny.
    Audited,
}

/// A counter that moved, as a test names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Verdict that it counts.
    pub force: Force,
    /// Hook on which the packet was judged.
    pub hook: Hook,
    /// The verdict's action.
    pub action: Action,
    /// Reason of the verdict.
    pub reason: Reason,
    /// Number of packets.
    pub packets: u64,
}

/// `packets` for which `hook` came to this verdict.
pub fn decided(hook: Hook, action: Action, reason: Reason, packets: u64) -> Moved {
    Moved {
        force: Force::Enforced,
        hook,
        action,
        reason,
        packets,
    }
}

/// `packets` allowed at `hook` for `reason`.
pub fn allowed(hook: Hook, reason: Reason, packets: u64) -> Moved {
    decided(hook, Action::Allow, reason, packets)
}

/// `packets` denied at `hook` for `reason`.
pub fn denied(hook: Hook, reason: Reason, packets: u64) -> Moved {
    decided(hook, Action::Deny, reason, packets)
}

/// `packets` allowed at `hook` that audit policies would have denied for `reason`.
pub fn audited(hook: Hook, reason: Reason, packets: u64) -> Moved {
    Moved {
        force: Force::Audited,
        hook,
        action: Action::Deny,
        reason,
        packets,
    }
}

impl Ledger {
    /// A ledger of the counters as the kernel gives them, by their index.
    pub fn new(counters: Vec<Counter>) -> Self {
        assert_eq!(
            counters.len(),
            COUNTERS as usize,
            "one counter for each index"
        );
        Self { counters }
    }

    fn at(&self, index: u32) -> Counter {
        self.counters[index as usize]
    }

    /// Packets that a hook has seen.
    pub fn seen(&self, hook: Hook) -> u64 {
        self.at(seen(hook)).packets
    }

    /// Denied packets that a hook could not report.
    pub fn unreported(&self, hook: Hook) -> u64 {
        self.at(unreported(hook)).packets
    }

    /// Packets of [`Ledger::audited`] that a hook could not report.
    pub fn unreported_audit(&self, hook: Hook) -> u64 {
        self.at(unreported_audit(hook)).packets
    }

    /// Packets that a hook has let pass and that audit policies would have denied.
    pub fn audited(&self, hook: Hook) -> u64 {
        let counters = AUDIT_REASONS.map(|reason| self.at(counter::audited(hook, reason)));
        counters.iter().map(|counter| counter.packets).sum()
    }

    /// Packets that a hook has allowed or denied for a reason.
    pub fn judged(&self, hook: Hook, action: Action, reason: Reason) -> u64 {
        self.at(judged(hook, action, reason)).packets
    }

    /// Packets that a hook has allowed or denied for any reason.
    pub fn total(&self, hook: Hook, action: Action) -> u64 {
        Reason::ALL
            .iter()
            .map(|&reason| self.judged(hook, action, reason))
            .sum()
    }

    /// Every counter that moved since `before`.
    pub fn since(&self, before: &Self) -> Vec<Moved> {
        let mut moved = Vec::new();
        for hook in Hook::ALL {
            for action in [Action::Allow, Action::Deny] {
                for &reason in Reason::ALL {
                    let now = self.judged(hook, action, reason);
                    let packets = now - before.judged(hook, action, reason);
                    if packets > 0 {
                        moved.push(decided(hook, action, reason, packets));
                    }
                }
            }
            for reason in AUDIT_REASONS {
                let index = counter::audited(hook, reason);
                let packets = self.at(index).packets - before.at(index).packets;
                if packets > 0 {
                    moved.push(audited(hook, reason, packets));
                }
            }
        }
        moved
    }

    /// Seen is allowed and denied together, in packets and in bytes; no packet is both
    /// dropped and one that audit policies would have had dropped.
    ///
    /// # Panics
    ///
    /// Panics if it is not.
    pub fn assert_conserved(&self) {
        for hook in Hook::ALL {
            let mut judged_here = Counter::default();
            for action in [Action::Allow, Action::Deny] {
                for &reason in Reason::ALL {
                    let counter = self.at(judged(hook, action, reason));
                    judged_here.packets += counter.packets;
                    judged_here.bytes += counter.bytes;
                }
            }
            assert_eq!(self.at(seen(hook)), judged_here, "{}: {self}", hook.name());
            let allowed = self.total(hook, Action::Allow);
            assert!(self.audited(hook) <= allowed, "{}: {self}", hook.name());
        }
    }

    /// Exactly these counters moved since `before`, and nothing got lost.
    ///
    /// # Panics
    ///
    /// Panics if others moved, or these did not; says all that moved.
    pub fn assert_moved(&self, before: &Self, expected: &[Moved], about: &str) {
        self.assert_conserved();
        let moved = self.since(before);
        let unexpected = moved.iter().any(|counter| !expected.contains(counter));
        let missing = expected.iter().any(|counter| !moved.contains(counter));
        assert!(
            !unexpected && !missing,
            "{about}: expected {expected:?}, moved {moved:?}"
        );
    }
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for hook in Hook::ALL {
            write!(text, "{} seen {}", hook.name(), self.seen(hook))?;
            for action in [Action::Allow, Action::Deny] {
                for &reason in Reason::ALL {
                    let packets = self.judged(hook, action, reason);
                    if packets > 0 {
                        write!(text, ", {action:?} {} {packets}", reason.name())?;
                    }
                }
            }
            let audited = self.audited(hook);
            if audited > 0 {
                write!(text, ", Audited {audited}")?;
            }
            text.push_str("; ");
        }
        f.write_str(&text)
    }
}
