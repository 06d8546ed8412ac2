//! Filters against one record, and patterns against their text.

use super::*;

/// `shop/web` is denied a connection to the database by a policy that isolates it.
fn record() -> FlowRecord {
    let text = r#"{"schema":"cofferdam/v1","time":"2026-01-01T00:00:00.000000000Z","type":"denied",
        "node":"n1","hook":"from_workload","direction":"ingress","verdict":"deny",
        "reason":"isolated","revision":43,"count":1,"rule":null,
        "isolated_by":[
            {"kind":"NetworkPolicy","namespace":"data","name":"closed","index":null,"file":"a","line":6},
            {"kind":"NetworkPolicy","namespace":"data","name":"db","index":null,"file":"a","line":9}],
        "source":{"namespace":"shop","workload":"web","address":"10.1.0.2","port":40000,
                  "labels":{"app":"web","tier":""}},
        "destination":{"namespace":"data","workload":"db","address":"fd00::3","port":5432,
                       "labels":{"app":"db"}},
        "protocol":"tcp","tcp_flags":"S","icmp":null,"packets":1,"bytes":60,"duration_ms":0}"#;
    serde_json::from_str(text).unwrap()
}

/// A filter of flags: `--not` stands before the flag that it negates.
fn filter(flags: &str) -> Filter {
    let mut filter = Filter::default();
    let mut not = false;
    let mut words = flags.split(' ').filter(|word| !word.is_empty());
    while let Some(flag) = words.next() {
        if flag == "--not" {
            not = true;
            continue;
        }
        let value = words.next().unwrap();
        filter.add(not, criterion(flag, value).unwrap());
        not = false;
    }
    filter
}

/// The criterion of a flag, by way of JSON, which is how an agent reads it.
fn criterion(flag: &str, value: &str) -> serde_json::Result<Criterion> {
    let field = flag.trim_start_matches('-');
    serde_json::from_value(serde_json::json!({ field: value }))
}

#[test]
fn each_field_is_asked_for_by_its_own_flag() {
    for (flags, is_for) in [
        ("", true),
        ("--verdict deny", true),
        ("--verdict allow", false),
        ("--reason isolated", true),
        ("--reason rule", false),
        ("--type denied", true),
        ("--type audit", false),
        ("--direction ingress", true),
        ("--direction egress", false),
        ("--from shop/web", true),
        ("--from shop/", true),
        ("--from shop/web-2", false),
        ("--from data/db", false),
        ("--from 10.0.0.0/8", true),
        ("--from 10.1.0.2", true),
        ("--from ::ffff:10.1.0.2", true),
        ("--from 10.1.0.3", false),
        ("--from node/n1", false),
        ("--to data/db", true),
        ("--to fd00::/8", true),
        ("--to fd01::/16", false),
        ("--to 10.1.0.2", false),
        ("--workload web", true),
        ("--workload data/db", true),
        ("--workload shop/db", false),
        ("--namespace data", true),
        ("--namespace default", false),
        ("--label app=db", true),
        ("--label app", true),
        ("--label tier=", true),
        ("--label app=d", false),
        ("--label ap", false),
        ("--ip fd00::3", true),
        ("--ip 10.1.0.0/31", false),
        ("--port 5432", true),
        ("--port 40000-40001", true),
        ("--port tcp/5000-6000", true),
        ("--port udp/5432", false),
        ("--port proto/6", true),
        ("--port icmp/8", false),
        ("--port 80", false),
        ("--protocol TCP", true),
        ("--protocol 6", true),
        ("--protocol udp", false),
        ("--policy db", true),
        ("--policy data/closed", true),
        ("--policy shop/db", false),
    ] {
        assert_eq!(filter(flags).is_for(&record()), is_for, "{flags}");
    }
}

