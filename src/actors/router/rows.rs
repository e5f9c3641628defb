//! Keeps the route table's rows of a node's books true: what the log says of them is told again when the table has lost
//! it, or says something older.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::actors::directory::BookStatus;
use crate::domain::{Epoch, NodeId, Symbol};
use crate::ports::routes::{Route, RouteStatus, Routes, RoutesError};

/// How often all rows are read, though none that was looked at was wrong.
const COMPARE_EVERY: Duration = Duration::from_secs(15);
/// A row that is missing or old for so long is not just about to be written by whoever listed or moved the book.
const WRONG_MAX: Duration = Duration::from_millis(500);
/// A book that trades here and is MIGRATING for so long at one epoch is not: whoever marked it is gone. Longer than a
/// coordinator leaves a row marked before its fence.
const MARKED_MAX: Duration = Duration::from_secs(20);

/// The rows of one node.
pub struct Rows {
    routes: Arc<dyn Routes>,
    me: NodeId,
    looked: Mutex<Looked>,
    /// Books whose rows are not as they should be, and since when.
    wrong: Mutex<HashMap<Symbol, (Epoch, Instant)>>,
}

#[derive(Default)]
struct Looked {
    compared_at: Option<Instant>,
    turn: usize,
}

impl Rows {
    pub fn new(routes: Arc<dyn Routes>, me: NodeId) -> Self {
        Self { routes, me, looked: Mutex::default(), wrong: Mutex::default() }
    }

    /// The table may have lost rows: all are compared the next time.
    pub fn distrust(&self) {
        self.looked.lock().compared_at = None;
    }

    /// Looks at one row, each time another's, and tells the table what it does not know of the node's books.
    pub async fn mend(&self, books: &[Arc<BookStatus>]) {
        let active: Vec<&Arc<BookStatus>> = books.iter().filter(|b| b.is_active()).collect();
        let (turn, is_due) = self.turn();
        let looked_at = active.get(turn % active.len().max(1));
        let mended = async {
            let is_wrong = match looked_at {
                Some(book) => self.routes.get(book.symbol).await?.is_none_or(|row| row.epoch < book.epoch()),
                None => false,
            };
            // A lost table shows in any row; one row alone in its turn, or when all are compared.
            let compares = is_due || is_wrong || !self.wrong.lock().is_empty();
            if compares { self.compare(&active).await } else { Ok(0) }
        };
        match mended.await {
            Ok(0) => {}
            Ok(mended) => {
                metrics::counter!("hotbook_routes_mended_total").increment(mended);
                tracing::warn!(node = %self.me, rows = mended, "the route table had lost or old rows; told again from the log");
            }
            Err(e) => tracing::warn!(node = %self.me, error = %e, "route table cannot be compared"),
        }
    }

    /// Whose turn it is, and whether all are to be compared.
    fn turn(&self) -> (usize, bool) {
        let mut looked = self.looked.lock();
        looked.turn += 1;
        (looked.turn, looked.compared_at.is_none_or(|at| at.elapsed() >= COMPARE_EVERY))
    }

    /// `active`: the books that the node owns.
    async fn compare(&self, active: &[&Arc<BookStatus>]) -> Result<u64, RoutesError> {
        self.looked.lock().compared_at = Some(Instant::now());
        let mine: HashSet<Symbol> = active.iter().map(|b| b.symbol).collect();
        self.wrong.lock().retain(|symbol, _| mine.contains(symbol));
        let rows: HashMap<Symbol, Route> = self.routes.all().await?.into_iter().collect();
        let mut mended = 0;
        for book in active {
            let (symbol, epoch) = (book.symbol, book.epoch());
            let target_instance = self.me;
            let truth =
                Route { target_instance, status: RouteStatus::Active, epoch, partition: book.partition, to: None };
            let is_mended = match rows.get(&symbol) {
                Some(row) if row.epoch > epoch || row.version() == truth.version() => {
                    self.wrong.lock().remove(&symbol);
                    false
                }
                Some(row) if row.epoch == epoch => {
                    self.has_stood(symbol, epoch, MARKED_MAX) && self.unmark(symbol, *row, truth).await?
                }
                _ => self.has_stood(symbol, epoch, WRONG_MAX) && self.routes.learn(symbol, truth).await? == truth,
            };
            mended += u64::from(is_mended);
        }
        Ok(mended)
    }

