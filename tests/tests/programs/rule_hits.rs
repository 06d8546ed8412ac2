//! Rule hits under traffic: every packet counts under the table that judged it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cofferdam_compiler::{RuleMeaning, RuleTable};
use cofferdam_tests::{
    firewall::{Firewall, named},
    packet::udp,
    skip::Feature,
    skip_unless,
    traffic::FrameSocket,
    world::Wiring,
};
use cofferdam_verdict::{
    counter::Hook,
    reason::Reason,
    verdict::{Action, Direction},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::verdicts::shop;

/// Everybody is isolated both ways; web asks the database at a thousand ports.
const PORTS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{protocol: UDP, port: 1000, endPort: 1999}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: UDP, port: 1000, endPort: 1999}]
---
";

/// Moves the numbers of all rules and sets behind it.
const FIRST: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: cache}}}]}, {to: [{ipBlock: {cidr: 192.0.2.1/32}}]}]
---
";

/// Counts of all tables.
#[derive(Debug, Default)]
struct Totals {
    /// By policy and direction.
    rules: BTreeMap<(String, Direction), u64>,
    /// Of default denials, by hook.
    isolated: [u64; 4],
    /// Tables under which anything was counted.
    tables: usize,
}

impl Totals {
    /// Takes in what was counted under a table.
    fn fold(&mut self, firewall: &mut Firewall, rules: &RuleTable, revision: u64) {
        let counted: Vec<_> = firewall.kernel().rule_hits(revision).collect();
        self.tables += usize::from(!counted.is_empty());
        for counted in counted {
            match rules.get(counted.rule).expect("a number of this table") {
                RuleMeaning::Rule(entry) => {
                    assert!(entry.key.index.is_some(), "{counted:?}");
                    let key = (entry.key.policy.name.to_string(), entry.key.direction);
                    *self.rules.entry(key).or_default() += counted.hits();
                }
                RuleMeaning::IsolationSet(_) => {
                    assert_eq!(counted.allowed, 0, "{counted:?}");
                    for (sum, denied) in self.isolated.iter_mut().zip(counted.denied) {
                        *sum += denied;
                    }
                }
            }
        }
    }
}

#[test]
fn no_hit_is_lost_or_another_rules_while_tables_are_replaced() {
    const SWAPS: usize = 60;
    const FLOWS_A_PORT: u32 = 20_000;
    skip_unless!(Feature::NetworkNamespaces);
    let (world, pods) = shop(Wiring::Ptp);
    let mut firewall = Firewall::turn();
    let policies = [PORTS.to_owned(), [FIRST, PORTS].concat()];
    firewall.enforce(&world, &pods, &policies[0]);
    firewall.attach(&world);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let stop = AtomicBool::new(false);
    let before = firewall.ledger();
    let mut totals = Totals::default();
    std::thread::scope(|scope| {
        for processor in 0..2u8 {
            let stop = &stop;
            scope.spawn(move || {
                let mut set = CpuSet::new();
                set.set(processor.into()).expect("a small number");
                // A machine may have one.
                _ = sched_setaffinity(Pid::from_raw(0), &set);
                let out = FrameSocket::open(&web.namespace, "eth0").expect("a socket");
                // No flow begins twice, so that every allowed packet is a hit.
                for number in 0..999 * FLOWS_A_PORT {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let sport = 1024 + 2 * (number % FLOWS_A_PORT) + u32::from(processor);
                    let dport = 1000 + number / FLOWS_A_PORT;
                    for dport in [dport as u16, 7] {
                        let packet = udp()
                            .from(web.end)
                            .to(db.end)
                            .sport(sport as u16)
                            .dport(dport);
                        // What a full queue drops was not judged, or had been counted.
                        _ = out.send(&packet.via(web.gateway.mac));
                    }
                }
            });
        }
        for swap in 0..SWAPS {
            let rules = firewall.compiled().rules.clone();
            let revision = firewall.kernel().revision().expect("a table");
            firewall.replace_policies(&policies[(swap + 1) % 2]);
            totals.fold(&mut firewall, &rules, revision);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let rules: Arc<RuleTable> = firewall.compiled().rules.clone();
    firewall.detach();
    // Nothing moves any more.
    let after = firewall.ledger();
    let revision = firewall.kernel().revision().expect("a table");
    totals.fold(&mut firewall, &rules, revision);
    after.assert_conserved();

    let moved = |hook, action, reason| {
        after.judged(hook, action, reason) - before.judged(hook, action, reason)
    };
    // Those that found no room passed without an entry, because the database may open, too.
    let flows = moved(Hook::ToWorkload, Action::Allow, Reason::Rule)
        + moved(Hook::ToWorkload, Action::Allow, Reason::FlowTableFull);
    let denied = Hook::ALL.map(|hook| moved(hook, Action::Deny, Reason::Isolated));
    assert!(totals.tables > SWAPS / 2, "{totals:?}");
    assert!(flows > 100 && denied[0] > 100, "{flows} {denied:?}");
    assert_eq!(totals.isolated, denied, "{totals:?}");
    let expected = [("db", Direction::Ingress), ("web", Direction::Egress)]
        .map(|(policy, direction)| ((policy.to_owned(), direction), flows));
    assert_eq!(totals.rules, BTreeMap::from(expected));
}

/// A revision of the same parity counts on, as when a table is put there again; one of
/// the other begins at 0.
#[test]
fn a_table_published_again_counts_on() {
    let (world, pods) = shop(Wiring::Ptp);
    let _inside = world.node().namespace.enter().expect("the node");
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, PORTS);
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let leaving = super::verdicts::leaving(web);
    let denied = udp().from(web.end).to(db.end).dport(7).bytes();
    let send = |firewall: &mut Firewall| {
        firewall.run(
            cofferdam_dataplane::Program::FROM_WORKLOAD,
            &denied,
            &leaving,
        );
        let revision = firewall.kernel().revision().expect("a table");
        [revision, revision - 1].map(|revision| -> u64 {
            let counted = firewall.kernel().rule_hits(revision);
            counted.map(|counted| counted.hits()).sum()
        })
    };
    assert_eq!(send(&mut firewall)[0], 1);
    let pages = firewall.compiled().pages().to_vec();
    firewall.kernel().publish(&pages).expect("a table");
    assert_eq!(send(&mut firewall)[0], 2);
    firewall.replace_policies(PORTS);
    assert_eq!(send(&mut firewall), [1, 2]);
    firewall.replace_policies(PORTS);
    assert_eq!(send(&mut firewall), [1, 1]);
}
