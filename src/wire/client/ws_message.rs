//! What clients send on a WebSocket, besides orders: see [`super::schema`] for those.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error::{Code, EdgeError};

/// Longest `request_id`, as JSON text.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What every message has.
#[derive(Deserialize)]
pub struct Head<'a> {
    pub action: Option<String>,
    #[serde(borrow)]
    pub request_id: Option<&'a RawValue>,
}

/// AUTH.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthFields {
    pub token: Option<String>,
    pub cancel_on_disconnect: Option<bool>,
    #[serde(rename = "action")]
    _action: IgnoredAny,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// CANCEL_ALL.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelAllFields {
    pub symbol: Option<String>,
    #[serde(rename = "user_id")]
    _user_id: Option<IgnoredAny>,
    #[serde(rename = "action")]
    _action: IgnoredAny,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// SUBSCRIBE and UNSUBSCRIBE.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscribeFields {
    pub channels: Option<Vec<String>>,
    pub symbols: Option<Vec<String>>,
    #[serde(rename = "action")]
    _action: IgnoredAny,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// RESUME.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeFields {
    pub last_seq: Option<BTreeMap<String, u64>>,
    #[serde(rename = "action")]
    _action: IgnoredAny,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// A number or string of bounded length; it is echoed as it came.
pub fn checked_request_id(raw: &RawValue) -> Result<Box<str>, EdgeError> {
    let text = raw.get();
    let is_scalar = text.starts_with(['"', '-']) || text.starts_with(|c: char| c.is_ascii_digit());
    if !is_scalar || text.len() > REQUEST_ID_BYTES_MAX {
        let what = "`request_id` must be a number or a string of at most 126 characters";
        return Err(EdgeError::field(Code::InvalidField, "request_id", what));
    }
    Ok(text.into())
}
