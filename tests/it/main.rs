//! Against real servers: PostgreSQL, PgBouncer, psql. Each test starts its own private cluster.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod audit;
mod bad_input;
mod cancel;
mod cases;
mod cli;
mod compare;
mod definitions;
mod encryption;
mod failover;
mod fold;
mod hardened;
mod hostile;
mod late;
mod lifecycle;
mod oracle;
mod protocol;
mod relay;
mod schema;
mod support;
mod tenants;
mod versions;
mod writes;
