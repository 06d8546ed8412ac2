//! Reads a configuration file.

use std::sync::Arc;

use cofferdam_documents::MAX_FILE;
use cofferdam_documents::reader::{Reader, Shown};
use cofferdam_sources::etcd::Address;
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Severity};
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{self, FailureKind, Mark, Node as YamlNode, Value};
use cofferdam_telemetry::tally::WorkloadLabel;

use super::setting::{Setting as _, wrong};
use super::{Config, Form};

const START: Mark = Mark { line: 1, column: 1 };

/// Reads the configuration in a file's text. `file` is only a name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Config, Vec<Diagnostic>> {
    let mut reader = Reader::new(&Arc::from(file));
    let mut config = Config::default();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= MAX_FILE => read_text(&mut reader, text, &mut config),
        Ok(_) => reader.error(START, Code::File, "the file is far too large"),
        Err(_) => reader.error(START, Code::File, "the file is not UTF-8 text"),
    }
    let diagnostics = reader.into_diagnostics();
    if diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
    {
        Err(diagnostics)
    } else {
        Ok(config)
    }
}

fn read_text(reader: &mut Reader, text: &str, config: &mut Config) {
    let mut documents = yaml::parse(text).into_iter();
    match documents.next() {
        None => return,
        Some(Ok(node)) => {
            if !matches!(node.value, Value::Null) {
                reader.check_keys(&node);
                config.read(reader, &node, "the configuration");
                check(reader, &node, config);
            }
        }
        Some(Err(failure)) => {
            let message = match failure.kind {
                FailureKind::Syntax(message, _) => format!("not YAML: {}", Shown(&message)),
                _ => "the document is too large or refers to itself".to_owned(),
            };
            reader.error(failure.mark, Code::Syntax, message);
        }
    }
    if let Some(Ok(node)) = documents.next() {
        reader.error_hint(
            node.mark,
            Code::Setting,
            "a second document",
            "a configuration is one document",
        );
    }
}

/// Reports what the type of a value does not say.
fn check(reader: &mut Reader, node: &YamlNode<'_>, config: &Config) {
    if let Some(node) = at(node, &["node", "name"])
        && let Value::Text(name) = &node.value
    {
        let what = "the node's name";
        reader.check_name(node.mark, Code::Name, what, name, names::subdomain);
    }
    for (at, destination) in config.outputs.iter().enumerate() {
        let fits = match destination.to {
            Form::Syslog => matches!(destination.address, super::Address::Syslog(_)),
            Form::Otlp => matches!(destination.address, super::Address::Http(_)),
        };
        if !fits
            && reader.errors() == 0
            && let Some(node) = entry(node, "outputs", at)
        {
            let hint = match destination.to {
                Form::Syslog => "unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT",
                Form::Otlp => "http://HOST:PORT",
            };
            let address = destination.address.to_string();
            wrong(reader, node, "the `address` of this output", &address, hint);
        }
    }
    check_etcd(reader, node, config);
    let tls = &config.metrics_tls;
    let files = [&tls.certificate, &tls.key, &tls.client_ca];
    if tls.address.is_some()
        && files.iter().any(|path| path.is_empty())
        && let Some(node) = at(node, &["metrics_tls"])
    {
        let message = "`metrics_tls` has an address, and not all of its files";
        let hint = "set `certificate`, `key` and `client_ca`: only callers with a certificate \
                    are answered";
        reader.error_hint(node.mark, Code::Setting, message, hint);
    }
    if let Some(node) = at(node, &["metrics_labels"]) {
        check_labels(reader, node, &config.metrics_labels);
    }
    // The slots lie in the table: without room for them no table fits.
    let limits = config.limits();
    let least = limits.slot_pages() + 1;
    if let Some(node) = at(node, &["limits"])
        && limits.table_pages < least
    {
        let (pages, slots) = (limits.table_pages, limits.slots);
        reader.error_hint(
            node.mark,
            Code::Setting,
            format!("a table of {pages} pages has no room for {slots} slots"),
            format!("set `table_pages` to at least {least}"),
        );
    }
}

