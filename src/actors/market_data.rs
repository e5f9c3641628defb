//! What is said to everybody: DEPTH, TRADE, TICKER and CANDLE texts, made once per symbol and batch, shared by all listeners.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use bytestring::ByteString;

use super::gateway::{Channel, ConnectionId, Push, Sink};
use super::mirror::{CandleView, DepthChanges, Mirror, TickerView, TradeView};
use crate::domain::{Micros, Price, Quantity, Seq, Symbol};
use crate::wire::rfc3339;

/// Candles told after one batch: 60 x about 200 bytes. Who was away for longer asks `GET /candles`.
const CANDLES_TOLD_MAX: usize = 60;

type Listeners = HashMap<ConnectionId, Arc<dyn Sink>>;

/// Who listens to one symbol. How many a connection may be in is bounded by the gateway.
#[derive(Default)]
pub struct Channels {
    depth: Listeners,
    trades: Listeners,
    ticker: Listeners,
    candles: Listeners,
    /// Start of the newest candle that was told.
    candle: Micros,
    /// The depth snapshot at a seq: many who subscribe at once share one text.
    snapshot: Option<(Seq, ByteString)>,
}

/// A symbol's part of one batch: where it stood before, and what traded in it.
#[derive(Debug, Clone)]
pub struct MarketBatch {
    pub before: Seq,
    /// Collected only if somebody listens to trades.
    pub trades: Vec<TradeView>,
    pub has_traded: bool,
}

impl Channels {
    fn of(&mut self, channel: Channel) -> Option<&mut Listeners> {
        match channel {
            Channel::Depth => Some(&mut self.depth),
            Channel::Trades => Some(&mut self.trades),
            Channel::Ticker => Some(&mut self.ticker),
            Channel::Candles => Some(&mut self.candles),
            Channel::Orders => None,
        }
    }

    /// Pushes where `channel` stands now, then everything that follows. Called between two batches only, so that the
    /// next delta's `prev_seq` is this snapshot's `seq`.
    pub fn subscribe(&mut self, channel: Channel, id: ConnectionId, sink: Arc<dyn Sink>, mirror: &Mirror) {
        match channel {
            Channel::Depth => sink.push(vec![Push::Market(self.depth_snapshot(mirror))]),
            Channel::Ticker => sink.push(vec![Push::Market(ticker_text(&mirror.ticker()))]),
            Channel::Candles => {
                if let Some(candle) = mirror.candles(1, 1).pop() {
                    self.candle = self.candle.max(candle.start);
                    sink.push(vec![Push::Market(candle_text(mirror, &candle))]);
                }
            }
            Channel::Trades | Channel::Orders => {}
        }
        if let Some(listeners) = self.of(channel) {
            listeners.insert(id, sink);
        }
    }

    pub fn unsubscribe(&mut self, channel: Channel, id: ConnectionId) {
        if let Some(listeners) = self.of(channel) {
            listeners.remove(&id);
        }
    }

    fn depth_snapshot(&mut self, mirror: &Mirror) -> ByteString {
        match &self.snapshot {
            Some((seq, text)) if *seq == mirror.seq() => text.clone(),
            _ => {
                let text = depth_snapshot_text(mirror);
                self.snapshot = Some((mirror.seq(), text.clone()));
                text
            }
        }
    }

    /// Whether a batch should collect its trades.
    pub fn wants_trades(&self) -> bool {
        !self.trades.is_empty()
    }

    /// Tells the listeners what a batch changed: one DEPTH delta, each TRADE, one TICKER, the minute's CANDLE.
    pub fn publish(&mut self, batch: &MarketBatch, mirror: &mut Mirror) {
        let changes = mirror.take_depth_changes(!self.depth.is_empty());
        if mirror.seq() == batch.before {
            return;
        }
        self.snapshot = None;
        let mut batches: HashMap<ConnectionId, (Arc<dyn Sink>, Vec<Push>)> = HashMap::new();
        let mut add = |listeners: &Listeners, text: &ByteString| {
            for (id, sink) in listeners {
                let batch = batches.entry(*id).or_insert_with(|| (Arc::clone(sink), Vec::new()));
                batch.1.push(Push::Market(text.clone()));
            }
        };
        if !self.depth.is_empty() {
            add(&self.depth, &depth_delta_text(batch.before, mirror, &changes));
        }
        if !self.trades.is_empty() {
            batch.trades.iter().for_each(|trade| add(&self.trades, &trade_text(trade)));
        }
        if !self.ticker.is_empty() && batch.has_traded {
            add(&self.ticker, &ticker_text(&mirror.ticker()));
        }
        if !self.candles.is_empty() && batch.has_traded {
            // A batch may end one minute and begin the next.
            let told = self.candle;
            for candle in mirror.candles(1, CANDLES_TOLD_MAX).iter().filter(|c| c.start >= told) {
                add(&self.candles, &candle_text(mirror, candle));
                self.candle = candle.start;
            }
        }
        for (sink, batch) in batches.into_values() {
            sink.push(batch);
        }
    }
}

