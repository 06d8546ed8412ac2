//! Results of reading documents, and reports of mistakes in them.

mod cluster_policies;
mod manifests;
mod mistakes;
mod objects;
mod policies;
mod renamed;
mod repository;
mod services;
mod streams;

use cofferdam_inventory::{Mode, Protocol};
use cofferdam_syntax::diagnostic::Severity;

use super::*;

/// The findings as `line:column code`, errors only.
fn errors(parsed: &Parsed) -> Vec<String> {
    findings(&parsed.diagnostics, Severity::Error)
}

fn warnings(parsed: &Parsed) -> Vec<String> {
    findings(&parsed.diagnostics, Severity::Warning)
}

fn findings(diagnostics: &[Diagnostic], severity: Severity) -> Vec<String> {
    diagnostics
        .iter()
        .filter(|d| d.severity == severity)
        .map(|d| format!("{}:{} {}", d.place.line, d.place.column, d.code))
        .collect()
}

fn text(text: &str) -> Parsed {
    parse("a.yaml", text.as_bytes())
}

// Kinds.

#[test]
fn a_missing_namespace_is_default() {
    for metadata in [
        "{name: p}",
        "{name: p, namespace: null}",
        "{name: p, namespace: ''}",
    ] {
        let parsed = text(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {{}}\n"
        ));
        assert_eq!(&*parsed.documents[0].identity.namespace, "default");
    }
}

#[test]
fn names_are_checked() {
    for metadata in [
        "{}",
        "{name: null}",
        "{name: P}",
        "{name: p/q}",
        "{name: 1}",
        "{name: p, namespace: a.b}",
    ] {
        let parsed = text(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\nspec: {{}}\n"
        ));
        assert_eq!(
            (parsed.documents.len(), parsed.rejected.len()),
            (0, 1),
            "{metadata}"
        );
        assert_eq!(errors(&parsed).len(), 1, "{metadata}");
    }
}

#[test]
fn policies_that_are_not_supported_are_never_passed_over() {
    for (api, kind) in [
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1", "ClusterNetworkPolicy"),
        (
            "policy.networking.k8s.io/v1alpha1",
            "ClusterNetworkPolicyList",
        ),
        ("policy.networking.k8s.io/v1alpha2", "AdminNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "TenantPolicy"),
        ("extensions/v1beta1", "NetworkPolicy"),
        ("networking.k8s.io/v2", "NetworkPolicy"),
        ("projectcalico.org/v3", "NetworkPolicy"),
    ] {
        let parsed = text(&format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: p}}\n"
        ));
        assert_eq!(errors(&parsed), ["1:1 CD0109"], "{api} {kind}");
        assert_eq!(parsed.rejected.len(), 1);
    }
    let foreign = text("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n");
    assert_eq!(warnings(&foreign), ["1:1 CD0109"]);
}

#[test]
fn other_kinds_are_passed_over_whatever_they_hold() {
    let parsed = text(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, name: web}
spec: {x: !y 1, <<: {}}
---
---
apiVersion: v1
kind: ConfigMap
",
    );
    let nothing = Parsed {
        context: parsed.context.clone(),
        ..Parsed::default()
    };
    assert_eq!(parsed, nothing);
    assert_eq!(
        (parsed.context.unusable.len(), parsed.context.others),
        (1, 1)
    );
}

#[test]
fn a_document_that_does_not_say_what_it_is_is_an_error() {
    for document in ["a: b", "kind: Pod", "apiVersion: v1", "[]", "text"] {
        let parsed = text(document);
        assert_eq!(
            (errors(&parsed).is_empty(), parsed.rejected.len()),
            (false, 1),
            "{document}"
        );
    }
}

