//! A workload elsewhere takes other labels: of the last table nearly everything is kept,
//! and the next says what a table that is made anew says.

use std::collections::BTreeSet;

use cofferdam_inventory::selectors::Labels;
use cofferdam_inventory::{Mode, ObjectName};
use proptest::prelude::*;

use super::again::{Edit, apply, edit};
use super::*;

const D: &str = "10.0.0.4";
const E: &str = "10.0.1.5";
const F: &str = "10.0.2.6";

/// Workload `x/a` is here; `x/b`, `x/d`, `y/c`, `y/e` and `z/f` are elsewhere. Of the
/// policies of `x` one selects nobody yet.
const ELSEWHERE: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: d, namespace: x, labels: {app: d}}, status: {podIP: 10.0.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: e, namespace: y, labels: {app: e}}, status: {podIP: 10.0.1.5}}
---
{apiVersion: v1, kind: Pod, metadata: {name: f, namespace: z, labels: {app: f}}, status: {podIP: 10.0.2.6}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b, namespace: x}, spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: new, namespace: x}, spec: {podSelector: {matchLabels: {app: new}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}, {port: 81}]}, {ports: [{port: 82}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: shut, namespace: x}, spec: {podSelector: {matchLabels: {shut: 'yes'}}, ingress: []}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: blue, namespace: y}, spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: all, namespace: z}, spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: guard}, spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {stage: prod}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}}
";

/// A desired state with the compiler that made its tables.
struct Node {
    inventory: Inventory,
    local: BTreeSet<ObjectName>,
    plan: SlotPlan,
    compiler: Compiler,
}

impl Node {
    fn new(inventory: Inventory, local: BTreeSet<ObjectName>) -> Self {
        Self {
            plan: SlotPlan::assign(&inventory),
            inventory,
            local,
            compiler: Compiler::default(),
        }
    }

    /// The next table, which a new compiler would make as well.
    fn table(&mut self) -> World {
        self.plan = self.plan.successor(&self.inventory);
        let snapshot = Snapshot {
            inventory: &self.inventory,
            slots: &self.plan,
            local: &self.local,
            own_node: None,
            limits: Limits {
                slots: 512,
                ..LIMITS
            },
            revision: 7,
        };
        let again = self.compiler.compile(&snapshot).unwrap();
        let anew = Compiler::default().compile(&snapshot).unwrap();
        assert_eq!(again.rules, anew.rules);
        assert_eq!(again.outside, anew.outside);
        assert_eq!(again.usage, anew.usage);
        assert_eq!(again.words, anew.words);
        World {
            plan: self.plan.clone(),
            compiled: again,
        }
    }

    fn relabel(&mut self, pod: &str, labels: &[(&str, &str)]) -> World {
        let (namespace, name) = pod.split_once('/').unwrap();
        let name = ObjectName::new(namespace, name);
        let mut workload = self.inventory.workloads()[&name].clone();
        workload.labels = labels.iter().copied().collect();
        self.inventory.set_workload(workload).unwrap();
        self.table()
    }

    fn relabel_namespace(&mut self, name: &str, labels: &[(&str, &str)]) -> World {
        let labels: Labels = labels.iter().copied().collect();
        self.inventory.set_namespace(name, &labels);
        self.table()
    }
}

fn node() -> Node {
    let local = BTreeSet::from([ObjectName::new("x", "a")]);
    Node::new(inventory(&[ELSEWHERE.to_owned()]), local)
}

impl World {
    /// From `x/a` to everybody else, on port 80.
    fn to_elsewhere(&self) -> [String; 5] {
        [B, C, D, E, F].map(|receiver| self.ingress(receiver, A, tcp(80)))
    }
}

#[test]
fn a_relabel_that_makes_a_class_and_one_that_leaves_it_empty() {
    let mut node = node();
    let before = ["b/0", "- blue", "", "- blue", "all/0"];
    assert_eq!(node.table().to_elsewhere(), before);
    // Rules of a policy that selected nobody are numbered before those of `y` and `z`.
    let world = node.relabel("x/d", &[("app", "new")]);
    assert_eq!(
        world.to_elsewhere(),
        ["b/0", "- blue", "new/0", "- blue", "all/0"]
    );
    assert_eq!(world.ingress(D, A, tcp(82)), "new/1");
    assert_eq!(world.ingress(D, A, tcp(83)), "- new");
    assert_eq!(
        node.relabel("x/d", &[("app", "d")]).to_elsewhere(),
        before,
        "nobody is of that class any more"
    );
    let world = node.relabel("x/b", &[("app", "d")]);
    assert_eq!(
        world.to_elsewhere(),
        ["", "- blue", "", "- blue", "all/0"],
        "nobody of `x` is selected any more"
    );
}

