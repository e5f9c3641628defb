//! What may be traded, and in which steps.

use super::numbers::{Price, Quantity};
use super::reason::Reason;

/// One row of a tick size table: from this price on (inclusive), prices are multiples of `tick`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TickBand {
    pub from: Price,
    pub tick: u64,
}

/// From whom a book takes ADD and REPLACE; whoever may write to the log may send the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// From anyone.
    #[default]
    Open,
    /// Only what a gateway of this cluster signed.
    Gateway,
}

impl Admission {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// The rules of one instrument. All prices are in minor units of `price_scale` decimals.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Instrument {
    /// Decimals of a price, 0 to 9.
    pub price_scale: u8,
    /// Ascending by `from`, the first from 0 (or below any price); 1 to [`Instrument::TICK_BANDS_MAX`] rows.
    pub ticks: Vec<TickBand>,
    /// Quantities are multiples of this.
    pub lot_size: u64,
    pub reference_price: Option<Price>,
    /// 상한가: no order above, no trade above.
    pub limit_up: Option<Price>,
    /// 하한가: no order below, no trade below.
    pub limit_down: Option<Price>,
    /// Largest price x quantity of one order, in minor units.
    pub max_order_value: Option<u64>,
    /// Last, and left out when open: records and snapshots of before it was there are read and written as they were.
    #[serde(default, skip_serializing_if = "Admission::is_open")]
    pub admission: Admission,
}

impl Instrument {
    pub const TICK_BANDS_MAX: usize = 16;
    pub const PRICE_SCALE_MAX: u8 = 9;

    /// One tick size at all prices, no limits.
    pub fn plain(price_scale: u8, tick: u64, lot_size: u64) -> Self {
        Self {
            price_scale,
            ticks: vec![TickBand { from: Price(0), tick }],
            lot_size,
            reference_price: None,
            limit_up: None,
            limit_down: None,
            max_order_value: None,
            admission: Admission::Open,
        }
    }

    /// The lowest rules version that knows what this instrument asks for: an older build must not take it for less.
    pub fn rules_needed(&self) -> u32 {
        match self.admission {
            Admission::Open => 1,
            Admission::Gateway => 2,
        }
    }

