//! A workload's labels, ports and namespace as far as the configuration has them.
//!
//! The first of these sources that has labels supplies them, as a whole: the annotation
//! [`ANNOTATION`] of the pod, `args.cni.labels`, the section `cofferdam`. The agent puts the
//! labels of a Pod document of the workload's name before all of them.

use std::collections::BTreeMap;

use cofferdam_protocol::{PortSpec, names};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{Config, decode};
use crate::error::{Code, Failure};

/// The annotation of a pod with its labels, `app=web,tier=front`.
pub const ANNOTATION: &str = "cofferdam.dev/labels";

/// The capability by which runtimes pass a pod's annotations.
const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// A workload as the configuration describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its namespace, `None` if the configuration has none.
    pub namespace: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its ports with names.
    pub ports: Vec<PortSpec>,
}

#[derive(Deserialize)]
struct Args<'a> {
    #[serde(borrow)]
    cni: Option<CniArgs<'a>>,
}

#[derive(Deserialize)]
struct CniArgs<'a> {
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Label {
    key: String,
    value: String,
}

/// Reads what a configuration says of a workload.
///
/// # Errors
/// When a part is not of its form, or the section `cofferdam` has a field that is not known.
pub fn describe(config: &Config<'_>) -> Result<Description, Failure> {
    let mut description = section(config)?;
    if let Some(labels) = annotation(config)? {
        description.labels = labels;
    } else if let Some(labels) = args(config)? {
        description.labels = labels;
    }
    Ok(description)
}

fn annotation(config: &Config<'_>) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let Some(raw) = config.runtime_config() else {
        return Ok(None);
    };
    let capabilities: BTreeMap<String, &RawValue> = decode("runtimeConfig", raw)?;
    let Some(raw) = capabilities.get(CAPABILITY) else {
        return Ok(None);
    };
    let annotations: Option<BTreeMap<String, &RawValue>> = decode(CAPABILITY, raw)?;
    let Some(raw) = annotations.as_ref().and_then(|all| all.get(ANNOTATION)) else {
        return Ok(None);
    };
    let text: String = decode(ANNOTATION, raw)?;
    annotated(&text).map(Some)
}

/// Reads the value of the annotation [`ANNOTATION`].
pub(crate) fn annotated(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                let message = format!("the annotation {ANNOTATION} is {text:?}");
                wrong(message).with_details("expected labels such as app=web,tier=front")
            })?;
            Ok((key.to_owned(), value.to_owned()))
        });
    once_each(ANNOTATION, pairs)
}

fn args(config: &Config<'_>) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let Some(raw) = config.args() else {
        return Ok(None);
    };
    let args: Args<'_> = decode("args", raw)?;
    let Some(raw) = args.cni.and_then(|cni| cni.labels) else {
        return Ok(None);
    };
    let labels: Vec<Label> = decode("args.cni.labels", raw)?;
    let labels = labels.into_iter().map(|label| Ok((label.key, label.value)));
    once_each("args.cni.labels", labels).map(Some)
}

/// Puts labels together, each of which may come once.
fn once_each(
    what: &str,
    labels: impl Iterator<Item = Result<(String, String), Failure>>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for label in labels {
        let (key, value) = label?;
        if all.contains_key(&key) {
            return Err(wrong(format!("{what} has the label {key:?} twice")));
        }
        all.insert(key, value);
    }
    Ok(all)
}

/// Reads the section of the configuration that is this plugin's own. A field that is not
/// known may be a label's or a namespace's, misspelt, and a workload without them is
/// selected by other policies: it is refused.
fn section(config: &Config<'_>) -> Result<Description, Failure> {
    let mut description = Description::default();
    let Some(raw) = config.section() else {
        return Ok(description);
    };
    let fields: BTreeMap<String, &RawValue> = decode("cofferdam", raw)?;
    for (field, raw) in fields {
        match field.as_str() {
            "namespace" => {
                let namespace: String = decode("cofferdam.namespace", raw)?;
                names::namespace(&namespace).map_err(|expected| {
                    wrong(format!(
                        "cofferdam.namespace is {namespace:?}: expected {expected}"
                    ))
                })?;
                description.namespace = Some(namespace);
            }
            "labels" => description.labels = decode("cofferdam.labels", raw)?,
            "ports" => {
                let ports: BTreeMap<String, String> = decode("cofferdam.ports", raw)?;
                let ports = ports.into_iter().map(|(name, port)| {
                    port_spec(&name, &port).ok_or_else(|| {
                        wrong(format!("the port {name:?} of cofferdam.ports is {port:?}"))
                            .with_details("expected a protocol and a number such as tcp/80")
                    })
                });
                description.ports = ports.collect::<Result<_, _>>()?;
            }
            _ => {
                let value: Value = decode(&format!("cofferdam.{field}"), raw)?;
                let value: String = value.to_string().chars().take(300).collect();
                return Err(Failure::new(
                    Code::UnsupportedField,
                    format!("the field cofferdam.{field} is not known: {value}"),
                )
                .with_details("known are namespace, labels and ports"));
            }
        }
    }
    Ok(description)
}

