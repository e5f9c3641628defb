//! `flow`: makes synthetic order flow of three kinds.
//!
//! - **A**: one symbol, adds only, alternately buys at 1,880 to 1,889 and sells at 1,884 to 1,893 ticks.
//! - **B**: one symbol, 100,000 orders resting; then 55 % adds near the touch at power-law distances, 40 % cancels (most
//!   of young orders), 4 % aggressive orders, 1 % re-prices.
//! - **C**: as B over 1,000 symbols whose popularity follows Zipf's law with exponent 1.1.
//!
//! Equal for equal arguments. What it must give (fills, quantity) is computed by a plain book of queues beside it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use anyhow::bail;

use super::flow_file::{self, FlowHeader, FlowOp, FlowRecord};
use crate::domain::Side;

const PRICE_MAX: i64 = 65_000;
const YOUNG_MAX: usize = 4_000;

#[derive(Debug, Clone, clap::Args)]
pub struct FlowArgs {
    /// A, B or C.
    pub kind: String,
    /// Records behind the warm-up.
    pub records: u64,
    pub out: PathBuf,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.fraction()).ln()
    }

    /// Distances whose tail falls as `(1 + d / scale)^-exponent`, below 8,000.
    fn distance(&mut self, scale: f64, exponent: f64) -> i64 {
        loop {
            let d = scale * ((1.0 - self.fraction()).powf(-1.0 / exponent) - 1.0);
            if d < 8_000.0 {
                return d as i64;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Resting {
    price: u32,
    open: u32,
    side: Side,
    /// Where it stands in its book's `live`.
    place: usize,
    /// Raised by a re-price: an entry of an older version in a queue is void.
    version: u32,
}

/// Queues by price; entries that are void are dropped when they come to the front.
#[derive(Default)]
struct PlainBook {
    bids: BTreeMap<u32, VecDeque<(u32, u32)>>,
    asks: BTreeMap<u32, VecDeque<(u32, u32)>>,
    live: Vec<u32>,
    young: VecDeque<u32>,
    last: i64,
    middle: i64,
    target: usize,
}

struct Generator {
    rng: Rng,
    /// By id; id 0 is not used.
    orders: Vec<Resting>,
    books: Vec<PlainBook>,
    records: Vec<FlowRecord>,
    header: FlowHeader,
}

impl Generator {
    fn new(seed: u64, symbols: usize) -> Self {
        let nobody = Resting { price: 0, open: 0, side: Side::Buy, place: 0, version: 0 };
        let books = (0..symbols).map(|_| PlainBook::default()).collect();
        let header = FlowHeader { symbols: symbols as u64, ..FlowHeader::default() };
        Self { rng: Rng(seed), orders: vec![nobody], books, records: Vec::new(), header }
    }

    /// Best price of a side, void entries in front of it dropped.
    fn best(&mut self, symbol: usize, side: Side) -> Option<u32> {
        let (book, orders) = (&mut self.books[symbol], &self.orders);
        let queues = if side == Side::Buy { &mut book.bids } else { &mut book.asks };
        loop {
            let mut entry = if side == Side::Buy { queues.last_entry()? } else { queues.first_entry()? };
            let is_void = |(id, version): &(u32, u32)| {
                let o = &orders[*id as usize];
                o.open == 0 || o.version != *version
            };
            while entry.get().front().is_some_and(is_void) {
                entry.get_mut().pop_front();
            }
            if !entry.get().is_empty() {
                return Some(*entry.key());
            }
            entry.remove();
        }
    }

    fn end(&mut self, symbol: usize, id: u32) {
        let live = &mut self.books[symbol].live;
        let place = self.orders[id as usize].place;
        live.swap_remove(place);
        if let Some(moved) = live.get(place) {
            self.orders[*moved as usize].place = place;
        }
    }

    fn add(&mut self, symbol: usize, side: Side, price: u32, quantity: u32) -> u32 {
        let id = self.orders.len() as u32;
        self.records.push(FlowRecord { id, price, quantity, symbol: symbol as u16, op: FlowOp::Add, side });
        self.orders.push(Resting { price, open: quantity, side, place: 0, version: 0 });
        let mut open = quantity;
        while open > 0 {
            let Some(best) = self.best(symbol, side.opposite()) else { break };
            if (side == Side::Buy && best > price) || (side == Side::Sell && best < price) {
                break;
            }
            let book = &self.books[symbol];
            let queue = if side == Side::Buy { &book.asks[&best] } else { &book.bids[&best] };
            let maker = queue[0].0;
            let traded = open.min(self.orders[maker as usize].open);
            open -= traded;
            self.orders[maker as usize].open -= traded;
            self.header.fills += 1;
            self.header.filled_quantity += u64::from(traded);
            self.books[symbol].last = i64::from(best);
            if self.orders[maker as usize].open == 0 {
                self.end(symbol, maker);
            }
        }
        self.orders[id as usize].open = open;
        if open > 0 {
            let book = &mut self.books[symbol];
            self.orders[id as usize].place = book.live.len();
            book.live.push(id);
            book.queue(side, price).push_back((id, 0));
        }
        id
    }

    /// A price that does not trade, at a power-law distance from the other side.
    fn passive_price(&mut self, symbol: usize, side: Side, deep: bool) -> u32 {
        let distance = if deep { self.rng.distance(300.0, 0.8) } else { self.rng.distance(5.0, 1.5) };
        let away = distance + 1;
        let from = self.best(symbol, side.opposite()).map_or(self.books[symbol].last, i64::from);
        (if side == Side::Buy { from - away } else { from + away }).clamp(1, PRICE_MAX) as u32
    }

    fn some_side(&mut self) -> Side {
        if self.rng.below(2) == 0 { Side::Buy } else { Side::Sell }
    }

    /// A live order: mostly a young one.
    fn pick(&mut self, symbol: usize) -> Option<u32> {
        if self.rng.below(100) < 85 {
            for _ in 0..8 {
                let back = self.rng.exponential(300.0) as usize;
                let young = &self.books[symbol].young;
                if let Some(id) = young.len().checked_sub(back + 1).map(|at| young[at])
                    && self.orders[id as usize].open > 0
                {
                    return Some(id);
                }
            }
        }
        let count = self.books[symbol].live.len() as u64;
        (count > 0).then(|| {
            let at = self.rng.below(count) as usize;
            self.books[symbol].live[at]
        })
    }

    fn fill_up(&mut self, symbol: usize, target: usize, middle: i64) {
        let book = &mut self.books[symbol];
        (book.target, book.middle, book.last) = (target, middle, middle);
        for _ in 0..target {
            let side = self.some_side();
            let price = self.passive_price(symbol, side, true);
            let quantity = 1 + self.rng.below(100) as u32;
            self.add(symbol, side, price, quantity);
        }
    }

    fn step(&mut self, symbol: usize) {
        match self.rng.below(100) {
            0..55 => self.add_passive(symbol),
            55..95 => self.cancel(symbol),
            95..99 => self.aggress(symbol),
            _ => self.reprice(symbol),
        }
    }

    fn add_passive(&mut self, symbol: usize) {
        let side = self.some_side();
        let deep = self.rng.below(5) == 0;
        let price = self.passive_price(symbol, side, deep);
        let quantity = 1 + self.rng.below(100) as u32;
        let id = self.add(symbol, side, price, quantity);
        if !deep {
            let young = &mut self.books[symbol].young;
            young.push_back(id);
            if young.len() > YOUNG_MAX {
                young.pop_front();
            }
        }
    }

    fn cancel(&mut self, symbol: usize) {
        let Some(id) = self.pick(symbol) else { return };
        let Resting { price, open, side, .. } = self.orders[id as usize];
        self.orders[id as usize].open = 0;
        self.end(symbol, id);
        self.records.push(FlowRecord { id, price, quantity: open, symbol: symbol as u16, op: FlowOp::Cancel, side });
    }

    /// Takes a few resting orders, three ticks through the touch; leans against a drift of the price.
    fn aggress(&mut self, symbol: usize) {
        let book = &self.books[symbol];
        let drift = ((book.last - book.middle) as f64 / 2_000.0).clamp(-1.0, 1.0);
        let mean = if book.live.len() > book.target { 5.5 } else { 1.5 };
        let side = if self.rng.fraction() < 0.5 - 0.3 * drift { Side::Buy } else { Side::Sell };
        let Some(best) = self.best(symbol, side.opposite()) else { return };
        let quantity = 50 * (1 + self.rng.exponential(mean) as u32);
        let price = if side == Side::Buy { best + 3 } else { best.saturating_sub(3).max(1) };
        self.add(symbol, side, price, quantity);
    }

    fn reprice(&mut self, symbol: usize) {
        let Some(id) = self.pick(symbol) else { return };
        let side = self.orders[id as usize].side;
        let price = self.passive_price(symbol, side, false);
        let order = &mut self.orders[id as usize];
        if price == order.price {
            return;
        }
        order.price = price;
        order.version += 1;
        let (open, version) = (order.open, order.version);
        self.books[symbol].queue(side, price).push_back((id, version));
        self.records.push(FlowRecord { id, price, quantity: open, symbol: symbol as u16, op: FlowOp::Reprice, side });
    }

    fn finish(mut self, warm_up: u64) -> (FlowHeader, Vec<FlowRecord>) {
        self.header.records = self.records.len() as u64;
        self.header.warm_up = warm_up;
        self.header.max_id = self.orders.len() as u64 - 1;
        self.header.orders_left = self.books.iter().map(|b| b.live.len() as u64).sum();
        (self.header, self.records)
    }
}

impl PlainBook {
    fn queue(&mut self, side: Side, price: u32) -> &mut VecDeque<(u32, u32)> {
        let queues = if side == Side::Buy { &mut self.bids } else { &mut self.asks };
        queues.entry(price).or_default()
    }
}

fn adds_only(records: u64, made: &dyn Fn(u64)) -> (FlowHeader, Vec<FlowRecord>) {
    let mut g = Generator::new(1, 1);
    for n in 0..records {
        let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
        let lowest = if side == Side::Buy { 1_880 } else { 1_884 };
        let (price, quantity) = (lowest + g.rng.below(10) as u32, 100 * (1 + g.rng.below(10) as u32));
        g.add(0, side, price, quantity);
        made(n + 1);
    }
    g.finish(0)
}

fn realistic(
    seed: u64,
    symbols: usize,
    resting: f64,
    records: u64,
    made: &dyn Fn(u64),
) -> (FlowHeader, Vec<FlowRecord>) {
    let mut g = Generator::new(seed, symbols);
    let mut reached = Vec::with_capacity(symbols);
    let mut sum = 0.0;
    for rank in 1..=symbols {
        sum += (rank as f64).powf(-1.1);
        reached.push(sum);
    }
    for symbol in 0..symbols {
        let share = (symbol as f64 + 1.0).powf(-1.1) / sum;
        let middle = if symbols == 1 { 30_000 } else { 10_000 + g.rng.below(40_000) as i64 };
        g.fill_up(symbol, ((resting * share) as usize).max(20), middle);
    }
    let warm_up = g.records.len() as u64;
    while (g.records.len() as u64) < warm_up + records {
        let at = g.rng.fraction() * sum;
        g.step(reached.partition_point(|r| *r < at).min(symbols - 1));
        made(g.records.len() as u64 - warm_up);
    }
    g.finish(warm_up)
}

/// Makes a flow of a kind in memory. `made` hears how many timed records there are.
///
/// # Errors
/// When the kind is not A, B or C.
pub fn generate(kind: &str, records: u64, made: &dyn Fn(u64)) -> anyhow::Result<(FlowHeader, Vec<FlowRecord>)> {
    Ok(match kind {
        "A" => adds_only(records, made),
        "B" => realistic(2, 1, 100_000.0, records, made),
        "C" => realistic(3, 1_000, 200_000.0, records, made),
        other => bail!("flow {other:?} is not known: A, B or C"),
    })
}

/// Makes a flow and writes it.
///
/// # Errors
/// When the kind is not known or the file cannot be written.
pub fn run(args: &FlowArgs) -> anyhow::Result<()> {
    let bar = super::progress(args.records, "records");
    let (header, records) = generate(&args.kind, args.records, &|n| {
        if n % 4_096 == 0 {
            bar.set_position(n);
        }
    })?;
    bar.finish_and_clear();
    std::fs::write(&args.out, flow_file::encode(&header, &records))?;
    println!("{}: {header:?}", args.out.display());
    Ok(())
}
