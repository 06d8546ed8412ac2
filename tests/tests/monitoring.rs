//! Tests of monitoring: the agent's HTTP server, metrics, alerts and dashboards.

#[path = "monitoring/dashboards.rs"]
mod dashboards;
#[path = "monitoring/http.rs"]
mod http;
#[path = "monitoring/scrapes.rs"]
mod scrapes;
#[path = "monitoring/servers.rs"]
mod servers;
#[path = "monitoring/tls.rs"]
mod tls;
