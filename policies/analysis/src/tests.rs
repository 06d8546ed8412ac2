//! Each code is provoked, at its line, and a near miss is not.

mod selectors;
mod services;
mod slips;
mod templates;
mod together;
mod unseen;

use std::collections::BTreeSet;

use cofferdam_documents::{Source, assemble};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Severity};

use super::analyse;

/// Pods that most cases are held against: `x/web`, `x/db` and `y/web`.
const WORLD: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: x, labels: {app: web, tier: front}}, spec: {containers: [{ports: [{name: http, containerPort: 8080}, {name: dns, protocol: UDP, containerPort: 53}]}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: x, labels: {app: db}}, spec: {containers: [{ports: [{name: pg, containerPort: 5432}]}]}, status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: y, labels: {app: web}}, status: {podIP: 10.0.1.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: proxy, namespace: y, labels: {app: proxy}}, spec: {hostNetwork: true}, status: {podIP: 192.168.0.1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {zone: a}}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: x}, spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}
";

/// Policies that leave nothing unsaid about namespaces that a case is not about.
const CLOSED: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: x}, spec: {policyTypes: [Ingress, Egress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: y}, spec: {policyTypes: [Ingress, Egress]}}
";

/// Codes that the worlds of most tests are full of, since nobody there means anything.
const OF_WHOLE_WORLDS: [Code; 5] = [
    Code::NoLookups,
    Code::LookupsOverTcp,
    Code::OpenDirection,
    Code::ClosedBackend,
    Code::HalfPath,
];

fn findings(texts: &[&str]) -> Vec<Diagnostic> {
    let (errors, findings) = errors_and_findings(texts);
    assert!(errors.is_empty(), "{errors:#?}");
    findings
}

fn all_findings(texts: &[&str]) -> Vec<Diagnostic> {
    let (errors, findings) = errors_and_all_findings(texts);
    assert!(errors.is_empty(), "{errors:#?}");
    findings
}

fn errors_and_findings(texts: &[&str]) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    let (errors, mut findings) = errors_and_all_findings(texts);
    findings.retain(|one| !OF_WHOLE_WORLDS.contains(&one.code));
    (errors, findings)
}

fn errors_and_all_findings(texts: &[&str]) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    let sources: Vec<Source> = (texts.iter().enumerate())
        .map(|(index, text)| {
            Source::new(
                format!("{index}.yaml").as_str().into(),
                text.as_bytes().into(),
            )
        })
        .collect();
    let parsed = || sources.iter().map(|source| &source.parsed);
    let documents = parsed().flat_map(|parsed| parsed.documents.iter().cloned());
    let assembled = assemble(documents);
    let findings = analyse(&sources, &assembled);
    let errors = (parsed().flat_map(|parsed| parsed.diagnostics.iter().cloned()))
        .chain(assembled.diagnostics)
        .filter(|one| one.severity == Severity::Error);
    (errors.collect(), findings)
}

/// Returns the findings in a text beside the world, as `line:column code`.
fn found(text: &str) -> Vec<String> {
    let findings = findings(&[text, WORLD, CLOSED]);
    let shown = findings.iter().map(|one| {
        assert_eq!(&*one.place.file, "0.yaml", "{one}");
        assert_eq!(one.severity, Severity::Warning);
        assert!(one.hint.is_some(), "{one}");
        format!("{}:{} {}", one.place.line, one.place.column, one.code)
    });
    shown.collect()
}

/// A `Service` of namespace `x`, on one line.
fn service(spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: x}}, spec: {{{spec}}}}}"
    )
}

/// A `NetworkPolicy` of namespace `x` with this `spec`, whose first line is line 1.
fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: x}}, spec: {{\n{spec}\n}}}}"
    )
}

/// A `ClusterNetworkPolicy`, whose `spec` begins on its second line.
fn cluster(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {{\n{spec}\n}}}}\n---\n"
    )
}

/// Stands before what a finding is about, and not in the text.
const MARK: char = '§';

/// The text without marks, and the place behind each.
fn unmarked(marked: &str) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut places = Vec::new();
    for c in marked.chars() {
        if c == MARK {
            let line = text.matches('\n').count() + 1;
            let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            places.push(format!("{line}:{column}"));
        } else {
            text.push(c);
        }
    }
    (text, places)
}

