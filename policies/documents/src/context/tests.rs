use super::*;
use crate::{assemble, parse};

const TEXT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: a, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}}}}}
---
{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: k8s, namespace: m, labels: {app: prometheus}}}
---
{apiVersion: cofferdam.dev/v1alpha1, kind: PolicyTest, metadata: {name: t, labels: {app: t}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g, labels: {app: g}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: broken}, spec: {template: {metadata: {labels: [a]}}}}
"#;

fn context(text: &str) -> Context {
    let parsed = parse("a.yaml", text.as_bytes());
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    assert!(parsed.rejected.is_empty());
    (*parsed.context).clone()
}

/// The templates of a text, as `namespace/name labels`.
fn templates(text: &str) -> Vec<String> {
    let told = |template: &Template| {
        let workload = &template.workload;
        let labels: Vec<String> = (workload.labels.iter())
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        format!("{}{}", workload.name, labels.concat())
    };
    context(text).templates.iter().map(told).collect()
}

#[test]
fn templates_are_read_and_what_is_wrong_in_them_is_noted() {
    let context = context(TEXT);
    assert_eq!(
        templates(TEXT),
        ["shop/api app=api", "shop/nightly app=nightly"]
    );
    assert_eq!(context.templates[0].workload.ports.len(), 1);
    let [unusable] = &context.unusable[..] else {
        panic!("{:?}", context.unusable);
    };
    assert_eq!(unusable.name, Some(ObjectName::new("default", "broken")));
    assert_eq!(unusable.why, WhyUnusable::Unreadable);
    assert_eq!(unusable.place.line, 21);
    let resource = Resource {
        group: "monitoring.coreos.com".into(),
        kind: "Prometheus".into(),
        namespace: "m".into(),
        labels: [("app", "prometheus")].into_iter().collect(),
    };
    assert_eq!(context.resources, [resource]);
    assert_eq!(context.others, 3);
}

#[test]
fn the_desired_state_has_nothing_of_them() {
    let parsed = parse("a.yaml", TEXT.as_bytes());
    assert_eq!(
        assemble(parsed.documents).inventory,
        cofferdam_inventory::Inventory::default()
    );
}

#[test]
fn every_legal_form_of_a_workload_is_one() {
    let one = |text: &str, expected: &str| assert_eq!(templates(text), [expected], "{text}");
    // The API asks for no metadata in a Job's template.
    one(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {template: {spec: {containers: []}}}}",
        "default/j",
    );
    one(
        "{apiVersion: batch/v1, kind: Job, metadata: {generateName: import-}, spec: {template: {metadata: null}}}",
        "default/import-",
    );
    one(
        "{apiVersion: batch/v1beta1, kind: CronJob, metadata: {name: c, namespace: x}, spec: {jobTemplate: {spec: {template: {metadata: {}}}}}}",
        "x/c",
    );
    for kind in [
        "apps/v1, kind: ReplicaSet",
        "extensions/v1beta1, kind: Deployment",
        "v1, kind: ReplicationController",
        "argoproj.io/v1alpha1, kind: Rollout",
        "apps.openshift.io/v1, kind: DeploymentConfig",
    ] {
        one(
            &format!(
                "{{apiVersion: {kind}, metadata: {{name: w}}, spec: {{template: {{metadata: {{labels: {{a: b}}}}}}}}}}"
            ),
            "default/w a=b",
        );
    }
    one(
        "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: w}, spec: {template: {spec: {containers: []}}}}",
        "default/w serving.knative.dev/service=w",
    );
    one(
        "{apiVersion: kubevirt.io/v1, kind: VirtualMachine, metadata: {name: w}, spec: {template: {metadata: {labels: {a: b}}, spec: {domain: {}}}}}",
        "default/w a=b kubevirt.io=virt-launcher vm.kubevirt.io/name=w",
    );
    // Any kind with a template of pods at the usual place.
    one(
        "{apiVersion: apps.kruise.io/v1alpha1, kind: CloneSet, metadata: {name: w}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c}]}}}}",
        "default/w a=b",
    );
}

#[test]
fn what_is_no_template_of_pods_is_none() {
    for text in [
        // A template of a secret.
        "{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: s}, spec: {template: {metadata: {labels: {a: b}}}}}",
        // It refers to a Deployment.
        "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: r}, spec: {workloadRef: {kind: Deployment, name: d}}}",
    ] {
        let context = context(text);
        assert_eq!(
            (context.templates.len(), context.unusable.len()),
            (0, 0),
            "{text}"
        );
    }
    for patch in [
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 3}}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {template: {spec: {containers: [{name: c}]}}}}",
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: d}, spec: {suspend: true}}",
    ] {
        let context = context(patch);
        assert_eq!(context.templates.len(), 0, "{patch}");
        assert_eq!(context.unusable[0].why, WhyUnusable::Patch, "{patch}");
    }
}

#[test]
fn a_number_of_pods_is_known_where_something_says_it() {
    let of = |kind: &str, spec: &str| {
        let text = format!(
            "{{apiVersion: {kind}, metadata: {{name: w}}, spec: {{{spec}template: {{metadata: {{labels: {{a: b}}}}}}}}}}"
        );
        context(&text).templates[0].replicas
    };
    assert_eq!(
        of("apps/v1, kind: StatefulSet", "replicas: 3, "),
        Replicas::Many
    );
    assert_eq!(of("apps/v1, kind: Deployment", ""), Replicas::Unknown);
    assert_eq!(of("apps/v1, kind: DaemonSet", ""), Replicas::Many);
    assert_eq!(
        of("batch/v1, kind: Job", "parallelism: 2, "),
        Replicas::Many
    );
    assert_eq!(
        of("apps/v1, kind: Deployment", "replicas: 1, "),
        Replicas::One
    );
    assert_eq!(of("batch/v1, kind: Job", ""), Replicas::One);
    let scaled = context(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h, namespace: x}, spec: {scaleTargetRef: {kind: Deployment, name: w}}}",
    );
    assert_eq!(scaled.scaled, [ObjectName::new("x", "w")]);
}

#[test]
fn policies_of_other_products_are_noted() {
    let foreign = parse(
        "a.yaml",
        b"{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p, namespace: x}}
---
{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: q}}
",
    );
    let noted: Vec<_> = (foreign.context.foreign.iter())
        .map(|policy| (policy.namespace.as_deref(), &*policy.name))
        .collect();
    assert_eq!(noted, [(Some("x"), "p"), (None, "q")]);
}
