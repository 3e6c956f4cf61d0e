//! The numbers of common services: those in the system's services file, and those in a list of this
//! crate.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::sync::OnceCell;

use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::retry::SERVICE_SEARCHES;

/// The default ports of servers that often run on developers' machines. Some are also in the
/// services file.
const COMMON: [u16; 44] = [
    1433, 1434, 1521, 1883, 2049, 2181, 2375, 2376, 2379, 2380, 3000, 3001, 3128, 3306, 3389, 4000,
    4200, 4317, 4318, 4369, 5000, 5001, 5173, 5353, 5432, 5601, 5672, 5900, 6379, 6443, 8000, 8080,
    8081, 8086, 8443, 8888, 9000, 9042, 9090, 9092, 9200, 9300, 11211, 27017,
];

/// The text of this system's services file; empty if the file cannot be read.
pub(crate) struct Services(String);

impl Services {
    pub(crate) fn read() -> Services {
        Services(text().unwrap_or_default())
    }

    /// The name of the service; `None` if the file does not list the port with this protocol.
    pub(crate) fn name(&self, port: u16, protocol: Protocol) -> Option<String> {
        // Searches for the digits before it parses the file, because most numbers are not in the
        // file. The search takes 1 us, and parsing takes 60 us.
        if !self.0.contains(&format!("{port}/")) {
            return None;
        }
        let mut entries = entries(&self.0);
        let entry = entries.find(|it| it.port == port && it.protocol == protocol.as_str());
        entry.map(|entry| entry.name.to_owned())
    }
}

/// Whether the number is in [`COMMON`] or in the services file. A missing file counts as empty. If
/// the file cannot be read for another reason, such as a lack of descriptors, only [`COMMON`]
/// counts. The next call then tries to read the file again.
///
/// Most processes reserve only a few ports, so the expensive steps come late:
///
/// - The first call searches the file for the digits of the number. That takes a third of the time
///   of reading the file into memory. If the digits are missing, the call ends.
/// - If the first call finds the digits, it reads the file. If not, the second call reads it. The
///   process keeps the text.
/// - The calls up to number [`SERVICE_SEARCHES`] search the kept text, at 1 us each.
/// - The next call parses the text, which takes 60 us. The process keeps the numbers.
pub(crate) fn is_common(port: u16) -> bool {
    static TEXT: OnceCell<String> = OnceCell::new();
    static NUMBERS: OnceCell<PortSet> = OnceCell::new();
    static SEARCHES: AtomicU32 = AtomicU32::new(0);
    if COMMON.contains(&port) {
        return true;
    }
    let searches = SEARCHES.fetch_add(1, Ordering::Relaxed);
    if searches == 0 && file_contains(&format!("{port}/")).is_ok_and(|found| !found) {
        return false;
    }
    let read = || match text() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    let Ok(text) = TEXT.get_or_try_init(read) else {
        return false;
    };
    if NUMBERS.get().is_none() && searches < SERVICE_SEARCHES {
        return text.contains(&format!("{port}/")) && entries(text).any(|entry| entry.port == port);
    }
    let numbers = || entries(text).map(|entry| entry.port).collect();
    NUMBERS.get_or_init(numbers).contains(port)
}

const FILE: &str = if cfg!(windows) {
    r"C:\Windows\System32\drivers\etc\services"
} else {
    "/etc/services"
};

/// The text of the services file. `U+FFFD` replaces bytes that are not UTF-8, so they affect only
/// their own entry.
fn text() -> io::Result<String> {
    let bytes = std::fs::read(FILE)?;
    // `from_utf8` needs 1 us for the usual 13 KB, and `from_utf8_lossy` ten times as long.
    let text = String::from_utf8(bytes);
    Ok(text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Whether the services file contains this text, which has at most 16 bytes. Reads the file in
/// parts on the stack: for a copy of the whole file, the kernel would have to provide new pages.
fn file_contains(text: &str) -> io::Result<bool> {
    let mut file = File::open(FILE)?;
    let mut part = [0; 4096];
    // How many bytes at the end of the last part were kept, because the text may begin there.
    let mut kept = 0;
    loop {
        let read = file.read(&mut part[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let filled = kept + read;
        // A part of a usual file is ASCII, and `from_utf8` checks it ten times as fast as
        // `utf8_chunks`.
        let found = match std::str::from_utf8(&part[..filled]) {
            Ok(part) => part.contains(text),
            Err(_) => {
                let mut valid = part[..filled].utf8_chunks();
                valid.any(|chunk| chunk.valid().contains(text))
            }
        };
        if found {
            return Ok(true);
        }
        kept = filled.min(text.len() - 1);
        part.copy_within(filled - kept..filled, 0);
    }
}

struct Entry<'a> {
    name: &'a str,
    port: u16,
    protocol: &'a str,
}

/// Parses lines such as `http  80/tcp  www  # WorldWideWeb`, and skips other lines.
fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        Some(Entry {
            name,
            port: port.parse().ok()?,
            protocol,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_and_the_parsed_file_agree() {
        let listed: PortSet = text()
            .iter()
            .flat_map(|text| entries(text).map(|entry| entry.port).collect::<Vec<_>>())
            .collect();
        // `is_common` searches the text in its first calls, and uses the parsed file afterwards.
        // This loop makes enough calls for both.
        for port in (1..2000).rev() {
            let expected = COMMON.contains(&port) || listed.contains(port);
            assert_eq!(is_common(port), expected, "{port}");
        }
    }

    #[test]
    fn a_text_at_any_place_of_the_file_is_found() {
        let text = text().unwrap_or_default();
        for (at, _) in text.char_indices().step_by(7) {
            let Some(part) = text.get(at..at + 6) else {
                continue;
            };
            assert!(file_contains(part).unwrap(), "{part:?} at {at}");
        }
        assert_eq!(
            file_contains("99999/").ok(),
            File::open(FILE).ok().map(|_| false)
        );
    }

    #[test]
    fn comments_and_malformed_lines_of_a_services_file_are_skipped() {
        let text =
            "# comment\n\nhttp\t80/tcp www # web\ndomain 53/udp\nodd\nodd x/tcp\nodd 70000/tcp\n";
        let parsed: Vec<_> = entries(text)
            .map(|entry| (entry.name, entry.port, entry.protocol))
            .collect();
        assert_eq!(parsed, [("http", 80, "tcp"), ("domain", 53, "udp")]);
    }
}
