//! YAML at its edges, with `kubectl` as the judge of what it means.
//!
//! `yaml_corpus.json` has texts and the objects that kubectl makes of them, null where it
//! refuses one. What it reads must be read here, as the same; what it refuses may be read
//! (a later version may), but never a text that it takes for something else. With
//! `COFFERDAM_BLESS=1` and kubectl at hand its answers are asked for anew.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use cofferdam_syntax::yaml::{Entry, Node, Value, parse};

const CORPUS: &str = "tests/yaml_corpus.json";

#[derive(Debug, serde::Deserialize)]
struct Text {
    name: String,
    text: String,
    kubectl: serde_yaml::Value,
}

/// Texts that kubectl takes for something else on purpose, with the reason.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "c1_char",
        "a line break to YAML 1.1, a character like others since",
    ),
    (
        "flow_colon_end",
        "a key with a colon, where a value is missing: it is refused as that",
    ),
];

#[test]
fn what_kubectl_reads_is_read_as_the_same() {
    let corpus = corpus();
    assert!(corpus.len() > 100);
    let different: BTreeMap<&str, &str> = DIFFERENT.iter().copied().collect();
    let mut faults = Vec::new();
    for Text {
        name,
        text,
        kubectl,
    } in &corpus
    {
        let documents = parse(text);
        let failed = documents
            .iter()
            .find_map(|document| document.as_ref().err());
        if let Some(failure) = failed {
            if *kubectl != serde_yaml::Value::Null {
                faults.push(format!("{name} is refused: {failure:?}\n{text}"));
            }
            continue;
        }
        let mut nodes = documents.iter().flatten();
        let last = nodes.rfind(|node| !is_null(node));
        let Some(last) = last.filter(|_| *kubectl != serde_yaml::Value::Null) else {
            continue;
        };
        match (same(last, kubectl), different.contains_key(name.as_str())) {
            (Err(fault), false) => {
                faults.push(format!("{name} means something else: {fault}\n{text}"));
            }
            (Ok(()), true) => faults.push(format!("{name} is no exception any more")),
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn corpus() -> Vec<Text> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(CORPUS);
    let text = std::fs::read_to_string(path).expect("the corpus");
    let corpus: Vec<Text> = serde_yaml::from_str(&text).expect("JSON");
    if std::env::var_os("COFFERDAM_BLESS").is_some() {
        for one in &corpus {
            assert_eq!(
                asked(&one.text),
                one.kubectl,
                "{}: kubectl says otherwise",
                one.name
            );
        }
    }
    corpus
}

/// The last object that kubectl makes of a text; null where it refuses it.
fn asked(text: &str) -> serde_yaml::Value {
    use std::io::Write as _;
    let arguments = ["label", "--local", "-f", "-", "zz=1", "-o", "json"];
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    if !output.status.success() {
        return serde_yaml::Value::Null;
    }
    let text = String::from_utf8(output.stdout).expect("text");
    let last = text.rsplit("\n}\n{").next().expect("a part");
    let object = match last.trim_start().starts_with('{') {
        true => last.to_owned(),
        false => format!("{{{last}"),
    };
    let mut object: serde_yaml::Value = serde_yaml::from_str(&object).expect("JSON");
    if let Some(metadata) = object
        .get_mut("metadata")
        .and_then(|one| one.as_mapping_mut())
    {
        metadata.remove("labels");
    }
    object
}

fn is_null(node: &Node<'_>) -> bool {
    matches!(node.value, Value::Null)
}

/// Holds a tree against what kubectl has in its place.
fn same(node: &Node<'_>, expected: &serde_yaml::Value) -> Result<(), String> {
    let differs = || Err(format!("{:?} is not {expected:?}", node.value));
    match (&node.value, expected) {
        // Readers disagree about it, and it is refused wherever it matters.
        (Value::Ambiguous(_) | Value::Tagged(_), _) | (Value::Null, serde_yaml::Value::Null) => {
            Ok(())
        }
        (Value::Bool(a), serde_yaml::Value::Bool(b)) if a == b => Ok(()),
        (Value::Integer(a), serde_yaml::Value::Number(b)) if b.as_i64() == Some(*a) => Ok(()),
        (Value::Text(a), serde_yaml::Value::String(b)) if a == b => Ok(()),
        (Value::List(items), serde_yaml::Value::Sequence(expected)) => {
            if items.len() != expected.len() {
                return differs();
            }
            items
                .iter()
                .zip(expected)
                .try_for_each(|(item, expected)| same(item, expected))
        }
        (Value::Map(entries), serde_yaml::Value::Mapping(expected)) => {
            let is_key = |entry: &Entry<'_>, wanted: &str| match &entry.key.value {
                Value::Text(key) | Value::Ambiguous(key) => key == wanted,
                _ => false,
            };
            // Merge keys and keys that readers disagree about are refused wherever it matters.
            // `y` and `n` are words here, and booleans to kubectl.
            let is_unclear = |entry: &Entry<'_>| {
                ["<<", "y", "n"].iter().any(|key| is_key(entry, key))
                    || matches!(entry.key.value, Value::Ambiguous(_))
            };
            if entries.iter().any(is_unclear) {
                return Ok(());
            }
            for (key, value) in expected {
                let key = key.as_str().ok_or("a key that is no string")?;
                let entry = entries
                    .iter()
                    .rev()
                    .find(|entry| is_key(entry, key))
                    .ok_or_else(|| format!("there is no `{key}`"))?;
                same(&entry.value, value)?;
            }
            Ok(())
        }
        _ => differs(),
    }
}
