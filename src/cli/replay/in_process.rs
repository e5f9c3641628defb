//! The same commands straight into the engine.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context as _;

use super::summary::{BookEnd, Summary};
use super::{Plan, Step};
use crate::cli::progress;
use crate::domain::command::Listing;
use crate::domain::{
    Authority, Command, Epoch, Input, Instrument, Machine, Micros, NodeId, Offset, Origin, Outbox, Output, OutputBody,
    Seqs, Side, Symbol,
};
use crate::engine::Book;

struct Desk {
    book: Book,
    out: Outbox,
}

fn list(instrument: &Instrument) -> anyhow::Result<Desk> {
    let listing = Listing { instrument: instrument.clone(), owner: NodeId::new("n1")?, id_key: 1, rules_version: 1 };
    let authority = Authority { nonce: 0, valid_until: Micros(0) };
    let command = Command::List { listing: Box::new(listing), authority };
    let mut out = Outbox::new(Seqs::default(), Epoch(0));
    let input = Input { offset: Offset(0), at: Micros(0), origin: Origin::NONE, command };
    let book = Book::birth(&input, &mut out).context("instrument is not usable")?;
    out.clear();
    Ok(Desk { book, out })
}

/// Applies all steps.
pub fn run(plan: &Plan) -> anyhow::Result<Summary> {
    let mut desks: HashMap<Symbol, Desk> = HashMap::new();
    for (symbol, instrument) in &plan.listings {
        desks.insert(*symbol, list(instrument)?);
    }
    let (mut summary, started) = (Summary::of(plan), Instant::now());
    let bar = progress(summary.commands, "commands applied");
    for (n, step) in (1..).zip(&plan.steps) {
        let desk = desks.get_mut(&step.symbol).context("symbol is not listed")?;
        let input = Input { offset: Offset(n), at: Micros(n), origin: Origin::NONE, command: step.command.clone() };
        desk.book.apply(&input, &mut desk.out);
        take(&mut summary, step, desk)?;
        if n % 1_024 == 0 {
            bar.set_position(n);
        }
    }
    bar.finish_and_clear();
    summary.seconds = started.elapsed().as_secs_f64();
    for (symbol, _) in &plan.listings {
        summary.books.push(end_of(symbol, &desks[symbol].book));
    }
    Ok(summary)
}

fn take(summary: &mut Summary, step: &Step, desk: &mut Desk) -> anyhow::Result<()> {
    let mut makers = Vec::new();
    for output in Output::decode_all(desk.out.bytes()) {
        let output = output?;
        summary.answered += u64::from(output.answer);
        match output.body {
            OutputBody::Trade(t) => {
                summary.fills += 1;
                summary.filled_quantity += t.quantity.0;
                makers.push(t.maker.order_id);
            }
            OutputBody::Refused { reason, .. } => *summary.refused.entry(reason.code().into()).or_default() += 1,
            _ => {}
        }
    }
    desk.out.clear();
    summary.compare(step, &makers);
    Ok(())
}

fn end_of(symbol: &Symbol, book: &Book) -> BookEnd {
    let scale = book.instrument().price_scale;
    let best = |side| book.depth(side, 1).first().map(|l| (l.price.to_decimal(scale), l.quantity));
    BookEnd {
        symbol: symbol.to_string(),
        orders: book.resting_orders() as u64,
        book_digest: book.book_digest().to_string(),
        best_bid: best(Side::Buy),
        best_ask: best(Side::Sell),
    }
}
