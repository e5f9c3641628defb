//! A growing array in pages. A frozen copy shares them, and a page that is shared is copied when it is first written to:
//! so a copy of a book costs microseconds whatever the book holds, and what it costs later comes in small pieces.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Elements per page.
const PAGE: usize = 512;

/// Grows as a plain vector does while it is the only one, so that a small book stays small.
#[derive(Debug, Clone)]
enum Page<T> {
    Own(Vec<T>),
    Shared(Arc<Vec<T>>),
}

/// The array; all pages but the last are full.
#[derive(Debug, Clone)]
pub(super) struct Pages<T> {
    pages: Vec<Page<T>>,
    len: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<T: Clone> Pages<T> {
    pub fn filled(with: T, len: usize) -> Self {
        let mut pages = Self::default();
        (0..len).for_each(|_| pages.push(with.clone()));
        pages
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn get(&self, at: usize) -> Option<&T> {
        match self.pages.get(at / PAGE)? {
            Page::Own(page) => page.get(at % PAGE),
            Page::Shared(page) => page.get(at % PAGE),
        }
    }

    pub fn push(&mut self, element: T) {
        if self.len.is_multiple_of(PAGE) {
            let capacity = if self.len == 0 { 0 } else { PAGE };
            self.pages.push(Page::Own(Vec::with_capacity(capacity)));
        }
        if let Some(page) = self.pages.last_mut() {
            page.own().push(element);
        }
        self.len += 1;
    }

    /// A copy that shares all pages.
    pub fn freeze(&mut self) -> Self {
        let pages = self.pages.iter_mut().map(|page| Page::Shared(page.share())).collect();
        Self { pages, len: self.len }
    }
}

impl<T: Clone> Page<T> {
    fn share(&mut self) -> Arc<Vec<T>> {
        let shared = match self {
            Self::Own(page) => Arc::new(std::mem::take(page)),
            Self::Shared(page) => return Arc::clone(page),
        };
        *self = Self::Shared(Arc::clone(&shared));
        shared
    }

    #[inline]
    fn own(&mut self) -> &mut Vec<T> {
        if let Self::Shared(_) = self {
            self.part();
        }
        match self {
            Self::Own(page) => page,
            Self::Shared(_) => unreachable!("it was parted just now"),
        }
    }

    /// Ends the sharing: by a copy, unless the others are gone.
    #[cold]
    #[inline(never)]
    fn part(&mut self) {
        if let Self::Shared(page) = std::mem::replace(self, Self::Own(Vec::new())) {
            *self = Self::Own(Arc::try_unwrap(page).unwrap_or_else(|page| page.to_vec()));
        }
    }
}

impl<T: Clone> Index<usize> for Pages<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: usize) -> &T {
        match &self.pages[at / PAGE] {
            Page::Own(page) => &page[at % PAGE],
            Page::Shared(page) => &page[at % PAGE],
        }
    }
}

impl<T: Clone> IndexMut<usize> for Pages<T> {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pages[at / PAGE].own()[at % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_copy_stays_as_it_was_and_the_original_goes_on() {
        let mut pages = Pages::default();
        let mut model: Vec<u64> = Vec::new();
        let mut frozen: Vec<(Pages<u64>, Vec<u64>)> = Vec::new();
        let mut x = 88_172_645_463_325_252_u64;
        for n in 0..20_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            match x % 8 {
                0..4 => {
                    pages.push(n);
                    model.push(n);
                }
                4 if n % 700 == 0 => frozen.push((pages.freeze(), model.clone())),
                // Some copies end before their pages are written to.
                5 if n % 1_500 == 0 => _ = frozen.pop(),
                _ if model.is_empty() => {}
                _ => {
                    let at = (x >> 8) as usize % model.len();
                    pages[at] = n;
                    model[at] = n;
                }
            }
        }
        frozen.push((pages.freeze(), model.clone()));
        frozen.push((pages, model));
        assert!(frozen.len() > 5);
        for (pages, model) in frozen {
            assert_eq!(pages.len(), model.len());
            assert!(model.iter().enumerate().all(|(at, n)| pages[at] == *n && pages.get(at) == Some(n)));
            assert_eq!(pages.get(model.len()), None);
        }
    }

    #[test]
    fn a_small_one_stays_small() {
        let mut pages = Pages::default();
        pages.push([0u8; 64]);
        let Page::Own(page) = &pages.pages[0] else { panic!("it is its own") };
        assert!(page.capacity() <= 8);
    }
}
