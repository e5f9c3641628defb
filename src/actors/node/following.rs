//! Replicas on a node that does not own their books: shadows that a move or a standby wants, and those that have nothing
//! left to do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::NodeSupervisor;
use crate::actors::book::{Retire, Trim};
use crate::actors::directory::BookStatus;
use crate::actors::feed::Detach;
use crate::domain::Symbol;
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;

/// How soon a replica that is not free to go yet is looked at again, and how often; then the sweep takes it.
const LET_GO_LOOK: Duration = Duration::from_millis(5);
const LET_GO_LOOKS: u32 = 2_000;
/// One that is still to come to the fence that took its book away is not waited for longer: the new owner publishes, so all
/// that it could say is said, and a node that has too much to do would be at it for long. To end is always safe: it is a
/// crash of this replica.
const LET_GO_BEHIND_LOOKS: u32 = 200;

/// An idle shadow whose owner is on another node of the cluster goes by itself after so many ticks, if nobody says so
/// before.
const LONELY_TICKS_MAX: u32 = 30;

/// Who wants a shadow here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Move,
    Standby,
}

/// Answered with the shadow's status, or with why there is none; not at all if a standby is being prepared already.
pub type Started = oneshot::Sender<Result<Arc<BookStatus>, String>>;

/// Starts a shadow: a snapshot, then the log.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Follow {
    pub symbol: Symbol,
    /// `None`: the newest in the store. One that was given must have been [verified](crate::actors::shadows).
    pub from: Option<Box<Snapshot<Book>>>,
    pub done: Started,
}

/// The same for a standby; a replica that is here stays.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StandBy {
    pub symbol: Symbol,
    pub done: Started,
}

/// Somebody needs the replica no longer. It goes when nobody does, and it neither owns the book nor owes a Sealed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Forgo {
    pub symbol: Symbol,
    pub want: Want,
}

/// A move lets go of a replica that is not the owner's, or that of a source once the target publishes; answered when it is
/// gone, at once if there is none, or if it stands by.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LetGo {
    pub symbol: Symbol,
    pub done: oneshot::Sender<()>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct LetGoLook {
    of: LetGo,
    looks: u32,
}

impl NodeSupervisor {
    fn wants(&mut self, want: Want) -> &mut HashSet<Symbol> {
        match want {
            Want::Move => &mut self.wanted,
            Want::Standby => &mut self.standing_by,
        }
    }

    fn note_standby(&self, symbol: &Symbol) {
        if let Some(status) = self.node.status(symbol) {
            status.set_stands_by(self.standing_by.contains(symbol));
        }
    }

    fn is_wanted(&self, symbol: &Symbol) -> bool {
        self.wanted.contains(symbol) || self.standing_by.contains(symbol)
    }

    /// Lets go of replicas that have nothing left to do here: the book went on, and nobody is owed anything.
    pub(super) fn sweep(&mut self, books: &[Arc<BookStatus>]) {
        for book in books {
            let is_idle = !book.is_active() && book.is_idle_shadow() && !self.is_wanted(&book.symbol);
            if is_idle && (self.owner_is_here(book) || self.owner_is_elsewhere(book)) {
                self.let_go(book.symbol);
            } else if !is_idle {
                self.lonely.remove(&book.symbol);
            }
        }
    }

    fn owner_is_here(&self, book: &BookStatus) -> bool {
        let standing = self.node.directory.get(&book.symbol);
        standing.is_some_and(|b| b.node() != self.node.id && b.is_active() && b.epoch() >= book.epoch())
    }

    /// A node of another process has owned the book for so long that whoever moved it there would have said so.
    fn owner_is_elsewhere(&mut self, book: &BookStatus) -> bool {
        let owner = book.owner();
        if self.node.peers.is_here(&owner) || !self.node.peers.members().is_alive(&owner) {
            self.lonely.remove(&book.symbol);
            return false;
        }
        let ticks = self.lonely.entry(book.symbol).or_default();
        *ticks += 1;
        *ticks > LONELY_TICKS_MAX
    }

