//! The result of the plugins before this one.
//!
//! Invariant: it passes as its text; fields that are not known here, and numbers of any
//! size, are what they were.

use std::net::IpAddr;

use serde::Deserialize;

use crate::config::object;
use crate::error::{Code, Failure};

/// The loopback interface, whose packets never leave the container.
const LOOPBACK: &str = "lo";

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    mac: Option<String>,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
    interface: Option<i64>,
}

/// An interface inside the container, with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Its name.
    pub name: String,
    /// Its MAC address, as the plugin before wrote it; `None` if it did not.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A result that can be passed on.
pub struct Previous<'a> {
    text: &'a str,
    has_version: bool,
    inside: Vec<Inside>,
}

impl<'a> Previous<'a> {
    /// Reads the result for an attachment to `interface`.
    ///
    /// # Errors
    /// When there is none, it is not of its form, or an interface has no address.
    pub fn read(text: Option<&'a str>, interface: &str) -> Result<Self, Failure> {
        let text = text.ok_or_else(|| {
            Failure::new(Code::NetworkConfig, "there is no prevResult").with_details(
                "cofferdam-cni makes no interfaces: it must be chained, behind a plugin that does \
                 (bridge, ptp), in the `plugins` of a .conflist",
            )
        })?;
        let fields: Fields = object("prevResult", text)?;
        Ok(Self {
            text,
            has_version: fields.version.is_some(),
            inside: inside(&fields, interface)?,
        })
    }

    /// Returns the interfaces inside the container.
    #[must_use]
    pub fn inside(&self) -> &[Inside] {
        &self.inside
    }

    /// Returns the result to pass on, in a version of the specification unless it has one.
    #[must_use]
    pub fn passed_on(&self, version: &str) -> String {
        let text = self.text.trim();
        if self.has_version {
            return format!("{text}\n");
        }
        let rest = text.strip_prefix('{').unwrap_or(text).trim_start();
        let comma = if rest.starts_with('}') { "" } else { "," };
        format!("{{\"cniVersion\":\"{version}\"{comma}{rest}\n")
    }
}

/// Lists the interfaces inside the container. An address without an interface is that of
/// the attachment's own, and so are all of a result that names no interfaces.
fn inside(fields: &Fields, own: &str) -> Result<Vec<Inside>, Failure> {
    let wrong = |message: String| Failure::new(Code::NetworkConfig, message);
    let interfaces = fields.interfaces.as_deref().unwrap_or_default();
    let is_inside = |one: &&Interface| {
        let sandbox = one.sandbox.as_deref().unwrap_or_default();
        !sandbox.is_empty() && one.name != LOOPBACK
    };
    let mut inside: Vec<Inside> = interfaces
        .iter()
        .filter(is_inside)
        .map(|one| Inside {
            name: one.name.clone(),
            mac: one.mac.clone().filter(|mac| !mac.is_empty()),
            addresses: Vec::new(),
        })
        .collect();
    if interfaces.is_empty() {
        inside.push(Inside {
            name: own.to_owned(),
            mac: None,
            addresses: Vec::new(),
        });
    }
    if !inside.iter().any(|one| one.name == own) {
        return Err(wrong(format!(
            "prevResult has no interface {own} inside the container"
        )));
    }
    for ip in fields.ips.as_deref().unwrap_or_default() {
        let name = match ip.interface {
            None => own,
            Some(index) => {
                let at = usize::try_from(index).ok();
                let one = at.and_then(|at| interfaces.get(at)).ok_or_else(|| {
                    wrong(format!(
                        "the address {} of prevResult is on interface {index}, which there is not",
                        ip.address
                    ))
                })?;
                &one.name
            }
        };
        let address = address(&ip.address)?;
        // One on the node's side is the gateway's, say.
        let holder = inside.iter_mut().find(|one| one.name == name);
        if let Some(holder) = holder
            && !holder.addresses.contains(&address)
        {
            holder.addresses.push(address);
        }
    }
    if let Some(one) = inside.iter().find(|one| one.addresses.is_empty()) {
        return Err(wrong(format!(
            "prevResult has no address for the interface {}",
            one.name
        ))
        .with_details("the plugin before has to give it one, by its `ipam` section"));
    }
    Ok(inside)
}

