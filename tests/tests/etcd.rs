//! Agents that share an etcd: real servers, nodes, and packets between them.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_controller::output::{ClusterStatus, NodeReport};
use cofferdam_protocol::output::{EtcdStatus, StatusReport};
use cofferdam_tests::cofferdam;
use cofferdam_tests::etcd::{Node, Nodes, PREFIX, deafen};
use cofferdam_tests::packet::Family;
use cofferdam_tests::shop::DB_FROM_WEB;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Place, Probe, probe};
use serde_json::Value;

const PORT: u16 = 5432;
/// Time that a change may take to be in force, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time that what should be blocked is given to get through.
const UNTIL_BLOCKED: Duration = Duration::from_millis(300);
/// Time that what should get through is given.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(5);

/// No connection to the database.
const DB_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
";

/// Not a policy, by one letter in its line 5.
const DB_BROKEN: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-web, namespace: shop}
spec:
  podSelektor: {matchLabels: {app: db}}
";

const SETTINGS: &str = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\n\
                        etcd: {publish: true, lease: 2s}\n";

/// Nodes of one workload each, all agents enforcing.
fn nodes(workloads: &[&[&str]], settings: &str) -> Nodes {
    Nodes::new(cofferdam!(), workloads, Probe::Tcp(PORT), false, settings)
}

fn start(node: &mut Node) -> StatusReport {
    node.agent.start_enforced()
}

/// Adds a node's workload with `app` as its name says.
fn add(node: &Node, name: &str) {
    let app = name.rsplit('/').next().expect("a name");
    node.agent
        .add(node.workload(name), &[&format!("app={app}")]);
}

fn etcd(node: &Node) -> EtcdStatus {
    *node.agent.status().etcd.expect("an etcd is configured")
}

/// Returns `true` if one can connect to another, in either family; both must agree.
fn reaches(from: (&Node, &str), to: (&Node, &str), is_expected: bool) -> bool {
    let patience = if is_expected {
        UNTIL_GIVEN_UP
    } else {
        UNTIL_BLOCKED
    };
    let outcomes = Family::BOTH.map(|family| {
        let to = Place::from(to.0.workload(to.1)).ip(family);
        let outcome = probe(from.0.workload(from.1), to, Probe::Tcp(PORT), patience);
        outcome.expect("a probe").is_reached()
    });
    assert_eq!(outcomes[0], outcomes[1], "families differ");
    outcomes[0]
}

/// The same over one family, because something may change between two.
fn is_open(from: (&Node, &str), to: (&Node, &str)) -> bool {
    let to = Place::from(to.0.workload(to.1)).ip(Family::V4);
    let from = from.0.workload(from.1);
    let outcome = probe(from, to, Probe::Tcp(PORT), UNTIL_BLOCKED);
    outcome.expect("a probe").is_reached()
}

#[track_caller]
fn assert_reaches(from: (&Node, &str), to: (&Node, &str)) {
    assert!(reaches(from, to, true), "{} reaches {}", from.1, to.1);
}

#[track_caller]
fn assert_blocked(from: (&Node, &str), to: (&Node, &str)) {
    assert!(
        !reaches(from, to, false),
        "{} does not reach {}",
        from.1,
        to.1
    );
}

#[track_caller]
fn eventually(node: &Node, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        let log = || node.agent.log();
        assert!(Instant::now() < deadline, "not {what}:\n{}", log());
    }
}

