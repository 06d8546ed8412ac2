//! Attachments: several interfaces of a container, several networks, and collection.

use cofferdam_tests::cni::{Attaching, Network, bridge, ptp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::{Value, json};

use super::scene::{Container, DB_FROM_WEB, PLUGINS, Scene, container};

/// The same container, for another network.
fn second(first: &Attaching, interface: &str) -> Attaching {
    let mut second = container("x", "");
    second.container_id.clone_from(&first.container_id);
    second.args.clone_from(&first.args);
    second.capabilities.clone_from(&first.capabilities);
    second.namespace = first.namespace.try_clone().expect("a descriptor");
    interface.clone_into(&mut second.interface);
    second
}

#[test]
fn two_networks_attach_two_interfaces_of_one_container() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let mut main = ptp(77, &scene.leases());
    // Two ways to everywhere would be one too many.
    main["ipam"]["routes"] = json!([]);
    let one = scene.network("one", vec![main]);
    let two = scene.network("two", vec![bridge("cni0", 78, &scene.leases())]);
    let mut first = container("db", "app=db");
    scene.runtime().add(&one, &mut first).expect("the first");
    let mut other = second(&first, "eth1");
    scene.runtime().add(&two, &mut other).expect("the second");
    let interfaces = ["shop/db/eth0", "shop/db/eth1"];
    assert_eq!(scene.endpoints(), interfaces);
    let db = Container::serving(other);
    let web = scene.attached(&two, "web", "app=web");
    let stranger = scene.attached(&two, "stranger", "");
    web.assert_reaches(&db);
    stranger.assert_blocked(&db);

    assert_eq!(scene.runtime().del(&one, &first), Ok(()));
    scene.agent.wait_until("forgotten", |status| {
        status
            .endpoints
            .iter()
            .all(|one| one.called() != "shop/db/eth0")
    });
    web.assert_reaches(&db);
    stranger.assert_blocked(&db);
    assert_eq!(scene.runtime().del(&two, &db.attaching), Ok(()));
    web.assert_blocked(&db);
}

#[test]
fn every_interface_of_a_result_is_in_force_and_ends_with_its_attachment() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![ptp(79, &scene.leases())]);
    let mut one = container("db", "app=db");
    let mut second = ptp(90, &scene.leases());
    second["ipam"]["routes"] = json!([]);
    let mut made = Vec::new();
    for (interface, main) in [("eth0", &network.plugins[0]), ("v4if0", &second)] {
        one.interface = interface.to_owned();
        one.result = Value::Null;
        let result = scene.runtime().call("ADD", &network, main, Some(&one));
        let result: Value = serde_json::from_slice(&result.expect("a result")).expect("JSON");
        made.push(result);
    }
    // One plugin that made both.
    let mut joined = made[0].clone();
    let before = made[0]["interfaces"].as_array().expect("a list").len();
    for interface in made[1]["interfaces"].as_array().expect("a list") {
        joined["interfaces"]
            .as_array_mut()
            .expect("a list")
            .push(interface.clone());
    }
    for ip in made[1]["ips"].as_array().expect("a list") {
        let mut ip = ip.clone();
        let index = ip["interface"].as_u64().expect("an index") as usize;
        ip["interface"] = json!(index + before);
        joined["ips"].as_array_mut().expect("a list").push(ip);
    }
    one.interface = "eth0".to_owned();
    one.result = joined;
    scene.alone("ADD", &network, Some(&one)).expect("both");
    let interfaces = ["shop/db/eth0", "shop/db/v4if0"];
    assert_eq!(scene.endpoints(), interfaces);
    for interface in interfaces {
        let report = scene.endpoint(interface).expect("it is there");
        assert_eq!(report.addresses.len(), 2, "{report:?}");
    }
    assert_eq!(scene.alone("CHECK", &network, Some(&one)), Ok(Vec::new()));
    assert_eq!(scene.alone("DEL", &network, Some(&one)), Ok(Vec::new()));
    assert!(
        scene.endpoints().is_empty(),
        "{:?}",
        scene.agent.endpoints()
    );
}

/// Collects all attachments of a network but these.
fn collect(scene: &Scene, network: &Network, valid: &[&Attaching]) {
    let list = valid
        .iter()
        .map(|one| json!({"containerID": one.container_id, "ifname": one.interface}));
    let mut network = network.clone();
    network.version = "1.1.0".to_owned();
    let last = network.plugins.last_mut().expect("the last");
    last["cni.dev/valid-attachments"] = list.collect();
    assert_eq!(scene.alone("GC", &network, None), Ok(Vec::new()));
}

#[test]
fn collection_ends_what_its_network_does_not_list_and_nothing_else() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let one = scene.network("one", vec![bridge("cni0", 80, &scene.leases())]);
    let two = scene.network("two", vec![ptp(81, &scene.leases())]);
    let kept = scene.attached(&one, "kept", "");
    let stale = scene.attached(&one, "stale", "");
    let _elsewhere = scene.attached(&two, "elsewhere", "");
    // One that no plugin has added.
    let mut by_hand = container("by-hand", "");
    let main = &one.plugins[0];
    let made = scene.runtime().call("ADD", &one, main, Some(&by_hand));
    by_hand.result = serde_json::from_slice(&made.expect("a result")).expect("JSON");
    let netns = by_hand.namespace.path();
    let added = scene.agent.cli(&[
        "endpoint",
        "add",
        "--netns",
        netns.to_str().expect("text"),
        "--namespace",
        "shop",
        "--name",
        "by-hand",
        "--container-id",
        "by-hand",
    ]);
    assert!(added.status.success(), "{added:?}");
    kept.assert_reaches(&stale);
    let all = ["by-hand", "elsewhere", "kept", "stale"].map(|name| format!("shop/{name}/eth0"));
    assert_eq!(scene.endpoints(), all);
    collect(&scene, &one, &[&kept.attaching, &stale.attaching]);
    assert_eq!(scene.endpoints(), all);
    collect(&scene, &one, &[&kept.attaching]);
    assert_eq!(scene.endpoints(), all[..3]);
    kept.assert_blocked(&stale);
    collect(&scene, &two, &[]);
    let left = [all[0].clone(), all[2].clone()];
    assert_eq!(scene.endpoints(), left);
}
