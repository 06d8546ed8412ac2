//! Services as ends, one claim each.

use cofferdam_verdict::reason::Reason;

use super::super::tests::{inventory, reach};
use super::*;
use crate::PodNetworks;

const SHOP: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1},
 status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api-1, namespace: shop, labels: {app: api}},
 spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}]}]}, status: {podIPs: [{ip: 10.0.0.11}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api-2, namespace: shop, labels: {app: api}},
 spec: {containers: [{ports: [{name: http, containerPort: 9090}]}]}, status: {podIPs: [{ip: 10.0.0.12}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: shop}, spec: {nodeName: n1, hostNetwork: true}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  selector: {app: api}
  ports: [{port: 80, targetPort: http, nodePort: 30080}, {name: raw, port: 81, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 8080}]
";

fn ask(reach: &Reach, from: &str, to: &str, probe: &str, family: Family) -> Option<Cell> {
    let externals = Externals::from([("lb".to_owned(), vec!["198.51.100.9".parse().unwrap()])]);
    let from = reach.sender(from, &externals).unwrap();
    let to = reach.end(to, &externals).unwrap();
    reach.cell(&from, &to, probe.parse().unwrap(), family)
}

/// Returns the number of backends that may be reached, and that of all.
#[track_caller]
fn v4(reach: &Reach, from: &str, to: &str, probe: &str) -> (u32, u32) {
    let cell = ask(reach, from, to, probe, Family::V4).expect("a cell");
    let Backends { allowed, total } = cell.backends.expect("it is translated");
    assert_eq!(
        cell.action() == Action::Allow,
        allowed == total,
        "all of them"
    );
    (allowed, total)
}

#[test]
fn a_service_is_reached_if_all_backends_are_on_their_own_ports() {
    let reach = reach(SHOP);
    assert_eq!(v4(&reach, "shop/web", "service/shop/api", "tcp/80"), (1, 2));
    assert_eq!(v4(&reach, "shop/web", "service/shop/api", "tcp/81"), (2, 2));
    let cell = ask(&reach, "shop/web", "service/shop/api", "tcp/80", Family::V4).unwrap();
    assert_eq!(cell.ingress.verdict.reason, Reason::Isolated);
    assert_eq!(cell.ingress.probe, "tcp/9090".parse().unwrap());
    assert_eq!(
        cell.ingress.destination,
        "10.0.0.12".parse::<IpAddr>().unwrap()
    );
    // The way to the verdict is walked with what arrives there.
    let explanation = reach.explain(&cell);
    assert!(reach.nearest(&explanation).is_some());
}

#[test]
fn every_address_of_a_service_leads_to_its_backends() {
    let reach = reach(SHOP);
    for (to, probe) in [
        ("10.96.0.1", "tcp/80"),
        ("198.51.100.9", "tcp/80"),
        ("external/lb", "tcp/80"),
        ("192.0.2.1", "tcp/30080"),
        ("node/n1", "tcp/30080"),
        // It is the node's port, whatever stands on the node's network.
        ("shop/agent", "tcp/30080"),
    ] {
        assert_eq!(v4(&reach, "shop/web", to, probe), (1, 2), "{to}");
    }
    let node = ask(&reach, "shop/web", "node/n1", "tcp/22", Family::V4).unwrap();
    assert_eq!(node.backends, None, "the node itself");
}

#[test]
fn each_backend_is_told_by_itself() {
    let reach = reach(SHOP);
    let externals = Externals::new();
    let from = reach.end("shop/web", &externals).unwrap();
    let to = reach.end("service/api", &externals).unwrap();
    let cells = reach.backend_cells(&from, &to, "tcp/80".parse().unwrap(), Family::V4);
    let told: Vec<_> = cells
        .iter()
        .map(|one| (one.id.as_str(), one.probe.to_string(), one.cell.action()))
        .collect();
    assert_eq!(
        told,
        [
            ("shop/api-1", "tcp/8080".to_owned(), Action::Allow),
            ("shop/api-2", "tcp/9090".to_owned(), Action::Deny),
        ]
    );
}

#[test]
fn no_block_matches_a_virtual_address() {
    let text = SHOP.to_owned()
        + "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 10.96.0.0/12}}, {ipBlock: {cidr: 198.51.100.9/32}}]}]
";
    let reach = reach(&text);
    for to in ["service/shop/api", "10.96.0.1", "198.51.100.9"] {
        assert_eq!(v4(&reach, "shop/web", to, "tcp/81"), (0, 2), "{to}");
    }
    // Of the same block, what no Service has is what it says.
    let outside = ask(&reach, "shop/web", "10.96.0.2", "tcp/81", Family::V4).unwrap();
    assert_eq!((outside.action(), outside.backends), (Action::Allow, None));
}

#[test]
fn a_pod_is_kept_from_itself_by_policies_of_the_cluster_alone() {
    let one = SHOP.replace(
        "{name: api-2, namespace: shop, labels: {app: api}}",
        "{name: api-2, namespace: shop}",
    );
    let isolated = reach(&one);
    // Its policy would deny both ways.
    assert_eq!(
        v4(&isolated, "shop/api-1", "service/shop/api", "tcp/80"),
        (1, 1)
    );
    let denying = |peers: &str| {
        format!("{one}---
{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {peers}: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: 8080}}}}}}]}}]}}}}
")
    };
    for rule in [
        "ingress: [{action: Deny, from",
        "egress: [{action: Deny, to",
    ] {
        let reach = reach(&denying(rule));
        assert_eq!(
            v4(&reach, "shop/api-1", "service/shop/api", "tcp/80"),
            (0, 1)
        );
        let cell = ask(
            &reach,
            "shop/api-1",
            "service/shop/api",
            "tcp/80",
            Family::V4,
        )
        .unwrap();
        let explanation = reach.explain(&cell);
        assert!(
            reach.nearest(&explanation).is_none(),
            "no rule would allow it"
        );
        // By its own address it is not asked.
        let own = ask(&reach, "shop/api-1", "shop/api-1", "tcp/8080", Family::V4).unwrap();
        assert_eq!(own.action(), Action::Allow);
    }
}

