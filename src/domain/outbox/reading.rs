//! Reads what [`Outbox`](super::Outbox) wrote.

use super::{
    ADMISSION_GATEWAY, Classes, FLAG_ANSWER, FLAG_END, HEADER, KIND_ALL_CANCELED, KIND_HALTED, KIND_LISTED, KIND_ORDER,
    KIND_REFUSED, KIND_RESUMED, KIND_RULES_SET, KIND_SESSION_ENDED, KIND_TRADE,
};
use crate::domain::ids::{NodeId, OrderId, UserId};
use crate::domain::instrument::{Admission, Instrument, TickBand};
use crate::domain::numbers::{Epoch, Micros, Offset, Origin, Price, Quantity, Seq, Side};
use crate::domain::output::{
    Cause, CommandKind, Level, OrderStatus, OrderType, OrderUpdate, Output, OutputBody, Party, Tif, Trade,
};
use crate::domain::reason::Reason;

/// An output that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("output is damaged or from a newer build")]
pub struct BadOutput;

/// The fixed part of an encoded output: enough to skip, count, order and route it without decoding its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole output.
    pub length: usize,
    pub seq: Seq,
    pub offset: Offset,
    pub origin: Origin,
    pub classes: Classes,
    pub answer: bool,
    pub end: bool,
}

impl Header {
    /// Reads the head of the first output in `bytes`.
    ///
    /// # Errors
    /// [`BadOutput`] when it is not whole.
    pub fn read(bytes: &[u8]) -> Result<Self, BadOutput> {
        let mut r = Reader(bytes);
        let length = r.u32()? as usize;
        if length < HEADER || length > bytes.len() {
            return Err(BadOutput);
        }
        let [_, flags, classes, _] = [r.u8()?, r.u8()?, r.u8()?, r.u8()?];
        let (seq, offset) = (Seq(r.u64()?), Offset(r.u64()?));
        let (_at, _epoch) = (r.u64()?, r.u64()?);
        let origin = Origin { gateway: r.u64()?, counter: r.u64()? };
        Ok(Self {
            length,
            seq,
            offset,
            origin,
            classes: Classes(classes),
            answer: flags & FLAG_ANSWER != 0,
            end: flags & FLAG_END != 0,
        })
    }
}

