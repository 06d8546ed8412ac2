//! Manifests as tools print them, and what people mean by what they write wrongly.

use cofferdam_inventory::{NamedPort, Workload};

use super::*;

/// A list as `kubectl get namespaces,pods,nodes,netpol -A -o json` prints it.
pub(super) const KUBECTL_JSON: &str = r#"{
    "apiVersion": "v1",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "annotations": {"note": "\ud83d\ude00 \u003ca\u003e"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"kubernetes.io/metadata.name": "x", "team": "a"},
                "name": "x",
                "resourceVersion": "12",
                "uid": "0e123456-0000-4000-8000-000000000000"
            },
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}
        },
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"labels": {"zone": "z"}, "name": "n1"},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": null},
            "status": {
                "addresses": [
                    {"address": "192.0.2.1", "type": "InternalIP"},
                    {"address": "n1", "type": "Hostname"}
                ],
                "capacity": {"cpu": "2", "memory": "8132Mi"}
            }
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "creationTimestamp": null,
                "labels": {"app": "web"},
                "managedFields": [
                    {
                        "apiVersion": "v1",
                        "fieldsType": "FieldsV1",
                        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:status": {"k:{\"type\":\"Ready\"}": {".": {}}}},
                        "manager": "kubelet",
                        "operation": "Update",
                        "subresource": "status",
                        "time": "2026-01-02T03:04:05Z"
                    }
                ],
                "name": "a",
                "namespace": "x",
                "ownerReferences": [{"apiVersion": "apps/v1", "controller": true, "kind": "ReplicaSet", "name": "a", "uid": "1"}]
            },
            "spec": {
                "containers": [{"image": "i", "name": "c", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}], "resources": {}}],
                "ephemeralContainers": [{"name": "debug", "ports": null}],
                "initContainers": [
                    {"name": "proxy", "ports": [{"containerPort": 9000, "name": "proxy"}], "restartPolicy": "Always"},
                    {"name": "setup", "ports": [{"containerPort": 9001, "name": "setup"}]}
                ],
                "nodeName": "n1",
                "tolerations": [{"effect": "NoExecute", "key": "k", "operator": "Exists", "tolerationSeconds": 300}]
            },
            "status": {
                "conditions": [{"lastProbeTime": null, "status": "True", "type": "Ready"}],
                "hostIP": "192.0.2.1",
                "phase": "Running",
                "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]
            }
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\"}\n"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "generation": 1,
                "name": "p",
                "namespace": "x",
                "resourceVersion": "13",
                "uid": "1"
            },
            "spec": {"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80, "protocol": "TCP"}]}], "podSelector": {}, "policyTypes": ["Ingress"]},
            "status": {}
        }
    ],
    "kind": "List",
    "metadata": {
        "resourceVersion": ""
    }
}
"#;

/// The same as `-o yaml`, as far as the forms differ.
pub(super) const KUBECTL_YAML: &str = r#"apiVersion: v1
items:
- apiVersion: v1
  kind: Namespace
  metadata:
    annotations:
      note: "\U0001F600 <a>"
    creationTimestamp: "2026-01-02T03:04:05Z"
    labels:
      kubernetes.io/metadata.name: x
      team: a
    name: x
    resourceVersion: "12"
    uid: 0e123456-0000-4000-8000-000000000000
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
- apiVersion: v1
  kind: Node
  metadata:
    labels:
      zone: z
    name: n1
  spec:
    podCIDR: 10.0.0.0/24
    taints: null
  status:
    addresses:
    - address: 192.0.2.1
      type: InternalIP
    - address: n1
      type: Hostname
    capacity:
      cpu: "2"
      memory: 8132Mi
- apiVersion: v1
  kind: Pod
  metadata:
    creationTimestamp: null
    labels:
      app: web
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
      fieldsV1:
        f:metadata:
          f:labels:
            .: {}
            f:app: {}
        f:status:
          k:{"type":"Ready"}:
            .: {}
      manager: kubelet
      operation: Update
      time: "2026-01-02T03:04:05Z"
    name: a
    namespace: x
  spec:
    containers:
    - image: i
      name: c
      args:
      - |
        # a script
        ---
        exit 0
      ports:
      - containerPort: 80
        name: http
        protocol: TCP
      resources: {}
    initContainers:
    - name: proxy
      ports:
      - containerPort: 9000
        name: proxy
      restartPolicy: Always
    - name: setup
      ports:
      - containerPort: 9001
        name: setup
      resources: {}
    nodeName: n1
  status:
    conditions:
    - lastProbeTime: null
      status: "True"
      type: Ready
    phase: Running
    podIP: 10.0.0.1
    podIPs:
    - ip: 10.0.0.1
    - ip: fd00::1
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy"}
    generation: 1
    name: p
    namespace: x
  spec:
    ingress:
    - from:
      - podSelector: {}
      ports:
      - port: 80
        protocol: TCP
    podSelector: {}
    policyTypes:
    - Ingress
  status: {}
