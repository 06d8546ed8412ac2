//! Programs and pins that another process removed or replaced, or put its own before, are put
//! right again.

use std::{fs, os::fd::AsRawFd as _};

use cofferdam_dataplane::{Adopted, AttachError, HookState};
use cofferdam_tests::{
    firewall::{Firewall, named},
    skip::Feature,
    skip_unless,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::agents::{Agent, Shop, mount_bpffs, names, open, root, take_turn, unmount_bpffs};

/// The filters stay when the links are lost with their pins, and a new agent puts
/// the links back.
#[test]
fn a_lost_file_system_takes_no_verdict_along() {
    if Agent::is_this() {
        return Agent::live();
    }
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let firewall = shop.fill(kernel);
    drop(firewall);
    let this = "repair::a_lost_file_system_takes_no_verdict_along";
    let mut agent = Agent::start(this, &shop.interfaces());
    agent.wait_enforcing();
    agent.kill();
    shop.without_a_gap(|| {
        unmount_bpffs();
        mount_bpffs();
    });
    shop.assert_policy();

    shop.without_a_gap(|| {
        let kernel = open();
        assert_eq!(kernel.adopted(), Adopted::Nothing);
        let mut firewall = shop.fill(kernel);
        shop.enforce(firewall.kernel());
    });
    shop.assert_policy();
    assert_eq!(open().adopted(), Adopted::Everything);
}

/// While the agent lives, its links do not need their pins; they are put back for
/// the agent after it.
#[test]
fn a_living_agent_keeps_its_links_and_pins_them_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    assert!(!firewall.kernel().restore_pins(false).expect("they stand"));
    let links = names(&root().join("links"));
    let ifindex = shop.interfaces()[0];
    let before = shop.programs(firewall.kernel(), ifindex);
    shop.without_a_gap(|| {
        unmount_bpffs();
        mount_bpffs();
        shop.assert_enforced(firewall.kernel());
        assert!(
            firewall
                .kernel()
                .restore_pins(false)
                .expect("room for pins")
        );
    });
    assert_eq!(names(&root().join("links")), links);
    drop(firewall);
    let kernel = open();
    assert_eq!(kernel.adopted(), Adopted::Everything);
    assert_eq!(shop.programs(&kernel, ifindex), before);
    shop.assert_enforced(&kernel);
    shop.assert_policy();
}

/// Other programs that came to stand before ours, or in their place, are behind
/// them again, and what was lost is back.
#[test]
fn whoever_comes_before_ours_is_behind_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let db = named(&shop.world, "shop/db");
    let state = |firewall: &mut Firewall| firewall.kernel().hooks(db.host_ifindex).expect("states");
    let right = state(&mut firewall);

    // A stranger that drops everything: nothing is in force there. It takes the
    // filters over, which are known by their handles.
    let mut stranger = Firewall::turn();
    let attached = stranger.kernel().attach(&db.host_interface).expect("room");
    let has_links = attached.has_links();
    assert!(!shop.reaches("shop/web"), "the stranger drops");
    for hook in state(&mut firewall) {
        assert!(!hook.ok, "{hook:?}");
        assert_eq!(hook.foreign, hook.hook.starts_with("tcx"), "{hook:?}");
        assert_eq!(hook.first, hook.hook.starts_with("clsact"), "{hook:?}");
    }
    // Twice: the second time the twins are there already.
    for _ in 0..2 {
        firewall
            .kernel()
            .enforce_on(db.host_ifindex)
            .expect("it exists");
        for (hook, before) in state(&mut firewall).into_iter().zip(&right) {
            assert!(hook.ok && hook.first, "{hook:?}");
            assert_eq!(hook.program_id, before.program_id, "{hook:?}");
            assert_eq!(hook.foreign, has_links && hook.hook.starts_with("tcx"));
        }
        shop.assert_policy();
    }
    // The stranger goes, and takes what it had taken over along.
    drop(attached);
    let gone = state(&mut firewall);
    assert!(
        gone.iter()
            .all(|hook| hook.ok == hook.hook.starts_with("tcx")),
        "{gone:?}"
    );
    firewall
        .kernel()
        .enforce_on(db.host_ifindex)
        .expect("it exists");
    assert_eq!(state(&mut firewall), right);
    shop.assert_policy();

    drop(stranger);
    drop(firewall);
    let kernel = open();
    shop.assert_enforced(&kernel);
}

/// The same for filters, which are all there is on a kernel without tcx.
#[test]
fn a_filter_that_came_before_ours_is_behind_again() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let db = named(&shop.world, "shop/db").host_ifindex;
    put_passing_filter(db);
    let states = firewall.kernel().hooks(db).expect("states");
    // What would be dropped there is dropped by its sender's hook all the same.
    assert!(!shop.denied_arrives());
    for state in &states {
        let behind = state.hook == "clsact_egress";
        assert_eq!(
            (state.ok, state.first, state.foreign),
            (!behind, !behind, behind),
            "{state:?}"
        );
    }
    let right = states.into_iter().map(|state| HookState {
        ok: true,
        first: true,
        ..state
    });
    let right: Vec<_> = right.collect();
    // The second time there is nothing to do.
    for _ in 0..2 {
        firewall.kernel().enforce_on(db).expect("it exists");
        assert_eq!(firewall.kernel().hooks(db).expect("states"), right);
        assert!(!shop.denied_arrives());
        shop.assert_policy();
    }
    // Again: the other handle is free for it.
    put_passing_filter(db);
    assert_ne!(firewall.kernel().hooks(db).expect("states"), right);
    firewall.kernel().enforce_on(db).expect("it exists");
    assert_eq!(firewall.kernel().hooks(db).expect("states"), right);
    shop.assert_policy();
}

