//! Sweeps of the flow table that run while everything else goes on.

use cofferdam_dataplane::{KernelError, Program};
use cofferdam_tests::{
    firewall::{Firewall, named},
    shop::{CLOSED, DB},
    world::{Wiring, Workload, World},
};
use cofferdam_verdict::{
    reason::Reason,
    table::{Page, header},
    verdict::Action,
};

use super::flows::{FLOW, RULE, judged, request, segment};
use super::verdicts::{between, leaving, shop};

/// A connection of web to the database, up to the answer.
fn shake(firewall: &mut Firewall, web: &Workload, db: &Workload) {
    let syn = request(web, db).syn().bytes();
    let opened = judged(firewall, Program::TO_WORKLOAD, &syn, &between(web, db));
    assert_eq!(opened, RULE);
    let answer = segment(db, web).syn().ack().bytes();
    let answered = judged(firewall, Program::FROM_WORKLOAD, &answer, &leaving(db));
    assert_eq!(answered, FLOW);
}

/// Returns the verdict about the connection's next segment.
fn next(firewall: &mut Firewall, web: &Workload, db: &Workload) -> (Action, Reason) {
    let ack = request(web, db).ack().bytes();
    judged(firewall, Program::TO_WORKLOAD, &ack, &between(web, db))
}

fn renew(firewall: &mut Firewall, world: &World, by: u32) -> Result<(), KernelError> {
    let mut endpoint = firewall.endpoint(world, "shop/db");
    endpoint.incarnation += by;
    firewall.kernel().set_endpoint(&endpoint)
}

#[test]
fn a_sweep_under_way_leaves_flows_of_the_next_table_and_endpoint() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::load();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shake(&mut firewall, web, db);

    // An endpoint's flows of before go, those of the next incarnation stay.
    let sweep = firewall.kernel().begin_sweep().expect("a clock");
    renew(&mut firewall, &world, 1).expect("there is room");
    shake(&mut firewall, web, db);
    _ = sweep.run();
    assert_eq!(next(&mut firewall, web, db), FLOW);

    // So do flows that were decided by a table published meanwhile.
    let sweep = firewall.kernel().begin_sweep().expect("a clock");
    firewall.replace_policies(&[CLOSED, DB].concat());
    shake(&mut firewall, web, db);
    assert_eq!(sweep.run().freed, 0);
    assert_eq!(next(&mut firewall, web, db), FLOW);

    // Nobody's partition is left alone, until its next endpoint finds it empty.
    let sweep = firewall.kernel().begin_sweep().expect("a clock");
    firewall.kernel().remove_endpoint(db.host_ifindex);
    assert_eq!(sweep.run().freed, 0);
}

/// The entries of a flow hold twelve bits of the revision.
#[test]
fn no_table_is_published_far_ahead_of_the_last_sweep() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::load();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let first = firewall.kernel().revision().expect("a table");
    let pages: Vec<Page> = firewall.compiled().pages().to_vec();
    let publish = |firewall: &mut Firewall, revision: u64| {
        let mut pages = pages.clone();
        pages[0][header::REVISION_LOW] = revision as u32;
        firewall.kernel().publish(&pages).map(|_| ())
    };
    publish(&mut firewall, first + 2_047).expect("not too far");
    let refused = publish(&mut firewall, first + 2_048);
    assert!(matches!(refused, Err(KernelError::NotSwept)), "{refused:?}");
    assert_eq!(firewall.kernel().revision(), Some(first + 2_047));
    firewall.kernel().sweep().expect("a clock");
    publish(&mut firewall, first + 2_048).expect("it was swept");
}

/// They hold ten bits of the incarnation.
#[test]
fn no_endpoint_is_put_in_force_far_ahead_of_the_last_sweep() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::load();
    firewall.enforce(&world, &pods, &[CLOSED, DB].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    renew(&mut firewall, &world, 511).expect("not too far");
    let refused = renew(&mut firewall, &world, 512);
    assert!(matches!(refused, Err(KernelError::NotSwept)), "{refused:?}");
    shake(&mut firewall, web, db);
    firewall.kernel().sweep().expect("a clock");
    assert_eq!(next(&mut firewall, web, db), FLOW);
    renew(&mut firewall, &world, 512).expect("it was swept");
}
