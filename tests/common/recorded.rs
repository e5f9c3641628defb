//! A run of one book on two nodes, recorded as the log would hold it, by the real replica and engine.
#![allow(dead_code)] // not every test needs all of it

use bytes::Bytes;
use hotbook::domain::command::Listing;
use hotbook::domain::control::Fence;
use hotbook::domain::{
    Command, Epoch, Input, Instrument, Machine, Micros, NewOrder, NodeId, Offset, OrderId, OrderKind, Origin, Price,
    Quantity, SelfTrade, Seq, Side, Symbol, TimeInForce, UserId,
};
use hotbook::engine::Book;
use hotbook::migration::audit::{AuditOptions, SnapshotBytes, SymbolReport, judge};
use hotbook::migration::replica::{Effect, Mode, Replica};
use hotbook::migration::snapshot::Snapshot;
use hotbook::ports::log::Record;
use hotbook::wire::{self, Control, Keyring};

pub const PARTITION: u32 = 3;

pub fn symbol() -> Symbol {
    Symbol::new("TSLA").unwrap()
}

pub fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

pub fn keyring() -> Keyring {
    Keyring::from_secret(b"test")
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub fn id(name: &str) -> OrderId {
    OrderId::new(name).unwrap()
}

/// A GTC order of a user named after its first letter.
pub fn add(name: &str, side: Side, price: u64, quantity: u64) -> NewOrder {
    NewOrder {
        order_id: id(name),
        user: user(&name[..1]),
        side,
        kind: OrderKind::Limit { price: Price(price) },
        quantity: Quantity(quantity),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::None,
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    }
}

/// A small deterministic stream of numbers.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Any command of a trader; ids repeat now and then.
    pub fn command(&mut self, n: u64) -> Command {
        let (who, which) = (["ann", "bob", "cyd"][self.below(3) as usize], self.below(n + 2));
        let (user, order_id) = (user(who), id(&format!("o{which}")));
        match self.below(10) {
            0 => Command::Cancel { user, order_id },
            1 => {
                let price = (self.below(2) == 0).then(|| Price(95 + self.below(10)));
                Command::Replace { user, order_id, price, quantity: Some(Quantity(self.below(30))) }
            }
            kind => {
                let side = if self.below(2) == 0 { Side::Buy } else { Side::Sell };
                let mut order = add("x", side, 95 + self.below(10), 1 + self.below(20));
                (order.user, order.order_id) = (user, id(&format!("o{n}")));
                if self.below(30) == 0 {
                    order.order_id = order_id;
                }
                order.time_in_force = match kind {
                    2 => TimeInForce::Ioc,
                    3 => TimeInForce::Fok,
                    _ => TimeInForce::Gtc,
                };
                order.post_only = kind == 4;
                order.self_trade =
                    [SelfTrade::CancelNewest, SelfTrade::CancelOldest, SelfTrade::Decrement][self.below(3) as usize];
                Command::Add(order)
            }
        }
    }
}

/// The recorded log and the two replicas that wrote it.
pub struct Run {
    pub orders: Vec<Record>,
    pub events: Vec<Record>,
    pub snapshots: Vec<SnapshotBytes>,
    replicas: Vec<Replica<Book>>,
    /// Where in `events` a reader met each seq first; index = seq - 1.
    met: Vec<Offset>,
    at: u64,
}

impl Run {
    /// Lists the symbol on n1.
    pub fn new() -> Self {
        let mut run = Self {
            orders: Vec::new(),
            events: Vec::new(),
            snapshots: Vec::new(),
            replicas: Vec::new(),
            met: Vec::new(),
            at: 1_000_000,
        };
        let instrument = Instrument::plain(2, 1, 1);
        run.control(Control::List(Listing { instrument, owner: node(1), id_key: 77, rules_version: 1 }));
        run
    }

    /// Appends and applies a trader's command.
    pub fn send(&mut self, command: &Command) -> Offset {
        self.append(wire::orders::encode(&symbol(), command))
    }

    pub fn add(&mut self, name: &str, side: Side, price: u64, quantity: u64) -> Offset {
        self.send(&Command::Add(add(name, side, price, quantity)))
    }

    pub fn control(&mut self, control: Control) -> Offset {
        let value = keyring().encode(&symbol(), PARTITION, control, Micros(self.at));
        self.append(value)
    }

    /// Any number of a trader's commands.
    pub fn random(&mut self, dice: &mut Dice, commands: u64) {
        for n in 0..commands {
            let unique = self.orders.len() as u64 + n;
            self.send(&dice.command(unique));
        }
    }

