//! Recorded NASDAQ flow in LOBSTER's message format (lobsterdata.com), turned into commands.
//!
//! Columns: seconds after midnight, type, order id, size, price x 10,000, direction of the resting order (1 buy, -1
//! sell). Type 1 is an ADD, 2 a REPLACE that lowers the total, 3 a CANCEL. A run of 4 with one timestamp and direction
//! is one incoming IOC order of the other side, for the run's whole size at its last price. 5 (hidden) and 7 (halt) are
//! not sent. Orders that are executed or cancelled without having been submitted rested before the recording began:
//! they are added first, in order of id, with the sum of what later refers to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::{Plan, Step};
use crate::domain::{
    Command, Instrument, NewOrder, OrderId, OrderKind, Price, Quantity, SelfTrade, Side, Symbol, TimeInForce, UserId,
};

/// Prices have four decimals, and go in cents.
const PRICE_SCALE: u8 = 4;
const TICK: u64 = 100;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    time: String,
    kind: u8,
    id: u64,
    size: u64,
    price: u64,
    side: Side,
}

/// Reads a file, compressed with gzip or not.
///
/// # Errors
/// When it cannot be read, with the line that cannot be understood.
pub fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let plain: Box<dyn Read> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut rows = Vec::new();
    for (n, line) in BufReader::new(plain).lines().enumerate() {
        let line = line?;
        rows.push(row(&line).with_context(|| format!("line {} of {}: {line:?}", n + 1, path.display()))?);
    }
    Ok(rows)
}

fn row(line: &str) -> anyhow::Result<Row> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let &[time, kind, id, size, price, direction] = &fields[..] else { bail!("six columns expected") };
    let side = match direction {
        "1" => Side::Buy,
        "-1" => Side::Sell,
        other => bail!("direction {other} is not known"),
    };
    // A halt (type 7) has -1 as its price.
    let price: i64 = price.parse()?;
    let price = price.max(0) as u64;
    Ok(Row { time: time.into(), kind: kind.parse()?, id: id.parse()?, size: size.parse()?, price, side })
}

fn order_id(id: u64) -> OrderId {
    OrderId::new(&id.to_string()).unwrap_or_else(|_| unreachable!("digits"))
}

/// What the commands are made with.
struct Mapper {
    user: UserId,
    symbol: Symbol,
    steps: Vec<Step>,
    /// Total of each order as last set.
    totals: HashMap<u64, u64>,
}

impl Mapper {
    fn add(&mut self, id: OrderId, side: Side, price: u64, size: u64, tif: TimeInForce, hits: Vec<OrderId>) {
        let command = Command::Add(NewOrder {
            order_id: id,
            user: self.user,
            side,
            kind: OrderKind::Limit { price: Price(price) },
            quantity: Quantity(size),
            time_in_force: tif,
            self_trade: SelfTrade::None,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        });
        self.steps.push(Step { symbol: self.symbol, command, hits });
    }

    fn push(&mut self, command: Command) {
        self.steps.push(Step { symbol: self.symbol, command, hits: Vec::new() });
    }

    /// Orders that rested before the recording began.
    fn add_earlier(&mut self, rows: &[Row]) {
        let mut submitted = HashSet::new();
        let mut earlier: BTreeMap<u64, (Side, u64, u64)> = BTreeMap::new();
        for r in rows {
            match r.kind {
                1 => _ = submitted.insert(r.id),
                2..=4 if !submitted.contains(&r.id) => {
                    earlier.entry(r.id).or_insert((r.side, r.price, 0)).2 += r.size;
                }
                _ => {}
            }
        }
        for (id, (side, price, size)) in earlier {
            self.totals.insert(id, size);
            self.add(order_id(id), side, price, size, TimeInForce::Gtc, Vec::new());
        }
    }