struct Case {
    code: Code,
    /// With a mark before each place where it is found.
    wrong: String,
    right: String,
}

fn cases() -> Vec<Case> {
    let deny_all = cluster(
        "first",
        "tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]",
    );
    vec![
        Case {
            code: Code::SubjectEmpty,
            wrong: policy("podSelector: {matchLabels: {§app: wbe}}, ingress: [{}]"),
            right: policy("podSelector: {matchLabels: {app: web}}, ingress: [{}]"),
        },
        Case {
            code: Code::SubjectEmpty,
            wrong: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {pods: {podSelector: {matchExpressions: [§{key: app, operator: In, values: [proxi]}]}}}, egress: []",
            ),
            right: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {pods: {podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [proxi]}]}}}, egress: []",
            ),
        },
        Case {
            code: Code::PeerEmpty,
            wrong: policy("ingress: [{\nfrom: [{podSelector: {matchExpressions: [§{key: ap, operator: Exists}]}}]}]"),
            right: policy("ingress: [{\nfrom: [{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]"),
        },
        Case {
            code: Code::PeerEmpty,
            wrong: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [\n{nodes: {matchLabels: {§zone: b}}},\n{pods: {podSelector: {matchLabels: {§tier: back}}}}]}]",
            ),
            right: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [\n{nodes: {matchLabels: {zone: a}}},\n{pods: {podSelector: {matchLabels: {tier: front}}}}]}]",
            ),
        },
        Case {
            code: Code::NeverMatches,
            wrong: policy("egress: [{to: [{ipBlock: {cidr: 203.0.113.0/31, §except: [203.0.113.0/32, 203.0.113.1/32]}}]}], policyTypes: [Egress]"),
            right: policy("egress: [{to: [{ipBlock: {cidr: 203.0.113.0/30, except: [203.0.113.0/32, 203.0.113.1/32]}}]}], policyTypes: [Egress]"),
        },
        Case {
            code: Code::Hidden,
            wrong: policy("ingress: [{from: [{podSelector: {}}]},\n§{from: [{podSelector: {matchLabels: {app: web}}}]}]"),
            right: policy("ingress: [{from: [{podSelector: {}}]},\n{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]"),
        },
        Case {
            code: Code::Hidden,
            wrong: deny_all.clone()
                + &cluster(
                    "second",
                    "tier: Admin, priority: 2, subject: {namespaces: {}}, ingress: [\n§{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]",
                ),
            right: deny_all.clone()
                + &cluster(
                    "second",
                    "tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [\n{action: Accept, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]",
                ),
        },
        Case {
            code: Code::Overruled,
            wrong: deny_all.clone()
                + &policy("ingress: [\n§{from: [{podSelector: {matchLabels: {app: web}}}]}]"),
            // Outside hosts are nobody's namespace.
            right: deny_all.clone() + &policy("ingress: [\n{ports: [{port: 8080}]}]"),
        },
        Case {
            code: Code::NoSuchPort,
            wrong: policy("podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}, {port: §htpp}, {port: §dns}, {protocol: UDP, port: §htpp}]}]"),
            right: policy("podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}, {protocol: UDP, port: dns}]}]"),
        },
        Case {
            code: Code::NoSuchPort,
            wrong: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: §pgsql}]}]",
            ),
            right: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}]",
            ),
        },
        Case {
            code: Code::BlockCoversWorkloads,
            wrong: policy("egress: [{to: [{ipBlock: {cidr: §10.0.0.0/8, except: [10.0.0.0/24]}}]}], policyTypes: [Egress]"),
            right: policy("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/23]}}]}], policyTypes: [Egress]"),
        },
        Case {
            code: Code::BlockCoversWorkloads,
            wrong: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.0.2.0/24, §'fd00::/8']}]}]",
            ),
            // To deny everything is no slip.
            right: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.0.2.0/24, '::/0']}]}]",
            ),
        },
        Case {
            code: Code::ImpliedTypes,
            wrong: policy("podSelector: {matchLabels: {app: web}},\n§egress: []"),
            right: policy("podSelector: {matchLabels: {app: web}},\negress: [], policyTypes: [Ingress, Egress]"),
        },
        Case {
            code: Code::PriorityTie,
            wrong: deny_all.clone()
                + &cluster(
                    "second",
                    "tier: Admin, §priority: 1, subject: {namespaces: {}}, ingress: [\n{action: Pass, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]",
                ),
            right: deny_all
                + &cluster(
                    "second",
                    "tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [\n{action: Pass, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]",
                ),
        },
        Case {
            code: Code::ServicePort,
            wrong: policy("egress: [{to: [{podSelector: {matchLabels: {app: web}}}],\nports: [{port: §80}]}], policyTypes: [Egress]"),
            right: policy("egress: [{to: [{podSelector: {matchLabels: {app: web}}}],\nports: [{port: 8080}]}], policyTypes: [Egress]"),
        },
        Case {
            code: Code::ServicePort,
            wrong: policy("podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: TCP, port: §80}]}]"),
            // Of a pod that names no ports nobody knows where it listens.
            right: policy(
                "egress: [{to: [{namespaceSelector: {}}], ports: [{protocol: TCP, port: 80}]}], policyTypes: [Egress]",
            ),
        },
        // The pods behind it are what is judged.
        Case {
            code: Code::ServiceAddress,
            wrong: policy(
                "egress: [{to: [{ipBlock: {cidr: §10.96.0.7/32}}]}], policyTypes: [Egress]",
            ),
            right: policy(
                "egress: [{to: [{ipBlock: {cidr: 10.96.0.7/32}}]}, {to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}], policyTypes: [Egress]",
            ),
        },
        Case {
            code: Code::ServiceAddress,
            wrong: policy("ingress: [{from: [{ipBlock: {cidr: §10.96.0.7/32}}]}]"),
            right: policy("ingress: [{from: [{ipBlock: {cidr: 10.96.0.8/32}}]}]"),
        },
        Case {
            code: Code::ServiceAddress,
            wrong: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [§10.96.0.7/32, 192.0.2.1/32]}]}]",
            ),
            right: cluster(
                "c",
                "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.96.0.8/32, 192.0.2.1/32]}]}]",
            ),
        },
        Case {
            code: Code::ServiceEmpty,
            wrong: service("selector: {§app: wbe}, ports: [{port: 80}]"),
            right: service("selector: {app: db}, ports: [{port: 80}]"),
        },
        Case {
            code: Code::ServiceTarget,
            wrong: service("selector: {app: db}, ports: [{port: 80, targetPort: §http}]"),
            right: service("selector: {app: db}, ports: [{port: 80, targetPort: pg}]"),
        },
        Case {
            code: Code::MisplacedSetting,
            wrong: "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x, labels: {§cofferdam.dev/mode: audit}}, spec: {policyTypes: [Egress]}}".to_owned(),
            right: "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x, annotations: {cofferdam.dev/mode: audit}}, spec: {policyTypes: [Egress]}}".to_owned(),
        },
        Case {
            code: Code::AuditedNamespace,
            wrong: "{apiVersion: v1, kind: Namespace, metadata: {name: staging, annotations: {§cofferdam.dev/enforcement: audit}}}".to_owned(),
            right: "{apiVersion: v1, kind: Namespace, metadata: {name: staging, annotations: {cofferdam.dev/enforcement: enforce}}}".to_owned(),
        },
    ]
}

