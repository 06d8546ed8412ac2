//! The list of metrics: names, types, labels, units, and help texts.
//!
//! A metric is defined here and nowhere else. Its doc comment is the help text of `/metrics`
//! and the row of `docs/metrics.md`; whatever sets a metric names the constant, so that no
//! series has a name or a label that is not in the list.

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows while the agent runs.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Durations by their lengths.
    Histogram,
}

impl Kind {
    /// Returns its word in `# TYPE` lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Unit of a metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Packets; a GSO packet is one.
    Packets,
    /// Things that are counted.
    Count,
    /// A share of a whole, from 0 to 1.
    Ratio,
    /// 1 for yes, 0 for no.
    Truth,
}

impl Unit {
    /// Returns its word in `docs/metrics.md`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Packets => "packets",
            Self::Count => "number",
            Self::Ratio => "0 to 1",
            Self::Truth => "0 or 1",
        }
    }
}

/// Number of series that a metric can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As many as the program's own words make.
    Fixed,
    /// As many as policies or workloads make: held to the budget of series. In the overflow so
    /// many labels, from the first, keep their values.
    Budgeted(usize),
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, with its prefix.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Unit of its value.
    pub unit: Unit,
    /// Number of its series.
    pub extent: Extent,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    doc: &'static str,
}

impl Metric {
    /// Returns the help text.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.doc.trim_start()
    }
}

