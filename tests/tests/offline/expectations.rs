//! `cofferdam test`.

use cofferdam_tests::shop::DB_FROM_WEB;
use std::collections::BTreeMap;

use quick_xml::events::Event;
use serde_json::{Value, json};

use crate::{Folder, SHOP, repository};

/// Expectations about the shop: all of them hold.
const EXPECTED: &str = "\
apiVersion: cofferdam.dev/v1alpha1
kind: PolicyTest
metadata: {name: shop}
externals: {net: [203.0.113.7, '2001:db8::7']}
expect:
- {from: shop/web, to: shop/db, port: tcp/5432, verdict: allow, by: shop/db-from-web}
- {from: external/net, to: {podSelector: {matchLabels: {app: db}}}, port: tcp/5432, verdict: deny, by: shop/db-from-web}
";

fn folder(expected: &str) -> Folder {
    Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", DB_FROM_WEB),
        ("test.yaml", expected),
    ])
}

#[test]
fn what_holds_is_counted_and_ends_with_status_0() {
    let folder = folder(EXPECTED);
    assert_eq!(folder.said(0, &["test", "."]), "all 2 expectations hold\n");
    let report = folder.json(0, "test.json", &["test", "."]);
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(report["expectations"][1]["checked"], 2);
    assert_eq!(report["coverage"], Value::Null);
    // Beside policies, it is no unknown document.
    assert_eq!(report["diagnostics"], json!([]));
    let checked = folder.run(&["check", "."]);
    assert!(!String::from_utf8_lossy(&checked.stdout).contains("test.yaml"));
}

/// The closing line said that all is well, and the status that it is not.
#[test]
fn what_holds_beside_errors_is_not_all() {
    for (from, to) in [
        (
            "port: tcp/5432, verdict: allow",
            "port: 5432, verdict: allow",
        ),
        ("metadata:", "x: 1\nmetadata:"),
    ] {
        let said = folder(&EXPECTED.replace(from, to)).said(1, &["test", "."]);
        assert!(
            said.ends_with(" expectations hold, but there are errors in documents\n"),
            "{said}"
        );
    }
}

#[test]
fn what_fails_names_the_line_the_rule_and_the_nearest_miss() {
    let wrong = EXPECTED
        .replace(
            "port: tcp/5432, verdict: allow",
            "port: tcp/80, verdict: allow",
        )
        .replace(", by: shop/db-from-web}\n- ", "}\n- ");
    let folder = folder(&wrong);
    let written = "{from: shop/web, to: shop/db, port: tcp/80, verdict: allow}";
    assert_eq!(
        folder.said(1, &["test", "."]),
        format!(
            "\
./test.yaml:6: does not hold
       6 | - {written}
  shop/web to shop/db tcp/80 (IPv4, IPv6): expected allow, got deny: ingress isolated by \
             shop/db-from-web, ./db.yaml:4, and no rule allows it
  nearest miss: shop/db-from-web ingress[0], ./db.yaml:7 would allow it but for the port: it has tcp/5432

1 of 2 expectations does not hold
"
        )
    );
    let report = folder.json(1, "test.json", &["test", "."]);
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&json!(1), &json!(1))
    );
    let failed = &report["expectations"][0];
    assert_eq!(
        (&failed["line"], &failed["holds"]),
        (&json!(6), &json!(false))
    );
    let failure = &failed["failures"][0];
    assert_eq!(
        (&failure["verdict"], &failure["families"]),
        (&json!("deny"), &json!([4, 6]))
    );
    assert_eq!(failure["nearest"]["missed"], json!(["port"]));
}

#[test]
fn a_verdict_that_is_right_for_another_reason_does_not_hold() {
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: closed, namespace: shop}\nspec: {podSelector: {matchLabels: {app: web}}}\n";
    let wrong = EXPECTED.replace(
        "verdict: allow, by: shop/db-from-web",
        "verdict: allow, by: shop/closed",
    );
    let folder = folder(&wrong);
    std::fs::write(folder.0.path().join("closed.yaml"), closed).expect("a file");
    let said = folder.said(1, &["test", "."]);
    let expected = "allow as expected, but not by shop/closed: egress no policy decides; ingress by \
                    shop/db-from-web ingress[0], ./db.yaml:7";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn mistakes_in_expectations_and_documents_end_with_status_1() {
    let slip = EXPECTED.replace("from: shop/web,", "from: shop/webb,");
    let said = folder(&slip).said(1, &["test", "."]);
    assert!(said.contains("./test.yaml:6:10: error[CD0602]"), "{said}");
    assert!(said.contains("did you mean `shop/web`?"), "{said}");
    let unreadable = EXPECTED.replace("verdict: deny", "verdict: no");
    let report = folder(&unreadable).json(1, "test.json", &["test", "."]);
    assert_eq!(report["diagnostics"][0]["line"], 7);
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&json!(1), &json!(0))
    );
    let broken = DB_FROM_WEB.replace("ingress:", "ingres:");
    let folder = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", &broken),
        ("test.yaml", EXPECTED),
    ]);
    let output = folder.run(&["test", "."]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("db.yaml:6:3: error"), "{told}");
}

