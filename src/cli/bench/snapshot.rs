//! `bench snapshot`: how long a book stands still to be copied, and how large the copy is once compressed.
//!
//! The baselines, of the same book in the same run: moving the bytes of its orders, which a plain copy has to; a book
//! that writes its snapshot itself; and the orders as lines of JSON with the same compression.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

use super::{listing_of, progress};
use crate::cli::flow_file;
use crate::domain::{
    Command, Input, Micros, NewOrder, NodeId, Offset, OrderId, OrderKind, Origin, Price, Quantity, SelfTrade, Side,
    Symbol, TimeInForce, UserId,
};
use crate::engine::{Book, FINISHED_MAX};
use crate::migration::replica::Replica;
use crate::migration::snapshot::{Snapshot, ZSTD_LEVEL};

/// Records applied at once.
const BATCH: u64 = 256;
const USERS: u64 = 1_000;
/// Prices on each side of the spread.
const PRICES: u64 = 500;
/// Bytes of a resting order in the book's memory, and of its names.
const ORDER_BYTES: usize = 64 + 74;

#[derive(Debug, Clone, clap::Args)]
pub struct SnapshotArgs {
    /// Book sizes, in resting orders.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    pub orders: Vec<u64>,
    /// Snapshots per size.
    #[arg(long, default_value_t = 21)]
    pub cuts: usize,
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// A number that looks random and is the same for the same `n`.
fn mix(n: u64) -> u64 {
    let z = (n.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ z >> 27
}

/// Buyers below sellers, so that it rests.
fn order(n: u64) -> anyhow::Result<NewOrder> {
    let side = if n.is_multiple_of(2) { Side::Buy } else { Side::Sell };
    let away = mix(n) % PRICES;
    Ok(NewOrder {
        order_id: flow_file::order_id_of(n as u32),
        user: UserId::new(&format!("user-{:04}", mix(n ^ 1) % USERS)).context("user")?,
        side,
        kind: OrderKind::Limit { price: Price(if side == Side::Buy { 9_999 - away } else { 10_001 + away }) },
        quantity: Quantity(1 + mix(n ^ 2) % 1_000),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::CancelNewest,
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    })
}

struct Desk {
    replica: Replica<Book>,
    next: u64,
    /// One resting order in every page of the book's memory, and the number of the next new one.
    seats: Vec<u64>,
    next_order: u64,
}

/// Resting orders that lie in one page of a book, at least: a copy shares pages until they change.
const PAGE: u64 = 512;

impl Desk {
    fn new() -> anyhow::Result<Self> {
        let (me, mut effects) = (NodeId::new("n1").context("node")?, Vec::new());
        let symbol = Symbol::new("SNAP").context("symbol")?;
        let replica = Replica::born(me, symbol, me, &listing_of(0), &mut effects).context("a listing")?;
        Ok(Self { replica, next: 1, seats: Vec::new(), next_order: 0 })
    }

    fn apply(&mut self, commands: Vec<Command>) {
        let input = |(n, command)| Input { offset: Offset(n), at: Micros(n), origin: Origin::NONE, command };
        let inputs: Vec<_> = (self.next..).zip(commands).map(input).collect();
        self.next += inputs.len() as u64;
        let mut effects = Vec::new();
        self.replica.apply(&inputs, Offset(self.next), &mut effects);
    }

    fn cut(&mut self) -> anyhow::Result<Snapshot<Book>> {
        self.replica.cut(Offset(0)).context("the book is active")
    }

    fn file_bytes(&mut self) -> anyhow::Result<usize> {
        Ok(self.cut()?.encode()?.len())
    }

    fn rest(&mut self, orders: u64) -> anyhow::Result<()> {
        let bar = progress(orders, "orders rest");
        for from in (0..orders).step_by(BATCH as usize) {
            let some = (from..orders.min(from + BATCH)).map(|n| Ok(Command::Add(order(n)?)));
            self.apply(some.collect::<anyhow::Result<_>>()?);
            bar.set_position(from);
        }
        bar.finish_and_clear();
        self.seats = (0..orders).step_by(PAGE as usize).collect();
        self.next_order = orders + FINISHED_MAX as u64;
        Ok(())
    }

    /// Changes something in every page: an order goes, another takes its place.
    fn touch(&mut self) -> anyhow::Result<()> {
        let mut commands = Vec::with_capacity(self.seats.len() * 2);
        for seat in &mut self.seats {
            let gone = order(*seat)?;
            commands.push(Command::Cancel { user: gone.user, order_id: gone.order_id });
            commands.push(Command::Add(order(self.next_order)?));
            (*seat, self.next_order) = (self.next_order, self.next_order + 1);
        }
        self.apply(commands);
        Ok(())
    }

    /// Orders come and go until as many ids are remembered as a book ever remembers.
    fn finish(&mut self, first: u64) -> anyhow::Result<()> {
        for n in first..first + FINISHED_MAX as u64 {
            let order = order(n)?;
            let (user, order_id) = (order.user, order.order_id);
            self.apply(vec![Command::Add(order), Command::Cancel { user, order_id }]);
        }
        Ok(())
    }
}

/// Microseconds, best to worst.
fn timed(times: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<u64>> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        work()?;
        took.push(started.elapsed().as_micros() as u64);
    }
    took.sort_unstable();
    Ok(took)
}

/// What the same orders take as JSON, compressed alike.
fn json_bytes(orders: u64) -> anyhow::Result<usize> {
    let mut text = Vec::new();
    for n in 0..orders {
        let o = order(n)?;
        let (id, user): (OrderId, UserId) = (o.order_id, o.user);
        let line = json!({"order_id": id.as_str(), "user_id": user.as_str(), "side": o.side.as_str(),
                          "price": o.kind.limit().map(|p| p.0), "quantity": o.quantity.0, "filled": 0});
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(zstd::bulk::compress(&text, ZSTD_LEVEL)?.len())
}

struct Row {
    orders: u64,
    /// Microseconds, best to worst.
    stalls: Vec<u64>,
    /// What the book pays for its pages afterwards, when all of them change before the snapshot is written.
    later_us: u64,
    moved_us: u64,
    by_itself_us: u64,
    bytes_per_order: f64,
    json_bytes_per_order: f64,
    finished_bytes: usize,
}

impl Row {
    fn per_100k(&self, us: u64) -> f64 {
        us as f64 * 100_000.0 / self.orders as f64 / 1_000.0
    }
}

fn measure(orders: u64, cuts: usize) -> anyhow::Result<Row> {
    let mut desk = Desk::new()?;
    let empty = desk.file_bytes()?;
    desk.rest(orders)?;
    let resting = desk.file_bytes()?;
    desk.finish(orders)?;
    let whole = desk.file_bytes()?;
    let (mut stalls, mut later, mut free) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cuts {
        // Every page is the book's own again, as it is some time after a snapshot was written.
        free.extend(timed(1, || desk.touch())?);
        let mut kept = None;
        stalls.extend(timed(1, || {
            kept = Some(desk.cut()?);
            Ok(())
        })?);
        later.extend(timed(1, || desk.touch())?);
        drop(kept);
    }
    [&mut stalls, &mut later, &mut free].into_iter().for_each(|figures| figures.sort_unstable());
    let later_us = later[later.len() / 2].saturating_sub(free[free.len() / 2]);
    let slab = vec![1u8; orders as usize * ORDER_BYTES];
    let moved = timed(cuts, || {
        std::hint::black_box(std::hint::black_box(&slab).clone());
        Ok(())
    })?;
    let by_itself = timed(3, || desk.file_bytes().map(|_| ()))?;
    Ok(Row {
        orders,
        stalls,
        later_us,
        moved_us: moved[moved.len() / 2],
        by_itself_us: by_itself[1],
        bytes_per_order: resting.saturating_sub(empty) as f64 / orders as f64,
        json_bytes_per_order: json_bytes(orders)? as f64 / orders as f64,
        finished_bytes: whole.saturating_sub(resting),
    })
}

/// Measures and prints.
///
/// # Errors
/// When a snapshot cannot be written.
pub fn run(args: &SnapshotArgs) -> anyhow::Result<()> {
    println!(
        "times: ms per 100,000 resting orders (goal of the stall: 1.0); bytes: compressed, per resting order (goal 40)"
    );
    println!(
        "later: what the book pays afterwards, in pieces, if everything in it changes before the snapshot is written"
    );
    println!(
        "{:>9} {:>10} {:>10} {:>8} {:>11} {:>11} {:>10} {:>10} {:>14}",
        "orders", "stall p50", "stall max", "later", "bare copy", "by itself", "bytes", "as JSON", "finished ids B"
    );
    let mut all = Vec::new();
    for orders in &args.orders {
        let row = measure((*orders).max(1), args.cuts.max(1))?;
        let (p50, max) = (row.stalls[row.stalls.len() / 2], row.stalls[row.stalls.len() - 1]);
        let [p50, max, later, moved, by_itself] =
            [p50, max, row.later_us, row.moved_us, row.by_itself_us].map(|us| row.per_100k(us));
        println!(
            "{:>9} {p50:>10.2} {max:>10.2} {later:>8.2} {moved:>11.2} {by_itself:>11.2} {:>10.1} {:>10.1} {:>14}",
            row.orders, row.bytes_per_order, row.json_bytes_per_order, row.finished_bytes
        );
        all.push(json!({"orders": row.orders, "stall_ms_per_100k_p50": p50, "stall_ms_per_100k_max": max,
                        "later_ms_per_100k": later,
                        "bare_copy_ms_per_100k": moved, "by_itself_ms_per_100k": by_itself,
                        "bytes_per_order": row.bytes_per_order, "json_bytes_per_order": row.json_bytes_per_order,
                        "finished_ids_bytes": row.finished_bytes}));
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
