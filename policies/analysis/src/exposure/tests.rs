//! Exposure of small worlds, put down by hand.

use cofferdam_documents::{assemble, parse};

use crate::connectivity::words;

use super::*;

fn exposed(text: &str) -> Vec<Exposed> {
    let parsed = parse("w.yaml", text.as_bytes());
    assert!(parsed.rejected.is_empty(), "{:#?}", parsed.diagnostics);
    let inventory = assemble(parsed.documents).inventory;
    exposure(&inventory, &read_doors(text.as_bytes())).unwrap()
}

fn told(beyond: &[Beyond]) -> Vec<String> {
    let one = |beyond: &Beyond| format!("{}: {}", beyond.who, words(&beyond.ports));
    beyond.iter().map(one).collect()
}

const PODS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {containers: [{name: c}]}}
---
";

#[test]
fn a_workload_without_policies_is_open_to_everybody() {
    let all = exposed(PODS);
    assert_eq!(
        all.iter().map(|one| &*one.id).collect::<Vec<_>>(),
        ["shop/db", "shop/web"]
    );
    let everybody = [
        "every pod of namespaces that are not here: all",
        "0.0.0.0/0: all",
        "::/0: all",
    ];
    assert_eq!(told(&all[0].from), everybody);
    assert_eq!(told(&all[0].to), everybody);
    assert!(!all[0].isolates_ingress && !all[0].isolates_egress);
    // As the page has it: 10 + 30 + 15, and 5 + 15 + 6.
    assert_eq!(all[0].score(), 81);
}

#[test]
fn who_may_come_is_what_rules_name_by_labels_and_addresses() {
    let all = exposed(&format!(
        "{PODS}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}, {{namespaceSelector: {{matchLabels: {{team: ops}}}}}}]
    ports: [{{port: 5432}}]
  - from: [{{ipBlock: {{cidr: 203.0.113.0/24}}}}]
    ports: [{{port: 5432, endPort: 5433}}]
  - from: [{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{{key: role, operator: Exists}}]}}}}]
    ports: [{{port: 9100}}]
"
    ));
    assert_eq!(&*all[0].id, "shop/web", "the most exposed comes first");
    let db = &all[1];
    assert_eq!(
        told(&db.from),
        [
            "pods with app=web of namespaces with kubernetes.io/metadata.name=shop: tcp/5432",
            "pods with role of every namespace: tcp/9100",
            "every pod of namespaces with team=ops: tcp/5432",
            "203.0.113.0/24: tcp/5432-5433",
        ]
    );
    assert_eq!(told(&db.to), [] as [&str; 0]);
    assert!(db.isolates_ingress && db.isolates_egress);
    // 5 for a part of the outside on some ports, 3 for labels.
    assert_eq!(db.score(), 8);
}

#[test]
fn what_a_stranger_may_not_send_reaches_nobody() {
    // Whoever is in the namespace is kept from sending, so that only others come.
    let all = exposed(&format!(
        "{PODS}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: silent, namespace: shop}}
spec: {{podSelector: {{}}, policyTypes: [Egress]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: db}}}}
  ingress: [{{from: [{{podSelector: {{}}}}]}}]
"
    ));
    let db = all.iter().find(|one| &*one.id == "shop/db").unwrap();
    assert_eq!(told(&db.from), [] as [&str; 0]);
    assert_eq!(told(&db.to), [] as [&str; 0]);
}

#[test]
fn services_and_routes_lead_to_the_pods_behind_them() {
    let all = exposed(&format!(
        "{PODS}
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{type: NodePort, clusterIP: 10.96.0.1, selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{clusterIP: 10.96.0.2, selector: {{app: db}}, ports: [{{port: 80}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: site, namespace: shop}}
spec: {{rules: [{{http: {{paths: [{{path: /, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: api, namespace: edge}}
spec: {{rules: [{{backendRefs: [{{name: web, namespace: shop, port: 80}}, {{name: web}}]}}]}}
"
    ));
    let web = &all[0];
    assert_eq!((&*web.id, web.doors.len()), ("shop/web", 3));
    assert!(all[1].doors.is_empty());
    assert_eq!(web.score(), all[1].score() + 15);
}
