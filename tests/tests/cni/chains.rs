//! Whole chains: what comes out, who reaches whom from the first packet on, and that the end
//! of an attachment closes it.

use std::time::Duration;

use cofferdam_tests::cni::{Attaching, Network, bridge, ptp};
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::traffic::{Conversation, Probe, probe};
use serde_json::{Value, json};

use super::scene::{Container, DB_FROM_WEB, PLUGINS, PORT, Scene, container};

#[test]
fn verdicts_are_in_force_when_add_returns_and_del_closes() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    type Wiring = fn(&Scene) -> Value;
    let wirings: [(&str, Wiring); 2] = [
        ("ptp", |scene| ptp(71, &scene.leases())),
        ("bridge", |scene| bridge("cni0", 71, &scene.leases())),
    ];
    for (wiring, main) in wirings {
        println!("by {wiring}");
        let scene = Scene::enforced(DB_FROM_WEB);
        let network = scene.network("n", vec![main(&scene)]);
        let db = scene.attached(&network, "db", "app=db");
        let web = scene.attached(&network, "web", "app=web");
        web.assert_reaches(&db);
        // The first packets of a container are judged.
        let stranger = scene.attached(&network, "stranger", "app=other");
        stranger.assert_blocked(&db);
        stranger.assert_reaches(&web);
        let ids = ["shop/db/eth0", "shop/stranger/eth0", "shop/web/eth0"];
        assert_eq!(scene.endpoints(), ids);
        let report = scene.endpoint("shop/db/eth0").expect("it is there");
        assert_eq!(report.container_id.as_deref(), Some("db-0a1b"));
        assert_eq!(report.network.as_deref(), Some("n"));

        // While the interface stands nothing passes there any more.
        for _ in 0..2 {
            let ended = scene.alone("DEL", &network, Some(&stranger.attaching));
            assert_eq!(ended, Ok(Vec::new()));
            stranger.assert_blocked(&web);
            web.assert_blocked(&stranger);
        }
        for one in [&stranger, &web] {
            let ended = scene.runtime().del(&network, &one.attaching);
            assert_eq!(ended, Ok(()));
        }
        scene.agent.wait_until("forgotten", |status| {
            status
                .endpoints
                .iter()
                .map(|one| one.called())
                .eq(["shop/db/eth0"])
        });
        db.assert_blocked(&web);
    }
}

#[test]
fn a_second_add_of_the_same_container_changes_nothing() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![bridge("cni0", 72, &scene.leases())]);
    let db = scene.attached(&network, "db", "app=db");
    let web = scene.attached(&network, "web", "app=web");
    let to = db.attaching.place().ip(Family::V4);
    let patience = Duration::from_secs(5);
    let mut open = Conversation::tcp(web.attaching.place(), to, PORT, patience).expect("open");
    let before = scene.agent.endpoints();
    for one in [&db, &web] {
        let mut again = container("x", "");
        again.container_id.clone_from(&one.attaching.container_id);
        again.args.clone_from(&one.attaching.args);
        again.capabilities.clone_from(&one.attaching.capabilities);
        again.namespace = one.attaching.namespace.try_clone().expect("a descriptor");
        again.result = one.attaching.result.clone();
        let result = scene.alone("ADD", &network, Some(&again)).expect("again");
        let result: Value = serde_json::from_slice(&result).expect("a result");
        assert_eq!(result, one.attaching.result);
    }
    assert_eq!(scene.agent.endpoints(), before);
    open.exchange(b"still there?", patience)
        .expect("the flow lives");
    web.assert_reaches(&db);
}

#[test]
fn ports_of_the_node_are_judged_behind_translation() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    for (snat, number) in [(true, 73), (false, 74)] {
        println!("snat: {snat}");
        let scene = Scene::enforced(DB_FROM_WEB);
        let portmap =
            json!({"type": "portmap", "snat": snat, "capabilities": {"portMappings": true}});
        // Routed: on one bridge the answers would not come by the node.
        let main = ptp(number, &scene.leases());
        let network = scene.network("n", vec![main, portmap]);
        let mapping = json!([{"hostPort": 8080, "containerPort": PORT, "protocol": "tcp"}]);
        let mut db = container("db", "app=db").capability("portMappings", mapping);
        (scene.runtime().add(&network, &mut db)).unwrap_or_else(|error| panic!("{error:?}"));
        let db = Container::serving(db);
        let web = scene.attached(&network, "web", "app=web");
        let stranger = scene.attached(&network, "stranger", "");
        let reaches = |from: &Container, patience| {
            let node = format!("10.{number}.0.1").parse().expect("an address");
            let outcome = probe(from.attaching.place(), node, Probe::Tcp(8080), patience);
            outcome.expect("a probe").is_reached()
        };
        assert!(reaches(&web, Duration::from_secs(5)), "web");
        assert!(!reaches(&stranger, Duration::from_millis(300)), "stranger");
        web.assert_reaches(&db);
        stranger.assert_blocked(&db);
        for one in [&db, &web, &stranger] {
            let ended = scene.runtime().del(&network, &one.attaching);
            assert_eq!(ended, Ok(()));
        }
    }
}

