//! Renders `/metrics`.
//!
//! The kernel counts; each page is made of what it has counted so far, and of [`Facts`] that
//! the agent has gathered. The metrics are those of [`list`]; names of hooks and reasons are
//! the verdict crate's.
//!
//! Invariant: no address, port, pod or label of a workload is in a label, unless the
//! configuration asks for it; and there are no more series of policies and workloads than the
//! budget allows.

mod ledger;
pub mod list;
mod page;
mod process;
mod timings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_answers::reach::{action_word, direction_word};
use cofferdam_protocol::output::{Capacity, EndpointState, Enforcement, RecordType, UplinkStatus};
use cofferdam_verdict::counter::{self, Counter, Hook};
use cofferdam_verdict::hits::dropped_direction;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};
use prometheus::Error;

use crate::drops::{DropKey, Drops};
use crate::hits::{CountsByRule, HitKey};
use crate::tally::{OVERFLOW, Tally, WorkloadLabel};
use ledger::Ledger;
use list::Metric;
use page::Page;
pub use timings::{CniCommand, Timings};

/// Facts about the agent at the moment of a scrape.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Time at which this was gathered.
    pub gathered: Instant,
    /// The kernel's counters, by index; none when they could not be read.
    pub counters: Vec<Counter>,
    /// Decisions of rules. Read after the counters.
    pub hits: CountsByRule,
    /// Rules and policies that the table in force knows.
    pub rules: Arc<BTreeSet<HitKey>>,
    /// Revision in force.
    pub revision: u64,
    /// Time since the table in force was published; `None` if this agent did not.
    pub table_age: Option<Duration>,
    /// Bytes of the table in force.
    pub table_bytes: u64,
    /// Time since what is in force was read back; `None` if it was not.
    pub verified_age: Option<Duration>,
    /// `true` if the newest desired state is in force.
    pub is_enforced: bool,
    /// `true` if `/readyz` says yes.
    pub is_ready: bool,
    /// Documents that count.
    pub accepted: u64,
    /// Documents that do not.
    pub rejected: u64,
    /// Endpoints by state.
    pub endpoints: Vec<(EndpointState, u64)>,
    /// Fill of everything that has a limit.
    pub capacity: Vec<Capacity>,
    /// Fill of the flow tables.
    pub flows: FlowFill,
    /// Bytes of the kernel's maps, as the kernel accounts for them.
    pub memory_bytes: u64,
    /// Interfaces of endpoints whose hooks could not be put right.
    pub hooks_out_of_place: u64,
    /// Number of times that something was found changed by others.
    pub tamper_events: u64,
    /// Endpoints that policy denies nothing just now.
    pub bypassed: u64,
    /// Packets that the guard has dropped; `None` without a guard.
    pub guard_dropped: Option<u64>,
    /// `true` if the next start of the agent will know what this one knows.
    pub is_saved: bool,
    /// Interfaces on which frames are dropped early, or are to be.
    pub uplinks: Vec<UplinkStatus>,
    /// The API server that documents come from; `None` without one.
    pub kubernetes: Option<ApiFacts>,
    /// The etcd that documents come from; `None` without one.
    pub etcd: Option<EtcdFacts>,
    /// Flow records that are lost to outputs, by output.
    pub lost_records: Vec<(String, u64)>,
    /// Mode of all policies.
    pub enforcement: Enforcement,
    /// Namespaces that are on audit by themselves.
    pub audited_namespaces: usize,
}

/// State of an API server that documents come from.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiFacts {
    /// Seconds since 1970 at which it stopped answering; 0 while it answers.
    pub away_since: u64,
    /// Objects that count, by kind.
    pub objects: Vec<(&'static str, u64)>,
}

/// State of an etcd that documents come from.
#[derive(Debug, Clone, PartialEq)]
pub struct EtcdFacts {
    /// Seconds since 1970 at which it stopped answering; 0 while it answers.
    pub away_since: u64,
    /// Seconds since 1970 from which on this node's endpoints cannot be put there; 0 while they
    /// can, `None` if none are to be.
    pub unpublished_since: Option<u64>,
    /// Keys that count, by kind.
    pub keys: Vec<(&'static str, u64)>,
}

/// Fill of the flow tables of all endpoints, as the last sweep left them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FlowFill {
    /// Flows.
    pub used: u64,
    /// Flows that they can grow to.
    pub max: u64,
    /// Fill of the fullest one, from 0 to 1.
    pub fullest: f64,
}

