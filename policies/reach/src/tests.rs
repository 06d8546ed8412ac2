//! Reach in small worlds, one claim each.

use cofferdam_documents::{assemble, parse};

use super::*;

pub(super) fn inventory(text: &str) -> Inventory {
    let parsed = parse("w.yaml", text.as_bytes());
    assert!(parsed.rejected.is_empty(), "{:#?}", parsed.diagnostics);
    let assembled = assemble(parsed.documents);
    assert!(
        assembled.rejected.is_empty(),
        "{:#?}",
        assembled.diagnostics
    );
    assembled.inventory
}

pub(super) fn reach(text: &str) -> Reach {
    Reach::new(&inventory(text)).unwrap()
}

fn cell(reach: &Reach, from: &str, to: &str, probe: &str, family: Family) -> Option<Cell> {
    let end = |text| reach.end(text, &Externals::new()).unwrap();
    reach.cell(&end(from), &end(to), probe.parse().unwrap(), family)
}

fn v4(reach: &Reach, from: &str, to: &str, probe: &str) -> Cell {
    cell(reach, from, to, probe, Family::V4).unwrap()
}

const SHOP: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1},
 status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {nodeName: n1},
 status: {podIPs: [{ip: 10.0.0.2}, {ip: 10.0.0.130}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: shop, labels: {app: web}},
 spec: {nodeName: n1, hostNetwork: true}, status: {podIPs: [{ip: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far-agent, namespace: shop, labels: {app: web}},
 spec: {nodeName: n2, hostNetwork: true}, status: {podIPs: [{ip: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: shop, labels: {app: web}},
 status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 5432}]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/25}}]
";

#[test]
fn a_rule_allows_and_its_policy_isolates() {
    let reach = reach(SHOP);
    let allowed = v4(&reach, "shop/web", "shop/db", "tcp/5432");
    assert_eq!(allowed.action(), Action::Allow);
    assert_eq!(allowed.egress.verdict, Verdict::allow(Reason::NotIsolated));
    let line = |text: &str| {
        let at = SHOP
            .lines()
            .position(|line| line.trim_start().starts_with(text));
        at.unwrap() as u32 + 1
    };
    let (_, rule) = reach.rule_of(&allowed.ingress.verdict).unwrap();
    assert_eq!(
        (&*rule.key.policy.name, rule.key.index, rule.place.line),
        ("db", Some(0), line("- from"))
    );
    let denied = v4(&reach, "shop/web", "shop/db", "tcp/80");
    assert_eq!(denied.action(), Action::Deny);
    assert_eq!(denied.ingress.verdict.reason, Reason::Isolated);
    assert!(reach.rule_of(&denied.ingress.verdict).is_none());
    let isolating: Vec<_> = reach.isolated_by(&denied.ingress.verdict).collect();
    assert_eq!(isolating.len(), 1);
    assert_eq!(
        (isolating[0].1.key.index, isolating[0].1.place.line),
        (None, line("podSelector: ") - 1)
    );
}

#[test]
fn a_cell_allows_only_if_every_pair_of_addresses_does() {
    let reach = reach(SHOP);
    let host = |addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        reach.external("host", &addresses)
    };
    let db = reach.end("shop/db", &Externals::new()).unwrap();
    let to = |end: &End| {
        reach
            .cell(&db, end, "tcp/443".parse().unwrap(), Family::V4)
            .unwrap()
    };
    assert_eq!(
        to(&host(&["203.0.113.7", "203.0.113.8"])).action(),
        Action::Allow
    );
    let half = to(&host(&["203.0.113.7", "203.0.113.200"]));
    assert_eq!(half.action(), Action::Deny);
    assert_eq!(
        half.egress.destination,
        "203.0.113.200".parse::<IpAddr>().unwrap()
    );
    assert_eq!(half.ingress.verdict, Verdict::allow(Reason::NotIsolated));
}

#[test]
fn a_pair_without_addresses_of_the_family_has_no_cell() {
    let reach = reach(SHOP);
    assert!(cell(&reach, "shop/web", "shop/db", "tcp/5432", Family::V6).is_none());
    assert!(cell(&reach, "shop/web", "fd00::9", "tcp/5432", Family::V6).is_some());
}

