//! The kernel's own table of sockets, asked over netlink (`sock_diag(7)`). Needs no privilege.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketFlags, SocketType, ipproto};
use rustix::net::{bind, recv, sendto, socket_with};

use super::super::Row;
use super::super::message::{self, Family, Order, Progress};
use crate::endpoint::Protocol;
use crate::holder::State;

/// A netlink socket with the buffer for its answers.
pub(super) struct Diag {
    socket: OwnedFd,
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

/// The kernel answers in datagrams of at most this size.
const BUFFER: usize = 32 * 1024;
const ATTEMPTS: u32 = 3;

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Diag { socket: connect()?, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Appends every socket of the protocol with this local port (0: any) and one of these states.
    pub(super) fn ask(
        &mut self,
        protocol: Protocol,
        states: u32,
        port: u16,
        rows: &mut Vec<Row>,
    ) -> io::Result<Answer> {
        let families: &[Family] =
            if protocol == Protocol::Tcp { &[Family::Any] } else { &[Family::V4, Family::V6] };
        let mut answer = Answer { steady: true, saw_bound: false };
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
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                // What is left of the attempt before must not be read as part of this one.
                rows.truncate(start);
                self.socket = connect()?;
            }
            match self.attempt(protocol, family, states, port, rows)? {
                Walked::Steady => return Ok(true),
                Walked::Changed => steady = false,
                Walked::Cut(needed) => {
                    self.buffer.resize(needed.next_multiple_of(BUFFER), 0);
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
        let question = message::question(protocol, family, states, port, self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        retry_on_intr(|| sendto(&self.socket, &question, SendFlags::empty(), &kernel))?;
        let mut interrupted = false;
        loop {
            let received = retry_on_intr(|| recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC));
            let (filled, length) = match received {
                Ok(received) => received,
                // Answers were dropped.
                Err(Errno::NOBUFS) => return Ok(Walked::Changed),
                Err(error) => return Err(error.into()),
            };
            if length > filled {
                return Ok(Walked::Cut(length));
            }
            let said = message::answers(&self.buffer[..filled], Order::NATIVE, protocol, self.sequence, rows);
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
    /// A datagram of this size did not fit.
    Cut(usize),
}

fn connect() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // Linux answers at once; what only imitates it must not hang a test.
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// Whether this kernel shows TCP sockets that are bound and do not listen: Linux 6.8, or an older one to which it
/// was brought back. Found out once.
pub(super) fn shows_bound() -> bool {
    static SHOWN: OnceLock<bool> = OnceLock::new();
    // A look that fails says no: that errs towards "could not be seen".
    *SHOWN.get_or_init(|| release_is_at_least(6, 8) || shows_own_bound().unwrap_or(false))
}

fn release_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_bytes().split(|b| !b.is_ascii_digit());
    let mut next = || std::str::from_utf8(numbers.next()?).ok()?.parse::<u32>().ok();
    matches!((next(), next()), (Some(a), Some(b)) if (a, b) >= (major, minor))
}

fn shows_own_bound() -> io::Result<bool> {
    let own = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    bind(&own, &SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(Diag::open()?.ask(Protocol::Tcp, message::BOUND, 0, &mut Vec::new())?.saw_bound)
}
