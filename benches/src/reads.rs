//! Reads of versions while bumps arrive, and while somebody holds an old snapshot open.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{self, Mode, Parameter, Session};

/// Bumps that arrive in a second.
pub const BUMPS_PER_SECOND: u64 = 10_000;

/// Bumps for which the writer sleeps once: it takes a tenth of a second's part of them.
const BURST: u64 = BUMPS_PER_SECOND / 100;

/// Pause between two reads.
const READ_PAUSE: Duration = Duration::from_millis(1);

/// What was seen in one part of the run.
#[derive(Debug)]
pub struct Part {
    pub name: String,
    pub bumps_per_second: f64,
    /// Microseconds: p50, p99, p99.9 of one read.
    pub latency: [f64; 3],
}

const READ: &str = "SELECT version FROM turbo.tb_domain_version WHERE tenant_id = $1 AND domain = 'post'";
const BUMP: &str = "SELECT turbo.fn_bump_one($1, 'post', 1, true, 'always')";

/// Parts of the run, all of the same length, and what another session begins before each.
const PARTS: [(&str, &str); 6] = [
    ("nothing else", "SELECT 1"),
    ("old snapshot, first third", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"),
    ("old snapshot, second third", "SELECT 1"),
    ("old snapshot, last third", "SELECT 1"),
    // Bumps behind a transaction that has written and is not over cannot be folded: they are added up one by one.
    ("open transaction that has written, first half", "COMMIT; BEGIN; SELECT pg_current_xact_id()"),
    ("open transaction that has written, second half", "SELECT 1"),
];

pub fn run(server: u16, through: u16, database: &'static str, length: Duration) -> anyhow::Result<Vec<Part>> {
    let all = length * u32::try_from(PARTS.len())?;
    let bumps = std::thread::spawn(move || bump(server, database, all));
    let reads = read(through, database, length);
    let bumps = bumps.join().expect("the writer panicked")?;
    let parts = PARTS.iter().zip(reads?).map(|((name, _), latency)| Part {
        name: (*name).to_owned(),
        bumps_per_second: bumps,
        latency: [0.5, 0.99, 0.999].map(|at| latency.value_at_quantile(at) as f64 / 1e3),
    });
    Ok(parts.collect())
}

/// Bumps of 100 tenants, each in a transaction of its own; returns how many there were in a second.
fn bump(server: u16, database: &str, length: Duration) -> anyhow::Result<f64> {
    client::event_loop()?.block_on(async {
        let mut session = Session::open(server, database).await?;
        session.prepare(&[BUMP.to_owned()]).await?;
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < length {
            let due = start + Duration::from_secs(1) / 100 * u32::try_from(count / BURST)?;
            tokio::time::sleep_until(due.into()).await;
            for number in 0..BURST {
                session.put(Mode::Prepared, 0, BUMP, Parameter::Tenant(u32::try_from(number)? + 1));
                session.sync();
            }
            session.flush().await?;
            count += BURST;
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    })
}

fn read(through: u16, database: &str, length: Duration) -> anyhow::Result<Vec<Histogram<u64>>> {
    client::event_loop()?.block_on(async {
        let mut session = Session::open(through, database).await?;
        session.prepare(&[READ.to_owned()]).await?;
        let mut holder = Session::open(through, database).await?;
        let mut parts = Vec::new();
        for (_, begun) in PARTS {
            holder.query(begun).await?;
            let start = Instant::now();
            let mut latency = Histogram::<u64>::new(3)?;
            while start.elapsed() < length {
                session.put(Mode::Prepared, 0, READ, Parameter::Tenant(1));
                session.sync();
                let sent = Instant::now();
                session.flush().await?;
                latency.record(u64::try_from(sent.elapsed().as_nanos())?)?;
                tokio::time::sleep(READ_PAUSE).await;
            }
            parts.push(latency);
        }
        Ok(parts)
    })
}
