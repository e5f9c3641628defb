//! What this process knows of its books, in counters that anyone may read without asking a book actor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::domain::{Digest, Epoch, Micros, NodeId, Offset, Seq, Symbol};

/// All books of the process.
#[derive(Debug, Default)]
pub struct Directory {
    books: RwLock<BTreeMap<Symbol, Arc<BookStatus>>>,
}

impl Directory {
    pub fn get(&self, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        self.books.read().get(symbol).cloned()
    }

    /// All, in order of symbol.
    pub fn all(&self) -> Vec<Arc<BookStatus>> {
        self.books.read().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.books.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The status of a symbol's replica on a node. The first one of a symbol stands for the book until another
    /// [claims](Self::claim) it; a replica beside that is a shadow's, and known to its node only.
    pub fn enter(&self, symbol: Symbol, partition: u32, node: NodeId) -> Arc<BookStatus> {
        let mut books = self.books.write();
        match books.get(&symbol) {
            Some(book) if book.node() == node => Arc::clone(book),
            Some(_) => Arc::new(BookStatus::new(symbol, partition, node)),
            None => {
                let book = Arc::new(BookStatus::new(symbol, partition, node));
                books.insert(symbol, Arc::clone(&book));
                book
            }
        }
    }

    /// A replica became Active: it stands for the book from now on, unless one of a newer epoch does.
    pub fn claim(&self, status: &Arc<BookStatus>) {
        let mut books = self.books.write();
        if books.get(&status.symbol).is_none_or(|known| known.epoch() <= status.epoch()) {
            books.insert(status.symbol, Arc::clone(status));
        }
    }

    /// A replica is gone: if it stood for the book, no replica of this process does.
    pub(super) fn forget(&self, status: &Arc<BookStatus>) {
        let mut books = self.books.write();
        if books.get(&status.symbol).is_some_and(|known| Arc::ptr_eq(known, status)) {
            books.remove(&status.symbol);
        }
    }
}

/// What a book's actor last said of itself. Each value is exact, together they may be a moment apart.
#[derive(Debug)]
pub struct BookStatus {
    pub symbol: Symbol,
    pub partition: u32,
    node: NodeId,
    digests: RwLock<(Digest, Digest)>,
    active: AtomicBool,
    caught_up: AtomicBool,
    holding: AtomicBool,
    owes: AtomicBool,
    stands_by: AtomicBool,
    retired: AtomicBool,
    owner: RwLock<NodeId>,
    detached: AtomicBool,
    level_seq: AtomicU64,
    seen: AtomicU64,
    applied: AtomicU64,
    seq: AtomicU64,
    epoch: AtomicU64,
    orders: AtomicU64,
    offset: AtomicU64,
    busy_ns: AtomicU64,
    restarts: AtomicU64,
    waited_us_max: AtomicU64,
    moved_at: AtomicU64,
    kept: AtomicU64,
    rate_milli: AtomicU64,
    busy_ppm: AtomicU64,
    waiting_us: AtomicU64,
    takeover: Mutex<Option<Takeover>>,
    /// Decimals of its prices, once known.
    price_scale: OnceLock<u8>,
}

/// How a replica came to publish: what a move's record tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takeover {
    pub epoch: Epoch,
    /// Where the fence lies that it held at.
    pub fence: Offset,
    /// Commands behind the fence that it had applied before it published.
    pub parked: u64,
}

/// What the book actor reports after a batch.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub offset: Offset,
    pub seq: Seq,
    pub epoch: Epoch,
    pub orders: u64,
    pub state_digest: Digest,
    pub book_digest: Digest,
}