/// The endpoints of every node are known to the others by their labels, and a node that dies
/// takes its own with it.
#[test]
fn policies_by_label_hold_across_nodes() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut all = nodes(&[&["shop/web"], &["shop/db"], &["shop/stranger"]], SETTINGS);
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    for node in &mut all.nodes {
        start(node);
    }
    let [n1, n2, n3] = &mut all.nodes[..] else {
        panic!("three nodes")
    };
    add(n1, "shop/web");
    add(n2, "shop/db");
    add(n3, "shop/stranger");
    for node in [&*n1, n3] {
        assert!(node.agent.sync().enforced);
    }
    // What others had published before counts when this returns.
    let report = n2.agent.sync();
    assert_eq!((report.enforced, report.rejected), (true, 0), "{report:?}");
    assert_reaches((n1, "shop/web"), (n2, "shop/db"));
    assert_blocked((n3, "shop/stranger"), (n2, "shop/db"));
    let status = etcd(n2);
    assert_eq!((status.documents, status.endpoints), (1, 3));
    assert_eq!(status.published, Some(1));
    assert_eq!(
        all.etcd.keys("endpoints/"),
        [
            "endpoints/n1/shop/web",
            "endpoints/n2/shop/db",
            "endpoints/n3/shop/stranger"
        ]
    );
    let text = all.etcd.ctl(&[
        "get",
        &format!("{PREFIX}/endpoints/n1/shop/web"),
        "--print-value-only",
    ]);
    for part in [
        "\"app\": \"web\"",
        "nodeName: \"n1\"",
        "10.64.1.2",
        "fd64::102",
    ] {
        assert!(text.contains(part), "{text}");
    }

    // A workload is relabelled, and another one is removed.
    n3.agent.add(n3.workload("shop/stranger"), &["app=web"]);
    n3.agent.sync();
    n2.agent.sync();
    assert_reaches((n3, "shop/stranger"), (n2, "shop/db"));
    // A sync returns when the key has gone, also if that takes some time.
    n3.cut(true);
    n3.agent.remove("shop/stranger");
    n3.cut(false);
    n3.agent.sync();
    assert_eq!(all.etcd.keys("endpoints/n3/"), [""; 0]);

    // A key that somebody deletes comes again; one of another is taken away.
    all.etcd.delete("endpoints/n1/shop/web");
    all.etcd.put("endpoints/n1/shop/gone", "left behind");
    eventually(n1, "mended", || {
        all.etcd.keys("endpoints/n1/") == ["endpoints/n1/shop/web"]
    });
    n2.agent.sync();
    assert_reaches((n1, "shop/web"), (n2, "shop/db"));

    // What a document says of a workload of another node counts before what its agent does.
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: x}}\n";
    all.etcd.put("documents/web.yaml", pod);
    let report = n2.agent.sync();
    assert_eq!(report.rejected, 0, "{report:?}");
    assert_blocked((n1, "shop/web"), (n2, "shop/db"));
    all.etcd.delete("documents/web.yaml");
    // What its own agent makes of it is there when that has seen the deletion.
    n1.agent.sync();
    n2.agent.sync();
    assert_reaches((n1, "shop/web"), (n2, "shop/db"));

    // Nobody keeps the lease of an agent that was killed: to others its workload is an outside
    // address then.
    n1.agent.kill();
    eventually(n2, "forgotten", || etcd(n2).endpoints == 1);
    n2.agent.sync();
    assert_blocked((n1, "shop/web"), (n2, "shop/db"));
    assert_eq!(all.etcd.keys("endpoints/"), ["endpoints/n2/shop/db"]);
    n1.agent.start_enforced();
    n1.agent.sync();
    n2.agent.sync();
    assert_reaches((n1, "shop/web"), (n2, "shop/db"));
}

/// The answer of `status --cluster`, with its exit status.
fn cluster(all: &Nodes) -> (bool, ClusterStatus) {
    let url = all.etcd.url();
    let arguments = ["status", "--cluster", "--etcd", &url, "--format", "json"];
    let mut command = all.etcd.command(cofferdam!(), &arguments);
    let output = command.output().expect("it runs");
    let report = serde_json::from_slice(&output.stdout);
    let report: ClusterStatus = report.unwrap_or_else(|_| panic!("{output:?}"));
    let is_good = output.status.code() == Some(0);
    assert!(is_good || output.status.code() == Some(1), "{output:?}");
    assert_eq!(report.ok, is_good);
    (is_good, report)
}

