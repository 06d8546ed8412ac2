//! One question to an agent, without a runtime around it.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_protocol::{Envelope, Reply, Request, VERSION, socket_path};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use nix::unistd::Uid;
use thiserror::Error;

/// Longest answer, in bytes: that about a node full of endpoints is far shorter.
const MAX_ANSWER: u64 = 64 << 20;

/// Reason for no answer.
#[derive(Debug, Error)]
pub enum NoAnswer {
    /// No agent listens.
    #[error("no agent answers at {}", path.display())]
    Away {
        /// The socket.
        path: PathBuf,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// Another user listens.
    #[error("{} is not root's, but that of user {uid}: it is not believed", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The conversation broke off, or took too long.
    #[error("the agent at {} gave no answer", path.display())]
    BrokenOff {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The agent could not do what was asked.
    #[error("the agent refuses: {0}")]
    Refused(String),
    /// The agent cannot do it yet.
    #[error("the agent cannot yet: {0}")]
    NotYet(String),
}

/// A stream that is read until a deadline.
struct Until {
    stream: UnixStream,
    deadline: Instant,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Asks the agent of a run directory, and waits for its answer for a while.
///
/// # Errors
/// When there is no answer, or the agent could not do what was asked.
pub fn ask(run_dir: &Path, request: Request, patience: Duration) -> Result<Reply, NoAnswer> {
    let path = socket_path(run_dir);
    let deadline = Instant::now() + patience;
    let mut stream = open(&path, patience).map_err(|source| NoAnswer::Away {
        path: path.clone(),
        source,
    })?;
    let broken_off = |source| NoAnswer::BrokenOff {
        path: path.clone(),
        source,
    };
    let owner = getsockopt(&stream, PeerCredentials).map_err(|errno| broken_off(errno.into()))?;
    if owner.uid() != 0 && owner.uid() != Uid::effective().as_raw() {
        return Err(NoAnswer::Stranger {
            path,
            uid: owner.uid(),
        });
    }
    let envelope = Envelope {
        version: VERSION,
        request,
    };
    let mut line = serde_json::to_vec(&envelope).map_err(|error| broken_off(error.into()))?;
    line.push(b'\n');
    // An agent that refuses the caller may have closed already, with its reason.
    _ = stream.write_all(&line);
    let mut answer = Vec::new();
    BufReader::new(Until { stream, deadline }.take(MAX_ANSWER))
        .read_until(b'\n', &mut answer)
        .map_err(broken_off)?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Failed { message }) => Err(NoAnswer::Refused(message)),
        Ok(Reply::TryAgain { message }) => Err(NoAnswer::NotYet(message)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(broken_off(error.into())),
    }
}

/// Connects; an agent that is stopped and whose queue is full is not waited for without end.
fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let descriptor: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let seconds = i64::try_from(patience.as_secs().max(1)).unwrap_or(i64::MAX);
    setsockopt(&descriptor, SendTimeout, &TimeVal::new(seconds, 0))?;
    connect(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(descriptor.into())
}
