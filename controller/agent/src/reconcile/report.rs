//! Reports of the reconciling thread's state: to commands, to metrics, to other tasks.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cofferdam_dataplane::KernelError;
use cofferdam_inventory::{Inventory, Mode};
use cofferdam_protocol::output::{
    self, ApiStatus, Capacity, Diagnostic, EndpointList, EndpointReport, EndpointState,
    EndpointStatus, EtcdStatus, FlowUse, Link, Schema, Severity, StatusReport, SyncReport,
};
use cofferdam_reach::Probe;
use cofferdam_sources::etcd;
use cofferdam_sources::kubernetes::Health;
use cofferdam_syntax::diagnostic::Code;
use cofferdam_telemetry::metrics::{ApiFacts, EtcdFacts, Facts};
use cofferdam_telemetry::time;
use cofferdam_verdict::counter::Counter;

use super::strangers::Stranger;
use super::{Managed, Reconciler};

impl Reconciler {
    pub(super) fn sync_report(&self) -> SyncReport {
        SyncReport {
            schema: Schema,
            revision: self.enforcer.revision(),
            enforced: self.is_enforced(),
            accepted: self.documents.accepted(),
            rejected: self.documents.rejected(),
            diagnostics: self.diagnostics(),
        }
    }

    pub(super) fn status_report(&self) -> StatusReport {
        let obstacles = self.stamp_obstacles();
        let bypassed = self.bypassed();
        let is_closed = |stranger: &Stranger<'_>| stranger.state == EndpointState::DenyAll;
        let (closed, unmanaged): (Vec<_>, Vec<_>) =
            self.strangers().into_iter().partition(is_closed);
        StatusReport {
            schema: Schema,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel_release(),
            revision: self.enforcer.revision(),
            enforced: self.is_enforced(),
            ready: self.obstacles().is_empty(),
            verified_at: self.verified_at.map(time::rfc3339),
            enforcement: self.enforcement(),
            audited_namespaces: self.audited_namespaces(),
            accepted: self.documents.accepted(),
            rejected: self.documents.rejected(),
            endpoints: (self.all_endpoints().into_iter())
                .map(|(managed, leaving)| EndpointStatus {
                    id: Some(managed.endpoint.id.to_string()),
                    host_ifindex: managed.endpoint.link.host_ifindex,
                    host_ifname: managed.endpoint.link.host_interface.clone(),
                    state: managed.state,
                    leaving,
                    links: self.links(managed.endpoint.link.host_ifindex),
                    bypassed_until: bypassed.get(&managed.endpoint.link.host_ifindex).cloned(),
                    flows: (self.enforcer.flows(managed.endpoint.link.host_ifindex)).map(|flows| {
                        FlowUse {
                            used: flows.used.into(),
                            capacity: flows.capacity.into(),
                            capacity_max: flows.most.into(),
                        }
                    }),
                    problem: managed.problem.clone(),
                    obstacles: self.on_the_way(managed, &obstacles),
                })
                .chain(closed.iter().map(|stranger| EndpointStatus {
                    id: None,
                    host_ifindex: stranger.interface.ifindex,
                    host_ifname: stranger.interface.name.clone(),
                    state: stranger.state,
                    leaving: false,
                    links: self.links(stranger.interface.ifindex),
                    bypassed_until: None,
                    flows: None,
                    problem: Some(stranger.problem.to_owned()),
                    obstacles: Vec::new(),
                }))
                .collect(),
            unmanaged: (unmanaged.iter())
                .map(|stranger| stranger.interface.name.clone())
                .collect(),
            capacity: self.capacity(),
            memory_bytes: self.memory_bytes(),
            tamper_events: self.tamper_events,
            uncleared: self.uncleared(),
            uplinks: self.early_drops.report(),
            kubernetes: self.documents.health().map(api_status),
            etcd: (self.documents.etcd_health()).map(|health| Box::new(etcd_status(health))),
            obstacles: obstacles.into_iter().map(|(_, text)| text).collect(),
            diagnostics: self.diagnostics(),
        }
    }

