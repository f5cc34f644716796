//! Turnstile: a PostgreSQL wire-protocol proxy that relays everything unchanged and moves the
//! version of a domain forward, exactly once, in the transaction that wrote one of its tables.
//!
//! ARCHITECTURE.md draws the rooms. In reading order:
#![doc = "[`limits`] → [`wire`] → [`effect`] + [`catalog`] → [`session`] (pure) → [`proxy`], [`versions`], [`admin`] (shell)."]

pub mod catalog;
pub mod effect;
pub mod limits;
pub mod session;
pub mod wire;
