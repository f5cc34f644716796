//! Cancel requests reach the server that the client's statement runs on.

use crate::support::wire::{Wire, packet, query, startup, transcript};
use crate::support::{Env, ROUTES, Route, eventually};

fn cancel_packet(key: &[u8]) -> Vec<u8> {
    packet(&[&80_877_102_u32.to_be_bytes()[..], key].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_is_cancelled() {
    for route in ROUTES {
        let env = Env::new(route).await;
        let mut wire = Wire::dial(env.port);
        wire.send(&startup(&[("user", "postgres"), ("database", "postgres")]));
        let key = wire.until_ready().into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
        wire.send(&query("SELECT app.dynamic('INSERT INTO tv_plain VALUES (1)'), pg_sleep(60)"));
        eventually("the statement runs", async || {
            let running =
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND wait_event = 'PgSleep'";
            env.direct.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        let (answer, moved) = env
            .moved(async {
                let mut other = Wire::dial(env.port);
                other.send(&cancel_packet(&key));
                assert!(other.next().is_none(), "the cancel connection is closed without a word");
                transcript(&wire.until_ready())
            })
            .await;
        assert_eq!(answer, "T E(57014 canceling statement due to user request) ZI", "{route:?}");
        assert_eq!(moved, "", "{route:?}");

        // Nothing runs: nothing happens, now or to the next statement.
        let mut other = Wire::dial(env.port);
        other.send(&cancel_packet(&key));
        assert!(other.next().is_none());
        assert!(wire.ask(&query("SELECT 1")).ends_with("C(SELECT 1) ZI"), "{route:?}");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_ignored() {
    let env = Env::new(Route::Direct).await;
    for key in [&[0_u8; 8][..], &[0xff; 8], &[7; 40]] {
        let mut other = Wire::dial(env.port);
        other.send(&cancel_packet(key));
        assert!(other.next().is_none());
    }
    assert!(env.metric("turnstile_cancel_requests_total") > 2.5);
    env.stop().await;
}
