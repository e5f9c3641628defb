//! The depth of books, as others look it up.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::Books;
use crate::actors::gateway::Gateway;
use crate::actors::mirror::{DEPTH_DEFAULT, DepthView};
use crate::domain::output::Level;
use crate::domain::{Epoch, Symbol};
use crate::ports::cache::{Cache, CacheUnavailable, Depth};

/// Books written in one round: 1,024 x about 1.3 KiB, so 6.6 MB/s at most; the others wait for the next.
const BOOKS_PER_ROUND: usize = 1_024;
/// Books written at once: 64 x about 1.3 KiB = 83 KiB, for which Redis takes a fraction of a millisecond.
const BOOKS_AT_ONCE: usize = 64;
/// How often all books are written though nothing changed: one that somebody removed is there again.
const REPEAT_EVERY: Duration = Duration::from_secs(30);

/// Writes the depth of the books that nodes of the process own.
///
/// Every process has all mirrors, so any could write all books. Each writes its own: the cost of the whole is that of writing each
/// book once, shared as the books are, there is nobody to elect, and whoever takes a book over goes on. Should two write one for a
/// moment, the newer depth stays.
pub struct Depths {
    books: Books,
    gateway: Weak<Gateway>,
    /// The books that are owned here, and since which epoch; as of so many changes of owners.
    mine: HashMap<Symbol, Epoch>,
    as_of: Option<u64>,
    repeated_at: Instant,
}

impl Depths {
    pub fn new(books: Books, gateway: Weak<Gateway>) -> Self {
        Self { books, gateway, mine: HashMap::new(), as_of: None, repeated_at: Instant::now() }
    }

    /// Writes the books that changed, a round's share of them.
    pub async fn write(&mut self, cache: &dyn Cache) -> Result<(), CacheUnavailable> {
        // What the mirrors show before that is old.
        if !self.gateway.upgrade().is_some_and(|gateway| gateway.is_level()) {
            return Ok(());
        }
        self.look_at_owners();
        if self.repeated_at.elapsed() >= REPEAT_EVERY {
            self.note_all();
        }
        for _ in 0..BOOKS_PER_ROUND / BOOKS_AT_ONCE {
            let mut cells = self.books.changed.take(BOOKS_AT_ONCE);
            if cells.is_empty() {
                break;
            }
            cells.retain(|cell| self.mine.contains_key(&cell.mirror.read().symbol()));
            let depths: Vec<Depth> = cells.iter().map(|cell| depth(&cell.mirror.read().depth(DEPTH_DEFAULT))).collect();
            if depths.is_empty() {
                continue;
            }
            match cache.put_depths(&depths).await {
                Ok(written) => metrics::counter!("hotbook_cache_depths_written_total").increment(written),
                Err(e) => {
                    cells.iter().for_each(|cell| self.books.changed.note(cell));
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// All are written anew.
    pub fn note_all(&mut self) {
        self.repeated_at = Instant::now();
        let Some(gateway) = self.gateway.upgrade() else { return };
        let cells = self.mine.keys().filter_map(|symbol| gateway.mirrors().cell(symbol));
        cells.for_each(|cell| self.books.changed.note(&cell));
    }

    /// A book that was taken over is written though nothing happens in it: its last owner may have died before it wrote.
    fn look_at_owners(&mut self) {
        let as_of = self.books.owners.changes();
        if self.as_of.replace(as_of) == Some(as_of) {
            return;
        }
        let Some(gateway) = self.gateway.upgrade() else { return };
        let owned = self.books.owners.all().into_iter().filter(|(_, owner)| self.books.here.contains(&owner.node));
        let owned: HashMap<Symbol, Epoch> = owned.map(|(symbol, owner)| (symbol, owner.epoch)).collect();
        let taken = owned.iter().filter(|(symbol, epoch)| self.mine.get(symbol) != Some(epoch));
        taken.filter_map(|(symbol, _)| gateway.mirrors().cell(symbol)).for_each(|cell| self.books.changed.note(&cell));
        self.mine = owned;
    }
}

fn depth(view: &DepthView) -> Depth {
    Depth { symbol: view.symbol, seq: view.seq, json: json(view) }
}

/// `{"symbol","asks":[{"price","qty"}],"bids":[..],"last_price","last_qty","seq"}`, best first; prices are exact, and null as long as
/// nothing traded.
fn json(view: &DepthView) -> String {
    // A symbol has no character that JSON would escape, and writing to memory cannot fail.
    let mut text = String::with_capacity(128 + 32 * (view.asks.len() + view.bids.len()));
    _ = write!(text, r#"{{"symbol":"{}","asks":"#, view.symbol);
    put_levels(&mut text, view.price_scale, &view.asks);
    text.push_str(r#","bids":"#);
    put_levels(&mut text, view.price_scale, &view.bids);
    match view.last_trade {
        Some((price, quantity)) => {
            let price = price.to_decimal(view.price_scale);
            _ = write!(text, r#","last_price":{price},"last_qty":{}"#, quantity.0);
        }
        None => text.push_str(r#","last_price":null,"last_qty":null"#),
    }
    _ = write!(text, r#","seq":{}}}"#, view.seq);
    text
}

fn put_levels(text: &mut String, scale: u8, levels: &[Level]) {
    for (i, level) in levels.iter().enumerate() {
        let begins = if i == 0 { "[" } else { "," };
        _ = write!(text, r#"{begins}{{"price":{},"qty":{}}}"#, level.price.to_decimal(scale), level.quantity);
    }
    text.push_str(if levels.is_empty() { "[]" } else { "]" });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::actors::mirror::{Changed, Mirror, Mirrors};
    use crate::actors::toy::Toy;
    use crate::domain::{Price, Quantity, Seq};

    fn level(price: u64, quantity: u64) -> Level {
        Level { price: Price(price), quantity, orders: 1 }
    }

    #[test]
    fn a_depth_is_written_exactly_and_ends_with_its_seq() {
        let symbol = Symbol::new("TSLA").unwrap();
        let view = DepthView {
            symbol,
            price_scale: 2,
            seq: Seq(17),
            bids: vec![level(25_000, 10), level(24_995, u64::MAX)],
            asks: vec![level(25_050, 8)],
            last_trade: Some((Price(25_005), Quantity(3))),
        };
        assert_eq!(
            json(&view),
            r#"{"symbol":"TSLA","asks":[{"price":250.50,"qty":8}],"bids":[{"price":250.00,"qty":10},{"price":249.95,"qty":18446744073709551615}],"last_price":250.05,"last_qty":3,"seq":17}"#
        );
        let empty = DepthView { bids: vec![], asks: vec![], last_trade: None, ..view };
        assert_eq!(json(&empty), r#"{"symbol":"TSLA","asks":[],"bids":[],"last_price":null,"last_qty":null,"seq":17}"#);
    }

    #[test]
    fn a_book_that_changes_is_noted_once_until_it_is_taken() {
        let (mirrors, changed) = (Mirrors::default(), Changed::default());
        let cells = ["A", "B", "C"].map(|name| mirrors.enter(Mirror::restored(Toy::listed(name).state())));
        let names = |cells: Vec<Arc<_>>| -> Vec<String> {
            cells.iter().map(|c: &Arc<crate::actors::mirror::Cell>| c.mirror.read().symbol().to_string()).collect()
        };
        for at in [0, 1, 0, 2, 1] {
            changed.note(&cells[at]);
        }
        assert_eq!(names(changed.take(2)), ["A", "B"]);
        changed.note(&cells[0]);
        assert_eq!(names(changed.take(9)), ["C", "A"]);
        assert!(changed.take(9).is_empty());
    }
}