#[test]
fn every_code_is_found_at_its_place_and_not_in_a_near_miss() {
    for case in cases() {
        let (text, places) = unmarked(&case.wrong);
        assert!(!places.is_empty(), "{text}");
        let expected: Vec<String> = (places.iter())
            .map(|place| format!("{place} {}", case.code))
            .collect();
        assert_eq!(found(&text), expected, "{text}");
        assert_eq!(found(&case.right), [""; 0], "{}", case.right);
    }
}

/// Codes whose cases have worlds of their own, in tests below.
const OWN_WORLD: [Code; 11] = [
    Code::IsolatedWithoutRule,
    Code::NotIsolated,
    Code::WorkloadUnusable,
    Code::NoLookups,
    Code::LookupsOverTcp,
    Code::OpenDirection,
    Code::NamespaceByName,
    Code::EverybodyMeant,
    Code::ClosedBackend,
    Code::HalfPath,
    Code::SenselessBlock,
];

#[test]
fn every_code_about_meaning_has_a_case() {
    let here: BTreeSet<&str> = (cases().iter())
        .map(|case| case.code.as_str())
        .chain(OWN_WORLD.map(Code::as_str))
        .collect();
    let all: BTreeSet<&str> = (Code::ALL.iter())
        .map(|code| code.as_str())
        .filter(|code| code.starts_with("CD05"))
        .collect();
    assert_eq!(here, all);
}

