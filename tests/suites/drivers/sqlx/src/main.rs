//! What an application does with sqlx, as a transcript that must be the same direct and through Turnstile.
//!
//!     cargo run -- postgres://postgres@127.0.0.1:5432/db
//!
//! Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
//! what was expected through; the program fails when it is neither. The last line is the sum.

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgQueryResult, PgRow};
use sqlx::{Column, ConnectOptions, Connection, Error, Executor, PgConnection, Row, Statement, TypeInfo};
use std::time::Duration;
use uuid::{Uuid, uuid};

const T: Uuid = uuid!("11111111-1111-1111-1111-111111111111");
const INSERT: &str = "INSERT INTO tv_item VALUES ($1, $2, $3)";
type Run<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A row with its columns' names and types, and the values of the types that occur here.
fn row(r: &PgRow) -> String {
    let value = |i: usize| match r.column(i).type_info().name() {
        "INT4" => format!("{:?}", r.get::<Option<i32>, _>(i)),
        "INT8" => format!("{:?}", r.get::<Option<i64>, _>(i)),
        "UUID" => format!("{:?}", r.get::<Option<Uuid>, _>(i)),
        _ => format!("{:?}", r.try_get_unchecked::<Option<String>, _>(i)),
    };
    r.columns()
        .iter()
        .enumerate()
        .map(|(i, c)| format!("{} {} {}; ", c.name(), c.type_info().name(), value(i)))
        .collect()
}

/// Runs a query and shows all that it answers, command tags' row counts included.
async fn show<'q, Q: sqlx::Execute<'q, sqlx::Postgres> + 'q>(c: &mut PgConnection, q: Q) -> Run {
    let mut answers = c.fetch_many(q);
    while let Some(answer) = answers.try_next().await? {
        println!(
            "  {}",
            answer
                .either(|done: PgQueryResult| format!("done {}", done.rows_affected()), |r| format!("row {}", row(&r)))
        );
    }
    Ok(())
}