    /// Sends one row, or a run of executions; gives how many rows it used.
    fn take(&mut self, rows: &[Row]) -> usize {
        let r = &rows[0];
        let (user, id) = (self.user, order_id(r.id));
        match r.kind {
            1 => {
                self.totals.insert(r.id, r.size);
                self.add(id, r.side, r.price, r.size, TimeInForce::Gtc, Vec::new());
            }
            2 => {
                let total = self.totals.entry(r.id).or_default();
                *total = total.saturating_sub(r.size);
                let quantity = Some(Quantity(*total));
                self.push(Command::Replace { user, order_id: id, price: None, quantity });
            }
            3 => self.push(Command::Cancel { user, order_id: id }),
            4 => return self.execute(rows),
            _ => {}
        }
        1
    }

    fn execute(&mut self, rows: &[Row]) -> usize {
        let r = &rows[0];
        let same = |other: &&Row| other.kind == 4 && other.time == r.time && other.side == r.side;
        let run: Vec<&Row> = rows.iter().take_while(same).collect();
        let size = run.iter().map(|r| r.size).sum();
        let price = run.last().map_or(r.price, |last| last.price);
        let hits = run.iter().map(|r| order_id(r.id)).collect();
        let id = OrderId::new(&format!("ioc-{}", self.steps.len())).unwrap_or_else(|_| unreachable!("a short name"));
        self.add(id, r.side.opposite(), price, size, TimeInForce::Ioc, hits);
        run.len()
    }
}

/// Turns rows into commands.
pub fn plan(rows: &[Row], symbol: Symbol, user: UserId) -> Plan {
    let mut mapper = Mapper { user, symbol, steps: Vec::new(), totals: HashMap::new() };
    mapper.add_earlier(rows);
    let mut rest = rows;
    while !rest.is_empty() {
        rest = &rest[mapper.take(rest)..];
    }
    let instrument = Instrument::plain(PRICE_SCALE, TICK, 1);
    Plan { listings: vec![(symbol, instrument)], steps: mapper.steps, expected: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str) -> Vec<Step> {
        let rows: Vec<Row> = text.lines().map(|l| row(l).unwrap()).collect();
        plan(&rows, Symbol::new("X").unwrap(), UserId::new("u").unwrap()).steps
    }

    #[test]
    fn a_run_of_executions_is_one_order_of_the_other_side() {
        let steps =
            planned("1.0,1,7,10,1000000,-1\n1.0,1,8,10,1000100,-1\n2.0,4,7,10,1000000,-1\n2.0,4,8,3,1000100,-1");
        assert_eq!(steps.len(), 3);
        let Command::Add(o) = &steps[2].command else { panic!("{:?}", steps[2]) };
        assert_eq!((o.side, o.kind.limit(), o.quantity.0), (Side::Buy, Some(Price(1_000_100)), 13));
        assert_eq!((o.time_in_force, o.self_trade), (TimeInForce::Ioc, SelfTrade::None));
        assert_eq!(steps[2].hits, [order_id(7), order_id(8)]);
    }

    #[test]
    fn what_rested_before_comes_first_with_all_that_is_said_of_it() {
        let steps = planned("1.0,2,9,5,500,1\n1.5,5,0,3,500,1\n2.0,4,9,2,500,1\n3.0,3,9,4,500,1");
        let Command::Add(o) = &steps[0].command else { panic!("{:?}", steps[0]) };
        assert_eq!((o.side, o.quantity.0), (Side::Buy, 11));
        let Command::Replace { quantity, .. } = &steps[1].command else { panic!("{:?}", steps[1]) };
        assert_eq!(*quantity, Some(Quantity(6)));
        assert!(matches!(steps[2].command, Command::Add(_)) && matches!(steps[3].command, Command::Cancel { .. }));
        assert_eq!(steps.len(), 4);
    }

    #[test]
    fn a_line_that_is_no_message_is_refused() {
        for bad in ["", "1,2,3", "1.0,1,x,1,1,1", "1.0,1,1,1,1,2"] {
            assert!(row(bad).is_err(), "{bad}");
        }
    }
}
