//! Actors: thin shells that decode, step the pure state machines, and carry out their effects.

pub mod directory;
