//! Rights of agents, as a ClusterRole gives them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::http::Asked;
use super::kinds::Target;
use super::{State, status};

/// A verb on a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The group of the resource; empty for the first one.
    pub group: String,
    /// The word for it in paths.
    pub resource: String,
    /// The verb.
    pub verb: String,
}

/// The rights that a ClusterRole gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// The rights, each for one group, resource and verb.
    pub rights: BTreeSet<Right>,
}

impl Role {
    /// Reads a ClusterRole.
    ///
    /// # Panics
    ///
    /// Panics if it is none, or gives rights to everything.
    #[must_use]
    pub fn of(role: &Value) -> Self {
        assert_eq!(role["kind"], "ClusterRole");
        let words = |rule: &Value, key: &str| -> Vec<String> {
            let list = rule[key].as_array().expect("a list");
            let word = |word: &Value| word.as_str().expect("a word").to_owned();
            list.iter().map(word).collect()
        };
        let mut rights = BTreeSet::new();
        for rule in role["rules"].as_array().expect("rules") {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        let right = Right {
                            group: group.clone(),
                            resource: resource.clone(),
                            verb,
                        };
                        let all = [&right.group, &right.resource, &right.verb];
                        assert!(!all.contains(&&"*".to_owned()), "{right:?}");
                        rights.insert(right);
                    }
                }
            }
        }
        Self { rights }
    }

    /// Adds the rights of another role.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.rights.extend(other.rights);
        self
    }
}

impl State {
    /// Lets a request of an agent pass, or returns the refusal.
    pub(super) fn permit(&mut self, asked: &Asked, target: &Target<'_>) -> Result<(), Value> {
        for verb in self.verbs(asked, target) {
            let right = Right {
                group: target.kind.group().to_owned(),
                resource: target.kind.plural.to_owned(),
                verb: verb.to_owned(),
            };
            let role = self.role.as_ref();
            if role.is_some_and(|role| !role.rights.contains(&right)) {
                let Right {
                    group, resource, ..
                } = &right;
                let message = format!(
                    "{resource}.{group} is forbidden: User \"agent\" cannot {verb} resource \
                     \"{resource}\" in API group \"{group}\" at the cluster scope"
                );
                self.forbidden
                    .push(format!("{} {}", asked.method, asked.target));
                return Err(status(403, "Forbidden", &message));
            }
            self.used.insert(right);
        }
        Ok(())
    }

    /// The verbs of a request. An apply that makes an object creates it, too.
    fn verbs(&self, asked: &Asked, target: &Target<'_>) -> Vec<&'static str> {
        let query = asked.query();
        match (asked.method.as_str(), target.name) {
            ("GET", Some(_)) => vec!["get"],
            ("GET", None) if query.get("watch").is_some_and(|watch| *watch != "false") => {
                vec!["watch"]
            }
            ("GET", None) => vec!["list"],
            ("POST", _) => vec!["create"],
            ("PUT", _) => vec!["update"],
            ("PATCH", Some(name)) => {
                let is_new = !self.objects.contains_key(&target.key(name));
                match is_new && asked.content_type.contains("apply-patch") {
                    true => vec!["create", "patch"],
                    false => vec!["patch"],
                }
            }
            _ => vec!["delete"],
        }
    }
}
