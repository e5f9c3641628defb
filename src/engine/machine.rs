//! The book as a machine: one record in, its outputs out.

use super::amend::refused;
use super::ids::Id;
use super::orders::NONE;
use super::sip::{LANES, Messages};
use super::{Book, RULES_VERSION, snapshot};
use crate::domain::command::{Signed, SignedOrder};
use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::output::CommandKind;
use crate::domain::{
    Authority, Command, Digest, Input, Machine, NewOrder, OrderId, OrderKind, Outbox, OutputBody, Reason, UserId,
};

/// Memory is slow and a batch is in hand: what a command will need is fetched in three steps, so that each finds what it
/// needs itself. So many groups of [`LANES`] commands ahead an id is hashed and its place in the table is fetched;
const HASHED_AHEAD: usize = 2;
/// the order it names, or the level it will join. The neighbours of those are fetched just before the group's turn: what is
/// ahead of a batch's first command is waited for.
const FOUND_AHEAD: usize = 1;
/// The command itself.
const READ_AHEAD: usize = 4;
/// Cache lines of room for outputs that are fetched ahead of a batch: about what its first commands write.
const ROOM_LINES: usize = 4;

impl Machine for Book {
    type Command = Command;

    fn birth(input: &Input<Command>, out: &mut Outbox) -> Option<Self> {
        let Command::List { listing, .. } = &input.command else { return None };
        let known = listing.instrument.rules_needed()..=RULES_VERSION;
        if listing.instrument.check().is_err() || !known.contains(&listing.rules_version) {
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

/// Groups that are in hand at once.
const GROUPS: usize = HASHED_AHEAD + 1;

/// What is known of the commands of a group before their turn.
#[derive(Debug, Clone, Copy)]
struct Group {
    ids: [Id; LANES],
    /// The slots that the ids most likely refer to, or NONE; of new orders, the number of the level that they will join.
    slots: [u32; LANES],
    /// Bit i: command i is a new order, or names one. In a mixed flow nobody can foretell the kind of the next command, so it
    /// is asked once and then each kind has a loop of its own.
    adds: u16,
    named: u16,
}

const _: () = assert!(LANES <= u16::BITS as usize);

const EMPTY: Group = Group { ids: [[0; 2]; LANES], slots: [NONE; LANES], adds: 0, named: 0 };

/// The places of the bits that are set.
#[inline]
fn places(mut bits: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (place < LANES).then_some(place)
    })
}

impl Book {
    /// Applies many in order, and tells `applied` after each: for measurements.
    #[inline]
    pub fn apply_each(&mut self, inputs: &[Input<Command>], out: &mut Outbox, mut applied: impl FnMut(usize)) {
        super::prefetch_whole(self);
        out.room().chunks(64).take(ROOM_LINES).for_each(|line| super::prefetch(line.first()));
        let mut groups = [EMPTY; GROUPS];
        let mut messages = Messages::EMPTY;
        let of = |g: usize| &inputs[inputs.len().min(g * LANES)..inputs.len().min((g + 1) * LANES)];
        let count = inputs.len().div_ceil(LANES);
        for turn in 0..count + HASHED_AHEAD {
            if turn < count {
                self.hash_group(of(turn), &mut messages, &mut groups[turn % GROUPS]);
                if turn == 0 {
                    self.fetch_windows(of(turn));
                }
            }
            // Behind the last group nothing is left to fetch, and ahead of the first nothing is known.
            let in_hand = |behind: usize| turn.checked_sub(behind).filter(|g| *g < count);
            if let Some(g) = in_hand(HASHED_AHEAD - FOUND_AHEAD) {
                self.find_group(of(g), &mut groups[g % GROUPS]);
            }
            self.fetch_makers(turn);
            if let Some(g) = in_hand(HASHED_AHEAD) {
                let group = &groups[g % GROUPS];
                self.link_group(of(g), group);
                for (place, input) in of(g).iter().enumerate().take(LANES) {
                    // One for one: the processor can wait for only so many lines at once.
                    if let Some(later) = inputs.get((g + READ_AHEAD) * LANES + place) {
                        super::prefetch_whole(later);
                    }
                    self.apply_with(input, group.ids[place], group.slots[place], out);
                    applied(g * LANES + place);
                }
            }
        }
    }

    #[inline]
    fn hash_group(&self, inputs: &[Input<Command>], messages: &mut Messages<LANES>, group: &mut Group) {
        (group.adds, group.named) = (0, 0);
        for (lane, input) in inputs.iter().enumerate().take(LANES) {
            match &input.command {
                Command::Add(_) => group.adds |= 1 << lane,
                Command::Cancel { .. } | Command::Replace { .. } => group.named |= 1 << lane,
                _ => {}
            }
            if let Some((user, order_id)) = names_of(input) {
                messages.put(lane, user, order_id);
            }
        }
        group.ids = self.hasher.ids(messages);
        for id in &group.ids {
            self.ids.prefetch(*id);
        }
    }