    /// Returns the obstacles that an endpoint's packets meet on its interface and its bridge.
    fn on_the_way(&self, managed: &Managed, obstacles: &[(u32, String)]) -> Vec<String> {
        let own = managed.endpoint.link.host_ifindex;
        let bridge = self
            .interfaces
            .by_index
            .get(&own)
            .map_or(0, |interface| interface.controller);
        let met = obstacles
            .iter()
            .filter(|(ifindex, _)| *ifindex == own || *ifindex == bridge);
        met.map(|(_, text)| text.clone()).collect()
    }

    fn links(&self, ifindex: u32) -> Vec<Link> {
        let states = self.enforcer.hooks(ifindex).unwrap_or_default();
        let links = states.into_iter().map(|state| Link {
            hook: state.hook.to_owned(),
            program_id: state.program_id.unwrap_or(0),
            first: state.first,
            ok: state.ok,
        });
        links.collect()
    }

    pub(super) fn endpoint_list(&self) -> EndpointList {
        EndpointList {
            schema: Schema,
            endpoints: (self.all_endpoints().into_iter())
                .map(|(managed, leaving)| self.endpoint_report(managed, leaving))
                .chain((self.strangers().iter()).map(|stranger| self.stranger_report(stranger)))
                .collect(),
        }
    }

    /// All endpoints in the order of their names, and for each whether it is leaving.
    fn all_endpoints(&self) -> Vec<(&Managed, bool)> {
        let endpoints = self.endpoints.values().map(|managed| (managed, false));
        let leaving = self.leaving.values().map(|managed| (managed, true));
        let mut all: Vec<(&Managed, bool)> = endpoints.chain(leaving).collect();
        all.sort_by(|(one, _), (other, _)| one.endpoint.id.cmp(&other.endpoint.id));
        all
    }

    pub(super) fn endpoint_report(&self, managed: &Managed, leaving: bool) -> EndpointReport {
        let endpoint = &managed.endpoint;
        let name = endpoint.id.workload();
        // A document's labels count, where there is one.
        let workload = self.documents.inventory().workloads().get(&name);
        let labels = match workload.filter(|_| !leaving) {
            Some(workload) => (workload.labels.iter())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            None => endpoint.labels.clone(),
        };
        EndpointReport {
            schema: Schema,
            id: Some(endpoint.id.to_string()),
            container_id: endpoint.container_id.clone(),
            network: (endpoint.member_of.as_ref()).map(|member| member.network.clone()),
            host_ifindex: endpoint.link.host_ifindex,
            host_ifname: endpoint.link.host_interface.clone(),
            mac: endpoint.mac_text(),
            addresses: endpoint.addresses.clone(),
            labels,
            state: managed.state,
            leaving,
            revision: self.enforcer.revision(),
            problem: managed.problem.clone().or_else(|| self.unsaved.clone()),
        }
    }

    fn stranger_report(&self, stranger: &Stranger<'_>) -> EndpointReport {
        EndpointReport {
            schema: Schema,
            id: None,
            container_id: None,
            network: None,
            host_ifindex: stranger.interface.ifindex,
            host_ifname: stranger.interface.name.clone(),
            mac: String::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            state: stranger.state,
            leaving: false,
            revision: self.enforcer.revision(),
            problem: Some(stranger.problem.to_owned()),
        }
    }

