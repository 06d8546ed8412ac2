//! Reads values of the configuration: each type says what it takes.
//!
//! Invariant: a value that is refused is reported with its place, and leaves the default;
//! reading goes on, so that all mistakes are told at once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use cofferdam_documents::reader::{Reader, Shown};
use cofferdam_protocol::output::RecordType;
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::yaml::{Node as YamlNode, Value};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, IntoDeserializer as _};

use super::quantities::{Count, Size, Time, duration};
use super::{Address, Destination, EarlyDrop, Enforcement, Form, Guard, OwnNode};

/// A value that has its default until a file gives another.
pub(super) trait Setting {
    /// Takes the value of a node, or reports why not. `what` names it in reports.
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str);
}

/// Declares a part of the configuration: a struct whose fields are the keys. Their doc
/// comments are the only description of a key; JSON Schema, reference page and printed
/// configuration have it from there. Keys are written by users: a renamed field is another
/// key.
macro_rules! section {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$of:meta])* pub $key:ident: $type:ty,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$of])* pub $key: $type,)*
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                &mut self,
                reader: &mut cofferdam_documents::reader::Reader,
                node: &cofferdam_syntax::yaml::Node<'_>,
                what: &str,
            ) {
                let keys = [$(stringify!($key)),*];
                let Some(fields) = reader.strict_mapping(node, what, &keys) else {
                    return;
                };
                $(if let Some(node) = fields.get(stringify!($key)) {
                    self.$key.read(reader, node, concat!("`", stringify!($key), "`"));
                })*
            }
        }
    };
}
pub(super) use section;

/// Reports a value that cannot be, and what can.
pub(super) fn wrong(
    reader: &mut Reader,
    node: &YamlNode<'_>,
    what: &str,
    value: &str,
    hint: impl Into<String>,
) {
    reader.error_hint(
        node.mark,
        Code::Setting,
        format!("{what} cannot be `{}`", Shown(value)),
        hint,
    );
}

impl Setting for bool {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = reader.boolean(node, what) {
            *self = value;
        }
    }
}

impl Setting for String {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(text) = reader.string(node, what) {
            text.clone_into(self);
        }
    }
}

impl Setting for PathBuf {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = reader.string(node, what) else {
            return;
        };
        if text.is_empty() || text.contains('\0') {
            reader.error(node.mark, Code::Setting, format!("{what} must be a path"));
        } else {
            *self = PathBuf::from(text);
        }
    }
}

impl Setting for IpAddr {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = reader.string(node, what) else {
            return;
        };
        match text.parse::<Self>() {
            Ok(address) => *self = address.to_canonical(),
            Err(_) => reader.error(
                node.mark,
                Code::Address,
                format!("`{}` is not an IPv4 or IPv6 address", Shown(text)),
            ),
        }
    }
}

/// An entry of a list has no default: it is read over a value that is never seen.
fn read_list<T: Setting>(
    reader: &mut Reader,
    node: &YamlNode<'_>,
    what: &str,
    blank: impl Fn() -> T,
) -> Option<Vec<T>> {
    let entry = format!("an entry of {what}");
    let items = reader.list(node, what)?.into_iter().map(|item| {
        let mut value = blank();
        value.read(reader, item, &entry);
        value
    });
    Some(items.collect())
}

impl Setting for Vec<PathBuf> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(paths) = read_list(reader, node, what, PathBuf::new) {
            *self = paths;
        }
    }
}

impl Setting for Vec<String> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(texts) = read_list(reader, node, what, String::new) {
            *self = texts;
        }
    }
}

impl Setting for Vec<IpAddr> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let unspecified = || IpAddr::from([0, 0, 0, 0]);
        if let Some(addresses) = read_list(reader, node, what, unspecified) {
            *self = addresses;
        }
    }
}

impl Setting for Vec<Destination> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(destinations) = read_list(reader, node, what, Destination::default) {
            *self = destinations;
        }
    }
}

impl Setting for Vec<RecordType> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(types) = read_list(reader, node, what, || RecordType::Denied) {
            *self = types;
        }
    }
}

impl Setting for Address {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = reader.string(node, what) else {
            return;
        };
        match text.parse() {
            Ok(address) => *self = address,
            Err(hint) => wrong(reader, node, what, text, hint),
        }
    }
}

