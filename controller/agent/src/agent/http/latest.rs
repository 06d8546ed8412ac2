//! The newest answer of the reconciling thread to one question.
//!
//! The thread may be busy for longer than a caller can wait. Only one question at a time is on
//! its way to it, and a caller who cannot wait is given the answer before.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, Receiver};
use tokio::time::timeout;

use crate::reconcile::Message;

/// Time that a fresh answer may take before the one before it is given.
const FRESH_WITHIN: Duration = Duration::from_millis(50);
/// Time without any answer after which the thread is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// The answers to a question.
pub(super) struct Latest<T> {
    messages: Sender<Message>,
    question: fn(oneshot::Sender<T>) -> Message,
    asked: Option<(Instant, Receiver<T>)>,
    answer: Option<Arc<T>>,
}

impl<T> Latest<T> {
    /// Begins without an answer.
    pub(super) fn new(
        messages: Sender<Message>,
        question: fn(oneshot::Sender<T>) -> Message,
    ) -> Self {
        Self {
            messages,
            question,
            asked: None,
            answer: None,
        }
    }

    /// Returns an answer that was given after now, or the last one if that takes too long.
    /// `None` if there never was one. Before the first answer a caller waits for it.
    pub(super) async fn get(&mut self) -> Option<Arc<T>> {
        // An answer that lies there is as old as its question.
        if let Some((_, reply)) = &mut self.asked
            && let Ok(answer) = reply.try_recv()
        {
            self.answer = Some(Arc::new(answer));
            self.asked = None;
        }
        let (since, mut reply) = match self.asked.take() {
            Some(asked) => asked,
            None => {
                let (sender, reply) = oneshot::channel();
                if self.messages.send((self.question)(sender)).is_err() {
                    return self.answer.clone();
                }
                (Instant::now(), reply)
            }
        };
        let within = match self.answer {
            Some(_) => FRESH_WITHIN.saturating_sub(since.elapsed()),
            None => STUCK_AFTER,
        };
        match timeout(within, &mut reply).await {
            Ok(Ok(answer)) => self.answer = Some(Arc::new(answer)),
            // The thread has ended, and the agent with it.
            Ok(Err(_)) => {}
            Err(_) => self.asked = Some((since, reply)),
        }
        self.answer.clone()
    }

    /// Returns `true` if the last answer is of before the last question.
    pub(super) fn is_behind(&self) -> bool {
        self.asked.is_some()
    }

    /// Returns `true` if a question has been without an answer for so long that the thread
    /// does nothing any more.
    pub(super) fn is_stuck(&self) -> bool {
        let asked = self.asked.as_ref();
        asked.is_some_and(|(since, _)| since.elapsed() >= STUCK_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver as Messages, channel};

    use super::*;

    /// Runs a conversation whose other side answers when it is told to.
    fn converse(talk: impl AsyncFnOnce(&mut Latest<Vec<String>>, &Messages<Message>)) {
        let (sender, messages) = channel();
        let mut latest = Latest::new(sender, Message::Readiness);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().expect("a runtime");
        runtime.block_on(talk(&mut latest, &messages));
    }

    fn answer(message: Message, text: &str) {
        let Message::Readiness(reply) = message else {
            panic!("another question");
        };
        reply.send(vec![text.to_owned()]).expect("it is awaited");
    }

    fn first(answer: Option<Arc<Vec<String>>>) -> String {
        answer.expect("an answer")[0].clone()
    }

    #[test]
    fn a_busy_thread_is_asked_once_and_its_late_answer_is_no_fresh_one() {
        converse(async |latest, messages| {
            let (asked, ()) = tokio::join!(latest.get(), async {
                answer(messages.recv().expect("a question"), "first");
            });
            assert_eq!(first(asked), "first");
            let began = Instant::now();
            for _ in 0..10 {
                assert_eq!(first(latest.get().await), "first");
            }
            assert!(began.elapsed() < 5 * FRESH_WITHIN, "waited each time");
            assert!(latest.is_behind());
            let late = messages.recv().expect("a question");
            assert!(messages.try_recv().is_err(), "asked again while it is busy");
            answer(late, "late");
            let (asked, ()) = tokio::join!(latest.get(), async {
                answer(messages.recv().expect("another question"), "fresh");
            });
            assert_eq!(first(asked), "fresh");
            assert!(!latest.is_behind() && !latest.is_stuck());
        });
    }
}
