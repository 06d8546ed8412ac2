//! Changes after which little of what is known of Services holds, in small worlds made for
//! each: one compiler that goes there and back makes the tables of compilers that start there.

use std::collections::BTreeSet;

use cofferdam_compiler::{Compiler, SlotPlan};
use cofferdam_inventory::ObjectName;

use super::reach::inventory;
use super::virtuals::snapshot;

/// A world of two nodes. `web` and its twin ask, `db` and `other` are behind Services; each
/// lies on either node.
const PLACE: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

fn pod(name: &str, app: &str, node: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: {node}, containers: []}}\nstatus: {{podIP: {address}}}\n"
    )
}

/// A policy: `app` takes in only what `from` sends, and `web` sends only to `to`.
fn kept_apart(to: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: web, namespace: shop}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Egress]\n  \
         egress: [{{to: [{{podSelector: {{matchLabels: {{app: {to}}}}}}}]}}]\n"
    )
}

/// A Service without a selector, and the slice that says who is behind it.
fn service(name: &str, spec: &str, backends: &[&str]) -> [String; 2] {
    let endpoints = backends.iter().map(|one| format!("{{addresses: [{one}]}}"));
    let endpoints: Vec<String> = endpoints.collect();
    [
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        ),
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{port: 80, protocol: TCP}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        ),
    ]
}

const OF_CLUSTER: &str = "{clusterIP: 10.0.2.1, ports: [{port: 80, protocol: TCP}]}";

/// Documents, and the pods that have an endpoint on node `n1`.
struct State {
    texts: Vec<String>,
    here: &'static [&'static str],
}

impl State {
    fn new(
        pods: &[(&str, &str, &str, &str)],
        more: impl IntoIterator<Item = String>,
        here: &'static [&'static str],
    ) -> Self {
        let pods = (pods.iter()).map(|(name, app, node, address)| pod(name, app, node, address));
        Self {
            texts: PLACE
                .split("---\n")
                .map(str::to_owned)
                .chain(pods)
                .chain(more)
                .collect(),
            here,
        }
    }
}

/// Goes from one state to the other and back.
fn follow(before: &State, after: &State) {
    let inventories = [before, after].map(|state| inventory(&state.texts));
    let here = [before, after].map(|state| {
        let names = state.here.iter().map(|name| ObjectName::new("shop", name));
        names.collect::<BTreeSet<_>>()
    });
    let first = SlotPlan::assign(&inventories[0]);
    let plans = [first.clone(), first.successor(&inventories[1])];
    let at = |one: usize| snapshot(&inventories[one], &plans[one], &here[one]);
    let anew = [0, 1].map(|one| {
        Compiler::default()
            .compile(&at(one))
            .expect("a small world")
    });
    assert!(
        anew[0].pages() != anew[1].pages(),
        "the change changes nothing"
    );
    let mut compiler = Compiler::default();
    for one in [0, 1, 0, 1] {
        let table = compiler.compile(&at(one)).expect("a small world");
        assert!(table.pages() == anew[one].pages(), "state {one}");
    }
}

const PODS: [(&str, &str, &str, &str); 4] = [
    ("web", "web", "n1", "10.0.0.1"),
    ("far", "web", "n2", "10.0.1.1"),
    ("db", "db", "n2", "10.0.1.2"),
    ("other", "other", "n2", "10.0.1.3"),
];

#[test]
fn a_backend_that_a_slice_names_is_judged_by_its_new_labels() {
    let with = |first: &'static str, second: &'static str| {
        let mut pods = PODS;
        (pods[2].1, pods[3].1) = (first, second);
        let more = service("data", OF_CLUSTER, &["10.0.1.2"])
            .into_iter()
            .chain([kept_apart("db")]);
        State::new(&pods, more, &["web"])
    };
    follow(&with("db", "other"), &with("other", "db"));
}

#[test]
fn a_backend_that_gets_an_endpoint_is_seen() {
    let with = |here| {
        let mut pods = PODS;
        for pod in &mut pods[2..] {
            pod.2 = "n1";
        }
        // One backend is denied, and one is not: only its hook can tell.
        let more = service("data", OF_CLUSTER, &["10.0.1.2", "10.0.1.3"])
            .into_iter()
            .chain([kept_apart("db")]);
        State::new(&pods, more, here)
    };
    follow(&with(&["web"]), &with(&["web", "other"]));
}

#[test]
fn a_nodes_port_is_one_of_the_services_with_its_address() {
    let with = |backend| {
        let more = service(
            "data",
            "{type: NodePort, clusterIP: 10.0.2.1, ports: [{port: 80, nodePort: 30080, protocol: TCP}]}",
            &[backend],
        );
        // The same port of one node's address leads to another Service, too.
        let outer = service(
            "outer",
            "{clusterIP: 10.0.2.2, externalIPs: [192.0.2.2], ports: [{port: 30080, protocol: TCP}]}",
            &["10.0.1.2"],
        );
        let more = more.into_iter().chain(outer).chain([kept_apart("db")]);
        State::new(&PODS, more, &["web"])
    };
    follow(&with("10.0.1.2"), &with("10.0.1.3"));
}

/// The words of both tables are the same, but for who has which profile.
#[test]
fn a_policy_that_changes_is_asked_anew_about_backends() {
    for here in [&["web"][..], &["web", "db", "other"]] {
        let with = |to| {
            let mut pods = PODS;
            if here.len() > 1 {
                pods[2].2 = "n1";
                pods[3].2 = "n1";
            }
            let more = service("data", OF_CLUSTER, &["10.0.1.2"])
                .into_iter()
                .chain([kept_apart(to)]);
            State::new(&pods, more, here)
        };
        follow(&with("db"), &with("other"));
    }
}
