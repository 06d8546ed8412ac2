//! The network plugin's place in a runtime's configuration. Pure: texts in, texts out.
//!
//! Of a network's text only the list of plugins is touched, where the entry is put behind
//! the last one; everything else stays as it was written, to the byte.
//!
//! Invariant: taking out what was put in gives the text of before.

mod folder;

use cofferdam_protocol::CNI_VERSIONS;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use thiserror::Error;

pub(crate) use folder::replace;
pub use folder::{Change, Folder, FolderError};

/// The plugin's name, which is that of its file.
pub const PLUGIN: &str = "cofferdam-cni";

/// Plugins whose containers send and receive past the hooks of the node, with the reason.
pub const GO_ROUND: [(&str, &str); 10] = [
    (
        "cilium-cni",
        "Cilium's programs stand on the same hooks and hand packets from one container to \
         another past them",
    ),
    (
        "netkit",
        "netkit devices run programs in the container's own transmit path and have no veth pair",
    ),
    (
        "ipvlan",
        "an ipvlan device hands packets to its parent device, not to a veth pair of the node",
    ),
    (
        "macvlan",
        "a macvlan device hands packets to its parent device, not to a veth pair of the node",
    ),
    (
        "sriov",
        "SR-IOV gives the container a function of the network card, whose packets the node \
         never sees",
    ),
    (
        "ib-sriov",
        "SR-IOV gives the container a function of the network card, whose packets the node \
         never sees",
    ),
    (
        "accelerated-bridge",
        "the network card bridges between its functions, and the node never sees the packets",
    ),
    (
        "host-device",
        "the container has a device of the node to itself, without a veth pair",
    ),
    (
        "vlan",
        "a VLAN device hands packets to its parent device, not to a veth pair of the node",
    ),
    (
        "userspace",
        "packets go from process to process by shared memory, past the kernel",
    ),
];

/// Reason against a plugin of Open vSwitch that is given a device.
pub const OVS_OFFLOAD: &str =
    "Open vSwitch offload lets the network card switch packets, and the node never sees them";

/// Reason for which the plugin is not put into a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is no configuration that a runtime would use.
    #[error("it is no network configuration: {0}")]
    Invalid(String),
    /// The plugin does not know the version.
    #[error(
        "its cniVersion is {version:?}, and {PLUGIN} knows {}",
        CNI_VERSIONS.join(", ")
    )]
    Version {
        /// The version.
        version: String,
    },
    /// Packets would not be judged.
    #[error("its plugin {plugin} goes round the firewall: {reason}")]
    GoesRound {
        /// The plugin.
        plugin: String,
        /// The reason.
        reason: &'static str,
    },
}

/// A network's text with the entry in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// The entry stands there.
    Stands,
    /// This is what the text is to be.
    Text(String),
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(borrow)]
    plugins: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Single {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    name: Option<String>,
}

/// Fields that are read of one plugin of a network.
#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "deviceID")]
    device: Option<serde_json::Value>,
    capabilities: Option<serde_json::Value>,
}

/// The entry, for an agent with this run directory.
#[must_use]
pub fn entry(run_dir: &str) -> String {
    let annotations = json!({"io.kubernetes.cri.pod-annotations": true});
    let entry = json!({"type": PLUGIN, "runDir": run_dir, "capabilities": annotations});
    entry.to_string()
}

/// Puts the entry into a list of plugins, behind the last.
///
/// # Errors
/// When the text is no list, or packets would go round the firewall.
pub fn into_list(text: &str, entry: &str) -> Result<Planned, Refusal> {
    let list: List<'_> = read(text)?;
    let (raw, plugins) = plugins(&list)?;
    check(list.version.as_deref(), &plugins)?;
    let is_there = |plugin: &Plugin| plugin.kind.as_deref() == Some(PLUGIN);
    if plugins.iter().any(is_there) {
        return Ok(Planned::Stands);
    }
    if plugins.is_empty() {
        return Err(Refusal::Invalid("it has no plugins".to_owned()));
    }
    let closing = offset(text, raw) + raw.len() - 1;
    let before = text[..closing].trim_end();
    let space = &text[before.len()..closing];
    Ok(Planned::Text(format!(
        "{before},{space}{entry}{space}{}",
        &text[closing..]
    )))
}

