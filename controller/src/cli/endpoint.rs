//! `cofferdam endpoint`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use cofferdam_answers::Reply;
use cofferdam_protocol::output::EndpointState;
use cofferdam_protocol::{EndpointSpec, PortSpec, Removal, Request, for_the_agent};

use super::{Common, show, text, wait};
use crate::client;

#[derive(Debug, Subcommand)]
pub(super) enum EndpointCommand {
    /// Puts a workload's interface in force, or gives it other labels in place.
    Add(AddArgs),
    /// Takes a workload's interfaces out of force; nothing passes there until they have
    /// gone.
    Remove(RemoveArgs),
    /// Lists all endpoints.
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The workload's network namespace.
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// Its interface there.
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// The workload's namespace.
    #[arg(long)]
    namespace: String,
    /// The workload's name.
    #[arg(long)]
    name: String,
    /// The runtime's id of the container: another workload of the same name has another.
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    /// A label, `key=value`; a Pod document's labels count instead.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// An address; without any, those it has as an endpoint already, or else those on the
    /// interface.
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// A port with a name, `serve=tcp/80`; a Pod document's ports count instead.
    #[arg(long = "port", value_name = "NAME=PROTOCOL/NUMBER", value_parser = port)]
    ports: Vec<PortSpec>,
    /// Wait at most this long for the agent.
    #[arg(long, value_parser = super::duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The workload's namespace.
    #[arg(long)]
    namespace: String,
    /// The workload's name.
    #[arg(long)]
    name: String,
    /// Only the endpoint on this interface.
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// Only the endpoints of this container.
    #[arg(long, value_name = "ID")]
    container_id: Option<String>,
    /// Open the interfaces: from now on everything passes there, unjudged.
    #[arg(long)]
    release: bool,
    /// Wait at most this long for the agent.
    #[arg(long, value_parser = super::duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Wait at most this long for the agent.
    #[arg(long, value_parser = super::duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("a label is written key=value".to_owned()),
    }
}

fn port(text: &str) -> Result<PortSpec, String> {
    let wrong = || "a port is written name=protocol/number, such as serve=tcp/80".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (protocol, number) = rest.split_once('/').ok_or_else(wrong)?;
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(format!("{protocol:?} is none of tcp, udp, sctp"));
    }
    Ok(PortSpec {
        name: name.to_owned(),
        protocol: protocol.to_uppercase(),
        number: number.parse().map_err(|_| wrong())?,
    })
}

pub(super) fn run(command: EndpointCommand) -> Result<bool> {
    match command {
        EndpointCommand::Add(args) => add(args),
        EndpointCommand::Remove(args) => remove(args),
        EndpointCommand::List(args) => list(&args),
    }
}

fn add(args: AddArgs) -> Result<bool> {
    let request = Request::EndpointAdd(Box::new(EndpointSpec {
        netns: for_the_agent(&args.netns)
            .with_context(|| format!("{} is no path", args.netns.display()))?,
        interface: args.ifname,
        namespace: args.namespace,
        name: args.name,
        container_id: args.container_id,
        member_of: None,
        pod: None,
        labels: args.labels.into_iter().collect(),
        addresses: args.addresses,
        ports: args.ports,
    }));
    let reply = wait(client::ask(&args.common.run_dir, request, args.timeout))?;
    let Reply::Endpoint(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::endpoint)?;
    let is_enforced = report.state == EndpointState::Enforced;
    let id = report.called();
    if !is_enforced {
        eprintln!(
            "cofferdam: {id} is {}, not enforced: `cofferdam status` says why",
            report.state.as_str()
        );
    } else if let Some(problem) = &report.problem {
        eprintln!("cofferdam: {id} is enforced, but: {problem}");
    }
    Ok(is_enforced)
}

fn remove(args: RemoveArgs) -> Result<bool> {
    let request = Request::EndpointRemove(Removal {
        namespace: args.namespace,
        name: args.name,
        interface: args.ifname,
        container_id: args.container_id,
        release: args.release,
    });
    let reply = wait(client::ask(&args.common.run_dir, request, args.timeout))?;
    let Reply::Removed(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::removed)?;
    Ok(true)
}

fn list(args: &ListArgs) -> Result<bool> {
    let request = Request::EndpointList;
    let reply = wait(client::ask(&args.common.run_dir, request, args.timeout))?;
    let Reply::Endpoints(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::endpoints)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_ports_are_read_as_they_are_documented() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err());
        let http = port("serve=tcp/80").unwrap();
        assert_eq!(
            (http.name.as_str(), http.protocol.as_str(), http.number),
            ("serve", "TCP", 80)
        );
        for wrong in ["tcp/80", "a=80", "a=tcp/http", "a=icmp/8", "a=tcp/70000"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
