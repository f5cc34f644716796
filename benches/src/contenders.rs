//! What stands between the load and PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use turnstile::embedded::free_port;
use turnstile::proxy::workers::Workers;

/// Longest time from the start of a contender to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

pub const TURNSTILE: &str = "Turnstile";
pub const PGBOUNCER: &str = "PgBouncer, session";
pub const PGBOUNCER_TRANSACTION: &str = "PgBouncer, transaction";
pub const HAPROXY: &str = "HAProxy";
pub const BLIND: &str = "blind relay";
pub const DIRECT: &str = "direct";

/// A running contender; it is stopped when dropped.
pub struct Contender {
    pub name: &'static str,
    pub port: u16,
    child: Option<Child>,
    folder: Option<PathBuf>,
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        if let Some(folder) = &self.folder {
            let _removed = std::fs::remove_dir_all(folder);
        }
    }
}

impl Contender {
    /// The server itself.
    pub fn direct(port: u16) -> Self {
        Self { name: DIRECT, port, child: None, folder: None }
    }

    fn start(name: &'static str, port: u16, mut command: Command, folder: Option<PathBuf>) -> anyhow::Result<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| name.to_owned())?;
        let contender = Self { name, port, child: Some(child), folder };
        let start = Instant::now();
        while crate::client::once(port, "postgres", "SELECT 1").is_err() {
            if start.elapsed() > START_TIMEOUT {
                bail!("{name} does not answer on port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(contender)
    }

    /// `server`: a connection string with a database.
    pub fn turnstile(name: &'static str, program: &Path, server: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--install", "--admin-listen", "off", "--log", "error", "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .args(["--server", server]);
        Self::start(name, port, command, None)
    }

    /// The floor: copies bytes and understands nothing.
    pub fn blind(server: u16) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["relay", &port.to_string(), &server.to_string()]);
        Self::start(BLIND, port, command, None)
    }

    /// `program`: PgBouncer's.
    pub fn pgbouncer(name: &'static str, program: &str, server: u16, mode: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = folder(name)?;
        let mut settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\nmax_client_conn = 5000\ndefault_pool_size = 2200\n"
        );
        if prepares(program) {
            settings += "max_prepared_statements = 200\n";
        }
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings)?;
        let mut command = Command::new(program);
        if Command::new("id").arg("-u").output()?.stdout == b"0\n" {
            // It refuses to run as root.
            command.args(["-u", "postgres"]);
            Command::new("chmod").arg("-R").arg("a+rX").arg(&folder).status()?;
        }
        command.arg("-q").arg(&file);
        Self::start(name, port, command, Some(folder))
    }

    pub fn haproxy(server: u16) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = folder("haproxy")?;
        let settings = format!(
            "global\n maxconn 5000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{server}\n"
        );
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, settings)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        Self::start(HAPROXY, port, command, Some(folder))
    }

    /// CPU seconds of its process so far.
    pub fn cpu(&self) -> f64 {
        self.child.as_ref().map_or(0.0, |child| cpu(child.id(), false))
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
    }
}

/// Whether this PgBouncer knows prepared statements in transaction mode (1.21 and later).
pub fn prepares(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let minor = version.strip_prefix("PgBouncer 1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 21)
}

/// CPU seconds of a process so far; with those of its children that have ended.
fn cpu(process: u32, with_children: bool) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, cutime and cstime, in hundredths of a second (USER_HZ).
    let children = if with_children { ticks(13) + ticks(14) } else { 0.0 };
    (ticks(11) + ticks(12) + children) / 100.0
}

/// CPU seconds so far of the server whose first process this is, and of all its processes.
pub fn server_cpu(postmaster: u32) -> f64 {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0.0 };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = numbers.filter(|process| parent(*process) == Some(postmaster));
    cpu(postmaster, true) + children.map(|process| cpu(process, false)).sum::<f64>()
}

fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let name = format!("turnstile-bench-{}-{}", std::process::id(), name.replace(' ', "-"));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The blind relay's process: Turnstile's threads and event loops, and nothing but copying on them.
pub fn relay(listen: u16, server: u16) -> anyhow::Result<()> {
    const BUFFER_BYTES: usize = turnstile::limits::READ_BYTES;
    let workers = Workers::start(0, Duration::ZERO)?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", listen))?;
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let (client, _) = listener.accept()?;
        workers.spawn(&tracker, async move {
            let copied = async {
                client.set_nonblocking(true)?;
                let mut client = tokio::net::TcpStream::from_std(client)?;
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await
            };
            // A client that breaks off ends its copy only.
            let _ended = copied.await;
        });
    }
}
