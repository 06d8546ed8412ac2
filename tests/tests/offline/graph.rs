//! `cofferdam graph`.

use std::{fs, process::Command};

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

use super::list::SERVICES;
use crate::Folder;

fn draw(folder: &Folder, format: &str) -> String {
    folder.said(0, &["graph", ".", "--format", format])
}

#[test]
fn edges_carry_ports_and_rules_in_every_form() {
    let folder = Folder::shop();
    let graph = folder.json(0, "graph.json", &["graph", "."]);
    assert_eq!(
        graph["edges"],
        json!([{"source": "shop/web", "destination": "shop/db", "ports": "tcp/5432",
                "families": [4, 6], "rules": ["shop/db-from-web (./db.yaml:7)"]}])
    );
    // What no policy isolates is counted, and drawn if asked for.
    assert_ne!(graph["left_out"], 0);
    let all = folder.json(0, "graph.json", &["graph", ".", "--all"]);
    assert_eq!(all["left_out"], 0);
    assert!(all["edges"].as_array().expect("a list").len() > 5);
    for (format, parts) in [
        (
            "dot",
            &[
                "digraph",
                "[label=\"shop/db\", shape=box]",
                "[label=\"tcp/5432\", tooltip=\"shop/db-from-web (./db.yaml:7)\"]",
            ][..],
        ),
        (
            "mermaid",
            &[
                "flowchart LR",
                "subgraph",
                "[\"shop/db\"]",
                "|\"tcp/5432\"|",
            ],
        ),
        (
            "md",
            &[
                "```mermaid\n",
                "| shop/web | shop/db | tcp/5432 | shop/db-from-web (./db.yaml:7) |",
            ],
        ),
        ("svg", &["<svg ", "data-name=\"shop/db\"", "tcp/5432"]),
        (
            "html",
            &[
                "<!DOCTYPE html>",
                "Content-Security-Policy",
                "id=\"search\"",
                "data-hides=\"shop\"",
                "<svg ",
            ],
        ),
    ] {
        let text = draw(&folder, format);
        for part in parts {
            assert!(text.contains(part), "{format}: {part}\n{text}");
        }
    }
}

/// The elements of a picture, by name, with their attributes; each is closed.
fn elements(xml: &str) -> Vec<(String, Vec<(String, String)>)> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        match reader.read_event().expect("XML") {
            Event::Eof => return found,
            Event::Start(element) | Event::Empty(element) => {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                let attributes = element.attributes().map(|attribute| {
                    let attribute = attribute.expect("an attribute");
                    (text(attribute.key.as_ref()), text(&attribute.value))
                });
                found.push((text(element.name().as_ref()), attributes.collect()));
            }
            _ => {}
        }
    }
}

#[test]
fn a_page_is_one_file_that_loads_nothing_and_whose_edges_find_their_ends() {
    let page = draw(&Folder::shop(), "html");
    for loading in [
        "http://", "https://", "src=", "href=", "@import", "fetch(", "url(\"",
    ] {
        let rest = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains(loading), "{loading}");
    }
    let svg = &page[page.find("<svg").unwrap()..page.find("</svg>").unwrap() + 6];
    let elements = elements(svg);
    let of = |class: &str, key: &str| -> Vec<String> {
        let groups = elements.iter().filter(|(name, attributes)| {
            name == "g"
                && attributes
                    .iter()
                    .any(|(key, value)| key == "class" && value.split(' ').any(|one| one == class))
        });
        let value = |attributes: &Vec<(String, String)>| {
            attributes
                .iter()
                .find(|one| one.0 == key)
                .map(|one| one.1.clone())
        };
        groups
            .filter_map(|(_, attributes)| value(attributes))
            .collect()
    };
    let numbers = of("node", "data-at");
    assert_eq!(numbers.len(), 3, "{numbers:?}");
    for key in ["data-from", "data-to"] {
        let ends = of("edge", key);
        assert_eq!(ends.len(), 1);
        assert!(numbers.contains(&ends[0]));
    }
    // The script looks for what is there.
    for part in [
        "data-at",
        "data-hides",
        "data-name",
        "data-from",
        "id=\"search\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

/// Two namespaces with a connection from one to the other, and one within.
const TWO_NAMESPACES: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, status: {podIP: 10.0.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.0.0.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: cron, namespace: other}, status: {podIP: 10.0.0.3}}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {matchLabels: {app: db}}
    ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]
      ports: [{port: 9187}]
";

