//! Properties that hold for any bytes from the kernel, another process or another user. The fuzz
//! targets in `fuzz/` and the property tests beside this file call these functions.
//!
//! # Panics
//!
//! Each function accepts any bytes. It panics if the tested code violates the property for these
//! bytes.
#![allow(clippy::unwrap_used, reason = "a violated property panics")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::acquire;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::holder::{Holder, UnseenOwner};
use crate::model::holders::Holders;
use crate::model::lease_info::Lease;
use crate::model::port_set::PortSet;
use crate::model::process::Process;
use crate::model::record::{Record, StableName};
use crate::model::state::State;
use crate::ports::{self, EphemeralRange};
use crate::sockets::Row;
use crate::sockets::decode::sock_diag::{self, Order, Progress};
use crate::sockets::decode::{iphlpapi, libproc, procfs, sockstat};

#[cfg(test)]
mod tests;

/// A parsed endpoint prints as text that parses to the same endpoint. The error for other text has
/// no control characters, so it is one line.
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
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

/// Checks that a decoded record prints on one line. A record that begins with [`Record::ENDED`]
/// must decode to `None`. Encoding can shorten long texts. Encoding the shortened record again must
/// change nothing.
pub fn record(bytes: &[u8]) {
    let record = Record::decode(bytes);
    if let Some(record) = &record {
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
    let text = lease.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(lease.since().is_none_or(|since| since >= UNIX_EPOCH));
}

/// Only complete messages of sock_diag(7) become rows. Truncated bytes decode to the first rows of
/// the complete bytes, and to no other rows.
pub fn sock_diag(bytes: &[u8]) {
    let Some((order, protocol, cut, bytes)) = split(bytes) else {
        return;
    };
    // The answers that the tests and the seeds contain have this sequence number.
    const SEQUENCE: u32 = 7;
    let mut rows = Vec::new();
    let whole = sock_diag::answers(bytes, order, protocol, SEQUENCE, &mut rows);
    assert!(rows.len() <= bytes.len() / sock_diag::ROW_AT_LEAST);
    rows.iter().for_each(|row| is_row_of(row, protocol));
    let of_one_family = |row: &Row| {
        row.remote
            .is_none_or(|remote| remote.is_ipv4() == row.local.is_ipv4())
    };
    assert!(rows.iter().all(of_one_family), "{rows:?}");
    let mut first = Vec::new();
    let truncated = sock_diag::answers(&bytes[..cut], order, protocol, SEQUENCE, &mut first);
    assert_eq!(first, rows[..first.len()], "cut at {cut}");
    // Once a dump has ended or failed, later bytes do not change the outcome.
    assert!(
        truncated.progress == Progress::More || truncated == whole,
        "{truncated:?}, then {whole:?}"
    );
}

/// Each row of a `/proc/net` table is about the requested port. Port 0 requests all ports. Complete
/// lines decode to the same rows if the lines after them are cut off.
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
    // An incomplete last line must not cause a panic.
    rows(&bytes[..cut], 0);
    sockstat::tcp_at_most(&String::from_utf8_lossy(bytes));
    if let Some(port) = all.first().map(|row| row.local.port()) {
        let of_the_port: Vec<&Row> = all
            .iter()
            .filter(|row| port == 0 || row.local.port() == port)
            .collect();
        assert_eq!(rows(bytes, port).iter().collect::<Vec<_>>(), of_the_port);
    }
}

/// The decoders of `/proc` files and of `/etc/passwd` return valid values or none.
pub fn process(bytes: &[u8]) {
    if let Some(stat) = procfs::stat(bytes) {
        let open = bytes.iter().position(|b| *b == b'(').unwrap();
        let close = bytes.iter().rposition(|b| *b == b')').unwrap();
        assert_eq!(stat.name, String::from_utf8_lossy(&bytes[open + 1..close]));
        report(bytes);
    }
    procfs::effective_uid(bytes);
    procfs::maps_user(bytes, 65534);
    procfs::innermost_pid(bytes);
    procfs::thread_group(bytes);
    procfs::uptime(bytes);
    procfs::in_flight(bytes);
    if let Some(inode) = procfs::socket_inode(bytes) {
        assert_eq!(procfs::ring_inodes(bytes).collect::<Vec<_>>(), [inode]);
    }
    assert!(procfs::ring_inodes(bytes).count() <= bytes.len() / b"socket:[1]".len());
    let users = procfs::users(bytes);
    let numbers: BTreeSet<u32> = users.iter().map(|(uid, _)| *uid).collect();
    assert_eq!(numbers.len(), users.len(), "a user id came twice");
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

/// A name that a process chose adds no line and no control character to a report.
pub fn report(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes).into_owned();
    let report = |name: &str| {
        let process = Process {
            program: Some(name.into()),
            uid: Some(1),
            user: Some(name.to_owned()),
            started: Some(SystemTime::now()),
            working_directory: Some(name.into()),
            unit: Some(name.to_owned()),
            container: Some(name.to_owned()),
            ..Process::unknown(7, name.to_owned())
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
            interface: None,
            shared: false,
            hidden: false,
            processes: vec![process.clone(), process],
            unseen_owner: UnseenOwner::default(),
            may_be_client: false,
            is_past: false,
        };
        let record = Record {
            test: name.to_owned(),
            at: name.to_owned(),
            label: name.to_owned(),
            program: name.to_owned(),
            command: name.to_owned(),
            working_directory: name.to_owned(),
            name: Some(StableName {
                name: name.to_owned(),
                first_choice: 1,
            }),
            ..Record::default()
        };
        let leases = vec![Lease::new(Protocol::Tcp, 60315, Some(record))];
        Holders::new(60315, Some(Protocol::Tcp), vec![holder], leases, Vec::new()).to_string()
    };
    let text = report(&name);
    let lines = |text: &str| text.chars().filter(|c| *c == '\n').count();
    assert_eq!(lines(&text), lines(&report("plain")), "{text:?}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
}

/// A Windows socket table starts with the number of its rows. The decoder returns no more rows than
/// that number, and no more than fit into the bytes. No returned row belongs to process 0.
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
        let table = if protocol == Protocol::Tcp {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        for row in &rows {
            assert!(
                row.protocol == table && row.local.is_ipv6() == v6,
                "{row:?}"
            );
            assert!(
                row.inode.and_then(iphlpapi::process_of) != Some(0),
                "{row:?}"
            );
        }
        let first = iphlpapi::rows(&bytes[..cut], protocol, v6);
        assert_eq!(first, rows[..first.len()], "cut at {cut}");
    }
}

