//! Clients and their gateways: commands on their way into `orders`, late, lost, and sent again with the same ids.

use std::collections::VecDeque;

use bytes::Bytes;

use super::counts::Happened;
use super::log::Fenced;
use super::world::{Event, MS, World};
use crate::domain::command::Listing;
use crate::domain::{
    Command, Instrument, Micros, NewOrder, OrderId, OrderKind, Origin, Price, Quantity, SelfTrade, Side, TimeInForce,
    UserId,
};
use crate::wire::{self, Control, control};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const GATEWAYS: usize = 2;
/// A client sends one command so often again that it gets there once the faults have stopped.
const TRIES_MAX: u32 = 20;

/// A command on its way.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    symbol: usize,
    value: Bytes,
    tries: u32,
}

#[derive(Debug, Default)]
struct Gateway {
    /// Number of this life: part of the origins.
    life: u64,
    counter: u64,
    queue: VecDeque<(Sent, Origin)>,
    is_landing: bool,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    made: u64,
    /// To be sent again.
    waiting: u64,
    /// Ids of recent orders: symbol, user, number.
    recent: VecDeque<(usize, UserId, OrderId)>,
    gateways: [Gateway; GATEWAYS],
}

impl Clients {
    pub fn are_done(&self, commands: u64) -> bool {
        self.made >= commands && self.waiting == 0 && self.gateways.iter().all(|g| g.queue.is_empty())
    }
}

impl World {
    /// Lists every symbol, each with an owner of its own if there are enough.
    pub(super) fn list_symbols(&mut self) {
        for symbol in 0..self.symbols.len() {
            let owner = self.nodes[self.rng.moves.index(self.nodes.len())];
            let listing = Listing {
                instrument: Instrument::plain(2, 1, 1),
                owner,
                id_key: u128::from(self.rng.controls.next()),
                rules_version: 1,
            };
            self.append_control(symbol, Control::List(listing), self.at());
            self.routes.rebuild(&self.log);
            let name = self.symbol(symbol);
            self.say(|| format!("{name} is listed, {owner} owns it"));
        }
    }

    /// Signs a control record and appends it.
    pub(super) fn append_control(&mut self, symbol: usize, control: Control, signed_at: Micros) -> Fenced {
        let value = self.sign(symbol, control, signed_at);
        self.append(symbol, value, Origin::NONE)
    }

    pub(super) fn sign(&mut self, symbol: usize, control: Control, signed_at: Micros) -> Bytes {
        let nonce = u128::from(self.rng.controls.next()) << 64 | u128::from(self.rng.controls.next());
        let listed = self.symbols[symbol];
        self.log.keyring.encode_with(&listed.name, listed.partition as u32, control, signed_at, nonce.to_le_bytes())
    }

    pub(super) fn append(&mut self, symbol: usize, value: Bytes, origin: Origin) -> Fenced {
        self.count(Happened::Commands);
        let at = self.at();
        self.log.append_order(self.symbols[symbol].partition, symbol, value, origin, at)
    }

    /// A client makes a command and hands it to a gateway.
    pub(super) fn client_acts(&mut self) {
        if self.clients.made >= self.weather.commands {
            return;
        }
        self.clients.made += 1;
        let symbol = self.rng.clients.index(self.symbols.len());
        let value = self.some_command(symbol);
        self.hand_over(Sent { symbol, value, tries: 0 });
        // In bursts, so that queues are full when something breaks.
        let burst = 12;
        let mean = self.weather.lasts / self.weather.commands;
        let pause = if self.clients.made.is_multiple_of(burst) { self.rng.clients.below(2 * mean * burst) } else { MS };
        self.after(pause, Event::Client);
    }

    fn some_command(&mut self, symbol: usize) -> Bytes {
        let user =
            UserId::new(USERS[self.rng.clients.index(USERS.len())]).unwrap_or_else(|_| unreachable!("a good name"));
        let kind = self.rng.clients.below(100);
        let recent = self.clients.recent.len();
        let of_recent = (recent > 0).then(|| self.clients.recent[self.rng.clients.index(recent)]);
        let command = match (kind, of_recent) {
            (0..30, Some((s, user, order_id))) if s == symbol => Command::Cancel { user, order_id },
            (30..40, Some((s, user, order_id))) if s == symbol => {
                let price = self.rng.clients.chance(600).then(|| Price(self.rng.clients.between(95, 105)));
                let quantity = self.rng.clients.chance(600).then(|| Quantity(self.rng.clients.between(1, 20)));
                Command::Replace { user, order_id, price, quantity }
            }
            (40..42, _) => return self.sign(symbol, Control::CancelAll { user }, self.at()),
            (42, _) => return self.sign(symbol, Control::Halt, self.at()),
            (43..46, _) => return self.sign(symbol, Control::Resume, self.at()),
            (46, _) => return self.sign(symbol, Control::Session, self.at()),
            (47, _) => {
                self.count(Happened::ControlRanOut);
                let long_ago = Micros(self.now - control::VALID_US - 1);
                return self.sign(symbol, Control::CancelAll { user }, long_ago);
            }
            _ => self.some_order(symbol, user),
        };
        wire::orders::encode(&self.symbol(symbol), &command)
    }