/// Makes a list of one plugin's configuration and the entry.
///
/// # Errors
/// When the text is no configuration, or packets would go round the firewall.
pub fn into_single(text: &str, entry: &str) -> Result<String, Refusal> {
    let single: Single = read(text)?;
    let plugin: Plugin = read(text)?;
    let name = single.name.unwrap_or_default();
    if plugin.kind.is_none() || name.is_empty() {
        return Err(Refusal::Invalid("it has no name or no type".to_owned()));
    }
    check(single.version.as_deref(), std::slice::from_ref(&plugin))?;
    let version = single.version.unwrap_or_default();
    let [version, name] = [version, name].map(|text| json!(text).to_string());
    Ok(format!(
        "{{\n\"cniVersion\": {version},\n\"name\": {name},\n\"plugins\": [\n{},\n{entry}\n]\n}}\n",
        text.trim()
    ))
}

/// Takes every entry out of a list of plugins; `None` if none is there.
///
/// # Errors
/// When the text is no list.
pub fn out_of_list(text: &str) -> Result<Option<String>, Refusal> {
    let list: List<'_> = read(text)?;
    let (raw, _) = plugins(&list)?;
    let invalid = |error: serde_json::Error| Refusal::Invalid(error.to_string());
    let entries: Vec<&RawValue> = serde_json::from_str(raw).map_err(invalid)?;
    let (mut text_after, mut shift, mut done) = (text.to_owned(), 0, 0);
    for (index, entry) in entries.iter().enumerate() {
        let plugin: Plugin = serde_json::from_str(entry.get()).map_err(invalid)?;
        if plugin.kind.as_deref() != Some(PLUGIN) {
            continue;
        }
        // With the comma and the space before it, or, of the first, behind it.
        let start = offset(text, entry.get());
        let end = start + entry.get().len();
        let (start, end) = match index {
            0 => (
                start,
                entries.get(1).map_or(end, |next| offset(text, next.get())),
            ),
            _ => {
                let before = entries[index - 1].get();
                (offset(text, before) + before.len(), end)
            }
        };
        // One behind another that was taken out together with the space between them.
        let start = start.max(done);
        done = end;
        text_after.replace_range(start - shift..end - shift, "");
        shift += end - start;
    }
    Ok((shift != 0).then_some(text_after))
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::Invalid("it is no JSON object".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| Refusal::Invalid(error.to_string()))
}

/// Returns the text of the list of plugins, and the plugins.
fn plugins<'a>(list: &List<'a>) -> Result<(&'a str, Vec<Plugin>), Refusal> {
    let raw = list
        .plugins
        .map(RawValue::get)
        .ok_or_else(|| Refusal::Invalid("it has no plugins".to_owned()))?;
    let plugins = serde_json::from_str(raw).map_err(|error| Refusal::Invalid(error.to_string()))?;
    Ok((raw, plugins))
}

fn check(version: Option<&str>, plugins: &[Plugin]) -> Result<(), Refusal> {
    let version = version.unwrap_or_default();
    if !CNI_VERSIONS.contains(&version) {
        return Err(Refusal::Version {
            version: version.to_owned(),
        });
    }
    for plugin in plugins {
        let kind = plugin.kind.as_deref().unwrap_or_default();
        let by_name = GO_ROUND.iter().find(|(name, _)| *name == kind);
        let offloads = kind.starts_with("ov")
            && (plugin.device.is_some()
                || (plugin.capabilities.as_ref()).is_some_and(|all| all["deviceID"] == true));
        let reason = by_name.map(|(_, reason)| *reason);
        if let Some(reason) = reason.or(offloads.then_some(OVS_OFFLOAD)) {
            return Err(Refusal::GoesRound {
                plugin: kind.to_owned(),
                reason,
            });
        }
    }
    Ok(())
}

