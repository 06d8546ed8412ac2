//! Hints: guesses at the intention behind a mistake.
//!
//! Only words for people are made here; nothing is ever read as what is guessed.

use cofferdam_syntax::yaml::{Node, Slip, Value};
use strsim::osa_distance;

use super::reader::Shown;

/// Places of keys that policies have somewhere, and the fate of those they no longer have.
const HOMES: &[(&str, &str)] = &[
    (
        "action",
        "stands in rules of a ClusterNetworkPolicy; those of a NetworkPolicy only allow",
    ),
    ("annotations", "stands in `metadata`"),
    ("cidr", "stands in `ipBlock`"),
    ("destinationNamedPort", "stands in an entry of `protocols`"),
    ("destinationPort", "stands in `tcp`, `udp` or `sctp`"),
    (
        "domainNames",
        "stands in a peer of `egress` of a ClusterNetworkPolicy",
    ),
    ("egress", "stands in `spec`"),
    ("end", "stands in `range`"),
    ("endPort", "stands in an entry of `ports`"),
    ("except", "stands in `ipBlock`"),
    ("from", "stands in a rule of `ingress`"),
    ("ingress", "stands in `spec`"),
    (
        "ipBlock",
        "stands in a peer of a NetworkPolicy; those of a ClusterNetworkPolicy have `networks`",
    ),
    ("key", "stands in an entry of `matchExpressions`"),
    (
        "labels",
        "stands in `metadata`; a selector has `matchLabels`",
    ),
    ("matchExpressions", "stands in a selector"),
    ("matchLabels", "stands in a selector"),
    (
        "name",
        "stands in `metadata`, and in rules of a ClusterNetworkPolicy",
    ),
    ("namedPort", "is `destinationNamedPort` since v1alpha2"),
    ("namespace", "stands in `metadata`"),
    (
        "namespaceSelector",
        "stands in a peer beside `podSelector`; in a ClusterNetworkPolicy in `pods`",
    ),
    (
        "namespaces",
        "stands in `subject` and in peers of a ClusterNetworkPolicy",
    ),
    (
        "networks",
        "stands in a peer of `egress` of a ClusterNetworkPolicy",
    ),
    (
        "nodes",
        "stands in a peer of `egress` of a ClusterNetworkPolicy",
    ),
    ("number", "stands in `destinationPort`"),
    ("operator", "stands in an entry of `matchExpressions`"),
    (
        "podSelector",
        "stands in `spec` and in peers; in a ClusterNetworkPolicy in `pods`",
    ),
    (
        "pods",
        "stands in `subject` and in peers of a ClusterNetworkPolicy",
    ),
    ("policyTypes", "stands in `spec` of a NetworkPolicy"),
    ("port", "stands in an entry of `ports`"),
    (
        "portNumber",
        "is `tcp: {destinationPort: {number: …}}` since v1alpha2",
    ),
    (
        "portRange",
        "is `tcp: {destinationPort: {range: {start: …, end: …}}}` since v1alpha2",
    ),
    (
        "ports",
        "stands in a rule beside its peers; in a ClusterNetworkPolicy it is `protocols`",
    ),
    ("priority", "stands in `spec` of a ClusterNetworkPolicy"),
    ("protocol", "stands in an entry of `ports`"),
    (
        "protocols",
        "stands in rules of a ClusterNetworkPolicy; those of a NetworkPolicy have `ports`",
    ),
    ("range", "stands in `destinationPort`"),
    ("sctp", "stands in an entry of `protocols`"),
    ("spec", "stands at the top of the document"),
    ("start", "stands in `range`"),
    ("subject", "stands in `spec` of a ClusterNetworkPolicy"),
    ("tcp", "stands in an entry of `protocols`"),
    ("tier", "stands in `spec` of a ClusterNetworkPolicy"),
    ("to", "stands in a rule of `egress`"),
    ("udp", "stands in an entry of `protocols`"),
    ("values", "stands in an entry of `matchExpressions`"),
];

/// Returns advice on a key that is not known here; `None` when nothing comes to mind but the
/// list of those that are.
pub fn for_key(key: &str, known: &[&str]) -> Option<String> {
    if let Some(near) = nearest(key, known) {
        return Some(format!("did you mean `{near}`?"));
    }
    let home = HOMES.iter().find(|(name, _)| *name == key);
    home.map(|(name, home)| format!("`{name}` {home}"))
}

/// Returns advice on a word that is not one of the known ones.
pub fn for_word(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}", known.join(", ")),
    }
}

/// Returns advice on a value of another type than expected.
pub fn for_type(node: &Node<'_>, expected: &str) -> Option<String> {
    let wants = |what: &str| expected == what;
    if is_template(node) {
        return Some(TEMPLATE.to_owned());
    }
    match &node.value {
        Value::Map(_) if wants("a list") => Some("put `- ` in front of it".to_owned()),
        Value::List(_) if wants("a mapping") => Some("take away the `- ` or brackets".to_owned()),
        Value::Text(text) if wants("a list") => Some(format!("write [{}]", Shown(text))),
        Value::Integer(number) if wants("a list") => Some(format!("write [{number}]")),
        Value::Text(text) if wants("a whole number") && text.parse::<i64>().is_ok() => {
            Some("write it without quotes".to_owned())
        }
        Value::Text(text) if wants("`true` or `false`") && is_truth(text) => {
            Some("write it without quotes".to_owned())
        }
        Value::Ambiguous(text) if wants("a string") => {
            Some(format!("write \"{}\" in quotes", Shown(text)))
        }
        Value::Integer(_) | Value::Bool(_) if wants("a string") => {
            Some("write it in quotes".to_owned())
        }
        Value::Null if wants("a string") => Some("write \"\" for an empty one".to_owned()),
        _ => None,
    }
}

/// Returns advice on a line that is not YAML.
pub fn for_slip(slip: Slip) -> &'static str {
    match slip {
        Slip::Tab => "indent by spaces: YAML admits no tabs there",
        Slip::Template => TEMPLATE,
    }
}

const TEMPLATE: &str = "the file looks like a template: render it first";

fn is_truth(text: &str) -> bool {
    matches!(text, "true" | "false")
}

/// `{{ x }}` is a mapping with a mapping for its key.
fn is_template(node: &Node<'_>) -> bool {
    match &node.value {
        Value::Map(entries) => entries
            .iter()
            .any(|entry| matches!(entry.key.value, Value::Map(_))),
        _ => false,
    }
}

/// The known word that was probably meant: the same but for case, or a slip away for
/// every three letters, two at most.
pub fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    if text.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|known| {
            (
                osa_distance(&text.to_lowercase(), &known.to_lowercase()),
                *known,
            )
        })
        .filter(|(distance, known)| *distance <= (known.len() / 3).min(2))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let known = ["podSelector", "policyTypes", "ingress", "egress"];
        assert_eq!(nearest("podselector", &known), Some("podSelector"));
        assert_eq!(nearest("policyType", &known), Some("policyTypes"));
        assert_eq!(nearest("ingres", &known), Some("ingress"));
        assert_eq!(nearest("namespaceSelector", &known), None);
        assert_eq!(nearest("form", &["from", "ports"]), Some("from"));
        assert_eq!(nearest("too", &["to"]), None);
        // Short words are not taken for each other.
        assert_eq!(nearest("ICMP", &["TCP", "UDP"]), None);
        assert_eq!(nearest("UDP", &["TCP"]), None);
        assert_eq!(nearest("tpc", &["TCP"]), Some("TCP"));
    }

    #[test]
    fn homes_are_in_order_and_each_stands_once() {
        for pair in HOMES.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{pair:?}");
        }
    }
}