/// Waits until the nodes tell this of themselves.
#[track_caller]
fn wait_for_nodes(all: &Nodes, what: &str, is_so: impl Fn(&[NodeReport]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, report) = cluster(all);
        if is_so(&report.nodes) {
            return;
        }
        let logs = || all.nodes.iter().map(|node| node.agent.log());
        let logs = || logs().collect::<Vec<_>>().join("\n---\n");
        assert!(
            Instant::now() < deadline,
            "not {what}: {report:#?}\n{}",
            logs()
        );
    }
}

/// Nodes tell of themselves beside their endpoints: one that lags is named, and one that has gone
/// is missed.
#[test]
fn status_names_nodes_that_lag_and_nodes_that_have_gone() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut all = nodes(&[&["shop/web"], &["shop/db"]], SETTINGS);
    let url = all.etcd.url();
    let ask = |all: &Nodes| {
        let arguments = ["status", "--cluster", "--etcd", &url];
        let output = all
            .etcd
            .command(cofferdam!(), &arguments)
            .output()
            .expect("it runs");
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    };
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    let (code, text) = ask(&all);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no node has told of itself"), "{text}");
    for node in &mut all.nodes {
        start(node);
    }
    add(&all.nodes[0], "shop/web");
    add(&all.nodes[1], "shop/db");
    let are_equal = |nodes: &[NodeReport]| {
        let [one, other] = nodes else { return false };
        one.state_hash.is_some() && one.state_hash == other.state_hash
    };
    let is_good = |node: &NodeReport| node.problems.is_empty() && node.enforced && node.ready;
    let are_good = |nodes: &[NodeReport]| nodes.iter().all(is_good) && are_equal(nodes);
    wait_for_nodes(&all, "good", are_good);
    assert!(cluster(&all).0);
    let own = |node: &str| ["joined", "status"].map(|key| format!("nodes/{node}/{key}"));
    let expected = ["n1", "n2"].map(own).concat();
    assert_eq!(all.etcd.keys("nodes/"), expected);

    // They are no documents, neither for agents nor for commands.
    for node in &all.nodes {
        let report = node.agent.sync();
        assert_eq!((report.accepted, report.rejected), (2, 0), "{report:?}");
        let status = etcd(node);
        assert_eq!((status.documents, status.endpoints), (1, 2));
    }
    let check = ["check", "--etcd", &url, "--deny", "warnings"];
    let checked = all
        .etcd
        .command(cofferdam!(), &check)
        .output()
        .expect("it runs");
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");

    // An invalid document among the files of one node.
    let wrong = DB_BROKEN.replace("db-from-web", "own");
    all.nodes[1].agent.document("own.yaml", &wrong);
    wait_for_nodes(&all, "behind", |nodes| {
        is_good(&nodes[0]) && nodes[1].policies_behind == ["files:NetworkPolicy/shop/own"]
    });
    let (code, text) = ask(&all);
    assert_eq!(code, Some(1));
    for part in [
        "n2: 1 policies are not in force as etcd or the node's files have them",
        "1 of 2 nodes have in force what etcd says",
    ] {
        assert!(text.contains(part), "{text}");
    }
    all.nodes[1].agent.remove_document("own.yaml");
    wait_for_nodes(&all, "mended", are_good);

    // One that all share, and a text of which nobody knows what it is.
    all.etcd.put("documents/shop.yaml", DB_BROKEN);
    all.etcd.put("documents/torn.yaml", "kind: [");
    let expected = [
        "etcd:NetworkPolicy/shop/db-from-web",
        "etcd:documents/torn.yaml:2",
    ];
    wait_for_nodes(&all, "behind", |nodes| {
        let mut nodes = nodes.iter();
        nodes.all(|node| node.enforced && node.policies_behind == expected)
    });
    all.etcd.put("documents/shop.yaml", DB_CLOSED);
    all.etcd.delete("documents/torn.yaml");
    wait_for_nodes(&all, "mended", are_good);

    // Nobody keeps the lease of an agent that was killed; one has never been there.
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n9}\n";
    all.etcd.put("documents/n9.yaml", node);
    all.nodes[1].agent.kill();
    wait_for_nodes(&all, "gone", |nodes| {
        nodes[1].problems[..] == ["gone: no agent keeps the lease of this node any more"]
    });
    assert_eq!(all.etcd.keys("nodes/n2/"), ["nodes/n2/joined"]);
    let (_, report) = cluster(&all);
    let [n1, n2, n9] = &report.nodes[..] else {
        panic!("three nodes: {report:?}")
    };
    assert!(is_good(n1), "{n1:?}");
    assert_eq!((n2.enforced, &n2.last_seen), (false, &None));
    assert_eq!(n9.problems, ["no agent has told the state of this node"]);
    all.etcd.delete("documents/n9.yaml");
    all.nodes[1].agent.start_enforced();
    wait_for_nodes(&all, "back", are_good);
}

