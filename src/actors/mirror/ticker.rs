//! Trading of the last 24 hours, in buckets of a minute. Its only clock is the log's.

use std::collections::VecDeque;

use super::view::CandleView;
use crate::domain::{Micros, Price, Quantity};

const MINUTE_US: u64 = 60_000_000;
/// 24 h of minutes: at most 1,440 x 64 bytes = 90 KiB per symbol, and only for minutes in which it traded.
const MINUTES: u64 = 24 * 60;

#[derive(Debug, Clone, Copy)]
struct Minute {
    number: u64,
    open: Price,
    high: Price,
    low: Price,
    close: Price,
    volume: u64,
    trades: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Ticker {
    minutes: VecDeque<Minute>,
}

/// (open, high, low), volume, trades.
pub(super) type Day = (Option<(Price, Price, Price)>, u64, u64);

impl Ticker {
    /// Lets go of what is 24 h older than `at`.
    fn advance(&mut self, at: Micros) {
        let now = at.0 / MINUTE_US;
        while self.minutes.front().is_some_and(|m| m.number + MINUTES <= now) {
            self.minutes.pop_front();
        }
    }

    pub fn trade(&mut self, at: Micros, price: Price, quantity: Quantity) {
        let number = at.0 / MINUTE_US;
        match self.minutes.back_mut() {
            // Log time never falls within a partition; if it did, the trade would count for the newest minute.
            Some(m) if m.number >= number => {
                m.high = m.high.max(price);
                m.low = m.low.min(price);
                m.close = price;
                m.volume += quantity.0;
                m.trades += 1;
            }
            _ => self.minutes.push_back(Minute {
                number,
                open: price,
                high: price,
                low: price,
                close: price,
                volume: quantity.0,
                trades: 1,
            }),
        }
        self.advance(at);
    }

    /// The newest `count` spans of `minutes` in which something traded, oldest first. A span that began before the 24
    /// hours shows what is left of it.
    pub fn candles(&self, minutes: u64, count: usize) -> Vec<CandleView> {
        let mut candles: Vec<CandleView> = Vec::new();
        for m in self.minutes.iter().rev() {
            let is_enough = candles.len() == count;
            let start = Micros((m.number - m.number % minutes) * MINUTE_US);
            match candles.last_mut() {
                Some(c) if c.start == start => {
                    c.open = m.open;
                    c.high = c.high.max(m.high);
                    c.low = c.low.min(m.low);
                    c.volume += m.volume;
                    c.trades += m.trades;
                }
                _ if is_enough => break,
                _ => candles.push(CandleView {
                    start,
                    open: m.open,
                    high: m.high,
                    low: m.low,
                    close: m.close,
                    volume: m.volume,
                    trades: m.trades,
                }),
            }
        }
        candles.reverse();
        candles
    }

    /// The 24 hours that end at `at`.
    pub fn day_at(&self, at: Micros) -> Day {
        let now = at.0 / MINUTE_US;
        let (mut prices, mut volume, mut trades) = (None::<(Price, Price, Price)>, 0, 0);
        for m in self.minutes.iter().filter(|m| m.number + MINUTES > now) {
            prices = Some(prices.map_or((m.open, m.high, m.low), |(o, h, l)| (o, h.max(m.high), l.min(m.low))));
            volume += m.volume;
            trades += m.trades;
        }
        (prices, volume, trades)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candles_sum_their_minutes_up() {
        let mut t = Ticker::default();
        for (minute, price, quantity) in [(3, 10, 1), (4, 30, 2), (4, 5, 3), (4, 20, 1), (5, 21, 7), (60, 9, 1)] {
            t.trade(Micros(minute * MINUTE_US + 1), Price(price), Quantity(quantity));
        }
        let shown = |minutes, count| {
            let of = |c: &CandleView| (c.start.0 / MINUTE_US, [c.open, c.high, c.low, c.close].map(|p| p.0), c.volume);
            t.candles(minutes, count).iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(1, 10),
            [(3, [10; 4], 1), (4, [30, 30, 5, 20], 6), (5, [21; 4], 7), (60, [9; 4], 1)],
            "a minute without a trade has none"
        );
        assert_eq!(shown(5, 10), [(0, [10, 30, 5, 20], 7), (5, [21; 4], 7), (60, [9; 4], 1)]);
        assert_eq!(shown(60, 10), [(0, [10, 30, 5, 21], 14), (60, [9; 4], 1)]);
        assert_eq!(shown(1, 2), [(5, [21; 4], 7), (60, [9; 4], 1)]);
        assert_eq!(t.candles(5, 2)[1].trades, 1);
    }

    #[test]
    fn a_day_forgets_what_is_older() {
        let mut t = Ticker::default();
        t.trade(Micros(0), Price(10), Quantity(1));
        t.trade(Micros(MINUTE_US), Price(30), Quantity(2));
        t.trade(Micros(MINUTE_US + 1), Price(20), Quantity(3));
        let day = |minute: u64| t.day_at(Micros(minute * MINUTE_US));
        assert_eq!(day(1), (Some((Price(10), Price(30), Price(10))), 6, 3));
        assert_eq!(day(MINUTES - 1).2, 3);
        assert_eq!(day(MINUTES), (Some((Price(30), Price(30), Price(20))), 5, 2));
        assert_eq!(day(MINUTES + 1), (None, 0, 0));
        t.trade(Micros((MINUTES + 1) * MINUTE_US), Price(7), Quantity(1));
        assert_eq!(t.minutes.len(), 1, "what is older is let go");
    }
}