/// A price as a JSON number, exact.
fn put_price(text: &mut String, price: Price, scale: u8) {
    text.push_str(&price.to_decimal(scale));
}

fn put_levels(text: &mut String, scale: u8, levels: impl Iterator<Item = (Price, u64)>) {
    text.push('[');
    for (i, (price, quantity)) in levels.enumerate() {
        text.push_str(if i == 0 { "[" } else { ",[" });
        put_price(text, price, scale);
        _ = write!(text, ",{quantity}]");
    }
    text.push(']');
}

// A symbol has no character that JSON would escape, and writing to memory cannot fail.

fn depth_head(symbol: Symbol, kind: &str, seq: Seq, prev: Seq) -> String {
    let mut text = String::with_capacity(256);
    _ = write!(
        text,
        r#"{{"type":"DEPTH","data":{{"symbol":"{symbol}","kind":"{kind}","seq":{seq},"prev_seq":{prev},"bids":"#
    );
    text
}

/// The whole book. Its `prev_seq` is its `seq`: it follows nothing.
fn depth_snapshot_text(mirror: &Mirror) -> ByteString {
    let view = mirror.depth(usize::MAX);
    let mut text = depth_head(view.symbol, "snapshot", view.seq, view.seq);
    put_levels(&mut text, view.price_scale, view.bids.iter().map(|l| (l.price, l.quantity)));
    text.push_str(r#","asks":"#);
    put_levels(&mut text, view.price_scale, view.asks.iter().map(|l| (l.price, l.quantity)));
    text.push_str("}}");
    text.into()
}

fn depth_delta_text(prev: Seq, mirror: &Mirror, changes: &DepthChanges) -> ByteString {
    let scale = mirror.price_scale();
    let mut text = depth_head(mirror.symbol(), "delta", mirror.seq(), prev);
    put_levels(&mut text, scale, changes.bids.iter().copied());
    text.push_str(r#","asks":"#);
    put_levels(&mut text, scale, changes.asks.iter().copied());
    text.push_str("}}");
    text.into()
}

fn trade_text(t: &TradeView) -> ByteString {
    format!(
        r#"{{"type":"TRADE","data":{{"trade_id":"{}-{}","symbol":"{}","price":{},"quantity":{},"taker_side":"{}","seq":{},"timestamp":"{}"}}}}"#,
        t.symbol,
        t.seq,
        t.symbol,
        t.price.to_decimal(t.price_scale),
        t.quantity.0,
        t.taker_side.as_str(),
        t.seq,
        rfc3339(t.at),
    )
    .into()
}

/// The members of TICKER's data: `symbol, last_price, last_qty, open, high, low, volume, trades, seq, timestamp`; the
/// prices and the time are null as long as there are none.
pub fn ticker_json(t: &TickerView) -> String {
    let mut text = String::with_capacity(192);
    _ = write!(text, r#"{{"symbol":"{}""#, t.symbol);
    let last = t.last.map(|l| l.0);
    for (name, price) in [("last_price", last), ("open", t.open), ("high", t.high), ("low", t.low)] {
        _ = write!(text, r#","{name}":"#);
        match price {
            Some(price) => put_price(&mut text, price, t.price_scale),
            None => text.push_str("null"),
        }
    }
    let last_quantity = t.last.map_or(Quantity::ZERO, |l| l.1);
    _ = write!(
        text,
        r#","last_qty":{},"volume":{},"trades":{},"seq":{},"timestamp":"#,
        last_quantity.0, t.volume, t.trades, t.seq
    );
    match t.at {
        Micros(0) => text.push_str("null}"),
        at => _ = write!(text, r#""{}"}}"#, rfc3339(at)),
    }
    text
}

fn candle_text(mirror: &Mirror, c: &CandleView) -> ByteString {
    let mut text = String::with_capacity(224);
    let (symbol, start) = (mirror.symbol(), rfc3339(c.start));
    _ = write!(text, r#"{{"type":"CANDLE","data":{{"symbol":"{symbol}","interval":"1m","start":"{start}""#);
    for (name, price) in [("open", c.open), ("high", c.high), ("low", c.low), ("close", c.close)] {
        _ = write!(text, r#","{name}":"#);
        put_price(&mut text, price, mirror.price_scale());
    }
    _ = write!(text, r#","volume":{},"trades":{},"seq":{}}}}}"#, c.volume, c.trades, mirror.seq());
    text.into()
}

fn ticker_text(t: &TickerView) -> ByteString {
    format!(r#"{{"type":"TICKER","data":{}}}"#, ticker_json(t)).into()
}
