//! `cofferdam explain` on documents.

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

use crate::{Folder, SHOP, repository};

/// Policies of the whole cluster, one of which lets the others be asked.
const CLUSTER: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - {action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: guests}}}]}
  - action: Pass
    from: [{namespaces: {}}]
    protocols: [{tcp: {destinationPort: {number: 5432}}}]
  - {action: Deny, from: [{namespaces: {}}]}
";

fn shop() -> Folder {
    Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("guard.yaml", CLUSTER),
    ])
}

const WEB_TO_DB: [&str; 6] = ["explain", ".", "--from", "shop/web", "--to", "shop/db"];

fn asked(port: &str) -> Vec<&str> {
    [&WEB_TO_DB[..], &["--port", port]].concat()
}

/// Returns the facts of each rule on the way: tier, name, index, `true` if it matched, and
/// the field that did not.
fn walked(report: &Value) -> Vec<(String, String, u64, bool, Option<String>)> {
    let rules = report["rules"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let steps = report["walk"].as_array().expect("a list").iter();
    let step = |step: &Value| {
        let rule = rules
            .iter()
            .find(|rule| rule["id"] == step["rule"])
            .expect("a rule");
        assert_eq!(rule["tier"], step["tier"]);
        (
            text(&step["tier"]).expect("a tier"),
            text(&rule["name"]).expect("a name"),
            rule["index"].as_u64().expect("an index"),
            step["matched"].as_bool().expect("a boolean"),
            text(&step["field"]),
        )
    };
    steps.map(step).collect()
}

fn step(
    tier: &str,
    name: &str,
    index: u64,
    missed: Option<&str>,
) -> (String, String, u64, bool, Option<String>) {
    let missed = missed.map(str::to_owned);
    (
        tier.to_owned(),
        name.to_owned(),
        index,
        missed.is_none(),
        missed,
    )
}

#[test]
fn the_walk_goes_through_the_tiers_to_the_rule_that_decides() {
    let report = shop().json(0, "explain.json", &asked("tcp/5432"));
    assert_eq!(
        (&report["schema"], &report["family"]),
        (&json!("cofferdam/v1"), &json!(4))
    );
    assert_eq!(report["verdict"], "allow");
    assert_eq!(
        walked(&report),
        [
            step("admin", "guard", 0, Some("peer")),
            step("admin", "guard", 1, None),
            step("namespace", "db-from-web", 0, None),
        ]
    );
    assert_eq!(report["ingress"]["rule"], report["walk"][2]["rule"]);
    assert_eq!(report["nearest"], Value::Null);
    let rules = report["rules"].as_array().expect("a list");
    let guard = rules
        .iter()
        .find(|rule| rule["name"] == "guard")
        .expect("it");
    assert_eq!(guard["namespace"], Value::Null);
}

#[test]
fn a_denial_by_a_higher_tier_ends_the_walk_and_no_lower_rule_is_near() {
    let report = shop().json(0, "explain.json", &asked("tcp/80"));
    assert_eq!(report["verdict"], "deny");
    assert_eq!(report["ingress"]["reason"], "rule");
    assert_eq!(
        walked(&report),
        [
            step("admin", "guard", 0, Some("peer")),
            step("admin", "guard", 1, Some("port")),
            step("admin", "guard", 2, None),
        ]
    );
    assert_eq!(report["nearest"], Value::Null);
}

#[test]
fn the_nearest_miss_has_the_fewest_fields_that_do_not_match() {
    let nearest = |files: &[(&str, &str)], from: &str, port: &str| {
        let arguments = [
            "explain", ".", "--from", from, "--to", "shop/db", "--port", port,
        ];
        let report = Folder::new(files).json(0, "explain.json", &arguments);
        let rules = report["rules"].as_array().expect("a list").clone();
        let rule = rules
            .into_iter()
            .find(|rule| rule["id"] == report["nearest"]["rule"]);
        (
            rule.map(|rule| (rule["name"].clone(), rule["index"].clone())),
            report["nearest"]["missed"].clone(),
        )
    };
    let two = DB_FROM_WEB.to_owned()
        + "  - {from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 80}]}\n";
    let files = [("shop.yaml", SHOP), ("db.yaml", two.as_str())];
    let rule = |index: u32| Some((json!("db-from-web"), json!(index)));
    assert_eq!(
        nearest(&files, "shop/web", "tcp/443"),
        (rule(0), json!(["port"]))
    );
    // One field each: the first counts.
    assert_eq!(
        nearest(&files, "203.0.113.9", "tcp/5432"),
        (rule(0), json!(["peer"]))
    );
    assert_eq!(
        nearest(&files, "198.51.100.1", "tcp/443"),
        (rule(0), json!(["peer", "port"]))
    );
    assert_eq!(
        nearest(&files, "198.51.100.1", "tcp/80"),
        (rule(1), json!(["peer"]))
    );
    // With nothing but isolation, a policy that selects somebody else comes nearest.
    let slip = DB_FROM_WEB.replace(
        "podSelector: {matchLabels: {app: db}}",
        "podSelector: {matchLabels: {app: bd}}",
    );
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: closed, namespace: shop}\nspec: {podSelector: {}}\n";
    let files = [
        ("shop.yaml", SHOP),
        ("db.yaml", slip.as_str()),
        ("closed.yaml", closed),
    ];
    assert_eq!(
        nearest(&files, "shop/web", "tcp/5432"),
        (rule(0), json!(["subject"]))
    );
}

