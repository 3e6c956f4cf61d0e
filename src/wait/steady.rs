//! [`wait_until_all_listening`]: waits until servers listen, and keep listening.

use std::io;
use std::time::{Duration, Instant};

use super::poll::{Deadline, Poll, Unmet, WaitError, block_on};
use crate::inspect::listening::{Listeners, Snapshot};
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::Result;
use crate::model::port::Port;
use crate::model::to_endpoint::{ToEndpoint, ports_of};
use crate::retry::{FREE_PAUSE, LISTENING_PAUSES};

/// Waits until something listens on every port, and all keep listening for `steady` without a
/// break. Some servers listen while they initialize, close the socket, and listen again when they
/// are ready: the container images of databases do.
///
/// A port keeps listening while one of its listeners stays open. If a server closes its socket and
/// opens a new one, the time `steady` starts again. [`wait_until_listening`] returns at the first
/// listener.
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
/// The errors of [`wait_until_listening`]. The wait always returns
/// [`TimedOut`](crate::ErrorKind::TimedOut) if `at_most` is shorter than `steady`. The diagnosis
/// says whether nothing listens, or whether no listener stayed open.
///
/// # Platform-specific behavior
///
/// On systems without a socket table each poll tries one TCP connection. A break that is shorter
/// than the time between two polls, about 20 ms, is not noticed there.
///
/// [`wait_until_listening`]: crate::wait_until_listening
pub fn wait_until_all_listening<P: ToEndpoint>(
    ports: impl IntoIterator<Item = P>,
    steady: Duration,
    at_most: Duration,
) -> Result<()> {
    let mut all = Vec::new();
    for port in ports {
        all.extend(ports_of(&port)?);
    }
    let mut wait = Steady {
        ports: all,
        steady,
        deadline: Deadline::new(at_most),
        since: None,
    };
    block_on(|| wait.poll())
}

/// A wait until all ports listen and keep listening.
#[derive(Debug)]
struct Steady {
    ports: Vec<Port>,
    steady: Duration,
    deadline: Deadline,
    /// The current period in which every port has had a listener without a break: the time of its
    /// first poll, and for each port the listeners that have been open since that poll.
    since: Option<(Instant, Vec<Listeners>)>,
}

/// The first port that has no listener, or whose listeners cannot be read.
enum Gap {
    Silent(Port),
    Unreadable(Port, io::Error),
}

impl Steady {
    fn poll(&mut self) -> Poll {
        let polled = Instant::now();
        let found = match self.read() {
            Ok(found) => found,
            Err(Gap::Unreadable(port, cause)) => {
                return Poll::Failed(WaitError::System(port, cause));
            }
            Err(Gap::Silent(port)) => {
                self.since = None;
                let [.., pause] = LISTENING_PAUSES;
                return self.not_yet(port, Verdict::NotListening, pause);
            }
        };
        let broken = match &mut self.since {
            Some((_, open)) => {
                let pairs = open.iter_mut().zip(&found);
                for (open, found) in pairs {
                    open.retain(|listener| found.contains(listener));
                }
                open.iter().position(Vec::is_empty)
            }
            None => Some(0),
        };
        if broken.is_some() {
            self.since = Some((polled, found));
        }
        let is_steady =
            |(since, _): &(Instant, _)| polled.saturating_duration_since(*since) >= self.steady;
        if self.since.as_ref().is_some_and(is_steady) {
            return Poll::Met;
        }
        match self.ports.get(broken.unwrap_or_default()) {
            Some(&port) => self.not_yet(port, Verdict::Unsteady(self.steady), FREE_PAUSE),
            None => Poll::Met,
        }
    }

    /// The listeners of each port, if every port has one.
    fn read(&self) -> Result<Vec<Listeners>, Gap> {
        let snapshot = Snapshot::read(&self.ports);
        let snapshot = snapshot.map_err(|(port, cause)| Gap::Unreadable(port, cause))?;
        let listeners = |port: &Port| match snapshot.listeners_of(*port) {
            listeners if listeners.is_empty() => Err(Gap::Silent(*port)),
            listeners => Ok(listeners),
        };
        self.ports.iter().map(listeners).collect()
    }

    fn not_yet(&self, port: Port, verdict: Verdict, pause: Duration) -> Poll {
        match self.deadline.left() {
            Some(left) => Poll::Pause(pause.min(left)),
            None => Poll::Failed(WaitError::TimedOut(
                self.deadline.at_most,
                Unmet {
                    port,
                    verdict,
                    expected: None,
                    asked: Vec::new(),
                },
            )),
        }
    }
}