    /// Findings about documents, then what else is wrong.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut diagnostics: Vec<Diagnostic> = self.documents.diagnostics().collect();
        diagnostics.extend(self.warnings.iter().cloned());
        let problems = (self.endpoints.values().chain(self.leaving.values()))
            .filter_map(|managed| Some((managed, managed.problem.as_ref()?)))
            .map(|(managed, problem)| format!("endpoint {}: {problem}", managed.endpoint.id));
        let uncleared = self.uncleared().into_iter().map(|text| {
            format!("packets may come in with forged stamps, or leave unjudged: {text}")
        });
        let closed = self.closed_interfaces().into_iter();
        let kept = (self.unpinned.as_deref().into_iter())
            .chain(self.guarding.problem())
            .chain(self.unsaved());
        for message in (self.problem.iter().cloned())
            .chain(problems)
            .chain(closed)
            .chain(uncleared)
            .chain(kept.map(str::to_owned))
        {
            diagnostics.push(Diagnostic {
                code: Code::NotInForce.as_str().to_owned(),
                severity: Severity::Error,
                file: String::new(),
                line: 0,
                column: 0,
                message,
                hint: None,
            });
        }
        diagnostics.extend(self.fill_warnings());
        diagnostics.extend(self.bypass_warnings());
        diagnostics.extend(self.service_warnings());
        let etcd = self.documents.etcd_health();
        let problems = etcd.iter().flat_map(etcd_problems);
        diagnostics.extend(problems.map(|message| Diagnostic {
            code: Code::NotInForce.as_str().to_owned(),
            severity: Severity::Warning,
            file: String::new(),
            line: 0,
            column: 0,
            message,
            hint: None,
        }));
        diagnostics
    }

    /// A finding about each port of a Service that is denied for want of a hook behind it.
    fn service_warnings(&self) -> impl Iterator<Item = Diagnostic> {
        let unseen = self
            .enforcer
            .compiled()
            .map_or(&[][..], |compiled| &compiled.unseen);
        unseen.iter().map(|one| Diagnostic {
            code: Code::ServiceUndecided.as_str().to_owned(),
            severity: Severity::Warning,
            file: String::new(),
            line: 0,
            column: 0,
            message: format!(
                "{} of {}: workloads that policy allows some of the backends reach none, \
                 because no hook on this node sees what is translated to one of the others",
                Probe::Port(one.port.0, one.port.1),
                one.address
            ),
            hint: Some(
                "allow all backends, make the workloads of this node endpoints, or keep pods on \
                 the node's own network out of the Service"
                    .to_owned(),
            ),
        })
    }

    /// Sentences about what the next start of the agent will not know.
    fn unsaved(&self) -> impl Iterator<Item = &str> {
        self.unsaved
            .as_deref()
            .into_iter()
            .chain(self.documents.unsaved())
    }

    /// Interfaces that are closed because nobody knows whose they are, as sentences.
    fn closed_interfaces(&self) -> Vec<String> {
        let strangers = self.strangers().into_iter();
        strangers
            .filter(|stranger| stranger.state == EndpointState::DenyAll)
            .map(|stranger| {
                format!(
                    "interface {}: {}",
                    stranger.interface.name, stranger.problem
                )
            })
            .collect()
    }

    /// Returns the reasons for which the agent is not ready.
    pub(super) fn obstacles(&self) -> Vec<String> {
        let mut obstacles: Vec<String> = self.problem.iter().cloned().collect();
        obstacles.extend(self.closed_interfaces());
        obstacles.extend(self.unpinned.clone());
        obstacles.extend(self.guarding.problem().map(str::to_owned));
        let unprecedented = self.documents.unprecedented();
        if unprecedented > 0 && !self.documents.is_held() {
            obstacles.push(format!(
                "{unprecedented} invalid documents are left out, for none of them ever was good"
            ));
        }
        // Whatever is held says so by itself.
        let health = self
            .documents
            .health()
            .filter(|_| !self.documents.is_held());
        obstacles.extend(health.as_ref().and_then(away));
        let etcd = self
            .documents
            .etcd_health()
            .filter(|_| !self.documents.is_held());
        obstacles.extend(etcd.iter().flat_map(etcd_problems));
        if self.enforcer.revision() == 0 && obstacles.is_empty() {
            obstacles.push("nothing is in force yet".to_owned());
        }
        obstacles
    }

    fn capacity(&self) -> Vec<Capacity> {
        let limits = self.config.limits();
        let mut capacity: Vec<Capacity> =
            self.enforcer.compiled().map_or_else(Vec::new, |compiled| {
                let usage = compiled.usage.iter();
                usage
                    .map(|usage| Capacity {
                        table: usage.table.to_owned(),
                        used: usage.used,
                        max: usage.max.unwrap_or(0),
                        bytes: usage.bytes,
                    })
                    .collect()
            });
        let bytes = |name: &str| {
            let array = limits.arrays().into_iter().find(|array| array.name == name);
            array.map_or(0, |array| {
                u64::from(array.value_bytes) * u64::from(array.entries)
            })
        };
        let map = cofferdam_verdict::capacity::map::ENDPOINTS;
        capacity.push(Capacity {
            table: "endpoints".to_owned(),
            used: (self.endpoints.len() + self.leaving.len()) as u64,
            max: limits.endpoints.into(),
            bytes: bytes(map),
        });
        // Among those: each keeps a record that lets nothing pass until its interface has gone.
        capacity.push(Capacity {
            table: "endpoints_leaving".to_owned(),
            used: self.leaving.len() as u64,
            max: 0,
            bytes: 0,
        });
        capacity.push(Capacity {
            table: "addresses".to_owned(),
            used: self.enforcer.bound() as u64,
            max: u64::from(limits.slots) - 1,
            bytes: bytes(cofferdam_verdict::capacity::map::ADDRESSES_V4)
                + bytes(cofferdam_verdict::capacity::map::ADDRESSES_V6),
        });
        capacity.push(self.fullest(limits.partition_bytes(limits.flow_sets())));
        capacity
    }

    /// Mode of all policies in what is in force.
    fn enforcement(&self) -> output::Enforcement {
        let in_force = self.enforcer.inventory();
        match in_force.map_or(self.config.enforcement.into(), Inventory::enforcement) {
            Mode::Enforce => output::Enforcement::Enforce,
            Mode::Audit => output::Enforcement::Audit,
        }
    }

    /// Namespaces that are on audit by themselves in what is in force.
    fn audited_namespaces(&self) -> Vec<String> {
        let Some(inventory) = self.enforcer.inventory() else {
            return Vec::new();
        };
        (inventory.namespaces().iter())
            .filter(|(_, namespace)| namespace.enforcement == Mode::Audit)
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Bytes of the kernel's maps, as the kernel accounts for them.
    fn memory_bytes(&self) -> u64 {
        self.enforcer.map_bytes().unwrap_or_else(|error| {
            tracing::error!("{}", chain(&error));
            0
        })
    }

    /// Returns what metrics are made of.
    pub(super) fn facts(&mut self) -> Facts {
        let mut endpoints: BTreeMap<EndpointState, u64> = BTreeMap::new();
        for managed in self.endpoints.values().chain(self.leaving.values()) {
            *endpoints.entry(managed.state).or_default() += 1;
        }
        for stranger in self.strangers() {
            *endpoints.entry(stranger.state).or_default() += 1;
        }
        let counters: Result<Vec<Counter>, KernelError> = self.enforcer.kernel().counters();
        let counters = counters.unwrap_or_else(|error| {
            tracing::error!("{}", chain(&error));
            Vec::new()
        });
        let usage = (self.enforcer.compiled()).map_or(&[][..], |compiled| &compiled.usage);
        let table_bytes = usage.iter().map(|usage| usage.bytes).sum();
        let interfaces = &self.interfaces.by_index;
        let out_of_place = self
            .out_of_place
            .iter()
            .filter(|ifindex| interfaces.contains_key(ifindex));
        let hooks_out_of_place = out_of_place.count() as u64;
        Facts {
            gathered: Instant::now(),
            counters,
            hits: self.enforcer.hits(),
            rules: self.enforcer.rules_in_force(),
            revision: self.enforcer.revision(),
            table_age: self.enforcer.in_force_since().map(|since| since.elapsed()),
            table_bytes,
            // The clock may have been set back.
            verified_age: (self.verified_at).map(|at| at.elapsed().unwrap_or_default()),
            is_enforced: self.is_enforced(),
            is_ready: self.obstacles().is_empty(),
            accepted: self.documents.accepted(),
            rejected: self.documents.rejected(),
            endpoints: EndpointState::ALL
                .map(|state| (state, endpoints.get(&state).copied().unwrap_or(0)))
                .to_vec(),
            capacity: self.capacity(),
            flows: self.flow_fill(),
            memory_bytes: self.memory_bytes(),
            hooks_out_of_place,
            tamper_events: self.tamper_events,
            bypassed: self.bypassed().len() as u64,
            guard_dropped: self.guarding.dropped(),
            is_saved: self.unsaved().next().is_none(),
            enforcement: self.enforcement(),
            audited_namespaces: self.audited_namespaces().len(),
            uplinks: self.early_drops.report(),
            kubernetes: self.documents.health().map(api_facts),
            etcd: self.documents.etcd_health().map(etcd_facts),
            lost_records: (self.recorder.outputs().lost())
                .map(|(output, count)| (output.to_owned(), count))
                .collect(),
        }
    }
}

