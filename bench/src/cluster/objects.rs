//! Objects as an API server has them: documents with everything around them that controllers,
//! kubelets and people put there, and that no policy asks for.
//!
//! The sizes are those of a web application of one container: a pod of some 6 KiB, of which
//! 0.4 are of use here.

use serde_json::{Value, json};

const TIME: &str = "2026-01-01T00:00:00Z";
/// Images that a node tells of; the kubelet's default is 50.
const IMAGES: usize = 50;

/// Adds to an object what is around it.
pub(super) fn complete(mut object: Value) -> Value {
    match object["kind"].as_str() {
        Some("Pod") => pod(&mut object),
        Some("Node") => node(&mut object),
        Some("EndpointSlice") => slice(&mut object),
        _ => {
            object["metadata"]["managedFields"] = json!([applied(&object)]);
        }
    }
    object
}

/// Gives a pod another name and addresses, or none yet.
pub(super) fn renamed(pod: &Value, name: &str, addresses: &[String]) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["name"] = json!(name);
    let status = &mut pod["status"];
    if let Some(first) = addresses.first() {
        let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        status["podIP"] = json!(first);
        status["podIPs"] = json!(listed);
    } else {
        *status = json!({
            "phase": "Pending", "qosClass": "Burstable",
            "conditions": [condition("PodScheduled")],
        });
    }
    pod
}

/// The account of fields that `kubectl apply` leaves: each key of the object once more.
fn applied(object: &Value) -> Value {
    json!({
        "manager": "kubectl-client-side-apply", "operation": "Update",
        "apiVersion": object["apiVersion"], "time": TIME, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": fields(&object["metadata"]), "f:spec": fields(&object["spec"])},
    })
}

/// The names of an object's fields, as managed fields have them.
fn fields(value: &Value) -> Value {
    let Some(object) = value.as_object() else {
        return json!({});
    };
    let named = object
        .iter()
        .map(|(key, value)| (format!("f:{key}"), fields(value)));
    Value::Object(named.collect())
}

fn condition(kind: &str) -> Value {
    json!({
        "type": kind, "status": "True", "observedGeneration": 1,
        "lastProbeTime": null, "lastTransitionTime": TIME,
    })
}

