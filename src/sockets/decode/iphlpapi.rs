//! Decodes Windows' tables of sockets and their processes (`MIB_TCPTABLE_OWNER_PID`,
//! `MIB_TCP6TABLE_OWNER_PID` and their UDP counterparts in `tcpmib.h` and `udpmib.h`). No I/O.
//!
//! A table starts with the number of rows. Each row consists of 32-bit words in machine order,
//! which is little-endian on every Windows. Addresses and ports are in network order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU64;

use super::super::Row;
use crate::model::endpoint::Protocol;
use crate::model::state::State;

/// Stands for the pid of a process that the table does not show. No process has this pid: pids are
/// multiples of four.
const UNKNOWN_PID: u32 = u32::MAX;

/// Decodes the rows of one table, and leaves out a truncated row.
pub(crate) fn rows(table: &[u8], protocol: Protocol, v6: bool) -> Vec<Row> {
    let Some((count, rows)) = table.split_first_chunk() else {
        return Vec::new();
    };
    let (size, decode): (_, fn(_) -> _) = match (protocol, v6) {
        (Protocol::Tcp, false) => (24, tcp4),
        (Protocol::Tcp, true) => (56, tcp6),
        (_, false) => (12, udp4),
        (_, true) => (28, udp6),
    };
    let count = u32::from_le_bytes(*count) as usize;
    rows.chunks_exact(size)
        .take(count)
        .filter_map(decode)
        .collect()
}

fn tcp4(row: &[u8]) -> Option<Row> {
    let mut words = Words(row);
    let state = words.number()?;
    let local = (words.v4()?, words.port()?);
    let remote = (words.v4()?, words.port()?);
    Some(tcp(state, local.into(), remote.into(), words.number()?))
}

fn tcp6(row: &[u8]) -> Option<Row> {
    let mut words = Words(row);
    let (local, remote) = (words.v6()?, words.v6()?);
    let state = words.number()?;
    Some(tcp(state, local, remote, words.number()?))
}

fn udp4(row: &[u8]) -> Option<Row> {
    let mut words = Words(row);
    let local = (words.v4()?, words.port()?);
    Some(self::row(
        Protocol::Udp,
        local.into(),
        None,
        State::Bound,
        words.number()?,
    ))
}

fn udp6(row: &[u8]) -> Option<Row> {
    let mut words = Words(row);
    let local = words.v6()?;
    Some(self::row(
        Protocol::Udp,
        local,
        None,
        State::Bound,
        words.number()?,
    ))
}

fn tcp(number: u32, local: SocketAddr, remote: SocketAddr, pid: u32) -> Row {
    let state = state(number);
    // Windows does not initialise the remote address of a listener.
    let remote = Some(remote).filter(|remote| state != State::Listen && remote.port() != 0);
    row(Protocol::Tcp, local, remote, state, pid)
}

/// Decodes a `MIB_TCP_STATE`.
fn state(number: u32) -> State {
    match number {
        2 => State::Listen,
        3 => State::SynSent,
        4 => State::SynRecv,
        5 => State::Established,
        6 => State::FinWait1,
        7 => State::FinWait2,
        8 => State::CloseWait,
        9 => State::Closing,
        10 => State::LastAck,
        11 => State::TimeWait,
        // 1 means that the socket is closed, and 12 that it is about to be deleted.
        other => State::Unknown(u8::try_from(other).unwrap_or(u8::MAX)),
    }
}

fn row(
    protocol: Protocol,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    state: State,
    pid: u32,
) -> Row {
    let inode = match pid {
        // The kernel owns a connection in TIME_WAIT, so the connection has no process.
        0 if state == State::TimeWait => None,
        0 => socket_number(UNKNOWN_PID, protocol, local, remote),
        pid => socket_number(pid, protocol, local, remote),
    };
    Row {
        protocol,
        local,
        remote,
        state,
        uid: None,
        inode,
        // The table does not show whether the socket is dual stack, so every IPv6 wildcard counts
        // as dual stack. A wrong guess hides no conflict. But a report can then show an IPv6-only
        // server as a listener on IPv4 addresses too.
        dual_stack: local.is_ipv6() && local.ip().is_unspecified(),
        client: false,
        interface: None,
        queue: None,
    }
}

