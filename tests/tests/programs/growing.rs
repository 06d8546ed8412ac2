//! Partitions of the flow table that grow as they fill, and are given back.

use std::time::Duration;

use cofferdam_dataplane::{Behaviour, FlowUse, IdleTimes, Kernel, Program};
use cofferdam_tests::{
    firewall::{Firewall, LIMITS, named},
    packet::{Packet, Udp, udp},
    shop::CLOSED,
    skip::Feature,
    skip_unless,
    world::{Wiring, Workload},
};
use cofferdam_verdict::{
    capacity::Limits,
    flow::{Idle, Size},
    verdict::Action,
};

use super::verdicts::{between, leaving, shop};

/// Web asks the database.
const QUESTIONS: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: questions, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: UDP, port: 53}]}]
";
/// Entries of a partition that is new: room for 1 024 flows.
const FEW: u32 = 2_048;

fn question(web: &Workload, db: &Workload, port: u16) -> Packet<Udp> {
    let packet = udp().from(web.end).to(db.end);
    packet.sport(port).dport(53)
}

/// A kernel side in which an endpoint has room for so many flows.
fn roomy(flows_per_endpoint: u32) -> Firewall {
    let limits = Limits {
        flows_per_endpoint,
        ..LIMITS
    };
    // No flow is over before its test is.
    let hours = Duration::from_secs(24 * 3600);
    let idle = IdleTimes::default().with(Idle::UdpOneWay, hours);
    let behaviour = Behaviour {
        idle: idle.with(Idle::Udp, hours),
        ..Behaviour::default()
    };
    let kernel = Kernel::load(limits, &behaviour).and_then(|mut kernel| {
        kernel.load_stand_ins()?;
        Ok(kernel)
    });
    Firewall::over(kernel.unwrap_or_else(|error| panic!("{error}")))
}

/// The database is asked from many ports, and answers; each answer passes by its flow alone.
struct Asked<'a> {
    web: &'a Workload,
    db: &'a Workload,
}

impl Asked<'_> {
    fn fill(&self, firewall: &mut Firewall, ports: std::ops::Range<u16>) {
        for port in ports {
            let bytes = question(self.web, self.db, port).bytes();
            let context = between(self.web, self.db);
            let asked = firewall.run(Program::TO_WORKLOAD, &bytes, &context);
            assert_eq!(asked, Action::Allow, "{port}");
        }
    }

    /// The ports whose answers pass.
    fn answered(&self, firewall: &mut Firewall, ports: std::ops::Range<u16>) -> Vec<u16> {
        let passes = ports.filter(|&port| {
            let bytes = question(self.web, self.db, port).reply().bytes();
            let action = firewall.run(Program::FROM_WORKLOAD, &bytes, &leaving(self.db));
            action == Action::Allow
        });
        passes.collect()
    }
}

#[test]
fn a_partition_grows_when_it_is_half_full_and_up_to_its_limit() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = roomy(8_192);
    firewall.enforce(&world, &pods, &[CLOSED, QUESTIONS].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let asked = Asked { web, db };
    let mut keeper = firewall.kernel().flow_keeper().expect("memory");
    let mut begun = 10_000;
    for (flows, before, after) in [
        (0, FEW, FEW),
        // Few enough that none makes room for another.
        (900, FEW, FEW),
        (1_100, FEW, 4 * FEW),
        (3_500, 4 * FEW, 4 * FEW),
        (4_200, 4 * FEW, 8 * FEW),
        (8_500, 8 * FEW, 8 * FEW),
    ] {
        asked.fill(&mut firewall, begun..10_000 + flows);
        begun = 10_000 + flows;
        let used_of = |firewall: &mut Firewall| -> FlowUse {
            firewall
                .kernel()
                .flows(db.host_ifindex)
                .expect("it has one")
        };
        let full = used_of(&mut firewall);
        assert_eq!((full.capacity, full.most), (before, 8 * FEW), "{flows}");
        assert!(full.used + 40 >= u32::from(flows), "{full:?}");
        let alive = asked.answered(&mut firewall, 10_000..begun);
        assert_eq!(alive.len(), full.used as usize);
        // It looks at a few entries at a time.
        for _ in 0..50 {
            keeper.look().expect("memory");
        }
        let grown = used_of(&mut firewall);
        assert_eq!((grown.used, grown.capacity), (full.used, after), "{flows}");
        assert_eq!(asked.answered(&mut firewall, 10_000..begun), alive);
        assert!(asked.answered(&mut firewall, 9_000..9_100).is_empty());
        // What it leaves counts, and what begins from now on.
        let freed = firewall.kernel().sweep().expect("a clock");
        assert_eq!(freed, 0, "of this moment");
    }
    firewall.ledger().assert_conserved();
}