/// Losing the server changes nothing of what is in force, over a restart of the agent too; what
/// has changed in between counts when it is back, also if it has compacted what there was.
#[test]
fn what_was_in_force_stays_while_the_server_is_away() {
    skip_unless!(Feature::NetworkNamespaces);
    let settings = SETTINGS.replace("2s", "30s");
    let mut all = nodes(&[&["shop/web", "shop/stranger"], &["shop/db"]], &settings);
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    for node in &mut all.nodes {
        start(node);
    }
    let [n1, n2] = &mut all.nodes[..] else {
        panic!("two nodes")
    };
    add(n1, "shop/web");
    add(n1, "shop/stranger");
    add(n2, "shop/db");
    n1.agent.sync();
    n2.agent.sync();
    let (web, stranger, db) = ("shop/web", "shop/stranger", "shop/db");
    assert_reaches((n1, web), (n2, db));

    all.etcd.kill();
    eventually(n2, "away", || etcd(n2).away_since.is_some());
    let (status, body) = n2.agent.http("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("etcd has been away since"), "{body}");
    assert!(n2.agent.metric("cofferdam_etcd_away_since_seconds") > 1_700_000_000);
    let report = n2.agent.sync();
    assert!(report.enforced, "{report:?}");
    let of_etcd = |message: &str| message.contains("what it said before stays in force");
    assert!(report.diagnostics.iter().any(|one| of_etcd(&one.message)));
    n2.agent.kill();
    n2.agent.start_enforced();
    let status = etcd(n2);
    assert!(
        !status.complete && status.away_since.is_some(),
        "{status:?}"
    );
    assert_reaches((n1, web), (n2, db));
    assert_blocked((n1, stranger), (n2, db));

    // One node alone is cut off, and its revision is not kept.
    n2.cut(true);
    all.etcd.resume();
    eventually(n1, "back", || etcd(n1).away_since.is_none());
    let open = DB_FROM_WEB.replace("app: web", "");
    all.etcd.put("documents/other.yaml", "# nothing\n");
    all.etcd.put("documents/shop.yaml", &open);
    all.etcd.compact();
    // The sender's node lets it pass already.
    n1.agent.sync();
    assert!(n2.agent.sync().enforced);
    assert_reaches((n1, web), (n2, db));
    assert_blocked((n1, stranger), (n2, db));
    n2.cut(false);
    eventually(n2, "open", || is_open((n1, stranger), (n2, db)));
    let status = etcd(n2);
    assert!(status.complete && status.away_since.is_none(), "{status:?}");
    eventually(n2, "ready", || n2.agent.http("/readyz").0 == 200);

    // The same of a connection that was cut in the middle, without a restart.
    all.etcd.put("documents/shop.yaml", DB_CLOSED);
    n2.agent.sync();
    n2.cut(true);
    all.etcd.kill();
    all.etcd.resume();
    let another = "apiVersion: v1\nkind: Namespace\nmetadata: {name: another}\n";
    all.etcd.put("documents/other.yaml", another);
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    all.etcd.compact();
    // A policy, that namespace, and the database of the other node.
    eventually(n1, "back", || n1.agent.sync().accepted == 3);
    assert_blocked((n1, web), (n2, db));
    n2.cut(false);
    eventually(n2, "open", || is_open((n1, web), (n2, db)));
    assert!(n2.agent.log().contains("etcd has compacted"));
}

/// A key stands for a file: last good versions, places of findings, deletions, and no rights of
/// nodes beyond their own endpoints.
#[test]
fn documents_are_read_as_files_are() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut all = nodes(&[&["shop/web", "shop/db"]], SETTINGS);
    let n1 = &mut all.nodes[0];
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    start(n1);
    add(n1, "shop/web");
    add(n1, "shop/db");
    let (web, db) = ("shop/web", "shop/db");
    n1.agent.sync();
    assert_reaches((n1, web), (n1, db));
    // A sync takes what was put before it, whatever the watch has brought.
    for _ in 0..2 {
        // Neither the watch nor an answer gets through for a while.
        deafen(&all.hub, 1, true);
        all.etcd.put("documents/shop.yaml", DB_CLOSED);
        let report = thread::scope(|scope| {
            let (told, report) = channel();
            let agent = &n1.agent;
            scope.spawn(move || told.send(agent.sync()));
            let early = report.recv_timeout(UNTIL_BLOCKED);
            deafen(&all.hub, 1, false);
            assert!(early.is_err(), "a sync asks before it answers: {early:?}");
            report.recv().expect("a report")
        });
        assert_eq!((report.accepted, report.rejected), (1, 0));
        assert_blocked((n1, web), (n1, db));
        all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
        n1.agent.sync();
        assert_reaches((n1, web), (n1, db));
    }
    let denied = n1.agent.cli(&["observe", "--format", "json"]);
    let denied = String::from_utf8_lossy(&denied.stdout).into_owned();
    let line = denied.lines().next().expect("a record");
    let record: Value = serde_json::from_str(line).expect("JSON");
    let rule = &record["isolated_by"][0];
    assert_eq!(rule["file"], "etcd:documents/shop.yaml");
    assert_eq!(rule["line"], 4);

    // Three texts in one key; one of them becomes invalid.
    let other = DB_CLOSED
        .replace("db-from-web", "other")
        .replace("app: db", "app: other");
    let text = format!("{other}---\n{DB_BROKEN}");
    all.etcd.put("documents/shop.yaml", &text);
    let report = n1.agent.sync();
    assert_eq!(
        (report.enforced, report.accepted, report.rejected),
        (true, 1, 1)
    );
    let finding = &report.diagnostics[0];
    assert_eq!(
        (&*finding.file, finding.line),
        ("etcd:documents/shop.yaml", 11)
    );
    assert_reaches((n1, web), (n1, db));

    // A node's key that is none of its endpoints' counts for nothing.
    let everything = DB_CLOSED.replace("db-from-web", "forged");
    all.etcd.put("endpoints/n9/shop/forged", &everything);
    let report = n1.agent.sync();
    assert_eq!((report.accepted, report.rejected), (1, 2));
    let forged = report
        .diagnostics
        .iter()
        .filter(|one| one.file == "etcd:endpoints/n9/shop/forged");
    assert_eq!(forged.count(), 1);
    assert_reaches((n1, web), (n1, db));
    all.etcd.delete("endpoints/n9/shop/forged");
    // What another node says of a workload that runs here counts for nothing either.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop}\n\
               spec: {nodeName: n9}\nstatus: {podIP: 10.64.9.9}\n";
    all.etcd.put("endpoints/n9/shop/db", pod);
    all.etcd.put("documents/shop.yaml", DB_CLOSED);
    let report = n1.agent.sync();
    assert_eq!((report.accepted, report.rejected), (1, 0), "{report:?}");
    assert_blocked((n1, web), (n1, db));

    // A file and a key hold documents side by side; a deleted key is gone.
    n1.agent.document("file.yaml", &other);
    let report = n1.agent.sync();
    assert_eq!((report.accepted, report.rejected), (2, 0));
    all.etcd.delete("documents/shop.yaml");
    let report = n1.agent.sync();
    assert_eq!((report.accepted, report.rejected), (1, 0));
    assert_reaches((n1, web), (n1, db));
}

