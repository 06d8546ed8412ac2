//! Texts that commands print for people.

use std::fmt::Write as _;

use cofferdam_protocol::output::{
    ApiStatus, BypassReport, BypassedEndpoint, Diagnostic, EndpointList, EndpointReport,
    EndpointState, Enforcement, EtcdStatus, RemoveReport, StatusReport, SyncReport, UnusedRules,
    place,
};
use cofferdam_protocol::words::ClosedList as _;

/// Returns a number of things in words: `1 policy`, `2 policies`.
pub(super) fn count(number: u64, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {one}s"),
    }
}

fn diagnostics(text: &mut String, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        line(text, format_args!("{diagnostic}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string");
}

fn in_force(is_enforced: bool, revision: u64) -> String {
    match (is_enforced, revision) {
        (true, _) => format!("revision {revision} is in force and was read back"),
        (false, 0) => "nothing is in force".to_owned(),
        (false, _) => format!("the newest state is not in force; revision {revision} is"),
    }
}

pub(super) fn sync(report: &SyncReport) -> String {
    let mut text = String::new();
    diagnostics(&mut text, &report.diagnostics);
    line(
        &mut text,
        format_args!(
            "{}; {} documents accepted, {} rejected",
            in_force(report.enforced, report.revision),
            report.accepted,
            report.rejected
        ),
    );
    text
}

pub(super) fn status(report: &StatusReport) -> String {
    let mut text = String::new();
    let put = &mut text;
    line(
        put,
        format_args!("cofferdam {} on Linux {}", report.version, report.kernel),
    );
    line(
        put,
        format_args!("{}", in_force(report.enforced, report.revision)),
    );
    line(
        put,
        format_args!(
            "{} documents accepted, {} rejected; {}",
            report.accepted,
            report.rejected,
            if report.ready { "ready" } else { "not ready" }
        ),
    );
    if report.enforcement == Enforcement::Audit {
        line(
            put,
            format_args!("on audit: what policies deny passes, and is reported"),
        );
    } else if !report.audited_namespaces.is_empty() {
        line(
            put,
            format_args!(
                "namespaces on audit, where what policies deny passes: {}",
                report.audited_namespaces.join(", ")
            ),
        );
    }
    for endpoint in &report.endpoints {
        let problem = endpoint.problem.as_deref().unwrap_or_default();
        line(
            put,
            format_args!(
                "{:<10} {}{} {problem}",
                endpoint.state.as_str(),
                endpoint.called(),
                leaving(endpoint.leaving)
            ),
        );
    }
    for interface in &report.unmanaged {
        let state = EndpointState::Unmanaged.as_str();
        line(put, format_args!("{state:<10} {interface}"));
    }
    for capacity in report.capacity.iter().filter(|one| one.max != 0) {
        line(
            put,
            format_args!(
                "{:<12} {:>8} of {}",
                capacity.table, capacity.used, capacity.max
            ),
        );
    }
    for uplink in &report.uplinks {
        let mode = uplink
            .mode
            .as_deref()
            .or(uplink.problem.as_deref())
            .unwrap_or_default();
        line(
            put,
            format_args!("early drop on {}: {mode}", uplink.interface),
        );
    }
    if let Some(api) = &report.kubernetes {
        line(put, format_args!("{}", api_server(api)));
    }
    if let Some(etcd) = &report.etcd {
        line(put, format_args!("{}", self::etcd(etcd)));
    }
    for obstacle in &report.obstacles {
        line(put, format_args!("{obstacle}"));
    }
    diagnostics(put, &report.diagnostics);
    text
}

fn api_server(api: &ApiStatus) -> String {
    let objects: u64 = api.objects.values().sum();
    let read = if api.complete {
        format!("{objects} objects")
    } else {
        "not read completely yet".to_owned()
    };
    match (&api.away_since, &api.problem) {
        (Some(since), Some(problem)) => {
            format!("API server: {read}, away since {since}: {problem}")
        }
        _ => format!("API server: {read}"),
    }
}

fn etcd(etcd: &EtcdStatus) -> String {
    let mut text = match etcd.complete {
        true => format!(
            "etcd: {} documents and {} endpoints",
            etcd.documents, etcd.endpoints
        ),
        false => "etcd: not read completely yet".to_owned(),
    };
    if let Some(published) = etcd.published {
        text += &format!(", {published} published by this node");
    }
    for (what, since, problem) in [
        ("away", &etcd.away_since, &etcd.problem),
        (
            "nothing published",
            &etcd.unpublished_since,
            &etcd.publish_problem,
        ),
    ] {
        if let (Some(since), Some(problem)) = (since, problem) {
            text += &format!(", {what} since {since}: {problem}");
        }
    }
    text
}

/// The rules, one on a line, and since when hits are watched.
pub(super) fn unused_rules(report: &UnusedRules) -> String {
    let mut text = String::new();
    for rule in &report.rules {
        let namespace = rule.namespace.as_ref().map(|name| format!("{name}/"));
        line(
            &mut text,
            format_args!(
                "{} {}{}[{}] {} {} last hit: {}",
                rule.kind,
                namespace.unwrap_or_default(),
                rule.name,
                rule.index,
                rule.direction.word(),
                place(&rule.file, &[rule.line]),
                rule.last_hit.as_deref().unwrap_or("never")
            ),
        );
    }
    let (count, since) = (report.rules.len(), &report.watched_since);
    line(
        &mut text,
        format_args!("{count} rules without hits; watched since {since}"),
    );
    text
}

pub(super) fn endpoint(report: &EndpointReport) -> String {
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    let labels: Vec<String> = (report.labels.iter())
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!(
        "{:<10} {}{} {} {} {}\n",
        report.state.as_str(),
        report.called(),
        leaving(report.leaving),
        addresses.join(","),
        report.mac,
        labels.join(",")
    )
}

pub(super) fn endpoints(report: &EndpointList) -> String {
    report.endpoints.iter().map(endpoint).collect()
}

pub(super) fn removed(report: &RemoveReport) -> String {
    if report.removed.is_empty() {
        return "there was nothing to remove\n".to_owned();
    }
    let told = |id: &String| {
        let until = if report.leaving.contains(id) {
            "; nothing passes there until its interface has gone"
        } else {
            ""
        };
        format!("removed {id}{until}\n")
    };
    report.removed.iter().map(told).collect()
}

pub(super) fn bypassed(report: &BypassReport) -> String {
    let told = |one: &BypassedEndpoint| match &one.until {
        Some(until) => format!("{}: policy denies it nothing until {until}\n", one.id),
        None => format!("{}: policy counts\n", one.id),
    };
    report.endpoints.iter().map(told).collect()
}

fn leaving(is_leaving: bool) -> &'static str {
    if is_leaving { " (leaving)" } else { "" }
}
