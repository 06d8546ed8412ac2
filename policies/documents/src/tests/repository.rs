//! Files in repositories that are no manifests.

use super::*;
use crate::{Strictness, Why, assemble_layers, converted, parse_as};

fn lenient(text: &str) -> Parsed {
    parse_as("a.yaml", text.as_bytes(), Strictness::Lenient)
}

/// A text that is passed over where others' documents are looked at, and an error where
/// documents are put in force.
fn is_passed_over(text: &str, why: Why) {
    let parsed = lenient(text);
    assert!(
        parsed.diagnostics.is_empty(),
        "{text}: {:?}",
        parsed.diagnostics
    );
    assert!(parsed.rejected.is_empty(), "{text}");
    let whys: Vec<Why> = parsed.passed_over.iter().map(|one| one.why).collect();
    assert_eq!(whys, [why], "{text}");
    let strict = parse("a.yaml", text.as_bytes());
    assert!(!errors(&strict).is_empty(), "{text}");
    assert_eq!(strict.passed_over, []);
}

#[test]
fn what_is_no_object_is_passed_over() {
    for text in [
        // Values of a chart, package.json, a JSON patch, a workflow, Chart.yaml.
        "replicaCount: 1\nimage: {repository: nginx}\n",
        "{\"name\": \"site\", \"version\": \"1.0.0\"}",
        "- {op: replace, path: /spec/replicas, value: 3}\n",
        "on: [push]\njobs: {}\n",
        "apiVersion: v2\nname: web\nversion: 0.1.0\n",
        // Settings of programs that have a version of their own.
        "apiVersion: 1\ndatasources: []\n",
        // A kustomization without `kind`, another kind without a version.
        "resources: [../base]\nnamespace: shop\n",
        "kind: Component\nname: x\n",
        "text",
        "12",
        // Not YAML at all, and nothing of an object in it.
        "// a comment\n{\"a\": 1, // more\n}\n",
        "a: b: c\n",
    ] {
        is_passed_over(text, Why::NoObject);
    }
    let binary = parse_as("a.yaml", b"\xff\xfe\x00", Strictness::Lenient);
    assert_eq!((binary.passed_over.len(), binary.diagnostics.len()), (1, 0));
}

#[test]
fn templates_that_are_yet_to_be_rendered_are_passed_over() {
    const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    for rest in [
        "metadata:\n  name: {{ include \"x\" . }}\nspec: {}\n",
        "{{- if .Values.on }}\nmetadata: {name: x}\n{{- end }}\n",
        "metadata: {name: \"{{ .Release.Name }}-db\"}\nspec: {podSelector: {}}\n",
        "metadata: {name: x, namespace: '${NAMESPACE}'}\nspec: {podSelector: {}}\n",
        "metadata: {name: x}\nspec: {podSelector: {matchLabels: {app: $(APP)}}}\n",
        "metadata: {name: <%= name %>}\nspec: {podSelector: {}}\n",
    ] {
        is_passed_over(&(HEAD.to_owned() + rest), Why::Template);
    }
    // What is put elsewhere does not excuse a mistake.
    let text = HEAD.to_owned()
        + "metadata: {name: x, annotations: {by: '${USER}'}}\nspec:\n  podSelektor: {}\n";
    assert_eq!(errors(&lenient(&text)).len(), 1);
}

#[test]
fn what_looks_like_a_policy_is_never_passed_over() {
    for text in [
        // The line that says what it is is missing, or misspelt.
        "metadata: {name: p}\nspec: {podSelector: {}}\n",
        "apiVersion: networking.k8s.io/v1\nmetadata: {name: p}\n",
        "kind: NetworkPolicy\nmetadata: {name: p}\n",
        "kind: NetworkPolcy\nspec: {}\n",
        "kind: Pod\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\nmetadata: {name: p}\n",
        "metadata: {name: p}\nspec: {tier: Admin, subject: {}}\n",
        // It cannot be read.
        "apiVersion: networking.k8s.io/v1\nkind: [\n",
        "kind: NetworkPolicy\n\tspec: {}\n",
        "{\"kind\": \"NetworkPolicy\", \"spec\": {}\n",
    ] {
        let parsed = lenient(text);
        assert!(!errors(&parsed).is_empty(), "{text}");
        assert_eq!(parsed.passed_over, [], "{text}");
    }
}

#[test]
fn a_document_beside_what_is_passed_over_counts() {
    let text =
        "a: 1\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\na: [\n---\n- b\n";
    let parsed = lenient(text);
    assert_eq!(parsed.documents.len(), 1);
    let lines: Vec<u32> = parsed
        .passed_over
        .iter()
        .map(|one| one.place.line)
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(parsed.diagnostics.is_empty());
}

#[test]
fn policies_of_other_products_are_warnings_of_one_kind() {
    for (api, kind) in [
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("crd.projectcalico.org/v1", "GlobalNetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("networking.k8s.aws/v1alpha1", "PolicyEndpoint"),
        ("vpcresources.k8s.aws/v1beta1", "SecurityGroupPolicy"),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
        ("extensions/v1beta1", "NetworkPolicy"),
    ] {
        let parsed = lenient(&format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: p}}\n"
        ));
        assert_eq!(errors(&parsed), [""; 0], "{api} {kind}");
        assert_eq!(warnings(&parsed), ["1:1 CD0109"], "{api} {kind}");
        assert_eq!(parsed.context.foreign.len(), 1);
        assert!(parsed.rejected.is_empty());
    }
    // A version of ours that there is not is a slip.
    let slip = lenient(
        "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\nmetadata: {name: p}\n",
    );
    assert_eq!(errors(&slip), ["1:1 CD0109"]);
}

