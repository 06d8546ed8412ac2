//! `cofferdam explain`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use cofferdam_answers::Reply;
use cofferdam_answers::explain;
use cofferdam_answers::reach::{
    BackendReport, BackendsReport, ExplainReport, NearestReport, PairReport, RecordReport,
    RuleReport, SideReport, StepReport, Word,
};
use cofferdam_answers::record::{RecordQuestion, explain_record};
use cofferdam_protocol::output::{FlowRecord, place};
use cofferdam_protocol::words::ClosedList as _;
use cofferdam_protocol::{Question, Request};

use super::check::Texts;
use super::cluster::ClusterArgs;
use super::etcd::EtcdArgs;
use super::offline::{
    Documents, External, FamilyArg, OwnNodeArg, external, externals, family_number,
};
use super::project::{PodArgs, Project, ReadArgs};
use super::{Common, Format, print, show, wait};
use crate::client;

/// Most backends that are told of one by one.
const MOST_BACKENDS: usize = 20;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("documents").args(["paths", "cluster", "etcd"]).multiple(true)))]
pub(super) struct ExplainArgs {
    /// Files and directories of documents, `-` for standard input; without any, the
    /// running agent is asked about what it has in force.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    pods: PodArgs,
    /// The end that opens the connection: `namespace/pod`, `node/NAME`, `external/NAME` or
    /// an address.
    #[arg(long, value_name = "END", required_unless_present = "record")]
    from: Option<String>,
    /// The end that it is opened to, which may be a Service, too: `service/NAMESPACE/NAME`.
    #[arg(long, value_name = "END", required_unless_present = "record")]
    to: Option<String>,
    /// Protocol and port, or type and code of ICMP: `tcp/443`, `udp/53`, `sctp/80`,
    /// `icmp/8`, `icmp/8/0`, `icmpv6/128`, `proto/47`.
    #[arg(long, value_name = "PORT", required_unless_present = "record")]
    port: Option<String>,
    /// Instead of both and a port, those of a flow record: a file with one line of
    /// `observe --format json`, `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "port", "family", "externals"])]
    record: Option<PathBuf>,
    /// Address family; by default that of the ICMP asked about, else the first that both ends
    /// have.
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
    /// An outside host, `internet=203.0.113.7,2001:db8::7`.
    #[arg(long = "external", value_name = "NAME=IP[,IP]…", value_parser = external)]
    externals: Vec<External>,
    /// The agents' setting for connections of a workload's own node, for questions to
    /// documents.
    #[arg(long, value_enum, requires = "documents")]
    own_node: Option<OwnNodeArg>,
    /// Time to wait for the agent.
    #[arg(long, value_parser = super::duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &ExplainArgs) -> Result<bool> {
    let record = args.record.as_deref().map(read_record).transpose()?;
    let of = |given: &Option<String>| given.clone().unwrap_or_default();
    let mut question = Question {
        from: of(&args.from),
        to: of(&args.to),
        port: of(&args.port),
        family: args.family.map(|family| family_number(family.into())),
        externals: externals(&args.externals)?,
    };
    let paths = args.etcd.and(&args.paths);
    if paths.is_empty() && !args.cluster.cluster {
        let request = match record {
            Some(record) => Request::ExplainRecord(Box::new(record)),
            None => Request::Explain(question),
        };
        let reply = wait(client::ask(&args.common.run_dir, request, args.timeout))?;
        let report = match reply {
            Reply::Explanation(report) => report,
            Reply::NotExplained { message } => bail!(message),
            _ => bail!("the agent answered something else"),
        };
        show(args.common.format, &*report, |report| text(report, None))?;
        return Ok(true);
    }
    let sources = Project::read_with(&paths, &args.reading, &args.cluster)?.sources;
    let named = [question.from.as_str(), question.to.as_str()];
    let documents =
        Documents::asked_about(&sources, named.into_iter().filter(|end| !end.is_empty()));
    question.externals = documents.known_externals(question.externals);
    let own_node_allowed = args.own_node.unwrap_or_default() == OwnNodeArg::Allow;
    let (inventory, reported) = (&documents.inventory, documents.reported());
    let networks = args.pods.networks();
    let mut report = match &record {
        Some(record) => {
            let asked = RecordQuestion {
                record,
                revision: None,
            };
            explain_record(inventory, asked, own_node_allowed, &networks, reported)?
        }
        None => explain::explain(inventory, &question, own_node_allowed, &networks, reported)?,
    };
    for end in &mut report.ends {
        end.not_judged = documents.not_judged(&end.id);
    }
    match args.common.format {
        Format::Json => show(Format::Json, &report, |_| String::new())?,
        Format::Text => {
            documents.complain();
            let ends = report.ends.iter().map(|end| end.id.as_str());
            let remark = documents.remark(ends);
            let remark = if remark.is_empty() {
                remark
            } else {
                format!("\n{remark}")
            };
            print(&(text(&report, Some(&Texts::new(&sources))) + &remark))?;
        }
    }
    Ok(documents.are_good())
}

