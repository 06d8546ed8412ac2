//! The environment in which a runtime starts the plugin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cofferdam_protocol::{Attachment, PodSpec, names};

use crate::error::{Code, Failure};

/// The commands that a runtime may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// End an attachment.
    Del,
    /// Say if an attachment is as it was added.
    Check,
    /// End all attachments of the network but the valid ones.
    Gc,
    /// Say if containers can be attached.
    Status,
    /// Say which versions of the specification are known.
    Version,
}

impl Command {
    const ALL: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("GC", Self::Gc),
        ("STATUS", Self::Status),
        ("VERSION", Self::Version),
    ];

    /// Returns the word in `CNI_COMMAND`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let mut all = Self::ALL.iter();
        let word = all.find(|(_, command)| *command == self);
        word.map_or("", |(word, _)| word)
    }
}

/// The variables of the environment that begin with `CNI_`.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Takes the variables of the process. One that is not UTF-8 is none.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| {
            Failure::new(
                Code::Environment,
                format!("{name} is missing from the environment"),
            )
        })
    }

    fn checked(
        &self,
        name: &str,
        rule: fn(&str) -> Result<(), names::NameError>,
    ) -> Result<&str, Failure> {
        let value = self.required(name)?;
        rule(value).map_err(|expected| wrong(name, value, &expected.to_string()))?;
        Ok(value)
    }

    /// Returns what is asked for.
    ///
    /// # Errors
    /// When `CNI_COMMAND` is none of the specification's.
    pub fn command(&self) -> Result<Command, Failure> {
        let text = self.required("CNI_COMMAND")?;
        let mut all = Command::ALL.iter();
        let command = all.find(|(word, _)| *word == text);
        let (_, command) = command.ok_or_else(|| {
            let words = Command::ALL.map(|(word, _)| word);
            wrong("CNI_COMMAND", text, &format!("one of {}", words.join(", ")))
        })?;
        Ok(*command)
    }

    /// Returns the attachment that is meant.
    ///
    /// # Errors
    /// When `CNI_CONTAINERID` or `CNI_IFNAME` is missing or cannot be such a name.
    pub fn attachment(&self) -> Result<Attachment, Failure> {
        Ok(Attachment {
            container_id: self
                .checked("CNI_CONTAINERID", names::container_id)?
                .to_owned(),
            interface: self.checked("CNI_IFNAME", names::interface)?.to_owned(),
        })
    }

    /// Returns the container's network namespace.
    ///
    /// # Errors
    /// When `CNI_NETNS` is missing or relative.
    pub fn netns(&self) -> Result<PathBuf, Failure> {
        let text = self.required("CNI_NETNS")?;
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(wrong("CNI_NETNS", text, "an absolute path"));
        }
        Ok(path.to_owned())
    }

    /// Returns what the runtime says of the container in `CNI_ARGS`.
    ///
    /// # Errors
    /// When it is no list of pairs, or has a name that cannot be one.
    pub fn arguments(&self) -> Result<Arguments, Failure> {
        let mut arguments = Arguments::default();
        let text = self.get("CNI_ARGS").unwrap_or_default();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                wrong("CNI_ARGS", text, "KEY=VALUE pairs with semicolons between")
            })?;
            type Rule = fn(&str) -> Result<(), names::NameError>;
            let (place, rule): (_, Rule) = match key {
                "K8S_POD_NAMESPACE" => (&mut arguments.namespace, names::namespace),
                "K8S_POD_NAME" => (&mut arguments.name, names::workload),
                "K8S_POD_UID" => (&mut arguments.uid, names::container_id),
                _ => continue,
            };
            rule(value).map_err(|expected| wrong(key, value, &expected.to_string()))?;
            *place = Some(value.to_owned());
        }
        Ok(arguments)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let all = variables.into_iter();
        Self {
            variables: all.filter(|(name, _)| name.starts_with("CNI_")).collect(),
        }
    }
}

/// A runtime's words about a container in `CNI_ARGS`; keys that are not known are not meant
/// for this plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

impl Arguments {
    /// Returns the pod that a kubelet starts, `None` if another runtime asks.
    #[must_use]
    pub fn pod(&self) -> Option<PodSpec> {
        let is_named = self.namespace.is_some() && self.name.is_some();
        is_named.then(|| PodSpec {
            uid: self.uid.clone(),
        })
    }
}

fn wrong(name: &str, value: &str, expected: &str) -> Failure {
    let value: String = value.chars().take(300).collect();
    Failure::new(
        Code::Environment,
        format!("{name} is {value:?}: expected {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter();
        variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn arguments_come_in_any_order_and_unknown_ones_are_passed_over() {
        let pairs = [
            "IgnoreUnknown=1",
            "K8S_POD_NAME=web_1",
            "K8S_POD_NAMESPACE=shop",
            "K8S_POD_UID=4a-5b",
            "X=a=b",
        ];
        for turn in 0..pairs.len() {
            let mut pairs = pairs;
            pairs.rotate_left(turn);
            let text = pairs.join(";") + ";";
            let arguments = environment(&[("CNI_ARGS", &text)]).arguments().unwrap();
            assert_eq!(arguments.namespace.as_deref(), Some("shop"));
            assert_eq!(arguments.name.as_deref(), Some("web_1"));
            let uid = Some("4a-5b".to_owned());
            assert_eq!(arguments.pod(), Some(PodSpec { uid }));
        }
        let none = environment(&[]).arguments().unwrap();
        assert_eq!(none, Arguments::default());
        assert_eq!(none.pod(), None);
    }

    #[test]
    fn names_that_are_paths_are_refused_with_their_variable() {
        for (name, value) in [
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "sixteen-letters-"),
        ] {
            let mut all = vec![("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
            all.retain(|(other, _)| *other != name);
            all.push((name, value));
            let failure = environment(&all).attachment().unwrap_err();
            assert_eq!(failure.code, Code::Environment);
            assert!(failure.message.contains(name), "{failure}");
        }
        for text in ["K8S_POD_NAME=../a", "K8S_POD_NAMESPACE=a/b", "no-pair"] {
            let failure = environment(&[("CNI_ARGS", text)]).arguments();
            assert_eq!(failure.unwrap_err().code, Code::Environment, "{text}");
        }
        for netns in ["", "run/netns/x"] {
            let failure = environment(&[("CNI_NETNS", netns)]).netns();
            assert_eq!(failure.unwrap_err().code, Code::Environment, "{netns}");
        }
    }

    #[test]
    fn commands_are_those_of_the_specification() {
        for (word, command) in Command::ALL {
            let asked = environment(&[("CNI_COMMAND", word)]).command();
            assert_eq!(asked.unwrap(), command);
            assert_eq!(command.as_str(), word);
        }
        for word in ["", "add", "REMOVE"] {
            let asked = environment(&[("CNI_COMMAND", word)]).command();
            assert_eq!(asked.unwrap_err().code, Code::Environment);
        }
    }
}
