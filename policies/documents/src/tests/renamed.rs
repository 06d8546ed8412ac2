//! Texts that are taken over under another name: the same as when they are read again.

use super::manifests::{KUBECTL_JSON, KUBECTL_YAML};
use super::*;
use crate::stream::read_bounded;
use crate::{Source, Strictness};

const ALL_KINDS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: n1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from: [{podSelector: {}}]
  - ports: [{port: 80}]
  egress:
  - to: [{podSelector: {}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}]}
  egress:
  - {action: Accept, to: [{namespaces: {}}]}
";

fn read(file: &str, text: &str) -> Source {
    let bytes: Arc<[u8]> = text.as_bytes().into();
    Source::read_as(file.into(), bytes, Strictness::Lenient)
}

#[test]
fn a_renamed_text_has_its_new_name_at_every_place() {
    let elsewhere = ALL_KINDS.replace(
        "metadata: {name: p, namespace: shop}",
        "metadata: {name: p, namespace: shop, annotations: {cofferdam.dev/source: \"b.yaml:7\"}}",
    );
    for text in [ALL_KINDS, &elsewhere] {
        let renamed = read("old/a.yaml", text)
            .renamed(&"new/a.yaml".into())
            .expect("nothing is found in it");
        let again = read("new/a.yaml", text);
        assert_eq!(renamed.parsed.documents.len(), 6);
        assert_eq!(renamed.parsed, again.parsed);
        assert_eq!((renamed.file, renamed.text), (again.file, again.text));
        let shown = format!("{:?}", renamed.parsed);
        assert!(!shown.contains("old/a.yaml"), "{shown}");
    }
}

#[test]
fn a_text_with_findings_is_read_again() {
    for text in [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: A}\n",
        "{{ a: b }}\n",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: s}\nspec: {template: {}}\n",
    ] {
        assert!(read("a", text).renamed(&"b".into()).is_none(), "{text}");
    }
    // Of an object of an API server no place has a line, and of a stream a part is kept.
    assert!(
        read("a", ALL_KINDS)
            .renamed(&"kubernetes:Pod/a/b".into())
            .is_none()
    );
    for text in [KUBECTL_JSON, KUBECTL_YAML, ALL_KINDS] {
        let source = read_bounded("a", text.as_bytes(), Strictness::Lenient, text.len());
        assert!(source.unwrap().renamed(&"b".into()).is_none());
    }
}
