//! What a book does while it only follows: it keeps its outputs until they are known to be durable, and no more of them
//! than there is room for.

use std::sync::Arc;

use actix::prelude::*;

use super::BookActor;
use crate::domain::Seq;
use crate::migration::replica::Mode;

/// What a shadow keeps back until it is known to be durable: 4 MiB are some 20,000 outputs. One that has more forgets
/// them all, and has to be restored if its owner dies just then (handover rules 4 and 8b).
pub const SHADOW_BYTES_MAX: usize = 4 << 20;

/// Asks a shadow to look what is durable by now, and to keep that back no longer. With each batch it does so by itself.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Trim;

impl BookActor {
    fn trim(&mut self, durable: Seq, ctx: &mut Context<Self>) {
        if let Some(replica) = self.replica.as_mut().filter(|r| r.mode() != Mode::Active) {
            replica.topic_read(durable, &mut self.effects);
            self.bound_what_is_kept();
            self.step_done(ctx);
        }
    }

    /// A shadow that keeps too much back forgets it.
    pub(super) fn bound_what_is_kept(&mut self) {
        let Some(replica) = &mut self.replica else { return };
        let has_room = self.node.keeps(&mut self.kept, replica.pending_bytes());
        if !has_room && replica.forget_outputs() {
            metrics::counter!("hotbook_shadow_outputs_forgotten_total").increment(1);
            let seq = replica.seq();
            tracing::debug!(symbol = %self.symbol, node = %self.node.id, %seq, "shadow forgets its outputs");
            self.node.keeps(&mut self.kept, 0);
        }
    }
}

impl Handler<Trim> for BookActor {
    type Result = ();

    fn handle(&mut self, _: Trim, ctx: &mut Self::Context) {
        if let Some((met, _)) = self.node.positions.get(&self.symbol) {
            self.trim(met, ctx);
            return;
        }
        // No gateway here reads `events`.
        let (node, partition, symbol) = (Arc::clone(&self.node), self.status.partition, self.symbol);
        let from = self.events_position;
        let read = async move { node.high_waters.read(&*node.log, partition, symbol, from).await };
        ctx.spawn(read.into_actor(self).map(move |read, book, ctx| match read {
            Ok(durable) => book.trim(durable, ctx),
            Err(e) => tracing::warn!(%symbol, error = %e, "events cannot be read for a shadow"),
        }));
    }
}
