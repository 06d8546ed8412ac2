//! The command line.

mod bypass;
mod check;
mod cluster;
mod completions;
mod connectivity;
mod convert;
mod diff;
mod endpoint;
mod etcd;
mod explain;
mod exposure;
mod graph;
mod init;
mod install;
mod list;
mod man;
mod matrix;
mod nodes;
mod observe;
mod offline;
mod project;
mod schema;
mod test;
mod text;
mod what_if;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use cofferdam_agent::config::{Config, ConfigError, Given, duration};
use cofferdam_answers::Reply;
use cofferdam_protocol::Request;
use cofferdam_sources::etcd::Address;
use serde::Serialize;

use crate::client::{self, ClientError};

/// Microsegmentation for container networks.
#[derive(Debug, Parser)]
#[command(
    name = "cofferdam",
    version,
    about,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 yes or done, 1 the answer is no, 2 it could not be run."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent of a node, in the network namespace whose interfaces it manages.
    Agent(AgentArgs),
    /// Reads all sources again and returns when they are in force.
    Sync(SyncArgs),
    /// Puts workloads' interfaces in force.
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Lets policy deny endpoints nothing for a time.
    Bypass(bypass::BypassArgs),
    /// Prints records of denied packets, with the rule that decided.
    Observe(observe::ObserveArgs),
    /// Says what is in force.
    Status(StatusArgs),
    /// Says what is wrong with documents: nothing is in force or sent.
    Check(check::CheckArgs),
    /// Says why one end reaches another, or does not: each rule that was considered.
    Explain(explain::ExplainArgs),
    /// Prints who reaches whom, by documents alone: nothing is sent.
    Matrix(matrix::MatrixArgs),
    /// Lists who reaches whom on which ports, as ranges, by documents alone: no probe named.
    List(list::ListArgs),
    /// Says which connections another set of documents allows that these do not, and the
    /// reverse, with the rule that makes each change.
    Diff(diff::DiffArgs),
    /// Replays flow records against policies: which connections that were seen they would newly
    /// deny or allow, and by which rule.
    WhatIf(what_if::WhatIfArgs),
    /// Draws who reaches whom, or what has changed.
    Graph(graph::GraphArgs),
    /// Says how far each workload is exposed to what is not in the documents, worst first.
    Exposure(exposure::ExposureArgs),
    /// Checks the expectations of PolicyTest documents, by documents alone.
    Test(test::TestArgs),
    /// Prints policies in the form before ClusterNetworkPolicy as ones of that kind.
    Convert(convert::ConvertArgs),
    /// Copies policies of the library, with their tests, to begin with.
    Init(init::InitArgs),
    /// Puts the network plugin into a runtime's configuration.
    Install(install::InstallArgs),
    /// Takes the network plugin out again; everything is as it was.
    Uninstall(install::Places),
    /// Prints JSON Schemas, of documents for editors and of what commands print.
    Schema(schema::SchemaArgs),
    /// Prints a script that completes the command line in a shell.
    Completions(completions::CompletionsArgs),
    /// Prints the man page.
    Man(man::ManArgs),
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// Reads the configuration from this file, where every key has a default; again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names the node, whatever the configuration says: in a pod, its `spec.nodeName`.
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    node_name: Option<String>,
    /// Prints the configuration with all defaults and a comment above each key, and ends.
    #[arg(long)]
    print_config: bool,
    /// Leaves documents out that are invalid and never were good, even when nothing
    /// is in force yet.
    #[arg(long)]
    accept_partial: bool,
    /// End enforcement as well when the agent ends.
    #[arg(long)]
    detach: bool,
    /// Write log lines in this format, to standard error. `COFFERDAM_LOG` chooses what is
    /// logged: `debug`, `warn,cofferdam_agent=info`.
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
}

/// Output format of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
struct Common {
    /// Print in this form.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Directory of the agent's control socket.
    #[arg(long, value_name = "DIR", default_value = "/run/cofferdam")]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// Wait at most this long for the agent.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Waits until everything is in force, and for the agent to come up.
    #[arg(long, value_enum, value_name = "WHAT")]
    wait: Option<WaitFor>,
    /// Wait at most this long.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "30s", requires = "wait")]
    timeout: Duration,
    /// Lists the rules that have allowed no flow and denied no packet, with file and line.
    #[arg(long, conflicts_with = "wait")]
    unused_rules: bool,
    /// Lists also those whose last hit is longer ago.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "unused_rules")]
    since: Option<Duration>,
    /// Says what is in force on every node of a Kubernetes cluster, by what its agents have told
    /// the API server; no agent is asked. With `--etcd`, on every node that shares it.
    #[arg(long, conflicts_with_all = ["wait", "unused_rules"])]
    cluster: bool,
    /// Asks the etcd that nodes share in place of an API server:
    /// `etcd://HOST[:PORT][,HOST[:PORT]]/PREFIX`, or `etcds://` for TLS. Certificates and user are
    /// those of `etcdctl`, as for other commands.
    #[arg(long, value_name = "URL", value_parser = etcd::address, requires = "cluster", conflicts_with_all = ["context", "kubeconfig"])]
    etcd: Option<Address>,
    #[command(flatten)]
    user: cluster::UserArgs,
    /// Heartbeats of an agent that may be missed before its node counts as not seen.
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "cluster", value_parser = clap::value_parser!(u32).range(1..))]
    missed_heartbeats: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WaitFor {
    /// Published, read back and settled.
    Enforced,
}

