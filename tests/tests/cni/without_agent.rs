//! The plugin while no agent answers: nothing is added, and what ends becomes no wider.

use cofferdam_protocol::output::EndpointState;
use cofferdam_tests::cni::{bridge, ptp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;

use super::scene::{DB_FROM_WEB, PLUGINS, Scene, container};

#[test]
fn nothing_is_added_while_no_agent_answers() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::new();
    let mut network = scene.network("n", vec![ptp(85, &scene.leases())]);
    let mut one = container("web", "app=web");
    let failed = scene.runtime().add(&network, &mut one).expect_err("closed");
    assert_eq!((failed.plugin.as_str(), failed.code), ("cofferdam-cni", 11));
    for word in ["control.sock", "cofferdam agent", "run_dir"] {
        assert!(failed.message.contains(word), "{failed:?}");
    }
    let checked = scene.alone("CHECK", &network, Some(&one));
    assert_eq!(checked.expect_err("no agent").code, 11);
    assert_eq!(scene.runtime().del(&network, &one), Ok(()));
    network.version = "1.1.0".to_owned();
    let status = scene.alone("STATUS", &network, None);
    assert_eq!(status.expect_err("no agent").code, 50);
}

#[test]
fn an_attachment_that_ends_without_an_agent_is_closed_by_the_next() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let mut scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![bridge("cni0", 86, &scene.leases())]);
    let db = scene.attached(&network, "db", "app=db");
    let web = scene.attached(&network, "web", "app=web");
    let stranger = scene.attached(&network, "stranger", "");
    let again = scene.attached(&network, "again", "");
    scene.agent.kill();
    for one in [&web, &again] {
        for _ in 0..2 {
            let ended = scene.alone("DEL", &network, Some(&one.attaching));
            assert_eq!(ended, Ok(Vec::new()));
        }
    }
    // What was in force still is, for those that have ended as well.
    web.assert_reaches(&db);
    stranger.assert_blocked(&db);
    scene.agent.start_enforced();
    web.assert_blocked(&db);
    web.assert_blocked(&stranger);
    again.assert_blocked(&stranger);
    let left: Vec<_> = (scene.agent.endpoints().into_iter())
        .filter(|one| one.leaving)
        .map(|one| (one.called().to_owned(), one.state))
        .collect();
    let closed = |name: &str| (format!("shop/{name}/eth0"), EndpointState::DenyAll);
    assert_eq!(left, ["again", "web"].map(closed));
    // It is acted on once: the same container may come again.
    let result = scene.alone("ADD", &network, Some(&again.attaching));
    assert!(result.is_ok(), "{result:?}");
    scene.agent.kill();
    scene.agent.start_enforced();
    again.assert_reaches(&stranger);
    web.assert_blocked(&stranger);
}

#[test]
fn a_note_of_an_attachment_that_is_made_again_does_no_harm() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let mut scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![bridge("cni0", 87, &scene.leases())]);
    let web = scene.attached(&network, "web", "app=web");
    let other = scene.attached(&network, "other", "");
    // Left by a plugin that was killed between note and answer.
    let notes = scene.agent.path("run").join("removals");
    std::fs::create_dir_all(&notes).expect("a folder");
    let note = notes.join("web-0a1b:eth0");
    std::fs::write(&note, "").expect("a note");
    let result = scene.alone("ADD", &network, Some(&web.attaching));
    assert!(result.is_ok(), "{result:?}");
    assert!(!note.exists());
    scene.agent.kill();
    scene.agent.start_enforced();
    web.assert_reaches(&other);
}
