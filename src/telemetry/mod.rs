//! Logs and numbers. Sessions report events; this room makes output of them.

pub mod logging;
pub mod metrics;
