//! From the log's receipts to the books that published: in order, and no partition waits for another.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{BookActor, Published};
use crate::domain::Seq;
use crate::ports::log::Receipt;

/// Outputs on their way to the log; handled in FIFO order by the pump of their partition.
pub(super) struct InFlight {
    pub(super) receipt: Receipt,
    pub(super) through: Seq,
    pub(super) book: Addr<BookActor>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// Hands published outputs to the pumps of a thread, one for each partition: one that stands still delays no other.
#[derive(Clone)]
pub struct Pump(Arc<[mpsc::UnboundedSender<InFlight>]>); // bounded by the permits that ride in them

impl Pump {
    /// Starts the pumps on the calling arbiter. A session is FIFO within a partition, so the receipts of each resolve in
    /// the order of its queue.
    pub fn start(partitions: u32) -> Self {
        Self((0..partitions).map(|_| Self::of_partition()).collect())
    }

    fn of_partition() -> mpsc::UnboundedSender<InFlight> {
        let (tx, mut rx) = mpsc::unbounded_channel::<InFlight>();
        actix::spawn(async move {
            while let Some(InFlight { receipt, through, book, permit }) = rx.recv().await {
                let result = receipt.await.map(|_| ());
                // One message per publication, and those are bounded by permits.
                #[allow(clippy::disallowed_methods)]
                book.do_send(Published { through, result });
                drop(permit);
            }
        });
        tx
    }

    /// The pumps end only with their thread, and the book with it.
    pub(super) fn send(&self, partition: u32, in_flight: InFlight) {
        if let Some(pump) = self.0.get(partition as usize) {
            _ = pump.send(in_flight);
        }
    }
}
