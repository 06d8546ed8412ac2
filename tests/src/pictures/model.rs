//! The parts of a dashboard's JSON that are drawn.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::numbers::Unit;

/// A dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dashboard {
    /// Name among the dashboards of a Grafana.
    pub uid: String,
    /// Title of the page.
    pub title: String,
    /// Panels, rows among them, in the order of the file.
    pub panels: Vec<Panel>,
    pub(super) annotations: Annotations,
}

/// Events that are marked in every panel.
#[derive(Debug, Deserialize)]
pub(super) struct Annotations {
    pub(super) list: Vec<Annotation>,
}

/// A query whose every point is an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Annotation {
    pub(super) expr: String,
    pub(super) title_format: String,
}

/// Kind of a panel.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A heading over the panels below.
    Row,
    /// One number, large.
    Stat,
    /// Series as columns.
    Table,
    /// Lines or areas over time.
    TimeSeries,
}

/// A panel.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    /// Number of the panel on its dashboard.
    pub id: u64,
    /// Kind of the panel.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Title of the panel.
    pub title: String,
    /// Queries; a row has none.
    #[serde(default)]
    pub targets: Vec<Target>,
    pub(super) grid_pos: Place,
    #[serde(default)]
    pub(super) field_config: Fields,
    #[serde(default)]
    pub(super) options: Options,
    #[serde(default)]
    pub(super) transformations: Vec<Transformation>,
}

/// A query of a panel.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Query, with Grafana's variables.
    pub expr: String,
    /// Name of a series, with its labels in braces.
    pub legend_format: String,
    /// `true` if only the newest values are shown.
    #[serde(default)]
    pub instant: bool,
}

/// Place in a grid of 24 columns.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Place {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) w: u32,
    pub(super) h: u32,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Fields {
    pub(super) defaults: Defaults,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Defaults {
    pub(super) unit: Option<Unit>,
    #[serde(default)]
    pub(super) custom: Custom,
    #[serde(default)]
    pub(super) thresholds: Thresholds,
}

/// Style of lines.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Custom {
    /// Opacity of the area under a line, in percent.
    #[serde(default)]
    pub(super) fill_opacity: u32,
    #[serde(default)]
    pub(super) stacking: Stacking,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Stacking {
    pub(super) mode: StackingMode,
}

/// Way in which series share a panel.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum StackingMode {
    /// Each from the axis.
    #[default]
    None,
    /// Each on top of the one before.
    Normal,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Thresholds {
    pub(super) steps: Vec<Threshold>,
}

/// Colour of numbers from a value on; without one, of all.
#[derive(Debug, Deserialize)]
pub(super) struct Threshold {
    pub(super) color: Colour,
    pub(super) value: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Colour {
    Green,
    Red,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Options {
    #[serde(default)]
    pub(super) legend: Legend,
    #[serde(default)]
    pub(super) sort_by: Vec<Order>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Legend {
    #[serde(default)]
    pub(super) calcs: Vec<Calculation>,
}

/// Number that stands for a series.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Calculation {
    LastNotNull,
    Max,
}

/// Column by which a table is sorted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order {
    pub(super) display_name: String,
    pub(super) desc: bool,
}

/// Change of a table before it is shown.
#[derive(Debug, Deserialize)]
#[serde(tag = "id", content = "options", rename_all = "lowercase")]
pub(super) enum Transformation {
    /// Hides columns.
    #[serde(rename_all = "camelCase")]
    Organize {
        /// Columns by name: `true` for those to hide.
        exclude_by_name: BTreeMap<String, bool>,
    },
}
