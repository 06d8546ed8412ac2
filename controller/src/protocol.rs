//! The control socket's protocol, with the answers that policies are needed for.

pub use cofferdam_protocol::*;

use crate::output::reach::ExplainReport;

/// An answer of the agent.
pub type Reply = cofferdam_protocol::Reply<ExplainReport>;
