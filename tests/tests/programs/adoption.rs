//! Enforcement continues after the agent ends, and the next agent adopts it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    time::Instant,
};

use cofferdam_dataplane::{Adopted, Behaviour, Endpoint, Kernel, KernelError};
use cofferdam_tests::{
    firewall::{LIMITS, named},
    packet::Family,
    skip::Feature,
    skip_unless,
    traffic::Conversation,
};
use cofferdam_verdict::{capacity::Limits, counter::Hook};
use nix::unistd::{Uid, setfsuid};

use super::agents::{Agent, PATIENCE, Shop, names, open, root, set, take_turn};

/// Killed agents, and agents that come after.
#[test]
fn a_killed_agent_changes_no_verdict_and_the_next_adopts_everything() {
    if Agent::is_this() {
        return Agent::live();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    let keys = firewall.kernel().settings().keys;
    let maps = firewall.kernel().map_ids().expect("maps");
    let mut endpoints = firewall.kernel().endpoints();
    endpoints.sort_by_key(|endpoint| endpoint.ifindex);
    let mut addresses = firewall.kernel().bound_addresses();
    addresses.sort();
    assert_eq!(
        addresses.len(),
        2 * shop.pods.len() + 2,
        "the node's as well"
    );
    for (pod, endpoint) in shop.pods.iter().zip(&endpoints) {
        assert_eq!(*endpoint, firewall.endpoint(&shop.world, &pod.name));
    }
    let revision = firewall.kernel().revision();
    assert_eq!(revision, Some(1));
    drop(firewall);

    let this = "adoption::a_killed_agent_changes_no_verdict_and_the_next_adopts_everything";
    let mut agent = Agent::start(this, &shop.interfaces());
    agent.wait_enforcing();
    shop.assert_policy();
    let db = named(&shop.world, "shop/db")
        .end
        .ip(Family::V4)
        .expect("workloads have both families");
    let web = named(&shop.world, "shop/web");
    let mut running = Conversation::tcp(web, db, 5432, PATIENCE).expect("a connection");
    running.exchange(b"before", PATIENCE).expect("it runs");

    shop.without_a_gap(|| agent.kill());
    shop.assert_policy();
    running.exchange(b"after", PATIENCE).expect("it still runs");

    let programs = {
        let mut kernel = shop.without_a_gap(open);
        assert_eq!(kernel.adopted(), Adopted::Everything);
        assert_eq!(kernel.settings().keys, keys);
        assert_eq!(kernel.map_ids().expect("maps"), maps);
        assert_eq!(kernel.revision(), revision);
        let mut found = kernel.endpoints();
        found.sort_by_key(|endpoint| endpoint.ifindex);
        assert_eq!(found, endpoints);
        let mut found = kernel.bound_addresses();
        found.sort();
        assert_eq!(found, addresses);
        // What stands is what would be put there: nothing to do.
        shop.assert_enforced(&kernel);
        let before: Vec<_> = (shop.interfaces().into_iter())
            .map(|ifindex| shop.programs(&kernel, ifindex))
            .collect();
        shop.without_a_gap(|| shop.enforce(&mut kernel));
        let after: Vec<_> = (shop.interfaces().into_iter())
            .map(|ifindex| shop.programs(&kernel, ifindex))
            .collect();
        assert_eq!(before, after);
        before
    };
    running.exchange(b"later", PATIENCE).expect("it still runs");

    // Who comes new gets nothing of what others have.
    let mut kernel = open();
    let database = named(&shop.world, "shop/db").host_ifindex;
    let flows = kernel.flows(database).expect("an endpoint");
    assert!(flows.used > 0, "the flows are adopted");
    let neighbour = Endpoint {
        ifindex: u32::MAX >> 1,
        addresses: Vec::new(),
        ..endpoints[0].clone()
    };
    kernel.set_endpoint(&neighbour).expect("there is room");
    running.exchange(b"still", PATIENCE).expect("it still runs");
    assert!(kernel.remove_endpoint(neighbour.ifindex));
    // What was denied while nobody listened has been kept, as far as there was room.
    let mut events = kernel.events().expect("the first to ask");
    assert!(events.next().is_some());
    drop((events, kernel));

    // The counters have gone on all the time.
    let firewall = shop.fill(open());
    let ledger = firewall.ledger();
    ledger.assert_conserved();
    let counted = ledger.seen(Hook::ToWorkload);
    assert!(counted > 200, "{counted} packets in all that time");
    shop.assert_policy();
    assert!(firewall.ledger().seen(Hook::ToWorkload) > counted);
    let kernel = open();
    for (ifindex, programs) in shop.interfaces().into_iter().zip(programs) {
        assert_eq!(shop.programs(&kernel, ifindex), programs);
    }
}

/// Programs of another make are put in the place of those that stand, over the same
/// maps.
#[test]
fn other_programs_take_over_without_a_gap() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let maps = firewall.kernel().map_ids().expect("maps");
    let revision = firewall.kernel().revision();
    let ifindex = shop.interfaces()[0];
    let before = shop.programs(firewall.kernel(), ifindex);
    drop(firewall);
    // A setting is part of what the programs are loaded with.
    let other = Behaviour {
        own_node_allowed: false,
        ..Behaviour::default()
    };

    shop.without_a_gap(|| {
        let mut kernel = Kernel::open(&root(), LIMITS, &other).expect("the pins are there");
        assert_eq!(kernel.adopted(), Adopted::Maps);
        assert_eq!(kernel.map_ids().expect("maps"), maps);
        assert_eq!(kernel.revision(), revision);
        assert!(
            !kernel.hooks(ifindex).expect("states")[0].ok,
            "not ours yet"
        );
        let set = set();
        let kinds = |prefix| {
            let names = names(&set).into_iter();
            names.filter(|name| name.starts_with(prefix)).count()
        };
        assert_eq!(kinds("programs-"), 2, "the older ones still stand");
        shop.enforce(&mut kernel);
        assert_eq!(kinds("programs-"), 1, "nothing needs the older ones");
        let after = shop.programs(&kernel, ifindex);
        for ((hook, before), (_, after)) in before.iter().zip(&after) {
            assert_ne!(before, after, "{hook}");
        }
    });
    shop.assert_policy();
    let kernel = Kernel::open(&root(), LIMITS, &other).expect("the pins are there");
    assert_eq!(kernel.adopted(), Adopted::Everything);
}