#[test]
fn alternatives_of_a_flag_are_joined_and_flags_restrict_each_other() {
    for (flags, is_for) in [
        ("--reason rule --reason isolated", true),
        ("--reason rule --reason isolated --verdict allow", false),
        ("--from data/db --from shop/web --to data/db", true),
        ("--not --reason rule", true),
        ("--not --reason isolated", false),
        // None of the negated ones may hold.
        ("--not --reason rule --not --reason isolated", false),
        ("--not --reason rule --not --reason spoofed_mac", true),
        // A negated flag and the same one alone are two conditions.
        ("--ip 10.0.0.0/8 --not --ip 10.1.0.0/16", false),
        ("--ip 10.0.0.0/8 --not --ip 10.2.0.0/16", true),
        // Only the next flag is negated.
        ("--not --reason rule --verdict deny", true),
        ("--not --label app=db", false),
    ] {
        assert_eq!(filter(flags).is_for(&record()), is_for, "{flags}");
    }
}

#[test]
fn ports_of_icmp_are_types_and_codes() {
    let mut record = record();
    record.protocol = "icmp".to_owned();
    record.icmp = Some(crate::output::IcmpKind { kind: 3, code: 1 });
    (record.source.port, record.destination.port) = (None, None);
    for (port, is_for) in [
        ("icmp/3", true),
        ("icmp/3/1", true),
        ("icmp/3/0", false),
        ("icmpv6/3", false),
        ("proto/1", true),
        ("3", false),
    ] {
        assert_eq!(
            filter(&format!("--port {port}")).is_for(&record),
            is_for,
            "{port}"
        );
    }
}

#[test]
fn a_filter_is_the_same_behind_the_socket() {
    let all = "--verdict deny --not --reason rule --type new --direction egress --from a/ \
               --to node/n1 --workload x --namespace n --label k= --ip fd00::/8 \
               --port sctp/1-2 --not --port icmpv6/1/2 --port proto/47 --protocol arp \
               --protocol ethertype/0x88cc --policy p --policy n/p";
    let filter = filter(all);
    let text = serde_json::to_string(&filter).unwrap();
    assert_eq!(
        serde_json::from_str::<Filter>(&text).unwrap(),
        filter,
        "{text}"
    );
    let newer = r#"[{"any":[{"smell":"sweet"}]}]"#;
    let error = serde_json::from_str::<Filter>(newer).unwrap_err();
    assert!(
        error.to_string().contains("unknown variant `smell`"),
        "{error}"
    );
}

#[test]
fn slips_are_told_with_what_is_expected() {
    for (flag, value, expected) in [
        ("--from", "web", "expected namespace/pod"),
        ("--from", "a/b/c", "expected namespace/pod"),
        ("--from", "node/", "expected namespace/pod"),
        ("--from", "external/x", "give the address"),
        ("--to", "10.0.0.0/64", "expected an address or a CIDR"),
        ("--ip", "web", "expected an address"),
        ("--port", "9-8", "expected 80"),
        ("--port", "65536", "expected 80"),
        ("--port", "tpc/1", "expected 80"),
        ("--port", "icmp/256", "expected 80"),
        ("--protocol", "256", "expected tcp"),
        ("--protocol", "http", "expected tcp"),
        ("--label", "=x", "expected key=value"),
        ("--policy", "a/b/c", "expected namespace/name"),
        ("--workload", "/x", "expected namespace/pod"),
        ("--reason", "becaus", "is none of: rule, "),
    ] {
        let error = criterion(flag, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{flag} {value}: {error}");
    }
}

#[test]
fn types_that_are_not_asked_for_need_not_be_made() {
    for (flags, new, denied) in [
        ("", true, true),
        ("--reason isolated", true, true),
        ("--type denied", false, true),
        ("--type denied --type new", true, true),
        ("--not --type new", false, true),
        ("--type audit", false, false),
    ] {
        let filter = filter(flags);
        let types = [RecordType::New, RecordType::Denied].map(|kind| filter.is_for_type(kind));
        assert_eq!(types, [new, denied], "{flags}");
    }
}
