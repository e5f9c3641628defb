//! Tokens of Amazon MSK's IAM: a presigned request that the brokers check, made from the credentials that the AWS SDK finds.

use std::ffi::{CString, c_char};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::Region;
use aws_msk_iam_sasl_signer::generate_auth_token;
use rdkafka::admin::AdminClient;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::OAuthToken;
use rdkafka::error::RDKafkaErrorCode;

use super::context::Context;
use crate::clock;
use crate::ports::log::LogError;

/// The library wants one; brokers take the name from the token.
const PRINCIPAL: &str = "hotbook";
/// As the library does for clients that are polled.
const TRY_AGAIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// How tokens are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MskIam {
    pub region: String,
    /// A token is replaced when four fifths of this are over; it is good for 15 minutes at most.
    pub token_lifetime: Duration,
}

impl MskIam {
    /// A new token. Blocks.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn token(&self) -> Result<OAuthToken, String> {
        // Whoever calls may be on a thread of a runtime already.
        let region = Region::new(self.region.clone());
        let signed = std::thread::scope(|scope| scope.spawn(move || sign(region)).join());
        let (token, expires_ms) = signed.map_err(|_| "the signer panicked".to_owned())??;
        let replace_ms = (clock::now().0 / 1_000) as i64 + self.token_lifetime.as_millis() as i64;
        Ok(OAuthToken { token, principal_name: PRINCIPAL.to_owned(), lifetime_ms: expires_ms.min(replace_ms) })
    }

    /// Gives an administrator tokens for as long as it lives.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when there is no thread for it.
    pub fn keep_authorized(&self, client: &Arc<AdminClient<Context>>) -> Result<(), LogError> {
        let (iam, client) = (self.clone(), Arc::downgrade(client));
        let keep = move || {
            let mut next = Instant::now();
            while let Some(client) = client.upgrade() {
                if Instant::now() >= next {
                    let given = iam.token().and_then(|token| give(&client, token));
                    next += if given.is_ok() { iam.token_lifetime * 4 / 5 } else { TRY_AGAIN };
                    if let Err(why) = given {
                        tracing::warn!(why, "administration of Kafka has no token");
                    }
                }
                drop(client);
                std::thread::sleep(LOOK);
            }
        };
        let started = std::thread::Builder::new().name("kafka-tokens".to_owned()).spawn(keep);
        started.map(|_| ()).map_err(|e| LogError::Unavailable { why: e.to_string() })
    }
}

fn give(client: &AdminClient<Context>, token: OAuthToken) -> Result<(), String> {
    let text = |text: String| CString::new(text).map_err(|e| e.to_string());
    let (value, principal) = (text(token.token)?, text(token.principal_name)?);
    let mut said = [0 as c_char; 512];
    // SAFETY: the client lives, the texts end with a zero and live, there are no extensions, and the library writes at
    // most as many bytes into `said` as it is told.
    let code = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.inner().native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            said.as_mut_ptr(),
            said.len(),
        )
    };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        error => Err(error.to_string()),
    }
}

fn sign(region: Region) -> Result<(String, i64), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(generate_auth_token(region)).map_err(|e| e.to_string())
}
