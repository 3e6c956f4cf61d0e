//! Ends a process and all processes that it started.

use std::io;
use std::time::Instant;

use crate::limits::{KILL_GRACE, TERMINATE_GRACE, TERMINATE_POLL, sleep};
use crate::process::ProcessHandle;
use crate::process_stat::{ProcessStat, shows_processes};

/// Sends SIGTERM to the process `root` and to the processes that it started. After
/// [`TERMINATE_GRACE`], sends SIGKILL to the processes that still run, also to those that started
/// meanwhile. Windows has no SIGTERM, so each process ends at once.
///
/// Without a `/proc` that shows processes, only `root` ends, because the processes that it started
/// cannot be found.
pub(crate) fn end_tree(root: u32) -> io::Result<()> {
    let started = ProcessStat::of(root).map(|of| of.started);
    if started.is_none() && shows_processes() {
        return Ok(());
    }
    let mut tree = tree(root, started)?;
    for (_, process) in &tree {
        unless_refused(process.terminate())?;
        unless_refused(process.resume())?;
    }
    let requested = Instant::now();
    while any_runs(&tree)? {
        if requested.elapsed() >= TERMINATE_GRACE {
            return kill(tree);
        }
        sleep(TERMINATE_POLL);
        // When a process ends, its children get another parent, and a later scan may miss them. So
        // this loop records new processes while their parents still run.
        for (pid, process) in self::tree(root, started)? {
            if !tree.iter().any(|(known, _)| *known == pid) {
                tree.push((pid, process));
            }
        }
    }
    Ok(())
}

fn kill(tree: Vec<(u32, ProcessHandle)>) -> io::Result<()> {
    for (_, process) in &tree {
        unless_refused(process.kill())?;
    }
    let killed = Instant::now();
    while any_runs(&tree)? && killed.elapsed() < KILL_GRACE {
        sleep(TERMINATE_POLL);
    }
    Ok(())
}

/// Ignores the error of a signal that this user may not send, such as to another user's process.
fn unless_refused(signalled: io::Result<bool>) -> io::Result<()> {
    match signalled {
        Err(e) if e.kind() != io::ErrorKind::PermissionDenied => Err(e),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn any_runs(tree: &[(u32, ProcessHandle)]) -> io::Result<bool> {
    for (_, process) in tree {
        if !process.has_ended()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Handles of the process `root` and of its descendants. If `root` leads a session or a process
/// group, the members count too, because their own parents may have ended.
///
/// The list is empty if the pid `root` now belongs to a later process, whose start is not
/// `started`.
fn tree(root: u32, started: Option<u64>) -> io::Result<Vec<(u32, ProcessHandle)>> {
    let all = ProcessStat::all()?;
    let start = |pid| all.iter().find(|of| of.pid == pid).map(|of| of.started);
    if start(root).is_some_and(|start| Some(start) != started) {
        return Ok(Vec::new());
    }
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        let children = all.iter().filter(|process| {
            let belongs = process.is_led_by(root);
            (belongs || process.parent == parent) && !pids.contains(&process.pid)
        });
        let children: Vec<u32> = children.map(|process| process.pid).collect();
        pids.extend(children);
        next += 1;
    }
    let mut tree = Vec::with_capacity(pids.len());
    for pid in pids {
        // Skips a process that has ended since the scan. A later process with the same pid has
        // another start time, and is skipped too.
        if let Some(process) = ProcessHandle::open(pid)?
            && ProcessStat::of(pid).map(|of| of.started) == start(pid)
        {
            tree.push((pid, process));
        }
    }
    Ok(tree)
}
