//! Tests of documents: the effect of valid ones, and no effect of invalid ones.

use std::fs;
use std::time::{Duration, Instant};

use cofferdam_protocol::output::{EndpointReport, EndpointState};
use cofferdam_tests::agent::Agent;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::Wiring;
use cofferdam_tests::{cofferdam, skip_unless};

use super::scene::{DB_BROKEN, DB_CLOSED, DB_FROM_WEB, Scene};

#[test]
fn sync_counts_documents_and_says_what_is_wrong_with_the_others() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let other = DB_FROM_WEB.replace("db-from-web", "second");
    let wrong = DB_BROKEN.replace("db-from-web", "third");
    scene
        .agent
        .document("more.yaml", &format!("{other}---\n{wrong}"));
    let report = scene.agent.sync();
    assert!(report.enforced);
    assert_eq!((report.accepted, report.rejected), (2, 1));
    let [finding] = report.diagnostics.as_slice() else {
        panic!("{report:?}");
    };
    assert!(finding.file.ends_with("policies/more.yaml"), "{finding}");
    assert_eq!((finding.line, finding.column), (14, 3), "{finding}");
    assert!(
        finding
            .hint
            .as_ref()
            .is_some_and(|hint| hint.contains("podSelector"))
    );
    let told = finding.to_string();
    assert!(scene.agent.log().contains(&told), "{told}");
    assert_eq!(scene.agent.status().diagnostics, report.diagnostics);
    let text = scene.agent.cli(&["sync"]);
    assert_eq!(
        text.status.code(),
        Some(0),
        "enforced, whatever was rejected"
    );
    assert!(String::from_utf8_lossy(&text.stdout).contains(&told));
    // It never was good, and is left out.
    let (status, body) = scene.agent.http("/readyz");
    assert_eq!(status, 503, "{body}");
    scene.agent.remove_document("more.yaml");
    assert_eq!(scene.agent.sync().accepted, 1);
    assert_eq!(scene.agent.http("/readyz").0, 200);
}

#[test]
fn a_replaced_file_is_in_force_without_sync() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.assert_reaches("shop/web", "shop/db");
    let before = scene.agent.status().revision;
    let began = Instant::now();
    scene.agent.document("policies.yaml", DB_CLOSED);
    scene
        .agent
        .wait_until("a new revision", |status| status.revision > before);
    scene.assert_blocked("shop/web", "shop/db");
    // Written in place, and in a directory that was made meanwhile.
    let directory = scene.agent.path("policies/below");
    fs::create_dir(&directory).expect("a directory");
    let open = DB_FROM_WEB.replace("db-from-web", "open");
    fs::write(directory.join("open.yaml"), open).expect("a file");
    scene
        .agent
        .wait_until("another revision", |status| status.accepted == 2);
    scene.assert_reaches("shop/web", "shop/db");
    // The agent looks at everything each half minute: two changes would have waited for
    // two such looks if it had not heard of them.
    assert!(began.elapsed() < Duration::from_secs(30));
    // All of it gone is a withdrawal when it is meant, file by file.
    fs::remove_dir_all(&directory).expect("it is there");
    scene
        .agent
        .wait_until("withdrawn", |status| status.accepted == 1);
    scene.assert_blocked("shop/web", "shop/db");
}

/// Each table costs every flow one look at the policies.
#[test]
fn changes_that_come_fast_become_ten_tables_a_second() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    // Files that are left alone for 20 ms are read: each of these changes could be a table.
    const PACE: Duration = Duration::from_millis(30);
    const CHANGES: u32 = 40;
    let before = scene.agent.status().revision;
    let began = Instant::now();
    for changes in 0..CHANGES {
        while began.elapsed() < PACE * changes {
            std::thread::yield_now();
        }
        let port = format!("port: {}", 6000 + changes);
        let policy = DB_FROM_WEB.replace("port: 5432", &port);
        scene.agent.document("policies.yaml", &policy);
    }
    let took = began.elapsed();
    let tables = scene.agent.status().revision - before;
    let most = took.as_millis() as u64 / 100 + 2;
    assert!(
        (2..=most).contains(&tables),
        "{tables} tables in {took:?} for {CHANGES} changes"
    );
    // The last one counts, and so does what a caller waits for.
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    let reports = [DB_CLOSED, DB_FROM_WEB, DB_CLOSED].map(|policy| {
        scene.agent.document("policies.yaml", policy);
        scene.agent.sync().revision
    });
    assert!(reports.is_sorted_by(|one, next| one < next), "{reports:?}");
    scene.assert_blocked("shop/web", "shop/db");
}

