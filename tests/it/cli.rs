//! The program as a user runs it.

use std::process::{Command, Output, Stdio};

use turnstile::embedded::{Cluster, ClusterOptions};

fn turnstile(arguments: &[&str]) -> Output {
    let folder = std::env::temp_dir();
    Command::new(env!("CARGO_BIN_EXE_turnstile"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn install_status_explain_uninstall() {
    let cluster =
        Cluster::start(&ClusterOptions { settings: vec!["fsync = off".into()], ..ClusterOptions::default() }).unwrap();
    let url = cluster.url("postgres");
    let run = |arguments: &[&str]| {
        let output = turnstile(&[arguments, &["--server", &url]].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = run(&["status"]);
    assert_eq!((code, out.as_str()), (Some(1), "schema turbo is not installed; run `turnstile install`\n"));
    let (code, _, err) = run(&["explain", "SELECT 1"]);
    assert!(code == Some(1) && err.contains("run `turnstile install`"), "{err}");
    assert_eq!(run(&["install"]).1, "schema turbo is installed, version 2\n");
    assert_eq!(run(&["install"]).1, "schema turbo was installed already, version 2\n");
    let sql = "CREATE TABLE tv_user (id int, tenant_id uuid); INSERT INTO turbo.tb_domain_cascade VALUES ('user', 'feed'); \
               CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ DELETE FROM tv_user $$";
    assert!(
        Command::new(cluster.bin_dir().join("psql")).args(["-q", "-d", &url, "-c", sql]).status().unwrap().success()
    );
    let (code, out, _) = run(&["status"]);
    assert!(code == Some(0) && out.contains("tracked domains: user") && out.contains("user -> feed"), "{out}");
    let psql = |sql: &str| {
        let status = Command::new(cluster.bin_dir().join("psql")).args(["-q", "-d", &url, "-c", sql]).status().unwrap();
        assert!(status.success(), "{sql}");
    };
    assert!(!out.contains("warning"), "{out}");
    psql("CREATE PUBLICATION everything FOR ALL TABLES; CREATE UNLOGGED TABLE tv_gone (id int)");
    for command in ["status", "install"] {
        let (_, out, _) = run(&[command]);
        assert!(
            out.contains("schema turbo: everything. A subscriber without") && out.contains("unlogged tables: tv_gone"),
            "{out}"
        );
    }
    psql("DROP PUBLICATION everything; DROP TABLE tv_gone");
    let (code, out, _) = run(&[
        "explain",
        "UPDATE tv_user SET id = 1 WHERE tenant_id = '11111111-1111-1111-1111-111111111111'; SELECT f(); SELECT 1",
    ]);
    assert_eq!(code, Some(0));
    for words in [
        "bumps domain feed, user for tenant 11111111-1111-1111-1111-111111111111 (tenant column in WHERE)",
        "measured by the server, reason: function_call",
        "bumps nothing: provably free of writes",
    ] {
        assert!(out.contains(words), "{words} is missing in\n{out}");
    }
    assert_eq!(run(&["uninstall"]).1, "schema turbo is removed\n");
}

#[test]
fn refusals_say_what_to_do() {
    let rows: &[(&[&str], i32, &str)] = &[
        (&["serve"], 2, "--server postgres://"),
        (&["serve", "--server", "postgres://u:secret@h:x/d"], 2, "invalid value for option `port`"),
        (&["serve", "--server", "host=127.0.0.1", "--listen", "nonsense"], 2, "expected HOST:PORT"),
        (&["serve", "--config", "/does/not/exist.toml"], 1, "cannot read the configuration file"),
        (
            &["serve", "--server", "host=127.0.0.1", "--listen", "127.0.0.1:1", "--log", "no=such=filter"],
            1,
            "log filter",
        ),
        (&["status", "--server", "postgres://nobody@127.0.0.1:1/x"], 1, "cannot connect"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
    ];
    for (arguments, code, words) in rows {
        let output = turnstile(arguments);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {err}");
        assert!(err.contains(words) && !err.contains("secret"), "{arguments:?}: {err}");
    }
    let path = std::env::temp_dir().join(format!("turnstile-{}.toml", std::process::id()));
    std::fs::write(&path, "server = \"host=x\"\nlissten = \"a:1\"\n").unwrap();
    let output = turnstile(&["serve", "--config", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    let err = text(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("line 2") && err.contains("lissten"), "{err}");
}

#[test]
fn demo_once() {
    let output = turnstile(&["demo", "--once", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    for words in [
        "version of user   for tenant 11111111-1111-1111-1111-111111111111: 0 -> 2",
        "version of post   for tenant 11111111-1111-1111-1111-111111111111: 0 -> 1",
        "version of feed   for tenant 11111111-1111-1111-1111-111111111111: 0 -> 1",
    ] {
        assert!(out.contains(words), "{words} is missing in\n{out}");
    }
}

/// serve --embedded: starts, says so in JSON, stops on SIGTERM.
#[test]
fn serve_embedded_until_sigterm() {
    use std::io::{BufRead as _, BufReader};
    let mut child = Command::new(env!("CARGO_BIN_EXE_turnstile"))
        .args(["serve", "--embedded", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--log-format", "json"])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.by_ref().map(Result::unwrap).find(|line| line.contains("turnstile is ready")).unwrap();
    assert!(ready.starts_with('{') && ready.contains("\"listen\":\"127.0.0.1:"), "{ready}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(lines.map(Result::unwrap).any(|line| line.contains("shutting down")));
}
