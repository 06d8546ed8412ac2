//! Checks that the workloads and rules of documents fit into the tables of a node.
//!
//! The table of each node is compiled under the limits of a configuration. What does
//! not fit is compiled again with more room, to say how much would be enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use cofferdam_compiler::{CompileError, Compiled, Input, SlotPlan, compile};
use cofferdam_inventory::{Inventory, Workload};
use cofferdam_protocol::output::Capacity;
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::verdict::MAX_RULE;

use crate::output::{CapacityReport, NodeCapacity};

/// Most nodes that are tried without being named: a table takes up to seconds.
const MOST_NODES: usize = 8;
/// Pages that hold any table, 4 GiB.
const MANY_PAGES: u32 = 1 << 16;

pub(super) fn check(
    inventory: &Inventory,
    limits: &Limits,
    wanted: &[String],
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<CapacityReport> {
    let (nodes, untried) = nodes(inventory, wanted)?;
    let plan = SlotPlan::assign(inventory);
    let before = diagnostics.len();
    let mut report = Vec::new();
    for (node, workloads) in nodes {
        let trial = Trial {
            inventory,
            plan: &plan,
            node: node.as_deref(),
            diagnostics,
        };
        report.push(NodeCapacity {
            tables: trial.run(*limits, workloads),
            node: node.map(|name| name.to_string()),
            workloads,
        });
    }
    Ok(CapacityReport {
        fits: diagnostics.len() == before,
        nodes: report,
        untried,
    })
}

/// A node, if documents name any, and the number of its workloads.
type Node = (Option<Arc<str>>, u64);

/// The nodes to try with the numbers of their workloads, and how many others there are.
fn nodes(inventory: &Inventory, wanted: &[String]) -> Result<(Vec<Node>, u64)> {
    let mut counts: BTreeMap<Arc<str>, u64> = (inventory.nodes().keys())
        .map(|name| (name.clone(), 0))
        .collect();
    let mut all = 0;
    for workload in inventory.workloads().values().filter(|w| w.is_selectable()) {
        all += 1;
        if let Some(node) = &workload.node {
            *counts.entry(node.clone()).or_default() += 1;
        }
    }
    if counts.is_empty() && wanted.is_empty() {
        return Ok((vec![(None, all)], 0));
    }
    let mut nodes = Vec::new();
    for name in wanted {
        let Some((name, count)) = counts.get_key_value(name.as_str()) else {
            bail!("no document names a node {name:?}");
        };
        nodes.push((Some(name.clone()), *count));
    }
    if nodes.is_empty() {
        nodes.extend(
            counts
                .iter()
                .map(|(name, count)| (Some(name.clone()), *count)),
        );
        nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        nodes.truncate(MOST_NODES);
    }
    let untried = if wanted.is_empty() {
        counts.len().saturating_sub(nodes.len())
    } else {
        0
    };
    Ok((nodes, untried as u64))
}

/// One node's table.
struct Trial<'a> {
    inventory: &'a Inventory,
    plan: &'a SlotPlan,
    node: Option<&'a str>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Trial<'_> {
    fn run(mut self, limits: Limits, workloads: u64) -> Vec<Capacity> {
        let mut tables = vec![Capacity {
            table: "endpoints".to_owned(),
            used: workloads,
            max: limits.endpoints.into(),
            bytes: 0,
        }];
        if workloads > limits.endpoints.into() {
            self.report("endpoints", workloads, limits.endpoints, "limits.endpoints");
        }
        let Some(compiled) = self.compile_roomily(&limits) else {
            return tables;
        };
        for usage in &compiled.usage {
            let (max, setting) = match usage.table {
                "slots" => (
                    Some(u64::from(limits.slots.saturating_sub(1))),
                    "limits.slots",
                ),
                "table_pages" => (Some(limits.table_pages.into()), "limits.table_pages"),
                "rules" => (Some(limits.max_rule().into()), "limits.rules"),
                _ => (usage.max, ""),
            };
            if let Some(max) = max.filter(|max| usage.used > *max) {
                // One slot is never used, and one number of a rule.
                let needed = usage.used + u64::from(matches!(usage.table, "slots" | "rules"));
                self.report_needed(usage.table, usage.used, max, setting, needed);
            }
            tables.push(Capacity {
                table: usage.table.to_owned(),
                used: usage.used,
                max: max.unwrap_or(0),
                bytes: usage.bytes,
            });
        }
        tables
    }

    /// The table, with as many slots, rules and pages as it takes, so that what does not fit
    /// can be counted.
    fn compile_roomily(&mut self, limits: &Limits) -> Option<Compiled> {
        let mut room = Limits {
            rules: MAX_RULE + 1,
            ..*limits
        };
        let owned = u32::try_from(self.plan.len()).unwrap_or(u32::MAX);
        loop {
            match self.compile(room) {
                Ok(compiled) => return Some(compiled),
                Err(CompileError::Capacity {
                    table: "slots",
                    used,
                    ..
                }) if u64::from(room.slots) <= u64::from(owned) + used => {
                    // Enough for the addresses, then for the outside sets counted.
                    let used = u32::try_from(used).unwrap_or(u32::MAX);
                    room.slots = owned.max(used).saturating_add(2).max(room.slots + 1);
                }
                Err(CompileError::Capacity {
                    table: "table pages",
                    ..
                }) if room.table_pages < MANY_PAGES => room.table_pages = MANY_PAGES,
                Err(CompileError::Capacity { table, used, max }) => {
                    self.diagnostics.push(Diagnostic {
                        place: nowhere(),
                        code: Code::NotInForce,
                        severity: Severity::Error,
                        message: format!(
                            "{}{table}: {used} needed, and there is room for {max}",
                            self.prefix()
                        ),
                        hint: Some(
                            "no setting raises this: spread the policies over fewer labels, \
                             rules or blocks"
                                .to_owned(),
                        ),
                    });
                    return None;
                }
                Err(error @ CompileError::NoSlot { .. }) => {
                    // The plan was made of this very inventory.
                    unreachable!("{error}");
                }
            }
        }
    }

    fn compile(&self, limits: Limits) -> Result<Compiled, CompileError> {
        let is_local = |workload: &Workload| match self.node {
            Some(node) => workload.node.as_deref() == Some(node),
            None => true,
        };
        compile(&Input {
            inventory: self.inventory,
            slots: self.plan,
            is_local: &is_local,
            own_node: self.node,
            limits,
            revision: 1,
        })
    }

    fn prefix(&self) -> String {
        self.node
            .map_or_else(String::new, |node| format!("node {node}: "))
    }

    fn report(&mut self, table: &str, used: u64, max: u32, setting: &str) {
        self.report_needed(table, used, max.into(), setting, used);
    }

    fn report_needed(&mut self, table: &str, used: u64, max: u64, setting: &str, needed: u64) {
        let hint = if setting.is_empty() {
            "no setting raises this".to_owned()
        } else {
            format!("`{setting}: {needed}` or more in the configuration raises this")
        };
        self.diagnostics.push(Diagnostic {
            place: nowhere(),
            code: Code::NotInForce,
            severity: Severity::Error,
            message: format!(
                "{}{table}: {used} needed, {} more than there is room for ({max})",
                self.prefix(),
                used - max
            ),
            hint: Some(hint),
        });
    }
}

/// It is about no line.
fn nowhere() -> Place {
    Place {
        file: "".into(),
        line: 0,
        column: 0,
    }
}
