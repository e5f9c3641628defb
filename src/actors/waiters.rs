//! REST requests that wait for the answer to their command.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::gateway::{Answer, Said};

struct Waiter {
    done: oneshot::Sender<Answer>,
    said: Vec<Arc<Said>>,
}

/// The table, by the lower half of the origin's counter.
pub(super) struct Waiters {
    table: Mutex<Table>,
    waiting_max: usize,
}

struct Table {
    next: u32,
    waiting: HashMap<u32, Waiter>,
}

impl Waiters {
    pub fn new(waiting_max: usize) -> Self {
        Self { table: Mutex::new(Table { next: 0, waiting: HashMap::new() }), waiting_max }
    }

    /// Enters one; when the table is full, the receiver is closed already.
    pub fn expect(&self) -> (u32, oneshot::Receiver<Answer>) {
        let (done, answer) = oneshot::channel();
        let mut table = self.table.lock();
        let table = &mut *table;
        loop {
            // Numbers go round after 2^32 requests; one still waited for is not given out again.
            let number = table.next;
            table.next = table.next.wrapping_add(1);
            if table.waiting.contains_key(&number) {
                continue;
            }
            if table.waiting.len() < self.waiting_max {
                table.waiting.insert(number, Waiter { done, said: Vec::new() });
            }
            return (number, answer);
        }
    }

    pub fn forget(&self, number: u32) {
        self.table.lock().waiting.remove(&number);
    }

    /// Collects an output; with the last one of its input the answer is complete and handed back, to be delivered
    /// once everything that the batch changed can be seen. One that nobody waits for is dropped.
    pub fn collect(&self, number: u32, said: Arc<Said>) -> Option<Complete> {
        let mut table = self.table.lock();
        let waiter = table.waiting.get_mut(&number)?;
        let is_last = said.output.end;
        waiter.said.push(said);
        if !is_last {
            return None;
        }
        let Waiter { done, said } = table.waiting.remove(&number)?;
        Some(Complete { done, answer: Answer { said } })
    }

    #[cfg(test)]
    pub fn set_next(&self, next: u32) {
        self.table.lock().next = next;
    }
}

/// An answer that is ready.
pub(super) struct Complete {
    done: oneshot::Sender<Answer>,
    answer: Answer,
}

impl Complete {
    pub fn deliver(self) {
        // A request that has gone in the meantime wants nothing.
        _ = self.done.send(self.answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_and_the_table_is_bounded() {
        let waiters = Waiters::new(2);
        waiters.set_next(u32::MAX);
        let (a, _keep) = waiters.expect();
        let (b, _keep_too) = waiters.expect();
        assert_eq!((a, b), (u32::MAX, 0));
        let (_, mut refused) = waiters.expect();
        assert!(matches!(refused.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        waiters.forget(b);
        waiters.set_next(u32::MAX);
        let (c, mut waiting) = waiters.expect();
        assert_eq!(c, 0, "the number still waited for is passed over");
        assert!(matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }
}
