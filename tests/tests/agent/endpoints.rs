//! Endpoints on real links, with real traffic.

use std::process::Command;
use std::time::Duration;

use cofferdam_protocol::output::{EndpointState, EndpointStatus, StatusReport};
use cofferdam_tests::agent::Agent;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::{Conversation, Place};
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};

use super::scene::{DB_FROM_WEB, PORT, Scene};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn endpoints_are_judged_by_their_labels_and_relabelled_in_place() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let scene = Scene::enforced(wiring, DB_FROM_WEB);
        scene.assert_reaches("shop/web", "shop/db");
        let web = scene.workload("shop/web");
        let before = scene.agent.endpoints();
        let again = scene.agent.add(web, &["app=other"]);
        assert_eq!(again.state, EndpointState::Enforced);
        assert_eq!(again.labels["app"], "other");
        assert_eq!(again.host_ifindex, web.host_ifindex);
        assert!(again.revision > before[1].revision);
        assert_eq!(scene.agent.endpoints().len(), 2);
        scene.assert_blocked("shop/web", "shop/db");
        scene.agent.add(web, &["app=web"]);
        scene.assert_reaches("shop/web", "shop/db");
        // The same call once more changes nothing.
        let revision = scene.agent.status().revision;
        assert_eq!(scene.agent.add(web, &["app=web"]).revision, revision);
    }
}

#[test]
fn an_endpoint_is_reported_as_it_is() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let web = scene.workload("shop/web");
    let list = scene.agent.endpoints();
    let ids: Vec<&str> = list.iter().map(|one| one.called()).collect();
    assert_eq!(ids, ["shop/db/eth0", "shop/web/eth0"]);
    let report = &list[1];
    assert_eq!(report.host_ifindex, web.host_ifindex);
    assert_eq!(report.mac, web.end.mac.to_string());
    let addresses = cofferdam_tests::firewall::addresses(web);
    assert_eq!(report.addresses, addresses, "those on the interface");
    assert_eq!(report.state, EndpointState::Enforced);
    let status = scene.agent.status();
    assert_eq!(status.endpoints[1].called(), "shop/web/eth0");
    assert!(
        status.endpoints[1]
            .flows
            .is_some_and(|flows| flows.capacity > 0)
    );
}

