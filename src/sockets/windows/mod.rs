//! Windows: reads the sockets with `GetExtendedTcpTable` and `GetExtendedUdpTable`. Reads the names
//! of processes from a snapshot, and the program and the start of each process through its handle.
//! The service control manager lists the services.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::decode::iphlpapi;
use super::{Group, Inode, Row, ScanDepth, ScanResult, Table};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::{Incompleteness, UnseenBound};
use crate::model::process::Process;
use crate::model::state::State;

mod ffi;

pub(super) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let mut table = Table::default();
    let mut failed = None;
    for &protocol in Protocol::requested(&protocol) {
        match read(protocol, port, false, &mut table.rows) {
            // The table of Windows has no row for a TCP socket that is bound and neither listens
            // nor connects.
            Ok(()) if protocol == Protocol::Tcp => {
                let reason = UnseenBound::System;
                table.unseen.push(Incompleteness::Bound(reason));
            }
            Ok(()) => {}
            Err(error) => {
                table.unseen.push(Incompleteness::Sockets(protocol));
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if table.rows.is_empty() => Err(error),
        _ => Ok(table),
    }
}

pub(super) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    read(protocol, port, true, &mut rows)?;
    rows.retain(|row| matches!(row.state, State::Listen | State::Bound));
    Ok(rows)
}

/// Appends the sockets of one protocol in both address families. Windows has no UDP-Lite.
fn read(protocol: Protocol, port: u16, listening: bool, rows: &mut Vec<Row>) -> io::Result<()> {
    for v6 in [false, true] {
        let table = match protocol {
            Protocol::Tcp => ffi::tcp_table(v6, listening)?,
            Protocol::Udp => ffi::udp_table(v6)?,
            Protocol::UdpLite => continue,
        };
        let all = iphlpapi::rows(&table, protocol, v6).into_iter();
        rows.extend(all.filter(|row| port == 0 || row.local.port() == port));
    }
    Ok(())
}

/// The socket table already contains the pids, so this function only looks up the name, the parent,
/// the program and the start of each process.
pub(super) fn processes(
    wanted: &[(Inode, Option<u32>)],
    _depth: ScanDepth,
) -> io::Result<ScanResult> {
    let mut sockets: BTreeMap<u32, Vec<Inode>> = BTreeMap::new();
    for (inode, _) in wanted {
        if let Some(pid) = iphlpapi::process_of(*inode) {
            sockets.entry(pid).or_default().push(*inode);
        }
    }
    let all = ffi::processes()?;
    // Without the list of services, a report names no service.
    let services = ffi::services().unwrap_or_default();
    let found = sockets.into_iter().filter_map(|(pid, inodes)| {
        let listed = all.iter().find(|process| process.pid == pid)?;
        let mut process = describe(listed);
        process.unit = service_of(&process, &services);
        Some((process, inodes))
    });
    Ok(ScanResult {
        found: found.collect(),
        unseen: Vec::new(),
    })
}

/// The service that the process runs, if the process runs exactly one of these services. Some
/// services, such as PostgreSQL, run their server as a child process. So the second choice is the
/// service of the parent, if the parent runs exactly one. This choice requires that the programs of
/// parent and child are in the same folder. `None` in all other cases.
fn service_of(process: &Process, services: &[(u32, String)]) -> Option<String> {
    let run_by = |pid: u32| {
        let mut names = services.iter().filter(|service| service.0 == pid);
        let name = names.next().map(|service| service.1.clone());
        name.filter(|_| names.next().is_none())
    };
    let folder = |program: &PathBuf| Some(program.parent()?.to_owned());
    let of_parent = || {
        let parent = process.parent?;
        let service = run_by(parent)?;
        let program = ffi::program(&ffi::open(parent).ok()?).ok()?;
        let own_folder = process.program.as_ref().and_then(folder)?;
        (folder(&PathBuf::from(program))? == own_folder).then_some(service)
    };
    run_by(process.pid).or_else(of_parent)
}

/// Every user can read the name of a process. The program and the start are unknown if Windows
/// refuses a handle of the process.
fn describe(listed: &ffi::Listed) -> Process {
    let handle = ffi::open(listed.pid).ok();
    let ticks = handle
        .as_ref()
        .and_then(|process| ffi::created(process).ok())
        .unwrap_or(0);
    Process {
        parent: parent_of(listed.parent, NonZeroU64::new(ticks)),
        program: handle
            .and_then(|process| ffi::program(&process).ok())
            .map(PathBuf::from),
        started: time_of(ticks),
        ticks: NonZeroU64::new(ticks),
        ..Process::unknown(listed.pid, listed.name.clone())
    }
}

/// Converts units of 100 ns since 1601 to a time. Returns `None` for 0, which means unknown, and
/// for every time before 1970.
fn time_of(ticks: u64) -> Option<SystemTime> {
    const PER_SECOND: u64 = 10_000_000;
    const EPOCH: u64 = 11_644_473_600 * PER_SECOND;
    let since = ticks.checked_sub(EPOCH)?;
    UNIX_EPOCH.checked_add(Duration::new(
        since / PER_SECOND,
        (since % PER_SECOND) as u32 * 100,
    ))
}

