//! `CHECK`: an attachment is as it was added, or the plugin says what is not.

use std::process::Command;

use cofferdam_tests::cni::{Attaching, Network, PluginError, ptp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;

use super::scene::{DB_FROM_WEB, PLUGINS, Scene};

#[track_caller]
fn objection(scene: &Scene, network: &Network, one: &Attaching) -> PluginError {
    let checked = scene.alone("CHECK", network, Some(one));
    let error = checked.expect_err("something is wrong");
    assert_eq!(error.code, 101, "{error:?}");
    error
}

#[test]
fn a_check_finds_what_is_not_as_it_was_added() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let mut scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![ptp(82, &scene.leases())]);
    let web = scene.attached(&network, "web", "app=web").attaching;
    let checked = || scene.alone("CHECK", &network, Some(&web));
    assert_eq!(checked(), Ok(Vec::new()));

    // Somebody removes an address inside the container, and gives it back.
    let address = web.end().ipv4.expect("an address").to_string();
    let ip = |words: &[&str]| {
        let run = || Command::new("ip").args(words).status();
        let status = web.namespace.run(run).expect("ip is there");
        assert!(status.success(), "{words:?}");
    };
    let with_length = format!("{address}/24");
    ip(&["address", "del", &with_length, "dev", "eth0"]);
    let wrong = objection(&scene, &network, &web);
    assert!(wrong.message.contains(&address), "{wrong:?}");
    ip(&["address", "add", &with_length, "dev", "eth0"]);
    assert_eq!(checked(), Ok(Vec::new()));

    // Somebody gives the endpoint other addresses.
    let netns = web.namespace.path();
    let relabel = |addresses: &[&str]| {
        let mut words = vec!["endpoint", "add", "--netns", netns.to_str().expect("text")];
        words.extend(["--namespace", "shop", "--name", "web"]);
        for address in addresses {
            words.extend(["--address", address]);
        }
        let added = scene.agent.cli(&words);
        assert!(added.status.success(), "{added:?}");
    };
    relabel(&[&address]);
    let wrong = objection(&scene, &network, &web);
    assert!(wrong.message.contains("in force"), "{wrong:?}");
    let v6 = web.end().ipv6.expect("an address").to_string();
    relabel(&[&address, &v6]);
    assert_eq!(checked(), Ok(Vec::new()));

    // The endpoint is there and nothing is in force.
    let policies = scene.agent.path("policies");
    scene.agent.stop();
    std::fs::remove_dir_all(scene.agent.path("state")).expect("it was there");
    std::fs::write(policies.join("broken.yaml"), "kind: NetworkPolicy").expect("a file");
    std::fs::remove_dir_all(scene.agent.pins()).expect("they were there");
    scene.agent.start(&[]);
    scene.agent.wait_up();
    objection(&scene, &network, &web);

    // Without the result of ADD there is nothing to hold it against.
    let mut without = web;
    without.result = serde_json::Value::Null;
    let checked = scene.alone("CHECK", &network, Some(&without));
    assert_eq!(checked.expect_err("no result").code, 7);
}
