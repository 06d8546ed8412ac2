//! Endpoints that are removed or replaced while their interface lives.

use std::process::Command;

use cofferdam_protocol::output::{EndpointReport, EndpointState, EndpointStatus};
use cofferdam_tests::agent::Agent;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::world::Wiring;
use cofferdam_tests::{cofferdam, skip_unless};

use super::scene::{DB_FROM_WEB, Scene};

const SHOP: [&str; 5] = [
    "shop/web",
    "shop/db",
    "shop/stranger",
    "shop/other",
    "shop/second",
];

/// A scene in which `shop/other` may be reached by everybody, and reaches everybody.
fn scene(wiring: Wiring) -> Scene {
    let scene = Scene::of(wiring, &SHOP).in_force(DB_FROM_WEB);
    scene.agent.add(scene.workload("shop/other"), &[]);
    scene
}

/// Asserts that nobody reaches a workload and that it reaches nobody, managed or not,
/// while others reach each other.
#[track_caller]
fn assert_closed(scene: &Scene, workload: &str) {
    for other in ["shop/other", "shop/stranger"] {
        scene.assert_blocked(workload, other);
        scene.assert_blocked(other, workload);
    }
    scene.assert_reaches("shop/stranger", "shop/other");
    scene.assert_reaches("shop/other", "shop/stranger");
}

/// Lets every stack forget that it could not find a neighbour: it would not look again
/// for some seconds.
fn forget_neighbours(scene: &Scene) {
    let workloads = scene
        .world
        .workloads()
        .iter()
        .map(|workload| &workload.namespace);
    for namespace in workloads.chain([&scene.world.node().namespace]) {
        let flushed = namespace.run(|| {
            let flush = ["neigh", "flush", "all"];
            Command::new("ip").args(flush).status()
        });
        assert!(flushed.expect("ip is there").success());
    }
}

fn leaving(scene: &Scene) -> Vec<EndpointReport> {
    let all = scene.agent.endpoints().into_iter();
    all.filter(|endpoint| endpoint.leaving).collect()
}

#[test]
fn the_interface_of_a_removed_endpoint_stays_closed_until_it_has_gone() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = scene(wiring);
        scene.assert_reaches("shop/web", "shop/other");
        scene.assert_reaches("shop/stranger", "shop/web");
        let report = scene.agent.remove("shop/web");
        assert_eq!(report.removed, ["shop/web/eth0"]);
        assert_eq!(report.leaving, ["shop/web/eth0"]);
        assert_closed(&scene, "shop/web");
        let status = scene.agent.wait_enforced();
        let is_web = |one: &&EndpointStatus| one.called() == "shop/web/eth0";
        let webs = status.endpoints.iter().filter(is_web);
        assert!(webs.map(|one| one.leaving).eq([true]), "{status:?}");
        let room = status.capacity.iter().filter_map(|one| {
            let table = one.table.strip_prefix("endpoints")?;
            Some((table, one.used))
        });
        assert!(room.eq([("", 3), ("_leaving", 1)]), "{status:?}");
        let [left] = &leaving(&scene)[..] else {
            panic!("{:?}", scene.agent.endpoints());
        };
        assert_eq!(left.state, EndpointState::DenyAll);
        assert_eq!(left.host_ifindex, scene.workload("shop/web").host_ifindex);

        scene.agent.kill();
        assert_closed(&scene, "shop/web");
        scene.agent.start_enforced();
        assert_closed(&scene, "shop/web");
        assert_eq!(leaving(&scene).len(), 1);

        scene.world.remove("shop/web").expect("it is there");
        let status = scene.agent.wait_until("forgotten", |status| {
            status.endpoints.iter().all(|one| !one.leaving)
        });
        assert_eq!(status.endpoints.len(), 2);
    }
}

#[test]
fn the_interface_of_a_replaced_endpoint_stays_closed_until_it_has_gone() {
    skip_unless!(Feature::NetworkNamespaces);
    for wiring in Wiring::BOTH {
        let mut scene = scene(wiring);
        let second = scene.workload("shop/second");
        let added = scene
            .agent
            .add_as(second, "shop/web", &["--label", "app=web"]);
        assert!(added.status.success(), "{added:?}");
        scene.assert_reaches("shop/second", "shop/db");
        assert_closed(&scene, "shop/web");
        scene.assert_blocked("shop/web", "shop/db");
        let list = scene.agent.endpoints();
        let webs: Vec<_> = (list.iter().filter(|one| one.called() == "shop/web/eth0"))
            .map(|one| (one.host_ifindex, one.state, one.leaving))
            .collect();
        let old = scene.workload("shop/web").host_ifindex;
        assert_eq!(
            webs,
            [
                (second.host_ifindex, EndpointState::Enforced, false),
                (old, EndpointState::DenyAll, true)
            ]
        );
        scene.agent.kill();
        assert_closed(&scene, "shop/web");
        scene.agent.start_enforced();
        assert_closed(&scene, "shop/web");
        scene.assert_reaches("shop/second", "shop/db");
        // The end of the old interface takes nothing from the new one.
        scene.world.remove("shop/web").expect("it is there");
        scene.agent.wait_until("forgotten", |status| {
            status.endpoints.iter().all(|one| !one.leaving)
        });
        scene.assert_reaches("shop/second", "shop/db");
        scene.assert_blocked("shop/stranger", "shop/db");
    }
}

