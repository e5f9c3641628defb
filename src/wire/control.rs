//! Control records carry a keyed MAC, so that only the cluster itself can halt, list or fence.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BadRecord;
use super::orders::{Wire, symbol};
use crate::domain::command::Listing;
use crate::domain::control::Fence;
use crate::domain::{Authority, Command, Instrument, Micros, NodeId, Symbol, UserId};

/// How long a control record may lie about before the log takes it.
pub const VALID_US: u64 = 60_000_000;

/// What can be said with authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    List(Listing),
    CancelAll { user: UserId },
    Halt,
    Resume,
    Rules { version: u32 },
    Session,
    Tick,
    Fence(Fence),
}

impl Control {
    fn action(&self) -> &'static str {
        match self {
            Self::List(_) => "LIST",
            Self::CancelAll { .. } => "CANCEL_ALL",
            Self::Halt => "HALT",
            Self::Resume => "RESUME",
            Self::Rules { .. } => "RULES",
            Self::Session => "SESSION",
            Self::Tick => "TICK",
            Self::Fence(_) => "FENCE",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ListBody {
    instrument: Instrument,
    owner: NodeId,
    id_key: (u64, u64),
    rules_version: u32,
}

#[derive(Serialize, Deserialize)]
struct FenceBody {
    epoch: u64,
    from: NodeId,
    to: NodeId,
}

/// What a record is signed as: each has a key of its own, so that none can pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    /// See [`super::signed`].
    Order,
}

/// The keys from one secret, ready to be used.
#[derive(Clone)]
struct Keys {
    id: u32,
    control: Hmac<Sha256>,
    order: Hmac<Sha256>,
}

impl Keys {
    fn of(&self, purpose: Purpose) -> Hmac<Sha256> {
        match purpose {
            Purpose::Control => self.control.clone(),
            Purpose::Order => self.order.clone(),
        }
    }
}

/// The cluster's keys: one to sign with, and every one that the retained log may still need to be checked with.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Keys>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

impl Keyring {
    /// A ring with one key, derived from the cluster's secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        let mut ring = Self { keys: Vec::new() };
        ring.accept(secret);
        ring
    }

    /// Adds an older secret whose records are still accepted.
    pub fn accept(&mut self, secret: &[u8]) {
        let key = derive(secret, b"hotbook control records v1");
        let id = Sha256::digest(key);
        self.keys.push(Keys {
            id: u32::from_le_bytes([id[0], id[1], id[2], id[3]]),
            control: hmac(&key),
            order: hmac(&derive(secret, b"hotbook gateway orders v1")),
        });
    }

    /// Signs a record for `symbol` in `partition`, good once, until `now` + [`VALID_US`].
    pub fn encode(&self, symbol: &Symbol, partition: u32, control: Control, now: Micros) -> Bytes {
        let mut nonce = [0u8; 16];
        if getrandom::fill(&mut nonce).is_err() {
            // Without randomness a nonce must still differ from the others: the clock does.
            nonce[..8].copy_from_slice(&now.0.to_le_bytes());
        }
        self.encode_with(symbol, partition, control, now, nonce)
    }

    /// As [`Self::encode`], with a nonce that the caller answers for: the simulator's runs can be repeated.
    pub(crate) fn encode_with(
        &self,
        symbol: &Symbol,
        partition: u32,
        control: Control,
        now: Micros,
        nonce: [u8; 16],
    ) -> Bytes {
        let (action, valid_until) = (control.action(), now.0 + VALID_US);
        let body = write_body(&control);
        self.sign(Purpose::Control, &Parts { action, symbol, partition, body: &body, nonce, valid_until })
    }

    /// The record of these parts with their MAC.
    pub(super) fn sign(&self, purpose: Purpose, parts: &Parts<'_>) -> Bytes {
        let keys = &self.keys[0];
        let mac = parts.put_into(keys.of(purpose)).finalize().into_bytes();
        let wire = Wire {
            action: parts.action,
            symbol: parts.symbol.as_str(),
            body: Some(parts.body),
            key_id: Some(keys.id),
            nonce: Some(&parts.nonce),
            valid_until: Some(parts.valid_until),
            mac: Some(&mac),
            ..Wire::default()
        };
        Bytes::from(rmp_serde::to_vec_named(&wire).unwrap_or_default())
    }
}

/// A key for one purpose from the cluster's secret.
pub fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut mac = hmac(secret);
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key length"))
}

/// What a MAC covers.
pub(super) struct Parts<'a> {
    pub action: &'a str,
    pub symbol: &'a Symbol,
    pub partition: u32,
    pub body: &'a [u8],
    pub nonce: [u8; 16],
    pub valid_until: u64,
}