#[test]
fn a_pod_reaches_itself_by_any_of_its_addresses() {
    let reach = reach(SHOP);
    for (from, to) in [("shop/db", "shop/db"), ("shop/db", "10.0.0.130")] {
        let own = v4(&reach, from, to, "tcp/80");
        assert_eq!(own.egress.verdict, Verdict::allow(Reason::SelfTraffic));
        assert_eq!(own.ingress.verdict, Verdict::allow(Reason::SelfTraffic));
    }
}

#[test]
fn the_own_node_is_let_in_and_another_node_is_not() {
    let reach = reach(SHOP);
    for own in ["node/n1", "shop/agent", "192.0.2.1"] {
        let cell = v4(&reach, own, "shop/db", "tcp/80");
        assert_eq!(
            cell.ingress.verdict,
            Verdict::allow(Reason::OwnNode),
            "{own}"
        );
    }
    for other in ["node/n2", "shop/far-agent", "192.0.2.2", "10.9.9.9"] {
        let cell = v4(&reach, other, "shop/db", "tcp/80");
        assert_eq!(cell.ingress.verdict.reason, Reason::Isolated, "{other}");
    }
    // The other way is ordinary traffic.
    let egress = v4(&reach, "shop/db", "node/n1", "tcp/80").egress;
    assert_eq!(egress.verdict.reason, Reason::Isolated);
    let strict = reach.with_own_node_allowed(false);
    let cell = v4(&strict, "node/n1", "shop/db", "tcp/80");
    assert_eq!(cell.ingress.verdict.reason, Reason::Isolated);
}

