//! Asks a running agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_answers::Reply;
use cofferdam_protocol::{Envelope, Request, VERSION, socket_path};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two tries to reach an agent that is not up yet.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Reasons for which a command has no answer of the agent.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}: is it running, and with this run directory?", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent broke off: {0}")]
    BrokenOff(String),
    /// It speaks another version.
    #[error(
        "the agent's answer is not understood: {0}; command and agent differ in version: restart the agent"
    )]
    NotUnderstood(String),
    /// The answer took too long.
    #[error("no answer within {0:?}")]
    TooLate(Duration),
    /// It was not done.
    #[error("{0}")]
    Refused(String),
}

/// The answers to one request.
#[derive(Debug)]
pub struct Answers {
    lines: Lines<BufReader<OwnedReadHalf>>,
    // Closed, the agent would take the caller for gone.
    _write: tokio::net::unix::OwnedWriteHalf,
}

impl Answers {
    /// The next answer.
    ///
    /// # Errors
    /// When there is none, or the agent could not do what was asked.
    pub async fn next(&mut self) -> Result<Reply, ClientError> {
        let broken = |what: String| ClientError::BrokenOff(what);
        let line = self
            .lines
            .next_line()
            .await
            .map_err(|error| broken(error.to_string()))?
            .ok_or_else(|| broken("it closed the connection".to_owned()))?;
        let reply = serde_json::from_str(&line);
        match reply.map_err(|error| ClientError::NotUnderstood(error.to_string()))? {
            Reply::Failed { message } | Reply::TryAgain { message } => {
                Err(ClientError::Refused(message))
            }
            reply => Ok(reply),
        }
    }
}

/// Sends a request to the agent of a run directory.
///
/// # Errors
/// When nobody listens there.
pub async fn send(run_dir: &Path, request: Request) -> Result<Answers, ClientError> {
    let path = socket_path(run_dir);
    let unreachable = |source| ClientError::NoAgent {
        path: path.clone(),
        source,
    };
    let stream = UnixStream::connect(&path).await.map_err(unreachable)?;
    let (read, mut write) = stream.into_split();
    let envelope = Envelope {
        version: VERSION,
        request,
    };
    let mut line = serde_json::to_vec(&envelope).map_err(|error| unreachable(error.into()))?;
    line.push(b'\n');
    // An agent that refuses the caller may have closed already, with its reason.
    _ = write.write_all(&line).await;
    Ok(Answers {
        lines: BufReader::new(read).lines(),
        _write: write,
    })
}

/// Asks once, and waits for the answer for a while.
///
/// # Errors
/// When there is no answer.
pub async fn ask(
    run_dir: &Path,
    request: Request,
    patience: Duration,
) -> Result<Reply, ClientError> {
    let work = async { send(run_dir, request).await?.next().await };
    timeout_at(Instant::now() + patience, work)
        .await
        .unwrap_or(Err(ClientError::TooLate(patience)))
}

/// Waits until an agent is up and enforces, or the time is over: the last status.
///
/// # Errors
/// When no agent came up in time.
pub async fn wait_enforced(run_dir: &Path, patience: Duration) -> Result<Reply, ClientError> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Request::Status {
            wait_enforced_ms: Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        };
        // The agent answers when the time is over; its answer must still arrive.
        let answer = ask(run_dir, request, left + Duration::from_secs(5)).await;
        match answer {
            Err(ClientError::NoAgent { .. } | ClientError::BrokenOff(_))
                if Instant::now() + BETWEEN_TRIES < deadline =>
            {
                sleep(BETWEEN_TRIES).await;
            }
            answer => return answer,
        }
    }
}