#[test]
fn lists_are_opened_and_their_items_stand_alone() {
    let parsed = text(
        "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {a: b}}}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {no: 1}}
- {apiVersion: v1, kind: ConfigMap}
---
apiVersion: v1
kind: PodList
items:
- {metadata: {name: a, namespace: x}, status: {podIP: 10.0.0.1}}
",
    );
    let identities: Vec<_> = parsed
        .documents
        .iter()
        .map(|d| d.identity.to_string())
        .collect();
    assert_eq!(identities, ["Namespace x", "Pod x/a"]);
    assert_eq!(parsed.rejected.len(), 1);
    assert_eq!(parsed.rejected[0].place.line, 5);
    assert_eq!(
        parsed.rejected[0].identity.as_ref().unwrap().to_string(),
        "NetworkPolicy default/p"
    );
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let parsed = text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\nkind: [\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n",
    );
    assert_eq!(parsed.documents.len(), 2);
    assert_eq!(parsed.rejected.len(), 1);
}

#[test]
fn files_that_are_too_large_or_not_text_are_one_error() {
    let large = vec![b'#'; MAX_FILE + 1];
    assert_eq!(errors(&parse("a.yaml", &large)), ["1:1 CD0102"]);
    assert_eq!(
        errors(&parse("a.yaml", &large[..MAX_FILE])),
        Vec::<String>::new()
    );
    assert_eq!(
        errors(&parse("a.yaml", b"a: b\n\xc3\xa4\xff")),
        ["2:2 CD0102"]
    );
}

#[test]
fn findings_without_end_are_counted_and_not_listed() {
    let parsed = text(&"---\n[]\n".repeat(3000));
    assert_eq!(parsed.rejected.len(), 3000);
    assert_eq!(parsed.diagnostics.len(), 1001);
    let last = parsed.diagnostics.last().unwrap();
    assert!(last.message.starts_with("2000 more"), "{last}");
    assert_eq!(last.place.line, 2002);
}

#[test]
fn a_pod_is_read_for_what_matters() {
    let parsed = text(
        "apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: web}}
spec:
  nodeName: n1
  unknown: {anything: 1}
  initContainers: [{name: i, ports: [{name: init, containerPort: 1}]}]
  containers:
  - name: c
    ports:
    - {name: dns, containerPort: 53, protocol: UDP}
    - {name: http, containerPort: 8080}
    - {containerPort: 9}
  - name: sidecar
    ports: [{name: http, containerPort: 8081}]
status:
  phase: Running
  podIP: 10.0.0.1
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
",
    );
    assert_eq!(errors(&parsed), Vec::<String>::new());
    let Content::Pod(pod) = &parsed.documents[0].content else {
        panic!()
    };
    assert_eq!(pod.labels.get("app"), Some("web"));
    assert_eq!(pod.node.as_deref(), Some("n1"));
    assert!(pod.is_selectable());
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.number))
        .collect();
    assert_eq!(
        ports,
        [
            ("dns", Protocol::Udp, 53),
            ("http", Protocol::Tcp, 8080),
            ("http", Protocol::Tcp, 8081)
        ]
    );
}

#[test]
fn finished_and_host_network_pods_have_no_address_of_their_own() {
    let pod = |more: &str| {
        let parsed = text(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, {more}}}"
        ));
        match parsed.documents.into_iter().next().unwrap().content {
            Content::Pod(pod) => pod,
            other => panic!("{other:?}"),
        }
    };
    for (more, own) in [
        ("status: {podIP: 10.0.0.1}", 1),
        ("status: {podIP: 10.0.0.1, phase: Running}", 1),
        ("status: {podIP: 10.0.0.1, phase: Succeeded}", 0),
        ("status: {podIP: 10.0.0.1, phase: Failed}", 0),
        ("spec: {hostNetwork: true}, status: {podIP: 10.0.0.1}", 0),
        ("spec: {hostNetwork: false}, status: {podIP: 10.0.0.1}", 1),
        ("status: {podIP: ''}", 0),
        ("status: {podIPs: []}", 0),
    ] {
        assert_eq!(pod(more).own_addresses().len(), own, "{more}");
    }
}

