//! What crosses a process boundary in binary or JSON: order records, control records, events records.

pub mod events;
