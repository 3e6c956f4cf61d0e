//! What the crate reports about a port: whether it is free, who holds it, what was left behind, and
//! the words of the reports.

mod free;
pub(crate) mod leak;
#[cfg(target_os = "linux")]
pub(crate) mod many; // needs sockets in every state
#[cfg(target_os = "linux")]
mod name; // needs a process that renames itself by /proc
mod owner;
pub(crate) mod panic;
mod text;
