//! The book: a pure machine.
