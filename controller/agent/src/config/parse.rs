//! Reads a configuration file.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_policies::diagnostic::{Code, Diagnostic, Severity};
use cofferdam_policies::documents::MAX_FILE;
use cofferdam_policies::documents::reader::{Fields, Reader, Shown};
use cofferdam_policies::names;
use cofferdam_policies::yaml::{self, FailureKind, Mark, Node as YamlNode, Value};
use cofferdam_verdict::verdict::MAX_RULE;

use super::{Config, EarlyDrop, FlowLog, Guard, Idle, OwnNode, Room, units};

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
                top(reader, &node, config);
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

const KEYS: &[&str] = &[
    "node",
    "policies",
    "run_dir",
    "state_dir",
    "bpffs",
    "metrics",
    "uplinks",
    "limits",
    "accept_partial",
    "own_node",
    "adopt_midstream",
    "guard",
    "idle",
    "flow_log",
];

fn top(reader: &mut Reader, node: &YamlNode<'_>, config: &mut Config) {
    let Some(fields) = reader.strict_mapping(node, "the configuration", KEYS) else {
        return;
    };
    if let Some(fields) = section(reader, fields, "node", &["name", "addresses"]) {
        if let Some(name) = text(reader, fields, "name")
            && let Some(node) = fields.get("name")
            && reader.check_name(
                node.mark,
                Code::Name,
                "the node's name",
                name,
                names::subdomain,
            )
        {
            config.node.name = name.to_owned();
        }
        if let Some(items) = list(reader, fields, "addresses") {
            config.node.addresses = items
                .into_iter()
                .filter_map(|node| address(reader, node))
                .collect();
        }
    }
    if let Some(items) = list(reader, fields, "policies") {
        config.policies = items
            .into_iter()
            .filter_map(|node| path(reader, node, "an entry of `policies`"))
            .collect();
    }
    for (key, place) in [
        ("run_dir", &mut config.run_dir),
        ("state_dir", &mut config.state_dir),
        ("bpffs", &mut config.bpffs),
    ] {
        if let Some(node) = fields.get(key)
            && let Some(path) = path(reader, node, &format!("`{key}`"))
        {
            *place = path;
        }
    }
    if let Some(node) = fields.get("metrics")
        && let Some(address) = metrics(reader, node)
    {
        config.metrics = address;
    }
    if let Some(value) = early_drop(reader, fields) {
        config.uplinks = value;
    }
    if let Some(fields) = section(reader, fields, "limits", LIMITS) {
        limits(reader, fields, &mut config.limits);
    }
    if let Some(node) = fields.get("accept_partial")
        && let Some(value) = reader.boolean(node, "`accept_partial`")
    {
        config.accept_partial = value;
    }
    let own_node = [("allow", OwnNode::Allow), ("policy", OwnNode::Policy)];
    if let Some(value) = choice(reader, fields, "own_node", &own_node) {
        config.own_node = value;
    }
    if let Some(value) = time(reader, fields, "adopt_midstream") {
        config.adopt_midstream = value;
    }
    let guards = [("none", Guard::None), ("nftables", Guard::Nftables)];
    if let Some(value) = choice(reader, fields, "guard", &guards) {
        config.guard = value;
    }
    if let Some(fields) = section(reader, fields, "idle", IDLE) {
        idle(reader, fields, &mut config.idle);
    }
    if let Some(fields) = section(reader, fields, "flow_log", &["path", "max_bytes", "keep"]) {
        flow_log(reader, fields, &mut config.flow_log);
    }
}

/// Reports a setting that would have no effect.
fn unsupported(reader: &mut Reader, mark: Mark, key: &str, default: &str) {
    reader.error_hint(
        mark,
        Code::Setting,
        format!("`{key}` has no effect in this version"),
        format!("leave it out, or at {default}"),
    );
}

const LIMITS: &[&str] = &[
    "endpoints",
    "slots",
    "flows_per_endpoint",
    "table_pages",
    "rules",
];

/// What each of the limits may be.
pub const RANGES: [(&str, RangeInclusive<u32>); 5] = [
    ("endpoints", 1..=4096),
    ("slots", 64..=1 << 24),
    ("flows_per_endpoint", 16..=1 << 22),
    ("table_pages", 2..=16_384),
    ("rules", 2..=MAX_RULE + 1),
];
/// How many flow logs may be kept.
pub const KEEP: RangeInclusive<u32> = 0..=1000;

