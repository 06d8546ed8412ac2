//! `cofferdam matrix`.

mod table;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use cofferdam_answers::reach::{CellReport, EndReport, MatrixReport, RuleReport, Word};
use cofferdam_compiler::RuleEntry;
use cofferdam_protocol::output::{self, Schema};
use cofferdam_reach::{Cell, End, Externals, Probe, Reach, Side, UnknownEnd};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::verdict::Action;
use serde::{Serialize, Serializer};

use super::cluster::ClusterArgs;
use super::etcd::EtcdArgs;
use super::offline::{
    Documents, External, FamilyArg, OwnNodeArg, external, externals, family_number,
};
use super::project::{PodArgs, Project, ReadArgs, looked_at};
use crate::output::LookedAt;

#[derive(Debug, Args)]
pub(super) struct MatrixArgs {
    /// Files and directories of documents; `-` is standard input.
    #[arg(value_name = "PATH", required_unless_present_any = ["etcd", "cluster"])]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    pods: PodArgs,
    /// Try this: `tcp/80`, `udp/53`, `sctp/80`, `icmp/8`, `icmp/8/0`, `icmpv6/128`,
    /// `proto/47`.
    #[arg(long = "probe", value_name = "PROBE", required = true)]
    probes: Vec<Probe>,
    /// Address family; by default 4, or 6 if no end has an IPv4 address or all probes are
    /// ICMPv6.
    #[arg(long, value_enum)]
    family: Option<FamilyArg>,
    /// An outside host, `internet=203.0.113.7,2001:db8::7`.
    #[arg(long = "external", value_name = "NAME=IP[,IP]…", value_parser = external)]
    externals: Vec<External>,
    /// Only from this end: `namespace/pod`, `node/NAME`, `external/NAME` or an address.
    #[arg(long = "from", value_name = "END")]
    from: Vec<String>,
    /// Only to this end, which may be a Service, too: `service/NAMESPACE/NAME`.
    #[arg(long = "to", value_name = "END")]
    to: Vec<String>,
    /// The agents' setting for connections of a workload's own node.
    #[arg(long, value_enum, default_value_t)]
    own_node: OwnNodeArg,
    /// Print in this form.
    #[arg(long, value_enum, default_value_t = MatrixFormat::Table)]
    format: MatrixFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MatrixFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For spreadsheets: a line for each cell.
    Csv,
}

/// Cells of a matrix: its ends and its probes, and the policies that answer.
struct Matrix<'a> {
    reach: &'a Reach,
    /// All ends that are asked about, each once.
    ends: Vec<End>,
    /// The senders among them, by position.
    sources: Vec<usize>,
    /// The receivers.
    destinations: Vec<usize>,
    probes: &'a [Probe],
    family: Family,
}

