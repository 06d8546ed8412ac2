//! Lines and areas over time, as SVG.

use std::fmt::Write as _;

use super::model::{Custom, StackingMode};
use super::numbers::{Unit, clock};
use super::page::escaped;
use super::series::Series;
use crate::prometheus::Window;

/// Colours of series, in their order: those of Okabe and Ito, which people tell apart who see
/// few colours, without their yellow, which is too light for lines on white; then four of
/// Tol's.
const COLOURS: [&str; 10] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255",
    "#999933", "#555555",
];
/// Dashes of lines that are not stacked, so that colour is not all that tells them apart.
const DASHES: [&str; 4] = ["none", "7 3", "2 2", "10 3 2 3"];

/// Room around the plot: for labels, and for half a line's width.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 20.0;
/// Marks on the axis of time, at most.
const TIMES: u64 = 6;
/// Distances of marks on the axis of time, in seconds.
const INTERVALS: [u64; 12] = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
const MINUTE: u64 = 60;

/// Stretch of time in which something happened.
pub(super) type Event = (u64, u64);

/// Everything that all lines of a panel share.
pub(super) struct Chart<'c> {
    pub(super) window: Window,
    pub(super) events: &'c [Event],
    pub(super) unit: Unit,
    pub(super) style: &'c Custom,
    /// Pixels, axes included.
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Returns the colour and the dashes of a series.
pub(super) fn pen(style: &Custom, number: usize) -> (&'static str, &'static str) {
    let dashes = match style.stacking.mode {
        StackingMode::None => DASHES[number % DASHES.len()],
        StackingMode::Normal => "none",
    };
    (COLOURS[number % COLOURS.len()], dashes)
}

/// A time, and from where to where a series is drawn there.
type Slice = (u64, f64, f64);