#[test]
fn what_leads_to_nobody_is_told() {
    let reach = reach(SHOP);
    let externals = Externals::new();
    let from = reach.end("shop/web", &externals).unwrap();
    for (to, probe) in [
        ("service/api", "tcp/82"),
        ("service/api", "udp/80"),
        ("service/api", "icmp/8"),
        ("10.96.0.1", "tcp/22"),
    ] {
        let to = reach.end(to, &externals).unwrap();
        let probe = probe.parse().unwrap();
        assert!(reach.cell(&from, &to, probe, Family::V4).is_none());
        assert!(
            reach.leads_nowhere(&from, &to, probe, Family::V4),
            "{probe}"
        );
        assert!(
            !reach.leads_nowhere(&from, &to, probe, Family::V6),
            "it is IPv4 alone"
        );
    }
    // One address of two leads to nobody.
    let both = ["10.96.0.1".parse().unwrap(), "203.0.113.1".parse().unwrap()];
    let to = reach.external("both", &both);
    let cell = reach
        .cell(&from, &to, "tcp/22".parse().unwrap(), Family::V4)
        .unwrap();
    assert_eq!((cell.action(), cell.leads_nowhere), (Action::Deny, true));
}

#[test]
fn a_headless_service_is_tried_at_the_port_that_is_meant() {
    let text = SHOP
        .replace("clusterIP: 10.96.0.1", "clusterIP: None")
        .replace("type: LoadBalancer", "type: ClusterIP");
    let reach = reach(&text);
    assert_eq!(v4(&reach, "shop/web", "service/api", "tcp/8080"), (2, 2));
    assert_eq!(v4(&reach, "shop/web", "service/api", "tcp/80"), (0, 2));
    assert_eq!(v4(&reach, "shop/web", "service/api", "icmp/8"), (0, 2));
    // A pod's own address is no translation: nothing keeps it from itself.
    assert_eq!(v4(&reach, "shop/api-1", "service/api", "tcp/1"), (1, 2));
}

#[test]
fn a_service_without_an_address_yet_is_judged_all_the_same() {
    let text = SHOP
        .replace("  clusterIP: 10.96.0.1\n", "")
        .replace("status: {podIPs: [{ip: 10.0.0.12}]}", "status: {}");
    let reach = reach(&text);
    assert_eq!(v4(&reach, "shop/web", "service/api", "tcp/81"), (2, 2));
    // The pod whose address is not known yet has one of either family.
    let v6 = ask(&reach, "shop/web", "service/api", "tcp/81", Family::V6).unwrap();
    assert_eq!(
        v6.backends,
        Some(Backends {
            allowed: 1,
            total: 1
        })
    );
}

