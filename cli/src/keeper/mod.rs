//! The keeper: a small process that holds reservations after `portlease reserve` has exited.
//!
//! The keeper itself makes the reservations, because the library cannot move a reservation to
//! another process. Its stdin is the pidfd of the process that the ports are reserved for, or
//! `/dev/null` if they are reserved only for a time. Its stdout is a socket to `reserve`, which
//! carries three messages:
//!
//! 1. `reserve` sends the request.
//! 2. The keeper sends the numbers, or an error.
//! 3. `reserve` confirms that it has printed the numbers. Without this message the keeper exits,
//!    because no process uses the numbers.

pub(crate) mod hold;
pub(crate) mod messages;
pub(crate) mod release;
pub(crate) mod start;
