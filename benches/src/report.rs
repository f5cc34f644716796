//! Tables, the list of targets, and pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use plotters::prelude::*;

use crate::client::Outcome;

/// One contender's result in one load.
#[derive(Debug, Clone)]
pub struct Figure {
    pub group: &'static str,
    pub load: String,
    pub contender: String,
    pub per_second: f64,
    /// To the control: median, 25th and 75th percentile over the repetitions.
    pub ratio: [f64; 3],
    /// Microseconds: p50, p99, p99.9.
    pub latency: [f64; 3],
    /// CPU milliseconds of the contender's process for 1,000 statements.
    pub cpu: f64,
    pub errors: BTreeMap<String, u64>,
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&values.collect::<Vec<_>>(), 0.5)
}

impl Figure {
    pub fn new(
        group: &'static str,
        load: &str,
        name: &str,
        runs: &[(Outcome, f64)],
        control: &[(Outcome, f64)],
    ) -> Self {
        let pairs = runs.iter().zip(control);
        let ratios: Vec<f64> = pairs.map(|((own, _), (other, _))| own.per_second() / other.per_second()).collect();
        let latency = |at| median(runs.iter().map(|(run, _)| run.latency.value_at_quantile(at) as f64 / 1e3));
        let mut errors = BTreeMap::new();
        for (code, count) in runs.iter().flat_map(|(run, _)| &run.errors) {
            *errors.entry(code.clone()).or_insert(0) += count;
        }
        Self {
            group,
            load: load.to_owned(),
            contender: name.to_owned(),
            per_second: median(runs.iter().map(|(run, _)| run.per_second())),
            ratio: [quantile(&ratios, 0.5), quantile(&ratios, 0.25), quantile(&ratios, 0.75)],
            latency: [latency(0.5), latency(0.99), latency(0.999)],
            cpu: median(runs.iter().map(|(run, cpu)| cpu * 1e6 / run.statements.max(1) as f64)),
            errors,
        }
    }
}

pub struct Report {
    head: String,
    figures: Vec<Figure>,
    idle: Vec<(String, f64)>,
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Report {
    pub fn new(turnstile: &Path, server: u16) -> anyhow::Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .unwrap_or("?")
            .trim_start_matches([' ', '\t', ':']);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let head = format!(
            "{} · {} cores ({model}) · {} · Linux {} · PostgreSQL {} · {} · {} · {}",
            output("date", &["+%Y-%m-%d"]),
            std::thread::available_parallelism()?,
            memory.lines().next().unwrap_or_default().replace("MemTotal:", "").trim(),
            output("uname", &["-r"]),
            output(
                "psql",
                &["-XAt", "-h", "127.0.0.1", "-p", &server.to_string(), "-U", "postgres", "-c", "SHOW server_version"]
            ),
            output("pgbouncer", &["--version"]).lines().next().unwrap_or_default(),
            output("haproxy", &["-v"]).lines().next().unwrap_or_default().split(" - ").next().unwrap_or_default(),
            output(&turnstile.display().to_string(), &["--version"]),
        );
        println!("{head}\n");
        Ok(Self { head, figures: Vec::new(), idle: Vec::new() })
    }

    pub fn add(&mut self, figure: Figure) {
        println!("{}", row(&figure));
        self.figures.push(figure);
    }

    pub fn idle(&mut self, contender: &str, kibibytes: f64) {
        println!("| idle connection | {contender} | {kibibytes:.1} KiB |");
        self.idle.push((contender.to_owned(), kibibytes));
    }

