//! Rules that decide nothing.

use std::time::{Duration, SystemTime};

use cofferdam_protocol::output::{Schema, UnusedRule, UnusedRules};
use cofferdam_telemetry::hits::HitKey;
use cofferdam_telemetry::time;
use cofferdam_verdict::verdict::Action;

use super::Reconciler;

impl Reconciler {
    /// Notes which rules have decided since the last look.
    pub(super) fn note_usage(&mut self) {
        self.usage.note(&self.enforcer.hits(), SystemTime::now());
    }

    /// Returns the rules in force that have decided nothing for so long, or never.
    pub(super) fn unused_rules(&self, since: Option<Duration>) -> UnusedRules {
        let until = since.and_then(|since| SystemTime::now().checked_sub(since));
        let rules = self.enforcer.compiled().map(|compiled| &compiled.rules);
        // Without an index it is a policy as it isolates.
        let rules = rules
            .into_iter()
            .flat_map(|rules| rules.rules())
            .filter_map(|(_, entry)| Some((entry, entry.key.index?)));
        let unused = rules.filter_map(|(entry, index)| {
            let last = [Action::Allow, Action::Deny]
                .into_iter()
                .find_map(|action| {
                    let rule = entry.key.clone();
                    self.usage.last_hit(&HitKey { rule, action })
                });
            if last.is_some_and(|last| until.is_none_or(|until| last >= until)) {
                return None;
            }
            Some(UnusedRule {
                kind: entry.key.kind.as_str().to_owned(),
                namespace: entry.key.namespace().map(str::to_owned),
                name: entry.key.policy.name.to_string(),
                direction: entry.key.direction,
                index,
                file: entry.place.file.to_string(),
                line: entry.place.line,
                last_hit: last.map(time::rfc3339),
            })
        });
        UnusedRules {
            schema: Schema,
            watched_since: time::rfc3339(self.usage.since()),
            rules: unused.collect(),
        }
    }
}