    /// Fetches the orders that commands most likely name, and the levels that others will join.
    #[inline]
    fn find_group(&self, inputs: &[Input<Command>], group: &mut Group) {
        for place in places(group.named) {
            let slot = self.ids.guess(group.ids[place]).unwrap_or(NONE);
            self.orders.prefetch(slot);
            group.slots[place] = slot;
        }
        for place in places(group.adds) {
            if let Some(Input { command: Command::Add(order), .. }) = inputs.get(place)
                && let OrderKind::Limit { price } = order.kind
            {
                group.slots[place] = self.side(order.side).announce(self.step(price.0));
            }
        }
    }

    /// Fetches the neighbours of orders that will go, the last orders of levels that new ones will join, and the orders
    /// that they may trade with.
    #[inline]
    fn link_group(&self, inputs: &[Input<Command>], group: &Group) {
        for place in places(group.named) {
            if let Some(order) = self.orders.there(group.slots[place]) {
                self.side(order.side()).prefetch_at((order.block, order.place));
                self.orders.prefetch(order.prev);
                self.orders.prefetch(order.next);
            }
        }
        for (until, place) in places(group.adds).enumerate() {
            self.orders.prefetch_free(until);
            if let Some(Input { command: Command::Add(order), .. }) = inputs.get(place) {
                self.orders.prefetch(self.side(order.side).tail_of(group.slots[place]));
            }
        }
    }

    /// Fetches what tells where the levels of a batch's first new orders are.
    #[inline]
    fn fetch_windows(&self, inputs: &[Input<Command>]) {
        for input in inputs {
            if let Command::Add(NewOrder { side, kind: OrderKind::Limit { price }, .. }) = &input.command {
                self.side(*side).prefetch_block(self.step(price.0));
            }
        }
        self.orders.prefetch_free_list();
    }

    /// Fetches the first order of each side and what its end would touch: in a book that nothing was done to for a while,
    /// one thing a turn, each found in the one before.
    #[inline]
    fn fetch_makers(&self, turn: usize) {
        for levels in [&self.bids, &self.asks] {
            match turn {
                0 => levels.prefetch_best_block(),
                1 => levels.prefetch_best(),
                _ => {
                    let Some(best) = levels.best() else { continue };
                    let slot = levels.level(best).head;
                    self.orders.prefetch_whole(slot);
                    if turn > 2 {
                        let maker = self.orders.get(slot);
                        self.ids.prefetch(maker.id);
                        self.orders.prefetch_whole(maker.next);
                    }
                }
            }
        }
    }

    #[inline]
    fn apply_with(&mut self, input: &Input<Command>, id: Id, guess: u32, out: &mut Outbox) {
        self.clock = self.clock.max(input.at);
        out.begin(input.offset, input.at, input.origin);
        // One question after another, the likeliest first: a table of jumps is guessed wrong more often.
        if let Command::Add(order) = &input.command {
            if self.needs_signature {
                self.refuse_unsigned(CommandKind::Add, &order.user, &order.order_id, out);
            } else {
                self.add(order, id, out);
            }
        } else if let Command::Cancel { user, order_id } = &input.command {
            self.cancel(user, order_id, (id, guess), out);
        } else if let Command::Replace { user, order_id, price, quantity } = &input.command {
            if self.needs_signature {
                self.refuse_unsigned(CommandKind::Replace, user, order_id, out);
            } else {
                self.replace(user, order_id, (id, guess), *price, *quantity, out);
            }
        } else if let Command::Tick { .. } | Command::Fence { .. } = &input.command {
            // Neither is answered: a TICK only moves the clock, a fence is the replica's.
            return;
        } else {
            self.control(&input.command, out);
        }
        out.end();
    }

    /// ADD or REPLACE with a gateway's signature.
    #[inline(never)]
    fn signed(&mut self, signed: &Signed, out: &mut Outbox) {
        let (kind, user, order_id) = match &signed.order {
            SignedOrder::Add(order) => (CommandKind::Add, &order.user, &order.order_id),
            SignedOrder::Replace { user, order_id, .. } => (CommandKind::Replace, user, order_id),
        };
        if self.needs_signature
            && let Err(reason) = self.stamps.spend(&signed.stamp, self.clock)
        {
            return refused(kind, *user, *order_id, reason, out);
        }
        let id = self.hasher.id(user, order_id);
        match &signed.order {
            SignedOrder::Add(order) => self.add(order, id, out),
            SignedOrder::Replace { price, quantity, .. } => {
                let guess = self.ids.guess(id).unwrap_or(NONE);
                self.replace(user, order_id, (id, guess), *price, *quantity, out);
            }
        }
    }

    /// It touches nothing, the id included: else whoever may write to the log could use up the ids of others.
    #[cold]
    fn refuse_unsigned(&self, kind: CommandKind, user: &UserId, order_id: &OrderId, out: &mut Outbox) {
        refused(kind, *user, *order_id, Reason::GatewayOnly, out);
    }

    #[inline(never)]
    fn control(&mut self, command: &Command, out: &mut Outbox) {
        let refused = |command, reason| OutputBody::Refused { command, user: None, order_id: None, reason };
        let answer = match command {
            Command::Signed(signed) => return self.signed(signed, out),
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
                self.rules_version = self.instrument.rules_needed().max(*version);
                OutputBody::RulesSet { version: self.rules_version }
            }
            Command::Rules { .. } => refused(CommandKind::Rules, Reason::RulesVersionUnknown),
            _ => OutputBody::SessionEnded,
        };
        out.emit(&answer, true);
    }
}
