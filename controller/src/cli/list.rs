//! `cofferdam list`.

mod text;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_analysis::connectivity::{
    Connection, Connectivity, Focus, Group, ListedEnd, PortSpan,
};
use cofferdam_answers::connectivity::{
    BackendReport, ConnectionReport, GroupReport, ListReport, LookedAt, listed_end,
};
use cofferdam_answers::reach::RuleReport;
use cofferdam_protocol::output::{self, Schema};
use cofferdam_reach::{EndKind, Probe};
use cofferdam_verdict::verdict::Direction;
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use super::connectivity::ConnectivityArgs;
use super::etcd::EtcdArgs;
use super::offline::{Documents, FamilyArg};
use super::project::Project;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Files and directories of documents; `-` is standard input.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    focus: FocusArgs,
    #[command(flatten)]
    state: ConnectivityArgs,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    format: ListFormat,
}

/// Prefix of the names of Services.
const SERVICE: &str = "service/";

/// Connections that are asked for.
#[derive(Debug, Args)]
pub(super) struct FocusArgs {
    /// Only connections of this workload: `namespace/workload`, `namespace/pod`, `node/NAME` or
    /// `service/NAMESPACE/NAME`.
    #[arg(long = "workload", value_name = "NAMESPACE/NAME")]
    workloads: Vec<String>,
    /// Only connections of workloads in this namespace.
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Of those only connections towards the chosen workloads, or away from them.
    #[arg(long, value_enum)]
    direction: Option<DirectionArg>,
    /// Only ranges that this lies in: `tcp/80`, `udp/53`, `icmp/8`.
    #[arg(long, value_name = "PORT")]
    port: Option<Probe>,
    /// Only over this family.
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
    /// Also connections to Services: who may connect to everything behind one.
    #[arg(long)]
    pub(super) services: bool,
}

/// The directions as a workload has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DirectionArg {
    /// Towards the workload.
    Ingress,
    /// Away from it.
    Egress,
}

