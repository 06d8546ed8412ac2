//! Reads `PolicyTest` documents.
//!
//! Beside them may stand anything; whether that is right is for [`documents`] to say,
//! as is text that is not YAML.
//!
//! [`documents`]: cofferdam_documents

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::MAX_FILE;
use cofferdam_documents::reader::{Fields, Reader, Shown};
use cofferdam_documents::selector::{labels, selector};
use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_syntax::diagnostic::{Code, Diagnostic};
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{self, Node, Value};
use cofferdam_verdict::verdict::Action;

use crate::{Externals, Probe};

use super::{By, Choice, Ends, Expectation, PolicyTest};

/// The kind of document.
pub const KIND: &str = "PolicyTest";
/// Its version.
pub const API_VERSION: &str = "cofferdam.dev/v1alpha1";
/// The group of documents that are ours.
const GROUP: &str = "cofferdam.dev/";

/// The expectations of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tests {
    /// The documents, with the statements of theirs that can be understood.
    pub tests: Vec<PolicyTest>,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the expectations of a file. `file` is only a name, for places.
#[must_use]
pub fn read(file: &str, bytes: &[u8]) -> Tests {
    let Some(text) = (std::str::from_utf8(bytes).ok())
        .filter(|text| text.len() <= MAX_FILE)
        .filter(|text| text.contains(KIND) || text.contains(GROUP))
    else {
        return Tests::default();
    };
    let file: Arc<str> = Arc::from(file);
    let mut reader = Reader::new(&file);
    let mut tests = Vec::new();
    for node in yaml::parse(text).into_iter().flatten() {
        document(&mut reader, &node, &mut tests);
    }
    Tests {
        tests,
        diagnostics: reader.into_diagnostics(),
    }
}

/// The text under a key, if it is one.
fn text_under<'n>(node: &'n Node<'_>, key: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let entry = (entries.iter())
        .find(|entry| matches!(&entry.key.value, Value::Text(text) if text == key))?;
    match &entry.value.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn document(reader: &mut Reader, node: &Node<'_>, tests: &mut Vec<PolicyTest>) {
    match text_under(node, "kind") {
        Some(kind) if kind == KIND => {}
        Some("List") => {
            if let Value::Map(entries) = &node.value {
                for entry in entries {
                    if let Value::List(items) = &entry.value.value {
                        items.iter().for_each(|item| document(reader, item, tests));
                    }
                }
            }
            return;
        }
        kind => {
            // Passed over, a slip would look like expectations that hold.
            if text_under(node, "apiVersion").is_some_and(|version| version.starts_with(GROUP)) {
                reader.error_hint(
                    node.mark,
                    Code::Unsupported,
                    format!("`{}` is no kind of ours", Shown(kind.unwrap_or_default())),
                    format!("write kind: {KIND}"),
                );
            }
            return;
        }
    }
    reader.check_keys(node);
    let known = ["apiVersion", "kind", "metadata", "expect", "externals"];
    let Some(fields) = reader.strict_mapping(node, "a PolicyTest", &known) else {
        return;
    };
    if let Some(version) = reader.required(fields, "apiVersion")
        && let Some(text) = reader.string(version, "`apiVersion`")
        && text != API_VERSION
    {
        reader.error_hint(
            version.mark,
            Code::Unsupported,
            format!("{} `{KIND}` is not known", Shown(text)),
            format!("write apiVersion: {API_VERSION}"),
        );
        return;
    }
    let name = reader.required(fields, "metadata").and_then(|node| {
        let metadata = reader.mapping(node, "`metadata`")?;
        let name = reader.required(metadata, "name")?;
        reader.string(name, "`metadata.name`")
    });
    let externals = fields
        .get("externals")
        .map(|node| read_externals(reader, node));
    let statements = reader
        .required(fields, "expect")
        .and_then(|node| reader.counted_list(node, "`expect`", 1, usize::MAX));
    let expect = statements
        .unwrap_or_default()
        .into_iter()
        .filter_map(|node| expectation(reader, node))
        .collect();
    tests.push(PolicyTest {
        name: Shown(name.unwrap_or_default()).to_string(),
        place: reader.place(node.mark),
        externals: externals.unwrap_or_default(),
        expect,
    });
}

fn read_externals(reader: &mut Reader, node: &Node<'_>) -> Externals {
    let mut externals = Externals::new();
    if reader.mapping(node, "`externals`").is_none() {
        return externals;
    }
    let Value::Map(entries) = &node.value else {
        return externals;
    };
    for entry in entries {
        let Some(name) = reader.string(&entry.key, "the name of an outside host") else {
            continue;
        };
        let valid = reader.check_name(
            entry.key.mark,
            Code::Name,
            "the outside host's name",
            name,
            names::subdomain,
        );
        let items = reader.counted_list(&entry.value, "an outside host", 1, usize::MAX);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for item in items.unwrap_or_default() {
            let Some(text) = reader.string(item, "an address") else {
                continue;
            };
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => reader.error(
                    item.mark,
                    Code::Address,
                    format!("`{}` is not an IPv4 or IPv6 address", Shown(text)),
                ),
            }
        }
        if valid {
            externals.insert(name.to_owned(), addresses);
        }
    }
    externals
}

