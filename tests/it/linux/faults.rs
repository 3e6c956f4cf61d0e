//! Limits of the system that are reached, and a system without /proc.
//!
//! Every fault that the crate promises to survive, and the tests that show it:
//!
//! - `kill -9` at every step of reserving and releasing: `crash`, all of it
//! - the files that it leaves: `listing_reservations_sweeps_the_files_of_killed_processes` in
//!   `lock_folder::list`
//! - a test that panics: `a_test_that_panics_releases_its_port_and_affects_no_other` and
//!   `a_process_that_panics_releases_its_reservations` in `reservation`
//! - a record that is empty, torn, not UTF-8, newer, or of any bytes: `lock_folder::record`
//! - a lock folder that is read-only, without room for a file or a record, or without locks:
//!   `lock_folder::unusable`
//! - a lock folder that is deleted while in use: `lock_folder::deleted`
//! - planted links, fifos, folders and unreadable files: `lock_folder::planted`
//! - no IPv6: `a_port_is_reserved_where_ipv6_is_switched_off` in `namespaces` and
//!   `without_ipv6_every_kind_is_reserved` in `server_kinds`
//! - no `/proc`: `without_proc_a_port_is_reserved_with_a_weaker_guarantee` and
//!   `without_proc_a_wait_accepts_a_listener_of_an_unseen_process`
//! - `hidepid`: `with_hidepid_an_owner_is_hidden_and_its_socket_is_not` in `report::owner`; in the
//!   library `sockets::tests::hidden`
//! - no sock_diag: `without_sock_diag_the_report_comes_from_proc_net` in `report::owner`; in the
//!   library `sockets::tests::proc_net`
//! - descriptors exhausted: `a_process_out_of_descriptors_gets_an_error_and_recovers` and
//!   `a_process_short_of_descriptors_from_the_start_gets_an_error`; `descriptors`, all of it; in
//!   the library `sockets::tests::hidden`
//! - the ephemeral range exhausted:
//!   `an_exhausted_ephemeral_range_leaves_connections_possible`, and `used_up_range`, all of it
//! - the ephemeral range changed while a process runs: `range_change`, all of it
//! - a sandbox that forbids binds: `sandbox`, all of it
//! - a lock folder that cannot be swept: `lock_folder::sweep`
//! - steps of the wall clock: `clock`, all of it
//! - a limit of the file size: `a_process_that_may_write_no_file_reserves_without_a_record`
//! - descriptors that other code closes:
//!   `code_that_closes_every_descriptor_goes_on_reserving_and_checking`; in the library `kept_fd`
//! - threads in different network namespaces:
//!   `threads_in_different_network_namespaces_get_their_own_answers` in `namespaces`
//! - a forked child that has not called exec, or never does: `spawning`, all of it,
//!   `lock_folder::forks` and `retries`; in the library
//!   `sockets::tests::processes`
//! - a pid that belongs to another process now:
//!   `a_reservation_of_an_earlier_process_with_an_ancestors_pid_is_not_our_own` and
//!   `a_reservation_for_an_earlier_process_with_our_pid_is_not_our_own` in `lock_folder::record`;
//!   in the library `sockets::tests::processes`
//! - process names that are not plain text: `report::name`; in the library `holder::report` and
//!   `fuzzing::report`
//! - all of them at once, at random: `tools/soak`

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use portlease::{ErrorKind, Reservation, ReserveOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::whose::SERVER;
use crate::support::helper::{EPHEMERAL_LOW, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::program::python;
use crate::support::reserver::{Outcome, Reserver};
use crate::support::socket::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, capability, need};

#[test]
fn a_process_out_of_descriptors_gets_an_error_and_recovers() {
    let folder = Folder::new();
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).setup("ulimit -n 64"));
    for _ in 0..2 {
        let answer = reserver.command("fill");
        let words: Vec<&str> = answer.splitn(4, ' ').collect();
        let [_, count, kind, message] = words[..] else {
            panic!("{answer}")
        };
        assert_eq!(kind, "Io", "{message}");
        assert!(message.contains("ulimit -n"), "{message}");
        assert!(count.parse::<u32>().unwrap() >= 20, "{answer}");
        let message = reserver
            .reserve(&format!("port={}", non_ephemeral_port()))
            .refused("Io");
        assert!(message.contains("ulimit -n"), "{message}");
        reserver.release("all");
    }
    assert!(reserver.reserve("").held().leased);
}

