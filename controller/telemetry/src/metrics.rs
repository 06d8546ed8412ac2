//! What `/metrics` says.
//!
//! The kernel counts; each scrape makes a registry of what it has counted so far.
//! Names of hooks and reasons are the verdict crate's.

use std::time::Duration;

use cofferdam_answers::reach::{action_word, direction_word};
use cofferdam_protocol::output::{Capacity, EndpointState, Enforcement, RecordType, UplinkStatus};
use cofferdam_verdict::counter::{self, Counter, Hook};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Action;
use prometheus::core::Collector;
use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::hits::CountsByRule;

/// What is known at the moment of a scrape.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The kernel's counters, by index; none when they could not be read.
    pub counters: &'a [Counter],
    /// How often rules have decided.
    pub hits: CountsByRule,
    /// Revision in force.
    pub revision: u64,
    /// Whether the newest desired state is in force.
    pub is_enforced: bool,
    /// Whether `/readyz` says yes.
    pub is_ready: bool,
    /// Documents that count.
    pub accepted: u64,
    /// Documents that do not.
    pub rejected: u64,
    /// Endpoints by state.
    pub endpoints: Vec<(EndpointState, u64)>,
    /// How full everything is.
    pub capacity: Vec<Capacity>,
    /// Bytes of the kernel's maps, as the kernel accounts for them.
    pub memory_bytes: u64,
    /// How often something was found changed by others.
    pub tamper_events: u64,
    /// Endpoints that policy denies nothing just now.
    pub bypassed: u64,
    /// Packets that the guard has dropped; `None` without a guard.
    pub guard_dropped: Option<u64>,
    /// `true` if the next start of the agent will know what this one knows.
    pub is_saved: bool,
    /// Interfaces on which frames are dropped early, or are to be.
    pub uplinks: Vec<UplinkStatus>,
    /// Mode of all policies.
    pub enforcement: Enforcement,
    /// Namespaces that are on audit by themselves.
    pub audited_namespaces: usize,
}

/// How long it takes to bring the desired state into force.
#[derive(Debug, Clone)]
pub struct Timing(Histogram);

impl Timing {
    /// Nothing has been measured yet.
    ///
    /// # Errors
    /// Never: the name is valid.
    pub fn new() -> Result<Self, Error> {
        let options = HistogramOpts::new(
            "cofferdam_reconcile_duration_seconds",
            "Time from a change of the desired state until it was in force and read back.",
        )
        .buckets(vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        ]);
        Ok(Self(Histogram::with_opts(options)?))
    }

    /// Adds one duration.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// Metrics in the text format of Prometheus.
