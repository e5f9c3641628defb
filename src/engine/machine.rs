//! The book as a machine: one record in, its outputs out.

use super::ids::Id;
use super::orders::NONE;
use super::sip::LANES;
use super::{Book, RULES_VERSION, snapshot};
use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::output::CommandKind;
use crate::domain::{
    Authority, Command, Digest, Input, Machine, NewOrder, OrderId, Outbox, OutputBody, Price, Reason, Side, UserId,
};

/// Memory is slow and a batch is in hand: what a command will need is fetched in three steps, so that each finds what it
/// needs itself. So many commands ahead an id is hashed and its place in the table is fetched;
const HASHED_AHEAD: usize = 18;
/// the order it names, or the level it will join;
const FOUND_AHEAD: usize = 12;
/// and the neighbours of those.
const LINKED_AHEAD: usize = 6;

impl Machine for Book {
    type Command = Command;

    fn birth(input: &Input<Command>, out: &mut Outbox) -> Option<Self> {
        let Command::List { listing, .. } = &input.command else { return None };
        if listing.instrument.check().is_err() || listing.rules_version == 0 || listing.rules_version > RULES_VERSION {
            return None;
        }
        let mut book = Self::new(listing.instrument.clone(), listing.id_key, listing.rules_version);
        book.clock = input.at;
        out.begin(input.offset, input.at, input.origin);
        let (instrument, owner, rules_version) = (listing.instrument.clone(), listing.owner, listing.rules_version);
        out.emit(&OutputBody::Listed { instrument, owner, rules_version }, true);
        out.end();
        Some(book)
    }

    fn apply(&mut self, input: &Input<Command>, out: &mut Outbox) {
        let id = names_of(input).map_or([0; 2], |(user, order_id)| self.hasher.id(user, order_id));
        self.apply_with(input, id, out);
    }

    fn apply_batch(&mut self, inputs: &[Input<Command>], out: &mut Outbox) {
        self.apply_each(inputs, out, |_| {});
    }

    fn authority(command: &Command) -> Option<&Authority> {
        command.authority()
    }

    fn fence(command: &Command) -> Option<&Fence> {
        if let Command::Fence { fence, .. } = command { Some(fence) } else { None }
    }

    fn digest(&self) -> Digest {
        self.state_digest()
    }

    fn rules_version(&self) -> u32 {
        self.rules_version
    }

    fn encode(&self, into: &mut Vec<u8>) {
        snapshot::encode(self, into);
    }

    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::decode(bytes)
    }
}

/// Whose order a command is about, and which.
#[inline]
fn names_of(input: &Input<Command>) -> Option<(&UserId, &OrderId)> {
    match &input.command {
        Command::Add(NewOrder { user, order_id, .. })
        | Command::Cancel { user, order_id }
        | Command::Replace { user, order_id, .. } => Some((user, order_id)),
        _ => None,
    }
}

impl Book {
    /// Applies many in order, and tells `applied` after each: for measurements.
    #[inline]
    pub fn apply_each(&mut self, inputs: &[Input<Command>], out: &mut Outbox, mut applied: impl FnMut(usize)) {
        let mut ids = std::mem::take(&mut self.ahead);
        ids.clear();
        let (mut found, mut linked) = (0, 0);
        for n in 0..inputs.len() {
            while ids.len() < (n + HASHED_AHEAD).min(inputs.len()) {
                let first = ids.len();
                self.hasher.ids(&inputs[first..], names_of, &mut ids);
                for input in inputs[first..].iter().skip(2 * LANES).take(LANES) {
                    super::prefetch_whole(input);
                }
                ids[first..].iter().for_each(|id| self.ids.prefetch(*id));
            }
            while found < (n + FOUND_AHEAD).min(inputs.len()) {
                self.fetch_found(&inputs[found].command, ids[found], found - n);
                found += 1;
            }
            while linked < (n + LINKED_AHEAD).min(inputs.len()) {
                self.fetch_linked(&inputs[linked].command, ids[linked]);
                linked += 1;
            }
            self.apply_with(&inputs[n], ids[n], out);
            applied(n);
        }
        self.ahead = ids;
    }

