//! `--demo`: a few symbols and a gentle synthetic flow, so that there is something to look at and to trade with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::actors::exchange::{ControlError, Exchange};
use crate::actors::gateway::{ConnectionId, Push, Sink};
use crate::actors::router::Submit;
use crate::clock;
use crate::domain::instrument::TickBand;
use crate::domain::{
    Command, Instrument, NewOrder, OrderId, OrderKind, Price, Quantity, Reason, SelfTrade, Side, Symbol, TimeInForce,
    UserId,
};

/// Who trades.
pub const USERS_TEXT: &str = "demo-1 to demo-8";
const USERS: u64 = 8;
/// What is listed.
pub const SYMBOLS_TEXT: &str = "TSLA, AAPL, NVDA and 005930";
/// One order per symbol: 20 a second.
const EVERY: Duration = Duration::from_millis(50);
/// Orders of the demo that rest in one book, at most; the oldest is canceled.
const RESTING_MAX: usize = 400;
/// How far from the middle orders are placed, in ticks.
const SPREAD_TICKS: u64 = 25;
/// How far the middle wanders from the reference price, in ticks.
const WANDER_TICKS: u64 = 200;

/// The running demo.
pub struct Demo {
    task: JoinHandle<()>,
    exchange: Arc<Exchange>,
    connection: ConnectionId,
}

impl Demo {
    /// Ends the flow; its orders stay.
    pub async fn stop(self) {
        self.task.abort();
        // It ends by being aborted.
        _ = self.task.await;
        self.exchange.gateway().disconnect(self.connection);
    }
}

/// Nobody reads the demo's answers.
struct Unread;

impl Sink for Unread {
    fn push(&self, _: Vec<Push>) {}
}

/// What the demo trades: name, rules, reference price.
fn instruments() -> Vec<(&'static str, Instrument)> {
    let usd = |reference: u64| Instrument {
        reference_price: Some(Price(reference)),
        limit_up: Some(Price(reference * 13 / 10)),
        limit_down: Some(Price(reference * 7 / 10)),
        ..Instrument::plain(2, 1, 1)
    };
    // Korea Exchange's tick sizes of 2023, in won.
    let ticks = [(0, 1), (2_000, 5), (5_000, 10), (20_000, 50), (50_000, 100), (200_000, 500), (500_000, 1_000)];
    let won = Instrument {
        ticks: ticks.into_iter().map(|(from, tick)| TickBand { from: Price(from), tick }).collect(),
        reference_price: Some(Price(70_000)),
        limit_up: Some(Price(91_000)),
        limit_down: Some(Price(49_000)),
        ..Instrument::plain(0, 1, 1)
    };
    vec![("TSLA", usd(25_000)), ("AAPL", usd(19_000)), ("NVDA", usd(12_500)), ("005930", won)]
}

/// Lists what is not listed yet and starts the flow.
///
/// # Errors
/// When a symbol cannot be listed.
pub async fn start(exchange: &Arc<Exchange>) -> Result<Demo> {
    let gateway = exchange.gateway();
    let connection = gateway.connect(None, Arc::new(Unread));
    let mut flows = Vec::new();
    for (number, (name, instrument)) in instruments().into_iter().enumerate() {
        let symbol = Symbol::new(name)?;
        match exchange.list(symbol, instrument.clone()).await {
            Ok(()) | Err(ControlError::Refused(Reason::SymbolExists)) => {}
            Err(e) => return Err(e.into()),
        }
        // Ids differ between starts, the walk does not.
        let prefix = format!("d{}", clock::now().0 / 1_000);
        flows.push(Flow::new(symbol, instrument, prefix, number as u64 + 1));
    }
    let task = actix::spawn(run(Arc::clone(exchange), connection, flows));
    Ok(Demo { task, exchange: Arc::clone(exchange), connection })
}

