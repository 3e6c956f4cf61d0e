//! Finds out whether another process than its starter is the parent of a process.

use crate::ownership::is_descendant;
use crate::sockets;

/// Whether `parent`, the present parent of the process `pid`, adopted `pid` after its first parent
/// had ended. Init and subreapers (`PR_SET_CHILD_SUBREAPER` of prctl(2)) adopt processes. A process
/// cannot find out whether another process is a subreaper. So the result is `true` in these cases:
///
/// - `parent` is unknown.
/// - `parent` is pid 1, and the calling process is not pid 1.
/// - `parent` is an ancestor of the calling process in another session, such as `systemd --user`.
/// - `parent` is the calling process or its ancestor, and [`has_lost_leader`] is `true`, as for a
///   daemon that forked twice.
/// - `parent` is a known subreaper, and `pid` leads its own session, as a daemon that forked once
///   does. Two subreapers can be known: the calling process, and `portlease run --leaks`
///   ([`ADOPTER`]). `run` itself starts only one command.
///
/// In any other case the result is `false`, because `parent` may have started `pid` itself.
pub(super) fn is_orphan(pid: u32, parent: Option<u32>) -> bool {
    const INIT: u32 = 1;
    let own = std::process::id();
    let session = |pid| sockets::group(pid).map(|of| of.session);
    let is_known_subreaper = |pid: u32| match pid == own {
        true => sockets::adopts_orphans(),
        false => is_adopter(pid),
    };
    parent.is_none_or(|parent| {
        parent == INIT && own != INIT
            || is_descendant(own, parent)
                && (parent != own && session(parent) != session(own)
                    || has_lost_leader(pid, parent)
                    || session(pid) == Some(pid) && is_known_subreaper(parent))
    })
}

/// The environment variable with the pid of `portlease run --leaks`. `run` sets the variable for
/// itself, and its command inherits it.
const ADOPTER: &str = "PORTLEASE_ADOPTER";

/// Whether [`ADOPTER`] names the process.
pub(super) fn is_adopter(pid: u32) -> bool {
    std::env::var(ADOPTER).is_ok_and(|adopter| adopter == pid.to_string())
}

/// Whether the leader of the process's group or session has ended. A group or session that also
/// contains `parent` does not count.
fn has_lost_leader(pid: u32, parent: u32) -> bool {
    let (Some(of), Some(of_parent)) = (sockets::group(pid), sockets::group(parent)) else {
        return false;
    };
    let is_lost = |leader, other| leader != other && !sockets::is_running(leader).unwrap_or(true);
    is_lost(of.group, of_parent.group) || is_lost(of.session, of_parent.session)
}
