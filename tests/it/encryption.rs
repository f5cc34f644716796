//! TLS on either leg and on both, and what authentication makes of it: psql (libpq) against Turnstile against a
//! server with certificates.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_postgres_rustls::MakeRustlsConnect;
use turnstile::app::Running;
use turnstile::cli::ServeArgs;
use turnstile::config::{Config, ConfigFile};

use crate::support::wire::{Wire, packet, query, startup};
use crate::support::{Env, Route, eventually};

/// Certificates in a folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let unique = format!("turnstile-tls-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = std::env::temp_dir().join(unique.replace(['(', ')'], ""));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        // libpq refuses keys that others can read.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority, and certificates of it: `server` and `shim` for localhost, `role` for the role "certified".
fn certificates() -> Folder {
    let folder = Folder::new();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of a test");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    folder.write("ca.pem", &authority.pem());
    for (name, common, hosts) in [
        ("server", "localhost", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
        ("shim", "localhost", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
        ("other", "elsewhere", vec!["elsewhere.example".to_owned()]),
        ("role", "certified", Vec::new()),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &authority).unwrap();
        folder.write(&format!("{name}.pem"), &certificate.pem());
        folder.write(&format!("{name}.key"), &key.serialize_pem());
    }
    folder
}

/// Makes the server write a file in its data directory, readable for itself alone.
async fn server_file(env: &Env, name: &str, text: &str) {
    let copy = format!(
        "COPY (SELECT unnest(string_to_array($file${}$file$, E'\\n'))) TO PROGRAM 'umask 077; cat > {name}'",
        text.trim_end()
    );
    env.direct(&copy).await;
}

const ROLES: &str = "
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE scrammed LOGIN PASSWORD 'the right one'; CREATE ROLE nopassword LOGIN;
    CREATE ROLE certified LOGIN; CREATE ROLE plain LOGIN PASSWORD 'the right one';
    SET password_encryption = 'md5'; CREATE ROLE md5ed LOGIN PASSWORD 'the right one'; RESET password_encryption;
    GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
";

/// `server`: without TLS unless asked.
const HBA: &str = "local all all trust\nhost all postgres all trust\nhost all scrammed all scram-sha-256\n\
    host all nopassword all scram-sha-256\nhost all md5ed all md5\nhost all plain all password\nhostssl all certified all cert\n";

/// A server with certificates and roles, and the folder that they are in.
async fn server() -> (Env, Folder) {
    let env = Env::new(Route::Direct).await;
    let folder = certificates();
    env.direct(ROLES).await;
    server_file(&env, "server.crt", &folder.read("server.pem")).await;
    server_file(&env, "server.key", &folder.read("server.key")).await;
    server_file(&env, "root.crt", &folder.read("ca.pem")).await;
    server_file(&env, "pg_hba.conf", HBA).await;
    env.direct("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
    env.direct("ALTER SYSTEM SET ssl = on").await;
    env.direct("SELECT pg_reload_conf()").await;
    eventually("the server has TLS", async || {
        let row = env.direct.query_one("SELECT setting FROM pg_settings WHERE name = 'ssl'", &[]).await.unwrap();
        row.get::<_, String>(0) == "on"
    })
    .await;
    (env, folder)
}

/// One more Turnstile in front of the server.
async fn shim(env: &Env, parameters: &str, config: &str) -> Running {
    let args = ServeArgs {
        listen: Some("127.0.0.1:0".into()),
        admin_listen: Some("off".into()),
        server: Some(format!("postgres://postgres@localhost:{}/postgres{parameters}", env.cluster.port())),
        ..ServeArgs::default()
    };
    Running::start(Config::new(&args, &ConfigFile::parse("test", config).unwrap()).unwrap()).await.unwrap()
}

fn tls_config(folder: &Folder, more: &str) -> String {
    format!("[tls]\ncert = \"{}\"\nkey = \"{}\"\n{more}", folder.path("shim.pem"), folder.path("shim.key"))
}

async fn psql(env: &Env, connection: String, sql: &'static str) -> Output {
    let own = env.cluster.bin_dir().join("psql");
    let program = if own.exists() { own } else { PathBuf::from("psql") };
    let run = move || {
        Command::new(program)
            .args(["-X", "-A", "-t", "-c", sql, &connection])
            // libpq looks for certificates there.
            .env("HOME", Path::new("/nonexistent"))
            .env_remove("PGPASSWORD")
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// `ok` and what was selected, or the last line of the error.
fn outcome(output: &Output) -> String {
    if output.status.success() {
        return format!("ok {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    error
        .lines()
        .rfind(|line| !line.starts_with("HINT") && !line.starts_with("connection to"))
        .map_or_else(|| error.lines().next().unwrap_or_default().to_owned(), str::to_owned)
}

/// A client that trusts the authority of the folder.
fn trusting(folder: &Folder) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(folder.read("ca.pem").as_bytes()).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

const LEG: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// Every way to authenticate, over every pair of legs.
#[tokio::test(flavor = "multi_thread")]
async fn authentication_over_every_pair_of_legs() {
    let (env, folder) = server().await;
    let query = "[auth]\nverifiers_query = \"SELECT rolpassword FROM pg_authid WHERE rolname = $1\"\n";
    let file = env
        .direct
        .query("SELECT rolname::text, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL", &[])
        .await
        .unwrap();
    let lines: Vec<String> =
        file.iter().map(|row| format!("\"{}\" \"{}\"\n", row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    folder.write("roles.txt", &lines.concat());
    let from_file = format!("[auth]\nverifiers_file = \"{}\"\n", folder.path("roles.txt"));
    let mut wrong = Vec::new();
    for server_leg in ["disable", "require"] {
        for (client_leg, auth) in
            [("disable", ""), ("disable", query), ("require", ""), ("require", query), ("require", &from_file)]
        {
            let config = if client_leg == "require" { tls_config(&folder, auth) } else { auth.to_owned() };
            let running = shim(&env, &format!("?sslmode={server_leg}"), &config).await;
            let both = client_leg == "require" && server_leg == "require";
            let verifiers = !auth.is_empty();
            let good = if server_leg == "require" { "ok t" } else { "ok f" };
            for (role, password, binding) in [
                ("postgres", "", "prefer"),
                ("plain", "the right one", "prefer"),
                ("md5ed", "the right one", "prefer"),
                ("scrammed", "the right one", "disable"),
                ("scrammed", "the right one", "prefer"),
                ("scrammed", "the right one", "require"),
                ("scrammed", "wrong", "prefer"),
                ("nopassword", "any", "prefer"),
                ("nobody", "any", "prefer"),
            ] {
                let connection = format!(
                    "host=127.0.0.1 port={} user={role} password='{password}' dbname=postgres sslmode={client_leg} channel_binding={binding}",
                    running.listen.port()
                );
                let got = outcome(&psql(&env, connection, LEG).await);
                let scram = matches!(role, "scrammed" | "nopassword");
                let can_bind = client_leg == "require" && verifiers;
                let expected = match (role, binding) {
                    ("nobody", _) => "no pg_hba.conf entry",
                    _ if scram && both && !verifiers => {
                        "turnstile cannot log in: SCRAM authentication cannot be relayed"
                    }
                    (_, "require") if !can_bind => "channel binding",
                    _ if password == "wrong" || role == "nopassword" => "password authentication failed for user",
                    _ => good,
                };
                if !got.contains(expected) {
                    wrong.push(format!(
                        "client {client_leg}, server {server_leg}, verifiers {verifiers}, {role} {password:?} binding {binding}: {got}, expected {expected}"
                    ));
                }
            }
            running.shutdown().await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    env.stop().await;
}

/// Writes are bumped, bulk data passes, errors come through: over both legs encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn everything_works_encrypted() {
    let (env, folder) = server().await;
    let running = shim(&env, "?sslmode=require", &tls_config(&folder, "")).await;
    let port = running.listen.port();
    let root = folder.path("ca.pem");
    let connection = move |more: &str| {
        format!(
            "host=localhost port={port} user=postgres dbname=postgres sslmode=verify-full sslrootcert={root} {more}"
        )
    };
    let before = env.versions().await;
    let got =
        psql(&env, connection(""), "INSERT INTO tv_user VALUES (1, '11111111-1111-1111-1111-111111111111')").await;
    assert_eq!(outcome(&got), "ok INSERT 0 1");
    assert_eq!(env.versions().await.since(&before), "user: T1 +1");
    let big = psql(&env, connection(""), "SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await;
    assert_eq!(big.stdout.len(), 1001 * 20_000);
    let got = psql(&env, connection(""), "SELECT 1/0").await;
    assert!(outcome(&got).contains("division by zero"), "{}", outcome(&got));
    let got = psql(&env, connection("sslrootcert=/nonexistent"), LEG).await;
    assert!(outcome(&got).contains("certificate verification"), "{}", outcome(&got));
    // A client of another library, with a statement prepared and 1 MB there and back.
    let url = format!("postgres://postgres@localhost:{port}/postgres?sslmode=require");
    let (client, connection) = tokio_postgres::connect(&url, MakeRustlsConnect::new(trusting(&folder))).await.unwrap();
    let task = tokio::spawn(connection);
    let text = "y".repeat(1 << 20);
    let row = client.query_one("SELECT $1::text", &[&text]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), text);
    // Cancel: its own connection, encrypted as well.
    let cancel = client.cancel_token();
    let sleeping = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    eventually("the statement runs", async || env.direct.query_one(asleep, &[]).await.unwrap().get::<_, i64>(0) == 1)
        .await;
    cancel.cancel_query(MakeRustlsConnect::new(trusting(&folder))).await.unwrap();
    let error = sleeping.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
    task.abort();
    running.shutdown().await;
    env.stop().await;
}

/// `sslmode` towards the server: what each accepts.
#[tokio::test(flavor = "multi_thread")]
async fn what_sslmode_asks_of_the_server() {
    let (env, folder) = server().await;
    let ca = folder.path("ca.pem");
    let stranger = folder.path("other.pem");
    let rows = [
        ("?sslmode=disable".to_owned(), "ok f"),
        ("?sslmode=prefer".to_owned(), "ok t"),
        (String::new(), "ok t"),
        ("?sslmode=require".to_owned(), "ok t"),
        (format!("?sslmode=require&sslrootcert={ca}"), "ok t"),
        (format!("?sslmode=require&sslrootcert={stranger}"), "turnstile cannot"),
        (format!("?sslmode=verify-ca&sslrootcert={ca}"), "ok t"),
        (format!("?sslmode=verify-full&sslrootcert={ca}"), "ok t"),
        (format!("?sslmode=verify-full&sslrootcert={stranger}"), "turnstile cannot"),
    ];
    let check = async |rows: &[(String, &str)]| {
        for (parameters, expected) in rows {
            let running = shim(&env, parameters, "").await;
            let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", running.listen.port());
            let got = outcome(&psql(&env, connection, LEG).await);
            assert!(got.contains(expected), "{parameters}: {got}");
            running.shutdown().await;
        }
    };
    check(&rows).await;
    // A certificate of another host.
    server_file(&env, "server.crt", &folder.read("other.pem")).await;
    server_file(&env, "server.key", &folder.read("other.key")).await;
    env.direct("SELECT pg_reload_conf()").await;
    let reloaded = async || {
        let running = shim(&env, &format!("?sslmode=verify-full&sslrootcert={ca}"), "").await;
        let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", running.listen.port());
        let got = outcome(&psql(&env, connection, LEG).await);
        running.shutdown().await;
        got.contains("turnstile cannot")
    };
    eventually("the server shows another certificate", reloaded).await;
    check(&[(format!("?sslmode=verify-ca&sslrootcert={ca}"), "ok t"), ("?sslmode=require".to_owned(), "ok t")]).await;
    // A role that the server knows by its certificate: Turnstile's own.
    let own = format!("?sslmode=require&sslcert={}&sslkey={}", folder.path("role.pem"), folder.path("role.key"));
    let running = shim(&env, &own, "").await;
    let connection = format!("host=127.0.0.1 port={} user=certified dbname=postgres", running.listen.port());
    assert_eq!(outcome(&psql(&env, connection, "SELECT current_user").await), "ok certified");
    running.shutdown().await;
    // A server without TLS.
    env.direct("ALTER SYSTEM SET ssl = off").await;
    env.direct("SELECT pg_reload_conf()").await;
    eventually("TLS is off", async || {
        let row = env.direct.query_one("SELECT setting FROM pg_settings WHERE name = 'ssl'", &[]).await.unwrap();
        row.get::<_, String>(0) == "off"
    })
    .await;
    check(&[("?sslmode=prefer".to_owned(), "ok f"), ("?sslmode=require".to_owned(), "turnstile cannot")]).await;
    env.stop().await;
}

/// What Turnstile asks of its clients, and a certificate that is exchanged while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_clients_and_a_new_one_of_ours() {
    let (env, folder) = server().await;
    let ca = folder.path("ca.pem");
    let verify = format!("client_ca = \"{ca}\"\nclient_cert = \"verify-full\"\n");
    let running = shim(&env, "?sslmode=disable", &tls_config(&folder, &verify)).await;
    let own = format!("sslcert={} sslkey={}", folder.path("role.pem"), folder.path("role.key"));
    env.direct("ALTER ROLE certified PASSWORD 'x'").await;
    server_file(&env, "pg_hba.conf", "local all all trust\nhost all all all trust\n").await;
    env.direct("SELECT pg_reload_conf()").await;
    let port = running.listen.port();
    let rows = [
        (format!("user=certified sslmode=require {own}"), "ok certified"),
        (format!("user=postgres sslmode=require {own}"), "certificate authentication failed for user \"postgres\""),
        ("user=certified sslmode=require".to_owned(), "alert"),
        ("user=certified sslmode=disable".to_owned(), "encrypted connections only"),
    ];
    for (parameters, expected) in rows {
        let connection = format!("host=127.0.0.1 port={port} dbname=postgres {parameters}");
        let got = outcome(&psql(&env, connection, "SELECT current_user").await);
        assert!(got.contains(expected), "{parameters}: {got}");
    }
    // Another certificate for the same port, without a restart; a bad one changes nothing.
    let verified =
        format!("host=localhost port={port} dbname=postgres user=certified sslmode=verify-full sslrootcert={ca} {own}");
    assert_eq!(outcome(&psql(&env, verified.clone(), "SELECT 1").await), "ok 1");
    folder.write("shim.pem", "no certificate");
    running.reload();
    assert_eq!(outcome(&psql(&env, verified.clone(), "SELECT 1").await), "ok 1");
    folder.write("shim.pem", &folder.read("other.pem"));
    folder.write("shim.key", &folder.read("other.key"));
    running.reload();
    let got = outcome(&psql(&env, verified, "SELECT 1").await);
    assert!(got.contains("elsewhere"), "{got}");
    running.shutdown().await;
    env.stop().await;
}

/// Bytes that do not belong there.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_requests_by_the_byte() {
    let (env, folder) = server().await;
    let running = shim(&env, "?sslmode=disable", &tls_config(&folder, "")).await;
    let port = running.listen.port();
    let ssl = packet(&[4, 210, 22, 47]);
    let gss = packet(&[4, 210, 22, 48]);
    let login = startup(&[("user", "postgres"), ("database", "postgres")]);
    // Plaintext behind the request: someone put it there.
    let mut wire = Wire::dial(port);
    wire.send(&[ssl.clone(), login.clone()].concat());
    assert_eq!(wire.rest(), b"");
    // GSS first: no; then TLS: yes, but what follows is no handshake.
    let mut wire = Wire::dial(port);
    wire.send(&gss);
    assert_eq!(wire.byte(), b'N');
    wire.send(&ssl);
    assert_eq!(wire.byte(), b'S');
    wire.send(&login);
    let alert = wire.rest();
    assert!(alert.is_empty() || alert[0] == 0x15, "an alert or nothing: {alert:?}");
    // No encryption at all still works, and so does a request that is refused before.
    let mut wire = Wire::dial(port);
    wire.send(&gss);
    assert_eq!(wire.byte(), b'N');
    wire.send(&login);
    let _greeting = wire.until_ready();
    assert_eq!(wire.ask(&query("SELECT 1")), "T D(1) C(SELECT 1) ZI");
    for twice in [[ssl.clone(), gss.clone()].concat(), [gss.clone(), gss].concat()] {
        let mut wire = Wire::dial(port);
        wire.send(&twice);
        assert!(matches!(wire.rest().as_slice(), b"" | b"N"));
    }
    // Direct TLS: a handshake without ALPN is refused.
    let direct = |protocols: Vec<Vec<u8>>| {
        let mut config = trusting(&folder);
        config.alpn_protocols = protocols;
        let connection =
            rustls::ClientConnection::new(std::sync::Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        rustls::StreamOwned::new(connection, socket)
    };
    use std::io::{Read as _, Write as _};
    let mut stream = direct(vec![b"postgresql".to_vec()]);
    stream.write_all(&login).unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(first, *b"R");
    for protocols in [Vec::new(), vec![b"http/1.1".to_vec()]] {
        let mut stream = direct(protocols);
        let _refused = stream.write_all(&login);
        let mut rest = Vec::new();
        let _closed = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    // Inside TLS nothing of the kind is asked again.
    let mut stream = direct(vec![b"postgresql".to_vec()]);
    stream.write_all(&packet(&[4, 210, 22, 47])).unwrap();
    let mut rest = Vec::new();
    let _closed = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    running.shutdown().await;
    env.stop().await;
}