impl Parts<'_> {
    fn put_into(&self, mut mac: Hmac<Sha256>) -> Hmac<Sha256> {
        // Lengths go first, so that no two different records give the same bytes.
        for part in [self.action.as_bytes(), self.symbol.as_bytes(), self.body] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(&self.partition.to_le_bytes());
        mac.update(&self.nonce);
        mac.update(&self.valid_until.to_le_bytes());
        mac
    }
}

/// What is left of a record once its MAC was found good.
pub(super) struct Verified<'a> {
    pub symbol: Symbol,
    pub body: &'a [u8],
    pub nonce: [u8; 16],
    pub valid_until: Micros,
}

fn write_body(control: &Control) -> Vec<u8> {
    let written = match control {
        Control::List(l) => rmp_serde::to_vec_named(&ListBody {
            instrument: l.instrument.clone(),
            owner: l.owner,
            id_key: (l.id_key as u64, (l.id_key >> 64) as u64),
            rules_version: l.rules_version,
        }),
        Control::Fence(f) => rmp_serde::to_vec_named(&FenceBody { epoch: f.epoch.0, from: f.from, to: f.to }),
        Control::CancelAll { user } => rmp_serde::to_vec_named(user),
        Control::Rules { version } => rmp_serde::to_vec_named(version),
        Control::Halt | Control::Resume | Control::Session | Control::Tick => Ok(Vec::new()),
    };
    written.unwrap_or_default()
}

/// Checks a record's MAC.
pub(super) fn verify<'a>(
    wire: &Wire<'a>,
    partition: u32,
    keyring: &Keyring,
    purpose: Purpose,
) -> Result<Verified<'a>, BadRecord> {
    let symbol = symbol(wire)?;
    let body = wire.body.ok_or(BadRecord::Missing { field: "body" })?;
    let valid_until = wire.valid_until.ok_or(BadRecord::Missing { field: "valid_until" })?;
    let nonce = wire.nonce.and_then(|n| <[u8; 16]>::try_from(n).ok()).ok_or(BadRecord::Missing { field: "nonce" })?;
    let mac = wire.mac.ok_or(BadRecord::Missing { field: "mac" })?;
    let keys = keyring.keys.iter().find(|keys| Some(keys.id) == wire.key_id).ok_or(BadRecord::Forged)?;
    let parts = Parts { action: wire.action, symbol: &symbol, partition, body, nonce, valid_until };
    parts.put_into(keys.of(purpose)).verify_slice(mac).map_err(|_| BadRecord::Forged)?;
    Ok(Verified { symbol, body, nonce, valid_until: Micros(valid_until) })
}

/// Checks the MAC and reads the record.
pub(super) fn decode(wire: &Wire<'_>, partition: u32, keyring: &Keyring) -> Result<(Symbol, Command), BadRecord> {
    let Verified { symbol, body, nonce, valid_until } = verify(wire, partition, keyring, Purpose::Control)?;
    let authority = Authority { nonce: u128::from_le_bytes(nonce), valid_until };
    Ok((symbol, read_body(wire.action, body, authority)?))
}

fn read_body(action: &str, body: &[u8], authority: Authority) -> Result<Command, BadRecord> {
    let bad = |e: rmp_serde::decode::Error| BadRecord::Invalid { field: "body", what: e.to_string() };
    Ok(match action {
        "LIST" => {
            let b: ListBody = rmp_serde::from_slice(body).map_err(bad)?;
            let id_key = u128::from(b.id_key.0) | u128::from(b.id_key.1) << 64;
            let listing = Listing { instrument: b.instrument, owner: b.owner, id_key, rules_version: b.rules_version };
            Command::List { listing: Box::new(listing), authority }
        }
        "FENCE" => {
            let b: FenceBody = rmp_serde::from_slice(body).map_err(bad)?;
            let fence = Fence { epoch: crate::domain::Epoch(b.epoch), from: b.from, to: b.to };
            Command::Fence { fence: Box::new(fence), authority }
        }
        "CANCEL_ALL" => Command::CancelAll { user: rmp_serde::from_slice(body).map_err(bad)?, authority },
        "RULES" => Command::Rules { version: rmp_serde::from_slice(body).map_err(bad)?, authority },
        "HALT" => Command::Halt { authority },
        "RESUME" => Command::Resume { authority },
        "SESSION" => Command::Session { authority },
        "TICK" => Command::Tick { authority },
        other => return Err(BadRecord::UnknownAction { action: other.chars().take(32).collect() }),
    })
}