fn expectation(reader: &mut Reader, node: &Node<'_>) -> Option<Expectation> {
    let what = "an entry of `expect`";
    let known = ["from", "to", "port", "verdict", "audit", "by"];
    let fields = reader.strict_mapping(node, what, &known)?;
    let from = choice(reader, fields, "from");
    let to = choice(reader, fields, "to");
    let probe = reader.required(fields, "port").and_then(|node| {
        if let Value::Integer(number) = node.value {
            // The protocol is what is missing, not quotes.
            reader.error_hint(
                node.mark,
                Code::Expectation,
                format!("`port` {number} does not say of which protocol it is"),
                format!("write tcp/{number} or udp/{number}"),
            );
            return None;
        }
        let text = reader.string(node, "`port`")?;
        match text.parse::<Probe>() {
            Ok(probe) => Some(probe),
            Err(error) => {
                reader.error(node.mark, Code::Expectation, error.to_string());
                None
            }
        }
    });
    let verdict = reader
        .required(fields, "verdict")
        .and_then(|node| action(reader, node, "verdict"));
    let audit = match fields.get("audit") {
        None => None,
        Some(node) => Some(action(reader, node, "audit")?),
    };
    let by = match fields.get("by") {
        None => None,
        Some(node) => Some(By {
            policy: reader.string(node, "`by`")?.to_owned(),
            place: reader.place(node.mark),
        }),
    };
    Some(Expectation {
        place: reader.place(node.mark),
        from: from?,
        to: to?,
        probe: probe?,
        verdict: verdict?,
        audit,
        by,
    })
}

fn action(reader: &mut Reader, node: &Node<'_>, key: &str) -> Option<Action> {
    match reader.string(node, &format!("`{key}`"))? {
        "allow" => Some(Action::Allow),
        "deny" => Some(Action::Deny),
        word => {
            let known = ["allow", "deny"];
            reader.unknown_word(node.mark, Code::Expectation, "verdict", word, &known);
            None
        }
    }
}

fn choice(reader: &mut Reader, fields: Fields<'_, '_>, key: &str) -> Option<Choice> {
    let node = reader.required(fields, key)?;
    let place = reader.place(node.mark);
    let ends = match &node.value {
        Value::Map(_) if has_key(node, ["namespace", "labels"]) => {
            supposed(reader, node, &format!("`{key}`"))?
        }
        Value::Map(_) => selected(reader, node, &format!("`{key}`"))?,
        Value::Text(name) => Ends::Named(name.to_string()),
        _ => {
            let expected = "the name of an end, or selectors";
            reader.wrong_type(node, &format!("`{key}`"), expected);
            return None;
        }
    };
    Some(Choice { place, ends })
}

/// Returns `true` if a mapping has one of these keys.
fn has_key(node: &Node<'_>, keys: [&str; 2]) -> bool {
    let Value::Map(entries) = &node.value else {
        return false;
    };
    (entries.iter())
        .any(|entry| matches!(&entry.key.value, Value::Text(text) if keys.contains(&text.as_ref())))
}

/// Reads a workload that is in no document.
fn supposed(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<Ends> {
    let fields = reader.strict_mapping(node, what, &["namespace", "labels"])?;
    let namespace = reader.required(fields, "namespace").and_then(|node| {
        let name = reader.string(node, "`namespace`")?;
        let check = names::dns_label;
        reader
            .check_name(node.mark, Code::Name, "the namespace's name", name, check)
            .then(|| name.to_owned())
    });
    let labels = reader
        .required(fields, "labels")
        .and_then(|node| labels(reader, node, "`labels`"));
    Some(Ends::Supposed {
        namespace: namespace?,
        labels: labels?,
    })
}

fn selected(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<Ends> {
    let fields = reader.strict_mapping(node, what, &["namespaceSelector", "podSelector"])?;
    let [namespaces, pods] = ["namespaceSelector", "podSelector"].map(|key| fields.get(key));
    if namespaces.is_none() && pods.is_none() {
        reader.error_hint(
            fields.mark,
            Code::Expectation,
            format!("{what} selects nothing"),
            "`podSelector: {}` is every pod of every namespace",
        );
        return None;
    }
    let mut read = |node: Option<&Node<'_>>, key: &str| match node {
        None => Some(LabelSelector::default()),
        Some(node) => selector(reader, node, key),
    };
    let namespaces = read(namespaces, "`namespaceSelector`");
    let pods = read(pods, "`podSelector`");
    Some(Ends::Selected {
        namespaces: namespaces?,
        pods: pods?,
    })
}
