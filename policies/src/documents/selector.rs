//! Label selectors in documents.

use crate::diagnostic::Code;
use crate::names;
use crate::selectors::{LabelSelector, Operator, Requirement};
use crate::yaml::Node;

use super::reader::{Reader, Shown};

/// Reads a selector; an empty one selects everything.
pub(super) fn selector(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<LabelSelector> {
    let fields = reader.strict_mapping(node, what, &["matchLabels", "matchExpressions"])?;
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

fn requirement(reader: &mut Reader, node: &Node<'_>) -> Option<Requirement> {
    let fields = reader.strict_mapping(
        node,
        "an entry of `matchExpressions`",
        &["key", "operator", "values"],
    )?;
    let key = match fields.get("key") {
        Some(node) => {
            let key = reader.string(node, "`key`")?;
            reader
                .check_name(
                    node.mark,
                    Code::Label,
                    "the label key",
                    key,
                    names::label_key,
                )
                .then_some(key)
        }
        None => {
            reader.error(fields.mark, Code::Missing, "`key` is missing");
            None
        }
    };
    let mut values = Vec::new();
    let values_mark = fields.get("values").map_or(fields.mark, |node| node.mark);
    if let Some(node) = fields.get("values") {
        for item in reader.list(node, "`values`")? {
            let value = reader.string(item, "an entry of `values`")?;
            check_value(reader, item.mark, value);
            values.push(Box::from(value));
        }
    }
    let Some(node) = fields.get("operator") else {
        reader.error(fields.mark, Code::Missing, "`operator` is missing");
        return None;
    };
    let name = reader.string(node, "`operator`")?;
    let (needs_values, operator) = match name {
        "In" => (true, Operator::In(values.clone().into())),
        "NotIn" => (true, Operator::NotIn(values.clone().into())),
        "Exists" => (false, Operator::Exists),
        "DoesNotExist" => (false, Operator::DoesNotExist),
        _ => {
            reader.error_hint(
                node.mark,
                Code::Selector,
                format!("operator `{}` is not known", Shown(name)),
                "one of In, NotIn, Exists, DoesNotExist",
            );
            return None;
        }
    };
    if needs_values == values.is_empty() {
        let message = if needs_values {
            format!("operator {name} needs at least one value")
        } else {
            format!("operator {name} takes no values")
        };
        reader.error(values_mark, Code::Selector, message);
        return None;
    }
    Some(Requirement::new(key?, operator))
}

fn check_value(reader: &mut Reader, mark: crate::yaml::Mark, value: &str) {
    reader.check_name(
        mark,
        Code::Label,
        "the label value",
        value,
        names::label_value,
    );
}
