//! The thread that keeps the flow tables: it sweeps them, lets them grow as they fill, and
//! gives them back when their endpoints have gone.
//!
//! A sweep reads every entry of every endpoint: 25 ms for 60 endpoints with full tables, in
//! which the reconciling thread would answer nobody. Growth waits for a grace period at each
//! step.

use cofferdam_syntax::diagnostic::chain;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_dataplane::{FlowKeeper, KernelError, Sweep, Swept};

/// Name of the thread, as `/proc` has it.
const NAME: &str = "sweep";

/// Time between two looks at the fill of all flow tables. One that is half full has as much
/// time to grow as it takes the other half to fill: 70 ms for the 1 024 entries of a new one
/// under 15 000 new flows a second, of which a grace period is some 10 to 30.
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// Something that the thread does before its next look.
#[derive(Debug)]
enum Order {
    /// A sweep.
    Sweep(Sweep),
    /// Makes flow tables for the next endpoints.
    Prepare,
}

/// The thread, which does one sweep at a time.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// `None` only while it is dropped: the thread ends when this has gone.
    orders: Option<Sender<Order>>,
    finished: Receiver<Swept>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
}

impl Sweeper {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(super) fn start(mut keeper: FlowKeeper) -> Result<Self, KernelError> {
        let (orders, ordered) = mpsc::channel::<Order>();
        let (finish, finished) = mpsc::channel();
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            let mut is_well = true;
            let mut next_look = Instant::now() + BETWEEN_LOOKS;
            loop {
                let left = next_look.saturating_duration_since(Instant::now());
                match ordered.recv_timeout(left) {
                    Ok(Order::Sweep(sweep)) => {
                        if finish.send(sweep.run()).is_err() {
                            return;
                        }
                    }
                    Ok(Order::Prepare) => is_well = tell(keeper.prepare(), is_well),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if next_look <= Instant::now() {
                    is_well = tell(keeper.look(), is_well);
                    next_look = Instant::now() + BETWEEN_LOOKS;
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
        self.is_busy = orders.is_some_and(|orders| orders.send(Order::Sweep(sweep)).is_ok());
    }

    /// Has flow tables made for the next endpoints.
    pub(super) fn prepare(&self) {
        if let Some(orders) = &self.orders {
            // A thread that has ended has said why.
            _ = orders.send(Order::Prepare);
        }
    }

    /// Returns the result of the sweep that is over, once.
    pub(super) fn finished(&mut self) -> Option<Swept> {
        let swept = self.finished.try_recv().ok()?;
        self.is_busy = false;
        Some(swept)
    }
}

/// Says if the flow tables have what they need, when that changes. Returns `true` if they
/// have.
fn tell(kept: io::Result<()>, was_well: bool) -> bool {
    match &kept {
        Err(error) if was_well => tracing::error!(
            "cannot make a flow table larger, or give one back: {}; it stays as it is and \
             is tried again",
            chain(&error)
        ),
        Ok(()) if !was_well => tracing::info!("flow tables grow again, and are given back"),
        Ok(()) | Err(_) => {}
    }
    kept.is_ok()
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