/// Returns since when an API server has been away, and why; `None` while it answers.
fn away(health: &Health) -> Option<String> {
    let since = time::rfc3339(health.away_since?);
    let problem = health.problem.as_deref().unwrap_or_default();
    Some(format!(
        "the API server has been away since {since}: {problem}; what it said before stays in \
         force"
    ))
}

/// Returns what is wrong with an etcd and since when; nothing while all is well.
fn etcd_problems(health: &etcd::Health) -> Vec<String> {
    let told = |what: &str, since: Option<SystemTime>, problem: Option<&String>, then: &str| {
        let since = time::rfc3339(since?);
        Some(format!("{what} since {since}: {}; {then}", problem?))
    };
    let (since, problem) = (health.away_since, health.problem.as_ref());
    let then = "what it said before stays in force";
    let away = told("etcd has been away", since, problem, then);
    let failing = health.announcing.as_ref().and_then(|announcing| {
        let what = "this node's endpoints cannot be put into etcd";
        let (since, problem) = (announcing.failing_since, announcing.problem.as_ref());
        told(what, since, problem, "other nodes may not know them")
    });
    away.into_iter().chain(failing).collect()
}

fn etcd_status(health: etcd::Health) -> EtcdStatus {
    let announcing = health.announcing.as_ref();
    EtcdStatus {
        complete: health.is_complete,
        host: health.host,
        away_since: health.away_since.map(time::rfc3339),
        problem: health.problem,
        documents: health.keys.documents as u64,
        endpoints: health.keys.endpoints as u64,
        published: announcing.map(|one| one.endpoints as u64),
        unpublished_since: (announcing.and_then(|one| one.failing_since)).map(time::rfc3339),
        publish_problem: announcing.and_then(|one| one.problem.clone()),
    }
}

