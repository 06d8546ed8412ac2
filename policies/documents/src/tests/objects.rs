//! Objects of an API server: their names stand for places, unless they say where they were
//! written.

use super::*;

const NAME: &str = "kubernetes:NetworkPolicy/shop/db";

/// A policy with these annotations and an ingress rule, as an API server's JSON.
fn object(annotations: &str, ports: &str) -> Parsed {
    let text = format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy",
"metadata":{{"name":"db","namespace":"shop","annotations":{annotations}}},
"spec":{{"podSelector":{{}},"ingress":[{{"ports":{ports}}}]}}}}"#
    );
    parse_object(&NAME.into(), text.as_bytes())
}

fn shown(parsed: &Parsed) -> Vec<String> {
    let findings = parsed.diagnostics.iter();
    findings
        .map(|one| format!("{} {}", one.place, one.code))
        .collect()
}

fn policy_places(parsed: &Parsed) -> [String; 3] {
    let document = &parsed.documents[0];
    let Content::NetworkPolicy(policy) = &document.content else {
        panic!("{document:?}");
    };
    let rule = &policy.ingress.as_ref().unwrap()[0];
    [&document.place, &policy.place, &rule.place].map(ToString::to_string)
}

#[test]
fn places_in_an_object_are_its_name() {
    let parsed = object("{}", r#"[{"port":80}]"#);
    assert_eq!(policy_places(&parsed), [NAME; 3]);
    assert_eq!(parsed.documents[0].place.line, 0);
    let wrong = object("{}", r#"[{"port":0}]"#);
    assert_eq!(shown(&wrong), [format!("{NAME} CD0210")]);
    assert_eq!(wrong.rejected[0].place.to_string(), NAME);
}

#[test]
fn an_object_may_say_where_it_was_written() {
    let said = r#"{"cofferdam.dev/source":"policies/shop.yaml:12"}"#;
    let parsed = object(said, r#"[{"port":80}]"#);
    let place = "policies/shop.yaml:12";
    assert_eq!(policy_places(&parsed), [NAME, place, place]);
    let wrong = object(said, r#"[{"port":0}]"#);
    assert_eq!(shown(&wrong), [format!("{place} CD0210")]);
    assert_eq!(wrong.rejected[0].place.to_string(), NAME);
}

#[test]
fn what_is_no_place_is_told_and_not_printed() {
    for said in ["shop.yaml", "shop.yaml:0", ":3", "a\\u001b[31m:3"] {
        let parsed = object(
            &format!(r#"{{"cofferdam.dev/source":"{said}"}}"#),
            r#"[{"port":80}]"#,
        );
        assert_eq!(policy_places(&parsed), [NAME; 3], "{said}");
        assert_eq!(warnings(&parsed).len(), 1, "{said}");
    }
}

#[test]
fn in_a_file_lines_are_those_of_the_file() {
    let parsed = text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  \
         annotations: {cofferdam.dev/source: \"b.yaml:7\"}\nspec: {podSelector: {}}\n",
    );
    let Content::NetworkPolicy(policy) = &parsed.documents[0].content else {
        panic!("a policy");
    };
    assert_eq!(policy.place.to_string(), "a.yaml:6:1");
    assert!(parsed.diagnostics.is_empty());
}
