//! The dashboards as Grafana reads them, and their pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cofferdam_telemetry::metrics::list;
use cofferdam_tests::pictures::{Dashboard, Kind, Panel, Size, Unit};
use cofferdam_tests::scratch::Scratch;
use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use serde_json::{Value, json};

use super::servers::deployed;

/// Units of what Prometheus says of its scrapes.
const OF_SCRAPES: [(&str, Unit); 2] = [
    ("scrape_duration_seconds", Unit::Seconds),
    ("scrape_samples_scraped", Unit::Short),
];
/// Labels of every series that Prometheus scrapes, and of workloads by `metrics_labels`.
const LABELS: [&str; 4] = ["instance", "job", "workload_namespace", "workload"];
/// Columns of the grid.
const COLUMNS: u64 = 24;
/// Bytes of a picture: more than an empty page has, and no more than a page of documentation
/// should load.
const BYTES: std::ops::RangeInclusive<u64> = 10_000..=200_000;
/// Letters of a picture's description, for those who do not see it.
const DESCRIPTION: usize = 40;

/// A query of a panel, with what Grafana puts in for variables.
pub(super) struct Query {
    /// Dashboard and panel.
    pub(super) panel: String,
    /// The query.
    pub(super) text: String,
}

/// The files of all dashboards.
pub(super) fn files() -> Vec<PathBuf> {
    let folder = fs::read_dir(deployed("grafana")).expect("a folder");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let is_one = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    files.filter(is_one).collect()
}

/// All dashboards with their files' names.
fn all() -> Vec<(String, Value)> {
    let dashboards = files().into_iter().map(|path| {
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
                let text = target["expr"]
                    .as_str()
                    .expect("a query")
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

/// Words of a query, or of another text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

/// The metrics of the list that a query is about.
fn metrics(query: &str) -> impl Iterator<Item = &'static list::Metric> {
    let of = |word: &str| {
        let name = word.strip_suffix("_bucket").unwrap_or(word);
        list::ALL.iter().find(|metric| metric.name == name).copied()
    };
    words(query).filter_map(of)
}

/// Returns the units that the metrics of a query have after its functions.
fn units(query: &str) -> Vec<Unit> {
    if query.starts_with("count(") {
        return vec![Unit::Short];
    }
    if query.contains(" / ") {
        return vec![Unit::Share];
    }
    let is_rate = words(query).any(|word| word == "rate");
    let of_list = metrics(query).map(|metric| match (metric.unit, is_rate) {
        (list::Unit::Packets, true) => Unit::PacketsPerSecond,
        (list::Unit::Bytes, true) => Unit::BytesPerSecond,
        (list::Unit::Seconds, true) if metric.kind == list::Kind::Counter => Unit::Share,
        (list::Unit::Bytes, false) => Unit::Bytes,
        (list::Unit::Seconds, _) => Unit::Seconds,
        (list::Unit::Ratio, _) => Unit::Share,
        (list::Unit::Packets | list::Unit::Count | list::Unit::Truth, _) => Unit::Short,
    });
    let of_scrapes = OF_SCRAPES
        .iter()
        .filter(|(name, _)| words(query).any(|word| word == *name));
    of_list.chain(of_scrapes.map(|(_, unit)| *unit)).collect()
}

/// Returns the labels of a legend that its query does not yield.
fn strange_labels(legend: &str, query: &str) -> Vec<String> {
    let named = legend
        .split("{{")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
    // The outermost names what is left.
    let kept = query
        .split_once(" by (")
        .and_then(|(_, rest)| Some(rest.split_once(')')?.0));
    let yields = |label: &&str| match kept {
        Some(kept) => words(kept).any(|word| word == *label),
        None => {
            LABELS.contains(label) || metrics(query).any(|metric| metric.labels.contains(label))
        }
    };
    let strange = named.filter(|label| !yields(label));
    strange.map(str::to_owned).collect()
}

/// Mistakes of a panel, but for its place.
fn mistakes_of_panel(raw: &Value, panel: &Panel) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut expect = |is_so: bool, what: String| {
        if !is_so {
            mistakes.push(format!("{}: {what}", panel.title));
        }
    };
    let about = raw["description"].as_str().unwrap_or_default();
    expect(!about.is_empty(), "no description".to_owned());
    let variable = json!({"type": "prometheus", "uid": "${datasource}"});
    expect(raw["datasource"] == variable, "a data source".to_owned());
    expect(!panel.targets.is_empty(), "no query".to_owned());
    if panel.kind == Kind::TimeSeries {
        let legend = &raw["options"]["legend"];
        let is_shown = legend["displayMode"] == "table" && legend["showLegend"] != false;
        expect(is_shown, "no legend".to_owned());
    }
    let unit = &raw["fieldConfig"]["defaults"]["unit"];
    let unit: Option<Unit> = serde_json::from_value(unit.clone()).ok();
    for (target, raw) in panel
        .targets
        .iter()
        .zip(raw["targets"].as_array().expect("targets"))
    {
        expect(
            raw["datasource"] == variable,
            "a query's data source".to_owned(),
        );
        expect(!target.legend_format.is_empty(), "no legend".to_owned());
        let strange = strange_labels(&target.legend_format, &target.expr);
        expect(
            strange.is_empty(),
            format!("labels {strange:?} in {target:?}"),
        );
        let units = units(&target.expr);
        let is_right = !units.is_empty() && units.iter().all(|one| Some(*one) == unit);
        expect(is_right, format!("unit {unit:?} and not {units:?}"));
    }
    mistakes
}

/// Mistakes of a dashboard.
fn mistakes(dashboard: &Value) -> Vec<String> {
    let read = match Dashboard::parse(&dashboard.to_string()) {
        Ok(read) => read,
        Err(error) => {
            let cause = std::error::Error::source(&error);
            return vec![format!("{error}: {cause:?}")];
        }
    };
    let mut mistakes = Vec::new();
    if !read.uid.starts_with("cofferdam-") {
        mistakes.push(format!("uid {}", read.uid));
    }
    let input = &dashboard["__inputs"][0];
    if input["name"] != "DS_PROMETHEUS" || input["pluginId"] != "prometheus" {
        mistakes.push(format!("input {input}"));
    }
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    if variables[0]["type"] != "datasource"
        || variables[0]["current"]["value"] != "${DS_PROMETHEUS}"
    {
        mistakes.push(format!("variable {}", variables[0]));
    }
    // Queries of variables and annotations go to the data source that was chosen as well.
    let events = dashboard["annotations"]["list"].as_array().expect("a list");
    let asked = variables.iter().filter(|one| one["type"] == "query");
    for one in asked.chain(events) {
        if one["datasource"]["uid"] != "${datasource}" {
            mistakes.push(format!("{}: a data source", one["name"]));
        }
    }
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let raw = dashboard["panels"].as_array().expect("panels");
    for (raw, panel) in raw.iter().zip(&read.panels) {
        if panel.title.is_empty() || !ids.insert(panel.id) {
            mistakes.push(format!("{}: no title, or the id of another", panel.title));
        }
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|key| raw["gridPos"][key].as_u64().expect("a number"));
        let mut cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        if x + w > COLUMNS || !cells.all(|cell| taken.insert(cell)) {
            mistakes.push(format!("{}: lies over another, or outside", panel.title));
        }
        if panel.kind != Kind::Row {
            mistakes.extend(mistakes_of_panel(raw, panel));
        }
    }
    mistakes
}

