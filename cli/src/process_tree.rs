//! A process with all processes that it started, and how they are ended.

use std::io;
use std::time::Instant;

use rustix::process::Signal;

use crate::limits::{KILL_GRACE, TERMINATE_GRACE, TERMINATE_POLL, sleep};
use crate::process::ProcessHandle;
use crate::process_stat::ProcessStat;

/// Ends the process `root` and the processes that it started: with SIGTERM, and with SIGKILL those
/// that still run [`TERMINATE_GRACE`] later.
pub(crate) fn end_tree(root: u32) -> io::Result<()> {
    let mut tree = tree(root)?;
    for (_, process) in &tree {
        process.signal(Signal::TERM)?;
        // A suspended process handles SIGTERM only after SIGCONT.
        process.signal(Signal::CONT)?;
    }
    let requested = Instant::now();
    while any_runs(&tree)? {
        if requested.elapsed() >= TERMINATE_GRACE {
            return kill(tree);
        }
        sleep(TERMINATE_POLL);
        // A process that ends leaves its children to another parent. So they are noted before.
        for (pid, process) in self::tree(root)? {
            if !tree.iter().any(|(known, _)| *known == pid) {
                tree.push((pid, process));
            }
        }
    }
    Ok(())
}

fn kill(tree: Vec<(u32, ProcessHandle)>) -> io::Result<()> {
    for (_, process) in &tree {
        process.signal(Signal::KILL)?;
    }
    let killed = Instant::now();
    while any_runs(&tree)? && killed.elapsed() < KILL_GRACE {
        sleep(TERMINATE_POLL);
    }
    Ok(())
}

fn any_runs(tree: &[(u32, ProcessHandle)]) -> io::Result<bool> {
    for (_, process) in tree {
        if !process.has_ended()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process `root`, the processes that it started, and so on. A process in the session or the
/// process group of `root` counts too: its own parent may have ended.
fn tree(root: u32) -> io::Result<Vec<(u32, ProcessHandle)>> {
    let all = ProcessStat::all()?;
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        let children = all.iter().filter(|process| {
            let belongs = [process.group, process.session].contains(&root);
            (belongs || process.parent == parent) && !pids.contains(&process.pid)
        });
        let children: Vec<u32> = children.map(|process| process.pid).collect();
        pids.extend(children);
        next += 1;
    }
    let mut tree = Vec::with_capacity(pids.len());
    for pid in pids {
        // A process that has ended since has nothing to end.
        if let Some(process) = ProcessHandle::open(pid)? {
            tree.push((pid, process));
        }
    }
    Ok(tree)
}
