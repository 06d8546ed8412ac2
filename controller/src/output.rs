//! Objects that commands print with `--format json`: a promise to scripts.
//!
//! The agent's answers are in [`cofferdam_protocol`], with the rule for all fields. Answers
//! that need policies are in [`cofferdam_answers`]; the rest is here. The JSON Schemas in
//! `docs/schemas` are derived from these types.

mod check;
mod nodes;
mod top;

use cofferdam_answers::connectivity::{DiffReport, ListReport};
use cofferdam_answers::exposure::ExposureReport;
use cofferdam_answers::graph::GraphReport;
use cofferdam_answers::reach::{ExplainReport, MatrixReport, TestReport};
use cofferdam_answers::replay::WhatIfReport;
use cofferdam_protocol::output::{
    BypassReport, EndpointList, EndpointReport, FlowRecord, RemoveReport, Schema, StatusReport,
    SyncReport, UnusedRules,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use check::{
    CapacityReport, CheckReport, LookedAt, NodeCapacity, PassedOver, Renderer, Unrendered,
};
pub use nodes::{ClusterStatus, NodeReport};
pub use top::{DividedBy, Ranked, Sums, TopReport, TopRow};

/// A template of the policy library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateEntry {
    /// Its name.
    pub name: String,
    /// Description in a few words.
    pub about: String,
}

/// Answer of `init` without a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateList {
    /// The version of this object.
    pub schema: Schema,
    /// The templates, in the order of their names.
    pub templates: Vec<TemplateEntry>,
}

/// Answer of `init` with a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitReport {
    /// The version of this object.
    pub schema: Schema,
    /// The template.
    pub template: String,
    /// The folder it was put into.
    pub directory: String,
    /// The files that were written there.
    pub files: Vec<String>,
}

/// A JSON Schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaEntry {
    /// Its name.
    pub name: String,
    /// Description of its document in a few words.
    pub about: String,
    /// The kind of document it is of; null for what commands print.
    pub document: Option<String>,
}

/// Answer of `schema` without a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaList {
    /// The version of this object.
    pub schema: Schema,
    /// The schemas: of documents, then of what commands print.
    pub schemas: Vec<SchemaEntry>,
}

/// Returns the schemas of objects that commands print: name of the file, and its text.
#[must_use]
pub fn schemas() -> Vec<(&'static str, String)> {
    fn text<T: JsonSchema>() -> String {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>();
        let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
        text + "\n"
    }
    vec![
        ("bypass.json", text::<BypassReport>()),
        ("check.json", text::<CheckReport>()),
        ("cluster-status.json", text::<ClusterStatus>()),
        ("diff.json", text::<DiffReport>()),
        ("endpoint.json", text::<EndpointReport>()),
        ("endpoint-list.json", text::<EndpointList>()),
        ("endpoint-remove.json", text::<RemoveReport>()),
        ("explain.json", text::<ExplainReport>()),
        ("exposure.json", text::<ExposureReport>()),
        ("flow-record.json", text::<FlowRecord>()),
        ("graph.json", text::<GraphReport>()),
        ("init.json", text::<InitReport>()),
        ("init-list.json", text::<TemplateList>()),
        ("list.json", text::<ListReport>()),
        ("matrix.json", text::<MatrixReport>()),
        ("schema-list.json", text::<SchemaList>()),
        ("status.json", text::<StatusReport>()),
        ("sync.json", text::<SyncReport>()),
        ("test.json", text::<TestReport>()),
        ("top.json", text::<TopReport>()),
        ("unused-rules.json", text::<UnusedRules>()),
        ("what-if.json", text::<WhatIfReport>()),
    ]
}