impl Chart<'_> {
    /// Draws all of it.
    pub(super) fn draw(&self, series: &[Series]) -> String {
        let ribbons = self.ribbons(series);
        let ends = ribbons
            .iter()
            .flatten()
            .flat_map(|(_, low, high)| [*low, *high]);
        let (lowest, highest) = ends.fold((0.0, 0.0), |(lowest, highest): (f64, f64), one| {
            (lowest.min(one), highest.max(one))
        });
        let marks = self.unit.marks(lowest, highest);
        let bottom = marks.first().map_or(0.0, |(value, _)| *value);
        let top = marks.last().map_or(1.0, |(value, _)| *value);
        let y = |value: f64| {
            let share = (value - bottom) / (top - bottom);
            TOP + (1.0 - share) * (self.height - TOP - BOTTOM)
        };
        let mut svg = format!(
            "<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\">",
            self.width, self.height
        );
        self.axes(&mut svg, &marks, y);
        for (number, ribbon) in ribbons.iter().enumerate() {
            for run in self.runs(ribbon) {
                self.ribbon(&mut svg, number, run, y);
            }
        }
        svg.push_str("</svg>");
        svg
    }

    /// Draws an area without axes, as the ground of a number.
    pub(super) fn sparkline(&self, series: &Series, colour: &str) -> String {
        let values = series.points.iter().map(|(_, value)| *value);
        let highest = values.fold(0.0, f64::max);
        let scale = if highest > 0.0 { highest } else { 1.0 };
        let span = (self.window.end - self.window.start).max(1) as f64;
        let points: Vec<String> = (series.points.iter())
            .map(|(time, value)| {
                let x = time.saturating_sub(self.window.start) as f64 / span * self.width;
                let y = (1.0 - value / scale * 0.9) * (self.height - 2.0) + 1.0;
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return String::new();
        };
        let foot = |point: &String| {
            let x = point.split(',').next().unwrap_or_default();
            format!("{x},{}", self.height)
        };
        format!(
            "<svg class=\"spark\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\">\
             <polygon points=\"{2} {3} {4}\" fill=\"{colour}\" fill-opacity=\"0.15\"/>\
             <polyline points=\"{3}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/></svg>",
            self.width,
            self.height,
            foot(first),
            points.join(" "),
            foot(last)
        )
    }

    /// Puts series on each other where they are stacked; else each on the axis.
    fn ribbons(&self, series: &[Series]) -> Vec<Vec<Slice>> {
        let is_stacked = self.style.stacking.mode == StackingMode::Normal;
        let ribbons = series.iter().enumerate().map(|(number, one)| {
            let below = if is_stacked { &series[..number] } else { &[] };
            let points = one.points.iter().map(|&(time, value)| {
                let foot: f64 = below.iter().filter_map(|other| other.at(time)).sum();
                (time, foot, foot + value)
            });
            points.collect()
        });
        ribbons.collect()
    }

    /// Splits a ribbon where it has no points for a time.
    fn runs<'r>(&self, ribbon: &'r [Slice]) -> impl Iterator<Item = &'r [Slice]> + use<'r> {
        let step = self.window.step;
        ribbon.chunk_by(move |(before, ..), (after, ..)| after - before <= step)
    }

    fn x(&self, time: u64) -> f64 {
        let Window { start, end, .. } = self.window;
        let share = (time as f64 - start as f64) / (end - start).max(1) as f64;
        LEFT + share * (self.width - LEFT - RIGHT)
    }

    fn ribbon(&self, svg: &mut String, number: usize, run: &[Slice], y: impl Fn(f64) -> f64) {
        let (colour, dashes) = pen(self.style, number);
        let at = |time: u64, value: f64| format!("{:.1},{:.1}", self.x(time), y(value));
        let over: Vec<String> = run.iter().map(|(time, _, top)| at(*time, *top)).collect();
        let under: Vec<String> = (run.iter().rev())
            .map(|(time, foot, _)| at(*time, *foot))
            .collect();
        let opacity = f64::from(self.style.fill_opacity) / 100.0;
        if let [(time, _, top)] = run {
            // A line of one point is none.
            let (x, y) = (self.x(*time), y(*top));
            let _ = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{colour}\"/>"
            );
            return;
        }
        let _ = write!(
            svg,
            "<polygon points=\"{} {}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>\
             <polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" \
             stroke-dasharray=\"{dashes}\"/>",
            over.join(" "),
            under.join(" "),
            over.join(" ")
        );
    }

    fn axes(&self, svg: &mut String, marks: &[(f64, String)], y: impl Fn(f64) -> f64) {
        let (right, foot) = (self.width - RIGHT, self.height - BOTTOM);
        for &(start, end) in self.events {
            let (from, to) = (self.x(start), self.x(end));
            let width = to - from;
            let height = foot - TOP;
            let _ = write!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" \
                 class=\"event\"/><path d=\"M{from:.1} {TOP}V{foot}\" class=\"edge\"/>"
            );
        }
        for (value, label) in marks {
            let y = y(*value);
            let (x, below) = (LEFT - 7.0, y + 4.0);
            let label = escaped(label);
            let _ = write!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{right}\" class=\"grid\"/>\
                 <text x=\"{x}\" y=\"{below:.1}\" text-anchor=\"end\">{label}</text>"
            );
        }
        let Window { start, end, .. } = self.window;
        let fits = |interval: &&u64| (end - start) / **interval <= TIMES;
        let interval = INTERVALS.iter().find(fits).copied().unwrap_or(end - start);
        let first = start.div_ceil(interval.max(1)) * interval;
        for time in (first..=end).step_by(usize::try_from(interval.max(1)).unwrap_or(usize::MAX)) {
            let (x, below) = (self.x(time), self.height - 5.0);
            let clock = clock(time);
            let label = match clock.get(..5) {
                Some(minutes) if interval.is_multiple_of(MINUTE) => minutes,
                _ => &clock,
            };
            let _ = write!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{foot}\" class=\"grid\"/>\
                 <text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>"
            );
        }
    }
}
