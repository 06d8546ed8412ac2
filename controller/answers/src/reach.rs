//! The reports of `matrix`, `explain` and `test`.

use std::net::IpAddr;

use cofferdam_compiler::RuleEntry;
use cofferdam_documents::context::ForeignPolicy;
use cofferdam_protocol::output::{Diagnostic, RecordType, Schema};
use cofferdam_protocol::words::{self, ClosedList as _};
use cofferdam_reach::{self as reach, Reach};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Allow or deny.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

impl Word {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl From<Action> for Word {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}

/// The word for a direction in JSON.
#[must_use]
pub fn direction_word(direction: Direction) -> &'static str {
    direction.word()
}

/// The word for an action in JSON.
#[must_use]
pub fn action_word(action: Action) -> &'static str {
    action.word()
}

/// An end of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndReport {
    /// `namespace/pod`, `node/NAME`, `service/NAMESPACE/NAME`, `external/NAME`, or an address.
    pub id: String,
    /// `pod`, `node`, `service` or `external`.
    pub kind: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The addresses it was judged by because no document gives it any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed_addresses: Vec<IpAddr>,
    /// The node whose network the pod shares: as that it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network_of: Option<String>,
    /// Policies of other products that may be about it. No verdict counts what they say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_judged: Vec<NotJudged>,
}

/// A policy of another product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotJudged {
    /// Its group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; null for kinds that lie in none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The file.
    pub file: String,
    /// The line on which it begins.
    pub line: u32,
}

impl NotJudged {
    /// A policy that was found among documents.
    #[must_use]
    pub fn new(policy: &ForeignPolicy) -> Self {
        Self {
            api_version: policy.api_version.to_string(),
            kind: policy.kind.to_string(),
            namespace: policy.namespace.as_ref().map(ToString::to_string),
            name: policy.name.to_string(),
            file: policy.place.file.to_string(),
            line: policy.place.line,
        }
    }
}

impl From<&reach::End> for EndReport {
    fn from(end: &reach::End) -> Self {
        let all: Vec<IpAddr> = end.addresses().collect();
        let (addresses, assumed_addresses) = if end.is_assumed() {
            (Vec::new(), all)
        } else {
            (all, Vec::new())
        };
        Self {
            id: end.id().to_owned(),
            kind: end.kind().as_str().to_owned(),
            host_network_of: end.host_of_network().map(str::to_owned),
            addresses,
            assumed_addresses,
            not_judged: Vec::new(),
        }
    }
}

/// A rule of a policy, or the policy as it isolates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleReport {
    /// The number by which this object names it.
    pub id: u32,
    /// The policy's kind.
    pub kind: String,
    /// `admin`, `namespace` or `baseline`.
    pub tier: String,
    /// The policy's namespace; null for policies of the whole cluster.
    pub namespace: Option<String>,
    /// The policy's name.
    pub name: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Position among the policy's rules of this direction, from 0; null is the
    /// policy itself, as it isolates.
    pub index: Option<u32>,
    /// The file, or the object of an API server.
    pub file: String,
    /// The line; of a policy, that of its `spec`. Null of an object.
    #[serde(with = "cofferdam_protocol::output::line")]
    #[schemars(with = "Option<u32>")]
    pub line: u32,
}

impl RuleReport {
    /// A rule under its number.
    #[must_use]
    pub fn new(id: u32, entry: &RuleEntry) -> Self {
        let namespace = &entry.key.policy.namespace;
        Self {
            id,
            kind: entry.key.kind.as_str().to_owned(),
            tier: entry.tier.as_str().to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_string()),
            name: entry.key.policy.name.to_string(),
            direction: direction_word(entry.key.direction).to_owned(),
            index: entry.key.index,
            file: entry.place.file.to_string(),
            line: entry.place.line,
        }
    }
}

/// The judgement of one direction of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SideReport {
    /// Verdict about it.
    pub verdict: Word,
    /// The reason; `docs/reasons.md` has the list.
    pub reason: String,
    /// The rule that decided; null for a default.
    pub rule: Option<u32>,
    /// The policies that a default denial is due to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<u32>,
}

impl SideReport {
    fn new(reach: &Reach, side: &reach::Side) -> Self {
        Self {
            verdict: side.verdict.action.into(),
            reason: side.verdict.reason.name().to_owned(),
            rule: reach.rule_of(&side.verdict).map(|(number, _)| number),
            isolated_by: (reach.isolated_by(&side.verdict))
                .map(|(number, _)| number)
                .collect(),
        }
    }
}

