//! Installing and removing the schema while Turnstiles serve the database: the first statement behind an install moves
//! versions, and no statement meets a schema that has just gone.
//!
//! The reader of each catalog holds a shared advisory lock while its sessions work with the schema. Nobody waits for that
//! lock: who installs or removes looks who holds it. Any role may take it, and can make this wait for 15 s at most.

use std::time::Duration;

use tokio_postgres::Client;

/// `application_name` of catalog readers.
pub const READER: &str = "turnstile catalog";

/// Longest wait for the others; then it goes on, with a warning.
const PATIENCE: Duration = Duration::from_secs(15);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Says that the sessions of this reader's process work with the schema, or do so no longer.
///
/// # Errors
/// Of the connection.
pub async fn announce(reader: &Client, serves: bool) -> Result<(), tokio_postgres::Error> {
    let sql = if serves {
        "SELECT pg_catalog.pg_advisory_lock_shared(5282, 7)"
    } else {
        "SELECT pg_catalog.pg_advisory_unlock_shared(5282, 7)"
    };
    reader.execute(sql, &[]).await.map(drop)
}

const READERS: &str = "SELECT count(*) FILTER (WHERE l.pid IS NULL), count(l.pid) FROM pg_catalog.pg_stat_activity a \
     LEFT JOIN pg_catalog.pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory' AND l.classid = 5282 AND l.objid = 7 \
     WHERE a.datname = pg_catalog.current_database() AND a.application_name = $1 AND a.pid <> pg_catalog.pg_backend_pid()";

/// Waits until all Turnstiles that are connected to the database work with the schema (or none does any more).
///
/// # Errors
/// Of the connection.
pub async fn until_all(client: &Client, serve: bool) -> Result<(), tokio_postgres::Error> {
    let wait = async {
        loop {
            let row = client.query_one(READERS, &[&READER]).await?;
            let (without, with): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            if (if serve { without } else { with }) == 0 {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| {
        tracing::warn!("not every Turnstile that serves this database has answered within {PATIENCE:?}");
        Ok(())
    })
}

const TRANSACTIONS: &str = "SELECT coalesce(array_agg(l.virtualtransaction), '{}') FROM pg_catalog.pg_locks l \
     JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted \
      AND a.datname = pg_catalog.current_database() AND l.pid <> pg_catalog.pg_backend_pid()";

/// Waits until the transactions that run now have ended: statements of ours may be behind theirs.
///
/// # Errors
/// Of the connection.
pub async fn until_transactions_end(client: &Client) -> Result<(), tokio_postgres::Error> {
    // What was on its way has begun by now.
    tokio::time::sleep(5 * LOOK).await;
    let running = async || -> Result<Vec<String>, tokio_postgres::Error> {
        client.query_one(TRANSACTIONS, &[]).await?.try_get(0)
    };
    let wait = async {
        let before = running().await?;
        while running().await?.iter().any(|transaction| before.contains(transaction)) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| {
        tracing::warn!("a transaction goes on for longer than {PATIENCE:?}: its next statement may meet no schema");
        Ok(())
    })
}
