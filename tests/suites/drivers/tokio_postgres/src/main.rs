//! What an application does with tokio-postgres, as a transcript that must be the same direct and through Turnstile.
//!
//!     cargo run -- postgres://postgres@127.0.0.1:5432/db
//!
//! Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
//! what was expected through; the program fails when it is neither. The last line is the sum.

use futures_util::future::{join_all, poll_fn, try_join, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::config::Host;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage, Statement};
use uuid::{Uuid, uuid};

const T: Uuid = uuid!("11111111-1111-1111-1111-111111111111");
const INSERT: &str = "INSERT INTO tv_item VALUES ($1, $2, $3)";
type Run<T = ()> = Result<T, Box<dyn std::error::Error>>;
/// Notices and notifications: the connection's task gets them, and each part shows them at its end.
type Heard = Arc<Mutex<Vec<String>>>;

async fn connect(url: &str) -> Run<(Client, Heard)> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let heard = Heard::default();
    let all = heard.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            all.lock().unwrap().push(match message {
                AsyncMessage::Notice(n) => format!("notice {} {} {}", n.severity(), n.code().code(), n.message()),
                AsyncMessage::Notification(n) => format!("notification {} {}", n.channel(), n.payload()),
                _ => "another message".to_string(),
            });
        }
    });
    Ok((client, heard))
}

fn row(r: &Row) -> String {
    let value = |i: usize| match *r.columns()[i].type_() {
        Type::INT4 => format!("{:?}", r.get::<_, Option<i32>>(i)),
        Type::INT8 => format!("{:?}", r.get::<_, Option<i64>>(i)),
        Type::UUID => format!("{:?}", r.get::<_, Option<Uuid>>(i)),
        _ => format!("{:?}", r.try_get::<_, Option<String>>(i).ok()),
    };
    let columns = r.columns().iter().enumerate();
    columns.map(|(i, c)| format!("{} {} {} {}; ", c.name(), c.type_(), c.type_modifier(), value(i))).collect()
}

/// Shows rows and the number of the command tag.
async fn show<S: ?Sized + tokio_postgres::ToStatement>(c: &Client, what: &S, with: &[&(dyn ToSql + Sync)]) -> Run {
    let rows = c.query_raw(what, with.iter().copied()).await?;
    pin_mut!(rows);
    while let Some(r) = rows.try_next().await? {
        println!("  row {}", row(&r));
    }
    Ok(println!("  done {:?}", rows.rows_affected()))
}

fn simple(answer: Vec<SimpleQueryMessage>) {
    for message in answer {
        match message {
            SimpleQueryMessage::Row(r) => println!("  row {:?}", (0..r.len()).map(|i| r.get(i)).collect::<Vec<_>>()),
            SimpleQueryMessage::CommandComplete(n) => println!("  done {n}"),
            SimpleQueryMessage::RowDescription(d) => {
                println!("  columns {:?}", d.iter().map(|c| c.name()).collect::<Vec<_>>())
            }
            _ => println!("  another message"),
        }
    }
}

/// Shows what must fail. Position and context would show a text that is not the client's.
fn fails<T>(what: &str, answer: Result<T, Error>) -> Run {
    let Err(e) = answer else { return Err(format!("{what}: did not fail").into()) };
    let Some(e) = e.as_db_error() else { return Ok(println!("  {what} {e}")) };
    let names = (e.table(), e.column(), e.constraint(), e.routine());
    println!(
        "  {what} {} {} {} {:?} {:?} {:?} {:?} {names:?}",
        e.severity(),
        e.code().code(),
        e.message(),
        e.position(),
        e.detail(),
        e.hint(),
        e.where_()
    );
    Ok(())
}

async fn simple_and_extended(c: &Client) -> Run {
    simple(c.simple_query(&format!("INSERT INTO tv_item VALUES (1, '{T}', 'one') RETURNING *")).await?); // +1
    show(c, INSERT, &[&2, &T, &"two"]).await?; // +1, a named statement that is closed again
    let s = c.prepare("INSERT INTO tv_item VALUES ($1, $2, $3) RETURNING id, name").await?;
    println!("  {:?} {:?}", s.params(), s.columns().iter().map(|c| (c.name(), c.type_().name())).collect::<Vec<_>>());
    for i in 3..6 {
        show(c, &s, &[&i, &T, &None::<String>]).await?; // +3
    }
    fails("again", c.query(&s, &[&3, &T, &"dup"]).await)?;
    show(c, "SELECT app.create_item($1, $2, 'six')", &[&6, &T]).await?; // +1, by a function, with a notice
    let typed = c.query_typed(
        "DELETE FROM tv_item WHERE tenant_id = $1 AND id = $2 RETURNING *",
        &[(&T, Type::UUID), (&5, Type::INT4)],
    );
    println!("  {}", row(&typed.await?[0])); // +1, unnamed, without a Describe of its own
    show(c, "SELECT * FROM tv_item ORDER BY id", &[]).await?;
    show(c, "UPDATE tv_item SET name = 'none' WHERE tenant_id = $1 AND id = 99", &[&T]).await?; // writes nothing
    show(c, "SELECT statement FROM pg_prepared_statements ORDER BY prepare_time", &[]).await?; // the client's texts
    // Several statements in one simple query: each has its result, and both writes are counted (+2).
    simple(
        c.simple_query(&format!(
            "INSERT INTO tv_item VALUES (7, '{T}', 'x'); SELECT 3 AS three; DELETE FROM tv_item WHERE id = 7;;"
        ))
        .await?,
    );
    Ok(simple(c.simple_query("").await?))
}

