//! What must hold of whatever bytes another process, another user or a kernel hands this crate. The fuzz targets in
//! `fuzz/` and the property tests beside this file ask the same functions; no other build has them.
//!
//! Each function takes any bytes at all, and panics where a promise is broken.
#![allow(clippy::unwrap_used, reason = "a broken promise panics")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::acquire;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::Holder;
use crate::model::holders::Holders;
use crate::model::lease_info::{Lease, Record};
use crate::model::port_set::PortSet;
use crate::model::process::Process;
use crate::model::state::State;
use crate::ports::{self, EphemeralRange};
use crate::sockets::Row;
use crate::sockets::decode::sock_diag::{self, Order, Progress};
use crate::sockets::decode::{iphlpapi, libproc, procfs};

#[cfg(test)]
mod tests;

/// An endpoint that was read prints as one that reads the same; text that names none is quoted on one line.
pub fn endpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<Endpoint>() {
        Ok(endpoint) => {
            assert_ne!(endpoint.port, 0, "{text:?}");
            let printed = endpoint.to_string();
            assert_eq!(
                printed.parse::<Endpoint>().ok(),
                Some(endpoint),
                "{text:?} as {printed:?}"
            );
        }
        Err(error) => {
            let told = error.to_string();
            assert!(!told.contains(char::is_control), "{told:?}");
        }
    }
}

/// A record that was read is told on one line, and read back as it was written. What decides that a lease is live is
/// the lock, so no bytes can: `tests/it/lock_folder/record.rs` shows it.
pub fn record(bytes: &[u8]) {
    let record = Record::decode(bytes);
    if let Some(record) = &record {
        // Lines that are too long are cut when they are written, once.
        let written = Record::decode(&record.encode());
        let again = written
            .as_ref()
            .and_then(|record| Record::decode(&record.encode()));
        assert!(
            written.is_some() && again == written,
            "{record:?} became {written:?}, then {again:?}"
        );
        let ended = [Record::ENDED, &bytes[Record::ENDED.len()..]].concat();
        assert_eq!(Record::decode(&ended), None);
    }
    let lease = Lease::new(Protocol::Tcp, 1, record);
    let told = lease.to_string();
    assert!(!told.contains(char::is_control), "{told:?}");
    assert!(lease.since().is_none_or(|since| since >= UNIX_EPOCH));
}

/// Rows come from whole messages alone: of bytes that are cut off, the first ones.
pub fn sock_diag(bytes: &[u8]) {
    let Some((order, protocol, cut, bytes)) = split(bytes) else {
        return;
    };
    // As in the captured answers.
    const SEQUENCE: u32 = 7;
    let mut rows = Vec::new();
    let said = sock_diag::answers(bytes, order, protocol, SEQUENCE, &mut rows);
    assert!(rows.len() <= bytes.len() / sock_diag::ROW_AT_LEAST);
    rows.iter().for_each(|row| is_row_of(row, protocol));
    let of_one_family = |row: &Row| {
        row.remote
            .is_none_or(|remote| remote.is_ipv4() == row.local.is_ipv4())
    };
    assert!(rows.iter().all(of_one_family), "{rows:?}");
    let mut first = Vec::new();
    let before = sock_diag::answers(&bytes[..cut], order, protocol, SEQUENCE, &mut first);
    assert_eq!(first, rows[..first.len()], "cut at {cut}");
    // What was said early stays said.
    assert!(
        before.progress == Progress::More || before == said,
        "{before:?}, then {said:?}"
    );
}

/// Rows come from whole lines alone, and only those of the port that was asked for.
pub fn proc_net(bytes: &[u8]) {
    let Some((order, protocol, cut, bytes)) = split(bytes) else {
        return;
    };
    let rows = |bytes: &[u8], port| -> Vec<Row> {
        procfs::sockets(&String::from_utf8_lossy(bytes), order, protocol, port).collect()
    };
    let all = rows(bytes, 0);
    all.iter().for_each(|row| is_row_of(row, protocol));
    let whole = bytes[..cut]
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |end| end + 1);
    let first = rows(&bytes[..whole], 0);
    assert_eq!(first, all[..first.len()], "cut at {cut}");
    rows(&bytes[..cut], 0);
    if let Some(port) = all.first().map(|row| row.local.port()) {
        let of_the_port: Vec<&Row> = all
            .iter()
            .filter(|row| port == 0 || row.local.port() == port)
            .collect();
        assert_eq!(rows(bytes, port).iter().collect::<Vec<_>>(), of_the_port);
    }
}

