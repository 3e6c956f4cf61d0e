//! [`Watch`]: finds out repeatedly who listens on the ports of a wait.

use std::io;
use std::time::Instant;

use super::expected::Expected;
use super::listening::is_listening;
use crate::localhost::LOCALHOST;
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::retry::OWNERS_EVERY;
use crate::sockets::{self, Inode, OwnedRows, PortTables, Row, ScanDepth};

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Nobody,
    Stranger,
    /// The expected process, a process that it started, or a process that cannot be seen.
    Expected,
}

/// Finds out repeatedly who listens on the ports of a wait.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) expected: Expected,
    /// The result of the last search, if the search found a stranger (a process that is not
    /// expected): the inodes of the listeners, the index of the stranger's port, and the time. A
    /// search can read every process, which is slow. So the result stays valid for
    /// [`OWNERS_EVERY`], unless the listeners change.
    strangers: Option<(Vec<Option<Inode>>, usize, Instant)>,
}

impl Watch {
    pub(crate) fn new(expected: Expected) -> Watch {
        Watch {
            expected,
            strangers: None,
        }
    }

    /// Notes that the expected process has ended. From now on, an unexpected listener may count as
    /// the listener of a daemon that the process left. So this call drops the result of the last
    /// search.
    pub(crate) fn note_end(&mut self, succeeded: Option<bool>) {
        self.expected.note_end(succeeded);
        self.strangers = None;
    }

    /// Finds the first port without a [`Listener::Expected`]. Returns the index of this port, and
    /// whether an unexpected process listens there, or no process. Returns `None` if every port has
    /// a `Listener::Expected`.
    pub(crate) fn first_missing(
        &mut self,
        ports: &[Port],
    ) -> io::Result<Option<(usize, Listener)>> {
        let mut rows = Vec::new();
        let tables = tables_of(ports);
        let read =
            tables.and_then(|tables| listeners_up_to_a_silent_port(&tables, ports, &mut rows));
        let silent = match read {
            Ok(silent) => silent.map(|at| (at, Listener::Nobody)),
            // Without a socket table, only a connection can find a listener.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                for (at, port) in ports.iter().enumerate() {
                    if !is_listening(*port)? {
                        return Ok(Some((at, Listener::Nobody)));
                    }
                }
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let inodes: Vec<_> = rows.iter().flatten().map(|row| row.inode).collect();
        if let Some((strangers, at, found)) = &self.strangers
            && *strangers == inodes
            && found.elapsed() < OWNERS_EVERY
        {
            return Ok(Some((*at, Listener::Stranger)));
        }
        match self.first_unmet(&rows)? {
            Some((at, listener)) => {
                let is_stranger = listener == Listener::Stranger;
                self.strangers = is_stranger.then(|| (inodes, at, Instant::now()));
                Ok(Some((at, listener)))
            }
            None => Ok(silent),
        }
    }

    /// The index of the first port on which only strangers listen: processes that do not count as
    /// the expected process. Unlike [`first_missing`](Self::first_missing), the search does not
    /// stop at a port without a listener. `None` if there is no such port, or if the sockets cannot
    /// be read.
    pub(crate) fn first_stranger(&self, ports: &[Port]) -> Option<usize> {
        let tables = tables_of(ports).ok()?;
        let listeners = |(at, port)| Some((at, listeners_on(&tables, port).ok()?));
        let each = ports.iter().copied().enumerate().filter_map(listeners);
        let (positions, rows): (Vec<usize>, Vec<Vec<Row>>) =
            each.filter(|(_, rows)| !rows.is_empty()).unzip();
        match self.first_unmet(&rows) {
            Ok(Some((at, Listener::Stranger))) => Some(positions[at]),
            _ => None,
        }
    }

    /// `rows` has one group of listeners for each port. Finds the first group without a
    /// [`Listener::Expected`]. Returns the index of this group, and who listens there.
    fn first_unmet(&self, rows: &[Vec<Row>]) -> io::Result<Option<(usize, Listener)>> {
        let mut has = self.expected.judge();
        let mut is_met = |of: &OwnedRows| of.holders.iter().any(&mut has);
        // This search ends when it has found an owner of each listener. It reads the newest
        // processes early, and the expected process is often one of them.
        let first = sockets::owners_of_each(rows.to_vec(), ScanDepth::FirstHit)?;
        let mut unmet: Vec<usize> = (0..rows.len()).collect();
        unmet.retain(|at| !is_met(&first[*at]));
        let rows = unmet.iter().map(|at| rows[*at].clone()).collect();
        let complete = sockets::owners_of_each(rows, ScanDepth::Complete)?;
        for (at, owned) in unmet.into_iter().zip(complete) {
            let listener = who_of(&owned.holders, &mut has);
            if listener != Listener::Expected {
                return Ok(Some((at, listener)));
            }
        }
        Ok(None)
    }
}

fn tables_of(ports: &[Port]) -> io::Result<PortTables> {
    PortTables::of(ports.iter().map(|port| Some(port.protocol)))
}

/// Adds the listeners of each port to `rows`, up to the first port that has none. Returns the
/// position of that port, or `None` if every port has a listener.
fn listeners_up_to_a_silent_port(
    tables: &PortTables,
    ports: &[Port],
    rows: &mut Vec<Vec<Row>>,
) -> io::Result<Option<usize>> {
    for (at, port) in ports.iter().enumerate() {
        let listeners = listeners_on(tables, *port)?;
        if listeners.is_empty() {
            return Ok(Some(at));
        }
        rows.push(listeners);
    }
    Ok(None)
}

/// The listeners that a client of the port reaches.
fn listeners_on(tables: &PortTables, port: Port) -> io::Result<Vec<Row>> {
    let mut listeners = tables.listening(port.number, port.protocol)?;
    listeners.retain(|row| row.is_reachable_at(port.ip, port.scope_id));
    // A client of this address reaches only the listeners whose address is closest to it.
    // `localhost` has two addresses with different closest listeners, so all listeners stay.
    if let Some(ip) = port.ip.filter(|ip| *ip != LOCALHOST) {
        let closest = listeners.iter().map(|row| row.closeness(ip)).max();
        listeners.retain(|row| Some(row.closeness(ip)) == closest);
    }
    Ok(listeners)
}

fn who_of(holders: &[Holder], has: &mut impl FnMut(&Holder) -> bool) -> Listener {
    if holders.is_empty() {
        // The listeners were closed during the search for their owners.
        Listener::Nobody
    } else if holders.iter().any(|holder| holder.hidden || has(holder)) {
        Listener::Expected
    } else {
        Listener::Stranger
    }
}
