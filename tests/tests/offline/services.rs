//! Services as receivers, in `matrix`, `explain` and `test`.

use serde_json::{Value, json};

use crate::{Folder, SHOP};

/// `kubectl get services,endpointslices,pods -n shop -o yaml`, but for what nothing here
/// depends on: two pods behind one Service, whose port has a name, and a Service without
/// a selector.
const SERVICES: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: api-1, namespace: shop, labels: {app: api}}
  spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}
  status: {podIPs: [{ip: 10.0.0.11}, {ip: 'fd00::11'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: api-2, namespace: shop, labels: {app: api}}
  spec: {containers: [{ports: [{name: http, containerPort: 9090}]}]}
  status: {podIPs: [{ip: 10.0.0.12}]}
- apiVersion: v1
  kind: Service
  metadata: {name: api, namespace: shop, labels: {app: api}, resourceVersion: '7'}
  spec:
    type: NodePort
    clusterIP: 10.96.0.1
    clusterIPs: [10.96.0.1, 'fd00:96::1']
    ipFamilies: [IPv4, IPv6]
    ipFamilyPolicy: RequireDualStack
    internalTrafficPolicy: Cluster
    sessionAffinity: None
    selector: {app: api}
    ports: [{name: web, port: 80, protocol: TCP, targetPort: http, nodePort: 30080}]
- apiVersion: v1
  kind: Service
  metadata: {name: bank, namespace: shop}
  spec: {clusterIP: 10.96.0.2, ports: [{port: 443, targetPort: 8443}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: bank-1, namespace: shop, labels: {kubernetes.io/service-name: bank}}
  addressType: IPv4
  ports: [{name: '', port: 8443, protocol: TCP}]
  endpoints: [{addresses: [203.0.113.9], conditions: {ready: true}}]
";

const API: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 8080}]
";

fn folder() -> Folder {
    Folder::new(&[
        ("shop.yaml", SHOP),
        ("services.yaml", SERVICES),
        ("api.yaml", API),
    ])
}

fn matrix(folder: &Folder, arguments: &[&str]) -> Value {
    folder.json(0, "matrix.json", &[&["matrix", "."], arguments].concat())
}

#[test]
fn a_cell_of_a_service_counts_backends_on_their_own_ports() {
    let folder = folder();
    let arguments = [
        "--probe",
        "tcp/80",
        "--from",
        "shop/web",
        "--to",
        "service/shop/api",
    ];
    let found = matrix(&folder, &arguments);
    assert_eq!(
        found["ends"][1],
        json!({"id": "service/shop/api", "kind": "service", "addresses": ["10.96.0.1", "fd00:96::1"]})
    );
    let cell = &found["cells"][0];
    assert_eq!(cell["destination"], "service/shop/api");
    assert_eq!(cell["backends"], json!({"allowed": 1, "total": 2}));
    assert_eq!(cell["verdict"], "deny", "only if all are reached");
    assert_eq!(cell["ingress"]["reason"], "isolated");
    let found = matrix(&folder, &[&arguments[..], &["--family", "6"]].concat());
    let cell = &found["cells"][0];
    assert_eq!(
        (&cell["verdict"], &cell["backends"]),
        (&json!("allow"), &json!({"allowed": 1, "total": 1}))
    );
    // A name alone will do, and every address leads there.
    for to in ["service/api", "10.96.0.1"] {
        let found = matrix(
            &folder,
            &["--probe", "tcp/80", "--from", "shop/web", "--to", to],
        );
        assert_eq!(found["cells"][0]["backends"]["total"], 2, "{to}");
    }
    let node = matrix(
        &folder,
        &[
            "--probe",
            "tcp/30080",
            "--probe",
            "tcp/22",
            "--from",
            "shop/web",
            "--to",
            "node/n1",
        ],
    );
    assert_eq!(
        node["cells"][0]["backends"],
        json!({"allowed": 1, "total": 2})
    );
    assert_eq!(node["cells"][1].get("backends"), None, "the node itself");
    let bank = matrix(
        &folder,
        &[
            "--probe",
            "tcp/443",
            "--from",
            "shop/web",
            "--to",
            "service/bank",
        ],
    );
    assert_eq!(bank["cells"][0]["verdict"], "allow");
}

#[test]
fn what_leads_to_nobody_is_denied_by_no_policy() {
    let folder = folder();
    let arguments = [
        "--probe",
        "tcp/81",
        "--from",
        "shop/web",
        "--to",
        "service/api",
    ];
    let found = matrix(&folder, &arguments);
    let cell = &found["cells"][0];
    assert_eq!(cell["verdict"], "deny");
    assert_eq!(cell["backends"], json!({"allowed": 0, "total": 0}));
    assert!(
        cell["egress"].is_null() && cell["ingress"].is_null(),
        "{cell}"
    );
    let csv = folder.said(
        0,
        &[&["matrix", "."], &arguments[..], &["--format", "csv"]].concat(),
    );
    assert_eq!(
        csv.lines().nth(1),
        Some("shop/web,service/shop/api,tcp/81,4,deny,,,,,,,,")
    );
    let table = folder.said(0, &[&["matrix", "."], &arguments[..]].concat());
    assert!(table.contains("0 of 1 allowed"), "{table}");
    let complaint = folder.complaint(&explain("tcp/81"));
    assert!(
        complaint.contains("service/shop/api has no port tcp/81, only tcp/80"),
        "{complaint}"
    );
}

#[test]
fn a_service_opens_no_connections() {
    for service in ["service/shop/api", "10.96.0.1"] {
        let complaint =
            folder().complaint(&["matrix", ".", "--probe", "tcp/80", "--from", service]);
        assert!(complaint.contains("opens no connections"), "{complaint}");
    }
    let complaint =
        folder().complaint(&["matrix", ".", "--probe", "tcp/80", "--to", "service/apo"]);
    assert!(
        complaint.contains("did you mean `service/shop/api`?"),
        "{complaint}"
    );
}

/// Asks about web and a port of the Service.
fn explain(port: &str) -> [&str; 8] {
    [
        "explain",
        ".",
        "--from",
        "shop/web",
        "--to",
        "service/api",
        "--port",
        port,
    ]
}

#[test]
fn each_backend_is_explained() {
    let folder = folder();
    let arguments = explain("tcp/80");
    let found = folder.json(0, "explain.json", &arguments);
    assert_eq!(found["backends"], json!({"allowed": 1, "total": 2}));
    let backends = found["backend_cells"].as_array().expect("a list");
    let told: Vec<_> = (backends.iter())
        .map(|one| {
            (
                one["id"].as_str().unwrap(),
                one["probe"].as_str().unwrap(),
                one["verdict"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("shop/api-1", "tcp/8080", "allow"),
            ("shop/api-2", "tcp/9090", "deny")
        ]
    );
    let rule = backends[0]["ingress"]["rule"].as_u64().expect("a rule");
    let rules = found["rules"].as_array().expect("a list");
    assert!(
        rules
            .iter()
            .any(|one| one["id"] == rule && one["name"] == "api-from-web")
    );
    assert_eq!(found["judged"]["ingress"]["destination"], "10.0.0.12");
    let text = folder.said(0, &arguments);
    for line in [
        "shop/web may not open tcp/80 to service/shop/api (IPv4)",
        "1 of 2 backends may be reached",
        "  shop/api-1 on tcp/8080: allowed",
        "  shop/api-2 on tcp/9090: denied, ingress isolated, and no rule allows it",
        "ingress of shop/api-2: denied, isolated, and no rule allows it",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn expectations_are_about_services_too() {
    let folder = folder();
    let test = |expect: &str| {
        let text = format!(
            "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nexpect:\n{expect}"
        );
        std::fs::write(folder.0.path().join("test.yaml"), text).expect("a file");
    };
    test(
        "- {from: shop/web, to: service/shop/api, port: tcp/80, verdict: deny, by: shop/api-from-web}
- {from: {podSelector: {matchLabels: {app: web}}}, to: service/bank, port: tcp/443, verdict: allow}
- {from: shop/db, to: 10.96.0.1, port: tcp/80, verdict: deny}
",
    );
    // Over IPv6 one pod is behind it, and that is reached.
    let found = folder.json(1, "test.json", &["test", "."]);
    assert_eq!((&found["passed"], &found["failed"]), (&json!(2), &json!(1)));
    let failure = &found["expectations"][0]["failures"][0];
    assert_eq!(
        (&failure["families"], &failure["verdict"]),
        (&json!([6]), &json!("allow"))
    );
    assert_eq!(failure["backends"], json!({"allowed": 1, "total": 1}));
    let message = failure["message"].as_str().expect("a message");
    assert!(
        message.ends_with("(1 of 1 backends may be reached)"),
        "{message}"
    );
    test(
        "- {from: shop/web, to: service/shop/api, port: tcp/81, verdict: deny}
- {from: service/shop/api, to: shop/db, port: tcp/80, verdict: allow}
- {from: shop/web, to: service/shop/none, port: tcp/80, verdict: deny}
",
    );
    let found = folder.json(1, "test.json", &["test", "."]);
    let mistakes: Vec<&str> = (found["expectations"].as_array().expect("a list").iter())
        .map(|one| one["mistakes"][0]["message"].as_str().expect("a message"))
        .collect();
    assert_eq!(
        mistakes,
        [
            "nothing is tried: service/shop/api has no port tcp/81, only tcp/80",
            "`service/shop/api` is a Service, which opens no connections: name a pod behind it",
            "there is no Service `service/shop/none`",
        ]
    );
}

/// A proxy's node is a backend of its own Service, and a policy is about the pods alone.
#[test]
fn check_tells_of_a_backend_that_no_hook_sees() {
    let policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: api}}}]}]
