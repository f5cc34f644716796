//! Every bound of the program in one place: what it limits, its unit and why it is that large.
//! Each is reached by a test.

use std::time::Duration;

/// How long `turnstile compare` waits for an answer before it takes the silence for the answer: longer than any statement
/// of a script that compares bytes should take.
pub const COMPARED_SILENCE: Duration = Duration::from_secs(5);

/// Longest text that is looked into, in bytes. Longer ones are measured as a whole. A 10,000-row
/// VALUES statement has about 1 MiB.
pub const ANALYZED_TEXT_BYTES_MAX: usize = 16 << 20;

/// Longest client message that is held as a whole, in bytes: Query and Parse of an
/// [`ANALYZED_TEXT_BYTES_MAX`] text. Longer ones stream through and are measured.
pub const HELD_MESSAGE_BYTES_MAX: usize = ANALYZED_TEXT_BYTES_MAX + 1024;

/// Longest Bind that is held as a whole, in bytes; of longer ones only the names are read.
pub const HELD_BIND_BYTES_MAX: usize = 1 << 20;

/// Longest server message that is held as a whole, in bytes. Only ErrorResponse, CommandComplete
/// and the like are; a longer one streams through unread.
pub const HELD_SERVER_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a streamed message's body that are looked at: names of a Bind, the first column of a
/// RowDescription.
pub const MESSAGE_PREFIX_BYTES_MAX: usize = 512;

/// Most tokens of a statement that `sqlparser` is given. Its tree overflows the stack when dropped
/// at about 33,000 chained terms on a 2 MiB stack; two tokens make a term.
pub const PARSED_TOKENS_MAX: usize = 8_000;

/// Most tenants of one statement that are bumped one by one; more count as all tenants.
pub const STATEMENT_TENANTS_MAX: usize = 250;

/// Most bytes of a peer that are copied to be sent together with bytes of ours: copying them costs less than sending twice.
pub const GATHERED_BYTES_MAX: usize = 4 << 10;

/// Largest output buffer that an idle connection keeps in each direction: a bump and its reply fit.
pub const KEPT_OUTPUT_BYTES_MAX: usize = 1 << 10;

/// Most (tenant, domain) pairs of a database that are remembered as known to it; the database looks for others at each
/// bump. About 100 bytes each.
pub const KNOWN_KEYS_MAX: usize = 50_000;

/// Most messages of one session that wait for a reply. At 5 bytes a reply the server's output
/// buffer (8 KiB) is flushed before so many can wait: the client is only held back, never stuck.
pub const OUTSTANDING_REQUESTS_MAX: usize = 10_000;

/// Most named prepared statements of one session that are remembered; Execute of a forgotten one
/// is measured.
pub const PREPARED_STATEMENTS_MAX: usize = 10_000;

/// Most bytes of statement texts that one session keeps for its prepared statements; the same.
pub const PREPARED_TEXT_BYTES_MAX: usize = 8 << 20;

/// Most named portals of one session that are remembered; Execute of a forgotten one is measured.
pub const PORTALS_MAX: usize = 1_000;

/// Most harmless cursors of one session that are remembered; FETCH from a forgotten one is measured.
pub const CURSORS_MAX: usize = 64;

/// Most writes of one transaction that wait for their bump with different effects; then they are
/// sent.
pub const PENDING_WRITES_MAX: usize = 1_000;

/// Bytes that one read of a socket takes at most; also what a connection without work does not hold.
pub const READ_BYTES: usize = 64 << 10;

/// One read of so many of a session is timed for `turnstile_added_latency_seconds`, the first one too. Odd: the client's and
/// the server's reads take turns.
pub const LATENCY_SAMPLED_READS: u32 = 7;

/// Bytes that wait to be written to one peer before the other peer is no longer read.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 256 << 10;

/// Texts that are remembered with their analysis, for one database.
pub const REMEMBERED_TEXTS_MAX: usize = 4_096;

