//! Workloads like others come into the table that is in force.

use std::time::Duration;

use cofferdam_protocol::output::EndpointState;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::Conversation;
use cofferdam_tests::world::Wiring;

use super::scene::{DB_CLOSED, DB_FROM_WEB, PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(5);

const SHOP: [&str; 5] = [
    "shop/web",
    "shop/db",
    "shop/web-2",
    "shop/db-2",
    "shop/stranger",
];

/// Addresses of a workload of another node, which nobody asks for.
const FIRST: &str = "[{ip: 10.200.0.1}, {ip: 'fd00:200::1'}]";

impl Scene {
    fn revision(&self) -> u64 {
        self.agent.status().revision
    }

    /// Adds an endpoint, and returns whether that took a new table.
    #[track_caller]
    fn adds(&self, workload: &str, labels: &[&str]) -> bool {
        let before = self.revision();
        let added = self.agent.add(self.workload(workload), labels);
        assert_eq!(added.state, EndpointState::Enforced);
        self.assert_untouched();
        added.revision != before
    }

    /// Puts a file of documents in force, and returns whether that took a new table.
    #[track_caller]
    fn takes_table(&self, file: &str, text: &str) -> bool {
        let before = self.revision();
        self.agent.document(file, text);
        let sync = self.agent.sync();
        assert!(sync.enforced, "{sync:?}");
        self.assert_untouched();
        sync.revision != before
    }

    /// Asserts that the agent found the kernel's state as it was put there.
    #[track_caller]
    fn assert_untouched(&self) {
        let status = self.agent.status();
        assert!(status.enforced, "{status:?}");
        assert_eq!(status.tamper_events, 0, "{}", self.agent.log());
    }

    /// A document of a workload of another node with another's addresses.
    fn pod(&self, name: &str, app: &str, like: &str) -> String {
        let address = |family| self.workload(like).end.ip(family).expect("both");
        let [v4, v6] = Family::BOTH.map(address);
        pod(name, app, &format!("[{{ip: {v4}}}, {{ip: '{v6}'}}]"))
    }
}

fn pod(name: &str, app: &str, addresses: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: n2}}\nstatus: {{podIPs: {addresses}}}\n---\n"
    )
}

#[test]
fn an_endpoint_like_another_is_judged_like_it_and_needs_no_new_table() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let scene = Scene::of(wiring, &SHOP).in_force(DB_FROM_WEB);
        assert!(!scene.adds("shop/db-2", &["app=db"]));
        scene.assert_reaches("shop/web", "shop/db-2");
        scene.assert_blocked("shop/stranger", "shop/db-2");
        scene.agent.sync();
        let records = scene.agent.records();
        let denied = records
            .iter()
            .find(|one| one.destination.port == Some(PORT))
            .expect("it was reported");
        assert_eq!(denied.destination.workload.as_deref(), Some("db-2"));
        assert_eq!(denied.destination.labels["app"], "db");
        assert_eq!(denied.revision, scene.revision());

        assert!(!scene.adds("shop/web-2", &["app=web"]));
        for (from, to) in [
            ("shop/web-2", "shop/db"),
            ("shop/web-2", "shop/db-2"),
            ("shop/db-2", "shop/web-2"),
        ] {
            scene.assert_reaches(from, to);
        }
        scene.assert_blocked("shop/db", "shop/db-2");
        let slots = |scene: &Scene| {
            let status = scene.agent.status();
            let mut slots = status.capacity.into_iter();
            slots
                .find(|one| one.table == "slots")
                .expect("counted")
                .used
        };
        let used = slots(&scene);

        // A policy right after is a table that knows them all.
        assert!(scene.takes_table("policies.yaml", DB_CLOSED));
        assert_eq!(slots(&scene), used);
        scene.assert_blocked("shop/web-2", "shop/db-2");
        scene.assert_reaches("shop/db-2", "shop/web-2");
    }
}

#[test]
fn an_endpoint_unlike_all_others_needs_a_new_table() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::of(Wiring::Ptp, &SHOP).in_force(DB_FROM_WEB);
    assert!(scene.adds("shop/db-2", &["app=cache"]));
    scene.assert_reaches("shop/stranger", "shop/db-2");
    // Another label of one that is there is a new table, too.
    assert!(scene.adds("shop/db-2", &["app=db"]));
    scene.assert_blocked("shop/stranger", "shop/db-2");
    // A label that nobody asks for tells nobody apart.
    assert!(!scene.adds("shop/web-2", &["app=db", "noise=1"]));
    scene.assert_blocked("shop/stranger", "shop/web-2");
}

/// As it is where pods are scheduled before they are started.
#[test]
fn a_workload_whose_document_knows_no_address_yet_needs_no_new_table() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::of(Wiring::Ptp, &SHOP).in_force(DB_FROM_WEB);
    assert!(!scene.takes_table("db-2.yaml", &pod("db-2", "db", "[]")));
    assert!(!scene.adds("shop/db-2", &["app=what-the-document-does-not-say"]));
    assert_eq!(scene.agent.endpoints()[1].labels["app"], "db");
    scene.assert_blocked("shop/stranger", "shop/db-2");
    scene.assert_reaches("shop/web", "shop/db-2");
    // The document learns the address, and changes nothing.
    assert!(!scene.takes_table("db-2.yaml", &scene.pod("db-2", "db", "shop/db-2")));
    scene.assert_blocked("shop/stranger", "shop/db-2");
}