/// May one end open a connection to another?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CellReport {
    /// The sender.
    pub source: String,
    /// The receiver.
    pub destination: String,
    /// The probe: protocol and port, or type of ICMP.
    pub probe: String,
    /// Verdict: allow only if both directions of every pair of addresses do, and
    /// of every backend's.
    pub verdict: Word,
    /// Of what is translated, such as a Service's address, how many backends it reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<BackendsReport>,
    /// The sender's egress; null where there is no backend.
    pub egress: Option<SideReport>,
    /// The receiver's ingress; of backends, that of the first that is denied, else of the
    /// first. Null where there is none.
    pub ingress: Option<SideReport>,
    /// The verdict with audit policies in force; null when the same.
    pub audit: Option<Word>,
    /// `["address"]` where the verdict is another by the address that an end will have, and
    /// that no document gives: it is taken for denied. Null elsewhere.
    #[serde(default)]
    pub depends_on: Option<Vec<String>>,
}

/// Numbers of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendsReport {
    /// Backends that may be reached.
    pub allowed: u32,
    /// All backends.
    pub total: u32,
}

impl From<reach::Backends> for BackendsReport {
    fn from(backends: reach::Backends) -> Self {
        let reach::Backends { allowed, total } = backends;
        Self { allowed, total }
    }
}

/// One backend, by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendReport {
    /// `namespace/pod`, `node/NAME`, or an address.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
    /// Connection that arrives there, with the backend's own port.
    pub probe: String,
    /// Verdict on this pair.
    pub verdict: Word,
    /// The sender's egress.
    pub egress: SideReport,
    /// The backend's ingress.
    pub ingress: SideReport,
}

impl BackendReport {
    /// A backend's part of a cell.
    #[must_use]
    pub fn new(reach: &Reach, backend: &reach::BackendCell) -> Self {
        Self {
            id: backend.id.clone(),
            address: backend.address,
            probe: backend.probe.to_string(),
            verdict: backend.cell.action().into(),
            egress: SideReport::new(reach, &backend.cell.egress),
            ingress: SideReport::new(reach, &backend.cell.ingress),
        }
    }
}

impl CellReport {
    /// A cell of these ends; `None` where nobody is behind the receiver's address.
    #[must_use]
    pub fn new(
        reach: &Reach,
        (source, destination): (&reach::End, &reach::End),
        probe: reach::Probe,
        cell: Option<&reach::Cell>,
    ) -> Self {
        let nobody = || Some(reach::Backends::default());
        let backends = cell.map_or_else(nobody, |cell| cell.backends);
        Self {
            source: source.id().to_owned(),
            destination: destination.id().to_owned(),
            probe: probe.to_string(),
            verdict: cell.map_or(Word::Deny, |cell| cell.action().into()),
            backends: backends.map(Into::into),
            egress: cell.map(|cell| SideReport::new(reach, &cell.egress)),
            ingress: cell.map(|cell| SideReport::new(reach, &cell.ingress)),
            audit: cell.and_then(|cell| cell.audit()).map(Word::from),
            depends_on: cell
                .filter(|cell| cell.depends_on_address)
                .map(|_| vec!["address".to_owned()]),
        }
    }
}

/// Answer of `matrix`.
///
/// `Cells` is the list as it is read; as it is written, it may be a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MatrixReport")]
pub struct MatrixReport<Cells = Vec<CellReport>> {
    /// The version of this object.
    pub schema: Schema,
    /// The family of all cells: 4 or 6.
    pub family: u8,
    /// The ends.
    pub ends: Vec<EndReport>,
    /// The rules that cells name, and those of all other policies that select a pod.
    pub rules: Vec<RuleReport>,
    /// For each probe, sender and receiver; none where not both have an address of the
    /// family.
    pub cells: Cells,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

/// A rule that was considered on the way to a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// `ingress` or `egress`.
    pub direction: String,
    /// `admin`, `namespace` or `baseline`.
    pub tier: String,
    /// The rule.
    pub rule: u32,
    /// Its action: `accept`, `deny` or `pass`.
    pub action: String,
    /// `true` if it matched.
    pub matched: bool,
    /// The first part that did not match: `peer` or `port`; null when it matched.
    pub field: Option<String>,
    /// Its peers in words.
    pub peers: String,
    /// Its ports in words.
    pub ports: String,
}

/// The rule that would have allowed what was denied, but for a field or two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NearestReport {
    /// `ingress` or `egress`.
    pub direction: String,
    /// The rule.
    pub rule: u32,
    /// Parts that do not match: `subject` (its policy does not select the workload), `peer`,
    /// `port`.
    pub missed: Vec<String>,
    /// Its peers in words.
    pub peers: String,
    /// Its ports in words.
    pub ports: String,
}

/// Two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PairReport {
    /// The sender's.
    pub source: IpAddr,
    /// The receiver's.
    pub destination: IpAddr,
}

impl From<&reach::Side> for PairReport {
    fn from(side: &reach::Side) -> Self {
        Self {
            source: side.source,
            destination: side.destination,
        }
    }
}

/// The pairs of addresses that a cell's verdicts are about: the first that is denied,
/// else the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JudgedReport {
    /// Of the sender's egress.
    pub egress: PairReport,
    /// Of the receiver's ingress.
    pub ingress: PairReport,
}