/// What is sent without waiting for answers: each query has its own Sync, so an error concerns its own query only.
async fn pipelined(c: &Client) -> Run {
    let (insert, delete): (Statement, Statement) =
        try_join(c.prepare(INSERT), c.prepare("DELETE FROM tv_item WHERE tenant_id = $1 AND id = $2")).await?;
    let rows: Vec<[&(dyn ToSql + Sync); 3]> =
        vec![[&20, &T, &"a"], [&21, &T, &"b"], [&20, &T, &"dup"], [&22, &T, &"c"]];
    let answers = join_all(rows.iter().map(|r| c.execute(&insert, r))).await; // +3
    for a in answers {
        match a {
            Ok(n) => println!("  {n}"),
            Err(e) => fails::<()>("one of many", Err(e))?,
        }
    }
    let two: [&(dyn ToSql + Sync); 2] = [&T, &22];
    let (n, rows) =
        try_join(c.execute(&delete, &two), c.query("SELECT id FROM tv_item WHERE id >= 20 ORDER BY id", &[])).await?; // +1
    println!("  {n} {:?}", rows.iter().map(row).collect::<Vec<_>>());
    // More than a socket's buffers hold, answers larger than the questions.
    let big = c.prepare("SELECT $1::int4, repeat('x', 2000)").await?;
    let many = try_join_all((0..2000).map(|i| {
        let big = &big;
        async move { c.query_one(big, &[&i]).await }
    }))
    .await?;
    Ok(println!("  {}", many.iter().map(|r| r.get::<_, i32>(0)).sum::<i32>()))
}

async fn transactions(c: &mut Client) -> Run {
    let mut t = c.transaction().await?;
    println!("  {}", t.execute(INSERT, &[&30, &T, &"a"]).await?); // +1
    let s = t.savepoint("s").await?;
    println!("  {}", s.execute(INSERT, &[&31, &T, &"b"]).await?); // undone
    fails("duplicate", s.execute(INSERT, &[&30, &T, &"dup"]).await)?;
    fails("aborted", s.simple_query("SELECT 1").await)?;
    s.rollback().await?;
    let s = t.transaction().await?;
    println!("  {}", row(&s.query_one("SELECT app.create_item(32, $1, 'c')", &[&T]).await?)); // +1
    s.commit().await?;
    // Portals: rows in pieces. One that writes is one statement (+1).
    let p = t.bind("SELECT i, app.create_item(i, $1, 'p') FROM generate_series(40, 44) i", &[&T]).await?;
    let q = t.bind("SELECT id FROM tv_item ORDER BY id", &[]).await?;
    for n in [2, 2, 0, 0] {
        println!("  {:?}", t.query_portal(&p, n).await?.iter().map(row).collect::<Vec<_>>());
    }
    println!("  {} {}", t.query_portal(&q, 3).await?.len(), t.query_portal(&q, 0).await?.len());
    t.commit().await?;
    let t = c.build_transaction().isolation_level(IsolationLevel::Serializable).read_only(true).start().await?;
    fails("read only", t.execute(INSERT, &[&33, &T, &"d"]).await)?;
    drop(t); // its ROLLBACK is sent before what comes next
    let t = c.transaction().await?;
    println!("  {}", t.execute("DELETE FROM tv_item", &[]).await?);
    t.rollback().await?; // nothing
    show(c, "WITH d AS (DELETE FROM tv_item WHERE id = 30 RETURNING id) SELECT * FROM d", &[]).await // +1
}

async fn errors(c: &Client) -> Run {
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
        fails("simple", c.simple_query(q).await)?;
        fails("extended", c.query(q, &[]).await)?;
        fails("unnamed", c.query_typed(q, &[]).await)?;
    }
    let plain = c.prepare("SELECT * FROM tb_plain").await?;
    c.batch_execute("ALTER TABLE tb_plain ADD COLUMN more int").await?;
    fails("changed", c.query(&plain, &[]).await)
}

