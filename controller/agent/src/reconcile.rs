//! The loop towards the desired state.
//!
//! One thread owns the kernel side and everything that is known; all others talk to
//! it by [`Message`]s. Whatever has arrived when it turns to its messages is dealt
//! with at once, so that many changes become one table.
//!
//! Invariant: whoever is answered "enforced" was so after the table in force knew what
//! they asked for, and had been read back.

mod announcing;
mod attachments;
mod bypassing;
mod early_drop;
mod endpoints;
mod explain;
mod fills;
mod guarding;
mod looking;
mod placing;
mod pods;
mod publishing;
mod reading;
mod reload;
mod report;
mod standing;
mod strangers;
mod unused;
mod uplinks;

pub(crate) use report::kernel_release;
pub use standing::{DocumentsInForce, PolicyFinding, ServersProgress, Standing};

use cofferdam_syntax::diagnostic::chain;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use cofferdam_answers::Reply;
use cofferdam_protocol::output::{
    BypassReport, Diagnostic, EndpointState, RemoveReport, UnusedRules,
};
use cofferdam_protocol::{EndpointSpec, Request};
use cofferdam_sources::files::{Sources, Watches};
use cofferdam_telemetry::hits;
use cofferdam_telemetry::metrics::{Facts, Timings};
use cofferdam_telemetry::outputs::Outputs;
use cofferdam_telemetry::records::Recorder;
use cofferdam_telemetry::snapshots::Snapshots;
use cofferdam_telemetry::tally::Tally;
use cofferdam_telemetry::usage::Usage;
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::desired::Made;
use crate::endpoint::{Endpoint, EndpointId, SpecError, check};
use crate::enforcer::{Depth, Enforcer};
use crate::links::Links;
use crate::netlink::{self, Interfaces, LinkError, Looked, Netlink, look_inside};
use crate::state::{self, Store};

use early_drop::EarlyDrops;
use explain::Inquiry;
use guarding::Guarding;
use looking::BETWEEN_LOOKS;
use reading::Documents;
pub use reading::Servers;
use uplinks::Uplinks;

/// Least time from one table to the next when nobody but files asks for it: each table costs
/// every flow one look at the policies. A change after a longer pause is read at once.
const BETWEEN_TABLES: Duration = Duration::from_millis(100);
/// Endpoints that come closer together than this are a burst.
const BURST: Duration = Duration::from_millis(50);
/// Time in which a runtime mostly has an endpoint added on an interface that has come up.
const SETTLING: Duration = Duration::from_millis(150);

/// Longest wait for outputs to pass on the records that there are: one that is stuck must not
/// hold up what else is to be done.
const UNTIL_FLUSHED: Duration = Duration::from_secs(1);

/// Message to the reconciling thread: news, or a question.
#[derive(Debug)]
pub enum Message {
    /// A request of the control socket, other than for flow records.
    Request(Request, oneshot::Sender<Reply>),
    /// The configuration was read again.
    Reload(Box<Config>),
    /// Files may have changed, last before this time.
    SourcesChanged(Instant),
    /// Objects of the API server, or texts of the etcd, have changed, last before this time.
    ObjectsChanged(Instant),
    /// Interfaces or addresses may have changed.
    LinksChanged,
    /// Filters of the interface with this index may have changed.
    FiltersChanged(u32),
    /// The agent listens: attachments that ended before are read from their notes.
    RemovalsNoted,
    /// Time to look at everything, whether anybody said so or not.
    LookAround,
    /// Gathers the facts that metrics are made of.
    Metrics(oneshot::Sender<Facts>),
    /// Reasons for which the agent is not ready; an empty list if it is.
    Readiness(oneshot::Sender<Vec<String>>),
    /// Gathers the state that the cluster is told.
    Standing(oneshot::Sender<Standing>),
    /// End.
    Stop {
        /// `true` if enforcement ends as well.
        detach: bool,
    },
}