/// As the partition fills, flows are idle for too long earlier; the sweep goes by that, too.
#[test]
fn idle_times_shorten_in_a_partition_that_cannot_grow() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = roomy(1_024);
    firewall.enforce(&world, &pods, &[CLOSED, QUESTIONS].concat());
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let asked = Asked { web, db };
    let mut keeper = firewall.kernel().flow_keeper().expect("memory");
    let mut filled = |firewall: &mut Firewall, ports: std::ops::Range<u16>| {
        asked.fill(firewall, ports);
        for _ in 0..50 {
            keeper.look().expect("memory");
        }
        let mut records = firewall.kernel().memory().endpoints.iter();
        let record = records.find(|record| record.ifindex == db.host_ifindex && record.stamp != 0);
        Size(record.expect("it is in force").flow_size.load()).shortening()
    };
    assert_eq!(filled(&mut firewall, 10_000..11_000), 0);
    assert_eq!(filled(&mut firewall, 11_000..11_100), 1, "over a half");
    assert_eq!(
        filled(&mut firewall, 11_100..11_300),
        2,
        "over five eighths"
    );
    assert_eq!(
        filled(&mut firewall, 11_300..11_560),
        3,
        "over three quarters"
    );
    assert_eq!(
        firewall.kernel().sweep().expect("a clock"),
        0,
        "of this moment"
    );
}

#[test]
fn partitions_of_endpoints_that_have_gone_are_given_back() {
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = roomy(8_192);
    firewall.enforce(&world, &pods, &[CLOSED, QUESTIONS].concat());
    let db = named(&world, "shop/db").host_ifindex;
    let mut keeper = firewall.kernel().flow_keeper().expect("memory");
    let mut look = |firewall: &mut Firewall| {
        // While endpoints come, not all that are ready are made up for at once.
        for _ in 0..2 {
            keeper.look().expect("memory");
        }
        firewall.kernel().map_bytes().expect("the kernel says it")
    };
    let mut grown = firewall.kernel().flow_keeper().expect("memory");
    let endpoint = firewall.endpoint(&world, "shop/db");
    assert!(firewall.kernel().remove_endpoint(db));
    look(&mut firewall);
    grown.grow_all(8).expect("memory");
    let without = look(&mut firewall);
    for number in 1..=20 {
        let mut endpoint = endpoint.clone();
        endpoint.incarnation += number;
        firewall
            .kernel()
            .set_endpoint(&endpoint)
            .expect("there is room");
        let with = look(&mut firewall);
        let partition = u64::from(FEW) * 128;
        assert!(with >= without + partition, "{with} after {without}");
        assert!(with < without + 2 * partition, "{with} after {without}");
        grown.grow_all(8).expect("memory");
        let flows = firewall.kernel().flows(db).expect("it has one");
        assert_eq!((flows.used, flows.capacity), (0, 8 * FEW));
        assert!(look(&mut firewall) >= without + 8 * partition);
        assert!(firewall.kernel().remove_endpoint(db));
        assert_eq!(look(&mut firewall), without, "{number}");
    }
}