/// Shows what must fail. Position and context would show a text that is not the client's.
fn fails<T>(what: &str, answer: Result<T, Error>) -> Run {
    match answer {
        Err(Error::Database(e)) => {
            let e = e.downcast_ref::<sqlx::postgres::PgDatabaseError>();
            let (detail, hint, place, names) =
                (e.detail(), e.hint(), e.r#where(), (e.table(), e.constraint(), e.routine()));
            println!(
                "  {what} {:?} {} {} {:?} {detail:?} {hint:?} {place:?} {names:?}",
                e.severity(),
                e.code(),
                e.message(),
                e.position()
            );
            Ok(())
        }
        Err(e) => Err(format!("{what}: {e}").into()),
        Ok(_) => Err(format!("{what}: did not fail").into()),
    }
}

async fn simple_and_extended(c: &mut PgConnection) -> Run {
    show(c, sqlx::raw_sql(&format!("INSERT INTO tv_item VALUES (1, '{T}', 'one') RETURNING *"))).await?; // +1, simple
    show(c, sqlx::query(INSERT).bind(2).bind(T).bind("two")).await?; // +1, prepared, cached by sqlx
    show(c, sqlx::query(INSERT).bind(3).bind(T).bind(None::<String>)).await?; // +1, from the cache
    show(c, sqlx::query(INSERT).bind(4).bind(T).bind("x").persistent(false)).await?; // +1, unnamed
    show(c, sqlx::query("SELECT app.create_item($1, $2, $3)").bind(5).bind(T).bind("five")).await?; // +1, by a function
    show(c, sqlx::query("SELECT * FROM tv_item ORDER BY id")).await?;
    show(c, sqlx::query("UPDATE tv_item SET name = 'none' WHERE tenant_id = $1 AND id = 99").bind(T)).await?; // writes nothing
    show(c, sqlx::query("INSERT INTO tb_plain VALUES (1, 'plain')")).await?;
    // Several statements in one simple query: each has its result, and both writes are counted (+2).
    let many =
        format!("INSERT INTO tv_item VALUES (6, '{T}', 'x'); SELECT 3 AS three; DELETE FROM tv_item WHERE id = 6");
    show(c, sqlx::raw_sql(&many)).await?;
    show(c, sqlx::query("")).await?;
    let s = c.prepare("DELETE FROM tv_item WHERE tenant_id = $1 AND id = $2 RETURNING id, name").await?;
    println!(
        "  {:?} {:?}",
        s.columns().iter().map(|c| (c.name(), c.type_info().name())).collect::<Vec<_>>(),
        s.parameters()
    );
    show(c, s.query().bind(T).bind(4)).await?; // +1
    show(c, s.query().bind(T).bind(4)).await?; // finds nothing
    show(c, sqlx::query("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time")).await?; // the client's texts
    show(c, sqlx::query("WITH d AS (DELETE FROM tv_item WHERE id = 5 RETURNING id) SELECT * FROM d")).await // +1
}

async fn transactions(c: &mut PgConnection) -> Run {
    let mut t = c.begin().await?;
    show(&mut t, sqlx::query(INSERT).bind(20).bind(T).bind("a")).await?; // +1
    let mut s = t.begin().await?; // a savepoint
    show(&mut s, sqlx::query(INSERT).bind(21).bind(T).bind("b")).await?; // undone
    fails("duplicate", sqlx::query(INSERT).bind(20).bind(T).bind("dup").execute(&mut *s).await)?;
    fails("aborted", sqlx::query("SELECT 1").execute(&mut *s).await)?;
    s.rollback().await?;
    let mut s = t.begin().await?;
    show(&mut s, sqlx::query("SELECT app.create_item(22, $1, 'c')").bind(T)).await?; // +1
    s.commit().await?;
    show(&mut t, sqlx::query("SELECT id FROM tv_item WHERE id >= 20 ORDER BY id")).await?;
    t.commit().await?;
    let mut t = c.begin().await?;
    show(&mut t, sqlx::query("DELETE FROM tv_item")).await?;
    drop(t); // the ROLLBACK is sent before what comes next
    let mut t = c.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await?;
    fails("read only", sqlx::query(INSERT).bind(23).bind(T).bind("d").execute(&mut *t).await)?;
    t.rollback().await?;
    show(c, sqlx::query(INSERT).bind(24).bind(T).bind("e")).await // +1
}

async fn errors(c: &mut PgConnection) -> Run {
    for q in [
        "INSERT INTO tv_item VALUES (1, NULL, 'dup')",
        "INSERT INTO tv_item (id, nope) VALUES (50, 1)",
        "SELEC 1",
        "SELECT 1; INSERT INTO tv_item VALUES (98, NULL, 'x'); SELECT nope FROM tv_item",
        "UPDATE tv_itm SET id = 1",
        "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'T1234', DETAIL = 'det', HINT = 'hin'; END $$",
        "SELECT app.create_item(1, NULL, 'dup')",
        "INSERT INTO tv_item VALUES (98, 'no uuid', 'x')",
    ] {
        fails("simple", sqlx::raw_sql(q).execute(&mut *c).await)?;
        fails("extended", sqlx::query(q).execute(&mut *c).await)?;
    }
    fails("parameter", sqlx::query(INSERT).bind("x").bind(T).bind("y").execute(&mut *c).await)?;
    // A changed table makes the server refuse the plan of a cached statement.
    show(c, sqlx::query("SELECT * FROM tb_plain")).await?;
    show(c, sqlx::raw_sql("ALTER TABLE tb_plain ADD COLUMN more int")).await?;
    fails("changed", sqlx::query("SELECT * FROM tb_plain").execute(c).await)
}

async fn copy(c: &mut PgConnection) -> Run {
    let mut to = c.copy_in_raw("COPY tv_item FROM STDIN").await?; // +1
    println!("  {} columns, textual {}", to.num_columns(), to.is_textual());
    for i in 100..3100 {
        to.send(format!("{i}\t{T}\tcopied\n").into_bytes()).await?;
    }
    println!("  {}", to.finish().await?);
    let mut t = c.begin().await?;
    let mut to = t.copy_in_raw("COPY tv_item (id, tenant_id) FROM STDIN (FORMAT csv)").await?; // +1, in a block
    to.send(format!("4000,{T}\n40").into_bytes()).await?; // a row in two messages
    to.send(format!("01,{T}\n").into_bytes()).await?;
    println!("  {}", to.finish().await?);
    t.commit().await?;
    for rows in ["x\ty\n".to_string(), format!("1\t{T}\tdup\n")] {
        let mut to = c.copy_in_raw("COPY tv_item FROM STDIN").await?;
        to.send(rows.into_bytes()).await?;
        fails("copy", to.finish().await)?;
    }
    c.copy_in_raw("COPY tv_item FROM STDIN").await?.abort("the client gives up: CopyFail").await?;
    fails("no table", c.copy_in_raw("COPY tv_itm FROM STDIN").await)?;
    for form in ["text", "csv", "binary"] {
        let text =
            format!("COPY (SELECT id, name FROM tv_item WHERE id >= 3098 ORDER BY id) TO STDOUT (FORMAT {form})");
        let parts: Vec<_> = c.copy_out_raw(&text).await?.try_collect().await?;
        println!("  {:?}", parts.concat());
    }
    show(c, sqlx::query("SELECT count(*), sum(id) FROM tv_item")).await
}

async fn streams_notifications_timeouts(c: &mut PgConnection, options: &PgConnectOptions) -> Run {
    let pool = PgPoolOptions::new().max_connections(3).connect_with(options.clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all(["ch", "two"]).await?;
    let mut t = c.begin().await?;
    show(&mut t, sqlx::query(INSERT).bind(6000).bind(T).bind("n")).await?; // +1
    show(&mut t, sqlx::query("SELECT pg_notify('ch', 'in a transaction')")).await?;
    t.commit().await?;
    show(c, sqlx::raw_sql("NOTIFY two, 'simple'")).await?;
    for _ in 0..2 {
        let n = listener.recv().await?;
        println!("  {} {}", n.channel(), n.payload());
    }
    // A stream that is dropped: sqlx reads the rest of the answer before its next query.
    println!(
        "  {}",
        row(&sqlx::query("SELECT id FROM tv_item ORDER BY id").fetch(&mut *c).try_next().await?.ok_or("no row")?)
    );
    let sum = sqlx::query("SELECT id FROM tv_item")
        .fetch(&mut *c)
        .try_fold(0i64, |n, r| async move { Ok(n + i64::from(r.get::<i32, _>(0))) });
    println!("  {}", sum.await?);
    show(c, sqlx::raw_sql("SET statement_timeout = 200")).await?;
    fails(
        "timeout",
        sqlx::query("SELECT app.create_item(6001, $1, pg_sleep(20)::text)").bind(T).execute(&mut *c).await,
    )?;
    let insert = (0..10).map(|i| sqlx::query(INSERT).bind(6100 + i).bind(T).bind("pool").execute(&pool));
    println!("  {}", futures_util::future::try_join_all(insert).await?.len()); // +10, on three connections
    Ok(()) // not pool.close(): once in a hundred runs it did not come back, without Turnstile too
}

async fn run(url: &str) -> Run {
    let options = url.parse::<PgConnectOptions>()?.disable_statement_logging();
    let (mut control, mut sum, mut expected_sum) = (options.connect().await?, 0, 0);
    control.execute("SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain; DROP SCHEMA IF EXISTS app CASCADE;
        CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);
        CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);
        CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$").await?;
    let read = "SELECT turbo.fn_domain_version($1, 'item')";
    for (name, expected) in
        [("simple and extended", 9), ("transactions", 3), ("errors", 0), ("copy", 2), ("streams", 11)]
    {
        println!("# {name}");
        let before: i64 = sqlx::query_scalar(read).bind(T).fetch_one(&mut control).await?;
        let mut c = options.connect().await?;
        match name {
            "simple and extended" => simple_and_extended(&mut c).await?,
            "transactions" => transactions(&mut c).await?,
            "errors" => errors(&mut c).await?,
            "copy" => copy(&mut c).await?,
            _ => streams_notifications_timeouts(&mut c, &options).await?,
        }
        c.close().await?;
        let moved = sqlx::query_scalar::<_, i64>(read).bind(T).fetch_one(&mut control).await? - before;
        println!("VERSION {name} {moved} of {expected}");
        (sum, expected_sum) = (sum + moved, expected_sum + expected);
    }
    control.execute("DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE").await?;
    println!("VERSION {sum} of {expected_sum}");
    if sum == 0 || sum == expected_sum {
        Ok(())
    } else {
        Err("the version moved by neither 0 nor what was expected".into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Run {
    let url = std::env::args().nth(1).ok_or("usage: suite-sqlx URL")?;
    tokio::time::timeout(Duration::from_secs(120), run(&url)).await?
}
