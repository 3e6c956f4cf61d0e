//! Ends a process and all processes that it started.

use std::io;
use std::time::Instant;

use crate::limits::{KILL_GRACE, TERMINATE_GRACE, TERMINATE_POLL, sleep};
use crate::process::ProcessHandle;
use crate::process_stat::{ProcessStat, shows_processes};

/// Sends SIGTERM to the process `root` and to the processes that `root` started. After
/// [`TERMINATE_GRACE`], sends SIGKILL to those that still run, and to processes that they started
/// meanwhile. Windows has no SIGTERM, so each process ends at once.
///
/// On Linux without a `/proc` that shows processes, only `root` ends, because this function cannot
/// find the processes that `root` started.
///
/// Returns the pids of the processes that run on because this user may not signal them.
pub(crate) fn end_tree(root: u32) -> io::Result<Vec<u32>> {
    let started = ProcessStat::of(root).map(|of| of.started);
    if started.is_none() && shows_processes() {
        return Ok(Vec::new());
    }
    let mut refused = Vec::new();
    let mut tree = tree(root, started)?;
    for (pid, process) in &tree {
        if !is_permitted(process.terminate())? {
            refused.push(*pid);
        }
        is_permitted(process.resume())?;
    }
    tree.retain(|(pid, _)| !refused.contains(pid));
    let requested = Instant::now();
    while any_runs(&tree)? {
        if requested.elapsed() >= TERMINATE_GRACE {
            kill(tree, &mut refused)?;
            return Ok(refused);
        }
        sleep(TERMINATE_POLL);
        // When a process ends, its children get another parent, and a later scan may miss them. So
        // this loop records new processes while their parents still run.
        for (pid, process) in self::tree(root, started)? {
            if !refused.contains(&pid) && !tree.iter().any(|(known, _)| *known == pid) {
                tree.push((pid, process));
            }
        }
    }
    Ok(refused)
}

/// Kills the processes, and adds to `refused` those that this user may not signal.
fn kill(mut tree: Vec<(u32, ProcessHandle)>, refused: &mut Vec<u32>) -> io::Result<()> {
    for (pid, process) in &tree {
        if !is_permitted(process.kill())? {
            refused.push(*pid);
        }
    }
    tree.retain(|(pid, _)| !refused.contains(pid));
    let killed = Instant::now();
    while any_runs(&tree)? && killed.elapsed() < KILL_GRACE {
        sleep(TERMINATE_POLL);
    }
    Ok(())
}

/// Returns `false` if this user may not send the signal, for example because another user owns the
/// process.
fn is_permitted(signalled: io::Result<bool>) -> io::Result<bool> {
    match signalled {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(e) => Err(e),
        Ok(_) => Ok(true),
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
/// group, the result includes the members, because their own parents may have ended.
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