macro_rules! metrics {
    ($(
        $(#[doc = $doc:literal])+
        $constant:ident = $name:literal $kind:ident $unit:ident ($extent:expr) [$($label:literal),*];
    )+) => {
        $(
            $(#[doc = $doc])+
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                extent: $extent,
                labels: &[$($label),*],
                doc: concat!($($doc),+),
            };
        )+

        /// All metrics, in the order of the documentation.
        pub const ALL: &[&Metric] = &[$(&$constant),+];
    };
}

use Extent::{Budgeted, Fixed};

metrics! {
    /// Packets that a hook has judged; a GSO packet is one.
    SEEN_PACKETS = "cofferdam_seen_packets_total" Counter Packets (Fixed) ["hook"];
    /// Bytes of packets that a hook has judged, from the Ethernet header on.
    SEEN_BYTES = "cofferdam_seen_bytes_total" Counter Bytes (Fixed) ["hook"];
    /// Packets that a hook let pass, by reason.
    ALLOWED_PACKETS = "cofferdam_allowed_packets_total" Counter Packets (Fixed) ["hook", "reason"];
    /// Bytes of packets that a hook let pass, from the Ethernet header on, by reason.
    ALLOWED_BYTES = "cofferdam_allowed_bytes_total" Counter Bytes (Fixed) ["hook", "reason"];
    /// Packets that a hook dropped, by reason, and by policy where one denied them: of a
    /// default denial the first policy that isolates. The labels of policies are empty for
    /// other reasons, and for policies that are gone.
    DROPPED_PACKETS = "cofferdam_dropped_packets_total" Counter Packets (Budgeted(3))
        ["hook", "direction", "reason", "policy_kind", "policy_namespace", "policy"];
    /// Bytes of packets that a hook dropped, from the Ethernet header on, by reason.
    DROPPED_BYTES = "cofferdam_dropped_bytes_total" Counter Bytes (Fixed) ["hook", "reason"];
    /// Packets in `denied` flow records, by reason and by the configured labels of the workload
    /// whose direction it is; there with `metrics_labels` alone. Packets without a record are
    /// in cofferdam_unreported_packets_total.
    WORKLOAD_DROPPED_PACKETS = "cofferdam_workload_dropped_packets_total" Counter Packets (Budgeted(2))
        ["direction", "reason"];
    /// Packets that a hook let pass and that policies in audit mode would have had dropped, by
    /// reason: of a flow the first, and one more whenever the flow is decided again.
    AUDITED_PACKETS = "cofferdam_audited_packets_total" Counter Packets (Fixed) ["hook", "reason"];
    /// Packets that would have had a flow record of this type, and have none; of the type ended,
    /// flows.
    UNREPORTED_PACKETS = "cofferdam_unreported_packets_total" Counter Packets (Fixed) ["type"];
    /// New flows that a rule allowed, and packets that it denied. A default denial counts for
    /// every policy that isolates, with an empty rule. The rule is its place among those of
    /// its direction, from 0.
    RULE_HITS = "cofferdam_rule_hits_total" Counter Count (Budgeted(2))
        ["direction", "action", "policy_kind", "policy_namespace", "policy", "rule"];
    /// Packets that passed and that a rule would have denied with policies in audit mode in
    /// force; counted like cofferdam_audited_packets_total.
    RULE_AUDIT_HITS = "cofferdam_rule_audit_hits_total" Counter Packets (Budgeted(2))
        ["direction", "action", "policy_kind", "policy_namespace", "policy", "rule"];
    /// Flows in the flow tables of all endpoints, as the last sweep left them.
    FLOWS = "cofferdam_flows" Gauge Count (Fixed) [];
    /// Flows that the flow tables of all endpoints can grow to.
    FLOWS_MAX = "cofferdam_flows_max" Gauge Count (Fixed) [];
    /// Fill of the fullest flow table of an endpoint, as the last sweep left it. At 1 new flows
    /// that policy does not allow both ways are dropped.
    FLOWS_FULLEST = "cofferdam_flows_fullest_ratio" Gauge Ratio (Fixed) [];
    /// Packets whose flow found no room in its endpoint's flow table, by action: denied, or
    /// allowed without an entry where policy allows both directions.
    FLOWS_REFUSED = "cofferdam_flows_refused_packets_total" Counter Packets (Fixed) ["action"];
    /// Number of the decision table in force; 0 when there is none.
    REVISION = "cofferdam_revision" Gauge Count (Fixed) [];
    /// Time since the decision table in force was published by this agent; missing for a table
    /// that it took up.
    TABLE_AGE = "cofferdam_table_age_seconds" Gauge Seconds (Fixed) [];
    /// Bytes of the decision table in force.
    TABLE_BYTES = "cofferdam_table_bytes" Gauge Bytes (Fixed) [];
    /// Time since what is in force was last read back; missing until it was.
    VERIFIED_AGE = "cofferdam_verified_age_seconds" Gauge Seconds (Fixed) [];
    /// State of enforcement: 1 if the newest desired state is in force and was read back, else 0.
    ENFORCED = "cofferdam_enforced" Gauge Truth (Fixed) [];
    /// Readiness: 1 if /readyz says yes, else 0.
    READY = "cofferdam_ready" Gauge Truth (Fixed) [];
    /// Documents, by state: accepted, or rejected for a mistake.
    DOCUMENTS = "cofferdam_documents" Gauge Count (Fixed) ["state"];
    /// Time since which the API server has not answered or refuses, in seconds since the epoch;
    /// 0 while it answers, missing without one.
    KUBERNETES_AWAY_SINCE = "cofferdam_kubernetes_away_since_seconds" Gauge Seconds (Fixed) [];
    /// Objects of the API server that count as documents, by kind.
    KUBERNETES_OBJECTS = "cofferdam_kubernetes_objects" Gauge Count (Fixed) ["kind"];
    /// Time since which no host of the etcd has answered or all refuse, in seconds since the
    /// epoch; 0 while one answers, missing without one.
    ETCD_AWAY_SINCE = "cofferdam_etcd_away_since_seconds" Gauge Seconds (Fixed) [];
    /// Time since which this node's endpoints cannot be put into the etcd, in seconds since the
    /// epoch; 0 while they can, missing if it publishes none.
    ETCD_UNPUBLISHED_SINCE = "cofferdam_etcd_unpublished_since_seconds" Gauge Seconds (Fixed) [];
    /// Keys of the etcd, by kind: documents, endpoints of all nodes, published of this one.
    ETCD_KEYS = "cofferdam_etcd_keys" Gauge Count (Fixed) ["kind"];
    /// Time from a change of the desired state until it was in force and read back.
    RECONCILE_DURATION = "cofferdam_reconcile_duration_seconds" Histogram Seconds (Fixed) [];
    /// Time to compile a decision table.
    COMPILE_DURATION = "cofferdam_compile_duration_seconds" Histogram Seconds (Fixed) [];
    /// Time to give the kernel a decision table and to put it in force.
    PUBLISH_DURATION = "cofferdam_publish_duration_seconds" Histogram Seconds (Fixed) [];
    /// Entries in use, by table of the kernel.
    CAPACITY_USED = "cofferdam_capacity_used" Gauge Count (Fixed) ["table"];
    /// Entries there is room for, by table of the kernel, where their number is bounded.
    CAPACITY_MAX = "cofferdam_capacity_max" Gauge Count (Fixed) ["table"];
    /// Bytes of the kernel's maps, as the kernel accounts for them.
    MAP_MEMORY = "cofferdam_map_memory_bytes" Gauge Bytes (Fixed) [];
    /// Interfaces of workloads of this node, by state: enforced, deny_all where nothing passes,
    /// unmanaged where nothing is judged.
    ENDPOINTS = "cofferdam_endpoints" Gauge Count (Fixed) ["state"];
    /// Endpoints that policy denies nothing just now, because of a bypass.
    ENDPOINTS_BYPASSED = "cofferdam_endpoints_bypassed" Gauge Count (Fixed) [];
    /// Interfaces of endpoints on whose hooks programs are missing or out of place, and were not
    /// put right at the last look.
    HOOKS_OUT_OF_PLACE = "cofferdam_hooks_out_of_place" Gauge Count (Fixed) [];
    /// Changes of kernel state by other processes that were found, and repaired.
    TAMPER_EVENTS = "cofferdam_tamper_events_total" Counter Count (Fixed) [];
    /// Mode of early drop by interface: native, generic, or none where it is configured and is
    /// not in force.
    UPLINK_MODE = "cofferdam_uplink_mode" Gauge Truth (Fixed) ["interface", "mode"];
    /// Packets that the guard's rules have dropped since they were put there, of veths on which
    /// no programs judge; missing without a guard.
    GUARD_DROPPED_PACKETS = "cofferdam_guard_dropped_packets_total" Counter Packets (Fixed) [];
    /// State of the state directory: 1 if the agent could save what it must know after a restart,
    /// else 0.
    STATE_SAVED = "cofferdam_state_saved" Gauge Truth (Fixed) [];
    /// Mode of all policies on this node: 1 for the one in force, enforce or audit, in which they
    /// deny nothing.
    ENFORCEMENT = "cofferdam_enforcement" Gauge Truth (Fixed) ["mode"];
    /// Namespaces that an annotation puts on audit: policies deny their workloads nothing.
    AUDITED_NAMESPACES = "cofferdam_audited_namespaces" Gauge Count (Fixed) [];
    /// Flow records that an output could not pass on, or had no room for in its queue.
    OUTPUT_LOST_RECORDS = "cofferdam_output_lost_records_total" Counter Count (Fixed) ["output"];
    /// Time that the agent took for a request of the CNI plugin, by command (add, check, del,
    /// gc) and result. `cofferdam endpoint list` counts as check.
    CNI_DURATION = "cofferdam_cni_duration_seconds" Histogram Seconds (Fixed) ["command", "result"];
    /// Workloads that were found to scan: denied at more than `port_scan_limit` distinct ports
    /// or peers within a minute. Each counts once in a minute.
    PORT_SCANS = "cofferdam_port_scans_total" Counter Count (Fixed) [];
    /// Series that are part of a series whose labels say `overflow`, because there are more
    /// than `metrics_series`.
    SERIES_FOLDED = "cofferdam_series_folded" Gauge Count (Fixed) [];
    /// Age of what this page says, where the agent was too busy to say anything newer; else 0.
    PAGE_AGE = "cofferdam_page_age_seconds" Gauge Seconds (Fixed) [];
    /// Connections to the agent's HTTP server that were closed to make room for others.
    HTTP_EVICTED = "cofferdam_http_evicted_connections_total" Counter Count (Fixed) [];
    /// Version of the agent and release of the kernel, as labels; always 1.
    BUILD_INFO = "cofferdam_build_info" Gauge Truth (Fixed) ["version", "kernel"];
    /// Processor time of the agent.
    PROCESS_CPU = "process_cpu_seconds_total" Counter Seconds (Fixed) [];
    /// Resident memory of the agent.
    PROCESS_RESIDENT = "process_resident_memory_bytes" Gauge Bytes (Fixed) [];
    /// Virtual memory of the agent.
    PROCESS_VIRTUAL = "process_virtual_memory_bytes" Gauge Bytes (Fixed) [];
    /// Open file descriptors of the agent.
    PROCESS_OPEN_FDS = "process_open_fds" Gauge Count (Fixed) [];
    /// Most file descriptors that the agent may have open.
    PROCESS_MAX_FDS = "process_max_fds" Gauge Count (Fixed) [];
    /// Time at which the agent was started, in seconds since the epoch.
    PROCESS_START = "process_start_time_seconds" Gauge Seconds (Fixed) [];
    /// Threads of the agent.
    PROCESS_THREADS = "process_threads" Gauge Count (Fixed) [];
}
