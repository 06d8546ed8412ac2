//! `metadata`: names, labels and annotations of every kind of object.

use cofferdam_inventory::Mode;
use cofferdam_inventory::selectors::Labels;
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::Value;

use super::Kind;
use super::hints;
use super::reader::{Fields, Reader, Shown};

/// Prefix of the names of our annotations.
const ANNOTATION_PREFIX: &str = "cofferdam.dev/";
/// Most bytes of all annotations of an object, as upstream has it.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// The annotation that says whether a policy is enforced.
const MODE: &str = "cofferdam.dev/mode";
/// The annotation that says where the text of a policy was written, as `FILE:LINE`: what
/// deploys it may add it, so that findings lead there and not to the API server.
const SOURCE: &str = "cofferdam.dev/source";
/// Longest name of a file in that annotation, in bytes: longer is no path on Linux.
const MAX_SOURCE: usize = 4096;
/// The annotation with the codes of warnings that are meant.
pub const ALLOW: &str = "cofferdam.dev/allow";
/// The annotation that says whether policies are enforced in a namespace.
pub const ENFORCEMENT: &str = "cofferdam.dev/enforcement";
/// Words that either annotation knows.
const MODES: [&str; 2] = ["enforce", "audit"];

/// Keys of `metadata` in an object that is read strictly; what an API server adds
/// on the way out is among them.
pub const KEYS: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The namespace of documents that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads the name, which every object has.
pub(super) fn name<'n>(
    reader: &mut Reader,
    metadata: Fields<'n, '_>,
    rule: fn(&str) -> Result<(), names::NameError>,
) -> Option<&'n str> {
    let Some(node) = metadata.get("name") else {
        let mark = metadata.key_mark("name").unwrap_or(metadata.mark);
        if metadata.get("generateName").is_some() {
            reader.error_hint(
                mark,
                Code::Missing,
                "`metadata.name` is missing",
                "names are not made up here as an API server does for `generateName`",
            );
        } else {
            reader.error(mark, Code::Missing, "`metadata.name` is missing");
        }
        return None;
    };
    let name = reader.string(node, "`metadata.name`")?;
    reader
        .check_name(node.mark, Code::Name, "the name", name, rule)
        .then_some(name)
}

/// Reads the namespace; absent, null and empty all mean `default`.
pub(super) fn namespace<'n>(reader: &mut Reader, metadata: Fields<'n, '_>) -> Option<&'n str> {
    let Some(node) = metadata.get("namespace") else {
        return Some(DEFAULT_NAMESPACE);
    };
    match reader.string(node, "`metadata.namespace`")? {
        "" => Some(DEFAULT_NAMESPACE),
        name => reader
            .check_name(
                node.mark,
                Code::Name,
                "the namespace",
                name,
                names::dns_label,
            )
            .then_some(name),
    }
}

/// A namespace on an object of the whole cluster does not narrow it down.
pub(super) fn no_namespace(reader: &mut Reader, metadata: Fields<'_, '_>, kind: Kind) {
    let Some(node) = metadata.get("namespace") else {
        return;
    };
    if let Some(name) = reader.string(node, "`metadata.namespace`")
        && !name.is_empty()
    {
        reader.warning(
            metadata.key_mark("namespace").unwrap_or(node.mark),
            Code::Namespaced,
            format!("a {kind} lies in no namespace: `metadata.namespace` has no effect"),
            "remove it; `subject` says whom the policy is about",
        );
    }
}

/// Reads the labels of an object.
pub(super) fn labels(reader: &mut Reader, metadata: Fields<'_, '_>) -> Labels {
    let Some(node) = metadata.get("labels") else {
        return Labels::default();
    };
    let pairs = reader
        .string_map(node, "`metadata.labels`")
        .unwrap_or_default();
    for pair in &pairs {
        reader.check_name(
            pair.key_mark,
            Code::Label,
            "the label key",
            pair.key,
            names::label_key,
        );
        reader.check_name(
            pair.value_mark,
            Code::Label,
            "the label value",
            pair.value,
            names::label_value,
        );
    }
    pairs.iter().map(|pair| (pair.key, pair.value)).collect()
}

/// Returns the file and the line in which a policy was written, `None` if it does not say so
/// or not in these terms.
pub(super) fn written<'n>(metadata: Fields<'n, '_>) -> Option<(&'n str, u32)> {
    let Value::Map(annotations) = &metadata.get("annotations")?.value else {
        return None;
    };
    let is_source = |key: &Value<'_>| matches!(key, Value::Text(text) if text == SOURCE);
    let mut annotations = annotations.iter();
    let entry = annotations.find(|entry| is_source(&entry.key.value))?;
    match &entry.value.value {
        Value::Text(text) => written_at(text),
        _ => None,
    }
}