/// Certificates, users and rights: wrong ones are told of and mended without a restart.
#[test]
fn credentials_are_those_of_files() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut all = Nodes::new(cofferdam!(), &[&["shop/web"]], Probe::Tcp(PORT), true, "");
    let n1 = &mut all.nodes[0];
    let password = n1.agent.path("password");
    fs::write(&password, "wrong\n").expect("a file can be written");
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client-key.pem"]
        .map(|name| all.etcd.pem(name).display().to_string());
    let authority = n1.agent.path("ca.pem");
    let settings = |beside: &str| {
        format!(
            "limits: {{endpoints: 32, slots: 8192, table_pages: 32}}\n\
             etcd: {{publish: true, lease: 2s, ca: {}, username: n1, password_file: {}{beside}}}\n",
            authority.display(),
            password.display()
        )
    };
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    // Least rights, but for the one to publish.
    for arguments in [
        &["user", "add", "root:root"][..],
        &["role", "add", "node"],
        &[
            "role",
            "grant-permission",
            "node",
            "--prefix=true",
            "read",
            "/cofferdam/",
        ],
        &["user", "add", "n1:right"],
        &["user", "grant-role", "n1", "node"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        all.etcd.ctl(arguments);
    }
    all.etcd.be(Some("root:root"));
    let problem = |node: &Node| etcd(node).problem.unwrap_or_default().to_lowercase();

    // No certificate of its own, and one of no authority that it knows.
    fs::copy(&ca, &authority).expect("a copy");
    n1.agent.set(&settings(""));
    n1.agent.start(&[]);
    n1.agent.wait_up();
    eventually(n1, "refused", || {
        problem(n1).contains("without a certificate")
    });
    assert!(!n1.agent.status().enforced);
    n1.agent.kill();
    fs::copy(&certificate, &authority).expect("a copy");
    n1.agent.set(&settings(&format!(
        ", certificate: {certificate}, key: {key}"
    )));
    n1.agent.start(&[]);
    n1.agent.wait_up();
    eventually(n1, "not believed", || problem(n1).contains("certificate"));
    fs::copy(&ca, &authority).expect("a copy");

    // A wrong password.
    eventually(n1, "unknown", || {
        problem(n1).contains("authentication failed")
    });
    assert!(!n1.agent.log().contains("wrong\n"));
    fs::write(&password, "right\n").expect("a file can be written");
    let status = n1.agent.wait_enforced();
    assert!(status.etcd.is_some_and(|etcd| etcd.complete));

    // It may read and not publish; then it may.
    add(n1, "shop/web");
    eventually(n1, "not allowed to publish", || {
        let problem = etcd(n1).publish_problem.unwrap_or_default();
        problem.contains("permission denied")
    });
    assert!(n1.agent.metric("cofferdam_etcd_unpublished_since_seconds") > 1_700_000_000);
    assert_eq!(all.etcd.keys("endpoints/"), [""; 0]);
    let own = "/cofferdam/endpoints/n1/";
    let grant = [
        "role",
        "grant-permission",
        "node",
        "--prefix=true",
        "readwrite",
        own,
    ];
    all.etcd.ctl(&grant);
    eventually(n1, "published", || etcd(n1).published == Some(1));
    assert_eq!(all.etcd.keys("endpoints/"), ["endpoints/n1/shop/web"]);
    assert_eq!(
        n1.agent.metric("cofferdam_etcd_unpublished_since_seconds"),
        0
    );
    assert_eq!(
        n1.agent.metric("cofferdam_etcd_keys{kind=\"published\"}"),
        1
    );

    // Its status is another right.
    assert_eq!(all.etcd.keys("nodes/"), [""; 0]);
    let log = n1.agent.log();
    let refusal = "cannot put this node's status into etcd: etcdserver: permission denied";
    assert!(log.contains(refusal), "{log}");
    all.etcd
        .ctl(&[&grant[..5], &["/cofferdam/nodes/n1/"]].concat());
    eventually(n1, "told of", || {
        all.etcd.keys("nodes/") == ["nodes/n1/joined", "nodes/n1/status"]
    });

    // The command line is who etcdctl is.
    let url = all.etcd.url();
    let list = ["list", "--etcd", &url, "--format", "json"];
    let listed = all
        .etcd
        .command(cofferdam!(), &list)
        .output()
        .expect("it runs");
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    all.etcd.be(Some("n1:wrong"));
    let listed = all
        .etcd
        .command(cofferdam!(), &list)
        .output()
        .expect("it runs");
    assert_eq!(listed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&listed.stderr).contains("authentication failed"));
}