#[test]
fn the_text_tells_the_walk_in_sentences_with_the_lines() {
    assert_eq!(
        Folder::shop().said(0, &asked("tcp/443")),
        "\
shop/web may not open tcp/443 to shop/db (IPv4)

egress of shop/web: allowed, no policy decides

ingress of shop/db: denied, isolated, and no rule allows it
  isolated by shop/db-from-web, ./db.yaml:4
  shop/db-from-web ingress[0], ./db.yaml:7 does not match the port: it has tcp/5432
       7 |   - from: [{podSelector: {matchLabels: {app: web}}}]

nearest miss: shop/db-from-web ingress[0], ./db.yaml:7 would allow it but for the port: it has tcp/5432
       7 |   - from: [{podSelector: {matchLabels: {app: web}}}]
"
    );
    assert_eq!(
        shop().said(
            0,
            &[
                "explain", ".", "--from", "node/n1", "--to", "shop/db", "--port", "tcp/22"
            ]
        ),
        "\
node/n1 may open tcp/22 to shop/db (IPv4)

egress of node/n1: allowed, no policy decides

ingress of shop/db: allowed, its own node may always connect
"
    );
}

/// A ping of IPv6 was explained over IPv4 wherever both ends had that too.
#[test]
fn a_ping_is_asked_about_in_its_own_family() {
    let folder = Folder::shop();
    for (port, family) in [("icmpv6/128", 6), ("icmp/8", 4), ("tcp/80", 4)] {
        let report = folder.json(0, "explain.json", &asked(port));
        assert_eq!(report["family"], json!(family), "{port}");
    }
    let told = folder.complaint(&[
        "explain",
        ".",
        "--from",
        "node/n1",
        "--to",
        "shop/db",
        "--port",
        "icmpv6/128",
    ]);
    assert!(told.contains("no addresses of IPv6 both"), "{told}");
}

/// That a selector does not match a pod whose labels it names has to be explained.
#[test]
fn a_pod_on_its_nodes_network_is_told_to_be_the_node() {
    let host = "\
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: shop, labels: {app: web}}
spec: {nodeName: n2, hostNetwork: true, containers: [{name: proxy}]}
status: {podIP: 192.0.2.2}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";
    let folder = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("host.yaml", host),
    ]);
    let asked = |from| {
        [
            "explain", ".", "--from", from, "--to", "shop/db", "--port", "tcp/5432",
        ]
    };
    let told = folder.said(0, &asked("shop/proxy"));
    assert!(
        told.ends_with(
            "\nshop/proxy shares the network of node n2 and is judged as the node: no selector of \
             pods matches it\n"
        ),
        "{told}"
    );
    let report = folder.json(0, "explain.json", &asked("shop/proxy"));
    assert_eq!(report["ends"][0]["host_network_of"], "n2");
    for other in ["shop/web", "node/n2"] {
        let report = folder.json(0, "explain.json", &asked(other));
        assert_eq!(report["ends"][0]["host_network_of"], Value::Null, "{other}");
        assert!(!folder.said(0, &asked(other)).contains("shares the network"));
    }
}

#[test]
fn a_question_about_nothing_is_refused() {
    let folder = Folder::shop();
    for (from, to, rest, expected) in [
        ("shop/webb", "shop/db", &[][..], "did you mean `shop/web`?"),
        ("external/net", "shop/db", &[], "which addresses"),
        (
            "node/n1",
            "shop/db",
            &["--family", "6"],
            "no addresses of IPv6 both",
        ),
        ("10.9.9.9", "fd00::9", &[], "no addresses of one family"),
    ] {
        let arguments = [
            "explain", ".", "--from", from, "--to", to, "--port", "tcp/80",
        ];
        let told = folder.complaint(&[&arguments, rest].concat());
        assert!(told.contains(expected), "{told}");
    }
    let told = folder.complaint(&asked("https"));
    assert!(told.contains("tcp/80, udp/53"), "{told}");
    // No path: an agent is asked, and there is none.
    let told = folder.complaint(&[
        "explain",
        "--from",
        "a/b",
        "--to",
        "c/d",
        "--port",
        "tcp/1",
        "--run-dir",
        ".",
    ]);
    assert!(told.contains("no agent answers"), "{told}");
}