/// Runs the command line. Exit status: 0 yes or done, 1 the answer is no, 2 it could
/// not be run.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and clap knows where they go.
            _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Agent(args) => run_agent(&args),
        Command::Sync(args) => sync(&args),
        Command::Endpoint(command) => endpoint::run(command),
        Command::Bypass(args) => bypass::run(args),
        Command::Observe(args) => observe::run(&args),
        Command::Status(args) => status(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::List(args) => list::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::WhatIf(args) => what_if::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Exposure(args) => exposure::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("cofferdam: {error:#}");
            let is_no = matches!(
                error.downcast_ref(),
                Some(ClientError::Refused(_) | ClientError::TooLate(_))
            );
            ExitCode::from(if is_no { 1 } else { 2 })
        }
    }
}

/// Reads the command line. kubectl runs its plugins by their names: then help says what to type
/// there.
fn parse() -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.is_some_and(|path| path.file_name() == Some("kubectl-cofferdam".as_ref())) {
        command = command.bin_name("kubectl cofferdam");
    }
    let matches = command.clone().try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn run_agent(args: &AgentArgs) -> Result<bool> {
    let given = Given {
        file: args.config.clone(),
        accept_partial: args.accept_partial,
        node_name: args.node_name.clone(),
    };
    let config = read_config(&given)?;
    if args.print_config {
        print(&config.to_string())?;
        return Ok(true);
    }
    start_logging(args.log_format);
    cofferdam_agent::run(config, &given, args.detach)?;
    Ok(true)
}

/// Reads the name of a node as Kubernetes has it.
fn node_name(text: &str) -> Result<String, String> {
    match cofferdam_syntax::names::subdomain(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(reason) => Err(reason.to_string()),
    }
}

/// Reads a configuration, and prints its mistakes.
fn read_config(given: &Given) -> Result<Config> {
    let config = given.read();
    if let Err(ConfigError::Mistakes(mistakes)) = &config {
        for mistake in mistakes {
            eprintln!("{mistake}");
        }
    }
    Ok(config?)
}

fn start_logging(format: Format) {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_env("COFFERDAM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
}

/// Runs what talks to an agent.
fn wait<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(work)?)
}

fn sync(args: &SyncArgs) -> Result<bool> {
    let reply = wait(client::ask(
        &args.common.run_dir,
        Request::Sync,
        args.timeout,
    ))?;
    let Reply::Sync(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::sync)?;
    Ok(report.enforced)
}

fn status(args: &StatusArgs) -> Result<bool> {
    if args.cluster {
        let (etcd, format) = (args.etcd.as_ref(), args.common.format);
        return nodes::run(&args.user, etcd, args.missed_heartbeats, format);
    }
    args.user.refuse_without_cluster()?;
    let run_dir = &args.common.run_dir;
    if args.unused_rules {
        let milliseconds = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let request = Request::UnusedRules {
            since_ms: args.since.map(milliseconds),
        };
        let Reply::UnusedRules(report) = wait(client::ask(run_dir, request, args.timeout))? else {
            bail!("the agent answered something else");
        };
        show(args.common.format, &report, text::unused_rules)?;
        return Ok(true);
    }
    let reply = match args.wait {
        None => {
            let request = Request::Status {
                wait_enforced_ms: None,
            };
            wait(client::ask(run_dir, request, args.timeout))?
        }
        Some(WaitFor::Enforced) => wait(client::wait_enforced(run_dir, args.timeout))?,
    };
    let Reply::Status(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::status)?;
    Ok(args.wait.is_none() || report.enforced)
}

fn show<T: Serialize>(format: Format, report: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    match format {
        Format::Json => {
            let line = serde_json::to_string(report).context("cannot write JSON")?;
            print(&(line + "\n"))
        }
        Format::Text => print(&text(report)),
    }
}

/// Returns `true` if standard output is a terminal for which nobody has set NO_COLOR: colours
/// are for eyes, a file or a pipe gets none.
fn is_coloured() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !is_refused
}

/// Prints, and takes a reader that has gone for one that has seen enough.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