/// Reports what is wrong with the address of an etcd, and settings that lack another one.
fn check_etcd(reader: &mut Reader, node: &YamlNode<'_>, config: &Config) {
    let what = "an entry of `policies`";
    let mut is_tls = None;
    for (at, text) in config.policies.iter().enumerate() {
        let text = text.to_string_lossy();
        let Some(node) = entry(node, "policies", at).filter(|_| text.contains("://")) else {
            continue;
        };
        match text.parse::<Address>() {
            Err(hint) => wrong(reader, node, what, &text, hint),
            Ok(_) if is_tls.is_some() => {
                wrong(
                    reader,
                    node,
                    what,
                    &text,
                    "one etcd: give its hosts commas between them",
                );
            }
            Ok(address) => is_tls = Some(address.is_tls()),
        }
    }
    let etcd = &config.etcd;
    let mut needs = |is_needed: bool, key: &str, value: &str, hint: &str| {
        if let Some(node) = at(node, &["etcd", key]).filter(|_| is_needed) {
            wrong(reader, node, &format!("`etcd.{key}`"), value, hint);
        }
    };
    let is_there = is_tls.is_some();
    needs(
        etcd.publish && !is_there,
        "publish",
        "true",
        "an `etcd://` entry of `policies`",
    );
    let (ca, certificate, key) = (&etcd.ca, &etcd.certificate, &etcd.key);
    let has_certificate = !certificate.is_empty();
    needs(
        has_certificate && key.is_empty(),
        "certificate",
        certificate,
        "with `key`",
    );
    needs(
        has_certificate && ca.is_empty(),
        "certificate",
        certificate,
        "with `ca`",
    );
    needs(
        !has_certificate && !key.is_empty(),
        "key",
        key,
        "with `certificate`",
    );
    let (user, password) = (&etcd.username, &etcd.password_file);
    needs(
        !user.is_empty() && password.is_empty(),
        "username",
        user,
        "with `password_file`",
    );
    needs(
        user.is_empty() && !password.is_empty(),
        "password_file",
        password,
        "with `username`",
    );
    if is_tls == Some(true)
        && ca.is_empty()
        && let Some(node) = at(node, &["policies"])
    {
        reader.error_hint(
            node.mark,
            Code::Setting,
            "nobody says which certificate authority the servers have",
            "set `etcd.ca`",
        );
    }
}

/// An entry of a list.
fn entry<'n, 't>(node: &'n YamlNode<'t>, key: &str, place: usize) -> Option<&'n YamlNode<'t>> {
    match &at(node, &[key])?.value {
        Value::List(entries) => entries.get(place),
        _ => None,
    }
}

/// Reports labels of workloads that are too many, empty, or the same in metrics.
fn check_labels(reader: &mut Reader, node: &YamlNode<'_>, texts: &[String]) {
    const MOST: usize = 16;
    let names: Vec<String> = (texts.iter())
        .map(|text| WorkloadLabel::new(text).name().to_owned())
        .collect();
    let what = "`metrics_labels`";
    if texts.len() > MOST {
        let count = texts.len().to_string();
        wrong(reader, node, what, &count, format!("at most {MOST} labels"));
    }
    for (place, (text, name)) in texts.iter().zip(&names).enumerate() {
        if text.split('|').any(str::is_empty) {
            let hint = "namespace, workload, or keys of labels with | between them";
            wrong(reader, node, what, text, hint);
        } else if names[..place].contains(name) {
            let hint = format!("another entry is `{name}` in metrics as well");
            wrong(reader, node, what, text, hint);
        }
    }
}