/// Place of a part in the text that it was read from.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{
  "name": "n", "odd": 1e400,
  "cniVersion": "1.0.0",
  "plugins": [
    {"type": "bridge"},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ],
  "plugin": []
}
"#;

    fn put_in(text: &str) -> String {
        match into_list(text, &entry("/run/cofferdam")) {
            Ok(Planned::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_put_in_stands_last_and_comes_out_without_a_trace() {
        let tight = r#"{"cniVersion":"0.4.0","plugins":[{"type":"ptp"}]}"#;
        for text in [LIST, tight] {
            let with = put_in(text);
            let value: serde_json::Value =
                serde_json::from_str(&with.replace("1e400", "1")).unwrap();
            let last = value["plugins"].as_array().unwrap().last().unwrap();
            assert_eq!(last["type"], PLUGIN);
            assert_eq!(into_list(&with, "{}"), Ok(Planned::Stands));
            assert_eq!(out_of_list(&with).unwrap().as_deref(), Some(text), "{with}");
            assert_eq!(out_of_list(text), Ok(None));
        }
        let first = r#"{"cniVersion":"0.4.0","plugins":[{"type":"cofferdam-cni"}, {"type":"x"}]}"#;
        let without = r#"{"cniVersion":"0.4.0","plugins":[{"type":"x"}]}"#;
        assert_eq!(out_of_list(first).unwrap().as_deref(), Some(without));
        let own = r#"{"type":"cofferdam-cni"}"#;
        let only = format!(r#"{{"plugins":[ {own} , {own} , {own} ]}}"#);
        assert_eq!(
            out_of_list(&only).unwrap().as_deref(),
            Some(r#"{"plugins":[  ]}"#)
        );
    }

    #[test]
    fn one_plugin_becomes_a_list_of_two() {
        let text = "{\"cniVersion\": \"0.3.1\", \"name\": \"n\", \"type\": \"bridge\", \"x\": 1}\n";
        let list = into_single(text, &entry("/run/c")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(
            (&value["cniVersion"], &value["name"]),
            (&json!("0.3.1"), &json!("n"))
        );
        assert_eq!(value["plugins"][0]["x"], 1);
        assert_eq!(value["plugins"][1]["runDir"], "/run/c");
        assert_eq!(into_list(&list, "{}"), Ok(Planned::Stands));
    }

    #[test]
    fn data_paths_that_go_round_are_refused_by_name_and_reason() {
        let refused = |plugin: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","plugins":[{plugin}]}}"#);
            into_list(&text, "{}").unwrap_err()
        };
        for (kind, reason) in GO_ROUND {
            let told = refused(&format!(r#"{{"type":"{kind}"}}"#)).to_string();
            assert!(told.contains(kind) && told.contains(reason), "{told}");
        }
        for plugin in [
            r#"{"type":"ovs","deviceID":"0000:03:00.1"}"#,
            r#"{"type":"ovs","capabilities":{"deviceID":true}}"#,
        ] {
            assert!(refused(plugin).to_string().contains(OVS_OFFLOAD));
        }
        let ovs = r#"{"cniVersion":"1.0.0","plugins":[{"type":"ovs"}]}"#;
        assert!(matches!(into_list(ovs, "{}"), Ok(Planned::Text(_))));
    }

    #[test]
    fn what_no_runtime_would_use_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{}",
            r#"{"cniVersion":"1.0.0","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","plugins":{}}"#,
        ] {
            assert!(into_list(text, "{}").is_err(), "{text}");
            assert!(into_single(text, "{}").is_err(), "{text}");
        }
        let old = r#"{"cniVersion":"0.2.0","name":"n","type":"bridge"}"#;
        assert!(matches!(
            into_single(old, "{}"),
            Err(Refusal::Version { .. })
        ));
    }
}
