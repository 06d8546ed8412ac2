//! Pictures of the dashboards, of what Prometheus has scraped from the shop's agent, and of the
//! page that `cofferdam graph` makes of the shop's policies.
//!
//! Chromium takes them, from pages that load nothing; `pngquant` makes them small.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use cofferdam_tests::{
    pictures::{Dashboard, Period, Size},
    prometheus::{Prometheus, Window},
};

use crate::{
    agent::{Agent, dying_with_us},
    habits::Habits,
    premises::Premises,
    prometheus,
};

/// Colours of a picture.
const COLOURS: &str = "64";
/// Size of the page of a graph.
const GRAPH: Size = Size {
    width: 1100,
    height: 420,
};
/// Bytes of a picture at most: pages load it.
const BYTES: u64 = 200_000;

/// Follows the habits for a time, then takes a picture of each dashboard of a folder into
/// another. Returns the attempts whose answer is not the stated one.
pub(crate) fn take(
    habits: &Habits<'_>,
    agent: &Agent<'_>,
    time: Duration,
    [dashboards, folder]: [&PathBuf; 2],
    premises: &Premises,
) -> Result<Vec<String>> {
    let objections = habits.follow(agent, time)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let end = now.as_secs() / prometheus::SCRAPES * prometheus::SCRAPES;
    let period = Period {
        window: Window {
            start: end - time.as_secs(),
            end,
            step: prometheus::SCRAPES,
        },
        // As Grafana takes it: four scrapes.
        rate: 4 * prometheus::SCRAPES,
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let entries = fs::read_dir(dashboards)
        .with_context(|| format!("cannot read {}", dashboards.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let picture = folder.join(format!("dashboard-{name}.png"));
        let bytes = of_one(&path, &period, &picture, premises)
            .with_context(|| format!("cannot draw {}", path.display()))?;
        println!("  {}, {bytes} bytes", picture.display());
    }
    Ok(objections)
}

/// Takes a picture of a dashboard. Returns its length in bytes.
fn of_one(path: &Path, period: &Period, picture: &Path, premises: &Premises) -> Result<u64> {
    let dashboard = Dashboard::parse(&fs::read_to_string(path)?)?;
    let server = Prometheus {
        address: prometheus::ADDRESS.parse()?,
        namespace: None,
    };
    let html = dashboard.draw(period, |ask| {
        let series = if ask.is_instant {
            server.at(&ask.query, period.window.end)
        } else {
            server.range(&ask.query, period.window)
        };
        series.with_context(|| format!("no answer for panel `{}`", ask.panel))
    })?;
    let page = premises.folder().join("page.html");
    fs::write(&page, html)?;
    let full = premises.folder().join("page.png");
    photograph(&page, dashboard.size(), &full, premises)?;
    shrink(&full, picture)
}

/// Takes a picture of the page of `cofferdam graph`. Returns its length in bytes.
pub(crate) fn of_graph(
    cofferdam: &Path,
    policies: &Path,
    picture: &Path,
    premises: &Premises,
) -> Result<u64> {
    let mut command = dying_with_us(cofferdam);
    command
        .arg("graph")
        .arg(policies)
        .args(["--format", "html"]);
    let output = succeed(&mut command)?;
    let page = premises.folder().join("graph.html");
    fs::write(&page, output)?;
    let full = premises.folder().join("graph.png");
    photograph(&page, GRAPH, &full, premises)?;
    shrink(&full, picture)
}

/// Makes a picture of few colours. Returns its length in bytes.
fn shrink(full: &Path, picture: &Path) -> Result<u64> {
    succeed(
        dying_with_us(Path::new("pngquant"))
            .args(["--force", "--strip", "--speed", "1", "--output"])
            .arg(picture)
            .args([COLOURS, "--"])
            .arg(full),
    )?;
    let bytes = fs::metadata(picture)?.len();
    if bytes > BYTES {
        bail!("{} has {bytes} bytes, more than {BYTES}", picture.display());
    }
    Ok(bytes)
}

/// Has a browser draw a page.
fn photograph(page: &Path, size: Size, to: &Path, premises: &Premises) -> Result<()> {
    let Size { width, height } = size;
    let own = premises.folder().join("browser");
    succeed(
        dying_with_us(Path::new("chromium-headless-shell"))
            // It runs as root, and loads nothing but this page of ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--hide-scrollbars", "--force-device-scale-factor=1"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", own.display()))
            .arg(format!("--screenshot={}", to.display()))
            .arg(format!("file://{}", page.display()))
            // It keeps things there as well.
            .env("HOME", &own),
    )?;
    Ok(())
}

/// Runs a program and returns what it printed; an error has its last words.
fn succeed(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {said}", output.status);
    }
    Ok(output.stdout)
}
