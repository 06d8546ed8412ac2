//! `cofferdam list`.

use serde_json::{Value, json};

use crate::Folder;

/// The connections between two ends, without their ends.
fn between(list: &Value, source: &str, destination: &str) -> Vec<Value> {
    let connections = list["connections"].as_array().expect("a list");
    let found = connections.iter().filter(|connection| {
        connection["source"] == source && connection["destination"] == destination
    });
    let rest = |connection: &Value| {
        let mut connection = connection.clone();
        let fields = connection.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "source" && name != "destination");
        connection
    };
    found.map(rest).collect()
}

#[test]
fn connections_are_ranges_of_ports_with_the_rules_that_allow() {
    let list = Folder::shop().json(0, "list.json", &["list", "."]);
    let rules = list["rules"].as_array().expect("a list");
    let rule = rules
        .iter()
        .find(|rule| rule["index"] == 0)
        .expect("a rule");
    assert_eq!(
        (&rule["file"], &rule["line"]),
        (&json!("./db.yaml"), &json!(7))
    );
    let allowed = |family: u8| json!({"family": family, "protocol": "tcp", "ports": "5432", "egress": [], "ingress": [rule["id"]]});
    assert_eq!(
        between(&list, "shop/web", "shop/db"),
        [allowed(4), allowed(6)]
    );
    // No policy isolates it.
    let all = json!({"family": 4, "protocol": "all", "ports": "all", "egress": [], "ingress": []});
    assert_eq!(
        between(&list, "0.0.0.0/0", "shop/web"),
        std::slice::from_ref(&all)
    );
    assert_eq!(between(&list, "shop/db", "0.0.0.0/0"), [all]);
    assert_eq!(between(&list, "0.0.0.0/0", "shop/db"), [] as [Value; 0]);
    // Its own node may always connect to it, and that is not listed.
    assert_eq!(between(&list, "node/n1", "shop/db"), [] as [Value; 0]);
    let ends = list["ends"].as_array().expect("a list");
    let outside = ends.iter().find(|end| end["id"] == "::/0").expect("an end");
    assert_eq!(
        *outside,
        json!({"id": "::/0", "kind": "external", "cidrs": ["::/0"]})
    );
    assert_eq!(
        list["looked_at"],
        json!({"pods": 2, "workloads": 2, "nodes": 1, "outside": 2, "policies": 1})
    );
}

/// Three replicas, of which the third has an address that a policy excepts.
const REPLICAS: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: api-7c9-aaaaa, namespace: shop, labels: {app: api, pod-template-hash: 7c9}}, status: {podIPs: [{ip: 10.0.0.1}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-7c9-bbbbb, namespace: shop, labels: {app: api, pod-template-hash: 7c9}}, status: {podIPs: [{ip: 10.0.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: api-7c9-ccccc, namespace: shop, labels: {app: api, pod-template-hash: 7c9}}, status: {podIPs: [{ip: 10.9.0.3}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, status: {podIPs: [{ip: 10.0.0.4}]}}
";

/// Says whom `web` may reach, by addresses.
const WEB_OUT: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}]
    ports: [{port: 80}, {port: 8000, endPort: 8080}, {port: 81}]
";

#[test]
fn replicas_are_one_end_unless_a_policy_tells_them_apart() {
    let folder = Folder::new(&[("pods.yaml", REPLICAS)]);
    let ids = |folder: &Folder| {
        let list = folder.json(0, "list.json", &["list", ".", "--family", "4"]);
        let ends = list["ends"].as_array().expect("a list").iter();
        let pods = ends.filter(|end| end["kind"] == "pod");
        let name = |end: &Value| {
            (
                end["id"].as_str().unwrap().to_owned(),
                end["members"].as_array().unwrap().len(),
            )
        };
        pods.map(name).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&folder),
        [("shop/api".to_owned(), 3), ("shop/web".to_owned(), 1)]
    );
    let folder = Folder::new(&[("pods.yaml", REPLICAS), ("out.yaml", WEB_OUT)]);
    assert_eq!(
        ids(&folder),
        [
            ("shop/api-7c9-aaaaa".to_owned(), 2),
            ("shop/api-7c9-ccccc".to_owned(), 1),
            ("shop/web".to_owned(), 1)
        ]
    );
    let text = folder.said(
        0,
        &[
            "list",
            ".",
            "--workload",
            "shop/web",
            "--direction",
            "egress",
        ],
    );
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("  ->"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("-> shop/api-7c9-aaaaa") && lines[0].contains("tcp/80-81, tcp/8000-8080"),
        "{text}"
    );
    let outside = "10.0.0.0/8 except 10.9.0.0/16";
    assert!(
        lines[1].contains(outside) && lines[1].ends_with("shop/web-out (./out.yaml:8)"),
        "{text}"
    );
}

#[test]
fn a_list_is_of_what_is_asked_for_and_says_what_it_looked_at() {
    let folder = Folder::shop();
    let count = |arguments: &[&str]| {
        let all = [&["list", ".", "--format", "csv"], arguments].concat();
        folder.said(0, &all).lines().count() - 1
    };
    let towards_db = ["--workload", "shop/db", "--direction", "ingress"];
    assert_eq!(count(&towards_db), 2);
    assert_eq!(count(&[&towards_db[..], &["--family", "6"]].concat()), 1);
    assert_eq!(
        count(&[&towards_db[..], &["--port", "tcp/5432"]].concat()),
        2
    );
    assert_eq!(
        count(&[&towards_db[..], &["--port", "tcp/5433"]].concat()),
        0
    );
    // The node's connections to the outside are not the namespace's.
    assert_eq!(count(&["--namespace", "shop"]) + 2, count(&[]));
    let nothing = [&["list", "."], &towards_db[..], &["--port", "tcp/5433"]].concat();
    assert_eq!(
        folder.said(0, &nothing),
        "nothing of what was asked for is allowed; looked at 2 pods of 2 workloads, 1 node and 2 \
         sets of outside addresses, under 1 policy\n"
    );
    let markdown = folder.said(0, &["list", ".", "--workload", "shop/db", "--format", "md"]);
    assert!(
        markdown.contains(
            "| `shop/web` | `shop/db` | `tcp/5432` |  | shop/db-from-web (./db.yaml:7) |"
        ),
        "{markdown}"
    );
    let wrong = folder.complaint(&["list", ".", "--workload", "shop/wed"]);
    assert!(wrong.contains("did you mean `shop/web`?"), "{wrong}");
    let wrong = folder.complaint(&["list", ".", "--direction", "egress"]);
    assert!(wrong.contains("--workload"), "{wrong}");
}

/// The database behind a Service, and all pods behind one without an address of its own.
pub(super) const SERVICES: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: sql, namespace: shop}, spec: {clusterIP: 10.96.0.5, selector: {app: db}, ports: [{port: 15432, targetPort: 5432}, {port: 9187}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: each, namespace: shop}, spec: {clusterIP: None, ipFamilies: [IPv4], selector: {app: db}, ports: [{port: 5432}]}}
";