#[test]
fn a_document_of_its_name_has_the_last_word_on_labels_and_ports() {
    skip_unless!(Feature::NetworkNamespaces);
    let documents = format!(
        "{}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, labels: {{app: other}}}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: db, namespace: shop, labels: {{app: db}}}}\n\
         spec: {{containers: [{{ports: [{{name: sql, containerPort: 5432}}]}}]}}\n",
        DB_FROM_WEB.replace("port: 5432", "port: sql")
    );
    let scene = Scene::enforced(Wiring::Ptp, &documents);
    let list = scene.agent.endpoints();
    assert_eq!(list[1].labels["app"], "other", "{list:?}");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.document(
        "policies.yaml",
        &documents.replace("app: other", "app: web"),
    );
    assert!(scene.agent.sync().enforced);
    scene.assert_reaches("shop/web", "shop/db");
    // Without the document, the call's labels count, and the call named no port.
    scene.agent.document(
        "policies.yaml",
        &DB_FROM_WEB.replace("port: 5432", "port: sql"),
    );
    assert!(scene.agent.sync().enforced);
    assert_eq!(scene.agent.endpoints()[1].labels["app"], "web");
    scene.assert_blocked("shop/web", "shop/db");
    let mut arguments = Agent::add_arguments(scene.workload("shop/db"), &["app=db"]);
    arguments.extend(["--port".to_owned(), "sql=tcp/5432".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert!(scene.agent.cli(&arguments).status.success());
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn a_removed_endpoint_is_gone_and_removing_it_again_is_no_error() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    assert_eq!(scene.agent.remove("shop/web").removed, ["shop/web/eth0"]);
    assert!(scene.agent.remove("shop/web").removed.is_empty());
    // Nobody's address matches no selector.
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.add(scene.workload("shop/web"), &["app=web"]);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn an_interface_that_goes_takes_its_endpoint_along() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.world.remove("shop/web").expect("it is there");
    scene
        .agent
        .wait_until("gone", |status| status.endpoints.len() == 1);
    let status = scene.agent.wait_enforced();
    let addresses = status.capacity.iter().find(|one| one.table == "addresses");
    // The database's, and the node's own as the gateway.
    assert_eq!(addresses.expect("it is counted").used, 4);
}

#[test]
fn what_is_no_endpoint_is_refused_with_the_reason() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let refused = |arguments: &[&str], why: &str| {
        let name = ["--namespace", "x", "--name", "y"];
        let output = scene
            .agent
            .cli(&[&["endpoint", "add"][..], &name, arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(why), "{told}");
    };
    let path = |namespace: &Namespace| namespace.path().to_string_lossy().into_owned();
    let web = path(&scene.workload("shop/web").namespace);
    let node = path(&scene.world.node().namespace);
    refused(&["--netns", "/nowhere"], "/nowhere");
    refused(&["--netns", "/dev/null"], "/dev/null");
    refused(&["--netns", &node], "agent itself");
    refused(&["--netns", &web, "--ifname", "eth7"], "eth7");
    refused(&["--netns", &web, "--ifname", "lo"], "veth");
    refused(&["--netns", &web], "shop/web/eth0");
    refused(&["--netns", &web, "--label", "a b=c"], "label key");
    refused(&["--netns", &web, "--address", "127.0.0.1"], "127.0.0.1");

    // A link between two workloads has no end on the node, though an interface there
    // has the index of its other end, and the node knows the namespace by another link.
    let (one, other) = (
        Namespace::new().expect("one"),
        Namespace::new().expect("two"),
    );
    one.join("eth0", &other, "eth0").expect("a link");
    let host = &scene.world.node().namespace;
    one.join("second", host, "second").expect("a link");
    assert_eq!(one.ifindex("eth0").expect("it is there"), 2);
    assert_eq!(scene.workload("shop/web").host_ifindex, 2);
    refused(
        &["--netns", &path(&one), "--address", "10.9.9.9"],
        "not in the network namespace of this agent",
    );
    // A link to the node, with somebody else's addresses.
    let third = Namespace::new().expect("three");
    third.join("eth0", host, "third").expect("a link");
    let third = path(&third);
    refused(&["--netns", &third], "no address");
    refused(
        &["--netns", &third, "--address", "10.64.0.2"],
        "shop/web/eth0",
    );
    refused(&["--netns", &third, "--address", "10.64.0.1"], "node's own");
    assert_eq!(scene.agent.endpoints().len(), 2);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn two_agents_on_one_machine_know_nothing_of_each_other() {
    skip_unless!(Feature::NetworkNamespaces);
    let first = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let second = World::plan(Wiring::Bridge)
        .workloads(["shop/web", "shop/db"])
        .build()
        .expect("a world");
    let mut other = Agent::new(cofferdam!(), &second);
    other.start_enforced();
    for workload in second.workloads() {
        other.add(workload, &[]);
    }
    assert_eq!(other.endpoints().len(), 2);
    other.remove_with("shop/db", &["--release"]);
    assert_eq!(other.endpoints().len(), 1);
    assert_eq!(first.agent.endpoints().len(), 2);
    first.assert_reaches("shop/web", "shop/db");
    assert!(other.stop().success());
    first.assert_reaches("shop/web", "shop/db");
    assert!(first.agent.status().enforced);
}

/// Waits until everything stands first on every hook: links follow the filters when
/// there is nothing else to do.
fn attached(scene: &Scene) -> StatusReport {
    scene.agent.wait_until("attached", |status| {
        let links = |endpoint: &EndpointStatus| {
            let links = &endpoint.links;
            !links.is_empty() && links.iter().all(|link| link.ok && link.first)
        };
        status.endpoints.iter().all(links)
    })
}

#[test]
fn what_is_in_force_outlives_the_agent_and_is_taken_up_again() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = Scene::enforced(wiring, DB_FROM_WEB);
        let (web, db) = (scene.workload("shop/web"), scene.workload("shop/db"));
        let address = Place::from(db).ip(Family::V4);
        let mut conversation =
            Conversation::tcp(web, address, PORT, PATIENCE).expect("it is allowed");
        let mut count = 0;
        let mut exchange = || {
            count += 1;
            conversation.exchange(format!("word {count}").as_bytes(), PATIENCE)
        };
        let before = scene.agent.endpoints();
        for signal in ["KILL", "TERM"] {
            match signal {
                "KILL" => scene.agent.kill(),
                _ => assert!(scene.agent.stop().success()),
            }
            exchange().expect("the connection goes on without the agent");
            scene.assert_blocked("shop/stranger", "shop/db");
            scene.assert_reaches("shop/web", "shop/db");
            scene.agent.start_enforced();
            let status = attached(&scene);
            exchange().expect("the connection goes on with the next agent");
            let revision = status.revision;
            assert!(revision > before[0].revision, "numbers go on: {status:?}");
            assert_eq!(status.tamper_events, 0);
            for endpoint in &status.endpoints {
                assert_eq!(endpoint.state, EndpointState::Enforced);
            }
            let mut after = scene.agent.endpoints();
            for (before, after) in before.iter().zip(&mut after) {
                after.revision = before.revision;
            }
            assert_eq!(before, after);
        }
        assert!(!scene.agent.log().contains("somebody changed"));
    }
}

#[test]
fn an_endpoint_whose_link_went_while_the_agent_was_dead_is_forgotten() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.agent.kill();
    scene.world.remove("shop/web").expect("it is there");
    let status = scene.agent.start_enforced();
    assert_eq!(status.endpoints.len(), 1);
    let addresses = status.capacity.iter().find(|one| one.table == "addresses");
    assert_eq!(addresses.expect("it is counted").used, 4);
}

#[test]
fn what_others_take_off_the_hooks_is_put_back() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    assert_eq!(attached(&scene).tamper_events, 0);
    let db = scene.workload("shop/db");
    let inside = scene.world.node().namespace.enter().expect("a namespace");
    let deleted = Command::new("tc")
        .args(["qdisc", "del", "dev", &db.host_interface, "clsact"])
        .status();
    assert!(deleted.expect("tc is there").success());
    drop(inside);
    let status = scene
        .agent
        .wait_until("repaired", |status| status.tamper_events > 0);
    assert!(attached(&scene).tamper_events >= status.tamper_events);
    assert!(scene.agent.log().contains("somebody changed"));
}

#[test]
fn detaching_takes_everything_off() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    scene.agent.start(&["--detach"]);
    scene.agent.wait_enforced();
    scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    scene.assert_blocked("shop/web", "shop/db");
    assert!(scene.agent.pins().exists());
    assert!(scene.agent.stop().success());
    scene.assert_reaches("shop/web", "shop/db");
    assert!(!scene.agent.pins().exists());
}