/// A flow record, held against what is in force now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordReport {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// Its direction.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Direction>")]
    pub direction: Direction,
    /// Its verdict.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Action>")]
    pub verdict: Action,
    /// Its reason.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Reason>")]
    pub reason: Reason,
    /// Revision that decided it.
    pub revision: u64,
    /// Revision in force; null where documents were asked.
    pub revision_in_force: Option<u64>,
    /// `true` if policy decided it, and so could decide otherwise now.
    pub is_by_policy: bool,
    /// `true` if policy would decide otherwise now.
    pub differs: bool,
}

/// Answer of `explain`: a cell, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainReport {
    /// The version of this object.
    pub schema: Schema,
    /// The family: 4 or 6.
    pub family: u8,
    /// The cell.
    #[serde(flatten)]
    pub cell: CellReport,
    /// Of what is translated, each backend by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "backend_cells")]
    pub backends: Vec<BackendReport>,
    /// The pairs of addresses that decided.
    pub judged: JudgedReport,
    /// Each rule that was considered: the sender's egress, then the receiver's ingress.
    pub walk: Vec<StepReport>,
    /// Of a denial, or what one would be were the workload's namespace not on audit, the rule
    /// that came nearest to allowing it; null when none could.
    pub nearest: Option<NearestReport>,
    /// Namespaces of the ends in which policies only audit, and would deny this otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audited_namespaces: Vec<String>,
    /// The flow record that was asked about, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordReport>,
    /// The two ends.
    pub ends: Vec<EndReport>,
    /// The rules that are named here.
    pub rules: Vec<RuleReport>,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

impl ExplainReport {
    /// The rule of this number.
    #[must_use]
    pub fn rule(&self, id: u32) -> Option<&RuleReport> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}

/// A cell that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureReport {
    /// Over which families.
    pub families: Vec<u8>,
    /// The fault, in a sentence.
    pub message: String,
    /// The cell as it is.
    #[serde(flatten)]
    pub cell: CellReport,
    /// Of a denial, the rule that came nearest to allowing it; null when none could.
    pub nearest: Option<NearestReport>,
}

/// The outcome of one expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExpectationReport {
    /// The name of its `PolicyTest`.
    pub test: String,
    /// The file it stands in.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The sender.
    pub from: String,
    /// To whom.
    pub to: String,
    /// To what.
    pub port: String,
    /// The verdict that is expected.
    pub verdict: Word,
    /// The verdict that is expected with audit policies in force; null where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Word>,
    /// The policy that the verdict is expected to be put down to.
    pub by: Option<String>,
    /// `true` if it holds.
    pub holds: bool,
    /// Number of cells that it is about.
    pub checked: u64,
    /// Those that are not as expected, the first of them.
    pub failures: Vec<FailureReport>,
    /// Number of cells beyond those that are not as expected either.
    pub unlisted: u64,
    /// The reason for which it is about nothing.
    pub mistakes: Vec<Diagnostic>,
}

/// Coverage: the rules that the expectations exercise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CoverageReport {
    /// Rules there are.
    pub rules: u64,
    /// Rules that decide a cell of some expectation, in force or in audit.
    pub exercised: u64,
    /// The others.
    pub unexercised: Vec<u32>,
}

/// A policy with one part left out or widened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MutantReport {
    /// The policy: `namespace/name`, or `name` of one of the whole cluster.
    pub policy: String,
    /// The change, for people: `ingress[0].from[1] left out`.
    pub what: String,
    /// The file.
    pub file: String,
    /// The line of the part.
    pub line: u32,
    /// Its column.
    pub column: u32,
}

/// Policies with one part left out or widened, each in turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MutationReport {
    /// Mutants that were tried.
    pub mutants: u64,
    /// Those under which an expectation does not hold.
    pub noticed: u64,
    /// Percentage of those that are noticed among those that treat some connection otherwise,
    /// rounded down; null where none does.
    pub score: Option<u64>,
    /// Those that treat some connection otherwise while every expectation holds.
    pub unnoticed: Vec<MutantReport>,
    /// Those that treat every connection as before: the part has no effect here.
    pub equivalent: Vec<MutantReport>,
}

/// Answer of `test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    /// The version of this object.
    pub schema: Schema,
    /// Expectations that hold.
    pub passed: u64,
    /// Expectations that do not.
    pub failed: u64,
    /// The outcome of each, in the order of files.
    pub expectations: Vec<ExpectationReport>,
    /// The rules that are named here.
    pub rules: Vec<RuleReport>,
    /// With `--coverage`: which rules are exercised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<CoverageReport>,
    /// With `--mutate`, and if every expectation holds: which changes are noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutation: Option<MutationReport>,
    /// Findings about the documents, expectations included.
    pub diagnostics: Vec<Diagnostic>,
}
