//! Children that never call exec. They share the reservations of their parent until they end.

use std::path::Path;

use portlease::{Lease, ReserveOptions};

use crate::support::args::Args;
use crate::support::fork::{self, Orphan};
use crate::support::helper::{self, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

fn options(args: &Args) -> ReserveOptions {
    let options = ReserveOptions::new();
    match args.get("kind") {
        Some("udp") => options.udp(),
        Some("plain") => options.reuse_addr(false),
        _ => options,
    }
}

#[test]
fn a_forked_child_that_outlives_the_killed_holder_is_reported_as_the_holder() {
    // Under an emulator, reports show the emulator in place of each program.
    need!(capability::native());
    for kind in ["tcp", "udp", "plain"] {
        let folder = Folder::new();
        let mut holder = Launch::new("forks-and-waits", &folder.locks())
            .args(format!("kind={kind} port={}", non_ephemeral_port()))
            .start();
        let reply = Args::parse(&holder.receive());
        let port: u16 = reply.number("port").unwrap();
        let child: u32 = reply.number("child").unwrap();
        let orphan = Orphan::new(child);
        let parent = holder.pid();
        let operand = match kind {
            "udp" => format!("{port}/udp"),
            _ => format!("{port}/tcp"),
        };
        let mut asker = Reserver::new(&folder.locks());
        let questions = [
            format!("check={operand}"),
            format!("who={operand}"),
            format!("lease={port}"),
        ];
        for question in &questions {
            let answer = asker.command(question);
            assert!(
                answer.contains(&format!("pid {parent}")) && !answer.contains("has ended"),
                "control: {answer}"
            );
        }

        holder.kill();
        for question in &questions {
            let answer = asker.command(question);
            let ended = format!("pid {parent}, which has ended");
            let heir = format!("; pid {child} (");
            assert!(
                answer.contains(&ended)
                    && answer.contains(&heir)
                    && answer.contains("a forked child, still holds it"),
                "{kind}: {question}: {answer}"
            );
        }
        let heirs = asker.command(&format!("heirs={port}"));
        assert_eq!(heirs, child.to_string());
        let report = asker.command(&questions[0]);
        assert!(report.contains(&format!("stop pid {child}")), "{report}");
        assert!(!report.contains(&format!("stop pid {parent}")), "{report}");
        let reserve = format!("{kind} port={port}");
        let error = asker.reserve(&reserve).refused("InUse");
        assert!(error.contains(&format!("pid {child} (")), "{error}");

        drop(orphan);
        eventually("the child ends", DEADLINE, || {
            match asker.command(&format!("lease={port}")).as_str() {
                "none" => Ok(()),
                lease => Err(lease.to_owned()),
            }
        });
        asker.reserve(&reserve).held();
    }
}

pub(crate) fn fork_and_wait(args: &Args) {
    let p = options(args).port(args.number("port").unwrap());
    let p = p.reserve().unwrap();
    let child = fork::idle_child();
    helper::reply(&format!("port={p} child={}", child.detach()));
    let _until_killed = helper::next_line();
}

/// daemon(3): the process that reserved ends by itself, and its forked child goes on.
#[test]
fn a_daemon_holds_the_reservation_of_its_parent_and_is_reported() {
    need!(capability::native());
    let folder = Folder::new();
    let mut parent = Launch::new("becomes-daemon", &folder.locks()).start();
    let pid = parent.pid();
    let reply = Args::parse(&parent.receive());
    let daemon: u32 = reply.number("daemon").unwrap();
    let orphan = Orphan::new(daemon);
    assert_eq!(
        reply.get("free"),
        Some("true"),
        "the port is the daemon's own"
    );
    let port: u16 = reply.number("port").unwrap();
    let mut asker = Reserver::new(&folder.locks());
    let report = asker.command(&format!("check={port}"));
    assert!(
        report.contains(&format!("pid {pid}, which has ended; pid {daemon} ("))
            && report.contains(&format!("stop pid {daemon}")),
        "{report}"
    );
    drop(orphan);
    drop(parent);
}

pub(crate) fn become_daemon() {
    let p = portlease::reserve_port();
    let parent = std::process::id();
    if let Some(daemon) = fork::in_two() {
        daemon.detach();
        // `exit` runs no destructor, so the parent does not release the reservation.
        std::process::exit(0);
    }
    eventually(
        "the parent ends",
        DEADLINE,
        || match rustix::process::getppid() {
            Some(pid) if pid.as_raw_nonzero().get().unsigned_abs() == parent => {
                Err("the parent still runs".to_owned())
            }
            _ => Ok(()),
        },
    );
    let free = portlease::is_port_free(p.port());
    helper::reply(&format!(
        "daemon={} port={p} free={free}",
        std::process::id()
    ));
    fork::idle();
}

/// A record identifies an ancestor by its pid and its start time. A process with another lock
/// folder sees that the child has inherited nothing.
#[test]
fn a_reservation_of_a_forked_child_is_its_own_childs_too() {
    need!(capability::native());
    let folder = Folder::new();
    let replies = Launch::new("reserves-in-forked-child", &folder.locks())
        .start()
        .succeed();
    assert_eq!(replies, ["control true", "forked true", "elsewhere true"]);
}

pub(crate) fn reserve_in_forked_child() {
    let locks = std::env::var_os("PORTLEASE_DIR").unwrap();
    let free_to_a_child = |port: u16| {
        let mut child = Reserver::new(Path::new(&locks));
        child.command(&format!("free={port}"))
    };
    let p = portlease::reserve_port();
    helper::reply(&format!("control {}", free_to_a_child(p.port())));
    let start = start_of(std::process::id());
    // The unit of a start time is 10 ms. A child with the same start time as this process would
    // prove nothing.
    let child = eventually("a child with a later start", DEADLINE, || {
        let Some(child) = fork::in_two() else {
            if start_of(std::process::id()) == start {
                fork::idle();
            }
            let own = portlease::reserve_port();
            helper::reply(&format!("forked {}", free_to_a_child(own.port())));
            let (udp, folder) = (portlease::reserve_udp_port(), Folder::new());
            let mut elsewhere = Reserver::new(&folder.locks());
            let report = elsewhere.command(&format!("check={udp}/udp"));
            let owner = format!(
                "(pid {}): the lock file is in another lock folder",
                std::process::id()
            );
            helper::reply(&format!("elsewhere {}", report.contains(&owner)));
            std::process::exit(0)
        };
        match start_of(child.pid()) {
            later if later == start => Err(format!("{start}")),
            _ => Ok(child),
        }
    });
    child.wait();
}

/// The start time of a process: the 22nd value in `/proc/PID/stat`.
fn start_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let start = after_name.split_whitespace().nth(19);
    start.unwrap().parse().unwrap()
}