#[test]
fn of_several_addresses_the_pair_that_decides_is_told() {
    let asked = |port| {
        let [from, to, external] = ["external/two", "shop/db", "two=203.0.113.7,203.0.113.8"];
        [
            "explain",
            ".",
            "--from",
            from,
            "--to",
            to,
            "--port",
            port,
            "--external",
            external,
        ]
    };
    let text = Folder::shop().said(0, &asked("tcp/1"));
    let expected = "ingress of shop/db: denied, isolated, and no rule allows it\n  from 203.0.113.7 to 10.0.0.2\n";
    assert!(text.contains(expected), "{text}");
    let block = DB_FROM_WEB.replace(
        "podSelector: {matchLabels: {app: web}}",
        "ipBlock: {cidr: 203.0.113.7/32}",
    );
    let folder = Folder::new(&[("shop.yaml", SHOP), ("db.yaml", &block)]);
    let report = folder.json(0, "explain.json", &asked("tcp/5432"));
    assert_eq!(report["verdict"], "deny");
    assert_eq!(
        report["judged"]["ingress"],
        json!({"source": "203.0.113.8", "destination": "10.0.0.2"})
    );
}

#[test]
fn outside_hosts_of_expectations_are_known() {
    let test = |name: &str, address: &str| {
        format!(
            "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\n\
             externals: {{{name}: ['{address}']}}\n\
             expect: [{{from: external/{name}, to: shop/db, port: tcp/1, verdict: deny}}]\n"
        )
    };
    let (a, b) = (test("net", "203.0.113.7"), test("net", "203.0.113.8"));
    let ask = [
        "explain",
        ".",
        "--from",
        "external/net",
        "--to",
        "shop/db",
        "--port",
        "tcp/1",
    ];
    let one = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("a.yaml", &a),
    ]);
    let report = one.json(0, "explain.json", &ask);
    assert_eq!(report["ends"][0]["addresses"], json!(["203.0.113.7"]));
    // What is given on the command line counts instead.
    let given = [&ask[..], &["--external", "net=198.51.100.1"]].concat();
    let report = one.json(0, "explain.json", &given);
    assert_eq!(report["ends"][0]["addresses"], json!(["198.51.100.1"]));
    // They are asked about by name alone.
    let matrix = one.json(0, "matrix.json", &["matrix", ".", "--probe", "tcp/1"]);
    assert_eq!(matrix["ends"].as_array().expect("a list").len(), 3);
    let two = Folder::new(&[("shop.yaml", SHOP), ("a.yaml", &a), ("b.yaml", &b)]);
    assert!(two.complaint(&ask).contains("nothing says which addresses"));
}

#[test]
fn a_document_in_error_is_told_and_ends_with_status_1() {
    let broken = DB_FROM_WEB.replace("ingress:", "ingres:");
    let folder = Folder::new(&[("shop.yaml", SHOP), ("db.yaml", &broken)]);
    let report = folder.json(1, "explain.json", &asked("tcp/80"));
    assert_eq!(report["verdict"], "allow");
    assert_eq!(report["diagnostics"][0]["line"], 6);
    let output = folder.run(&asked("tcp/80"));
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("db.yaml:6:3: error"), "{told}");
}

/// Examples in documentation are what is printed.
#[test]
fn the_page_shows_what_is_printed() {
    let page = std::fs::read_to_string(repository("docs/reachability.md")).expect("the page");
    let folder = Folder::new(&[]);
    std::fs::create_dir(folder.0.path().join("shop")).expect("a folder");
    std::fs::write(folder.0.path().join("shop/pods.yaml"), SHOP).expect("a file");
    std::fs::write(folder.0.path().join("shop/db.yaml"), DB_FROM_WEB).expect("a file");
    let explained = folder.said(
        0,
        &[
            "explain", "shop", "--from", "shop/web", "--to", "shop/db", "--port", "tcp/443",
        ],
    );
    assert!(page.contains(&explained), "{explained}");
    let path = repository("policies/library/three-tier");
    let library = path.to_str().expect("text");
    let external = ["--external", "internet=203.0.113.7"];
    let picture = folder.said(
        0,
        &[&["matrix", library, "--probe", "tcp/8080"], &external[..]].concat(),
    );
    let (picture, _) = picture.split_once("\n\n12 of 49").expect("a picture");
    assert!(page.contains(picture), "{picture}");
}
