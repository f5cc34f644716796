//! The fold worker: moves bumps from the log into the base, now and then.
//!
//! Versions are right without it (a version is base + log); it keeps the log short.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::catalog::control::ControlError;
use crate::catalog::loader::Database;
use crate::config::Config;
use crate::limits;
use crate::telemetry::metrics::Metrics;

/// Longest pause, when there is nothing to fold.
const IDLE: Duration = Duration::from_secs(2);

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
        match fold_once(&database).await {
            Ok(rows) if rows > 0 => {
                metrics.folded(rows);
                pause = config.fold_interval;
            }
            Ok(_) => pause = (pause * 2).min(IDLE.max(config.fold_interval)),
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
