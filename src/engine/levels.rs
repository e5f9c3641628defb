//! Price levels of one side. Levels live in blocks of 16 neighbouring prices with a bitmap; blocks are found through a
//! window over block numbers that grows with need, and, far away from it, through an ordered map: nobody can make memory
//! grow by choosing far prices. The best level is known at all times.

use std::collections::BTreeMap;

use super::orders::NONE;
use crate::domain::Side;

/// Prices per block: 16 x 32 bytes, so one order far from all others costs half a KiB.
pub(super) const WIDTH: u64 = 16;
/// Block numbers that the window may span: 32,768 x 16 = 524,288 price steps, 128 KiB.
const WINDOW_MAX: u64 = 32_768;

/// A queue of orders at one price; never across two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Level {
    pub head: u32,
    pub tail: u32,
    pub orders: u32,
    pub total: u64,
}

const EMPTY: Level = Level { head: NONE, tail: NONE, orders: 0, total: 0 };

/// What is looked at without touching the levels; small, so that those of a whole book stay in the cache.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Of its prices: step / WIDTH.
    number: u64,
    /// Bit i: level i has orders.
    used: u16,
}

/// Block numbers `first ..` with the block of each, and a bitmap over them.
#[derive(Debug, Clone, Default)]
struct Window {
    first: u64,
    blocks: Vec<u32>,
    used: Vec<u64>,
    count: usize,
}

impl Window {
    #[inline]
    fn place(&self, number: u64) -> Option<usize> {
        let at = number.wrapping_sub(self.first);
        (at < self.blocks.len() as u64).then_some(at as usize)
    }

    fn set(&mut self, at: usize, block: u32) {
        self.blocks[at] = block;
        self.used[at / 64] |= 1 << (at % 64);
        self.count += 1;
    }

    fn clear(&mut self, at: usize) {
        self.blocks[at] = NONE;
        self.used[at / 64] &= !(1 << (at % 64));
        self.count -= 1;
    }

    /// First used place at or above `at`.
    fn at_or_above(&self, at: usize) -> Option<usize> {
        let (mut word, mask) = (at / 64, u64::MAX << (at % 64));
        let mut bits = self.used.get(word)? & mask;
        while bits == 0 {
            word += 1;
            bits = *self.used.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Last used place at or below `at`.
    fn at_or_below(&self, at: usize) -> Option<usize> {
        let at = at.min(self.blocks.len().checked_sub(1)?);
        let (mut word, mask) = (at / 64, u64::MAX >> (63 - at % 64));
        let mut bits = self.used[word] & mask;
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.used[word];
        }
        Some(word * 64 + 63 - bits.leading_zeros() as usize)
    }
}

/// All levels of one side.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    side: Side,
    blocks: Vec<Block>,
    /// The levels of each block.
    levels: Vec<[Level; WIDTH as usize]>,
    free: Vec<u32>,
    window: Window,
    far: BTreeMap<u64, u32>,
    /// Block with the best level, or NONE.
    best: u32,
    /// Price step of the best level; if there is none, one that no order reaches.
    top: u64,
}

fn nothing(side: Side) -> u64 {
    match side {
        Side::Buy => 0,
        Side::Sell => u64::MAX,
    }
}

/// A level: its block and its place in it.
pub(super) type At = (u32, u8);

impl Levels {
    pub fn new(side: Side) -> Self {
        let (blocks, levels, free, window, far) = Default::default();
        let top = nothing(side);
        Self { side, blocks, levels, free, window, far, best: NONE, top }
    }

    /// A copy that knows the prices of its levels, and nothing else.
    pub fn freeze(&self) -> Self {
        Self { blocks: self.blocks.clone(), ..Self::new(self.side) }
    }

    #[inline]
    pub fn level(&self, (block, place): At) -> &Level {
        &self.levels[block as usize][usize::from(place)]
    }

    #[inline]
    pub fn level_mut(&mut self, (block, place): At) -> &mut Level {
        &mut self.levels[block as usize][usize::from(place)]
    }