/// Arguments of the reconciling thread.
pub struct Start {
    /// The configuration.
    pub config: Arc<Config>,
    /// Source of news about changed files.
    pub watches: Arc<Watches>,
    /// Servers whose objects and texts count as documents.
    pub servers: Servers,
    /// Names for those who read records.
    pub names: Snapshots,
    /// Set to `true` while everything is enforced, for tasks that wait for that.
    pub enforced: watch::Sender<bool>,
    /// Outputs that take records beside followers.
    pub outputs: Outputs,
    /// Durations for metrics.
    pub timings: Timings,
    /// Counts of records by workload.
    pub tally: Arc<Tally>,
    /// Facts for metrics, as they are when a sync is answered.
    pub facts: watch::Sender<Option<Arc<Facts>>>,
}

/// An endpoint, and how far it is in force.
#[derive(Debug)]
struct Managed {
    endpoint: Arc<Endpoint>,
    state: EndpointState,
    /// Reason for which it is not enforced; `None` if it is.
    problem: Option<String>,
    /// `true` if it is left out of the table because no table can be made with it.
    is_refused: bool,
}

/// The next incarnation, the endpoints, those that are leaving, their links, and interfaces
/// that were released.
type SavedEndpoints = (
    u32,
    Vec<Arc<Endpoint>>,
    Vec<Arc<Endpoint>>,
    Links,
    BTreeMap<u32, [u8; 6]>,
);

/// Everything that is known.
pub struct Reconciler {
    config: Arc<Config>,
    store: Store,
    boot_id: String,
    namespace: u64,
    netlink: Netlink,
    interfaces: Interfaces,
    /// `true` if they were listed after all messages that are being dealt with.
    are_links_listed: bool,
    /// `true` if a change of interfaces or addresses concerns what is in force and has not been
    /// dealt with: of an endpoint's, or of the node's own addresses. Interfaces that come up
    /// before their endpoints are added do not.
    is_concerned: bool,
    documents: Documents,
    /// Time of the last change of files or objects that are not read yet, because the table
    /// in force is newer than [`BETWEEN_TABLES`].
    unread: Option<Instant>,
    /// `true` if files are among them.
    are_files_unread: bool,
    /// `true` if something that was read waits for another table.
    needs_table: bool,
    /// Time from which places in the table in force are looked for again.
    place_from: Instant,
    /// Time of the first places since everything was last read back, and documents saved.
    unfinished: Option<Instant>,
    made: Made,
    /// The documents of the newest state that is in force; `None` before the first.
    in_force: Option<DocumentsInForce>,
    endpoints: BTreeMap<EndpointId, Managed>,
    /// Endpoints that were removed or replaced while their interface is still there, by
    /// its index: nothing passes until it has gone.
    leaving: BTreeMap<u32, Managed>,
    /// Notes about links: of the endpoints, and of earlier ones.
    links: Links,
    /// Interfaces on which links are still to be put.
    unlinked: BTreeSet<u32>,
    /// MAC addresses of interfaces that are open because somebody released them, by their
    /// indexes.
    released: BTreeMap<u32, [u8; 6]>,
    guarding: Guarding,
    uplinks: Uplinks,
    early_drops: EarlyDrops,
    /// The state of endpoints as it was last saved.
    saved_endpoints: Option<SavedEndpoints>,
    /// Reason, if it could not be saved.
    unsaved: Option<String>,
    /// Reason, if what is pinned has gone and could not be pinned again.
    unpinned: Option<String>,
    next_incarnation: u32,
    enforcer: Enforcer,
    warnings: Vec<Diagnostic>,
    /// Reason for which the newest desired state is not in force; `None` if it is.
    problem: Option<String>,
    verified_at: Option<SystemTime>,
    /// Amount of the kernel's state that is read back the next time.
    depth: Depth,
    tamper_events: u64,
    looked_at_hooks: Instant,
    /// Time from the last look at the hooks to the next.
    between_looks: Duration,
    looked_at_pins: Instant,
    /// Time from which links are put on: until then endpoints may come that would wait for one.
    link_from: Instant,
    /// Number of looks at the hooks so far; it wraps.
    looks: u32,
    /// First interface whose filters are looked at the next time.
    next_filters: u32,
    /// Endpoints whose flow table is nearly full.
    filling: BTreeSet<EndpointId>,
    /// Interfaces of endpoints whose hooks could not be put right.
    out_of_place: BTreeSet<u32>,
    timings: Timings,
    facts: watch::Sender<Option<Arc<Facts>>>,
    /// Time of each rule's last decision.
    usage: Usage,
    enforced: watch::Sender<bool>,
    names: Snapshots,
    recorder: Arc<Recorder>,
}

