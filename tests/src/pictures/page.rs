//! The page: panels at their places in the grid, with what stands around charts.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::chart::{Chart, Event, pen};
use super::model::{Calculation, Colour, Dashboard, Kind, Panel, Transformation};
use super::numbers::{Unit, clock};
use super::series::Series;
use super::{Ask, Error, Period, Size};
use crate::prometheus::Window;

/// Pixels of the picture from left to right.
const WIDTH: u32 = 1400;
/// Pixels around all panels, and between two.
const MARGIN: u32 = 12;
const GAP: u32 = 8;
/// Pixels of the page's heading.
const HEADING: u32 = 56;
/// Columns of the grid, and pixels from one row to the next.
const COLUMNS: u32 = 24;
const ROW: u32 = 34;
/// Pixels of a panel's title, of a line of its legend or table, and below it.
const TITLE: u32 = 30;
const LINE: u32 = 18;
const FOOT: u32 = 6;
/// Most lines of a legend, the one with the names of columns included.
const LEGEND: usize = 6;
/// Column of a table's numbers.
const VALUE: &str = "Value";

const STYLE: &str = "\
*{box-sizing:border-box}
body{margin:0;background:#f4f5f5;color:#24292e;\
font:12px 'Liberation Sans','DejaVu Sans',sans-serif}
main{position:relative;overflow:hidden}
h1{font-size:20px;margin:0;position:absolute;left:14px;top:16px}
header p{margin:0;position:absolute;right:14px;top:20px;font-size:13px;color:#57606a}
section,h2{position:absolute;margin:0;overflow:hidden}
section{background:#fff;border:1px solid #d8dadd;border-radius:3px}
h2{font-size:15px;padding-top:8px}
h3{font-size:13px;margin:0;padding:8px 10px 0;height:30px;white-space:nowrap}
svg{display:block}
svg text{font-size:11px;fill:#57606a}
.grid{stroke:#e3e5e8;stroke-width:1}
.event{fill:#0072b2;fill-opacity:.06}
.edge{stroke:#0072b2;stroke-width:1;stroke-dasharray:3 3}
table{border-collapse:collapse;width:calc(100% - 20px);margin:0 10px}
td,th{height:18px;padding:0 8px 0 0;text-align:left;font-weight:normal;white-space:nowrap}
th{color:#57606a;border-bottom:1px solid #e3e5e8}
.rows td{border-bottom:1px solid #eef0f2}
td.n,th.n{text-align:right;padding:0 0 0 12px}
td svg{display:inline-block;vertical-align:middle;margin-right:7px}
.more{color:#57606a}
.stat{position:absolute;left:0;right:0;text-align:center;font-size:40px;font-weight:bold}
.spark{position:absolute;left:0;bottom:0}
.none{position:absolute;left:0;right:0;top:48%;text-align:center;color:#57606a;font-size:14px}
";

/// Returns the size of a dashboard's picture.
pub(super) fn size(dashboard: &Dashboard) -> Size {
    let places = dashboard.panels.iter().map(|panel| panel.grid_pos);
    let rows = places.map(|place| place.y + place.h).max().unwrap_or(0);
    Size {
        width: WIDTH,
        height: HEADING + rows * ROW + MARGIN - GAP,
    }
}

/// Draws a dashboard.
pub(super) fn draw<E: From<Error>>(
    dashboard: &Dashboard,
    period: &Period,
    ask: &impl Fn(&Ask<'_>) -> Result<Vec<Value>, E>,
) -> Result<String, E> {
    let Size { width, height } = size(dashboard);
    let Window { start, end, .. } = period.window;
    let mut events = Vec::new();
    let mut names = Vec::new();
    for annotation in &dashboard.annotations.list {
        let query = Ask {
            panel: &annotation.title_format,
            query: period.fill_in(&annotation.expr),
            is_instant: false,
        };
        events.extend(stretches(&ask(&query)?, period.window.step));
        names.push(annotation.title_format.as_str());
    }
    let marked = if names.is_empty() {
        String::new()
    } else {
        format!(" · shaded: {}", names.join(", "))
    };
    let title = escaped(&dashboard.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body><main style=\"width:{width}px;height:{height}px\">\n\
         <header><h1>{title}</h1><p>Agent: All{} · {}–{} UTC</p></header>\n",
        escaped(&marked),
        clock(start),
        clock(end)
    );
    for panel in &dashboard.panels {
        let drawing = Drawing {
            panel,
            period,
            events: &events,
        };
        html.push_str(&drawing.draw(ask)?);
        html.push('\n');
    }
    html.push_str("</main></body></html>\n");
    Ok(html)
}

/// Returns the stretches of time in which a query has points.
fn stretches(answer: &[Value], step: u64) -> Vec<Event> {
    let series = answer.iter().filter_map(|one| one["values"].as_array());
    let times = series.flatten().filter_map(|point| point[0].as_f64());
    let times: BTreeSet<u64> = times.map(|time| time.round() as u64).collect();
    let times: Vec<u64> = times.into_iter().collect();
    let runs = times.chunk_by(|before, after| after - before <= step);
    runs.filter_map(|run| Some((*run.first()?, *run.last()?)))
        .collect()
}

/// A panel, and what is drawn of it.
struct Drawing<'d> {
    panel: &'d Panel,
    period: &'d Period,
    events: &'d [Event],
}

impl Drawing<'_> {
    fn width(&self) -> u32 {
        self.panel.grid_pos.w * (WIDTH - 2 * MARGIN + GAP) / COLUMNS - GAP
    }

    fn height(&self) -> u32 {
        self.panel.grid_pos.h * ROW - GAP
    }

    fn draw<E: From<Error>>(
        &self,
        ask: &impl Fn(&Ask<'_>) -> Result<Vec<Value>, E>,
    ) -> Result<String, E> {
        let place = self.panel.grid_pos;
        let left = MARGIN + place.x * (WIDTH - 2 * MARGIN + GAP) / COLUMNS;
        let top = HEADING + place.y * ROW;
        let (width, height) = (self.width(), self.height());
        let place =
            format!("style=\"left:{left}px;top:{top}px;width:{width}px;height:{height}px\"");
        let title = escaped(&self.panel.title);
        if self.panel.kind == Kind::Row {
            return Ok(format!("<h2 {place}>{title}</h2>"));
        }
        let series = self.series(ask)?;
        let unit = self
            .panel
            .field_config
            .defaults
            .unit
            .ok_or_else(|| Error::Lacks {
                panel: self.panel.title.clone(),
                what: "unit",
            })?;
        let inside = if series.iter().all(|one| one.points.is_empty()) {
            "<p class=\"none\">No data</p>".to_owned()
        } else {
            match self.panel.kind {
                Kind::Row => String::new(),
                Kind::Stat => self.stat(&series, unit),
                Kind::Table => self.table(&series, unit),
                Kind::TimeSeries => self.lines(&series, unit),
            }
        };
        Ok(format!(
            "<section {place}><h3>{title}</h3>{inside}</section>"
        ))
    }

    fn series<E: From<Error>>(
        &self,
        ask: &impl Fn(&Ask<'_>) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Series>, E> {
        let mut all = Vec::new();
        for target in &self.panel.targets {
            let answers = ask(&Ask {
                panel: &self.panel.title,
                query: self.period.fill_in(&target.expr),
                is_instant: target.instant,
            })?;
            for answer in answers {
                all.push(Series::read(self.panel, target, answer)?);
            }
        }
        Ok(all)
    }

    fn chart(&self, unit: Unit, height: u32) -> Chart<'_> {
        Chart {
            window: self.period.window,
            events: self.events,
            unit,
            style: &self.panel.field_config.defaults.custom,
            width: f64::from(self.width() - 2),
            height: f64::from(height),
        }
    }

    /// Lines over time, and their legend below them.
    fn lines(&self, series: &[Series], unit: Unit) -> String {
        let lines = (series.len() + 1).min(LEGEND);
        let below = LINE * lines as u32 + FOOT;
        let height = (self.height() - 2).saturating_sub(TITLE + below);
        let chart = self.chart(unit, height).draw(series);
        format!("{chart}{}", self.legend(series, unit))
    }

    fn legend(&self, series: &[Series], unit: Unit) -> String {
        let calculations = &self.panel.options.legend.calcs;
        let mut html = String::from("<table><tr><th>Name</th>");
        for calculation in calculations {
            let name = match calculation {
                Calculation::LastNotNull => "Last *",
                Calculation::Max => "Max",
            };
            let _ = write!(html, "<th class=\"n\">{name}</th>");
        }
        html.push_str("</tr>");
        let room = room(series.len(), LEGEND - 1);
        for (number, one) in series.iter().take(room).enumerate() {
            let (colour, dashes) = pen(&self.panel.field_config.defaults.custom, number);
            let name = escaped(&one.name);
            let _ = write!(
                html,
                "<tr><td><svg width=\"18\" height=\"8\"><path d=\"M0 4H18\" stroke=\"{colour}\" \
                 stroke-width=\"3\" stroke-dasharray=\"{dashes}\"/></svg>{name}</td>"
            );
            for calculation in calculations {
                let value = one
                    .calculated(*calculation)
                    .map_or(String::new(), |value| unit.shown(value));
                let _ = write!(html, "<td class=\"n\">{}</td>", escaped(&value));
            }
            html.push_str("</tr>");
        }
        html.push_str(&more(series.len() - room));
        html.push_str("</table>");
        html
    }

    /// The newest number, over a line of the numbers before it.
    fn stat(&self, series: &[Series], unit: Unit) -> String {
        let newest = |one: &Series| one.calculated(Calculation::LastNotNull);
        let Some((one, value)) = series.iter().find_map(|one| Some((one, newest(one)?))) else {
            return String::new();
        };
        let steps = &self.panel.field_config.defaults.thresholds.steps;
        let reached = |from: Option<f64>| from.is_none_or(|from| value >= from);
        let step = steps.iter().rfind(|step| reached(step.value));
        let colour = match step.map(|step| step.color) {
            Some(Colour::Red) => "#c4420a",
            Some(Colour::Green) => "#00795b",
            None => "#24292e",
        };
        let height = (self.height() - 2).saturating_sub(TITLE) / 2;
        let spark = self.chart(unit, height).sparkline(one, colour);
        let top = TITLE + height / 3;
        format!(
            "{spark}<div class=\"stat\" style=\"top:{top}px;color:{colour}\">{}</div>",
            escaped(&unit.shown(value))
        )
    }

    /// Series as rows, with their labels as columns.
    fn table(&self, series: &[Series], unit: Unit) -> String {
        let labels: BTreeSet<&str> = (series.iter())
            .flat_map(|one| one.labels.keys().map(String::as_str))
            .collect();
        let labels: Vec<&str> = labels.into_iter().filter(|one| self.shows(one)).collect();
        let mut rows: Vec<(Vec<&str>, f64)> = Vec::new();
        for one in series {
            let Some(value) = one.calculated(Calculation::LastNotNull) else {
                continue;
            };
            let cells = labels
                .iter()
                .map(|label| one.labels.get(*label).map_or("", String::as_str));
            rows.push((cells.collect(), value));
        }
        for order in self.panel.options.sort_by.iter().rev() {
            let column = labels.iter().position(|label| *label == order.display_name);
            rows.sort_by(|(cells, value), (others, other)| {
                let ordering = match column {
                    Some(column) => cells[column].cmp(others[column]),
                    None => value.partial_cmp(other).unwrap_or(Ordering::Equal),
                };
                if order.desc {
                    ordering.reverse()
                } else {
                    ordering
                }
            });
        }
        let mut html = String::from("<table class=\"rows\"><tr>");
        for label in &labels {
            let _ = write!(html, "<th>{}</th>", escaped(label));
        }
        let _ = write!(html, "<th class=\"n\">{VALUE}</th></tr>");
        let lines = (self.height() - TITLE - FOOT) / (LINE + 1);
        let room = room(rows.len(), lines.saturating_sub(1) as usize);
        for (cells, value) in rows.iter().take(room) {
            html.push_str("<tr>");
            for cell in cells {
                let _ = write!(html, "<td>{}</td>", escaped(cell));
            }
            let value = escaped(&unit.shown(*value));
            let _ = write!(html, "<td class=\"n\">{value}</td></tr>");
        }
        html.push_str(&more(rows.len() - room));
        html.push_str("</table>");
        html
    }

    /// Returns `true` unless a transformation hides a column.
    fn shows(&self, column: &str) -> bool {
        let mut hides = self.panel.transformations.iter().map(|one| match one {
            Transformation::Organize { exclude_by_name } => exclude_by_name,
        });
        !hides.any(|hidden| hidden.get(column).copied().unwrap_or(false))
    }
}

/// Returns the number of entries that fit into some lines, of which the last tells of others.
fn room(count: usize, lines: usize) -> usize {
    if count <= lines {
        count
    } else {
        lines.saturating_sub(1)
    }
}

/// The line that tells of entries without room; Grafana scrolls there.
fn more(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        format!("<tr><td class=\"more\">… and {count} more</td></tr>")
    }
}

/// Writes text so that it stands for itself in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PERIOD: Period = Period {
        window: Window {
            start: 1000,
            end: 1060,
            step: 30,
        },
        rate: 8,
    };

    /// Returns a page with one panel of a kind, over these series.
    fn drawn(kind: &str, defaults: Value, query: &str, answer: &[Value]) -> String {
        let dashboard = json!({
            "uid": "one", "title": "One", "annotations": {"list": []},
            "panels": [{
                "id": 1, "type": kind, "title": "Panel", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
                "fieldConfig": {"defaults": defaults},
                "options": {
                    "legend": {"calcs": ["lastNotNull", "max"]},
                    "sortBy": [{"displayName": "Value", "desc": true}],
                },
                "transformations": [
                    {"id": "organize", "options": {"excludeByName": {"job": true}}},
                ],
                "targets": [{"expr": query, "legendFormat": "{{name}}"}],
            }],
        });
        let dashboard = Dashboard::parse(&dashboard.to_string()).unwrap();
        let page = dashboard.draw(&PERIOD, |ask| {
            assert_eq!(ask.query, "sum(rate(x{instance=~\".*\"}[8s]) / y[60s])");
            Ok::<_, Error>(answer.to_vec())
        });
        page.unwrap()
    }

    const QUERY: &str = "sum(rate(x{instance=~\"$instance\"}[$__rate_interval]) / y[$__range])";

    fn series(name: &str, values: [&str; 3]) -> Value {
        let [first, second, third] = values;
        json!({
            "metric": {"name": name, "job": "secret"},
            "values": [[1000, first], [1030, second], [1060, third]],
        })
    }

    /// Heights at which lines end, from the top of the picture.
    fn ends(page: &str) -> Vec<f64> {
        let lines = page.split("<polyline points=\"").skip(1);
        let points = lines.filter_map(|rest| rest.split('"').next()?.split(' ').next_back());
        let heights = points.filter_map(|point| point.split(',').nth(1)?.parse().ok());
        heights.collect()
    }

    #[test]
    fn stacked_series_stand_on_each_other_and_others_on_the_axis() {
        let answer = [series("a", ["1", "1", "1"]), series("b", ["0", "0", "1"])];
        let stacked = json!({"unit": "pps", "custom": {"stacking": {"mode": "normal"}}});
        let heights = ends(&drawn("timeseries", stacked, QUERY, &answer));
        assert!(heights[1] < heights[0] - 10.0, "{heights:?}");
        let each = json!({"unit": "pps", "custom": {"stacking": {"mode": "none"}}});
        let page = drawn("timeseries", each, QUERY, &answer);
        let heights = ends(&page);
        assert_eq!(heights[0], heights[1]);
        // The legend: what came last, and the most.
        assert!(page.contains(">b</td><td class=\"n\">1 p/s</td><td class=\"n\">1 p/s</td>"));
        assert!(page.contains("16:40–00:17:40 UTC"), "{page}");
    }

    #[test]
    fn a_line_ends_where_there_are_no_numbers() {
        let answer = [series("a", ["1", "NaN", "2"])];
        let page = drawn("timeseries", json!({"unit": "s"}), QUERY, &answer);
        assert!(
            !page.contains("<polyline") && page.matches("<circle").count() == 2,
            "{page}"
        );
        let nothing = drawn("timeseries", json!({"unit": "s"}), QUERY, &[]);
        assert!(nothing.contains("No data"), "{nothing}");
    }

    #[test]
    fn a_number_has_the_colour_of_the_last_threshold_it_has_reached() {
        let defaults = json!({"unit": "short", "thresholds": {"steps": [
            {"color": "green", "value": null}, {"color": "red", "value": 1},
        ]}});
        for (last, colour) in [("0", "#00795b"), ("1", "#c4420a")] {
            let answer = [series("a", ["3", "3", last])];
            let page = drawn("stat", defaults.clone(), QUERY, &answer);
            let number = format!("color:{colour}\">{last}</div>");
            assert!(page.contains(&number), "{page}");
        }
    }

    #[test]
    fn a_table_is_sorted_hides_columns_and_tells_of_rows_without_room() {
        let names: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
        let answer = names.iter().map(|name| {
            let value = &name[1..];
            series(name, [value, value, value])
        });
        let answer: Vec<Value> = answer.collect();
        let page = drawn("table", json!({"unit": "short"}), QUERY, &answer);
        assert!(
            !page.contains("secret") && page.contains("<th>name</th>"),
            "{page}"
        );
        let first = page.find("<td>n39</td><td class=\"n\">39</td>");
        assert!(
            first.is_some() && first < page.find("<td>n38</td>"),
            "{page}"
        );
        let shown = page.matches("<td>n").count();
        let rest = format!("… and {} more", names.len() - shown);
        assert!(page.contains(&rest), "{rest}: {page}");
    }

    #[test]
    fn a_panel_that_cannot_be_drawn_is_an_error() {
        let text = json!({
            "uid": "one", "title": "One", "annotations": {"list": []},
            "panels": [{
                "id": 1, "type": "timeseries", "title": "<Panel>",
                "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
                "targets": [{"expr": "x", "legendFormat": "x"}],
            }],
        });
        let dashboard = Dashboard::parse(&text.to_string()).unwrap();
        let unitless = dashboard.draw(&PERIOD, |_| Ok::<_, Error>(Vec::new()));
        assert!(matches!(unitless, Err(Error::Lacks { what: "unit", .. })));
        let odd = dashboard.draw(&PERIOD, |_| Ok::<_, Error>(vec![json!({"metric": 3})]));
        assert!(matches!(odd, Err(Error::Answer { .. })), "{odd:?}");
        let kind = text.to_string().replace("timeseries", "piechart");
        assert!(Dashboard::parse(&kind).is_err());
    }
}
