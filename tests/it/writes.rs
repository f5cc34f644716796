//! Catalog and measurement against a real server: what a statement drags along.

use crate::support::wire::{Wire, message, query, sync, unnamed};
use crate::support::{Env, Route, Setup, T1, T2, eventually};

const OBJECTS: &str = "
    CREATE TABLE tb_source (id int PRIMARY KEY, tenant_id uuid);
    CREATE TABLE tv_copy (id int PRIMARY KEY, tenant_id uuid);
    CREATE FUNCTION to_copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_copy VALUES (NEW.id, NEW.tenant_id); RETURN NEW; END $$;
    CREATE TRIGGER copy AFTER INSERT ON tb_source FOR EACH ROW EXECUTE FUNCTION to_copy();
    CREATE TABLE tb_owner (id int PRIMARY KEY);
    CREATE TABLE tv_owned (id int PRIMARY KEY, owner int REFERENCES tb_owner ON DELETE CASCADE);
    CREATE TABLE tv_parts (id int, tenant_id uuid) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF tv_parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE tv_parts_high PARTITION OF tv_parts FOR VALUES FROM (100) TO (200);
    CREATE TABLE tb_ruled (id int);
    CREATE RULE ruled AS ON INSERT TO tb_ruled DO ALSO INSERT INTO tv_plain VALUES (NEW.id);
    CREATE VIEW v_user AS SELECT * FROM tv_user;
    CREATE FUNCTION stable_writer(n int) RETURNS int LANGUAGE sql STABLE AS $$ SELECT app.write_two(n) $$;
    CREATE VIEW v_writer AS SELECT app.write_two(700) AS n;
    CREATE TABLE tb_default (id int DEFAULT app.write_two(701), x int);
    CREATE MATERIALIZED VIEW tv_summary AS SELECT count(*) AS n FROM tv_user;
    CREATE FUNCTION swallow(n int) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        BEGIN INSERT INTO tv_plain VALUES (n); RAISE EXCEPTION 'undo'; EXCEPTION WHEN OTHERS THEN RETURN 'undone'; END;
    END $$;
    CREATE FUNCTION atomic_writer(n int) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO tv_plain VALUES (n); END;
    CREATE TABLE tb_deferred (id int);
    CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_plain VALUES (NEW.id); RETURN NEW; END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON tb_deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred();
    CREATE TABLE tv_generated (id int, src uuid, tenant_id uuid GENERATED ALWAYS AS (src) STORED);
    INSERT INTO tv_generated VALUES (1, '11111111-1111-1111-1111-111111111111');
    CREATE TABLE tv_swapped (id int); CREATE TABLE new_swapped AS SELECT 1 AS id;
    CREATE FUNCTION migrate() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        CREATE TRIGGER copy AFTER INSERT ON tb_late FOR EACH ROW EXECUTE FUNCTION to_copy(); END $$;
    CREATE TABLE tb_late (id int, tenant_id uuid);
    CREATE FUNCTION into_plain(a int, b int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_plain VALUES (a); RETURN true; END $$;
    CREATE OPERATOR <@> (LEFTARG = int, RIGHTARG = int, FUNCTION = into_plain);
    CREATE VIEW v_operator AS SELECT 800 <@> 1 AS x;
    INSERT INTO tb_owner VALUES (1); INSERT INTO tv_owned VALUES (1, 1);
";

/// Statements and what they move. Written through the root, a partition of a domain of its own moves
/// it only if it was written.
const ROWS: &[(&str, &str)] = &[
    ("INSERT INTO tb_source VALUES (1)", "copy: * +1"),
    ("UPDATE tb_source SET id = 2", ""),
    ("DELETE FROM tb_owner", "owned: * +1"),
    ("INSERT INTO tv_parts VALUES (1)", "parts: * +1"),
    ("INSERT INTO tv_parts VALUES (101)", "parts: * +1; parts_high: * +1"),
    ("INSERT INTO parts_low VALUES (2)", "parts: * +1"),
    ("INSERT INTO tv_parts_high VALUES (102)", "parts: * +1; parts_high: * +1"),
    ("INSERT INTO tb_ruled VALUES (1)", "plain: * +1"),
    ("INSERT INTO v_user VALUES (1)", "user: * +1"),
    ("SELECT stable_writer(702)", "post: * +1; user: * +1"),
    ("SELECT * FROM v_writer", "post: * +1; user: * +1"),
    ("INSERT INTO tb_default (x) VALUES (1)", "post: * +1; user: * +1"),
    ("REFRESH MATERIALIZED VIEW tv_summary", "summary: * +1"),
    ("SELECT atomic_writer(5)", "plain: * +1"),
    ("SELECT (t).atomic_writer FROM (SELECT 6 AS atomic_writer) t", ""),
    ("CREATE TEMP TABLE tv_user (id int); INSERT INTO tv_user VALUES (1); DROP TABLE pg_temp.tv_user", ""),
    ("SELECT * FROM v_operator", "plain: * +1"),
    (
        "UPDATE tv_generated SET src = '22222222-2222-2222-2222-222222222222' WHERE tenant_id = '11111111-1111-1111-1111-111111111111'",
        "generated: * +1",
    ),
    ("BEGIN; SELECT migrate(); INSERT INTO tb_late VALUES (900); COMMIT", "copy: * +1"),
    (
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT app.write_two(901); COMMIT; CLOSE c",
        "copy: * +1; feed: * +1; generated: * +1; owned: * +1; parts: * +1; parts_high: * +1; plain: * +1; post: * +1; summary: * +1; swapped: * +1; user: * +1",
    ),
    ("CREATE TABLE tv_fresh (id int); INSERT INTO tv_fresh VALUES (1)", "fresh: * +1"),
    ("INSERT INTO tv_fresh VALUES (2)", "fresh: * +1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_drags_along() {
    let env = Env::new(Route::Direct).await;
    env.direct(OBJECTS).await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    let mut wrong = Vec::new();
    for (text, expected) in ROWS {
        env.fresh().await;
        let before = env.versions().await;
        let answer = wire.ask(&query(text));
        let moved = env.versions().await.since(&before);
        if moved != *expected {
            wrong.push(format!("{text}\n   expected {expected:?}, moved {moved:?}, {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What cannot be told apart moves everything: a trigger that fires at COMMIT, a relation that goes
    // by another name.
    let (_, moved) = env.moved(async { wire.ask(&query("INSERT INTO tb_deferred VALUES (77)")) }).await;
    assert!(moved.contains("plain: * +1"), "{moved}");
    let swap = "DO $$ BEGIN ALTER TABLE tv_swapped RENAME TO old_swapped; ALTER TABLE new_swapped RENAME TO tv_swapped; END $$";
    let (_, moved) = env.moved(async { wire.ask(&query(swap)) }).await;
    assert!(moved.contains("swapped: * +1"), "{moved}");
    // Until the server has flushed the counters of that table, the session's measured writes are
    // blind: another session.
    let mut wire = Wire::login(env.port);
    env.fresh().await;
    // The counters keep what an exception block undid: one bump too many, never one too few.
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT swallow(9)")) }).await;
    assert_eq!(moved, "plain: * +1");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_learns_to_write() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    let mut other = Wire::login(env.port);
    let define =
        |body: &str| format!("CREATE OR REPLACE FUNCTION learner(n int) RETURNS void LANGUAGE sql AS $$ {body} $$");
    wire.ask(&query(&define("SELECT 1")));
    env.settle_catalog().await;
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT learner(1)")) }).await;
    assert_eq!(moved, "");
    // In the session that changes it, before and behind its COMMIT; and in another one, at once.
    let (_, moved) = env
        .moved(async {
            wire.ask(&query("BEGIN"));
            let generation = env.generation().await;
            wire.ask(&query(&define("INSERT INTO tv_plain VALUES (n)")));
            eventually("the catalog is read", async || env.generation().await > generation).await;
            wire.ask(&query("SELECT learner(1)"));
            wire.ask(&query("COMMIT"));
        })
        .await;
    assert_eq!(moved, "plain: * +1");
    let (_, moved) = env.moved(async { other.ask(&[unnamed("SELECT learner(2)", &[]), sync()].concat()) }).await;
    assert_eq!(moved, "plain: * +1");
    // Changed behind our back: within the refresh interval.
    env.direct("CREATE FUNCTION late(n int) RETURNS void LANGUAGE sql AS 'INSERT INTO tv_plain VALUES (n)'").await;
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT late(3)")) }).await;
    assert_eq!(moved, "plain: * +1", "a function that the catalog does not know is measured");
    env.stop().await;
}

/// A bump makes its domain known where the control plane could not.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_could_not_be_registered() {
    let env = Env::new(Route::Direct).await;
    env.direct(
        "CREATE FUNCTION refuse_domain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON turbo.tb_domain FOR EACH ROW EXECUTE FUNCTION refuse_domain();
         CREATE TABLE tv_unseen (id int);
         CREATE FUNCTION app.unseen() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_unseen VALUES (1); RETURN 1; END $$",
    )
    .await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    let (_, moved) = env.moved(async { wire.ask(&[unnamed("SELECT app.unseen()", &[]), sync()].concat()) }).await;
    assert_eq!(moved, "unseen: * +1");
    env.stop().await;
}

/// Which domain a table belongs to, the server says where all tracked tables are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn tables_renamed_and_made_behind_our_back() {
    let config = "[catalog]\nrefresh_ms = 3600000\n".to_owned();
    let env = Env::with(Setup { config, ..Setup::default() }).await;
    env.direct("CREATE TABLE tv_shade (id int); CREATE TABLE tv_gone (id int)").await;
    env.settle_catalog().await;
    env.direct("ALTER TABLE tv_shade RENAME TO tv_hue; ALTER TABLE tv_gone RENAME TO gone").await;
    let rows = [
        ("INSERT INTO tv_hue VALUES (ID)", "hue: * +1"),
        ("INSERT INTO gone VALUES (ID)", ""),
        ("INSERT INTO tv_plain VALUES (ID)", "plain: * +1"),
        ("WITH h AS (INSERT INTO tv_hue VALUES (ID)) INSERT INTO tv_plain VALUES (ID)", "hue: * +1; plain: * +1"),
    ];
    let new = [("INSERT INTO tv_new VALUES (ID)", "new: * +1")];
    let mut id = 100;
    for (made, rows) in [("SELECT 1", &rows[..]), ("CREATE TABLE tv_new (id int)", &rows[..]), ("SELECT 1", &new[..])] {
        env.direct(made).await;
        for (sql, expected) in rows {
            for simple in [false, true] {
                id += 1;
                let text = format!("SELECT app.dynamic('{}')", sql.replace("ID", &id.to_string()));
                let bytes = if simple { query(&text) } else { [unnamed(&text, &[]), sync()].concat() };
                // A session of its own: counters of a new table that are not flushed yet would count again.
                let mut wire = Wire::login(env.port);
                let (answer, moved) = env.moved(async { wire.ask(&bytes) }).await;
                assert_eq!(&moved, expected, "{made}; {text}, simple: {simple}: {answer}");
            }
        }
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_earlier_transactions_do_not_count() {
    let env = Env::new(Route::Direct).await;
    let mut wire = Wire::login(env.port);
    for id in 0..50 {
        let (_, moved) = env
            .moved(async {
                wire.ask(&query(&format!("INSERT INTO tv_plain VALUES ({id})")));
                wire.ask(&query("SELECT app.read_only(1)"));
                wire.ask(
                    &[unnamed("SELECT app.dynamic('UPDATE tv_plain SET data = NULL WHERE id < 0')", &[]), sync()]
                        .concat(),
                );
            })
            .await;
        assert_eq!(moved, "plain: * +1", "{id}");
    }
    env.stop().await;
}

/// A procedure that learns to COMMIT behind our back: what was remembered before it is gone, which says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_procedure_that_learns_to_commit() {
    let env = Env::with(Setup { config: "[catalog]\nrefresh_ms = 3600000".into(), ..Setup::default() }).await;
    let procedure = |body: &str| {
        format!(
            "CREATE OR REPLACE PROCEDURE quiet() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_plain VALUES (1); {body} END $$"
        )
    };
    env.direct("ALTER TABLE tv_plain DROP CONSTRAINT IF EXISTS tv_plain_pkey").await;
    env.direct(&procedure("")).await;
    env.settle_catalog().await;
    for extended in [false, true] {
        let mut wire = Wire::login(env.port);
        let mut call = || {
            wire.ask(&if extended { [unnamed("CALL quiet()", &[]), sync()].concat() } else { query("CALL quiet()") })
        };
        for _ in 0..3 {
            let (answer, moved) = env.moved(async { call() }).await;
            assert_eq!(moved, "plain: * +1", "{answer}");
        }
        env.direct(&procedure("COMMIT;")).await;
        let (answer, moved) = env.moved(async { call() }).await;
        assert!(moved.contains("plain: * +1") || answer.contains("2D000"), "extended {extended}: {moved}: {answer}");
        env.direct(&procedure("")).await;
    }
    env.stop().await;
}

/// The server reads what we say in the client's encoding, too.
#[tokio::test(flavor = "multi_thread")]
async fn domains_that_another_encoding_says_otherwise() {
    let env = Env::new(Route::Direct).await;
    env.direct("CREATE TABLE \"tv_grün\" (id int, tenant_id uuid); CREATE TABLE tb_source (id int)").await;
    env.direct("CREATE FUNCTION green() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO \"tv_grün\" VALUES (1); RETURN 1; END $$")
        .await;
    env.direct("CREATE FUNCTION latin() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET client_encoding = 'LATIN1'; RETURN green(); END $$")
        .await;
    env.direct("CREATE RULE source AS ON INSERT TO tb_source DO ALSO INSERT INTO \"tv_grün\" VALUES (NEW.id)").await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    let named = |name: &[u8]| message(b'Q', &[b"INSERT INTO \"tv_gr", name, b"n\" VALUES (1)\0"].concat());
    let once = "grün: * +1";
    for _ in 0..2 {
        wire.ask(&query("SET client_encoding = 'UTF8'"));
        let (answer, moved) = env.moved(async { wire.ask(&named("ü".as_bytes())) }).await;
        assert_eq!(moved, once, "{answer}");
        // A bump that waits is said before the encoding changes.
        let (answer, moved) = env
            .moved(async {
                wire.ask(&query("BEGIN"));
                wire.ask(&[unnamed("INSERT INTO \"tv_grün\" VALUES (1)", &[]), sync()].concat());
                wire.ask(&[unnamed("SET client_encoding = 'LATIN1'", &[]), sync()].concat());
                wire.ask(&query("COMMIT"))
            })
            .await;
        assert_eq!(moved, once, "{answer}");
        for text in ["SELECT green()", "SELECT green()", "INSERT INTO tb_source VALUES (1)", "SELECT latin()"] {
            let (answer, moved) = env.moved(async { wire.ask(&query(text)) }).await;
            assert_eq!(moved, once, "simple {text}: {answer}");
            let (answer, moved) = env.moved(async { wire.ask(&[unnamed(text, &[]), sync()].concat()) }).await;
            assert_eq!(moved, once, "extended {text}: {answer}");
        }
        let (answer, moved) = env.moved(async { wire.ask(&named(b"\xfc")) }).await;
        assert_eq!(moved, once, "{answer}");
        wire.ask(&query("SET client_encoding = 'UTF8'"));
        let (answer, moved) = env.moved(async { wire.ask(&[unnamed("SELECT latin()", &[]), sync()].concat()) }).await;
        assert_eq!(moved, once, "{answer}");
    }
    env.stop().await;
}

/// They are compared as text: PostgreSQL 18 has another plan for the sixth call of a session than for the fifth.
#[tokio::test(flavor = "multi_thread")]
async fn file_nodes_are_said_in_order() {
    let env = Env::new(Route::Direct).await;
    // Its row of pg_class is behind the others now.
    env.direct("ALTER TABLE tv_user SET (fillfactor = 90)").await;
    let nodes = "SELECT turbo.fn_nodes(ARRAY['tv_user', 'tv_post', 'tv_plain']::regclass[]::oid[])";
    let mut said = Vec::new();
    for settings in
        ["SET enable_seqscan = off", "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off"]
    {
        env.direct(settings).await;
        said.push(env.direct.query_one(nodes, &[]).await.unwrap().get::<_, String>(0));
    }
    assert_eq!(said[0], said[1]);
    env.stop().await;
}

/// Conversations, one behind the other on one connection, and what they move. `;` ends a unit of extended messages that are
/// sent in one flight; a text in front of `:` is a simple query.
const ZERO_ROWS: &[(&str, &str)] = &[
    ("SELECT app.write_two(1)", TWO),
    ("SELECT app.write_two(2)", TWO),
    ("SELECT app.read_only(1)", ""),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (1)')", ""),
    ("SELECT app.write_two(3)", TWO),
    ("INSERT INTO tv_plain VALUES (4)", "plain: * +1"),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (2)')", ""),
    // What failed has moved the counters.
    ("SELECT app.write_two(5) / 0", ""),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (3)')", ""),
    ("SELECT app.write_two(6) / 0:", ""),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (4)'):", ""),
    ("SELECT app.write_two(7):", TWO),
    ("SELECT app.write_two(8); SELECT app.dynamic('INSERT INTO notes VALUES (5)'); SELECT app.write_two(9)", FOUR),
    ("SELECT 1 / 0; SELECT app.write_two(10); SELECT app.read_only(1)", TWO),
    ("BEGIN:", ""),
    ("SELECT app.write_two(11)", ""),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (6)')", ""),
    ("INSERT INTO tv_plain VALUES (12)", ""),
    ("SELECT app.write_two(13)", ""),
    ("COMMIT:", "plain: * +1; post: * +2; user: * +2"),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (7)')", ""),
    (
        "BEGIN: SAVEPOINT s: SELECT app.write_two(14): ROLLBACK TO s: SELECT app.dynamic('INSERT INTO notes VALUES (8)'): COMMIT:",
        "",
    ),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (9)')", ""),
    ("BEGIN: SELECT app.write_two(15): ROLLBACK:", ""),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (10)')", ""),
    // A measured statement that writes nothing, and a write in the same transaction.
    ("BEGIN: SELECT app.dynamic('SELECT 1'): INSERT INTO tv_plain VALUES (18): COMMIT:", "plain: * +1"),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (11)')", ""),
    (
        "BEGIN: SELECT app.write_two(0 * n) FROM generate_series(1, 0) n: INSERT INTO tv_plain VALUES (19): COMMIT:",
        "plain: * +1",
    ),
    ("SELECT app.write_two(19) FROM app.dynamic('INSERT INTO notes VALUES (12)')", TWO),
    ("SELECT app.dynamic('INSERT INTO notes VALUES (13)')", ""),
    ("SELECT app.dynamic('TRUNCATE tv_plain')", "plain: * +1"),
    ("SELECT app.dynamic('INSERT INTO tv_plain VALUES (16)')", "plain: * +1"),
    ("SELECT app.dynamic('CREATE TABLE tv_fresh AS SELECT 1 AS id')", "fresh: * +1"),
    ("SELECT app.write_two(17)", TWO),
    // What another session's counters say is no matter of this one's.
    ("SELECT app.read_only(1)", ""),
];
const TWO: &str = "post: * +1; user: * +1";
const FOUR: &str = "post: * +2; user: * +2";

/// The counters begin anew behind each measurement, so that the next one need not remember them: as an ordinary role, too.
#[tokio::test(flavor = "multi_thread")]
async fn measurements_that_begin_at_zero() {
    let env = Env::with(Setup { settings: vec!["track_functions = all".into()], ..Setup::default() }).await;
    env.direct(
        "CREATE TABLE notes (id int); CREATE ROLE ordinary; GRANT ALL ON ALL TABLES IN SCHEMA public TO ordinary",
    )
    .await;
    env.direct("GRANT CREATE, USAGE ON SCHEMA public TO ordinary; GRANT USAGE ON SCHEMA app TO ordinary").await;
    env.direct("ALTER TABLE tv_plain OWNER TO ordinary").await;
    env.settle_catalog().await;
    for role in ["postgres", "ordinary"] {
        env.direct("TRUNCATE tv_user, tv_post, tv_plain").await;
        let mut wire = Wire::login(env.port);
        wire.ask(&query(&format!("SET ROLE {role}")));
        for (text, expected) in ZERO_ROWS {
            let (answer, moved) = env
                .moved(async {
                    if text.ends_with(':') {
                        return text
                            .split_terminator(':')
                            .map(|one| wire.ask(&query(one)))
                            .collect::<Vec<_>>()
                            .join(" ");
                    }
                    let flight: Vec<_> = text.split(';').flat_map(|one| [unnamed(one, &[]), sync()]).collect();
                    wire.ask_many(&flight.concat(), flight.len() / 2)
                })
                .await;
            assert_eq!(moved, *expected, "{role}: {text}: {answer}");
            if text.contains("CREATE TABLE") {
                env.direct("DROP TABLE tv_fresh").await;
                env.settle_catalog().await;
            }
        }
    }
    let calls = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = $1";
    if env.server_version().await >= 15 {
        eventually("30 measurements of each role remember 11 times", async || {
            let mut counts = [0; 2];
            for (count, name) in counts.iter_mut().zip(["fn_measured", "fn_measure_begin"]) {
                *count = env.direct.query_one(calls, &[&name]).await.unwrap().get::<_, i64>(0);
            }
            counts[0] >= 6 && counts[1] <= 24
        })
        .await;
    }
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_counters_everything_is_bumped() {
    let env = Env::with(Setup { settings: vec!["track_counts = off".into()], ..Setup::default() }).await;
    let mut wire = Wire::login(env.port);
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT app.write_two(1)")) }).await;
    assert_eq!(moved, "feed: * +1; plain: * +1; post: * +1; user: * +1");
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT app.read_only(1)")) }).await;
    assert_eq!(moved, "", "without a transaction id nothing was written");
    assert_eq!(env.metric("turnstile_bumps_total{kind=\"blind\"}"), 1.0, "one log row for every domain");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_tables_and_other_encodings() {
    let env = Env::with(Setup { config: "[domains]\nroles = \"role\"".into(), ..Setup::default() }).await;
    env.direct("CREATE TABLE roles (id int, tenant_id uuid)").await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    let (_, moved) = env.moved(async { wire.ask(&query(&format!("INSERT INTO roles VALUES (1, '{T1}')"))) }).await;
    assert!(moved == "role: T1 +1", "{moved}");
    let (_, moved) = env.moved(async { wire.ask(&query("SELECT app.dynamic('DELETE FROM roles')")) }).await;
    assert_eq!(moved, "role: * +1");
    // In SJIS a byte of a character may look like a backslash: texts are looked into while they are ASCII.
    wire.ask(&query("SET client_encoding = 'SJIS'"));
    let (answer, moved) =
        env.moved(async { wire.ask(&query(&format!("INSERT INTO tv_user VALUES (1, '{T1}')"))) }).await;
    assert_eq!((answer.as_str(), moved.as_str()), ("C(INSERT 0 1) ZI", "user: T1 +1"));
    let text = [&b"INSERT INTO tv_user VALUES (2, NULL, '\x95\x5c')\0"[..]].concat();
    let (answer, moved) = env.moved(async { wire.ask(&message(b'Q', &text)) }).await;
    assert_eq!(answer, "C(INSERT 0 1) ZI");
    assert!(moved.contains("user: * +"), "{moved}");
    // In a read-only transaction nothing of ours writes.
    wire.ask(&query("BEGIN READ ONLY"));
    let answer = wire.ask(&message(b'Q', b"SELECT length('\x95\x5c')\0"));
    assert_eq!(answer, "T D(1) C(SELECT 1) ZT");
    wire.ask(&query("COMMIT"));
    env.stop().await;
}

/// The Sync that drivers send before the data waits until it is known whether they are read.
#[tokio::test(flavor = "multi_thread")]
async fn extended_copies_through_a_pooler() {
    for route in [Route::Direct, Route::Bouncer] {
        let env = Env::new(route).await;
        let mut wire = Wire::login(env.port);
        for row in ["1\t\\N\tx\n", "2\t11111111-1111-1111-1111-111111111111\tx\n"] {
            let data = [message(b'd', row.as_bytes()), message(b'c', b""), sync()].concat();
            let copy = [unnamed("COPY tv_post FROM STDIN", &[]), sync(), data].concat();
            let (answer, moved) = env.moved(async { wire.ask(&copy) }).await;
            assert_eq!(answer, "1 2 G C(COPY 1) ZI", "{route:?}");
            assert_eq!(moved, if row.starts_with('1') { "post: * +1" } else { "post: T1 +1" }, "{route:?}");
        }
        let refused = [unnamed("COPY nope FROM STDIN", &[]), sync()].concat();
        assert!(wire.ask(&refused).contains("E(42P01"), "{route:?}");
        assert_eq!(wire.ask(&query("SELECT 1")), wire.ask(&query("SELECT 1")), "{route:?}");
        env.stop().await;
    }
}

/// A text that is analysed elsewhere moves what a short one does, also when the catalog changes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn long_texts_move_what_short_ones_do() {
    let env = Env::new(Route::Direct).await;
    env.settle_catalog().await;
    let mut wire = Wire::login(env.port);
    let mut id = 0;
    for settled in [true, false] {
        for tenants in [&[T1][..], &[T1, T2]] {
            let mut text = || {
                id += 4_000;
                let row = |n: usize| format!("({}, '{}')", id + n, tenants[n % tenants.len()]);
                format!("INSERT INTO tv_user VALUES {}", (0..3_000).map(row).collect::<Vec<_>>().join(", "))
            };
            let flights = [query(&text()), [unnamed(&text(), &[]), sync()].concat()];
            for flight in flights {
                assert!(flight.len() > turnstile::limits::TEXT_BYTES_AT_ONCE);
                if settled {
                    env.settle_catalog().await;
                } else {
                    wire.ask(&query("ALTER TABLE tb_user SET (fillfactor = 90)"));
                }
                let before = env.versions().await;
                let answer = wire.ask(&flight);
                assert!(answer.contains("C(INSERT 0 3000)") && answer.ends_with("ZI"), "{answer}");
                let moved = env.versions().await.since(&before);
                let exact = if tenants.len() == 1 { "user: T1 +1" } else { "user: T1 +1, T2 +1" };
                assert!(moved == exact || (!settled && moved.starts_with("user: ")), "{moved}");
            }
        }
    }
    env.stop().await;
}