kind: List
metadata:
  resourceVersion: ""
"#;

#[test]
fn lists_are_read_as_kubectl_prints_them_in_either_form() {
    let json = text(KUBECTL_JSON);
    let yaml = text(KUBECTL_YAML);
    assert_eq!(
        (&json.diagnostics[..], &yaml.diagnostics[..]),
        (&[][..], &[][..])
    );
    assert_eq!((json.documents.len(), yaml.documents.len()), (4, 4));
    let compact: String = KUBECTL_JSON.lines().map(str::trim_start).collect();
    let tabs = KUBECTL_JSON.replace("    ", "\t");
    for same in [yaml, text(&compact), text(&tabs)] {
        for (a, b) in json.documents.iter().zip(&same.documents) {
            assert_eq!(a.identity, b.identity);
            match (&a.content, &b.content) {
                (Content::NetworkPolicy(a), Content::NetworkPolicy(b)) => {
                    assert!(a.says_the_same(b));
                }
                (a, b) => assert_eq!(a, b),
            }
        }
    }
}

#[test]
fn ports_of_containers_that_run_beside_the_others_count() {
    let parsed = text(KUBECTL_YAML);
    let pod: &Workload = parsed
        .documents
        .iter()
        .find_map(|document| match &document.content {
            Content::Pod(pod) => Some(pod),
            _ => None,
        })
        .unwrap();
    let port = |name: &str, number| NamedPort {
        name: Box::from(name),
        protocol: Protocol::Tcp,
        number,
    };
    // A container that has ended before the others start listens on nothing.
    assert_eq!(pod.ports, [port("http", 80), port("proxy", 9000)]);
}

/// The hint of the only finding about a policy with this `spec`.
fn hint(head: &str, spec: &str) -> String {
    let parsed = text(&format!("{head}metadata: {{name: p}}\nspec: {spec}\n"));
    let [diagnostic] = &parsed.diagnostics[..] else {
        panic!("{spec}: {:#?}", parsed.diagnostics)
    };
    diagnostic.hint.clone().unwrap_or_default()
}

