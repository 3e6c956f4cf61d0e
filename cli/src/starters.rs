//! [`Starters`]: the ancestors of stopped servers that may start a server again.

use portlease::Process;

use crate::process::ProcessHandle;
use crate::process_stat::ProcessStat;

/// For each server that `stop` signaled: the ancestors that may start the server again, the parent
/// first. A parent such as `make` ends with its server, and then the next ancestor may start both
/// again.
#[derive(Debug, Default)]
pub(crate) struct Starters(Vec<Vec<u32>>);

impl Starters {
    /// Adds the ancestors of a server. The caller must not have signaled the server yet, because
    /// its ancestors are unknown after its end. The list ends before the first ancestor for which
    /// `included` returns `false`.
    pub(crate) fn add(&mut self, server: u32, included: impl Fn(u32) -> bool) {
        let ancestors = ProcessStat::lineage_of(server).skip(1).map(|stat| stat.pid);
        self.0
            .push(ancestors.take_while(|pid| included(*pid)).collect());
    }

    /// Whether `pid` is the parent of a server.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_parent(&self, pid: u32) -> bool {
        self.0
            .iter()
            .any(|ancestors| ancestors.first() == Some(&pid))
    }

    /// Whether any of these ancestors still runs.
    pub(crate) fn run(&self) -> bool {
        self.0.iter().flatten().any(|pid| runs(*pid))
    }

    /// Which ancestor of a stopped server has started the new server `server`. `None` if no such
    /// ancestor has started it.
    pub(crate) fn starter_of(&self, server: &Process) -> Option<u32> {
        let parent = server.parent?;
        let starter = |ancestors: &Vec<u32>| {
            let nearest = ancestors.iter().position(|pid| runs(*pid));
            let ended_or_nearest = &ancestors[..nearest.map_or(ancestors.len(), |at| at + 1)];
            if ended_or_nearest.contains(&parent) {
                return Some(parent);
            }
            // If the nearest running ancestor was not the parent of the old server, it started the
            // old server through another process. If it has started the new server in the same way,
            // it is an ancestor of `parent`.
            let nearest = ancestors[nearest.filter(|at| *at > 0)?];
            let mut lineage = ProcessStat::lineage_of(parent);
            lineage.any(|stat| stat.pid == nearest).then_some(nearest)
        };
        self.0.iter().find_map(starter)
    }
}

fn runs(pid: u32) -> bool {
    let handle = ProcessHandle::open(pid).ok().flatten();
    handle.is_some_and(|handle| handle.has_ended().is_ok_and(|ended| !ended))
}
