//! Descriptions of the configuration, from the doc comments of its types: as JSON Schema,
//! key by key, and above the keys of a printed configuration.

use std::fmt;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// Greatest width of a comment in a printed configuration.
const WIDTH: usize = 92;

/// A key, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its section and its name: `limits.slots`.
    pub path: String,
    /// It has other keys rather than a value of its own.
    pub is_section: bool,
    /// Description.
    pub about: String,
    /// Words that the value can be, each with its description; none where it is no word.
    pub words: Vec<(String, String)>,
    /// Least and greatest value of a number.
    pub range: Option<[u64; 2]>,
    /// Default; `None` if that depends on the host.
    pub default: Option<Value>,
}

/// Returns the JSON Schema of the configuration: draft 7, which editors know best, and
/// without references.
///
/// # Panics
/// Never: the root of the schema is an object.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>();
    let mut schema = Value::from(schema);
    schema["title"] = "Configuration".into();
    tidy(&mut schema);
    // The host's name is a default on one host only.
    if let Value::Object(name) = &mut schema["properties"]["node"]["properties"]["name"] {
        name.remove("default");
    }
    schema
}

/// Joins lines of descriptions, and removes defaults of whole sections: their keys have them.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            if let Some(Value::String(about)) = entries.get_mut("description") {
                *about = about.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            if entries.contains_key("properties") {
                entries.remove("default");
            }
            entries.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Returns the sections and keys in the order of the types, a section before its keys.
///
/// # Panics
/// Never: a configuration can be written as YAML.
#[must_use]
pub fn keys() -> Vec<Key> {
    let default = serde_yaml::to_value(Config::default()).expect("a configuration is YAML");
    let mut keys = Vec::new();
    describe("", &default, &schema(), &mut keys);
    keys
}

fn describe(path: &str, value: &serde_yaml::Value, schema: &Value, keys: &mut Vec<Key>) {
    let serde_yaml::Value::Mapping(entries) = value else {
        return;
    };
    for (key, value) in entries {
        let name = key.as_str().unwrap_or_default();
        let schema = &schema["properties"][name];
        let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
        keys.push(Key {
            path: path.clone(),
            is_section: value.is_mapping(),
            about: about(schema),
            words: words(schema),
            range: range(schema),
            default: schema.get("default").cloned(),
        });
        describe(&path, value, schema, keys);
    }
}

fn about(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn range(schema: &Value) -> Option<[u64; 2]> {
    Some([schema["minimum"].as_u64()?, schema["maximum"].as_u64()?])
}

/// Words that a schema describes one by one.
fn words(schema: &Value) -> Vec<(String, String)> {
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let described = alternatives.filter_map(|alternative| {
        let word = alternative["const"].as_str()?.to_owned();
        alternative.get("description")?;
        Some((word, about(alternative)))
    });
    described.collect()
}

/// The file that would give this configuration, with a comment above each key.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_yaml::to_value(self).map_err(|_| fmt::Error)?;
        print(f, &value, &schema(), "")
    }
}

fn print(
    f: &mut fmt::Formatter<'_>,
    value: &serde_yaml::Value,
    schema: &Value,
    indent: &str,
) -> fmt::Result {
    let serde_yaml::Value::Mapping(entries) = value else {
        return Ok(());
    };
    for (index, (key, value)) in entries.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let schema = &schema["properties"][name];
        if index > 0 && indent.is_empty() {
            writeln!(f)?;
        }
        comment(f, &about(schema), indent)?;
        for (word, about) in words(schema) {
            comment(f, &format!("{word}: {about}"), indent)?;
        }
        if value.is_mapping() {
            writeln!(f, "{indent}{name}:")?;
            print(f, value, schema, &format!("{indent}  "))?;
        } else {
            let entry = serde_yaml::Mapping::from_iter([(key.clone(), value.clone())]);
            let text = serde_yaml::to_string(&entry).map_err(|_| fmt::Error)?;
            for line in text.lines() {
                writeln!(f, "{indent}{line}")?;
            }
        }
    }
    Ok(())
}

/// Writes a comment in lines of [`WIDTH`].
fn comment(f: &mut fmt::Formatter<'_>, text: &str, indent: &str) -> fmt::Result {
    let mut line = format!("{indent}#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            writeln!(f, "{line}")?;
            line = format!("{indent}#");
        }
        line.push(' ');
        line += word;
    }
    writeln!(f, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_by_a_sentence() {
        let keys = keys();
        assert!(keys.len() > 30, "{keys:?}");
        for key in keys {
            assert!(key.about.ends_with('.'), "{key:?}");
            assert!(
                key.words.iter().all(|(_, about)| about.ends_with('.')),
                "{key:?}"
            );
        }
    }

    #[test]
    fn printed_keys_have_their_descriptions_above_them() {
        let printed = Config::default().to_string();
        assert!(
            printed.lines().all(|line| line.chars().count() <= WIDTH),
            "{printed}"
        );
        let said: String = (printed.lines())
            .filter_map(|line| line.trim_start().strip_prefix('#'))
            .collect();
        for key in keys() {
            assert!(said.contains(&key.about), "{}: {printed}", key.path);
        }
    }
}
