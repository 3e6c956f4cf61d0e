//! Encodes and decodes the record of a lease: a text that says which process has the port.

use std::fmt::{self, Write as _};
use std::num::{NonZeroU64, ParseIntError};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use crate::model::record::{Beneficiary, Record, StableName};

impl FromStr for Beneficiary {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, started) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Beneficiary {
            pid: pid.parse()?,
            started: NonZeroU64::new(started.parse()?),
        })
    }
}

impl FromStr for StableName {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first_choice, name) = text.split_once(' ').unwrap_or((text, ""));
        Ok(StableName {
            name: unescape(name),
            first_choice: first_choice.parse()?,
        })
    }
}

/// The start of the first line, with the version of the format. Records of another version are
/// ignored.
const HEADER: &str = "portlease 1 ";

impl Record {
    /// The size of every record in bytes. All records have the same size, so one write replaces the
    /// previous record completely.
    pub(crate) const SIZE: usize = 2048;

    /// When a lease is released, these bytes overwrite the start of its record. The record then
    /// decodes to `None`.
    pub(crate) const ENDED: &[u8] = b"-";

    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let stamp = format!("{}.{:09}", self.since.as_secs(), self.since.subsec_nanos());
        let mut text = String::with_capacity(Self::SIZE);
        let fields: [(&str, &dyn fmt::Display); 11] = [
            ("pid", &self.pid),
            ("started", &or_zero(self.started)),
            ("socket", &or_zero(self.socket)),
            ("pidns", &or_zero(self.pid_namespace)),
            ("test", &Line(&self.test)),
            ("at", &Line(&self.at)),
            ("label", &Line(&self.label)),
            ("program", &Line(&self.program)),
            ("command", &Line(&self.command)),
            ("folder", &Line(&self.working_directory)),
            ("end", &stamp),
        ];
        let _infallible = writeln!(text, "{HEADER}{stamp}");
        if let Some(Beneficiary { pid, started }) = self.on_behalf_of {
            let _infallible = writeln!(text, "for {pid} {}", or_zero(started));
        }
        if let Some(StableName { name, first_choice }) = &self.name {
            let _infallible = writeln!(text, "named {first_choice} {}", Line(name));
        }
        for (name, value) in fields {
            let _infallible = writeln!(text, "{name} {value}");
        }
        let mut bytes = [b'\n'; Self::SIZE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    /// Returns `None` if the bytes are not a whole record of this version. Examples are an empty
    /// file, a torn record (a mixture of two writes), and the record of a released lease.
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
                "started" => record.started = NonZeroU64::new(value.parse().ok()?),
                "socket" => record.socket = NonZeroU64::new(value.parse().ok()?),
                "pidns" => record.pid_namespace = NonZeroU64::new(value.parse().ok()?),
                "for" => record.on_behalf_of = Some(value.parse().ok()?),
                "named" => record.name = Some(value.parse().ok()?),
                "test" => record.test = unescape(value),
                "at" => record.at = unescape(value),
                "label" => record.label = unescape(value),
                "program" => record.program = unescape(value),
                "command" => record.command = unescape(value),
                "folder" => record.working_directory = unescape(value),
                // The first line and the last line hold the same stamp (the time of the
                // reservation). In a torn record, which mixes two writes, the stamps differ.
                "end" => {
                    return (value == stamp && UNIX_EPOCH.checked_add(record.since).is_some())
                        .then_some(record);
                }
                // Ignores an unknown field, because a later release of this crate may add fields.
                _ => {}
            }
            rest = after;
        }
    }
}

/// Returns `text` as a record holds it: `…` replaces the middle of a long text.
pub(crate) fn as_recorded(text: &str) -> String {
    unescape(&Line(text).to_string())
}

/// In a record, 0 stands for `None`.
fn or_zero(number: Option<NonZeroU64>) -> u64 {
    number.map_or(0, NonZeroU64::get)
}

/// Prints a text as one line, with backslashes and newlines escaped. If the line would be longer
/// than [`LINE_MAX`] bytes, prints its start and its end, with `…` in between.
struct Line<'a>(&'a str);