fn port_spec(name: &str, port: &str) -> Option<PortSpec> {
    let (protocol, number) = port.split_once('/')?;
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    Some(PortSpec {
        name: name.to_owned(),
        protocol: protocol.to_uppercase(),
        number: number.parse().ok()?,
    })
}

fn wrong(message: String) -> Failure {
    Failure::new(Code::NetworkConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(fields: &str) -> Result<Description, Failure> {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n",{fields}}}"#);
        describe(&Config::parse(&text).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    const ANNOTATIONS: &str = r#""runtimeConfig":{"io.kubernetes.cri.pod-annotations":
        {"cofferdam.dev/labels":"app=a, tier=","other":"x"}}"#;
    const ARGS: &str = r#""args":{"cni":{"labels":[{"key":"app","value":"b"}]}}"#;
    const SECTION: &str = r#""cofferdam":{"namespace":"shop","labels":{"app":"c"},
        "ports":{"serve":"tcp/80"}}"#;

    #[test]
    fn the_first_source_that_has_labels_supplies_all_of_them() {
        let all = described(&[ANNOTATIONS, ARGS, SECTION].join(",")).unwrap();
        assert_eq!(all.labels, labels(&[("app", "a"), ("tier", "")]));
        // Namespace and ports have one source.
        assert_eq!(all.namespace.as_deref(), Some("shop"));
        assert_eq!(
            (all.ports[0].name.as_str(), all.ports[0].number),
            ("serve", 80)
        );
        let two = described(&[ARGS, SECTION].join(",")).unwrap();
        assert_eq!(two.labels, labels(&[("app", "b")]));
        assert_eq!(described(SECTION).unwrap().labels, labels(&[("app", "c")]));
        let none = r#""args":{"other":{}},"runtimeConfig":{"portMappings":[]}"#;
        assert_eq!(described(none).unwrap(), Description::default());
        let null = r#""runtimeConfig":{"io.kubernetes.cri.pod-annotations":null}"#;
        assert_eq!(described(null).unwrap(), Description::default());
    }

    #[test]
    fn what_is_not_of_its_form_is_refused_by_the_right_code() {
        for (fields, code) in [
            (r#""args":7"#, Code::Decode),
            (r#""args":{"cni":{"labels":{}}}"#, Code::Decode),
            (r#""args":{"cni":{"labels":[{"key":"a"}]}}"#, Code::Decode),
            (
                r#""args":{"cni":{"labels":[{"key":"a","value":""},{"key":"a","value":""}]}}"#,
                Code::NetworkConfig,
            ),
            (r#""runtimeConfig":[]"#, Code::Decode),
            (
                r#""runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"cofferdam.dev/labels":7}}"#,
                Code::Decode,
            ),
            (
                r#""runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"cofferdam.dev/labels":"a"}}"#,
                Code::NetworkConfig,
            ),
            (r#""cofferdam":[]"#, Code::Decode),
            (r#""cofferdam":{"labels":{"a":1}}"#, Code::Decode),
            (r#""cofferdam":{"namespace":"../x"}"#, Code::NetworkConfig),
            (
                r#""cofferdam":{"ports":{"a":"80/tcp"}}"#,
                Code::NetworkConfig,
            ),
            (
                r#""cofferdam":{"ports":{"a":"tcp/70000"}}"#,
                Code::NetworkConfig,
            ),
            (r#""cofferdam":{"lables":{}}"#, Code::UnsupportedField),
        ] {
            assert_eq!(described(fields).unwrap_err().code, code, "{fields}");
        }
    }
}
