//! The book as a machine: one record in, its outputs out.

use std::ops::Range;

use super::ids::Id;
use super::orders::NONE;
use super::sip::LANES;
use super::{Book, RULES_VERSION, snapshot};
use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::output::CommandKind;
use crate::domain::{
    Authority, Command, Digest, Input, Machine, NewOrder, OrderId, Outbox, OutputBody, Reason, Side, UserId,
};

/// Memory is slow and a batch is in hand: what a command will need is fetched in three steps, so that each finds what it
/// needs itself. So many groups of [`LANES`] commands ahead an id is hashed and its place in the table is fetched;
const HASHED_AHEAD: usize = 3;
/// the order it names, or the level it will join;
const FOUND_AHEAD: usize = 2;
/// and the neighbours of those.
const LINKED_AHEAD: usize = 1;

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
        let slot = self.ids.guess(id).unwrap_or(NONE);
        self.apply_with(input, id, slot, out);
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

    fn freeze(&mut self) -> Self {
        self.frozen()
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

/// What is known of the commands of a batch before their turn. Kept by the book for its memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Ahead {
    ids: Vec<Id>,
    /// The slot that the id most likely refers to, or NONE.
    slots: Vec<u32>,
    /// Places in their group of the commands that are new orders, and of those that name an order, group by group: in a
    /// mixed flow nobody can foretell the kind of the next command, so it is asked once and then each kind has a loop of
    /// its own.
    adds: Vec<u8>,
    named: Vec<u8>,
    /// Ends of the groups in `adds` and `named`.
    ends: Vec<(u32, u32)>,
}

impl Ahead {
    fn clear(&mut self) {
        self.ids.clear();
        self.slots.clear();
        self.adds.clear();
        self.named.clear();
        self.ends.clear();
        self.ends.push((0, 0));
    }

    /// Where a group lies in `adds` and `named`; nowhere behind the last group.
    fn group(&self, g: usize) -> (Range<usize>, Range<usize>) {
        match (self.ends.get(g), self.ends.get(g + 1)) {
            (Some(from), Some(to)) => (from.0 as usize..to.0 as usize, from.1 as usize..to.1 as usize),
            _ => (0..0, 0..0),
        }
    }
}

impl Book {
    /// Applies many in order, and tells `applied` after each: for measurements.
    #[inline]
    pub fn apply_each(&mut self, inputs: &[Input<Command>], out: &mut Outbox, mut applied: impl FnMut(usize)) {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.clear();
        let groups = inputs.len().div_ceil(LANES);
        for turn in 0..groups + HASHED_AHEAD {
            if turn < groups {
                self.hash_group(inputs, turn, &mut ahead);
            }
            if let Some(g) = turn.checked_sub(HASHED_AHEAD - FOUND_AHEAD) {
                self.find_group(inputs, g, &mut ahead);
            }
            if let Some(g) = turn.checked_sub(HASHED_AHEAD - LINKED_AHEAD) {
                self.link_group(inputs, g, &ahead);
            }
            if let Some(g) = turn.checked_sub(HASHED_AHEAD) {
                for (n, input) in (g * LANES..).zip(inputs.iter().skip(g * LANES).take(LANES)) {
                    self.apply_with(input, ahead.ids[n], ahead.slots[n], out);
                    applied(n);
                }
            }
        }
        self.ahead = ahead;
    }

    #[inline]
    fn hash_group(&self, inputs: &[Input<Command>], g: usize, ahead: &mut Ahead) {
        let first = g * LANES;
        let group = &inputs[first..inputs.len().min(first + LANES)];
        self.hasher.ids(group, names_of, &mut ahead.ids);
        ahead.slots.resize(first + group.len(), NONE);
        for (place, input) in group.iter().enumerate() {
            match input.command {
                Command::Add(_) => ahead.adds.push(place as u8),
                Command::Cancel { .. } | Command::Replace { .. } => ahead.named.push(place as u8),
                _ => {}
            }
            self.ids.prefetch(ahead.ids[first + place]);
        }
        ahead.ends.push((ahead.adds.len() as u32, ahead.named.len() as u32));
        for input in inputs[first..].iter().skip(2 * LANES).take(LANES) {
            super::prefetch_whole(input);
        }
    }

    /// Fetches the orders that commands most likely name, and the levels that others will join.
    #[inline]
    fn find_group(&self, inputs: &[Input<Command>], g: usize, ahead: &mut Ahead) {
        let (adds, named) = ahead.group(g);
        for place in &ahead.named[named] {
            let n = g * LANES + usize::from(*place);
            let slot = self.ids.guess(ahead.ids[n]).unwrap_or(NONE);
            self.orders.prefetch(slot);
            self.orders.prefetch_tag(slot);
            ahead.slots[n] = slot;
        }
        for place in &ahead.adds[adds] {
            if let Command::Add(order) = &inputs[g * LANES + usize::from(*place)].command
                && let Some(price) = order.kind.limit()
            {
                self.side(order.side).prefetch(self.step(price.0));
            }
        }
    }

    /// Fetches the neighbours of orders that will go, the last orders of levels that new ones will join, and the orders
    /// that they may trade with.
    #[inline]
    fn link_group(&self, inputs: &[Input<Command>], g: usize, ahead: &Ahead) {
        let (adds, named) = ahead.group(g);
        for place in &ahead.named[named] {
            let slot = ahead.slots[g * LANES + usize::from(*place)];
            if slot != NONE {
                let order = self.orders.get(slot);
                self.side(order.side()).prefetch_at((order.block, order.place));
                self.orders.prefetch(order.prev);
                self.orders.prefetch(order.next);
            }
        }
        for (until, place) in ahead.adds[adds].iter().enumerate() {
            if let Command::Add(order) = &inputs[g * LANES + usize::from(*place)].command
                && let Some(price) = order.kind.limit()
            {
                self.orders.prefetch(self.side(order.side).tail_of(self.step(price.0)).unwrap_or(NONE));
            }
            if let Some(slot) = self.orders.free_slot(until) {
                self.orders.prefetch(slot);
                self.orders.prefetch_names(slot);
                self.orders.prefetch_tag(slot);
            }
        }
        for side in [Side::Buy, Side::Sell] {
            self.fetch_makers(side);
        }
    }

    /// Fetches the first order of a side, and what its end would touch.
    #[inline]
    fn fetch_makers(&self, side: Side) {
        let levels = self.side(side);
        let Some(best) = levels.best() else { return };
        let slot = levels.level(best).head;
        self.orders.prefetch_names(slot);
        let maker = self.orders.get(slot);
        self.ids.prefetch(maker.id);
        self.orders.prefetch(maker.next);
        self.orders.prefetch_names(maker.next);
    }

    #[inline]
    fn apply_with(&mut self, input: &Input<Command>, id: Id, guess: u32, out: &mut Outbox) {
        self.clock = self.clock.max(input.at);
        out.begin(input.offset, input.at, input.origin);
        match &input.command {
            Command::Add(order) => self.add(order, id, out),
            Command::Cancel { user, order_id } => self.cancel(user, order_id, (id, guess), out),
            Command::Replace { user, order_id, price, quantity } => {
                self.replace(user, order_id, (id, guess), *price, *quantity, out);
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
