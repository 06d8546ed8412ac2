//! The control socket: who may ask, and how a request travels.

use cofferdam_syntax::diagnostic::chain;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use cofferdam_answers::Reply;
use cofferdam_protocol::output::RecordType;
use cofferdam_protocol::{Envelope, MAX_REQUEST, Observation, Request, VERSION};
use cofferdam_sources::etcd::Etcd;
use cofferdam_telemetry::metrics::{CniCommand, Timings};
use cofferdam_telemetry::records::{Followed, Recorder};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::pods::PodsOfNode;
use crate::reconcile::Message;

/// Longest time for a caller to send its request, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest time for which the agent reads on from a caller that it has refused.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sources of the answers to requests.
#[derive(Clone)]
pub(super) struct Known {
    /// The reconciling thread.
    pub(super) messages: Sender<Message>,
    /// `true` while everything is enforced.
    pub(super) is_enforced: watch::Receiver<bool>,
    /// Flow records.
    pub(super) recorder: Arc<Recorder>,
    /// File of the flow log, if there is one.
    pub(super) flow_log: Option<PathBuf>,
    /// Durations of the CNI plugin's requests.
    pub(super) timings: Timings,
    /// Pods as the API server knows them; `None` without one.
    pub(super) pods: Option<PodsOfNode>,
    /// The etcd that documents come from; `None` without one.
    pub(super) etcd: Option<Arc<Etcd>>,
}

/// Returns the command of the CNI plugin that a request comes of, if any does.
fn cni_command(request: &Request) -> Option<CniCommand> {
    match request {
        Request::EndpointAdd(spec) if spec.member_of.is_some() => Some(CniCommand::Add),
        Request::EndpointList => Some(CniCommand::Check),
        Request::Detach(_) => Some(CniCommand::Del),
        Request::Collect(_) => Some(CniCommand::Gc),
        _ => None,
    }
}

/// Answers requests for as long as the agent runs.
pub(super) async fn serve(listener: UnixListener, known: Known) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let known = known.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, known).await {
                        tracing::debug!("a caller went away: {}", chain(&error));
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, say: some will be closed.
                tracing::error!("cannot take a request: {}", chain(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, known: Known) -> std::io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if caller != 0 {
        tracing::warn!(uid = caller, "a request was refused: only root may ask");
        answer(&mut stream, &failed("only root may ask the agent")).await?;
        // Closed with something unread, the caller would get an error for an answer.
        stream.shutdown().await?;
        let mut unread = stream.take(MAX_REQUEST as u64);
        let mut nowhere = tokio::io::sink();
        let drained = tokio::io::copy(&mut unread, &mut nowhere);
        return timeout(LAST_WORDS, drained).await?.map(drop);
    }
    let mut line = Vec::new();
    let (read, _) = stream.split();
    let mut read = BufReader::new(read.take(MAX_REQUEST as u64));
    timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice::<Envelope>(&line) {
        Ok(envelope) if envelope.version == VERSION => match envelope.request {
            Request::Observe(asked) => {
                return observe(&mut stream, &known, asked).await;
            }
            request => ask(request, known).await,
        },
        Ok(envelope) => failed(&format!(
            "the command speaks version {} and the agent {VERSION}: restart the agent",
            envelope.version
        )),
        Err(error) => failed(&format!(
            "the request is not understood: {}; command and agent differ in version: \
             restart the agent",
            chain(&error)
        )),
    };
    answer(&mut stream, &reply).await
}

fn failed(message: &str) -> Reply {
    Reply::Failed {
        message: message.to_owned(),
    }
}

async fn answer(stream: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await?
}

/// Sends records: those that are kept, and perhaps those to come.
async fn observe(
    stream: &mut UnixStream,
    known: &Known,
    mut asked: Observation,
) -> std::io::Result<()> {
    let is_of_flows = [RecordType::New, RecordType::Ended]
        .iter()
        .any(|kind| asked.filter.is_for_type(*kind));
    let _flows = (asked.follow && is_of_flows).then(|| known.recorder.want_flows());
    asked.with_log &= known.flow_log.is_some();
    let Followed {
        missing_until,
        recent,
        mut coming,
    } = known.recorder.follow(&asked);
    if let Some(path) = known.flow_log.clone().filter(|_| asked.with_log) {
        let log = Reply::FlowLog {
            path,
            until: missing_until,
        };
        answer(stream, &log).await?;
    }
    for record in recent {
        let record = Reply::Record(Box::new((*record).clone()));
        answer(stream, &record).await?;
    }
    if !asked.follow {
        return answer(stream, &Reply::End).await;
    }
    loop {
        let reply = tokio::select! {
            coming = coming.recv() => match coming {
                Ok(record) if asked.is_for(&record) => {
                    Reply::Record(Box::new((*record).clone()))
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(count)) => {
                    let message = format!("{count} records were lost: they are not read fast enough");
                    return answer(stream, &failed(&message)).await;
                }
                Err(RecvError::Closed) => return answer(stream, &Reply::End).await,
            },
            () = gone(stream) => return Ok(()),
        };
        answer(stream, &reply).await?;
    }
}

/// Waits until the caller has gone. It says nothing more: there is only its end to be
/// read.
async fn gone(stream: &UnixStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(1) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

async fn ask(request: Request, known: Known) -> Reply {
    let Known {
        messages,
        mut is_enforced,
        timings,
        pods,
        etcd,
        ..
    } = known;
    if let Request::Status {
        wait_enforced_ms: Some(milliseconds),
    } = request
    {
        let enforced = is_enforced.wait_for(|is_enforced| *is_enforced);
        // Whether it came in time is in the answer.
        _ = timeout(Duration::from_millis(milliseconds), enforced).await;
    }
    let began = Instant::now();
    let command = cni_command(&request);
    let refusal = match (&request, pods) {
        (Request::EndpointAdd(spec), Some(pods)) => pods.refusal(spec).await,
        _ => None,
    };
    let etcd = etcd.filter(|_| matches!(request, Request::Sync));
    if let Some(etcd) = &etcd {
        etcd.catch_up().await;
    }
    let reply = match refusal {
        Some(reply) => reply,
        None => pass_on(request, &messages).await,
    };
    if let Some(etcd) = &etcd {
        // Another node's sync after this one has this node's endpoints.
        etcd.announced().await;
    }
    if let Some(command) = command {
        let is_done = !matches!(reply, Reply::Failed { .. } | Reply::TryAgain { .. });
        timings.answered(command, is_done, began.elapsed());
    }
    reply
}

/// Has the reconciling thread answer a request.
async fn pass_on(request: Request, messages: &Sender<Message>) -> Reply {
    let (sender, reply) = oneshot::channel();
    if messages.send(Message::Request(request, sender)).is_err() {
        return failed("the agent is stopping");
    }
    let reply = reply.await;
    reply.unwrap_or_else(|_| failed("the agent is stopping"))
}
