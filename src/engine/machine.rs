//! The book as a machine: one record in, its outputs out.

use super::ids::Id;
use super::{Book, RULES_VERSION, snapshot};
use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::output::CommandKind;
use crate::domain::{Authority, Command, Digest, Input, Machine, Outbox, OutputBody, Reason, Side};

/// How far ahead of their use ids are hashed and the table is touched; twice the distance of the orders themselves.
const AHEAD: usize = 12;
const NEAR: usize = 6;

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
        let id = self.id_of(&input.command);
        self.apply_with(input, id, out);
    }

    fn apply_batch(&mut self, inputs: &[Input<Command>], out: &mut Outbox) {
        let mut ids = std::mem::take(&mut self.ahead);
        ids.clear();
        for n in 0..inputs.len() {
            while ids.len() < (n + AHEAD).min(inputs.len()) {
                let id = self.id_of(&inputs[ids.len()].command);
                self.ids.prefetch(id);
                ids.push(id);
            }
            if let Some(near) = inputs.get(n + NEAR) {
                self.touch(&near.command, ids[n + NEAR]);
            }
            self.apply_with(&inputs[n], ids[n], out);
        }
        self.ahead = ids;
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

impl Book {
    #[inline]
    fn id_of(&self, command: &Command) -> Id {
        match command {
            Command::Add(order) => self.hasher.id(&order.user, &order.order_id),
            Command::Cancel { user, order_id } | Command::Replace { user, order_id, .. } => {
                self.hasher.id(user, order_id)
            }
            _ => [0; 2],
        }
    }

    /// Brings the memory that a command will need closer.
    #[inline]
    fn touch(&self, command: &Command, id: Id) {
        match command {
            Command::Add(order) => {
                if let Some(price) = order.kind.limit() {
                    let levels = if order.side == Side::Buy { &self.bids } else { &self.asks };
                    levels.prefetch(price.0 / self.unit);
                }
            }
            Command::Cancel { .. } | Command::Replace { .. } => {
                if let Some(slot) = self.ids.guess(id) {
                    self.orders.prefetch(slot);
                }
            }
            _ => {}
        }
    }

    #[inline]
    fn apply_with(&mut self, input: &Input<Command>, id: Id, out: &mut Outbox) {
        self.clock = self.clock.max(input.at);
        out.begin(input.offset, input.at, input.origin);
        match &input.command {
            Command::Add(order) => self.add(order, id, out),
            Command::Cancel { user, order_id } => self.cancel(*user, *order_id, id, out),
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
