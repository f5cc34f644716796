//! What stands between the load and PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use turnstile::embedded::free_port;

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
        Self { name: "direct", port, child: None, folder: None }
    }

    fn start(name: &'static str, port: u16, mut command: Command, folder: Option<PathBuf>) -> anyhow::Result<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| name.to_owned())?;
        let contender = Self { name, port, child: Some(child), folder };
        let start = Instant::now();
        while crate::client::once(port, "postgres", "SELECT 1").is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("{name} does not answer on port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(contender)
    }

    pub fn turnstile(name: &'static str, program: &Path, server: &str, database: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--install", "--admin-listen", "off", "--log", "error", "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--server")
            .arg(format!("{server}/{database}"));
        Self::start(name, port, command, None)
    }

    /// The floor: copies bytes and understands nothing.
    pub fn blind(server: u16) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["relay", &port.to_string(), &server.to_string()]);
        Self::start("blind relay", port, command, None)
    }

    pub fn pgbouncer(name: &'static str, server: u16, mode: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = folder(name)?;
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\nmax_client_conn = 3000\ndefault_pool_size = 1000\n"
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings)?;
        let mut command = Command::new("pgbouncer");
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
            "global\n maxconn 3000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{server}\n"
        );
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, settings)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        Self::start("HAProxy", port, command, Some(folder))
    }

    /// CPU seconds of its process so far.
    pub fn cpu(&self) -> f64 {
        let Some(stat) = self.proc("stat") else { return 0.0 };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime, in hundredths of a second (USER_HZ).
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> f64 {
        let rollup = self.proc("smaps_rollup").unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
    }

    fn proc(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.as_ref()?.id())).ok()
    }
}

fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let name = format!("turnstile-bench-{}-{}", std::process::id(), name.replace(' ', "-"));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The blind relay's process.
pub fn relay(listen: u16, server: u16) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", listen)).await?;
        loop {
            let (mut client, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                server.shutdown().await
            });
        }
    })
}