#[test]
fn the_last_good_version_stays_over_a_restart_too() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.document("policies.yaml", DB_BROKEN);
    let report = scene.agent.sync();
    assert_eq!((report.accepted, report.rejected), (0, 1));
    scene.assert_blocked("shop/web", "shop/db");
    assert_eq!(
        scene.agent.http("/readyz").0,
        200,
        "something good is in force"
    );
    for how in ["stopped", "killed"] {
        if how == "stopped" {
            assert!(scene.agent.stop().success());
        } else {
            scene.agent.kill();
        }
        scene.agent.start_enforced();
        let status = scene.agent.status();
        assert_eq!((status.accepted, status.rejected), (0, 1), "{how}");
        assert_eq!(status.endpoints.len(), 2, "{how}");
        scene.assert_blocked("shop/web", "shop/db");
        // Who may is still told from who may not.
        scene.assert_reaches("shop/db", "shop/web");
    }
    // A file that ends up empty is no deletion either.
    scene.agent.document("policies.yaml", "");
    let report = scene.agent.sync();
    assert_eq!((report.accepted, report.rejected), (0, 1));
    assert!(report.diagnostics[0].message.contains("empty"));
    scene.assert_blocked("shop/web", "shop/db");
    // Removing the file is one.
    scene.agent.remove_document("policies.yaml");
    let report = scene.agent.sync();
    assert_eq!((report.accepted, report.rejected), (0, 0));
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn nothing_is_withdrawn_while_another_document_is_invalid() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    let other = DB_CLOSED
        .replace("db-from-web", "other")
        .replace("app: db", "app: none");
    scene.agent.document("other.yaml", &other);
    assert_eq!(scene.agent.sync().accepted, 2);
    scene
        .agent
        .document("other.yaml", &other.replace("podSelector", "podSelektor"));
    scene.agent.remove_document("policies.yaml");
    let report = scene.agent.sync();
    assert_eq!((report.accepted, report.rejected), (0, 1));
    assert!(report.enforced);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.document("other.yaml", &other);
    assert_eq!(scene.agent.sync().accepted, 1);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn a_directory_that_vanished_withdraws_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    let (policies, aside) = (scene.agent.path("policies"), scene.agent.path("aside"));
    fs::rename(&policies, &aside).expect("it is there");
    let report = scene.agent.sync();
    assert_eq!((report.accepted, report.rejected), (0, 1));
    scene.assert_blocked("shop/web", "shop/db");
    fs::create_dir(&policies).expect("its place is free");
    fs::write(policies.join("policies.yaml"), DB_FROM_WEB).expect("a file");
    scene
        .agent
        .wait_until("found again", |status| status.accepted == 1);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn with_nothing_in_force_yet_a_wrong_document_keeps_everything_closed() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.document("wrong.yaml", DB_BROKEN);
    scene.agent.start(&[]);
    let status = scene.agent.wait_up();
    assert_eq!((status.revision, status.enforced), (0, false));
    let added = Agent::add_arguments(scene.workload("shop/web"), &["app=web"]);
    let mut arguments: Vec<&str> = added.iter().map(String::as_str).collect();
    arguments.extend(["--format", "json"]);
    let output = scene.agent.cli(&arguments);
    assert_eq!(output.status.code(), Some(1), "not in force: {output:?}");
    let report: EndpointReport = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report.state, EndpointState::DenyAll);
    scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    scene.assert_blocked("shop/db", "shop/web");
    let (status, why) = scene.agent.http("/readyz");
    assert_eq!(status, 503);
    assert!(why.contains("--accept-partial"), "{why}");
    assert_eq!(scene.agent.http("/healthz").0, 200, "alive all the same");
    let output = scene.agent.cli(&["sync", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let arguments = ["status", "--wait", "enforced", "--timeout", "100ms"];
    assert_eq!(scene.agent.cli(&arguments).status.code(), Some(1));

    scene.agent.document("wrong.yaml", DB_CLOSED);
    assert!(scene.agent.sync().enforced);
    scene.assert_reaches("shop/db", "shop/web");
    scene.assert_blocked("shop/web", "shop/db");
    assert_eq!(scene.agent.http("/readyz").0, 200);
}

#[test]
fn the_operator_may_accept_what_is_good_of_it() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.document("wrong.yaml", DB_BROKEN);
    let good = DB_CLOSED.replace("db-from-web", "good");
    scene.agent.document("good.yaml", &good);
    scene.agent.start(&["--accept-partial"]);
    let status = scene.agent.wait_enforced();
    assert_eq!((status.accepted, status.rejected), (1, 1));
    assert!(!status.ready, "{status:?}");
    scene.add_both();
    scene.assert_blocked("shop/web", "shop/db");
    scene.assert_reaches("shop/db", "shop/web");
    assert_eq!(scene.agent.http("/readyz").0, 503);
}

#[test]
fn damaged_state_is_not_believed_and_nothing_becomes_wider() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_CLOSED);
    assert!(scene.agent.stop().success());
    for name in ["documents.json", "endpoints.json"] {
        let path = scene.agent.path("state").join(name);
        let mut bytes = fs::read(&path).expect("it is there");
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(path, bytes).expect("a file");
    }
    scene.agent.document("policies.yaml", DB_BROKEN);
    scene.agent.start(&[]);
    let status = scene.agent.wait_up();
    assert!(!status.enforced, "{status:?}");
    assert!(scene.agent.log().contains("documents.json is damaged"));
    assert!(scene.agent.log().contains("endpoints.json is damaged"));
    scene.add_both();
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    assert!(scene.agent.sync().enforced);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn what_does_not_fit_is_refused_whole_and_retried() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = Agent::new(cofferdam!(), &scene.world)
        .settings("limits: {endpoints: 8, slots: 64, table_pages: 8}\n");
    scene.agent.document("policies.yaml", DB_CLOSED);
    scene.agent.start_enforced();
    scene.add_both();
    let before = scene.agent.status().revision;
    let mut pods = String::new();
    for number in 1..=100 {
        pods += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nstatus: {{podIP: 10.9.0.{number}}}\n"
        );
    }
    scene
        .agent
        .document("policies.yaml", &format!("{DB_FROM_WEB}{pods}"));
    let report = scene.agent.sync();
    assert_eq!((report.enforced, report.revision), (false, before));
    assert!(
        report
            .diagnostics
            .iter()
            .any(|one| one.message.contains("slots")),
        "{report:?}"
    );
    assert_eq!(scene.agent.http("/readyz").0, 503);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    let report = scene.agent.sync();
    assert!(report.enforced && report.revision > before, "{report:?}");
    scene.assert_reaches("shop/web", "shop/db");
}
