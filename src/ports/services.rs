//! The services file: which numbers have a name.

use once_cell::sync::OnceCell;

use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;

/// Numbers that servers of developers' machines use without asking, whether or not the services file has them.
const CUSTOMARY: [u16; 44] = [
    1433, 1434, 1521, 1883, 2049, 2181, 2375, 2376, 2379, 2380, 3000, 3001, 3128, 3306, 3389, 4000,
    4200, 4317, 4318, 4369, 5000, 5001, 5173, 5353, 5432, 5601, 5672, 5900, 6379, 6443, 8000, 8080,
    8081, 8086, 8443, 8888, 9000, 9042, 9090, 9092, 9200, 9300, 11211, 27017,
];

/// The name of a port in this system's services file.
pub(crate) fn name(port: u16, protocol: Protocol) -> Option<String> {
    let text = std::fs::read_to_string(FILE).ok()?;
    lines(&text)
        .find(|line| line.port == port && line.protocol == protocol.as_str())
        .map(|line| line.name.to_owned())
}

/// The numbers that a common service uses: those of the services file, read once, and the customary ones.
pub(crate) fn numbers() -> &'static PortSet {
    static NUMBERS: OnceCell<PortSet> = OnceCell::new();
    NUMBERS.get_or_init(|| {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        let mut numbers = PortSet::default();
        numbers.extend(CUSTOMARY);
        numbers.extend(lines(&text).map(|line| line.port));
        numbers
    })
}

const FILE: &str = if cfg!(windows) {
    r"C:\Windows\System32\drivers\etc\services"
} else {
    "/etc/services"
};

struct Line<'a> {
    name: &'a str,
    port: u16,
    protocol: &'a str,
}

/// `http  80/tcp  www  # WorldWideWeb`.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        Some(Line {
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
    fn a_services_file_is_read_line_by_line() {
        let text =
            "# comment\n\nhttp\t80/tcp www # web\ndomain 53/udp\nodd\nodd x/tcp\nodd 70000/tcp\n";
        let read: Vec<_> = lines(text)
            .map(|line| (line.name, line.port, line.protocol))
            .collect();
        assert_eq!(read, [("http", 80, "tcp"), ("domain", 53, "udp")]);
    }
}
