//! Dashboards of Grafana, drawn as a page of HTML from the answers of a Prometheus.
//!
//! The page loads nothing and has the size of its picture: panels by their places in the grid,
//! with title, unit, legend and axis of time. It draws the kinds of panels, units and options
//! that the dashboards of `deploy/grafana` have; one that it does not know is an error, so that
//! no picture shows less than the dashboard.
//!
//! Nothing here asks a server: the caller brings the answers.

mod chart;
mod model;
mod numbers;
mod page;
mod series;

pub use model::{Dashboard, Kind, Panel, Target};
pub use numbers::Unit;
use serde_json::Value;

use crate::prometheus::Window;

/// Reason for which a dashboard cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is no dashboard, or has something that is not drawn here.
    #[error("the dashboard cannot be drawn")]
    Format {
        /// Error of the JSON reader.
        #[source]
        source: serde_json::Error,
    },
    /// A panel's answer has no numbers.
    #[error("the answer for panel `{panel}` is not as Prometheus writes it: {answer}")]
    Answer {
        /// Title of the panel.
        panel: String,
        /// The series that was not understood.
        answer: Value,
    },
    /// A panel lacks a property that its kind needs.
    #[error("panel `{panel}` has no {what}")]
    Lacks {
        /// Title of the panel.
        panel: String,
        /// Property that is missing.
        what: &'static str,
    },
}

/// Width and height of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

/// A query, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<'d> {
    /// Title of the panel.
    pub panel: &'d str,
    /// Query, with what Grafana puts in for variables.
    pub query: String,
    /// `true` if only the values at the window's end are wanted.
    pub is_instant: bool,
}

/// Period of a picture, and the time over which rates in it are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Points in time.
    pub window: Window,
    /// Seconds that stand for `$__rate_interval`.
    pub rate: u64,
}

impl Period {
    /// Returns a query with what Grafana puts in for variables, of all agents.
    #[must_use]
    pub fn fill_in(&self, query: &str) -> String {
        let Window { start, end, .. } = self.window;
        query
            .replace("$__rate_interval", &format!("{}s", self.rate))
            .replace("$__range", &format!("{}s", end - start))
            .replace("$instance", ".*")
    }
}

impl Dashboard {
    /// Reads a dashboard.
    ///
    /// # Errors
    ///
    /// The text is no dashboard, or has something that is not drawn here.
    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|source| Error::Format { source })
    }

    /// Returns the size of its picture.
    #[must_use]
    pub fn size(&self) -> Size {
        page::size(self)
    }

    /// Draws it. `ask` brings the series of a query, as Prometheus writes them.
    ///
    /// # Errors
    ///
    /// An answer does not come, or cannot be drawn.
    pub fn draw<E: From<Error>>(
        &self,
        period: &Period,
        ask: impl Fn(&Ask<'_>) -> Result<Vec<Value>, E>,
    ) -> Result<String, E> {
        page::draw(self, period, &ask)
    }
}
