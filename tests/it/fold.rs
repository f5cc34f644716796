//! The bump log and its fold: versions stay, and what reading them costs stays, too.

use crate::support::wire::{Wire, query};
use crate::support::{Env, Setup, T1, connect, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn versions_stay_while_the_log_is_folded() {
    let env = Env::with(Setup { config: "[control]\nfold_interval_ms = 10".into(), ..Setup::default() }).await;
    let mut wire = Wire::login(env.port);
    for id in 1..=200 {
        wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}')")));
        assert_eq!(version(&env.direct).await, id);
    }
    eventually("the log is folded", async || {
        env.direct.query_one("SELECT count(*) FROM turbo.tb_bump", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    assert_eq!(version(&env.direct).await, 200);
    // A tenant that nobody knew, and a domain of a table that was just made.
    wire.ask(&query("CREATE TABLE tv_late (id int, tenant_id uuid)"));
    env.settle_catalog().await;
    wire.ask(&query("INSERT INTO tv_late VALUES (1, '33333333-3333-3333-3333-333333333333')"));
    let row = env.direct.query_one("SELECT version FROM turbo.tb_domain_version WHERE domain = 'late' AND tenant_id IS NOT NULL ORDER BY 1 DESC LIMIT 1", &[]).await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 1);
    env.stop().await;
}

/// What a fold replaces or deletes stays in the tables while somebody holds an old snapshot (a backup) or has written and not
/// ended (a batch job): neither readers nor the next fold may have to step over all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_makes_neither_reads_nor_folds_slower() {
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1", "BEGIN; SELECT pg_current_xact_id()"] {
        let env = Env::with(Setup { config: NO_FOLDS.into(), ..Setup::default() }).await;
        let holder = connect(env.cluster.port()).await;
        let mut pages = Vec::new();
        for round in 1..=600 {
            env.direct(BUMP).await;
            // The log itself is read from its beginning to its end.
            let folded = touched_pages(&env.direct, FOLD).await - log_pages(&env.direct).await;
            if round == 20 {
                holder.batch_execute(begin).await.unwrap();
            }
            if round % 100 == 50 {
                assert_eq!(version(&env.direct).await, 2 * round, "{begin}");
                env.direct(READ).await;
                pages.push((touched_pages(&env.direct, READ).await, folded));
            }
        }
        let [(read, fold), .., (read_late, fold_late)] = pages.as_slice() else { panic!("{pages:?}") };
        // One level more of an index, for each of its twelve look-ups.
        assert!(*read_late <= read + 14, "{begin}: pages that a read touched, and a fold: {pages:?}");
        assert!(*fold_late <= fold + 20, "{begin}: pages that a read touched, and a fold: {pages:?}");
        env.stop().await;
    }
}

/// Transactions that write, and end behind folds that did not see them, in another order than they began; more than a fold
/// remembers one by one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fold_did_not_see_counts_when_it_commits() {
    let env = Env::with(Setup { config: NO_FOLDS.into(), ..Setup::default() }).await;
    let before = connect(env.cluster.port()).await;
    before.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    let mut open = Vec::new();
    let mut expected = 0;
    env.direct("INSERT INTO turbo.tb_domain SELECT 'alone_' || at FROM generate_series(0, 39) at").await;
    for at in 0..40 {
        let writer = connect(env.cluster.port()).await;
        // A savepoint has a number of its own.
        let alone = format!("INSERT INTO turbo.tb_bump (tenant_id, domain, bumps) VALUES ('{T1}', 'alone_{at}', 1)");
        writer.batch_execute(&format!("BEGIN; SAVEPOINT s; {BUMP}; {alone}")).await.unwrap();
        open.push(writer);
        env.direct(BUMP).await;
        expected += 2;
        env.direct(FOLD).await;
        assert_eq!(version(&env.direct).await, expected);
    }
    open[3].batch_execute("PREPARE TRANSACTION 'p'").await.unwrap();
    assert_eq!(version(&open[4]).await, expected + 2, "a transaction sees its own, folded below it or not");
    env.direct(BUMP).await;
    expected += 2;
    env.direct(FOLD).await;
    env.direct("COMMIT PREPARED 'p'").await;
    expected += 2;
    assert_eq!(version(&env.direct).await, expected, "a prepared transaction");
    for at in [39, 0, 20, 1, 15, 16, 17, 2] {
        let bumped = format!("SELECT (turbo.fn_domain_last_bump('{T1}', 'alone_{at}')).last_modified IS NOT NULL");
        let bumped = async || env.direct.query_one(&bumped, &[]).await.unwrap().get::<_, bool>(0);
        assert!(!bumped().await);
        open[at].batch_execute("COMMIT").await.unwrap();
        expected += 2;
        assert_eq!(version(&env.direct).await, expected, "writer {at} has committed");
        assert!(bumped().await, "writer {at} has committed");
        if at % 2 == 0 {
            env.direct(FOLD).await;
            assert_eq!(version(&env.direct).await, expected, "folded behind writer {at}");
        }
    }
    assert_eq!(version(&before).await, 0);
    // A fold that does not reach the end of the log has seen less.
    for writer in &open[18..] {
        writer.batch_execute("ROLLBACK").await.unwrap();
    }
    env.direct(BUMP).await;
    open[5].batch_execute("COMMIT").await.unwrap();
    expected += 4;
    env.direct("SELECT turbo.fn_fold(1)").await;
    assert_eq!(version(&env.direct).await, expected);
    env.direct(FOLD).await;
    open[7].batch_execute("COMMIT").await.unwrap();
    assert_eq!(version(&env.direct).await, expected + 2);
    env.stop().await;
}

const NO_FOLDS: &str = "[control]\nfold_interval_ms = 3600000";
const FOLD: &str = "SELECT turbo.fn_fold(1000)";
/// For one tenant, and for all. Few such rows fit a page, so that what is read in vain shows.
const BUMP: &str = "INSERT INTO turbo.tb_bump (tenant_id, domain, bumps, summary) \
                    SELECT t, 'user', 1, repeat('x', 1500) \
                      FROM unnest(ARRAY['11111111-1111-1111-1111-111111111111', NULL]::uuid[]) t";
const READ: &str = "SELECT turbo.fn_domain_version('11111111-1111-1111-1111-111111111111', 'user'), \
                    turbo.fn_domain_last_bump('11111111-1111-1111-1111-111111111111', 'user')";

async fn version(client: &tokio_postgres::Client) -> i64 {
    let tenant: uuid::Uuid = T1.parse().unwrap();
    client.query_one("SELECT turbo.fn_domain_version($1, 'user')", &[&tenant]).await.unwrap().get(0)
}

async fn log_pages(client: &tokio_postgres::Client) -> i64 {
    let pages = client.query_one("SELECT pg_relation_size('turbo.tb_bump') / 8192", &[]).await.unwrap();
    pages.get(0)
}

/// Pages in memory that a statement looks at.
async fn touched_pages(client: &tokio_postgres::Client, sql: &str) -> i64 {
    let plan = client.query(&format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) {sql}"), &[]).await.unwrap();
    let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let buffers = lines
        .iter()
        .find_map(|line| line.trim().strip_prefix("Buffers: shared hit="))
        .unwrap_or_else(|| panic!("{lines:?}"));
    buffers.split(' ').next().unwrap().parse().unwrap()
}