#[test]
fn dashboards_can_be_imported_and_each_panel_says_what_it_shows() {
    let dashboards = all();
    assert!(dashboards.len() >= 4);
    let uids = dashboards.iter().map(|(_, one)| one["uid"].as_str());
    assert_eq!(uids.collect::<BTreeSet<_>>().len(), dashboards.len());
    for (file, dashboard) in &dashboards {
        assert_eq!(mistakes(dashboard), Vec::<String>::new(), "{file}");
    }
}

/// Returns a dashboard with something else at a place.
fn with(place: &str, value: Value) -> Value {
    let (_, mut dashboard) = (all().into_iter())
        .find(|(file, _)| file == "overview.json")
        .expect("a dashboard");
    let (parent, key) = place.rsplit_once('/').expect("a path");
    let parent = dashboard.pointer_mut(parent).expect("it is there");
    if let Value::Array(list) = parent {
        list[key.parse::<usize>().expect("a number")] = value;
    } else {
        parent[key] = value;
    }
    dashboard
}

#[test]
fn mistakes_in_a_dashboard_are_found() {
    // The panel with the lines of verdicts.
    let panel = "/panels/7";
    for (place, value, said) in [
        ("/fieldConfig/defaults/unit", json!("bytes"), "unit"),
        ("/fieldConfig/defaults/unit", json!("furlongs"), "furlongs"),
        ("/gridPos/x", json!(1), "lies over"),
        ("/gridPos/w", json!(25), "lies over"),
        ("/targets/1/legendFormat", json!(""), "no legend"),
        ("/targets/1/legendFormat", json!("{{verdict}}"), "verdict"),
        ("/options/legend/displayMode", json!("hidden"), "no legend"),
        ("/id", json!(1), "the id of another"),
        ("/type", json!("piechart"), "piechart"),
        ("/datasource/uid", json!("mine"), "data source"),
        ("/targets/0/datasource/uid", json!("mine"), "data source"),
    ] {
        let found = mistakes(&with(&format!("{panel}{place}"), value));
        assert!(
            found.iter().any(|one| one.contains(said)),
            "{place}: {found:?}"
        );
    }
    for (place, value) in [
        ("/uid", json!("overview")),
        ("/__inputs/0/name", json!("DS_LOKI")),
        ("/templating/list/0/current/value", json!("mine")),
        ("/templating/list/1/datasource/uid", json!("mine")),
        ("/annotations/list/0/datasource/uid", json!("mine")),
    ] {
        assert_ne!(
            mistakes(&with(place, value)),
            Vec::<String>::new(),
            "{place}"
        );
    }
}

