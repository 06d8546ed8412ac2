//! `cofferdam graph`.

use std::{fs, process::Command};

use cofferdam_tests::shop::DB_FROM_WEB;
use serde_json::{Value, json};

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

#[test]
fn the_script_of_a_page_is_a_program() {
    // Where there is an engine; elsewhere the structure above has to do.
    let page = draw(&Folder::shop(), "html");
    let start = page.find("<script>").expect("a script") + "<script>".len();
    let script = &page[start..page.find("</script>").expect("an end")];
    let brackets =
        |open: char, close: char| script.matches(open).count() == script.matches(close).count();
    assert!(brackets('{', '}') && brackets('(', ')') && brackets('[', ']'));
    let folder = Folder::new(&[("page.js", script)]);
    if let Ok(output) = Command::new("node")
        .args(["--check", "page.js"])
        .current_dir(folder.0.path())
        .output()
    {
        assert!(output.status.success(), "{output:?}");
    }
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
