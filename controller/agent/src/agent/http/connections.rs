//! Connections to the HTTP server: few, and none for long.
//!
//! Invariant: a caller is heard however many others connect and say nothing. Where there are
//! too many connections, the one that has waited longest for a request is closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::AbortHandle;

/// Connections at a time.
const MOST: usize = 64;

/// A connection that is open, or was.
struct Connection {
    task: AbortHandle,
    /// `true` from its request on.
    has_asked: Arc<AtomicBool>,
}

/// Connections that are open, oldest first.
pub(super) struct Connections {
    open: VecDeque<Connection>,
    evicted: Arc<AtomicU64>,
}

impl Connections {
    /// Has none, and counts there those that it closes to make room.
    pub(super) fn counting(evicted: Arc<AtomicU64>) -> Self {
        Self {
            open: VecDeque::new(),
            evicted,
        }
    }

    /// Makes room for one more.
    pub(super) fn make_room(&mut self) {
        self.open.retain(|one| !one.task.is_finished());
        if self.open.len() >= MOST {
            self.close_one();
        }
    }

    /// Closes the oldest connection that has not asked for anything; if all have, the oldest.
    pub(super) fn close_one(&mut self) {
        let is_idle = |one: &Connection| !one.has_asked.load(Ordering::Relaxed);
        let idle = self.open.iter().position(is_idle);
        if let Some(one) = self.open.remove(idle.unwrap_or(0)) {
            one.task.abort();
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub(super) fn add(&mut self, task: AbortHandle, has_asked: Arc<AtomicBool>) {
        self.open.push_back(Connection { task, has_asked });
    }
}
