//! Valid documents, made of choices: bytes that a text of YAML would hardly be.
//!
//! The words are few, so that selectors match, blocks overlap and names are the same
//! more often than not.

use std::fmt::Write;

use cofferdam_compiler::{CompileError, Compiled, Input, SlotPlan, compile};
use cofferdam_documents::{Document, assemble, parse};
use cofferdam_inventory::Inventory;
use cofferdam_syntax::diagnostic::Severity;
use cofferdam_verdict::capacity::Limits;

/// Bytes as choices. When they are used up they begin again, each another one than
/// before, so that few of them make a world as well.
struct Choices<'b> {
    bytes: &'b [u8],
    taken: usize,
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some(round) = self.taken.checked_div(self.bytes.len()) else {
            return 0;
        };
        let byte = self.bytes[self.taken % self.bytes.len()];
        self.taken += 1;
        byte.wrapping_add((round as u8).wrapping_mul(37))
    }

    /// One of so many.
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len())]
    }

    /// A list in brackets of up to so many.
    fn list(
        &mut self,
        least: usize,
        most: usize,
        mut item: impl FnMut(&mut Self) -> String,
    ) -> String {
        let count = least + self.below(most - least + 1);
        let items: Vec<String> = (0..count).map(|_| item(self)).collect();
        format!("[{}]", items.join(", "))
    }
}

const LABELS: [&str; 3] = ["a", "b", "c"];
const VALUES: [&str; 3] = ["0", "1", "''"];
const CIDRS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.1/32",
    "192.0.2.0/24",
    "'::/0'",
    "'fd00::/64'",
    "'fd00::1/128'",
];
/// Each within one of the blocks above, strictly.
const EXCEPTS: [(&str, &str); 4] = [
    ("0.0.0.0/0", "10.0.0.0/31"),
    ("10.0.0.0/8", "10.0.0.2/31"),
    ("10.0.0.0/30", "10.0.0.1/32"),
    ("'::/0'", "'fd00::2/127'"),
];
const NAMES: [&str; 3] = ["web", "dns", "none"];

