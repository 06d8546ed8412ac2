//! Keys of the configuration that can change while the agent runs.

use std::path::PathBuf;

use serde_json::Value;

use super::{Config, Node, is_etcd};

impl Config {
    /// Returns what this configuration becomes when the agent reads `new` while it runs.
    ///
    /// Directories, the socket's addresses and the sizes of maps are fixed by what was opened
    /// and made; the other keys that stay are constants of the loaded programs.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        // Programs that were loaded without early drop do not note packets that leave, and
        // XDP would drop the replies.
        let uplinks = if self.uplinks.is_off() {
            &self.uplinks
        } else {
            &new.uplinks
        };
        Self {
            node: Node {
                addresses: new.node.addresses.clone(),
                ..self.node.clone()
            },
            policies: self.policies_reloaded(new),
            uplinks: uplinks.clone(),
            enforcement: new.enforcement,
            accept_partial: new.accept_partial,
            adopt_midstream: new.adopt_midstream,
            ..self.clone()
        }
    }

    /// Returns the files of a configuration, and the etcd of this one, which is followed already.
    fn policies_reloaded(&self, new: &Self) -> Vec<PathBuf> {
        let etcd = |config: &Self| config.policies.iter().find(|entry| is_etcd(entry)).cloned();
        let own = etcd(self);
        if own == etcd(new) {
            return new.policies.clone();
        }
        new.files().into_iter().chain(own).collect()
    }

    /// Returns the keys whose values differ, each with its section: `limits.slots`.
    ///
    /// # Panics
    /// Never: a configuration can be written as JSON.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let value = |config| serde_json::to_value(config).expect("a configuration is JSON");
        let mut keys = Vec::new();
        collect("", &value(self), &value(other), &mut keys);
        keys
    }
}

fn collect(path: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let prefix = if path.is_empty() { "" } else { "." };
            for ((key, one), (_, other)) in one.iter().zip(other) {
                collect(&format!("{path}{prefix}{key}"), one, other, keys);
            }
        }
        _ if one == other => {}
        _ => keys.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference::{self, Key};
    use crate::config::{EarlyDrop, OTHERS, parse};

    #[test]
    fn keys_that_say_so_are_read_again_and_no_others() {
        let mut before = Config::default();
        let mut new = parse("c.yaml", OTHERS.as_bytes()).unwrap();
        let unchanged = ["guard"];
        let changed = before.differences(&new);
        let keys: Vec<Key> = (reference::keys().into_iter())
            .filter(|key| !key.is_section)
            .collect();
        for key in &keys {
            let is_changed = changed.contains(&key.path);
            assert_ne!(
                is_changed,
                unchanged.contains(&key.path.as_str()),
                "{key:?}"
            );
        }
        // Where frames are dropped early before and after, and the etcd is the same.
        before.uplinks = EarlyDrop::Auto;
        before.policies.push("etcd://h:1,h/p".into());
        let taken = before.differences(&before.reloaded(&new));
        let named = before.reloaded(&new).differences(&new);
        for key in &keys {
            let is_read_again = key.about.contains("Read again on reload");
            assert_eq!(taken.contains(&key.path), is_read_again, "{key:?}");
            let is_named = changed.contains(&key.path) && !is_read_again;
            assert_eq!(named.contains(&key.path), is_named, "{key:?}");
        }
        // And what a start is needed for.
        before.uplinks = Config::default().uplinks;
        assert!(
            before
                .reloaded(&new)
                .differences(&new)
                .contains(&"uplinks".to_owned())
        );
        before.policies.pop();
        let reloaded = before.reloaded(&new);
        assert_eq!(reloaded.policies, new.files());
        assert!(reloaded.differences(&new).contains(&"policies".to_owned()));
        new.uplinks = Config::default().uplinks;
        before.uplinks = EarlyDrop::Auto;
        assert!(before.reloaded(&new).uplinks.is_off());
    }
}
