//! Policies of the whole cluster, by way of files and the agent.

use cofferdam_protocol::output::FlowRecord;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Action;

use super::scene::{DB_FROM_WEB, PORT, Scene};

/// Denies connections of `app: web` to [`PORT`] anywhere; the rule stands in line 9.
fn no_web(tier: &str, mode: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\n\
         kind: ClusterNetworkPolicy\n\
         metadata: {{name: no-web, annotations: {{cofferdam.dev/mode: {mode}}}}}\n\
         spec:\n  \
           tier: {tier}\n  \
           priority: 7\n  \
           subject: {{namespaces: {{}}}}\n  \
           ingress:\n  \
           - action: Deny\n    \
             from: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: web}}}}}}}}]\n    \
             protocols: [{{tcp: {{destinationPort: {{number: {PORT}}}}}}}]\n"
    )
}

/// Each of these is one change under the same traffic: the Admin tier comes before a
/// policy that allows, audit denies nothing, and the Baseline tier is asked where
/// nothing isolates.
#[test]
fn tiers_decide_in_their_order_and_a_denial_names_the_rule_of_the_cluster() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, &no_web("Admin", "enforce"));
    scene.agent.document("allowed.yaml", DB_FROM_WEB);
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/web", "shop/db");
    scene.agent.sync();
    let of_the_cluster = |record: &&FlowRecord| record.destination.port == Some(PORT);
    let records = scene.agent.records();
    let records: Vec<&FlowRecord> = records.iter().filter(of_the_cluster).collect();
    assert!(!records.is_empty(), "{}", scene.agent.log());
    for record in records {
        let what = (record.verdict, record.reason);
        assert_eq!(what, (Action::Deny, Reason::Rule));
        assert_eq!(record.isolated_by, []);
        let rule = record.rule.as_ref().expect("a rule decided");
        assert_eq!(rule.kind, "ClusterNetworkPolicy");
        assert_eq!(rule.namespace, None);
        assert_eq!((rule.name.as_str(), rule.index), ("no-web", Some(0)));
        assert!(rule.file.ends_with("policies/policies.yaml"));
        assert_eq!(rule.line, 9);
    }
    let text = scene.agent.cli(&["observe"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains(" no-web[0] "), "{text}");

    let change = |policies: &str| {
        scene.agent.document("policies.yaml", policies);
        assert!(scene.agent.sync().enforced);
    };
    change(&no_web("Admin", "audit"));
    scene.assert_reaches("shop/web", "shop/db");
    change(&no_web("Baseline", "enforce"));
    scene.assert_reaches("shop/web", "shop/db");
    scene.agent.remove_document("allowed.yaml");
    assert!(scene.agent.sync().enforced);
    scene.assert_blocked("shop/web", "shop/db");
    scene.assert_reaches("shop/db", "shop/web");
}
