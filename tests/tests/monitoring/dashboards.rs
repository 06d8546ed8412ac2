//! The dashboards as Grafana reads them.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::servers::deployed;

/// Units of panels; Grafana shows a number without a unit for others.
const UNITS: [&str; 6] = ["short", "pps", "Bps", "bytes", "s", "percentunit"];

/// A query of a panel, with what Grafana puts in for variables.
pub(super) struct Query {
    /// Dashboard and panel.
    pub(super) panel: String,
    /// The query.
    pub(super) text: String,
}

/// All dashboards with their files' names.
fn all() -> Vec<(String, Value)> {
    let folder = fs::read_dir(deployed("grafana")).expect("a folder");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let dashboards = files.map(|path| {
        let text = fs::read_to_string(&path).expect("a file");
        let name = path.file_name().expect("a name");
        let dashboard = serde_json::from_str(&text).expect("JSON");
        (name.to_string_lossy().into_owned(), dashboard)
    });
    dashboards.collect()
}

/// The panels of a dashboard that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().filter(|panel| panel["type"] != "row")
}

/// Every query of every panel, over a period.
pub(super) fn queries(period: &str, step: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    for (file, dashboard) in all() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().expect("targets") {
                let text = target["expr"].as_str().expect("a query");
                let text = text
                    .replace("$__rate_interval", step)
                    .replace("$__range", period)
                    .replace("$instance", ".*");
                assert!(!text.contains('$'), "{text}");
                let title = panel["title"].as_str().unwrap_or_default();
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                queries.push(Query {
                    panel: format!("{file}: {title}: {legend}"),
                    text,
                });
            }
        }
    }
    queries
}

#[test]
fn dashboards_can_be_imported_and_each_panel_says_what_it_shows() {
    let dashboards = all();
    assert!(dashboards.len() >= 4);
    let mut uids = BTreeSet::new();
    for (file, dashboard) in &dashboards {
        let uid = dashboard["uid"].as_str().expect("a uid");
        assert!(uid.starts_with("cofferdam-") && uids.insert(uid), "{uid}");
        let input = &dashboard["__inputs"][0];
        assert_eq!(input["name"], "DS_PROMETHEUS", "{file}");
        assert_eq!(input["pluginId"], "prometheus", "{file}");
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!(variable["type"], "datasource", "{file}");
        assert_eq!(variable["current"]["value"], "${DS_PROMETHEUS}", "{file}");
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap_or_default();
            let place = format!("{file}: {title}");
            assert!(!title.is_empty(), "{place}");
            assert!(ids.insert(panel["id"].as_u64()), "{place}");
            let about = panel["description"].as_str().unwrap_or_default();
            assert!(!about.is_empty(), "{place}");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            assert!(
                UNITS.contains(&unit.as_str().unwrap_or_default()),
                "{place}"
            );
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
            assert!(x + w <= 24, "{place}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{place} lies over another");
            }
            for target in panel["targets"].as_array().expect("targets") {
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                assert!(!legend.is_empty(), "{place}");
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
            }
        }
    }
}