/// The texts of a process's folder, each of which says something or nothing.
pub fn process(bytes: &[u8]) {
    if let Some(stat) = procfs::stat(bytes) {
        let open = bytes.iter().position(|b| *b == b'(').unwrap();
        let close = bytes.iter().rposition(|b| *b == b')').unwrap();
        assert_eq!(stat.name, String::from_utf8_lossy(&bytes[open + 1..close]));
        report(bytes);
    }
    procfs::effective_uid(bytes);
    procfs::uptime(bytes);
    procfs::in_flight(bytes);
    if let Some(inode) = procfs::socket_inode(bytes) {
        assert_eq!(procfs::ring_inodes(bytes).collect::<Vec<_>>(), [inode]);
    }
    assert!(procfs::ring_inodes(bytes).count() <= bytes.len() / b"socket:[1]".len());
    let users = procfs::users(bytes);
    let numbers: BTreeSet<u32> = users.iter().map(|(uid, _)| *uid).collect();
    assert_eq!(numbers.len(), users.len(), "a user's number has one name");
    assert!(
        users
            .iter()
            .all(|(_, name)| !name.is_empty() && !name.contains(['\n', ':'])),
        "{users:?}"
    );
    let arguments: Vec<&[u8]> = procfs::arguments(bytes).collect();
    assert_eq!(
        arguments.join(&b'\0'),
        bytes.strip_suffix(b"\0").unwrap_or(bytes)
    );
}

/// Names that processes chose, in a report: they make no line of their own, and no control character is left.
pub fn report(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes).into_owned();
    let told = |name: &str| {
        let process = Process {
            pid: 7,
            parent: None,
            name: name.to_owned(),
            program: Some(name.into()),
            uid: Some(1),
            user: Some(name.to_owned()),
            started: Some(SystemTime::now()),
            ticks: None,
            forked: false,
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 60315));
        let holder = Holder {
            protocol: Protocol::Tcp,
            local: addr,
            remote: None,
            state: State::Listen,
            uid: Some(1),
            user: Some(name.to_owned()),
            inode: 5,
            dual_stack: false,
            client: false,
            hidden: false,
            processes: vec![process.clone(), process],
        };
        let record = Record {
            test: name.to_owned(),
            at: name.to_owned(),
            label: name.to_owned(),
            program: name.to_owned(),
            ..Record::default()
        };
        let leases = vec![Lease::new(Protocol::Tcp, 60315, Some(record))];
        Holders::new(60315, Some(Protocol::Tcp), vec![holder], leases, Vec::new()).to_string()
    };
    let text = told(&name);
    let lines = |text: &str| text.chars().filter(|c| *c == '\n').count();
    assert_eq!(lines(&text), lines(&told("plain")), "{text:?}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
}

