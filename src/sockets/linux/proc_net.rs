//! `/proc/net`, where the kernel (or what imitates one) has no `sock_diag`. TCP sockets that are bound and do not
//! listen are not in it, and each look costs a millisecond.

use std::fs;
use std::io;

use super::super::decode::procfs;
use super::super::decode::sock_diag::Order;
use super::super::{Inode, Row};
use crate::model::endpoint::Protocol;
use crate::model::state::State;

/// `/proc/net` is the network of the process's first thread, which need not be the caller's.
const FOLDERS: [&str; 2] = ["/proc/thread-self/net", "/proc/net"];

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
            // No such protocol, or no IPv6: then nobody has a socket of it. IPv4 and TCP there always is.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (family == "6" || protocol == Protocol::UdpLite) =>
            {
                fs::metadata(FOLDERS[1])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As [`sockets`], of those that would answer.
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

/// The inode of the abstract Unix socket of this name.
pub(in super::super) fn abstract_socket(name: &str) -> io::Result<Option<Inode>> {
    let text = read("unix")?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| procfs::abstract_socket(line, name)))
}

fn table(protocol: Protocol, family: &str) -> io::Result<Vec<u8>> {
    read(&format!("{protocol}{family}"))
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    let [own, any] = FOLDERS.map(|folder| format!("{folder}/{file}"));
    match fs::read(own) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read(any),
        read => read,
    }
}