/// The child has the same pid as its parent, because each is the first process of its pid
/// namespace.
#[test]
fn a_first_process_forked_into_a_pid_namespace_does_not_release_its_parents_lease() {
    need!(capability::native(), capability::pid_namespace());
    let folder = Folder::new();
    let replies = Launch::new("forks-first-process", &folder.locks())
        .run_as_first_process()
        .start()
        .succeed();
    assert_eq!(replies, ["child 1", "Tcp true", "Udp true"]);
}

pub(crate) fn fork_first_process() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    assert_eq!(std::process::id(), 1, "control");
    let held = [ReserveOptions::new(), ReserveOptions::new().udp()];
    let held = held.map(|options| options.reserve().unwrap());
    let ports = held.each_ref().map(|p| (p.port(), p.protocols()[0]));
    #[expect(
        unsafe_code,
        reason = "rustix has no safe call, because other flags unshare descriptors"
    )]
    // SAFETY: NEWPID concerns the children that are forked from now on, and nothing else.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.unwrap();
    let Some(child) = fork::in_two() else {
        helper::reply(&format!("child {}", std::process::id()));
        drop(held);
        std::process::exit(0)
    };
    child.wait();
    let live = portlease::reservations().unwrap();
    for (port, protocol) in ports {
        let is_it = |lease: &Lease| (lease.port(), lease.protocol()) == (port, protocol);
        helper::reply(&format!("{protocol:?} {}", live.iter().any(is_it)));
    }
    drop(held);
}
