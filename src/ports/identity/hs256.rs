//! Tokens signed with one shared secret: JWT HS256 with a configured secret, or development tokens with the cluster's.

use hmac::{Hmac, Mac};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Caller, Identity, IdentityError};
use crate::domain::UserId;

/// How long a development token holds.
pub const DEV_TOKEN_S: u64 = 30 * 24 * 3_600;

/// Roles that a token can carry.
pub const ROLES: [&str; 2] = ["trader", "admin"];

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    roles: Vec<String>,
    /// Seconds since 1970.
    exp: u64,
}

/// Checks HS256 tokens.
pub struct Hs256 {
    decoding: DecodingKey,
    validation: Validation,
    /// Only development identity can sign.
    encoding: Option<EncodingKey>,
}

impl Hs256 {
    /// Tokens that somebody else signs with `secret`.
    pub fn configured(secret: &[u8]) -> Self {
        Self::new(secret, false)
    }

    /// Development tokens, from a key derived of the cluster's secret: they hold on every node of the cluster.
    pub fn development(cluster_secret: &[u8]) -> Self {
        // HMAC takes keys of any length.
        let key = Hmac::<Sha256>::new_from_slice(cluster_secret)
            .map(|mac| mac.chain_update(b"hotbook development tokens 1").finalize().into_bytes().to_vec())
            .unwrap_or_default();
        Self::new(&key, true)
    }

    fn new(secret: &[u8], signs: bool) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_aud = false;
        Self {
            decoding: DecodingKey::from_secret(secret),
            validation,
            encoding: signs.then(|| EncodingKey::from_secret(secret)),
        }
    }
}

impl Identity for Hs256 {
    fn verify(&self, token: &str) -> Result<Caller, IdentityError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|e| match e.kind() {
                ErrorKind::ExpiredSignature => IdentityError::Expired,
                _ => IdentityError::Invalid { why: e.to_string() },
            })?
            .claims;
        let user = UserId::new(&claims.sub).map_err(|e| IdentityError::Invalid { why: format!("sub {e}") })?;
        let has = |role: &str| claims.roles.iter().any(|r| r == role);
        Ok(Caller { user, is_trader: has("trader"), is_admin: has("admin") })
    }

    fn issue(&self, user: &UserId, roles: &[String]) -> Result<String, IdentityError> {
        let key = self.encoding.as_ref().ok_or(IdentityError::NoTokens)?;
        let exp = crate::clock::now().0 / 1_000_000 + DEV_TOKEN_S;
        let claims = Claims { sub: user.to_string(), roles: roles.to_vec(), exp };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key)
            .map_err(|e| IdentityError::Invalid { why: e.to_string() })
    }

    fn is_development(&self) -> bool {
        self.encoding.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserId {
        UserId::new("alice").unwrap()
    }

    #[test]
    fn a_development_token_says_who_and_what() {
        let identity = Hs256::development(b"cluster");
        let token = identity.issue(&user(), &["trader".into()]).unwrap();
        let caller = identity.verify(&token).unwrap();
        assert_eq!(caller, Caller { user: user(), is_trader: true, is_admin: false });
        // Another node of the same cluster accepts it, another cluster and a configured secret do not.
        assert!(Hs256::development(b"cluster").verify(&token).is_ok());
        assert!(matches!(Hs256::development(b"other").verify(&token), Err(IdentityError::Invalid { .. })));
        assert!(matches!(Hs256::configured(b"cluster").verify(&token), Err(IdentityError::Invalid { .. })));
    }

    #[test]
    fn expired_forged_and_unsigned_tokens_are_told_apart() {
        let identity = Hs256::configured(b"secret");
        assert_eq!(identity.issue(&user(), &[]), Err(IdentityError::NoTokens));
        let sign = |algorithm, exp| {
            let claims = Claims { sub: "alice".into(), roles: vec!["admin".into()], exp };
            jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(b"secret")).unwrap()
        };
        assert!(identity.verify(&sign(Algorithm::HS256, u64::MAX / 2)).unwrap().is_admin);
        assert_eq!(identity.verify(&sign(Algorithm::HS256, 1)), Err(IdentityError::Expired));
        assert!(matches!(identity.verify(&sign(Algorithm::HS384, u64::MAX / 2)), Err(IdentityError::Invalid { .. })));
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OTl9.";
        assert!(matches!(identity.verify(none), Err(IdentityError::Invalid { .. })));
    }
}
