//! The book: a pure machine. (interim)
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::output::{Cause, CommandKind, Level, OrderType, OrderUpdate, Party, Tif, Trade};
use crate::domain::*;

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Resting {
    order_id: OrderId,
    user: UserId,
    side: Side,
    price: Price,
    quantity: u64,
    open: u64,
    filled: u64,
    rank: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct OpenOrder {
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    pub price: Option<Price>,
    pub quantity: Quantity,
    pub open: Quantity,
    pub filled: Quantity,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Book {
    instrument: Instrument,
    orders: BTreeMap<u64, Resting>,
    ids: BTreeMap<(UserId, OrderId), u64>,
    done: BTreeSet<(UserId, OrderId)>,
    ring: VecDeque<(UserId, OrderId)>,
    next: u64,
    halted: bool,
    last: Option<(Price, Quantity)>,
}

impl Book {
    pub fn instrument(&self) -> &Instrument {
        &self.instrument
    }
    pub fn is_halted(&self) -> bool {
        self.halted
    }
    pub fn resting_orders(&self) -> usize {
        self.orders.len()
    }
    pub fn last_trade(&self) -> Option<(Price, Quantity)> {
        self.last
    }
    pub fn book_digest(&self) -> Digest {
        let mut h = SipHasher13::new();
        for (r, o) in &self.orders {
            h.write_u64(*r);
            h.write_u64(o.price.0);
            h.write_u64(o.open);
            h.write_u8(o.side as u8);
        }
        Digest(h.finish128().as_u128())
    }
    pub fn open_orders(&self) -> Vec<OpenOrder> {
        self.orders
            .values()
            .map(|o| OpenOrder {
                order_id: o.order_id,
                user: o.user,
                side: o.side,
                order_type: OrderType::Limit,
                time_in_force: Tif::Gtc,
                price: Some(o.price),
                quantity: Quantity(o.quantity),
                open: Quantity(o.open),
                filled: Quantity(o.filled),
            })
            .collect()
    }
    pub fn depth(&self, side: Side, levels: usize) -> Vec<Level> {
        let mut m: BTreeMap<Price, Level> = BTreeMap::new();
        for o in self.orders.values().filter(|o| o.side == side) {
            let l = m.entry(o.price).or_insert(Level { price: o.price, quantity: 0, orders: 0 });
            l.quantity += o.open;
            l.orders += 1;
        }
        let v: Vec<Level> = if side == Side::Buy { m.into_values().rev().collect() } else { m.into_values().collect() };
        v.into_iter().take(levels).collect()
    }
    fn level(&self, side: Side, price: Price) -> Level {
        let mut l = Level { price, quantity: 0, orders: 0 };
        for o in self.orders.values().filter(|o| o.side == side && o.price == price) {
            l.quantity += o.open;
            l.orders += 1;
        }
        l
    }
    fn best(&self, side: Side) -> Option<u64> {
        let it = self.orders.values().filter(|o| o.side == side);
        if side == Side::Buy {
            it.max_by_key(|o| (o.price, std::cmp::Reverse(o.rank))).map(|o| o.rank)
        } else {
            it.min_by_key(|o| (o.price, o.rank)).map(|o| o.rank)
        }
    }
    fn finish(&mut self, k: (UserId, OrderId)) {
        self.ids.remove(&k);
        if self.done.insert(k) {
            self.ring.push_back(k);
            if self.ring.len() > 65_536 {
                let o = self.ring.pop_front().unwrap();
                self.done.remove(&o);
            }
        }
    }
    fn add(&mut self, n: &NewOrder, out: &mut Outbox) {
        let key = (n.user, n.order_id);
        if self.ids.contains_key(&key) || self.done.contains(&key) {
            out.emit(
                &OutputBody::Refused {
                    command: CommandKind::Add,
                    user: Some(n.user),
                    order_id: Some(n.order_id),
                    reason: Reason::DuplicateOrder,
                },
                true,
            );
            return;
        }
        let price = n.kind.limit();
        let (ot, tif) = (
            if price.is_some() { OrderType::Limit } else { OrderType::Market },
            match n.time_in_force {
                TimeInForce::Ioc => Tif::Ioc,
                TimeInForce::Fok => Tif::Fok,
                _ => Tif::Gtc,
            },
        );
        let mut u = OrderUpdate {
            cause: Cause::Added,
            order_id: n.order_id,
            user: n.user,
            side: n.side,
            order_type: ot,
            time_in_force: tif,
            price,
            quantity: n.quantity,
            open: Quantity(0),
            filled: Quantity(0),
            status: OrderStatus::Rejected,
            reason: None,
            left: None,
            joined: None,
        };
        let bad = if self.halted {
            Some(Reason::SymbolHalted)
        } else {
            price
                .and_then(|p| self.instrument.check_price(p).err())
                .or(self.instrument.check_quantity(n.quantity).err())
        };
        if bad.is_some() {
            u.reason = bad;
            self.finish(key);
            out.emit(&OutputBody::Order(u), true);
            return;
        }
        let (mut open, mut filled) = (n.quantity.0, 0);
        while open > 0 {
            let Some(r) = self.best(n.side.opposite()) else { break };
            let m = self.orders[&r].clone();
            if price.is_some_and(|p| !n.side.crosses(p, m.price)) {
                break;
            }
            let q = open.min(m.open);
            open -= q;
            filled += q;
            let mm = self.orders.get_mut(&r).unwrap();
            mm.open -= q;
            mm.filled += q;
            let (mo, mf) = (mm.open, mm.filled);
            if mo == 0 {
                self.orders.remove(&r);
                self.finish((m.user, m.order_id));
            }
            self.last = Some((m.price, Quantity(q)));
            let level = self.level(m.side, m.price);
            out.emit(
                &OutputBody::Trade(Trade {
                    price: m.price,
                    quantity: Quantity(q),
                    maker_side: m.side,
                    maker: Party { order_id: m.order_id, user: m.user, open: Quantity(mo), filled: Quantity(mf) },
                    taker: Party { order_id: n.order_id, user: n.user, open: Quantity(open), filled: Quantity(filled) },
                    level,
                }),
                false,
            );
        }
        u.filled = Quantity(filled);
        if open == 0 {
            u.status = OrderStatus::Filled;
            self.finish(key);
        } else if tif == Tif::Gtc && ot == OrderType::Limit {
            u.status = if filled > 0 { OrderStatus::PartiallyFilled } else { OrderStatus::New };
            u.open = Quantity(open);
            let rank = self.next;
            self.next += 1;
            let price = price.unwrap();
            self.orders.insert(
                rank,
                Resting {
                    order_id: n.order_id,
                    user: n.user,
                    side: n.side,
                    price,
                    quantity: n.quantity.0,
                    open,
                    filled,
                    rank,
                },
            );
            self.ids.insert(key, rank);
            u.joined = Some(self.level(n.side, price));
        } else {
            u.status = OrderStatus::Canceled;
            u.reason = Some(Reason::IocRemainder);
            self.finish(key);
        }
        out.emit(&OutputBody::Order(u), true);
    }
    fn cancel(&mut self, r: u64, reason: Reason, answer: bool, out: &mut Outbox) {
        let o = self.orders.remove(&r).unwrap();
        self.finish((o.user, o.order_id));
        let left = Some(self.level(o.side, o.price));
        out.emit(
            &OutputBody::Order(OrderUpdate {
                cause: Cause::Canceled,
                order_id: o.order_id,
                user: o.user,
                side: o.side,
                order_type: OrderType::Limit,
                time_in_force: Tif::Gtc,
                price: Some(o.price),
                quantity: Quantity(o.quantity),
                open: Quantity(0),
                filled: Quantity(o.filled),
                status: OrderStatus::Canceled,
                reason: Some(reason),
                left,
                joined: None,
            }),
            answer,
        );
    }
}
impl Machine for Book {
    type Command = Command;
    fn birth(input: &Input<Command>, out: &mut Outbox) -> Option<Self> {
        let Command::List { listing, .. } = &input.command else { return None };
        out.begin(input.offset, input.at, input.origin);
        out.emit(
            &OutputBody::Listed { instrument: listing.instrument.clone(), owner: listing.owner, rules_version: 1 },
            true,
        );
        out.end();
        Some(Self {
            instrument: listing.instrument.clone(),
            orders: BTreeMap::new(),
            ids: BTreeMap::new(),
            done: BTreeSet::new(),
            ring: VecDeque::new(),
            next: 1,
            halted: false,
            last: None,
        })
    }
    fn apply(&mut self, input: &Input<Command>, out: &mut Outbox) {
        out.begin(input.offset, input.at, input.origin);
        let refuse = |command, user, order_id, reason| OutputBody::Refused { command, user, order_id, reason };
        match &input.command {
            Command::Add(n) => self.add(n, out),
            Command::Cancel { user, order_id } => match self.ids.get(&(*user, *order_id)) {
                Some(r) => {
                    let r = *r;
                    self.cancel(r, Reason::CanceledByUser, true, out)
                }
                None => {
                    _ = out.emit(&refuse(CommandKind::Cancel, Some(*user), Some(*order_id), Reason::UnknownOrder), true)
                }
            },
            Command::Replace { user, order_id, .. } => {
                _ = out.emit(&refuse(CommandKind::Replace, Some(*user), Some(*order_id), Reason::UnknownOrder), true)
            }
            Command::CancelAll { user, .. } => {
                let rs: Vec<u64> = self.orders.values().filter(|o| o.user == *user).map(|o| o.rank).collect();
                for r in &rs {
                    self.cancel(*r, Reason::CancelAll, false, out);
                }
                out.emit(&OutputBody::AllCanceled { user: *user, count: rs.len() as u32 }, true);
            }
            Command::List { .. } => _ = out.emit(&refuse(CommandKind::List, None, None, Reason::SymbolExists), true),
            Command::Halt { .. } => {
                self.halted = true;
                out.emit(&OutputBody::Halted, true);
            }
            Command::Resume { .. } => {
                self.halted = false;
                out.emit(&OutputBody::Resumed, true);
            }
            _ => _ = out.emit(&OutputBody::SessionEnded, true),
        }
        out.end();
    }
    fn authority(command: &Command) -> Option<&Authority> {
        command.authority()
    }
    fn fence(command: &Command) -> Option<&Fence> {
        if let Command::Fence { fence, .. } = command { Some(fence) } else { None }
    }
    fn digest(&self) -> Digest {
        self.book_digest()
    }
    fn rules_version(&self) -> u32 {
        1
    }
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend(
            rmp_serde::to_vec(&(
                &self.instrument,
                self.orders.values().collect::<Vec<_>>(),
                &self.ring,
                self.next,
                self.halted,
                self.last,
            ))
            .unwrap(),
        );
    }
    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        type T = (Instrument, Vec<Resting>, VecDeque<(UserId, OrderId)>, u64, bool, Option<(Price, Quantity)>);
        let (instrument, list, ring, next, halted, last): T =
            rmp_serde::from_slice(bytes).map_err(|e| SnapshotError::Damaged { what: e.to_string() })?;
        let done = ring.iter().copied().collect();
        let ids = list.iter().map(|o| ((o.user, o.order_id), o.rank)).collect();
        Ok(Self {
            instrument,
            orders: list.into_iter().map(|o| (o.rank, o)).collect(),
            ids,
            done,
            ring,
            next,
            halted,
            last,
        })
    }
}
