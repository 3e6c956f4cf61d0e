//! The keeper: a small process that holds reservations after `portlease reserve` has exited.
//!
//! The keeper reserves by itself, because neither a claim nor a file lock can move to another
//! process. Its stdin is the pidfd of the process that it holds the ports for. Its stdout is a
//! socket to `reserve`, which carries three messages:
//!
//! 1. `reserve` sends the request.
//! 2. The keeper sends the numbers, or an error.
//! 3. `reserve` confirms that it has printed the numbers. Without this message the keeper exits,
//!    because nothing knows the numbers.

pub(crate) mod hold;
pub(crate) mod messages;
pub(crate) mod release;
pub(crate) mod start;
