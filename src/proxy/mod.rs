//! The shell: the only room with the sockets of clients and servers.

pub mod authentication;
pub mod busy_poll;
pub mod cancel;
pub mod connect;
pub mod connection;
pub mod late;
pub mod listener;
pub mod login;
mod signals;
#[cfg(test)]
mod simulation;
pub mod socket;
pub mod verifiers;
pub mod workers;