fn etcd_facts(health: etcd::Health) -> EtcdFacts {
    let announcing = health.announcing.as_ref();
    let mut keys = vec![
        ("documents", health.keys.documents as u64),
        ("endpoints", health.keys.endpoints as u64),
    ];
    keys.extend(announcing.map(|one| ("published", one.endpoints as u64)));
    EtcdFacts {
        away_since: health.away_since.map_or(0, epoch_seconds),
        unpublished_since: announcing.map(|one| one.failing_since.map_or(0, epoch_seconds)),
        keys,
    }
}

fn epoch_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn api_status(health: Health) -> ApiStatus {
    let objects = health.objects.into_iter();
    ApiStatus {
        complete: health.is_complete,
        away_since: health.away_since.map(time::rfc3339),
        problem: health.problem,
        objects: objects
            .map(|(kind, count)| (kind.to_string(), count as u64))
            .collect(),
    }
}

fn api_facts(health: Health) -> ApiFacts {
    let objects = health.objects.into_iter();
    ApiFacts {
        away_since: health.away_since.map_or(0, epoch_seconds),
        objects: objects
            .map(|(kind, count)| (kind.as_str(), count as u64))
            .collect(),
    }
}

/// Returns the release of the kernel.
pub(crate) fn kernel_release() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}