impl BookStatus {
    fn new(symbol: Symbol, partition: u32, node: NodeId) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            symbol,
            partition,
            node,
            digests: RwLock::default(),
            active: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            stands_by: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            owner: RwLock::new(node),
            detached: AtomicBool::new(false),
            level_seq: zero(),
            seen: zero(),
            applied: zero(),
            seq: zero(),
            epoch: zero(),
            orders: zero(),
            offset: zero(),
            busy_ns: zero(),
            restarts: zero(),
            waited_us_max: zero(),
            moved_at: zero(),
            kept: zero(),
            rate_milli: zero(),
            busy_ppm: zero(),
            waiting_us: zero(),
            takeover: Mutex::default(),
            price_scale: OnceLock::new(),
        }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Owner by the log, as far as this replica has read it.
    pub fn owner(&self) -> NodeId {
        *self.owner.read()
    }

    /// Whether its replica neither publishes, nor waits to, nor owes anybody a Sealed.
    pub fn is_idle_shadow(&self) -> bool {
        !self.is_active() && !self.holding.load(Ordering::Acquire) && !self.owes.load(Ordering::Acquire)
    }

    /// Whether it is the book's standby.
    pub fn stands_by(&self) -> bool {
        self.stands_by.load(Ordering::Acquire)
    }

    /// Whether it was told to go: its end is no death.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether its replica publishes.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Whether it has applied everything that its partition held when its node started, and published it durably.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Last output of the moment when it had caught up: a mirror that shows it is level.
    pub fn level_seq(&self) -> Seq {
        Seq(self.level_seq.load(Ordering::Acquire))
    }

    /// Whether it reads with a cursor of its own because it fell behind.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Records of this symbol that the node has met in the log and the book has not applied yet.
    pub fn lag(&self) -> u64 {
        self.seen.load(Ordering::Acquire).saturating_sub(self.applied.load(Ordering::Acquire))
    }

    pub fn seq(&self) -> Seq {
        Seq(self.seq.load(Ordering::Acquire))
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Resting orders.
    pub fn orders(&self) -> u64 {
        self.orders.load(Ordering::Acquire)
    }

    /// The next record that it will look at.
    pub fn offset(&self) -> Offset {
        Offset(self.offset.load(Ordering::Acquire))
    }

    /// Records applied since the process started.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// CPU time spent for it since the process started, in nanoseconds.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Ordering::Acquire)
    }

    /// How often it was rebuilt after a panic.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Acquire)
    }

    /// Bytes of outputs that a shadow keeps back until they are known to be durable.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    /// Records per second in the last window.
    pub fn rate(&self) -> f64 {
        self.rate_milli.load(Ordering::Acquire) as f64 / 1_000.0
    }

    /// Fraction of one core in the last window.
    pub fn busy(&self) -> f64 {
        self.busy_ppm.load(Ordering::Acquire) as f64 / 1_000_000.0
    }

    /// The longest that a batch of the last window waited in the mailbox, in microseconds.
    pub fn waiting_us(&self) -> u64 {
        self.waiting_us.load(Ordering::Acquire)
    }

    /// When it took over here from another node.
    pub fn moved_at(&self) -> Option<Micros> {
        Some(Micros(self.moved_at.load(Ordering::Acquire))).filter(|at| at.0 > 0)
    }

    pub fn state_digest(&self) -> Digest {
        self.digests.read().0
    }

    pub fn book_digest(&self) -> Digest {
        self.digests.read().1
    }

    pub(super) fn report(&self, r: &Report, records: u64, busy_ns: u64) {
        *self.digests.write() = (r.state_digest, r.book_digest);
        self.seq.store(r.seq.0, Ordering::Release);
        self.epoch.store(r.epoch.0, Ordering::Release);
        self.orders.store(r.orders, Ordering::Release);
        self.offset.store(r.offset.0, Ordering::Release);
        self.busy_ns.fetch_add(busy_ns, Ordering::AcqRel);
        self.applied.fetch_add(records, Ordering::AcqRel);
    }

    pub(super) fn set_kept(&self, bytes: u64) {
        self.kept.store(bytes, Ordering::Release);
    }

    pub(super) fn met(&self, records: u64) {
        self.seen.fetch_add(records, Ordering::AcqRel);
    }

    /// Some that were met turned out to be dead letters.
    pub(super) fn met_in_vain(&self, records: u64) {
        self.seen.fetch_sub(records, Ordering::AcqRel);
    }

    /// A rebuilt book replays records that were counted before: nothing of the old count holds any more.
    pub(super) fn forget_lag(&self) {
        self.seen.store(self.applied.load(Ordering::Acquire), Ordering::Release);
    }

    pub(super) fn set_stands_by(&self, stands_by: bool) {
        self.stands_by.store(stands_by, Ordering::Release);
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn set_ownership(&self, owner: NodeId, holding: bool, owes: bool) {
        *self.owner.write() = owner;
        self.holding.store(holding, Ordering::Release);
        self.owes.store(owes, Ordering::Release);
    }

    pub(super) fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Release);
    }

    /// Everything that its partition held at start is applied, and what came of it is durable up to `seq`.
    pub(super) fn set_caught_up(&self, seq: Seq) {
        self.level_seq.store(seq.0, Ordering::Release);
        self.caught_up.store(true, Ordering::Release);
    }

    /// A new actor begins for this book.
    pub(super) fn begin(&self) {
        self.caught_up.store(false, Ordering::Release);
    }

    /// Decimals of its prices; `None` before its LIST was met.
    pub(super) fn price_scale(&self) -> Option<u8> {
        self.price_scale.get().copied()
    }

    /// The first stands: no record changes it.
    pub(super) fn set_price_scale(&self, decimals: u8) {
        self.price_scale.get_or_init(|| decimals);
    }

    pub(super) fn set_detached(&self, detached: bool) {
        self.detached.store(detached, Ordering::Release);
    }

    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    /// CPU time that was spent for it beside its batches.
    pub(super) fn spent(&self, busy_ns: u64) {
        self.busy_ns.fetch_add(busy_ns, Ordering::AcqRel);
    }

    /// A batch has waited so long in the mailbox.
    pub(super) fn waited(&self, us: u64) {
        self.waited_us_max.fetch_max(us, Ordering::AcqRel);
    }

    /// How it took the book over at this epoch; `None` if it did not, or did before it was rebuilt.
    pub fn takeover(&self, epoch: Epoch) -> Option<Takeover> {
        self.takeover.lock().filter(|t| t.epoch == epoch)
    }

    /// Said before it is seen to be active.
    pub(super) fn set_takeover(&self, takeover: Takeover) {
        *self.takeover.lock() = Some(takeover);
    }

    pub(super) fn set_moved_at(&self, at: Micros) {
        self.moved_at.store(at.0, Ordering::Release);
    }

    pub(super) fn set_load(&self, rate: f64, busy: f64) {
        self.waiting_us.store(self.waited_us_max.swap(0, Ordering::AcqRel), Ordering::Release);
        self.rate_milli.store((rate * 1_000.0) as u64, Ordering::Release);
        self.busy_ppm.store((busy * 1_000_000.0) as u64, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_was_met_and_not_applied() {
        let directory = Directory::default();
        let book = directory.enter(Symbol::new("A").unwrap(), 3, NodeId::new("n1").unwrap());
        book.met(10);
        assert_eq!(book.lag(), 10);
        let d = Digest(1);
        let report =
            Report { offset: Offset(4), seq: Seq(9), epoch: Epoch(0), orders: 2, state_digest: d, book_digest: d };
        book.report(&report, 4, 1_000);
        assert_eq!((book.lag(), book.seq(), book.orders()), (6, Seq(9), 2));
        assert!(Arc::ptr_eq(&book, &directory.get(&book.symbol).unwrap()));
    }
}
