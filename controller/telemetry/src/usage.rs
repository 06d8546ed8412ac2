//! Remembers when rules last decided anything.
//!
//! The kernel counts, and says nothing of when. Counts are looked at from time to time; what
//! has grown since the look before was hit in between.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::hits::{CountsByRule, HitKey};

/// Last hits of rules, as far as they were seen.
#[derive(Debug)]
pub struct Usage {
    since: SystemTime,
    seen: BTreeMap<HitKey, (u64, SystemTime)>,
}

impl Usage {
    /// Watches from now on. What was counted before has no time.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self {
            since: now,
            seen: BTreeMap::new(),
        }
    }

    /// Looks at the counts.
    pub fn note(&mut self, counts: &CountsByRule, now: SystemTime) {
        for (key, counts) in counts {
            if counts.hits == 0 {
                continue;
            }
            match self.seen.get_mut(key) {
                Some((hits, at)) if *hits != counts.hits => (*hits, *at) = (counts.hits, now),
                Some(_) => {}
                None => _ = self.seen.insert(key.clone(), (counts.hits, now)),
            }
        }
        // Rules that have gone, and that nobody remembers.
        self.seen.retain(|key, _| counts.contains_key(key));
    }

    /// Returns the time from which hits are watched.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Returns the time of a rule's last hit, to the time between two looks; `None` if it
    /// never had one.
    #[must_use]
    pub fn last_hit(&self, key: &HitKey) -> Option<SystemTime> {
        self.seen.get(key).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cofferdam_compiler::{PolicyKind, RuleKey};
    use cofferdam_inventory::ObjectName;
    use cofferdam_verdict::verdict::{Action, Direction};

    use super::*;
    use crate::hits::Counts;

    #[test]
    fn a_hit_is_of_the_look_at_which_the_count_has_grown() {
        let begin = SystemTime::UNIX_EPOCH;
        let at = |seconds| begin + Duration::from_secs(seconds);
        let key = |name: &str| HitKey {
            rule: RuleKey {
                kind: PolicyKind::NetworkPolicy,
                policy: ObjectName::new("x", name),
                direction: Direction::Ingress,
                index: Some(0),
            },
            action: Action::Allow,
        };
        let counts = |all: &[(&str, u64)]| -> CountsByRule {
            let counts = |hits| Counts {
                hits,
                ..Counts::default()
            };
            let all = all.iter().map(|(name, hits)| (key(name), counts(*hits)));
            all.collect()
        };
        let mut usage = Usage::new(begin);
        usage.note(&counts(&[("a", 1), ("b", 0)]), at(10));
        usage.note(&counts(&[("a", 1), ("b", 2)]), at(20));
        usage.note(&counts(&[("a", 1), ("b", 2)]), at(30));
        assert_eq!(usage.last_hit(&key("a")), Some(at(10)));
        assert_eq!(usage.last_hit(&key("b")), Some(at(20)));
        assert_eq!(usage.last_hit(&key("c")), None);
        usage.note(&counts(&[("b", 3)]), at(40));
        assert_eq!(usage.last_hit(&key("a")), None);
        assert_eq!(usage.last_hit(&key("b")), Some(at(40)));
    }
}