fn limits(reader: &mut Reader, fields: Fields<'_, '_>, room: &mut Room) {
    for ((key, range), place) in RANGES.into_iter().zip([
        &mut room.endpoints,
        &mut room.slots,
        &mut room.flows_per_endpoint,
        &mut room.table_pages,
        &mut room.rules,
    ]) {
        if let Some(value) = number(reader, fields, key, range) {
            *place = value;
        }
    }
    // The slots lie in the table: without room for them no table fits.
    let limits = cofferdam_verdict::capacity::Limits {
        slots: room.slots,
        ..cofferdam_verdict::capacity::Limits::default()
    };
    if room.table_pages <= limits.slot_pages() {
        reader.error_hint(
            fields.mark,
            Code::Setting,
            format!(
                "a table of {} pages has no room for {} slots",
                room.table_pages, room.slots
            ),
            format!("set `table_pages` to at least {}", limits.slot_pages() + 1),
        );
    }
}

const IDLE: &[&str] = &[
    "tcp_established",
    "tcp_embryonic",
    "tcp_closing",
    "udp",
    "udp_one_way",
    "sctp",
    "icmp",
    "other",
];

fn idle(reader: &mut Reader, fields: Fields<'_, '_>, idle: &mut Idle) {
    for (key, place) in [
        ("tcp_established", &mut idle.tcp_established),
        ("tcp_embryonic", &mut idle.tcp_embryonic),
        ("tcp_closing", &mut idle.tcp_closing),
        ("udp", &mut idle.udp),
        ("udp_one_way", &mut idle.udp_one_way),
        ("sctp", &mut idle.sctp),
        ("icmp", &mut idle.icmp),
        ("other", &mut idle.other),
    ] {
        let Some(value) = time(reader, fields, key) else {
            continue;
        };
        if value < Duration::from_secs(1) {
            let mark = fields.get(key).map_or(fields.mark, |node| node.mark);
            reader.error_hint(
                mark,
                Code::Setting,
                format!("`{key}` is too short for any answer to come back"),
                "at least 1s",
            );
            continue;
        }
        *place = value;
    }
}

fn flow_log(reader: &mut Reader, fields: Fields<'_, '_>, log: &mut FlowLog) {
    if let Some(path) = text(reader, fields, "path")
        && let Some(node) = fields.get("path")
        && !path.is_empty()
    {
        unsupported(reader, node.mark, "flow_log.path", "\"\"");
    }
    if let Some(node) = fields.get("max_bytes")
        && let Some(value) = reader.string(node, "`max_bytes`")
    {
        match units::size(value) {
            Ok(bytes) => log.max_bytes = bytes,
            Err(error) => wrong(reader, node, "max_bytes", value, &error.to_string()),
        }
    }
    if let Some(value) = number(reader, fields, "keep", KEEP) {
        log.keep = value;
    }
}

fn section<'n, 't>(
    reader: &mut Reader,
    fields: Fields<'n, 't>,
    key: &str,
    known: &[&str],
) -> Option<Fields<'n, 't>> {
    let node = fields.get(key)?;
    reader.strict_mapping(node, &format!("`{key}`"), known)
}

fn list<'n, 't>(
    reader: &mut Reader,
    fields: Fields<'n, 't>,
    key: &str,
) -> Option<Vec<&'n YamlNode<'t>>> {
    let node = fields.get(key)?;
    reader.list(node, &format!("`{key}`"))
}

/// Names of interfaces, or `auto`.
fn early_drop(reader: &mut Reader, fields: Fields<'_, '_>) -> Option<EarlyDrop> {
    const HINT: &str = "names of interfaces, such as [eth0], or auto";
    let node = fields.get("uplinks")?;
    if let Value::Text(word) = &node.value {
        if word == "auto" {
            return Some(EarlyDrop::Auto);
        }
        wrong(reader, node, "uplinks", word, HINT);
        return None;
    }
    let mut names = Vec::new();
    for item in reader.list(node, "`uplinks`")? {
        let name = reader.string(item, "an interface")?;
        // The kernel's bound on names, and what it allows in them.
        let fits = (1..16).contains(&name.len());
        if !fits || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
            wrong(reader, item, "uplinks", name, HINT);
            return None;
        }
        names.push(name.to_owned());
    }
    Some(EarlyDrop::Names(names))
}

fn text<'n>(reader: &mut Reader, fields: Fields<'n, '_>, key: &str) -> Option<&'n str> {
    let node = fields.get(key)?;
    reader.string(node, &format!("`{key}`"))
}

fn path(reader: &mut Reader, node: &YamlNode<'_>, what: &str) -> Option<PathBuf> {
    let text = reader.string(node, what)?;
    if text.is_empty() || text.contains('\0') {
        reader.error(node.mark, Code::Setting, format!("{what} must be a path"));
        return None;
    }
    Some(PathBuf::from(text))
}

fn wrong(reader: &mut Reader, node: &YamlNode<'_>, key: &str, value: &str, hint: &str) {
    reader.error_hint(
        node.mark,
        Code::Setting,
        format!("`{key}` cannot be `{}`", Shown(value)),
        hint,
    );
}