/// Puts a filter that passes everything, and asks nobody behind it, before all that
/// stand on an interface's way out. `tc filter add dev X egress prio 1 bpf
/// direct-action bytecode '1,6 0 0 0'` does the same.
fn put_passing_filter(ifindex: u32) {
    const ACKNOWLEDGED_NEW: u16 = 0x605;
    const CLSACT_EGRESS: u32 = 0xffff_fff3;
    const DIRECT_ACTION: u32 = 1;
    let attribute = |kind: u16, value: &[u8]| {
        let length = (4 + value.len() as u16).to_ne_bytes();
        let mut bytes = [&length, &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let priority_and_protocol = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let about = [0, ifindex, 0, CLSACT_EGRESS, priority_and_protocol].map(u32::to_ne_bytes);
    // One instruction of classic BPF: return 0, which is to pass.
    let program = [6, 0, 0, 0, 0, 0, 0, 0];
    let options = [
        attribute(4, &1u16.to_ne_bytes()),
        attribute(5, &program),
        attribute(8, &DIRECT_ACTION.to_ne_bytes()),
    ];
    let body = [
        about.concat(),
        attribute(1, b"bpf\0"),
        attribute(2, &options.concat()),
    ]
    .concat();
    let header = [
        &(16 + body.len() as u32).to_ne_bytes()[..],
        &libc::RTM_NEWTFILTER.to_ne_bytes(),
        &ACKNOWLEDGED_NEW.to_ne_bytes(),
        &[0; 8],
    ];
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .expect("a socket");
    let request = [header.concat(), body].concat();
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request, &kernel, MsgFlags::empty()).expect("sent");
    let mut answer = [0; 256];
    recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
    assert_eq!(answer[16..20], [0; 4], "the kernel took it");
}

/// A pin says which interface's link it is; interfaces' numbers are used again.
#[test]
fn a_link_that_leads_elsewhere_is_not_adopted() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let mut shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    let links = root().join("links");
    let all = names(&links);
    drop(firewall);
    let [web, cache] = ["shop/web", "shop/cache"].map(|name| named(&shop.world, name).host_ifindex);
    for name in all
        .iter()
        .filter(|name| name.starts_with(&format!("{web}-")))
    {
        let (_, hook) = name.split_once('-').expect("interface and hook");
        fs::rename(links.join(name), links.join(format!("{cache}-{hook}"))).expect("pins");
    }
    let mut kernel = open();
    shop.without_a_gap(|| {
        kernel.enforce_on(cache).expect("it exists");
        kernel.enforce_on(web).expect("it exists");
    });
    assert_eq!(names(&links), all);
    shop.assert_enforced(&kernel);

    // With the interface, the link is dead, and its pin goes with the next agent.
    drop(kernel);
    shop.world.remove("shop/cache").expect("it exists");
    let mut kernel = open();
    let left: Vec<String> = all
        .iter()
        .filter(|name| !name.starts_with(&format!("{cache}-")))
        .cloned()
        .collect();
    assert_eq!(names(&links), left);
    let error = kernel.enforce_on(cache).expect_err("it is gone");
    assert!(error.to_string().contains(&cache.to_string()), "{error}");
    kernel.leave(cache).expect("nothing is left of it");
}

/// An agent can take off the programs and pins that another agent has put there.
#[test]
fn nothing_is_left_of_what_is_dismantled() {
    skip_unless!(Feature::NetworkNamespaces);
    let (_turn, kernel) = take_turn();
    let shop = Shop::build();
    let mut firewall = shop.fill(kernel);
    shop.enforce(firewall.kernel());
    drop(firewall);
    assert!(!shop.reaches("shop/cache"));
    let mut kernel = open();
    let mut attached = kernel.attached_interfaces().expect("interfaces");
    attached.sort_unstable();
    assert_eq!(attached, shop.interfaces());
    let db = named(&shop.world, "shop/db").host_ifindex;
    kernel.leave(db).expect("it exists");
    assert!(shop.programs(&kernel, db).is_empty());
    assert!(
        !kernel
            .attached_interfaces()
            .expect("interfaces")
            .contains(&db)
    );
    let of_db = format!("{db}-");
    let links = names(&root().join("links"));
    assert!(
        !links.iter().any(|name| name.starts_with(&of_db)),
        "{links:?}"
    );
    assert!(
        !shop.reaches("shop/cache"),
        "the sender's hook keeps the database's policy"
    );
    let cache = named(&shop.world, "shop/cache").host_ifindex;
    kernel.leave(cache).expect("it exists");
    assert!(
        shop.reaches("shop/cache"),
        "the database is nobody's to guard"
    );

    kernel.enforce_on(cache).expect("it exists");
    kernel.enforce_on(db).expect("it exists");
    assert!(!shop.reaches("shop/cache"));
    let mut loaded = Firewall::turn();
    let refused = loaded.kernel().enforce_on(db).expect_err("nothing to stay");
    assert!(matches!(refused, AttachError::NotPinned));
    let left = loaded.kernel().attached_interfaces().expect("interfaces");
    assert_eq!(left, attached);
    kernel.dismantle().expect("all of it");
    assert!(
        loaded
            .kernel()
            .attached_interfaces()
            .expect("interfaces")
            .is_empty()
    );
    assert!(!root().exists());
    assert!(shop.reaches("shop/cache"));
}
