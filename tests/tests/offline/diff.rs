//! `cofferdam diff`.

use std::{fs, process::Command};

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

use crate::{Folder, SHOP};

/// A shop before and after a change: each a folder of its own with policies.
fn sets(old: &[(&str, &str)], new: &[(&str, &str)]) -> Folder {
    let folder = Folder::new(&[]);
    for (set, files) in [("old", old), ("new", new)] {
        let path = folder.0.path().join(set);
        fs::create_dir(&path).expect("a folder");
        fs::write(path.join("shop.yaml"), SHOP).expect("a file");
        for (name, text) in files {
            fs::write(path.join(name), text).expect("a file");
        }
    }
    folder
}

/// `DB_FROM_WEB` with a second port.
fn wider() -> String {
    DB_FROM_WEB.replace("port: 5432", "port: 5432, endPort: 5433")
}

const DIFF: [&str; 4] = ["diff", "old", "--to", "new"];

#[test]
fn a_port_more_is_one_connection_more_with_the_rule_that_allows_it() {
    let wider = wider();
    let folder = sets(&[("db.yaml", DB_FROM_WEB)], &[("db.yaml", &wider)]);
    let diff = folder.json(0, "diff.json", &DIFF);
    let change = |family: u8| {
        json!({"kind": "added", "source": "shop/web", "destination": "shop/db", "family": family,
               "protocol": "tcp", "ports": "5433", "direction": "ingress", "rule": 1, "was": 2})
    };
    assert_eq!(diff["changes"], json!([change(4), change(6)]));
    assert_eq!((&diff["added"], &diff["removed"]), (&json!(2), &json!(0)));
    let rules = diff["rules"].as_array().expect("a list");
    let place = |rule: &Value| {
        (
            rule["set"].clone(),
            rule["index"].clone(),
            rule["file"].clone(),
            rule["line"].clone(),
        )
    };
    assert_eq!(
        place(&rules[0]),
        (json!("new"), json!(0), json!("new/db.yaml"), json!(7))
    );
    // The policy that isolates, where its `spec` is.
    assert_eq!(
        place(&rules[1]),
        (json!("old"), Value::Null, json!("old/db.yaml"), json!(4))
    );
    let reverse = folder.json(0, "diff.json", &["diff", "new", "--to", "old"]);
    assert_eq!(
        (&reverse["added"], &reverse["removed"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(reverse["changes"][0]["kind"], "removed");
    let text = folder.said(0, &DIFF);
    assert!(
        text.starts_with("+ shop/web -> shop/db  tcp/5433\n"),
        "{text}"
    );
    assert!(text.contains("allowed by shop/db-from-web (new/db.yaml:7); was denied by shop/db-from-web (old/db.yaml:4)"), "{text}");
    let markdown = folder.said(0, &[&DIFF[..], &["--format", "md"]].concat());
    assert!(
        markdown.contains("| **added** | `shop/web` | `shop/db` | `tcp/5433` |"),
        "{markdown}"
    );
}

#[test]
fn the_status_says_whether_there_are_changes_that_were_not_to_be() {
    let wider = wider();
    let folder = sets(&[("db.yaml", DB_FROM_WEB)], &[("db.yaml", &wider)]);
    let status = |more: &[&str]| folder.run(&[&DIFF[..], more].concat()).status.code();
    for (more, expected) in [
        (&[][..], 0),
        (&["--fail-on", "added"], 1),
        (&["--fail-on", "removed"], 0),
        (&["--fail-on", "any"], 1),
        (&["--fail-on", "any", "--probe", "tcp/5432"], 0),
        (&["--fail-on", "any", "--probe", "tcp/5433"], 1),
        (&["--fail-on", "all"], 2),
    ] {
        assert_eq!(status(more), Some(expected), "{more:?}");
    }
    assert_eq!(
        folder.run(&["diff", "old", "--to", "none"]).status.code(),
        Some(2)
    );
}

#[test]
fn an_approved_exposure_fails_nothing_until_it_expires() {
    let wider = wider();
    let folder = sets(&[("db.yaml", DB_FROM_WEB)], &[("db.yaml", &wider)]);
    let except = |text: &str| fs::write(folder.0.path().join("except.yaml"), text).expect("a file");
    except(
        "exceptions:\n- {source: shop/web, destination: 'shop/*', ports: tcp/5433, reason: reports, expires: '2027-01-31'}\n",
    );
    let arguments = |day| {
        [
            &DIFF[..],
            &[
                "--fail-on",
                "added",
                "--except",
                "except.yaml",
                "--as-of",
                day,
            ],
        ]
        .concat()
    };
    let diff = folder.json(0, "diff.json", &arguments("2027-01-31"));
    assert_eq!(
        (&diff["added"], &diff["changes"][0]["approved"]),
        (&json!(0), &json!("reports"))
    );
    assert_eq!(diff["exceptions"][0]["state"], "used");
    let late = folder.run(&arguments("2027-02-01"));
    assert_eq!(late.status.code(), Some(1));
    let said = String::from_utf8(late.stderr).expect("text");
    assert!(
        said.contains("except.yaml:2") && said.contains("expired on 2027-01-31"),
        "{said}"
    );
    except("exceptions:\n- {source: shop/web, destination: shop/db, expires: '2027-01-31'}\n");
    let wrong = folder.complaint(&arguments("2027-01-31"));
    assert!(wrong.contains("`reason` is missing"), "{wrong}");
}

#[test]
fn the_same_policies_in_another_layout_are_no_change() {
    let second = DB_FROM_WEB.replace("name: db-from-web", "name: also");
    let both = format!("# All in one.\n{second}---\n{DB_FROM_WEB}");
    let folder = sets(
        &[("a.yaml", DB_FROM_WEB), ("b.yaml", &second)],
        &[("policies.yaml", &both)],
    );
    let diff = folder.json(0, "diff.json", &[&DIFF[..], &["--fail-on", "any"]].concat());
    assert_eq!(diff["changes"], json!([]));
    assert_eq!(
        folder.said(0, &DIFF),
        "nothing has changed: both sets allow the same connections\n"
    );
}

#[test]
fn policies_without_workloads_are_not_said_to_be_the_same() {
    let folder = Folder::new(&[("old.yaml", DB_FROM_WEB), ("new.yaml", &wider())]);
    let said = folder.said(0, &["diff", "old.yaml", "--to", "new.yaml"]);
    assert!(
        said.starts_with("nothing was compared: neither set has pods"),
        "{said}"
    );
}

#[test]
fn connections_of_a_workload_that_one_set_has_count_and_say_so() {
    let cache = "{apiVersion: v1, kind: Pod, metadata: {name: cache, namespace: shop, labels: {app: cache}}}\n";
    let folder = sets(
        &[("db.yaml", DB_FROM_WEB)],
        &[("db.yaml", DB_FROM_WEB), ("cache.yaml", cache)],
    );
    let diff = folder.json(
        1,
        "diff.json",
        &[&DIFF[..], &["--fail-on", "added"]].concat(),
    );
    let changes = diff["changes"].as_array().expect("a list");
    assert!(changes.iter().all(|change| {
        let is_of = |end: &str| change[end] == "shop/cache";
        change["kind"] == "added" && (is_of("source") || is_of("destination"))
    }));
    // The database takes nothing from it.
    assert!(
        changes
            .iter()
            .all(|change| change["destination"] != "shop/db")
    );
    let ends = diff["ends"].as_array().expect("a list");
    let only = ends
        .iter()
        .find(|end| end["id"] == "shop/cache")
        .expect("an end");
    assert_eq!(only["only"], "new");
    let text = folder.said(0, &DIFF);
    assert!(
        text.contains("shop/cache is only in the new documents"),
        "{text}"
    );
}

#[test]
fn outside_addresses_are_told_where_they_differ() {
    let out = |except: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: out, namespace: shop}}\n\
             spec: {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0{except}}}}}]}}]}}\n"
        )
    };
    let folder = sets(
        &[("out.yaml", &out(""))],
        &[(
            "out.yaml",
            &out(", except: [203.0.113.0/24, 198.51.100.0/24]"),
        )],
    );
    let diff = folder.json(0, "diff.json", &DIFF);
    let changes = diff["changes"].as_array().expect("a list");
    assert_eq!(changes.len(), 1, "{diff}");
    assert_eq!(
        (
            &changes[0]["kind"],
            &changes[0]["source"],
            &changes[0]["destination"],
            &changes[0]["protocol"]
        ),
        (
            &json!("removed"),
            &json!("shop/web"),
            &json!("198.51.100.0/24, 203.0.113.0/24"),
            &json!("all")
        )
    );
}

