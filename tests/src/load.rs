//! Honest traffic under load: it must lose nothing.
//!
//! Both ends are isolated in both directions, so that every answer passes by its flow alone.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    firewall::{Firewall, Pod, named},
    packet::Family,
    traffic::{Conversation, Probe, Server},
    world::{Wiring, World},
};

/// Port of the questions.
const PORT: u16 = 53;
/// Conversations of each family.
const CONVERSATIONS: usize = 32;
/// Time after which an answer is lost; a loaded machine delays it for some milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Policies under which web asks the database, and nothing else is allowed.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{protocol: UDP, port: 53}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{protocol: UDP, port: 53}]}]
";

/// A policy that comes and goes: with it every row, class and rule number is another.
const ANOTHER: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: another, namespace: shop}
spec:
  podSelector: {matchExpressions: [{key: app, operator: Exists}]}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: cache}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: cache}}}], ports: [{protocol: TCP, port: 80}]}]
";

/// What [`swaps`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Tables published.
    pub swaps: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions without an answer.
    pub lost: u64,
}

/// Publishes that many tables, or as many as there is time for, while two threads ask and
/// are answered without a pause, each over its own conversations.
///
/// # Errors
///
/// When sockets or namespaces cannot be made.
///
/// # Panics
///
/// When the kernel refuses a table.
pub fn swaps(number: u64, deadline: Option<Instant>) -> io::Result<Swapped> {
    let pods = [("shop/web", "app=web"), ("shop/db", "app=db")];
    let pods = pods.map(|(name, label)| Pod::new(name, &[label]));
    let names = pods.iter().map(|pod| pod.name.as_str());
    let world = World::plan(Wiring::Ptp).workloads(names).build();
    let world = world.map_err(io::Error::other)?;
    let [web, db] = ["shop/web", "shop/db"].map(|name| named(&world, name));
    let _server = Server::start(db, &[Probe::Udp(PORT)])?;
    let mut firewall = Firewall::turn();
    firewall.enforce(&world, &pods, POLICIES);
    firewall.attach(&world);
    let mut talks = Vec::new();
    for family in Family::BOTH {
        let address = db.ip(family);
        let talk = || Conversation::udp(web, address, PORT);
        talks.push(
            (0..CONVERSATIONS)
                .map(|_| talk())
                .collect::<io::Result<Vec<_>>>()?,
        );
    }
    let stop = AtomicBool::new(false);
    let [answered, lost] = [0, 0].map(AtomicU64::new);
    let mut swaps = 0;
    thread::scope(|scope| {
        for mut talks in talks {
            let (stop, answered, lost) = (&stop, &answered, &lost);
            scope.spawn(move || {
                let mut turn = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for talk in &mut talks {
                        turn += 1;
                        let words = format!("question {turn};");
                        match talk.exchange(words.as_bytes(), PATIENCE) {
                            Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                            Err(_) => lost.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                }
            });
        }
        let both = [POLICIES, ANOTHER].concat();
        while swaps < number && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            firewall.replace_policies(if swaps % 2 == 0 { &both } else { POLICIES });
            swaps += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    firewall.ledger().assert_conserved();
    Ok(Swapped {
        swaps,
        answered: answered.into_inner(),
        lost: lost.into_inner(),
    })
}