";
    let slice = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: web, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.11]}, {addresses: [192.0.2.1]}]
";
    let told = |shop: &str| {
        let folder = Folder::new(&[
            ("shop.yaml", shop),
            ("services.yaml", SERVICES),
            ("policy.yaml", policy),
            ("slice.yaml", slice),
        ]);
        let report = folder.json(0, "check.json", &["check", "."]);
        let found = report["diagnostics"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|one| one["code"] == "CD0404");
        found.cloned().collect::<Vec<Value>>()
    };
    let found = told(SHOP);
    let [found] = found.as_slice() else {
        panic!("{found:?}");
    };
    let place = ["file", "line", "column", "severity"].map(|key| &found[key]);
    assert_eq!(
        place.map(ToString::to_string),
        ["\"./services.yaml\"", "26", "31", "\"warning\""]
    );
    let message = found["message"].as_str().expect("a message");
    assert!(
        message.contains("such as shop/web: it may not open tcp/8080 to the backend 192.0.2.1"),
        "{message}"
    );
    let elsewhere = SHOP.replace("nodeName: n1", "nodeName: n2");
    assert_eq!(told(&elsewhere), [] as [Value; 0]);
}

/// A slice of `edge` with these ports and endpoints.
fn slice_of_edge(name: &str, rest: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, \
         namespace: shop, labels: {{kubernetes.io/service-name: edge}}}}, {rest}}}\n"
    )
}