/// Returns the findings in a text and the world alone, except `NotIsolated`, as
/// `line:column code`.
fn alone(text: &str) -> Vec<String> {
    (findings(&[text, WORLD]).iter())
        .filter(|one| one.code != Code::NotIsolated)
        .map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.code))
        .collect()
}

#[test]
fn isolation_without_a_rule_is_told_unless_it_is_meant() {
    // A direction listed beside one that has rules, and nothing in it.
    let listed =
        "podSelector: {matchLabels: {app: db}}, ingress: [{}],\npolicyTypes: [Ingress, Egress]";
    assert_eq!(alone(&policy(listed)), ["3:24 CD0509"]);
    // Nothing but a subject: all ingress is denied by default.
    let silent = "podSelector: {matchLabels: {app: db}}";
    assert_eq!(alone(&policy(silent)), ["2:1 CD0509"]);
    // Nothing but what it closes: rules may have been forgotten.
    let closing = "podSelector: {matchLabels: {app: db}},\npolicyTypes: [Ingress, Egress]";
    assert_eq!(alone(&policy(closing)), ["3:15 CD0509", "3:24 CD0509"]);
    for meant in [
        // Everything of a namespace, the way to begin.
        "podSelector: {}",
        "podSelector: {}, policyTypes: [Ingress, Egress]",
        // Nothing, in writing.
        "podSelector: {matchLabels: {app: db}}, ingress: [{}], egress: [], policyTypes: [Ingress, Egress]",
        "podSelector: {matchLabels: {app: db}}, ingress: []",
        "podSelector: {matchLabels: {app: db}}, ingress: [], egress: [], policyTypes: [Ingress, Egress]",
    ] {
        assert_eq!(alone(&policy(meant)), [""; 0], "{meant}");
    }
    // Another policy opens the direction, or closes it for everybody.
    let others = [
        "{podSelector: {}, egress: [{}], policyTypes: [Egress]}",
        "{podSelector: {}, policyTypes: [Egress]}",
    ];
    for other in others {
        let other = policy("")
            .replace("name: p", "name: q")
            .replace("spec: {\n\n}", &format!("spec: {other}"));
        let text = format!("{}\n---\n{other}", policy(listed));
        assert_eq!(alone(&text), [""; 0], "{text}");
    }
}

#[test]
fn egress_rules_alone_deny_ingress_where_nobody_else_does() {
    let text = policy("podSelector: {matchLabels: {app: db}},\negress: [{}]");
    assert_eq!(alone(&text), ["3:1 CD0508"]);
    // Where ingress is denied by default, nothing changes by it.
    assert_eq!(found(&text), [""; 0]);
    let explicit =
        policy("podSelector: {matchLabels: {app: db}},\negress: [{}], policyTypes: [Egress]");
    assert_eq!(alone(&explicit), [""; 0]);
}

#[test]
fn a_namespace_that_no_policy_is_about_is_told_once_there_are_policies() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {\nname: y}}\n---\n";
    let one = namespace.to_owned() + &policy("podSelector: {}");
    let found: Vec<String> = findings(&[&one, WORLD])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("0.yaml:2:1: warning[CD0510]: "),
        "{found:?}"
    );
    // Without its document, at a pod of it.
    let found: Vec<String> = (findings(&[&policy("podSelector: {}"), WORLD]).iter())
        .map(|one| format!("{} {}", one.place, one.code))
        .collect();
    assert_eq!(found, ["1.yaml:6:51 CD0510"]);
    let about = cluster(
        "c",
        "tier: Baseline, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: y}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]",
    );
    assert!(findings(&[&(one + "\n---\n" + &about), WORLD]).is_empty());
    assert!(findings(&[namespace, WORLD]).is_empty());
}

