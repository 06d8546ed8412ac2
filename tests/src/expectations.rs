//! Statements about who may reach whom: documents of kind `PolicyTest`.
//!
//! A reader of its own, which knows the documents that are spoken of and nothing of
//! what is made of them: what it says is held against the kernel.
//!
//! Invariant: a statement that matches nothing, and two that contradict each other,
//! are errors. So what is read has been checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cofferdam_documents::{assemble, parse};
use cofferdam_inventory::selectors::{LabelSelector, Operator, Requirement};
use cofferdam_inventory::{Inventory, Workload};
use serde::Deserialize;

use crate::{
    packet::Family,
    traffic::{Probe, write_attempt},
};

/// Reason for which expectations cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// A file is no `PolicyTest`.
    #[error("{} is not a PolicyTest", path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Error of the YAML reader.
        #[source]
        source: serde_yaml::Error,
    },
    /// The documents beside it are not without fault.
    #[error("the documents have faults: {}", faults.join("; "))]
    Documents {
        /// Their diagnostics, in words.
        faults: Vec<String>,
    },
    /// A statement is about nothing.
    #[error("statement {number} has an end that nothing matches: {end}")]
    NoSuchEnd {
        /// Number of the statement, from 1.
        number: usize,
        /// The end as it was read.
        end: String,
    },
    /// A statement's port or selector cannot be understood.
    #[error("statement {number}: {what}")]
    Statement {
        /// Number of the statement, from 1.
        number: usize,
        /// Fault of the statement.
        what: String,
    },
    /// Two statements say different things.
    #[error("statement {number} contradicts an earlier one about {question}")]
    Contradiction {
        /// The second of them, from 1.
        number: usize,
        /// Question that both are about.
        question: Question,
    },
}

/// Question: may this end reach that one, in this way?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// End that tries: `namespace/pod`, `node/name`, `external/name` or an address.
    pub source: String,
    /// End that it tries to reach.
    pub destination: String,
    /// Probe by which it tries.
    pub probe: Probe,
    /// Family of the addresses that both use.
    pub family: Family,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_attempt(
            f,
            [&self.source, &self.destination],
            self.probe,
            self.family,
        )
    }
}

/// Expectation of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `true` if it may.
    pub allowed: bool,
    /// The policy that the verdict is put down to: `namespace/name`, or the bare name
    /// of a policy of the cluster.
    pub by: Option<String>,
}

/// A folder of documents with the statements about them.
#[derive(Debug)]
pub struct Template {
    /// Content of the documents.
    pub inventory: Inventory,
    /// The texts of the documents, by the name of their file.
    pub texts: BTreeMap<String, String>,
    /// Hosts outside, and their addresses.
    pub externals: BTreeMap<String, Vec<IpAddr>>,
    /// Expectations that are stated.
    pub expected: BTreeMap<Question, Expected>,
}

/// The file of statements in a folder of documents.
pub const STATEMENTS: &str = "test.yaml";

impl Template {
    /// Reads all documents of a folder, and the statements in [`STATEMENTS`].
    ///
    /// # Errors
    /// A file cannot be read, has faults, or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let mut texts = BTreeMap::new();
        for path in files(folder)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let text = text(&path)?;
                let name = path.file_name().unwrap_or_default();
                texts.insert(name.to_string_lossy().into_owned(), text);
            }
        }
        let statements = texts.remove(STATEMENTS).unwrap_or_default();
        let test: PolicyTest =
            serde_yaml::from_str(&statements).map_err(|source| Error::Format {
                path: folder.join(STATEMENTS),
                source,
            })?;
        let inventory = inventory(&texts)?;
        let expected = test.expected(&inventory)?;
        Ok(Self {
            inventory,
            texts,
            externals: test.externals,
            expected,
        })
    }

    /// All workloads, nodes and hosts outside, in the order of their names.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        ends(&self.inventory, &self.externals).into_keys().collect()
    }

    /// All ways that some statement speaks of.
    #[must_use]
    pub fn probes(&self) -> Vec<Probe> {
        let mut probes: Vec<Probe> = self.expected.keys().map(|asked| asked.probe).collect();
        probes.sort_unstable();
        probes.dedup();
        probes
    }

    /// Questions about the ends and ways there are that no statement answers. Where no
    /// policy selects either end, everything is allowed, and need not be stated.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Question> {
        let ways: BTreeSet<(Probe, Family)> = (self.expected.keys())
            .map(|asked| (asked.probe, asked.family))
            .collect();
        let ends = ends(&self.inventory, &self.externals);
        let mut questions = Vec::new();
        for (source, from) in &ends {
            for (destination, to) in ends.iter().filter(|(name, _)| *name != source) {
                if !from.is_subject && !to.is_subject {
                    continue;
                }
                for &(probe, family) in &ways {
                    if from.has(family) && to.has(family) {
                        questions.push(Question {
                            source: source.clone(),
                            destination: destination.clone(),
                            probe,
                            family,
                        });
                    }
                }
            }
        }
        questions.retain(|question| !self.expected.contains_key(question));
        questions
    }
}

