//! One ledger of all counters: a test names those that move, all others must not.
//!
//! Beside what the test names, the ledger checks what always holds: a hook has
//! allowed or denied every packet it has seen, and the bytes with them.

use std::fmt::Write as _;

use cofferdam_verdict::{
    counter::{COUNTERS, Counter, Hook, judged, seen, unreported},
    reason::Reason,
    verdict::Action,
};

/// All counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    counters: Vec<Counter>,
}

/// A counter that moved, as a test names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where the packet was judged.
    pub hook: Hook,
    /// What became of it.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// How many packets.
    pub packets: u64,
}

/// `packets` allowed at `hook` for `reason`.
pub fn allowed(hook: Hook, reason: Reason, packets: u64) -> Moved {
    Moved {
        hook,
        action: Action::Allow,
        reason,
        packets,
    }
}

/// `packets` denied at `hook` for `reason`.
pub fn denied(hook: Hook, reason: Reason, packets: u64) -> Moved {
    Moved {
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
                        moved.push(Moved {
                            hook,
                            action,
                            reason,
                            packets,
                        });
                    }
                }
            }
        }
        moved
    }

    /// Seen is allowed and denied together, in packets and in bytes.
    ///
    /// # Panics
    ///
    /// When it is not.
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
        }
    }

    /// Exactly these counters moved since `before`, and nothing got lost.
    ///
    /// # Panics
    ///
    /// When others moved, or these did not; says all that moved.
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
            text.push_str("; ");
        }
        f.write_str(&text)
    }
}