/// A browser draws the page, and does to it what a reader does.
#[test]
fn a_page_is_drawn_searched_and_hidden_in_a_browser() {
    let folder = Folder::new(&[("two.yaml", TWO_NAMESPACES)]);
    let page = draw(&folder, "html");
    let probe = include_str!("page_probe.js");
    let probed = page.replace("</body>", &format!("<script>\n{probe}</script>\n</body>"));
    fs::write(folder.0.path().join("probe.html"), probed).expect("a file");
    let own = folder.0.path().join("browser");
    let output = Command::new("chromium-headless-shell")
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", own.display()))
        .arg(format!(
            "file://{}",
            folder.0.path().join("probe.html").display()
        ))
        .env("HOME", &own)
        .output()
        .expect("a browser: cargo xtask setup");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let start = "<pre id=\"outcome\">";
    let outcome = text
        .split_once(start)
        .and_then(|(_, rest)| {
            let (outcome, _) = rest.split_once("</pre>")?;
            serde_json::from_str::<Value>(outcome).ok()
        })
        .unwrap_or_else(|| panic!("{output:?}\n{errors}"));
    let nodes = ["other/cron", "shop/db", "shop/web"];
    let edges = ["tcp/9187 (IPv4)", "tcp/5432 (IPv4)"];
    let picture = |nodes: &[&str], bright: &[&str], edges: &[&str]| json!({"nodes": nodes, "bright": bright, "edges": edges});
    assert_eq!(outcome["first"], picture(&nodes, &nodes, &edges));
    // Who is found stands out, with those that it is connected to.
    assert_eq!(outcome["searched"], picture(&nodes, &nodes[..2], &edges));
    assert_eq!(outcome["notFound"], picture(&nodes, &[], &edges));
    let shop = &nodes[1..];
    assert_eq!(outcome["hidden"], picture(shop, shop, &edges[1..]));
    assert_eq!(outcome["shownAgain"], outcome["first"]);
    for (number, least, most) in [("zoom", 1.1, 1.2), ("panned", -1000.0, -1.0)] {
        let told = outcome[number].as_f64().expect("a number");
        assert!((least..=most).contains(&told), "{number}: {told}");
    }
    assert_eq!(outcome["loading"], "refused");
    let mistakes = errors.lines().filter(|line| line.contains("Uncaught"));
    assert_eq!(mistakes.count(), 0, "{errors}");
}

#[test]
fn what_has_changed_is_told_by_signs_and_lines_as_well_as_colours() {
    let folder = Folder::shop();
    fs::create_dir(folder.0.path().join("new")).expect("a folder");
    let other = DB_FROM_WEB.replace("5432", "5433");
    fs::write(folder.0.path().join("new/db.yaml"), other).expect("a file");
    fs::copy(
        folder.0.path().join("shop.yaml"),
        folder.0.path().join("new/shop.yaml"),
    )
    .expect("a file");
    let old = ["graph", "shop.yaml", "db.yaml", "--to", "new"];
    let graph = folder.json(0, "graph.json", &old);
    let edges = graph["edges"].as_array().expect("a list");
    let told = |edge: &Value| (edge["change"].clone(), edge["ports"].clone());
    assert_eq!(
        edges.iter().map(told).collect::<Vec<_>>(),
        [
            (json!("removed"), json!("tcp/5432")),
            (json!("added"), json!("tcp/5433"))
        ]
    );
    let svg = folder.said(0, &[&old[..], &["--format", "svg"]].concat());
    assert!(
        svg.contains("edge added") && svg.contains("edge removed") && svg.contains("+ tcp/5433"),
        "{svg}"
    );
    let mermaid = folder.said(0, &[&old[..], &["--format", "mermaid"]].concat());
    assert!(
        mermaid.contains("==>|\"+ tcp/5433\"|") && mermaid.contains("-.->|\"- tcp/5432\"|"),
        "{mermaid}"
    );
}

/// Services were no ends of a picture.
#[test]
fn services_are_drawn_where_they_are_asked_for() {
    let folder = Folder::shop();
    fs::write(folder.0.path().join("services.yaml"), SERVICES).expect("a file");
    let without = folder.said(0, &["graph", ".", "--format", "json"]);
    assert!(!without.contains("service/"), "{without}");
    let asked = ["graph", ".", "--services"];
    let graph = folder.json(0, "graph.json", &asked);
    let nodes = graph["nodes"].as_array().expect("a list");
    let service = nodes.iter().find(|node| node["id"] == "service/shop/sql");
    assert_eq!(
        service.expect("it is drawn"),
        &json!({"id": "service/shop/sql", "kind": "service", "namespace": "shop", "members": 1})
    );
    let edges = graph["edges"].as_array().expect("a list");
    let edge = edges
        .iter()
        .find(|edge| edge["source"] == "shop/web" && edge["destination"] == "service/shop/sql")
        .expect("it is drawn");
    assert_eq!(edge["ports"], "tcp/15432");
    assert_eq!(edge["rules"], json!(["shop/db-from-web (./db.yaml:7)"]));
    for (format, shape) in [
        ("dot", "[label=\"service/shop/sql\", shape=parallelogram]"),
        ("mermaid", "[/\"service/shop/sql\"/]"),
        ("svg", "<g class=\"node service\""),
        ("html", "<g class=\"node service\""),
    ] {
        let drawn = folder.said(0, &[&asked[..], &["--format", format]].concat());
        assert!(drawn.contains(shape), "{drawn}");
    }

    // Its port leads elsewhere in a new set.
    fs::create_dir(folder.0.path().join("new")).expect("a folder");
    for name in ["shop.yaml", "db.yaml"] {
        fs::copy(
            folder.0.path().join(name),
            folder.0.path().join("new").join(name),
        )
        .expect("a file");
    }
    let closed = SERVICES.replace("targetPort: 5432", "targetPort: 5433");
    fs::write(folder.0.path().join("new/services.yaml"), closed).expect("a file");
    let old = [
        "graph",
        "shop.yaml",
        "db.yaml",
        "services.yaml",
        "--to",
        "new",
    ];
    let graph = folder.json(0, "graph.json", &[&old[..], &["--services"]].concat());
    let edges = graph["edges"].as_array().expect("a list");
    let told = edges
        .iter()
        .map(|edge| (&edge["source"], &edge["destination"], &edge["change"]));
    assert!(
        told.clone().any(|one| one
            == (
                &json!("shop/web"),
                &json!("service/shop/sql"),
                &json!("removed")
            )),
        "{edges:?}"
    );
    assert!(
        graph["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|node| node["namespace"] == "shop")
    );
    let without = folder.json(0, "graph.json", &old);
    assert_eq!(without["edges"], json!([]));
}