///
/// # Errors
/// When names clash, which a test would have found.
pub fn render(facts: &Facts<'_>, timing: &Timing) -> Result<String, Error> {
    let registry = Registry::new();
    packets(&registry, facts.counters)?;
    hits(&registry, &facts.hits)?;
    gauge(
        &registry,
        "cofferdam_revision",
        "Number of the decision table in force; 0 when there is none.",
        facts.revision,
    )?;
    gauge(
        &registry,
        "cofferdam_enforced",
        "Whether the newest desired state is in force and was read back.",
        facts.is_enforced.into(),
    )?;
    gauge(
        &registry,
        "cofferdam_ready",
        "Whether /readyz says yes.",
        facts.is_ready.into(),
    )?;
    let documents = gauges(
        &registry,
        "cofferdam_documents",
        "Documents, by whether they count as they are now.",
        &["state"],
    )?;
    set(&documents, &["accepted"], facts.accepted);
    set(&documents, &["rejected"], facts.rejected);
    let endpoints = gauges(
        &registry,
        "cofferdam_endpoints",
        "Endpoints of this node, by how far they are in force.",
        &["state"],
    )?;
    for (state, count) in &facts.endpoints {
        set(&endpoints, &[state.as_str()], *count);
    }
    let used = gauges(
        &registry,
        "cofferdam_capacity_used",
        "Entries in use.",
        &["table"],
    )?;
    let max = gauges(
        &registry,
        "cofferdam_capacity_max",
        "Entries there is room for, where their number is what counts.",
        &["table"],
    )?;
    for capacity in &facts.capacity {
        set(&used, &[&capacity.table], capacity.used);
        if capacity.max != 0 {
            set(&max, &[&capacity.table], capacity.max);
        }
    }
    gauge(
        &registry,
        "cofferdam_map_memory_bytes",
        "Bytes of the kernel's maps, as the kernel accounts for them.",
        facts.memory_bytes,
    )?;
    let uplinks = gauges(
        &registry,
        "cofferdam_uplink_mode",
        "1 for the mode in which frames are dropped early on an interface (XDP): native, \
         generic, or none where they are to be and are not.",
        &["interface", "mode"],
    )?;
    for uplink in &facts.uplinks {
        let mode = uplink.mode.as_deref().unwrap_or("none");
        set(&uplinks, &[&uplink.interface, mode], 1);
    }
    gauge(
        &registry,
        "cofferdam_state_saved",
        "Whether the agent could write down what it must know after a restart.",
        facts.is_saved.into(),
    )?;
    gauge(
        &registry,
        "cofferdam_endpoints_bypassed",
        "Endpoints that policy denies nothing just now, because somebody has bypassed it.",
        facts.bypassed,
    )?;
    if let Some(packets) = facts.guard_dropped {
        let dropped = IntCounter::new(
            "cofferdam_guard_dropped_packets_total",
            "Packets of veths on which no programs judge that the guard's rules have dropped \
             since they were put there.",
        )?;
        dropped.inc_by(packets);
        register(&registry, dropped)?;
    }
    let tampering = IntCounter::new(
        "cofferdam_tamper_events_total",
        "How often something in the kernel was found changed by others, and repaired.",
    )?;
    tampering.inc_by(facts.tamper_events);
    register(&registry, tampering)?;
    enforcement(&registry, facts.enforcement, facts.audited_namespaces)?;
    register(&registry, timing.0.clone())?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn enforcement(registry: &Registry, mode: Enforcement, audited: usize) -> Result<(), Error> {
    let modes = gauges(
        registry,
        "cofferdam_enforcement",
        "1 for the mode of all policies on this node: enforce, or audit, in which they deny \
         nothing.",
        &["mode"],
    )?;
    for one in Enforcement::ALL {
        set(&modes, &[one.as_str()], (one == mode).into());
    }
    gauge(
        registry,
        "cofferdam_audited_namespaces",
        "Namespaces that an annotation puts on audit: policies deny their workloads nothing.",
        audited as u64,
    )
}

fn packets(registry: &Registry, counters: &[Counter]) -> Result<(), Error> {
    let counted = |index: u32| counters.get(index as usize).copied().unwrap_or_default();
    let seen = total(
        registry,
        "cofferdam_seen_packets_total",
        "Packets that a hook has judged; a GSO packet is one.",
        &["hook"],
    )?;
    let allowed = total(
        registry,
        "cofferdam_allowed_packets_total",
        "Packets that a hook let pass, by reason.",
        &["hook", "reason"],
    )?;
    let dropped = total(
        registry,
        "cofferdam_dropped_packets_total",
        "Packets that a hook dropped, by reason.",
        &["hook", "reason"],
    )?;
    let dropped_bytes = total(
        registry,
        "cofferdam_dropped_bytes_total",
        "Bytes of dropped packets from the Ethernet header on, by reason.",
        &["hook", "reason"],
    )?;
    let audited = total(
        registry,
        "cofferdam_audited_packets_total",
        "Packets that a hook let pass and that policies in audit mode would have had \
         dropped, by reason: of a flow the first, and one more whenever the flow is \
         decided again.",
        &["hook", "reason"],
    )?;
    let unreported = total(
        registry,
        "cofferdam_unreported_packets_total",
        "Packets that would have had a flow record of this type, and have none.",
        &["type"],
    )?;
    for hook in Hook::ALL {
        add(
            &unreported,
            &[RecordType::Denied.as_str()],
            counted(counter::unreported(hook)).packets,
        );
        add(
            &unreported,
            &[RecordType::Audit.as_str()],
            counted(counter::unreported_audit(hook)).packets,
        );
        let name = hook.name();
        add(&seen, &[name], counted(counter::seen(hook)).packets);
        for reason in Reason::ALL {
            let labels = [name, reason.name()];
            let judged = |action| counted(counter::judged(hook, action, *reason));
            let (allow, deny) = (judged(Action::Allow), judged(Action::Deny));
            // A reason only ever allows or only ever denies, but for `rule`: series
            // that cannot move are left out until they do.
            if allow.packets != 0 {
                add(&allowed, &labels, allow.packets);
            }
            if deny.packets != 0 {
                add(&dropped, &labels, deny.packets);
                add(&dropped_bytes, &labels, deny.bytes);
            }
        }
        for reason in counter::AUDIT_REASONS {
            let packets = counted(counter::audited(hook, reason)).packets;
            if packets != 0 {
                add(&audited, &[name, reason.name()], packets);
            }
        }
        // Sums by hook are there from the start.
        add(&allowed, &[name, Reason::Rule.name()], 0);
        add(&dropped, &[name, Reason::Isolated.name()], 0);
        add(&dropped_bytes, &[name, Reason::Isolated.name()], 0);
        add(&audited, &[name, Reason::Isolated.name()], 0);
    }
    Ok(())
}

fn hits(registry: &Registry, counts: &CountsByRule) -> Result<(), Error> {
    const LABELS: [&str; 6] = [
        "kind",
        "namespace",
        "policy",
        "direction",
        "index",
        "action",
    ];
    let hits = total(
        registry,
        "cofferdam_rule_hits_total",
        "New flows that a rule allowed, and packets that it denied. A default denial counts \
         for every policy that isolates, with an empty index.",
        &LABELS,
    )?;
    let audited = total(
        registry,
        "cofferdam_rule_audit_hits_total",
        "Packets that passed and that a rule would have denied with policies in audit mode in \
         force; counted like cofferdam_audited_packets_total.",
        &LABELS,
    )?;
    for (key, counts) in counts {
        let rule = &key.rule;
        let labels = [
            rule.kind.as_str(),
            rule.namespace().unwrap_or_default(),
            &rule.policy.name,
            direction_word(rule.direction),
            &rule
                .index
                .map_or_else(String::new, |index| index.to_string()),
            action_word(key.action),
        ];
        // Of thousands of rules most decide nothing: series begin with the first hit.
        if counts.hits != 0 {
            add(&hits, &labels, counts.hits);
        }
        if counts.audited != 0 {
            add(&audited, &labels, counts.audited);
        }
    }
    Ok(())
}

fn register(registry: &Registry, collector: impl Collector + 'static) -> Result<(), Error> {
    registry.register(Box::new(collector))
}

fn total(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    register(registry, counter.clone())?;
    Ok(counter)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    register(registry, gauge.clone())?;
    Ok(gauge)
}

fn gauge(registry: &Registry, name: &str, help: &str, value: u64) -> Result<(), Error> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    register(registry, gauge)
}