#[test]
fn a_slot_that_was_anothers_is_its_own() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::of(Wiring::Bridge, &SHOP).in_force(DB_FROM_WEB);
    assert!(!scene.adds("shop/db-2", &["app=db"]));
    for (gone, come, label) in [
        ("shop/db-2", "shop/web-2", "app=web"),
        ("shop/web-2", "shop/db-2", "app=db"),
    ] {
        let before = scene.revision();
        scene.agent.remove_with(gone, &["--release"]);
        assert_eq!(scene.revision(), before + 1, "an address has left its slot");
        assert!(!scene.adds(come, &[label]));
    }
    scene.assert_blocked("shop/stranger", "shop/db-2");
    scene.assert_reaches("shop/web", "shop/db-2");
    scene.assert_reaches("shop/stranger", "shop/web-2");
}

#[test]
fn a_workload_of_another_node_comes_by_its_document_alone() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::of(Wiring::Ptp, &SHOP).in_force(DB_FROM_WEB);
    let first = pod("first", "web", FIRST);
    assert!(
        scene.takes_table("first.yaml", &first),
        "nobody was like it"
    );
    scene.assert_blocked("shop/stranger", "shop/db");
    let second = scene.pod("second", "web", "shop/stranger");
    assert!(!scene.takes_table("second.yaml", &second));
    scene.assert_reaches("shop/stranger", "shop/db");
    // Nobody elsewhere is like it then.
    let relabelled = second.replace("app: web", "app: other");
    assert!(scene.takes_table("second.yaml", &relabelled));
    scene.assert_blocked("shop/stranger", "shop/db");
    // It turns back, goes, and its namesake has another's addresses.
    assert!(!scene.takes_table("second.yaml", &second));
    scene.assert_reaches("shop/stranger", "shop/db");
    let before = scene.revision();
    scene.agent.remove_document("second.yaml");
    assert_eq!(scene.agent.sync().revision, before);
    scene.assert_blocked("shop/stranger", "shop/db");
    scene.assert_untouched();
    // And one that turns out to be of this node: its address has led to a slot before.
    assert!(!scene.takes_table("second.yaml", &scene.pod("db-2", "web", "shop/db-2")));
    assert!(scene.adds("shop/db-2", &["app=web"]));
    scene.assert_reaches("shop/db-2", "shop/db");
}

#[test]
fn a_connection_to_an_address_that_becomes_a_workloads_is_decided_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let closed = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-secrets}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: secret}}}}]
";
    let scene = Scene::of(Wiring::Ptp, &SHOP).in_force(closed);
    let first = pod("first", "secret", FIRST);
    assert!(scene.takes_table("first.yaml", &first));
    let mut open: Vec<Conversation> = Family::BOTH
        .into_iter()
        .map(|family| {
            let to = scene.workload("shop/stranger").end.ip(family);
            let web = scene.workload("shop/web");
            Conversation::tcp(web, to.expect("both"), PORT, PATIENCE).expect("allowed")
        })
        .collect();
    for conversation in &mut open {
        conversation.exchange(b"before", PATIENCE).expect("allowed");
    }
    let second = scene.pod("second", "secret", "shop/stranger");
    assert!(!scene.takes_table("second.yaml", &second));
    for conversation in &mut open {
        let answer = conversation.exchange(b"after", Duration::from_millis(300));
        assert!(answer.is_err(), "it is a secret now");
    }
}

#[test]
fn what_came_without_a_table_is_taken_up_by_the_next_agent() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::of(Wiring::Ptp, &SHOP).in_force(DB_FROM_WEB);
    assert!(!scene.adds("shop/db-2", &["app=db"]));
    assert!(!scene.adds("shop/web-2", &["app=web"]));
    let to = scene
        .workload("shop/db-2")
        .end
        .ip(Family::V4)
        .expect("both");
    let web = scene.workload("shop/web-2");
    let mut conversation = Conversation::tcp(web, to, PORT, PATIENCE).expect("allowed");
    let before = scene.revision();
    scene.agent.kill();
    conversation
        .exchange(b"meanwhile", PATIENCE)
        .expect("in force");
    scene.assert_blocked("shop/stranger", "shop/db-2");
    let status = scene.agent.start_enforced();
    assert!(status.revision > before);
    assert_eq!(scene.agent.endpoints().len(), 4);
    conversation.exchange(b"after", PATIENCE).expect("in force");
    scene.assert_blocked("shop/stranger", "shop/db-2");
    scene.assert_reaches("shop/web-2", "shop/db");
    // The table of this agent takes others like them as well.
    assert!(!scene.adds("shop/stranger", &["app=web"]));
    scene.assert_reaches("shop/stranger", "shop/db-2");
}
