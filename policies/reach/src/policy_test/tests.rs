//! Tests of expectations: their results, and the findings about expectations without a cell.

use cofferdam_documents::{assemble, parse};
use cofferdam_syntax::diagnostic::{Code, Diagnostic};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Reach;

/// Two pods of either family, one of IPv4 alone, a finished one; a database that lets
/// the web tier in.
const WORLD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: old, namespace: shop, labels: {app: old}}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop, labels: {app: host}}, spec: {hostNetwork: true}, status: {podIP: 192.0.2.9}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: shop, labels: {app: job}}, status: {phase: Failed}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec: {podSelector: {matchLabels: {app: old}}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: trial, namespace: shop, annotations: {cofferdam.dev/mode: audit}}
spec: {podSelector: {matchLabels: {app: old}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  {tier: Admin, priority: 1, subject: {namespaces: {}},
   egress: [{action: Deny, to: [{networks: [169.254.169.254/32]}]}]}
";

/// Statements in a document; the first is on line 5.
fn document(statements: &[&str]) -> String {
    let lines: String = statements.iter().map(|one| format!("- {one}\n")).collect();
    format!(
        "apiVersion: cofferdam.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nexpect:\n{lines}\
         externals: {{net: [203.0.113.7], meta: [169.254.169.254]}}\n"
    )
}

fn parsed(text: &str) -> Tests {
    read("t.yaml", text.as_bytes())
}

/// For each statement: how many cells it is about, and whether it holds.
fn checked(statements: &[&str]) -> Vec<(usize, bool)> {
    let tests = parsed(&document(statements));
    assert_eq!(tests.diagnostics, [], "{statements:?}");
    let reach = Reach::new(&assemble(parse("w.yaml", WORLD.as_bytes()).documents).inventory);
    let results = check(&reach.unwrap(), &tests.tests);
    let outcomes = results.outcomes.iter();
    outcomes.map(|one| (one.checked, one.holds())).collect()
}

fn mistakes(statement: &str) -> Vec<Diagnostic> {
    let tests = parsed(&document(&[statement]));
    let reach = Reach::new(&assemble(parse("w.yaml", WORLD.as_bytes()).documents).inventory);
    let results = check(&reach.unwrap(), &tests.tests);
    assert!(results.outcomes.iter().all(|one| !one.holds()));
    let mistakes = results.outcomes.into_iter().flat_map(|one| one.mistakes);
    tests.diagnostics.into_iter().chain(mistakes).collect()
}

#[test]
fn an_expectation_is_about_every_family_that_both_ends_have() {
    assert_eq!(
        checked(&[
            "{from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}",
            "{from: shop/old, to: shop/db, port: tcp/5432, verdict: deny}",
            "{from: external/net, to: shop/db, port: tcp/5432, verdict: deny}",
            "{from: shop/web, to: shop/db, port: icmp/8, verdict: deny}",
            "{from: shop/web, to: shop/db, port: icmpv6/128, verdict: deny}",
            "{from: shop/web, to: shop/db, port: tcp/80, verdict: allow}",
        ]),
        [
            (2, true),
            (1, true),
            (1, true),
            (1, true),
            (1, true),
            (2, false)
        ]
    );
}

#[test]
fn selectors_stand_for_every_match_but_an_end_and_itself() {
    assert_eq!(
        checked(&[
            "{from: {podSelector: {}}, to: {podSelector: {}}, port: tcp/9, verdict: deny}",
            "{from: {podSelector: {matchLabels: {app: web}}}, to: shop/db, port: tcp/5432, verdict: allow}",
            "{from: {namespaceSelector: {matchLabels: {team: a}}}, to: shop/db, port: tcp/5432, verdict: deny}",
            "{from: shop/db, to: shop/db, port: tcp/9, verdict: allow}",
        ]),
        // web, db and old: six pairs, one of them in both families each way.
        [(8, false), (2, true), (3, false), (2, true)]
    );
}

#[test]
fn by_names_the_policy_that_decides_or_any_that_isolates() {
    let allow = |by: &str| {
        format!("{{from: shop/web, to: shop/db, port: tcp/5432, verdict: allow, by: {by}}}")
    };
    let deny = |by: &str| {
        format!("{{from: shop/old, to: shop/db, port: tcp/5432, verdict: deny, by: {by}}}")
    };
    let guard = |by: &str| {
        format!("{{from: shop/old, to: external/meta, port: tcp/80, verdict: deny, by: {by}}}")
    };
    let statements = [
        allow("shop/db"),
        allow("shop/deny"),
        deny("shop/db"),
        deny("shop/deny"),
        deny("guard"),
        // It allows, in the other direction.
        deny("shop/out"),
        guard("guard"),
        guard("shop/db"),
    ];
    let held: Vec<bool> = checked(&statements.each_ref().map(String::as_str))
        .into_iter()
        .map(|(_, holds)| holds)
        .collect();
    assert_eq!(held, [true, false, true, true, false, false, true, false]);
}

#[test]
fn what_an_expectation_gets_wrong_is_told_at_its_place() {
    for (statement, column, code, said) in [
        (
            "{from: shop/webb, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::ExpectsNothing,
            "did you mean `shop/web`?",
        ),
        (
            "{from: shop/web, to: shop/job, port: tcp/1, verdict: deny}",
            24,
            Code::ExpectsNothing,
            "has ended",
        ),
        (
            "{from: external/nett, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::ExpectsNothing,
            "did you mean `external/net`?",
        ),
        (
            "{from: {podSelector: {matchLabels: {app: x}}}, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::ExpectsNothing,
            "no pod is one of pods with app=x of every namespace",
        ),
        (
            "{from: {podSelector: {matchLabels: {app: host}}}, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::ExpectsNothing,
            "no pod is one of",
        ),
        (
            "{from: {podSelector: {matchLabels: {app: job}}}, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::ExpectsNothing,
            "no pod is one of",
        ),
        (
            "{from: {podSelector: {matchLabels: {app: db}}}, to: shop/db, port: tcp/1, verdict: deny}",
            3,
            Code::ExpectsNothing,
            "nothing is tried",
        ),
        (
            "{from: shop/web, to: 2001:db8::1, port: icmp/8, verdict: deny}",
            3,
            Code::ExpectsNothing,
            "nothing is tried",
        ),
        (
            "{from: shop/web, to: shop/db, port: tcp/1, verdict: deny, by: shop/dd}",
            65,
            Code::ExpectsNothing,
            "did you mean `shop/db`?",
        ),
        (
            "{from: shop/web, to: shop/db, port: http, verdict: deny}",
            39,
            Code::Expectation,
            "tcp/80",
        ),
        (
            "{from: shop/web, to: shop/db, port: tcp/1, verdict: denied}",
            55,
            Code::Expectation,
            "one of allow, deny",
        ),
        (
            "{from: {}, to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::Expectation,
            "selects nothing",
        ),
        (
            "{from: [shop/web], to: shop/db, port: tcp/1, verdict: deny}",
            10,
            Code::Type,
            "the name of an end",
        ),
        // Quotes, as for other numbers, would not have helped.
        (
            "{from: shop/web, to: shop/db, port: 5432, verdict: deny}",
            39,
            Code::Expectation,
            "write tcp/5432",
        ),
        (
            "{from: shop/web, port: tcp/1, verdict: deny}",
            3,
            Code::Missing,
            "`to`",
        ),
        (
            "{from: shop/web, to: shop/db, ports: tcp/1, verdict: deny}",
            33,
            Code::UnknownKey,
            "`port`",
        ),
        (
            "{from: {podSelektor: {}}, to: shop/db, port: tcp/1, verdict: deny}",
            11,
            Code::UnknownKey,
            "`podSelector`",
        ),
    ] {
        let found = mistakes(statement);
        let told = (found.iter().find(|one| one.code == code))
            .unwrap_or_else(|| panic!("{statement}: {found:#?}"));
        assert_eq!(
            (told.place.line, told.place.column, told.code),
            (5, column, code),
            "{told}"
        );
        assert!(told.to_string().contains(said), "{told}");
    }
}

#[test]
fn a_document_that_is_no_policy_test_is_none_of_ours_or_told() {
    let good = document(&["{from: a/b, to: a/b, port: tcp/1, verdict: allow}"]);
    assert_eq!(parsed(&good).tests.len(), 1);
    for (from, to, told) in [
        ("v1alpha1", "v1", "write apiVersion: cofferdam.dev/v1alpha1"),
        (
            "kind: PolicyTest",
            "kind: PolicyTests",
            "write kind: PolicyTest",
        ),
        ("metadata: {name: t}\n", "", "`metadata` is missing"),
        (
            "externals: {net: [203.0.113.7]",
            "externals: {net: [203.0.113]",
            "not an IPv4",
        ),
        (
            "externals: {net: [203.0.113.7]",
            "externals: {net: []",
            "is empty",
        ),
        ("externals:", "external:", "did you mean `externals`?"),
        ("expect:\n", "expect: []\nother:\n", "`expect` is empty"),
        (
            "kind: PolicyTest",
            "kind: PolicyTest\nkind: PolicyTest",
            "second time",
        ),
    ] {
        let text = good.replacen(from, to, 1);
        let found = parsed(&text).diagnostics;
        assert!(
            found.iter().any(|one| one.to_string().contains(told)),
            "{text}{found:#?}"
        );
    }
    for other in [
        "",
        "kind: Pod",
        "PolicyTest",
        "- PolicyTest",
        "kind: [PolicyTest]",
        "{PolicyTest",
    ] {
        assert_eq!(parsed(other), Tests::default(), "{other}");
    }
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        good.replace('\n', "\n  ")
    );
    assert_eq!(parsed(&list).tests.len(), 1);
}

#[test]
fn rules_that_decide_are_exercised() {
    let exercised = |statement: &str| {
        let tests = parsed(&document(&[statement]));
        let inventory = assemble(parse("w.yaml", WORLD.as_bytes()).documents).inventory;
        let results = check(&Reach::new(&inventory).unwrap(), &tests.tests);
        let keys = results.exercised.into_iter();
        keys.map(|key| key.policy.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        exercised("{from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}"),
        ["db"]
    );
    assert_eq!(
        exercised("{from: shop/web, to: external/meta, port: tcp/80, verdict: deny}"),
        ["guard"]
    );
    // In audit, too: its policy has been thought of.
    assert_eq!(
        exercised("{from: shop/web, to: shop/old, port: tcp/80, verdict: allow}"),
        ["trial"]
    );
    assert!(exercised("{from: shop/web, to: shop/db, port: tcp/80, verdict: deny}").is_empty());
}

/// A rule that passes is named by no verdict, and was told of as never exercised.
#[test]
fn rules_that_pass_on_are_exercised() {
    let cluster = |name: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
             metadata: {{name: {name}}}, spec: {{{rest}}}}}\n"
        )
    };
    let world = WORLD.to_owned()
        // The first that matches passes; the second never comes to it, and is about
        // another port in its other direction.
        + &cluster(
            "enclave",
            "tier: Admin, priority: 2, subject: {namespaces: {}}, \
             ingress: [{action: Pass, from: [{namespaces: {}}]}, \
             {action: Pass, from: [{namespaces: {}}]}], \
             egress: [{action: Pass, to: [{namespaces: {}}], \
             protocols: [{tcp: {destinationPort: {number: 1}}}]}]",
        )
        + &cluster(
            "base",
            "tier: Baseline, priority: 2, subject: {namespaces: {}}, \
             ingress: [{action: Pass, from: [{namespaces: {}}]}]",
        );
    let exercised = |statement: &str| {
        let tests = parsed(&document(&[statement]));
        let inventory = assemble(parse("w.yaml", world.as_bytes()).documents).inventory;
        let results = check(&Reach::new(&inventory).unwrap(), &tests.tests);
        let keys = results.exercised.into_iter();
        keys.map(|key| format!("{} {:?} {:?}", key.policy.name, key.direction, key.index))
            .collect::<Vec<_>>()
    };
    // `db` isolates, so that the Baseline tier is not asked.
    assert_eq!(
        exercised("{from: shop/web, to: shop/db, port: tcp/80, verdict: deny}"),
        ["enclave Ingress Some(0)"]
    );
    assert_eq!(
        exercised("{from: shop/db, to: shop/web, port: tcp/1, verdict: allow}"),
        [
            "base Ingress Some(0)",
            "enclave Ingress Some(0)",
            "enclave Egress Some(0)"
        ]
    );
    // From nobody that a rule is about, and where no policy is asked.
    for statement in [
        "{from: external/meta, to: shop/web, port: tcp/1, verdict: allow}",
        "{from: shop/web, to: shop/web, port: tcp/1, verdict: allow}",
    ] {
        assert!(exercised(statement).is_empty(), "{statement}");
    }
}

