//! `Service` and `EndpointSlice`.

use cofferdam_inventory::{
    Endpoint, EndpointSlice, ObjectName, Protocol, Service, ServiceKind, ServicePort, TargetPort,
};

use crate::{Content, Parsed};

use super::{errors, text};

fn services(parsed: &Parsed) -> Vec<&Service> {
    let contents = parsed.documents.iter().map(|document| &document.content);
    contents
        .filter_map(|content| match content {
            Content::Service(service) => Some(&**service),
            _ => None,
        })
        .collect()
}

fn slices(parsed: &Parsed) -> Vec<&EndpointSlice> {
    let contents = parsed.documents.iter().map(|document| &document.content);
    contents
        .filter_map(|content| match content {
            Content::EndpointSlice(slice) => Some(&**slice),
            _ => None,
        })
        .collect()
}

/// The one Service of a specification.
#[track_caller]
fn service(spec: &str) -> Service {
    let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, {spec}}}");
    let parsed = super::text(&text);
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    services(&parsed)[0].clone()
}

#[test]
fn a_service_is_read_as_an_api_server_gives_it() {
    // `kubectl get service -o yaml`, with what no verdict depends on.
    let parsed = text(
        "apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: v1
  kind: Service
  metadata: {name: api, namespace: shop, uid: 1-2, creationTimestamp: '2026-01-01T00:00:00Z'}
  spec:
    allocateLoadBalancerNodePorts: true
    clusterIP: 10.96.0.1
    clusterIPs: [10.96.0.1, 'fd00:96::1']
    externalIPs: [192.0.2.80]
    externalTrafficPolicy: Cluster
    internalTrafficPolicy: Cluster
    ipFamilies: [IPv4, IPv6]
    ipFamilyPolicy: PreferDualStack
    ports:
    - {name: web, nodePort: 30080, port: 80, protocol: TCP, targetPort: http}
    - {name: dns, port: 53, protocol: UDP, targetPort: 5353, appProtocol: kubernetes.io/h2c}
    selector: {app: api}
    sessionAffinity: ClientIP
    sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
    type: LoadBalancer
  status:
    loadBalancer:
      ingress:
      - {ip: 192.0.2.90, ipMode: VIP}
      - {ip: 192.0.2.91, ipMode: Proxy}
      - {hostname: lb.example.com}
",
    );
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    let service = services(&parsed)[0];
    assert_eq!(service.name, ObjectName::new("shop", "api"));
    assert_eq!(service.kind, ServiceKind::Virtual);
    assert_eq!(service.selector.get("app"), Some("api"));
    let addresses: Vec<String> = service.addresses().map(|one| one.to_string()).collect();
    assert_eq!(
        addresses,
        ["10.96.0.1", "fd00:96::1", "192.0.2.80", "192.0.2.90"]
    );
    let port = |name: &str, protocol, port, target, node_port| ServicePort {
        name: name.into(),
        protocol,
        port,
        target,
        node_port,
    };
    assert_eq!(
        service.ports,
        [
            port(
                "web",
                Protocol::Tcp,
                80,
                TargetPort::Name("http".into()),
                Some(30080)
            ),
            port("dns", Protocol::Udp, 53, TargetPort::Number(5353), None),
        ]
    );
}

#[test]
fn what_a_service_leaves_out_has_the_defaults_of_an_api_server() {
    let plain = service("spec: {ports: [{port: 9}, {port: 8, targetPort: 0, nodePort: 30008}]}");
    let all = plain.ports.iter();
    let all: Vec<_> = all
        .map(|port| (&*port.name, port.protocol, &port.target, port.node_port))
        .collect();
    let number = TargetPort::Number;
    assert_eq!(
        all,
        [
            ("", Protocol::Tcp, &number(9), None),
            ("", Protocol::Tcp, &number(8), None)
        ],
        "only types with node ports have some"
    );
    assert_eq!(plain.kind, ServiceKind::Virtual);
    assert_eq!(plain.addresses().count(), 0, "it has yet to be given one");
    assert!(plain.families.v4 && plain.families.v6);
    let waiting = service("spec: {type: NodePort, clusterIP: '', ports: [{port: 9, nodePort: 0}]}");
    assert_eq!(waiting.ports[0].node_port, None);
    let one = service("spec: {ipFamilies: [IPv6]}");
    assert!(one.families.v6 && !one.families.v4);
    // The address says which it is.
    let one = service("spec: {clusterIP: 10.96.0.1, externalIPs: [192.0.2.1, 'fd00::1']}");
    assert!(one.families.v4 && !one.families.v6);
    assert_eq!(one.addresses().count(), 2, "no proxy translates the other");
}

