//! Reads `/proc/net`. Its tables of TCP and UDP sockets replace `sock_diag` on kernels and
//! emulators without `sock_diag`. The tables do not show TCP sockets that are bound and do not
//! listen. A read of the tables takes about a millisecond.

use std::fs;
use std::io;

use super::super::decode::procfs;
use super::super::decode::sock_diag::Order;
use super::super::decode::sockstat;
use super::super::{Inode, Row};
use crate::model::endpoint::Protocol;
use crate::model::state::State;

/// `/proc/net` shows the network namespace of the process's first thread. The calling thread can be
/// in another namespace, so `read` tries the folder of the calling thread first.
const OF_THREAD: &str = "/proc/thread-self/net";
const OF_PROCESS: &str = "/proc/net";

/// Appends the sockets of the protocol with this local port (0: any).
pub(super) fn sockets(protocol: Protocol, port: u16, rows: &mut Vec<Row>) -> io::Result<()> {
    for family in ["", "6"] {
        match table(protocol, family) {
            Ok(text) => {
                rows.extend(procfs::sockets(
                    &String::from_utf8_lossy(&text),
                    Order::NATIVE,
                    protocol,
                    port,
                ));
            }
            // A missing file of IPv6 or UDP-Lite means that the kernel lacks the protocol, so there
            // are no rows to add. If `/proc/net` itself is missing, the call fails.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (family == "6" || protocol == Protocol::UdpLite) =>
            {
                if !fs::exists(OF_PROCESS)? {
                    return Err(without_table());
                }
            }
            Err(_) if !fs::exists(OF_PROCESS)? => return Err(without_table()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The error on a system without any socket table. If a check or a wait for a TCP listener gets the
/// kind `Unsupported`, it tries a connection instead.
fn without_table() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "neither sock_diag(7) nor /proc/net shows the sockets",
    )
}

/// Like [`sockets`], but then keeps only TCP sockets that listen, or UDP sockets without a peer.
pub(super) fn listening(protocol: Protocol, port: u16, rows: &mut Vec<Row>) -> io::Result<()> {
    sockets(protocol, port, rows)?;
    let answering = if protocol == Protocol::Tcp {
        State::Listen
    } else {
        State::Bound
    };
    rows.retain(|row| row.state == answering);
    Ok(())
}

/// The inode of the abstract Unix socket with this name; `None` if no such socket exists.
pub(in super::super) fn abstract_socket(name: &str) -> io::Result<Option<Inode>> {
    let text = read("unix")?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| procfs::abstract_socket(line, name)))
}

/// An upper limit of the number of TCP sockets, from `/proc/net/sockstat`
/// ([`sockstat::tcp_at_most`]). `None` if the file cannot be read or lacks the counts.
pub(in super::super) fn tcp_at_most() -> Option<usize> {
    let text = read("sockstat").ok()?;
    sockstat::tcp_at_most(&String::from_utf8_lossy(&text))
}

fn table(protocol: Protocol, family: &str) -> io::Result<Vec<u8>> {
    read(&format!("{protocol}{family}"))
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    match fs::read(format!("{OF_THREAD}/{file}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::read(format!("{OF_PROCESS}/{file}"))
        }
        read => read,
    }
}
