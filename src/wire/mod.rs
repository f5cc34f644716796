//! Bytes ⇄ protocol messages. Pure: knows no session and no SQL.
//!
//! The relay scans message headers and borrows; it decodes only what a decision needs
//! ([`frontend`], [`backend`]). What we originate ourselves is encoded by the `pgwire` crate
//! ([`encode`]). Protocol: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

pub mod backend;
pub mod encode;
pub mod error;
pub mod framing;
pub mod frontend;
pub mod message_type;
pub mod notation;
pub mod startup;

pub use error::WireError;
pub use framing::{FRAME_HEADER_BYTES, FrameHeader};
