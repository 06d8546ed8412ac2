//! A hook of the OCI runtime specification, for runtimes that make networks without CNI
//! plugins.
//!
//! The runtime writes the container's state to standard input, at two of its stages: at
//! `createRuntime`, when the container has its interfaces and its program has not begun, and
//! at `poststop`.
//!
//! Invariant, closed: at `createRuntime` the hook succeeds only with the agent's word that
//! the verdicts of every interface are in force. The runtime starts no container otherwise.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cofferdam_protocol::{Attachment, EndpointSpec, Membership, names};
use serde::Deserialize;

use crate::commands::{DEFAULT_NAMESPACE, end, put_in_force};
use crate::config::object;
use crate::error::{Code, Failure};
use crate::{labels, sandbox};

/// First argument of the plugin as a hook.
pub(crate) const WORD: &str = "oci-hook";

/// Network of endpoints that hooks add. A container has one attachment to it, whose name is
/// the same at `poststop`, when its interfaces have gone.
const NETWORK: &str = "oci-hook";

/// Annotation with a container's namespace.
const NAMESPACE: &str = "cofferdam.dev/namespace";

/// Annotation with a container's name.
const NAME: &str = "cofferdam.dev/name";

/// State of a container, as far as it is read.
#[derive(Deserialize)]
struct State {
    id: String,
    status: String,
    pid: Option<u32>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Runs the hook on a container's state.
pub(crate) fn run(run_dir: &Path, text: &str) -> Result<(), Failure> {
    let state: State = object("the container's state", text)?;
    names::container_id(&state.id)
        .map_err(|expected| wrong("the container's id", &state.id, expected))?;
    match state.status.as_str() {
        "creating" | "created" => attach(run_dir, &state),
        "stopped" => {
            let attachment = Attachment {
                container_id: state.id,
                interface: NETWORK.to_owned(),
            };
            end(run_dir, &attachment)
        }
        other => Err(Failure::new(
            Code::NetworkConfig,
            format!("the container is {other:?} at this stage"),
        )
        .with_details("the hook belongs to the stages createRuntime and poststop")),
    }
}

fn attach(run_dir: &Path, state: &State) -> Result<(), Failure> {
    let pid = state
        .pid
        .ok_or_else(|| Failure::new(Code::Decode, "the container's state names no process"))?;
    let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let unreadable = |error: io::Error| {
        let message = format!("cannot look into the network namespace of process {pid}");
        Failure::new(Code::Io, message).with_details(error.to_string())
    };
    if is_own(&netns).map_err(unreadable)? {
        return Ok(());
    }
    let annotation = |name: &str| state.annotations.get(name);
    let namespace = annotation(NAMESPACE).map_or(DEFAULT_NAMESPACE, String::as_str);
    names::namespace(namespace).map_err(|expected| wrong(NAMESPACE, namespace, expected))?;
    let name = annotation(NAME).unwrap_or(&state.id);
    names::workload(name).map_err(|expected| wrong(NAME, name, expected))?;
    let labels = annotation(labels::ANNOTATION)
        .map(|text| labels::annotated(text))
        .transpose()?
        .unwrap_or_default();
    for interface in sandbox::interfaces(&netns).map_err(unreadable)? {
        let endpoint = EndpointSpec {
            netns: netns.clone(),
            interface,
            namespace: namespace.to_owned(),
            name: name.clone(),
            container_id: Some(state.id.clone()),
            member_of: Some(Membership {
                network: NETWORK.to_owned(),
                interface: NETWORK.to_owned(),
            }),
            pod: None,
            labels: labels.clone(),
            // Those on the interface: the state has none.
            addresses: Vec::new(),
            ports: Vec::new(),
        };
        put_in_force(run_dir, endpoint)?;
    }
    Ok(())
}

/// Returns `true` if a namespace is the hook's own, which is the node's: a container there
/// is no workload, but part of the node.
fn is_own(netns: &Path) -> io::Result<bool> {
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    Ok(identity(netns)? == identity(Path::new("/proc/self/ns/net"))?)
}

fn wrong(name: &str, value: &str, expected: names::NameError) -> Failure {
    let value: String = value.chars().take(300).collect();
    Failure::new(
        Code::NetworkConfig,
        format!("{name} is {value:?}: expected {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(state: &str) -> Code {
        run(Path::new("/nonexistent"), state).unwrap_err().code
    }

    #[test]
    fn states_that_cannot_be_acted_on_are_refused() {
        for (state, expected) in [
            ("[]", Code::Decode),
            (r#"{"id":"c1"}"#, Code::Decode),
            (r#"{"id":"../c1","status":"stopped"}"#, Code::NetworkConfig),
            (
                r#"{"id":"c1","status":"running","pid":1}"#,
                Code::NetworkConfig,
            ),
            (r#"{"id":"c1","status":"creating"}"#, Code::Decode),
            (r#"{"id":"c1","status":"created","pid":0}"#, Code::Io),
        ] {
            assert_eq!(code(state), expected, "{state}");
        }
    }

    #[test]
    fn a_container_in_the_nodes_namespace_is_no_workload() {
        let pid = std::process::id();
        let state = format!(r#"{{"id":"c1","status":"creating","pid":{pid}}}"#);
        assert_eq!(run(Path::new("/nonexistent"), &state), Ok(()));
    }
}