    fn find(&self, load: &str, contender: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.load == load && figure.contender == contender)
    }

    /// Throughput of one contender over that of another.
    fn over(&self, load: &str, one: &str, other: &str) -> Option<f64> {
        Some(self.find(load, one)?.ratio[0] / self.find(load, other)?.ratio[0])
    }

    fn cpu_over(&self, load: &str, one: &str, other: &str) -> Option<f64> {
        Some(self.find(load, one)?.cpu / self.find(load, other)?.cpu)
    }

    fn bump(&self, load: &str, way: &str) -> Option<f64> {
        self.find(load, way).map(|figure| figure.ratio[0])
    }

    /// What was aimed at, the aim, and what it is; `true`: at least, `false`: at most.
    fn targets(&self) -> Vec<(String, f64, bool, Option<f64>)> {
        let mut targets = Vec::new();
        for mode in ["prepared", "extended"] {
            let load = format!("select, {mode}, 8 clients");
            for (other, aim) in [("PgBouncer, session", 1.15), ("HAProxy", 1.15), ("blind relay", 0.97)] {
                let what = format!("{load}: throughput over {other}");
                targets.push((what, aim, true, self.over(&load, "Turnstile", other)));
            }
            let what = format!("{load}: CPU over PgBouncer");
            targets.push((what, 0.8, false, self.cpu_over(&load, "Turnstile", "PgBouncer, session")));
        }
        let one = "select, prepared, 1 clients";
        targets.push((
            format!("{one}: throughput over PgBouncer"),
            1.3,
            true,
            self.over(one, "Turnstile", "PgBouncer, session"),
        ));
        for (at, word) in [(0, "p50"), (1, "p99")] {
            let latency = |who| self.find(one, who).map(|figure| figure.latency[at]);
            let added = |who| Some(latency(who)? - latency("direct")?);
            let ratio = added("Turnstile").zip(added("blind relay")).map(|(own, blind)| own / blind);
            targets.push((format!("{one}: added {word} over that of the blind relay"), 1.1, false, ratio));
        }
        let insert = "insert, one tenant, 1 client";
        targets.push((format!("{insert}: with bump over without"), 0.85, true, self.bump(insert, "Turnstile")));
        let hot = "insert, one tenant, 32 clients";
        targets.push((format!("{hot}: over no bump through Turnstile"), 0.9, true, self.bump(hot, "Turnstile")));
        let trigger = self.bump(hot, "Turnstile / direct").zip(self.bump(hot, "row trigger, upsert"));
        targets.push((
            format!("{hot}: over the row trigger (not durable)"),
            5.0,
            true,
            trigger.map(|(own, other)| own / other),
        ));
        let many = "10,000 rows, INSERT SELECT, 1 client";
        targets.push((
            format!("{many}: time with bump over without"),
            1.02,
            false,
            self.bump(many, "Turnstile").map(|ratio| 1.0 / ratio),
        ));
        let errors: u64 = self
            .figures
            .iter()
            .filter(|figure| figure.contender.starts_with("Turnstile") && !figure.load.starts_with("update"))
            .flat_map(|figure| figure.errors.values())
            .sum();
        targets.push((
            "serialization failures and deadlocks (updates apart, whose rows are locked in no order)".into(),
            0.0,
            false,
            Some(errors as f64),
        ));
        for load in ["100,000 rows, 1 client", "COPY out of 100,000 rows, 1 client"] {
            targets.push((
                format!("{load}: throughput over HAProxy"),
                1.0,
                true,
                self.over(load, "Turnstile", "HAProxy"),
            ));
        }
        let idle = self.idle.iter().find(|(name, _)| name == "Turnstile").map(|(_, kibibytes)| *kibibytes);
        targets.push(("KiB of memory for an idle connection".into(), 12.0, false, idle));
        targets
    }

    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut text = format!(
            "# Results\n\nWritten by `make bench`; medians over interleaved repetitions, ratios with their 25th to 75th percentile.\n\n{}\n",
            self.head
        );
        text += "\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n";
        for (what, aim, at_least, measured) in self.targets() {
            let word = if at_least { "at least" } else { "at most" };
            let (value, met) = match measured {
                Some(value) if (value >= aim) == at_least || value == aim => (format!("{value:.2}"), "met"),
                Some(value) => (format!("{value:.2}"), "**missed**"),
                None => ("-".into(), "not measured"),
            };
            writeln!(text, "| {what} | {word} {aim} | {value} | {met} |")?;
        }
        for (group, title, control) in [
            ("relay", "Relay", "direct"),
            ("bump", "Bumps", "no bump; of Turnstile: the same through Turnstile without a bump"),
        ] {
            writeln!(
                text,
                "\n## {title}\n\nControl: {control}.\n\n| load | contender | per second | over control | p50 µs | p99 µs | p99.9 µs | CPU ms per 1,000 | errors |\n|---|---|---|---|---|---|---|---|---|"
            )?;
            for figure in self.figures.iter().filter(|figure| figure.group == group) {
                writeln!(text, "{}", row(figure))?;
            }
        }
        text += "\n## Memory of an idle connection\n\n| contender | KiB |\n|---|---|\n";
        for (name, kibibytes) in &self.idle {
            writeln!(text, "| {name} | {kibibytes:.1} |")?;
        }
        if let Ok(notes) = std::fs::read_to_string(folder.join("NOTES.md")) {
            text += "\n";
            text += &notes;
        }
        std::fs::create_dir_all(folder.join("plots"))?;
        std::fs::write(folder.join("RESULTS.md"), &text)?;
        self.plot(&folder.join("plots/relay.svg"), "relay", "throughput over direct", |figure| figure.ratio[0])?;
        self.plot(&folder.join("plots/cpu.svg"), "relay", "CPU ms per 1,000 statements", |figure| figure.cpu)?;
        self.plot(&folder.join("plots/bump.svg"), "bump", "throughput over no bump", |figure| figure.ratio[0])?;
        println!("\nwrote {}", folder.join("RESULTS.md").display());
        Ok(())
    }

    fn plot(&self, path: &Path, group: &str, title: &str, value: impl Fn(&Figure) -> f64) -> anyhow::Result<()> {
        let figures: Vec<&Figure> = self.figures.iter().filter(|figure| figure.group == group).collect();
        let most = figures.iter().map(|figure| value(figure)).fold(0.1, f64::max);
        let height = u32::try_from(figures.len())? * 16 + 60;
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(title.to_owned(), (10, 10), ("sans-serif", 18)))?;
        for (at, figure) in figures.iter().enumerate() {
            let top = 40 + i32::try_from(at)? * 16;
            let width = (value(figure) / most * 380.0) as i32;
            let own = figure.contender.starts_with("Turnstile");
            let color = if own { RGBColor(180, 60, 30) } else { RGBColor(110, 130, 160) };
            area.draw(&Text::new(format!("{} · {}", figure.load, figure.contender), (10, top), ("sans-serif", 11)))?;
            area.draw(&Rectangle::new([(430, top), (430 + width, top + 12)], color.filled()))?;
            area.draw(&Text::new(format!("{:.2}", value(figure)), (436 + width, top), ("sans-serif", 11)))?;
        }
        area.present()?;
        Ok(())
    }
}

fn row(figure: &Figure) -> String {
    let [ratio, low, high] = figure.ratio;
    let [p50, p99, p999] = figure.latency;
    let errors: Vec<String> = figure.errors.iter().map(|(code, count)| format!("{code} {count}")).collect();
    format!(
        "| {} | {} | {:.0} | {ratio:.2} ({low:.2}-{high:.2}) | {p50:.0} | {p99:.0} | {p999:.0} | {:.1} | {} |",
        figure.load,
        figure.contender,
        figure.per_second,
        figure.cpu,
        errors.join(", ")
    )
}
