//! Replicas that begin at about the same time in one partition are given to its feed together, so that it reads for all
//! of them at once. When a node dies, its books of a partition come to another within milliseconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{NodeSupervisor, prepare};
use crate::actors::book::{Start, StartFrom};
use crate::actors::directory::BookStatus;
use crate::actors::feed::{Attach, Joins};
use crate::actors::recovery::Found;
use crate::domain::{Epoch, Seq, Symbol};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;

/// A replica that is ready waits so long for others, and on while some are being prepared, but no longer than
/// [`GATHER_MAX`]: nobody waits for a neighbour's large snapshot.
const GATHER: Duration = Duration::from_millis(3);
const GATHER_MAX: Duration = Duration::from_millis(60);

/// The replicas of one partition that are about to begin.
#[derive(Default)]
pub(super) struct Gathering {
    preparing: usize,
    ready: Vec<Joins>,
}

/// By partition; those where nothing goes on are not there.
pub(super) type Gatherings = HashMap<u32, Gathering>;

impl NodeSupervisor {
    /// Reads what a replica needs to begin, then goes on with `then`, which may begin it.
    pub(super) fn prepare_for(
        &mut self,
        symbol: Symbol,
        from: Option<Box<Snapshot<Book>>>,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, anyhow::Result<(Found, Seq)>, &mut Context<Self>) + 'static,
    ) {
        let node = Arc::clone(&self.node);
        // Of a symbol that is not listed there will be nothing to gather.
        let partition = node.catalogue.get(&symbol).map(|entry| entry.partition);
        if let Some(partition) = partition {
            self.gatherings.entry(partition).or_default().preparing += 1;
        }
        let work = async move { prepare(&node, symbol, from).await };
        ctx.spawn(work.into_actor(self).map(move |prepared, supervisor, ctx| {
            then(supervisor, prepared, ctx);
            if let Some(partition) = partition {
                supervisor.prepared_one(partition);
            }
        }));
    }

    fn prepared_one(&mut self, partition: u32) {
        let Some(gathering) = self.gatherings.get_mut(&partition) else { return };
        gathering.preparing -= 1;
        if gathering.preparing == 0 && gathering.ready.is_empty() {
            self.gatherings.remove(&partition);
        }
    }

    /// Begins a replica, and gives it to its feed with those that begin at about the same time.
    pub(super) fn reattach(
        &mut self,
        status: &Arc<BookStatus>,
        (found, known_durable): (Found, Seq),
        crash_path: Option<Epoch>,
        ctx: &mut Context<Self>,
    ) {
        let (from, events_from, partition) = (found.orders_from(), found.events_from(), status.partition);
        let begins = found.snapshot.map_or(StartFrom::List { events_from }, StartFrom::Snapshot);
        let start = Start { from: begins, known_durable, crash_path };
        status.set_detached(true);
        let book = self.node.start_book(status, start, from);
        let gathering = self.gatherings.entry(partition).or_default();
        gathering.ready.push(Joins { status: Arc::clone(status), book, from });
        if gathering.ready.len() == 1 {
            let since = Instant::now();
            ctx.run_later(GATHER, move |supervisor, ctx| supervisor.attach_gathered(partition, since, ctx));
        }
    }

    fn attach_gathered(&mut self, partition: u32, since: Instant, ctx: &mut Context<Self>) {
        let Some(gathering) = self.gatherings.get_mut(&partition) else { return };
        if gathering.preparing > 0 && since.elapsed() < GATHER_MAX {
            ctx.run_later(GATHER, move |supervisor, ctx| supervisor.attach_gathered(partition, since, ctx));
            return;
        }
        let mut books = std::mem::take(&mut gathering.ready);
        if gathering.preparing == 0 {
            self.gatherings.remove(&partition);
        }
        // Some may have been let go again, or have died and begun anew.
        books.retain(|joins| self.node.book(&joins.status.symbol).is_some_and(|book| book == joins.book));
        // One per gathering.
        #[allow(clippy::disallowed_methods)]
        self.feeds[partition as usize].do_send(Attach { books });
    }
}
