//! The short way of the loaded programs, and what keeps flows from it.

use cofferdam_dataplane::Kernel;
use cofferdam_tests::firewall::named;

use super::flows::{FLOW, RULE, Shop, request};

/// The generation of all bindings; even unless a change is under way.
fn generation(kernel: &Kernel) -> u32 {
    kernel.memory().bindings[0].epoch.load()
}

/// An epoch that moves without its generation, as no agent lets it, goes unseen by the short
/// way alone.
#[test]
fn packets_of_a_flow_that_was_checked_take_the_short_way() {
    let (world, mut shop) = Shop::open();
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    shop.connect(web, db, 40000);
    let next = request(web, db).ack();
    for _ in 0..2 {
        assert_eq!(shop.send(&next, web, db), [FLOW, FLOW]);
    }
    let (_, slot) = shop.firewall.endpoint(&world, "shop/web").addresses[0];
    let bindings = |shop: &mut Shop, slot: u32, by: u32| {
        let kernel = shop.firewall.kernel();
        kernel.memory().bindings[slot as usize].epoch.add(by);
    };
    bindings(&mut shop, slot, 1);
    assert_eq!(shop.send(&next, web, db), [FLOW, FLOW]);
    bindings(&mut shop, 0, 2);
    assert_eq!(shop.send(&next, web, db), [FLOW, RULE]);
}

#[test]
fn every_change_of_a_binding_moves_the_generation() {
    let (world, mut shop) = Shop::open();
    let endpoint = shop.firewall.endpoint(&world, "shop/web");
    let (address, slot) = endpoint.addresses[0];
    let kernel = shop.firewall.kernel();
    let mut last = generation(kernel);
    let mut moved = |kernel: &Kernel, about: &str| {
        let now = generation(kernel);
        assert!(
            now != last && now.is_multiple_of(2),
            "{about}: {last}, {now}"
        );
        last = now;
    };
    assert!(kernel.release_address(address));
    moved(kernel, "an address is released");
    kernel.bind_address(address, slot).expect("there is room");
    moved(kernel, "an address is bound");
    kernel.end_epochs();
    moved(kernel, "epochs are ended");
    kernel.set_endpoint(&endpoint).expect("there is room");
    moved(kernel, "an endpoint is replaced");
    assert!(kernel.remove_endpoint(endpoint.ifindex));
    moved(kernel, "an endpoint is removed");
    kernel.set_endpoint(&endpoint).expect("there is room");
    moved(kernel, "an endpoint is put in force");
}
