//! Tests that compare the socket table with real sockets of this machine.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::*;
use crate::model::endpoint::Protocol::{Tcp, Udp};
use crate::model::holder::Holder;
use crate::model::incompleteness::{Incompleteness, UnseenBound};

mod connections;
mod hidden;
mod proc_net;
mod processes;
mod sockets;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// How long a test polls for an expected state. The limit is long because the machine can be busy.
const TIMEOUT: Duration = Duration::from_secs(60);

fn me() -> u32 {
    std::process::id()
}

/// A text for comparing holders, such as `listen 127.0.0.1:P by [7]`. `P` stands for `port`.
fn summary(holder: &Holder, port: u16) -> String {
    let mut text = format!("{} {}", holder.state.name(), holder.local);
    if let Some(remote) = holder.remote {
        text += &format!(" - {remote}");
    }
    for (word, applies) in [
        ("client", holder.client),
        ("dual", holder.dual_stack),
        ("hidden", holder.hidden),
    ] {
        if applies {
            text += &format!(" {word}");
        }
    }
    let pids: Vec<u32> = holder.processes.iter().map(|process| process.pid).collect();
    text += &format!(" by {pids:?}");
    text.replace(&format!(":{port} "), ":P ")
}

fn holders_of(port: u16, protocol: Protocol) -> (Vec<Holder>, Vec<Incompleteness>) {
    search(sockets(port, Some(protocol)).unwrap())
}

fn search(table: Table) -> (Vec<Holder>, Vec<Incompleteness>) {
    let owned = owners(table.rows, ScanDepth::Complete).unwrap();
    (owned.holders, [table.unseen, owned.unseen].concat())
}

/// Waits until the port has exactly these rows, in any order.
///
/// The function ignores two kinds of rows, which other tests can cause on the same number: a
/// TIME_WAIT, and a socket of another process on another address.
///
/// The function polls, because a forked child of another test shares this process's sockets until
/// its exec, and because a connection takes time to close.
#[track_caller]
fn expect(port: u16, protocol: Protocol, expected: &[&str]) {
    let mut expected: Vec<String> = expected
        .iter()
        .map(|row| row.replace(" by me", &format!(" by [{}]", me())))
        .collect();
    expected.sort();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (holders, unseen) = holders_of(port, protocol);
        let mut rows: Vec<String> = holders.iter().map(|holder| summary(holder, port)).collect();
        let address = |row: &str| row.split(' ').nth(1).map(str::to_owned);
        let is_elsewhere = |row: &String| {
            let is_of_others = !row.ends_with("by []") && !row.contains(&format!("{}", me()));
            is_of_others && !expected.iter().any(|known| address(known) == address(row))
        };
        rows.retain(|row| {
            expected.contains(row) || !(row.starts_with("time_wait") || is_elsewhere(row))
        });
        rows.sort();
        if rows == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "port {port}: {rows:#?}, not {expected:#?}; unseen {unseen:?}"
        );
    }
}

/// Waits until no socket on the port has an inode, because another test can briefly use the number
/// on another address. Then asserts that [`owners`] reports nothing as unseen: a socket without an
/// inode has no process to search for.
#[track_caller]
fn expect_no_owner(port: u16) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let table = sockets(port, Some(Tcp)).unwrap();
        if table.rows.iter().all(|row| row.inode.is_none()) {
            let owned = owners(table.rows, ScanDepth::Complete).unwrap();
            return assert_eq!(owned.unseen, [], "no process was needed");
        }
        assert!(Instant::now() < deadline, "port {port}: {:#?}", table.rows);
    }
}

fn listener(ip: IpAddr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn bound(ip: IpAddr, reuse: bool, kind: Type) -> (Socket, u16) {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), kind, None).unwrap();
    if ip.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.set_reuse_address(reuse).unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// Connects from a port that no other test uses. Without the bind, connect(2) could choose a port
/// that a client of another test uses for a connection to another server.
fn connect(ip: IpAddr, port: u16) -> TcpStream {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(ip, 0)),
        Type::STREAM,
        None,
    )
    .unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    socket.connect(&SocketAddr::new(ip, port).into()).unwrap();
    socket.into()
}

/// Prints that a test cannot run here, and why. Panics instead if `PORTLEASE_NO_SKIP` is 1.
pub(super) fn skip(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}");
    assert!(
        std::env::var_os("PORTLEASE_NO_SKIP").is_none_or(|v| v != "1"),
        "{line}"
    );
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("PORTLEASE_SKIPS") {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn has_ipv6(test: &str) -> bool {
    let has = TcpListener::bind((V6, 0)).is_ok();
    if !has {
        skip(test, "no IPv6");
    }
    has
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "not root");
    }
    root
}

/// Whether this system has sock_diag. If not, the function reports the test as skipped.
pub(super) fn has_sock_diag(test: &str) -> bool {
    let has = linux::has_sock_diag();
    if !has {
        skip(test, "no sock_diag");
    }
    has
}

/// Whether the kernel shows TCP sockets that are bound and do not listen. If not, every search for
/// TCP sockets reports these sockets as unseen. The function then reports the test as skipped.
fn shows_bound(test: &str) -> bool {
    let shows = linux::shows_bound();
    if !shows {
        skip(test, "bound sockets are not shown");
    }
    shows
}

/// A child that is killed when the value is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
