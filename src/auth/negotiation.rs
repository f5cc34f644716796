//! What becomes of the server's request for SASL authentication, by what the two legs are.

use super::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

/// `AuthenticationSASL`, without its code: zero-terminated mechanisms, an empty one ends the list.
#[must_use]
pub fn mechanisms(body: &[u8]) -> Vec<&[u8]> {
    body.split(|byte| *byte == 0).take_while(|name| !name.is_empty()).collect()
}

/// The legs of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legs {
    /// The client's is encrypted.
    pub client: bool,
    /// The server's is.
    pub server: bool,
    /// Verifiers can be had.
    pub verifiers: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Negotiation {
    /// Relay the exchange.
    Relay,
    /// Relay it, but offer these mechanisms: the client's leg has no channel to bind to.
    Offer(Vec<Vec<u8>>),
    /// Be the server of one exchange and the client of another.
    Terminate {
        /// The server offers channel binding.
        plus: bool,
    },
    /// It cannot work.
    Refuse(&'static str),
}

/// Decides.
#[must_use]
pub fn negotiate(legs: Legs, offered: &[&[u8]]) -> Negotiation {
    let plus = offered.contains(&SCRAM_SHA_256_PLUS.as_bytes());
    let scram = offered.contains(&SCRAM_SHA_256.as_bytes());
    match legs {
        _ if !scram && !plus => Negotiation::Relay,
        Legs { client: true, verifiers: true, .. } => Negotiation::Terminate { plus: plus && legs.server },
        Legs { client: false, server: true, .. } if plus => {
            let rest: Vec<Vec<u8>> = offered
                .iter()
                .filter(|name| **name != SCRAM_SHA_256_PLUS.as_bytes())
                .map(|name| name.to_vec())
                .collect();
            if rest.is_empty() {
                return Negotiation::Refuse("the server asks for channel binding, and the connection is not encrypted");
            }
            Negotiation::Offer(rest)
        }
        Legs { client: true, server: true, verifiers: false } if plus => Negotiation::Refuse(
            "SCRAM authentication cannot be relayed where both connections are encrypted, and there are no SCRAM verifiers",
        ),
        Legs { .. } => Negotiation::Relay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let both: &[&[u8]] = &[b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"];
        let plain: &[&[u8]] = &[b"SCRAM-SHA-256"];
        let oauth: &[&[u8]] = &[b"OAUTHBEARER"];
        let legs = |client, server, verifiers| Legs { client, server, verifiers };
        let offer = Negotiation::Offer(vec![b"SCRAM-SHA-256".to_vec()]);
        let terminate = |plus| Negotiation::Terminate { plus };
        let rows = [
            (legs(false, false, false), plain, Negotiation::Relay),
            (legs(false, false, true), plain, Negotiation::Relay),
            (legs(false, true, false), both, offer.clone()),
            (legs(false, true, true), both, offer),
            (legs(true, false, false), plain, Negotiation::Relay),
            (legs(true, false, true), plain, terminate(false)),
            (legs(true, true, true), both, terminate(true)),
            (legs(true, true, true), plain, terminate(false)),
            (legs(true, true, true), oauth, Negotiation::Relay),
            (legs(false, true, true), oauth, Negotiation::Relay),
        ];
        for (legs, offered, expected) in rows {
            assert_eq!(negotiate(legs, offered), expected, "{legs:?}");
        }
        assert!(matches!(negotiate(legs(true, true, false), both), Negotiation::Refuse(_)));
        // A pooler with TLS that does not bind channels: relayed.
        assert_eq!(negotiate(legs(true, true, false), plain), Negotiation::Relay);
        assert_eq!(mechanisms(b"A\0B\0\0rest"), [b"A", b"B"]);
        assert!(mechanisms(b"").is_empty());
    }
}