/// The hint, or message and hint, about a selector of namespace `x`.
fn said(spec: &str) -> String {
    let findings = findings(&[&policy(spec), WORLD, CLOSED]);
    let [finding] = findings.as_slice() else {
        panic!("{findings:#?}");
    };
    finding.to_string()
}

#[test]
fn hints_say_what_was_probably_meant() {
    for (spec, part) in [
        (
            "podSelector: {matchLabels: {app: wbe}}",
            "did you mean `app: web`?",
        ),
        (
            "podSelector: {matchLabels: {ap: web}}",
            "did you mean `app`?",
        ),
        (
            "podSelector: {matchLabels: {app: cache}}",
            "values there: `db`, `web`",
        ),
        (
            "podSelector: {matchLabels: {app: db, tier: front}}",
            "together with the others",
        ),
        (
            "podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}",
            "every workload of namespace `x` has the label `app` that is ruled out here",
        ),
        (
            "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]",
            "no namespace has the label `kubernetes.io/metadata.name` as `z`",
        ),
        (
            "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: proxy}}}]}]",
            "y/proxy, whose labels match, shares its node's network",
        ),
    ] {
        let said = said(spec);
        assert!(said.contains(part), "{spec}: {said}");
    }
}

#[test]
fn what_lies_in_another_namespace_is_pointed_out() {
    let other = WORLD
        .replace("app: web, tier: front", "app: front")
        .replace("selector: {app: web}", "selector: {app: front}");
    let text = policy("ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]");
    let findings = findings(&[&text, &other, CLOSED]);
    let [finding] = findings.as_slice() else {
        panic!("{findings:#?}");
    };
    assert_eq!(
        finding.hint.as_deref(),
        Some("workloads of namespace `y` match, and this looks in `x` alone")
    );
}

#[test]
fn policies_without_any_workloads_are_not_blamed_for_selecting_none() {
    let text = policy(
        "podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: x}]}]",
    );
    assert!(findings(&[&text]).is_empty());
}

#[test]
fn a_rule_is_not_overruled_where_something_lets_traffic_through_before() {
    let deny = cluster(
        "deny",
        "tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]",
    );
    let allow = policy("ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]");
    let before = |action: &str, pods: &str| {
        cluster(
            "before",
            &format!(
                "tier: Admin, priority: 4, subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: [{{pods: {{podSelector: {{matchLabels: {{app: {pods}}}}}}}}}]}}]"
            ),
        )
    };
    let codes = |before: &str| -> Vec<Code> {
        let text = format!("{deny}{before}{allow}");
        findings(&[&text, WORLD, CLOSED])
            .iter()
            .map(|one| one.code)
            .collect()
    };
    assert_eq!(codes(""), [Code::Overruled]);
    assert_eq!(codes(&before("Pass", "db")), [Code::Overruled]);
    assert_eq!(codes(&before("Pass", "web")), []);
    assert_eq!(codes(&before("Accept", "web")), []);
    // What is only audited denies nothing.
    let text = format!(
        "{}{allow}",
        deny.replace(
            "name: deny",
            "name: deny, annotations: {cofferdam.dev/mode: audit}"
        )
    );
    assert!(findings(&[&text, WORLD, CLOSED]).is_empty());
}

#[test]
fn every_spelling_of_a_selector_is_found_again() {
    let lists = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: {name: p, namespace: x}\n  spec:\n    ingress:\n    - from:\n      - podSelector:\n          matchExpressions:\n          - key: app\n            operator: In\n            values: [wbe]\n";
    assert_eq!(found(lists), ["12:13 CD0502"]);
    let first = "spec: {ingress: [{from: [{podSelector: {matchLabels: {app: wbe}}}]}]}\nkind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: p, namespace: x}\n";
    assert_eq!(found(first), ["1:55 CD0502"]);
    let anchored = policy(
        "ingress: [{from: [{podSelector: &s {matchLabels: {app: wbe}}}]},\n{ports: [{port: 1}], from: [{podSelector: *s}]}]",
    );
    assert_eq!(found(&anchored), ["2:51 CD0502"]);
}