#[test]
fn what_matters_in_a_pod_must_be_right() {
    for (more, code) in [
        ("status: {podIP: 10.0.0}", "CD0301"),
        ("spec: {hostNetwork: 'true'}", "CD0107"),
        ("spec: {hostNetwork: yes}", "CD0107"),
        (
            "spec: {containers: [{ports: [{name: a, containerPort: 0}]}]}",
            "CD0210",
        ),
        ("spec: {containers: [{ports: [{name: a}]}]}", "CD0108"),
        ("spec: {containers: {}}", "CD0107"),
        ("spec: []", "CD0107"),
        ("spec: {}, spec: {}", "CD0105"),
    ] {
        let parsed = text(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, {more}}}"
        ));
        assert_eq!(errors(&parsed).len(), 1, "{more}: {:?}", parsed.diagnostics);
        assert!(errors(&parsed)[0].ends_with(code), "{more}");
    }
}

#[test]
fn a_node_has_the_addresses_that_are_addresses() {
    let parsed = text(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [
          {type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 'fd00::1'},
          {type: Hostname, address: n1}, {type: ExternalIP, address: 192.0.2.1}]}}",
    );
    let Content::Node(node) = &parsed.documents[0].content else {
        panic!()
    };
    assert_eq!(node.addresses.len(), 3);
}

// Together.

fn assembled(texts: &[&str]) -> Assembled {
    assemble(
        texts
            .iter()
            .enumerate()
            .flat_map(|(i, text)| parse(&format!("{i}.yaml"), text.as_bytes()).documents),
    )
}

const POD_A: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 10.0.0.1}}";

#[test]
fn documents_that_contradict_each_other_are_all_left_out_whatever_their_order() {
    let other =
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 10.0.0.2}}";
    for texts in [[POD_A, other], [other, POD_A]] {
        let assembled = assembled(&texts);
        assert!(assembled.inventory.workloads().is_empty());
        assert_eq!(assembled.rejected.len(), 2);
        let errors = findings(&assembled.diagnostics, Severity::Error);
        assert_eq!(errors, ["1:1 CD0110", "1:1 CD0110"]);
    }
}

#[test]
fn a_document_that_stands_twice_counts_once() {
    let twice = assembled(&[POD_A, POD_A]);
    assert_eq!(twice.inventory.workloads().len(), 1);
    assert!(twice.diagnostics.is_empty());
    let policy =
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {}}";
    let twice = assembled(&[policy, policy]);
    assert_eq!(twice.inventory.policies().len(), 1);
    assert_eq!(
        findings(&twice.diagnostics, Severity::Warning),
        ["1:1 CD0110"]
    );
}

#[test]
fn a_shared_address_belongs_to_nobody_but_a_finished_pod_has_none() {
    let b = |phase: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: b}}, \
             status: {{podIP: 10.0.0.1, phase: {phase}}}}}"
        )
    };
    let shared = assembled(&[POD_A, &b("Running")]);
    assert!(shared.inventory.workloads().is_empty());
    assert_eq!(findings(&shared.diagnostics, Severity::Error).len(), 2);
    let reused = assembled(&[POD_A, &b("Failed")]);
    assert_eq!(reused.inventory.workloads().len(), 2);
    assert!(reused.diagnostics.is_empty());
}

#[test]
fn directories_are_read_in_order_and_only_manifests_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("below/.hidden")).unwrap();
    for name in [
        "b.yaml",
        "a.yml",
        "notes.txt",
        "below/c.json",
        "below/.hidden/d.yaml",
        ".e.yaml",
    ] {
        std::fs::write(root.join(name), "{}").unwrap();
    }
    let found = read(&[root, &root.join("b.yaml")]).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|f| {
            f.path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(names, ["a.yml", "b.yaml", "below/c.json"]);
    assert!(read(&[root.join("absent.yaml")]).is_err());
}

