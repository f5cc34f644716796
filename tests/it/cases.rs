//! The cases that write detection is known for getting wrong, each a named row: exactly once, measurement,
//! zero rows.

use crate::support::wire::{Wire, bind, close, execute, flush, message, parse, query, sync, unnamed};
use crate::support::{Env, Route, Setup, T1, T2, connect, eventually};

/// What a client does, one after the other.
enum Step {
    /// Client 0 or 1 sends, and waits for so many ReadyForQuery.
    Ask(usize, Vec<u8>, usize),
    /// Client 1 sends, reads up to so many command tags, and is gone.
    Leave(Vec<u8>, usize),
    /// Until a version has moved.
    Moved,
}

type Row = (&'static str, Vec<Step>, &'static str);

fn ask(bytes: Vec<u8>) -> Vec<Step> {
    vec![Step::Ask(0, bytes, 1)]
}

fn ask_all(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|text| Step::Ask(0, query(text), 1)).collect()
}

fn user(id: u32) -> String {
    format!("INSERT INTO tv_user VALUES ({id}, '{T1}')")
}

fn post(id: u32) -> String {
    format!("INSERT INTO tv_post VALUES ({id}, '{T2}')")
}

/// Runs the rows one by one; what moved is what the row says.
async fn check(env: &Env, rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for (name, steps, expected) in rows {
        env.fresh().await;
        let before = env.versions().await;
        let mut clients = [Wire::login(env.port), Wire::login(env.port)];
        let mut answers = Vec::new();
        for step in steps {
            match step {
                Step::Ask(client, bytes, ready) => answers.push(clients[client].ask_many(&bytes, ready)),
                Step::Moved => {
                    eventually("a version moves", async || !env.versions().await.since(&before).is_empty()).await;
                }
                Step::Leave(bytes, tags) => {
                    clients[1].send(&bytes);
                    (0..tags).for_each(|_| drop(clients[1].until(b'C')));
                    let pid = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
                    clients[1] = Wire::login(env.port);
                    eventually("its transaction has ended", async || {
                        env.direct.query_one(pid, &[]).await.unwrap().get::<_, i64>(0) == 0
                    })
                    .await;
                }
            }
        }
        drop(clients);
        let moved = env.versions().await.since(&before);
        if moved != expected {
            wrong.push(format!("{name}: moved {moved:?}, expected {expected:?}\n   {}", answers.join("\n   ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const OBJECTS: &str = "
    CREATE TABLE tb_parent (id int PRIMARY KEY);
    CREATE TABLE tv_late (id int PRIMARY KEY, parent int REFERENCES tb_parent DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION app.write_user(n int) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO tv_user VALUES (n, '11111111-1111-1111-1111-111111111111'); RETURN n; END $$;
    CREATE PROCEDURE app.write_and_commit(n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_user VALUES (n); COMMIT; END $$;
    CREATE TABLE tv_parts (id int, tenant_id uuid) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF tv_parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_high PARTITION OF tv_parts FOR VALUES FROM (100) TO (200);
    CREATE FUNCTION app.write_part(n int) RETURNS int LANGUAGE sql AS $$ INSERT INTO tv_parts VALUES (n) RETURNING id $$;
    CREATE FUNCTION app.move_part(a int, b int) RETURNS void LANGUAGE sql AS $$ UPDATE tv_parts SET id = b WHERE id = a $$;
    CREATE FUNCTION app.truncates() RETURNS void LANGUAGE plpgsql AS $$ BEGIN TRUNCATE tv_feed; END $$;
    CREATE FUNCTION app.refills() RETURNS void LANGUAGE plpgsql AS $$ BEGIN TRUNCATE tv_feed; INSERT INTO tv_feed VALUES (1); END $$;
    CREATE FUNCTION app.saved(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        BEGIN INSERT INTO tv_user VALUES (n); EXCEPTION WHEN unique_violation THEN NULL; END; END $$;
    CREATE FUNCTION app.undone(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        BEGIN INSERT INTO tv_feed VALUES (n); RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN NULL; END; END $$;
    CREATE FUNCTION app.makes() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        CREATE TABLE tv_made (id int); INSERT INTO tv_made VALUES (1); END $$;
    CREATE FUNCTION app.temporary() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        CREATE TEMP TABLE scratch (id int) ON COMMIT DROP; INSERT INTO scratch VALUES (1); INSERT INTO tv_plain VALUES (800); END $$;
    CREATE FUNCTION app.attaches() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        CREATE TABLE parts_new AS SELECT 300 AS id, NULL::uuid AS tenant_id;
        ALTER TABLE tv_parts ATTACH PARTITION parts_new FOR VALUES FROM (300) TO (400); END $$;
    CREATE FUNCTION app.locks() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM tv_user FOR UPDATE; EXECUTE 'SELECT 1'; RETURN 1; END $$;
    INSERT INTO tv_feed VALUES (1);
    INSERT INTO turbo.tb_domain_cascade VALUES ('plain', 'left'), ('plain', 'right'), ('left', 'bottom'), ('right', 'bottom'), ('bottom', 'plain');
    INSERT INTO turbo.tb_domain SELECT unnest(ARRAY['left', 'right', 'bottom']);
";

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once() {
    let env = Env::new(Route::Direct).await;
    env.direct(OBJECTS).await;
    env.settle_catalog().await;
    let two = format!("INSERT INTO tv_user VALUES (1, '{T1}'), (2, '{T1}') RETURNING id");
    let named = |sql: &str, rows: u32| [parse("", sql), bind("p", "", &[]), execute("p", rows)].concat();
    let rows: Vec<Row> = vec![
        (
            "a portal of RETURNING is suspended and continued",
            ask([named(&two, 1), execute("p", 0), sync()].concat()),
            "user: T1 +1",
        ),
        (
            "a portal of RETURNING is suspended, and Sync commits",
            ask([named(&two.replace("(1,", "(3,").replace("(2,", "(4,"), 1), sync()].concat()),
            "user: T1 +1",
        ),
        (
            "a SELECT that writes with each row, a row at a time: one statement",
            ask([
                named("SELECT app.write_user(i) FROM generate_series(11, 13) i", 1),
                execute("p", 1),
                flush(),
                execute("p", 0),
                sync(),
            ]
            .concat()),
            "user: * +1",
        ),
        (
            "two portals of such a SELECT: two statements",
            ask([
                named("SELECT app.write_user(i) FROM generate_series(14, 15) i", 1),
                close('P', "p"),
                named("SELECT app.write_user(i) FROM generate_series(16, 17) i", 1),
                execute("p", 0),
                sync(),
            ]
            .concat()),
            "user: * +2",
        ),
        (
            "the unnamed statement is parsed anew under an open portal",
            ask([parse("", &user(21)), bind("p", "", &[]), parse("", "SELECT 1"), execute("p", 0), sync()].concat()),
            "user: T1 +1",
        ),
        (
            "a finished portal is executed again: an error, nothing is committed",
            ask([named(&user(22), 0), execute("p", 0), sync()].concat()),
            "",
        ),
        (
            "an error in the middle of a pipeline",
            ask([unnamed(&user(23), &[]), unnamed("SELECT 1/0", &[]), unnamed(&post(23), &[]), sync()].concat()),
            "",
        ),
        (
            "an error in one unit, the next one runs",
            vec![Step::Ask(
                0,
                [unnamed("SELECT 1/0", &[]), unnamed(&user(24), &[]), sync(), unnamed(&post(24), &[]), sync()].concat(),
                2,
            )],
            "post: T2 +1",
        ),
        (
            "a deferred constraint fails at Sync",
            ask([unnamed("INSERT INTO tv_late VALUES (1, 99)", &[]), sync()].concat()),
            "",
        ),
        ("a deferred constraint fails at the end of a text", ask(query("INSERT INTO tv_late VALUES (1, 99)")), ""),
        (
            "a deferred constraint fails at COMMIT",
            ask_all(&["BEGIN", "INSERT INTO tv_late VALUES (1, 99)", "COMMIT"]),
            "",
        ),
        (
            "COMMIT AND CHAIN, then ROLLBACK",
            ask_all(&["BEGIN", &user(31), "COMMIT AND CHAIN", &user(32), "ROLLBACK"]),
            "user: T1 +1",
        ),
        (
            "COMMIT AND CHAIN, then COMMIT",
            ask_all(&["BEGIN", &user(33), "COMMIT AND CHAIN", &user(34), "COMMIT"]),
            "user: T1 +2",
        ),
        (
            "PREPARE TRANSACTION, COMMIT PREPARED by another session",
            [
                ask_all(&["BEGIN", &user(35), "PREPARE TRANSACTION 'x'"]),
                vec![Step::Ask(1, query("COMMIT PREPARED 'x'"), 1)],
            ]
            .into_iter()
            .flatten()
            .collect(),
            "user: T1 +1",
        ),
        (
            "PREPARE TRANSACTION, ROLLBACK PREPARED by another session",
            [
                ask_all(&["BEGIN", &user(36), "PREPARE TRANSACTION 'y'"]),
                vec![Step::Ask(1, query("ROLLBACK PREPARED 'y'"), 1)],
            ]
            .into_iter()
            .flatten()
            .collect(),
            "",
        ),
        (
            "a text with COMMIT and ROLLBACK inside",
            ask(query(&format!("{}; COMMIT; {}; ROLLBACK; {}", user(41), post(41), user(42)))),
            "user: T1 +2",
        ),
        (
            "two savepoints of one name",
            ask_all(&[
                "BEGIN",
                "SAVEPOINT s",
                &user(43),
                "SAVEPOINT s",
                &user(44),
                "ROLLBACK TO s",
                "RELEASE s",
                "ROLLBACK TO s",
                &post(43),
                "COMMIT",
            ]),
            "post: T2 +1",
        ),
        ("a block that fails, COMMIT rolls it back", ask_all(&["BEGIN", &user(45), "SELECT 1/0", "COMMIT"]), ""),
        (
            "a client vanishes between Execute and Sync",
            vec![Step::Leave([unnamed(&user(51), &[]), flush()].concat(), 1)],
            "",
        ),
        ("a client vanishes in a block", vec![Step::Leave([query("BEGIN"), query(&user(52))].concat(), 2)], ""),
        (
            "a client vanishes behind a procedure that committed, without Sync",
            vec![Step::Leave([unnamed("CALL app.write_and_commit(53)", &[]), flush()].concat(), 1), Step::Moved],
            "bottom: * +1; feed: * +1; late: * +1; left: * +1; parts: * +1; plain: * +1; post: * +1; right: * +1; user: * +1",
        ),
        (
            "an empty text behind an unsynced write commits it",
            vec![Step::Ask(0, [unnamed(&user(54), &[]), query("")].concat(), 1)],
            "user: T1 +1",
        ),
        (
            "cascades with a diamond and a cycle: each domain once",
            ask(query("INSERT INTO tv_plain VALUES (1, 'x')")),
            "bottom: * +1; left: * +1; plain: * +1; right: * +1",
        ),
        (
            "the same, measured",
            ask(query("SELECT app.dynamic('INSERT INTO tv_plain VALUES (2)')")),
            "bottom: * +1; left: * +1; plain: * +1; right: * +1",
        ),
        (
            "EXECUTE of a statement that was prepared in SQL",
            ask_all(&["PREPARE i (int) AS INSERT INTO tv_user VALUES ($1)", "EXECUTE i (61)", "EXECUTE i (62)"]),
            "user: * +2",
        ),
        (
            "a cursor whose query writes, row by row: each FETCH is a statement",
            ask_all(&[
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT app.write_user(i) FROM generate_series(63, 64) i",
                "FETCH c",
                "FETCH c",
                "FETCH c",
                "COMMIT",
            ]),
            "user: * +2",
        ),
        (
            "WHERE CURRENT OF",
            ask_all(&[
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT * FROM tv_user FOR UPDATE",
                "FETCH c",
                "UPDATE tv_user SET name = 'c' WHERE CURRENT OF c",
                "COMMIT",
            ]),
            "user: * +1",
        ),
    ];
    let mut rows = rows;
    if env.server_version().await >= 18 {
        // Since 18 a text of no or one statement leaves open the implicit block that it stands in.
        rows.retain(|(name, ..)| !name.starts_with("an empty text behind"));
    }
    let oid: u32 = env.direct.query_one("SELECT 'app.write_user'::regproc::oid", &[]).await.unwrap().get(0);
    let call = [&oid.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 2], b"77", &[0, 0]].concat();
    rows.push((
        "a FunctionCall message ends its own transaction, hence cannot be measured: every domain",
        ask(message(b'F', &call)),
        "bottom: * +1; feed: * +1; late: * +1; left: * +1; parts: * +1; plain: * +1; post: * +1; right: * +1; user: * +1",
    ));
    check(&env, rows).await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn measured() {
    let env = Env::new(Route::Direct).await;
    env.direct(OBJECTS).await;
    env.settle_catalog().await;
    let rows: Vec<Row> = vec![
        ("a part, through the root", ask(query("SELECT app.write_part(1)")), "parts: * +1"),
        ("a row moves from part to part", ask(query("SELECT app.move_part(1, 101)")), "parts: * +1"),
        ("no row moves", ask(query("SELECT app.move_part(1, 101)")), ""),
        ("TRUNCATE inside", ask(query("SELECT app.truncates()")), "feed: * +1"),
        ("TRUNCATE and as many rows as before", ask(query("SELECT app.refills()")), "feed: * +1"),
        (
            "TRUNCATE behind a write of the same transaction",
            ask_all(&["BEGIN", "INSERT INTO tv_feed VALUES (2)", "SELECT app.truncates()", "COMMIT"]),
            "feed: * +2",
        ),
        ("a subtransaction that is kept", ask(query("SELECT app.saved(1)")), "user: * +1"),
        (
            "a subtransaction that is undone: the counters keep it, one bump too many",
            ask(query("SELECT app.undone(5)")),
            "feed: * +1",
        ),
        (
            "a savepoint of the client is rolled back",
            ask_all(&["BEGIN", "SAVEPOINT s", "SELECT app.write_user(2)", "ROLLBACK TO s", "COMMIT"]),
            "",
        ),
        (
            "several statements in one transaction",
            ask_all(&[
                "BEGIN",
                "SELECT app.write_user(3)",
                &user(4),
                "SELECT app.write_part(2)",
                "SELECT app.write_user(5)",
                "SELECT app.read_only(1)",
                "COMMIT",
            ]),
            "parts: * +1; user: * +2, T1 +3",
        ),
        (
            "counters of earlier transactions that are not flushed yet",
            ask_all(&[&user(6), "SELECT app.write_part(3)", "BEGIN", &user(7), "ROLLBACK", "SELECT app.write_part(4)"]),
            "parts: * +2; user: T1 +1",
        ),
        (
            "track_counts off: nothing can be measured",
            ask_all(&["SET track_counts = off", "SELECT app.write_part(5)"]),
            "bottom: * +1; feed: * +1; late: * +1; left: * +1; parts: * +1; plain: * +1; post: * +1; right: * +1; user: * +1",
        ),
        (
            "a read-only transaction",
            ask_all(&[
                "BEGIN READ ONLY",
                "SELECT app.write_part(6)",
                "ROLLBACK",
                "BEGIN READ ONLY",
                "SELECT app.read_only(1)",
                "COMMIT",
            ]),
            "",
        ),
        (
            "a statement that refuses a block",
            ask_all(&["VACUUM tv_user", "CREATE INDEX CONCURRENTLY i ON tv_user (name)"]),
            "",
        ),
        ("a table that is made inside", ask(query("SELECT app.makes()")), "made: * +1"),
        (
            "a temporary table inside",
            ask(query("SELECT app.temporary()")),
            "bottom: * +1; left: * +1; plain: * +1; right: * +1",
        ),
        ("a part that is attached inside", ask(query("SELECT app.attaches()")), "parts: * +1"),
        ("row locks write nothing", ask(query("SELECT app.locks()")), ""),
        (
            "in an extended query",
            ask([unnamed("SELECT app.write_user($1)", &["71"]), unnamed("SELECT app.write_part(7)", &[]), sync()]
                .concat()),
            "parts: * +1; user: * +1",
        ),
    ];
    check(&env, rows).await;
    // A temporary table made nobody's catalog stale.
    assert_eq!(env.metric("turnstile_measured_statements_total{reason=\"catalog_stale\"}"), 0.0);
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_rows() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE TABLE tv_serial (id serial PRIMARY KEY, x int UNIQUE); INSERT INTO tv_serial (x) VALUES (1); CREATE TABLE tv_ruled (id int);
        CREATE RULE nothing AS ON INSERT TO tv_ruled DO INSTEAD NOTHING;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TABLE tv_refused (id int); CREATE TRIGGER refuse BEFORE INSERT ON tv_refused FOR EACH ROW EXECUTE FUNCTION refuse()").await;
    env.settle_catalog().await;
    let nothing = [
        "UPDATE tv_user SET name = 'x' WHERE id = -1",
        "DELETE FROM tv_user WHERE id = -1",
        "DELETE FROM tv_user WHERE id = -1 RETURNING *",
        "INSERT INTO tv_user SELECT id, tenant_id FROM tv_user WHERE id = -1",
        "INSERT INTO tv_serial (x) VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO tv_serial (x) VALUES (1) ON CONFLICT (x) DO UPDATE SET x = 2 WHERE tv_serial.x = 7",
        "MERGE INTO tv_user t USING (SELECT -1 AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE",
        "WITH d AS (DELETE FROM tv_user WHERE id = -1 RETURNING *) SELECT * FROM d",
        "INSERT INTO tv_ruled VALUES (1)",
        "INSERT INTO tv_refused VALUES (1)",
        "EXPLAIN ANALYZE DELETE FROM tv_user WHERE id = -1",
        "SELECT app.dynamic('DELETE FROM tv_user')",
        "COPY (DELETE FROM tv_user RETURNING *) TO STDOUT",
    ];
    let mut rows: Vec<Row> = Vec::new();
    let version = env.server_version().await;
    // MERGE came with 15.
    for sql in nothing.into_iter().filter(|sql| version >= 15 || !sql.starts_with("MERGE")) {
        rows.push((sql, ask(query(sql)), ""));
        rows.push((sql, ask([unnamed(sql, &[]), sync()].concat()), ""));
        rows.push((sql, ask_all(&["BEGIN", sql, "COMMIT"]), ""));
        rows.push((sql, ask([unnamed(sql, &[]), unnamed(sql, &[]), sync()].concat()), ""));
        rows.push((sql, ask(query(&format!("{sql}; {sql}"))), ""));
    }
    check(&env, rows).await;
    env.stop().await;
}

/// The injected part waits for a lock when the client cancels: the statement is cancelled with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_lands_on_the_injected_part() {
    let env = Env::new(Route::Direct).await;
    let mut blocker = connect(env.cluster.port()).await;
    for extended in [false, true] {
        let lock = blocker.transaction().await.unwrap();
        lock.batch_execute("LOCK TABLE turbo.tb_bump IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let client = env.client().await;
        let token = client.cancel_token();
        let id = 100 + i32::from(extended);
        let insert = format!("INSERT INTO tv_user VALUES ({id}, '{T1}')");
        let running = tokio::spawn(async move {
            if extended {
                client.execute(insert.as_str(), &[]).await.map(drop)
            } else {
                client.batch_execute(&insert).await
            }
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'turbo.tb_bump'::regclass AND NOT granted";
        eventually("the bump waits", async || env.direct.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1)
            .await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014");
        lock.rollback().await.unwrap();
        let written =
            format!("SELECT (SELECT count(*) FROM tv_user WHERE id = {id}) + (SELECT count(*) FROM turbo.tb_bump)");
        assert_eq!(env.direct.query_one(&written, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
    env.stop().await;
}

/// Nothing can be written on a hot standby: everything is relayed as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_standby() {
    let env = Env::with(Setup::default()).await;
    env.direct("CREATE FUNCTION app.volatile_reader() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM tv_user' INTO n; RETURN n; END $$").await;
    let standby = env.cluster.standby().unwrap();
    let args = turnstile::cli::ServeArgs {
        listen: Some("127.0.0.1:0".into()),
        admin_listen: Some("off".into()),
        server: Some(standby.url("postgres")),
        ..turnstile::cli::ServeArgs::default()
    };
    let config = turnstile::config::Config::new(&args, &turnstile::config::ConfigFile::default()).unwrap();
    let running = turnstile::app::Running::start(config).await.unwrap();
    let mut direct = Wire::login(standby.port());
    let mut through = Wire::login(running.listen.port());
    for sql in [
        "SELECT app.volatile_reader()",
        "SELECT app.write_two(1)",
        "INSERT INTO tv_user VALUES (1)",
        "BEGIN; SELECT app.volatile_reader(); COMMIT",
    ] {
        assert_eq!(through.ask(&query(sql)), direct.ask(&query(sql)), "{sql}");
        let extended = [unnamed(sql, &[]), sync()].concat();
        assert_eq!(through.ask(&extended), direct.ask(&extended), "{sql}");
    }
    running.shutdown().await;
    env.stop().await;
}

const FOUND_OBJECTS: &str = "
    CREATE TABLE tb_log (id int, note text);
    CREATE TABLE tb_key (id int PRIMARY KEY);
    CREATE TYPE mood AS ENUM ('a');
    ALTER TABLE tv_plain ADD COLUMN mood mood;
    CREATE TABLE heir (LIKE tv_feed);
    CREATE FUNCTION app.cursor() RETURNS void LANGUAGE plpgsql AS $$
        DECLARE c CURSOR FOR UPDATE tv_feed SET id = id RETURNING id; r record; BEGIN OPEN c; FETCH c INTO r; CLOSE c; END $$;
    CREATE FUNCTION app.backslash() RETURNS void LANGUAGE plpgsql SET standard_conforming_strings = off AS $$
        DECLARE a text; BEGIN a := '\\'' || '; INSERT INTO tb_log VALUES (1, '; INSERT INTO tv_feed VALUES (9); a := '\\''; END $$;
    CREATE FUNCTION app.feed() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_feed SELECT max(id) + 1 FROM tv_feed; RETURN true; END $$;
    CREATE FUNCTION app.quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE FUNCTION app.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_feed VALUES (7); RETURN NEW; END $$;
    CREATE TABLE tb_when (id int);
    CREATE TRIGGER quiet BEFORE INSERT ON tb_when FOR EACH ROW WHEN (app.feed()) EXECUTE FUNCTION app.quiet();
    CREATE FUNCTION app.shadow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN old.tenant_id := '22222222-2222-2222-2222-222222222222'; RETURN OLD; END $$;
    CREATE TABLE tv_shadow (id int, tenant_id uuid); INSERT INTO tv_shadow VALUES (1, '11111111-1111-1111-1111-111111111111');
    CREATE TRIGGER shadow BEFORE UPDATE ON tv_shadow FOR EACH ROW EXECUTE FUNCTION app.shadow();
    CREATE FUNCTION app.seals() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_feed VALUES (8); SET TRANSACTION READ ONLY; END $$;
    CREATE FUNCTION app.locks_up() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('transaction_read_only', 'on', true); END $$;
    CREATE TABLE tb_part (id int) PARTITION BY RANGE (id);
    CREATE FUNCTION app.temp_view() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP VIEW tview AS SELECT app.feed(); END $$;
    INSERT INTO tv_feed VALUES (1); INSERT INTO tv_plain VALUES (1);
";

/// What attackers found.
#[tokio::test(flavor = "multi_thread")]
async fn found() {
    let env = Env::new(Route::Direct).await;
    env.direct(FOUND_OBJECTS).await;
    env.settle_catalog().await;
    let rows: Vec<Row> = vec![
        ("a bound cursor of PL/pgSQL FOR UPDATE of a table", ask(query("SELECT app.cursor()")), "feed: * +1"),
        ("a body that is written for other strings", ask(query("SELECT app.backslash()")), "feed: * +1"),
        ("EXPLAIN with a quoted option", ask(query("EXPLAIN (\"analyze\") UPDATE tv_feed SET id = id")), "feed: * +1"),
        ("the condition of a trigger", ask(query("INSERT INTO tb_when VALUES (1)")), "feed: * +1"),
        (
            "a trigger that gives back OLD, changed",
            ask(query(&format!("UPDATE tv_shadow SET id = 2 WHERE tenant_id = '{T1}'"))),
            "shadow: * +1",
        ),
        (
            "a temporary view over a function that writes",
            ask_all(&["CREATE TEMP VIEW tv AS SELECT app.feed()", "SELECT * FROM tv"]),
            "feed: * +1",
        ),
        ("the same, made by a function", ask_all(&["SELECT app.temp_view()", "SELECT * FROM tview"]), "feed: * +1"),
        (
            "a deferred trigger that the same transaction made",
            ask_all(&[
                "BEGIN",
                "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON tb_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.late()",
                "INSERT INTO tb_log VALUES (1)",
                "COMMIT",
                "DROP TRIGGER late ON tb_log",
            ]),
            "feed: * +1; plain: * +1; post: * +1; shadow: * +1; user: * +1",
        ),
        (
            "a measured statement that makes its transaction read-only",
            ask_all(&["BEGIN", "SELECT app.seals()", "COMMIT"]),
            "feed: * +1; plain: * +1; post: * +1; shadow: * +1; user: * +1",
        ),
        (
            "a function that makes it read-only behind a write",
            ask_all(&["BEGIN", &user(1), "SELECT app.locks_up()", "COMMIT"]),
            "user: T1 +1",
        ),
        ("a type is dropped with its columns", ask(query("DROP TYPE mood CASCADE")), "plain: * +1"),
        ("a table becomes an heir", ask(query("ALTER TABLE heir INHERIT tv_feed")), "feed: * +1"),
        (
            "a block that prepares a statement of a known name",
            vec![
                Step::Ask(0, [parse("known", "SELECT 1"), sync()].concat(), 1),
                Step::Ask(
                    0,
                    query(
                        "DO $$ BEGIN EXECUTE 'DEALLOCATE known'; EXECUTE 'PREPARE known AS INSERT INTO tv_plain VALUES (5)'; END $$",
                    ),
                    1,
                ),
                Step::Ask(0, [bind("", "known", &[]), execute("", 0), sync()].concat(), 1),
            ],
            "plain: * +1",
        ),
        (
            "strings are read otherwise again behind a ROLLBACK in the same flight",
            vec![
                Step::Ask(0, query("BEGIN"), 1),
                Step::Ask(0, query("SET LOCAL standard_conforming_strings = off"), 1),
                Step::Ask(
                    0,
                    [query("ROLLBACK"), query("SELECT '\\'; INSERT INTO tv_plain VALUES (6); SELECT '\\'")].concat(),
                    2,
                ),
            ],
            "plain: * +1",
        ),
        (
            "a DO whose COMMIT is spelled with an escape",
            ask(query("DO E'BEGIN INSERT INTO tv_plain VALUES (7); COMM\\x49T; END'")),
            "feed: * +1; plain: * +1; post: * +1; shadow: * +1; user: * +1",
        ),
    ];
    check(&env, rows).await;
    env.stop().await;
}

/// A statement that waits for a lock of an open transaction runs with the definitions that it made.
#[tokio::test(flavor = "multi_thread")]
async fn behind_an_open_definition() {
    let env = Env::new(Route::Direct).await;
    env.direct(FOUND_OBJECTS).await;
    env.settle_catalog().await;
    let before = env.versions().await;
    let mut definer = Wire::login(env.port);
    let mut writer = Wire::login(env.port);
    definer.ask(&query("BEGIN"));
    let generation = env.generation().await;
    definer.ask(&query("CREATE TRIGGER now AFTER INSERT ON tb_key FOR EACH ROW EXECUTE FUNCTION app.late()"));
    // The reader of the catalog had time to look: it sees nothing yet.
    eventually("the catalog is read", async || env.generation().await > generation).await;
    writer.send(&query("INSERT INTO tb_key VALUES (1)"));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    eventually("the writer waits", async || env.direct.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
    definer.ask(&query("COMMIT"));
    writer.until(b'Z');
    assert_eq!(env.versions().await.since(&before), "feed: * +1");
    env.stop().await;
}

/// Looks of ours at what is tracked leave no lock in the client's transaction, not even a predicate lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_leaves_no_locks() {
    let env = Env::new(Route::Direct).await;
    let client = env.client().await;
    let locks = "SELECT coalesce(string_agg(relation::regclass::text || ' ' || mode, ', '), '') FROM pg_locks
                  WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'page', 'tuple')
                    AND relation <> 'pg_locks'::regclass AND relation::regclass::text NOT LIKE 'pg\\_class%'";
    for isolation in ["READ COMMITTED", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).await.unwrap();
        // A definition: the server looks at all that is tracked, before and behind it.
        client.batch_execute("CREATE TEMPORARY TABLE scratch (id int)").await.unwrap();
        client.batch_execute("SELECT app.dynamic('SELECT 1')").await.unwrap();
        let left: String = client.query_one(locks, &[]).await.unwrap().get(0);
        let ours: Vec<&str> = left.split(", ").filter(|lock| lock.starts_with("turbo.")).collect();
        assert!(ours.is_empty(), "{isolation}: {ours:?} of {left}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    env.stop().await;
}

/// ANALYZE of many tables holds one lock at a time, hence waits for nobody who waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn analyze_keeps_no_locks() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE TABLE parted (id int) PARTITION BY LIST (id); CREATE TABLE part1 PARTITION OF parted FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF parted FOR VALUES IN (2)").await;
    env.settle_catalog().await;
    let (client, locker) = (env.client().await, connect(env.cluster.port()).await);
    locker.batch_execute("BEGIN; LOCK part2").await.unwrap();
    let analyze = tokio::spawn(async move { client.batch_execute("ANALYZE part1, part2").await });
    eventually("ANALYZE waits for part2", async || {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'part2'::regclass AND NOT granted)";
        env.direct.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    locker.batch_execute("SET LOCAL lock_timeout = '5s'; DROP TABLE part1; COMMIT").await.unwrap();
    analyze.await.unwrap().unwrap();
    env.stop().await;
}

/// An error in our part fails the client's statement, and shows nothing of ours.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_ours_show_nothing_of_ours() {
    let env = Env::new(Route::Direct).await;
    env.fresh().await;
    let locker = connect(env.cluster.port()).await;
    locker.batch_execute("BEGIN; LOCK turbo.tb_bump").await.unwrap();
    let client = env.client().await;
    client.batch_execute("SET statement_timeout = 200").await.unwrap();
    for simple in [true, false] {
        let write = user(1);
        let error = if simple {
            client.batch_execute(&write).await.unwrap_err()
        } else {
            client.execute(&write, &[]).await.unwrap_err()
        };
        let error = error.as_db_error().unwrap();
        assert_eq!(error.message(), "canceling statement due to statement timeout");
        assert_eq!((error.where_(), error.table(), error.position()), (None, None, None));
    }
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(env.direct.query("SELECT FROM tv_user", &[]).await.unwrap().len(), 0);
    env.stop().await;
}
