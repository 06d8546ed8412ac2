//! Verdicts of compiled tables, case by case. The comparison with the oracle on random worlds
//! is in `policies/analysis/tests/agreement`.

use std::net::IpAddr;

use cofferdam_documents as documents;
use cofferdam_inventory::Workload;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::{SlotKind, row_key};
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use super::*;

mod additions;
mod again;
mod cluster;
mod relabels;
mod remote;

const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: y, labels: {team: blue}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: a}}, spec: {nodeName: n1, containers: [{ports: [{name: web, containerPort: 80}]}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x, labels: {app: b}}, spec: {nodeName: n1, containers: [{ports: [{name: web, containerPort: 8080}]}]}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: y, labels: {app: b}}, spec: {nodeName: n2}, status: {podIP: 10.0.1.3}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
";

/// A policy of namespace `x`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{name: {name}, namespace: x}}, spec: {spec}}}"
    )
}

fn inventory(texts: &[String]) -> Inventory {
    let parsed: Vec<_> = std::iter::once(PODS)
        .chain(texts.iter().map(String::as_str))
        .map(|text| documents::parse("a.yaml", text.as_bytes()))
        .collect();
    for parsed in &parsed {
        assert!(parsed.rejected.is_empty(), "{:#?}", parsed.diagnostics);
    }
    documents::assemble(parsed.into_iter().flat_map(|p| p.documents)).inventory
}

const LIMITS: Limits = Limits {
    slots: 64,
    table_pages: 8,
    ..Limits::DEFAULT
};

fn everything(_: &Workload) -> bool {
    true
}

/// A compiled world.
struct World {
    plan: SlotPlan,
    compiled: Compiled,
}

fn input<'a>(inventory: &'a Inventory, plan: &'a SlotPlan) -> Input<'a> {
    Input {
        inventory,
        slots: plan,
        is_local: &everything,
        own_node: Some("n1"),
        limits: LIMITS,
        revision: 7,
    }
}

fn world(policies: &[(&str, &str)]) -> World {
    let texts: Vec<String> = policies
        .iter()
        .map(|(name, spec)| policy(name, spec))
        .collect();
    world_of(&inventory(&texts))
}

fn world_of(inventory: &Inventory) -> World {
    let plan = SlotPlan::assign(inventory);
    let compiled = compile(&input(inventory, &plan)).unwrap();
    World { plan, compiled }
}

fn refusal(texts: &[String], limits: Limits) -> CompileError {
    let inventory = inventory(texts);
    let plan = SlotPlan::assign(&inventory);
    compile(&Input {
        limits,
        ..input(&inventory, &plan)
    })
    .unwrap_err()
}

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.1.3";

impl World {
    fn profile(&self, address: &str) -> Profile {
        let slot = self.compiled.slot_of(&self.plan, address.parse().unwrap());
        slot.unwrap().1
    }

    fn decision(&self, subject: &str, direction: Direction, peer: &str, key: u32) -> Decision {
        self.compiled
            .decide(self.profile(subject), direction, self.profile(peer), key)
            .unwrap()
    }

    /// Of a packet towards `subject`: `name/index` of the rule that allows it, `!` and
    /// the same of one that denies it, `-` and the policies that isolate, or nothing.
    fn ingress(&self, subject: &str, peer: &str, key: u32) -> String {
        self.text(
            self.decision(subject, Direction::Ingress, peer, key)
                .enforced,
        )
    }

    fn egress(&self, subject: &str, peer: &str, key: u32) -> String {
        self.text(
            self.decision(subject, Direction::Egress, peer, key)
                .enforced,
        )
    }