/// Facts that stay the same from page to page.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Version of the agent.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
}

/// Makes pages of metrics.
#[derive(Debug)]
pub struct Renderer {
    identity: Identity,
    timings: Timings,
    tally: Arc<Tally>,
    ledger: Ledger,
    drops: Drops,
    /// Packets that policies had dropped when they were last there, and are not any more.
    gone: BTreeMap<DropKey, u64>,
}

impl Renderer {
    /// Makes pages with at most so many series of policies and workloads.
    #[must_use]
    pub fn new(identity: Identity, timings: Timings, tally: Arc<Tally>, budget: usize) -> Self {
        Self {
            identity,
            timings,
            tally,
            ledger: Ledger::new(budget),
            drops: Drops::default(),
            gone: BTreeMap::new(),
        }
    }

    /// Returns a page in the text format of Prometheus. The agent has nothing newer to say than
    /// facts of this age; 0 if they are of now. `evicted` connections were closed to make room
    /// for others.
    ///
    /// # Errors
    /// When a sample has no name, which a test would have found.
    pub fn render(&mut self, facts: &Facts, age: Duration, evicted: u64) -> Result<String, Error> {
        let mut page = Page::default();
        let put = &mut page;
        packets(put, &facts.counters);
        self.drops(put, facts);
        self.hits(put, facts);
        self.tallied(put);
        state(put, facts);
        tables(put, facts);
        self.ledger.end_page();
        let folded = self.ledger.folded() as f64;
        single(put, &list::SERIES_FOLDED, folded);
        for metric in [
            &list::DROPPED_PACKETS,
            &list::RULE_HITS,
            &list::RULE_AUDIT_HITS,
        ] {
            for (kept, value) in self.ledger.overflow(metric) {
                let rest = metric.labels.iter().skip(kept.len()).map(|_| OVERFLOW);
                put.put(
                    metric,
                    kept.iter().map(String::as_str).chain(rest),
                    value as f64,
                );
            }
        }
        single(put, &list::PAGE_AGE, age.as_secs_f64());
        single(put, &list::HTTP_EVICTED, evicted as f64);
        let identity = &self.identity;
        let build = [identity.version.as_str(), identity.kernel.as_str()];
        put.put(&list::BUILD_INFO, build, 1.0);
        process::put(put);
        page.text(&self.timings.collect())
    }

    /// Dropped packets by reason and policy. Those of a policy that has gone are nobody's from
    /// then on.
    fn drops(&mut self, page: &mut Page, facts: &Facts) {
        let all = self.drops.count(&facts.counters, &facts.hits);
        self.gone.retain(|key, _| all.contains_key(key));
        let rules = facts.rules.iter().map(|key| &key.rule);
        let policies: BTreeSet<_> = rules.map(|rule| (rule.kind, &rule.policy)).collect();
        // Sums by hook are there from the start.
        let nobodys = Hook::ALL.map(|hook| DropKey {
            hook,
            reason: Reason::Isolated,
            direction: dropped_direction(hook, Reason::Malformed, Direction::Ingress),
            policy: None,
        });
        let mut nobodys = BTreeMap::from(nobodys.map(|key| (key, 0)));
        for (key, packets) in all {
            let gone = match &key.policy {
                Some((kind, name)) if policies.contains(&(*kind, name)) => {
                    self.gone.get(&key).copied().unwrap_or(0)
                }
                Some(_) => {
                    self.gone.insert(key.clone(), packets);
                    packets
                }
                None => packets,
            };
            if let Some((kind, name)) = &key.policy
                && packets > gone
            {
                let labels = [
                    key.hook.name(),
                    direction_word(key.direction),
                    key.reason.name(),
                    kind.as_str(),
                    &name.namespace,
                    &name.name,
                ];
                self.add(page, &list::DROPPED_PACKETS, &labels, packets - gone);
            }
            if gone != 0 {
                let nobodys = nobodys.entry(DropKey {
                    policy: None,
                    ..key
                });
                *nobodys.or_default() += gone;
            }
        }
        for (key, packets) in nobodys {
            let direction = direction_word(key.direction);
            let labels = [key.hook.name(), direction, key.reason.name(), "", "", ""];
            page.put(&list::DROPPED_PACKETS, labels, packets as f64);
        }
    }

