//! Tells those who share an etcd of this node: its status, beside its endpoints.
//!
//! A thread looks at the node's state once a second, as for an API server, and says what is new.
//! The source of the etcd puts it there, under the lease of the endpoints.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use cofferdam_sources::etcd::Etcd;
use tokio::time::sleep;

use super::status::{Server, Status};
use super::{BETWEEN_LOOKS, look, nodes};
use crate::config::Config;
use crate::reconcile::Message;

/// Starts the thread, where the node's endpoints are published.
pub(in crate::agent) fn start(
    etcd: Arc<Etcd>,
    config: &Config,
    messages: Sender<Message>,
) -> Result<()> {
    if !config.etcd.publish {
        return Ok(());
    }
    let status = Status::new(&config.node.name, Server::Etcd);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    thread::Builder::new()
        .name("status".to_owned())
        .spawn(move || runtime.block_on(tell(&etcd, status, &messages)))
        .context("cannot start a thread")?;
    Ok(())
}

/// Tells until the agent has ended.
async fn tell(etcd: &Etcd, mut status: Status, messages: &Sender<Message>) {
    while let Some(standing) = look(messages).await {
        if let Some(standing) = standing {
            // A policy of a file that is invalid here is told of as well.
            status.look(&standing, &etcd.progress(), |_, _, _| true);
            let now = Instant::now();
            if status.is_due(now) {
                let state = status.state(SystemTime::now());
                let text = serde_json::to_string(&state);
                etcd.tell(text.expect("text, numbers and lists are JSON"));
                status.written(true, nodes(&standing), now);
            }
        }
        sleep(BETWEEN_LOOKS).await;
    }
}