fn pod(object: &mut Value) {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let application = object["metadata"]["labels"]["app"]
        .clone()
        .as_str()
        .unwrap_or("app")
        .to_owned();
    let address = object["status"]["podIPs"][0]["ip"].clone();
    let metadata = &mut object["metadata"];
    metadata["generateName"] = json!(format!("{application}-5d8f9c7b6d-"));
    metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{application}-5d8f9c7b6d"),
        "uid": "0b8f0f5e-6b1c-4f43-9d0c-2f0d3a5a9b11", "controller": true,
        "blockOwnerDeletion": true,
    }]);
    metadata["annotations"] = json!({
        "kubectl.kubernetes.io/restartedAt": TIME,
        "prometheus.io/scrape": "true", "prometheus.io/port": "9100",
        "checksum/config": "8d5a1c3e0f6b4a7d9c2e1b0f3a6d5c4e7b8a9f0d1c2b3a4e5f6d7c8b9a0f1e2d",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
    });
    let volume = "kube-api-access-x7k2p";
    let spec = &mut object["spec"];
    let environment: Vec<Value> = [
        "LOG_LEVEL", "LISTEN", "DATABASE_HOST", "DATABASE_NAME", "CACHE_HOST", "OTEL_EXPORTER",
        "OTEL_RESOURCE_ATTRIBUTES", "FEATURE_FLAGS",
    ]
    .iter()
    .map(|key| json!({"name": key, "value": format!("{application}.example.internal:8080")}))
    .chain([
        json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}),
        json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": application, "key": "password"}}}),
    ])
    .collect();
    let probe = json!({
        "httpGet": {"path": "/healthz", "port": "metrics", "scheme": "HTTP"},
        "initialDelaySeconds": 5, "timeoutSeconds": 1, "periodSeconds": 10,
        "successThreshold": 1, "failureThreshold": 3,
    });
    let image = format!("registry.example.internal/team/{application}:1.42.7");
    let container = &mut spec["containers"][0];
    for (key, value) in [
        ("name", json!(application)),
        ("image", json!(image)),
        (
            "args",
            json!(["--config=/etc/app/config.yaml", "--listen=:8080"]),
        ),
        ("env", json!(environment)),
        (
            "resources",
            json!({
                "limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"},
            }),
        ),
        (
            "volumeMounts",
            json!([
                {"name": "config", "mountPath": "/etc/app", "readOnly": true},
                {"name": volume, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
            ]),
        ),
        ("livenessProbe", probe.clone()),
        ("readinessProbe", probe),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!("IfNotPresent")),
        (
            "securityContext",
            json!({
                "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            }),
        ),
    ] {
        container[key] = value;
    }
    for (key, value) in [
        (
            "volumes",
            json!([
                {"name": "config", "configMap": {"name": application, "defaultMode": 420}},
                {"name": volume, "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                        "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
                ]}},
            ]),
        ),
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!(application)),
        ("serviceAccount", json!(application)),
        (
            "securityContext",
            json!({"runAsUser": 1000, "fsGroup": 1000}),
        ),
        ("schedulerName", json!("default-scheduler")),
        (
            "tolerations",
            json!([
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ]),
        ),
        ("priority", json!(0)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        spec[key] = value;
    }
    let status = &mut object["status"];
    status["podIP"] = address;
    for (key, value) in [
        ("hostIP", json!("172.20.0.1")),
        ("hostIPs", json!([{"ip": "172.20.0.1"}])),
        ("startTime", json!(TIME)),
        ("qosClass", json!("Burstable")),
        (
            "conditions",
            json!([
                condition("PodReadyToStartContainers"),
                condition("Initialized"),
                condition("Ready"),
                condition("ContainersReady"),
                condition("PodScheduled"),
            ]),
        ),
        (
            "containerStatuses",
            json!([{
                "name": application, "state": {"running": {"startedAt": TIME}}, "lastState": {},
                "ready": true, "restartCount": 0, "image": image, "started": true,
                "imageID": format!("{image}@sha256:8d5a1c3e0f6b4a7d9c2e1b0f3a6d5c4e7b8a9f0d1c2b3a4e5f6d7c8b9a0f1e2d"),
                "containerID": format!("containerd://{:064x}", name.len()),
            }]),
        ),
    ] {
        status[key] = value;
    }
    let account = |manager: &str, subresource: Option<&str>, of: Value| {
        let mut account = json!({
            "manager": manager, "operation": "Update", "apiVersion": "v1", "time": TIME,
            "fieldsType": "FieldsV1", "fieldsV1": of,
        });
        if let Some(subresource) = subresource {
            account["subresource"] = json!(subresource);
        }
        account
    };
    let made = json!({
        "f:metadata": fields(&object["metadata"]),
        "f:spec": {
            "f:containers": {format!("k:{{\"name\":\"{application}\"}}"): fields(&object["spec"]["containers"][0])},
            "f:volumes": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
        },
    });
    let told = json!({"f:status": {
        "f:conditions": {
            "k:{\"type\":\"ContainersReady\"}": fields(&condition("")),
            "k:{\"type\":\"Initialized\"}": fields(&condition("")),
            "k:{\"type\":\"Ready\"}": fields(&condition("")),
        },
        "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {}, "f:podIP": {},
        "f:podIPs": {}, "f:startTime": {},
    }});
    object["metadata"]["managedFields"] = json!([
        account("kube-controller-manager", None, made),
        account("kubelet", Some("status"), told),
    ]);
}

fn node(object: &mut Value) {
    let images: Vec<Value> = (0..IMAGES)
        .map(|i| {
            json!({
                "names": [
                    format!("registry.example.internal/team/image-{i}@sha256:{:064x}", i * 7_919),
                    format!("registry.example.internal/team/image-{i}:1.42.7"),
                ],
                "sizeBytes": 40_000_000 + i,
            })
        })
        .collect();
    let resources = json!({
        "cpu": "16", "ephemeral-storage": "209702892Ki", "memory": "65306616Ki", "pods": "110",
    });
    let conditions: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .iter()
        .map(|kind| {
            json!({
                "type": kind, "status": "False", "lastHeartbeatTime": TIME,
                "lastTransitionTime": TIME, "reason": "KubeletHasSufficientMemory",
                "message": "kubelet has sufficient memory available",
            })
        })
        .collect();
    let status = &mut object["status"];
    status["capacity"] = resources.clone();
    status["allocatable"] = resources;
    status["conditions"] = json!(conditions);
    status["images"] = json!(images);
    status["nodeInfo"] = json!({
        "kernelVersion": "6.18.0", "kubeletVersion": "v1.34.0", "architecture": "amd64",
        "operatingSystem": "linux", "containerRuntimeVersion": "containerd://2.1.0",
    });
    object["metadata"]["managedFields"] = json!([applied(object)]);
}

fn slice(object: &mut Value) {
    for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
        endpoint["nodeName"] = json!("node-1");
        endpoint["zone"] = json!("z1");
        endpoint["targetRef"]["uid"] = json!("0b8f0f5e-6b1c-4f43-9d0c-2f0d3a5a9b11");
    }
    object["metadata"]["managedFields"] = json!([{
        "manager": "kube-controller-manager", "operation": "Update",
        "apiVersion": "discovery.k8s.io/v1", "time": TIME, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:addressType": {}, "f:endpoints": {}, "f:metadata": {
            "f:annotations": {}, "f:generateName": {}, "f:labels": {}, "f:ownerReferences": {}},
            "f:ports": {}},
    }]);
}