impl Output {
    /// Reads the first output in `bytes`; gives it and its length in bytes.
    ///
    /// # Errors
    /// [`BadOutput`] when it is not whole or not known.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), BadOutput> {
        let head = Header::read(bytes)?;
        let kind = bytes[4];
        let mut r = Reader(&bytes[24..head.length]);
        let (at, epoch) = (Micros(r.u64()?), Epoch(r.u64()?));
        let _origin = (r.u64()?, r.u64()?);
        let mut prev_seq = [Seq(0); 4];
        for (i, class) in Classes::EACH.into_iter().enumerate() {
            if head.classes.has(class) {
                prev_seq[i] = Seq(r.u64()?);
            }
        }
        let body = r.body(kind)?;
        if !r.0.is_empty() {
            return Err(BadOutput);
        }
        let Header { length, seq, offset, origin, classes, answer, end } = head;
        Ok((Self { seq, offset, at, epoch, origin, answer, end, classes, prev_seq, body }, length))
    }

    /// Reads all outputs in `bytes`, in order.
    pub fn decode_all(mut bytes: &[u8]) -> impl Iterator<Item = Result<Self, BadOutput>> + '_ {
        std::iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            match Self::decode(bytes) {
                Ok((output, length)) => {
                    bytes = &bytes[length..];
                    Some(Ok(output))
                }
                Err(e) => {
                    bytes = &[];
                    Some(Err(e))
                }
            }
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BadOutput> {
        if self.0.len() < n {
            return Err(BadOutput);
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, BadOutput> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, BadOutput> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| BadOutput)?))
    }

    fn u64(&mut self) -> Result<u64, BadOutput> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| BadOutput)?))
    }

    fn text(&mut self) -> Result<&'a [u8], BadOutput> {
        let n = self.u8()?;
        self.take(usize::from(n))
    }

    fn order_id(&mut self) -> Result<OrderId, BadOutput> {
        OrderId::from_bytes(self.text()?).map_err(|_| BadOutput)
    }

    fn user(&mut self) -> Result<UserId, BadOutput> {
        UserId::from_bytes(self.text()?).map_err(|_| BadOutput)
    }

    fn side(&mut self) -> Result<Side, BadOutput> {
        match self.u8()? {
            0 => Ok(Side::Buy),
            1 => Ok(Side::Sell),
            _ => Err(BadOutput),
        }
    }

    fn reason(&mut self) -> Result<Option<Reason>, BadOutput> {
        match self.u8()? {
            0 => Ok(None),
            n => Reason::from_number(n).map(Some).ok_or(BadOutput),
        }
    }

    fn party(&mut self) -> Result<Party, BadOutput> {
        Ok(Party {
            order_id: self.order_id()?,
            user: self.user()?,
            open: Quantity(self.u64()?),
            filled: Quantity(self.u64()?),
        })
    }

    fn level(&mut self) -> Result<Level, BadOutput> {
        Ok(Level { price: Price(self.u64()?), quantity: self.u64()?, orders: self.u32()? })
    }

    fn trade(&mut self) -> Result<Trade, BadOutput> {
        Ok(Trade {
            price: Price(self.u64()?),
            quantity: Quantity(self.u64()?),
            maker_side: self.side()?,
            maker: self.party()?,
            taker: self.party()?,
            level: self.level()?,
        })
    }

    fn order(&mut self) -> Result<OrderUpdate, BadOutput> {
        let cause = Cause::from_number(self.u8()?).ok_or(BadOutput)?;
        let side = self.side()?;
        let order_type = OrderType::from_number(self.u8()?).ok_or(BadOutput)?;
        let time_in_force = Tif::from_number(self.u8()?).ok_or(BadOutput)?;
        let status = OrderStatus::from_number(self.u8()?).ok_or(BadOutput)?;
        let reason = self.reason()?;
        let present = self.u8()?;
        self.u8()?;
        let (quantity, open, filled) = (Quantity(self.u64()?), Quantity(self.u64()?), Quantity(self.u64()?));
        let (order_id, user) = (self.order_id()?, self.user()?);
        let price = if present & 1 != 0 { Some(Price(self.u64()?)) } else { None };
        let left = if present & 2 != 0 { Some(self.level()?) } else { None };
        let joined = if present & 4 != 0 { Some(self.level()?) } else { None };
        Ok(OrderUpdate {
            cause,
            order_id,
            user,
            side,
            order_type,
            time_in_force,
            price,
            quantity,
            open,
            filled,
            status,
            reason,
            left,
            joined,
        })
    }

    fn instrument(&mut self) -> Result<Instrument, BadOutput> {
        let price_scale = self.u8()?;
        let bands = self.u8()?;
        let mut ticks = Vec::with_capacity(usize::from(bands));
        for _ in 0..bands {
            ticks.push(TickBand { from: Price(self.u64()?), tick: self.u64()? });
        }
        let lot_size = self.u64()?;
        let mut optional = || self.u64().map(|n| (n != 0).then_some(n));
        Ok(Instrument {
            price_scale,
            ticks,
            lot_size,
            reference_price: optional()?.map(Price),
            limit_up: optional()?.map(Price),
            limit_down: optional()?.map(Price),
            max_order_value: optional()?,
            admission: self.admission()?,
        })
    }

    /// What a listing ends with, if it does not take orders from anyone.
    fn admission(&mut self) -> Result<Admission, BadOutput> {
        if self.0.is_empty() {
            return Ok(Admission::Open);
        }
        if self.u8()? == ADMISSION_GATEWAY { Ok(Admission::Gateway) } else { Err(BadOutput) }
    }

    fn body(&mut self, kind: u8) -> Result<OutputBody, BadOutput> {
        Ok(match kind {
            KIND_TRADE => OutputBody::Trade(self.trade()?),
            KIND_ORDER => OutputBody::Order(self.order()?),
            KIND_REFUSED => {
                let command = CommandKind::from_number(self.u8()?).ok_or(BadOutput)?;
                let reason = self.reason()?.ok_or(BadOutput)?;
                let (user, order_id) = (self.text()?, self.text()?);
                OutputBody::Refused {
                    command,
                    user: UserId::from_bytes(user).ok(),
                    order_id: OrderId::from_bytes(order_id).ok(),
                    reason,
                }
            }
            KIND_ALL_CANCELED => OutputBody::AllCanceled { user: self.user()?, count: self.u32()? },
            KIND_LISTED => OutputBody::Listed {
                owner: NodeId::from_bytes(self.text()?).map_err(|_| BadOutput)?,
                rules_version: self.u32()?,
                instrument: self.instrument()?,
            },
            KIND_HALTED => OutputBody::Halted,
            KIND_RESUMED => OutputBody::Resumed,
            KIND_RULES_SET => OutputBody::RulesSet { version: self.u32()? },
            KIND_SESSION_ENDED => OutputBody::SessionEnded,
            _ => return Err(BadOutput),
        })
    }
}
