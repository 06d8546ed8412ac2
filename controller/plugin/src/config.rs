//! The network configuration on standard input.
//!
//! A field is taken apart when a command needs it: `DEL` works whatever else is wrong.

use std::path::PathBuf;

use cofferdam_protocol::{Attachment, names};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Code, Failure};

pub use cofferdam_protocol::CNI_VERSIONS as VERSIONS;

/// The newest version, in which errors are told when the configuration has none.
pub const NEWEST: &str = VERSIONS[VERSIONS.len() - 1];

/// Run directory of an agent unless the configuration names another.
pub(crate) const RUN_DIR: &str = "/run/cofferdam";

/// The fields that are read, each as its text.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "cniVersion", borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(rename = "runDir", borrow)]
    run_dir: Option<&'a RawValue>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(rename = "runtimeConfig", borrow)]
    runtime_config: Option<&'a RawValue>,
    #[serde(borrow)]
    cofferdam: Option<&'a RawValue>,
    #[serde(rename = "prevResult", borrow)]
    previous: Option<&'a RawValue>,
    #[serde(rename = "cni.dev/valid-attachments", borrow)]
    valid_attachments: Option<&'a RawValue>,
    // The name of the same list in early texts of version 1.1.0.
    #[serde(rename = "cni.dev/attachments", borrow)]
    attachments: Option<&'a RawValue>,
}

/// A configuration of a version that is known.
pub struct Config<'a> {
    fields: Fields<'a>,
    version: String,
    /// Position of the version in [`VERSIONS`].
    rank: usize,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl<'a> Config<'a> {
    /// Reads a configuration as far as all commands need it.
    ///
    /// # Errors
    /// When it is no JSON object, or of a version that is not known.
    pub fn parse(text: &'a str) -> Result<Self, Failure> {
        let fields: Fields<'a> = object("the configuration", text)?;
        let version: Option<String> = fields
            .version
            .map(|raw| decode("cniVersion", raw))
            .transpose()?;
        let Some(version) = version else {
            return Err(unknown_version("none"));
        };
        let rank = VERSIONS
            .iter()
            .position(|known| *known == version)
            .ok_or_else(|| unknown_version(&version))?;
        Ok(Self {
            fields,
            version,
            rank,
        })
    }

    /// Returns its version of the specification.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Refuses a command that came with a later version.
    ///
    /// # Errors
    /// When the configuration's version is older than `since`.
    pub fn require(&self, command: &str, since: &str) -> Result<(), Failure> {
        if VERSIONS[..=self.rank].contains(&since) {
            return Ok(());
        }
        Err(Failure::new(
            Code::Version,
            format!(
                "{command} needs cniVersion {since}, and the network has {}",
                self.version
            ),
        ))
    }

    /// Returns the network's name.
    ///
    /// # Errors
    /// When it is missing or cannot be one.
    pub fn network(&self) -> Result<String, Failure> {
        let name: Option<String> = self
            .fields
            .name
            .map(|raw| decode("name", raw))
            .transpose()?;
        let name = name.unwrap_or_default();
        names::network(&name).map_err(|expected| {
            Failure::new(
                Code::NetworkConfig,
                format!("the name of the network is {name:?}: expected {expected}"),
            )
        })?;
        Ok(name)
    }

    /// Returns the agent's run directory.
    ///
    /// # Errors
    /// When it is no absolute path.
    pub fn run_dir(&self) -> Result<PathBuf, Failure> {
        let Some(raw) = self.fields.run_dir else {
            return Ok(RUN_DIR.into());
        };
        let path: PathBuf = decode("runDir", raw)?;
        if !path.is_absolute() {
            return Err(Failure::new(
                Code::NetworkConfig,
                format!("runDir is {path:?}: expected an absolute path"),
            ));
        }
        Ok(path)
    }

    /// Returns the text of `prevResult`, `None` if there is none.
    #[must_use]
    pub fn previous(&self) -> Option<&'a str> {
        self.fields.previous.map(RawValue::get)
    }

    /// Returns `args`.
    pub(crate) fn args(&self) -> Option<&'a RawValue> {
        self.fields.args
    }

    /// Returns `runtimeConfig`.
    pub(crate) fn runtime_config(&self) -> Option<&'a RawValue> {
        self.fields.runtime_config
    }

    /// Returns the section that is this plugin's own.
    pub(crate) fn section(&self) -> Option<&'a RawValue> {
        self.fields.cofferdam
    }

    /// Returns the attachments that a runtime still knows.
    ///
    /// # Errors
    /// When there is no such list: an empty one, which ends every attachment, must be meant.
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>, Failure> {
        let key = "cni.dev/valid-attachments";
        let raw = self
            .fields
            .valid_attachments
            .or(self.fields.attachments)
            .ok_or_else(|| {
                Failure::new(
                    Code::NetworkConfig,
                    format!("GC needs {key}: nothing is removed"),
                )
            })?;
        let all: Vec<ValidAttachment> = decode(key, raw)?;
        let all = all.into_iter().map(|one| Attachment {
            container_id: one.container_id,
            interface: one.ifname,
        });
        Ok(all.collect())
    }
}

