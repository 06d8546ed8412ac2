//! Flow tables that fill, said before one is full.

use std::collections::BTreeSet;

use cofferdam_dataplane::FlowUse;
use cofferdam_protocol::output::{Capacity, Diagnostic, Severity};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_telemetry::metrics::FlowFill;

use super::Reconciler;
use crate::endpoint::EndpointId;

/// Share of its flow table from which on an endpoint is reported, in percent.
const ALARM_PERCENT: u64 = 80;

/// Remedy against a full flow table.
const REMEDY: &str = "raise `limits.flows_per_endpoint`, or find out who opens so many: \
                      `cofferdam observe`";

impl Reconciler {
    /// Logs endpoints whose flow table is nearly full since the last sweep, or is no longer.
    pub(super) fn look_at_fills(&mut self) {
        let filling: BTreeSet<EndpointId> = self
            .filling()
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        for (endpoint, fill) in self.filling() {
            if !self.filling.contains(endpoint) {
                tracing::warn!(
                    %endpoint,
                    used = fill.used,
                    capacity = fill.most,
                    "the flow table is nearly full; when it is, new flows that policy does not \
                     allow both ways are dropped: {REMEDY}"
                );
            }
        }
        for endpoint in self.filling.difference(&filling) {
            tracing::info!(%endpoint, "the flow table is no longer nearly full");
        }
        self.filling = filling;
    }

    fn fills(&self) -> impl Iterator<Item = (&EndpointId, FlowUse)> {
        let endpoints = self.endpoints.values().map(|managed| &managed.endpoint);
        endpoints.filter_map(|endpoint| {
            let fill = self.enforcer.flows_left(endpoint.link.host_ifindex)?;
            Some((&endpoint.id, fill))
        })
    }

    fn filling(&self) -> impl Iterator<Item = (&EndpointId, FlowUse)> {
        self.fills()
            .filter(|(_, fill)| u64::from(fill.used) * 100 >= u64::from(fill.most) * ALARM_PERCENT)
    }

    /// A finding about each flow table that is nearly full.
    pub(super) fn fill_warnings(&self) -> impl Iterator<Item = Diagnostic> {
        self.filling().map(|(endpoint, fill)| Diagnostic {
            code: Code::FlowTableFills.as_str().to_owned(),
            severity: Severity::Warning,
            file: String::new(),
            line: 0,
            column: 0,
            message: format!(
                "endpoint {endpoint}: its flow table is nearly full, {} of {} flows; when it is, \
                 new flows that policy does not allow both ways are dropped",
                fill.used, fill.most
            ),
            hint: Some(REMEDY.to_owned()),
        })
    }

    /// Returns the fill of all endpoints' flow tables, as the last sweep left them.
    pub(super) fn flow_fill(&self) -> FlowFill {
        let mut all = FlowFill::default();
        for (_, fill) in self.fills() {
            all.used += u64::from(fill.used);
            all.max += u64::from(fill.most);
            let share = f64::from(fill.used) / f64::from(fill.most.max(1));
            all.fullest = all.fullest.max(share);
        }
        all
    }

    /// The fullest flow table of an endpoint, as the last sweep left it.
    pub(super) fn fullest(&self, bytes: u64) -> Capacity {
        let fullest = self
            .fills()
            .map(|(_, fill)| fill)
            .max_by_key(|fill| fill.used)
            .unwrap_or_default();
        Capacity {
            table: "flows_of_fullest_endpoint".to_owned(),
            used: fullest.used.into(),
            max: fullest.most.into(),
            bytes,
        }
    }
}