/// The longest text that a record holds, in bytes. Seven such texts and all numbers fit into
/// [`Record::SIZE`].
const LINE_MAX: usize = 200;

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= LINE_MAX && !self.0.contains(['\\', '\n']) {
            return f.write_str(self.0);
        }
        let escaped = |c: char| match c {
            '\\' => r"\\".to_owned(),
            '\n' => r"\n".to_owned(),
            other => other.to_string(),
        };
        let text: String = self.0.chars().map(escaped).collect();
        if text.len() <= LINE_MAX {
            return f.write_str(&text);
        }
        // The cuts are between characters of the original text, so no escape sequence is split.
        let fitting = |chars: &mut dyn Iterator<Item = char>, limit: usize| {
            let mut left = limit;
            let fits = |text: &String| {
                let fits = text.len() <= left;
                left = left.saturating_sub(text.len());
                fits
            };
            chars.map(escaped).take_while(fits).collect::<Vec<_>>()
        };
        let head = fitting(&mut self.0.chars(), LINE_MAX / 4);
        let kept = LINE_MAX - LINE_MAX / 4 - '…'.len_utf8();
        let mut tail = fitting(&mut self.0.chars().rev(), kept);
        tail.reverse();
        write!(f, "{}…{}", head.concat(), tail.concat())
    }
}

fn unescape(line: &str) -> String {
    if !line.contains('\\') {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(escaped) => out.push(escaped),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoint::Protocol;
    use crate::model::lease_info::Lease;

    fn record() -> Record {
        Record {
            pid: 4100,
            started: NonZeroU64::new(123_456),
            program: "/target/debug/deps/restart-0123".to_owned(),
            test: "restart::keeps \\its\nport".to_owned(),
            at: "tests/restart.rs:17".to_owned(),
            label: "redis primary".to_owned(),
            command: "redis-server --port 60315".to_owned(),
            working_directory: "/home/ci/project".to_owned(),
            since: Duration::new(1_769_860_800, 5),
            socket: NonZeroU64::new(77),
            pid_namespace: NonZeroU64::new(4_026_531_836),
            on_behalf_of: Some(Beneficiary {
                pid: 4000,
                started: NonZeroU64::new(9),
            }),
            name: Some(StableName {
                name: "the \\ db\n".to_owned(),
                first_choice: 20123,
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
    fn the_longest_record_fits_because_texts_are_cut_between_characters() {
        let long = "é\n\\".repeat(400);
        let longest = Record {
            pid: u32::MAX,
            started: NonZeroU64::new(u64::MAX),
            program: long.clone(),
            test: long.clone(),
            at: long.clone(),
            label: long.clone(),
            command: long.clone(),
            working_directory: long.clone(),
            since: Duration::new(u64::MAX / 4, 999_999_999),
            socket: NonZeroU64::new(u64::MAX),
            pid_namespace: NonZeroU64::new(u64::MAX),
            on_behalf_of: Some(Beneficiary {
                pid: u32::MAX,
                started: NonZeroU64::new(u64::MAX),
            }),
            name: Some(StableName {
                name: long,
                first_choice: u16::MAX,
            }),
        };
        let bytes = longest.encode();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("\nend "), "{text}");
        // A shortened text holds only whole escape sequences.
        for start in ["", "a", "ab", "abc"] {
            let label = format!("{start}{}", "\\".repeat(400));
            let cut = Record::decode(&Record { label, ..record() }.encode()).unwrap();
            let rest = cut.label.trim_start_matches(start);
            assert!(rest.chars().all(|c| c == '\\' || c == '…'), "{rest}");
        }
        let working_directory = "é\n\\".repeat(400);
        let recorded = as_recorded(&working_directory);
        let cut = Record {
            working_directory,
            ..record()
        };
        let cut = Record::decode(&cut.encode()).unwrap();
        assert_eq!(cut.working_directory, recorded);
    }

    #[test]
    fn a_truncated_record_is_none_and_a_mixture_of_two_is_none_or_the_newer() {
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
    fn bytes_that_are_no_record_of_this_version_decode_to_none() {
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
    fn fields_that_a_later_release_added_are_ignored() {
        let text = b"portlease 1 1.0\npid 3\nmood fine\nend 1.0\n";
        assert_eq!(Record::decode(text).unwrap().pid, 3);
    }

    #[test]
    fn a_record_without_the_newer_fields_is_read() {
        let text = b"portlease 1 1.0\npid 3\nstarted 0\nsocket 0\ntest \nat a.rs:1\nlabel \n\
                     program /bin/a\nend 1.0\n\n\n";
        let record = Record::decode(text).unwrap();
        assert_eq!((record.at.as_str(), record.pid_namespace), ("a.rs:1", None));
        assert!(record.command.is_empty() && record.working_directory.is_empty());
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