    /// Puts the counts of records by workload.
    fn tallied(&mut self, page: &mut Page) {
        let tally = self.tally.clone();
        single(page, &list::PORT_SCANS, tally.scans() as f64);
        let names: Vec<&str> = tally.labels().iter().map(WorkloadLabel::name).collect();
        let metric = &list::WORKLOAD_DROPPED_PACKETS;
        let mut overflow: BTreeMap<[String; 2], u64> = BTreeMap::new();
        for (key, packets) in tally.drops() {
            let own = [direction_word(key.direction), key.reason.name()];
            let values = key.values.iter().map(String::as_str);
            let all: Vec<&str> = own.into_iter().chain(values.clone()).collect();
            if values.clone().all(|value| value == OVERFLOW) {
                *overflow.entry(own.map(str::to_owned)).or_default() += packets;
            } else if self.ledger.note(metric, &all, packets) {
                let more: Vec<(&str, &str)> = names.iter().copied().zip(values).collect();
                page.put_more(metric, own, &more, packets as f64);
            }
        }
        for (kept, packets) in self.ledger.overflow(metric) {
            if let [direction, reason] = kept {
                let own = [direction.clone(), reason.clone()];
                *overflow.entry(own).or_default() += packets;
            }
        }
        let more: Vec<(&str, &str)> = names.iter().map(|name| (*name, OVERFLOW)).collect();
        for (own, packets) in &overflow {
            let own = own.iter().map(String::as_str);
            page.put_more(metric, own, &more, *packets as f64);
        }
    }

    /// Adds a counter, in its own series or in the overflow.
    fn add(&mut self, page: &mut Page, metric: &Metric, values: &[&str], value: u64) {
        if self.ledger.note(metric, values, value) {
            page.put(metric, values.iter().copied(), value as f64);
        }
    }

    /// Hits of rules that are in force.
    fn hits(&mut self, page: &mut Page, facts: &Facts) {
        let in_force = facts.hits.iter();
        for (key, counts) in in_force.filter(|(key, _)| facts.rules.contains(key)) {
            let rule = &key.rule;
            let index = rule
                .index
                .map_or_else(String::new, |index| index.to_string());
            let labels = [
                direction_word(rule.direction),
                action_word(key.action),
                rule.kind.as_str(),
                rule.namespace().unwrap_or_default(),
                &rule.policy.name,
                &index,
            ];
            // Of thousands of rules most decide nothing: series begin with the first hit.
            if counts.hits != 0 {
                self.add(page, &list::RULE_HITS, &labels, counts.hits);
            }
            if counts.audited != 0 {
                self.add(page, &list::RULE_AUDIT_HITS, &labels, counts.audited);
            }
        }
    }
}

fn counted(counters: &[Counter], index: u32) -> Counter {
    counters.get(index as usize).copied().unwrap_or_default()
}

