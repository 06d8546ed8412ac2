//! Outputs of flow records, as they are configured.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::filter::Filter;
use cofferdam_telemetry::outputs::{FlowLog, Outputs, StandardOutput};

use crate::config::Config;

/// The name of the flow log in metrics and in the agent's log.
const FLOW_LOG: &str = "flow_log";

/// Starts all outputs.
pub(super) fn start(config: &Config) -> io::Result<Outputs> {
    let mut outputs = Outputs::default();
    let log = &config.flow_log;
    match log.path.as_str() {
        "" => {}
        "-" => outputs.start(FLOW_LOG, Filter::default(), StandardOutput)?,
        path => {
            let log = FlowLog::new(Path::new(path), log.max_bytes.0, log.keep.0);
            outputs.start(FLOW_LOG, Filter::default(), log)?;
        }
    }
    Ok(outputs)
}

/// Returns the file of the flow log, or `None` if records go to none.
pub(super) fn flow_log(config: &Config) -> Option<PathBuf> {
    match config.flow_log.path.as_str() {
        "" | "-" => None,
        // Whoever reads it has another working directory.
        path => std::path::absolute(path).ok(),
    }
}