#[test]
fn one_mistake_is_one_finding() {
    let empty =
        policy("podSelector: {matchLabels: {app: cache}}, ingress: [{ports: [{port: resp}]}]");
    let silent = policy("podSelector: {matchLabels: {app: db}}").replace("name: p", "name: q");
    let text = format!("{empty}\n---\n{silent}");
    let codes = |wrong: &str| -> Vec<Code> {
        let (errors, findings) = errors_and_findings(&[&text, WORLD, wrong]);
        assert_eq!(errors.is_empty(), wrong.is_empty(), "{errors:#?}");
        findings.iter().map(|one| one.code).collect()
    };
    use Code::{IsolatedWithoutRule, NotIsolated, SubjectEmpty};
    assert_eq!(codes(""), [SubjectEmpty, IsolatedWithoutRule, NotIsolated]);
    // The pods that are meant may be those left out.
    let pod =
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: [cache]}}}";
    assert_eq!(codes(pod), [IsolatedWithoutRule, NotIsolated]);
    // The rules that are missing may stand in the policy left out.
    let rule = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: r, namespace: x}, spec: {ingres: [{}]}}";
    assert_eq!(codes(rule), [SubjectEmpty, NotIsolated]);
    // Nobody knows what that is.
    assert_eq!(codes("a: ["), []);
}

/// Peers chosen by address may be workloads that are chosen by labels.
#[test]
fn a_workload_is_let_through_by_its_address_too() {
    let deny = cluster(
        "deny",
        "tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}]}]",
    );
    let pass = |network: &str| {
        cluster(
            "pass",
            &format!(
                "tier: Admin, priority: 4, subject: {{namespaces: {{}}}}, egress: [{{action: Pass, to: [{{networks: [{network}]}}]}}]"
            ),
        )
    };
    let allow =
        policy("egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}], policyTypes: [Egress]");
    let codes = |network: &str| -> Vec<Code> {
        let text = format!("{deny}{}{allow}", pass(network));
        (findings(&[&text, WORLD, CLOSED]).iter())
            .map(|one| one.code)
            .collect()
    };
    assert_eq!(codes("10.0.0.1/32"), []);
    assert_eq!(codes("10.0.0.2/32"), [Code::Overruled]);
}

#[test]
fn what_is_shown_of_documents_has_no_control_characters() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {\"cofferdam.dev/\\e[2J\": x}}}";
    let findings = findings(&[pod]);
    let [finding] = findings.as_slice() else {
        panic!("{findings:#?}");
    };
    assert_eq!(finding.code, Code::MisplacedSetting);
    assert!(!finding.message.contains('\u{1b}'), "{finding:?}");
}

#[test]
fn a_services_port_is_not_told_where_it_may_be_meant() {
    let rule = |ports: &str| {
        policy(&format!(
            "egress: [{{to: [{{podSelector: {{matchLabels: {{app: web}}}}}}], ports: [{ports}]}}], policyTypes: [Egress]"
        ))
    };
    let codes = |text: &str, world: &str| -> Vec<Code> {
        (findings(&[text, world, CLOSED]).iter())
            .map(|one| one.code)
            .collect()
    };
    let wrong = rule("{port: 80}");
    assert_eq!(codes(&wrong, WORLD), [Code::ServicePort]);
    // Both are there, so somebody has thought of it.
    assert_eq!(codes(&rule("{port: 80}, {port: 8080}"), WORLD), []);
    // Others that the rule is about name other ports.
    let all = wrong.replace("{matchLabels: {app: web}}", "{}");
    assert_eq!(codes(&all, WORLD), [Code::ServicePort]);
    // The pod does listen there.
    let listening = WORLD.replace(
        "[{name: http,",
        "[{name: alt, containerPort: 80}, {name: http,",
    );
    assert_eq!(codes(&wrong, &listening), []);
    // Another Service leads there.
    let other = "---\n{apiVersion: v1, kind: Service, metadata: {name: other, namespace: x}, spec: {selector: {tier: front}, ports: [{port: 81, targetPort: 80}]}}";
    assert_eq!(codes(&wrong, &format!("{WORLD}{other}")), []);
}