async fn run(exchange: Arc<Exchange>, connection: ConnectionId, mut flows: Vec<Flow>) {
    let (gateway, router) = (exchange.gateway(), exchange.gateway().router());
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        for flow in &mut flows {
            for command in flow.next() {
                let submit = Submit { symbol: flow.symbol, command, origin: gateway.origin(connection) };
                if let Err(refusal) = router.submit(submit) {
                    tracing::debug!(symbol = %flow.symbol, code = refusal.code(), "demo order refused");
                }
            }
        }
    }
}

/// The flow of one symbol: a walk around the reference price.
struct Flow {
    symbol: Symbol,
    instrument: Instrument,
    prefix: String,
    random: u64,
    /// Ticks above the reference price less [`WANDER_TICKS`].
    walk: u64,
    count: u64,
    resting: VecDeque<(UserId, OrderId)>,
}

impl Flow {
    fn new(symbol: Symbol, instrument: Instrument, prefix: String, seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { symbol, instrument, prefix, random, walk: WANDER_TICKS, count: 0, resting: VecDeque::new() }
    }

    /// xorshift64.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// An order, and the cancel of the oldest when many rest.
    fn next(&mut self) -> Vec<Command> {
        self.count += 1;
        let step = self.random(3);
        self.walk = (self.walk + step).saturating_sub(1).min(2 * WANDER_TICKS);
        let number = 1 + self.random(USERS);
        let (Ok(user), Ok(order_id)) =
            (UserId::new(&format!("demo-{number}")), OrderId::new(&format!("{}-{}", self.prefix, self.count)))
        else {
            return Vec::new();
        };
        let side = if self.random(2) == 0 { Side::Buy } else { Side::Sell };
        let time_in_force = if self.random(8) == 0 { TimeInForce::Ioc } else { TimeInForce::Gtc };
        let mut commands = vec![Command::Add(NewOrder {
            order_id,
            user,
            side,
            kind: OrderKind::Limit { price: self.price(side) },
            quantity: Quantity((1 + self.random(20)) * self.instrument.lot_size),
            time_in_force,
            self_trade: SelfTrade::CancelOldest,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        })];
        if time_in_force == TimeInForce::Gtc {
            self.resting.push_back((user, order_id));
        }
        if self.resting.len() > RESTING_MAX
            && let Some((user, order_id)) = self.resting.pop_front()
        {
            commands.push(Command::Cancel { user, order_id });
        }
        commands
    }

    /// Mostly on its own side of the middle, now and then across it.
    fn price(&mut self, side: Side) -> Price {
        let reference = self.instrument.reference_price.map_or(100, |p| p.0);
        let tick = self.instrument.tick_at(Price(reference));
        let middle = reference + self.walk * tick - WANDER_TICKS * tick;
        let away = self.random(SPREAD_TICKS) * tick;
        let across = self.random(4) * tick;
        let price = match side {
            Side::Buy => middle + across - away,
            Side::Sell => middle + away - across,
        };
        Price(price - price % self.instrument.tick_at(Price(price)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_order_keeps_the_rules_of_its_symbol() {
        for (name, instrument) in instruments() {
            assert_eq!(instrument.check(), Ok(()), "{name}");
            let mut flow = Flow::new(Symbol::new(name).unwrap(), instrument.clone(), "d".into(), 7);
            let mut sides = [0, 0];
            for _ in 0..20_000 {
                for command in flow.next() {
                    let Command::Add(order) = command else { continue };
                    let price = order.kind.limit().unwrap();
                    assert_eq!(instrument.check_price(price), Ok(()), "{name} {price:?}");
                    assert_eq!(instrument.check_quantity(order.quantity), Ok(()));
                    sides[usize::from(order.side == Side::Sell)] += 1;
                }
            }
            assert!(sides[0] > 9_000 && sides[1] > 9_000, "{sides:?}");
            assert!(flow.resting.len() <= RESTING_MAX);
        }
    }
}