/// Windows' tables: never more rows than counted or than there is room for, and each names its process.
pub fn iphlpapi(bytes: &[u8]) {
    let Some((_, protocol, cut, bytes)) = split(bytes) else {
        return;
    };
    for v6 in [false, true] {
        let rows = iphlpapi::rows(bytes, protocol, v6);
        let count = bytes
            .first_chunk()
            .map_or(0, |count| u32::from_le_bytes(*count));
        assert!(rows.len() <= count as usize && rows.len() <= bytes.len() / 12);
        let of = if protocol == Protocol::Tcp {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        for row in &rows {
            assert!(row.protocol == of && row.local.is_ipv6() == v6, "{row:?}");
            assert!(
                row.inode.and_then(iphlpapi::process_of) != Some(0),
                "{row:?}"
            );
        }
        let first = iphlpapi::rows(&bytes[..cut], protocol, v6);
        assert_eq!(first, rows[..first.len()], "cut at {cut}");
    }
}

/// A socket of macOS' has a port, and its structure whole; a process is told from its structure whole.
pub fn libproc(bytes: &[u8]) {
    if let Some(row) = libproc::socket(bytes) {
        assert!(
            bytes.len() >= libproc::SOCKET_SIZE && row.local.port() != 0,
            "{row:?}"
        );
        assert!(
            !row.dual_stack || row.local.is_ipv6() && row.local.ip().is_unspecified(),
            "{row:?}"
        );
    }
    assert!(libproc::sockets(bytes).count() <= bytes.len() / libproc::DESCRIPTOR_SIZE);
    if let Some(info) = libproc::process(bytes) {
        assert!(
            bytes.len() >= libproc::PROCESS_SIZE && info.name.chars().count() <= 32,
            "{info:?}"
        );
        let _a_time_or_none = info.started_at();
    }
}

/// What a pick walks through: no number twice, none that is reserved or excluded, and an end.
pub fn ports(bytes: &[u8]) {
    let numbers: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|two| u16::from_le_bytes([two[0], two[1]]))
        .collect();
    let [one, other, from, to, ref rest @ ..] = numbers[..] else {
        return;
    };
    let range = one.min(other).max(1)..=one.max(other).max(1);
    let mut withheld = PortSet::default();
    for (low, count) in rest.chunks_exact(2).map(|pair| (pair[0], pair[1] % 64)) {
        (low..=low.saturating_add(count)).for_each(|port| withheld.insert(port));
    }
    let pool = EphemeralRange::reported(range.clone(), &text(&withheld));

    let drawn = distinct(pool.draws());
    let non_ephemeral = distinct(pool.non_ephemeral());
    for port in 1..=u16::MAX {
        let assigned = range.contains(&port) && !withheld.contains(port);
        assert_eq!(
            drawn.contains(port),
            assigned,
            "{port}: drawn is what the kernel assigns, and all of it"
        );
        assert!(
            !(non_ephemeral.contains(port) && assigned),
            "{port}: quiet is what it does not"
        );
        assert_eq!(pool.is_non_ephemeral(port), !assigned, "{port}");
    }
    assert!(pool.block_ranges().iter().all(|range| !range.is_empty()));

    let allowed = from.min(to).max(1)..=from.max(to).max(1);
    for allowed in [Some(allowed), None] {
        let tried = distinct(acquire::numbers_of(allowed.clone(), withheld.clone()));
        for port in 1..=u16::MAX {
            assert!(
                !(tried.contains(port) && withheld.contains(port)),
                "{port} is excluded"
            );
            if let Some(allowed) = &allowed {
                assert_eq!(
                    tried.contains(port),
                    allowed.contains(&port) && !withheld.contains(port),
                    "{port}"
                );
            }
        }
    }
}

/// What a system says of its numbers, by sysctl and by netsh: no range of them is empty.
pub fn settings(bytes: &[u8]) {
    for range in ports::every_range_in(&String::from_utf8_lossy(bytes)) {
        assert!(!range.is_empty(), "{range:?}");
    }
}

/// All of the numbers, of which none may come twice.
fn distinct(numbers: impl Iterator<Item = u16>) -> PortSet {
    let mut set = PortSet::default();
    for port in numbers {
        assert!(
            port != 0 && !set.contains(port),
            "{port} came twice, or is none"
        );
        set.insert(port);
    }
    set
}

/// In the kernel's form, which merges what touches.
fn text(set: &PortSet) -> String {
    let is_start = |port: &u16| {
        port.checked_sub(1)
            .is_none_or(|before| !set.contains(before))
    };
    let end = |low: u16| {
        (low..=u16::MAX)
            .take_while(|port| set.contains(*port))
            .last()
            .unwrap_or(low)
    };
    let starts = set.within(0..=u16::MAX).filter(is_start);
    starts
        .map(|low| format!("{low}-{}", end(low)))
        .collect::<Vec<_>>()
        .join(",")
}

/// What a decoder is asked besides the bytes comes from the first of them: byte order, protocol, and where to cut.
fn split(bytes: &[u8]) -> Option<(Order, Protocol, usize, &[u8])> {
    let ([how, low, high], bytes) = bytes.split_first_chunk()?;
    let order = if how & 1 == 0 {
        Order::Little
    } else {
        Order::Big
    };
    let protocol = Protocol::ALL[usize::from(how >> 1) % Protocol::ALL.len()];
    let cut = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    Some((order, protocol, cut, bytes))
}

fn is_row_of(row: &Row, protocol: Protocol) {
    assert_eq!(row.protocol, protocol);
    assert!(
        row.inode.is_some() || row.uid.is_none(),
        "what nobody has is no user's: {row:?}"
    );
    assert!(!row.dual_stack || row.local.is_ipv6(), "{row:?}");
}
