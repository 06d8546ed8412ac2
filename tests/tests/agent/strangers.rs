//! Interfaces that the agent cannot name are listed, and closed where something judged.

use std::fs;
use std::process::Command;
use std::time::Duration;

use cofferdam_protocol::output::EndpointState;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::scene::{DB_CLOSED, DB_FROM_WEB, Scene, pause};

/// Names of the interfaces of strangers in a state.
fn strangers(scene: &Scene, state: EndpointState) -> Vec<String> {
    let all = scene.agent.strangers().into_iter();
    all.filter(|one| one.state == state)
        .map(|one| one.host_ifname)
        .collect()
}

fn names(scene: &Scene, workloads: &[&str]) -> Vec<String> {
    let interfaces = workloads.iter().map(|name| scene.workload(name));
    let mut interfaces: Vec<_> = interfaces
        .map(|one| (one.host_ifindex, one.host_interface.clone()))
        .collect();
    interfaces.sort();
    interfaces.into_iter().map(|(_, name)| name).collect()
}

/// The number of a metric's series.
fn metric(scene: &Scene, series: &str) -> u64 {
    let (_, text) = scene.agent.http("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.unwrap_or_else(|| panic!("{series}: {text}"));
    value.trim().parse().expect("a number")
}

#[test]
fn a_workload_that_nobody_has_added_is_unmanaged() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let scene = Scene::enforced(wiring, DB_CLOSED);
        let stranger = names(&scene, &["shop/stranger"]);
        assert_eq!(strangers(&scene, EndpointState::Unmanaged), stranger);
        assert!(strangers(&scene, EndpointState::DenyAll).is_empty());
        let status = scene.agent.status();
        assert_eq!(status.unmanaged, stranger);
        assert!(status.ready && status.enforced, "{status:?}");
        assert_eq!(
            metric(&scene, "cofferdam_endpoints{state=\"unmanaged\"}"),
            1
        );
        // One that is opened on purpose is not judged either.
        scene.agent.remove_with("shop/web", &["--release"]);
        assert_eq!(scene.agent.status().unmanaged.len(), 2);
    }
}

/// An agent that lost its state called everything well while every workload was closed.
#[test]
fn endpoints_that_are_not_remembered_are_closed_and_listed() {
    skip_unless!(Feature::NetworkNamespaces);
    for damage in ["cut", "removed"] {
        let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
        scene.assert_reaches("shop/web", "shop/db");
        scene.agent.kill();
        let path = scene.agent.path("state").join("endpoints.json");
        match damage {
            "cut" => fs::write(&path, "cofferdam-state-1 0").expect("a file"),
            _ => fs::remove_file(&path).expect("it is there"),
        }
        scene.agent.start(&[]);
        let status = scene.agent.wait_up();
        let closed = names(&scene, &["shop/web", "shop/db"]);
        assert_eq!(strangers(&scene, EndpointState::DenyAll), closed);
        assert!(!status.ready, "{status:?}");
        let (code, text) = scene.agent.http("/readyz");
        assert_eq!(code, 503, "{text}");
        assert!(text.contains("added again"), "{text}");
        for name in &closed {
            let told = |one: &&str| one.contains(name.as_str());
            assert!(text.lines().any(|line| told(&line)), "{text}");
        }
        assert_eq!(metric(&scene, "cofferdam_endpoints{state=\"deny_all\"}"), 2);
        scene.assert_blocked("shop/web", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/web");
        // The remedy.
        scene.add_both();
        assert!(scene.agent.status().ready);
        assert!(strangers(&scene, EndpointState::DenyAll).is_empty());
        scene.assert_reaches("shop/web", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/db");
        assert!(scene.agent.stop().success());
    }
}

/// Filters of a dead agent whose maps are lost with the file system judged by its table for
/// good.
#[test]
fn what_judges_by_maps_that_are_lost_is_closed() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Bridge, DB_FROM_WEB);
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.kill();
    fs::remove_dir_all(scene.agent.pins()).expect("pins");
    fs::remove_dir_all(scene.agent.path("state")).expect("state");
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.document("policies.yaml", DB_CLOSED);
    scene.agent.start(&[]);
    let status = scene.agent.wait_up();
    assert!(!status.ready, "{status:?}");
    assert!(status.tamper_events >= 2, "{status:?}");
    let closed = names(&scene, &["shop/web", "shop/db"]);
    assert_eq!(strangers(&scene, EndpointState::DenyAll), closed);
    // It was never added: nothing judged there.
    assert_eq!(status.unmanaged, names(&scene, &["shop/stranger"]));
    scene.assert_blocked("shop/web", "shop/db");
    scene.add_both();
    scene.assert_blocked("shop/web", "shop/db");
    let status = scene.agent.status();
    assert!(status.ready && status.enforced, "{status:?}");
    scene.assert_reaches("shop/stranger", "shop/web");
}

