//! Authentication that cannot simply be relayed. Pure.
//!
//! Whatever the server asks for goes through as it is, with one exception: SCRAM-SHA-256 binds a password exchange
//! to the TLS connection that it runs in, and there are two of them where both legs are encrypted. Then Turnstile
//! is the SCRAM server of the client and the SCRAM client of the server ([`scram`]); it needs the role's verifier
//! for the former, and takes the key for the latter from the client's own proof. No password is ever known.
//! [`negotiation`] says which of the two happens; [`certificate`] is what the channel is bound to.

pub mod certificate;
pub mod negotiation;
pub mod scram;