#[test]
fn an_interface_that_is_released_is_open() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene(Wiring::Ptp);
    scene.assert_blocked("shop/stranger", "shop/db");
    let report = scene.agent.remove_with("shop/db", &["--release"]);
    assert_eq!(report.removed, ["shop/db/eth0"]);
    assert!(report.leaving.is_empty(), "{report:?}");
    scene.assert_reaches("shop/stranger", "shop/db");
    // Also after it was closed.
    scene.agent.remove("shop/web");
    assert_closed(&scene, "shop/web");
    let report = scene.agent.remove_with("shop/web", &["--release"]);
    assert_eq!(report.removed, ["shop/web/eth0"]);
    forget_neighbours(&scene);
    scene.assert_reaches("shop/web", "shop/db");
    scene.assert_reaches("shop/stranger", "shop/web");
    assert!(leaving(&scene).is_empty());
}

#[test]
fn an_endpoint_that_is_leaving_is_in_force_when_it_is_added_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene(Wiring::Bridge);
    scene.agent.remove("shop/web");
    assert_closed(&scene, "shop/web");
    // A call that is refused leaves it as it is.
    let web = scene.workload("shop/web");
    let refused = scene
        .agent
        .add_as(web, "shop/web", &["--address", "10.64.0.3"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_closed(&scene, "shop/web");
    scene.agent.add(web, &["app=web"]);
    forget_neighbours(&scene);
    scene.assert_reaches("shop/web", "shop/db");
    scene.assert_reaches("shop/stranger", "shop/web");
    assert!(leaving(&scene).is_empty());
}

#[test]
fn addresses_of_an_endpoint_that_is_leaving_are_free() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene(Wiring::Ptp);
    scene.agent.remove("shop/web");
    let address = "10.64.0.2";
    let second = scene.workload("shop/second");
    let added = scene.agent.add_as(
        second,
        "shop/second",
        &["--address", address, "--label", "app=web"],
    );
    assert!(added.status.success(), "{added:?}");
    assert!(scene.agent.status().enforced);
    // The closed interface does not take them back, neither by its end nor by itself.
    assert_closed(&scene, "shop/web");
    let list = scene.agent.endpoints();
    let holders: Vec<u32> = (list.iter())
        .filter(|one| one.addresses.iter().any(|one| one.to_string() == address))
        .map(|one| one.host_ifindex)
        .collect();
    assert_eq!(holders, [second.host_ifindex]);
}

#[test]
fn the_end_of_one_container_does_not_remove_the_next_of_its_name() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene(Wiring::Ptp);
    let (web, second) = (scene.workload("shop/web"), scene.workload("shop/second"));
    let add = |workload, id| {
        let more = ["--label", "app=web", "--container-id", id];
        let added = scene.agent.add_as(workload, "shop/web", &more);
        assert!(added.status.success(), "{added:?}");
    };
    add(web, "one");
    add(second, "two");
    assert_closed(&scene, "shop/web");
    let remove = |id| {
        let report = scene.agent.remove_with("shop/web", &["--container-id", id]);
        report.removed
    };
    // The end of the first comes late.
    assert!(remove("one").is_empty());
    scene.assert_reaches("shop/second", "shop/db");
    let ids: Vec<_> = (scene.agent.endpoints().into_iter())
        .filter(|one| one.called() == "shop/web/eth0")
        .map(|one| one.container_id)
        .collect();
    assert_eq!(ids, [Some("two".to_owned()), Some("one".to_owned())]);
    assert_eq!(remove("two"), ["shop/web/eth0"]);
    assert_closed(&scene, "shop/second");
}

#[test]
fn a_container_keeps_its_interface_under_another_name() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = scene(Wiring::Ptp);
    let second = scene.workload("shop/second");
    for name in ["shop/early", "shop/late"] {
        let added = scene.agent.add_as(second, name, &["--container-id", "one"]);
        assert!(added.status.success(), "{added:?}");
    }
    let list = scene.agent.endpoints();
    let ids: Vec<&str> = list.iter().map(|one| one.called()).collect();
    let expected = ["shop/db", "shop/late", "shop/other", "shop/web"];
    assert_eq!(ids, expected.map(|name| format!("{name}/eth0")));
    // Another container's it cannot become.
    let taken = scene
        .agent
        .add_as(second, "shop/early", &["--container-id", "two"]);
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
}

#[test]
fn an_endpoint_with_which_there_is_no_table_is_closed_in_place() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::of(Wiring::Ptp, &SHOP);
    scene.agent = Agent::new(cofferdam!(), &scene.world)
        .settings("limits: {endpoints: 8, slots: 64, table_pages: 8}\n");
    let mut documents = DB_FROM_WEB.to_owned();
    for number in 1..=48 {
        documents += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nstatus: {{podIP: \
             10.9.0.{number}}}\n"
        );
    }
    let scene = scene.in_force(&documents);
    scene.agent.add(scene.workload("shop/other"), &[]);
    scene.assert_reaches("shop/web", "shop/db");
    // The same endpoint with as many addresses as there is no room for.
    let mut more = vec!["--label".to_owned(), "app=web".to_owned()];
    for number in 1..=8 {
        more.extend(["--address".to_owned(), format!("10.10.0.{number}")]);
        more.extend(["--address".to_owned(), format!("fd10::{number}")]);
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let refused = scene
        .agent
        .add_as(scene.workload("shop/web"), "shop/web", &more);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("slots"), "{told}");
    assert_closed(&scene, "shop/web");
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.add(scene.workload("shop/db"), &["app=db"]);
    assert_closed(&scene, "shop/web");
}
