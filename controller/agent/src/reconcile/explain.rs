//! Questions about what is in force, answered aside.
//!
//! A table about two ends of a large cluster may take a second to make. Nothing else
//! waits for it: the inventory shares its parts with the one in force, and is asked on a
//! thread of its own.

use cofferdam_answers::Reply;
use cofferdam_answers::explain::explain;
use cofferdam_answers::record::{RecordQuestion, explain_record};
use cofferdam_protocol::Question;
use cofferdam_protocol::output::FlowRecord;
use cofferdam_reach::PodNetworks;
use cofferdam_syntax::diagnostic::chain;
use tokio::sync::oneshot;

use super::Reconciler;
use crate::config::OwnNode;

/// Subject of an explanation.
pub(super) enum Inquiry {
    /// Two ends and a port.
    Ends(Question),
    /// Those of a flow record.
    Record(Box<FlowRecord>),
}

impl Reconciler {
    /// Answers a question by what is in force.
    pub(super) fn explain(&self, inquiry: Inquiry, reply: oneshot::Sender<Reply>) {
        let Some(inventory) = self.enforcer.inventory().cloned() else {
            // Whoever asked may have gone.
            _ = reply.send(Reply::NotExplained {
                message: "the agent has put nothing in force that it could explain".to_owned(),
            });
            return;
        };
        let own_node_allowed = self.config.own_node == OwnNode::Allow;
        let diagnostics = self.diagnostics();
        let revision = self.enforcer.revision();
        let answer = move || {
            let networks = PodNetworks::default();
            let report = match &inquiry {
                Inquiry::Ends(question) => explain(
                    &inventory,
                    question,
                    own_node_allowed,
                    &networks,
                    diagnostics,
                )
                .map_err(|error| chain(&error)),
                Inquiry::Record(record) => {
                    let asked = RecordQuestion {
                        record,
                        revision: Some(revision),
                    };
                    explain_record(&inventory, asked, own_node_allowed, &networks, diagnostics)
                        .map_err(|error| chain(&error))
                }
            };
            _ = reply.send(match report {
                Ok(report) => Reply::Explanation(Box::new(report)),
                Err(message) => Reply::NotExplained { message },
            });
        };
        let thread = std::thread::Builder::new().name("explain".to_owned());
        if let Err(error) = thread.spawn(answer) {
            // The question went with the thread; its asker hears that nobody answers.
            tracing::warn!("cannot start a thread to explain: {error}");
        }
    }
}