pub(super) fn abstract_socket(_name: &str) -> io::Result<Option<Inode>> {
    Ok(None)
}

pub(super) fn users() -> Vec<(u32, String)> {
    Vec::new()
}

pub(super) fn started(pid: u32) -> io::Result<Option<NonZeroU64>> {
    let created = ffi::open(pid).and_then(|process| ffi::created(&process));
    Ok(created.ok().and_then(NonZeroU64::new))
}

pub(super) fn parent(pid: u32) -> Option<u32> {
    let mut all = ffi::processes().ok()?.into_iter();
    let listed = all.find(|process| process.pid == pid)?;
    parent_of(listed.parent, started(pid).ok().flatten())
}

/// `parent` is the parent pid that Windows keeps for a child process. `child` is the start time of
/// the child. Returns `parent` if the pid still belongs to the parent. After the parent has ended,
/// Windows can give its pid to another process. So the result is `None` if the process with the pid
/// `parent` started after the child. Also `None` for the pid 0.
fn parent_of(parent: u32, child: Option<NonZeroU64>) -> Option<u32> {
    let is_older = match (started(parent), child) {
        (Ok(Some(parent)), Some(child)) => parent <= child,
        _ => true,
    };
    (parent != 0 && is_older).then_some(parent)
}

pub(super) fn unit_and_container(pid: u32) -> (Option<String>, Option<String>) {
    let find = || {
        let listed = ffi::processes().ok()?;
        let listed = listed.iter().find(|process| process.pid == pid)?;
        service_of(&describe(listed), &ffi::services().ok()?)
    };
    (find(), None)
}

pub(super) fn group(_pid: u32) -> Option<Group> {
    None
}

pub(super) fn user_of(_pid: u32) -> Option<u32> {
    None
}

pub(super) fn is_running(pid: u32) -> io::Result<bool> {
    const ERROR_ACCESS_DENIED: i32 = 5;
    const ERROR_INVALID_PARAMETER: i32 = 87;
    match ffi::open(pid) {
        Ok(process) => ffi::is_running(&process),
        Err(e) if e.raw_os_error() == Some(ERROR_INVALID_PARAMETER) => Ok(false),
        // Windows denies access only to a process that exists.
        Err(e) if e.raw_os_error() == Some(ERROR_ACCESS_DENIED) => Ok(true),
        Err(e) => Err(e),
    }
}

pub(super) fn command_line(_pid: u32, _ticks: Option<NonZeroU64>) -> io::Result<Vec<OsString>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "portlease cannot read command lines on this system",
    ))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn a_service_is_that_of_the_process_or_of_a_parent_with_the_same_folder() {
        let listed = ffi::processes().unwrap();
        // Windows and wine always run some services.
        let services = ffi::services().unwrap();
        let has_name = |(pid, name): &(u32, String)| *pid != 0 && !name.is_empty();
        assert!(services.iter().any(has_name), "{services:?}");
        let own = std::process::id();
        let is_own = |process: &&ffi::Listed| process.pid == own;
        let process = describe(listed.iter().find(is_own).unwrap());
        let service = |pid, name: &str| (pid, name.to_owned());
        let found = |services: &[_]| service_of(&process, services);
        assert_eq!(found(&[service(own, "web")]).as_deref(), Some("web"));
        assert_eq!(found(&[service(own, "a"), service(own, "b")]), None);
        assert_eq!(found(&[service(1_000_001, "web")]), None);
        // The child runs the program of this process, so its program is in the same folder.
        let child = Process {
            pid: 1_000_001,
            parent: Some(own),
            ..process.clone()
        };
        let services = [service(own, "web")];
        assert_eq!(service_of(&child, &services).as_deref(), Some("web"));
        let elsewhere = Process {
            program: Some(PathBuf::from(r"C:\other\server.exe")),
            ..child
        };
        assert_eq!(service_of(&elsewhere, &services), None);
    }

    #[test]
    fn this_process_is_described_and_runs_and_an_unused_pid_does_not() {
        let pid = std::process::id();
        let own = ffi::processes()
            .unwrap()
            .into_iter()
            .find(|process| process.pid == pid)
            .unwrap();
        let process = describe(&own);
        let program = std::env::current_exe().unwrap();
        assert_eq!(process.name, program.file_name().unwrap().to_string_lossy());
        assert_eq!(process.program.unwrap().file_name(), program.file_name());
        let age = process.started.unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
        assert!(is_running(pid).unwrap());
        assert!(!is_running(u32::MAX - 3).unwrap());
    }

    #[test]
    fn a_bound_udp_socket_has_a_row() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        for rows in [
            sockets(addr.port(), Some(Protocol::Udp)).unwrap().rows,
            listening(addr.port(), Protocol::Udp).unwrap(),
        ] {
            assert!(
                rows.iter()
                    .any(|row| row.local == addr && row.state == State::Bound),
                "{rows:?}"
            );
        }
    }
}
