//! A private PostgreSQL cluster, from the server programs of this machine: for `turnstile demo`,
//! `serve --embedded` and the tests.

use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server programs.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) on PATH or in the usual folders; install them (Debian: apt-get install postgresql, macOS: brew install postgresql), or use --server URL"
    )]
    NotFound,
    /// A program failed.
    #[error("{program} failed: {reason}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        reason: String,
    },
    /// Of the file system.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What happened.
        error: io::Error,
    },
    /// Started as root without an account to run the server as.
    #[error("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as")]
    NoAccount,
}

/// A user to run the server as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
}

/// Settings of a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Folder of the server programs; found if not given.
    pub bin_dir: Option<PathBuf>,
    /// Data directory to keep; a temporary one, removed at the end, if not given.
    pub data_dir: Option<PathBuf>,
    /// Lines for postgresql.conf.
    pub settings: Vec<String>,
}

/// A running cluster; stops when dropped.
#[derive(Debug)]
pub struct Cluster {
    bin_dir: PathBuf,
    root: PathBuf,
    data_dir: PathBuf,
    temporary: bool,
    account: Option<Account>,
    port: u16,
}

impl Cluster {
    /// Starts a cluster on a free loopback port; the superuser is `postgres`, local logins are
    /// trusted.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let bin_dir = match &options.bin_dir {
            Some(given) => given.clone(),
            None => find_bin_dir().ok_or(ClusterError::NotFound)?,
        };
        let account = if is_root()? { Some(unprivileged()?) } else { None };
        let (root, temporary) = match &options.data_dir {
            Some(given) => (given.clone(), false),
            None => (temporary_dir(), true),
        };
        let mut cluster = Self { data_dir: root.join("data"), bin_dir, root, temporary, account, port: free_port()? };
        cluster.prepare(options)?;
        cluster.launch()?;
        Ok(cluster)
    }

    /// Starts a hot standby of this cluster, of its own port and temporary folder.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn standby(&self) -> Result<Self, ClusterError> {
        let root = temporary_dir();
        let mut standby = Self {
            data_dir: root.join("data"),
            bin_dir: self.bin_dir.clone(),
            root,
            temporary: true,
            account: self.account,
            port: free_port()?,
        };
        let doing = |what: &str| {
            let what = format!("{what} {}", standby.root.display());
            move |error| ClusterError::Io { what, error }
        };
        std::fs::create_dir_all(&standby.root).map_err(doing("create"))?;
        if let Some(account) = self.account {
            std::os::unix::fs::chown(&standby.root, Some(account.uid), Some(account.gid))
                .map_err(doing("give away"))?;
        }
        let primary = self.url("postgres");
        let arguments = ["-R", "-X", "stream", "--no-sync", "--checkpoint=fast", "-d", &primary, "-D"].map(OsStr::new);
        standby.run("pg_basebackup", &[&arguments[..], &[standby.data_dir.as_os_str()]].concat())?;
        // Its limits must not be below the primary's.
        let settings = std::fs::read_to_string(standby.data_dir.join("turnstile.conf")).map_err(doing("read"))?;
        let own = |line: &&str| !["port", "listen_addresses", "unix_socket"].iter().any(|key| line.starts_with(key));
        let settings = settings.lines().filter(own).map(str::to_owned).collect();
        standby.prepare(&ClusterOptions { settings, ..ClusterOptions::default() })?;
        standby.launch()?;
        Ok(standby)
    }

    /// Port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Connection string of a database, for the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Folder of the server programs, psql among them where the package has it.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Folder of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.root
    }

    /// Process id of the server's first process; `None` when it does not run.
    #[must_use]
    pub fn postmaster(&self) -> Option<u32> {
        std::fs::read_to_string(self.data_dir.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.root.join("server.log")
    }

    fn prepare(&self, options: &ClusterOptions) -> Result<(), ClusterError> {
        let doing = |what: &str| {
            let what = format!("{what} {}", self.root.display());
            move |error| ClusterError::Io { what, error }
        };
        std::fs::create_dir_all(&self.root).map_err(doing("create"))?;
        if let Some(account) = self.account {
            std::os::unix::fs::chown(&self.root, Some(account.uid), Some(account.gid)).map_err(doing("give away"))?;
        }
        if !self.data_dir.join("PG_VERSION").exists() {
            self.run(
                "initdb",
                &[
                    "-D".as_ref(),
                    self.data_dir.as_os_str(),
                    "-U".as_ref(),
                    "postgres".as_ref(),
                    "-A".as_ref(),
                    "trust".as_ref(),
                    "-E".as_ref(),
                    "UTF8".as_ref(),
                    "--locale=C".as_ref(),
                    "--no-sync".as_ref(),
                ],
            )?;
        }
        let mut settings = vec![
            format!("port = {}", self.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", self.root.display()),
        ];
        settings.extend(options.settings.iter().cloned());
        settings.push(String::new());
        let path = self.data_dir.join("turnstile.conf");
        std::fs::write(&path, settings.join("\n")).map_err(doing("configure"))?;
        let main = self.data_dir.join("postgresql.conf");
        let text = std::fs::read_to_string(&main).map_err(doing("configure"))?;
        if !text.contains("include = 'turnstile.conf'") {
            std::fs::write(&main, text + "\ninclude = 'turnstile.conf'\n").map_err(doing("configure"))?;
        }
        if let Some(account) = self.account {
            std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid)).map_err(doing("give away"))?;
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), ClusterError> {
        let log = self.log_path();
        self.run(
            "pg_ctl",
            &[
                "-D".as_ref(),
                self.data_dir.as_os_str(),
                "-l".as_ref(),
                log.as_os_str(),
                "-w".as_ref(),
                "-t".as_ref(),
                "60".as_ref(),
                "start".as_ref(),
            ],
        )
        .map_err(|error| match (error, std::fs::read_to_string(&log)) {
            (ClusterError::Failed { program, reason }, Ok(text)) => {
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                ClusterError::Failed {
                    program,
                    reason: format!("{reason}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")),
                }
            }
            (error, _) => error,
        })
    }

    /// Stops the server at once; crash recovery runs at the next start.
    ///
    /// # Errors
    /// [`ClusterError::Failed`].
    pub fn kill(&self) -> Result<(), ClusterError> {
        self.stop("immediate")
    }

    /// Stops the server with a checkpoint; nothing is left to recover.
    ///
    /// # Errors
    /// [`ClusterError::Failed`].
    pub fn shut_down(&self) -> Result<(), ClusterError> {
        self.stop("fast")
    }

    /// Starts it again after [`Cluster::kill`] or [`Cluster::shut_down`].
    ///
    /// # Errors
    /// [`ClusterError::Failed`].
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.launch()
    }

    fn stop(&self, mode: &str) -> Result<(), ClusterError> {
        self.run(
            "pg_ctl",
            &["-D".as_ref(), self.data_dir.as_os_str(), "-m".as_ref(), mode.as_ref(), "-w".as_ref(), "stop".as_ref()],
        )
    }

    /// Runs a server program as the cluster's user, in the cluster's folder; its data is in `data` there.
    ///
    /// # Errors
    /// [`ClusterError::Failed`], with what it said.
    pub fn run(&self, program: &str, arguments: &[&OsStr]) -> Result<(), ClusterError> {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(self.bin_dir.join(program));
        command.args(arguments).stdin(Stdio::null()).current_dir(&self.root).env_remove("PGDATA").env("LC_ALL", "C");
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        // pg_ctl leaves its output open to the server: a pipe would never end.
        let output_file = self.root.join(format!("{program}.out"));
        let file = std::fs::File::create(&output_file)
            .map_err(|error| ClusterError::Io { what: format!("create {}", output_file.display()), error })?;
        let both = file.try_clone().map_err(|error| ClusterError::Io { what: "output".into(), error })?;
        let status = command.stdout(file).stderr(both).status();
        let status =
            status.map_err(|error| ClusterError::Failed { program: program.to_owned(), reason: error.to_string() })?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&output_file).unwrap_or_default();
        Err(ClusterError::Failed { program: program.to_owned(), reason: said.trim().to_owned() })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = self.stop("fast").or_else(|_| self.stop("immediate"));
        if let Err(error) = stopped {
            tracing::debug!(%error, "the private cluster was not running any more");
        }
        if self.temporary {
            // What cannot be removed is left to the system's cleaning of temporary files.
            let _left = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// A port of 127.0.0.1 that nobody listens on right now.
///
/// # Errors
/// Of the network.
pub fn free_port() -> Result<u16, ClusterError> {
    let free = || Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port());
    free().map_err(|error| ClusterError::Io { what: "find a free port".into(), error })
}