#[test]
fn nothing_expected_is_no_answer() {
    let told = Folder::shop().complaint(&["test", "."]);
    assert!(
        told.contains("no PolicyTest of cofferdam.dev/v1alpha1"),
        "{told}"
    );
}

#[test]
fn coverage_lists_the_rules_that_never_decide() {
    let more = DB_FROM_WEB.to_owned()
        + "  - {from: [{ipBlock: {cidr: 198.51.100.0/24}}]}\n---\n"
        + &DB_FROM_WEB
            .replace("db-from-web", "unused")
            .replace("app: db", "app: nobody");
    let folder = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", &more),
        ("test.yaml", EXPECTED),
    ]);
    assert_eq!(
        folder.said(0, &["test", ".", "--coverage"]),
        "\
1 of 3 rules are exercised
  not exercised: shop/db-from-web ingress[1], ./db.yaml:9
  not exercised: shop/unused ingress[0], ./db.yaml:17
all 2 expectations hold
"
    );
    let report = folder.json(0, "test.json", &["test", ".", "--coverage"]);
    let coverage = &report["coverage"];
    assert_eq!(
        (&coverage["rules"], &coverage["exercised"]),
        (&json!(3), &json!(1))
    );
    let named = coverage["unexercised"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| {
            let rules = report["rules"].as_array().expect("a list");
            &rules.iter().find(|rule| rule["id"] == *id).expect("a rule")["line"]
        });
    assert_eq!(named.collect::<Vec<_>>(), [&json!(9), &json!(17)]);
}

/// The elements of well-formed XML, and their attributes.
fn elements(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut elements: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(element) | Event::Empty(element) => {
                let attributes = element.attributes().map(|attribute| {
                    let attribute = attribute.expect("an attribute");
                    let key = String::from_utf8(attribute.key.as_ref().to_vec()).expect("text");
                    let value = attribute.unescape_value().expect("a value");
                    (key, value.into_owned())
                });
                let name = String::from_utf8(element.name().as_ref().to_vec()).expect("text");
                elements.push((name, attributes.collect()));
            }
            Event::Eof => return elements,
            _ => {}
        }
    }
}

#[test]
fn junit_has_a_suite_for_each_document_and_a_case_for_each_expectation() {
    let wrong = EXPECTED
        .replace("name: shop}", "name: 'a <shop> & \"more\"'}")
        .replace(
            "port: tcp/5432, verdict: allow",
            "port: tcp/80, verdict: allow",
        )
        + "- {from: shop/nobody, to: shop/db, port: tcp/1, verdict: deny}\n";
    let text = folder(&wrong).said(1, &["test", ".", "--format", "junit"]);
    assert!(text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites "));
    let elements = elements(&text);
    let names: Vec<&str> = elements.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "testsuites",
            "testsuite",
            "testcase",
            "failure",
            "testcase",
            "testcase",
            "error"
        ]
    );
    let count = |key: &str| elements[1].1[key].as_str();
    assert_eq!(
        (count("tests"), count("failures"), count("errors")),
        ("3", "1", "1")
    );
    assert_eq!(count("name"), "a <shop> & \"more\"");
    let case = &elements[2].1;
    assert_eq!(
        (case["file"].as_str(), case["line"].as_str()),
        ("./test.yaml", "6")
    );
    assert!(elements[3].1["message"].contains("expected allow, got deny"));
    assert!(elements[6].1["message"].contains("there is no pod `shop/nobody`"));
    let broken = DB_FROM_WEB.replace("ingress:", "ingres:");
    let folder = Folder::new(&[
        ("shop.yaml", SHOP),
        ("db.yaml", &broken),
        ("test.yaml", EXPECTED),
    ]);
    let elements = self::elements(&folder.said(1, &["test", ".", "--format", "junit"]));
    assert_eq!(elements[1].1["name"], "documents");
    assert_eq!(elements[1].1["errors"], "1");
}

/// The library's own expectations, by the same command.
#[test]
fn what_the_library_expects_holds_and_is_about_every_rule() {
    let library = repository("policies/library");
    let mut folders = 0;
    for entry in std::fs::read_dir(&library).expect("the library") {
        let path = entry.expect("an entry").path();
        if !path.is_dir() {
            continue;
        }
        let path = path.to_str().expect("text").to_owned();
        let report = Folder::new(&[]).json(0, "test.json", &["test", &path, "--coverage"]);
        assert!(report["passed"].as_u64() > Some(0), "{path}");
        assert_eq!(report["coverage"]["unexercised"], json!([]), "{path}");
        folders += 1;
    }
    assert!(folders > 0);
}
