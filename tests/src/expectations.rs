//! Statements about who may reach whom: documents of kind `PolicyTest`.
//!
//! A reader of its own, which knows the documents that are spoken of and nothing of
//! what is made of them: what it says is held against the kernel.
//!
//! Invariant: a statement that matches nothing, and two that contradict each other,
//! are errors. So what is read has been checked.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cofferdam_policies::{
    documents::{assemble, parse},
    inventory::Inventory,
    selectors::{LabelSelector, Operator, Requirement},
};
use serde::Deserialize;

use crate::traffic::Probe;

/// Why expectations cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no `PolicyTest`.
    #[error("{} is not a PolicyTest", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
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
        /// Which statement, from 1.
        number: usize,
        /// The end as it was read.
        end: String,
    },
    /// A statement's port or selector cannot be understood.
    #[error("statement {number}: {what}")]
    Statement {
        /// Which statement, from 1.
        number: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Two statements say different things.
    #[error("statement {number} contradicts an earlier one about {question}")]
    Contradiction {
        /// The second of them, from 1.
        number: usize,
        /// What both are about.
        question: Question,
    },
}

/// What is asked: may this end reach that one, in this way?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Who tries: `namespace/pod` or `external/name`.
    pub source: String,
    /// Whom.
    pub destination: String,
    /// What.
    pub probe: Probe,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            probe,
        } = self;
        write!(f, "{source} > {destination} {probe}")
    }
}

/// What is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whether it may.
    pub allowed: bool,
    /// The policy that the verdict is put down to: `namespace/name`.
    pub by: Option<String>,
}

/// A folder of documents with the statements about them.
#[derive(Debug)]
pub struct Template {
    /// What the documents say.
    pub inventory: Inventory,
    /// The texts of the documents, by the name of their file.
    pub texts: BTreeMap<String, String>,
    /// Hosts outside, and their addresses.
    pub externals: BTreeMap<String, Vec<IpAddr>>,
    /// What is stated.
    pub expected: BTreeMap<Question, Expected>,
}

/// The file of statements in a folder of documents.
pub const STATEMENTS: &str = "test.yaml";

impl Template {
    /// Reads all documents of a folder, and the statements in [`STATEMENTS`].
    ///
    /// # Errors
    /// What cannot be read, has faults, or is not what it should be.
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

    /// All ends there are: workloads, then hosts outside.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        let workloads = self.inventory.workloads().keys().map(ToString::to_string);
        let externals = self.externals.keys().map(|name| external(name));
        workloads.chain(externals).collect()
    }

    /// All ways that some statement speaks of.
    #[must_use]
    pub fn probes(&self) -> Vec<Probe> {
        let mut probes: Vec<Probe> = self.expected.keys().map(|asked| asked.probe).collect();
        probes.sort_unstable();
        probes.dedup();
        probes
    }

    /// Questions about the ends and ways there are that no statement answers.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        for source in self.ends() {
            for destination in self.ends().into_iter().filter(|end| *end != source) {
                questions.extend(self.probes().into_iter().map(|probe| Question {
                    source: source.clone(),
                    destination: destination.clone(),
                    probe,
                }));
            }
        }
        questions.retain(|question| !self.expected.contains_key(question));
        questions
    }
}

/// How a host outside is called.
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
    namespace_selector: Selector,
    pod_selector: Selector,
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
        let mut all = BTreeMap::new();
        for (statement, number) in self.expect.iter().zip(1..) {
            let wrong = |what| Error::Statement { number, what };
            let probe = probe(&statement.port).map_err(wrong)?;
            let sources = self.ends(&statement.from, inventory, number)?;
            let destinations = self.ends(&statement.to, inventory, number)?;
            for source in &sources {
                for destination in destinations.iter().filter(|end| *end != source) {
                    let question = Question {
                        source: source.clone(),
                        destination: destination.clone(),
                        probe,
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
        Ok(all)
    }

    /// What an end of a statement stands for, at least one.
    fn ends(&self, end: &End, inventory: &Inventory, number: usize) -> Result<Vec<String>, Error> {
        let wrong = |what| Error::Statement { number, what };
        let workloads = inventory.workloads();
        let ends: Vec<String> = match end {
            End::Named(name) => {
                let known = workloads
                    .keys()
                    .map(ToString::to_string)
                    .chain(self.externals.keys().map(|name| external(name)));
                known.filter(|known| known == name).collect()
            }
            End::Chosen(chosen) => {
                let namespaces = chosen.namespace_selector.compiled().map_err(wrong)?;
                let pods = chosen.pod_selector.compiled().map_err(wrong)?;
                let chosen = workloads.values().filter(|workload| {
                    let labels = inventory.namespaces().get(&workload.name.namespace);
                    labels.is_some_and(|labels| namespaces.matches(labels))
                        && pods.matches(&workload.labels)
                });
                chosen.map(|workload| workload.name.to_string()).collect()
            }
        };
        if ends.is_empty() {
            let end = format!("{end:?}");
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
            let values = expression.values.iter().map(|value| value.as_str().into());
            let values = values.collect();
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

/// Reads `tcp/80`.
fn probe(text: &str) -> Result<Probe, String> {
    let unknown = || format!("`{text}` is not a port that can be tried, such as tcp/80");
    let (protocol, port) = text.split_once('/').ok_or_else(unknown)?;
    let port = port.parse().map_err(|_| unknown())?;
    match protocol {
        "tcp" => Ok(Probe::Tcp(port)),
        "udp" => Ok(Probe::Udp(port)),
        "sctp" => Ok(Probe::Sctp(port)),
        _ => Err(unknown()),
    }
}