#[test]
fn revisions_of_git_are_paths() {
    let folder = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("notes.txt", "{{{"),
    ]);
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(arguments)
            .current_dir(folder.0.path())
            .output()
            .expect("git");
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "old"]);
    fs::write(folder.0.path().join("db.yaml"), wider()).expect("a file");
    git(&["commit", "-q", "-a", "-m", "new"]);
    let diff = ["diff", "git:HEAD~1:.", "--to", "git:main:."];
    let said = folder.json(
        1,
        "diff.json",
        &[&diff[..], &["--fail-on", "added"]].concat(),
    );
    assert_eq!(said["changes"].as_array().expect("a list").len(), 2);
    assert_eq!(said["rules"][0]["file"], "git:main:db.yaml");
    // The place in a log is that of the file.
    let log = folder.said(0, &[&diff[..], &["--format", "sarif"]].concat());
    let log: Value = serde_json::from_str(&log).expect("JSON");
    let result = &log["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "connection-added");
    assert_eq!(
        result["locations"][0]["physicalLocation"],
        json!({"artifactLocation": {"uri": "db.yaml", "uriBaseId": "%SRCROOT%"}, "region": {"startLine": 7}})
    );
    // A revision against the files as they are.
    assert_eq!(
        folder.said(0, &["diff", "git:main:.", "--to", "."]),
        "nothing has changed: both sets allow the same connections\n"
    );
    for (path, said) in [
        ("git:none:.", "no revision `none`"),
        ("git:main:none", "no .yaml"),
        ("git:main", "names no path"),
    ] {
        let wrong = folder.complaint(&["diff", path, "--to", "."]);
        assert!(wrong.contains(said), "{path}: {wrong}");
    }
}