fn labels(choices: &mut Choices<'_>) -> String {
    let pairs: Vec<String> = LABELS
        .iter()
        .filter_map(|label| match choices.below(4) {
            0 => None,
            value => Some(format!("{label}: {}", quoted(VALUES[value - 1]))),
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.trim_matches('\''))
}

fn selector(choices: &mut Choices<'_>) -> String {
    match choices.below(4) {
        0 => "{}".to_owned(),
        1 => format!("{{matchLabels: {}}}", labels(choices)),
        _ => {
            let requirements = choices.list(1, 2, |choices| {
                let (key, operator) = (
                    choices.of(&LABELS),
                    choices.of(&["In", "NotIn", "Exists", "DoesNotExist"]),
                );
                let values = match operator {
                    "In" | "NotIn" => choices.list(1, 2, |choices| quoted(choices.of(&VALUES))),
                    _ => "[]".to_owned(),
                };
                format!("{{key: {key}, operator: {operator}, values: {values}}}")
            });
            format!("{{matchExpressions: {requirements}}}")
        }
    }
}

fn number(choices: &mut Choices<'_>) -> u16 {
    [1, 53, 80, 81, 443, 8080, 65_534, 65_535][choices.below(8)]
}

fn range(choices: &mut Choices<'_>) -> (u16, u16) {
    let (a, b) = (number(choices), number(choices));
    (a.min(b), a.max(b))
}

/// The `ports` of a NetworkPolicy's rule.
fn ports(choices: &mut Choices<'_>) -> String {
    choices.list(0, 3, |choices| {
        let protocol = choices.of(&["TCP", "UDP", "SCTP"]);
        match choices.below(4) {
            0 => format!("{{protocol: {protocol}}}"),
            1 => format!("{{protocol: {protocol}, port: {}}}", number(choices)),
            2 => format!("{{protocol: {protocol}, port: {}}}", choices.of(&NAMES)),
            _ => {
                let (first, last) = range(choices);
                format!("{{protocol: {protocol}, port: {first}, endPort: {last}}}")
            }
        }
    })
}

fn peer(choices: &mut Choices<'_>) -> String {
    match choices.below(5) {
        0 => format!("{{podSelector: {}}}", selector(choices)),
        1 => format!("{{namespaceSelector: {}}}", selector(choices)),
        2 => format!(
            "{{podSelector: {}, namespaceSelector: {}}}",
            selector(choices),
            selector(choices)
        ),
        3 => format!("{{ipBlock: {{cidr: {}}}}}", choices.of(&CIDRS)),
        _ => {
            let (cidr, except) = EXCEPTS[choices.below(EXCEPTS.len())];
            format!("{{ipBlock: {{cidr: {cidr}, except: [{except}]}}}}")
        }
    }
}

fn network_policy(choices: &mut Choices<'_>, index: usize) -> String {
    let mode = choices.of(&["enforce", "enforce", "audit"]);
    let namespace = choices.of(&["x", "y"]);
    let mut spec = format!("podSelector: {}", selector(choices));
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        if choices.below(3) > 0 {
            let rules = choices.list(0, 3, |choices| {
                let list = choices.list(0, 3, peer);
                format!("{{{peers}: {list}, ports: {}}}", ports(choices))
            });
            let _ = write!(spec, ", {section}: {rules}");
        }
    }
    let types = choices.of(&["[]", "[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{index}, \
         namespace: {namespace}, annotations: {{cofferdam.dev/mode: {mode}}}}}\n\
         spec: {{{spec}, policyTypes: {types}}}\n"
    )
}

fn workloads(choices: &mut Choices<'_>) -> String {
    match choices.below(2) {
        0 => format!("{{namespaces: {}}}", selector(choices)),
        _ => format!(
            "{{pods: {{namespaceSelector: {}, podSelector: {}}}}}",
            selector(choices),
            selector(choices)
        ),
    }
}

fn cluster_policy(choices: &mut Choices<'_>, index: usize) -> String {
    let mode = choices.of(&["enforce", "enforce", "audit"]);
    let tier = choices.of(&["Admin", "Baseline"]);
    let priority = choices.of(&["0", "1", "1000"]);
    let mut spec = format!(
        "tier: {tier}, priority: {priority}, subject: {}",
        workloads(choices)
    );
    for (section, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = choices.list(0, 4, |choices| {
            let action = choices.of(&["Accept", "Deny", "Pass"]);
            // Names of ports do not stand beside peers that have none.
            let outside = section == "egress" && choices.below(2) == 1;
            let list = choices.list(1, 3, |choices| match (outside, choices.below(4)) {
                (true, 0) => format!("{{nodes: {}}}", selector(choices)),
                (true, 1 | 2) => format!("{{networks: [{}]}}", choices.of(&CIDRS)),
                (_, 3) => "{unheardOf: {}}".to_owned(),
                _ => workloads(choices),
            });
            let protocols = choices.list(0, 3, |choices| {
                let protocol = choices.of(&["tcp", "udp", "sctp"]);
                match choices.below(4) {
                    0 if !outside => {
                        format!("{{destinationNamedPort: {}}}", choices.of(&NAMES))
                    }
                    1 => format!(
                        "{{{protocol}: {{destinationPort: {{number: {}}}}}}}",
                        number(choices)
                    ),
                    2 => match range(choices) {
                        (first, last) if first < last => format!(
                            "{{{protocol}: {{destinationPort: {{range: {{start: {first}, end: {last}}}}}}}}}"
                        ),
                        _ => format!("{{{protocol}: {{}}}}"),
                    },
                    _ => format!("{{{protocol}: {{}}}}"),
                }
            });
            let protocols = match protocols.as_str() {
                "[]" => "null",
                some => some,
            };
            format!("{{action: {action}, {peers}: {list}, protocols: {protocols}}}")
        });
        let _ = write!(spec, ", {section}: {rules}");
    }
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: \
         {{name: c{index}, annotations: {{cofferdam.dev/mode: {mode}}}}}\nspec: {{{spec}}}\n"
    )
}

