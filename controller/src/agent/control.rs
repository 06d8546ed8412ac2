//! The control socket: who may ask, and how a request travels.

use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::protocol::{Envelope, MAX_REQUEST, Reply, Request, VERSION};
use crate::reconcile::Message;

/// How long a caller may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers requests for as long as the agent runs.
pub(super) async fn serve(
    listener: UnixListener,
    messages: Sender<Message>,
    is_enforced: watch::Receiver<bool>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (messages, is_enforced) = (messages.clone(), is_enforced.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &messages, is_enforced).await {
                        tracing::debug!("a caller went away: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, say: some will be closed.
                tracing::error!("cannot take a request: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    messages: &Sender<Message>,
    is_enforced: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if caller != 0 {
        tracing::warn!(uid = caller, "a request was refused: only root may ask");
        return answer(&mut stream, &failed("only root may ask the agent")).await;
    }
    let mut line = Vec::new();
    let (read, _) = stream.split();
    let mut read = BufReader::new(read.take(MAX_REQUEST as u64));
    timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice::<Envelope>(&line) {
        Ok(envelope) if envelope.version == VERSION => {
            ask(envelope.request, messages, is_enforced).await
        }
        Ok(envelope) => failed(&format!(
            "the command speaks version {} and the agent {VERSION}: restart the agent",
            envelope.version
        )),
        Err(error) => failed(&format!("the request is not understood: {error}")),
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

async fn ask(
    request: Request,
    messages: &Sender<Message>,
    mut is_enforced: watch::Receiver<bool>,
) -> Reply {
    if let Request::Status {
        wait_enforced_ms: Some(milliseconds),
    } = request
    {
        let enforced = is_enforced.wait_for(|is_enforced| *is_enforced);
        // Whether it came in time is in the answer.
        _ = timeout(Duration::from_millis(milliseconds), enforced).await;
    }
    let (sender, reply) = oneshot::channel();
    if messages.send(Message::Request(request, sender)).is_err() {
        return failed("the agent is stopping");
    }
    reply
        .await
        .unwrap_or_else(|_| failed("the agent is stopping"))
}