fn add(counter: &IntCounterVec, labels: &[&str], value: u64) {
    counter.with_label_values(labels).inc_by(value);
}

fn set(gauge: &IntGaugeVec, labels: &[&str], value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    gauge.with_label_values(labels).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(counters: &[Counter]) -> Facts<'_> {
        Facts {
            counters,
            hits: CountsByRule::new(),
            revision: 7,
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
            memory_bytes: 4096,
            tamper_events: 0,
            bypassed: 0,
            guard_dropped: None,
            is_saved: true,
            uplinks: Vec::new(),
            enforcement: Enforcement::Audit,
            audited_namespaces: 3,
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
        counters[counter::audited(hook, Reason::Isolated) as usize].packets = 4;
        counters[counter::unreported_audit(hook) as usize].packets = 6;
        counters[counter::unreported(Hook::FromWorkload) as usize].packets = 8;
        let text = render(&facts(&counters), &Timing::new().unwrap()).unwrap();
        for line in [
            "cofferdam_seen_packets_total{hook=\"to_workload\"} 5",
            "cofferdam_seen_packets_total{hook=\"uplink_ingress\"} 0",
            "cofferdam_allowed_packets_total{hook=\"to_workload\",reason=\"rule\"} 3",
            "cofferdam_dropped_packets_total{hook=\"to_workload\",reason=\"spoofed_source\"} 2",
            "cofferdam_dropped_bytes_total{hook=\"to_workload\",reason=\"spoofed_source\"} 120",
            "cofferdam_audited_packets_total{hook=\"to_workload\",reason=\"isolated\"} 4",
            "cofferdam_audited_packets_total{hook=\"from_workload\",reason=\"isolated\"} 0",
            "cofferdam_unreported_packets_total{type=\"audit\"} 6",
            "cofferdam_unreported_packets_total{type=\"denied\"} 8",
            "cofferdam_revision 7",
            "cofferdam_enforced 1",
            "cofferdam_ready 0",
            "cofferdam_state_saved 1",
            "cofferdam_enforcement{mode=\"enforce\"} 0",
            "cofferdam_enforcement{mode=\"audit\"} 1",
            "cofferdam_audited_namespaces 3",
            "cofferdam_documents{state=\"rejected\"} 1",
            "cofferdam_endpoints{state=\"enforced\"} 2",
            "cofferdam_capacity_used{table=\"rows\"} 5",
            "cofferdam_reconcile_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }
}