/// Commands that read files read an etcd, once, and say so where there is none.
#[test]
fn commands_read_an_etcd_where_they_take_paths() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut all = nodes(&[], SETTINGS);
    let url = all.etcd.url();
    let run = |all: &Nodes, arguments: &[&str]| {
        let mut command = all.etcd.command(cofferdam!(), arguments);
        let output = command.output().expect("it runs");
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text)
    };
    let check = ["check", "--etcd", &url, "--format", "json"];
    let (code, [_, error]) = run(&all, &check);
    assert_eq!(code, Some(2), "an empty prefix: {error}");
    all.etcd.put("documents/shop.yaml", DB_FROM_WEB);
    for (number, name) in [(2, "web"), (3, "db")] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: n1}}\nstatus: {{podIP: 10.64.1.{number}}}\n"
        );
        all.etcd.put(&format!("endpoints/n1/shop/{name}"), &pod);
    }
    let (code, [text, error]) = run(&all, &check);
    assert_eq!(code, Some(0), "{text}{error}");
    let matrix = [
        "matrix", "--etcd", &url, "--probe", "tcp/5432", "--format", "json",
    ];
    let (code, [text, error]) = run(&all, &matrix);
    assert_eq!(code, Some(0), "{error}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let cells = report["cells"].as_array().expect("cells");
    let verdict = |source: &str, destination: &str| {
        let is_it = |cell: &&Value| cell["source"] == source && cell["destination"] == destination;
        cells.iter().find(is_it).expect("a cell")["verdict"].clone()
    };
    assert_eq!(verdict("shop/web", "shop/db"), "allow");
    assert_eq!(report["rules"][0]["file"], "etcd:documents/shop.yaml");
    let ends = ["--from", "shop/web", "--to", "shop/db", "--port", "tcp/1"];
    let explain = [&["explain", "--etcd", &url][..], &ends].concat();
    let (code, [text, _]) = run(&all, &explain);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("etcd:documents/shop.yaml"), "{text}");
    for command in ["list", "exposure"] {
        let (code, [text, error]) = run(&all, &[command, "--etcd", &url]);
        assert_eq!(code, Some(0), "{command}: {text}{error}");
    }
    let (code, [text, _]) = run(&all, &["graph", "--etcd", &url, "--format", "mermaid"]);
    assert!(code == Some(0) && text.contains("web"), "{text}");

    // Beside files: a statement about what is there, and what would change.
    let scratch = cofferdam_tests::scratch::Scratch::new();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (test, closed) = (path("test.yaml"), path("closed.yaml"));
    let expect = "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\n\
                  expect:\n- {from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}\n";
    fs::write(Path::new(&test), expect).expect("a file can be written");
    fs::write(Path::new(&closed), DB_CLOSED).expect("a file can be written");
    let (code, [text, error]) = run(&all, &["test", &test, "--etcd", &url]);
    assert_eq!(code, Some(0), "{text}{error}");
    let diff = ["diff", "--etcd", &url, "--to", &closed, "--fail-on", "any"];
    let (code, [text, error]) = run(&all, &diff);
    assert_eq!(code, Some(1), "{text}{error}");

    all.etcd.put(
        "documents/broken.yaml",
        DB_BROKEN.replace("db-from", "x").as_str(),
    );
    let (code, [text, _]) = run(&all, &check);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("\"file\":\"etcd:documents/broken.yaml\",\"line\":5"),
        "{text}"
    );
    all.etcd.kill();
    for arguments in [&check[..], &matrix, &explain, &diff] {
        let (code, [_, error]) = run(&all, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
        assert!(error.contains("cannot reach etcd"), "{error}");
    }
}