#[test]
fn services_are_ends_where_they_are_asked_for() {
    let folder = Folder::shop();
    std::fs::write(folder.0.path().join("services.yaml"), SERVICES).expect("a file");
    let without = folder.said(0, &["list", "."]);
    assert!(!without.contains("service/"), "{without}");
    let list = folder.json(0, "list.json", &["list", ".", "--services"]);
    let rules = list["rules"].as_array().expect("a list");
    let rule = rules.iter().find(|rule| rule["index"] == 0);
    let rule = &rule.expect("a rule")["id"];
    let sql = json!([{"id": "shop/db", "port": 5432}]);
    // Its other port leads to one of the database that no policy opens.
    assert_eq!(
        between(&list, "shop/web", "service/shop/sql"),
        [
            json!({"family": 4, "protocol": "tcp", "ports": "15432", "egress": [], "ingress": [rule], "backends": sql})
        ]
    );
    let each = json!([{"id": "shop/db", "port": null}]);
    assert_eq!(
        between(&list, "shop/web", "service/shop/each"),
        [
            json!({"family": 4, "protocol": "tcp", "ports": "5432", "egress": [], "ingress": [rule], "backends": each})
        ]
    );
    assert_eq!(
        between(&list, "0.0.0.0/0", "service/shop/sql"),
        [] as [Value; 0]
    );
    let ends = list["ends"].as_array().expect("a list");
    let end = ends.iter().find(|end| end["id"] == "service/shop/sql");
    assert_eq!(
        end.expect("an end"),
        &json!({"id": "service/shop/sql", "kind": "service", "members": ["shop/db"]})
    );
    let chosen = ["list", ".", "--workload", "service/shop/sql"];
    let text = folder.said(0, &chosen);
    // The database comes first, which reaches itself.
    let line = text
        .lines()
        .rfind(|line| line.contains("-> "))
        .expect("a connection");
    assert!(
        line.contains("-> service/shop/sql")
            && line.contains("tcp/15432")
            && line.contains("(backends shop/db:5432)")
            && line.ends_with("shop/db-from-web (./db.yaml:7)"),
        "{text}"
    );
    assert!(!text.contains("-> shop/db"), "{text}");
    let csv = folder.said(0, &[&chosen[..], &["--format", "csv"]].concat());
    assert!(
        csv.starts_with("source,destination,family,protocol,ports,egress_by,ingress_by,backends\n")
            && csv.contains("shop/web,service/shop/sql,4,tcp,15432,,./db.yaml:7,shop/db:5432\n"),
        "{csv}"
    );
    let md = folder.said(0, &[&chosen[..], &["--format", "md"]].concat());
    assert!(
        md.contains("| `shop/web` | `service/shop/sql` | `tcp/15432` | IPv4 | (backends shop/db:5432) shop/db-from-web"),
        "{md}"
    );
    let wrong = folder.complaint(&["list", ".", "--workload", "service/shop/sqk"]);
    assert!(
        wrong.contains("no Service") && wrong.contains("did you mean `service/shop/sql`?"),
        "{wrong}"
    );
}

/// Other ports of an address that is a Service's alone counted as open. A pod on a node that no
/// document has may show such an address.
#[test]
fn an_address_that_is_a_services_alone_is_reached_at_its_ports_alone() {
    let documents = "\
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop}, spec: {nodeName: n1, hostNetwork: true}, status: {podIP: 192.0.2.1}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: 10.96.0.5, externalIPs: [192.0.2.1], selector: {app: db}, ports: [{port: 80}]}}
";
    let folder = Folder::new(&[("shop.yaml", documents)]);
    let list = folder.json(0, "list.json", &["list", "."]);
    let connections = between(&list, "shop/web", "shop/host");
    let [connection] = connections.as_slice() else {
        panic!("{list:#}");
    };
    assert_eq!(connection["protocol"], "tcp", "{connection}");
    assert_eq!(connection["ports"], "80", "{connection}");
}
