//! Address of an etcd, with the prefix of the keys that count there: `etcd://h1:2379,h2/prefix`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Schemes of addresses: in the clear unless a certificate authority is given, and over TLS.
const SCHEMES: [(&str, bool); 2] = [("etcd://", false), ("etcds://", true)];
/// Port of a host that is given without one.
const PORT: u16 = 2379;

/// Hosts of an etcd, and a prefix of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Hosts with their ports, at least one.
    hosts: Vec<String>,
    /// The prefix with a slash before and behind it.
    prefix: String,
    /// `true` if only TLS will do.
    is_tls: bool,
}

impl Address {
    /// Returns `true` if a text is meant as the address of an etcd and not as a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        SCHEMES.iter().any(|(scheme, _)| text.starts_with(scheme))
    }

    /// Returns the hosts, each with its port.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the prefix of all keys that count, with a slash at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns `true` if only TLS will do, as of `etcds://`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }
}

impl FromStr for Address {
    /// The form to write instead.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "etcd://HOST[:PORT][,HOST[:PORT]]/PREFIX, or etcds:// for TLS";
        let found = SCHEMES.iter().find_map(|(scheme, is_tls)| {
            let rest = text.strip_prefix(scheme)?;
            Some((rest, *is_tls))
        });
        let (rest, is_tls) = found.ok_or(FORM)?;
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return Err("no user in the address: `etcd.username` and `etcd.password_file`");
        }
        let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '%');
        if prefix.contains(strange) {
            return Err("a prefix of plain characters, without ?, # and %");
        }
        let hosts = hosts.split(',').map(host).collect::<Option<_>>();
        let prefix = prefix.trim_matches('/');
        Ok(Self {
            hosts: hosts.ok_or(FORM)?,
            prefix: match prefix {
                "" => "/".to_owned(),
                prefix => format!("/{prefix}/"),
            },
            is_tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(plain, _), (tls, _)] = SCHEMES;
        let scheme = if self.is_tls { tls } else { plain };
        let prefix = self.prefix.trim_end_matches('/');
        write!(f, "{scheme}{}{prefix}", self.hosts.join(","))
    }
}

/// Reads a host, `name`, `name:1`, `10.0.0.1:1` or `[fd00::1]:1`. Returns it with its port.
fn host(text: &str) -> Option<String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (format!("[{address}]"), port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !(name.starts_with('[') || name.chars().all(is_of_name)) {
        return None;
    }
    let port = match port {
        None => PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
    };
    Some(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_documented() {
        for (text, hosts, prefix, is_tls) in [
            ("etcd://h:1/p", &["h:1"][..], "/p/", false),
            ("etcds://h/a/b/", &["h:2379"], "/a/b/", true),
            ("etcd://10.0.0.1", &["10.0.0.1:2379"], "/", false),
            (
                "etcd://[fd00::1]:5,b:6/p",
                &["[fd00::1]:5", "b:6"],
                "/p/",
                false,
            ),
            ("etcd://[::1]/", &["[::1]:2379"], "/", false),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.hosts(), hosts, "{text}");
            assert_eq!((address.prefix(), address.is_tls()), (prefix, is_tls));
            let again: Address = address.to_string().parse().expect("its own text");
            assert_eq!(again, address);
            assert!(Address::is_meant(text));
        }
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "http://h/p",
            "etcd:/h",
            "etcd://",
            "etcd:///p",
            "etcd://h:0/p",
            "etcd://h:x/p",
            "etcd://h,/p",
            "etcd://u:p@h/p",
            "etcd://fd00::1/p",
            "etcd://[fd00::1/p",
            "etcd://[h]/p",
            "etcd://h/p?q",
            "etcd://h/a b",
            "etcd://h/%2f",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
