//! The keeper: a small process that holds reservations after `portlease reserve` has exited.
//!
//! The keeper itself makes the reservations, because the library cannot move a reservation to
//! another process. If the ports are reserved for a process, the keeper waits for that process to
//! end. On Linux the stdin of the keeper is a pidfd of that process, which `reserve` has opened. On
//! other systems, or if `reserve` cannot open a pidfd, the keeper opens its own handle.
//!
//! `reserve` and the keeper exchange three messages:
//! 1. `reserve` sends the request.
//! 2. The keeper sends the numbers, or an error.
//! 3. `reserve` confirms that it has printed the numbers. Without this message the keeper exits,
//!    because no process uses the numbers.

#[cfg(unix)]
pub(crate) mod address;
pub(crate) mod client;
pub(crate) mod hold;
pub(crate) mod holding;
pub(crate) mod link;
pub(crate) mod messages;
pub(crate) mod release;
pub(crate) mod releases;
pub(crate) mod start;
