//! Label selectors in documents.

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::Node;

use super::reader::{Reader, Shown};

/// Reads a selector; an empty one selects everything.
pub fn selector(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<LabelSelector> {
    let known = ["matchLabels", "matchExpressions"];
    let fields = reader.strict_mapping_or(node, what, &known, |key| {
        format!("labels stand in `matchLabels: {{{}: …}}`", Shown(key))
    })?;
    let mut requirements = Vec::new();
    let errors = reader.errors();
    if let Some(node) = fields.get("matchLabels") {
        for pair in reader.string_map(node, "`matchLabels`")? {
            reader.check_name(
                pair.key_mark,
                Code::Label,
                "the label key",
                pair.key,
                names::label_key,
            );
            check_value(reader, pair.value_mark, pair.value);
            let value = Operator::In(Box::from([Box::from(pair.value)]));
            requirements.push(Requirement::new(pair.key, value));
        }
    }
    if let Some(node) = fields.get("matchExpressions") {
        for item in reader.list(node, "`matchExpressions`")? {
            requirements.extend(requirement(reader, item));
        }
    }
    (reader.errors() == errors).then(|| requirements.into_iter().collect())
}

/// Reads labels.
pub fn labels(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<Labels> {
    let errors = reader.errors();
    let pairs = reader.string_map(node, what)?;
    for pair in &pairs {
        let (mark, what) = (pair.key_mark, "the label key");
        reader.check_name(mark, Code::Label, what, pair.key, names::label_key);
        check_value(reader, pair.value_mark, pair.value);
    }
    let pairs = pairs.iter().map(|pair| (pair.key, pair.value));
    (reader.errors() == errors).then(|| pairs.collect())
}

fn requirement(reader: &mut Reader, node: &Node<'_>) -> Option<Requirement> {
    let fields = reader.strict_mapping(
        node,
        "an entry of `matchExpressions`",
        &["key", "operator", "values"],
    )?;
    let key = reader.required(fields, "key").and_then(|node| {
        let key = reader.string(node, "`key`")?;
        let (mark, what) = (node.mark, "the label key");
        reader
            .check_name(mark, Code::Label, what, key, names::label_key)
            .then_some(key)
    });
    let mut values = Vec::new();
    let values_mark = fields.get("values").map_or(fields.mark, |node| node.mark);
    if let Some(node) = fields.get("values") {
        for item in reader.list(node, "`values`")? {
            let value = reader.string(item, "an entry of `values`")?;
            check_value(reader, item.mark, value);
            values.push(Box::from(value));
        }
    }
    let node = reader.required(fields, "operator")?;
    let name = reader.string(node, "`operator`")?;
    let (needs_values, operator) = match name {
        "In" => (true, Operator::In(values.clone().into())),
        "NotIn" => (true, Operator::NotIn(values.clone().into())),
        "Exists" => (false, Operator::Exists),
        "DoesNotExist" => (false, Operator::DoesNotExist),
        _ => {
            let known = ["In", "NotIn", "Exists", "DoesNotExist"];
            reader.unknown_word(node.mark, Code::Selector, "operator", name, &known);
            return None;
        }
    };
    if needs_values == values.is_empty() {
        let (message, hint) = if needs_values {
            let exists = if name == "In" {
                "Exists"
            } else {
                "DoesNotExist"
            };
            (
                format!("operator {name} needs at least one value"),
                format!("whatever the value, it is {exists}"),
            )
        } else {
            let one_of = if name == "Exists" { "In" } else { "NotIn" };
            (
                format!("operator {name} takes no values"),
                format!("with values it is {one_of}"),
            )
        };
        reader.error_hint(values_mark, Code::Selector, message, hint);
        return None;
    }
    Some(Requirement::new(key?, operator))
}

fn check_value(reader: &mut Reader, mark: cofferdam_syntax::yaml::Mark, value: &str) {
    reader.check_name(
        mark,
        Code::Label,
        "the label value",
        value,
        names::label_value,
    );
}