#[test]
fn what_is_no_file_is_not_opened_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::write(root.join("a.yaml"), "{}").unwrap();
    // Opening a pipe would wait for a writer; a socket is as little a file.
    let socket = std::os::unix::net::UnixListener::bind(root.join("b.yaml")).unwrap();
    let found = find(&[root], |_| {});
    drop(socket);
    assert_eq!(found.files.len(), 1);
    let [error] = &found.errors[..] else {
        panic!("{:?}", found.errors)
    };
    assert!(matches!(error, ReadError::NoFile { path } if path.ends_with("b.yaml")));
}

// Metadata.

#[test]
fn labels_and_annotations_of_a_policy_are_held_to_upstreams_rules() {
    let policy = |metadata: &str| {
        text(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, {metadata}}}\nspec: {{}}\n"
        ))
    };
    let bytes = 256 << 10;
    let long = |length: usize| format!("annotations: {{a: {}}}", "x".repeat(length - 1));
    for good in [
        "labels: {a.b/c: d, e: ''}, annotations: {}",
        "annotations: {Upper.Case/Key: 'any value\n'}",
        &long(bytes),
    ] {
        assert_eq!(policy(good).diagnostics, [], "{good:.80}");
    }
    for (bad, code) in [
        ("labels: {a: 1}", "CD0107"),
        ("labels: {a: -b}", "CD0202"),
        ("labels: {a b: c}", "CD0202"),
        ("labels: [a]", "CD0107"),
        ("annotations: {a: true}", "CD0107"),
        ("annotations: {a b: c}", "CD0201"),
        ("annotations: {cofferdam.dev/mod: audit}", "CD0213"),
        ("annotations: {cofferdam.dev/mode: Audit}", "CD0213"),
        (&long(bytes + 1), "CD0219"),
    ] {
        let parsed = policy(bad);
        assert_eq!(errors(&parsed).len(), 1, "{bad:.80}");
        assert!(errors(&parsed)[0].ends_with(code), "{bad:.80}");
    }
}

#[test]
fn a_namespace_is_on_audit_only_if_it_says_so_exactly() {
    let namespace = |annotations: &str| {
        let metadata = format!("name: x, labels: {{a: b}}, annotations: {annotations}");
        text(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{{metadata}}}\n"
        ))
    };
    let key = "cofferdam.dev/enforcement";
    for (annotations, is_on_audit, warning) in [
        ("{}".to_owned(), false, None),
        ("{a: 1, b: [c]}".to_owned(), false, None),
        (format!("{{{key}: audit}}"), true, None),
        (format!("{{{key}: enforce}}"), false, None),
        (
            format!("{{{key}: Audit}}"),
            false,
            Some("did you mean `audit`?"),
        ),
        (
            format!("{{{key}: true}}"),
            false,
            Some("one of enforce, audit"),
        ),
        (
            format!("{{{key}: ''}}"),
            false,
            Some("one of enforce, audit"),
        ),
        (
            "{cofferdam.dev/enforcment: audit}".to_owned(),
            false,
            Some("did you mean `cofferdam.dev/enforcement`?"),
        ),
        (
            "{cofferdam.dev/mode: audit}".to_owned(),
            false,
            Some("a namespace has `cofferdam.dev/enforcement`; `cofferdam.dev/mode` is a policy's"),
        ),
    ] {
        let parsed = namespace(&annotations);
        // The labels count in any case.
        let inventory = assemble(parsed.documents).inventory;
        assert_eq!(inventory.namespaces()["x"].labels.get("a"), Some("b"));
        let is_audit = inventory.enforcement_in("x") == Mode::Audit;
        assert_eq!(is_audit, is_on_audit, "{annotations}");
        let hints: Vec<Option<&str>> = (parsed.diagnostics.iter())
            .map(|one| {
                assert_eq!((one.code.as_str(), one.place.line), ("CD0213", 3));
                assert_eq!(one.severity, Severity::Warning);
                one.hint.as_deref()
            })
            .collect();
        let expected: Vec<Option<&str>> = warning.map(Some).into_iter().collect();
        assert_eq!(hints, expected, "{annotations}");
    }
}