#[test]
fn limits_of_the_bandwidth_plugin_and_verdicts_stand_together() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    // Limits of what a container receives: those of what it sends need an ingress qdisc, which
    // has no place beside the clsact qdisc that the agent gives every new interface.
    let bandwidth = json!({
        "type": "bandwidth",
        "ingressRate": 100_000_000, "ingressBurst": 10_000_000,
    });
    let network = scene.network("n", vec![ptp(75, &scene.leases()), bandwidth]);
    let db = scene.attached(&network, "db", "app=db");
    let web = scene.attached(&network, "web", "app=web");
    let stranger = scene.attached(&network, "stranger", "");
    web.assert_reaches(&db);
    stranger.assert_blocked(&db);
    for one in [&db, &web, &stranger] {
        assert_eq!(scene.runtime().del(&network, &one.attaching), Ok(()));
    }
}

#[test]
fn results_pass_as_they_are_in_every_version() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let mut network = scene.network("n", vec![ptp(76, &scene.leases())]);
    let [main, _] = <[Value; 2]>::try_from(network.plugins.clone()).expect("two plugins");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        // The standard plugins of Debian know no 1.1.0.
        let of_main = if version == "1.1.0" { "1.0.0" } else { version };
        let mut one = container(&format!("c{}", version.replace('.', "-")), "");
        network.version = of_main.to_owned();
        let made = scene.runtime().call("ADD", &network, &main, Some(&one));
        let mut made: Value = serde_json::from_slice(&made.expect("a result")).expect("JSON");
        made["cniVersion"] = version.into();
        made["interfaces"][0]["mtu"] = json!(1500);
        made["x-unknown"] = json!({"deep": [1, {"é": null}], "big": u64::MAX});
        network.version = version.to_owned();
        one.result = made.clone();
        let passed = scene.alone("ADD", &network, Some(&one)).expect("a result");
        let passed: Value = serde_json::from_slice(&passed).expect("JSON");
        assert_eq!(passed, made, "{version}");
        let checked = scene.alone("CHECK", &network, Some(&one));
        match version {
            "0.3.1" => assert_eq!(checked.expect_err("it came later").code, 1),
            _ => assert_eq!(checked, Ok(Vec::new()), "{version}"),
        }
        for (command, args) in [("GC", None), ("STATUS", None)] {
            let asked = scene.alone(command, &network, args);
            match (version, command) {
                ("1.1.0", "STATUS") => assert_eq!(asked, Ok(Vec::new())),
                // No list of attachments.
                ("1.1.0", _) => assert_eq!(asked.expect_err("no list").code, 7),
                _ => assert_eq!(asked.expect_err("it came later").code, 1),
            }
        }
        assert_eq!(scene.alone("DEL", &network, Some(&one)), Ok(Vec::new()));
        network.version = of_main.to_owned();
        (scene.runtime().call("DEL", &network, &main, Some(&one))).expect("it ends");
    }
}

#[test]
fn the_example_of_the_first_steps_attaches_a_container() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let page = include_str!("../../../docs/first-steps.md");
    let (_, chapter) = page.split_once("Plug it in").expect("the chapter");
    let (_, example) = chapter.split_once("```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let mut network = Network::parse(example);
    let scene = Scene::enforced(DB_FROM_WEB);
    // Apart from what is the node's.
    network.plugins[0]["ipam"]["dataDir"] = json!(scene.leases());
    network.plugins[1]["runDir"] = json!(scene.agent.path("run"));
    let mut one = Attaching::new("c1");
    scene.runtime().add(&network, &mut one).expect("a result");
    let report = scene.endpoint("shop/c1/eth0").expect("it is there");
    assert_eq!(report.addresses.len(), 2);
    assert_eq!(report.labels["app"], "web");
    assert_eq!(scene.runtime().del(&network, &one), Ok(()));
}