/// Sender or receiver.
#[derive(Clone, Debug)]
struct Known {
    /// `true` if some policy selects it.
    is_subject: bool,
    /// Its addresses; none when they are not known yet, and may be of either family.
    addresses: Vec<IpAddr>,
}

impl Known {
    fn has(&self, family: Family) -> bool {
        let mut families = self.addresses.iter().map(|address| Family::of(*address));
        self.addresses.is_empty() || families.any(|own| own == family)
    }
}

/// Returns `true` if some policy selects a workload.
fn is_subject(workload: &Workload, inventory: &Inventory) -> bool {
    let mut policies = inventory.policies().values();
    let mut cluster_policies = inventory.cluster_policies().values();
    let namespace = inventory.namespaces().get(&workload.name.namespace);
    let in_namespace = policies.any(|policy| {
        policy.name.namespace == workload.name.namespace && policy.subject.matches(&workload.labels)
    });
    let in_cluster = cluster_policies.any(|policy| {
        namespace.is_some_and(|own| policy.subject.namespaces.matches(&own.labels))
            && policy.subject.workloads.matches(&workload.labels)
    });
    workload.is_selectable() && (in_namespace || in_cluster)
}

/// All ends that have a name.
fn ends(
    inventory: &Inventory,
    externals: &BTreeMap<String, Vec<IpAddr>>,
) -> BTreeMap<String, Known> {
    let workloads = inventory.workloads().values().map(|workload| {
        let addresses = workload.addresses.clone();
        let is_subject = is_subject(workload, inventory);
        (workload.name.to_string(), addresses, is_subject)
    });
    let nodes = inventory
        .nodes()
        .iter()
        .map(|(name, node)| (format!("node/{name}"), node.addresses.clone(), false));
    let externals = externals
        .iter()
        .map(|(name, addresses)| (external(name), addresses.clone(), false));
    let all = workloads.chain(nodes).chain(externals);
    all.map(|(name, addresses, is_subject)| {
        let known = Known {
            is_subject,
            addresses,
        };
        (name, known)
    })
    .collect()
}

/// Returns the name of a host outside.
#[must_use]
pub fn external(name: &str) -> String {
    format!("external/{name}")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

fn text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn inventory(texts: &BTreeMap<String, String>) -> Result<Inventory, Error> {
    let parsed: Vec<_> = texts
        .iter()
        .map(|(name, text)| parse(name, text.as_bytes()))
        .collect();
    let mut faults: Vec<String> = parsed
        .iter()
        .flat_map(|file| &file.diagnostics)
        .map(ToString::to_string)
        .collect();
    let assembled = assemble(parsed.into_iter().flat_map(|file| file.documents));
    faults.extend(assembled.diagnostics.iter().map(ToString::to_string));
    if faults.is_empty() {
        Ok(assembled.inventory)
    } else {
        Err(Error::Documents { faults })
    }
}

/// The document as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyTest {
    #[serde(rename = "apiVersion")]
    _api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(rename = "metadata")]
    _metadata: Metadata,
    expect: Vec<Statement>,
    #[serde(default)]
    externals: BTreeMap<String, Vec<IpAddr>>,
}

