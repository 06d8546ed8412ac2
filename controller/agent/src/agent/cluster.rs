//! Tells the cluster of this node, through the API server: a NodeStatus, Events about policies
//! and pods, and a taint until the agent is ready. Nodes that share an etcd put their status there
//! ([`sharing`]).
//!
//! A thread of its own asks the reconciling thread for a snapshot once a second and writes what
//! is new, at a bounded rate. What is written, and when, is decided by the modules below, which
//! know no connection.
//!
//! Invariant: nothing waits for this thread. A write that fails or takes long changes nothing
//! about what is in force, and is tried again later.

mod events;
pub(super) mod sharing;
mod status;
mod taint;

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use cofferdam_documents::Kind;
use cofferdam_sources::kubernetes::{Kubernetes, Resource, WriteError, Writer};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::reconcile::{Message, Standing};

use events::{Due, Events};
use status::{Server, Status};
use taint::{Taint, TaintChange};

/// Time from one look at the node's state to the next.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// Longest wait for the state of a node whose agent starts.
const UNTIL_SAID: Duration = Duration::from_secs(2);
/// Tries of a change that others come before each time, at once.
const TRIES: usize = 5;

const NODES: Resource = Resource {
    api_version: "v1",
    plural: "nodes",
};
const EVENTS: Resource = Resource {
    api_version: events::API_VERSION,
    plural: "events",
};

/// The state of the thread that tells.
pub(super) struct Teller {
    api: Arc<Kubernetes>,
    node: String,
    messages: Sender<Message>,
    writer: Writer,
    /// `None` if nothing is to be reported.
    reports: Option<(Status, Events)>,
    taint: Option<Taint>,
    /// `true` once pods can be added here.
    listens: Arc<AtomicBool>,
    /// The failure that was logged last, by what failed.
    told: BTreeMap<&'static str, String>,
}