fn pod(choices: &mut Choices<'_>, index: usize) -> String {
    let namespace = choices.of(&["x", "y"]);
    let labels = labels(choices);
    let node = choices.of(&["n0", "n1"]);
    let phase = choices.of(&["Running", "Running", "Running", "Succeeded"]);
    let host = choices.below(8) == 7;
    let ports = choices.list(0, 2, |choices| {
        format!(
            "{{name: {}, containerPort: {}, protocol: {}}}",
            choices.of(&NAMES),
            number(choices),
            choices.of(&["TCP", "UDP", "SCTP"])
        )
    });
    let addresses = match choices.below(4) {
        0 => format!("{{ip: 10.0.0.{index}}}"),
        1 => format!("{{ip: 'fd00::{index}'}}"),
        2 => format!("{{ip: 10.0.0.{index}}}, {{ip: 'fd00::{index}'}}"),
        _ => format!("{{ip: 10.0.0.{index}}}, {{ip: 192.0.2.{index}}}"),
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{index}, namespace: {namespace}, labels: \
         {labels}}}\nspec: {{nodeName: {node}, hostNetwork: {host}, containers: [{{ports: \
         {ports}}}]}}\nstatus: {{phase: {phase}, podIPs: [{addresses}]}}\n"
    )
}

/// The documents that the choices make, each once.
fn world(choices: &mut Choices<'_>) -> Vec<String> {
    let [pods, policies, cluster_policies] = [9, 6, 6].map(|most| choices.below(most));
    let mut documents = Vec::new();
    for namespace in ["x", "y"] {
        documents.push(format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {}}}\n",
            labels(choices)
        ));
    }
    for (index, name) in ["n0", "n1"].into_iter().enumerate() {
        documents.push(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {}}}\nstatus: \
             {{addresses: [{{type: InternalIP, address: 10.0.1.{index}}}]}}\n",
            labels(choices)
        ));
    }
    for index in 0..pods {
        documents.push(pod(choices, index));
    }
    for index in 0..policies {
        documents.push(network_policy(choices, index));
    }
    for index in 0..cluster_policies {
        documents.push(cluster_policy(choices, index));
    }
    documents
}

/// Valid documents have no errors, in whatever order they are read, and make the same
/// table; with little room there is a table or a refusal.
pub(crate) fn compiler(bytes: &[u8]) {
    let mut choices = Choices { bytes, taken: 0 };
    let limits = Limits {
        slots: [16, 64, 4096, 4096][choices.below(4)],
        table_pages: [1, 128][choices.below(2)],
        ..Limits::DEFAULT
    };
    let texts = world(&mut choices);
    let mut documents: Vec<Document> = Vec::new();
    for text in &texts {
        let parsed = parse("a.yaml", text.as_bytes());
        let error = parsed
            .diagnostics
            .iter()
            .find(|one| one.severity == Severity::Error);
        assert_eq!(error, None, "in a document that is valid:\n{text}");
        documents.extend(parsed.documents);
    }
    let forwards = assemble(documents.iter().cloned());
    let backwards = assemble(documents.into_iter().rev());
    assert_eq!(forwards.rejected, [], "{}", texts.join("---\n"));
    let tables = [&forwards.inventory, &backwards.inventory].map(|one| table(one, limits));
    match &tables {
        // Not `assert_eq`: nobody reads a table of some thousand words.
        [Ok(one), Ok(other)] => assert!(
            one.pages() == other.pages(),
            "another table of the documents backwards:\n{}",
            texts.join("---\n")
        ),
        [Err(one), Err(other)] => assert_eq!(one, other),
        _ => panic!("documents backwards:\n{}", texts.join("---\n")),
    }
    // There is room for little by choice, and else for all.
    if limits.slots == 4096 && limits.table_pages == 128 {
        assert!(tables[0].is_ok(), "{:?}", tables[0].as_ref().err());
    }
}

fn table(inventory: &Inventory, limits: Limits) -> Result<Compiled, CompileError> {
    compile(&Input {
        inventory,
        slots: &SlotPlan::assign(inventory),
        is_local: &|workload| workload.node.as_deref() == Some("n0"),
        own_node: Some("n0"),
        limits,
        revision: 1,
    })
}