/// A Service in front of the database, and another pod.
const SQL: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: sql, namespace: shop}, spec: {clusterIP: 10.96.0.5, selector: {app: db}, ports: [{name: sql, port: 5432}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cache, namespace: shop, labels: {app: cache}}, status: {podIPs: [{ip: 10.0.0.9}]}}
";

#[test]
fn a_service_that_leads_to_others_is_a_change_of_its_connections() {
    let moved = SQL.replace("{app: db}", "{app: cache}");
    let folder = sets(
        &[("db.yaml", DB_FROM_WEB), ("sql.yaml", SQL)],
        &[("db.yaml", DB_FROM_WEB), ("sql.yaml", &moved)],
    );
    let diff = folder.json(0, "diff.json", &DIFF);
    let changes = diff["changes"].as_array().expect("a list");
    // The database denies everybody but `web`; no policy isolates the cache.
    let outside = changes
        .iter()
        .find(|change| change["source"] == "0.0.0.0/0")
        .expect("a change");
    let backends = json!({"old": [{"id": "shop/db", "port": 5432}], "new": [{"id": "shop/cache", "port": 5432}]});
    assert_eq!(
        (&outside["kind"], &outside["destination"], &outside["ports"]),
        (&json!("added"), &json!("service/shop/sql"), &json!("5432"))
    );
    assert_eq!(outside["backends"], backends);
    assert!(
        changes
            .iter()
            .all(|change| change["destination"] == "service/shop/sql"
                && change["source"] != "shop/web"),
        "{changes:?}"
    );
    let text = folder.said(0, &DIFF);
    assert!(
        text.contains("-> service/shop/sql  tcp/5432")
            && text.contains("backends shop/cache:5432, were shop/db:5432")
            && text.contains("was denied by shop/db-from-web (old/db.yaml:4)"),
        "{text}"
    );
    let md = folder.said(0, &[&DIFF[..], &["--format", "md"]].concat());
    assert!(
        md.contains("`service/shop/sql` | `tcp/5432` |") && md.contains("were shop/db:5432"),
        "{md}"
    );
    let sarif = folder.said(0, &[&DIFF[..], &["--format", "sarif"]].concat());
    assert!(
        sarif.contains("added: 0.0.0.0/0 -> service/shop/sql tcp/5432 over IPv4"),
        "{sarif}"
    );
    let failing = [&DIFF[..], &["--fail-on", "added"]].concat();
    assert_eq!(folder.run(&failing).status.code(), Some(1));
}

