//! Decodes what macOS reports about a process and its sockets (`proc_fdinfo`, `socket_fdinfo` and
//! `proc_bsdinfo` in `sys/proc_info.h`). No I/O.
//!
//! Numbers are in machine order, which is little-endian on every Mac. Addresses and ports are in
//! network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::Row;
use crate::model::endpoint::Protocol;
use crate::model::state::State;

pub(crate) const DESCRIPTOR_SIZE: usize = 8;
pub(crate) const SOCKET_SIZE: usize = 792;
pub(crate) const PROCESS_SIZE: usize = 136;

/// The descriptors that are sockets, from a list of `proc_fdinfo` structures.
pub(crate) fn sockets(list: &[u8]) -> impl Iterator<Item = i32> + '_ {
    const SOCKET: u32 = 2;
    list.chunks_exact(DESCRIPTOR_SIZE)
        .filter(|entry| word(entry, 4) == Some(SOCKET))
        .filter_map(|entry| word(entry, 0).map(u32::cast_signed))
}

/// Decodes a `socket_fdinfo`. Returns `None` for sockets other than TCP and UDP, for a socket
/// without a port, and for truncated bytes.
pub(crate) fn socket(info: &[u8]) -> Option<Row> {
    // The values of AF_INET6 and of INI_IPV4.
    const INET6: u32 = 30;
    const OF_IPV4: u8 = 1;
    // Offsets of the fields of `socket_info`, counted from the start of `socket_fdinfo`. The first
    // 24 bytes of a `socket_fdinfo` are about the file.
    const IDENTITY: usize = 160;
    const PROTOCOL: usize = 180;
    const FAMILY: usize = 184;
    const KIND: usize = 256;
    // Offsets of the fields of `in_sockinfo`, and of the state that follows them in `tcp_sockinfo`.
    const REMOTE_PORT: usize = 264;
    const LOCAL_PORT: usize = 268;
    const VERSIONS: usize = 288;
    const REMOTE: usize = 296;
    const LOCAL: usize = 312;
    const TCP_STATE: usize = 344;

    let info = info.get(..SOCKET_SIZE)?;
    let v6 = word(info, FAMILY)? == INET6;
    let versions = *info.get(VERSIONS)?;
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = info.get(at..at + 16)?.try_into().ok()?;
        let v4 = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
        Some(match (v6, versions == OF_IPV4) {
            (true, false) => Ipv6Addr::from(bytes).into(),
            (true, true) => v4.to_ipv6_mapped().into(),
            (false, _) => v4.into(),
        })
    };
    let local = SocketAddr::new(ip(LOCAL)?, port(info, LOCAL_PORT)?);
    let remote = match port(info, REMOTE_PORT)? {
        0 => None,
        port => Some(SocketAddr::new(ip(REMOTE)?, port)),
    };
    let (protocol, state) = match (word(info, KIND)?, word(info, PROTOCOL)?) {
        (2, 6) => (Protocol::Tcp, tcp_state(word(info, TCP_STATE)?)),
        (1, 17) if remote.is_some() => (Protocol::Udp, State::Connected),
        (1, 17) => (Protocol::Udp, State::Bound),
        _ => return None,
    };
    let row = Row {
        protocol,
        local,
        remote,
        state,
        uid: None,
        inode: NonZeroU64::new(u64::from_le_bytes(
            info.get(IDENTITY..IDENTITY + 8)?.try_into().ok()?,
        )),
        dual_stack: v6 && local.ip().is_unspecified() && versions & OF_IPV4 != 0,
        client: false,
        interface: None,
        queue: None,
    };
    (local.port() != 0).then_some(row)
}

/// Decodes the state of a TCP socket: `TSI_S_CLOSED` (0) to `TSI_S_TIME_WAIT` (10).
fn tcp_state(number: u32) -> State {
    match number {
        // For a socket that is only bound, macOS reports the state "closed".
        0 => State::Bound,
        1 => State::Listen,
        2 => State::SynSent,
        3 => State::SynRecv,
        4 => State::Established,
        5 => State::CloseWait,
        6 => State::FinWait1,
        7 => State::Closing,
        8 => State::LastAck,
        9 => State::FinWait2,
        10 => State::TimeWait,
        other => State::Unknown(u8::try_from(other).unwrap_or(u8::MAX)),
    }
}

/// The fields of a `proc_bsdinfo` that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) parent: u32,
    pub(crate) uid: u32,
    /// `true` if the process is a zombie: it has ended, and its parent has not waited for it yet.
    pub(crate) ended: bool,
    /// `true` if the process has not called exec since it was forked.
    pub(crate) forked: bool,
    /// When the process started, in microseconds since 1970.
    pub(crate) started: u64,
}

impl Info {
    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_micros(self.started))
    }
}