/// An address to listen at; `""` is none.
impl Setting for Option<SocketAddr> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = reader.string(node, what) else {
            return;
        };
        match text.parse() {
            _ if text.is_empty() => *self = None,
            Ok(address) => *self = Some(address),
            Err(_) => {
                let hint = "an address and a port, such as 127.0.0.1:9464, or \"\" for none";
                wrong(reader, node, what, text, hint);
            }
        }
    }
}

/// Names of interfaces, or `auto`.
impl Setting for EarlyDrop {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        const HINT: &str = "names of interfaces, such as [eth0], or auto";
        if let Value::Text(word) = &node.value {
            if word == "auto" {
                *self = Self::Auto;
            } else {
                wrong(reader, node, what, word, HINT);
            }
            return;
        }
        let mut names = Vec::new();
        for item in reader.list(node, what).unwrap_or_default() {
            let Some(name) = reader.string(item, "an interface") else {
                continue;
            };
            // The kernel's bound on names, and what it allows in them.
            let fits = (1..16).contains(&name.len());
            if !fits || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
                wrong(reader, item, what, name, HINT);
            }
            names.push(name.to_owned());
        }
        *self = Self::Names(names);
    }
}

impl<const LEAST: u32, const MOST: u32> Setting for Count<LEAST, MOST> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(number) = reader.integer(node, what) else {
            return;
        };
        match u32::try_from(number) {
            Ok(value) if (LEAST..=MOST).contains(&value) => *self = Self(value),
            _ => {
                let hint = format!("from {LEAST} to {MOST}");
                wrong(reader, node, what, &number.to_string(), hint);
            }
        }
    }
}

/// The text of a quantity. A number alone is much the commonest slip: it might be seconds or
/// milliseconds, and a wrong guess would be found out late.
fn quantity<'n>(
    reader: &mut Reader,
    node: &'n YamlNode<'_>,
    what: &str,
    units: [&str; 2],
) -> Option<&'n str> {
    if let Value::Integer(number) = node.value {
        let [first, second] = units;
        let hint = format!("with a unit: {number}{first} or {number}{second}");
        wrong(reader, node, what, &number.to_string(), hint);
        return None;
    }
    reader.string(node, what)
}

impl<const LEAST: u64> Setting for Time<LEAST> {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = quantity(reader, node, what, ["s", "ms"]) else {
            return;
        };
        match duration(text) {
            Ok(time) if time.as_secs() >= LEAST => *self = Self(time),
            Ok(_) => wrong(reader, node, what, text, format!("at least {LEAST}s")),
            Err(hint) => wrong(reader, node, what, text, hint),
        }
    }
}

impl Setting for Size {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        let Some(text) = quantity(reader, node, what, ["MiB", "KiB"]) else {
            return;
        };
        match text.parse() {
            Ok(size) => *self = size,
            Err(hint) => wrong(reader, node, what, text, hint),
        }
    }
}

/// Words that an enumeration knows: its `Deserialize` tells them when it is given another.
#[derive(Debug, thiserror::Error)]
#[error("one of: {}", .0.join(", "))]
struct Known(&'static [&'static str]);

impl de::Error for Known {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self(known)
    }
}

fn word<T: DeserializeOwned>(reader: &mut Reader, node: &YamlNode<'_>, what: &str) -> Option<T> {
    let word = reader.string(node, what)?;
    let deserializer: StrDeserializer<'_, Known> = word.into_deserializer();
    let value = T::deserialize(deserializer);
    let reported = value.map_err(|known| wrong(reader, node, what, word, known.to_string()));
    reported.ok()
}

impl Setting for Enforcement {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = word(reader, node, what) {
            *self = value;
        }
    }
}

impl Setting for OwnNode {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = word(reader, node, what) {
            *self = value;
        }
    }
}

impl Setting for Guard {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = word(reader, node, what) {
            *self = value;
        }
    }
}

impl Setting for Form {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = word(reader, node, what) {
            *self = value;
        }
    }
}

impl Setting for RecordType {
    fn read(&mut self, reader: &mut Reader, node: &YamlNode<'_>, what: &str) {
        if let Some(value) = word(reader, node, what) {
            *self = value;
        }
    }
}
