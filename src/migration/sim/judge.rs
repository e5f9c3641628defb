//! Judges a run: a plain replay of `orders`, and what a reader of `events` heard.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::counts::Happened;
use super::mutation::Mutation;
use super::reader::Reader;
use super::world::World;
use crate::domain::outbox::Header;
use crate::domain::{Command, Epoch, Machine, Outbox, Output, Seqs};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;
use crate::wire;

impl World {
    pub(super) fn judge(&mut self) {
        for symbol in 0..self.symbols.len() {
            let expected = self.plain_replay(symbol);
            self.compare_events(symbol, &expected);
            self.check_positions(symbol);
        }
    }

    /// The outputs that the log of a symbol gives: no replica, no node, no move.
    fn plain_replay(&self, symbol: usize) -> Vec<Bytes> {
        let mut outbox = Outbox::new(Seqs::default(), Epoch(0));
        let mut book: Option<Book> = None;
        let mut nonces = std::collections::BTreeSet::new();
        for order in self.log.orders(self.symbols[symbol].partition).iter().filter(|o| o.symbol == symbol) {
            let input = &order.input;
            if input.command.authority().is_some_and(|a| input.at > a.valid_until || !nonces.insert(a.nonce)) {
                continue;
            }
            match (&mut book, &input.command) {
                (None, _) => book = Book::birth(input, &mut outbox),
                (Some(_), Command::Fence { fence, .. }) => {
                    if fence.epoch == outbox.epoch().next() {
                        outbox.set_epoch(fence.epoch);
                    }
                }
                (Some(book), _) => book.apply(input, &mut outbox),
            }
        }
        let all = Bytes::from(outbox.take());
        let (mut outputs, mut at) = (Vec::new(), 0);
        while let Ok(head) = Header::read(&all[at..]) {
            outputs.push(all.slice(at..at + head.length));
            at += head.length;
        }
        outputs
    }

    fn compare_events(&mut self, symbol: usize, expected: &[Bytes]) {
        let (name, mut repeats) = (self.symbol(symbol), 0);
        let mut heard: Vec<Bytes> = Vec::new();
        let mut answers: BTreeMap<u64, u32> = BTreeMap::new();
        let mut newest = Epoch(0);
        let mut wrong = None;
        'events: for said in self.log.events(self.symbols[symbol].partition).iter().filter(|e| e.symbol == symbol) {
            let Ok(record) = wire::events::decode(&said.record.value) else { continue };
            let mut at = 0;
            while let Ok(head) = Header::read(&record.outputs[at..]) {
                let bytes = record.outputs.slice(at..at + head.length);
                at += head.length;
                let Ok((output, _)) = Output::decode(&bytes) else { continue };
                if self.mutation == Some(Mutation::ConsumerDropsOlderEpochs) && output.epoch < newest {
                    continue;
                }
                newest = newest.max(output.epoch);
                let n = output.seq.0 as usize;
                if n <= heard.len() {
                    repeats += 1;
                    if heard[n - 1] != bytes {
                        wrong = Some(format!("seq {n} was said twice, with other bytes"));
                        break 'events;
                    }
                    continue;
                }
                if n != heard.len() + 1 {
                    wrong = Some(format!("seq {n} follows {} in events at {}", heard.len(), said.record.offset));
                    break 'events;
                }
                if expected.get(n - 1) != Some(&bytes) {
                    wrong = Some(format!("seq {n} is not what a plain replay says"));
                    break 'events;
                }
                *answers.entry(output.offset.0).or_default() += u32::from(output.answer);
                heard.push(bytes);
            }
        }
        if wrong.is_none() && heard.len() != expected.len() {
            wrong = Some(format!("{} outputs are in events, a plain replay says {}", heard.len(), expected.len()));
        }
        if wrong.is_none()
            && let Some((offset, n)) = answers.iter().find(|(_, n)| **n != 1)
        {
            wrong = Some(format!("record {offset} was answered {n} times"));
        }
        self.counts.add(Happened::Outputs, heard.len() as u64);
        self.counts.add(Happened::Repeats, repeats);
        if let Some(what) = wrong {
            self.violate(format!("{name}: {what}"));
        }
    }

    /// Rule 10: who starts at a snapshot's position hears all that follows it.
    pub(super) fn check_positions(&mut self, symbol: usize) {
        let partition = self.symbols[symbol].partition;
        let mut wrong = Vec::new();
        for file in self.store.files(symbol).iter().filter(|f| f.is_whole) {
            let Ok(snapshot) = Snapshot::<Book>::decode(&file.bytes) else {
                wrong.push(format!("snapshot at {} cannot be read", file.key.0));
                continue;
            };
            let mut reader = Reader::behind(snapshot.seqs.last, snapshot.events_position);
            let events = self.log.events(partition);
            if let Err(what) = reader.read_on(events, symbol, events.len()) {
                wrong.push(format!("a reader from the snapshot at {} {what}", file.key.0));
            }
        }
        let name = self.symbol(symbol);
        for what in wrong {
            self.violate(format!("{name}: {what}"));
        }
    }
}