/// Reads the one flow record of a file, or of standard input.
fn read_record(path: &Path) -> Result<FlowRecord> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let [line] = lines[..] else {
        bail!(
            "{} lines in {}: one flow record is explained, such as that of \
             `cofferdam observe --last 1 --format json`",
            lines.len(),
            path.display()
        );
    };
    serde_json::from_str(line)
        .with_context(|| format!("the line in {} is no flow record", path.display()))
}

/// The report for people.
fn text(report: &ExplainReport, texts: Option<&Texts<'_>>) -> String {
    Telling { report, texts }.whole()
}

struct Telling<'a> {
    report: &'a ExplainReport,
    /// Texts of the files, for the lines of rules.
    texts: Option<&'a Texts<'a>>,
}

impl Telling<'_> {
    fn whole(&self) -> String {
        let report = self.report;
        let cell = &report.cell;
        let mut text = format!(
            "{} may {}open {} to {} (IPv{})\n",
            cell.source,
            if cell.verdict == Word::Allow {
                ""
            } else {
                "not "
            },
            cell.probe,
            cell.destination,
            report.family,
        );
        if cell.depends_on.is_some() {
            put(
                &mut text,
                format_args!(
                    "\nit depends on the address of an end that no document gives one, and is taken \
                     for denied: give it in its status, or say with --pod-cidr where pods are"
                ),
            );
        }
        self.backends(&mut text);
        if let Some(side) = &cell.egress {
            self.side(
                &mut text,
                "egress",
                &cell.source,
                side,
                report.judged.egress,
            );
        }
        if let Some(side) = &cell.ingress {
            let receiver = self.receiver();
            self.side(&mut text, "ingress", receiver, side, report.judged.ingress);
        }
        if let Some(nearest) = &report.nearest {
            put(
                &mut text,
                format_args!(
                    "\nnearest miss: {}",
                    nearest_miss(nearest, report.rule(nearest.rule))
                ),
            );
            if let Some(rule) = report.rule(nearest.rule) {
                self.line(&mut text, rule);
            }
        }
        if let Some(record) = &report.record {
            of_record(&mut text, record);
        }
        for namespace in &report.audited_namespaces {
            put(
                &mut text,
                format_args!(
                    "\nnamespace {namespace} is on audit: what its workloads' policies deny \
                     here passes, and is reported"
                ),
            );
        }
        if let Some(audit) = cell.audit {
            put(
                &mut text,
                format_args!(
                    "\nwith audit policies enforced the verdict would be {}",
                    audit.as_str()
                ),
            );
        }
        for end in &report.ends {
            if let Some(node) = &end.host_network_of {
                put(
                    &mut text,
                    format_args!(
                        "\n{} shares the network of node {node} and is judged as the node: no \
                         selector of pods matches it",
                        end.id
                    ),
                );
            }
        }
        if report
            .ends
            .iter()
            .any(|end| !end.assumed_addresses.is_empty())
        {
            put(
                &mut text,
                format_args!(
                    "\nan end without an address in the documents is judged as if it had a private one"
                ),
            );
        }
        text
    }

    /// Puts down the verdicts of the first backends.
    fn backends(&self, text: &mut String) {
        let Some(BackendsReport { allowed, total }) = self.report.cell.backends else {
            return;
        };
        put(
            text,
            format_args!("\n{allowed} of {total} backends may be reached"),
        );
        let backends = &self.report.backends;
        for backend in backends.iter().take(MOST_BACKENDS) {
            let denied = [("egress", &backend.egress), ("ingress", &backend.ingress)]
                .into_iter()
                .find(|(_, side)| side.verdict == Word::Deny);
            let why = match denied {
                None => "allowed".to_owned(),
                Some((direction, side)) => format!("denied, {direction} {}", self.by(side)),
            };
            let BackendReport { id, probe, .. } = backend;
            put(text, format_args!("  {id} on {probe}: {why}"));
        }
        let beyond = backends.len().saturating_sub(MOST_BACKENDS);
        if beyond > 0 {
            put(text, format_args!("  {beyond} more"));
        }
    }

    /// The end whose ingress is told: of backends, the one that decides.
    fn receiver(&self) -> &str {
        let address = self.report.judged.ingress.destination;
        let mut backends = self.report.backends.iter();
        let deciding = backends.find(|backend| backend.address == address);
        deciding.map_or(&self.report.cell.destination, |backend| &backend.id)
    }

    /// Names what a verdict is put down to.
    fn by(&self, side: &SideReport) -> String {
        match side.rule.and_then(|rule| self.report.rule(rule)) {
            Some(rule) => format!("by {}", named(rule)),
            None => reason(&side.reason),
        }
    }

    fn side(
        &self,
        text: &mut String,
        direction: &str,
        end: &str,
        side: &SideReport,
        pair: PairReport,
    ) {
        let verdict = match side.verdict {
            Word::Allow => "allowed",
            Word::Deny => "denied",
        };
        let by = self.by(side);
        put(
            text,
            format_args!("\n{direction} of {end}: {verdict}, {by}"),
        );
        if self.has_choice() {
            put(
                text,
                format_args!("  from {} to {}", pair.source, pair.destination),
            );
        }
        for rule in side
            .isolated_by
            .iter()
            .filter_map(|id| self.report.rule(*id))
        {
            put(text, format_args!("  isolated by {}", named(rule)));
        }
        for step in self
            .report
            .walk
            .iter()
            .filter(|step| step.direction == direction)
        {
            let Some(rule) = self.report.rule(step.rule) else {
                continue;
            };
            put(text, format_args!("  {}", considered(step, rule)));
            self.line(text, rule);
        }
    }

    /// Returns `true` if an end has several addresses of the family, of which one pair
    /// decides.
    fn has_choice(&self) -> bool {
        let is_of_family = |address: &&IpAddr| address.is_ipv4() == (self.report.family == 4);
        let mut ends = self.report.ends.iter();
        ends.any(|end| end.addresses.iter().filter(is_of_family).count() > 1)
    }

    /// The line on which a rule begins.
    fn line(&self, text: &mut String, rule: &RuleReport) {
        let line = self
            .texts
            .and_then(|texts| texts.line(&rule.file, rule.line));
        if let Some(line) = line {
            put(
                text,
                format_args!("    {:>4} | {}", rule.line, line.trim_end()),
            );
        }
    }
}

