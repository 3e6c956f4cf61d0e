//! The kernel's own table of sockets, asked over netlink (`sock_diag(7)`). Needs no privilege.

use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::super::Row;
use super::super::decode::sock_diag::{self, Family, Order, Progress};
use crate::model::endpoint::Protocol;
use crate::model::state::State;
use crate::retry::{TABLE_ANSWER_LIMIT, TABLE_READS};

/// A netlink socket with the buffer for its answers.
pub(super) struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The table stood still while it was read.
    pub(super) steady: bool,
    /// A bound socket was among the answers, on whichever port: so the kernel shows such sockets.
    pub(super) saw_bound: bool,
}

/// `AF_NETLINK` and its protocol `NETLINK_SOCK_DIAG`: of the kernel's interface, the same on every architecture.
const NETLINK: i32 = 16;
const SOCK_DIAG: i32 = 4;
/// The kernel answers in datagrams that are smaller than this: the head of its own buffer is within it.
const BUFFER: usize = 32 * 1024;

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Diag {
            socket: connect()?,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Appends every socket of the protocol with this local port (0: any) and one of these states.
    pub(super) fn ask(
        &mut self,
        protocol: Protocol,
        states: u32,
        port: u16,
        rows: &mut Vec<Row>,
    ) -> io::Result<Answer> {
        let families: &[Family] = if protocol == Protocol::Tcp {
            &[Family::Any]
        } else {
            &[Family::V4, Family::V6]
        };
        let mut answer = Answer {
            steady: true,
            saw_bound: false,
        };
        let start = rows.len();
        for &family in families {
            answer.steady &= self.walk(protocol, family, states, port, rows)?;
        }
        answer.saw_bound = rows[start..].iter().any(|row| row.state == State::Bound);
        // The walk over bound sockets does not heed the port that was asked for.
        let mut at = 0;
        rows.retain(|row| {
            at += 1;
            at <= start || port == 0 || row.local.port() == port
        });
        Ok(answer)
    }

    /// Whether the table stood still.
    fn walk(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        port: u16,
        rows: &mut Vec<Row>,
    ) -> io::Result<bool> {
        let start = rows.len();
        let mut steady = true;
        for attempt in 0..TABLE_READS {
            if attempt > 0 {
                // What is left of the attempt before must not be read as part of this one.
                rows.truncate(start);
                self.socket = connect()?;
            }
            match self.attempt(protocol, family, states, port, rows)? {
                Walked::Steady => return Ok(true),
                Walked::Changed => steady = false,
                Walked::Cut => {
                    self.buffer.resize(self.buffer.len() * 2, 0);
                    steady = false;
                }
            }
        }
        Ok(steady)
    }

    fn attempt(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        port: u16,
        rows: &mut Vec<Row>,
    ) -> io::Result<Walked> {
        self.sequence += 1;
        let question = sock_diag::question(protocol, family, states, port, self.sequence);
        // To no address is to the kernel (netlink(7)).
        again_after_signal(|| self.socket.send(&question))?;
        let mut interrupted = false;
        loop {
            let filled = match again_after_signal(|| (&self.socket).read(&mut self.buffer)) {
                Ok(filled) => filled,
                // Answers were dropped.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(Walked::Changed);
                }
                Err(error) => return Err(error),
            };
            if filled == self.buffer.len() {
                return Ok(Walked::Cut);
            }
            let said = sock_diag::answers(
                &self.buffer[..filled],
                Order::NATIVE,
                protocol,
                self.sequence,
                rows,
            );
            interrupted |= said.interrupted;
            match said.progress {
                Progress::More => {}
                Progress::Done if interrupted => return Ok(Walked::Changed),
                Progress::Done => return Ok(Walked::Steady),
                Progress::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

enum Walked {
    Steady,
    Changed,
    /// A datagram filled the buffer, and may have been longer.
    Cut,
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(SOCK_DIAG.into()))?;
    socket.set_read_timeout(Some(TABLE_ANSWER_LIMIT))?;
    Ok(socket)
}

/// The call until no signal cuts it short.
fn again_after_signal(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Whether this kernel shows TCP sockets that are bound and do not listen: Linux 6.8, or an older one to which it
/// was brought back. Found out once.
pub(super) fn shows_bound() -> bool {
    static SHOWN: OnceLock<bool> = OnceLock::new();
    // A look that fails says no: that errs towards "could not be seen".
    *SHOWN.get_or_init(|| release_is_at_least(6, 8) || shows_own_bound().unwrap_or(false))
}

fn release_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    matches!((numbers.next(), numbers.next()), (Some(Ok(a)), Some(Ok(b))) if (a, b) >= (major, minor))
}

fn shows_own_bound() -> io::Result<bool> {
    let own = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    own.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(Diag::open()?
        .ask(Protocol::Tcp, sock_diag::BOUND, 0, &mut Vec::new())?
        .saw_bound)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_that_the_buffer_cuts_is_asked_for_again() {
        if !crate::sockets::tests::has_sock_diag("an answer that the buffer cuts") {
            return;
        }
        let listeners: Vec<_> = (0..64)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut diag = Diag {
            buffer: vec![0; 2048],
            ..Diag::open().unwrap()
        };
        let mut rows = Vec::new();
        diag.ask(Protocol::Tcp, sock_diag::LISTEN, 0, &mut rows)
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
}
