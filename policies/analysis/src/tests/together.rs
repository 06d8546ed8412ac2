//! Rules that several others leave nothing to, though none does alone.

use cofferdam_syntax::diagnostic::Code;

use super::{CLOSED, WORLD, cluster, findings, found, policy};

/// An Admin policy about everybody with these rules of egress.
fn egress(rules: &str) -> String {
    cluster(
        "c",
        &format!("tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [\n{rules}]"),
    )
}

fn codes(text: &str) -> Vec<Code> {
    (findings(&[text, WORLD, CLOSED]).iter())
        .map(|one| one.code)
        .collect()
}

#[test]
fn ports_that_touch_cover_what_spans_them() {
    let rules = |second: u32| {
        policy(&format!(
            "ingress: [\n{{ports: [{{port: 1, endPort: 80}}]}},\n\
             {{ports: [{{port: {second}, endPort: 90}}]}},\n{{ports: [{{port: 70, endPort: 85}}]}}]"
        ))
    };
    assert_eq!(found(&rules(81)), ["5:1 CD0504"]);
    assert_eq!(found(&rules(82)), [""; 0]);
    let told = &findings(&[&rules(81), WORLD, CLOSED])[0];
    assert_eq!(
        told.message,
        "rule 2 of `ingress` allows nothing that rules 0 and 1 do not allow together"
    );
    assert!(
        told.hint
            .as_ref()
            .is_some_and(|hint| hint.ends_with("line 3"))
    );
}

/// Were all three said to be too many, nothing would be left.
#[test]
fn of_rules_that_cover_each_other_some_are_left() {
    let text = policy(
        "ingress: [\n{ports: [{port: 1, endPort: 20}]},\n{ports: [{port: 11, endPort: 30}]},\n\
         {ports: [{port: 1, endPort: 10}, {port: 21, endPort: 30}]}]",
    );
    assert_eq!(found(&text), ["5:1 CD0504"]);
}

#[test]
fn halves_of_all_addresses_cover_them() {
    let rules = |second: &str| {
        egress(&format!(
            "{{action: Pass, to: [{{networks: [192.0.2.0/25]}}]}},\n\
             {{action: Accept, to: [{{networks: [{second}]}}]}},\n\
             {{action: Deny, to: [{{networks: [192.0.2.0/24]}}]}}"
        ))
    };
    assert_eq!(found(&rules("192.0.2.128/25")), ["5:1 CD0504"]);
    assert_eq!(found(&rules("192.0.2.128/26")), [""; 0]);
    let told = &findings(&[&rules("192.0.2.128/25"), WORLD, CLOSED])[0];
    assert_eq!(
        told.message,
        "this rule never decides: rule 0 of `c` (Pass) and rule 1 of `c` (Accept) cover all of \
         it before together"
    );
}

#[test]
fn values_of_a_label_are_covered_one_by_one() {
    let rules = |first: &str, last: &str| {
        let one = |action: &str, requirement: &str| {
            format!(
                "{{action: {action}, to: [{{pods: {{podSelector: {{matchExpressions: \
                 [{{key: app, {requirement}}}]}}}}}}]}}"
            )
        };
        egress(&format!(
            "{},\n{},\n{}",
            one("Accept", first),
            one("Accept", "operator: In, values: [db]"),
            one("Accept", last)
        ))
    };
    let (web, both) = (
        "operator: In, values: [web]",
        "operator: In, values: [db, web]",
    );
    assert_eq!(codes(&rules(web, both)), [Code::Hidden]);
    // What has neither label is covered by nobody, though there is none today.
    assert_eq!(codes(&rules(web, "operator: Exists")), []);
    let others = "operator: NotIn, values: [db]";
    assert_eq!(codes(&rules(others, "operator: Exists")), [Code::Hidden]);
    assert_eq!(
        codes(&rules(others, "operator: NotIn, values: [a]")),
        [Code::Hidden]
    );
}

/// In audit, a rule takes nothing away from one that is in force.
#[test]
fn policies_of_other_subjects_cover_together_what_is_about_both() {
    let one = |name: &str, priority: u32, namespaces: &str| {
        cluster(
            name,
            &format!(
                "tier: Admin, priority: {priority}, subject: {{namespaces: {{matchExpressions: \
                 [{{key: kubernetes.io/metadata.name, {namespaces}}}]}}}}, \
                 ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]"
            ),
        )
    };
    let x = one("a", 1, "operator: In, values: [x]");
    let others = one("b", 2, "operator: NotIn, values: [x]");
    let all = one("c", 3, "operator: Exists");
    assert_eq!(codes(&format!("{x}{others}{all}")), [Code::Hidden]);
    let audit = "metadata: {annotations: {cofferdam.dev/mode: audit}, name: b";
    let audited = others.replace("metadata: {name: b", audit);
    assert_ne!(audited, others);
    assert_eq!(codes(&format!("{x}{audited}{all}")), []);
}

#[test]
fn an_allow_is_denied_by_several_together() {
    let deny = |app: &str, action: &str| {
        format!(
            "{{action: {action}, to: [{{pods: {{podSelector: {{matchLabels: {{app: {app}}}}}}}}}]}}"
        )
    };
    let allow = "egress: [{to: [{namespaceSelector: {}}]}], policyTypes: [Egress]";
    let said = |first: &str, second: &str| {
        let text = egress(&format!("{first},\n{second}")) + &policy(allow);
        codes(&text)
    };
    // Whoever there is has one of the two labels.
    assert_eq!(
        said(&deny("web", "Deny"), &deny("db", "Deny")),
        [Code::Overruled]
    );
    assert_eq!(said(&deny("web", "Deny"), &deny("db", "Accept")), []);
    assert_eq!(said(&deny("web", "Pass"), &deny("db", "Deny")), []);
    let text =
        egress(&format!("{},\n{}", deny("web", "Deny"), deny("db", "Deny"))) + &policy(allow);
    assert_eq!(
        findings(&[&text, WORLD, CLOSED])[0].message,
        "this never allows anything: rule 0 of `c` and rule 1 of `c` deny all of it before"
    );
}
