//! A configuration that is read again while the agent runs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam_tests::agent::Agent;
use cofferdam_tests::evasions::tool;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::Wiring;
use cofferdam_tests::{cofferdam, skip_unless};

use super::scene::{DB_BROKEN, DB_CLOSED, DB_FROM_WEB, Scene};
use super::uplinks;

/// Replaces parts of the configuration, tells the agent, and waits until its log has more of
/// a line than before.
pub(crate) fn reload(agent: &Agent, changes: &[(&str, &str)], line: &str) {
    let path = agent.path("config.yaml");
    let mut text = std::fs::read_to_string(&path).expect("the configuration");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}: {text}");
        text = text.replace(from, to);
    }
    std::fs::write(path, text).expect("the configuration");
    tell(agent, line);
}

fn tell(agent: &Agent, line: &str) {
    let count = || agent.log().matches(line).count();
    let before = count();
    agent.reload();
    let deadline = Instant::now() + Duration::from_secs(30);
    while count() == before {
        assert!(Instant::now() < deadline, "{line}\n{}", agent.log());
        std::thread::yield_now();
    }
}

/// A folder with one document, beside the first one.
fn other_policies(scene: &Scene, name: &str, document: &str) -> PathBuf {
    let folder = scene.agent.path(name);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("policies.yaml"), document).expect("a file");
    folder
}

#[test]
fn policies_of_another_folder_come_into_force_and_are_followed() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.assert_reaches("shop/web", "shop/db");
    let other = other_policies(&scene, "others", DB_CLOSED);
    let taken = "the configuration was read again; taken: `policies`";
    reload(&scene.agent, &[("/policies]", "/others]")], taken);
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/web", "shop/db");

    // A slip in the path opens nothing.
    reload(&scene.agent, &[("/others]", "/other]")], taken);
    assert_eq!(scene.agent.sync().diagnostics.len(), 1);
    scene.assert_blocked("shop/web", "shop/db");
    reload(&scene.agent, &[("/other]", "/others]")], taken);
    assert!(scene.agent.sync().enforced);

    // Files there are watched, and those of the first folder say nothing any more.
    scene.agent.remove_document("policies.yaml");
    let revision = scene.agent.status().revision;
    std::fs::write(other.join("policies.yaml"), DB_FROM_WEB).expect("a file");
    scene.agent.wait_until("in force", |status| {
        status.enforced && status.revision > revision
    });
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn keys_that_need_a_start_are_named_and_the_others_taken() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.document("policies.yaml", DB_BROKEN);
    scene.agent.start(&[]);
    assert!(!scene.agent.wait_up().enforced, "nothing good is known");

    let changes = [
        ("slots: 8192", "slots: 4096"),
        (
            "node: {name: n1}",
            "node: {name: n2, addresses: [192.0.2.7]}",
        ),
        (
            "limits:",
            "accept_partial: true\nadopt_midstream: 1s\nidle: {udp: 5s}\nmetrics: ''\nuplinks: [nowhere]\nlimits:",
        ),
    ];
    let taken = "taken: `accept_partial`, `adopt_midstream`, `node.addresses`";
    reload(&scene.agent, &changes, taken);
    scene.agent.wait_enforced();
    let log = scene.agent.log();
    let named = [
        "idle.udp",
        "limits.slots",
        "metrics",
        "node.name",
        "uplinks",
    ];
    for key in named {
        let line = format!("`{key}` takes effect at the next start");
        assert_eq!(log.matches(&line).count(), 1, "{line}\n{log}");
    }
    assert_eq!(log.matches("takes effect").count(), named.len(), "{log}");
    assert_eq!(scene.agent.http("/healthz").0, 200, "as before");

    // They are still to come, and nothing else is new.
    tell(&scene.agent, "nothing to take from it");
    let log = scene.agent.log();
    assert_eq!(
        log.matches("takes effect").count(),
        2 * named.len(),
        "{log}"
    );
}

#[test]
fn a_configuration_with_mistakes_changes_nothing_and_each_is_told() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    other_policies(&scene, "others", DB_CLOSED);
    let changes = [
        ("/policies]", "/others]"),
        ("slots: 8192", "slots: many"),
        ("limits:", "idle: {udp: 60}\nlimits:"),
    ];
    let kept = "the one from before stays in force";
    reload(&scene.agent, &changes, kept);
    let log = scene.agent.log();
    for mistake in [
        "config.yaml:6:13: error[CD0401]: `udp` cannot be `60`",
        "config.yaml:7:32: error[CD0107]: `slots` must be a whole number",
    ] {
        assert!(log.contains(mistake), "{mistake}\n{log}");
    }
    assert!(!log.contains("takes effect"), "{log}");
    assert!(scene.agent.sync().enforced);
    scene.assert_reaches("shop/web", "shop/db");

    // A file that is not there is no other.
    std::fs::remove_file(scene.agent.path("config.yaml")).expect("the file");
    tell(&scene.agent, kept);
    assert!(scene.agent.log().contains("cannot read"));
    assert!(scene.agent.sync().enforced);
    scene.assert_reaches("shop/web", "shop/db");
}

#[test]
fn early_drop_leaves_an_interface_and_begins_at_a_start_alone() {
    skip_unless!(Feature::NetworkNamespaces);
    let world = uplinks::world(Wiring::Ptp, 1500);
    let settings = "limits: {endpoints: 32, slots: 8192, table_pages: 32}\nuplinks: [uplink0]\n";
    let mut agent = Agent::new(cofferdam!(), &world).settings(settings);
    agent.start_enforced();
    let stands = || {
        let node = &world.node().namespace;
        let shown = tool::run(node, "ip", &["link", "show", "uplink0"], "");
        shown.contains("prog/xdp")
    };
    assert!(stands());
    let taken = "taken: `uplinks`";
    let change = |from, to| reload(&agent, &[(from, to)], taken);
    change("[uplink0]", "[nowhere]");
    agent.wait_until("another", |status| status.uplinks[0].interface == "nowhere");
    assert!(!stands());
    change("[nowhere]", "[uplink0]");
    agent.wait_until("back", |status| status.uplinks[0].mode.is_some());
    assert!(stands());
    change("[uplink0]", "[]");
    let status = agent.wait_until("none", |status| status.uplinks.is_empty());
    assert!(!stands());
    assert_eq!(status.tamper_events, 0);
    let named = "`uplinks` takes effect at the next start";
    reload(&agent, &[("uplinks: []", "uplinks: [uplink0]")], named);
    agent.sync();
    assert!(!stands());
}