/// Maps of other limits cannot be used. The old ones judge until the new ones do.
#[test]
fn other_limits_take_over_without_a_gap() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let keys = firewall.kernel().settings().keys;
    drop(firewall);

    let limits = Limits {
        slots: 2 * LIMITS.slots,
        ..LIMITS
    };
    let sets = || {
        let names = names(&root()).into_iter();
        names.filter(|name| name.starts_with("maps-")).count()
    };
    shop.without_a_gap(|| {
        let kernel =
            Kernel::open(&root(), limits, &Behaviour::default()).expect("room for another set");
        assert_eq!(kernel.adopted(), Adopted::Incompatible);
        assert_eq!(kernel.revision(), None);
        assert_ne!(kernel.settings().keys, keys);
        assert!(kernel.endpoints().is_empty() && kernel.bound_addresses().is_empty());
        assert_eq!(sets(), 2);
        let mut firewall = shop.fill(kernel);
        let interfaces = shop.interfaces();
        let (last, first) = interfaces.split_last().expect("pods");
        for &ifindex in first {
            firewall.kernel().enforce_on(ifindex).expect("it exists");
            assert_eq!(sets(), 2, "something still stands on the old set");
        }
        firewall.kernel().enforce_on(*last).expect("it exists");
        assert_eq!(sets(), 1, "nothing stands on the old set");
        shop.assert_enforced(firewall.kernel());
    });
    shop.assert_policy();
}

/// A connection outlives an agent with another table, other counters or another ring:
/// flows and what they rest on have a shape of their own.
#[test]
fn flows_survive_a_change_of_the_maps_that_they_do_not_rest_on() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&shop.world, name));
    let to = db.end.ip(Family::V4).expect("both");
    let mut conversation = Conversation::tcp(web, to, 5432, PATIENCE).expect("allowed by a rule");
    let keys = firewall.kernel().settings().keys;
    let endpoints = firewall.kernel().endpoints();
    let bound = firewall.kernel().bound_addresses();
    let revision = firewall.kernel().revision().expect("a table");
    drop(firewall);

    let limits = Limits {
        event_bytes: 2 * LIMITS.event_bytes,
        table_pages: 2 * LIMITS.table_pages,
        ..LIMITS
    };
    shop.without_a_gap(|| {
        let kernel =
            Kernel::open(&root(), limits, &Behaviour::default()).expect("room for another set");
        assert_eq!(kernel.adopted(), Adopted::State);
        assert_eq!(kernel.revision(), None);
        assert_eq!(kernel.last_revision(), revision);
        assert_eq!(kernel.settings().keys, keys);
        assert_eq!(kernel.endpoints(), endpoints);
        assert_eq!(kernel.bound_addresses(), bound);
        let mut firewall = shop.fill(kernel);
        shop.enforce(firewall.kernel());
    });
    let goes_on = conversation.exchange(b"more", PATIENCE);
    goes_on.expect("the connection outlives the table");
    shop.assert_policy();
}

