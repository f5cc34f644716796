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

/// Folds until `stop`.
pub async fn run(database: Arc<Database>, config: Arc<Config>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut pause = config.fold_interval;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !database.view().analyzer.catalog.installed {
            continue;
        }
        let start = Instant::now();
        match fold_once(&database).await {
            Ok(rows) => {
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

/// Log rows folded; 0 when there was nothing to do or another folder is at work.
async fn fold_once(database: &Database) -> Result<u64, ControlError> {
    let client = database.pool().get().await?;
    let row = client.query_one("SELECT turbo.fn_fold($1)", &[&limits::FOLD_ROWS_MAX]).await?;
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