/// Makes up an inode number for a socket, because Windows reports none. The upper half is the pid,
/// which [`process_of`] returns. The lower half is a hash of the protocol and the addresses.
fn socket_number(
    pid: u32,
    protocol: Protocol,
    local: SocketAddr,
    remote: Option<SocketAddr>,
) -> Option<NonZeroU64> {
    let mut hasher = DefaultHasher::new();
    (protocol, local, remote).hash(&mut hasher);
    NonZeroU64::new((u64::from(pid) << 32) | (hasher.finish() & u64::from(u32::MAX)))
}

/// The pid in a number that [`socket_number`] made. Returns `None` if the table did not show the
/// process.
pub(crate) fn process_of(inode: NonZeroU64) -> Option<u32> {
    let pid = (inode.get() >> 32) as u32;
    (pid != 0 && pid != UNKNOWN_PID).then_some(pid)
}

/// The bytes of a row that have not been decoded yet.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        self.next().map(u32::from_le_bytes)
    }

    /// Reads a port from the first two bytes of a word. Windows does not initialise the other two.
    fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.next::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn v4(&mut self) -> Option<IpAddr> {
        self.next()
            .map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into())
    }

    /// Reads an IPv6 address, its scope id and a port.
    fn v6(&mut self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.next::<16>()?);
        let scope = self.number()?;
        Some(SocketAddrV6::new(ip, self.port()?, 0, scope).into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sock_diag::tests::bytes;
    use super::*;

    const PID: u32 = 4100;

    /// Builds a table as Windows lays it out. The unused half of each port has arbitrary bytes.
    fn table(count: u32, rows: &[&[&[u8]]]) -> Vec<u8> {
        let rows = rows.iter().flat_map(|row| row.concat());
        count.to_le_bytes().into_iter().chain(rows).collect()
    }

    fn port(number: u16) -> [u8; 4] {
        let [high, low] = number.to_be_bytes();
        [high, low, 0xcc, 0xdd]
    }

    fn v6(last: u8) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[15] = last;
        bytes
    }

    fn word(number: u32) -> [u8; 4] {
        number.to_le_bytes()
    }

    fn summary(rows: &[Row]) -> Vec<String> {
        let describe = |row: &Row| {
            let remote = row
                .remote
                .map_or(String::new(), |remote| format!(" - {remote}"));
            format!(
                "{} {}{remote} by {:?}",
                row.state.name(),
                row.local,
                row.inode.and_then(process_of)
            )
        };
        rows.iter().map(describe).collect()
    }

    fn tcp4() -> Vec<u8> {
        table(
            4,
            &[
                &[
                    &word(2),
                    &[127, 0, 0, 1],
                    &port(60315),
                    &[0; 4],
                    &port(0x1234),
                    &word(PID),
                ],
                &[
                    &word(5),
                    &[127, 0, 0, 1],
                    &port(60315),
                    &[127, 0, 0, 1],
                    &port(51544),
                    &word(PID),
                ],
                &[
                    &word(11),
                    &[127, 0, 0, 1],
                    &port(60315),
                    &[127, 0, 0, 1],
                    &port(51545),
                    &word(0),
                ],
                &[&word(99), &[0; 4], &port(7), &[0; 4], &port(0), &word(0)],
            ],
        )
    }

    fn tcp6() -> Vec<u8> {
        table(
            1,
            &[&[
                &v6(0),
                &word(0),
                &port(60315),
                &v6(0),
                &word(0),
                &port(0),
                &word(2),
                &word(PID),
            ]],
        )
    }

    #[test]
    fn tcp_tables_are_decoded_row_by_row() {
        let rows4 = rows(&tcp4(), Protocol::Tcp, false);
        let expected = [
            "listen 127.0.0.1:60315 by Some(4100)",
            "established 127.0.0.1:60315 - 127.0.0.1:51544 by Some(4100)",
            "time_wait 127.0.0.1:60315 - 127.0.0.1:51545 by None",
            "unknown_99 0.0.0.0:7 by None",
        ];
        assert_eq!(summary(&rows4), expected);
        assert_eq!(rows4[2].inode, None, "no process owns it");
        assert_ne!(rows4[3].inode, None, "its process is unknown");
        assert_ne!(
            rows4[0].inode, rows4[1].inode,
            "two sockets of one process have different inodes"
        );
        let rows6 = rows(&tcp6(), Protocol::Tcp, true);
        assert_eq!(summary(&rows6), ["listen [::]:60315 by Some(4100)"]);
        assert!(rows6[0].dual_stack && !rows4[0].dual_stack);
    }

    #[test]
    fn udp_tables_are_decoded_row_by_row() {
        let table4 = table(1, &[&[&[0; 4], &port(5353), &word(PID)]]);
        assert_eq!(
            summary(&rows(&table4, Protocol::Udp, false)),
            ["bound 0.0.0.0:5353 by Some(4100)"]
        );
        let table6 = table(
            2,
            &[
                &[&v6(1), &word(0), &port(53), &word(PID)],
                &[&v6(1), &word(3), &port(54), &word(8)],
            ],
        );
        let expected = [
            "bound [::1]:53 by Some(4100)",
            "bound [::1%3]:54 by Some(8)",
        ];
        assert_eq!(summary(&rows(&table6, Protocol::Udp, true)), expected);
    }

    /// These tables were captured from wine 8. Wine shows the process of a socket only after the
    /// first read from the socket, and does not initialise the scope of an address.
    #[test]
    fn captured_tables_are_decoded() {
        let tcp4 = bytes(
            "04000000020000007f00000184a30000000000000000000020000000050000007f00000184a300007f000001f6620000\
             00000000050000007f000001f66200007f00000184a30000200000000b0000007f000001f66a00007f00000184a30000\
             00000000",
        );
        let expected = [
            "listen 127.0.0.1:33955 by Some(32)",
            "established 127.0.0.1:33955 - 127.0.0.1:63074 by None",
            "established 127.0.0.1:63074 - 127.0.0.1:33955 by Some(32)",
            "time_wait 127.0.0.1:63082 - 127.0.0.1:33955 by None",
        ];
        assert_eq!(summary(&rows(&tcp4, Protocol::Tcp, false)), expected);
        let tcp6 = bytes(
            "01000000000000000000000000000000000000000000000084a400000000000000000000000000000000000000000000\
             000000000200000000000000",
        );
        assert_eq!(
            summary(&rows(&tcp6, Protocol::Tcp, true)),
            ["listen [::]:33956 by None"]
        );
        let udp4 = bytes("010000007f00000184a3000020000000");
        assert_eq!(
            summary(&rows(&udp4, Protocol::Udp, false)),
            ["bound 127.0.0.1:33955 by Some(32)"]
        );
        let udp6 = bytes("01000000000000000000000000000000000000010010000084a4000020000000");
        assert_eq!(
            summary(&rows(&udp6, Protocol::Udp, true)),
            ["bound [::1%4096]:33956 by Some(32)"]
        );
    }

    #[test]
    fn a_wrong_count_is_harmless_and_no_truncation_panics() {
        let whole = tcp4();
        let more = [&word(1_000_000)[..], &whole[4..]].concat();
        assert_eq!(rows(&more, Protocol::Tcp, false).len(), 4);
        let fewer = [&word(2)[..], &whole[4..], &[0; 400]].concat();
        assert_eq!(rows(&fewer, Protocol::Tcp, false).len(), 2);
        for v6 in [false, true] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for bytes in [&whole, &tcp6()] {
                    for cut in 0..bytes.len() {
                        let _decoded = rows(&bytes[..cut], protocol, v6);
                    }
                }
            }
        }
    }
}
