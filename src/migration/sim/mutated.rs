//! The careless shell: where the mutations sit that need more than a line elsewhere.

use super::host::{AtFence, Host};
use super::mutation::Mutation;
use super::world::World;
use crate::domain::{Command, Input, Machine, Offset, Seq};
use crate::engine::Book;
use crate::migration::replica::{Effect, Mode, Replica, Sealed};
use crate::migration::snapshot::Snapshot;

impl World {
    /// Applies one record after the other, to see how the replica stood at each fence.
    pub(super) fn apply_mutated(
        &mut self,
        host: &mut Host,
        inputs: &[Input<Command>],
        through: Offset,
        effects: &mut Vec<Effect>,
    ) {
        for input in inputs {
            let Some(replica) = &mut host.replica else { return };
            let diverges = self.mutation == Some(Mutation::DigestNotCompared)
                && replica.mode() == Mode::Shadow
                && Book::authority(&input.command).is_none()
                && self.rng.mutation.chance(10);
            if diverges {
                continue;
            }
            let before = replica.epoch();
            replica.apply(std::slice::from_ref(input), input.offset.next(), effects);
            if replica.epoch() > before {
                let (epoch, seq, digest) = (replica.epoch(), replica.seq(), replica.digest());
                let sealed = Sealed { epoch, offset: input.offset, seq, digest, to: replica.owner() };
                host.at_fence = Some(AtFence { sealed });
                self.at_a_fence(host, effects);
            }
        }
        if let Some(replica) = &mut host.replica {
            replica.apply(&[], through, effects);
        }
    }

    fn at_a_fence(&mut self, host: &mut Host, effects: &mut Vec<Effect>) {
        let (Some(replica), Some(AtFence { sealed })) = (&mut host.replica, host.at_fence) else { return };
        match self.mutation {
            Some(Mutation::SealOnEmptyQueue) if replica.owes() && self.queue_is_empty(host.id) => {
                effects.push(Effect::Seal(sealed));
            }
            Some(Mutation::ReplayedFenceIsDone) if matches!(replica.mode(), Mode::Hold(_)) => {
                let key = (self.processes[host.id.process].node, host.id.symbol);
                if self.remembered.get(&key).is_some_and(|(_, done)| *done >= sealed.epoch) {
                    replica.sealed(sealed, effects);
                }
            }
            _ => {}
        }
    }

    /// What a careless node makes of a Sealed.
    pub(super) fn mutated_sealed(&self, host: &Host, sealed: Sealed) -> Sealed {
        let (Some(Mode::Hold(epoch)), Some(AtFence { sealed: mine })) = (host.mode(), host.at_fence) else {
            return sealed;
        };
        match self.mutation {
            Some(Mutation::SealedOfAnotherEpoch) if epoch != sealed.epoch => mine,
            Some(Mutation::DigestNotCompared) if epoch == sealed.epoch => mine,
            _ => sealed,
        }
    }

    /// The state of a holder as a snapshot, which the replica refuses: a twin is made to give it.
    pub(super) fn cut_while_holding(&self, host: &Host) -> Option<Snapshot<Book>> {
        let held = host.replica.as_ref().filter(|r| matches!(r.mode(), Mode::Hold(_)))?;
        let me = self.name_of(host.id);
        let partition = self.symbols[host.id.symbol].partition;
        let inputs: Vec<Input<Command>> = self
            .log
            .orders(partition)
            .iter()
            .take(held.offset().0 as usize)
            .filter(|o| o.symbol == host.id.symbol)
            .map(|o| o.input.clone())
            .collect();
        let (first, rest) = inputs.split_first()?;
        let Command::List { listing, .. } = &first.command else { return None };
        let mut unheard = Vec::new();
        let mut twin = Replica::<Book>::born(me, self.symbol(host.id.symbol), listing.owner, first, &mut unheard)?;
        twin.apply(rest, held.offset(), &mut unheard);
        twin.take_by_crash_path(Seq(0), &mut unheard);
        twin.cut(host.events_position)
    }
}