/// Takes `FILE:LINE` apart. It is printed where files are: without control characters.
fn written_at(text: &str) -> Option<(&str, u32)> {
    let (file, line) = text.rsplit_once(':')?;
    let line = line.parse().ok().filter(|line| *line != 0)?;
    let is_file = !file.is_empty() && file.len() <= MAX_SOURCE && !file.contains(char::is_control);
    is_file.then_some((file, line))
}

/// Reads the annotation of a namespace that says whether policies are enforced in it.
///
/// The rest of the document counts whatever is wrong there: without the namespace's labels
/// policies would mean something else. What is not understood enforces.
pub(super) fn enforcement(reader: &mut Reader, metadata: Fields<'_, '_>) -> Mode {
    let annotations = metadata.get("annotations");
    let Some(Value::Map(annotations)) = annotations.map(|node| &node.value) else {
        return Mode::Enforce;
    };
    let mut mode = Mode::Enforce;
    for entry in annotations {
        let Value::Text(key) = &entry.key.value else {
            continue;
        };
        if key == ENFORCEMENT {
            match &entry.value.value {
                Value::Text(word) if word == "audit" => mode = Mode::Audit,
                Value::Text(word) if word == "enforce" => {}
                other => {
                    let (said, hint) = match other {
                        Value::Text(word) => {
                            (format!("`{}`", Shown(word)), hints::for_word(word, &MODES))
                        }
                        other => (
                            other.noun().to_owned(),
                            format!("one of {}", MODES.join(", ")),
                        ),
                    };
                    reader.warning(
                        entry.value.mark,
                        Code::Annotation,
                        format!("the value of `{ENFORCEMENT}` is not known: {said}; policies are enforced"),
                        hint,
                    );
                }
            }
        } else if key.starts_with(ANNOTATION_PREFIX) {
            let hint = match &**key {
                MODE => format!("a namespace has `{ENFORCEMENT}`; `{MODE}` is a policy's"),
                key => hints::for_word(key, &[ENFORCEMENT]),
            };
            reader.warning(
                entry.key.mark,
                Code::Annotation,
                format!(
                    "the annotation `{}` of a namespace is not known",
                    Shown(key)
                ),
                hint,
            );
        }
    }
    mode
}

/// Reads our annotations. One that is misspelt must not leave a policy in another
/// mode than was meant.
pub(super) fn mode(reader: &mut Reader, metadata: Fields<'_, '_>) -> Mode {
    let mut mode = Mode::Enforce;
    let pairs = metadata
        .get("annotations")
        .and_then(|node| reader.string_map(node, "`metadata.annotations`"))
        .unwrap_or_default();
    let size: usize = (pairs.iter())
        .map(|pair| pair.key.len() + pair.value.len())
        .sum();
    if let (true, Some(mark)) = (size > MAX_ANNOTATIONS, metadata.key_mark("annotations")) {
        reader.error(
            mark,
            Code::Count,
            format!("annotations have {size} bytes, more than {MAX_ANNOTATIONS}"),
        );
    }
    for pair in pairs {
        if pair.key == SOURCE {
            if written_at(pair.value).is_none() {
                reader.warning(
                    pair.value_mark,
                    Code::Annotation,
                    format!("`{}` is not where a policy was written", Shown(pair.value)),
                    "a file and a line, such as policies/shop.yaml:12",
                );
            }
        } else if pair.key == MODE {
            match pair.value {
                "audit" => mode = Mode::Audit,
                "enforce" => mode = Mode::Enforce,
                other => {
                    let what = format!("the value of `{MODE}`");
                    reader.unknown_word(pair.value_mark, Code::Annotation, &what, other, &MODES);
                }
            }
        } else if pair.key == ALLOW {
            let mut codes = pair.value.split([',', ' ']).filter(|code| !code.is_empty());
            let is_code = |code: &&str| Code::ALL.iter().any(|known| known.as_str() == *code);
            if let Some(other) = codes.find(|code| !is_code(code)) {
                reader.warning(
                    pair.value_mark,
                    Code::Annotation,
                    format!("`{}` is not the code of a finding", Shown(other)),
                    "write codes such as `CD0510`, with commas between them",
                );
            }
        } else if pair.key.starts_with(ANNOTATION_PREFIX) {
            let hint = match pair.key {
                ENFORCEMENT => format!("a policy has `{MODE}`; `{ENFORCEMENT}` is a namespace's"),
                key => hints::for_word(key, &[MODE, ALLOW, SOURCE]),
            };
            reader.error_hint(
                pair.key_mark,
                Code::Annotation,
                format!("the annotation `{}` is not known", Shown(pair.key)),
                hint,
            );
        } else {
            // Upstream checks them in lower case.
            let rule = |key: &str| names::label_key(&key.to_lowercase());
            let what = "the annotation key";
            reader.check_name(pair.key_mark, Code::Name, what, pair.key, rule);
        }
    }
    mode
}
