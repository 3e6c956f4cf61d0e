//! macOS: reads the sockets of every process that this user may read, with `libproc`. Two kinds of
//! sockets stay invisible: those without a process, and those of processes that this user may not
//! read.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::decode::libproc;
use super::{Group, Inode, Row, ScanDepth, ScanResult, Table};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::Incompleteness;
use crate::model::process::Process;
use crate::model::state::State;

mod ffi;

pub(super) fn sockets(port: u16, protocol: Option<Protocol>) -> io::Result<Table> {
    let mut table = Table::default();
    let mut known = HashSet::new();
    let denied = for_each_socket(|_, row| {
        let is_requested =
            (port == 0 || row.local.port() == port) && protocol.is_none_or(|p| p == row.protocol);
        if is_requested && known.insert(row.inode) {
            table.rows.push(row);
        }
        true
    })?;
    if denied > 0 {
        table.unseen.push(Incompleteness::Processes);
    }
    if protocol.is_none_or(|protocol| protocol == Protocol::Tcp) {
        table.unseen.push(Incompleteness::Ownerless);
    }
    Ok(table)
}

pub(super) fn listening(port: u16, protocol: Protocol) -> io::Result<Vec<Row>> {
    let wanted = if protocol == Protocol::Tcp {
        State::Listen
    } else {
        State::Bound
    };
    let mut rows = sockets(port, Some(protocol))?.rows;
    rows.retain(|row| row.state == wanted);
    Ok(rows)
}

pub(super) fn processes(
    wanted: &[(Inode, Option<u32>)],
    depth: ScanDepth,
) -> io::Result<ScanResult> {
    let wanted: HashSet<Inode> = wanted.iter().map(|(inode, _)| *inode).collect();
    let mut missing = wanted.clone();
    let mut owned: Vec<(u32, Vec<Inode>)> = Vec::new();
    let denied = for_each_socket(|pid, row| {
        if let Some(inode) = row.inode.filter(|inode| wanted.contains(inode)) {
            missing.remove(&inode);
            match owned.last_mut() {
                Some((last, inodes)) if *last == pid => inodes.push(inode),
                _ => owned.push((pid, vec![inode])),
            }
        }
        depth != ScanDepth::FirstHit || !missing.is_empty()
    })?;
    let found = owned
        .into_iter()
        .filter_map(|(pid, inodes)| Some((describe(pid)?, inodes)));
    let unseen = if denied > 0 {
        vec![Incompleteness::Processes]
    } else {
        Vec::new()
    };
    Ok(ScanResult {
        found: found.collect(),
        unseen,
    })
}

/// Calls `visit` for each internet socket of each process, the highest pid first. Stops when
/// `visit` returns `false`. Returns how many processes were skipped because this user may not read
/// them.
fn for_each_socket(mut visit: impl FnMut(u32, Row) -> bool) -> io::Result<usize> {
    let mut pids = ffi::processes()?;
    pids.sort_unstable_by(|a, b| b.cmp(a));
    let mut denied = 0;
    for pid in pids.into_iter().filter(|pid| *pid != 0) {
        let list = match ffi::descriptors(pid) {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                denied += 1;
                continue;
            }
            // An error other than a refusal usually means that the process has ended or has no
            // descriptors.
            Err(_) => continue,
        };
        for descriptor in libproc::sockets(&list) {
            // If the call fails, the process has usually closed the descriptor since the list was
            // read.
            let Ok(info) = ffi::socket(pid, descriptor) else {
                continue;
            };
            if let Some(row) = libproc::socket(&info)
                && !visit(pid, row)
            {
                return Ok(denied);
            }
        }
    }
    Ok(denied)
}

/// Returns `None` if the process has ended or cannot be read.
fn info(pid: u32) -> Option<libproc::Info> {
    libproc::process(&ffi::process(pid).ok()?)
}

fn describe(pid: u32) -> Option<Process> {
    let info = info(pid)?;
    Some(Process {
        parent: Some(info.parent).filter(|parent| *parent != 0),
        started: info.started_at(),
        program: ffi::program(pid)
            .ok()
            .map(|path| PathBuf::from(OsString::from_vec(path))),
        uid: Some(info.uid),
        ticks: NonZeroU64::new(info.started),
        forked: info.forked,
        ..Process::unknown(pid, info.name)
    })
}

pub(super) fn abstract_socket(_name: &str) -> io::Result<Option<Inode>> {
    Ok(None)
}

/// Always empty, because macOS keeps the accounts of people in a directory service, not in
/// `/etc/passwd`. Reports show users by their numbers.
pub(super) fn users() -> Vec<(u32, String)> {
    Vec::new()
}

pub(super) fn started(pid: u32) -> io::Result<Option<NonZeroU64>> {
    Ok(info(pid).and_then(|info| NonZeroU64::new(info.started)))
}

pub(super) fn parent(pid: u32) -> Option<u32> {
    info(pid)
        .map(|info| info.parent)
        .filter(|parent| *parent != 0)
}

pub(super) fn unit_and_container(_pid: u32) -> (Option<String>, Option<String>) {
    (None, None)
}

pub(super) fn group(_pid: u32) -> Option<Group> {
    None
}

pub(super) fn user_of(pid: u32) -> Option<u32> {
    info(pid).map(|info| info.uid)
}

pub(super) fn is_running(pid: u32) -> io::Result<bool> {
    match ffi::process(pid) {
        Ok(bytes) => Ok(libproc::process(&bytes).is_some_and(|info| !info.ended)),
        // macOS denies access only to a process that exists.
        Err(error) => Ok(error.kind() == io::ErrorKind::PermissionDenied),
    }
}

pub(super) fn command_line(_pid: u32, _ticks: Option<NonZeroU64>) -> io::Result<Vec<OsString>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "portlease cannot read command lines on this system",
    ))
}
