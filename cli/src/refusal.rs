//! [`Refusal`]: a listener whose process `stop` does not signal.

use portlease::{Holder, Process, Protocol, Remedy};

use crate::text;

/// A listener whose process `stop` does not signal.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// `None` if no process of the listener is visible.
    pub(crate) process: Option<Process>,
    /// The address of the listener, with the protocol if it is not TCP.
    pub(crate) listens: String,
    pub(crate) cause: String,
    /// What to do instead of a signal.
    pub(crate) remedies: Vec<Remedy>,
    /// What to do if there are no remedies.
    pub(crate) help: Option<String>,
}

/// The address of the listener, with the protocol if it is not TCP.
pub(crate) fn address(holder: &Holder) -> String {
    let local = text::address(holder.local);
    match holder.protocol {
        Protocol::Tcp => local,
        other => format!("{local}/{other}"),
    }
}