    /// The best level: highest bid, lowest ask.
    #[inline]
    pub fn best(&self) -> Option<At> {
        if self.best == NONE {
            return None;
        }
        Some((self.best, self.first_place(self.blocks[self.best as usize].used)))
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.best == NONE
    }

    /// Price step of the best level; 0 for no bids, `u64::MAX` for no asks.
    #[inline]
    pub fn top(&self) -> u64 {
        self.top
    }

    #[inline]
    fn first_place(&self, used: u16) -> u8 {
        match self.side {
            Side::Buy => 15 - used.leading_zeros() as u8,
            Side::Sell => used.trailing_zeros() as u8,
        }
    }

    /// The level behind this one in priority.
    pub fn after(&self, (block, place): At) -> Option<At> {
        let b = &self.blocks[block as usize];
        let behind = match self.side {
            Side::Buy => b.used & ((1 << place) - 1),
            Side::Sell => b.used & (u16::MAX << place) & !(1 << place),
        };
        if behind != 0 {
            return Some((block, self.first_place(behind)));
        }
        let next = self.block_behind(b.number);
        (next != NONE).then(|| (next, self.first_place(self.blocks[next as usize].used)))
    }

    #[inline]
    fn find(&self, number: u64) -> Option<u32> {
        match self.window.place(number) {
            Some(at) => Some(self.window.blocks[at]).filter(|b| *b != NONE),
            None if self.far.is_empty() => None,
            None => self.far.get(&number).copied(),
        }
    }

    /// Touches the memory of the level of price step `step` ahead of its use; gives its number for [`Self::tail_of`], or NONE.
    #[inline]
    pub fn announce(&self, step: u64) -> u32 {
        let Some(block) = self.find(step / WIDTH) else { return NONE };
        let place = (step % WIDTH) as u8;
        super::prefetch(self.blocks.get(block as usize));
        self.prefetch_at((block, place));
        block.wrapping_mul(WIDTH as u32) | u32::from(place)
    }

    /// Touches what tells the block of price step `step`.
    #[inline]
    pub fn prefetch_block(&self, step: u64) {
        super::prefetch(self.window.place(step / WIDTH).and_then(|at| self.window.blocks.get(at)));
    }

    /// Touches what tells the best level.
    #[inline]
    pub fn prefetch_best_block(&self) {
        super::prefetch(self.blocks.get(self.best as usize));
    }

    /// Touches the memory of the best level.
    #[inline]
    pub fn prefetch_best(&self) {
        if let Some(best) = self.best() {
            self.prefetch_at(best);
        }
    }

    /// Touches the memory of a level ahead of its use.
    #[inline]
    pub fn prefetch_at(&self, (block, place): At) {
        super::prefetch(self.levels.get(block as usize).and_then(|b| b.get(usize::from(place))));
    }

    /// The last order of the level with a number, or NONE; it may have become that of another price.
    #[inline]
    pub fn tail_of(&self, number: u32) -> u32 {
        let block = self.levels.get((number / WIDTH as u32) as usize);
        block.map_or(NONE, |levels| levels[(number % WIDTH as u32) as usize].tail)
    }

    /// The level of price step `step`, its block made if need be. The caller puts an order in.
    #[inline]
    pub fn open(&mut self, step: u64) -> (At, &mut Level) {
        let number = step / WIDTH;
        let block = match self.find(number) {
            Some(block) => block,
            None => self.make(number),
        };
        let place = (step % WIDTH) as u8;
        self.blocks[block as usize].used |= 1 << place;
        if self.is_better(step, self.top) {
            self.top = step;
        }
        ((block, place), &mut self.levels[block as usize][usize::from(place)])
    }

    /// Marks a level as empty after its last order left.
    #[inline]
    pub fn close(&mut self, (block, place): At) {
        self.levels[block as usize][usize::from(place)] = EMPTY;
        let b = &mut self.blocks[block as usize];
        b.used &= !(1 << place);
        let step = b.number * WIDTH + u64::from(place);
        if b.used == 0 {
            self.unmake(block);
        }
        if step == self.top {
            self.top = self.best().map_or(nothing(self.side), |at| self.step_of(at));
        }
    }

