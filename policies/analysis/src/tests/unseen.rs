//! Services that are closed because no hook sees one of the backends: told where an agent
//! would tell it, and nowhere else.

use cofferdam_compiler::{Compiler, SlotPlan, Snapshot};
use cofferdam_verdict::capacity::Limits;

use super::*;

const NODES: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: x, labels: {app: db}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: x, labels: {app: db}}, spec: {nodeName: n1, hostNetwork: true}, status: {podIP: 192.168.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: x, labels: {app: web}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
";

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: db, namespace: x},
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [
{name: a, port: 80}]}}
---
";

/// Egress of `web`, to the pods and to what else is given.
fn egress(more: &str) -> String {
    policy(&format!(
        "podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], \
         egress: [{{to: [{{podSelector: {{matchLabels: {{app: db}}}}}}{more}]}}]"
    ))
}

/// The findings about backends that no hook sees, and the ports that the agents of both nodes
/// tell of.
fn told(texts: &[&str]) -> (Vec<Diagnostic>, usize) {
    let sources: Vec<Source> = (texts.iter().enumerate())
        .map(|(index, text)| {
            let file = format!("{index}.yaml");
            Source::new(file.as_str().into(), text.as_bytes().into())
        })
        .collect();
    let documents = sources.iter().flat_map(|source| &source.parsed.documents);
    let assembled = assemble(documents.cloned());
    let mut found = analyse(&sources, &assembled);
    found.retain(|one| one.code == Code::ServiceUndecided);
    let inventory = &assembled.inventory;
    let slots = SlotPlan::assign(inventory);
    let of_node = |node: &str| {
        let pods = inventory.workloads().values();
        let local = pods.filter(|pod| pod.node.as_deref() == Some(node) && !pod.host_network);
        let compiled = Compiler::default().compile(&Snapshot {
            inventory,
            slots: &slots,
            local: &local.map(|pod| pod.name.clone()).collect(),
            own_node: Some(node),
            limits: Limits::DEFAULT,
            revision: 1,
        });
        compiled.expect("a small world").unseen.len()
    };
    (found, of_node("n1") + of_node("n2"))
}

#[test]
fn a_backend_at_the_senders_own_node_is_told_at_its_port() {
    let (found, of_agents) = told(&[SERVICE, NODES, &egress("")]);
    assert_eq!(of_agents, 1);
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "0.yaml:3:17: warning[CD0404]: workloads on n1 that policy allows some of the backends \
          reach none, such as x/web: it may not open tcp/80 to the backend x/host at \
          192.168.0.1, which is the node itself, and no hook sees what is translated to that \
          (allow them tcp/80 of 192.168.0.1, or keep pods on the node's own network out of the \
          Service)"
        ]
    );
}

#[test]
fn slices_name_such_a_backend_too() {
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: x, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: a, port: 8080}], endpoints: [{addresses: [192.168.0.1]}, {addresses: [10.0.0.2]}]}";
    let (found, of_agents) = told(&[SERVICE, NODES, slice, &egress("")]);
    assert_eq!((found.len(), of_agents), (1, 1), "{found:?}");
    assert!(
        found[0]
            .message
            .contains("tcp/8080 to the backend 192.168.0.1,")
    );
}

#[test]
fn what_hooks_see_or_allow_is_not_told() {
    let silent = |texts: &[&str]| {
        let (found, of_agents) = told(texts);
        assert_eq!((found.len(), of_agents), (0, 0), "{texts:?}: {found:?}");
    };
    silent(&[SERVICE, NODES]);
    silent(&[
        SERVICE,
        NODES,
        &egress(", {ipBlock: {cidr: 192.168.0.1/32}}"),
    ]);
    // No backend may be reached: the sender's hook denies all by a rule.
    silent(&[SERVICE, NODES, &egress("").replace("app: db", "app: none")]);
    // Another node's hooks see it leave.
    silent(&[
        SERVICE,
        &NODES.replace(
            "app: web}}, spec: {nodeName: n1}",
            "app: web}}, spec: {nodeName: n2}",
        ),
        &egress(""),
    ]);
    // One backend is all there is.
    let alone = SERVICE.replace("app: db}", "app: host}");
    silent(&[
        &alone,
        &NODES.replace(
            "host, namespace: x, labels: {app: db}",
            "host, namespace: x, labels: {app: host}",
        ),
        &egress(""),
    ]);
}

/// An agent knows its own node and its workloads; documents may not.
#[test]
fn what_the_documents_do_not_know_is_not_told() {
    let found = |texts: &[&str]| told(texts).0.len();
    let nowhere = NODES.replace("app: web}}, spec: {nodeName: n1}", "app: web}}, spec: {}");
    assert_eq!(found(&[SERVICE, &nowhere, &egress("")]), 0);
    let without = NODES.replace(
        ", status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}",
        "",
    );
    assert_eq!(found(&[SERVICE, &without, &egress("")]), 0);
    // What is left out for an error may change it.
    let broken = policy("podSelector: {}, egress: 1").replace("name: p", "name: broken");
    assert_eq!(found(&[SERVICE, NODES, &egress(""), &broken]), 0);
}