/// An agent that dies while it makes a set leaves nothing that is taken for one.
#[test]
fn a_half_made_set_is_made_again() {
    if Agent::is_this() {
        return Agent::live();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    drop(kernel);
    let whole = set();
    // The programs' directory is named after what they were loaded with, the keys
    // of this set included.
    let pins = || {
        let names = names(&whole).into_iter();
        let kind = |name: String| match name.split_once('-') {
            Some((kind, _)) => kind.to_owned(),
            None => name,
        };
        names.map(kind).collect::<Vec<_>>()
    };
    let all = pins();
    // What an agent that was killed after the third pin leaves behind.
    let making = root().join("making");
    fs::rename(&whole, &making).expect("one directory");
    for name in names(&making).into_iter().skip(3) {
        let path = making.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.expect("a pin");
    }
    // One that is killed as soon as it begins to pin.
    let agent = Agent::start("adoption::a_half_made_set_is_made_again", &[]);
    let deadline = Instant::now() + 10 * PATIENCE;
    while names(&making).len() == 3 {
        std::hint::spin_loop();
        assert!(Instant::now() < deadline, "the agent never began");
    }
    while names(&making).is_empty() && !whole.exists() {
        std::hint::spin_loop();
        assert!(Instant::now() < deadline, "the agent never began to pin");
    }
    agent.kill();

    let kernel = open();
    assert!(matches!(
        kernel.adopted(),
        Adopted::Nothing | Adopted::Everything
    ));
    assert_eq!(pins(), all);
    assert!(!making.exists());
    drop(kernel);
    // Where there is a whole one, only the half goes.
    for half in [making, whole.join("making")] {
        fs::create_dir(&half).expect("ours");
        assert_eq!(open().adopted(), Adopted::Everything);
        assert!(!half.exists());
    }
    // A set that lacks a pin is no set.
    fs::remove_file(whole.join(&all[1])).expect("a pin");
    let kernel = open();
    assert_eq!(kernel.adopted(), Adopted::Incompatible);
    assert_eq!(kernel.revision(), None);
    assert_eq!(pins(), all);
}

/// Records that were in use stay so, the others can be used.
#[test]
fn an_adopted_set_has_the_room_that_it_had() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, mut kernel) = take_turn();
    let endpoint = |ifindex| Endpoint {
        ifindex,
        mac: [2, 0, 0, 0, 0, 1],
        incarnation: 7,
        addresses: vec![
            ([10, 0, 0, 1].into(), 5),
            (std::net::Ipv6Addr::LOCALHOST.into(), 4),
        ],
        stamp: ifindex as u16,
        link_local: (ifindex % 7 == 0).then(|| "fe80::7".parse().expect("an address")),
        deny_all: ifindex % 2 == 0,
        shared_hooks: ifindex % 3 == 0,
        adopt_until: ifindex % 5,
        listeners: std::array::from_fn(|place| ifindex + place as u32),
    };
    for ifindex in 1..LIMITS.endpoints {
        kernel
            .set_endpoint(&endpoint(ifindex))
            .expect("there is room");
    }
    drop(kernel);
    let mut kernel = open();
    let mut found = kernel.endpoints();
    found.sort_by_key(|endpoint| endpoint.ifindex);
    let expected: Vec<_> = (1..LIMITS.endpoints).map(endpoint).collect();
    assert_eq!(found, expected);
    let full = |kernel: &mut Kernel| {
        let refused = kernel.set_endpoint(&endpoint(1000));
        matches!(refused, Err(KernelError::EndpointsFull { .. }))
    };
    kernel
        .set_endpoint(&endpoint(LIMITS.endpoints))
        .expect("there is room for one");
    assert!(full(&mut kernel));
    drop(kernel);
    let mut kernel = open();
    assert!(full(&mut kernel));
    for ifindex in 1..=LIMITS.endpoints {
        // Twice: as many records again rest.
        for _ in 0..2 {
            kernel
                .set_endpoint(&endpoint(ifindex))
                .expect("it takes its own place");
        }
    }
    assert!(kernel.remove_endpoint(1));
    assert!(!full(&mut kernel));
}