#[test]
fn a_backend_without_an_address_counts_when_every_address_it_may_have_is_allowed() {
    // A block lets the sender reach some private addresses and no others.
    let policy = "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]
";
    let pod = |spec: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: db, namespace: shop, labels: \
             {{app: db}}}}, spec: {{{spec}}}}}\n---\n{{apiVersion: v1, kind: Service, metadata: \
             {{name: db, namespace: shop}}, spec: {{clusterIP: 10.96.0.2, selector: {{app: db}}, \
             ports: [{{port: 80}}]}}}}\n"
        )
    };
    let node = "---\n{apiVersion: v1, kind: Node, metadata: {name: n2}}\n";
    for (spec, id) in [
        ("nodeName: n1", "shop/db"),
        ("hostNetwork: true", "shop/db"),
        ("hostNetwork: true, nodeName: n2", "node/n2"),
        ("hostNetwork: true, nodeName: n3", "shop/db"),
    ] {
        let reach = reach(&[SHOP, policy, node, &pod(spec)].concat());
        assert_eq!(
            v4(&reach, "shop/web", "service/db", "tcp/80"),
            (0, 1),
            "{spec}"
        );
        let cell = ask(&reach, "shop/web", "service/db", "tcp/80", Family::V4).unwrap();
        assert!(cell.depends_on_address, "{spec}: {cell:?}");
        let end = |name| reach.end(name, &Externals::new()).unwrap();
        let (from, to) = (end("shop/web"), end("service/db"));
        let cells = reach.backend_cells(&from, &to, "tcp/80".parse().unwrap(), Family::V4);
        let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
        assert_eq!(ids, [id], "{spec}");
    }
}

#[test]
fn a_slice_may_know_the_address_that_the_pods_document_does_not_give() {
    let text = SHOP.replace("status: {podIPs: [{ip: 10.0.0.12}]}", "status: {}")
        + "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: raw, port: 8080}, {port: 9090}]
endpoints:
- {addresses: [10.0.0.12], targetRef: {kind: Pod, name: api-2, namespace: shop}}
- {addresses: [203.0.113.80]}
";
    let reach = reach(&text);
    let externals = Externals::new();
    let from = reach.end("shop/api-1", &externals).unwrap();
    let to = reach.end("service/api", &externals).unwrap();
    let cells = reach.backend_cells(&from, &to, "tcp/81".parse().unwrap(), Family::V4);
    let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(ids, ["shop/api-2", "203.0.113.80"]);
}

#[test]
fn names_of_services_are_short_where_that_is_enough() {
    let externals = Externals::new();
    let others = "---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: bank}, spec: {selector: {app: api}}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {type: ExternalName}}
---
{apiVersion: v1, kind: Service, metadata: {name: dns, namespace: shop}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: service}}
";
    let reach = reach(&(SHOP.to_owned() + others));
    let end = |text: &str| {
        reach
            .end(text, &externals)
            .map(|end| (end.id().to_owned(), end.kind()))
    };
    assert_eq!(
        end("service/shop/api"),
        Ok(("service/shop/api".to_owned(), EndKind::Service))
    );
    assert_eq!(
        end("service/api").unwrap_err().to_string(),
        "`service/api` is several Services: service/bank/api, service/shop/api"
    );
    // A pod's name is what it always was.
    assert_eq!(
        end("service/dns"),
        Ok(("service/dns".to_owned(), EndKind::Pod))
    );
    assert_eq!(end("service/shop/dns").unwrap().1, EndKind::Service);
    assert!(matches!(
        end("service/db"),
        Err(UnknownEnd::ExternalName { .. })
    ));
    assert_eq!(
        end("service/shop/apo").unwrap_err().to_string(),
        "there is no Service `service/shop/apo`; did you mean `service/shop/api`?"
    );
    assert_eq!(
        end("10.96.0.1"),
        Ok(("10.96.0.1".to_owned(), EndKind::Service))
    );
    for sender in ["service/shop/api", "10.96.0.1"] {
        let refused = reach.sender(sender, &externals).unwrap_err();
        assert!(matches!(refused, UnknownEnd::Sends { .. }));
    }
}

#[test]
fn a_table_about_two_ends_knows_the_backends() {
    let externals = Externals::new();
    let whole = reach(SHOP);
    for (to, probe) in [
        ("service/api", "tcp/80"),
        ("10.96.0.1", "tcp/81"),
        ("node/n1", "tcp/30080"),
        ("shop/agent", "tcp/30080"),
    ] {
        let number = probe.parse().unwrap();
        let about = Reach::about(
            &inventory(SHOP),
            &["shop/web", to],
            &externals,
            number,
            &PodNetworks::default(),
        )
        .unwrap();
        assert_eq!(
            v4(&about, "shop/web", to, probe),
            v4(&whole, "shop/web", to, probe),
            "{to}"
        );
    }
}