#[test]
fn a_pod_on_its_nodes_network_is_selected_by_nobody() {
    let reach = reach(SHOP);
    // It has the label of those who may.
    let cell = v4(&reach, "shop/far-agent", "shop/db", "tcp/5432");
    assert_eq!(cell.action(), Action::Deny);
    let end = reach.end("shop/agent", &Externals::new()).unwrap();
    assert_eq!(end.kind(), EndKind::Pod);
    assert_eq!(
        end.addresses().collect::<Vec<_>>(),
        ["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn a_bare_address_is_judged_as_whoever_has_it() {
    let reach = reach(SHOP);
    for from in ["10.0.0.1", "shop/web"] {
        assert_eq!(
            v4(&reach, from, "10.0.0.2", "tcp/5432").action(),
            Action::Allow
        );
    }
    assert_eq!(
        reach.address("10.0.0.1".parse().unwrap()).kind(),
        EndKind::Pod
    );
    assert_eq!(
        reach.address("192.0.2.2".parse().unwrap()).kind(),
        EndKind::Node
    );
    assert_eq!(
        reach.address("8.8.8.8".parse().unwrap()).kind(),
        EndKind::External
    );
}

#[test]
fn a_finished_pod_is_no_end() {
    let reach = reach(SHOP);
    assert!(reach.ends().iter().all(|end| end.id() != "shop/job"));
    let error = reach.end("shop/job", &Externals::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pod `shop/job` has ended, and given up its addresses"
    );
}

#[test]
fn a_slip_in_a_name_is_answered_with_what_was_meant() {
    let reach = reach(SHOP);
    let externals = Externals::from([("internet".to_owned(), Vec::new())]);
    for (text, meant) in [
        ("shop/webb", Some("shop/web")),
        ("web", Some("shop/web")),
        ("node/n3", Some("node/n1")),
        ("external/intrenet", Some("external/internet")),
        ("shop/payment", None),
        ("10.0.0.300", None),
        ("", None),
    ] {
        let error = reach.end(text, &externals).unwrap_err().to_string();
        match meant {
            Some(meant) => assert!(
                error.ends_with(&format!("did you mean `{meant}`?")),
                "{error}"
            ),
            None => assert!(!error.contains("did you mean"), "{error}"),
        }
    }
}

#[test]
fn what_has_no_address_yet_gets_one_of_either_family() {
    let reach = reach("
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, status: {podIP: 10.255.255.254}}
---
{apiVersion: v1, kind: Pod, metadata: {name: h, namespace: x}, spec: {hostNetwork: true, nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: lost, namespace: x}, spec: {hostNetwork: true, nodeName: n9}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec: {podSelector: {}}
");
    let addresses: Vec<(&str, bool, usize)> = (reach.ends().iter())
        .map(|end| (end.id(), end.is_assumed(), end.addresses().len()))
        .collect();
    assert_eq!(
        addresses,
        [
            ("x/a", true, 2),
            ("x/b", false, 1),
            ("x/h", true, 2),
            ("x/lost", true, 2),
            ("node/n1", true, 2)
        ]
    );
    let mut all: Vec<IpAddr> = (reach.ends().iter())
        .filter(|end| end.id() != "x/h")
        .flat_map(End::addresses)
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 7, "nobody shares one");
    assert_eq!(v4(&reach, "x/b", "x/a", "tcp/80").action(), Action::Deny);
    assert_eq!(
        v4(&reach, "node/n1", "x/a", "tcp/80").action(),
        Action::Deny
    );
    assert_eq!(
        v4(&reach, "x/a", "node/n1", "tcp/80").action(),
        Action::Allow
    );
}

#[test]
fn neighbour_discovery_passes_whatever_policies_say() {
    let reach = reach(
        "
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 'fd00::1'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, status: {podIP: 'fd00::2'}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
",
    );
    let v6 = |from, to, probe| cell(&reach, from, to, probe, Family::V6).unwrap();
    let passes = v6("x/a", "x/b", "icmpv6/135");
    assert_eq!(passes.egress.verdict.reason, Reason::NeighbourDiscovery);
    assert_eq!(passes.action(), Action::Allow);
    assert_eq!(v6("x/a", "x/b", "icmpv6/128").action(), Action::Deny);
    let forged = v6("x/a", "x/b", "icmpv6/134");
    assert_eq!(
        forged.egress.verdict,
        Verdict::deny(Reason::RouterAdvertisement)
    );
    // From a router it is welcome.
    assert_eq!(
        v6("fd00::ffff", "x/b", "icmpv6/134").action(),
        Action::Allow
    );
}

#[test]
fn audit_policies_are_told_apart_from_what_is_in_force() {
    let text = SHOP.replace(
        "metadata: {name: db, namespace: shop}\nspec",
        "metadata: {name: db, namespace: shop, annotations: {cofferdam.dev/mode: audit}}\nspec",
    );
    let reach = reach(&text);
    let cell = v4(&reach, "shop/web", "shop/db", "tcp/80");
    assert_eq!(
        (cell.action(), cell.audit()),
        (Action::Allow, Some(Action::Deny))
    );
    let cell = v4(&reach, "shop/web", "shop/db", "tcp/5432");
    assert_eq!((cell.action(), cell.audit()), (Action::Allow, None));
}

#[test]
fn what_a_namespace_on_audit_would_deny_passes_and_is_explained() {
    const AUDIT: &str = "---
{apiVersion: v1, kind: Namespace, metadata: {name: NAME, annotations: {cofferdam.dev/enforcement: audit}}}
";
    let on_audit = |name: &str| reach(&format!("{SHOP}\n{}", AUDIT.replace("NAME", name)));
    let reach = on_audit("shop");
    let cell = v4(&reach, "203.0.113.7", "shop/db", "tcp/80");
    assert_eq!(
        (cell.action(), cell.audit()),
        (Action::Allow, Some(Action::Deny))
    );
    let explained = reach.explain(&cell);
    assert_eq!(reach.waived(&explained), [Arc::from("shop")]);
    let (direction, step) = reach.nearest(&explained).unwrap();
    assert_eq!(direction, Direction::Ingress);
    assert_eq!(step.missed, [Field::Peer, Field::Port]);
    // What passes anyway is not put down to it.
    let cell = v4(&reach, "shop/web", "shop/db", "tcp/5432");
    assert_eq!((cell.action(), cell.audit()), (Action::Allow, None));
    assert!(reach.waived(&reach.explain(&cell)).is_empty());
    // Nor does another's help.
    let cell = v4(&on_audit("other"), "203.0.113.7", "shop/db", "tcp/80");
    assert_eq!((cell.action(), cell.audit()), (Action::Deny, None));
}

#[test]
fn every_code_of_an_icmp_type_is_judged_alike() {
    let reach = reach(SHOP);
    for from in ["shop/web", "203.0.113.7"] {
        let verdicts = |from: &str, to: &str, probe: &str| {
            let cell = v4(&reach, from, to, probe);
            [&cell.egress, &cell.ingress].map(|side| (side.verdict, side.audited))
        };
        for (from, to) in [(from, "shop/db"), ("shop/db", from)] {
            let any = verdicts(from, to, "icmp/8");
            for code in 0..=255 {
                assert_eq!(verdicts(from, to, &format!("icmp/8/{code}")), any);
            }
        }
    }
}

#[test]
fn audit_policies_may_deny_another_pair_than_those_in_force() {
    let audit = SHOP.replace(
        "metadata: {name: db, namespace: shop}\nspec",
        "metadata: {name: db, namespace: shop, annotations: {cofferdam.dev/mode: audit}}\nspec",
    );
    let reach = reach(&audit);
    let db = reach.end("shop/db", &Externals::new()).unwrap();
    let to = |addresses: [&str; 2]| {
        let host = reach.external("host", &addresses.map(|a| a.parse().unwrap()));
        let probe = "tcp/443".parse().unwrap();
        reach.cell(&db, &host, probe, Family::V4).unwrap()
    };
    let half = to(["203.0.113.7", "203.0.113.200"]);
    assert_eq!(
        (half.action(), half.audit()),
        (Action::Allow, Some(Action::Deny))
    );
    assert_eq!(to(["203.0.113.7", "203.0.113.8"]).audit(), None);
}

/// A Deployment of `app: NAME`, as a repository has it.
fn deployment(name: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{template: {{metadata: {{labels: {{app: {name}}}}}, \
         spec: {{containers: [{{name: c, ports: [{{name: sql, containerPort: 5432}}]}}]}}}}}}\n"
    )
}