#[test]
fn a_relabel_that_isolates_otherwise() {
    let mut node = node();
    node.table();
    for (labels, verdict) in [
        (&[("shut", "yes")][..], "- shut"),
        (&[("app", "b"), ("shut", "yes")], "b/0"),
        (&[("app", "new"), ("shut", "yes")], "new/0"),
        (&[("app", "d")], ""),
    ] {
        let world = node.relabel("x/d", labels);
        assert_eq!(
            world.to_elsewhere(),
            ["b/0", "- blue", verdict, "- blue", "all/0"]
        );
        let other = world.ingress(D, A, tcp(99));
        let isolating = match labels {
            [("shut", _)] => "- shut",
            [("app", "b"), _] => "- b shut",
            [("app", "new"), _] => "- new shut",
            _ => "",
        };
        assert_eq!(other, isolating);
        assert_eq!(world.ingress(F, A, tcp(99)), "- all");
    }
}

#[test]
fn a_relabel_of_a_namespace_of_either_end() {
    let mut node = node();
    node.table();
    let world = node.relabel_namespace("x", &[("team", "blue")]);
    assert_eq!(
        world.to_elsewhere(),
        ["b/0", "blue/0", "", "blue/0", "all/0"]
    );
    let world = node.relabel_namespace("z", &[("stage", "prod")]);
    assert_eq!(
        world.to_elsewhere(),
        ["b/0", "blue/0", "", "blue/0", "!guard/0"]
    );
    let world = node.relabel_namespace("y", &[("stage", "prod")]);
    assert_eq!(
        world.to_elsewhere(),
        ["b/0", "!guard/0", "", "!guard/0", "!guard/0"]
    );
    for name in ["x", "y", "z"] {
        node.relabel_namespace(name, &[]);
    }
    assert_eq!(
        node.table().to_elsewhere(),
        ["b/0", "- blue", "", "- blue", "all/0"]
    );
}

/// Facts kept about workloads under numbers that a compiler has since forgotten were taken for
/// those of others.
#[test]
fn what_is_forgotten_is_found_out_anew() {
    let mut node = node();
    node.table();
    // In the order of addresses they would have other numbers now.
    node.relabel("x/b", &[("app", "d")]);
    node.relabel("x/d", &[("app", "b")]);
    // So many different labels that most of those that were ever seen are nobody's.
    for round in 0..30 {
        for number in 0..200u32 {
            let mut workload = node.inventory.workloads()[&ObjectName::new("x", "d")].clone();
            workload.name = ObjectName::new("x", &format!("w{number}"));
            let address = u32::from_be_bytes([10, 9, 0, 0]) + number;
            workload.addresses = vec![IpAddr::from(address.to_be_bytes())];
            workload.labels = [("app", format!("{round}-{number}"))].into_iter().collect();
            node.inventory.set_workload(workload).unwrap();
        }
        node.table();
        // The same state again, and then one that is nearly the same.
        node.table();
        let app = if round % 2 == 0 { "new" } else { "b" };
        let verdict = if round % 2 == 0 { "new/0" } else { "b/0" };
        let world = node.relabel("x/d", &[("app", app)]);
        assert_eq!(world.ingress(D, A, tcp(80)), verdict);
        assert_eq!(world.ingress(B, A, tcp(80)), "", "no policy selects it");
    }
}

/// Changes of workloads elsewhere and of namespaces, one at a time.
fn relabels() -> impl Strategy<Value = Vec<Edit>> {
    let pod = ((0..3u8, 0..9u8), (0..3u8, 0..3u8), 0..40u8).prop_map(|(name, label, address)| {
        Edit::Pod {
            name,
            label,
            port: None,
            address: Some(address),
            local: false,
        }
    });
    let namespace =
        (0..3u8, 0..3u8).prop_map(|(name, label)| Edit::Namespace(name, label, Mode::Enforce));
    prop::collection::vec(prop_oneof![4 => pod, 1 => namespace], 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn relabels_one_by_one_say_what_a_new_table_says(
        world in prop::collection::vec(edit(), 10..60),
        relabels in relabels(),
    ) {
        let (mut inventory, mut local) = (Inventory::default(), BTreeSet::new());
        for edit in world {
            apply(edit, &mut inventory, &mut local);
        }
        let mut node = Node::new(inventory, local);
        node.table();
        for relabel in relabels {
            if let Edit::Pod { name, .. } = &relabel {
                let name = ObjectName::new(&format!("n{}", name.0), &format!("o{}", name.1));
                if node.local.contains(&name) {
                    continue;
                }
            }
            apply(relabel, &mut node.inventory, &mut node.local);
            node.table();
        }
    }
}
