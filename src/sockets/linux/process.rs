//! What a process is: its name, parent, program, user and start, from `/proc/PID`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::super::decode::procfs;
use super::proc_folder::open;
use crate::model::process::Process;

/// Turns ticks since boot into a time of day.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    boot: Option<SystemTime>,
}

impl Clock {
    /// Without `/proc/uptime`, as with the mount option `subset=pid`, no process's start has a time of day.
    pub(super) fn now(proc: BorrowedFd<'_>) -> io::Result<Self> {
        let up = match read(proc, "uptime") {
            Err(error) if super::out_of_descriptors(&error) => return Err(error),
            text => text.ok().and_then(|text| procfs::uptime(&text)),
        };
        Ok(Clock {
            boot: up.and_then(|up| SystemTime::now().checked_sub(up)),
        })
    }

    /// The process whose folder is at `up` from this one; `None` where it has ended.
    pub(super) fn describe(
        &self,
        pid: u32,
        folder: BorrowedFd<'_>,
        up: &str,
    ) -> io::Result<Option<Process>> {
        let stat = match read(folder, &format!("{up}/stat")) {
            Ok(text) => procfs::stat(&text),
            Err(error) if super::out_of_descriptors(&error) => return Err(error),
            Err(_) => None,
        };
        let Some(stat) = stat else {
            return Ok(None);
        };
        // Between its fork's memory and its program's, a process has no arguments; and what it is to close on exec, open.
        let is_in_exec =
            || read(folder, &format!("{up}/cmdline")).is_ok_and(|line| line.is_empty());
        let forked = stat.forked || is_in_exec();
        let uid = read(folder, &format!("{up}/status"))
            .ok()
            .and_then(|text| procfs::effective_uid(&text));
        let program = readlinkat(folder, format!("{up}/exe"), Vec::new()).ok();
        // USER_HZ is 100 on every architecture that Rust's std has.
        let age = Duration::from_millis(stat.started.saturating_mul(10));
        Ok(Some(Process {
            pid,
            parent: Some(stat.parent).filter(|parent| *parent != 0),
            name: stat.name,
            program: program.map(|path| PathBuf::from(OsString::from_vec(path.into_bytes()))),
            uid,
            user: None,
            started: self.boot.and_then(|boot| boot.checked_add(age)),
            ticks: NonZeroU64::new(stat.started),
            forked,
        }))
    }
}

fn read(at: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let mut file = fs::File::from(openat(
        at,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let mut bytes = Vec::with_capacity(2048);
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}

fn stat(pid: u32) -> Option<procfs::Stat> {
    // By its folder: an emulator (qemu-user) makes up what a process reads of itself by the whole path, another start
    // among it. A process that cannot be read is, to the caller, one that is not there.
    let folder = open(CWD, &format!("/proc/{pid}")).ok()?;
    procfs::stat(&read(folder.as_fd(), "stat").ok()?)
}

pub(in super::super) fn started(pid: u32) -> Option<NonZeroU64> {
    NonZeroU64::new(stat(pid)?.started)
}

pub(in super::super) fn parent(pid: u32) -> Option<u32> {
    stat(pid)
        .map(|stat| stat.parent)
        .filter(|parent| *parent != 0)
}

/// Without `/proc`, which every other answer about processes needs too, it cannot be told.
pub(in super::super) fn is_running(pid: u32) -> io::Result<bool> {
    match read(CWD, &format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(procfs::stat(&text).is_some_and(|stat| !stat.ended)),
        Err(_) if fs::exists("/proc/self/stat")? => Ok(false),
        Err(e) => Err(io::Error::new(io::ErrorKind::Unsupported, e)),
    }
}

/// Names from `/etc/passwd` alone: NSS would need libc, and could ask the network. Where the file cannot be read,
/// users are numbers.
pub(in super::super) fn users() -> Vec<(u32, String)> {
    fs::read("/etc/passwd")
        .map(|text| procfs::users(&text))
        .unwrap_or_default()
}

pub(in super::super) fn command_line(
    pid: u32,
    ticks: Option<NonZeroU64>,
) -> io::Result<Vec<OsString>> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has ended");
    // The folder stays that of one process, whoever has the number later.
    let folder = open(CWD, &format!("/proc/{pid}")).map_err(|error| match error {
        Errno::NOENT | Errno::SRCH => gone(),
        other => other.into(),
    })?;
    let stat = read(folder.as_fd(), "stat")
        .ok()
        .and_then(|text| procfs::stat(&text))
        .ok_or_else(gone)?;
    if NonZeroU64::new(stat.started) != ticks {
        return Err(gone());
    }
    let bytes = read(folder.as_fd(), "cmdline")?;
    Ok(procfs::arguments(&bytes)
        .map(|argument| OsStr::from_bytes(argument).to_owned())
        .collect())
}
