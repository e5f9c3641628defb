//! gRPC: the messages made from `proto/`, and the token that a call carries.
//!
//! A token says until when it is good, and proves that whoever wrote it knows the cluster's secret. It is made anew for
//! each call, so that one that was seen on its way is of no use soon after.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::control::derive;
use crate::domain::Micros;

/// Messages, clients and servers of `proto/hotbook/v1`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("hotbook.v1");
}

/// The descriptors of `proto/`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hotbook.bin"));

/// How long a token is good; the clocks of two machines may differ by so much less the call's own time.
pub const TOKEN_VALID_US: u64 = 60_000_000;
/// A token that claims to be good for longer is refused: its maker's clock is wrong, or it was meant to be kept.
const TOKEN_VALID_MAX_US: u64 = 2 * TOKEN_VALID_US;
const FORM: &str = "hotbook1";

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a token of the cluster's secret is needed: `authorization: Bearer hotbook1.EXPIRES.MAC`")]
    Missing,
    #[error("the token was not made with this cluster's secret")]
    Forged,
    #[error("the token has run out, or is good for longer than two minutes: look at both clocks")]
    Expired,
}

/// Makes and checks tokens. Derived from the cluster's secret, for this purpose only.
#[derive(Clone)]
pub struct RpcKey([u8; 32]);

impl std::fmt::Debug for RpcKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RpcKey(..)")
    }
}

impl RpcKey {
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(derive(secret, b"hotbook grpc v1"))
    }

    fn mac(&self, expires_s: u64) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key length"));
        mac.update(format!("{FORM}.{expires_s}").as_bytes());
        mac
    }

    /// A token that is good for [`TOKEN_VALID_US`] from `now` on.
    pub fn token(&self, now: Micros) -> String {
        let expires_s = (now.0 + TOKEN_VALID_US) / 1_000_000;
        format!("{FORM}.{expires_s}.{}", hex::encode(self.mac(expires_s).finalize().into_bytes()))
    }

    /// # Errors
    /// [`TokenError`]. The comparison takes the same time wherever the MACs differ.
    pub fn check(&self, token: &str, now: Micros) -> Result<(), TokenError> {
        let mut parts = token.split('.');
        let (Some(FORM), Some(expires), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Missing);
        };
        let expires_s: u64 = expires.parse().map_err(|_| TokenError::Missing)?;
        let mac = hex::decode(mac).map_err(|_| TokenError::Forged)?;
        self.mac(expires_s).verify_slice(&mac).map_err(|_| TokenError::Forged)?;
        let expires_us = expires_s.saturating_mul(1_000_000);
        // A second is lost when the time is written in whole ones.
        let is_good = expires_us.saturating_add(1_000_000) > now.0 && expires_us <= now.0 + TOKEN_VALID_MAX_US;
        if is_good { Ok(()) } else { Err(TokenError::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_800_000_000_000_000);

    #[test]
    fn a_token_is_good_for_a_minute_and_with_its_own_secret_only() {
        let key = RpcKey::from_secret(b"secret");
        let token = key.token(NOW);
        assert_eq!(key.check(&token, NOW), Ok(()));
        assert_eq!(key.check(&token, Micros(NOW.0 + TOKEN_VALID_US)), Ok(()));
        assert_eq!(key.check(&token, Micros(NOW.0 + TOKEN_VALID_US + 1_000_000)), Err(TokenError::Expired));
        assert_eq!(key.check(&token, Micros(NOW.0 - TOKEN_VALID_US - 1)), Err(TokenError::Expired));
        assert_eq!(RpcKey::from_secret(b"other").check(&token, NOW), Err(TokenError::Forged));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let key = RpcKey::from_secret(b"secret");
        let token = key.token(NOW);
        let later = token.replacen("1800000060", "1800000090", 1);
        assert_ne!(later, token);
        assert_eq!(key.check(&later, NOW), Err(TokenError::Forged));
        assert_eq!(key.check(&token[..token.len() - 2], NOW), Err(TokenError::Forged));
        for none in ["", "hotbook1", "hotbook1.x.00", "hotbook2.1800000060.00", &format!("{token}.x")] {
            assert_eq!(key.check(none, NOW), Err(TokenError::Missing), "{none}");
        }
    }
}
