//! The audit for writes that went around Turnstile: the server's cumulative counters of tracked relations
//! against the bumps of their domains, now and then. One auditor of a database at a time.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::catalog::control::ControlError;
use crate::catalog::loader::Database;
use crate::config::{AuditAround, Config};
use crate::telemetry::metrics::Metrics;

/// Looks until `stop`.
pub async fn run(database: Arc<Database>, config: Arc<Config>, metrics: Arc<Metrics>, stop: CancellationToken) {
    if config.audit_around == AuditAround::Off {
        return;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(config.audit_interval) => {}
        }
        if !database.view().analyzer.catalog.installed {
            continue;
        }
        match look(&database, config.audit_around == AuditAround::Bump).await {
            Ok(found) => {
                for (domain, tuples) in found {
                    metrics.audit_around();
                    tracing::warn!(
                        database = %database.name, domain, tuples,
                        "rows of this domain changed and no bump came: written around Turnstile, or rolled back; see turbo.tb_audit"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(database = %database.name, %error, "cannot look for writes around Turnstile");
            }
        }
    }
}

/// Domains whose rows changed without a bump, and how many rows.
async fn look(database: &Database, bump: bool) -> Result<Vec<(String, i64)>, ControlError> {
    let client = database.pool().get().await?;
    let rows = client.query("SELECT domain, tuples FROM turbo.fn_audit_around($1)", &[&bump]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