fn time(reader: &mut Reader, fields: Fields<'_, '_>, key: &str) -> Option<Duration> {
    let node = fields.get(key)?;
    if let Value::Integer(number) = node.value {
        // Much the commonest slip.
        wrong(
            reader,
            node,
            key,
            &number.to_string(),
            &format!("with a unit: {number}s or {number}ms"),
        );
        return None;
    }
    let value = reader.string(node, &format!("`{key}`"))?;
    match units::duration(value) {
        Ok(time) => Some(time),
        Err(error) => {
            wrong(reader, node, key, value, &error.to_string());
            None
        }
    }
}

fn number(
    reader: &mut Reader,
    fields: Fields<'_, '_>,
    key: &str,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    let node = fields.get(key)?;
    let number = reader.integer(node, &format!("`{key}`"))?;
    let value = u32::try_from(number).ok().filter(|n| range.contains(n));
    if value.is_none() {
        wrong(
            reader,
            node,
            key,
            &number.to_string(),
            &format!("from {} to {}", range.start(), range.end()),
        );
    }
    value
}

fn choice<T: Clone>(
    reader: &mut Reader,
    fields: Fields<'_, '_>,
    key: &str,
    values: &[(&str, T)],
) -> Option<T> {
    let node = fields.get(key)?;
    let word = reader.string(node, &format!("`{key}`"))?;
    let value = values.iter().find(|(name, _)| *name == word);
    if value.is_none() {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        wrong(
            reader,
            node,
            key,
            word,
            &format!("one of: {}", names.join(", ")),
        );
    }
    value.map(|(_, value)| value.clone())
}

fn address(reader: &mut Reader, node: &YamlNode<'_>) -> Option<IpAddr> {
    let text = reader.string(node, "an address")?;
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical()),
        Err(_) => {
            reader.error(
                node.mark,
                Code::Address,
                format!("`{}` is not an IPv4 or IPv6 address", Shown(text)),
            );
            None
        }
    }
}

fn metrics(reader: &mut Reader, node: &YamlNode<'_>) -> Option<Option<SocketAddr>> {
    let text = reader.string(node, "`metrics`")?;
    if text.is_empty() {
        return Some(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Some(Some(address)),
        Err(_) => {
            let hint = "an address and a port, such as 127.0.0.1:9464, or \"\" for none";
            wrong(reader, node, "metrics", text, hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = r#"
node: {name: n1, addresses: [10.0.0.1, "fd00::1"]}
policies: [/a, b.yaml]
run_dir: /r
state_dir: /s
bpffs: /b
metrics: 127.0.0.1:1
uplinks: [eth0]
limits: {endpoints: 8, slots: 4096, flows_per_endpoint: 512, table_pages: 16}
accept_partial: true
own_node: policy
adopt_midstream: 0s
guard: none
idle: {tcp_established: 1h, tcp_embryonic: 2s, tcp_closing: 3s, udp: 4s, udp_one_way: 5s, sctp: 6m, icmp: 7s, other: 1500ms}
flow_log: {path: "", max_bytes: 1MiB, keep: 2}
"#;
        let config = parse("c.yaml", text.as_bytes()).unwrap();
        let printed = config.to_string();
        assert_eq!(
            parse("p.yaml", printed.as_bytes()),
            Ok(config.clone()),
            "{printed}"
        );
        assert_eq!(config.metrics, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(config.limits.slots, 4096);
        assert_eq!(config.idle.other, Duration::from_millis(1500));
        // Every key was given another value than it has without.
        for (given, default) in printed.lines().zip(Config::default().to_string().lines()) {
            let same = given == default && !given.ends_with(':') && !given.contains("none");
            assert!(!same || given.contains("path"), "{given}");
        }
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
                "idle: {udp: 1y}",
                "c.yaml:1:13: error[CD0401]: `udp` cannot be `1y` (write a whole number and a unit, one of ms, s, m, h, d, such as 30s)",
            ),
            (
                "flow_log: {max_bytes: 100MB}",
                "c.yaml:1:23: error[CD0401]: `max_bytes` cannot be `100MB` (write a whole number and a unit, one of B, KiB, MiB, GiB, such as 100MiB)",
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
                "flow_log: {path: \"-\"}",
                "c.yaml:1:18: error[CD0401]: `flow_log.path` has no effect in this version (leave it out, or at \"\")",
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
                "{}\n---\n{}",
                "c.yaml:3:1: error[CD0401]: a second document (a configuration is one document)",
            ),
        ] {
            assert_eq!(errors(text), [expected]);
        }
        assert_eq!(errors("node: [").len(), 1);
        assert_eq!(errors("own_node: 1\nguard: 2\n").len(), 2);
    }
}