pub(super) fn run(args: &MatrixArgs) -> Result<bool> {
    let externals = externals(&args.externals)?;
    let asked = args.from.iter().chain(&args.to).map(String::as_str);
    let sources =
        Project::read_with(&args.etcd.and(&args.paths), &args.reading, &args.cluster)?.sources;
    let documents = Documents::asked_about(&sources, asked);
    let reach = documents.reach_in(&args.pods.networks(), args.own_node)?;
    let known = documents.known_externals(externals.clone());
    let mut matrix = Matrix::new(&reach, args, &externals, &known)?;
    if let Some(family) = args.family {
        matrix.family = family.into();
    }
    if args.format != MatrixFormat::Json {
        documents.complain();
    }
    if matrix.ends.is_empty() {
        let LookedAt { policies, .. } = looked_at(&sources);
        bail!(
            "there is nobody to ask about: no pod, template of pods or node is among the \
             documents, of which {policies} are policies"
        );
    }
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let written = match args.format {
        MatrixFormat::Table => {
            let colour = super::is_coloured();
            let remark = documents.remark(matrix.ends.iter().map(End::id));
            table::write(&matrix, colour, &mut out).and_then(|()| match remark.is_empty() {
                true => Ok(()),
                false => write!(out, "\n{remark}"),
            })
        }
        MatrixFormat::Json => matrix.write_json(&documents, &mut out),
        MatrixFormat::Csv => matrix.write_csv(&mut out),
    };
    match written.and_then(|()| out.flush()) {
        // A reader that has gone has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(documents.are_good())
}

/// The outcome of one cell.
enum Outcome {
    /// Policies were asked.
    Judged(Cell),
    /// Nobody is behind the receiver's address, so that there is nobody to ask about.
    Nobody,
}

impl Outcome {
    fn cell(&self) -> Option<&Cell> {
        match self {
            Self::Judged(cell) => Some(cell),
            Self::Nobody => None,
        }
    }

    fn action(&self) -> Action {
        self.cell().map_or(Action::Deny, Cell::action)
    }

    fn audit(&self) -> Option<Action> {
        self.cell().and_then(Cell::audit)
    }

    fn depends_on_address(&self) -> bool {
        self.cell().is_some_and(|cell| cell.depends_on_address)
    }
}

impl<'a> Matrix<'a> {
    fn new(
        reach: &'a Reach,
        args: &'a MatrixArgs,
        given: &Externals,
        known: &Externals,
    ) -> Result<Self> {
        let mut matrix = Self {
            reach,
            ends: Vec::new(),
            sources: Vec::new(),
            destinations: Vec::new(),
            probes: &args.probes,
            family: Family::V4,
        };
        matrix.sources = matrix.chosen(&args.from, given, |name| reach.sender(name, known))?;
        matrix.destinations = matrix.chosen(&args.to, given, |name| reach.end(name, known))?;
        let any_has = |family| matrix.ends.iter().any(|end| end.has(family));
        let is_v6 = |probe: &Probe| probe.family() == Some(Family::V6);
        if any_has(Family::V6) && (!any_has(Family::V4) || matrix.probes.iter().all(is_v6)) {
            matrix.family = Family::V6;
        }
        Ok(matrix)
    }

    /// The ends of these names; without any, all pods and nodes and the outside hosts
    /// that are `given`.
    fn chosen(
        &mut self,
        names: &[String],
        given: &Externals,
        find: impl Fn(&str) -> Result<End, UnknownEnd>,
    ) -> Result<Vec<usize>> {
        let ends: Vec<End> = if names.is_empty() {
            let hosts = given
                .iter()
                .map(|(name, addresses)| self.reach.external(name, addresses));
            self.reach.ends().iter().cloned().chain(hosts).collect()
        } else {
            let ends = names.iter().map(|name| find(name));
            ends.collect::<Result<_, _>>()?
        };
        let listed: HashMap<String, usize> = (self.ends.iter().zip(0..))
            .map(|(end, at)| (end.id().to_owned(), at))
            .collect();
        let mut chosen = Vec::new();
        for end in ends {
            let at = listed.get(end.id()).copied().unwrap_or_else(|| {
                self.ends.push(end);
                self.ends.len() - 1
            });
            if !chosen.contains(&at) || names.is_empty() {
                chosen.push(at);
            }
        }
        Ok(chosen)
    }

    /// All cells, one probe after the other.
    fn cells(&self) -> impl Iterator<Item = (Probe, &End, &End, Outcome)> {
        (self.probes.iter()).flat_map(move |probe| {
            self.sources.iter().flat_map(move |source| {
                self.destinations.iter().filter_map(move |destination| {
                    let (source, destination) = (&self.ends[*source], &self.ends[*destination]);
                    let cell = self.cell(*probe, source, destination)?;
                    Some((*probe, source, destination, cell))
                })
            })
        })
    }

    /// The cell of two ends; `None` when not both have an address of the family.
    fn cell(&self, probe: Probe, source: &End, destination: &End) -> Option<Outcome> {
        let reach = self.reach;
        match reach.cell(source, destination, probe, self.family) {
            Some(cell) => Some(Outcome::Judged(cell)),
            None => reach
                .leads_nowhere(source, destination, probe, self.family)
                .then_some(Outcome::Nobody),
        }
    }

    /// One object, of which no more than one cell is in memory at a time.
    fn write_json(&self, documents: &Documents, out: &mut impl Write) -> std::io::Result<()> {
        let report = MatrixReport {
            schema: Schema,
            family: family_number(self.family),
            ends: (self.ends.iter())
                .map(|end| EndReport {
                    not_judged: documents.not_judged(end.id()),
                    ..EndReport::from(end)
                })
                .collect(),
            rules: (self.reach.rules().rules())
                .map(|(number, entry)| RuleReport::new(number, entry))
                .collect(),
            cells: CellStream(self),
            diagnostics: documents.reported(),
        };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)
    }

    fn write_csv(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record([
            "source",
            "destination",
            "probe",
            "family",
            "verdict",
            "egress",
            "egress_reason",
            "egress_by",
            "ingress",
            "ingress_reason",
            "ingress_by",
            "audit",
            "depends_on",
        ])
        .map_err(from_csv)?;
        for (probe, source, destination, outcome) in self.cells() {
            let cell = outcome.cell();
            let side = |side: Option<&Side>| {
                let word = side.map_or("", |side| Word::from(side.verdict.action).as_str());
                let reason = side.map_or("", |side| side.verdict.reason.name());
                let by = side.map(|side| self.by(side)).unwrap_or_default();
                [word.to_owned(), reason.to_owned(), by]
            };
            let head = [
                source.id().to_owned(),
                destination.id().to_owned(),
                probe.to_string(),
                family_number(self.family).to_string(),
                Word::from(outcome.action()).as_str().to_owned(),
            ];
            let audit = outcome
                .audit()
                .map_or("", |action| Word::from(action).as_str());
            let depends_on = if outcome.depends_on_address() {
                "address"
            } else {
                ""
            };
            let fields = (head.into_iter())
                .chain(side(cell.map(|cell| &cell.egress)))
                .chain(side(cell.map(|cell| &cell.ingress)))
                .chain([audit.to_owned(), depends_on.to_owned()]);
            csv.write_record(fields).map_err(from_csv)?;
        }
        csv.flush()
    }

    /// Returns the places of the rule that decides, or of the policies that isolate.
    fn by(&self, side: &Side) -> String {
        let place = |entry: &RuleEntry| output::place(&entry.place.file, &[entry.place.line]);
        let rule = self.reach.rule_of(&side.verdict).map(|(_, entry)| entry);
        let isolating = self
            .reach
            .isolated_by(&side.verdict)
            .map(|(_, entry)| entry);
        let places: Vec<String> = rule.into_iter().chain(isolating).map(place).collect();
        places.join(" ")
    }
}

/// The error beneath, which tells whether the reader has gone.
pub(super) fn from_csv(error: csv::Error) -> std::io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => std::io::Error::other(format!("{other:?}")),
    }
}

/// The cells as a list that is written while it is made.
struct CellStream<'a>(&'a Matrix<'a>);

impl Serialize for CellStream<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cells = self.0.cells();
        serializer.collect_seq(cells.map(|(probe, source, destination, outcome)| {
            let ends = (source, destination);
            CellReport::new(self.0.reach, ends, probe, outcome.cell())
        }))
    }
}
