//! Turnstile: a PostgreSQL wire-protocol proxy that relays everything unchanged and moves the
//! version of a domain forward, exactly once, in the transaction that wrote one of its tables.
//!
//! ARCHITECTURE.md draws the rooms. In reading order: [`limits`]; pure: [`wire`] (bytes ⇄ messages),
//! [`effect`] and [`catalog`] (SQL → what it writes), [`session`] (the state machine of one client);
//! shell: [`proxy`] (sockets), [`versions`] (the schema, the fold worker), [`embedded`] (a private
//! cluster), [`admin`] (HTTP), [`telemetry`] (logs, numbers); [`cli`] and [`config`]; [`compare`] holds
//! what comes through against what comes directly; [`app`] puts them together.

pub mod app;
pub mod limits;
pub mod wire;

pub mod auth;

pub mod catalog;
pub mod effect;
pub mod session;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub mod admin;
pub mod embedded;
pub mod proxy;
pub mod telemetry;
pub mod tls;
pub mod versions;

pub mod cli;
pub mod compare;
pub mod config;
pub mod demo;
