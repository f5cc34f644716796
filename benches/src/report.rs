//! Figures, and the tables of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::client::Outcome;
use crate::reads;
use crate::targets::targets;

/// One run of one contender.
#[derive(Debug)]
pub struct Run {
    pub per_second: f64,
    /// Microseconds: p50, p99, p99.9.
    pub latency: [f64; 3],
    /// CPU microseconds of the contender's process for one.
    pub cpu: f64,
    /// The same of the server.
    pub server_cpu: f64,
    pub errors: BTreeMap<String, u64>,
}

impl Run {
    /// `cpu`: seconds of the contender and of the server.
    pub fn new(outcome: Outcome, cpu: [f64; 2]) -> Self {
        let each = |seconds: f64| seconds * 1e6 / outcome.count.max(1) as f64;
        Self {
            per_second: outcome.count as f64 / outcome.seconds,
            latency: [0.5, 0.99, 0.999].map(|at| outcome.latency.value_at_quantile(at) as f64 / 1e3),
            cpu: each(cpu[0]),
            server_cpu: each(cpu[1]),
            errors: outcome.errors,
        }
    }
}

/// One contender's results in one load: a run for each repetition.
#[derive(Debug)]
pub struct Figure {
    pub group: &'static str,
    pub load: String,
    pub contender: &'static str,
    /// Whose runs of the same load its own are compared to.
    pub control: &'static str,
    pub runs: Vec<Run>,
}

/// Median, 25th and 75th percentile.
#[derive(Debug, Clone, Copy)]
pub struct Spread(pub f64, pub f64, pub f64);

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| sorted[(last as f64 * part).round() as usize];
        Some(Self(at(0.5), at(0.25), at(0.75)))
    }
}

impl Figure {
    fn median(&self, value: impl Fn(&Run) -> f64) -> f64 {
        Spread::of(self.runs.iter().map(value)).map_or(0.0, |spread| spread.0)
    }

    fn errors(&self) -> BTreeMap<&str, u64> {
        let mut errors = BTreeMap::new();
        for (code, count) in self.runs.iter().flat_map(|run| &run.errors) {
            *errors.entry(code.as_str()).or_insert(0) += count;
        }
        errors
    }
}

/// All that was measured.
pub struct Report {
    head: String,
    pub figures: Vec<Figure>,
    /// Contender, KiB of an idle connection.
    pub idle: Vec<(&'static str, f64)>,
    pub reads: Vec<reads::Part>,
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Report {
    /// `how`: the lengths of the run.
    pub fn new(turnstile: &Path, pgbouncer: &str, server: u16, how: &str) -> anyhow::Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .unwrap_or("?")
            .trim_start_matches([' ', '\t', ':']);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let head = format!(
            "{} · {} cores ({model}) · {} · Linux {} · PostgreSQL {} · {} · {} · {} · {how}",
            output("date", &["+%Y-%m-%d"]),
            std::thread::available_parallelism()?,
            memory.lines().next().unwrap_or_default().replace("MemTotal:", "").trim(),
            output("uname", &["-r"]),
            output(
                "psql",
                &["-XAt", "-h", "127.0.0.1", "-p", &server.to_string(), "-U", "postgres", "-c", "SHOW server_version"]
            ),
            output(pgbouncer, &["--version"]).lines().next().unwrap_or_default(),
            output("haproxy", &["-v"]).lines().next().unwrap_or_default().split(" - ").next().unwrap_or_default(),
            output(&turnstile.display().to_string(), &["--version"]),
        );
        println!("{head}\n");
        Ok(Self { head, figures: Vec::new(), idle: Vec::new(), reads: Vec::new() })
    }

    /// Figures of one load; the controls are among them.
    pub fn add(&mut self, figures: Vec<Figure>) {
        let first = self.figures.len();
        self.figures.extend(figures);
        self.figures[first..].iter().for_each(|figure| println!("{}", self.row(figure)));
    }

    pub fn find(&self, load: &str, contender: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.load == load && figure.contender == contender)
    }

