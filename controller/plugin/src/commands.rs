//! The commands of the specification.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cofferdam_protocol::output::{EndpointReport, EndpointState, StatusReport};
use cofferdam_protocol::{
    Attachment, Collection, EndpointSpec, Membership, Reply, Request, for_the_agent, removals,
};
use serde::Deserialize;
use serde_json::json;

use crate::client::{NoAnswer, ask};
use crate::config::{Config, NEWEST, VERSIONS, object};
use crate::environment::{Command, Environment};
use crate::error::{Code, Failure};
use crate::labels;
use crate::previous::{Inside, Previous};
use crate::sandbox;

/// Longest wait of a container for its verdicts. Runtimes give a plugin two minutes or more.
const ADD_PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for anything else that an agent is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait of `STATUS` for a change that is being put in force.
const SETTLE: Duration = Duration::from_secs(2);

/// The namespace of a workload that neither the runtime nor the configuration gives one.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Runs a command. Returns what goes to standard output.
pub(crate) fn run(
    command: Command,
    environment: &Environment,
    config: &Config<'_>,
) -> Result<String, Failure> {
    let nothing = |()| String::new();
    match command {
        Command::Add => add(environment, config),
        Command::Del => del(environment, config).map(nothing),
        Command::Check => {
            config.require(command.as_str(), "0.4.0")?;
            check(environment, config).map(nothing)
        }
        Command::Gc => {
            config.require(command.as_str(), "1.1.0")?;
            collect(config).map(nothing)
        }
        Command::Status => {
            config.require(command.as_str(), "1.1.0")?;
            status(config).map(nothing)
        }
        Command::Version => Ok(versions(config.version())),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    cni_version: Option<String>,
}

/// Answers `VERSION` in the version that the runtime speaks, whichever that is.
pub(crate) fn version(input: &[u8]) -> Result<String, Failure> {
    let text = std::str::from_utf8(input).unwrap_or("not UTF-8");
    if text.trim().is_empty() {
        return Ok(versions(NEWEST));
    }
    let asked: Asked = object("the configuration", text)?;
    Ok(versions(asked.cni_version.as_deref().unwrap_or(NEWEST)))
}

fn versions(version: &str) -> String {
    json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string() + "\n"
}

fn add(environment: &Environment, config: &Config<'_>) -> Result<String, Failure> {
    let attachment = environment.attachment()?;
    let netns = environment.netns()?;
    let netns = for_the_agent(&netns).map_err(|error| {
        Failure::new(Code::Io, "cannot name the namespace to the agent")
            .with_details(error.to_string())
    })?;
    let arguments = environment.arguments()?;
    let network = config.network()?;
    let run_dir = config.run_dir()?;
    let previous = Previous::read(config.previous(), &attachment.interface)?;
    let description = labels::describe(config)?;
    let pod = arguments.pod();
    let namespace = arguments.namespace.or(description.namespace);
    for inside in previous.inside() {
        let endpoint = EndpointSpec {
            netns: netns.clone(),
            interface: inside.name.clone(),
            namespace: namespace
                .clone()
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: (arguments.name.clone()).unwrap_or_else(|| attachment.container_id.clone()),
            container_id: Some(attachment.container_id.clone()),
            member_of: Some(Membership {
                network: network.clone(),
                interface: attachment.interface.clone(),
            }),
            pod: pod.clone(),
            labels: description.labels.clone(),
            addresses: inside.addresses.clone(),
            ports: description.ports.clone(),
        };
        put_in_force(&run_dir, endpoint)?;
    }
    Ok(previous.passed_on(config.version()))
}

/// Has the agent add an endpoint, and waits until its verdicts are in force.
pub(crate) fn put_in_force(run_dir: &Path, endpoint: EndpointSpec) -> Result<(), Failure> {
    let request = Request::EndpointAdd(Box::new(endpoint));
    let reply = ask(run_dir, request, ADD_PATIENCE).map_err(|error| told(&error, run_dir))?;
    let Reply::Endpoint(report) = reply else {
        return Err(strange(run_dir));
    };
    if report.state == EndpointState::Enforced {
        return Ok(());
    }
    Err(Failure::new(
        Code::TryAgainLater,
        format!(
            "{} is {}, not enforced",
            report.called(),
            report.state.as_str()
        ),
    )
    .with_details(where_to_look(run_dir)))
}

fn del(environment: &Environment, config: &Config<'_>) -> Result<(), Failure> {
    end(&config.run_dir()?, &environment.attachment()?)
}

/// Ends an attachment. With no agent to tell, its endpoints are what they were, until their
/// interfaces go or an agent reads the note; nothing becomes wider.
pub(crate) fn end(run_dir: &Path, attachment: &Attachment) -> Result<(), Failure> {
    let error = match detach(attachment, run_dir) {
        Ok(()) => return Ok(()),
        Err(error @ (NoAnswer::Refused(_) | NoAnswer::Stranger { .. })) => {
            return Err(told(&error, run_dir));
        }
        Err(error) => error,
    };
    removals::note(run_dir, attachment).map_err(|source| {
        let mut failure = told(&error, run_dir);
        failure.details = format!(
            "{}, and no note can be left for it in {}: {source}",
            failure.details,
            run_dir.display()
        );
        failure
    })?;
    // The agent may have read the notes just before this one was there.
    if matches!(error, NoAnswer::Away { .. }) && detach(attachment, run_dir).is_ok() {
        // An agent forgets it when the attachment is made again.
        _ = removals::forget(run_dir, attachment);
    }
    Ok(())
}

fn detach(attachment: &Attachment, run_dir: &Path) -> Result<(), NoAnswer> {
    ask(run_dir, Request::Detach(attachment.clone()), PATIENCE).map(drop)
}

fn check(environment: &Environment, config: &Config<'_>) -> Result<(), Failure> {
    let attachment = environment.attachment()?;
    let netns = environment.netns()?;
    let run_dir = config.run_dir()?;
    let previous = Previous::read(config.previous(), &attachment.interface)?;
    let reply = ask(&run_dir, Request::EndpointList, PATIENCE);
    let Reply::Endpoints(list) = reply.map_err(|error| told(&error, &run_dir))? else {
        return Err(strange(&run_dir));
    };
    let found = sandbox::addresses(&netns).map_err(|error| {
        Failure::new(
            Code::Io,
            format!("cannot look into the network namespace {}", netns.display()),
        )
        .with_details(error.to_string())
    })?;
    for inside in previous.inside() {
        let mut of_container = list.endpoints.iter().filter(|endpoint| {
            let id = endpoint.id.as_deref();
            let interface = id.and_then(|id| id.rsplit('/').next());
            endpoint.container_id.as_ref() == Some(&attachment.container_id)
                && interface == Some(inside.name.as_str())
                && !endpoint.leaving
        });
        let endpoint = of_container.next();
        let wrong = objection(inside, endpoint, &found);
        if let Some(wrong) = wrong {
            return Err(Failure::new(Code::NotAsAdded, wrong).with_details(where_to_look(&run_dir)));
        }
    }
    Ok(())
}

/// Returns why an interface is not as it was added, `None` if it is.
fn objection(
    inside: &Inside,
    endpoint: Option<&EndpointReport>,
    found: &[(String, IpAddr)],
) -> Option<String> {
    let name = &inside.name;
    let Some(endpoint) = endpoint else {
        return Some(format!(
            "the agent knows no endpoint on {name} of this container"
        ));
    };
    let id = endpoint.called();
    if endpoint.state != EndpointState::Enforced {
        return Some(format!("{id} is {}, not enforced", endpoint.state.as_str()));
    }
    let listed = |addresses: &BTreeSet<&IpAddr>| {
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    let added: BTreeSet<&IpAddr> = inside.addresses.iter().collect();
    let known: BTreeSet<&IpAddr> = endpoint.addresses.iter().collect();
    if added != known {
        return Some(format!(
            "{id} has the addresses {} in force, and {} by prevResult",
            listed(&known),
            listed(&added)
        ));
    }
    let mac = inside.mac.as_ref();
    if let Some(mac) = mac.filter(|mac| !mac.eq_ignore_ascii_case(&endpoint.mac)) {
        return Some(format!(
            "{id} has the MAC address {} in force, and {mac} by prevResult",
            endpoint.mac
        ));
    }
    let is_there = |address: &IpAddr| {
        found
            .iter()
            .any(|(interface, one)| interface == name && one == address)
    };
    let gone = added.into_iter().find(|address| !is_there(address))?;
    Some(format!(
        "{gone} is not on {name} inside the container any more"
    ))
}

fn collect(config: &Config<'_>) -> Result<(), Failure> {
    let run_dir = config.run_dir()?;
    let request = Request::Collect(Collection {
        network: config.network()?,
        valid: config.valid_attachments()?,
    });
    let reply = ask(&run_dir, request, PATIENCE).map_err(|error| told(&error, &run_dir))?;
    match reply {
        Reply::Removed(_) => Ok(()),
        _ => Err(strange(&run_dir)),
    }
}

fn status(config: &Config<'_>) -> Result<(), Failure> {
    let run_dir = config.run_dir()?;
    let request = Request::Status {
        wait_enforced_ms: u64::try_from(SETTLE.as_millis()).ok(),
    };
    let reply = ask(&run_dir, request, SETTLE + PATIENCE).map_err(|error| Failure {
        // What is in force stays in force without an agent.
        code: Code::NotAvailable,
        ..told(&error, &run_dir)
    })?;
    let Reply::Status(report) = reply else {
        return Err(strange(&run_dir));
    };
    availability(&report).map_or(Ok(()), |code| {
        Err(
            Failure::new(code, "the newest policies or endpoints are not in force")
                .with_details(where_to_look(&run_dir)),
        )
    })
}

/// Returns how far containers are not served, `None` if everything is in force.
fn availability(report: &StatusReport) -> Option<Code> {
    let is_closed = |state| state != EndpointState::Enforced;
    let endpoints = report.endpoints.iter();
    let mut living = endpoints.filter(|one| !one.leaving && one.id.is_some());
    match report.enforced {
        true => None,
        false if living.any(|one| is_closed(one.state)) => Some(Code::LimitedConnectivity),
        false => Some(Code::NotAvailable),
    }
}

/// Says in the terms of the specification why there is no answer.
fn told(error: &NoAnswer, run_dir: &Path) -> Failure {
    let source = std::error::Error::source(error);
    let why = source
        .map(|source| format!("{source}; "))
        .unwrap_or_default();
    let (code, details) = match error {
        NoAnswer::Refused(_) => (Code::Refused, where_to_look(run_dir)),
        NoAnswer::NotYet(_) => (Code::TryAgainLater, where_to_look(run_dir)),
        NoAnswer::Stranger { .. } => (Code::Io, String::new()),
        NoAnswer::Away { .. } => (
            Code::TryAgainLater,
            format!(
                "{why}is `cofferdam agent` running, with `run_dir: {}`?",
                run_dir.display()
            ),
        ),
        NoAnswer::BrokenOff { .. } => (
            Code::TryAgainLater,
            format!("{why}{}", where_to_look(run_dir)),
        ),
    };
    Failure::new(code, error.to_string()).with_details(details)
}

fn where_to_look(run_dir: &Path) -> String {
    format!(
        "`cofferdam status --run-dir {}` and the agent's log say why",
        run_dir.display()
    )
}

fn strange(run_dir: &Path) -> Failure {
    Failure::new(
        Code::Refused,
        "the agent answered something else: is it of another version?",
    )
    .with_details(where_to_look(run_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_yet_is_to_be_tried_again_and_what_is_refused_is_not() {
        let run_dir = Path::new("/run/cofferdam");
        let failure = |error| told(&error, run_dir);
        let not_yet = failure(NoAnswer::NotYet("no labels".to_owned()));
        assert_eq!(not_yet.code, Code::TryAgainLater);
        assert!(not_yet.message.contains("no labels"));
        let refused = failure(NoAnswer::Refused("no".to_owned()));
        assert_eq!(refused.code, Code::Refused);
    }
}