    fn text(&self, verdict: Verdict) -> String {
        match (verdict.action, verdict.reason) {
            (Action::Allow, Reason::NotIsolated) => String::new(),
            (action, Reason::Rule) => {
                let key = &self.compiled.rules.rule(verdict.rule).unwrap().key;
                let denies = if action == Action::Deny { "!" } else { "" };
                format!("{denies}{}/{}", key.policy.name, key.index.unwrap())
            }
            (Action::Deny, Reason::Isolated) => {
                let isolating = self.compiled.rules.isolated_by(verdict.rule);
                let names: Vec<&str> = isolating.map(|(_, e)| &*e.key.policy.name).collect();
                format!("- {}", names.join(" "))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn tcp(port: u16) -> u32 {
    row_key(6, port)
}

#[test]
fn without_policies_nothing_is_isolated() {
    let world = world(&[]);
    for peer in [B, C, "192.0.2.1", "203.0.113.9", "255.255.255.255"] {
        assert_eq!(world.ingress(A, peer, tcp(1)), "");
        assert_eq!(world.egress(A, peer, tcp(1)), "");
    }
    assert_eq!(world.compiled.outside.len(), 2, "one set per family");
    assert!(world.compiled.rules.is_empty());
}

#[test]
fn slots_say_what_their_addresses_are() {
    let world = world(&[]);
    for (address, kind) in [
        (A, SlotKind::LocalWorkload),
        ("fd00::1", SlotKind::LocalWorkload),
        ("192.0.2.1", SlotKind::OwnNode),
        ("192.0.2.2", SlotKind::OtherNode),
        ("203.0.113.9", SlotKind::Outside),
        ("::", SlotKind::Outside),
    ] {
        assert_eq!(world.profile(address).kind, kind, "{address}");
    }
    assert_eq!(world.compiled.profile(20), None, "spare");
}

#[test]
fn the_first_rule_by_name_and_index_decides() {
    let world = world(&[
        ("q", "{ingress: [{ports: [{port: 80}]}]}"),
        (
            "p",
            "{ingress: [{ports: [{port: 81}]}, {ports: [{port: 80, endPort: 82}]}]}",
        ),
    ]);
    for (port, rule) in [
        (79, "- p q"),
        (80, "p/1"),
        (81, "p/0"),
        (82, "p/1"),
        (83, "- p q"),
    ] {
        assert_eq!(world.ingress(A, B, tcp(port)), rule);
    }
}

#[test]
fn rules_name_their_file_and_line_and_policies_their_spec() {
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                metadata: {name: p, namespace: x}\nspec:\n  ingress:\n  - ports: []\n";
    let inventory = inventory(&[text.to_owned()]);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let lines: Vec<_> = compiled
        .rules
        .rules()
        .map(|(number, e)| (number, e.key.index, e.place.line))
        .collect();
    assert_eq!(lines, [(1, None, 4), (2, Some(0), 6)]);
}

#[test]
fn overlapping_blocks_with_different_ports_are_a_union() {
    let world = world(&[(
        "p",
        "{ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 80}]}, \
          {from: [{ipBlock: {cidr: 203.0.113.7/32}}], ports: [{port: 443}]}]}",
    )]);
    assert_eq!(world.ingress(A, "203.0.113.7", tcp(80)), "p/0");
    assert_eq!(world.ingress(A, "203.0.113.7", tcp(443)), "p/1");
    assert_eq!(world.ingress(A, "203.0.113.8", tcp(443)), "- p");
}

#[test]
fn except_is_denied_unless_another_peer_allows_it_again() {
    let all = "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}";
    let one = world(&[(
        "p",
        &format!("{{ingress: [{{from: [{{ipBlock: {all}}}]}}]}}"),
    )]);
    assert_eq!(one.ingress(A, B, tcp(1)), "- p");
    assert_eq!(one.ingress(A, "11.0.0.0", tcp(1)), "p/0");
    let again =
        format!("{{ingress: [{{from: [{{ipBlock: {all}}}]}}, {{from: [{{podSelector: {{}}}}]}}]}}");
    let two = world(&[("p", &again)]);
    assert_eq!(two.ingress(A, B, tcp(1)), "p/1");
    assert_eq!(two.ingress(A, C, tcp(1)), "- p");
}

#[test]
fn two_spellings_of_one_block_are_one() {
    let world = world(&[(
        "p",
        "{ingress: [{from: [{ipBlock: {cidr: 203.0.113.1/24}}], ports: [{port: 80}]}, \
          {from: [{ipBlock: {cidr: 203.0.113.2/24}}], ports: [{port: 81}]}]}",
    )]);
    for port in [80, 81] {
        assert_ne!(world.ingress(A, "203.0.113.200", tcp(port)), "- p");
    }
    assert_eq!(world.compiled.outside.len(), 3);
}

#[test]
fn names_of_ports_are_each_receivers_own() {
    let ingress = world(&[("p", "{ingress: [{ports: [{port: web}]}]}")]);
    for (subject, peer, port, rule) in [
        (A, B, 80, "p/0"),
        (A, B, 8080, "- p"),
        (B, A, 8080, "p/0"),
        (B, A, 80, "- p"),
    ] {
        assert_eq!(ingress.ingress(subject, peer, tcp(port)), rule);
    }
    let egress = world(&[(
        "p",
        "{policyTypes: [Egress], egress: [{ports: [{port: web}]}]}",
    )]);
    for (peer, port, rule) in [
        (A, 80, "p/0"),
        (A, 8080, "- p"),
        (C, 80, "- p"),
        ("203.0.113.9", 80, "- p"),
    ] {
        assert_eq!(egress.egress(B, peer, tcp(port)), rule);
    }
    // A name opens its number and nothing beside it, of its protocol only.
    assert_eq!(egress.egress(B, A, tcp(81)), "- p");
    assert_eq!(egress.egress(B, A, row_key(17, 80)), "- p");
}

#[test]
fn sctp_isolates_and_is_not_read_as_tcp() {
    let world = world(&[("p", "{ingress: [{ports: [{protocol: SCTP, port: 80}]}]}")]);
    assert_eq!(world.ingress(A, B, tcp(80)), "- p");
    assert_eq!(world.ingress(A, B, row_key(132, 80)), "p/0");
}

#[test]
fn rules_without_ports_cover_every_protocol_and_rules_with_ports_no_icmp() {
    let open = world(&[("p", "{ingress: [{}]}")]);
    let tcp_only = world(&[("p", "{ingress: [{ports: [{}]}]}")]);
    for key in [
        row_key(1, 0x0800),
        row_key(58, 0x8000),
        row_key(47, 0),
        row_key(255, 0xffff),
    ] {
        assert_eq!(open.ingress(A, B, key), "p/0");
        assert_eq!(tcp_only.ingress(A, B, key), "- p");
    }
    assert_eq!(tcp_only.ingress(A, B, tcp(0)), "p/0");
}

#[test]
fn audit_policies_change_the_audited_verdict_alone() {
    let audit = policy("p", "{}").replace(
        "namespace: x",
        "namespace: x, annotations: {cofferdam.dev/mode: audit}",
    );
    let inventory = inventory(&[audit]);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let world = World { plan, compiled };
    let decision = world.decision(A, Direction::Ingress, B, tcp(1));
    assert_eq!(world.text(decision.enforced), "");
    assert_eq!(world.text(decision.audited), "- p");
}

#[test]
fn a_finished_pods_address_means_its_next_owner() {
    let finished = "{apiVersion: v1, kind: Pod, metadata: {name: old, namespace: x, labels: {app: a}}, \
                    status: {phase: Succeeded, podIP: 10.0.0.9}}";
    let next = "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: x, labels: {app: b}}, \
                status: {podIP: 10.0.0.9}}";
    let from_a = policy(
        "p",
        "{ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}",
    );
    let inventory = inventory(&[finished.to_owned(), next.to_owned(), from_a]);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let world = World { plan, compiled };
    assert_eq!(world.ingress(B, "10.0.0.9", tcp(1)), "- p");
    assert_eq!(world.ingress(B, A, tcp(1)), "p/0");
}

#[test]
fn a_label_that_nothing_selects_on_changes_no_word() {
    let rules = policy(
        "p",
        "{ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}",
    );
    let words = |text: &str| {
        let parsed = [PODS.replace("{app: b}", text), rules.clone()]
            .map(|text| documents::parse("a.yaml", text.as_bytes()).documents);
        let inventory = documents::assemble(parsed.into_iter().flatten()).inventory;
        let plan = SlotPlan::assign(&inventory);
        compile(&input(&inventory, &plan)).unwrap().words
    };
    assert_eq!(words("{app: b}"), words("{app: b, pod-template-hash: x1}"));
    assert_ne!(words("{app: b}"), words("{app: c}"));
}

#[test]
fn slots_given_from_outside_change_nothing_but_the_slots() {
    let texts = [policy(
        "p",
        "{ingress: [{from: [{podSelector: {matchLabels: {app: b}}}, {ipBlock: {cidr: 203.0.113.0/24}}]}]}",
    )];
    let inventory = inventory(&texts);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let reversed = plan.slots().map(|slot| Slot {
        number: 40 - slot.number,
        ..slot
    });
    let other_plan = SlotPlan::from_slots(reversed).unwrap();
    let other = compile(&input(&inventory, &other_plan)).unwrap();
    let first_page = cofferdam_verdict::table::PAGE_WORDS;
    let after_slots = LIMITS.slot_pages() as usize * first_page;
    assert_eq!(compiled.words[..first_page], other.words[..first_page]);
    assert_eq!(compiled.words[after_slots..], other.words[after_slots..]);
    let (one, two) = (
        World { plan, compiled },
        World {
            plan: other_plan,
            compiled: other,
        },
    );
    for peer in [B, C, "203.0.113.1", "192.0.2.1"] {
        assert_eq!(
            one.ingress(A, peer, tcp(1)),
            two.ingress(A, peer, tcp(1)),
            "{peer}"
        );
    }
}

#[test]
fn many_blocks_of_one_rule_are_one_set_of_addresses() {
    let blocks: Vec<String> = (0..500)
        .map(|i| {
            format!(
                "{{ipBlock: {{cidr: 203.0.{}.{}/32}}}}",
                i / 125,
                i % 125 * 2
            )
        })
        .collect();
    let spec = format!("{{ingress: [{{from: [{}]}}]}}", blocks.join(", "));
    let world = world(&[("p", &spec)]);
    assert_eq!(world.compiled.outside.len(), 3);
    assert_eq!(world.ingress(A, "203.0.3.248", tcp(1)), "p/0");
    assert_eq!(world.ingress(A, "203.0.3.249", tcp(1)), "- p");
}

#[test]
fn a_row_with_too_many_intervals_is_refused_whole() {
    let ports = |count: u32| {
        let ports: Vec<String> = (0..count)
            .map(|i| format!("{{port: {}}}", 2 * i + 1))
            .collect();
        policy(
            "p",
            &format!("{{ingress: [{{ports: [{}]}}]}}", ports.join(", ")),
        )
    };
    assert_eq!(
        refusal(&[ports(2731)], LIMITS),
        CompileError::Capacity {
            table: "intervals of one row",
            used: 5463,
            max: 5461
        }
    );
    let inventory = inventory(&[ports(2730)]);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let world = World { plan, compiled };
    assert_eq!(world.ingress(A, B, tcp(5459)), "p/0");
    assert_eq!(world.ingress(A, B, tcp(5460)), "- p");
    assert_eq!(world.ingress(A, B, tcp(5461)), "- p");
}

#[test]
fn what_does_not_fit_is_refused_with_its_number() {
    let narrow = Limits { slots: 8, ..LIMITS };
    // Six addresses are owned, and both families have an outside set.
    assert_eq!(
        refusal(&[], narrow),
        CompileError::Capacity {
            table: "slots",
            used: 8,
            max: 7
        }
    );
    let enough = Limits { slots: 9, ..LIMITS };
    let inventory = inventory(&[]);
    let plan = SlotPlan::assign(&inventory);
    assert!(
        compile(&Input {
            limits: enough,
            ..input(&inventory, &plan)
        })
        .is_ok()
    );
    let pages = Limits {
        table_pages: 2,
        ..LIMITS
    };
    assert_eq!(
        refusal(&[], pages),
        CompileError::Capacity {
            table: "table pages",
            used: 3,
            max: 2
        }
    );
}

#[test]
fn a_refusal_names_the_setting_that_makes_room() {
    let narrow = Limits { slots: 8, ..LIMITS };
    assert_eq!(
        refusal(&[], narrow).to_string(),
        "slots: 8 needed, and there is room for 7; raise `limits.slots`"
    );
    // Owned addresses alone are too many.
    let narrower = Limits { slots: 4, ..LIMITS };
    assert_eq!(
        refusal(&[], narrower).to_string(),
        "slots: 6 needed, and there is room for 3; raise `limits.slots`"
    );
    let pages = Limits {
        table_pages: 2,
        ..LIMITS
    };
    let refused = refusal(&[], pages).to_string();
    assert!(refused.ends_with("raise `limits.table_pages`"), "{refused}");
    // More rows than the pages hold are noticed before all of them are made.
    let ports = |number: u32| {
        let ports: Vec<String> = (0..2_000)
            .map(|i| format!("{{port: {}}}", 20_000 * (number % 3) + 5 * i + 1 + number))
            .collect();
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{{ipBlock: {{cidr: \
             203.0.113.{number}/32}}}}], ports: [{}]}}]}}",
            ports.join(", ")
        );
        policy(&format!("p{number}"), &spec)
    };
    let many: Vec<String> = (0..9).map(ports).collect();
    let refused = refusal(
        &many,
        Limits {
            table_pages: 3,
            ..LIMITS
        },
    )
    .to_string();
    assert!(refused.ends_with("raise `limits.table_pages`"), "{refused}");
}