    pub fn append(&mut self, value: Bytes) -> Offset {
        self.at += 7;
        let offset = Offset(self.orders.len() as u64);
        let origin = Origin { gateway: 1, counter: offset.0 };
        let header = Bytes::copy_from_slice(&origin.to_bytes());
        let key = Bytes::copy_from_slice(symbol().as_bytes());
        let record = Record { offset, at: Micros(self.at), key, header, value };
        let (_, command) = wire::decode(&record.value, PARTITION, &keyring()).unwrap();
        let input = Input { offset, at: record.at, origin, command };
        self.orders.push(record);
        let mut effects = vec![Vec::new(), Vec::new()];
        if self.replicas.is_empty() {
            for (n, effects) in (1..).zip(&mut effects) {
                self.replicas.push(Replica::born(node(n), symbol(), node(1), &input, effects).unwrap());
            }
        } else {
            for (replica, effects) in self.replicas.iter_mut().zip(&mut effects) {
                replica.apply(std::slice::from_ref(&input), offset.next(), effects);
            }
        }
        self.run(effects);
        offset
    }

    /// Publishing is acknowledged at once; a Sealed is delivered at once.
    fn run(&mut self, mut effects: Vec<Vec<Effect>>) {
        while let Some(n) = effects.iter().position(|e| !e.is_empty()) {
            let effect = effects[n].remove(0);
            match effect {
                Effect::Publish { last, outputs, .. } => {
                    self.publish(&outputs, last);
                    self.replicas[n].acked(last, &mut effects[n]);
                }
                Effect::Seal(sealed) => {
                    let to = (1..=2).position(|n| node(n) == sealed.to).unwrap();
                    self.replicas[to].sealed(sealed, &mut effects[to]);
                }
                Effect::Void { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn publish(&mut self, outputs: &[u8], last: Seq) {
        for value in wire::events::encode(&symbol(), outputs).unwrap() {
            self.at += 3;
            let offset = Offset(self.events.len() as u64);
            self.met.resize(self.met.len().max(last.0 as usize), offset);
            let key = Bytes::copy_from_slice(symbol().as_bytes());
            self.events.push(Record { offset, at: Micros(self.at), key, header: Bytes::new(), value });
        }
    }

    fn owner(&self) -> usize {
        self.replicas.iter().position(|r| r.mode() == Mode::Active).unwrap()
    }

    pub fn epoch(&self) -> Epoch {
        self.replicas[0].epoch()
    }

    /// Moves the book to the other node, as planned.
    pub fn change_owner(&mut self) -> Offset {
        let (from, to) = if self.owner() == 0 { (node(1), node(2)) } else { (node(2), node(1)) };
        self.control(Control::Fence(Fence { epoch: self.epoch().next(), from, to }))
    }

    /// The owner's Sealed does not come: the other takes over, having read `events` only to `hw`.
    pub fn crash_owner(&mut self, hw: Seq) {
        let other = 1 - self.owner();
        let fence = Fence { epoch: self.epoch().next(), from: node(2 - other), to: node(1 + other) };
        // Nothing is acknowledged any more: so no Sealed is due.
        self.at += 1;
        let value = keyring().encode(&symbol(), PARTITION, Control::Fence(fence), Micros(self.at));
        let offset = Offset(self.orders.len() as u64);
        let (_, command) = wire::decode(&value, PARTITION, &keyring()).unwrap();
        let at = Micros(self.at);
        let (key, header) = (Bytes::copy_from_slice(symbol().as_bytes()), Bytes::new());
        self.orders.push(Record { offset, at, key, header, value });
        let input = Input { offset, at, origin: Origin::NONE, command };
        for replica in &mut self.replicas {
            replica.apply(std::slice::from_ref(&input), offset.next(), &mut Vec::new());
        }
        let mut effects = vec![Vec::new(), Vec::new()];
        self.replicas[other].take_by_crash_path(hw, &mut effects[other]);
        self.run(effects);
    }

    /// The owner's snapshot here and now.
    pub fn cut(&mut self) -> Snapshot<Book> {
        let owner = self.owner();
        let replica = &mut self.replicas[owner];
        replica.cut(self.met[replica.seq().0 as usize - 1]).unwrap()
    }

    pub fn snapshot(&mut self) {
        let snapshot = self.cut();
        self.keep(&snapshot);
    }

    pub fn keep<M: Machine>(&mut self, snapshot: &Snapshot<M>) {
        self.snapshots.push(SnapshotBytes { key: snapshot.key(), bytes: snapshot.encode().unwrap().into() });
    }

    pub fn judge(&self) -> SymbolReport {
        self.judge_with(&AuditOptions::new(keyring(), PARTITION))
    }

    pub fn judge_with(&self, options: &AuditOptions) -> SymbolReport {
        judge(symbol(), &self.orders, &self.events, &self.snapshots, options)
    }
}
