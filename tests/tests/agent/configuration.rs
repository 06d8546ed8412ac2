//! What an agent is told, and what it refuses to be told.

use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;

use super::scene::Scene;

fn refused(scene: &Scene, settings: &str) -> String {
    let path = scene.agent.path("wrong.yaml");
    std::fs::write(&path, settings).expect("a file");
    let path = path.to_str().expect("text");
    let output = scene.agent.cli(&["agent", "--config", path]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_wrong_configuration_ends_the_agent_with_the_place_and_what_is_allowed() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    for (settings, place, allowed) in [
        ("node: {nam: x}", ":1:8: ", "did you mean `name`?"),
        (
            "run_dir: /r\nlimits: {slots: many}",
            ":2:17: ",
            "whole number",
        ),
        ("adopt_midstream: 30", ":1:18: ", "30s"),
        ("guard: nftables", ":1:8: ", "no effect"),
        ("uplinks: eth0", ":1:10: ", "[eth0]"),
        ("flow_log: {path: /log}", ":1:18: ", "no effect"),
        ("policies: [a\n", ":2:1: ", "not YAML"),
    ] {
        let told = refused(&scene, settings);
        assert!(told.contains(&format!("wrong.yaml{place}error")), "{told}");
        assert!(told.contains(allowed), "{told}");
    }
    let missing = scene.agent.cli(&["agent", "--config", "/nowhere.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    let usage = scene.agent.cli(&["agent", "--no-such-flag"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn the_printed_configuration_is_one_and_has_every_key() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    let print = |path: &str| {
        let output = scene
            .agent
            .cli(&["agent", "--config", path, "--print-config"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let config = scene.agent.write_config();
    let printed = print(config.to_str().expect("text"));
    for line in [
        "  name: n1",
        "accept_partial: false",
        "own_node: allow",
        "adopt_midstream: 30s",
        "guard: none",
        "  tcp_established: 6h",
        "  udp_one_way: 30s",
        "  max_bytes: 100MiB",
        "metrics: 127.0.0.1:9464",
    ] {
        assert!(printed.lines().any(|one| one == line), "{line}\n{printed}");
    }
    let again = scene.agent.path("printed.yaml");
    std::fs::write(&again, &printed).expect("a file");
    assert_eq!(print(again.to_str().expect("text")), printed);
}

#[test]
fn commands_without_an_agent_cannot_be_run_and_say_where_they_looked() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    let commands: [&[&str]; 4] = [
        &["sync"],
        &["status"],
        &["endpoint", "list"],
        &["status", "--wait", "enforced", "--timeout", "100ms"],
    ];
    for command in commands {
        let output = scene.agent.cli(command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("control.sock"), "{told}");
    }
}

#[test]
fn a_run_directory_has_one_agent_and_a_dead_ones_socket_is_replaced() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.start_enforced();
    let config = scene.agent.path("config.yaml");
    let second = scene
        .agent
        .cli(&["agent", "--config", config.to_str().expect("text")]);
    assert_eq!(second.status.code(), Some(2));
    let told = String::from_utf8_lossy(&second.stderr);
    assert!(told.contains("another agent"), "{told}");
    assert!(scene.agent.status().enforced, "the first is as it was");

    scene.agent.kill();
    assert!(scene.agent.path("run/control.sock").exists());
    scene.agent.start_enforced();
    assert!(scene.agent.stop().success());
    assert!(!scene.agent.path("run/control.sock").exists());
}

#[test]
fn nobody_but_root_may_ask() {
    use std::os::unix::fs::PermissionsExt as _;
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.start_enforced();
    let mode = |name: &str| {
        let metadata = std::fs::metadata(scene.agent.path(name)).expect("it is there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("run"), 0o700);
    assert_eq!(mode("run/control.sock"), 0o600);
    assert_eq!(mode("state"), 0o700);
    assert_eq!(mode("state/endpoints.json"), 0o600);
    // Even where the file system would let them: the socket knows its caller.
    for (name, open) in [("", 0o755), ("run", 0o755), ("run/control.sock", 0o666)] {
        let path = scene.agent.path(name);
        let permissions = std::fs::Permissions::from_mode(open);
        std::fs::set_permissions(path, permissions).expect("permissions");
    }
    let socket = scene.agent.path("run/control.sock");
    let asked = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["perl", "-MIO::Socket::UNIX", "-e"])
        .arg(
            "$SIG{PIPE} = 'IGNORE'; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
             print $s qq({\"version\":1,\"request\":\"sync\"}\\n); print <$s>;",
        )
        .arg(socket)
        .output()
        .expect("perl is part of every Debian");
    let answer = String::from_utf8_lossy(&asked.stdout);
    assert!(answer.contains("only root may ask"), "{asked:?}");
}