/// The folder with `initdb` and `postgres`: PATH first, then the usual folders, newest version first.
#[must_use]
pub fn find_bin_dir() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| resolve(&folder)).chain(usual_folders()).find(|folder| {
        folder.join("initdb").exists() && folder.join("postgres").exists() && folder.join("pg_ctl").exists()
    })
}

/// Where the `initdb` of a PATH folder really is: it may be a link into the server's own folder.
fn resolve(folder: &Path) -> PathBuf {
    let target = std::fs::canonicalize(folder.join("initdb")).ok();
    target.and_then(|target| target.parent().map(Path::to_owned)).unwrap_or_else(|| folder.to_owned())
}

fn usual_folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/Library/PostgreSQL", "/usr/local"] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version: u32 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
            if version > 0 || name.starts_with("postgresql") || name.starts_with("pgsql") {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn temporary_dir() -> PathBuf {
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    std::env::temp_dir().join(format!("turnstile-{}-{unique:x}", std::process::id()))
}

fn output(program: &str, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = output("id", arguments).filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn is_root() -> Result<bool, ClusterError> {
    id(&["-u"])
        .map(|uid| uid == 0)
        .ok_or_else(|| ClusterError::Failed { program: "id -u".into(), reason: "no answer".into() })
}

/// The account that PostgreSQL runs as when we are root.
fn unprivileged() -> Result<Account, ClusterError> {
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| Some(Account { uid: id(&["-u", name])?, gid: id(&["-g", name])? }))
        .ok_or(ClusterError::NoAccount)
}

/// Waits until something listens on a port of 127.0.0.1.
#[must_use]
pub fn wait_for_port(port: u16, at_most: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < at_most {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}
