//! The keeper: a small process that holds reservations after `portlease reserve` has exited.
//!
//! The keeper itself makes the reservations, because the library cannot move a reservation to
//! another process. On Linux its stdin is the pidfd of the process that the ports are reserved for,
//! or `/dev/null` if they are reserved only for a time or if the kernel has no pidfds. Elsewhere,
//! and without a pidfd, it opens its own handle of that process. `reserve` and the keeper exchange
//! three messages:
//!
//! 1. `reserve` sends the request.
//! 2. The keeper sends the numbers, or an error.
//! 3. `reserve` confirms that it has printed the numbers. Without this message the keeper exits,
//!    because no process uses the numbers.

#[cfg(unix)]
pub(crate) mod address;
pub(crate) mod hold;
pub(crate) mod holding;
pub(crate) mod link;
pub(crate) mod messages;
pub(crate) mod release;
pub(crate) mod releases;
pub(crate) mod start;