/// Packets and bytes by hook and reason.
fn packets(page: &mut Page, counters: &[Counter]) {
    let counted = |index| counted(counters, index);
    let [mut unreported, mut unreported_audit, mut unreported_new] = [0; 3];
    let [mut refused, mut passed] = [0, 0];
    for hook in Hook::ALL {
        let name = hook.name();
        unreported += counted(counter::unreported(hook)).packets;
        unreported_audit += counted(counter::unreported_audit(hook)).packets;
        unreported_new += counted(counter::unreported_new(hook)).packets;
        let seen = counted(counter::seen(hook));
        page.put(&list::SEEN_PACKETS, [name], seen.packets as f64);
        page.put(&list::SEEN_BYTES, [name], seen.bytes as f64);
        for &reason in Reason::ALL {
            let labels = [name, reason.name()];
            let judged = |action| counted(counter::judged(hook, action, reason));
            let (allow, deny) = (judged(Action::Allow), judged(Action::Deny));
            // A reason only ever allows or only ever denies, but for `rule`: series that cannot
            // move are left out until they do. Sums by hook are there from the start.
            if allow.packets != 0 || reason == Reason::Rule {
                page.put(&list::ALLOWED_PACKETS, labels, allow.packets as f64);
                page.put(&list::ALLOWED_BYTES, labels, allow.bytes as f64);
            }
            if deny.packets != 0 || reason == Reason::Isolated {
                page.put(&list::DROPPED_BYTES, labels, deny.bytes as f64);
            }
            if reason == Reason::FlowTableFull {
                passed += allow.packets;
                refused += deny.packets;
            }
        }
        for reason in counter::AUDIT_REASONS {
            let packets = counted(counter::audited(hook, reason)).packets;
            if packets != 0 || reason == Reason::Isolated {
                let labels = [name, reason.name()];
                page.put(&list::AUDITED_PACKETS, labels, packets as f64);
            }
        }
    }
    for (kind, packets) in [
        (RecordType::Denied, unreported),
        (RecordType::Audit, unreported_audit),
        (RecordType::New, unreported_new),
        (
            RecordType::Ended,
            counted(counter::UNREPORTED_ENDED).packets,
        ),
    ] {
        page.put(&list::UNREPORTED_PACKETS, [kind.as_str()], packets as f64);
    }
    for (action, packets) in [(Action::Allow, passed), (Action::Deny, refused)] {
        page.put(&list::FLOWS_REFUSED, [action_word(action)], packets as f64);
    }
}

/// Puts how far the desired state is in force.
fn state(page: &mut Page, facts: &Facts) {
    let age = facts.gathered.elapsed();
    let truth = |is_so: bool| f64::from(u8::from(is_so));
    single(page, &list::REVISION, facts.revision as f64);
    for (metric, before) in [
        (&list::TABLE_AGE, facts.table_age),
        (&list::VERIFIED_AGE, facts.verified_age),
    ] {
        if let Some(before) = before {
            single(page, metric, (before + age).as_secs_f64());
        }
    }
    single(page, &list::ENFORCED, truth(facts.is_enforced));
    single(page, &list::READY, truth(facts.is_ready));
    single(page, &list::STATE_SAVED, truth(facts.is_saved));
    page.put(&list::DOCUMENTS, ["accepted"], facts.accepted as f64);
    page.put(&list::DOCUMENTS, ["rejected"], facts.rejected as f64);
    for (state, count) in &facts.endpoints {
        page.put(&list::ENDPOINTS, [state.as_str()], *count as f64);
    }
    single(page, &list::ENDPOINTS_BYPASSED, facts.bypassed as f64);
    let out_of_place = facts.hooks_out_of_place as f64;
    single(page, &list::HOOKS_OUT_OF_PLACE, out_of_place);
    single(page, &list::TAMPER_EVENTS, facts.tamper_events as f64);
    for uplink in &facts.uplinks {
        let mode = uplink.mode.as_deref().unwrap_or("none");
        page.put(&list::UPLINK_MODE, [uplink.interface.as_str(), mode], 1.0);
    }
    if let Some(api) = &facts.kubernetes {
        single(page, &list::KUBERNETES_AWAY_SINCE, api.away_since as f64);
        for (kind, count) in &api.objects {
            page.put(&list::KUBERNETES_OBJECTS, [*kind], *count as f64);
        }
    }
    if let Some(etcd) = &facts.etcd {
        single(page, &list::ETCD_AWAY_SINCE, etcd.away_since as f64);
        if let Some(since) = etcd.unpublished_since {
            single(page, &list::ETCD_UNPUBLISHED_SINCE, since as f64);
        }
        for (kind, count) in &etcd.keys {
            page.put(&list::ETCD_KEYS, [*kind], *count as f64);
        }
    }
    if let Some(packets) = facts.guard_dropped {
        single(page, &list::GUARD_DROPPED_PACKETS, packets as f64);
    }
    for one in Enforcement::ALL {
        let is_this = truth(one == facts.enforcement);
        page.put(&list::ENFORCEMENT, [one.as_str()], is_this);
    }
    let audited = facts.audited_namespaces as f64;
    single(page, &list::AUDITED_NAMESPACES, audited);
    for (output, count) in &facts.lost_records {
        page.put(&list::OUTPUT_LOST_RECORDS, [output.as_str()], *count as f64);
    }
}