impl From<DirectionArg> for Direction {
    fn from(direction: DirectionArg) -> Self {
        match direction {
            DirectionArg::Ingress => Self::Ingress,
            DirectionArg::Egress => Self::Egress,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For spreadsheets: a line for each range of ports.
    Csv,
    /// A table in Markdown.
    Md,
}

/// The list that is asked for.
struct List<'a> {
    connectivity: &'a Connectivity,
    focus: Focus,
}

pub(super) fn run(args: &ListArgs) -> Result<bool> {
    let (reading, cluster) = (&args.state.reading, &args.state.cluster);
    let documents =
        Documents::of(&Project::read_with(&args.etcd.and(&args.paths), reading, cluster)?.sources);
    let connectivity = args.state.of(&documents)?;
    let list = List {
        focus: args.focus.of(&connectivity)?,
        connectivity: &connectivity,
    };
    if args.format != ListFormat::Json {
        documents.complain();
    }
    let stdout = std::io::stdout();
    let mut out = BufWriter::with_capacity(1 << 16, stdout.lock());
    let written = match args.format {
        ListFormat::Text => text::write(&list, &mut out),
        ListFormat::Md => text::write_md(&list, &mut out),
        ListFormat::Csv => list.write_csv(&mut out),
        ListFormat::Json => list.write_json(&documents, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        // A reader that has gone has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(documents.are_good())
}

impl FocusArgs {
    /// The groups that are chosen by name, and what is asked of them; with Services if they are
    /// asked for, or one is chosen by name.
    pub(super) fn of(&self, connectivity: &Connectivity) -> Result<Focus> {
        let is_named = |name: &String| name.starts_with(SERVICE);
        let services = self.services || self.workloads.iter().any(is_named);
        let groups = connectivity.groups();
        let chosen = |is_chosen: &dyn Fn(&Group) -> bool| {
            let groups = groups.iter().enumerate();
            groups
                .filter_map(|(at, group)| is_chosen(group).then_some(at))
                .collect::<Vec<_>>()
        };
        let mut all = BTreeSet::new();
        for name in &self.workloads {
            let found = chosen(&|group| {
                *group.id == **name || group.members.iter().any(|member| *member.id == **name)
            });
            if !found.is_empty() {
                all.extend(found);
                continue;
            }
            let services = connectivity.services().iter();
            if let Some(at) = services.clone().position(|service| *service.id == **name) {
                all.insert(groups.len() + at);
                continue;
            }
            let known = groups
                .iter()
                .filter(|group| group.kind != EndKind::External);
            let known: Vec<&str> = known
                .map(|group| &*group.id)
                .chain(services.map(|service| &*service.id))
                .collect();
            let near = did_you_mean(name, &known);
            match name.strip_prefix(SERVICE) {
                Some(_) => bail!("there is no Service `{name}` that takes connections{near}"),
                None => bail!("there is no workload `{name}`{near}"),
            }
        }
        for name in &self.namespaces {
            let found = chosen(&|group| group.namespace.as_deref() == Some(name));
            if found.is_empty() {
                let known = groups.iter().filter_map(|group| group.namespace.as_deref());
                let known: Vec<&str> = known.collect::<BTreeSet<_>>().into_iter().collect();
                let near = did_you_mean(name, &known);
                bail!("there is no workload in a namespace `{name}`{near}");
            }
            all.extend(found);
            if services {
                let own = connectivity
                    .services()
                    .iter()
                    .enumerate()
                    .filter(|(_, service)| *service.namespace == **name);
                all.extend(own.map(|(at, _)| groups.len() + at));
            }
        }
        let is_chosen = !self.workloads.is_empty() || !self.namespaces.is_empty();
        if self.direction.is_some() && !is_chosen {
            bail!("--direction is seen from workloads: choose some with --workload or --namespace");
        }
        Ok(Focus {
            groups: is_chosen.then_some(all),
            services,
            direction: self.direction.map(Into::into),
            port: self.port.map(PortSpan::of_probe),
            family: self.family.map(Into::into),
        })
    }
}

/// Ends behind a Service in words: `shop/api:8080`, or `shop/api` at the port that was asked for.
pub(super) fn backend_words(backends: &[BackendReport], between: &str) -> String {
    let words = backends
        .iter()
        .map(|BackendReport { id, port }| match port {
            // An address of IPv6 has colons of its own.
            Some(port) if id.contains(':') => format!("[{id}]:{port}"),
            Some(port) => format!("{id}:{port}"),
            None => id.clone(),
        });
    words.collect::<Vec<_>>().join(between)
}

/// The name that was probably meant.
pub(super) fn did_you_mean(name: &str, known: &[&str]) -> String {
    match cofferdam_documents::hints::nearest(name, known) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}

impl List<'_> {
    /// One object, of which no more than one connection is in memory at a time.
    fn write_json(&self, documents: &Documents, out: &mut impl Write) -> std::io::Result<()> {
        let outside = RefCell::default();
        let report = ListReport {
            schema: Schema,
            looked_at: LookedAt::new(self.connectivity),
            connections: ConnectionStream {
                list: self,
                outside: &outside,
            },
            ends: EndStream {
                list: self,
                outside: &outside,
            },
            rules: (self.connectivity.rules().rules())
                .map(|(number, entry)| RuleReport::new(number, entry))
                .collect(),
            diagnostics: documents.reported(),
        };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)
    }

    fn write_csv(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        let mut head = vec![
            "source",
            "destination",
            "family",
            "protocol",
            "ports",
            "egress_by",
            "ingress_by",
        ];
        if self.focus.services {
            head.push("backends");
        }
        csv.write_record(head).map_err(super::matrix::from_csv)?;
        self.connectivity.connections(&self.focus, |connection| {
            for report in ConnectionReport::of(&connection) {
                let backends = (self.focus.services).then(|| backend_words(&report.backends, " "));
                let fields = [
                    report.source,
                    report.destination,
                    report.family.to_string(),
                    report.protocol,
                    report.ports,
                    self.places(&report.egress),
                    self.places(&report.ingress),
                ]
                .into_iter()
                .chain(backends);
                csv.write_record(fields).map_err(super::matrix::from_csv)?;
            }
            Ok::<(), std::io::Error>(())
        })?;
        csv.flush()
    }

    fn places(&self, rules: &[u32]) -> String {
        let rules = rules
            .iter()
            .filter_map(|rule| self.connectivity.rules().rule(*rule));
        let places = rules.map(|entry| output::place(&entry.place.file, &[entry.place.line]));
        places.collect::<Vec<_>>().join(" ")
    }
}

/// Outside addresses that connections name.
type Named = RefCell<BTreeMap<String, GroupReport>>;

/// Connections as a list that is written while it is made.
struct ConnectionStream<'a> {
    list: &'a List<'a>,
    outside: &'a Named,
}

impl Serialize for ConnectionStream<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_seq(None)?;
        let List {
            connectivity,
            focus,
        } = self.list;
        connectivity.connections(focus, |connection: Connection<'_>| {
            for end in [&connection.source, &connection.destination] {
                if let ListedEnd::Outside(outside) = end {
                    let mut named = self.outside.try_borrow_mut().map_err(S::Error::custom)?;
                    named.entry(outside.id()).or_insert_with(|| listed_end(end));
                }
            }
            for report in ConnectionReport::of(&connection) {
                items.serialize_element(&report)?;
            }
            Ok::<(), S::Error>(())
        })?;
        items.end()
    }
}

/// The ends that connections are between, once these have been written.
struct EndStream<'a> {
    list: &'a List<'a>,
    outside: &'a Named,
}

impl Serialize for EndStream<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = self.list.connectivity.groups().iter();
        let inside = groups.filter(|group| group.outside.is_none());
        let named = self.outside.borrow();
        let outside = named.values().cloned();
        let services = match self.list.focus.services {
            true => self.list.connectivity.services(),
            false => &[],
        };
        let inside = inside.map(GroupReport::from);
        serializer.collect_seq(
            inside
                .chain(services.iter().map(GroupReport::from))
                .chain(outside),
        )
    }
}