/// Requests that are answered when everything they asked for has been tried.
enum Waiting {
    Sync,
    Status,
    Added(EndpointId),
    Removed(RemoveReport),
    Bypassed(BypassReport),
    List,
    Unused(UnusedRules),
    Failed(String),
}

impl Reconciler {
    /// Loads the programs, and takes up again what the last agent left.
    ///
    /// # Errors
    /// When the kernel or the file system lacks what is needed.
    pub fn start(start: Start) -> Result<(Self, Arc<Recorder>)> {
        let config = start.config;
        let store = Store::open(&config.state_dir)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot read the boot id")?
            .trim()
            .to_owned();
        let namespace = netlink::own_namespace().context("cannot look at the own namespace")?;
        let mut netlink = Netlink::open()?;
        let interfaces = netlink.interfaces()?;
        let remembered = match store.load::<state::Endpoints<Endpoint>>(state::ENDPOINTS) {
            Ok(remembered) => remembered.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("{}; endpoints must be added again", chain(&error));
                state::Endpoints::default()
            }
        };
        let names = start.names;
        let mut enforcer = Enforcer::open(&config, remembered.revision, names.clone())
            .context("cannot set up the kernel side")?;
        enforcer.set_timings(start.timings.clone());
        resume_hits(&mut enforcer, &store);
        let events = enforcer.kernel().events()?;
        let recorder = Arc::new(Recorder::new(
            events,
            names.clone(),
            start.tally,
            start.outputs,
        ));
        let ends = recorder.clone();
        (enforcer.kernel()).tell_ends(Box::new(move |record| ends.end(record)));
        let sources = Sources::new(&config.files(), Some(start.watches));
        let documents = Documents::start(sources, start.servers, &store, &config);
        let mut reconciler = Self {
            config,
            store,
            boot_id,
            namespace,
            netlink,
            interfaces,
            are_links_listed: false,
            is_concerned: false,
            documents,
            unread: None,
            are_files_unread: false,
            needs_table: false,
            place_from: Instant::now(),
            unfinished: None,
            made: Made::default(),
            in_force: None,
            endpoints: BTreeMap::new(),
            leaving: BTreeMap::new(),
            links: Links::default(),
            unlinked: BTreeSet::new(),
            released: BTreeMap::new(),
            guarding: Guarding::default(),
            uplinks: Uplinks::default(),
            early_drops: EarlyDrops::default(),
            saved_endpoints: None,
            unsaved: None,
            unpinned: None,
            next_incarnation: remembered
                .next_incarnation
                .max(enforcer.last_incarnation() + 1),
            enforcer,
            warnings: Vec::new(),
            problem: None,
            verified_at: None,
            depth: Depth::Whole,
            tamper_events: 0,
            looked_at_hooks: Instant::now(),
            between_looks: *BETWEEN_LOOKS.end(),
            looked_at_pins: Instant::now(),
            link_from: Instant::now() + BURST,
            looks: 0,
            next_filters: 0,
            filling: BTreeSet::new(),
            out_of_place: BTreeSet::new(),
            timings: start.timings,
            facts: start.facts,
            usage: Usage::new(SystemTime::now()),
            enforced: start.enforced,
            names,
            recorder: recorder.clone(),
        };
        reconciler.take_up(remembered);
        reconciler.tell_enforcement();
        reconciler.guard_uplinks();
        reconciler.drop_early();
        reconciler.tell_stamp_obstacles();
        reconciler.documents.read();
        reconciler.begin_guarding()?;
        reconciler.converge(&[], Instant::now());
        reconciler.depth = Depth::Change;
        Ok((reconciler, recorder))
    }

    /// Deals with messages until told to stop.
    pub fn run(mut self, messages: &Receiver<Message>) {
        self.tell_enforced();
        loop {
            self.do_chores();
            let first = match self.next_message(messages) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch: Vec<Message> = std::iter::once(first).chain(messages.try_iter()).collect();
            if let Some(detach) = self.deal_with(batch) {
                self.stop(detach);
                return;
            }
        }
    }

    /// Waits for a message, until there is something else to do.
    ///
    /// A link costs a grace period to attach, and the filters judge until then: links
    /// are put on one by one while nobody asks for anything, after a burst of endpoints
    /// that were added, and not while an interface is new that an endpoint may be added on.
    fn next_message(&mut self, messages: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        let has_unlinked = !self.unlinked.is_empty() || self.uplinks.has_unlinked();
        let attach_at = has_unlinked.then_some(self.link_from);
        let chore = self
            .enforcer
            .next_chore()
            .min(self.looked_at_hooks + self.between_looks);
        let chore = self.finish_at().map_or(chore, |at| at.min(chore));
        let chore = self.reading_at().map_or(chore, |at| at.min(chore));
        let next = attach_at.map_or(chore, |at| at.min(chore));
        let left = next.saturating_duration_since(Instant::now());
        let message = messages.recv_timeout(left);
        if matches!(message, Err(RecvTimeoutError::Timeout)) {
            if let Some(last) = self.unread
                && self.reading_at().is_some_and(|at| at <= Instant::now())
            {
                // What is unread is known already: this says only when to read it.
                return Ok(Message::ObjectsChanged(last));
            }
            if attach_at.is_some_and(|at| at <= Instant::now()) {
                match self.unlinked.pop_first() {
                    Some(ifindex) => self.attach(ifindex),
                    None => self.link_uplink(),
                }
            }
        }
        message
    }

    /// Deals with what has arrived. Tells whether to detach when it is time to stop.
    fn deal_with(&mut self, batch: Vec<Message>) -> Option<bool> {
        let arrived = Instant::now();
        self.are_links_listed = false;
        let mut waiting = Vec::new();
        let mut questions = Vec::new();
        let mut inquiries = Vec::new();
        let mut added = Vec::new();
        let mut ended = Vec::new();
        let mut filters = BTreeSet::new();
        let mut stop = None;
        let (mut links, mut is_changed, mut is_everything) = (false, false, false);
        let mut is_status = false;
        for message in &batch {
            if let Message::Reload(config) = message {
                self.reload(config);
                is_changed = true;
            }
        }
        let sources = self.look_at_sources(&batch);
        let mut looked = look_into_namespaces(&batch);
        for message in batch {
            match message {
                Message::Reload(_) | Message::SourcesChanged(_) | Message::ObjectsChanged(_) => {}
                Message::LinksChanged => links = true,
                Message::FiltersChanged(ifindex) => _ = filters.insert(ifindex),
                Message::RemovalsNoted => {
                    ended = self.read_removals();
                    is_changed |= !ended.is_empty();
                }
                Message::LookAround => {
                    is_everything = true;
                    links = true;
                    self.depth = Depth::Whole;
                    self.restore_pins(false);
                }
                Message::Stop { detach } => stop = Some(detach),
                Message::Request(request, reply) => match request {
                    Request::Sync => {
                        links = true;
                        is_changed = true;
                        waiting.push((Waiting::Sync, reply));
                    }
                    Request::Status { .. } => {
                        is_status = true;
                        waiting.push((Waiting::Status, reply));
                    }
                    Request::EndpointList => waiting.push((Waiting::List, reply)),
                    Request::UnusedRules { since_ms } => {
                        self.note_usage();
                        let since = since_ms.map(Duration::from_millis);
                        waiting.push((Waiting::Unused(self.unused_rules(since)), reply));
                    }
                    Request::EndpointAdd(spec) => {
                        if let Some(looked) = looked.pop_front() {
                            waiting.push((self.take_add(&spec, looked, &mut added), reply));
                        }
                        is_changed = true;
                    }
                    Request::EndpointRemove(removal) => {
                        let report = self.remove(&removal);
                        is_changed |= !report.removed.is_empty();
                        waiting.push((Waiting::Removed(report), reply));
                    }
                    Request::Detach(attachment) => {
                        let report = self.detach(&attachment);
                        is_changed |= !report.removed.is_empty();
                        waiting.push((Waiting::Removed(report), reply));
                    }
                    Request::Collect(collection) => {
                        let report = self.collect(&collection);
                        is_changed |= !report.removed.is_empty();
                        waiting.push((Waiting::Removed(report), reply));
                    }
                    Request::Bypass(bypass) => {
                        let bypassed = match self.bypass(&bypass) {
                            Ok(report) => Waiting::Bypassed(report),
                            Err(error) => Waiting::Failed(format!("{error:#}")),
                        };
                        waiting.push((bypassed, reply));
                    }
                    Request::Explain(question) => {
                        inquiries.push((Inquiry::Ends(question), reply));
                    }
                    Request::ExplainRecord(record) => {
                        inquiries.push((Inquiry::Record(record), reply));
                    }
                    Request::Observe(_) => {
                        let message = "records are not kept by this thread".to_owned();
                        waiting.push((Waiting::Failed(message), reply));
                    }
                },
                question => questions.push(question),
            }
        }
        if links {
            self.look_at_links();
            is_changed |= is_everything || !self.is_enforced();
        }
        is_changed |= std::mem::take(&mut self.is_concerned);
        if links || is_changed {
            self.guard_uplinks();
            self.drop_early();
        }
        if is_everything {
            self.tell_stamp_obstacles();
        }
        // Mostly the table in force has places for what servers say.
        let needs_more = is_changed
            || match sources {
                Look::None => false,
                Look::AtObjects(last) => !self.place_or_wait(last),
                Look::AtAll => true,
            };
        if needs_more {
            self.converge(&added, arrived);
            self.depth = Depth::Change;
        } else if links {
            self.keep_guard();
        }
        for attachment in &ended {
            self.forget_removal(attachment);
        }
        if is_status {
            // Nobody is told that all is well of what was so half a second ago.
            self.look_at_hooks();
        }
        // Whatever was reported until now is read before anybody is answered.
        self.recorder.drain();
        let is_sync = |(waiting, _): &(Waiting, _)| matches!(waiting, Waiting::Sync);
        if waiting.iter().any(is_sync) {
            self.recorder.outputs().flush(UNTIL_FLUSHED);
            if self.facts.receiver_count() > 0 {
                // Counters up to now are in the next page of metrics, however busy this thread
                // is.
                let facts = self.facts();
                self.facts.send_replace(Some(Arc::new(facts)));
            }
        }
        for (waiting, reply) in waiting {
            // Whoever asked may have gone.
            _ = reply.send(self.answer(waiting));
        }
        for (inquiry, reply) in inquiries {
            self.explain(inquiry, reply);
        }
        for question in questions {
            match question {
                Message::Metrics(reply) => _ = reply.send(self.facts()),
                Message::Readiness(reply) => _ = reply.send(self.obstacles()),
                Message::Standing(reply) => _ = reply.send(self.standing()),
                _ => {}
            }
        }
        for ifindex in filters {
            self.mend_interface(ifindex);
        }
        stop
    }

    /// Reads the documents again if a message asks for that.
    ///
    /// Before any endpoint is added: an address that a document gives to another workload
    /// is not for an endpoint that comes with it.
    ///
    /// Changed files alone wait until [`Reconciler::reading_at`]. A caller who waits for an
    /// answer does not wait for that: a sync reads the files, and an endpoint that comes or
    /// goes takes what has changed with it, so that a table that it needs is the only one.
    fn look_at_sources(&mut self, batch: &[Message]) -> Look {
        let is_everything = |message: &Message| matches!(message, Message::LookAround);
        let is_reload = |message: &Message| matches!(message, Message::Reload(_));
        let is_sync = |message: &Message| matches!(message, Message::Request(Request::Sync, _));
        let takes_along = |message: &Message| {
            matches!(
                message,
                Message::Request(
                    Request::EndpointAdd(_)
                        | Request::EndpointRemove(_)
                        | Request::Detach(_)
                        | Request::Collect(_),
                    _
                )
            )
        };
        for message in batch {
            let (last, is_of_files) = match message {
                Message::SourcesChanged(last) => (*last, true),
                Message::ObjectsChanged(last) => (*last, false),
                _ => continue,
            };
            // Mostly whoever changed a file asks for a sync as well.
            if !self.documents.have_seen(last) {
                self.unread = self.unread.max(Some(last));
                self.are_files_unread |= is_of_files;
            }
        }
        let is_due = self.reading_at().is_some_and(|at| at <= Instant::now());
        let is_wanted =
            |message: &Message| is_everything(message) || is_reload(message) || is_sync(message);
        let is_taken_along = self.unread.is_some() && batch.iter().any(takes_along);
        let is_asked = batch.iter().any(is_wanted);
        if batch.iter().any(is_everything) {
            self.documents.distrust_metadata();
        }
        let Some(last) = self.unread.filter(|_| is_due || is_taken_along || is_asked) else {
            if is_asked {
                self.documents.read();
                return Look::AtAll;
            }
            return Look::None;
        };
        self.unread = None;
        if std::mem::take(&mut self.are_files_unread) || is_asked {
            self.documents.read();
            return Look::AtAll;
        }
        self.documents.read_objects();
        match is_taken_along {
            true => Look::AtAll,
            false => Look::AtObjects(last),
        }
    }

    /// Returns the time at which changes that are unread are read, or `None` if there are none.
    fn reading_at(&self) -> Option<Instant> {
        self.unread?;
        let now = Instant::now();
        let table = next_table_at(self.enforcer.in_force_since(), now);
        if self.are_files_unread {
            return Some(table);
        }
        let places = now.max(self.place_from);
        match self.needs_table {
            true => Some(places.min(table)),
            false => Some(places),
        }
    }

    fn take_add(
        &mut self,
        spec: &EndpointSpec,
        looked: Looking,
        added: &mut Vec<EndpointId>,
    ) -> Waiting {
        self.link_from = self.link_from.max(Instant::now() + BURST);
        match self.add(spec, looked) {
            Ok(id) => {
                added.push(id.clone());
                Waiting::Added(id)
            }
            Err(error) => {
                let message = format!("{error:#}");
                tracing::warn!(
                    namespace = %spec.namespace,
                    name = %spec.name,
                    interface = %spec.interface,
                    "cannot add the endpoint: {message}"
                );
                Waiting::Failed(message)
            }
        }
    }

    fn answer(&self, waiting: Waiting) -> Reply {
        match waiting {
            Waiting::Sync => Reply::Sync(self.sync_report()),
            Waiting::Status => Reply::Status(self.status_report()),
            Waiting::List => Reply::Endpoints(self.endpoint_list()),
            Waiting::Unused(report) => Reply::UnusedRules(report),
            Waiting::Removed(report) => Reply::Removed(report),
            Waiting::Bypassed(report) => Reply::Bypassed(report),
            Waiting::Added(id) => match self.endpoints.get(&id) {
                Some(managed) if managed.is_refused => Reply::Failed {
                    message: managed.problem.clone().unwrap_or_default(),
                },
                Some(managed) => match self.guarding.problem() {
                    // Its packets may be dropped by the guard's rules.
                    Some(problem) => Reply::Failed {
                        message: problem.to_owned(),
                    },
                    None => Reply::Endpoint(self.endpoint_report(managed, false)),
                },
                None => Reply::Failed {
                    message: format!("the interface of {id} has gone"),
                },
            },
            Waiting::Failed(message) => Reply::Failed { message },
        }
    }

    /// Addresses of the node by its configuration and its interfaces, each once.
    fn node_addresses(&self) -> Vec<IpAddr> {
        let configured = self.config.node.addresses.iter().copied();
        let all: BTreeSet<IpAddr> = configured.chain(self.interfaces.own_addresses()).collect();
        all.into_iter().collect()
    }

    fn stop(mut self, detach: bool) {
        if self.unfinished.is_some() {
            self.finish_places();
        }
        self.recorder.drain();
        self.recorder.outputs().flush(UNTIL_FLUSHED);
        // With the number of the table, which alone is no reason to write.
        self.saved_endpoints = None;
        self.save_endpoints();
        if !detach {
            if let Err(error) = self.store.save(hits::FILE, &self.enforcer.saved_hits()) {
                tracing::error!("{}; counts of rules begin at 0 again", chain(&error));
            }
            return;
        }
        self.endpoints.clear();
        self.leaving.clear();
        self.save_endpoints();
        self.end_guarding();
        match self.enforcer.dismantle() {
            Ok(()) => tracing::info!("nothing is enforced any more"),
            Err(error) => tracing::error!("cannot take everything off: {}", chain(&error)),
        }
    }
}