/// Records were written and filters replaced endpoint by endpoint: those whose turn had not
/// come were unknown to the others.
#[test]
fn a_lost_file_system_is_alarmed_and_its_endpoints_go_on() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    scene.agent.kill();
    fs::remove_dir_all(scene.agent.pins()).expect("pins");
    let status = scene.agent.start_enforced();
    assert!(status.tamper_events > 0, "{status:?}");
    assert!(scene.agent.log().contains("pins were lost"));
    scene.assert_reaches("shop/web", "shop/db");
    scene.assert_blocked("shop/stranger", "shop/db");
}

#[test]
fn pins_that_are_lost_under_a_living_agent_are_back_within_a_second() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let before = scene.agent.status().tamper_events;
    fs::remove_dir_all(scene.agent.pins()).expect("pins");
    pause(Duration::from_secs(1));
    let status = scene.agent.status();
    assert_eq!(status.tamper_events, before + 1, "{status:?}");
    assert!(scene.agent.pins().join("links").exists());
    assert!(status.enforced && status.ready);
    scene.assert_blocked("shop/stranger", "shop/db");
}

/// Two agents with one directory took turns in undoing each other's work.
#[test]
fn a_directory_of_state_or_pins_has_one_agent() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let first = fs::read_to_string(scene.agent.path("config.yaml")).expect("a file");
    let other = scene.agent.path("other");
    for (shared, said) in [("state_dir", "state_dir"), ("bpffs", "bpffs")] {
        let lines = first.lines().map(|line| match line.split_once(": ") {
            Some((key @ ("run_dir" | "state_dir"), _)) if key != shared => {
                format!("{key}: {}/{key}\n", other.display())
            }
            Some(("bpffs", path)) if shared != "bpffs" => format!("bpffs: {path}-other\n"),
            _ => format!("{line}\n"),
        });
        let config = scene.agent.path("second.yaml");
        let text: String = lines.chain(["metrics: \"\"\n".to_owned()]).collect();
        fs::write(&config, &text).expect("a file");
        let _inside = scene.world.node().namespace.enter().expect("a namespace");
        let output = Command::new(scene.agent.binary())
            .args(["agent", "--config"])
            .arg(&config)
            .output()
            .expect("it can be run");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains("another agent") && told.contains(said),
            "{told}"
        );
    }
    assert!(scene.agent.status().enforced);
    scene.assert_reaches("shop/web", "shop/db");
}

/// A file system that is full as long as this value lives.
struct Full(std::path::PathBuf);

impl Full {
    fn mount(path: std::path::PathBuf) -> Self {
        let options = Some("size=64k,mode=700");
        let from = Some("tmpfs");
        mount(from, &path, from, MsFlags::empty(), options).expect("a file system");
        // Until there is no room.
        _ = fs::write(path.join("large"), vec![0; 1 << 20]);
        Self(path)
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("large")).expect("it is there");
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// An endpoint was called enforced, and was forgotten at the next start.
#[test]
fn what_cannot_be_remembered_is_said() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.document("policies.yaml", DB_FROM_WEB);
    fs::create_dir_all(scene.agent.path("state")).expect("a directory");
    let full = Full::mount(scene.agent.path("state"));
    scene.agent.start_enforced();
    assert_eq!(metric(&scene, "cofferdam_state_saved"), 0);
    let web = scene.agent.add(scene.workload("shop/web"), &["app=web"]);
    assert_eq!(web.state, EndpointState::Enforced);
    let problem = web.problem.expect("it is said");
    assert!(problem.contains("must be added again"), "{problem}");
    let status = scene.agent.status();
    let mut messages = status.diagnostics.iter().map(|one| &one.message);
    assert!(messages.any(|one| *one == problem), "{status:?}");
    full.make_room();
    let db = scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    assert_eq!(db.problem, None);
    scene.agent.sync();
    assert_eq!(metric(&scene, "cofferdam_state_saved"), 1);
    scene.agent.kill();
    scene.agent.start_enforced();
    assert_eq!(scene.agent.endpoints().len(), 2);
    scene.assert_reaches("shop/web", "shop/db");
}
