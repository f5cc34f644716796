//! The main job: a write moves its domain's version exactly once, on every route.

use crate::support::wire::{Wire, bind, bind_binary, close, execute, flush, parse, query, sync, unnamed};
use crate::support::{Env, ROUTES, Route, Setup, T1, T2, connect};

/// One simple-query text a row, and what it moves.
const TEXTS: &[(&str, &str)] = &[
    ("INSERT INTO tv_user VALUES (1, '11111111-1111-1111-1111-111111111111', 'a')", "user: T1 +1"),
    (
        "INSERT INTO tv_user SELECT i, '11111111-1111-1111-1111-111111111111' FROM generate_series(1001, 2000) i",
        "user: * +1",
    ),
    (
        "INSERT INTO tv_user VALUES (2, '11111111-1111-1111-1111-111111111111'), (3, '22222222-2222-2222-2222-222222222222')",
        "user: T1 +1, T2 +1",
    ),
    (
        "INSERT INTO tv_user VALUES (4, '11111111-1111-1111-1111-111111111111'); \
         INSERT INTO tv_post VALUES (4, '22222222-2222-2222-2222-222222222222'); \
         UPDATE tv_user SET name = 'b' WHERE id = 4 AND tenant_id = '11111111-1111-1111-1111-111111111111'",
        "post: T2 +1; user: T1 +2",
    ),
    (
        "UPDATE tv_user SET name = 'c' WHERE tenant_id = '11111111-1111-1111-1111-111111111111' AND id = 1",
        "user: T1 +1",
    ),
    (
        "UPDATE tv_user SET tenant_id = '22222222-2222-2222-2222-222222222222' WHERE tenant_id = '11111111-1111-1111-1111-111111111111' AND id = 1",
        "user: T1 +1, T2 +1",
    ),
    ("UPDATE tv_user SET name = 'none' WHERE id = -1", ""),
    ("UPDATE ONLY tv_user SET name = 'only' WHERE id = 1", "user: * +1"),
    ("DELETE FROM tv_user WHERE id = 1 -- the end", "user: * +1"),
    ("DELETE FROM tv_user WHERE id = 1;", ""),
    ("INSERT INTO tv_user VALUES (2, '11111111-1111-1111-1111-111111111111') ON CONFLICT DO NOTHING", ""),
    (
        "INSERT INTO tv_user VALUES (2, '11111111-1111-1111-1111-111111111111') ON CONFLICT (id) DO UPDATE SET name = 'up'",
        "user: * +1",
    ),
    (
        "MERGE INTO tv_user t USING (SELECT 2 AS id) s ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = 'm'",
        "user: * +1",
    ),
    (
        "WITH d AS (DELETE FROM tv_user WHERE id = 2 RETURNING *) INSERT INTO tv_post SELECT 100 + id, tenant_id FROM d",
        "post: * +1; user: * +1",
    ),
    (
        "WITH d AS (DELETE FROM tv_user WHERE id = -2 RETURNING *) INSERT INTO tv_post SELECT 100 + id, tenant_id FROM d",
        "",
    ),
    ("INSERT INTO tv_plain VALUES (1, 'a')", "plain: * +1"),
    ("TRUNCATE tv_plain", "plain: * +1"),
    ("COPY (INSERT INTO tv_plain VALUES (2, 'b') RETURNING *) TO STDOUT", "plain: * +1"),
    ("EXPLAIN ANALYZE INSERT INTO tv_plain VALUES (3, 'c')", "plain: * +1"),
    ("EXPLAIN INSERT INTO tv_plain VALUES (3, 'c')", ""),
    ("DO $$ BEGIN INSERT INTO tv_plain VALUES (4, 'd'); END $$", "plain: * +1"),
    ("CALL app.plain(50)", "user: * +1"),
    ("SELECT app.write_two(51)", "post: * +1; user: * +1"),
    ("SELECT * FROM app.write_two(52) AS t(n), generate_series(1, 2)", "post: * +1; user: * +1"),
    ("SELECT app.read_only(1)", ""),
    ("SELECT app.dynamic('DELETE FROM tv_plain WHERE id = 3')", "plain: * +1"),
    ("SELECT app.dynamic('DELETE FROM tv_plain WHERE id = -3')", ""),
    ("SELECT app.dynamic('TRUNCATE tv_post')", "post: * +1"),
    ("SELECT count(*) FROM tv_user", ""),
    ("INSERT INTO tb_user (name) VALUES ('x')", ""),
    ("BEGIN; INSERT INTO tv_user VALUES (60, '11111111-1111-1111-1111-111111111111'); COMMIT", "user: T1 +1"),
    ("BEGIN; INSERT INTO tv_user VALUES (61, '11111111-1111-1111-1111-111111111111'); ROLLBACK", ""),
    (
        "BEGIN; INSERT INTO tv_user VALUES (62, '11111111-1111-1111-1111-111111111111'); SAVEPOINT s; \
         INSERT INTO tv_post VALUES (62, '11111111-1111-1111-1111-111111111111'); ROLLBACK TO s; COMMIT",
        "user: T1 +1",
    ),
    (
        "INSERT INTO tv_user VALUES (63, '11111111-1111-1111-1111-111111111111'); COMMIT; INSERT INTO tv_user VALUES (64, '11111111-1111-1111-1111-111111111111'); ROLLBACK",
        "user: T1 +1",
    ),
    ("INSERT INTO tv_user VALUES (65, '11111111-1111-1111-1111-111111111111'); SELECT 1/0", ""),
    ("CREATE TABLE tv_new AS SELECT 1 AS id", "new: * +1"),
    ("ALTER TABLE tv_new ADD COLUMN x int DEFAULT 7", "new: * +1"),
    ("DROP TABLE tv_new", "new: * +1"),
    ("INSERT INTO nowhere VALUES (1)", ""),
    ("SELECT app.write_two(51)", ""),
    ("", ""),
    ("VACUUM tv_user", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn simple_query_texts_direct() {
    simple_query_texts(Route::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_query_texts_through_pgbouncer() {
    simple_query_texts(Route::Bouncer).await;
}

async fn simple_query_texts(route: Route) {
    let env = Env::new(route).await;
    let mut wire = Wire::login(env.port);
    let mut wrong = Vec::new();
    let version = env.server_version().await;
    // MERGE came with 15.
    for (text, expected) in TEXTS.iter().filter(|(text, _)| version >= 15 || !text.starts_with("MERGE")) {
        env.fresh().await;
        let before = env.versions().await;
        wire.ask(&query(text));
        let moved = env.versions().await.since(&before);
        if moved != *expected {
            wrong.push(format!("{text}\n   expected {expected:?}, moved {moved:?}"));
        }
    }
    assert!(wrong.is_empty(), "{route:?}\n{}", wrong.join("\n"));
    // Nothing of ours is left between two statements.
    let left = wire.ask(&query(
        "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '%turnstile%'), (SELECT count(*) FROM pg_cursors WHERE name LIKE '%turnstile%'), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
    ));
    assert!(left.contains("D(0,0,0)"), "{left}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_inside_a_block_and_extended() {
    for route in ROUTES {
        let env = Env::new(route).await;
        let mut wire = Wire::login(env.port);
        let insert = |id: u32| format!("INSERT INTO tv_user VALUES ({id}, '{T1}')");

        // Block, simple query by simple query.
        let (_, moved) = env
            .moved(async {
                wire.ask(&query("BEGIN"));
                wire.ask(&query(&insert(1)));
                wire.ask(&query("UPDATE tv_user SET name = 'x' WHERE id = -1"));
                wire.ask(&query("SAVEPOINT s"));
                wire.ask(&query(&insert(2)));
                wire.ask(&query("SELECT app.write_two(3)"));
                wire.ask(&query("ROLLBACK TO s"));
                wire.ask(&query("UPDATE tv_user SET name = 'y' WHERE id = 1"));
                assert_eq!(wire.ask(&query("COMMIT")), "C(COMMIT) ZI");
            })
            .await;
        assert_eq!(moved, "user: * +1, T1 +2", "{route:?}");

        // An error in a block: nothing.
        let (_, moved) = env
            .moved(async {
                wire.ask(&query("BEGIN"));
                wire.ask(&query(&insert(10)));
                wire.ask(&query("SELECT 1/0"));
                assert_eq!(wire.ask(&query("COMMIT")), "C(ROLLBACK) ZI");
            })
            .await;
        assert_eq!(moved, "", "{route:?}");

        // Extended, implicit transaction; three statements before one Sync.
        let (answer, moved) = env
            .moved(async {
                wire.ask(
                    &[
                        unnamed(&insert(20), &[]),
                        unnamed(&insert(21), &[]),
                        unnamed("SELECT app.write_two(22)", &[]),
                        sync(),
                    ]
                    .concat(),
                )
            })
            .await;
        assert_eq!(answer, "1 2 C(INSERT 0 1) 1 2 C(INSERT 0 1) 1 2 D(22) C(SELECT 1) ZI", "{route:?}");
        assert_eq!(moved, "post: * +1; user: * +1, T1 +3", "{route:?}");

        // Zero rows, alone and beside others.
        let zero = unnamed("UPDATE tv_user SET name = 'z' WHERE id = -1", &[]);
        let (_, moved) = env.moved(async { wire.ask(&[zero.clone(), sync()].concat()) }).await;
        assert_eq!(moved, "", "{route:?}");
        let (_, moved) =
            env.moved(async { wire.ask(&[zero.clone(), unnamed(&insert(30), &[]), zero, sync()].concat()) }).await;
        assert_eq!(moved, "user: T1 +1", "{route:?}");

        // Bound tenants, text and binary.
        let by_parameter = "INSERT INTO tv_user VALUES ($1, $2)";
        let (_, moved) = env.moved(async { wire.ask(&[unnamed(by_parameter, &["40", T2]), sync()].concat()) }).await;
        assert_eq!(moved, "user: T2 +1", "{route:?}");
        let binary =
            [parse("", by_parameter), bind_binary("", &[&41_i32.to_be_bytes(), &[0x11; 16]]), execute("", 0), sync()]
                .concat();
        let (answer, moved) = env.moved(async { wire.ask(&binary) }).await;
        assert_eq!(moved, "user: T1 +1", "{route:?} {answer}");

        // An error later in the batch takes the bump with it.
        let (_, moved) = env
            .moved(async { wire.ask(&[unnamed(&insert(50), &[]), unnamed("SELECT 1/0", &[]), sync()].concat()) })
            .await;
        assert_eq!(moved, "", "{route:?}");

        // A client that waits for replies before it sends Sync.
        let (_, moved) = env
            .moved(async {
                wire.send(&[unnamed(&insert(60), &[]), flush()].concat());
                wire.until(b'C');
                wire.ask(&sync())
            })
            .await;
        assert_eq!(moved, "user: T1 +1", "{route:?}");

        // BEGIN, write and COMMIT before one Sync (psycopg's pipeline mode).
        let pipeline = [
            unnamed("BEGIN", &[]),
            unnamed(&insert(70), &[]),
            unnamed("UPDATE tv_post SET title = 'x' WHERE id = -1", &[]),
            unnamed("COMMIT", &[]),
            sync(),
        ]
        .concat();
        let (answer, moved) = env.moved(async { wire.ask(&pipeline) }).await;
        assert_eq!(answer, "1 2 C(BEGIN) 1 2 C(INSERT 0 1) 1 2 C(UPDATE 0) 1 2 C(COMMIT) ZI", "{route:?}");
        assert_eq!(moved, "user: T1 +1", "{route:?}");

        // Several Syncs in flight.
        let flight = [
            unnamed("BEGIN", &[]),
            sync(),
            unnamed(&insert(80), &[]),
            sync(),
            unnamed("COMMIT", &[]),
            sync(),
            unnamed(&insert(81), &[]),
            sync(),
        ]
        .concat();
        let (answer, moved) = env.moved(async { wire.ask_many(&flight, 4) }).await;
        assert_eq!(
            answer, "1 2 C(BEGIN) ZT | 1 2 C(INSERT 0 1) ZT | 1 2 C(COMMIT) ZI | 1 2 C(INSERT 0 1) ZI",
            "{route:?}"
        );
        assert_eq!(moved, "user: T1 +2", "{route:?}");

        // Suspended portal: one write, at its first Execute.
        let suspended = [
            unnamed("BEGIN", &[]),
            parse("", "INSERT INTO tv_user SELECT i, NULL FROM generate_series(90, 94) i RETURNING id"),
            bind("c", "", &[]),
            execute("c", 2),
            execute("c", 2),
            execute("c", 2),
            unnamed("COMMIT", &[]),
            sync(),
        ]
        .concat();
        let (answer, moved) = env.moved(async { wire.ask(&suspended) }).await;
        assert_eq!(
            answer, "1 2 C(BEGIN) 1 2 D(90) D(91) s D(92) D(93) s D(94) C(INSERT 0 1) 1 2 C(COMMIT) ZI",
            "{route:?}"
        );
        assert_eq!(moved, "user: * +1", "{route:?}");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_statements_live_as_long_as_the_client_wants() {
    for route in [Route::Direct, Route::NewBouncer(100)] {
        let env = Env::new(route).await;
        let mut wire = Wire::login(env.port);
        wire.ask(&[parse("ins", "INSERT INTO tv_user VALUES ($1, $2)"), sync()].concat());
        for round in 1..=3 {
            let id = round.to_string();
            let (answer, moved) =
                env.moved(async { wire.ask(&[bind("", "ins", &[&id, T1]), execute("", 0), sync()].concat()) }).await;
            assert_eq!((answer.as_str(), moved.as_str()), ("2 C(INSERT 0 1) ZI", "user: T1 +1"), "{route:?}");
        }
        // A Parse that fails does not replace the statement; Close does.
        if route == Route::Direct {
            // (PgBouncer closes the connection.)
            let answer = wire.ask(&[parse("ins", "SELECT 1"), sync()].concat());
            assert!(answer.starts_with("E(42P05"), "{answer}");
        }
        let (_, moved) =
            env.moved(async { wire.ask(&[bind("", "ins", &["9", T2]), execute("", 0), sync()].concat()) }).await;
        assert_eq!(moved, "user: T2 +1", "{route:?}");
        wire.ask(&[close('S', "ins"), parse("ins", "DELETE FROM tv_post"), sync()].concat());
        let (_, moved) = env.moved(async { wire.ask(&[bind("", "ins", &[]), execute("", 0), sync()].concat()) }).await;
        assert_eq!(moved, "", "{route:?}");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_and_psql() {
    for route in ROUTES {
        let env = Env::new(route).await;
        let moved = env
            .moved(async {
                let mut client = env.client().await;
                let tenant: uuid::Uuid = T1.parse().unwrap();
                if route == Route::Direct || matches!(route, Route::NewBouncer(100)) {
                    // Prepared statements need a session, or a pooler that keeps them.
                    client.execute("INSERT INTO tv_user VALUES ($1, $2)", &[&1_i32, &tenant]).await.unwrap();
                    client.query("SELECT app.write_two($1)", &[&2_i32]).await.unwrap();
                    let transaction = client.transaction().await.unwrap();
                    transaction
                        .execute("UPDATE tv_user SET name = $1 WHERE tenant_id = $2", &[&"n", &tenant])
                        .await
                        .unwrap();
                    transaction.rollback().await.unwrap();
                } else {
                    client.batch_execute(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")).await.unwrap();
                    client.batch_execute("SELECT app.write_two(2)").await.unwrap();
                }
            })
            .await
            .1;
        assert_eq!(moved, "post: * +1; user: * +1, T1 +2", "{route:?}");

        let ((out, err), moved) = env
            .moved(env.psql(&format!(
                "INSERT INTO tv_user VALUES (10, '{T1}');\nSELECT app.read_only(0);\n\\copy tv_post from stdin\n11\t{T2}\ta\n12\t{T2}\tb\n\\.\nBEGIN;\nDELETE FROM tv_post;\nROLLBACK;\nSELECT 'done';\n"
            )))
            .await;
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("INSERT 0 1\n3\nCOPY 2\nBEGIN\nDELETE 3\nROLLBACK\ndone\n", ""),
            "{route:?}"
        );
        assert_eq!(moved, "post: T2 +1; user: T1 +1", "{route:?}");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cascades_reach_each_domain_once() {
    let env = Env::with(Setup { config: "[cascades]\nuser = [\"post\", \"feed\"]".into(), ..Setup::default() }).await;
    env.direct("INSERT INTO turbo.tb_domain_cascade VALUES ('post', 'feed'), ('feed', 'user')").await;
    let mut wire = Wire::login(env.port);
    let (_, moved) = env.moved(async { wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')"))) }).await;
    assert_eq!(moved, "feed: T1 +1; post: T1 +1; user: T1 +1");
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT app.write_two(2)")) }).await;
    assert_eq!(moved, "feed: * +1; post: * +1; user: * +1");
    // Ten statements in a block: ten, in one log row for each domain.
    let (_, moved) = env
        .moved(async {
            wire.ask(&query("BEGIN"));
            for id in 10..20 {
                wire.ask(&query(&format!("INSERT INTO tv_user VALUES ({id}, '{T1}')")));
            }
            wire.ask(&query("COMMIT"));
        })
        .await;
    assert_eq!(moved, "feed: T1 +10; post: T1 +10; user: T1 +10");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reads_its_own_bumps() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    let version = format!("SELECT version FROM turbo.tb_domain_version WHERE tenant_id = '{T1}' AND domain = 'user'");
    let function = format!("SELECT turbo.fn_domain_version('{T1}', 'user')");
    assert!(wire.ask(&query(&version)).contains("D(0)"), "a known tenant and domain has version 0");
    assert!(wire.ask(&query("SELECT turbo.fn_domain_version(gen_random_uuid(), 'nothing')")).contains("D(0)"));
    wire.ask(&query("BEGIN"));
    wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
    assert!(wire.ask(&query(&version)).contains("D(1)"));
    wire.ask(&[unnamed("UPDATE tv_user SET name = 'x'", &[]), sync()].concat());
    assert!(wire.ask(&[unnamed(&function, &[]), sync()].concat()).contains("D(2)"));
    let answer = wire.ask(&query(&format!("INSERT INTO tv_user VALUES (2, '{T1}'); {version}; {function}")));
    assert!(answer.contains("D(3)") && answer.matches("D(3)").count() == 2, "{answer}");
    wire.ask(&query("ROLLBACK"));
    assert!(wire.ask(&query(&version)).contains("D(0)"));
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_setting_names_the_tenant_where_it_is_trusted() {
    let env = Env::with(Setup {
        config: "[tenant]\ntrust_setting = true\nsettings = [\"app.tenant_id\", \"app.org\"]".into(),
        ..Setup::default()
    })
    .await;
    let mut wire = Wire::login(env.port);
    wire.ask(&query(&format!("SET app.org = '{T2}'")));
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT app.write_two(1)")) }).await;
    assert_eq!(moved, "post: T2 +1; user: T2 +1");
    wire.ask(&query(&format!("SET app.tenant_id = '{T1}'")));
    let (_, moved) = env.moved(async { wire.ask(&query("UPDATE tv_user SET name = 'x'")) }).await;
    assert_eq!(moved, "user: T1 +1");
    // A table without tenants, and a setting that is no tenant: everybody.
    let (_, moved) = env.moved(async { wire.ask(&query("INSERT INTO tv_plain VALUES (1)")) }).await;
    assert_eq!(moved, "plain: * +1");
    wire.ask(&query("SET app.tenant_id = 'tenant-123'"));
    let (_, moved) = env.moved(async { wire.ask(&query("UPDATE tv_user SET name = 'x'")) }).await;
    assert_eq!(moved, "user: * +1");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_above_read_committed_do_not_wait_or_fail() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let env = Env::new(Route::Direct).await;
        let before = env.versions().await;
        let writers: Vec<_> = (0..32)
            .map(|writer| {
                let port = env.port;
                tokio::spawn(async move {
                    let client = connect(port).await;
                    for round in 0..20 {
                        let id = writer * 1000 + round;
                        // Two domains, in an order that differs from writer to writer.
                        let (first, second) = if writer % 2 == 0 { ("user", "post") } else { ("post", "user") };
                        let text = format!(
                            "BEGIN ISOLATION LEVEL {level}; INSERT INTO tv_{first} VALUES ({id}, '{T1}'); INSERT INTO tv_{second} VALUES ({id}, '{T1}'); COMMIT"
                        );
                        client.batch_execute(&text).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(env.versions().await.since(&before), "post: T1 +640; user: T1 +640", "{level}");
        env.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_carry_their_bumps() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    let (_, moved) = env
        .moved(async {
            wire.ask(&query("BEGIN"));
            wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')")));
            assert_eq!(wire.ask(&query("PREPARE TRANSACTION 'x'")), "C(PREPARE TRANSACTION) ZI");
        })
        .await;
    assert_eq!(moved, "");
    let (_, moved) = env.moved(env.direct("COMMIT PREPARED 'x'")).await;
    assert_eq!(moved, "user: T1 +1");
    let (_, moved) = env
        .moved(async {
            wire.ask(&query(&format!("BEGIN; INSERT INTO tv_user VALUES (2, '{T1}'); PREPARE TRANSACTION 'y'")));
            env.direct("ROLLBACK PREPARED 'y'").await;
        })
        .await;
    assert_eq!(moved, "");
    env.stop().await;
}

/// Ways in which a write once slipped through the session.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_slips_through() {
    let env = Env::new(Route::Direct).await;
    env.direct(
        "CREATE PROCEDURE app.fails() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_user VALUES (500); COMMIT; RAISE 'no'; END $$;
         CREATE SEQUENCE once; CREATE FUNCTION app.once() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('once') % 2 = 1 THEN RAISE 'again' USING ERRCODE = '25001'; END IF;
           INSERT INTO tv_user VALUES (501); RETURN 1; END $$;",
    )
    .await;
    env.settle_catalog().await;
    let insert = |id: u32| format!("INSERT INTO tv_user VALUES ({id}, '{T1}')");

    // Behind a FunctionCall that fails.
    let mut wire = Wire::login(env.port);
    let fails = crate::support::wire::message(b'F', &[&952_u32.to_be_bytes()[..], &[0; 6]].concat());
    wire.ask(&fails);
    let (_, moved) = env.moved(async { wire.ask(&query(&insert(1))) }).await;
    assert_eq!(moved, "user: T1 +1");

    // A procedure that committed before it failed.
    let (answer, moved) = env.moved(async { wire.ask(&query("CALL app.fails()")) }).await;
    assert!(answer.starts_with("E(P0001") && moved.contains("user: * +1"), "{answer} {moved}");
    let (_, moved) = env
        .moved(async {
            wire.send(
                &[
                    unnamed("DELETE FROM tv_user WHERE id = 500", &[]),
                    sync(),
                    unnamed("CALL app.fails()", &[]),
                    flush(),
                ]
                .concat(),
            );
            wire.until(b'E');
            wire.ask(&sync())
        })
        .await;
    assert!(moved.contains("user: * +2"), "{moved}");

    // Messages right behind the StartupMessage.
    let (_, moved) = env
        .moved(async {
            let mut early = Wire::dial(env.port);
            let start = crate::support::wire::startup(&[("user", "postgres"), ("database", "postgres")]);
            early.send(&[start, query(&insert(2))].concat());
            early.until_ready();
            early.until_ready();
        })
        .await;
    assert_eq!(moved, "user: T1 +1");

    // COPY and another write in one flight, two COPYs in one unit.
    let copy = |id: u32| {
        let line = format!("{id}\t{T1}\n");
        let data = crate::support::wire::message(b'd', line.as_bytes());
        let done = crate::support::wire::message(b'c', b"");
        [unnamed("COPY tv_user (id, tenant_id) FROM STDIN", &[]), data, done].concat()
    };
    let (_, moved) = env
        .moved(async { wire.ask_many(&[query("SELECT 1"), copy(100), unnamed(&insert(101), &[]), sync()].concat(), 2) })
        .await;
    assert_eq!(moved, "user: T1 +2");
    let (_, moved) = env.moved(async { wire.ask(&[copy(102), copy(103), sync()].concat()) }).await;
    assert_eq!(moved, "user: T1 +2");

    // A client that vanishes in the middle of a COPY: nothing is committed, no server connection is left.
    for sql in ["COPY tv_user (id, tenant_id) FROM STDIN", "COPY tv_plain FROM STDIN", "COPY app.log FROM STDIN"] {
        env.direct("CREATE TABLE IF NOT EXISTS app.log (id int, data text)").await;
        let mut leaver = Wire::login(env.port);
        leaver.send(&query(sql));
        leaver.until(b'G');
        leaver.send(&crate::support::wire::message(b'd', b"104\t"));
        drop(leaver);
        crate::support::eventually("the server connection is gone", async || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'";
            env.direct.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
    }

    // A name that got another meaning behind a failure.
    wire.ask(&[parse("", "SELECT 1"), sync()].concat());
    let flight = [unnamed("SELECT 1/0", &[]), parse("", "SELECT 2"), sync(), parse("", &insert(3)), sync()].concat();
    wire.ask_many(&flight, 2);
    let (_, moved) = env.moved(async { wire.ask(&[bind("", "", &[]), execute("", 0), sync()].concat()) }).await;
    assert_eq!(moved, "user: T1 +1");

    // Names that SQL gives and takes.
    wire.ask(&[parse("x", "SELECT 1"), sync()].concat());
    wire.ask(&query("DEALLOCATE x"));
    wire.ask(&query(&format!("PREPARE x AS {}", insert(4))));
    let (_, moved) = env.moved(async { wire.ask(&[bind("", "x", &[]), execute("", 0), sync()].concat()) }).await;
    assert_eq!(moved, "user: * +1");

    // Backslashes that begin to count while statements are in flight.
    let (_, moved) = env
        .moved(async {
            let text = format!("SELECT '\\'' ; {}; --'", insert(5));
            wire.ask_many(&[query("SET standard_conforming_strings = off"), query(&text)].concat(), 2);
        })
        .await;
    assert_eq!(moved, "user: T1 +1");
    let (_, moved) = env
        .moved(async {
            let text = format!("SELECT '\\' ; {}; --'", insert(6));
            wire.ask_many(&[query("SET standard_conforming_strings = on"), query(&text)].concat(), 2);
        })
        .await;
    assert_eq!(moved, "user: T1 +1");

    // An error of the application's own that looks like a refusal: nothing runs twice.
    let (answer, moved) = env.moved(async { wire.ask(&query("SELECT app.once()")) }).await;
    assert!(answer.starts_with("E(25001 again") || answer.starts_with("T E(25001 again"), "{answer}");
    assert_eq!(moved, "");

    // A serialization failure at COMMIT ends the block.
    let mut other = Wire::login(env.port);
    for wire in [&mut wire, &mut other] {
        wire.ask(&query("BEGIN ISOLATION LEVEL SERIALIZABLE"));
        wire.ask(&query("SELECT count(*) FROM tv_user"));
    }
    wire.ask(&query(&insert(7)));
    other.ask(&query(&insert(8)));
    assert_eq!(wire.ask(&query("COMMIT")), "C(COMMIT) ZI");
    let answer = other.ask(&query("COMMIT"));
    assert!(answer.starts_with("E(40001") && answer.ends_with("ZI"), "{answer}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn procedures_that_commit_inside_run_alone() {
    for route in [Route::Direct, Route::Bouncer] {
        let env = Env::new(route).await;
        let mut wire = Wire::login(env.port);
        let (answer, moved) = env.moved(async { wire.ask(&query("CALL app.commits(1)")) }).await;
        assert_eq!(answer, "C(CALL) ZI", "{route:?}");
        assert!(moved.contains("user: * +1") && moved.contains("post: * +1"), "{moved}");
        let (answer, moved) =
            env.moved(async { wire.ask(&[unnamed("CALL app.commits(2)", &[]), sync()].concat()) }).await;
        assert_eq!(answer, "1 2 C(CALL) ZI", "{route:?}");
        assert!(moved.contains("user: * +1") && moved.contains("post: * +1"), "{moved}");
        // In a block it fails as it does without us.
        wire.ask(&query("BEGIN"));
        let answer = wire.ask(&query("CALL app.commits(3)"));
        assert!(answer.starts_with("E(2D000 invalid transaction termination"), "{answer}");
        let (_, moved) = env.moved(async { wire.ask(&query("ROLLBACK")) }).await;
        assert_eq!(moved, "", "{route:?}");
        assert!((env.metric("turnstile_statements_total{class=\"not_atomic\"}") - 2.0).abs() < 0.1);
        env.stop().await;
    }
}