/// Puts how full the kernel's tables are.
fn tables(page: &mut Page, facts: &Facts) {
    for capacity in &facts.capacity {
        let table = [capacity.table.as_str()];
        page.put(&list::CAPACITY_USED, table, capacity.used as f64);
        if capacity.max != 0 {
            page.put(&list::CAPACITY_MAX, table, capacity.max as f64);
        }
    }
    single(page, &list::TABLE_BYTES, facts.table_bytes as f64);
    single(page, &list::MAP_MEMORY, facts.memory_bytes as f64);
    single(page, &list::FLOWS, facts.flows.used as f64);
    single(page, &list::FLOWS_MAX, facts.flows.max as f64);
    single(page, &list::FLOWS_FULLEST, facts.flows.fullest);
}

/// Puts a metric without labels.
fn single(page: &mut Page, metric: &Metric, value: f64) {
    page.put(metric, [], value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hits::Counts;
    use cofferdam_compiler::{PolicyKind, RuleKey};
    use cofferdam_inventory::ObjectName;

    fn facts(counters: Vec<Counter>) -> Facts {
        Facts {
            gathered: Instant::now(),
            counters,
            hits: CountsByRule::new(),
            rules: Arc::default(),
            revision: 7,
            table_age: None,
            table_bytes: 60,
            verified_age: Some(Duration::from_secs(100)),
            is_enforced: true,
            is_ready: false,
            accepted: 3,
            rejected: 1,
            endpoints: vec![(EndpointState::Enforced, 2)],
            capacity: vec![Capacity {
                table: "rows".to_owned(),
                used: 5,
                max: 0,
                bytes: 60,
            }],
            flows: FlowFill {
                used: 3,
                max: 12,
                fullest: 0.25,
            },
            memory_bytes: 4096,
            hooks_out_of_place: 0,
            tamper_events: 0,
            bypassed: 0,
            guard_dropped: None,
            is_saved: true,
            uplinks: Vec::new(),
            kubernetes: None,
            etcd: None,
            lost_records: vec![("flow_log".to_owned(), 3)],
            enforcement: Enforcement::Audit,
            audited_namespaces: 3,
        }
    }

    fn renderer(budget: usize) -> Renderer {
        let identity = Identity {
            version: "1".to_owned(),
            kernel: "6".to_owned(),
        };
        let tally = Arc::new(Tally::new(Vec::new(), 10, 0));
        Renderer::new(identity, Timings::new().unwrap(), tally, budget)
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|one| one == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn counters_have_the_names_of_hooks_and_reasons() {
        let mut counters = vec![Counter::default(); counter::COUNTERS as usize];
        let hook = Hook::ToWorkload;
        counters[counter::seen(hook) as usize].packets = 5;
        let allowed = counter::judged(hook, Action::Allow, Reason::Rule);
        counters[allowed as usize].packets = 3;
        let denied = counter::judged(hook, Action::Deny, Reason::SpoofedSource);
        counters[denied as usize] = Counter {
            packets: 2,
            bytes: 120,
        };
        let refused = counter::judged(hook, Action::Deny, Reason::FlowTableFull);
        counters[refused as usize].packets = 9;
        counters[counter::audited(hook, Reason::Isolated) as usize].packets = 4;
        counters[counter::unreported_audit(hook) as usize].packets = 6;
        counters[counter::unreported(Hook::FromWorkload) as usize].packets = 8;
        counters[counter::unreported_new(hook) as usize].packets = 10;
        counters[counter::UNREPORTED_ENDED as usize].packets = 12;
        let text = renderer(100)
            .render(&facts(counters), Duration::ZERO, 3)
            .unwrap();
        let dropped = "cofferdam_dropped_packets_total{hook=\"to_workload\",direction=\"ingress\",\
                       reason=\"spoofed_source\",policy_kind=\"\",policy_namespace=\"\",\
                       policy=\"\"} 2";
        assert_lines(
            &text,
            &[
                "cofferdam_seen_packets_total{hook=\"to_workload\"} 5",
                "cofferdam_seen_packets_total{hook=\"uplink_ingress\"} 0",
                "cofferdam_allowed_packets_total{hook=\"to_workload\",reason=\"rule\"} 3",
                dropped,
                "cofferdam_dropped_bytes_total{hook=\"to_workload\",reason=\"spoofed_source\"} 120",
                "cofferdam_audited_packets_total{hook=\"to_workload\",reason=\"isolated\"} 4",
                "cofferdam_audited_packets_total{hook=\"from_workload\",reason=\"isolated\"} 0",
                "cofferdam_unreported_packets_total{type=\"audit\"} 6",
                "cofferdam_unreported_packets_total{type=\"denied\"} 8",
                "cofferdam_unreported_packets_total{type=\"new\"} 10",
                "cofferdam_unreported_packets_total{type=\"ended\"} 12",
                "cofferdam_flows_refused_packets_total{action=\"deny\"} 9",
                "cofferdam_flows_refused_packets_total{action=\"allow\"} 0",
                "cofferdam_flows_fullest_ratio 0.25",
                "cofferdam_revision 7",
                "cofferdam_enforced 1",
                "cofferdam_ready 0",
                "cofferdam_state_saved 1",
                "cofferdam_enforcement{mode=\"enforce\"} 0",
                "cofferdam_enforcement{mode=\"audit\"} 1",
                "cofferdam_audited_namespaces 3",
                "cofferdam_output_lost_records_total{output=\"flow_log\"} 3",
                "cofferdam_documents{state=\"rejected\"} 1",
                "cofferdam_endpoints{state=\"enforced\"} 2",
                "cofferdam_capacity_used{table=\"rows\"} 5",
                "cofferdam_reconcile_duration_seconds_count 0",
                "cofferdam_http_evicted_connections_total 3",
                "cofferdam_build_info{version=\"1\",kernel=\"6\"} 1",
            ],
        );
        let age = text.lines().find_map(|line| {
            let value = line.strip_prefix("cofferdam_verified_age_seconds ")?;
            value.parse::<f64>().ok()
        });
        assert!((100.0..110.0).contains(&age.unwrap()), "{age:?}");
    }

    #[test]
    fn each_sample_is_of_the_list_and_has_its_type_and_labels() {
        let text = renderer(100)
            .render(&facts(Vec::new()), Duration::ZERO, 0)
            .unwrap();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let metric = list::ALL.iter().find(|metric| metric.name == name);
                assert_eq!(metric.unwrap().kind.as_str(), kind, "{name}");
            }
        }
        for metric in list::ALL {
            assert!(metric.help().ends_with('.'), "{}", metric.name);
            let is_total = metric.name.ends_with("_total");
            let is_counter = metric.kind == list::Kind::Counter;
            assert_eq!(is_total, is_counter, "{}", metric.name);
            let same = list::ALL.iter().filter(|one| one.name == metric.name);
            assert_eq!(same.count(), 1, "{}", metric.name);
        }
    }

    fn key(name: &str, index: Option<u32>) -> HitKey {
        HitKey {
            rule: RuleKey {
                kind: PolicyKind::NetworkPolicy,
                policy: ObjectName::new("x", name),
                direction: Direction::Ingress,
                index,
            },
            action: match index {
                Some(_) => Action::Allow,
                None => Action::Deny,
            },
        }
    }

    #[test]
    fn what_finds_no_room_in_the_budget_is_in_the_overflow() {
        let mut facts = facts(Vec::new());
        for (name, hits) in [("a", 2), ("b", 3), ("c", 4)] {
            let counts = Counts {
                hits,
                ..Counts::default()
            };
            facts.hits.insert(key(name, Some(0)), counts);
        }
        facts.rules = Arc::new(facts.hits.keys().cloned().collect());
        let mut renderer = renderer(1);
        let text = renderer.render(&facts, Duration::ZERO, 0).unwrap();
        let series = |policy: &str, namespace: &str, kind: &str, rule: &str| {
            format!(
                "cofferdam_rule_hits_total{{direction=\"ingress\",action=\"allow\",\
                 policy_kind=\"{kind}\",policy_namespace=\"{namespace}\",policy=\"{policy}\",\
                 rule=\"{rule}\"}}"
            )
        };
        let own = series("a", "x", "NetworkPolicy", "0") + " 2";
        let rest = series(OVERFLOW, OVERFLOW, OVERFLOW, OVERFLOW) + " 7";
        assert_lines(&text, &[&own, &rest, "cofferdam_series_folded 2"]);
        // What has gone has no series, whatever is remembered of it.
        facts.rules = Arc::new(BTreeSet::from([key("b", Some(0))]));
        let text = renderer.render(&facts, Duration::ZERO, 0).unwrap();
        assert!(!text.contains("policy=\"a\""), "{text}");
        assert_lines(&text, &[&rest]);
    }

    #[test]
    fn thousands_of_policies_stay_within_the_budget() {
        const BUDGET: usize = 10_000;
        let mut facts = facts(Vec::new());
        for number in 0..BUDGET + 2_000 {
            let counts = Counts {
                hits: 1,
                ..Counts::default()
            };
            let key = key(&format!("p{number}"), Some(0));
            facts.hits.insert(key, counts);
        }
        facts.rules = Arc::new(facts.hits.keys().cloned().collect());
        let mut renderer = renderer(BUDGET);
        for _ in 0..2 {
            let text = renderer.render(&facts, Duration::ZERO, 0).unwrap();
            let of_rules = |line: &&str| line.starts_with("cofferdam_rule_hits_total{");
            let series: Vec<&str> = text.lines().filter(of_rules).collect();
            assert_eq!(series.len(), BUDGET + 1);
            let overflow = series.iter().find(|line| line.contains(OVERFLOW));
            assert!(
                overflow.is_some_and(|line| line.ends_with(" 2000")),
                "{overflow:?}"
            );
            assert_lines(&text, &["cofferdam_series_folded 2000"]);
        }
    }

    /// Values of the series of dropped packets by policy.
    fn dropped(text: &str) -> BTreeMap<String, u64> {
        let series = text.lines().filter_map(|line| {
            let labels = line.strip_prefix("cofferdam_dropped_packets_total{")?;
            if !labels.contains("hook=\"to_workload\"") {
                return None;
            }
            let (_, policy) = labels.split_once("policy=\"")?;
            let (policy, value) = policy.split_once("\"} ")?;
            Some((policy.to_owned(), value.parse().ok()?))
        });
        series.collect()
    }

    #[test]
    fn drops_of_a_policy_that_has_gone_are_nobodys_and_the_sum_stays() {
        let hook = Hook::ToWorkload;
        let mut renderer = renderer(10);
        let mut page = |of_a: u64, of_b: u64, there: &[&str]| {
            let mut counters = vec![Counter::default(); counter::COUNTERS as usize];
            let denied = counter::judged(hook, Action::Deny, Reason::Isolated);
            counters[denied as usize].packets = of_a + of_b;
            let mut facts = facts(counters);
            for (name, packets) in [("a", of_a), ("b", of_b)] {
                let mut counts = Counts::default();
                counts.denied[hook as usize] = packets;
                facts.hits.insert(key(name, None), counts);
            }
            let rules = there.iter().map(|name| key(name, None));
            facts.rules = Arc::new(rules.collect());
            dropped(&renderer.render(&facts, Duration::ZERO, 0).unwrap())
        };
        let of = |values: &[(&str, u64)]| -> BTreeMap<String, u64> {
            // Of each hook and direction one, with no policy.
            let values = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value));
            values.collect()
        };
        assert_eq!(page(3, 4, &["a", "b"]), of(&[("", 0), ("a", 3), ("b", 4)]));
        assert_eq!(page(3, 5, &["b"]), of(&[("", 3), ("b", 5)]));
        // It comes again, and counts from the start.
        assert_eq!(page(3, 5, &["a", "b"]), of(&[("", 3), ("b", 5)]));
        assert_eq!(page(5, 5, &["a", "b"]), of(&[("", 3), ("a", 2), ("b", 5)]));
        assert_eq!(page(5, 5, &["b"]), of(&[("", 5), ("b", 5)]));
    }
}
