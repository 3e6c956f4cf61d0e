//! Systems whose socket table this crate does not read yet. The functions that read the table fail
//! with `Unsupported`, because an empty table would mean that the port is free.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU64;

use super::{Group, Inode, Row, ScanDepth, ScanResult, Table};
use crate::model::endpoint::Protocol;

const SOCKET_TABLE: &str = "portlease cannot read the socket table of this system";

fn unsupported<T>(message: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

pub(super) fn sockets(_port: u16, _protocol: Option<Protocol>) -> io::Result<Table> {
    unsupported(SOCKET_TABLE)
}

pub(super) fn listening(_port: u16, _protocol: Protocol) -> io::Result<Vec<Row>> {
    unsupported(SOCKET_TABLE)
}

pub(super) fn processes(
    _wanted: &[(Inode, Option<u32>)],
    _depth: ScanDepth,
) -> io::Result<ScanResult> {
    unsupported(SOCKET_TABLE)
}

pub(super) fn abstract_socket(_name: &str) -> io::Result<Option<Inode>> {
    Ok(None)
}

pub(super) fn users() -> Vec<(u32, String)> {
    Vec::new()
}

pub(super) fn started(_pid: u32) -> io::Result<Option<NonZeroU64>> {
    Ok(None)
}

pub(super) fn parent(_pid: u32) -> Option<u32> {
    None
}

pub(super) fn unit_and_container(_pid: u32) -> (Option<String>, Option<String>) {
    (None, None)
}

pub(super) fn group(_pid: u32) -> Option<Group> {
    None
}

pub(super) fn user_of(_pid: u32) -> Option<u32> {
    None
}

pub(super) fn is_running(_pid: u32) -> io::Result<bool> {
    unsupported("portlease cannot inspect processes on this system")
}

pub(super) fn command_line(_pid: u32, _ticks: Option<NonZeroU64>) -> io::Result<Vec<OsString>> {
    unsupported("portlease cannot read command lines on this system")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_about_sockets_is_unsupported_and_none_reports_an_empty_table() {
        let kinds = [
            sockets(60315, None).map(drop).unwrap_err().kind(),
            listening(60315, Protocol::Tcp)
                .map(drop)
                .unwrap_err()
                .kind(),
            processes(&[(Inode::MIN, None)], ScanDepth::Complete)
                .map(drop)
                .unwrap_err()
                .kind(),
            command_line(1, None).map(drop).unwrap_err().kind(),
            is_running(1).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [io::ErrorKind::Unsupported; 5]);
        assert_eq!(abstract_socket("portlease/tcp/1").unwrap(), None);
        assert_eq!((users(), started(1).unwrap()), (Vec::new(), None));
        assert_eq!((parent(1), user_of(1)), (None, None));
        assert!(group(1).is_none());
        assert_eq!(unit_and_container(1), (None, None));
    }
}
