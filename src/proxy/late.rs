//! Bumps that the client's connection cannot carry: the control plane makes up for them.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalog::control::ControlError;
use crate::catalog::loader::Lease;
use crate::limits;

/// Where such bumps are made, and until when.
#[derive(Debug, Clone)]
pub struct LateBumps {
    /// Where the control plane runs.
    pub home: Handle,
    /// Shutdown cannot wait any longer.
    pub kill: CancellationToken,
}

impl LateBumps {
    /// Moves every domain forward so many times; tries again while the database cannot be reached, for
    /// [`limits::LATE_BUMP_TIME_MAX`]. The task goes on whether it is waited for or not.
    pub fn bump_all(&self, database: Lease, times: u32) -> JoinHandle<()> {
        let kill = self.kill.clone();
        self.home.spawn(async move {
            let done = tokio::select! {
                done = bump_at_last(&database, times) => done,
                () = given_up(&kill) => false,
            };
            if !done {
                tracing::error!(
                    database = %database.name,
                    "a bump in a transaction of its own was given up: caches are stale until every domain is bumped: SELECT turbo.fn_bump_all(1, 'by hand')"
                );
            }
        })
    }

    /// Keeps what an audit found: the client's role may not write it.
    pub fn note_finding(&self, database: Lease, finding: String) {
        drop(self.home.spawn(async move {
            let noted = async {
                let client = database.pool().get().await?;
                client.execute("SELECT turbo.fn_audit_note($1)", &[&finding]).await?;
                Ok::<_, ControlError>(())
            };
            if let Err(error) = noted.await {
                tracing::warn!(database = %database.name, %error, "what an audit found cannot be kept in turbo.tb_audit");
            }
        }));
    }
}

/// The try at hand may end.
async fn given_up(kill: &CancellationToken) {
    kill.cancelled().await;
    tokio::time::sleep(limits::LAST_WORDS_TIMEOUT).await;
}

async fn bump_at_last(database: &Lease, times: u32) -> bool {
    let mut pauses = pauses();
    loop {
        let Err(error) = bump(database, times).await else { return true };
        if error.no_such_database {
            return true;
        }
        tracing::error!(
            database = %database.name,
            %error,
            "a bump in a transaction of its own failed, and is tried again: caches may be stale until then"
        );
        let Some(pause) = pauses.next() else { return false };
        tokio::time::sleep(pause).await;
    }
}

/// Between the tries.
fn pauses() -> impl Iterator<Item = Duration> {
    let [first, longest] = limits::LATE_BUMP_PAUSES;
    let doubled = std::iter::successors(Some(first), move |pause| Some((*pause * 2).min(longest)));
    doubled.scan(limits::LATE_BUMP_TIME_MAX, |left, pause| {
        *left = left.checked_sub(pause)?;
        Some(pause)
    })
}

async fn bump(database: &Lease, times: u32) -> Result<(), ControlError> {
    let client = database.pool().get().await?;
    client.execute("SELECT turbo.fn_bump_all($1, 'turnstile')", &[&i64::from(times)]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let pauses: Vec<Duration> = pauses().collect();
        let [first, longest] = limits::LATE_BUMP_PAUSES;
        assert_eq!(pauses.first(), Some(&first));
        assert_eq!(pauses.last(), Some(&longest));
        let sum: Duration = pauses.iter().sum();
        assert!(sum <= limits::LATE_BUMP_TIME_MAX && sum + longest > limits::LATE_BUMP_TIME_MAX);
    }
}
