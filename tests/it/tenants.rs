//! Whose version moves where `tenant.trust_setting` says that the session's setting is the truth.

use crate::support::wire::{Wire, query, sync, unnamed};
use crate::support::{Env, Setup, T1, T2};

/// A bump that waits is the tenant's whom the setting named when the row was written.
#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_setting_changes_between_writes() {
    let env = Env::with(Setup { config: "[tenant]\ntrust_setting = true".into(), ..Setup::default() }).await;
    env.direct("CREATE FUNCTION app.becomes(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant_id', t, true) $$; INSERT INTO tv_user VALUES (1)").await;
    env.settle_catalog().await;
    let update = "UPDATE tv_user SET name = 'x'";
    let changes: Vec<[String; 2]> = vec![
        [format!("SET LOCAL app.tenant_id = '{T1}'"), format!("SET LOCAL app.tenant_id = '{T2}'")],
        [format!("SET APP.Tenant_Id TO '{T1}'"), format!("SET \"app\".\"tenant_id\" TO '{T2}'")],
        [
            format!("SELECT set_config('app.tenant_id', '{T1}', true)"),
            format!("SELECT set_config('app.' || 'tenant_id', '{T2}', true)"),
        ],
        [format!("SELECT app.becomes('{T1}')"), format!("SELECT app.becomes('{T2}')")],
        [
            format!("SET SESSION app.tenant_id = '{T1}'"),
            format!("RESET app.tenant_id; SET app.current_tenant_id = '{T2}'"),
        ],
        [
            format!("DECLARE a CURSOR FOR SELECT set_config('app.tenant_id', '{T1}', true); FETCH a"),
            format!("DECLARE b CURSOR FOR SELECT set_config('app.tenant_id', '{T2}', true); FETCH b"),
        ],
        [
            format!("SAVEPOINT s; SET LOCAL app.tenant_id = '{T1}'"),
            format!("RELEASE s; SET LOCAL app.tenant_id = '{T2}'"),
        ],
    ];
    let mut wrong = Vec::new();
    for [first, second] in &changes {
        let statements: Vec<&str> = ["BEGIN"]
            .into_iter()
            .chain(first.split("; "))
            .chain([update])
            .chain(second.split("; "))
            .chain([update, "COMMIT"])
            .collect();
        let extended: Vec<Vec<u8>> = statements.iter().map(|sql| unnamed(sql, &[])).collect();
        let flights: Vec<Vec<(Vec<u8>, usize)>> = vec![
            statements.iter().map(|sql| (query(sql), 1)).collect(),
            vec![(query(&statements.join("; ")), 1)],
            vec![
                (query("BEGIN"), 1),
                (query(&statements[1..statements.len() - 1].join("; ")), 1),
                (query("COMMIT"), 1),
            ],
            extended.iter().map(|message| ([&message[..], &sync()].concat(), 1)).collect(),
            vec![([extended.concat(), sync()].concat(), 1)],
            vec![(
                extended.iter().map(|message| [&message[..], &sync()].concat()).collect::<Vec<_>>().concat(),
                extended.len(),
            )],
        ];
        for (at, flight) in flights.into_iter().enumerate() {
            env.fresh().await;
            let mut wire = Wire::login(env.port);
            let before = env.versions().await;
            let answers: Vec<String> = flight.iter().map(|(bytes, ready)| wire.ask_many(bytes, *ready)).collect();
            let moved = env.versions().await.since(&before);
            if moved != "user: T1 +1, T2 +1" {
                wrong.push(format!("{at}: {first} / {second}: {moved:?}\n   {}", answers.join("\n   ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    env.stop().await;
}

/// The setting of a session says nothing of what runs with other rights, or sets it itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_setting_does_not_bind_everything() {
    let env = Env::with(Setup { config: "[tenant]\ntrust_setting = true".into(), ..Setup::default() }).await;
    env.direct(
        "CREATE FUNCTION app.bound(n int) RETURNS int LANGUAGE sql AS $$ INSERT INTO tv_user VALUES (n) RETURNING id $$;
         CREATE FUNCTION app.definer(n int) RETURNS int LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO tv_user VALUES (n) RETURNING id $$;
         CREATE FUNCTION app.calls(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN app.definer(n); END $$;
         CREATE FUNCTION app.with_setting(n int) RETURNS int LANGUAGE sql SET app.tenant_id = 'x' AS $$ INSERT INTO tv_user VALUES (n) RETURNING id $$;
         CREATE FUNCTION app.sets(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE former text := current_setting('app.tenant_id'); BEGIN
             PERFORM set_config('app.tenant_id', '22222222-2222-2222-2222-222222222222', true); INSERT INTO tv_user VALUES (n);
             PERFORM set_config('app.tenant_id', former, true); RETURN n; END $$;
         CREATE VIEW v_definer AS SELECT app.definer(60) AS n;
         CREATE FUNCTION app.spreads() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO tv_feed VALUES (NEW.id); RETURN NEW; END $$;
         CREATE TRIGGER spreads AFTER INSERT ON tv_post FOR EACH ROW EXECUTE FUNCTION app.spreads()",
    )
    .await;
    env.settle_catalog().await;
    for (sql, expected) in [
        ("SELECT app.bound(1)", "user: T1 +1"),
        ("SELECT app.definer(10)", "user: * +1"),
        ("SELECT app.calls(20)", "user: * +1"),
        ("SELECT app.with_setting(30)", "user: * +1"),
        ("SELECT app.sets(40)", "user: * +1"),
        ("SELECT * FROM v_definer", "user: * +1"),
        ("INSERT INTO tv_post SELECT 70", "feed: * +1; post: * +1"),
        ("UPDATE tv_user SET name = 'x' WHERE id = 1", "user: T1 +1"),
    ] {
        for extended in [false, true] {
            env.direct("DELETE FROM tv_user WHERE id >= 10; DELETE FROM tv_post; DELETE FROM tv_feed").await;
            let sql = if extended { sql.replace("(1)", "(2)") } else { sql.to_owned() };
            let mut wire = Wire::login(env.port);
            wire.ask(&query(&format!("SET app.tenant_id = '{T1}'")));
            let bytes = if extended { [unnamed(&sql, &[]), sync()].concat() } else { query(&sql) };
            let (answer, moved) = env.moved(async { wire.ask(&bytes) }).await;
            assert_eq!(moved, expected, "{sql}: {answer}");
        }
    }
    env.stop().await;
}