/// Python with models of Grafana's dashboards, where `cargo xtask setup` puts it.
fn python() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let python = cache.or_else(home)?.join("cofferdam/grafana/bin/python");
    python.is_file().then_some(python)
}

const MODELS: Feature = Feature::Other("models of dashboards", || match python() {
    Some(_) => Ok(()),
    None => Err("`cargo xtask setup` installs grafana-foundation-sdk".to_owned()),
});

#[test]
fn dashboards_are_as_the_schema_of_grafana_says() {
    skip_unless!(MODELS);
    let scratch = Scratch::new();
    let mut faulty = Vec::new();
    for (place, value, said) in [
        ("/timzone", json!("browser"), "timzone"),
        (
            "/panels/7/fieldConfig/defaults/custom/drawstyle",
            json!("line"),
            "drawstyle",
        ),
        (
            "/panels/7/fieldConfig/defaults/custom/drawStyle",
            json!("wiggle"),
            "wiggle",
        ),
        ("/panels/7/gridPos/x", json!("0"), "grid_pos.x"),
        ("/panels/7/options/legend/placement", json!("left"), "left"),
        (
            "/panels/7/targets/0/legend",
            json!("x"),
            "targets[0].legend",
        ),
        ("/panels/7/datasource", json!("mine"), "cannot read"),
    ] {
        let path = scratch.path().join(format!("{}.json", faulty.len()));
        fs::write(&path, with(place, value).to_string()).expect("it is written");
        faulty.push((path, said));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/monitoring/models.py");
    let output = Command::new(python().expect("it is there"))
        .arg(script)
        .args(files())
        .args(faulty.iter().map(|(path, _)| path))
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for path in files() {
        assert_eq!(
            said[&*path.to_string_lossy()],
            json!([]),
            "{}",
            path.display()
        );
    }
    for (path, word) in faulty {
        let mistakes = said[&*path.to_string_lossy()].to_string();
        assert!(mistakes.contains(word), "{word}: {mistakes}");
    }
}

/// Width and height of a PNG, from its first chunk.
fn size(png: &[u8]) -> Option<Size> {
    let rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")?;
    let number = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
    Some(Size {
        width: number(0)?,
        height: number(4)?,
    })
}

#[test]
fn each_dashboard_has_its_picture_and_a_page_shows_it() {
    let root = deployed("..");
    let read = |page: &str| fs::read_to_string(root.join(page)).expect("a page");
    let pages = [
        read("README.md"),
        read("docs/observe.md"),
        read("docs/operations.md"),
    ];
    let mut pictures = BTreeSet::new();
    for path in files() {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let picture = format!("img/dashboard-{name}.png");
        let png = fs::read(root.join("docs").join(&picture)).expect("cargo xtask pictures");
        let text = fs::read_to_string(&path).expect("a file");
        let dashboard = Dashboard::parse(&text).expect("a dashboard");
        assert!(
            BYTES.contains(&(png.len() as u64)),
            "{picture}: {}",
            png.len()
        );
        // A picture of another size is one of panels that were there before.
        assert_eq!(
            size(&png),
            Some(dashboard.size()),
            "{picture}: cargo xtask pictures"
        );
        let mut shown = pages
            .iter()
            .flat_map(|page| page.split("![").skip(1))
            .filter_map(|rest| rest.split_once("]("));
        let described = shown.find(|(_, rest)| {
            let target = rest.split(')').next().unwrap_or_default();
            target == picture || target == format!("docs/{picture}")
        });
        let (description, _) = described.unwrap_or_else(|| panic!("no page shows {picture}"));
        assert!(description.len() >= DESCRIPTION, "{picture}: {description}");
        pictures.insert(format!("dashboard-{name}.png"));
    }
    assert!(pages[0].contains("docs/img/dashboard-overview.png"));
    for entry in fs::read_dir(root.join("docs/img")).expect("a folder") {
        let file = entry.expect("an entry").file_name();
        let name = file.to_string_lossy();
        let is_of_one = !name.starts_with("dashboard-") || pictures.contains(&*name);
        assert!(is_of_one, "docs/img/{name} is of no dashboard");
    }
}
