//! The thread that sweeps the flow tables.
//!
//! A sweep reads every entry of every endpoint: 25 ms for 60 endpoints, in which the
//! reconciling thread would answer nobody.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use cofferdam_dataplane::{KernelError, Sweep, Swept};

/// Name of the thread, as `/proc` has it.
const NAME: &str = "sweep";

/// The thread, which does one sweep at a time.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// `None` only while it is dropped: the thread ends when this has gone.
    orders: Option<Sender<Sweep>>,
    finished: Receiver<Swept>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
}

impl Sweeper {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(super) fn start() -> Result<Self, KernelError> {
        let (orders, ordered) = mpsc::channel::<Sweep>();
        let (finish, finished) = mpsc::channel();
        let thread = thread::Builder::new().name(NAME.to_owned());
        let thread = thread.spawn(move || {
            for sweep in ordered {
                if finish.send(sweep.run()).is_err() {
                    return;
                }
            }
        });
        let failed = |source: io::Error| KernelError::System {
            action: "start the thread that sweeps the flow tables",
            source,
        };
        Ok(Self {
            orders: Some(orders),
            finished,
            thread: Some(thread.map_err(failed)?),
            is_busy: false,
        })
    }

    /// Returns `true` from the beginning of a sweep until it was [`Self::finished`].
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Hands a sweep over.
    pub(super) fn begin(&mut self, sweep: Sweep) {
        let orders = self.orders.as_ref();
        self.is_busy = orders.is_some_and(|orders| orders.send(sweep).is_ok());
    }

    /// Returns the result of the sweep that is over, once.
    pub(super) fn finished(&mut self) -> Option<Swept> {
        let swept = self.finished.try_recv().ok()?;
        self.is_busy = false;
        Some(swept)
    }
}

impl Drop for Sweeper {
    /// Waits until a sweep under way is over.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it panicked, which it has said by then.
            _ = thread.join();
        }
    }
}
