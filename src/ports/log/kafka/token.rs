//! Tokens for brokers that ask who we are in AWS's words (MSK IAM). Not there yet: such brokers let nobody in.

use std::error::Error;

use rdkafka::client::OAuthToken;

use super::options::Security;

/// A token that was signed just now.
pub fn fresh(security: &Security) -> Result<OAuthToken, Box<dyn Error>> {
    Err(format!("no token can be made for {security:?}").into())
}