#[test]
fn of_many_failures_the_first_are_explained_and_the_rest_counted() {
    let pods: String = (1..=30)
        .map(|i| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{i}, namespace: x}}, \
                 status: {{podIP: 10.0.0.{i}}}}}\n"
            )
        })
        .collect();
    let statement = "{from: {podSelector: {}}, to: x/p1, port: tcp/1, verdict: deny}";
    let tests = parsed(&document(&[statement]));
    let inventory = assemble(parse("w.yaml", pods.as_bytes()).documents).inventory;
    let results = check(&Reach::new(&inventory).unwrap(), &tests.tests);
    let outcome = &results.outcomes[0];
    assert_eq!(
        (outcome.checked, outcome.failures.len(), outcome.unlisted),
        (29, 20, 9)
    );
}

/// Pieces of trouble to put into documents.
fn trouble() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "",
        "\n",
        "\n- ",
        " ",
        ": ",
        ", ",
        "{",
        "}",
        "[",
        "]",
        "'",
        "\"",
        "*a",
        "&a ",
        "~",
        "\u{0}",
        "\u{85}",
        "é",
        "/",
        "node/",
        "external/",
        "::",
        "10.0.0.1",
        "tcp/",
        "99999999999",
        "icmp/8/0",
        "{podSelector: {}}",
        "by: x",
        "allow",
        "deny",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the text, it is read or refused at a place, and what is read is checked.
    #[test]
    fn mangled_expectations_are_read_or_refused(
        changes in vec((any::<Index>(), 0usize..8, trouble()), 1..4),
    ) {
        let good = document(&[
            "{from: shop/web, to: shop/db, port: tcp/5432, verdict: allow, by: shop/db}",
            "{from: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}, to: external/net, port: icmp/8, verdict: deny}",
        ]);
        let mut text: Vec<char> = good.chars().collect();
        for (at, cut, put) in changes {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        let tests = parsed(&text);
        let inventory = assemble(parse("w.yaml", WORLD.as_bytes()).documents).inventory;
        let results = check(&Reach::new(&inventory).unwrap(), &tests.tests);
        let lines = text.split(['\n', '\r', '\u{85}']).count() + 1;
        let mistakes = results.outcomes.iter().flat_map(|one| &one.mistakes);
        for told in tests.diagnostics.iter().chain(mistakes) {
            prop_assert!((1..=lines).contains(&(told.place.line as usize)), "{}", told);
            let message = told.to_string();
            prop_assert!(!message.chars().any(char::is_control), "{:?}", message);
        }
    }
}