    async fn unmark(&self, symbol: Symbol, row: Route, truth: Route) -> Result<bool, RoutesError> {
        match self.routes.swap(symbol, Some(row.version()), truth).await {
            Ok(()) => Ok(true),
            // Somebody went on after all.
            Err(RoutesError::Changed { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether a row has been wrong at one epoch for longer than that; seen for the first time, it has not.
    fn has_stood(&self, symbol: Symbol, epoch: Epoch, longer_than: Duration) -> bool {
        let mut wrong = self.wrong.lock();
        let since = wrong.entry(symbol).or_insert_with(|| (epoch, Instant::now()));
        if since.0 != epoch {
            *since = (epoch, Instant::now());
        }
        since.1.elapsed() > longer_than
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::directory::{Directory, Report};
    use crate::domain::{Digest, Offset, Seq};
    use crate::ports::routes::local::LocalRoutes;

    fn me() -> NodeId {
        NodeId::new("n1").unwrap()
    }

    impl Rows {
        /// As if what is wrong had been so for long.
        fn age(&self) {
            let long_ago = Instant::now().checked_sub(MARKED_MAX * 2).unwrap();
            self.wrong.lock().values_mut().for_each(|since| since.1 = long_ago);
        }
    }

    fn active(directory: &Directory, name: &str, epoch: u64) -> Arc<BookStatus> {
        let book = directory.enter(Symbol::new(name).unwrap(), 3, me());
        let (offset, seq, d) = (Offset(1), Seq(1), Digest(1));
        book.report(&Report { offset, seq, epoch: Epoch(epoch), orders: 0, state_digest: d, book_digest: d }, 1, 0);
        book.set_active(true);
        book
    }

    fn row(node: &str, status: RouteStatus, epoch: u64) -> Route {
        Route { target_instance: NodeId::new(node).unwrap(), status, epoch: Epoch(epoch), partition: 3, to: None }
    }

    #[actix_rt::test]
    async fn lost_and_old_rows_are_told_again_and_newer_ones_stay() {
        let (routes, directory) = (Arc::new(LocalRoutes::default()), Directory::default());
        let books: Vec<_> = ["LOST", "OLD", "SAME", "NEWER"].map(|name| active(&directory, name, 4)).into();
        routes.overwrite(books[1].symbol, row("n2", RouteStatus::Active, 2));
        routes.overwrite(books[2].symbol, row("n1", RouteStatus::Active, 4));
        routes.overwrite(books[3].symbol, row("n3", RouteStatus::Active, 5));
        let rows = Rows::new(Arc::clone(&routes) as Arc<dyn Routes>, me());
        let all: Vec<&Arc<BookStatus>> = books.iter().collect();
        assert_eq!(rows.compare(&all).await.unwrap(), 0, "they may be about to be written");
        rows.age();
        assert_eq!(rows.compare(&all).await.unwrap(), 2);
        let table: HashMap<Symbol, Route> = routes.all().await.unwrap().into_iter().collect();
        for book in &books[..3] {
            assert_eq!(table[&book.symbol], row("n1", RouteStatus::Active, 4));
        }
        assert_eq!((table[&books[3].symbol].epoch, table.len()), (Epoch(5), 4));
        assert_eq!(rows.compare(&all).await.unwrap(), 0);
    }

    #[actix_rt::test]
    async fn one_row_in_turn_is_looked_at_unless_all_are_in_doubt() {
        let (routes, directory) = (Arc::new(LocalRoutes::default()), Directory::default());
        let books = ["A", "B", "C"].map(|name| active(&directory, name, 4));
        for book in &books {
            routes.overwrite(book.symbol, row("n1", RouteStatus::Active, 4));
        }
        let rows = Rows::new(Arc::clone(&routes) as Arc<dyn Routes>, me());
        rows.mend(&books).await;
        // Not the one that is looked at next, so nothing is noticed of it.
        let unseen = (rows.looked.lock().turn + 2) % books.len();
        routes.overwrite(books[unseen].symbol, row("n2", RouteStatus::Active, 2));
        rows.mend(&books).await;
        assert!(rows.wrong.lock().is_empty());
        rows.distrust();
        rows.mend(&books).await;
        assert!(rows.wrong.lock().contains_key(&books[unseen].symbol));
    }

    #[actix_rt::test]
    async fn a_mark_that_somebody_left_behind_is_taken_away_in_the_end() {
        let (routes, directory) = (Arc::new(LocalRoutes::default()), Directory::default());
        let book = active(&directory, "A", 4);
        let (symbol, books) = (book.symbol, [&book]);
        routes.overwrite(symbol, row("n1", RouteStatus::Migrating, 4));
        let rows = Rows::new(Arc::clone(&routes) as Arc<dyn Routes>, me());
        assert_eq!(rows.compare(&books).await.unwrap(), 0, "a move may be under way");
        rows.age();
        assert_eq!(rows.compare(&books).await.unwrap(), 1);
        assert_eq!(routes.get(symbol).await.unwrap().unwrap(), row("n1", RouteStatus::Active, 4));
    }

    #[actix_rt::test]
    async fn a_lost_table_shows_at_the_first_look_and_shadows_are_not_entered() {
        let (routes, directory) = (Arc::new(LocalRoutes::default()), Directory::default());
        let books = [active(&directory, "A", 4), active(&directory, "B", 4)];
        let shadow = directory.enter(Symbol::new("SHADOW").unwrap(), 3, me());
        let all = [&books[..], &[shadow]].concat();
        let rows = Rows::new(Arc::clone(&routes) as Arc<dyn Routes>, me());
        for _ in 0..2 {
            routes.clear();
            rows.mend(&all).await;
            assert_eq!(rows.wrong.lock().len(), 2);
            assert_eq!(routes.all().await.unwrap(), [], "they may be about to be written");
            rows.age();
            rows.mend(&all).await;
            assert_eq!(routes.all().await.unwrap().len(), 2);
            rows.mend(&all).await;
            assert!(rows.wrong.lock().is_empty());
        }
    }
}
