//! [`Lease`]: what a lock file says about the reservation behind it, and its text form.

use std::fmt::{self, Write as _};
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::endpoint::Protocol;

/// A live reservation on this machine, of this process or another, as its lock file tells.
///
/// A lease is live because the kernel says that its file is locked, never because of what is written in it. The
/// record is a note for people: it can be missing (no space to write it, or a newer release of this crate wrote
/// it), and then all but the port and the protocol is `None`. Command lines and environments are never recorded:
/// they carry secrets.
///
/// ```
/// let p = portlease::reserve_port();
/// for lease in portlease::reservations()? {
///     println!("{lease}"); // 41023/tcp is reserved by test …
/// }
/// # drop(p);
/// # Ok::<(), portlease::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    protocol: Protocol,
    port: u16,
    record: Option<Record>,
}

impl Lease {
    pub(crate) fn new(protocol: Protocol, port: u16, record: Option<Record>) -> Self {
        Lease {
            protocol,
            port,
            record,
        }
    }

    /// The reserved number.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.port(), p.port());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The protocol it is reserved for.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.protocol(), portlease::Protocol::Tcp);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The process that reserved it, as that process saw its own id: in another container's PID namespace the
    /// number means nothing here.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.pid(), Some(std::process::id()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn pid(&self) -> Option<u32> {
        self.record.as_ref().map(|r| r.pid)
    }

    /// The process that it is held for, where that is another one:
    /// [`ReserveOptions::on_behalf_of`](crate::ReserveOptions::on_behalf_of).
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.on_behalf_of(), None); // its own
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn on_behalf_of(&self) -> Option<u32> {
        self.record
            .as_ref()
            .and_then(|r| r.on_behalf_of)
            .map(|process| process.pid)
    }

    /// The path of that process's program.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert!(lease.program().is_some());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn program(&self) -> Option<&str> {
        self.text(|r| &r.program)
    }

    /// The test that reserved it: the name of its thread, or what `cargo nextest` calls it.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// println!("{:?}", lease.test()); // the thread, which libtest names after the test
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn test(&self) -> Option<&str> {
        self.text(|r| &r.test)
    }

    /// The source line of the reserving call, as `tests/restart.rs:17`.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// println!("{:?}", lease.at()); // tests/restart.rs:17
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn at(&self) -> Option<&str> {
        self.text(|r| &r.at)
    }

    /// What [`ReserveOptions::label`](crate::ReserveOptions::label) was given.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.label(), Some("docs"));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn label(&self) -> Option<&str> {
        self.text(|r| &r.label)
    }

    /// When it was reserved, by the clock of the reserving process.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert!(lease.since().is_some());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn since(&self) -> Option<SystemTime> {
        self.record.as_ref().map(|r| UNIX_EPOCH + r.since)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    fn text(&self, field: impl Fn(&Record) -> &String) -> Option<&str> {
        self.record
            .as_ref()
            .map(|r| field(r).as_str())
            .filter(|text| !text.is_empty())
    }
}

/// `60315/tcp is reserved by test restarts (tests/restart.rs:17), pid 4100`.
impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} is reserved {}",
            self.port,
            self.protocol,
            self.by()
        )
    }
}

impl Lease {
    /// `by test restarts (tests/restart.rs:17), pid 4100`: the part of a sentence that names the reserver.
    pub(crate) fn by(&self) -> String {
        let Some(record) = &self.record else {
            return "by a process that left no record".to_owned();
        };
        let mut text = match (self.test(), self.program()) {
            (Some(test), _) => format!("by test {}", printable(test)),
            (None, Some(program)) => {
                format!(
                    "by {}",
                    printable(program.rsplit('/').next().unwrap_or(program))
                )
            }
            (None, None) => "by a process".to_owned(),
        };
        // Writing to a String does not fail.
        if let Some(at) = self.at() {
            text += &format!(" ({})", printable(at));
        }
        text += &format!(", pid {}", record.pid);
        if let Some(process) = record.on_behalf_of {
            text += &format!(" for pid {}", process.pid);
        }
        if let Some(label) = self.label() {
            text += &format!(", labelled \"{}\"", printable(label));
        }
        text
    }
}

/// Control characters escaped: a name from another process must not move the cursor or forge a line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
            {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            out
        })
}

/// What a lock file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    /// The process's start, in the system's own unit and count; 0 is unknown. With it a recycled pid is told from
    /// the process that was meant.
    pub(crate) started: u64,
    pub(crate) program: String,
    pub(crate) test: String,
    pub(crate) at: String,
    pub(crate) label: String,
    /// Since the Unix epoch.
    pub(crate) since: Duration,
    /// The inode of the claim's socket; 0 where there is none.
    pub(crate) socket: u64,
    /// The process that it is held for, where that is another one.
    pub(crate) on_behalf_of: Option<Beneficiary>,
}

/// A process, told from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beneficiary {
    pub(crate) pid: u32,
    pub(crate) started: u64,
}

impl FromStr for Beneficiary {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, started) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Beneficiary {
            pid: pid.parse()?,
            started: started.parse()?,
        })
    }
}

/// The first line's start. A record of another version is not read.
const HEADER: &str = "portlease 1 ";

impl Record {
    /// Every record has this size, so that one write in place replaces the one before it whole.
    pub(crate) const SIZE: usize = 1024;