#[test]
fn flow_tables_of_the_next_endpoints_are_made_beforehand() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    drop(kernel);
    // One that has opened no partition yet.
    let mut kernel = open();
    let mut keeper = kernel.flow_keeper().expect("memory");
    let bytes = |kernel: &Kernel| kernel.map_bytes().expect("the kernel tells");
    let mut ifindex = 0;
    for _ in 0..2 {
        assert!(kernel.are_few_flow_tables_ready(), "{ifindex}");
        keeper.prepare().expect("memory");
        let ready = bytes(&kernel);
        let before = ifindex;
        while !kernel.are_few_flow_tables_ready() {
            ifindex += 1;
            let endpoint = Endpoint {
                ifindex,
                mac: [2, 0, 0, 0, 0, 1],
                incarnation: ifindex,
                addresses: Vec::new(),
                stamp: 0,
                link_local: None,
                deny_all: true,
                shared_hooks: false,
                adopt_until: 0,
                listeners: Default::default(),
            };
            kernel.set_endpoint(&endpoint).expect("there is room");
        }
        assert!(ifindex > before, "some were made");
        assert_eq!(bytes(&kernel), ready, "and no more for these endpoints");
    }
    assert_eq!(kernel.endpoints().len(), ifindex as usize);
}

/// A slot is bound before the endpoint is in force: an agent that died in between
/// has bound it to nobody.
#[test]
fn what_an_agent_died_in_the_middle_of_is_undone() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, mut kernel) = take_turn();
    let endpoint = Endpoint {
        ifindex: 7,
        mac: [2, 0, 0, 0, 0, 1],
        incarnation: 7,
        addresses: vec![([10, 0, 0, 1].into(), 5)],
        stamp: 3,
        link_local: None,
        deny_all: false,
        shared_hooks: false,
        adopt_until: 0,
        listeners: Default::default(),
    };
    kernel.set_endpoint(&endpoint).expect("there is room");
    let bound = |kernel: &Kernel, slot: usize| {
        let binding = &kernel.memory().bindings[slot];
        (
            binding.ifindex.load(),
            binding.stamp.load(),
            binding.epoch.load(),
        )
    };
    let (_, _, epoch) = bound(&kernel, 6);
    let in_force = bound(&kernel, 5);
    let half = &kernel.memory().bindings[6];
    half.stamp.store(3);
    half.ifindex.store(7);
    // It was killed in a change: no flow takes the short way until the next one has adopted.
    let generation = &kernel.memory().bindings[0].epoch;
    generation.add(1);
    let killed_in = generation.load();
    assert_eq!(killed_in % 2, 1, "an agent that is alive leaves it even");
    drop(kernel);
    let kernel = open();
    let generation = kernel.memory().bindings[0].epoch.load();
    assert!(generation > killed_in && generation.is_multiple_of(2));
    assert_eq!(bound(&kernel, 6), (0, 0, epoch + 1));
    assert_eq!(bound(&kernel, 5), in_force);
    assert_eq!(kernel.endpoints(), [endpoint]);
}

/// Nobody but the agent's user gets at the pins, and nobody else can have made them.
#[test]
fn pins_are_for_one_user() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    drop(kernel);
    let set = set();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    let open_to_all = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(root(), open_to_all.clone()).expect("ours");
    drop(open());
    for directory in [root(), set.clone()] {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
    }
    let nobody = Uid::from_raw(65_534);
    // For file access, and for this thread alone.
    setfsuid(nobody);
    let refused = [
        fs::read_dir(root()).err(),
        fs::metadata(set.join("KEYS")).err(),
    ];
    setfsuid(Uid::from_raw(0));
    for error in refused {
        let error = error.expect("another user sees nothing");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }

    // What another user has put into an open root is not ours.
    fs::set_permissions(root(), open_to_all).expect("ours");
    chown(&set, Some(65_534), None).expect("root");
    let elsewhere = root().join("another");
    fs::create_dir(&elsewhere).expect("ours");
    chown(&elsewhere, Some(65_534), None).expect("root");
    let refused =
        Kernel::open(&elsewhere, LIMITS, &Behaviour::default()).expect_err("another's root");
    assert!(refused.to_string().contains("65534"), "{refused}");
    let not_there = std::env::temp_dir().join("cofferdam-pins");
    let refused =
        Kernel::open(&not_there, LIMITS, &Behaviour::default()).expect_err("no BPF file system");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
    assert!(!not_there.exists());
    let kernel = open();
    assert_eq!(kernel.adopted(), Adopted::Nothing);
    assert!(!elsewhere.exists());
}
