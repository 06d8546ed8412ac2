//! Tests of the agent's configuration: the settings it takes, and those it refuses.

use std::path::Path;
use std::process::Command;

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
        ("guard: iptables", ":1:8: ", "none, nftables"),
        ("uplinks: eth0", ":1:10: ", "[eth0]"),
        ("flow_log: {keep: 1001}", ":1:18: ", "from 0 to 1000"),
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

/// An attacker inside the agent has no more than its threads have.
#[test]
fn an_agent_gives_up_what_it_does_not_need() {
    // CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF; and what is kept where it is had:
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE.
    const NEEDED: u64 = 1 << 12 | 1 << 21 | 1 << 38 | 1 << 39;
    const MOST: u64 = NEEDED | 1 << 2 | 1 << 19;
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent.start_enforced();
    let threads = format!("/proc/{}/task", scene.agent.pid());
    let threads = std::fs::read_dir(threads).expect("a folder").flatten();
    let all: Vec<String> = threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .collect();
    assert!(all.len() > 3, "{all:?}");
    for status in &all {
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}: {status}")).trim()
        };
        let set = |name: &str| u64::from_str_radix(value(name), 16).expect("a number");
        for name in ["CapEff:", "CapPrm:"] {
            assert_eq!(set(name) & NEEDED, NEEDED, "{status}");
            assert_eq!(set(name) & !MOST, 0, "{status}");
        }
        assert_eq!(set("CapBnd:") & !MOST, 0, "{status}");
        assert_eq!(set("CapInh:") | set("CapAmb:"), 0, "{status}");
        assert_eq!(value("NoNewPrivs:"), "1", "{status}");
        assert_eq!(value("Seccomp:"), "2", "a filter: {status}");
    }
}

/// The files that are shipped: the agent takes its configuration, and systemd the unit.
#[test]
fn shipped_files_are_taken() {
    const SYSTEMD: Feature = Feature::Other("systemd-analyze", || {
        let found = Command::new("systemd-analyze").arg("--version").output();
        found.map(drop).map_err(|error| error.to_string())
    });
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(SYSTEMD);
    let scene = Scene::new(Wiring::Ptp);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/shipped");
    let config = shipped.join("config.yaml");
    let arguments = ["agent", "--print-config", "--config"];
    let config = config.to_str().expect("text");
    let printed = scene.agent.cli(&[&arguments[..], &[config]].concat());
    assert!(printed.status.success(), "{printed:?}");

    let unit = std::fs::read_to_string(shipped.join("cofferdam.service")).expect("a unit");
    // The programs that it starts must be there.
    let unit = unit.replace(
        "/usr/bin/cofferdam",
        scene.agent.binary().to_str().expect("text"),
    );
    let path = scene.agent.path("cofferdam.service");
    std::fs::write(&path, unit).expect("a file");
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(path)
        .output()
        .expect("it can be run");
    assert!(
        verify.status.success() && verify.stderr.is_empty(),
        "{verify:?}"
    );
}

/// systemd starts what comes behind a unit of type `notify` once this has come.
#[test]
fn a_service_manager_hears_when_the_agent_answers_and_when_it_ends() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    let path = scene.agent.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(path).expect("a socket");
    let patience = std::time::Duration::from_secs(30);
    socket.set_read_timeout(Some(patience)).expect("an option");
    let heard = || {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).expect("a message in time");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    };
    scene.agent.environment("NOTIFY_SOCKET", "notify");
    scene.agent.start(&[]);
    assert_eq!(heard().trim(), "READY=1");
    assert!(scene.agent.path("run/control.sock").exists());
    assert!(scene.agent.stop().success());
    assert_eq!(heard().trim(), "STOPPING=1");
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
    let asked = Command::new("setpriv")
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