pub(crate) fn process(info: &[u8]) -> Option<Info> {
    const CALLED_EXEC: u32 = 0x4000;
    const ZOMBIE: u32 = 5;
    const SHORT_NAME: std::ops::Range<usize> = 48..64;
    const NAME: std::ops::Range<usize> = 64..96;
    let info = info.get(..PROCESS_SIZE)?;
    let text = |range: std::ops::Range<usize>| {
        let bytes = info[range]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let name = Some(text(NAME))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| text(SHORT_NAME));
    let long = |at: usize| Some(u64::from_le_bytes(info.get(at..at + 8)?.try_into().ok()?));
    Some(Info {
        name,
        parent: word(info, 16)?,
        uid: word(info, 20)?,
        ended: word(info, 4)? == ZOMBIE,
        forked: word(info, 0)? & CALLED_EXEC == 0,
        started: long(120)?
            .saturating_mul(1_000_000)
            .saturating_add(long(128)?),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A port is in the first two bytes of its 32-bit field, in network order.
fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a `socket_fdinfo` as the header file declares it. No test data was captured on a Mac.
    fn socket_info(
        kind: u32,
        protocol: u32,
        family: u32,
        versions: u8,
        ports: (u16, u16),
        state: u32,
    ) -> Vec<u8> {
        let mut info = vec![0xee; SOCKET_SIZE];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(160, &0x1122_3344_5566_7788_u64.to_le_bytes());
        put(180, &protocol.to_le_bytes());
        put(184, &family.to_le_bytes());
        put(256, &kind.to_le_bytes());
        for (at, port) in [(268, ports.0), (264, ports.1)] {
            put(at, &port.to_be_bytes());
        }
        put(288, &[versions]);
        for (at, last) in [(312, 1), (296, 2)] {
            put(at, &[0; 16]);
            if family == 2 || versions == 1 {
                put(at + 12, &[127, 0, 0, last]);
            } else {
                put(at + 15, &[last]);
            }
        }
        put(344, &state.to_le_bytes());
        info
    }

    fn summary(info: &[u8]) -> String {
        socket(info).map_or("none".to_owned(), |row| {
            let remote = row
                .remote
                .map_or(String::new(), |remote| format!(" - {remote}"));
            format!(
                "{} {} {}{remote}",
                row.protocol,
                row.state.name(),
                row.local
            )
        })
    }

    #[test]
    fn each_kind_of_socket_is_decoded() {
        for (info, expected) in [
            (
                socket_info(2, 6, 2, 1, (80, 0), 1),
                "tcp listen 127.0.0.1:80",
            ),
            (
                socket_info(2, 6, 2, 1, (80, 0), 0),
                "tcp bound 127.0.0.1:80",
            ),
            (
                socket_info(2, 6, 2, 1, (80, 443), 4),
                "tcp established 127.0.0.1:80 - 127.0.0.2:443",
            ),
            (
                socket_info(2, 6, 30, 2, (80, 443), 9),
                "tcp fin_wait2 [::1]:80 - [::2]:443",
            ),
            (
                socket_info(2, 6, 30, 1, (80, 443), 5),
                "tcp close_wait [::ffff:127.0.0.1]:80 - [::ffff:127.0.0.2]:443",
            ),
            (
                socket_info(1, 17, 2, 1, (53, 0), 7),
                "udp bound 127.0.0.1:53",
            ),
            (
                socket_info(1, 17, 30, 2, (53, 9), 7),
                "udp connected [::1]:53 - [::2]:9",
            ),
            (
                socket_info(2, 6, 2, 1, (80, 0), 77),
                "tcp unknown_77 127.0.0.1:80",
            ),
            (socket_info(2, 6, 2, 1, (0, 0), 0), "none"),
            (socket_info(1, 1, 2, 1, (80, 0), 0), "none"),
            (socket_info(3, 0, 1, 0, (80, 0), 0), "none"),
        ] {
            assert_eq!(summary(&info), expected);
            for cut in 0..info.len() {
                assert_eq!(socket(&info[..cut]), None);
            }
        }
        let mut both = socket_info(2, 6, 30, 3, (80, 0), 1);
        both[312..328].fill(0);
        let row = socket(&both).unwrap();
        assert_eq!(
            (row.dual_stack, row.inode),
            (true, NonZeroU64::new(0x1122_3344_5566_7788))
        );
        both[288] = 2;
        assert!(!socket(&both).unwrap().dual_stack);
    }

    #[test]
    fn every_tcp_state_is_decoded() {
        let names: Vec<String> = (0..=11)
            .map(|number| tcp_state(number).name().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "bound",
                "listen",
                "syn_sent",
                "syn_recv",
                "established",
                "close_wait",
                "fin_wait1",
                "closing",
                "last_ack",
                "fin_wait2",
                "time_wait",
                "unknown_11"
            ]
        );
    }

    #[test]
    fn sockets_are_picked_from_a_list_of_descriptors() {
        let entry = |fd: i32, kind: u32| [fd.to_le_bytes(), kind.to_le_bytes()].concat();
        let list = [entry(0, 1), entry(3, 2), entry(9, 5), entry(12, 2)].concat();
        assert_eq!(sockets(&list).collect::<Vec<_>>(), [3, 12]);
        assert_eq!(sockets(&list[..list.len() - 1]).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_process_is_decoded() {
        let mut info = vec![0; PROCESS_SIZE];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0x4000_u32.to_le_bytes());
        put(4, &2_u32.to_le_bytes());
        put(16, &41_u32.to_le_bytes());
        put(20, &501_u32.to_le_bytes());
        put(48, b"a-name-of-16-byt");
        put(64, b"a-name-of-16-bytes-and-more");
        put(120, &1_700_000_000_u64.to_le_bytes());
        put(128, &5_u64.to_le_bytes());
        let decoded = process(&info).unwrap();
        assert_eq!(
            decoded,
            Info {
                name: "a-name-of-16-bytes-and-more".to_owned(),
                parent: 41,
                uid: 501,
                ended: false,
                forked: false,
                started: 1_700_000_000_000_005,
            }
        );
        assert_eq!(
            decoded.started_at(),
            UNIX_EPOCH.checked_add(Duration::from_micros(1_700_000_000_000_005))
        );
        info[64] = 0;
        info[0..8].copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0]);
        let decoded = process(&info).unwrap();
        assert_eq!(
            (decoded.name.as_str(), decoded.ended, decoded.forked),
            ("a-name-of-16-byt", true, true)
        );
        assert_eq!(process(&info[1..]), None);
    }
}