#[test]
fn a_template_stands_for_pods_that_are_not_there() {
    let policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: db, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: db}}\n  \
                  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]\n";
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: web-7d9f-x, namespace: shop, \
               labels: {app: web, pod-template-hash: 7d9f}}, status: {podIP: 10.0.0.1}}\n";
    let ask = |text: &str| {
        let parsed = parse("w.yaml", text.as_bytes());
        let mut inventory = assemble(parsed.documents).inventory;
        add_templates(&mut inventory, [&*parsed.context], []);
        Reach::new(&inventory).unwrap()
    };
    let ids = |reach: &Reach| {
        let ids = reach.ends().iter().map(|end| end.id().to_owned());
        ids.collect::<Vec<_>>()
    };
    let manifests = deployment("web") + &deployment("db") + policy;
    let repository = ask(&manifests);
    assert_eq!(ids(&repository), ["shop/db", "shop/web"]);
    assert!(repository.ends().iter().all(End::is_assumed));
    let allowed = v4(&repository, "shop/web", "shop/db", "tcp/5432");
    assert_eq!(allowed.ingress.verdict.reason, Reason::Rule);
    assert_eq!(
        v4(&repository, "shop/web", "shop/db", "tcp/80").action(),
        Action::Deny
    );
    // In a cluster its pods are there.
    let cluster = ask(&(manifests.clone() + pod));
    assert_eq!(ids(&cluster), ["shop/db", "shop/web-7d9f-x"]);
    // A label of another value is another's.
    let other = ask(&(manifests + &pod.replace("app: web", "app: webb")));
    assert_eq!(ids(&other), ["shop/db", "shop/web", "shop/web-7d9f-x"]);
}

