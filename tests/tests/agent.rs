//! The real agent on real nodes: what it puts in force, what it leaves in force, and
//! what it says.

#[path = "agent/bypass.rs"]
mod bypass;
#[path = "agent/clock.rs"]
mod clock;
#[path = "agent/cluster.rs"]
mod cluster;
#[path = "agent/configuration.rs"]
mod configuration;
#[path = "agent/documents.rs"]
mod documents;
#[path = "agent/early_drop.rs"]
mod early_drop;
#[path = "agent/endpoints.rs"]
mod endpoints;
#[path = "agent/enforcement.rs"]
mod enforcement;
#[path = "agent/explain.rs"]
mod explain;
#[path = "agent/faults.rs"]
mod faults;
#[path = "agent/flow_log.rs"]
mod flow_log;
#[path = "agent/guard.rs"]
mod guard;
#[path = "agent/identity.rs"]
mod identity;
#[path = "agent/kubernetes.rs"]
mod kubernetes;
#[path = "agent/leaving.rs"]
mod leaving;
#[path = "agent/listeners.rs"]
mod listeners;
#[path = "agent/memory.rs"]
mod memory;
#[path = "agent/nodes.rs"]
mod nodes;
#[path = "agent/places.rs"]
mod places;
#[path = "agent/records.rs"]
mod records;
#[path = "agent/reload.rs"]
mod reload;
#[path = "agent/reports.rs"]
mod reports;
#[path = "agent/scene.rs"]
mod scene;
#[path = "agent/services.rs"]
mod services;
#[path = "agent/slots.rs"]
mod slots;
#[path = "agent/stamps.rs"]
mod stamps;
#[path = "agent/strangers.rs"]
mod strangers;
#[path = "agent/sweeps.rs"]
mod sweeps;
#[path = "agent/telling.rs"]
mod telling;
#[path = "agent/traffic.rs"]
mod traffic;
#[path = "agent/uplinks.rs"]
mod uplinks;