    /// What a released record starts with.
    pub(crate) const ENDED: &[u8] = b"-";

    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let stamp = format!("{}.{:09}", self.since.as_secs(), self.since.subsec_nanos());
        let mut text = String::with_capacity(Self::SIZE);
        let fields: [(&str, &dyn fmt::Display); 8] = [
            ("pid", &self.pid),
            ("started", &self.started),
            ("socket", &self.socket),
            ("test", &Line(&self.test)),
            ("at", &Line(&self.at)),
            ("label", &Line(&self.label)),
            ("program", &Line(&self.program)),
            ("end", &stamp),
        ];
        let _infallible = writeln!(text, "{HEADER}{stamp}");
        if let Some(Beneficiary { pid, started }) = self.on_behalf_of {
            let _infallible = writeln!(text, "for {pid} {started}");
        }
        for (name, value) in fields {
            let _infallible = writeln!(text, "{name} {value}");
        }
        let mut bytes = [b'\n'; Self::SIZE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    /// `None` for whatever is not a whole record of this version: empty, torn, ended, newer, or not one at all.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (stamp, mut rest) = text.strip_prefix(HEADER)?.split_once('\n')?;
        let (secs, nanos) = stamp.split_once('.')?;
        let mut record = Record {
            since: Duration::new(
                secs.parse().ok()?,
                nanos.parse().ok().filter(|n| *n < 1_000_000_000)?,
            ),
            ..Record::default()
        };
        loop {
            let (line, after) = rest.split_once('\n')?;
            let (name, value) = line.split_once(' ')?;
            match name {
                "pid" => record.pid = value.parse().ok()?,
                "started" => record.started = value.parse().ok()?,
                "socket" => record.socket = value.parse().ok()?,
                "for" => record.on_behalf_of = Some(value.parse().ok()?),
                "test" => record.test = unescape(value),
                "at" => record.at = unescape(value),
                "label" => record.label = unescape(value),
                "program" => record.program = unescape(value),
                // A record torn between two writers has the one's head and the other's end.
                "end" => {
                    return (value == stamp && UNIX_EPOCH.checked_add(record.since).is_some())
                        .then_some(record);
                }
                // A later release may say more.
                _ => {}
            }
            rest = after;
        }
    }
}

/// One line of bounded length: backslashes and line ends escaped, the middle left out of what is too long.
struct Line<'a>(&'a str);

/// Four such values and the numbers fit [`Record::SIZE`].
const LINE_MAX: usize = 200;

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= LINE_MAX && !self.0.contains(['\\', '\n']) {
            return f.write_str(self.0);
        }
        let escaped = self.0.replace('\\', "\\\\").replace('\n', "\\n");
        if escaped.len() <= LINE_MAX {
            return f.write_str(&escaped);
        }
        let boundary = |at: &usize| escaped.is_char_boundary(*at);
        let head = (0..=LINE_MAX / 4).rev().find(boundary).unwrap_or(0);
        let kept = LINE_MAX - LINE_MAX / 4 - '…'.len_utf8();
        let tail = (escaped.len() - kept..=escaped.len())
            .find(boundary)
            .unwrap_or(escaped.len());
        write!(f, "{}…{}", &escaped[..head], &escaped[tail..])
    }
}

fn unescape(line: &str) -> String {
    if !line.contains('\\') {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            pid: 4100,
            started: 123_456,
            program: "/target/debug/deps/restart-0123".to_owned(),
            test: "restart::keeps \\its\nport".to_owned(),
            at: "tests/restart.rs:17".to_owned(),
            label: "redis primary".to_owned(),
            since: Duration::new(1_769_860_800, 5),
            socket: 77,
            on_behalf_of: Some(Beneficiary {
                pid: 4000,
                started: 9,
            }),
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        assert_eq!(Record::decode(&record().encode()), Some(record()));
        assert_eq!(
            Record::decode(&Record::default().encode()),
            Some(Record::default())
        );
    }

    #[test]
    fn the_longest_record_fits_and_is_cut_between_characters() {
        let long = "é\n\\".repeat(400);
        let most = Record {
            pid: u32::MAX,
            started: u64::MAX,
            program: long.clone(),
            test: long.clone(),
            at: long.clone(),
            label: long,
            since: Duration::new(u64::MAX / 4, 999_999_999),
            socket: u64::MAX,
            on_behalf_of: Some(Beneficiary {
                pid: u32::MAX,
                started: u64::MAX,
            }),
        };
        let bytes = most.encode();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("\nend "), "{text}");
    }

    #[test]
    fn every_truncation_and_every_mixture_of_two_records_is_no_record() {
        let (old, new) = (
            record().encode(),
            Record {
                since: Duration::new(9, 0),
                pid: 1,
                ..record()
            }
            .encode(),
        );
        let end = old.iter().rposition(|b| *b != b'\n').unwrap();
        for cut in 0..=end {
            assert_eq!(Record::decode(&old[..cut]), None, "cut at {cut}");
        }
        for cut in HEADER.len() + 12..end {
            let mixed = [&new[..cut], &old[cut..]].concat();
            assert!(
                Record::decode(&mixed).is_none_or(|r| Some(r) == Record::decode(&new)),
                "mixed at {cut}: {}",
                String::from_utf8_lossy(&mixed)
            );
        }
    }

    #[test]
    fn what_is_not_a_record_of_this_version_is_none() {
        for bytes in [
            &b""[..],
            b"\n\n\n",
            b"portlease",
            b"portlease 2 1.0\npid 3\nend 1.0\n",
            b"\xff\xfe",
            b"-ortlease 1 1.0\nend 1.0\n",
        ] {
            assert_eq!(Record::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_later_record_may_say_more() {
        let text = b"portlease 1 1.0\npid 3\nmood fine\nend 1.0\n";
        assert_eq!(Record::decode(text).unwrap().pid, 3);
    }

    #[test]
    fn names_are_escaped_where_they_are_printed() {
        let forged = Record {
            test: "a\u{1b}[31m\nhelp: x".to_owned(),
            ..record()
        };
        let text = Lease::new(Protocol::Tcp, 1, Some(forged)).to_string();
        assert!(!text.contains(['\n', '\u{1b}']), "{text}");
    }
}
