//! The identity port: who sends this, and what may they do.

pub mod hs256;

use crate::domain::UserId;

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user: UserId,
    pub is_trader: bool,
    pub is_admin: bool,
}

/// Why a token was not accepted, or not given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("token is not valid: {why}")]
    Invalid { why: String },
    #[error("token has expired")]
    Expired,
    #[error("this identity service gives out no tokens")]
    NoTokens,
}

/// Checks tokens; development identity also gives them out.
pub trait Identity: Send + Sync + 'static {
    /// # Errors
    /// [`IdentityError::Invalid`], [`IdentityError::Expired`].
    fn verify(&self, token: &str) -> Result<Caller, IdentityError>;

    /// Gives out a development token.
    ///
    /// # Errors
    /// [`IdentityError::NoTokens`] unless this is development identity.
    fn issue(&self, user: &UserId, roles: &[String]) -> Result<String, IdentityError>;

    /// Whether anyone may have a token for the asking.
    fn is_development(&self) -> bool;
}
