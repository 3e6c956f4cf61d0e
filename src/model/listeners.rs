//! [`Listeners`]: every TCP socket that listens.

use std::ops::Deref;
use std::vec;

use super::holder::Holder;
use super::incompleteness::{Incompleteness, sorted};

/// Every TCP socket that listens, with its processes: the result of
/// [`listeners`](crate::listeners). The value dereferences to a slice of the sockets.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let listeners = portlease::listeners()?;
/// assert!(listeners.iter().any(|socket| socket.local == p.addr()));
/// for reason in listeners.unseen() {
///     println!("not seen: {reason}"); // some processes could not be read: …
/// }
/// # drop(server);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Listeners {
    holders: Vec<Holder>,
    unseen: Vec<Incompleteness>,
}

impl Listeners {
    /// Sorts the sockets by port and address.
    pub(crate) fn new(mut holders: Vec<Holder>, unseen: Vec<Incompleteness>) -> Self {
        holders.sort_by_key(|holder| (holder.local.port(), holder.local));
        Listeners {
            holders,
            unseen: sorted(unseen),
        }
    }

    /// Returns `true` if every listener and its processes could be read. For one port, call
    /// [`Holders::is_complete`](crate::Holders::is_complete).
    pub fn is_complete(&self) -> bool {
        self.unseen.is_empty() && self.holders.iter().all(|holder| !holder.hidden)
    }

    /// What could not be read, one sentence for each reason. For one port, call
    /// [`Holders::unseen`](crate::Holders::unseen).
    pub fn unseen(&self) -> Vec<String> {
        self.unseen.iter().map(ToString::to_string).collect()
    }
}

impl Deref for Listeners {
    type Target = [Holder];

    fn deref(&self) -> &[Holder] {
        &self.holders
    }
}

impl IntoIterator for Listeners {
    type Item = Holder;
    type IntoIter = vec::IntoIter<Holder>;

    fn into_iter(self) -> Self::IntoIter {
        self.holders.into_iter()
    }
}