fn unknown_version(version: &str) -> Failure {
    let version: String = version.chars().take(100).collect();
    Failure::new(
        Code::Version,
        format!("the cniVersion of the network is not known: {version}"),
    )
    .with_details(format!("known are {}", VERSIONS.join(", ")))
}

/// Reads an object; a list in its place would be read as its fields in order.
pub(crate) fn object<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, Failure> {
    let not =
        |why: String| Failure::new(Code::Decode, format!("cannot decode {what}")).with_details(why);
    if !text.trim_start().starts_with('{') {
        return Err(not("it is no JSON object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| not(error.to_string()))
}

/// Reads a part of the configuration.
pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &str, raw: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(raw.get()).map_err(|error| {
        Failure::new(Code::Decode, format!("cannot decode {what}")).with_details(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        match Config::parse(text) {
            Err(failure) => failure,
            Ok(_) => panic!("{text} is none"),
        }
    }

    #[test]
    fn versions_from_0_3_1_to_1_1_0_are_known() {
        for version in VERSIONS {
            let text = format!(r#"{{"cniVersion":"{version}","name":"n","type":"t"}}"#);
            let config = Config::parse(&text).unwrap();
            assert_eq!(config.version(), version);
            assert_eq!(config.require("CHECK", "0.4.0").is_ok(), version != "0.3.1");
            assert_eq!(config.require("GC", "1.1.0").is_ok(), version == "1.1.0");
        }
        for text in [
            "{}",
            r#"{"cniVersion":""}"#,
            r#"{"cniVersion":"0.2.0"}"#,
            r#"{"cniVersion":"1.2.0"}"#,
            r#"{"cniVersion":"1.1"}"#,
        ] {
            assert_eq!(failure(text).code, Code::Version, "{text}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_a_decoding_failure() {
        let whole = r#"{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[1]}}"#;
        for end in 0..whole.len() {
            assert_eq!(failure(&whole[..end]).code, Code::Decode, "{end}");
        }
        let deep = "[".repeat(100_000);
        let deep_object = format!(r#"{{"cniVersion":"1.0.0","x":{deep}"#);
        let number = r#"{"cniVersion":1}"#;
        let twice = r#"{"cniVersion":"1.0.0","cniVersion":"0.3.1"}"#;
        for text in [
            &deep,
            &deep_object,
            "[]",
            "null",
            "\"1.0.0\"",
            number,
            twice,
        ] {
            assert_eq!(failure(text).code, Code::Decode);
        }
    }

    #[test]
    fn deep_fields_that_are_not_read_do_no_harm() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","args":{deep},"x":{deep}}}"#);
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.network().unwrap(), "n");
        let args = config.args().unwrap();
        let failure = decode::<serde_json::Value>("args", args).unwrap_err();
        assert_eq!(failure.code, Code::Decode);
    }

    #[test]
    fn names_and_directories_are_checked() {
        for (fields, code) in [
            (r#""name":"""#, Code::NetworkConfig),
            (r#""name":"../n""#, Code::NetworkConfig),
            (r#""name":7"#, Code::Decode),
            (r#""name":"n","runDir":"run""#, Code::NetworkConfig),
            (r#""name":"n","runDir":[]"#, Code::Decode),
        ] {
            let text = format!(r#"{{"cniVersion":"1.0.0",{fields}}}"#);
            let config = Config::parse(&text).unwrap();
            let read = config.network().and_then(|_| config.run_dir());
            assert_eq!(read.unwrap_err().code, code, "{fields}");
        }
    }

    #[test]
    fn a_collection_needs_its_list() {
        let list = r#"[{"containerID":"a","ifname":"eth0"}]"#;
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let text = format!(r#"{{"cniVersion":"1.1.0","{key}":{list}}}"#);
            let valid = Config::parse(&text).unwrap().valid_attachments().unwrap();
            assert_eq!(valid.len(), 1);
            assert_eq!(valid[0].container_id, "a");
        }
        let without = r#"{"cniVersion":"1.1.0"}"#;
        let failure = Config::parse(without).unwrap().valid_attachments();
        assert_eq!(failure.unwrap_err().code, Code::NetworkConfig);
    }
}