/// Cases that seldom are, translated as proxies do it.
#[test]
fn backends_are_those_of_proxies() {
    let edge = |spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: edge, namespace: shop}}, spec: {{{spec}}}}}\n"
        )
    };
    let counted = |documents: &str, to: &str, probe: &str| {
        let folder = folder();
        std::fs::write(folder.0.path().join("edge.yaml"), documents).expect("a file");
        let found = matrix(
            &folder,
            &["--probe", probe, "--from", "shop/web", "--to", to],
        );
        let cell = &found["cells"][0];
        let count = |key: &str| cell["backends"][key].as_u64();
        let verdict = cell["verdict"].as_str().expect("a verdict").to_owned();
        (verdict, count("allowed"), count("total"))
    };
    let is = |verdict: &str, allowed, total| (verdict.to_owned(), Some(allowed), Some(total));
    let plain = edge("clusterIP: 10.96.0.9, ports: [{port: 80}]");
    let v4 = "addressType: IPv4, ports: [{port: 80}], endpoints:";
    let slices = |rest: &[&str]| {
        let slices = rest
            .iter()
            .enumerate()
            .map(|(at, rest)| slice_of_edge(&format!("edge-{at}"), rest));
        plain.clone() + &slices.collect::<String>()
    };

    // One that two slices have is one; not ready in one of them is ready all the same.
    let twice = slices(&[
        &format!("{v4} [{{addresses: [203.0.113.9]}}]"),
        &format!("{v4} [{{addresses: [203.0.113.9], conditions: {{ready: false}}}}]"),
    ]);
    assert_eq!(counted(&twice, "service/edge", "tcp/80"), is("allow", 1, 1));
    // Ports are those of each slice: `api` is open to web on 8080 alone.
    let ports = slices(&[
        "addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.11]}]",
        "addressType: IPv4, ports: [{port: 9090}], endpoints: [{addresses: [10.0.0.12]}]",
    ]);
    assert_eq!(counted(&ports, "service/edge", "tcp/80"), is("deny", 1, 2));
    // A port without a number, an address that is a name, or another Service's name of a port.
    for rest in [
        "addressType: IPv4, ports: [{port: null}], endpoints: [{addresses: [203.0.113.9]}]",
        "addressType: FQDN, ports: [{port: 80}], endpoints: [{addresses: [edge.example]}]",
        "addressType: IPv4, ports: [{name: web, port: 80}], endpoints: [{addresses: [203.0.113.9]}]",
    ] {
        let nobody = counted(&slices(&[rest]), "service/edge", "tcp/80");
        assert_eq!(nobody, is("deny", 0, 0), "{rest}");
    }
    // Those about to end only where nothing is ready; one that is not ready never.
    let ending =
        "{addresses: [10.0.0.12], conditions: {ready: false, serving: true, terminating: true}}";
    let late = slices(&[&format!("{v4} [{ending}]")]);
    assert_eq!(counted(&late, "service/edge", "tcp/80"), is("deny", 0, 1));
    let beside = slices(&[&format!("{v4} [{ending}, {{addresses: [203.0.113.9]}}]")]);
    assert_eq!(
        counted(&beside, "service/edge", "tcp/80"),
        is("allow", 1, 1)
    );
    // A node, and an address that nothing has.
    let outside = slices(&[&format!(
        "{v4} [{{addresses: [192.0.2.1]}}, {{addresses: [203.0.113.9]}}]"
    )]);
    assert_eq!(
        counted(&outside, "service/edge", "tcp/80"),
        is("allow", 2, 2)
    );

    // Two Services at one address and port: either may be the next.
    let shared =
        edge("clusterIP: 10.96.0.2, selector: {app: api}, ports: [{port: 443, targetPort: 8080}]");
    assert_eq!(counted(&shared, "10.96.0.2", "tcp/443"), is("allow", 3, 3));
    assert_eq!(
        counted(&shared, "service/edge", "tcp/443"),
        is("allow", 2, 2)
    );
    // A pod's own address is the Service's at its ports alone.
    let pods = edge(
        "externalIPs: [10.0.0.12], selector: {app: api}, ports: [{port: 80, targetPort: 8080}]",
    );
    assert_eq!(counted(&pods, "10.0.0.12", "tcp/80"), is("allow", 2, 2));
    let own = counted(&pods, "10.0.0.12", "tcp/81");
    assert_eq!(own, ("deny".to_owned(), None, None));
    // A headless one is its pods, on the port that is meant.
    let headless =
        edge("clusterIP: None, selector: {app: api}, ports: [{port: 80, targetPort: 8080}]");
    assert_eq!(
        counted(&headless, "service/edge", "tcp/8080"),
        is("allow", 2, 2)
    );
    assert_eq!(
        counted(&headless, "service/edge", "tcp/80"),
        is("deny", 0, 2)
    );
    // What chooses among backends changes nothing.
    let local = edge(
        "type: LoadBalancer, internalTrafficPolicy: Local, externalTrafficPolicy: Local, \
         allocateLoadBalancerNodePorts: false, sessionAffinity: ClientIP, \
         publishNotReadyAddresses: true, ipFamilyPolicy: SingleStack, clusterIP: 10.96.0.9, \
         selector: {app: api}, ports: [{port: 80, targetPort: 8080, nodePort: 0, appProtocol: http}]",
    );
    assert_eq!(counted(&local, "service/edge", "tcp/80"), is("allow", 2, 2));
}

