//! Bumps in a transaction of their own, behind what commits by itself: they come whoever goes away meanwhile.

use super::support::wire::{Wire, flush, message, query, sync, transcript, unnamed};
use super::support::{Env, Route, eventually};

/// A write, a commit, and then a wait for the lock `7`.
const SLOW: &str = "CREATE PROCEDURE app.commits_slowly(n int) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111', 'x');
        COMMIT;
        PERFORM pg_advisory_xact_lock(7);
    END $$";

const CALL: &str = "CALL app.commits_slowly(77)";

async fn with_a_slow_call() -> (Env, Wire) {
    with_a_slow_call_sent_as(Route::Direct, &query(CALL)).await
}

async fn with_a_slow_call_sent_as(route: Route, call: &[u8]) -> (Env, Wire) {
    let env = Env::new(route).await;
    env.direct(SLOW).await;
    env.settle_catalog().await;
    env.direct("SELECT pg_advisory_lock(7)").await;
    let mut wire = Wire::login(env.port);
    wire.send(call);
    eventually("the procedure has committed", async || {
        let count = "SELECT count(*) FROM tv_user WHERE id = 77";
        env.direct.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    (env, wire)
}

async fn is_bumped(env: &Env, before: &super::support::Versions) {
    eventually("every domain is bumped", async || {
        let moved = env.versions().await.since(before);
        moved.contains("user: * +") && moved.contains("post: * +")
    })
    .await;
}

const REFUSED: &str = "ALTER TABLE turbo.tb_bump ADD CONSTRAINT refuses CHECK (false) NOT VALID";
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL app.commits%'";
const ACCEPTED: &str = "ALTER TABLE turbo.tb_bump DROP CONSTRAINT refuses";

#[tokio::test(flavor = "multi_thread")]
async fn the_server_process_is_terminated() {
    let flushed = [unnamed(CALL, &[]), flush()].concat();
    let synced = [unnamed(CALL, &[]), sync()].concat();
    for route in [Route::Direct, Route::Bouncer] {
        for call in [&query(CALL), &flushed, &synced] {
            let (env, _wire) = with_a_slow_call_sent_as(route, call).await;
            let before = env.versions().await;
            env.direct(TERMINATE).await;
            is_bumped(&env, &before).await;
            env.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bump_fails_at_first() {
    let (env, wire) = with_a_slow_call().await;
    let before = env.versions().await;
    env.direct(REFUSED).await;
    env.direct(TERMINATE).await;
    wire.rest();
    env.direct(ACCEPTED).await;
    is_bumped(&env, &before).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bump_fails_on_the_connection_of_the_client() {
    let (env, mut wire) = with_a_slow_call().await;
    let before = env.versions().await;
    env.direct(REFUSED).await;
    env.direct("SELECT pg_advisory_unlock(7)").await;
    assert_eq!(transcript(&wire.until_ready()), "C(CALL) ZI", "it has committed");
    env.direct(ACCEPTED).await;
    is_bumped(&env, &before).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_goes_in_the_middle_of_a_message() {
    let (env, mut wire) = with_a_slow_call().await;
    let before = env.versions().await;
    let message = message(b'd', &[b'x'; 100]);
    wire.send(&message[..50]);
    drop(wire);
    env.direct("SELECT pg_advisory_unlock(7)").await;
    is_bumped(&env, &before).await;
    all_end(&env).await;
}

/// A bump waits for the end of a block that was begun in the same flight as the call.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_goes_while_its_block_copies() {
    for cut in [false, true] {
        let env = Env::new(Route::Direct).await;
        let mut wire = Wire::login(env.port);
        let flight = [unnamed("CALL app.commits(1)", &[]), unnamed("BEGIN", &[]), sync()].concat();
        let before = env.versions().await;
        assert_eq!(wire.ask(&flight), "1 2 C(CALL) 1 2 C(BEGIN) ZT");
        wire.send(&query("COPY tv_post FROM STDIN"));
        wire.until(b'G');
        let row = message(b'd', b"7\t\\N\tx\n");
        wire.send(&row[..if cut { row.len() - 2 } else { row.len() }]);
        drop(wire);
        is_bumped(&env, &before).await;
        all_end(&env).await;
    }
}

async fn all_end(env: &Env) {
    let clients = "SELECT count(*) FROM pg_stat_activity \
        WHERE backend_type = 'client backend' AND application_name NOT LIKE 'turnstile%' AND pid <> pg_backend_pid()";
    eventually("the server process ends", async || {
        env.direct.query_one(clients, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}