async fn copy(c: &mut Client) -> Run {
    let to = c.copy_in("COPY tv_item (id, tenant_id, name) FROM STDIN (FORMAT binary)").await?; // +1
    let writer = BinaryCopyInWriter::new(to, &[Type::INT4, Type::UUID, Type::TEXT]);
    pin_mut!(writer);
    for i in 100..3100 {
        writer.as_mut().write(&[&i, &T, &"copied"]).await?;
    }
    println!("  {}", writer.finish().await?);
    let t = c.transaction().await?; // +1 for the COPY in it; it is rolled back for those that fail
    for (rows, ok) in [(format!("4000,{T},x\n"), true), ("x,y\n".into(), false)] {
        let to = t.copy_in("COPY tv_item FROM STDIN (FORMAT csv)").await?;
        pin_mut!(to);
        to.send(bytes::Bytes::from(rows)).await?;
        if ok {
            println!("  {}", to.finish().await?)
        } else {
            fails("bad row", to.finish().await)?
        }
        if ok { t.batch_execute("SAVEPOINT s").await? } else { t.batch_execute("ROLLBACK TO s").await? }
    }
    t.commit().await?;
    drop(Box::pin(c.copy_in::<_, bytes::Bytes>("COPY tv_item FROM STDIN").await?)); // the client gives up: CopyFail
    let text: Vec<_> =
        c.copy_out("COPY (SELECT * FROM tv_item WHERE id >= 3099 ORDER BY id) TO STDOUT").await?.try_collect().await?;
    println!("  {:?}", text.concat());
    let rows = BinaryCopyOutStream::new(
        c.copy_out("COPY (SELECT id FROM tv_item WHERE id >= 3099 ORDER BY id) TO STDOUT (FORMAT binary)").await?,
        &[Type::INT4],
    );
    println!("  {:?}", rows.map_ok(|r| r.get::<i32>(0)).collect::<Vec<_>>().await.len());
    show(c, "SELECT count(*), sum(id) FROM tv_item", &[]).await?;
    // The last of its connection: the driver counts one ReadyForQuery less than the server sends for it.
    fails("no table", c.copy_in::<_, bytes::Bytes>("COPY tv_itm FROM STDIN").await.map(drop))
}

async fn notify_and_cancel(c: &mut Client, address: &str) -> Run {
    c.batch_execute("LISTEN ch").await?;
    let t = c.transaction().await?;
    t.execute(INSERT, &[&6000, &T, &"n"]).await?; // +1
    t.batch_execute("NOTIFY ch, 'in a transaction'").await?;
    t.commit().await?;
    c.execute("SELECT pg_notify('ch', 'two')", &[]).await?;
    // A write that is cancelled in its middle has done nothing.
    let text = format!("INSERT INTO tv_item SELECT 6001, '{T}', pg_sleep(20)::text");
    let token = c.cancel_token();
    let cancel = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Not cancel_query(): it does not wait until the server has acted, and the signal could meet the next query.
        let mut stream = TcpStream::connect(address).await?;
        token.cancel_query_raw(&mut stream, NoTls).await?;
        Run::Ok(stream.read_to_end(&mut Vec::new()).await.map(drop).unwrap_or(())) // a reset is an end, too
    };
    let (done, sent) = tokio::join!(c.simple_query(&text), cancel());
    fails("cancel", done).and(Ok(sent?))?;
    let (done, sent) = tokio::join!(c.execute(&text, &[]), cancel());
    fails("cancel", done).and(Ok(sent?))?;
    c.batch_execute("SET statement_timeout = 200").await?;
    fails("timeout", c.query("SELECT app.create_item(6002, $1, pg_sleep(20)::text)", &[&T]).await)?;
    show(c, "SHOW statement_timeout", &[]).await
}

async fn run(url: &str) -> Run {
    let config: tokio_postgres::Config = url.parse()?;
    let [Host::Tcp(host)] = config.get_hosts() else { return Err("one host, by TCP".into()) };
    let address = format!("{host}:{}", config.get_ports().first().unwrap_or(&5432));
    let ((control, _), mut sum, mut expected_sum) = (connect(url).await?, 0, 0);
    control.batch_execute("SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain; DROP SCHEMA IF EXISTS app CASCADE;
        CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);
        CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);
        CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$").await?;
    let read = "SELECT turbo.fn_domain_version($1, 'item')";
    for (name, expected) in [
        ("simple and extended", 9),
        ("pipelined", 4),
        ("transactions", 4),
        ("errors", 0),
        ("copy", 2),
        ("notify and cancel", 1),
    ] {
        println!("# {name}");
        let before: i64 = control.query_one(read, &[&T]).await?.get(0);
        let (mut c, heard) = connect(url).await?;
        match name {
            "simple and extended" => simple_and_extended(&c).await?,
            "pipelined" => pipelined(&c).await?,
            "transactions" => transactions(&mut c).await?,
            "errors" => errors(&c).await?,
            "copy" => copy(&mut c).await?,
            _ => notify_and_cancel(&mut c, &address).await?,
        }
        println!("  {:#?}", heard.lock().unwrap());
        let moved = control.query_one(read, &[&T]).await?.get::<_, i64>(0) - before;
        println!("VERSION {name} {moved} of {expected}");
        (sum, expected_sum) = (sum + moved, expected_sum + expected);
    }
    control.batch_execute("DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE").await?;
    println!("VERSION {sum} of {expected_sum}");
    if sum == 0 || sum == expected_sum {
        Ok(())
    } else {
        Err("the version moved by neither 0 nor what was expected".into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Run {
    let url = std::env::args().nth(1).ok_or("usage: suite-tokio-postgres URL")?;
    tokio::time::timeout(Duration::from_secs(120), run(&url)).await?
}