/// A document that would be left out is told at its place, and everything else counts.
#[test]
fn documents_that_cannot_be_used_are_told_at_their_place() {
    for (spec, place) in [
        ("type: NodePort, clusterIP: None", (5, 31)),
        ("clusterIP: 10.96.0.9, clusterIPs: [10.96.0.8]", (5, 15)),
        ("externalIPs: [127.0.0.1]", (5, 18)),
        ("ports: [{port: 80, protocol: HTTP}]", (5, 33)),
    ] {
        let folder = folder();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  {{{spec}}}\n"
        );
        std::fs::write(folder.0.path().join("edge.yaml"), text).expect("a file");
        let report = folder.json(1, "check.json", &["check", "."]);
        let found = report["diagnostics"].as_array().expect("a list").iter();
        let found: Vec<_> = found
            .filter(|one| one["severity"] == "error")
            .map(|one| {
                (
                    one["file"].as_str(),
                    one["line"].as_u64(),
                    one["column"].as_u64(),
                )
            })
            .collect();
        let (line, column) = place;
        assert_eq!(
            found,
            [(Some("./edge.yaml"), Some(line), Some(column))],
            "{spec}"
        );
        let arguments = [
            "matrix",
            ".",
            "--probe",
            "tcp/80",
            "--from",
            "shop/web",
            "--to",
            "service/api",
        ];
        let found = folder.json(1, "matrix.json", &arguments);
        assert_eq!(found["cells"][0]["backends"]["total"], 2, "{spec}");
    }
}