/// Extent of a look at the sources of documents.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// None was taken.
    None,
    /// At what servers say, which last changed before this time; nobody waits for an answer.
    AtObjects(Instant),
    /// At whatever has to be in force before anybody is answered, or as soon as a table may be.
    AtAll,
}

/// Result of a look at the interface of an endpoint that is to be added, unless the call is
/// not valid.
type Looking = Result<Result<Looked, LinkError>, SpecError>;

/// Looks at the interfaces of all endpoints that are to be added, from within their namespaces.
fn look_into_namespaces(batch: &[Message]) -> VecDeque<Looking> {
    let specs = batch.iter().filter_map(|message| match message {
        Message::Request(Request::EndpointAdd(spec), _) => Some((check(spec), spec)),
        _ => None,
    });
    let specs: Vec<_> = specs.collect();
    let valid = specs.iter().filter(|(checked, _)| checked.is_ok());
    let places: Vec<_> = valid
        .map(|(_, spec)| (spec.netns.as_path(), spec.interface.as_str()))
        .collect();
    let mut looked = look_inside(&places).into_iter();
    let results = specs.into_iter().filter_map(|(checked, _)| match checked {
        Ok(()) => looked.next().map(Ok),
        Err(error) => Some(Err(error)),
    });
    results.collect()
}

/// Takes up the counts of rules that the agent before has saved. They count once: those of
/// an agent that is killed later are not known to the next one.
fn resume_hits(enforcer: &mut Enforcer, store: &Store) {
    match store.load(hits::FILE) {
        Ok(Some(saved)) => {
            enforcer.resume_hits(saved);
            if let Err(error) = store.remove(hits::FILE) {
                tracing::warn!("{}", chain(&error));
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!("{}; counts of rules begin at 0", chain(&error)),
    }
}

/// Returns the earliest time for the next table if no request asks for it. A table in force
/// since longer than [`BETWEEN_TABLES`] may be followed at once, and so may none.
fn next_table_at(in_force_since: Option<Instant>, now: Instant) -> Instant {
    in_force_since.map_or(now, |since| now.max(since + BETWEEN_TABLES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_change_is_in_force_at_once_and_those_behind_it_wait_for_their_turn() {
        let now = Instant::now();
        assert_eq!(next_table_at(None, now), now);
        let long_ago = now - BETWEEN_TABLES;
        assert_eq!(next_table_at(Some(long_ago), now), now);
        let lately = now - BETWEEN_TABLES / 4;
        assert_eq!(next_table_at(Some(lately), now), lately + BETWEEN_TABLES);
    }
}