/// The Baseline tier is not asked about what a policy of a namespace isolates.
#[test]
fn a_baseline_rule_opens_nothing_that_is_isolated() {
    let closed = policy(
        "podSelector: {matchLabels: {app: db}}, ingress: [{}],\npolicyTypes: [Ingress, Egress]",
    );
    let opening = |tier: &str| {
        cluster(
            "c",
            &format!(
                "tier: {tier}, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Accept, to: [{{namespaces: {{}}}}]}}]"
            ),
        )
    };
    let text = |tier: &str| format!("{closed}\n---\n{}", opening(tier));
    assert_eq!(alone(&text("Baseline")), ["3:24 CD0509"]);
    assert_eq!(alone(&text("Admin")), [""; 0]);
}

/// That all pods of a tier are of one application is so today, and no mistake.
#[test]
fn rules_that_agree_are_hidden_only_by_what_is_written() {
    let rule = |name: &str, priority: u32, action: &str, label: &str| {
        cluster(
            name,
            &format!(
                "tier: Admin, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: [{{pods: {{podSelector: {{matchLabels: {{{label}}}}}}}}}]}}]"
            ),
        )
    };
    let codes = |first: &str, second: &str| -> Vec<Code> {
        let text = rule("a", 1, first, "app: web") + &rule("b", 2, "Accept", second);
        (findings(&[&text, WORLD, CLOSED]).iter())
            .map(|one| one.code)
            .collect()
    };
    assert_eq!(codes("Accept", "tier: front"), []);
    assert_eq!(codes("Accept", "tier: front, app: web"), [Code::Hidden]);
    assert_eq!(codes("Deny", "tier: front"), [Code::Hidden]);
}

#[test]
fn of_two_rules_that_say_the_same_the_second_is_too_many() {
    let text = policy("ingress: [\n{ports: [{port: 1}]},\n{ports: [{port: 1}]}]");
    assert_eq!(found(&text), ["4:1 CD0504"]);
    // The narrower of two, wherever it stands.
    let text = policy("ingress: [\n{ports: [{port: 1}]},\n{ports: [{port: 1, endPort: 2}]}]");
    assert_eq!(found(&text), ["3:1 CD0504"]);
}

#[test]
fn a_namespace_without_workloads_is_told_once() {
    let text = policy("ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]")
        .replace("namespace: x", "namespace: z");
    assert_eq!(found(&text).len(), 1);
    assert!(found(&text)[0].ends_with("CD0501"));
}

/// Peers that match nobody yet are not among those of the desired state.
#[test]
fn a_peer_behind_domain_names_is_found_at_its_place() {
    let text = cluster(
        "c",
        "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [a.example]},\n{pods: {podSelector: {matchLabels: {§app: wbe}}}}]}]",
    );
    let (text, places) = unmarked(&text);
    assert_eq!(found(&text), [format!("{} CD0502", places[0])]);
}

#[test]
fn what_is_denied_at_the_other_end_is_told() {
    let deny = cluster(
        "deny",
        "tier: Admin, priority: 5, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: y}}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 90}}}}]}]",
    );
    let codes = |peer: &str, port: u32| -> Vec<Code> {
        let spec =
            format!("egress: [{{to: [{peer}], ports: [{{port: {port}}}]}}], policyTypes: [Egress]");
        let text = format!("{deny}{}", policy(&spec));
        (findings(&[&text, WORLD, CLOSED]).iter())
            .map(|one| one.code)
            .collect()
    };
    let y = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}";
    assert_eq!(codes(y, 90), [Code::Overruled]);
    assert_eq!(codes(y, 91), []);
    // Others are let in.
    assert_eq!(codes("{namespaceSelector: {}}", 90), []);
    let outside = format!("{y}, {{ipBlock: {{cidr: 192.0.2.0/24}}}}");
    assert_eq!(codes(&outside, 90), []);
}
