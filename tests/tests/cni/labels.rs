//! Names and labels of containers, by the order of their sources.

use std::collections::BTreeMap;

use cofferdam_tests::cni::{Attaching, ptp};
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::{Value, json};

use super::scene::{DB_FROM_WEB, PLUGINS, Scene};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn labels_come_from_the_first_source_that_has_them() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let section = json!({"namespace": "shop", "labels": {"app": "section"}});
    let args = json!({"cni": {"labels": [{"key": "app", "value": "args"}]}});
    let annotations = json!({"cofferdam.dev/labels": "app=annotation,tier=1"});
    let document = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: document}}
";
    let add = |more: &Value, annotations: &Value| {
        let mut network = scene.network("n", vec![ptp(83, &scene.leases())]);
        *network.plugins.last_mut().expect("the last") = scene.cofferdam(more);
        let mut one = Attaching::new("0a1b");
        one.args = "X=1;K8S_POD_NAME=web;IgnoreUnknown=1".to_owned();
        one.capabilities = [("io.kubernetes.cri.pod-annotations", annotations)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into_iter()
            .collect();
        let result = scene.runtime().add(&network, &mut one);
        result.unwrap_or_else(|error| panic!("{error:?}"));
        let report = scene.endpoint("shop/web/eth0").expect("it is there");
        assert_eq!(scene.runtime().del(&network, &one), Ok(()));
        report.labels
    };
    let none = json!({});
    assert_eq!(
        add(&json!({"cofferdam": section}), &none),
        labels(&[("app", "section")])
    );
    let both = json!({"cofferdam": section, "args": args});
    assert_eq!(add(&both, &none), labels(&[("app", "args")]));
    assert_eq!(
        add(&both, &annotations),
        labels(&[("app", "annotation"), ("tier", "1")])
    );
    scene.agent.document("pods.yaml", document);
    assert!(scene.agent.sync().enforced);
    assert_eq!(add(&both, &annotations), labels(&[("app", "document")]));
}

#[test]
fn a_container_without_a_name_is_called_by_its_id() {
    skip_unless!(Feature::NetworkNamespaces);
    skip_unless!(PLUGINS);
    let scene = Scene::enforced(DB_FROM_WEB);
    let network = scene.network("n", vec![ptp(84, &scene.leases())]);
    let mut one = Attaching::new("My_Container.1");
    scene.runtime().add(&network, &mut one).expect("a result");
    assert_eq!(scene.endpoints(), ["default/My_Container.1/eth0"]);
    // A label that cannot be one is refused by the agent.
    let mut refused = Attaching::new("c2").capability(
        "io.kubernetes.cri.pod-annotations",
        json!({"cofferdam.dev/labels": "app=not valid"}),
    );
    let error = scene
        .runtime()
        .add(&network, &mut refused)
        .expect_err("a label");
    assert_eq!(error.code, 100, "{error:?}");
    assert!(error.message.contains("label value"), "{error:?}");
}