#[test]
fn a_process_short_of_descriptors_from_the_start_gets_an_error() {
    // At each of these limits the first reservation fails at a different step, or succeeds.
    let mut refused = 0;
    for limit in 4..16 {
        let folder = Folder::new();
        let mut reserver =
            Reserver::start(Reserver::launch(&folder.locks()).setup(format!("ulimit -n {limit}")));
        match reserver.reserve("") {
            Outcome::Held(held) => assert!(held.leased, "limit {limit}: {held:?}"),
            Outcome::Refused { kind, message } => {
                assert_eq!(kind, "Io", "limit {limit}: {message}");
                assert!(message.contains("ulimit -n"), "limit {limit}: {message}");
                refused += 1;
            }
        }
    }
    assert!(
        (2..12).contains(&refused),
        "{refused} of the limits were too low"
    );
}

#[test]
fn an_exhausted_ephemeral_range_leaves_connections_possible() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("used-up-range", &folder.locks())
        .with_ephemeral_ports(16)
        .start()
        .succeed();
}

/// The helper process.
pub(crate) fn used_up_range_in_namespace() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let is_ephemeral = |port: u16| (EPHEMERAL_LOW..EPHEMERAL_LOW + 16).contains(&port);
    // With so small an ephemeral range, a pick prefers the numbers outside the range. If only the
    // range is allowed, the crate leaves its last numbers for connections.
    let held = reserver.reserve("").held();
    assert!(!is_ephemeral(held.port()), "{held:?}");
    let within = format!("within={EPHEMERAL_LOW}-{}", EPHEMERAL_LOW + 15);
    let mut count = 0;
    while let Outcome::Held(held) = reserver.reserve(&within) {
        assert_eq!(held.guarantee, "Kernel");
        assert!(is_ephemeral(held.port()), "{held:?}");
        count += 1;
    }
    assert!((12..16).contains(&count), "{count}");
    // If all other numbers are excluded, a reservation fails now.
    let error = ReserveOptions::new()
        .exclude(1..EPHEMERAL_LOW)
        .exclude(EPHEMERAL_LOW + 16..=u16::MAX)
        .reserve()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFreePort, "{error}");
    let message = error.to_string();
    assert!(message.starts_with("cannot reserve a port: "), "{message}");
    assert!(
        message.contains("in use") && message.contains("outgoing connection"),
        "{message}"
    );
    // Connections are still possible: one to a server outside the range, and one to a reserved
    // port.
    let outside = TcpListener::bind((V4, EPHEMERAL_LOW + 1000)).unwrap();
    let reserved = (EPHEMERAL_LOW..EPHEMERAL_LOW + 16)
        .find(|port| socket::bind(V4, *port, Reuse::Neither).is_err())
        .unwrap();
    assert_eq!(reserver.command(&format!("serve={reserved}")), "serves");
    let _one = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
    let _another = TcpStream::connect((V4, reserved)).unwrap();
    // When the kernel has no ephemeral port left, the first reservation of a new process gets a
    // port outside the range.
    let _rest: Vec<_> = std::iter::from_fn(|| socket::bind(V4, 0, Reuse::Neither).ok()).collect();
    let held = Reserver::new(&folder.locks()).reserve("").held();
    assert_eq!(held.guarantee, "Kernel");
    assert!(!is_ephemeral(held.port()), "{held:?}");
}

#[test]
fn without_proc_a_port_is_reserved_with_a_weaker_guarantee() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let hide = "mount -t tmpfs none /proc";
    let mut reserver = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(hide));
    let held = reserver.reserve("").held();
    assert_ne!(held.guarantee, "Kernel");
    assert!(held.leased);
    let mut other = Reserver::start(Reserver::launch(&folder.locks()).in_mounts(hide));
    other
        .reserve(&format!("port={}", held.port()))
        .refused("InUse");
}