#[test]
fn a_table_about_two_ends_says_of_them_what_the_whole_says() {
    let externals = Externals::from([("lb".to_owned(), vec!["10.0.0.2".parse().unwrap()])]);
    let whole = reach(SHOP);
    let ids = [
        "shop/web",
        "shop/db",
        "shop/far-agent",
        "node/n1",
        "10.0.0.1",
        "external/lb",
        "203.0.113.7",
    ];
    let probes = ["tcp/5432", "tcp/80"].map(|probe| probe.parse::<Probe>().unwrap());
    for (from, to) in ids.iter().flat_map(|from| ids.map(|to| (*from, to))) {
        for probe in probes {
            let ends = [from, to];
            let about = Reach::about(
                &inventory(SHOP),
                &ends,
                &externals,
                probe,
                &PodNetworks::default(),
            )
            .unwrap();
            // Rules have other numbers in another table.
            let ask = |reach: &Reach| {
                let end = |text| reach.end(text, &externals).unwrap();
                let cell = reach.cell(&end(from), &end(to), probe, Family::V4)?;
                let side = |side: &Side| {
                    let rule = reach.rule_of(&side.verdict).map(|(_, entry)| entry.clone());
                    (side.verdict.action, side.verdict.reason, rule)
                };
                Some((side(&cell.egress), side(&cell.ingress)))
            };
            assert_eq!(ask(&about), ask(&whole), "{from} {to} {probe}");
        }
    }
    // Others are not let through.
    let about = Reach::about(
        &inventory(SHOP),
        &["shop/web"],
        &externals,
        probes[0],
        &PodNetworks::default(),
    )
    .unwrap();
    let other = v4(&about, "shop/web", "shop/db", "tcp/5432");
    assert_eq!(other.ingress.verdict, Verdict::deny(Reason::TableCorrupt));
}

/// Documents of a repository, whose pods are in these networks.
fn repository(text: &str, asked: &[&str], networks: &[&str]) -> Reach {
    let parsed = parse("w.yaml", text.as_bytes());
    let mut inventory = assemble(parsed.documents).inventory;
    add_templates(&mut inventory, [&*parsed.context], asked.iter().copied());
    let networks = networks.iter().map(|network| network.parse().unwrap());
    Reach::in_networks(&inventory, &PodNetworks(networks.collect())).unwrap()
}

fn ids(reach: &Reach) -> Vec<&str> {
    reach.ends().iter().map(End::id).collect()
}

#[test]
fn another_pod_of_the_same_workload_is_another_end() {
    let set = deployment("db").replace("spec: {template", "spec: {replicas: 3, template");
    let closed = "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: \
                  {name: db, namespace: shop}, spec: {podSelector: {matchLabels: {app: db}}, \
                  ingress: []}}\n";
    let text = set + &deployment("web") + closed;
    let reach = repository(&text, &[], &[]);
    assert_eq!(ids(&reach), ["shop/db", "shop/db#2", "shop/web"]);
    let own = v4(&reach, "shop/db", "shop/db", "tcp/80");
    assert_eq!(own.ingress.verdict.reason, Reason::SelfTraffic);
    let other = v4(&reach, "shop/db#2", "shop/db", "tcp/80");
    assert_eq!(
        (other.action(), other.ingress.verdict.reason),
        (Action::Deny, Reason::Isolated)
    );
    // Nothing says how many there are: others are there if they are asked about.
    let reach = repository(&text, &["shop/web#2", "shop/db#7", "shop/none#2"], &[]);
    assert_eq!(
        ids(&reach),
        [
            "shop/db",
            "shop/db#2",
            "shop/db#7",
            "shop/web",
            "shop/web#2"
        ]
    );
    let one = text.replace("replicas: 3", "replicas: 1");
    assert_eq!(
        ids(&repository(&one, &["shop/db#2"], &[])),
        ["shop/db", "shop/web"]
    );
    let scaler = "---\n{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: \
                  {name: h, namespace: shop}, spec: {scaleTargetRef: {kind: Deployment, name: db}}}\n";
    assert_eq!(
        ids(&repository(&(one + scaler), &[], &[])),
        ["shop/db", "shop/db#2", "shop/web"]
    );
}