    /// Whether the rules make sense together.
    ///
    /// # Errors
    /// A sentence for the operator who lists it.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.price_scale > Self::PRICE_SCALE_MAX {
            return Err("price_scale must be 0 to 9");
        }
        if self.ticks.is_empty() || self.ticks.len() > Self::TICK_BANDS_MAX {
            return Err("a tick size table has 1 to 16 rows");
        }
        if self.ticks[0].from.0 != 0 || self.ticks.windows(2).any(|w| w[0].from >= w[1].from) {
            return Err("a tick size table starts at 0 and ascends");
        }
        if self.ticks.iter().any(|b| b.tick == 0 || b.tick > Price::MAX.0) {
            return Err("tick_size must be above 0");
        }
        if self.lot_size == 0 || self.lot_size > Quantity::MAX.0 {
            return Err("lot_size must be 1 to 1000000000");
        }
        let prices = [self.reference_price, self.limit_up, self.limit_down];
        if prices.iter().flatten().any(|p| p.0 == 0 || *p > Price::MAX) {
            return Err("reference_price, limit_up and limit_down must be above 0");
        }
        if let (Some(up), Some(down)) = (self.limit_up, self.limit_down)
            && up < down
        {
            return Err("limit_up is below limit_down");
        }
        if let Some(reference) = self.reference_price
            && (self.limit_up.is_some_and(|up| reference > up) || self.limit_down.is_some_and(|d| reference < d))
        {
            return Err("reference_price is outside the limits");
        }
        if self.max_order_value == Some(0) {
            return Err("max_order_value must be above 0");
        }
        Ok(())
    }

    /// Tick size that holds at `price`.
    pub fn tick_at(&self, price: Price) -> u64 {
        match self.ticks[..] {
            [TickBand { tick, .. }] => tick,
            _ => self.ticks.iter().rev().find(|b| b.from <= price).map_or(1, |b| b.tick),
        }
    }

    /// Whether an order may carry `price`.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn check_price(&self, price: Price) -> Result<(), Reason> {
        if price.0 == 0 || price > Price::MAX {
            return Err(Reason::InvalidPrice);
        }
        if self.limit_up.is_some_and(|up| price > up) {
            return Err(Reason::PriceAboveLimit);
        }
        if self.limit_down.is_some_and(|down| price < down) {
            return Err(Reason::PriceBelowLimit);
        }
        // A division takes long, and most steps are 1.
        let tick = self.tick_at(price);
        if tick != 1 && !price.0.is_multiple_of(tick) {
            return Err(Reason::PriceNotOnTick);
        }
        Ok(())
    }

    /// Whether an order may carry `quantity`.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn check_quantity(&self, quantity: Quantity) -> Result<(), Reason> {
        if quantity.is_zero() || quantity > Quantity::MAX {
            return Err(Reason::InvalidQuantity);
        }
        if self.lot_size != 1 && !quantity.0.is_multiple_of(self.lot_size) {
            return Err(Reason::QuantityNotOnLot);
        }
        Ok(())
    }

    /// Whether an order of `quantity` at `price` stays below the largest order value.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn check_value(&self, price: Price, quantity: Quantity) -> Result<(), Reason> {
        match self.max_order_value {
            Some(max) if price.value_of(quantity) > u128::from(max) => Err(Reason::OrderValueAboveMax),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_table_is_read_from_its_last_row_that_begins_below() {
        let mut i = Instrument::plain(0, 1, 1);
        i.ticks.push(TickBand { from: Price(2_000), tick: 5 });
        i.ticks.push(TickBand { from: Price(5_000), tick: 10 });
        assert_eq!(i.check(), Ok(()));
        assert_eq!((i.tick_at(Price(1_999)), i.tick_at(Price(2_000)), i.tick_at(Price(9_999))), (1, 5, 10));
        assert_eq!(i.check_price(Price(2_003)), Err(Reason::PriceNotOnTick));
        assert_eq!(i.check_price(Price(2_005)), Ok(()));
    }

    /// As it was before there was `admission`.
    #[derive(serde::Serialize)]
    struct Before {
        price_scale: u8,
        ticks: Vec<TickBand>,
        lot_size: u64,
        reference_price: Option<Price>,
        limit_up: Option<Price>,
        limit_down: Option<Price>,
        max_order_value: Option<u64>,
    }

    #[test]
    fn an_open_instrument_is_written_and_read_as_before_there_was_anything_else() {
        let open = Instrument { limit_up: Some(Price(9)), ..Instrument::plain(2, 5, 10) };
        let Instrument { price_scale, ticks, lot_size, reference_price, limit_up, limit_down, max_order_value, .. } =
            open.clone();
        let before = Before { price_scale, ticks, lot_size, reference_price, limit_up, limit_down, max_order_value };
        // By place in snapshots, by name in LIST records.
        for (old, new) in [
            (rmp_serde::to_vec(&before), rmp_serde::to_vec(&open)),
            (rmp_serde::to_vec_named(&before), rmp_serde::to_vec_named(&open)),
        ] {
            let old = old.unwrap();
            assert_eq!(new.unwrap(), old);
            assert_eq!(rmp_serde::from_slice::<Instrument>(&old).unwrap(), open);
        }
        let closed = Instrument { admission: Admission::Gateway, ..open };
        for bytes in [rmp_serde::to_vec(&closed), rmp_serde::to_vec_named(&closed)] {
            assert_eq!(rmp_serde::from_slice::<Instrument>(&bytes.unwrap()).unwrap(), closed);
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let i = Instrument { limit_up: Some(Price(130)), limit_down: Some(Price(70)), ..Instrument::plain(0, 1, 1) };
        assert_eq!(i.check_price(Price(130)), Ok(()));
        assert_eq!(i.check_price(Price(131)), Err(Reason::PriceAboveLimit));
        assert_eq!(i.check_price(Price(69)), Err(Reason::PriceBelowLimit));
    }
}
