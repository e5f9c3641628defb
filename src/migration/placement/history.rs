//! The last windows of one node and of its books: a signal counts only when it stays.

use std::collections::{BTreeMap, VecDeque};

use super::{Band, BookView, NodeView, Settings};
use crate::domain::{Micros, Symbol};

#[derive(Debug, Clone, Copy)]
struct Sample {
    load: f64,
    /// Without what was spent on catching up: a book that has just come, or was kept short, works through what it is
    /// behind with all the CPU time there is, and that passes.
    steady: f64,
    /// Some book's batches waited too long, and it does not catch up.
    is_late: bool,
}

#[derive(Debug, Clone, Copy)]
struct BookSample {
    at: Micros,
    busy: f64,
    rate: f64,
    lag: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct History {
    seen_at: Option<Micros>,
    samples: VecDeque<Sample>,
    books: BTreeMap<Symbol, VecDeque<BookSample>>,
    /// How far each was behind, and when.
    behind: BTreeMap<Symbol, (Micros, u64)>,
    /// It was above the band's edge and has not left the band yet.
    is_hot: bool,
}

fn push<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    queue.push_back(item);
    while queue.len() > max {
        queue.pop_front();
    }
}

impl History {
    pub fn observe(&mut self, node: &NodeView, settings: &Settings) {
        if self.seen_at.is_some_and(|seen| node.measured_at <= seen) {
            return;
        }
        self.seen_at = Some(node.measured_at);
        let sample = self.sample(node, settings);
        push(&mut self.samples, sample, settings.windows.max(settings.idle_windows));
        self.behind = node.books.iter().map(|b| (b.symbol, (node.measured_at, b.lag))).collect();
        self.books.retain(|symbol, _| node.books.iter().any(|b| b.symbol == *symbol));
        for b in &node.books {
            let sample = BookSample { at: node.measured_at, busy: b.busy, rate: b.rate, lag: b.lag };
            push(self.books.entry(b.symbol).or_default(), sample, settings.windows);
        }
        if self.count(settings, |s| s.steady > settings.move_above || s.is_late) >= settings.windows_needed {
            self.is_hot = true;
        } else if self.count(settings, |s| s.steady < settings.leave_below && !s.is_late) >= settings.windows_needed {
            self.is_hot = false;
        }
    }

    fn sample(&self, node: &NodeView, settings: &Settings) -> Sample {
        // Records per second by which a book catches up.
        let gains = |b: &BookView| {
            let (at, lag) = self.behind.get(&b.symbol).copied().unwrap_or((node.measured_at, b.lag));
            let seconds = node.measured_at.0.saturating_sub(at.0) as f64 / 1e6;
            if seconds > 0.0 { lag.saturating_sub(b.lag) as f64 / seconds } else { 0.0 }
        };
        let passing = |b: &BookView| if b.rate > 0.0 { b.busy * (gains(b) / b.rate).min(1.0) } else { 0.0 };
        let steady = node.load - node.books.iter().map(passing).sum::<f64>() / node.cores;
        let waits = |b: &BookView| b.waiting_us >= settings.late_us && gains(b) <= 0.0;
        Sample { load: node.load, steady, is_late: steady >= settings.watch && node.books.iter().any(waits) }
    }

    /// What was measured so far says nothing any more; that it is hot stays true until it is seen to be out of the band.
    pub fn forget(&mut self) {
        self.samples.clear();
        self.books.clear();
    }

    fn last(&self, windows: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().skip(self.samples.len().saturating_sub(windows))
    }

    fn count(&self, settings: &Settings, is_so: impl Fn(&Sample) -> bool) -> usize {
        self.last(settings.windows).filter(|s| is_so(s)).count()
    }

    /// Whether enough was seen since its last move to know what it can take.
    pub fn is_settled(&self, settings: &Settings) -> bool {
        self.samples.len() >= settings.windows_needed
    }

    /// Whether enough was seen to act on, and a hot node is still in its band often enough.
    pub fn can_judge(&self, settings: &Settings) -> bool {
        self.count(settings, |s| s.steady >= settings.leave_below || s.is_late) >= settings.windows_needed
    }

    pub fn band(&self, settings: &Settings) -> Band {
        let often = |edge: f64| self.count(settings, |s| s.steady >= edge) >= settings.windows_needed;
        match () {
            () if self.is_hot => Band::Move,
            () if often(settings.prepare) => Band::Prepare,
            () if often(settings.watch) => Band::Watch,
            () => Band::Normal,
        }
    }

    pub fn is_idle(&self, settings: &Settings) -> bool {
        self.samples.len() >= settings.idle_windows
            && self.last(settings.idle_windows).all(|s| s.load < settings.idle_below)
    }

    pub fn is_late(&self, settings: &Settings) -> bool {
        self.count(settings, |s| s.is_late) >= settings.windows_needed
    }

    /// `now`: what it is if no window is remembered.
    pub fn mean_load(&self, settings: &Settings, now: f64) -> f64 {
        let last: Vec<f64> = self.last(settings.windows).map(|s| s.load).collect();
        if last.is_empty() { now } else { last.iter().sum::<f64>() / last.len() as f64 }
    }

    /// The highest of its last windows: a target is judged by its worst.
    pub fn peak_load(&self, settings: &Settings, now: f64) -> f64 {
        self.last(settings.windows).map(|s| s.load).fold(now, f64::max)
    }

    /// What a book costs on average.
    pub fn mean_busy(&self, book: &BookView) -> f64 {
        let samples = self.books.get(&book.symbol).filter(|s| !s.is_empty());
        samples.map_or(book.busy, |s| s.iter().map(|b| b.busy).sum::<f64>() / s.len() as f64)
    }

    /// What a book would cost where nothing holds it back: its highest window, and more if it falls behind.
    pub fn demand(&self, book: &BookView) -> f64 {
        let Some(samples) = self.books.get(&book.symbol) else { return book.busy };
        let peak = samples.iter().map(|b| b.busy).fold(book.busy, f64::max);
        let (Some(first), Some(last)) = (samples.front(), samples.back()) else { return peak };
        let seconds = last.at.0.saturating_sub(first.at.0) as f64 / 1e6;
        let rate = samples.iter().map(|b| b.rate).sum::<f64>() / samples.len() as f64;
        if seconds <= 0.0 || rate <= 0.0 {
            return peak;
        }
        let falls_behind = last.lag.saturating_sub(first.lag) as f64 / seconds;
        peak * (1.0 + falls_behind / rate).min(DEMAND_FACTOR_MAX)
    }
}

/// A book that falls behind faster than this is not believed: its lag has another cause than its node's load.
const DEMAND_FACTOR_MAX: f64 = 3.0;