#[derive(Deserialize)]
enum ApiVersion {
    #[serde(rename = "cofferdam.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Deserialize)]
enum Kind {
    PolicyTest,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "name")]
    _name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    from: End,
    to: End,
    port: String,
    verdict: Verdict,
    by: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum End {
    Named(String),
    Chosen(Chosen),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Chosen {
    namespace_selector: Option<Selector>,
    pod_selector: Option<Selector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl PolicyTest {
    fn expected(&self, inventory: &Inventory) -> Result<BTreeMap<Question, Expected>, Error> {
        let known = ends(inventory, &self.externals);
        let mut all = BTreeMap::new();
        for (statement, number) in self.expect.iter().zip(1..) {
            let wrong = |what| Error::Statement { number, what };
            let (probe, families) = ways(&statement.port).map_err(wrong)?;
            let sources = statement.from.ends(&known, inventory, number)?;
            let destinations = statement.to.ends(&known, inventory, number)?;
            let mut said = false;
            for (source, from) in &sources {
                for (destination, to) in &destinations {
                    // Whoever talks to itself needs nobody's leave.
                    if source == destination {
                        continue;
                    }
                    let shared = |family: &&Family| from.has(**family) && to.has(**family);
                    for &family in families.iter().filter(shared) {
                        said = true;
                        let question = Question {
                            source: source.clone(),
                            destination: destination.clone(),
                            probe,
                            family,
                        };
                        let expected = Expected {
                            allowed: statement.verdict == Verdict::Allow,
                            by: statement.by.clone(),
                        };
                        let earlier = all.insert(question.clone(), expected.clone());
                        if earlier.is_some_and(|earlier| earlier != expected) {
                            return Err(Error::Contradiction { number, question });
                        }
                    }
                }
            }
            if !said {
                let nothing = "no packet can go from one of its ends to the other";
                return Err(wrong(nothing.to_owned()));
            }
        }
        Ok(all)
    }
}

impl End {
    /// Returns the ends that it stands for, at least one.
    fn ends(
        &self,
        known: &BTreeMap<String, Known>,
        inventory: &Inventory,
        number: usize,
    ) -> Result<Vec<(String, Known)>, Error> {
        let wrong = |what| Error::Statement { number, what };
        let named = |name: &str| Some((name.to_owned(), known.get(name)?.clone()));
        let ends: Vec<(String, Known)> = match self {
            Self::Named(name) => match name.parse::<IpAddr>() {
                Ok(address) => {
                    let known = Known {
                        is_subject: false,
                        addresses: vec![address],
                    };
                    vec![(address.to_string(), known)]
                }
                Err(_) => named(name).into_iter().collect(),
            },
            Self::Chosen(chosen) => {
                let selector = |selector: &Option<Selector>| match selector {
                    Some(selector) => selector.compiled(),
                    None => Ok(LabelSelector::default()),
                };
                if chosen.namespace_selector.is_none() && chosen.pod_selector.is_none() {
                    return Err(wrong("an end must say who it is".to_owned()));
                }
                let namespaces = selector(&chosen.namespace_selector).map_err(wrong)?;
                let pods = selector(&chosen.pod_selector).map_err(wrong)?;
                let chosen = inventory.workloads().values().filter(|workload| {
                    let own = inventory.namespaces().get(&workload.name.namespace);
                    workload.is_selectable()
                        && own.is_some_and(|own| namespaces.matches(&own.labels))
                        && pods.matches(&workload.labels)
                });
                chosen
                    .filter_map(|workload| named(&workload.name.to_string()))
                    .collect()
            }
        };
        if ends.is_empty() {
            let end = format!("{self:?}");
            return Err(Error::NoSuchEnd { number, end });
        }
        Ok(ends)
    }
}

impl Selector {
    fn compiled(&self) -> Result<LabelSelector, String> {
        let labels = self.match_labels.iter().map(|(key, value)| {
            let values = Box::from([Box::from(value.as_str())]);
            Ok(Requirement::new(key, Operator::In(values)))
        });
        let expressions = self.match_expressions.iter().map(|expression| {
            let values = expression
                .values
                .iter()
                .map(|value| value.as_str().into())
                .collect();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("there is no operator `{other}`")),
            };
            Ok(Requirement::new(&expression.key, operator))
        });
        labels.chain(expressions).collect()
    }
}

/// Reads `tcp/80` or `icmp/8`: what is tried, and over which families it can be.
fn ways(text: &str) -> Result<(Probe, &'static [Family]), String> {
    match text {
        "icmp/8" | "icmp/8/0" => return Ok((Probe::Ping, &[Family::V4])),
        "icmpv6/128" | "icmpv6/128/0" => return Ok((Probe::Ping, &[Family::V6])),
        _ => {}
    }
    let unknown = || format!("`{text}` is not a port that can be tried, such as tcp/80 or icmp/8");
    let (protocol, port) = text.split_once('/').ok_or_else(unknown)?;
    let port = port.parse().map_err(|_| unknown())?;
    let probe = match protocol {
        "tcp" => Probe::Tcp(port),
        "udp" => Probe::Udp(port),
        "sctp" => Probe::Sctp(port),
        _ => return Err(unknown()),
    };
    Ok((probe, &Family::BOTH))
}