#[test]
fn what_was_probably_meant_is_said() {
    const NP: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    for (spec, expected) in [
        ("{podselector: {}}", "did you mean `podSelector`?"),
        ("{podSelectors: {}}", "did you mean `podSelector`?"),
        ("{ingress: [{form: []}]}", "did you mean `from`?"),
        (
            "{namespaceSelector: {}}",
            "`namespaceSelector` stands in a peer",
        ),
        ("{from: []}", "`from` stands in a rule of `ingress`"),
        (
            "{podSelector: {matchLabel: {a: b}}}",
            "did you mean `matchLabels`?",
        ),
        (
            "{podSelector: {app: web}}",
            "labels stand in `matchLabels: {app: …}`",
        ),
        (
            "{podSelector: {matchLabels: {a: b}, namespaceSelector: {}}}",
            "`namespaceSelector` stands in a peer",
        ),
        (
            "{podSelector: [{matchLabels: {a: b}}]}",
            "take away the `- `",
        ),
        ("{podSelector: {matchLabels: {a: 1}}}", "write it in quotes"),
        (
            "{podSelector: {matchLabels: {a: yes}}}",
            "write \"yes\" in quotes",
        ),
        (
            "{podSelector: {matchLabels: {a: null}}}",
            "write \"\" for an empty one",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "did you mean `In`?",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In, values: b}]}}",
            "write [b]",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "with values it is In",
        ),
        ("{policyTypes: [ingress]}", "did you mean `Ingress`?"),
        ("{policyTypes: Ingress}", "write [Ingress]"),
        ("{ingress: {from: []}}", "put `- ` in front of it"),
        ("{ingress: [{to: []}]}", "rules of `ingress` have `from`"),
        (
            "{ingress: [{podSelector: {}}]}",
            "`podSelector` stands in `spec` and in peers",
        ),
        ("{ingress: [{port: 80}]}", "did you mean `ports`?"),
        (
            "{ingress: [{action: Deny}]}",
            "those of a NetworkPolicy only allow",
        ),
        (
            "{ingress: [{from: [{ports: []}]}]}",
            "`ports` stands in a rule beside its peers",
        ),
        (
            "{ingress: [{from: [10.0.0.0/8]}]}",
            "write `ipBlock: {cidr: 10.0.0.0/8}`",
        ),
        ("{ingress: [{from: [{ipBlock: 10.0.0.0/8}]}]}", ""),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
            "did you mean `10.0.0.1/32`?",
        ),
        (
            "{ingress: [{from: [{networks: [10.0.0.0/8]}]}]}",
            "of a ClusterNetworkPolicy",
        ),
        ("{ingress: [{ports: [80]}]}", "write `port: 80`"),
        (
            "{ingress: [{ports: [{port: '80'}]}]}",
            "a number stands without quotes: `port: 80`",
        ),
        (
            "{ingress: [{ports: [{port: 80, endPort: '90'}]}]}",
            "write it without quotes",
        ),
        (
            "{ingress: [{ports: [{port: 90, endPort: 80}]}]}",
            "change them round?",
        ),
        (
            "{ingress: [{ports: [{protocol: tcp}]}]}",
            "did you mean `TCP`?",
        ),
        (
            "{ingress: [{ports: [{protocol: ICMP}]}]}",
            "leave `ports` out",
        ),
        ("{ingress: [{ports: {{ .ports }}}]}", "render it first"),
    ] {
        let hint = hint(NP, spec);
        // A key that is not known may leave a peer that says nothing, too.
        assert!(
            hint.contains(expected) && hint.is_empty() == expected.is_empty(),
            "{spec}: {hint}"
        );
    }
    const CNP: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n";
    for (section, expected) in [
        (
            "action: Allow, from: [{namespaces: {}}]",
            "since v1alpha2 it is called `Accept`",
        ),
        (
            "action: accept, from: [{namespaces: {}}]",
            "did you mean `Accept`?",
        ),
        (
            "action: Deny, from: [{namespaces: {}}], ports: []",
            "it is `protocols`",
        ),
        (
            "action: Deny, from: [{namespace: {}}]",
            "did you mean `namespaces`?",
        ),
        (
            "action: Deny, from: [{podSelector: {}}]",
            "stand in `pods: {",
        ),
        (
            "action: Deny, from: [{networks: []}]",
            "rules of `ingress` know only pods",
        ),
        (
            "action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {portNumber: 80}}]",
            "since v1alpha2",
        ),
    ] {
        let spec = format!(
            "{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{{{section}}}]}}"
        );
        let hint = hint(CNP, &spec);
        assert!(hint.contains(expected), "{section}: {hint}");
    }
    for (document, expected) in [
        (
            "apiVersion: networking.k8s.io/v1\nkind: Networkpolicy\n",
            "`kind: NetworkPolicy`",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicies\n",
            "`kind: NetworkPolicy`",
        ),
        (
            "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\n",
            "networking.k8s.io/v1",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: AdminNetworkPolicy\n",
            "ClusterNetworkPolicy with `tier: Admin`",
        ),
        ("apiVersion: v1\nkind: pod\n", "`kind: Pod`"),
        ("apiVersion: v1\nkind: Pods\n", "`kind: Pod`"),
        ("a:\n\tb: 1\n", "indent by spaces"),
        ("a: {{- b }}\n", "render it first"),
    ] {
        let parsed = text(document);
        assert_eq!(parsed.rejected.len(), 1, "{document}");
        let hint = parsed.diagnostics[0].hint.clone().unwrap_or_default();
        assert!(hint.contains(expected), "{document}: {hint}");
    }
}

#[test]
fn kinds_that_only_look_like_ours_are_passed_over() {
    for (api, kind) in [
        ("serving.knative.dev/v1", "Service"),
        ("v1", "ServiceAccount"),
        ("v1", "Endpoints"),
        ("v1", "PodTemplate"),
        ("networking.k8s.io/v1", "Ingress"),
        ("apps/v1", "pod"),
        ("metrics.k8s.io/v1beta1", "PodMetrics"),
        ("example.com/v1", "Node"),
    ] {
        let parsed = text(&format!("apiVersion: {api}\nkind: {kind}\n"));
        assert_eq!(parsed.diagnostics, [], "{api} {kind}");
    }
}