#[test]
fn a_service_without_backends_says_so_and_its_order_is_no_change() {
    let gone = SQL.replace("{app: db}", "{app: none}");
    let files = [("db.yaml", DB_FROM_WEB), ("sql.yaml", SQL)];
    let folder = sets(&files, &[("db.yaml", DB_FROM_WEB), ("sql.yaml", &gone)]);
    let text = folder.said(0, &DIFF);
    assert!(
        text.contains("- shop/web -> service/shop/sql  tcp/5432 over IPv4")
            && text.contains("backends none, were shop/db:5432")
            && !text.contains("no policy denied it"),
        "{text}"
    );
    let (service, pod) = SQL.split_once("---\n").expect("two documents");
    let turned = format!("{pod}---\n{service}");
    let folder = sets(&files, &[("a.yaml", &turned), ("z.yaml", DB_FROM_WEB)]);
    assert_eq!(
        folder.said(0, &DIFF),
        "nothing has changed: both sets allow the same connections\n"
    );
}

#[test]
fn who_approves_of_a_backend_approves_of_the_service_before_it() {
    let wider = wider();
    let second = SQL.replace("port: 5432}]", "port: 5432}, {name: more, port: 5433}]");
    let folder = sets(
        &[("db.yaml", DB_FROM_WEB), ("sql.yaml", &second)],
        &[("db.yaml", &wider), ("sql.yaml", &second)],
    );
    let except = |destination: &str| {
        let text = format!(
            "exceptions:\n- {{source: shop/web, destination: {destination}, ports: tcp/5433, \
             reason: reports, expires: '2027-01-31'}}\n"
        );
        fs::write(folder.0.path().join("except.yaml"), text).expect("a file");
        let gate = [
            &DIFF[..],
            &["--except", "except.yaml", "--as-of", "2027-01-01"],
        ]
        .concat();
        folder.json(0, "diff.json", &gate)["added"].clone()
    };
    // Over both families to the pod, over one to the Service.
    assert_eq!(except("shop/none"), 3);
    assert_eq!(except("shop/db"), 0);
    assert_eq!(except("service/shop/*"), 2);
}

/// Policies of its namespace cannot keep a workload from itself, those of the cluster can: what
/// both deny to everybody else is a change to it alone.
#[test]
fn a_workload_that_is_kept_from_itself_behind_its_service_is_a_change() {
    let closed = "\
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.96.0.5, selector: {app: db}, ports: [{port: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress]}}
";
    let deny = "\
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: none}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}
";
    let folder = sets(
        &[("shop.yaml", closed)],
        &[("shop.yaml", closed), ("deny.yaml", deny)],
    );
    let text = folder.said(0, &DIFF);
    assert!(
        text.contains("- shop/db -> service/shop/db  tcp/80 over IPv4")
            && text.contains("0 added, 1 removed"),
        "{text}"
    );
}