#[test]
fn some_services_have_no_address() {
    for spec in [
        "spec: {clusterIP: None, externalIPs: [192.0.2.1]}",
        "spec: {clusterIPs: [None]}",
    ] {
        let headless = service(spec);
        assert_eq!(headless.kind, ServiceKind::Headless);
        assert_eq!(headless.addresses().count(), 0);
    }
    let both = service("spec: {clusterIP: 'fd00:96:0::1', clusterIPs: ['fd00:96::1', 10.96.0.1]}");
    assert_eq!(both.addresses().count(), 2);
    let named = service("spec: {type: ExternalName, externalName: example.com}");
    assert_eq!(named.kind, ServiceKind::ExternalName);
}

#[test]
fn slices_are_read_as_proxies_read_them() {
    let parsed = text(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
  addressType: IPv4
  ports: [{name: web, port: 8080, protocol: TCP}, {port: 5353, protocol: UDP}, {name: none}]
  endpoints:
  - addresses: [10.0.0.1, 10.0.0.9]
    nodeName: n1
    zone: a
    hints: {forZones: [{name: a}]}
    targetRef: {kind: Pod, name: api-1, namespace: shop, uid: 1-2}
  - {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
  - {addresses: [10.0.0.3], conditions: {ready: false, serving: false, terminating: true}}
  - {addresses: [10.0.0.4], conditions: {ready: false}, targetRef: {kind: Node, name: n1}}
  - {addresses: [10.0.0.5], conditions: {ready: null, terminating: true}}
- metadata: {name: names, namespace: shop}
  addressType: FQDN
  endpoints: [{addresses: [example.com]}]
",
    );
    assert!(parsed.diagnostics.is_empty(), "{:#?}", parsed.diagnostics);
    let [slice, names] = slices(&parsed)[..] else {
        panic!("{parsed:#?}");
    };
    assert_eq!(slice.service.as_deref(), Some("api"));
    let ports: Vec<_> = (slice.ports.iter())
        .map(|port| (&*port.name, port.protocol, port.port))
        .collect();
    assert_eq!(
        ports,
        [("web", Protocol::Tcp, 8080), ("", Protocol::Udp, 5353)],
        "a port without a number leads nowhere"
    );
    let endpoint = |address: &str, ready, draining| Endpoint {
        address: address.parse().unwrap(),
        ready,
        draining,
        pod: None,
    };
    let first = Endpoint {
        pod: Some(ObjectName::new("shop", "api-1")),
        ..endpoint("10.0.0.1", true, false)
    };
    assert_eq!(
        slice.endpoints,
        [
            first,
            endpoint("10.0.0.2", false, true),
            endpoint("10.0.0.3", false, false),
            endpoint("10.0.0.4", false, false),
            endpoint("10.0.0.5", true, true),
        ]
    );
    assert_eq!((&names.service, names.endpoints.len()), (&None, 0));
}

#[test]
fn what_cannot_be_used_is_told_with_its_place() {
    let head = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    for (spec, expected) in [
        ("", "1:1 CD0108"),
        ("spec: {type: ClusterIp}", "4:14 CD0303"),
        ("spec: {clusterIP: 10.96.0}", "4:19 CD0301"),
        ("spec: {clusterIPs: 10.96.0.1}", "4:20 CD0107"),
        ("spec: {externalIPs: [x]}", "4:22 CD0301"),
        ("spec: {ipFamilies: [4]}", "4:21 CD0107"),
        ("spec: {ipFamilies: [IPV4]}", "4:21 CD0303"),
        ("spec: {selector: [app]}", "4:18 CD0107"),
        ("spec: {ports: [{port: 0}]}", "4:23 CD0210"),
        ("spec: {ports: [{targetPort: 80}]}", "4:16 CD0108"),
        ("spec: {ports: [{port: 80, protocol: HTTP}]}", "4:37 CD0212"),
        (
            "spec: {ports: [{port: 80, targetPort: 65536}]}",
            "4:39 CD0210",
        ),
        (
            "spec: {ports: [{port: 80, targetPort: '80'}]}",
            "4:39 CD0201",
        ),
        (
            "spec: {type: NodePort, ports: [{port: 80, nodePort: x}]}",
            "4:53 CD0107",
        ),
        ("spec: {type: NodePort, clusterIP: None}", "4:35 CD0303"),
        (
            "spec: {type: LoadBalancer, clusterIPs: [None]}",
            "4:41 CD0303",
        ),
        (
            "spec: {clusterIP: 10.96.0.1, clusterIPs: [None]}",
            "4:19 CD0301",
        ),
        (
            "spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2, 10.96.0.1]}",
            "4:19 CD0301",
        ),
        ("spec: {clusterIPs: [10.96.0.1, None]}", "4:32 CD0301"),
        ("spec: {externalIPs: [127.0.0.1]}", "4:22 CD0301"),
        ("spec: {externalIPs: ['fe80::1']}", "4:22 CD0301"),
        (
            "spec: {}\nstatus: {loadBalancer: {ingress: [{ip: x}]}}",
            "5:40 CD0301",
        ),
    ] {
        let parsed = text(&format!("{head}{spec}\n"));
        assert_eq!(errors(&parsed), [expected], "{spec}");
        assert_eq!(parsed.rejected.len(), 1, "{spec}");
    }
    let head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\n";
    for (rest, expected) in [
        ("", "1:1 CD0108"),
        ("addressType: IP", "4:14 CD0303"),
        ("addressType: IPv4\nendpoints: [{}]", "5:13 CD0108"),
        (
            "addressType: IPv4\nendpoints: [{addresses: []}]",
            "5:25 CD0219",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [x]}]",
            "5:26 CD0301",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]",
            "5:26 CD0301",
        ),
        // A proxy's own node, and what only a node may ask.
        (
            "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]",
            "5:26 CD0301",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [169.254.169.254]}]",
            "5:26 CD0301",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [0.0.0.0]}]",
            "5:26 CD0301",
        ),
        (
            "addressType: IPv6\nendpoints: [{addresses: ['::ffff:10.0.0.1']}]",
            "5:26 CD0301",
        ),
        (
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: 'true'}}]",
            "5:57 CD0107",
        ),
        ("addressType: IPv4\nports: [{port: 70000}]", "5:16 CD0210"),
    ] {
        let parsed = text(&format!("{head}{rest}\n"));
        assert_eq!(errors(&parsed), [expected], "{rest}");
        assert_eq!(parsed.rejected.len(), 1, "{rest}");
    }
}

#[test]
fn what_one_document_may_hold_is_bounded() {
    let ports = "{port: 1}, ".repeat(crate::MAX_SERVICE_PORTS + 1);
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{ports: [{ports}]}}}}"
    );
    assert_eq!(errors(&text(&service)).len(), 1);
    let endpoints = "{addresses: [10.0.0.1]}, ".repeat(crate::MAX_ENDPOINTS + 1);
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s}}, \
         addressType: IPv4, endpoints: [{endpoints}]}}"
    );
    assert_eq!(errors(&text(&slice)).len(), 1);
}

#[test]
fn other_groups_have_services_of_their_own() {
    let parsed = text("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: s}}");
    assert!(parsed.documents.is_empty() && parsed.diagnostics.is_empty());
}
