//! Documents that nobody would write by accident, and some that one would: whatever
//! the text, it is read or refused with a place, and what is read compiles.

use cofferdam_analysis::analyse;
use cofferdam_compiler::{Input, SlotPlan, compile};
use cofferdam_documents::{Parsed, Source, assemble};
use cofferdam_inventory::services::Services;
use cofferdam_inventory::{Inventory, ServiceKind};
use cofferdam_syntax::diagnostic::Severity;
use cofferdam_verdict::capacity::Limits;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const CLUSTER_POLICY: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata:
  name: c
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - name: first
    action: Accept
    from:
    - namespaces: {matchExpressions: [{key: team, operator: Exists}]}
    protocols:
    - tcp: {destinationPort: {range: {start: 80, end: 90}}}
    - destinationNamedPort: web
  egress:
  - action: Pass
    to: [{networks: [10.0.0.0/8, fd00::/8]}, {nodes: {}}]
  - action: Accept
    to: [{domainNames: ['*.example.com']}]
";

const LIST: &str = r#"{"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [
  {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"team": "\ud83d\ude00"}}},
  {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x"},
   "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "web", "containerPort": 80}]}]},
   "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "phase": "Running"}}
]}
"#;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: s, namespace: x}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.1, 'fd00::96']
  externalIPs: [192.0.2.1]
  selector: {app: web}
  ports: [{name: web, port: 80, targetPort: web, nodePort: 30080}, {port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.2, ipMode: VIP}, {hostname: a}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: x, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: web, port: 80}, {name: none, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: a}}
- {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: web}}
spec: {containers: [{ports: [{name: web, containerPort: 80}]}]}
status: {podIP: 10.0.0.1}
";

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: x
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector:
        matchExpressions:
        - {key: tier, operator: NotIn, values: [db]}
      namespaceSelector: {}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports:
    - {protocol: TCP, port: 80, endPort: 90}
    - {port: web}
";

/// Pieces of YAML, of policies, and of trouble.
fn pieces() -> impl Strategy<Value = String> {
    let words = select(vec![
        "\n",
        "\n",
        "\n  ",
        "\n    ",
        "\n---\n",
        "\n...\n",
        "%YAML 1.2\n",
        "- ",
        "? ",
        ": ",
        ":",
        ", ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!str ",
        "!x ",
        "|\n  ",
        ">-\n ",
        "'",
        "\"",
        "\"\\x",
        "#",
        " #c\n",
        "\t",
        "\r",
        "\u{feff}",
        "\u{0}",
        "\u{85}",
        "é",
        "~",
        "null",
        "<<: *a",
        "@",
        "`",
        "%",
        "0x",
        "1e3",
        "apiVersion: networking.k8s.io/v1\n",
        "kind: NetworkPolicy\n",
        "metadata: {name: p}\n",
        "spec:",
        "podSelector: {}",
        "ingress:",
        "from:",
        "ports:",
        "kind: List\n",
        "items:",
    ]);
    vec(words, 0..40).prop_map(|words| words.concat())
}

/// Good documents with a few places cut, doubled or overwritten.
fn mangled() -> impl Strategy<Value = String> {
    let change = (any::<Index>(), 0usize..12, pieces());
    let good = select(vec![POLICY, CLUSTER_POLICY, LIST, SERVICE]);
    (good, vec(change, 1..4)).prop_map(|(good, changes)| {
        let mut text: Vec<char> = good.chars().collect();
        for (at, cut, put) in changes {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            let put: Vec<char> = put.chars().take(10).collect();
            text.splice(at..end, put);
            if text.is_empty() {
                text.push('\n');
            }
        }
        text.into_iter().collect()
    })
}

/// Asks who is behind everything that is translated.
fn translate(inventory: &Inventory) {
    let services = Services::new(inventory);
    for service in inventory.services().values() {
        for (address, port) in service
            .addresses()
            .flat_map(|address| service.ports.iter().map(move |port| (address, port)))
        {
            let found = services.translate(address, Some((port.protocol, port.port)));
            assert!(
                found.is_some() || service.kind != ServiceKind::Virtual,
                "{service:?}"
            );
        }
    }
}

/// Reads, puts together, asks for the meaning and compiles.
fn swallow(bytes: &[u8]) -> Parsed {
    let source = Source::new("a.yaml".into(), bytes.into());
    let parsed = Parsed::clone(&source.parsed);
    let assembled = assemble(parsed.documents.clone());
    for finding in analyse(&[source], &assembled) {
        assert_eq!(finding.severity, Severity::Warning, "{finding}");
        assert!(
            !finding.message.chars().any(char::is_control),
            "{finding:?}"
        );
    }
    translate(&assembled.inventory);
    let plan = SlotPlan::assign(&assembled.inventory);
    let compiled = compile(&Input {
        inventory: &assembled.inventory,
        slots: &plan,
        is_local: &|_| true,
        own_node: None,
        limits: Limits {
            slots: 64,
            ..Limits::default()
        },
        revision: 1,
    });
    compiled.expect("few documents fit");
    parsed
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let parsed = swallow(text.as_bytes());
    let lines = text.split(['\n', '\r']).count() + 1;
    for diagnostic in &parsed.diagnostics {
        prop_assert!(
            (1..=lines).contains(&(diagnostic.place.line as usize)),
            "{}",
            diagnostic
        );
        prop_assert!(
            !diagnostic.message.chars().any(char::is_control),
            "{:?}",
            diagnostic
        );
    }
    let errors = (parsed.diagnostics.iter()).any(|d| d.severity == Severity::Error);
    prop_assert_eq!(errors, !parsed.rejected.is_empty(), "{:#?}", parsed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_of_yaml_are_read_or_refused(text in pieces()) {
        check(&text)?;
    }

    #[test]
    fn any_mangled_document_is_read_or_refused(text in mangled()) {
        check(&text)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        swallow(&bytes);
    }
}
