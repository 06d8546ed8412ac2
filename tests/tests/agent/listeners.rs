//! TCP connections from before their endpoints, by who took connections then.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use cofferdam_tests::agent::Agent;
use cofferdam_tests::firewall::named;
use cofferdam_tests::packet::Family;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::traffic::Place;
use cofferdam_tests::world::{Namespace, Wiring, World};
use cofferdam_tests::{cofferdam, skip_unless};
use socket2::{Domain, Protocol, Socket, Type};

use super::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(10);
/// Time for a packet that should be dropped to arrive.
const UNTIL_DROPPED: Duration = Duration::from_millis(400);

/// Everybody is isolated both ways; web connects to the database.
const WEB_TO_DB: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";

/// Nobody connects to the database, which connects to anybody.
const DB_CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
";

/// Web connects to nobody, and anybody to web.
const WEB_QUIET: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
";

fn socket(namespace: &Namespace, address: SocketAddr) -> Socket {
    let _inside = namespace.enter().expect("a namespace of this test");
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_reuse_port(true).expect("an option");
    socket.bind(&address.into()).expect("a free port");
    socket
}

fn listen(namespace: &Namespace, address: SocketAddr, device: Option<&str>) -> Socket {
    let listener = socket(namespace, address);
    let device = device.map(str::as_bytes);
    listener.bind_device(device).expect("an interface");
    listener.listen(4).expect("a listener");
    listener
}

/// Both ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn open(client: (&Namespace, IpAddr), listener: &Socket) -> Self {
        let address = listener.local_addr().expect("an address");
        let client = socket(client.0, SocketAddr::new(client.1, 0));
        client
            .connect_timeout(&address, PATIENCE)
            .expect("nothing is attached");
        let (server, _) = listener.accept().expect("the client is connected");
        Self {
            client: client.into(),
            server: server.into(),
        }
    }

    /// Says something and waits for the answer. Returns `false` if it does not come.
    fn talks(&mut self, is_server_first: bool, patience: Duration) -> bool {
        let (mut one, mut other) = (&self.client, &self.server);
        if is_server_first {
            std::mem::swap(&mut one, &mut other);
        }
        for stream in [one, other] {
            stream.set_read_timeout(Some(patience)).expect("an option");
        }
        let mut heard = [0; 5];
        one.write_all(b"hello").expect("the kernel keeps it");
        if other.read_exact(&mut heard).is_err() {
            return false;
        }
        other.write_all(b"hello").expect("the kernel keeps it");
        one.read_exact(&mut heard).is_ok()
    }
}

/// Of each family and first speaker one.
fn pairs(scene: &Scene, device: Option<&str>) -> (Vec<Socket>, Vec<(bool, Pair)>) {
    let [web, db] = ["shop/web", "shop/db"].map(|name| Place::from(scene.workload(name)));
    let mut listeners = Vec::new();
    let mut pairs = Vec::new();
    for family in Family::BOTH {
        let address = SocketAddr::new(db.ip(family), 0);
        let listener = listen(db.namespace, address, device);
        for is_server_first in [false, true] {
            let pair = Pair::open((web.namespace, web.ip(family)), &listener);
            pairs.push((is_server_first, pair));
        }
        listeners.push(listener);
    }
    (listeners, pairs)
}

#[track_caller]
fn assert_all(pairs: &mut [(bool, Pair)], lives: bool) {
    let patience = if lives { PATIENCE } else { UNTIL_DROPPED };
    for (number, (is_server_first, pair)) in pairs.iter_mut().enumerate() {
        assert_eq!(
            pair.talks(*is_server_first, patience),
            lives,
            "pair {number}"
        );
    }
}

/// Not by a listener alone that is there now: a workload may make one at any time.
#[test]
fn an_isolated_client_keeps_a_connection_with_a_server_that_took_connections_before() {
    skip_unless!(Feature::NetworkNamespaces);
    let mut scene = Scene::new(Wiring::Ptp);
    scene.agent = Agent::new(cofferdam!(), &scene.world)
        .settings("limits: {endpoints: 32, slots: 8192, table_pages: 32}\nadopt_midstream: 60s\n");
    let (listeners, mut listening) = pairs(&scene, None);
    let (on_device, mut listening_on_device) = pairs(&scene, Some("eth0"));
    let (closed, mut closed_before) = pairs(&scene, None);
    let addresses: Vec<SocketAddr> = (closed.iter())
        .map(|one| {
            one.local_addr()
                .expect("an address")
                .as_socket()
                .expect("an IP one")
        })
        .collect();
    drop(closed);
    scene.agent.document("policies.yaml", WEB_TO_DB);
    scene.agent.start_enforced();
    scene.add_both();
    assert_all(&mut listening, true);
    assert_all(&mut listening_on_device, true);
    let db = Place::from(scene.workload("shop/db"));
    let late = addresses.into_iter();
    let late: Vec<Socket> = late
        .map(|address| listen(db.namespace, address, None))
        .collect();
    assert_all(&mut closed_before, false);
    // What is in force is what the agent has put there, and the next one keeps it.
    scene.agent.kill();
    scene.agent.start_enforced();
    assert_all(&mut listening, true);
    assert!(scene.agent.status().enforced);
    drop((listeners, on_device, late));
}

#[test]
fn a_connection_that_policy_denies_ends_although_its_server_speaks_and_listens() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::new(Wiring::Ptp);
    let (_listeners, mut pairs) = pairs(&scene, None);
    let scene = scene.in_force(DB_CLOSED);
    assert_all(&mut pairs, false);
    assert_all(&mut pairs, false);
    scene.assert_reaches("shop/db", "shop/web");
}

/// A client's own listener tells that it was connected to, but only one of before.
#[test]
fn a_client_does_not_keep_a_denied_connection_by_listening_later() {
    skip_unless!(Feature::NetworkNamespaces);
    for is_before in [true, false] {
        let world = World::plan(Wiring::Ptp)
            .workloads(["shop/web"])
            .outside()
            .build()
            .expect("a world");
        let mut agent = Agent::new(cofferdam!(), &world);
        let web = Place::from(named(&world, "shop/web"));
        let outside = world.outside();
        let outside = (
            &outside.namespace,
            outside.end.ip(Family::V4).expect("both families"),
        );
        let server = listen(outside.0, SocketAddr::new(outside.1, 0), None);
        let mut pair = Pair::open((web.namespace, web.ip(Family::V4)), &server);
        let own = pair.client.local_addr().expect("an address");
        let early = is_before.then(|| listen(web.namespace, own, None));
        agent.document("policies.yaml", WEB_QUIET);
        agent.start_enforced();
        agent.add(named(&world, "shop/web"), &["app=web"]);
        let late = (!is_before).then(|| listen(web.namespace, own, None));
        let patience = if is_before { PATIENCE } else { UNTIL_DROPPED };
        assert_eq!(pair.talks(false, patience), is_before);
        drop((early, late));
    }
}