/// Longest text that is remembered with its analysis, in bytes.
pub const REMEMBERED_TEXT_BYTES_MAX: usize = 8 << 10;

/// Longest text that is analysed on the thread that relays, in bytes: of the slowest known it takes 15 ms, for which the
/// thread's other sessions wait. A longer one is analysed elsewhere, and its session alone waits.
pub const TEXT_BYTES_AT_ONCE: usize = 64 << 10;

/// Long texts that are analysed at the same time in the whole process; more would take the processors from the threads that
/// relay. Further ones wait.
pub const LONG_TEXTS_AT_ONCE: usize = 2;

/// Longest time from accepting a connection to its startup packet (PostgreSQL's default for
/// `authentication_timeout`).
pub const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two looks whether the files of the TLS certificate have changed.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Largest message that is taken of a client that authenticates itself to Turnstile, as
/// `PG_MAX_SASL_MESSAGE_LENGTH`.
pub const SASL_MESSAGE_BYTES_MAX: usize = 1024;

/// Largest message of the server before its ReadyForQuery that is read whole (notices of login triggers).
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Largest file of SCRAM verifiers.
pub const VERIFIERS_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Longest time to connect to the server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client waits for the first reading of its database's catalog; then it goes on, and what it sends is measured. A
/// second suffices for 20,000 relations.
pub const CATALOG_PATIENCE: Duration = Duration::from_secs(2);

/// Longest time that a client waits for the control connection to say whether the schema is there.
pub const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a database that no client uses any more is watched: less than the five seconds that PostgreSQL waits
/// for others before it refuses to drop a database.
pub const DATABASE_LINGER: Duration = Duration::from_secs(1);

/// Most catalogs that are kept of databases which nobody uses: their next client waits for a look only, not for a reading.
pub const FORMER_CATALOGS_MAX: usize = 64;

/// Longest time that reading the catalog waits for a lock (definitions of views are locked while they are printed).
/// Until it can be read, statements are measured.
pub const CATALOG_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Shortest pause between two looks for changes of the catalog. Until then statements are measured.
pub const CATALOG_PAUSE: Duration = Duration::from_millis(10);

/// Longest time that a cancel request may take.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Threads that relay, at most: no machine gains from more.
pub const WORKERS_MAX: usize = 1_024;

/// Longest time that a thread without work waits awake, in microseconds: longer than most queries take, and no processor
/// is kept busy for what a person notices.
pub const BUSY_POLL_MICROS_MAX: u64 = 10_000;

/// Most connections to the admin endpoints at a time, one more ends the oldest: more than scrapers and probes need, few
/// enough to leave clients their descriptors.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

/// Longest silence on one of them: more than the usual pause between two scrapes.
pub const ADMIN_SILENCE_MAX: Duration = Duration::from_secs(30);

/// File descriptors for what is no client: listeners, event loops, admin and control connections of some databases.
pub const OTHER_DESCRIPTORS: u64 = 256;

/// Shortest pause between two warnings of refused clients; those in between are counted.
pub const REFUSAL_WARNING_PAUSE: Duration = Duration::from_secs(1);

/// Most cancel requests at work at once; more wait in the listen queue of their own connections.
pub const CANCELS_MAX: usize = 64;

/// Most databases that are watched; connections to further ones are refused.
pub const DATABASES_MAX: usize = 256;

/// Longest wait for the server's last words after a client broke the protocol.
pub const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between tries of a bump that has to be made up for, the first and the longest: soon if it was a short failure, and
/// not all sessions at once behind a long one.
pub const LATE_BUMP_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// How long it is tried: longer than a server needs to start again, or to fail over.
pub const LATE_BUMP_TIME_MAX: Duration = Duration::from_secs(600);

/// Log rows that one fold takes at most, to keep its transaction short.
pub const FOLD_ROWS_MAX: i32 = 100_000;