/// The value under a path of keys.
fn at<'n, 't>(node: &'n YamlNode<'t>, path: &[&str]) -> Option<&'n YamlNode<'t>> {
    let Some((key, rest)) = path.split_first() else {
        return Some(node);
    };
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let is_it =
        |key_node: &YamlNode<'_>| matches!(&key_node.value, Value::Text(text) if text == key);
    let entry = entries.iter().find(|entry| is_it(&entry.key))?;
    at(&entry.value, rest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::OTHERS;

    fn errors(text: &str) -> Vec<String> {
        match parse("c.yaml", text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(diagnostics) => diagnostics.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn nothing_said_is_the_default_and_what_is_printed_is_read_back() {
        for text in ["", "# nothing\n", "{}", "node:\n"] {
            assert_eq!(
                parse("c.yaml", text.as_bytes()),
                Ok(Config::default()),
                "{text:?}"
            );
        }
        let config = parse("c.yaml", OTHERS.as_bytes()).unwrap();
        let printed = config.to_string();
        assert_eq!(
            parse("p.yaml", printed.as_bytes()),
            Ok(config.clone()),
            "{printed}"
        );
        assert_eq!(config.metrics, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(config.limits.slots.0, 4096);
        assert_eq!(config.idle.other.0, Duration::from_millis(1500));
    }

    #[test]
    fn every_mistake_has_its_place_and_what_is_allowed() {
        for (text, expected) in [
            (
                "limit: {}",
                "c.yaml:1:1: error[CD0106]: unknown key `limit` in the configuration (did you mean `limits`?)",
            ),
            (
                "limits:\n  slot: 5",
                "c.yaml:2:3: error[CD0106]: unknown key `slot` in `limits` (did you mean `slots`?)",
            ),
            (
                "limits: {endpoints: 0}",
                "c.yaml:1:21: error[CD0401]: `endpoints` cannot be `0` (from 1 to 4096)",
            ),
            (
                "adopt_midstream: 30",
                "c.yaml:1:18: error[CD0401]: `adopt_midstream` cannot be `30` (with a unit: 30s or 30ms)",
            ),
            (
                "idle: {udp: 1q}",
                "c.yaml:1:13: error[CD0401]: `udp` cannot be `1q` (unknown time unit \"q\", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations))",
            ),
            (
                "flow_log: {max_bytes: 100MxB}",
                "c.yaml:1:23: error[CD0401]: `max_bytes` cannot be `100MxB` (a number and a unit, such as 100MiB)",
            ),
            (
                "flow_log: {max_bytes: 100}",
                "c.yaml:1:23: error[CD0401]: `max_bytes` cannot be `100` (with a unit: 100MiB or 100KiB)",
            ),
            (
                "flow_log: {max_bytes: '100'}",
                "c.yaml:1:23: error[CD0401]: `max_bytes` cannot be `100` (a number and a unit, such as 100MiB)",
            ),
            (
                "outputs: [{to: syslog, address: 'http://c:4318'}]",
                "c.yaml:1:11: error[CD0401]: the `address` of this output cannot be `http://c:4318/` (unix:/dev/log, udp:HOST:PORT or tcp:HOST:PORT)",
            ),
            (
                "outputs: [{to: otlp}]",
                "c.yaml:1:11: error[CD0401]: the `address` of this output cannot be `unix:/dev/log` (http://HOST:PORT)",
            ),
            (
                "outputs: [{address: 'udp:c'}]",
                "c.yaml:1:21: error[CD0401]: `address` cannot be `udp:c` (unix:PATH, udp:HOST:PORT, tcp:HOST:PORT or http://HOST:PORT)",
            ),
            (
                "outputs: [{types: [dropped]}]",
                "c.yaml:1:20: error[CD0401]: an entry of `types` cannot be `dropped` (one of: new, denied, audit, ended)",
            ),
            (
                "idle: {udp: 900ms}",
                "c.yaml:1:13: error[CD0401]: `udp` cannot be `900ms` (at least 1s)",
            ),
            (
                "node: {name: N1}",
                "c.yaml:1:14: error[CD0201]: the node's name `N1` is not valid (expected at most 253 characters: lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit)",
            ),
            (
                "policies: [/a, '']",
                "c.yaml:1:16: error[CD0401]: an entry of `policies` must be a path",
            ),
            (
                "node: {addresses: [10.0.0.256]}",
                "c.yaml:1:20: error[CD0301]: `10.0.0.256` is not an IPv4 or IPv6 address",
            ),
            (
                "metrics: localhost",
                "c.yaml:1:10: error[CD0401]: `metrics` cannot be `localhost` (an address and a port, such as 127.0.0.1:9464, or \"\" for none)",
            ),
            (
                "metrics_labels: [a.b, 'a_b|c']",
                "c.yaml:1:17: error[CD0401]: `metrics_labels` cannot be `a_b|c` (another entry is `label_a_b` in metrics as well)",
            ),
            (
                "metrics_labels: ['app|']",
                "c.yaml:1:17: error[CD0401]: `metrics_labels` cannot be `app|` (namespace, workload, or keys of labels with | between them)",
            ),
            (
                "own_node: deny",
                "c.yaml:1:11: error[CD0401]: `own_node` cannot be `deny` (one of: allow, policy)",
            ),
            (
                "guard: iptables",
                "c.yaml:1:8: error[CD0401]: `guard` cannot be `iptables` (one of: none, nftables)",
            ),
            (
                "uplinks: all",
                "c.yaml:1:10: error[CD0401]: `uplinks` cannot be `all` (names of interfaces, such as [eth0], or auto)",
            ),
            (
                "uplinks: [eth0, much-too-long-a-name]",
                "c.yaml:1:17: error[CD0401]: `uplinks` cannot be `much-too-long-a-name` (names of interfaces, such as [eth0], or auto)",
            ),
            (
                "accept_partial: yes",
                "c.yaml:1:17: error[CD0107]: `accept_partial` must be `true` or `false`, not a value that YAML readers disagree about (`yes`)",
            ),
            (
                "run_dir: /a\nrun_dir: /b",
                "c.yaml:2:1: error[CD0105]: the key `run_dir` stands here a second time",
            ),
            (
                "limits: {slots: 1048576, table_pages: 16}",
                "c.yaml:1:9: error[CD0401]: a table of 16 pages has no room for 1048576 slots (set `table_pages` to at least 34)",
            ),
            (
                "policies: ['etcd://u@h/p']",
                "c.yaml:1:12: error[CD0401]: an entry of `policies` cannot be `etcd://u@h/p` (no user in the address: `etcd.username` and `etcd.password_file`)",
            ),
            (
                "policies: ['https://h/p']",
                "c.yaml:1:12: error[CD0401]: an entry of `policies` cannot be `https://h/p` (etcd://HOST[:PORT][,HOST[:PORT]]/PREFIX, or etcds:// for TLS)",
            ),
            (
                "policies: ['etcd://a/p', 'etcd://b/p']",
                "c.yaml:1:26: error[CD0401]: an entry of `policies` cannot be `etcd://b/p` (one etcd: give its hosts commas between them)",
            ),
            (
                "policies: ['etcds://a/p']",
                "c.yaml:1:11: error[CD0401]: nobody says which certificate authority the servers have (set `etcd.ca`)",
            ),
            (
                "etcd: {publish: true}",
                "c.yaml:1:17: error[CD0401]: `etcd.publish` cannot be `true` (an `etcd://` entry of `policies`)",
            ),
            (
                "etcd: {ca: /c, certificate: /d}",
                "c.yaml:1:29: error[CD0401]: `etcd.certificate` cannot be `/d` (with `key`)",
            ),
            (
                "etcd: {key: /e}",
                "c.yaml:1:13: error[CD0401]: `etcd.key` cannot be `/e` (with `certificate`)",
            ),
            (
                "etcd: {certificate: /d, key: /e}",
                "c.yaml:1:21: error[CD0401]: `etcd.certificate` cannot be `/d` (with `ca`)",
            ),
            (
                "etcd: {username: u}",
                "c.yaml:1:18: error[CD0401]: `etcd.username` cannot be `u` (with `password_file`)",
            ),
            (
                "etcd: {password_file: /f}",
                "c.yaml:1:23: error[CD0401]: `etcd.password_file` cannot be `/f` (with `username`)",
            ),
            (
                "{}\n---\n{}",
                "c.yaml:3:1: error[CD0401]: a second document (a configuration is one document)",
            ),
        ] {
            assert_eq!(errors(text), [expected]);
        }
        assert_eq!(errors("node: [").len(), 1);
        assert_eq!(errors("own_node: 1\nguard: 2\n").len(), 2);
        let all = "idle: {udp: 1, sctp: x}\nuplinks: [1, a/b, c/d]\npolicies: [1, '']\nlimit: 1\n";
        assert_eq!(errors(all).len(), 8, "all at once: {:?}", errors(all));
    }
}