#[test]
fn without_proc_a_wait_accepts_a_listener_of_an_unseen_process() {
    need!(capability::mount_namespace());
    need!(capability::sock_diag());
    let folder = Folder::new();
    Launch::new("waits-without-proc", &folder.locks())
        .in_mounts("mount -t tmpfs none /proc")
        .start()
        .succeed();
}

pub(crate) fn wait_without_proc() {
    let server = |p: &Reservation| {
        let mut command = Command::new(python());
        command.args(["-c", SERVER, "server", &p.port().to_string()]);
        command
    };
    let p = portlease::reserve_port();
    let mut child = server(&p).spawn().unwrap();
    p.wait_for(&mut child, DEADLINE).unwrap();
    p.wait_for_pid(child.id(), DEADLINE).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = p.wait_for_pid(child.id(), DEADLINE).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Io, "{ended}");

    let command = server(&p);
    let mut server = p.spawn(command, DEADLINE).unwrap();
    server.restart().unwrap();
    server.stop().unwrap().release().unwrap();
}

/// A library that makes a process a daemon closes every descriptor that it finds.
#[test]
fn code_that_closes_every_descriptor_goes_on_reserving_and_checking() {
    let folder = Folder::new();
    Launch::new("closes-descriptors", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn close_descriptors_and_go_on() {
    let use_crate = || {
        for (options, protocol) in [
            (ReserveOptions::new(), "tcp"),
            (ReserveOptions::new().udp(), "udp"),
            (ReserveOptions::new().reuse_addr(false), "tcp"),
        ] {
            let p = options.clone().reserve().unwrap();
            let operand = format!("{p}/{protocol}");
            portlease::assert_port_free(operand.as_str());
            assert_eq!(
                portlease::who_holds(operand.as_str())
                    .unwrap()
                    .leases()
                    .len(),
                1
            );
            let live = portlease::reservations().unwrap();
            assert!(
                live.iter().any(|lease| lease.port() == p.port()),
                "{live:?}"
            );
            let again = options.port(p.port()).reserve().unwrap_err();
            assert_eq!(again.kind(), ErrorKind::InUse, "{again}");
            p.release().unwrap();
            portlease::assert_port_free(operand.as_str());
        }
    };
    use_crate();
    for round in ["numbers that no file has", "numbers of other files"] {
        // A claim, an abstract name and two lock files.
        let held = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
        let closed = close_descriptors();
        assert!(closed > 0, "control: the crate keeps descriptors");
        let mut others = Vec::new();
        if round == "numbers of other files" {
            others = (0..closed + 8)
                .map(|_| tempfile::tempfile().unwrap())
                .collect();
        }
        let inode = |file: &File| file.metadata().unwrap().ino();
        let before: Vec<u64> = others.iter().map(inode).collect();
        drop(held);
        use_crate();
        use_crate();
        assert!(
            others
                .iter()
                .all(|file| file.metadata().unwrap().len() == 0)
        );
        let after: Vec<u64> = others.iter().map(inode).collect();
        assert_eq!(before, after, "{round}");
    }
}

/// A write beyond the limit of the file size would end the process by SIGXFSZ.
#[test]
fn a_process_that_may_write_no_file_reserves_without_a_record() {
    let folder = Folder::new();
    Launch::new("writes-no-file", &folder.locks())
        .start()
        .succeed();
}

pub(crate) fn reserve_without_writing() {
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Fsize)
    };
    setrlimit(Resource::Fsize, none).unwrap();
    for options in [ReserveOptions::new(), ReserveOptions::new().udp()] {
        let p = options.clone().reserve().unwrap();
        let error = p.lease_error().unwrap();
        assert!(error.ends_with("(raise it with ulimit -f)"), "{error}");
        let again = options.port(p.port()).reserve().unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InUse, "{again}");
    }
}

/// Closes every descriptor but the standard ones, and returns their number.
fn close_descriptors() -> usize {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .filter(|fd| *fd > 2)
        .collect();
    // The descriptor that listed the folder is closed by now.
    let open = listed
        .into_iter()
        .filter(|fd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap());
    open.map(|fd| {
        #[expect(unsafe_code, reason = "closes descriptors as a foreign library does")]
        // SAFETY: only the crate under test has these descriptors, and it must notice the change.
        unsafe {
            rustix::io::close(fd);
        }
    })
    .count()
}
