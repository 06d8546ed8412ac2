//! Statements of others about documents of others.

use cofferdam_compiler::RuleKey;
use cofferdam_documents::{assemble, parse};
use cofferdam_inventory::{Inventory, ObjectName};
use cofferdam_reach::Reach;
use cofferdam_reach::policy_test::{check, read};

use crate::foreign_text::{lines, printable};

/// Most statements that are checked: each may be about every pair of pods.
const MOST_STATEMENTS: usize = 200;

/// Each statement is one outcome; one that holds has been tried on something; what is
/// exercised are rules that there are; and findings can be printed. That every failure's
/// way ends at its verdict, `reach` asserts itself.
pub(crate) fn expectations(bytes: &[u8]) {
    let tests = read("a.yaml", bytes);
    assert_eq!(tests, read("a.yaml", bytes), "read twice");
    let lines = std::str::from_utf8(bytes).map_or(usize::MAX, lines);
    printable(&tests.diagnostics, lines);
    let statements: usize = tests.tests.iter().map(|test| test.expect.len()).sum();
    let inventory = assemble(parse("a.yaml", bytes).documents).inventory;
    if statements == 0 || statements > MOST_STATEMENTS {
        return;
    }
    let Ok(reach) = Reach::new(&inventory) else {
        return;
    };
    let results = check(&reach, &tests.tests);
    assert_eq!(results.outcomes.len(), statements);
    for outcome in &results.outcomes {
        assert!(outcome.checked > 0 || !outcome.holds(), "{outcome:#?}");
        assert!(
            outcome.failures.len() + outcome.unlisted <= outcome.checked,
            "{outcome:#?}"
        );
        printable(&outcome.mistakes, lines);
    }
    for rule in &results.exercised {
        assert!(is_there(&inventory, rule), "{rule:?}");
    }
}

fn is_there(inventory: &Inventory, rule: &RuleKey) -> bool {
    let cluster = inventory
        .cluster_policies()
        .keys()
        .map(|name| ObjectName::new("", name));
    let mut names = inventory.policies().keys().cloned().chain(cluster);
    rule.index.is_some() && names.any(|name| name == rule.policy)
}