/// Starts the thread, where there is anything to tell. The agent is not ready before `listens`
/// says so: a pod that comes earlier would have to wait.
pub(super) fn start(
    api: Arc<Kubernetes>,
    config: &Config,
    messages: Sender<Message>,
    listens: Arc<AtomicBool>,
) -> Result<()> {
    let settings = &config.kubernetes;
    if !settings.report && !settings.taint {
        return Ok(());
    }
    let kubeconfig = Some(&settings.kubeconfig).filter(|path| !path.is_empty());
    let node = config.node.name.clone();
    let teller = Teller {
        api,
        messages,
        writer: Writer::new(kubeconfig.map(Into::into)),
        reports: settings
            .report
            .then(|| (Status::new(&node, Server::Kubernetes), Events::new(&node))),
        taint: settings.taint.then(Taint::default),
        listens,
        node,
        told: BTreeMap::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    thread::Builder::new()
        .name("cluster".to_owned())
        .spawn(move || runtime.block_on(teller.run()))
        .context("cannot start a thread")?;
    Ok(())
}

/// Returns the state of the node, `Some(None)` if it does not come in time, and `None` if the agent
/// has ended.
async fn look(messages: &Sender<Message>) -> Option<Option<Standing>> {
    let (reply, answer) = oneshot::channel();
    messages.send(Message::Standing(reply)).ok()?;
    match timeout(UNTIL_SAID, answer).await {
        Ok(answer) => Some(Some(answer.ok()?)),
        // It starts, or does something that takes long.
        Err(_) => Some(None),
    }
}

/// Returns the number of nodes that there are, as far as documents say.
fn nodes(standing: &Standing) -> usize {
    (standing.in_force.as_ref()).map_or(0, |one| one.documents.nodes().len())
}

impl Teller {
    async fn run(mut self) {
        loop {
            let Some(standing) = look(&self.messages).await else {
                return;
            };
            self.keep_taint(standing.as_ref()).await;
            if let Some(standing) = &standing
                && let Some((mut status, mut events)) = self.reports.take()
            {
                self.tell_status(&mut status, standing).await;
                self.tell_events(&mut events, standing).await;
                self.reports = Some((status, events));
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Logs a failure, unless it is the one from before.
    fn note(&mut self, what: &'static str, result: &Result<(), WriteError>) {
        match result {
            Ok(()) => {
                if self.told.remove(what).is_some() {
                    tracing::info!("{what} can be written again");
                }
            }
            Err(error) => {
                let problem = chain(&error);
                if self.told.get(what) != Some(&problem) {
                    tracing::warn!(
                        "cannot write {what}: {problem}; it is tried again, and what is in force \
                         does not depend on it"
                    );
                    self.told.insert(what, problem);
                }
            }
        }
    }

    async fn tell_status(&mut self, status: &mut Status, standing: &Standing) {
        let progress = self.api.progress();
        let is_of_api = |kind, namespace: Option<&str>, name: &str| {
            self.api.uid(kind, namespace, name).is_some()
        };
        status.look(standing, &progress, is_of_api);
        let now = Instant::now();
        if !status.is_due(now) {
            return;
        }
        let uid = self.api.uid(Kind::Node, None, &self.node);
        let object = status.object(uid.as_deref(), SystemTime::now());
        let written = self
            .writer
            .apply(status::RESOURCE, &self.node, &object)
            .await;
        match written {
            Err(WriteError::Missing) => {
                status.not_installed(Instant::now());
            }
            written => {
                status.written(written.is_ok(), nodes(standing), Instant::now());
                self.note("the NodeStatus", &written);
            }
        }
    }

    async fn tell_events(&mut self, events: &mut Events, standing: &Standing) {
        let uid = |kind, namespace: Option<&str>, name: &str| self.api.uid(kind, namespace, name);
        let problems = events::problems(standing, &self.node, uid);
        for due in events.due(problems, standing, Instant::now()) {
            let written = self.tell_event(&due).await;
            let is_own = match &written {
                Ok(is_own) => Some(*is_own),
                Err(_) => None,
            };
            events.told(&due.name, is_own, Instant::now());
            let written = written.map(drop);
            self.note("an Event", &written);
            if written.is_err() {
                // The others wait for the next look as well.
                return;
            }
        }
    }

    /// Makes an Event, or counts it once more. Returns `true` if this agent has made it.
    async fn tell_event(&mut self, due: &Due) -> Result<bool, WriteError> {
        let namespace = Some(due.namespace());
        if due.count > 1 {
            let series = due.series(SystemTime::now());
            let merged = self
                .writer
                .merge(EVENTS, namespace, &due.name, &series)
                .await;
            match merged {
                // The server keeps Events for a while only.
                Err(WriteError::Missing) => {}
                merged => return merged.map(|()| true),
            }
        }
        let object = due.object(&self.node, SystemTime::now());
        match self.writer.create(EVENTS, namespace, &object).await {
            Ok(()) => Ok(true),
            Err(WriteError::Exists) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn keep_taint(&mut self, standing: Option<&Standing>) {
        let Some(taint) = &mut self.taint else {
            return;
        };
        let is_ready = self.listens.load(Ordering::Relaxed)
            && standing.is_some_and(|one| one.is_enforced || one.obstacles.is_empty());
        let Some(change) = taint.next(is_ready) else {
            return;
        };
        let written = self.change_taints(change).await;
        self.note("the taint of the node", &written);
        if written.is_ok()
            && let Some(taint) = &mut self.taint
        {
            taint.done(change);
        }
    }

    /// Changes the own taint and leaves all others, whoever changes them meanwhile.
    async fn change_taints(&mut self, change: TaintChange) -> Result<(), WriteError> {
        let mut refused = Err(WriteError::Conflict);
        for _ in 0..TRIES {
            let node: Value = self.writer.get(NODES, &self.node).await?;
            let Some(patch) = taint::patch(&node, change) else {
                return Ok(());
            };
            let written = self.writer.merge(NODES, None, &self.node, &patch).await;
            match written {
                Err(WriteError::Conflict) => refused = written,
                written => return written,
            }
        }
        refused
    }
}
