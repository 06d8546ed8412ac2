//! Shares of the ring buffer: a flood at one endpoint leaves room for what others report.

use cofferdam_dataplane::{Behaviour, Kernel, Program};
use cofferdam_tests::{
    firewall::{Firewall, LIMITS, named},
    ledger::Ledger,
    packet::tcp,
    world::Wiring,
};
use cofferdam_verdict::{
    capacity::Limits,
    counter::Hook,
    event::EventRecord,
    reason::Reason,
    share,
    verdict::{Action, Verdict},
};

use super::verdicts::{DB_FROM_WEB, leaving, shop};

const HOOK: Hook = Hook::FromWorkload;

/// Packets of the flood: more than the ring buffer has room for, several times over.
const FLOOD: u32 = 40_000;

/// Denied packets of the other endpoint.
const OTHERS: u16 = 200;

fn denied(ledger: &Ledger) -> u64 {
    ledger.judged(HOOK, Action::Deny, Reason::Isolated)
}

/// A workload that is denied again and again, another one now and then, and nobody reads. On a
/// slow machine this takes minutes: shares that came back with time let the flood have the ring.
#[test]
fn a_flood_of_one_endpoint_leaves_anothers_records() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    // Shares that no other test has taken of, of a ring of the usual size.
    let limits = Limits {
        event_bytes: Limits::DEFAULT.event_bytes,
        ..LIMITS
    };
    let kernel = Kernel::load(limits, &Behaviour::default());
    let mut firewall = Firewall::over(kernel.expect("the kernel takes them"));
    let stand_ins = firewall.kernel().load_stand_ins();
    stand_ins.expect("the kernel takes them");
    firewall.enforce(&world, &pods, DB_FROM_WEB);
    let [cache, other, db] = ["shop/cache", "other/web", "shop/db"].map(|name| named(&world, name));
    let to_db = |from, port: u16| tcp().from(from).to(db.end).sport(port).dport(5432).syn();
    let before = firewall.ledger();
    let program = Program::FROM_WORKLOAD;
    for part in 0..OTHERS / 10 {
        let flood = to_db(cache.end, 1000 + part).bytes();
        let context = leaving(cache);
        let repeat = FLOOD / u32::from(OTHERS / 10);
        let run = firewall
            .kernel()
            .test_run(program.name, &flood, &context, repeat);
        assert_eq!(run.expect("it runs").returned, 2, "denied");
        for number in 0..10 {
            let packet = to_db(other.end, 2000 + 10 * part + number);
            let action = firewall.run(program, &packet.bytes(), &leaving(other));
            assert_eq!(action, Action::Deny);
        }
    }
    let reported = firewall.reported();
    let after = firewall.ledger();
    let of = |ifindex: u32| {
        let records = reported.iter().filter(move |one| one.ifindex == ifindex);
        records.inspect(|record| {
            let verdict = Verdict::from_any_word(record.verdict).expect("a verdict");
            assert_eq!(verdict.reason, Reason::Isolated, "{record:?}");
        })
    };
    let mut ports: Vec<u16> = of(other.host_ifindex).map(|one| one.source_port).collect();
    ports.dedup();
    assert_eq!(ports, (2000..2000 + OTHERS).collect::<Vec<_>>());
    let flooded = of(cache.host_ifindex).count();
    let room = firewall.kernel().limits().ring_records();
    let share = share::of_ring(room) as usize;
    assert!(flooded >= share, "{flooded} of {room}");
    let dropped = denied(&after) - denied(&before);
    assert_eq!(dropped, u64::from(FLOOD) + u64::from(OTHERS));
    let unreported = after.unreported(HOOK) - before.unreported(HOOK);
    assert!(unreported > 0, "the ring has room for {room}");
    assert_eq!(reported.len() as u64 + unreported, dropped);

    // The ring is empty again, and one endpoint may have more than its share of it.
    let packets = room / 4;
    for _ in 0..packets {
        firewall.run(program, &to_db(cache.end, 7).bytes(), &leaving(cache));
    }
    let reported: Vec<EventRecord> = firewall.reported();
    assert_eq!(reported.len(), packets as usize);
}