/// Reads an address with the length of its network's prefix.
fn address(text: &str) -> Result<IpAddr, Failure> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address = address.parse::<IpAddr>().ok();
    let longest = address.map(|address| if address.is_ipv4() { 32 } else { 128 });
    let is_length = length.parse::<u8>().is_ok_and(|it| Some(it) <= longest);
    address.filter(|_| is_length).ok_or_else(|| {
        let text: String = text.chars().take(100).collect();
        Failure::new(
            Code::Decode,
            format!("the address {text:?} of prevResult is none: expected such as 10.1.2.3/24"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Inside>, Failure> {
        Previous::read(Some(text), "eth0").map(|previous| previous.inside)
    }

    fn one(name: &str, mac: Option<&str>, addresses: &[&str]) -> Inside {
        let addresses = addresses.iter();
        Inside {
            name: name.to_owned(),
            mac: mac.map(str::to_owned),
            addresses: addresses.map(|one| one.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn addresses_are_those_of_interfaces_inside() {
        let text = r#"{
            "interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "veth1", "sandbox": ""},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x"},
                {"name": "lo", "sandbox": "/run/netns/x"},
                {"name": "v4if0", "sandbox": "/run/netns/x"}
            ],
            "ips": [
                {"address": "10.1.0.2/24", "interface": 2, "gateway": "10.1.0.1"},
                {"address": "10.1.0.1/24", "interface": 0},
                {"address": "127.0.0.1/8", "interface": 3},
                {"address": "fd00::2/64", "version": "6"},
                {"address": "10.1.0.2/24", "interface": 2},
                {"address": "169.254.1.2/32", "interface": 4}
            ]
        }"#;
        assert_eq!(
            read(text).unwrap(),
            [
                one("eth0", Some("02:00:00:00:00:02"), &["10.1.0.2", "fd00::2"]),
                one("v4if0", None, &["169.254.1.2"])
            ]
        );
        let text = r#"{"ips": [{"version": "4", "address": "10.1.0.2/24"}]}"#;
        assert_eq!(read(text).unwrap(), [one("eth0", None, &["10.1.0.2"])]);
    }

    #[test]
    fn a_result_without_addresses_is_refused() {
        let none = Previous::read(None, "eth0").err().unwrap();
        assert_eq!(none.code, Code::NetworkConfig);
        assert!(none.details.contains("chained"), "{none}");
        let eth0 = r#""interfaces": [{"name": "eth0", "sandbox": "/x"}]"#;
        for text in [
            "{}".to_owned(),
            format!("{{{eth0}}}"),
            format!("{{{eth0}, \"ips\": []}}"),
            format!(r#"{{{eth0}, "ips": [{{"address": "10.0.0.1/8", "interface": 1}}]}}"#),
            format!(r#"{{{eth0}, "ips": [{{"address": "10.0.0.1/8", "interface": -1}}]}}"#),
            r#"{"interfaces": [{"name": "eth1", "sandbox": "/x"}],
                "ips": [{"address": "10.0.0.1/8", "interface": 0}]}"#
                .to_owned(),
        ] {
            assert_eq!(read(&text).unwrap_err().code, Code::NetworkConfig, "{text}");
        }
    }

    #[test]
    fn what_is_no_result_is_a_decoding_failure() {
        for text in [
            "[]",
            "7",
            r#"{"interfaces": {}}"#,
            r#"{"interfaces": [{"name": 7}]}"#,
            r#"{"ips": [{"address": 7}]}"#,
            r#"{"ips": [{"address": "10.0.0.1"}]}"#,
            r#"{"ips": [{"address": "10.0.0.1/33"}]}"#,
            r#"{"ips": [{"address": "../24"}]}"#,
            r#"{"ips": [{"address": "10.0.0.1/8", "interface": "0"}]}"#,
        ] {
            assert_eq!(read(text).unwrap_err().code, Code::Decode, "{text}");
        }
    }

    #[test]
    fn a_result_passes_as_its_text() {
        let ips = r#""ips":[{"address":"10.0.0.1/8"}], "odd": 1e400, "big":18446744073709551617"#;
        let whole = format!(r#" {{"cniVersion": "0.4.0", {ips}}}"#);
        let previous = Previous::read(Some(&whole), "eth0").unwrap();
        assert_eq!(previous.passed_on("0.4.0"), format!("{}\n", whole.trim()));
        let without = format!("{{{ips}}}");
        let previous = Previous::read(Some(&without), "eth0").unwrap();
        let expected = format!("{{\"cniVersion\":\"1.0.0\",{ips}}}\n");
        assert_eq!(previous.passed_on("1.0.0"), expected);
    }
}
