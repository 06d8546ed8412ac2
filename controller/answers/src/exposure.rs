//! The answer of `exposure`.

use cofferdam_analysis::connectivity::words;
use cofferdam_analysis::exposure::{Beyond, Door, Exposed, Who};
use cofferdam_protocol::output::{Diagnostic, Schema};
use cofferdam_verdict::verdict::Direction;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reach::direction_word;

/// A party beyond the workloads in the documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BeyondReport {
    /// `any_namespace`, `namespace`, `labels` or `outside`.
    pub kind: String,
    /// The party in words; CIDRs of outside addresses.
    pub who: String,
    /// The namespace of the pods, if it must be that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The outside addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// The ports: `tcp/80, tcp/8000-8080`, `other` for protocols without ports, or `all`.
    pub ports: String,
}

impl From<&Beyond> for BeyondReport {
    fn from(beyond: &Beyond) -> Self {
        let (kind, namespace) = match &beyond.who {
            Who::AnyNamespace => ("any_namespace", None),
            Who::Namespace(name) => ("namespace", Some(name)),
            Who::Labels { namespace, .. } => ("labels", namespace.as_ref()),
            Who::Outside(_) => ("outside", None),
        };
        let cidrs = match &beyond.who {
            Who::Outside(outside) => outside.cidrs(),
            _ => Vec::new(),
        };
        Self {
            kind: kind.to_owned(),
            who: beyond.who.to_string(),
            namespace: namespace.map(ToString::to_string),
            cidrs: cidrs.iter().map(ToString::to_string).collect(),
            ports: words(&beyond.ports),
        }
    }
}

/// A way in from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoorReport {
    /// `node_port`, `load_balancer`, `external_address`, `ingress` or `route`.
    pub kind: String,
    /// The document: `namespace/name`.
    pub name: String,
    /// The Service that it leads to: `namespace/name`.
    pub service: String,
}

impl From<&Door> for DoorReport {
    fn from(door: &Door) -> Self {
        Self {
            kind: door.kind.as_str().to_owned(),
            name: door.name.to_string(),
            service: door.service.to_string(),
        }
    }
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PointsReport {
    /// Their number.
    pub points: u32,
    /// The reason; `docs/exposure.md` defines it.
    pub what: String,
}

/// A workload, and how far it is exposed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExposedReport {
    /// `namespace/workload`.
    pub id: String,
    /// Its pods.
    pub members: Vec<String>,
    /// The sum of all points.
    pub score: u32,
    /// The parts of the score.
    pub points: Vec<PointsReport>,
    /// Directions in which no policy in force isolates it: `ingress`, `egress`.
    pub not_isolated: Vec<String>,
    /// Parties that may reach it, beyond the workloads in the documents.
    pub reached_by: Vec<BeyondReport>,
    /// Parties that it may reach, beyond the workloads in the documents.
    pub reaches: Vec<BeyondReport>,
    /// Services and routes that lead to it from outside the cluster.
    pub ways_in: Vec<DoorReport>,
}

impl ExposedReport {
    fn new(exposed: &Exposed, doors: &[Door]) -> Self {
        let directions = [
            (Direction::Ingress, exposed.isolates_ingress),
            (Direction::Egress, exposed.isolates_egress),
        ];
        let open = directions.into_iter().filter(|(_, isolates)| !isolates);
        let points = exposed.points.iter().map(|part| PointsReport {
            points: part.points,
            what: part.what.to_owned(),
        });
        Self {
            id: exposed.id.to_string(),
            members: exposed.members.iter().map(ToString::to_string).collect(),
            score: exposed.score(),
            points: points.collect(),
            not_isolated: open
                .map(|(direction, _)| direction_word(direction).to_owned())
                .collect(),
            reached_by: exposed.from.iter().map(Into::into).collect(),
            reaches: exposed.to.iter().map(Into::into).collect(),
            ways_in: exposed
                .doors
                .iter()
                .map(|at| (&doors[*at]).into())
                .collect(),
        }
    }
}

/// Answer of `exposure`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExposureReport {
    /// The version of this object.
    pub schema: Schema,
    /// The workloads, the highest score first.
    pub workloads: Vec<ExposedReport>,
    /// Findings about the documents.
    pub diagnostics: Vec<Diagnostic>,
}

impl ExposureReport {
    /// Reports workloads and the ways in to them.
    #[must_use]
    pub fn new(workloads: &[Exposed], doors: &[Door], diagnostics: Vec<Diagnostic>) -> Self {
        let workloads = workloads.iter();
        Self {
            schema: Schema,
            workloads: workloads
                .map(|one| ExposedReport::new(one, doors))
                .collect(),
            diagnostics,
        }
    }
}
