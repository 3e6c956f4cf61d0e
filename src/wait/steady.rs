//! [`wait_until_all_listening`]: waits until servers listen, and keep listening.

use std::time::{Duration, Instant};

use super::poll::{Deadline, Poll, Unmet, WaitError, block_on};
use crate::inspect::listening::{Listeners, Snapshot};
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::Result;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::model::to_endpoint::{ToEndpoint, listening_ports_of};
use crate::retry::{FREE_PAUSE, LISTENING_PAUSES};

/// Waits until something listens on every port, and all ports keep listening for `steady` without a
/// break. Some servers, such as databases in containers, listen while they initialize. They then
/// close the socket, and listen again when they are ready.
///
/// A port keeps listening if one of its listeners stays open for the whole time. If a server closes
/// the only listener and opens a new one, the time `steady` starts again. [`wait_until_listening`]
/// returns as soon as it finds a listener. Without ports the call returns at once.
///
/// ```
/// use std::time::Duration;
///
/// let [db, cache] = portlease::reserve_ports();
/// let servers = (db.listen()?, cache.listen()?);
/// let (steady, at_most) = (Duration::from_millis(50), Duration::from_secs(10));
/// portlease::wait_until_all_listening([&db, &cache], steady, at_most)?;
/// # drop(servers);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The errors of [`wait_until_listening`]. The diagnosis of a
/// [`TimedOut`](crate::ErrorKind::TimedOut) error says that nothing has listened, or that no
/// listener stayed open. If no listener stayed open, the diagnosis names the last visible process
/// that listened. If `at_most` is shorter than `steady`, the wait usually times out.
///
/// # Platform-specific behavior
///
/// On systems without a socket table, each poll tries to connect to each port, and misses a break
/// between two polls (about 20 ms). On Windows, the wait misses a break between two polls only if
/// the same process opens the same address again.
///
/// [`wait_until_listening`]: crate::wait_until_listening
pub fn wait_until_all_listening<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
    steady: Duration,
    at_most: Duration,
) -> Result<()> {
    let mut all = Vec::new();
    for port in ports {
        all.extend(listening_ports_of(&port)?);
    }
    if all.is_empty() {
        return Ok(());
    }
    let mut wait = Steady {
        seen: vec![Seen::default(); all.len()],
        ports: all,
        steady,
        deadline: Deadline::new(at_most),
        since: None,
        broken: 0,
    };
    block_on(|| wait.poll())
}

/// A wait until all ports listen and keep listening.
#[derive(Debug)]
struct Steady {
    ports: Vec<Port>,
    steady: Duration,
    deadline: Deadline,
    /// The time of the poll that began the current period. Since that poll, every port has had a
    /// listener that stayed open. `None` if a port had no listener at the last poll.
    since: Option<Instant>,
    seen: Vec<Seen>,
    /// The index of the port that last interrupted the wait, because none of its listeners had
    /// stayed open. If every port has a listener when the time is up, the error is about this port.
    broken: usize,
}

/// What the wait has seen on one port.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The listeners that have been open since the current period began (`Steady::since`).
    open: Listeners,
    /// Whether the port has had a listener since the wait began.
    has_listened: bool,
    /// The latest listener with a visible owner or, if no owner was visible, the first listener.
    last: Option<Holder>,
}

impl Steady {
    fn poll(&mut self) -> Poll {
        let polled = Instant::now();
        let snapshot = match Snapshot::read(&self.ports) {
            Ok(snapshot) => snapshot,
            Err((port, cause)) => return Poll::Failed(WaitError::System(port, cause)),
        };
        let found: Vec<Listeners> = self
            .ports
            .iter()
            .map(|port| snapshot.listeners_of(*port))
            .collect();
        let silent = found.iter().position(Vec::is_empty);
        let mut opened = Vec::new();
        let mut has_break = false;
        for (index, (seen, found)) in self.seen.iter_mut().zip(&found).enumerate() {
            seen.open.retain(|listener| found.contains(listener));
            if seen.open.is_empty() {
                has_break = true;
                self.broken = index;
                opened.extend((!found.is_empty()).then_some(index));
            }
        }
        if has_break {
            for (seen, found) in self.seen.iter_mut().zip(found) {
                seen.open = found;
            }
        }
        if silent.is_some() {
            self.since = None;
        } else if has_break || self.since.is_none() {
            self.since = Some(polled);
        }
        let is_steady = |since| polled.saturating_duration_since(since) >= self.steady;
        if self.since.is_some_and(is_steady) {
            return Poll::Met;
        }
        self.note_owners(&snapshot, &opened);
        let [.., short] = LISTENING_PAUSES;
        match silent {
            Some(index) => self.not_yet(index, short),
            None => self.not_yet(self.broken, FREE_PAUSE),
        }
    }

    /// Notes which processes own the listeners of the ports in `opened`. If a listener is closed
    /// later, a report can still name its owner.
    fn note_owners(&mut self, snapshot: &Snapshot, opened: &[usize]) {
        if opened.is_empty() {
            return;
        }
        let ports: Vec<Port> = opened.iter().map(|index| self.ports[*index]).collect();
        for (index, owned) in opened.iter().zip(snapshot.owned_listeners(&ports)) {
            let seen = &mut self.seen[*index];
            seen.has_listened = true;
            let is_known = owned.as_ref().is_some_and(|of| !of.processes.is_empty());
            if is_known || seen.last.is_none() {
                seen.last = owned;
            }
        }
    }

    fn not_yet(&self, index: usize, pause: Duration) -> Poll {
        if let Some(left) = self.deadline.left() {
            return Poll::Pause(pause.min(left));
        }
        let seen = &self.seen[index];
        let verdict = if seen.has_listened {
            Verdict::Unsteady(self.steady)
        } else {
            Verdict::NotListening
        };
        let unmet = Unmet {
            port: self.ports[index],
            verdict,
            expected: None,
            asked: self.ports.clone(),
            last_listener: seen.last.clone().map(Box::new),
        };
        Poll::Failed(WaitError::TimedOut(self.deadline.at_most, unmet))
    }
}
