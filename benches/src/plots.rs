//! Figures as pictures: a bar for each contender and load.

use std::path::Path;

use plotters::prelude::*;

use crate::report::{Figure, Report, Spread};

const BAR_HEIGHT: i32 = 16;
const BARS_LEFT: i32 = 500;
const BARS_WIDTH: f64 = 380.0;

pub fn draw(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let ratio = |figure: &Figure| report.throughput(&figure.load, figure.contender, figure.control);
    let cpu = |figure: &Figure| Spread::of(figure.runs.iter().map(|run| run.cpu));
    let of = |group: &str| report.figures.iter().filter(|figure| figure.group == group).collect::<Vec<_>>();
    bars(&folder.join("relay.svg"), &of("relay"), "throughput over direct", ratio)?;
    bars(&folder.join("bump.svg"), &of("bump"), "throughput over no bump", ratio)?;
    bars(&folder.join("durable.svg"), &of("durable"), "throughput over no bump, fsync on", ratio)?;
    let queries =
        of("relay").into_iter().filter(|figure| !figure.load.contains("1 client") || figure.load.contains("select"));
    bars(&folder.join("cpu.svg"), &queries.collect::<Vec<_>>(), "CPU µs of the proxy", cpu)
}

fn bars(
    path: &Path,
    figures: &[&Figure],
    title: &str,
    value: impl Fn(&Figure) -> Option<Spread>,
) -> anyhow::Result<()> {
    let values: Vec<f64> = figures.iter().map(|figure| value(figure).map_or(0.0, |spread| spread.0)).collect();
    let most = values.iter().copied().fold(0.1, f64::max);
    let height = u32::try_from(figures.len())? * BAR_HEIGHT.unsigned_abs() + 60;
    let area = SVGBackend::new(path, (960, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(title.to_owned(), (10, 10), ("sans-serif", 18)))?;
    for (at, (figure, value)) in figures.iter().zip(&values).enumerate() {
        let top = 40 + i32::try_from(at)? * BAR_HEIGHT;
        let end = BARS_LEFT + (value / most * BARS_WIDTH) as i32;
        let own = figure.contender.starts_with("Turnstile");
        let color = if own { RGBColor(180, 60, 30) } else { RGBColor(110, 130, 160) };
        area.draw(&Text::new(format!("{} · {}", figure.load, figure.contender), (10, top), ("sans-serif", 11)))?;
        area.draw(&Rectangle::new([(BARS_LEFT, top), (end, top + BAR_HEIGHT - 4)], color.filled()))?;
        area.draw(&Text::new(format!("{value:.2}"), (end + 6, top), ("sans-serif", 11)))?;
    }
    area.present()?;
    Ok(())
}
