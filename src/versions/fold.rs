//! The fold worker: moves bumps from the log into the base, now and then.
//!
//! Versions are right without it (a version is base + log); it keeps the log short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::catalog::control::ControlError;
use crate::catalog::loader::Database;
use crate::config::Config;
use crate::limits;
use crate::telemetry::metrics::Metrics;

/// Longest pause, when there is nothing to fold.
const IDLE: Duration = Duration::from_secs(2);

/// A fold reads the whole log, with the dead rows that an old snapshot keeps in it. Whatever they cost, folding takes a fifth
/// of one processor at most: so many times its own time passes before the next.
const PAUSES: u32 = 4;

/// Longest pause behind a fold that took long for another reason, a network's for instance.
const BUSY: Duration = Duration::from_secs(30);

/// Pause between two looks at how long the log is, and how old its oldest row.
const LOG_LOOK: Duration = Duration::from_secs(10);

/// Log rows that wait longer than this to be folded are worth a warning: reading versions becomes slower.
const LOG_AGE_MAX: Duration = Duration::from_secs(60);

/// Folds until `stop`.
pub async fn run(database: Arc<Database>, config: Arc<Config>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut pause = config.fold_interval;
    let mut looked: Option<Instant> = None;
    let mut idle = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !database.view().analyzer.catalog.installed {
            metrics.set_log(&database.name, 0, 0.0);
            continue;
        }
        if looked.is_none_or(|looked| looked.elapsed() >= LOG_LOOK) {
            looked = Some(Instant::now());
            look_at_log(&database, &metrics).await;
        }
        let start = Instant::now();
        match fold_once(&database, idle).await {
            Ok(rows) => {
                idle = rows == 0;
                metrics.folded(rows);
                pause = next_pause(config.fold_interval, rows, start.elapsed(), pause);
            }
            Err(error) => {
                tracing::warn!(database = %database.name, %error, "cannot fold the bump log; versions stay right, the log grows");
                pause = IDLE;
            }
        }
    }
}

/// What is not folded yet.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Log {
    /// Rows, up to one fold's.
    rows: i64,
    /// Seconds since the oldest was written.
    age: f64,
}

async fn look_at_log(database: &Database, metrics: &Metrics) {
    match log(database).await {
        Ok(log) => {
            metrics.set_log(&database.name, log.rows, log.age);
            if log.age > LOG_AGE_MAX.as_secs_f64() {
                tracing::warn!(
                    database = %database.name, rows = log.rows, seconds = log.age,
                    "the bump log is not folded: versions are right, but reading them becomes slower; see turbo.tb_fold_state, and whether another process holds a lock there"
                );
            }
        }
        Err(error) => tracing::debug!(database = %database.name, %error, "cannot look at the bump log"),
    }
}

async fn log(database: &Database) -> Result<Log, ControlError> {
    let sql = "SELECT count(*), coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - min(l.bumped_at)), 0)::float8 \
                 FROM (SELECT b.bumped_at FROM turbo.tb_bump b LIMIT $1) l";
    let Some(row) = database.query_one(sql, &[&i64::from(limits::FOLD_ROWS_MAX)]).await? else {
        return Ok(Log::default());
    };
    Ok(Log { rows: row.try_get(0)?, age: row.try_get(1)? })
}

/// Log rows folded; 0 when there was nothing to do or another folder is at work.
async fn fold_once(database: &Database, idle: bool) -> Result<u64, ControlError> {
    let sql = "SELECT turbo.fn_fold($1, idle => $2)";
    let Some(row) = database.query_one(sql, &[&limits::FOLD_ROWS_MAX, &idle]).await? else { return Ok(0) };
    let rows: i32 = row.try_get(0)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// The pause behind a fold of so many rows that took so long, where `former` was the pause before it.
fn next_pause(interval: Duration, rows: u64, took: Duration, former: Duration) -> Duration {
    let busy = took.saturating_mul(PAUSES).min(BUSY);
    let wanted = if rows > 0 { interval } else { (former * 2).min(IDLE.max(interval)) };
    wanted.max(busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        let ms = Duration::from_millis;
        let table = [
            // interval, rows, took, former, next
            (250, 10, 5, 250, 250),
            (250, 10, 5, 2_000, 250),
            (250, 10, 100, 250, 400),
            (250, 10, 60_000, 250, 30_000),
            (250, 0, 1, 250, 500),
            (250, 0, 1, 1_500, 2_000),
            (250, 0, 600, 250, 2_400),
            (60_000, 0, 1, 60_000, 60_000),
        ];
        for (interval, rows, took, former, next) in table {
            let pause = next_pause(ms(interval), rows, ms(took), ms(former));
            assert_eq!(pause, ms(next), "{interval} {rows} {took} {former}");
        }
    }
}