    /// Fetches the order that a command names, or the level that it will join.
    #[inline]
    fn fetch_found(&self, command: &Command, id: Id, until: usize) {
        match command {
            Command::Add(order) => {
                if let Some(price) = order.kind.limit() {
                    self.side(order.side).prefetch(self.step(price.0));
                    if let Some(maker) = self.first_maker(order.side, price) {
                        self.orders.prefetch(maker);
                    }
                }
                if let Some(slot) = self.orders.free_slot(until) {
                    self.orders.prefetch(slot);
                }
            }
            Command::Cancel { .. } | Command::Replace { .. } => {
                if let Some(slot) = self.ids.guess(id) {
                    self.orders.prefetch(slot);
                    self.orders.prefetch_tag(slot);
                }
            }
            _ => {}
        }
    }

    /// Fetches the neighbours of an order that will go, or the last order of the level that a new one will join.
    #[inline]
    fn fetch_linked(&self, command: &Command, id: Id) {
        match command {
            Command::Add(order) => {
                if let Some(price) = order.kind.limit() {
                    if let Some(maker) = self.first_maker(order.side, price) {
                        let maker = self.orders.get(maker);
                        self.ids.prefetch(maker.id);
                        if maker.next != NONE {
                            self.orders.prefetch(maker.next);
                        }
                    } else if let Some(tail) = self.side(order.side).tail_of(self.step(price.0)) {
                        self.orders.prefetch_links(tail);
                    }
                }
            }
            Command::Cancel { .. } | Command::Replace { .. } => {
                if let Some(slot) = self.ids.guess(id) {
                    let order = self.orders.get(slot);
                    self.side(order.side()).prefetch_at((order.block, order.place));
                    for neighbour in [order.prev, order.next] {
                        if neighbour != NONE {
                            self.orders.prefetch_links(neighbour);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// The order that one at `price` would trade with first, as things are now.
    #[inline]
    fn first_maker(&self, side: Side, price: Price) -> Option<u32> {
        let levels = self.side(side.opposite());
        let best = levels.best()?;
        side.crosses(price, Price(levels.step_of(best) * self.unit)).then(|| levels.level(best).head)
    }

    #[inline]
    fn apply_with(&mut self, input: &Input<Command>, id: Id, out: &mut Outbox) {
        self.clock = self.clock.max(input.at);
        out.begin(input.offset, input.at, input.origin);
        match &input.command {
            Command::Add(order) => self.add(order, id, out),
            Command::Cancel { user, order_id } => self.cancel(user, order_id, id, out),
            Command::Replace { user, order_id, price, quantity } => {
                self.replace(*user, *order_id, id, *price, *quantity, out);
            }
            // Neither is answered: a TICK only moves the clock, a fence is the replica's.
            Command::Tick { .. } | Command::Fence { .. } => return,
            control => self.control(control, out),
        }
        out.end();
    }

    fn control(&mut self, command: &Command, out: &mut Outbox) {
        let refused = |command, reason| OutputBody::Refused { command, user: None, order_id: None, reason };
        let answer = match command {
            Command::CancelAll { user, .. } => return self.cancel_all(*user, out),
            Command::List { .. } => refused(CommandKind::List, Reason::SymbolExists),
            Command::Halt { .. } if self.halted => refused(CommandKind::Halt, Reason::AlreadyHalted),
            Command::Halt { .. } => {
                self.halted = true;
                OutputBody::Halted
            }
            Command::Resume { .. } if !self.halted => refused(CommandKind::Resume, Reason::NotHalted),
            Command::Resume { .. } => {
                self.halted = false;
                OutputBody::Resumed
            }
            Command::Rules { version, .. } if (1..=RULES_VERSION).contains(version) => {
                self.rules_version = *version;
                OutputBody::RulesSet { version: *version }
            }
            Command::Rules { .. } => refused(CommandKind::Rules, Reason::RulesVersionUnknown),
            _ => OutputBody::SessionEnded,
        };
        out.emit(&answer, true);
    }
}