    /// A value of one contender's runs and of another's beside it, made one, over the repetitions.
    pub fn paired(&self, load: &str, one: &str, other: &str, value: impl Fn(&Run, &Run) -> f64) -> Option<Spread> {
        let (one, other) = (self.find(load, one)?, self.find(load, other)?);
        Spread::of(one.runs.iter().zip(&other.runs).map(|(one, other)| value(one, other)))
    }

    /// Throughput of one contender over that of another.
    pub fn throughput(&self, load: &str, one: &str, other: &str) -> Option<Spread> {
        self.paired(load, one, other, |one, other| one.per_second / other.per_second)
    }

    fn row(&self, figure: &Figure) -> String {
        let Spread(ratio, low, high) =
            self.throughput(&figure.load, figure.contender, figure.control).unwrap_or(Spread(0.0, 0.0, 0.0));
        let errors: Vec<String> = figure.errors().iter().map(|(code, count)| format!("{code} {count}")).collect();
        let per_second = figure.median(|run| run.per_second);
        let places = if per_second < 100.0 { 2 } else { 0 };
        format!(
            "| {} | {} | {per_second:.places$} | {ratio:.2} ({low:.2}-{high:.2}) | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {} |",
            figure.load,
            figure.contender,
            figure.median(|run| run.latency[0]),
            figure.median(|run| run.latency[1]),
            figure.median(|run| run.latency[2]),
            figure.median(|run| run.cpu),
            figure.median(|run| run.server_cpu),
            errors.join(", ")
        )
    }

    /// The whole as text; `notes` come last.
    pub fn text(&self, notes: &str) -> anyhow::Result<String> {
        let mut text = format!(
            "# Results\n\nWritten by `make bench`. Contenders take turns in each repetition; figures are medians over the \
             repetitions, ratios are made within each repetition, with their 25th to 75th percentile. CPU is that of the \
             contender's process; the load's own clients run on the same machine.\n\n{}\n",
            self.head
        );
        text += "\n## Targets\n\n| what | target | measured | |\n|---|---|---|---|\n";
        for target in targets(self) {
            writeln!(text, "{target}")?;
        }
        for (group, title, control) in [
            ("relay", "Relay", "direct"),
            ("bump", "Bumps", "no bump; of Turnstile: the same through Turnstile on a table that it does not track"),
            ("durable", "Bumps, on a disk that is waited for (fsync on)", "the same"),
        ] {
            writeln!(
                text,
                "\n## {title}\n\nControl: {control}.\n\n| load | contender | per second | over control | p50 µs | p99 µs | p99.9 µs | CPU µs | server's CPU µs | errors |\n|---|---|---|---|---|---|---|---|---|---|"
            )?;
            for figure in self.figures.iter().filter(|figure| figure.group == group) {
                writeln!(text, "{}", self.row(figure))?;
            }
        }
        text += "\n## Reads of a version while bumps arrive\n\n| beside it | bumps a second | p50 µs | p99 µs | p99.9 µs |\n|---|---|---|---|---|\n";
        for part in &self.reads {
            let [p50, p99, p999] = part.latency;
            writeln!(text, "| {} | {:.0} | {p50:.0} | {p99:.0} | {p999:.0} |", part.name, part.bumps_per_second)?;
        }
        text += "\n## Memory of an idle connection\n\n| contender | KiB |\n|---|---|\n";
        for (name, kibibytes) in &self.idle {
            writeln!(text, "| {name} | {kibibytes:.1} |")?;
        }
        text += "\n";
        text += notes;
        Ok(text)
    }

    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let notes = std::fs::read_to_string("benches/NOTES.md").unwrap_or_default();
        std::fs::create_dir_all(folder.join("plots"))?;
        std::fs::write(folder.join("RESULTS.md"), self.text(&notes)?)?;
        crate::plots::draw(self, &folder.join("plots"))?;
        for target in targets(self) {
            println!("{target}");
        }
        println!("\nwrote {}", folder.join("RESULTS.md").display());
        Ok(())
    }
}
