//! Reads the kernel's table of sockets over netlink (`sock_diag(7)`), which needs no privilege.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use once_cell::sync::OnceCell;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::super::Row;
use super::super::decode::sock_diag::{self, Family, Order, Progress};
use crate::model::endpoint::Protocol;
use crate::model::state::State;
use crate::os_error::is_exhaustion;
use crate::proc_fs;
use crate::retry::{TABLE_ANSWER_LIMIT, TABLE_READS};

/// A netlink socket with the buffer for its datagrams.
pub(super) struct SockDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// `AF_NETLINK` and its protocol `NETLINK_SOCK_DIAG`, the same on every architecture.
const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
/// The first size of the buffer, in bytes. The datagrams that the kernel sends for a dump are
/// usually smaller. If a datagram fills the buffer, the buffer is doubled and the dump is repeated.
const BUFFER: usize = 32 * 1024;

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        Ok(SockDiag {
            socket: connect()?,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Appends every socket of the protocol with one of these local ports and one of these states.
    /// Returns `true` if the dump is whole and the table did not change meanwhile.
    pub(super) fn dump(
        &mut self,
        protocol: Protocol,
        states: u32,
        ports: &RangeInclusive<u16>,
        rows: &mut Vec<Row>,
    ) -> io::Result<bool> {
        let families: &[Family] = if protocol == Protocol::Tcp {
            &[Family::Any]
        } else {
            &[Family::V4, Family::V6]
        };
        let start = rows.len();
        let mut consistent = true;
        for &family in families {
            match self.dump_family(protocol, family, states, ports, rows) {
                Ok(of_family) => consistent &= of_family,
                Err(error) => {
                    // The caller can read these sockets again from `/proc/net`, so no row may stay.
                    rows.truncate(start);
                    return Err(error);
                }
            }
        }
        // Removes the sockets of other ports, in case a kernel ignores the filter.
        let mut position = 0;
        rows.retain(|row| {
            position += 1;
            position <= start || ports.contains(&row.local.port())
        });
        Ok(consistent)
    }

    /// Repeats the dump until it is consistent, at most [`TABLE_READS`] times in all. A dump is
    /// consistent if it is whole and the table did not change meanwhile. If no dump is consistent,
    /// returns `false`, and appends the rows of the last dump.
    fn dump_family(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        ports: &RangeInclusive<u16>,
        rows: &mut Vec<Row>,
    ) -> io::Result<bool> {
        let start = rows.len();
        let mut consistent = true;
        for attempt in 0..TABLE_READS {
            if attempt > 0 {
                // Datagrams of the previous dump may still wait in the old socket, so the next dump
                // uses a new socket.
                rows.truncate(start);
                self.socket = connect()?;
            }
            match self.try_dump(protocol, family, states, ports, rows)? {
                DumpOutcome::Consistent => return Ok(true),
                DumpOutcome::Changed => consistent = false,
                DumpOutcome::Truncated => {
                    self.buffer.resize(self.buffer.len() * 2, 0);
                    consistent = false;
                }
            }
        }
        Ok(consistent)
    }

    fn try_dump(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        ports: &RangeInclusive<u16>,
        rows: &mut Vec<Row>,
    ) -> io::Result<DumpOutcome> {
        self.sequence += 1;
        let request = sock_diag::request(protocol, family, states, ports, self.sequence);
        // A message without a destination goes to the kernel (netlink(7)).
        retry_interrupted(|| self.socket.send(&request))?;
        let mut interrupted = false;
        loop {
            let filled = match retry_interrupted(|| (&self.socket).read(&mut self.buffer)) {
                Ok(filled) => filled,
                // The kernel dropped datagrams, so sockets may be missing.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(DumpOutcome::Changed);
                }
                Err(error) => return Err(error),
            };
            if filled == self.buffer.len() {
                return Ok(DumpOutcome::Truncated);
            }
            let datagram = sock_diag::answers(
                &self.buffer[..filled],
                Order::NATIVE,
                protocol,
                self.sequence,
                rows,
            );
            interrupted |= datagram.interrupted;
            match datagram.progress {
                Progress::More => {}
                Progress::Done if interrupted => return Ok(DumpOutcome::Changed),
                Progress::Done => return Ok(DumpOutcome::Consistent),
                Progress::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

enum DumpOutcome {
    Consistent,
    Changed,
    /// A datagram filled the whole buffer, so the end of the datagram may be missing.
    Truncated,
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(SOCK_DIAG.into()))?;
    socket.set_read_timeout(Some(TABLE_ANSWER_LIMIT))?;
    Ok(socket)
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Returns `true` if this kernel shows TCP sockets that are bound and do not listen: Linux 6.8 and
/// later, and older kernels with the change backported. The function caches the answer.
///
/// # Errors
///
/// If descriptors or memory are used up. After any other failed check the result is `false`, and is
/// not cached.
pub(super) fn shows_bound() -> io::Result<bool> {
    static SHOWN: OnceCell<bool> = OnceCell::new();
    let check = || Ok(proc_fs::is_release_at_least(6, 8) || shows_own_bound()?);
    match SHOWN.get_or_try_init(check) {
        Err(error) if is_exhaustion(&error) => Err(error),
        shown => Ok(shown.is_ok_and(|shown| *shown)),
    }
}

pub(super) fn shows_own_bound() -> io::Result<bool> {
    let own = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    own.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let mut rows = Vec::new();
    SockDiag::open()?.dump(
        Protocol::Tcp,
        sock_diag::BOUND,
        &sock_diag::ANY_PORT,
        &mut rows,
    )?;
    Ok(rows.iter().any(|row| row.state == State::Bound))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_dump_that_the_buffer_truncates_is_repeated() {
        if !crate::sockets::tests::has_sock_diag("a truncated dump") {
            return;
        }
        let listeners: Vec<_> = (0..64)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut diag = SockDiag {
            buffer: vec![0; 2048],
            ..SockDiag::open().unwrap()
        };
        let mut rows = Vec::new();
        diag.dump(
            Protocol::Tcp,
            sock_diag::LISTEN,
            &sock_diag::ANY_PORT,
            &mut rows,
        )
        .unwrap();
        assert!(diag.buffer.len() > 2048, "64 sockets fit into 2048 bytes");
        for listener in &listeners {
            let port = listener.local_addr().unwrap().port();
            assert_eq!(
                rows.iter().filter(|row| row.local.port() == port).count(),
                1
            );
        }
    }

    #[test]
    fn the_kernel_sends_no_socket_of_another_port() {
        if !crate::sockets::tests::has_sock_diag("the filter of a dump") {
            return;
        }
        let listeners: Vec<_> = (0..8)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let bound: Vec<_> = (0..8)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                socket.bind(&any.into()).unwrap();
                socket
            })
            .collect();
        let port = listeners[3].local_addr().unwrap().port();
        let low = bound[3].local_addr().unwrap().as_socket().unwrap().port();
        for ports in [port..=port, low..=low, low.min(port)..=low.max(port)] {
            let mut rows = Vec::new();
            // `dump` would remove the sockets of other ports, so the test calls `try_dump`.
            SockDiag::open()
                .unwrap()
                .try_dump(
                    Protocol::Tcp,
                    Family::Any,
                    sock_diag::ALL,
                    &ports,
                    &mut rows,
                )
                .unwrap();
            assert!(
                rows.iter().all(|row| ports.contains(&row.local.port())),
                "{ports:?}: {rows:?}"
            );
            let has_listener = rows.iter().any(|row| row.local.port() == port);
            assert_eq!(has_listener, ports.contains(&port), "{ports:?}: {rows:?}");
        }
    }
}