#[test]
fn a_pod_whose_name_is_made_up_is_a_workload() {
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: import-, labels: {app: import}}\n";
    let parsed = lenient(text);
    assert_eq!((errors(&parsed).len(), parsed.documents.len()), (0, 0));
    let name = parsed.context.templates[0].workload.name.to_string();
    assert_eq!(name, "default/import-");
    assert_eq!(errors(&parse("a.yaml", text.as_bytes())).len(), 1);
}

#[test]
fn layers_that_do_not_agree_are_no_mistake() {
    let policy = |file: &str, selector: &str| {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{podSelector: {{matchLabels: {{a: {selector}}}}}}}\n"
        );
        parse_as(file, text.as_bytes(), Strictness::Lenient)
            .documents
            .remove(0)
    };
    let severities = |documents: Vec<Document>| -> Vec<Severity> {
        let assembled = assemble_layers(documents);
        assembled
            .diagnostics
            .iter()
            .map(|one| one.severity)
            .collect()
    };
    let layers = || vec![policy("o/dev/p.yaml", "b"), policy("o/prod/p.yaml", "c")];
    assert_eq!(severities(layers()), [Severity::Warning; 2]);
    assert_eq!(
        severities(vec![policy("o/p.yaml", "b"), policy("o/q.yaml", "c")]),
        [Severity::Error; 2]
    );
    let strict = assemble(layers());
    assert!(
        strict
            .diagnostics
            .iter()
            .all(|one| one.severity == Severity::Error)
    );
    assert_eq!(strict.rejected.len(), 2);
}

const ADMIN: &str = r#"apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard, labels: {team: sec}}
spec:
  priority: 7
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - name: tools
    action: Allow
    from: [{namespaces: {matchLabels: {tools: "yes"}}}]
    ports: [{portNumber: {protocol: TCP, port: 5432}}, {portRange: {protocol: UDP, start: 1, end: 9}}, {namedPort: metrics}]
  - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {}}}]}
  egress:
  - {action: Deny, to: [{networks: [10.0.0.0/8]}], ports: [{portNumber: {port: 80}}]}
"#;

const CLUSTER: &str = r#"apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard, labels: {team: sec}}
spec:
  tier: Admin
  priority: 7
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
  ingress:
  - name: tools
    action: Accept
    from: [{namespaces: {matchLabels: {tools: "yes"}}}]
    protocols: [{tcp: {destinationPort: {number: 5432}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {destinationNamedPort: metrics}]
  - {action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {}}}]}
  egress:
  - {action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
"#;

fn cluster_policy(text: &str) -> Arc<ClusterNetworkPolicy> {
    let parsed = parse("a.yaml", text.as_bytes());
    assert_eq!(errors(&parsed), [""; 0], "{text}");
    match &parsed.documents[0].content {
        Content::ClusterNetworkPolicy(policy) => policy.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_form_before_cluster_network_policies_says_the_same() {
    let old = cluster_policy(ADMIN);
    assert!(old.says_the_same(&cluster_policy(CLUSTER)));
    let texts = converted(ADMIN);
    assert_eq!(texts.len(), 1);
    assert!(
        old.says_the_same(&cluster_policy(&texts[0])),
        "{}",
        texts[0]
    );
    assert_eq!(converted(CLUSTER), [""; 0]);
    let baseline = ADMIN
        .replace("AdminNetworkPolicy", "BaselineAdminNetworkPolicy")
        .replace("  priority: 7\n", "")
        .replace("action: Pass", "action: Deny");
    let policy = cluster_policy(&baseline);
    assert_eq!(policy.tier, cofferdam_inventory::Tier::Baseline);
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}",
        ADMIN.trim_end().replace('\n', "\n  ")
    );
    assert_eq!(converted(&list), texts);
    assert_eq!(parse("a.yaml", list.as_bytes()).documents.len(), 1);
}

#[test]
fn what_the_old_form_does_not_have_is_refused_in_it() {
    for (from, to) in [
        ("action: Allow", "action: Accept"),
        (
            "    ports: [{portNumber: {protocol: TCP, port: 5432}}",
            "    protocols: [{tcp: {}}",
        ),
        ("priority: 7", "priority: 7\n  tier: Baseline"),
        ("{namedPort: metrics}", "{tcp: {}}"),
        ("protocol: UDP", "protocol: udp"),
        ("protocol: UDP", "protocol: 17"),
        ("{portNumber: {port: 80}}", "{portNumber: 80}"),
        ("{portNumber: {port: 80}}", "{}"),
        ("port: 5432", "port: '5432'"),
    ] {
        let text = ADMIN.replace(from, to);
        assert_ne!(text, ADMIN, "{from}");
        let parsed = parse("a.yaml", text.as_bytes());
        assert!(!errors(&parsed).is_empty(), "{to}");
        assert_eq!(parsed.documents.len(), 0, "{to}");
    }
    let many = "{namedPort: a}, ".repeat(26);
    let text = ADMIN.replace("{namedPort: metrics}", many.trim_end_matches(", "));
    assert_eq!(
        cluster_policy(&text).ingress[0]
            .ports
            .as_ref()
            .map(Vec::len),
        Some(80)
    );
}