#[test]
fn an_address_without_a_slot_is_refused() {
    let inventory = inventory(&[]);
    let plan = SlotPlan::default();
    let address: IpAddr = A.parse().unwrap();
    assert!(matches!(
        compile(&input(&inventory, &plan)),
        Err(CompileError::NoSlot { address: a, .. }) if a == address
    ));
}

#[test]
fn usage_adds_up_to_the_pages_in_use() {
    let world = world(&[("p", "{ingress: [{from: [{podSelector: {}}]}]}")]);
    let of = |table: &str| {
        *world
            .compiled
            .usage
            .iter()
            .find(|u| u.table == table)
            .unwrap()
    };
    assert_eq!(of("rules").used, 3, "a policy, its rule, an isolation set");
    assert_eq!(of("classes").used, 2);
    assert_eq!(
        of("table_pages").used as usize,
        world.compiled.pages().len()
    );
    assert_eq!(of("slots").used, 6 + 2);
}

#[test]
fn a_workload_like_another_finds_its_place_without_a_new_table() {
    let texts = [
        policy(
            "p",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}",
        ),
        policy("q", "{podSelector: {matchLabels: {app: new}}}"),
        policy(
            "r",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}",
        ),
    ];
    let inventory = inventory(&texts);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&input(&inventory, &plan)).unwrap();
    let world = World { plan, compiled };
    let template = &inventory.workloads()[&ObjectName::new("x", "a")];
    let placed = |app: &str, address: &str| {
        let mut workload = template.clone();
        workload.name = ObjectName::new("x", "new");
        workload.labels = [("app", app), ("pod-template-hash", "1")]
            .into_iter()
            .collect();
        world
            .compiled
            .place(&inventory, &workload, address.parse().unwrap(), true)
            .map(|(_, profile)| profile)
    };
    assert_eq!(placed("a", "10.0.0.77"), Some(world.profile(A)));
    assert_eq!(
        placed("new", "10.0.0.77"),
        None,
        "a policy that did not apply would"
    );
    assert_eq!(
        placed("other", "10.0.0.77"),
        None,
        "no workload was like it"
    );
    assert_eq!(
        placed("a", "10.9.0.1"),
        None,
        "no workload's address lay in that block"
    );
}

#[test]
fn a_late_workload_whose_port_has_another_number_has_no_place() {
    let named = [policy("p", "{ingress: [{ports: [{port: web}]}]}")];
    let inventory = inventory(&named);
    let plan = SlotPlan::assign(&inventory);
    let compile_with = |is_local: fn(&Workload) -> bool| {
        compile(&Input {
            is_local: &is_local,
            ..input(&inventory, &plan)
        })
        .unwrap()
    };
    let b = &inventory.workloads()[&ObjectName::new("x", "b")];
    let mut late = b.clone();
    late.name = ObjectName::new("x", "late");
    let address: IpAddr = "10.0.0.77".parse().unwrap();
    let only_a = compile_with(|workload| &*workload.name.name == "a");
    assert_eq!(only_a.place(&inventory, &late, address, true), None);
    let all = compile_with(|_| true);
    let place = all.place(&inventory, &late, address, true);
    assert_eq!(
        place.map(|(_, profile)| profile),
        all.profile(plan.of(B.parse().unwrap()).unwrap())
    );
}
