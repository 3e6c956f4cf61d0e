//! The keeper: a small process that holds reservations after `portlease reserve` has gone.
//!
//! It reserves by itself, for neither a claim nor a lock can be handed to another process. Its stdin is the pidfd of
//! the process that it holds for, its stdout a socket to `reserve`: a request comes in, the numbers go out, and once
//! they have been printed, word of that comes in. Without that word nobody knows the numbers, and the keeper ends.

pub(crate) mod hold;
pub(crate) mod messages;
pub(crate) mod release;
pub(crate) mod start;