#[test]
fn two_workloads_of_one_name_are_two_ends() {
    let set = deployment("web").replace("kind: Deployment", "kind: StatefulSet");
    let second = set.replace("app: web", "app: other");
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}}\n";
    let both = deployment("web") + &second;
    assert_eq!(
        ids(&repository(&both, &[], &[])),
        ["shop/web", "shop/web@statefulset"]
    );
    let all = repository(&(both + pod), &[], &[]);
    assert_eq!(
        ids(&all),
        ["shop/web", "shop/web@deployment", "shop/web@statefulset"]
    );
    // The same in another layer of a repository is no other workload.
    let twice = deployment("web") + &deployment("web");
    assert_eq!(ids(&repository(&twice, &[], &[])), ["shop/web"]);
    // Neither order nor a workload without labels changes that.
    let bare = "---\n{apiVersion: batch/v1, kind: Job, metadata: {name: job, namespace: shop}, spec: {template: {spec: {containers: []}}}}\n";
    let reversed = second + &deployment("web") + bare;
    assert_eq!(
        ids(&repository(&reversed, &[], &[])),
        ["shop/job", "shop/web", "shop/web@statefulset"]
    );
    let of_job = "---\n{apiVersion: v1, kind: Pod, metadata: {name: job-x7, namespace: shop}}\n";
    assert_eq!(
        ids(&repository(&(bare.to_owned() + of_job), &[], &[])),
        ["shop/job-x7"]
    );
}

#[test]
fn a_verdict_that_depends_on_an_address_that_nobody_gave_is_told() {
    let ask = |rule: &str, networks: &[&str]| {
        let policy = format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: db, \
             namespace: shop}}, spec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: \
             [{{from: [{rule}]}}]}}}}\n"
        );
        let reach = repository(
            &(deployment("web") + &deployment("db") + &policy),
            &[],
            networks,
        );
        let cell = v4(&reach, "shop/web", "shop/db", "tcp/80");
        // What is sent the other way is nobody's rule.
        let back = v4(&reach, "shop/db", "shop/web", "tcp/80");
        assert_eq!(
            (back.action(), back.depends_on_address),
            (Action::Allow, false)
        );
        (cell.action() == Action::Allow, cell.depends_on_address)
    };
    let block = |cidr: &str| format!("{{ipBlock: {{cidr: {cidr}}}}}");
    let depends = (false, true);
    assert_eq!(ask(&block("10.0.0.0/8"), &[]), depends);
    assert_eq!(ask(&block("10.0.0.0/8"), &["10.244.0.0/16"]), (true, false));
    assert_eq!(
        ask(&block("10.0.0.0/8"), &["192.168.0.0/16"]),
        (false, false)
    );
    assert_eq!(
        ask(&block("10.0.0.0/8"), &["10.244.0.0/16", "192.168.0.0/16"]),
        depends
    );
    assert_eq!(ask(&block("10.244.0.0/16"), &["fd00::/64"]), depends);
    assert_eq!(ask(&block("10.244.0.0/24"), &["10.244.0.0/16"]), depends);
    assert_eq!(ask(&block("0.0.0.0/0"), &[]), (true, false));
    // No private address, and one host among them.
    assert_eq!(ask(&block("203.0.113.0/24"), &[]), (false, false));
    assert_eq!(ask(&block("10.1.2.3/32"), &[]), (false, false));
    let but = |except: &str| format!("{{ipBlock: {{cidr: 0.0.0.0/0, except: [{except}]}}}}");
    assert_eq!(ask(&but("10.0.0.0/8"), &[]), depends);
    let private = "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10";
    assert_eq!(ask(&but(private), &[]), (false, false));
    // What one block leaves another covers: the address does not matter.
    let both = format!("{}, {}", but("10.0.0.0/8"), block("10.0.0.0/8"));
    assert_eq!(ask(&both, &[]), (true, false));
    // Labels let it in, whatever the address.
    let label = "{podSelector: {matchLabels: {app: web}}}";
    assert_eq!(
        ask(&format!("{}, {label}", block("10.0.0.0/8")), &[]),
        (true, false)
    );
}