    #[cold]
    #[inline(never)]
    fn make(&mut self, number: u64) -> u32 {
        let block = match self.free.pop() {
            Some(block) => {
                self.blocks[block as usize].number = number;
                block
            }
            None => {
                self.blocks.push(Block { number, used: 0 });
                self.levels.push([EMPTY; WIDTH as usize]);
                (self.blocks.len() - 1) as u32
            }
        };
        self.cover(number);
        match self.window.place(number) {
            Some(at) => self.window.set(at, block),
            None => _ = self.far.insert(number, block),
        }
        if self.best == NONE || self.is_better(number, self.blocks[self.best as usize].number) {
            self.best = block;
        }
        block
    }

    fn unmake(&mut self, block: u32) {
        let number = self.blocks[block as usize].number;
        match self.window.place(number) {
            Some(at) => self.window.clear(at),
            None => _ = self.far.remove(&number),
        }
        self.free.push(block);
        if block == self.best {
            self.best = self.block_behind(number);
        }
    }

    #[inline]
    fn is_better(&self, number: u64, than: u64) -> bool {
        match self.side {
            Side::Buy => number > than,
            Side::Sell => number < than,
        }
    }

    /// The next block behind a block number in priority, or NONE.
    fn block_behind(&self, number: u64) -> u32 {
        let in_window = self.window_behind(number).map(|at| self.window.first + at as u64);
        let far = match self.side {
            Side::Buy => self.far.range(..number).next_back().map(|(n, _)| *n),
            Side::Sell => self.far.range(number + 1..).next().map(|(n, _)| *n),
        };
        let next = match (in_window, far) {
            (Some(a), Some(b)) => Some(if self.is_better(a, b) { a } else { b }),
            (a, b) => a.or(b),
        };
        next.and_then(|n| self.find(n)).unwrap_or(NONE)
    }

    fn window_behind(&self, number: u64) -> Option<usize> {
        let (first, length) = (self.window.first, self.window.blocks.len() as u64);
        match self.side {
            Side::Buy => {
                let below = number.checked_sub(1)?;
                if below < first {
                    return None;
                }
                self.window.at_or_below((below - first).min(length) as usize)
            }
            Side::Sell => {
                let above = (number + 1).saturating_sub(first);
                if above >= length {
                    return None;
                }
                self.window.at_or_above(above as usize)
            }
        }
    }

    /// Grows the window over `number` if it may; moves it there if it is empty.
    fn cover(&mut self, number: u64) {
        if self.window.place(number).is_some() {
            return;
        }
        let (mut low, mut high) = (number, number + 1);
        if self.window.count > 0 {
            low = low.min(self.window.first);
            high = high.max(self.window.first + self.window.blocks.len() as u64);
            if high - low > WINDOW_MAX {
                return;
            }
        }
        // Twice the need, half of the slack on either side, so that growing is rare.
        let span = ((high - low) * 2).next_power_of_two().clamp(8, WINDOW_MAX);
        let first = low.saturating_sub((span - (high - low)) / 2);
        let (blocks, used) = (vec![NONE; span as usize], vec![0; (span as usize).div_ceil(64)]);
        let old = std::mem::replace(&mut self.window, Window { first, blocks, used, count: 0 });
        for block in old.blocks.into_iter().filter(|b| *b != NONE) {
            let at = self.window.place(self.blocks[block as usize].number);
            self.window.set(at.unwrap_or_else(|| unreachable!("the new window covers the old")), block);
        }
        let near: Vec<u64> = self.far.range(first..first + span).map(|(n, _)| *n).collect();
        for n in near {
            if let (Some(block), Some(at)) = (self.far.remove(&n), self.window.place(n)) {
                self.window.set(at, block);
            }
        }
    }

    /// Number of the price step of a level.
    #[inline]
    pub fn step_of(&self, (block, place): At) -> u64 {
        self.blocks[block as usize].number * WIDTH + u64::from(place)
    }
}