/// Only a complete macOS structure becomes a socket or a process. Each socket has a port that is
/// not 0.
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
        let _no_panic = info.started_at();
    }
}

/// An automatic pick tries no number twice, and no excluded number. `EphemeralRange::draws` returns
/// each number that the kernel assigns, and `EphemeralRange::non_ephemeral` returns none of them.
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
    let ephemeral = EphemeralRange::reported(range.clone(), &text(&withheld));

    let drawn = distinct(ephemeral.draws());
    let non_ephemeral = distinct(ephemeral.non_ephemeral());
    for port in 1..=u16::MAX {
        let assigned = range.contains(&port) && !withheld.contains(port);
        assert_eq!(
            drawn.contains(port),
            assigned,
            "{port}: `draws` must return every number that the kernel assigns, and no other"
        );
        assert!(
            !(non_ephemeral.contains(port) && assigned),
            "{port}: `non_ephemeral` returned a number that the kernel assigns"
        );
        assert_eq!(ephemeral.is_non_ephemeral(port), !assigned, "{port}");
    }
    assert!(
        ephemeral
            .outer_ranges()
            .iter()
            .all(|range| !range.is_empty())
    );

    let allowed = from.min(to).max(1)..=from.max(to).max(1);
    for allowed in [Some(allowed), None] {
        let tried = distinct(acquire::numbers_of(allowed.clone(), withheld.clone()));
        for port in 1..=u16::MAX {
            assert!(
                !(tried.contains(port) && withheld.contains(port)),
                "{port}: the pick tried an excluded number"
            );
            if let Some(allowed) = &allowed {
                assert_eq!(
                    tried.contains(port),
                    allowed.contains(&port) && !withheld.contains(port) && !ports::is_blocked(port),
                    "{port}"
                );
            }
        }
    }
}

/// Linux settings, sysctl(8) and netsh print port ranges. The parsers of these texts return no
/// empty range.
pub fn settings(bytes: &[u8]) {
    for range in ports::every_range_in(&String::from_utf8_lossy(bytes)) {
        assert!(!range.is_empty(), "{range:?}");
    }
}

/// The set of these numbers. Panics if a number is 0 or comes twice.
fn distinct(numbers: impl Iterator<Item = u16>) -> PortSet {
    let mut set = PortSet::default();
    for port in numbers {
        assert!(
            port != 0 && !set.contains(port),
            "{port} came twice, or is 0"
        );
        set.insert(port);
    }
    set
}

/// Prints the set as ranges, each as long as possible: `8080-8080,9000-9010`.
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

/// Splits the input into a header of three bytes and the bytes to decode. `None` if the input is
/// shorter than the header. The header has:
///
/// - one byte that selects the byte order and the protocol
/// - two bytes with the length to which the caller truncates the bytes to decode
fn split(bytes: &[u8]) -> Option<(Order, Protocol, usize, &[u8])> {
    let ([mode, low, high], bytes) = bytes.split_first_chunk()?;
    let order = if mode & 1 == 0 {
        Order::Little
    } else {
        Order::Big
    };
    let protocol = Protocol::ALL[usize::from(mode >> 1) % Protocol::ALL.len()];
    let cut = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    Some((order, protocol, cut, bytes))
}

fn is_row_of(row: &Row, protocol: Protocol) {
    assert_eq!(row.protocol, protocol);
    assert!(
        row.inode.is_some() || row.uid.is_none(),
        "a socket without an inode has a user: {row:?}"
    );
    assert!(!row.dual_stack || row.local.is_ipv6(), "{row:?}");
}