    /// Asks shadows of idle books what they still keep back; busy ones ask with each batch.
    pub(super) fn trim_shadows(&self, books: &[Arc<BookStatus>]) {
        for status in books.iter().filter(|b| b.kept() > 0 && !b.is_active()) {
            if let Some(book) = self.node.book(&status.symbol) {
                // A full mailbox has batches in it.
                _ = book.try_send(Trim);
            }
        }
    }

    fn let_go(&mut self, symbol: Symbol) {
        self.watches.remove(&symbol);
        self.lonely.remove(&symbol);
        self.node.sealed.lock().remove(&symbol);
        let Some((book, status)) = self.node.books.write().remove(&symbol) else { return };
        status.retire();
        self.node.directory.forget(&status);
        // One per replica and life.
        #[allow(clippy::disallowed_methods)]
        self.feeds[status.partition as usize].do_send(Detach { symbol });
        #[allow(clippy::disallowed_methods)]
        book.do_send(Retire);
        tracing::debug!(%symbol, node = %self.node.id, "replica let go");
    }

    fn follow(&mut self, Follow { symbol, from, done }: Follow, want: Want, ctx: &mut Context<Self>) {
        self.wants(want).insert(symbol);
        self.note_standby(&symbol);
        if let Some(status) = self.node.status(&symbol) {
            _ = done.send(Ok(status));
            return;
        }
        // A standby is asked for again and again; a move is not, and waits for an answer of its own.
        if want == Want::Standby && !self.preparing.insert(symbol) {
            return;
        }
        self.prepare_for(symbol, from, ctx, move |supervisor, prepared, ctx| {
            if want == Want::Standby {
                supervisor.preparing.remove(&symbol);
            }
            // Somebody else may have wanted it in between.
            let here = supervisor.node.status(&symbol);
            let result = match prepared {
                _ if here.is_some() => here.ok_or_else(String::new),
                Ok(prepared) if supervisor.is_wanted(&symbol) => {
                    let (partition, id) = (prepared.0.entry.partition, supervisor.node.id);
                    let status = supervisor.node.directory.enter(symbol, partition, id);
                    supervisor.reattach(&status, prepared, None, ctx);
                    supervisor.note_standby(&symbol);
                    Ok(status)
                }
                Ok(_) => Err("it is not wanted any more".to_owned()),
                Err(e) => Err(e.to_string()),
            };
            _ = done.send(result);
        });
    }
}

impl Handler<Follow> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, follow: Follow, ctx: &mut Self::Context) {
        self.follow(follow, Want::Move, ctx);
    }
}

impl Handler<StandBy> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, StandBy { symbol, done }: StandBy, ctx: &mut Self::Context) {
        self.follow(Follow { symbol, from: None, done }, Want::Standby, ctx);
    }
}

impl Handler<Forgo> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, Forgo { symbol, want }: Forgo, _: &mut Self::Context) {
        self.wants(want).remove(&symbol);
        self.note_standby(&symbol);
        let is_mine = self.node.owners.get(&symbol).is_some_and(|owner| owner.node == self.node.id);
        let is_idle = self.node.status(&symbol).is_some_and(|status| status.is_idle_shadow());
        if is_idle && !is_mine && !self.is_wanted(&symbol) {
            self.let_go(symbol);
        }
    }
}

impl Handler<LetGo> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, of: LetGo, ctx: &mut Self::Context) {
        self.wanted.remove(&of.symbol);
        ctx.notify(LetGoLook { of, looks: 0 });
    }
}

impl Handler<LetGoLook> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, LetGoLook { of, looks }: LetGoLook, ctx: &mut Self::Context) {
        let status = self.node.status(&of.symbol);
        let is_needless = |s: &BookStatus| looks >= LET_GO_BEHIND_LOOKS && self.node.is_taken_away(s);
        let is_busy = status.is_some_and(|status| !status.is_idle_shadow() && !is_needless(&status));
        if self.is_wanted(&of.symbol) || (is_busy && looks >= LET_GO_LOOKS) {
            _ = of.done.send(());
        } else if is_busy {
            // It owes a Sealed, or has not yet read the fence that takes the book from it.
            ctx.run_later(LET_GO_LOOK, move |_, ctx| ctx.notify(LetGoLook { of, looks: looks + 1 }));
        } else {
            self.let_go(of.symbol);
            _ = of.done.send(());
        }
    }
}
