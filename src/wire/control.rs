//! Control records carry a keyed MAC, so that only the cluster itself can halt, list or fence (DESIGN 6).

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

/// The cluster's keys: one to sign with, and every one that the retained log may still need to be checked with.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<(u32, [u8; 32])>,
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
        self.keys.push((u32::from_le_bytes([id[0], id[1], id[2], id[3]]), key));
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
        let body = write_body(&control);
        let (key_id, key) = &self.keys[0];
        let valid_until = now.0 + VALID_US;
        let mac = sign(key, &Signed { action: control.action(), symbol, partition, body: &body, nonce, valid_until });
        let wire = Wire {
            action: control.action(),
            symbol: symbol.as_str(),
            body: Some(&body),
            key_id: Some(*key_id),
            nonce: Some(&nonce),
            valid_until: Some(valid_until),
            mac: Some(&mac),
            ..Wire::default()
        };
        Bytes::from(rmp_serde::to_vec_named(&wire).unwrap_or_default())
    }
}

/// A key for one purpose from the cluster's secret.
pub fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!("HMAC takes any key length"));
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

struct Signed<'a> {
    action: &'a str,
    symbol: &'a Symbol,
    partition: u32,
    body: &'a [u8],
    nonce: [u8; 16],
    valid_until: u64,
}

fn hmac_of(key: &[u8; 32], s: &Signed<'_>) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key length"));
    // Lengths go first, so that no two different records give the same bytes.
    for part in [s.action.as_bytes(), s.symbol.as_bytes(), s.body] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.update(&s.partition.to_le_bytes());
    mac.update(&s.nonce);
    mac.update(&s.valid_until.to_le_bytes());
    mac
}

fn sign(key: &[u8; 32], s: &Signed<'_>) -> [u8; 32] {
    hmac_of(key, s).finalize().into_bytes().into()
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

/// Checks the MAC and reads the record.
pub(super) fn decode(wire: &Wire<'_>, partition: u32, keyring: &Keyring) -> Result<(Symbol, Command), BadRecord> {
    let symbol = symbol(wire)?;
    let body = wire.body.ok_or(BadRecord::Missing { field: "body" })?;
    let valid_until = wire.valid_until.ok_or(BadRecord::Missing { field: "valid_until" })?;
    let nonce = wire.nonce.and_then(|n| <[u8; 16]>::try_from(n).ok()).ok_or(BadRecord::Missing { field: "nonce" })?;
    let mac = wire.mac.ok_or(BadRecord::Missing { field: "mac" })?;
    let key = keyring.keys.iter().find(|(id, _)| Some(*id) == wire.key_id).ok_or(BadRecord::Forged)?;
    let signed = Signed { action: wire.action, symbol: &symbol, partition, body, nonce, valid_until };
    hmac_of(&key.1, &signed).verify_slice(mac).map_err(|_| BadRecord::Forged)?;
    let authority = Authority { nonce: u128::from_le_bytes(nonce), valid_until: Micros(valid_until) };
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
