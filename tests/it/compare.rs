//! `turnstile compare`, as a user runs it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{Env, Route, Setup};

/// Scripts in a folder of their own, removed at the end.
struct Scripts(PathBuf);

impl Scripts {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("turnstile-compare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

fn url(port: u16) -> String {
    format!("postgres://postgres:secret@127.0.0.1:{port}/postgres")
}

/// Exit code, output, errors.
async fn compare(direct: u16, through: u16, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnstile"));
    command.args(["compare", "--server", &url(direct), "--through", &url(through)]).args(arguments);
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

// A domain is in the view of versions from its first bump on, directly too if it is known.
const SETUP: &str = "INSERT INTO turbo.tb_domain VALUES ('item');
    CREATE TABLE tv_item (id int PRIMARY KEY, name text);
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE tb_moods (id int, mood mood);
    CREATE FUNCTION create_item(n int) RETURNS SETOF tv_item LANGUAGE sql AS
        $$ INSERT INTO tv_item VALUES (n, 'by function; ' || n) RETURNING * $$;";

const SCRIPT: &str = "SELECT current_database(), now() < 'infinity', random() < 2, clock_timestamp();
INSERT INTO tv_item VALUES (1, 'alpha;'); -- a comment; with a semicolon
SELECT * FROM create_item(2);
COPY tv_item (id, name) FROM STDIN;
10\tten
11\t;eleven'
\\.
SELECT *, ';' FROM tv_item ORDER BY id;
SELECT mood FROM tb_moods;
SELECT nonsense FROM tv_item;
SELECT 1 / 0;
BEGIN;
UPDATE tv_item SET name = upper(name) WHERE id > 1;
SELECT turbo.fn_domain_version(NULL, 'item');
SELECT domain, version FROM turbo.tb_domain_version WHERE domain = 'item';
ROLLBACK;
DO $$ BEGIN RAISE NOTICE 'a notice; %', 1; END $$;
SELECT n FROM generate_series(1, 2000) n;
";

const MESSAGES: &str = "# A pipeline with an error in it.
Parse s \"INSERT INTO tv_item VALUES ($1, $2)\" 23
Bind \"\" s 1 alpha
Execute \"\"
Bind \"\" s 1 NULL
Execute \"\"
Sync
Parse \"\" \"SELECT * FROM tv_item\"
Bind \"\" \"\"
Describe P \"\"
Execute \"\" 1
Flush
---
Sync
Query \"SELECT 7\"
---
Sync
Query \"COPY tv_item FROM STDIN\"
Sync
CopyData \"5\\tfive\\n\"
CopyDone
---
Message y 00
";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_differs() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    let scripts = Scripts::new("same");
    let setup = scripts.write("setup.sql", SETUP);
    let (sql, wire) = (scripts.write("script.sql", SCRIPT), scripts.write("script.wire", MESSAGES));
    let text = scripts.write("text.sql", "INSERT INTO tv_item VALUES (1, 'x'); SELECT 1; SELECT count(*) FROM tv_item");
    let (code, out, err) =
        compare(env.cluster.port(), env.port, &["--setup", &setup, "--pieces", "0,7", &sql, &wire, &text]).await;
    // Three ways for the script with rows in it, one for messages, four for the other; two sizes of pieces each.
    assert!(code == Some(0) && out.ends_with("16 comparisons: 16 same, 0 different, 0 not steady\n"), "{out}{err}");
    assert!(out.contains("of 1 only the type"), "the clock differs between direct runs, too: {out}");
    let left: i64 = env
        .direct
        .query_one("SELECT count(*) FROM pg_database WHERE datname LIKE 'turnstile_compare%'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
    env.stop().await;
}

/// Stands where Turnstile should, and changes a word that the server says.
fn liar(server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass(&up, &server, |bytes| bytes));
            std::thread::spawn(move || {
                pass(&down, &client, |bytes| {
                    bytes.windows(5).position(|word| word == b"alpha").into_iter().fold(bytes, |mut bytes, at| {
                        bytes[at] = b'A';
                        bytes
                    })
                });
            });
        }
    });
    port
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut chunk = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to.write_all(&change(chunk[..count].to_vec())).is_err() {
            return;
        }
    }
    let _gone = to.shutdown(std::net::Shutdown::Write);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_found() {
    let env = Env::new(Route::Direct).await;
    let scripts = Scripts::new("different");
    let sql = scripts.write("script.sql", "SELECT 1;\n\nSELECT 'alpha';");
    let port = env.cluster.port();
    let (code, out, err) = compare(port, liar(port), &["--modes", "simple", "--pieces", "0", &sql]).await;
    assert_eq!(code, Some(1), "{out}{err}");
    for words in ["simple, line 3:\n    direct   D ", "\\x05alpha\n    through  D ", "\\x05Alpha\n", "1 different"] {
        assert!(out.contains(words), "{words:?} is missing in {out}");
    }
    // In the database as it is.
    let arguments = ["--in-place", "--modes", "simple", "--pieces", "0"];
    let clean = scripts.write("clean.sql", "SELECT count(*) FROM tv_user; SELECT current_database()");
    let (code, out, err) = compare(port, env.port, &[&arguments[..], &[&clean]].concat()).await;
    assert_eq!(code, Some(0), "{out}{err}");
    // A script that leaves traces there differs from itself.
    let trace = scripts.write("trace.sql", "INSERT INTO tv_plain VALUES (1)");
    let (code, out, _) = compare(port, env.port, &[&arguments[..], &[&trace]].concat()).await;
    assert!(code == Some(1) && out.contains("two direct runs differ from line 1 on"), "{out}");
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let env = Env::with(Setup { tables: false, ..Setup::default() }).await;
    let scripts = Scripts::new("refused");
    let psql = scripts.write("psql.sql", "SELECT 1;\n\\d x\n");
    let wrong = scripts.write("wrong.wire", "Sync\nQery x\n");
    let good = scripts.write("good.sql", "SELECT 1");
    let broken = scripts.write("broken.sql", "CREATE TABLE (");
    let port = env.cluster.port();
    let rows: &[(&[&str], &str)] = &[
        (&[&psql], "line 2: commands of psql are not SQL"),
        (&[&wrong], "line 2: \"Qery\" is no message"),
        (&["/does/not/exist.sql"], "cannot read /does/not/exist.sql"),
        (&["--setup", &broken, &good], "the setup failed: syntax error"),
        (&["--template", "nope", &good], "cannot create database turnstile_compare_0001"),
    ];
    for (arguments, words) in rows {
        let (code, out, err) = compare(port, env.port, arguments).await;
        assert!(code == Some(1) && err.contains(words), "{arguments:?}: {code:?} {out}{err}");
    }
    let (code, _, err) = compare(port, 1, &[&good]).await;
    assert!(code == Some(1) && err.contains("cannot connect to 127.0.0.1:1"), "{err}");
    env.stop().await;
}