/// Tells how a record stands to what is in force now.
fn of_record(text: &mut String, record: &RecordReport) {
    let now = match record.revision_in_force {
        Some(now) if now != record.revision => format!("; revision {now} is in force now"),
        _ => String::new(),
    };
    put(
        text,
        format_args!(
            "\nthe record: {} {}, {}, of revision {}{now}",
            record.kind.as_str(),
            record.direction.word(),
            record.reason.name(),
            record.revision
        ),
    );
    let told = match (record.is_by_policy, record.differs) {
        (false, _) => "policy had no part in that: what it says is about a new connection",
        (true, true) => "policy says otherwise now",
        (true, false) => "policy says the same now",
    };
    put(text, format_args!("{told}"));
}

/// Names the parts of the nearest rule that do not match the connection.
pub(super) fn nearest_miss(nearest: &NearestReport, rule: Option<&RuleReport>) -> String {
    let missed = |field: &str| nearest.missed.iter().any(|one| one == field);
    let mut but: Vec<String> = Vec::new();
    if missed("subject") {
        but.push("its policy, which does not select the workload".to_owned());
    }
    if missed("peer") {
        but.push(format!("the peer: it is for {}", nearest.peers));
    }
    if missed("port") {
        but.push(format!("the port: it has {}", nearest.ports));
    }
    let rule = rule.map(named).unwrap_or_default();
    format!("{rule} would allow it but for {}", but.join("; and for "))
}

/// Says a reason in words, for a verdict that no rule decided.
pub(super) fn reason(name: &str) -> String {
    match name {
        "not_isolated" => "no policy decides".to_owned(),
        "isolated" => "isolated, and no rule allows it".to_owned(),
        "self" => "a workload reaches itself".to_owned(),
        "own_node" => "its own node may always connect".to_owned(),
        other => other.replace('_', " "),
    }
}

/// A rule, and where it stands.
pub(super) fn named(rule: &RuleReport) -> String {
    let namespace = rule
        .namespace
        .as_ref()
        .map(|name| format!("{name}/"))
        .unwrap_or_default();
    let index = rule
        .index
        .map(|index| format!(" {}[{index}]", rule.direction));
    format!(
        "{namespace}{}{}, {}",
        rule.name,
        index.unwrap_or_default(),
        place(&rule.file, &[rule.line])
    )
}

/// A rule that was considered, and what came of it.
fn considered(step: &StepReport, rule: &RuleReport) -> String {
    let tier = match step.tier.as_str() {
        "namespace" => String::new(),
        tier => format!("{tier} tier: "),
    };
    let outcome = match (step.matched, step.action.as_str(), step.field.as_deref()) {
        (true, "pass", _) => "matches, and passes to the next tier".to_owned(),
        (true, "deny", _) => "matches, and denies".to_owned(),
        (true, ..) => "matches, and allows".to_owned(),
        (false, _, Some("peer")) => format!("does not match the peer: it is for {}", step.peers),
        (false, ..) => format!("does not match the port: it has {}", step.ports),
    };
    format!("{tier}{} {outcome}", named(rule))
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string");
}
