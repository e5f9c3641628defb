//! A snapshot held against the replay (SN1, SN2, handover rule 10).

use super::SnapshotBytes;
use super::replay::Replay;
use super::report::Kind;
use super::state;
use crate::migration::naive::{NaiveOrder, NaiveState};
use crate::migration::snapshot::RawSnapshot;

/// Reads one and computes its digest anew.
///
/// # Errors
/// The offence.
pub fn read(snapshot: &SnapshotBytes) -> Result<(RawSnapshot, NaiveState), (Kind, String)> {
    let path = snapshot.key.path();
    let unreadable = |why: String| (Kind::SnapshotUnreadable, format!("{path}: {why}"));
    let raw = RawSnapshot::decode(&snapshot.bytes).map_err(|e| unreadable(e.to_string()))?;
    if raw.key() != snapshot.key {
        return Err(unreadable(format!("it holds {}", raw.key().path())));
    }
    let (state, inner) = state::decode(&raw.machine).map_err(unreadable)?;
    let computed = state::state_digest(&state);
    if raw.header.digest != computed || inner != computed {
        let stated = raw.header.digest;
        return Err((
            Kind::SnapshotDigest,
            format!("{path}: it states {stated} and {inner}, its content gives {computed}"),
        ));
    }
    Ok((raw, state))
}

/// Whether it holds what the log gives at its offset.
///
/// # Errors
/// The first difference.
pub fn compare(raw: &RawSnapshot, theirs: &NaiveState, replay: &Replay) -> Result<(), (Kind, String)> {
    let header = &raw.header;
    let differs = |what: &str, theirs: &dyn std::fmt::Debug, ours: &dyn std::fmt::Debug| {
        Err((Kind::SnapshotDiffers, format!("{}: {what} is {theirs:?}, the log gives {ours:?}", raw.key().path())))
    };
    let Some(ours) = replay.state() else {
        return differs("the book", &"there", &"none");
    };
    orders(&theirs.orders, &ours).map_err(|(kind, why)| (kind, format!("{}: {why}", raw.key().path())))?;
    let (clock, nonces) = replay.authority_state();
    let pairs: [(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug); 8] = [
        ("last seq", &header.seqs, &replay.seqs()),
        ("epoch", &header.epoch, &replay.epoch()),
        ("owner", &Some(header.owner), &replay.owner()),
        ("clock", &(raw.clock, theirs.clock), &(clock, ours.clock)),
        ("rank counter", &theirs.next_rank, &ours.next_rank),
        ("last trade", &theirs.last_trade, &ours.last_trade),
        ("halt", &theirs.halted, &ours.halted),
        ("rules", &(header.rules_version, theirs.rules_version), &(ours.rules_version, ours.rules_version)),
    ];
    for (what, theirs, ours) in pairs {
        if format!("{theirs:?}") != format!("{ours:?}") {
            return differs(what, theirs, ours);
        }
    }
    if raw.nonces != nonces {
        return differs("number of unexpired nonces", &raw.nonces.len(), &nonces.len());
    }
    if theirs.gateways != ours.gateways {
        return differs("gateways", &theirs.gateways, &ours.gateways);
    }
    if (theirs.endings, &theirs.finished) != (ours.endings, &ours.finished) {
        return differs("number of endings", &theirs.endings, &ours.endings);
    }
    if (&theirs.instrument, theirs.id_key) != (&ours.instrument, ours.id_key) {
        return differs("instrument", &theirs.instrument, &ours.instrument);
    }
    let (theirs, ours) = (state::book_digest(&theirs.orders), state::book_digest(&ours.orders));
    if theirs == ours { Ok(()) } else { differs("book digest", &theirs, &ours) }
}

/// Resting orders, both by rank.
fn orders(theirs: &[NaiveOrder], ours: &NaiveState) -> Result<(), (Kind, String)> {
    let first = theirs.iter().zip(&ours.orders).position(|(t, o)| t != o);
    let at = first.unwrap_or(theirs.len().min(ours.orders.len()));
    let same_id = |a: &NaiveOrder, b: &NaiveOrder| (a.user, a.order_id) == (b.user, b.order_id);
    let Some(t) = theirs.get(at) else {
        return match ours.orders.get(at) {
            None => Ok(()),
            Some(o) => Err((Kind::SilentMatch, format!("{} is not in it, {} are open", o.order_id, o.open))),
        };
    };
    let is_twice = theirs.iter().filter(|other| same_id(other, t)).count() > 1;
    let Some(o) = ours.orders.iter().find(|o| same_id(o, t)) else {
        return Err((Kind::GhostOrder, format!("{} rests in it, the log ended it", t.order_id)));
    };
    if is_twice {
        return Err((Kind::RegisteredTwice, format!("{} rests in it twice", t.order_id)));
    }
    let passed_over = ours.orders.get(at).filter(|ours| !theirs.iter().any(|t| same_id(t, ours)));
    if let Some(o) = passed_over {
        return Err((Kind::SilentMatch, format!("{} is not in it, {} are open", o.order_id, o.open)));
    }
    let amounts = |kind| Err((kind, format!("{} has {} open in it, the log left it {}", t.order_id, t.open, o.open)));
    match t.open.cmp(&o.open) {
        std::cmp::Ordering::Greater => amounts(Kind::RefilledOrder),
        std::cmp::Ordering::Less => amounts(Kind::SilentMatch),
        std::cmp::Ordering::Equal if t.rank != o.rank => {
            Err((Kind::TimePriority, format!("{} has rank {} in it, the log gave it {}", t.order_id, t.rank, o.rank)))
        }
        std::cmp::Ordering::Equal => Err((Kind::SnapshotDiffers, format!("{t:?} instead of {o:?}"))),
    }
}