    fn some_order(&mut self, symbol: usize, user: UserId) -> Command {
        let number = self.clients.made;
        let order_id = OrderId::new(&format!("o-{number}")).unwrap_or_else(|_| unreachable!("a good name"));
        self.clients.recent.push_back((symbol, user, order_id));
        if self.clients.recent.len() > 40 {
            self.clients.recent.pop_front();
        }
        let r = &mut self.rng.clients;
        let limit = OrderKind::Limit { price: Price(r.between(95, 105)) };
        let (kind, time_in_force, post_only) = match r.below(10) {
            0 => (OrderKind::Market, TimeInForce::Ioc, false),
            1 => (limit, TimeInForce::Ioc, false),
            2 => (limit, TimeInForce::Fok, false),
            3 => (limit, TimeInForce::Gtc, true),
            _ => (limit, TimeInForce::Gtc, false),
        };
        let stps = [
            SelfTrade::CancelNewest,
            SelfTrade::CancelOldest,
            SelfTrade::CancelBoth,
            SelfTrade::Decrement,
            SelfTrade::None,
        ];
        Command::Add(NewOrder {
            order_id,
            user,
            side: if r.chance(500) { Side::Buy } else { Side::Sell },
            kind,
            quantity: Quantity(r.between(1, 20)),
            time_in_force,
            self_trade: stps[r.index(stps.len())],
            post_only,
            all_or_none: false,
            display_quantity: None,
        })
    }

    fn hand_over(&mut self, sent: Sent) {
        let id = self.rng.gateways.index(GATEWAYS);
        let gateway = &mut self.clients.gateways[id];
        gateway.counter += 1;
        let origin = Origin { gateway: 1 + id as u64 + 10 * gateway.life, counter: gateway.counter };
        gateway.queue.push_back((sent, origin));
        self.schedule_gateway(id);
    }

    fn schedule_gateway(&mut self, id: usize) {
        let gateway = &mut self.clients.gateways[id];
        if !gateway.is_landing && !gateway.queue.is_empty() {
            gateway.is_landing = true;
            let delay = self.rng.gateways.delay(10 * MS, 50);
            self.after(delay, Event::GatewayLand { gateway: id });
        }
    }

    /// The first commands of a gateway's queue reach the log. Of some the client never hears, and sends them again.
    pub(super) fn gateway_lands(&mut self, id: usize) {
        self.clients.gateways[id].is_landing = false;
        for _ in 0..self.rng.gateways.between(1, 5) {
            let Some((sent, origin)) = self.clients.gateways[id].queue.pop_front() else { break };
            self.append(sent.symbol, sent.value.clone(), origin);
            if !self.is_calm && self.rng.gateways.chance(15 + self.weather.loss / 3) {
                self.retry(sent);
            }
        }
        self.schedule_gateway(id);
    }

    fn retry(&mut self, sent: Sent) {
        if sent.tries < TRIES_MAX {
            self.clients.waiting += 1;
            let delay = self.rng.gateways.delay(300 * MS, 10);
            self.after(delay, Event::Resend(Sent { tries: sent.tries + 1, ..sent }));
        }
    }

    pub(super) fn resend(&mut self, sent: Sent) {
        self.clients.waiting -= 1;
        self.count(Happened::ClientRetry);
        self.hand_over(sent);
    }

    /// A gateway dies: of its queue a prefix lands, the rest is lost and sent again by its clients.
    pub(super) fn gateway_crashes(&mut self) {
        let id = self.rng.gateways.index(GATEWAYS);
        self.count(Happened::GatewayCrashed);
        let gateway = &mut self.clients.gateways[id];
        let stays = self.rng.gateways.index(gateway.queue.len() + 1);
        let lost = gateway.queue.split_off(stays);
        gateway.life += 1;
        gateway.counter = 0;
        let n = lost.len();
        self.say(|| format!("gateway {} dies with {n} commands that are lost", id + 1));
        for (sent, _) in lost {
            self.retry(sent);
        }
    }

    /// Somebody appends a control record of the log a second time.
    pub(super) fn control_is_repeated(&mut self) {
        let symbol = self.rng.controls.index(self.symbols.len());
        let partition = self.symbols[symbol].partition;
        let is_control = |o: &&super::log::Order| o.symbol == symbol && o.input.command.authority().is_some();
        let found: Vec<Bytes> =
            self.log.orders(partition).iter().filter(is_control).map(|o| o.record.value.clone()).collect();
        let value = found[self.rng.controls.index(found.len())].clone();
        self.count(Happened::ControlRepeated);
        self.append(symbol, value, Origin::NONE);
    }
}
