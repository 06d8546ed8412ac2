//! Outputs of flow records, as they are configured.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::filter::{Criterion, Filter};
use cofferdam_telemetry::outputs::{FlowLog, Otlp, Outputs, StandardOutput, Syslog};

use crate::config::{Address, Config, Destination, Form};

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
    for (place, destination) in config.outputs.iter().enumerate() {
        let name = name(&config.outputs[..place], destination.to);
        let mut only = Filter::default();
        for kind in &destination.types {
            only.add(false, Criterion::Type(*kind));
        }
        match &destination.address {
            Address::Syslog(collector) => {
                outputs.start(&name, only, Syslog::new(collector.clone()))?;
            }
            Address::Http(address) => outputs.start(&name, only, Otlp::new(address.clone())?)?,
        }
    }
    Ok(outputs)
}

/// The name of an output behind others: `syslog`, then `syslog_2`.
fn name(before: &[Destination], to: Form) -> String {
    let form = match to {
        Form::Syslog => "syslog",
        Form::Otlp => "otlp",
    };
    match before.iter().filter(|other| other.to == to).count() {
        0 => form.to_owned(),
        others => format!("{form}_{}", others + 1),
    }
}

/// Returns the file of the flow log, or `None` if records go to none.
pub(super) fn flow_log(config: &Config) -> Option<PathBuf> {
    match config.flow_log.path.as_str() {
        "" | "-" => None,
        // Whoever reads it has another working directory.
        path => std::path::absolute(path).ok(),
    }
}
