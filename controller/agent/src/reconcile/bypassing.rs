//! For a time that somebody has set, policy denies endpoints nothing.
//!
//! The time lies in the kernel, beside what leads to the endpoint, so that it ends without an
//! agent too; an agent that starts takes it up from there. It is for the night when something
//! is wrong: everybody hears of it, in the log, in `status` and in metrics, until it is over.

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail, ensure};
use cofferdam_protocol::output::{BypassReport, BypassedEndpoint, Diagnostic, Schema, Severity};
use cofferdam_protocol::{Bypass, MAX_BYPASS_MS};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_telemetry::time;

use super::{Managed, Reconciler};

impl Reconciler {
    /// Begins or ends the time for the endpoints that are meant.
    pub(super) fn bypass(&mut self, bypass: &Bypass) -> Result<BypassReport> {
        ensure!(
            bypass.for_ms <= MAX_BYPASS_MS,
            "policy can be bypassed for at most 24h at a time"
        );
        let time = Duration::from_millis(bypass.for_ms);
        let meant: Vec<(u32, String)> = (self.endpoints.values())
            .filter(|managed| is_meant(managed, bypass.endpoint.as_deref()))
            .map(|managed| {
                let endpoint = &managed.endpoint;
                (endpoint.link.host_ifindex, endpoint.id.to_string())
            })
            .collect();
        if let (Some(name), true) = (&bypass.endpoint, meant.is_empty()) {
            bail!("there is no endpoint {name}: `cofferdam endpoint list` has their names");
        }
        let mut endpoints = Vec::new();
        for (ifindex, id) in meant {
            let was = self.enforcer.bypasses()?.contains_key(&ifindex);
            self.enforcer.bypass(ifindex, time)?;
            let until = self.bypassed().remove(&ifindex);
            match &until {
                Some(until) => tracing::error!(
                    endpoint = %id,
                    %until,
                    "policy is bypassed: it denies this endpoint nothing until then"
                ),
                None if was => tracing::warn!(endpoint = %id, "policy counts again"),
                None => {}
            }
            endpoints.push(BypassedEndpoint { id, until });
        }
        Ok(BypassReport {
            schema: Schema,
            endpoints,
        })
    }

    /// Times at which policy counts again, by the interfaces of endpoints.
    pub(super) fn bypassed(&self) -> BTreeMap<u32, String> {
        let left = self.enforcer.bypasses().unwrap_or_else(|error| {
            tracing::error!("{}", chain(&error));
            BTreeMap::new()
        });
        let now = SystemTime::now();
        left.into_iter()
            .filter(|(_, left)| !left.is_zero())
            .map(|(ifindex, left)| (ifindex, time::rfc3339(now + left)))
            .collect()
    }

    /// Ends what is over: the kernel's clock comes round.
    pub(super) fn end_bypasses(&mut self) {
        let left = match self.enforcer.bypasses() {
            Ok(left) => left,
            Err(error) => return tracing::error!("{}", chain(&error)),
        };
        for (ifindex, _) in left.into_iter().filter(|(_, left)| left.is_zero()) {
            if let Err(error) = self.enforcer.bypass(ifindex, Duration::ZERO) {
                tracing::error!("{}", chain(&error));
                continue;
            }
            let interface = self.interfaces.by_index.get(&ifindex);
            tracing::warn!(
                interface = interface.map_or("", |one| one.name.as_str()),
                "the time is over for which policy was bypassed; it counts again"
            );
        }
    }

    /// A finding about each endpoint that policy denies nothing.
    pub(super) fn bypass_warnings(&self) -> Vec<Diagnostic> {
        let bypassed = self.bypassed();
        let endpoints = self.endpoints.values();
        let warnings = endpoints.filter_map(|managed| {
            let endpoint = &managed.endpoint;
            let until = bypassed.get(&endpoint.link.host_ifindex)?;
            Some(Diagnostic {
                code: Code::NotInForce.as_str().to_owned(),
                severity: Severity::Warning,
                file: String::new(),
                line: 0,
                column: 0,
                message: format!(
                    "endpoint {}: policy is bypassed, and denies it nothing until {until}",
                    endpoint.id
                ),
                hint: Some(format!("`cofferdam bypass {} --end` ends it", endpoint.id)),
            })
        });
        warnings.collect()
    }
}

/// Returns `true` if a name is that of an endpoint, or of its workload; none is everybody's.
fn is_meant(managed: &Managed, name: Option<&str>) -> bool {
    let id = &managed.endpoint.id;
    let workload = format!("{}/{}", id.namespace, id.name);
    name.is_none_or(|name| name == id.to_string() || name == workload)
}
