//! What can be wrong with the bytes of a peer.

/// A peer broke the protocol. Carries no contents of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length word of a startup packet is outside of what PostgreSQL accepts.
    #[error("startup packet of {got} bytes, expected {min} to {max}")]
    StartupLength {
        /// What the packet claims, in bytes, the length word included.
        got: i64,
        /// Smallest accepted length in bytes.
        min: usize,
        /// Largest accepted length in bytes.
        max: usize,
    },
    /// A startup packet whose body is not a list of zero-terminated pairs.
    #[error("startup packet is not a list of zero-terminated parameters")]
    StartupBody,
    /// More encryption requests than a client may send (one SSLRequest, one GSSENCRequest).
    #[error("encryption was requested more than once")]
    RepeatedEncryptionRequest,
    /// Bytes behind an encryption request that were sent before our answer: someone may have
    /// injected plaintext (CVE-2021-23222 class).
    #[error("plaintext bytes behind an encryption request")]
    BytesBehindEncryptionRequest,
    /// The first byte is a TLS ClientHello (direct TLS); TLS is not offered.
    #[error("direct TLS connection, which is not offered here")]
    DirectTls,
    /// A message shorter than its own fields.
    #[error("truncated {message} message")]
    Truncated {
        /// Name of the message.
        message: &'static str,
    },
    /// A length word below 4 (it counts itself).
    #[error("message of type {message_type:#04x} with length {got}, expected at least 4")]
    Length {
        /// Type byte of the message.
        message_type: u8,
        /// The length word as sent.
        got: i32,
    },
}
