//! What may be broken around a reservation: its record, its folder, its limits.
//!
//! Every fault that the crate says it survives, and where that is shown:
//!
//! | fault | shown by |
//! |---|---|
//! | `kill -9` at every step of reserving and letting go | `crash`: `a_port_can_be_reserved_at_once_wherever_its_holder_was_killed_…` |
//! | … its stale files | `folder`: `the_files_that_killed_processes_left_are_swept_by_a_look` |
//! | a test that panics | `reservation`: `a_test_that_panics_lets_its_port_go_and_harms_no_other`, `a_process_that_panics_…` |
//! | a record empty, torn, not UTF-8, newer, of any bytes | `a_record_that_cannot_be_read_…`; `identity`: `no_bytes_in_a_lock_file_…` |
//! | a lock folder read-only; without room for a file, for a record | `a_lock_folder_that_is_read_only_…`, `…_on_a_read_only_file_system_…`, `…_without_room_…` |
//! | … deleted while in use | `a_lock_folder_deleted_while_in_use_…`, `a_number_without_a_claim_is_kept_while_…`; `folder`: `whoever_only_looks_…` |
//! | … without locks | `a_file_system_without_locks_…` |
//! | … planted: links, fifos, folders, unreadable files | `users`: `a_planted_…`, `a_record_planted_by_another_user_…` |
//! | no IPv6 | `namespaces`: `a_port_is_reserved_where_ipv6_is_switched_off`; `kinds`: `without_ipv6_…` |
//! | no `/proc`; `hidepid` | `without_proc_…`; `diagnosis`: `with_hidepid_…`; in the library `table::live::hidden` |
//! | no sock_diag | `waits`: `without_a_way_to_ask_the_kernel_…`; in the library `table::live::sockets`: `the_fall_back_…` |
//! | descriptors used up | `a_process_without_descriptors_…`, `a_process_that_has_no_descriptors_…`; `table::live::hidden`: `without_descriptors_…` |
//! | the ephemeral range used up | `an_ephemeral_range_that_is_used_up_…` |
//! | steps of the clock | `clock`, all of it |
//! | a forked child that has not exec'ed | `spawning`: `…_beside_threads_that_spawn`, `…_long_in_coming_to_its_exec…`; `table::live::processes`: `a_child_has_its_parents_sockets_…` |
//! | a number that is another process's now | `identity`: `a_reservation_of_an_earlier_process_…`, `…_for_an_earlier_process_…`; `table::live::processes`: `a_recycled_number_…` |
//! | names of processes that are no plain text | `identity`: `a_name_with_brackets_…`; `holder::report`: `names_are_escaped_…`; `fuzzing::report` |
//! | all of them at once, by chance | `examples/soak` |

use std::fs::Permissions;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::numbers::quiet_number;
use crate::outsider::{self, Reuse, V4};
use crate::support::{EPHEMERAL_LOW, Folder, Launch, capability, is_root, need};

#[test]
fn a_record_that_cannot_be_read_leaves_the_lease_in_force() {
    let folder = Folder::new();
    let (mut holder, mut other) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = holder.reserve("label=whole").held().port();
    let exactly = format!("port={port}");
    let message = other.reserve(&exactly).refused("InUse");
    assert!(message.contains("whole"), "{message}");
    let path = folder.lock_file(port);
    let whole = std::fs::read(&path).unwrap();
    let newer =
        String::from_utf8(whole.clone())
            .unwrap()
            .replacen("portlease 1 ", "portlease 2 ", 1);
    let torn = [&whole[..whole.len() / 8], &vec![b'\n'; whole.len() / 8][..]].concat();
    let broken: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("torn", &torn),
        ("cut short", &whole[..40]),
        ("not UTF-8", b"portlease 1 \xff\xfe\xfd\n"),
        ("newer", newer.as_bytes()),
        ("not a record", b"#!/bin/sh\nexit 1\n"),
        ("huge", &[b'x'; 1 << 20]),
    ];
    for (what, bytes) in broken {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let begun = Instant::now();
        let message = other.reserve(&exactly).refused("InUse");
        assert!(!message.contains("whole"), "{what}: {message}");
        let lease = format!("{port}/tcp is reserved by a process that left no record");
        assert_eq!(other.command(&format!("lease={port}")), lease, "{what}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    holder.drop(port);
    // A broken record of nobody's is no obstacle, and is overwritten.
    other.reserve(&format!("{exactly} label=next")).held();
    let message = holder.reserve(&exactly).refused("InUse");
    assert!(message.contains("next"), "{message}");
}

/// The kernel's guarantee alone: no lease, no record, and still one holder.
#[track_caller]
fn goes_on_without_a_lease(mut agent: Agent, what: &str) {
    let folder = Folder::new();
    let begun = Instant::now();
    let held = agent.reserve("").held();
    assert_eq!(
        (held.guarantee.as_str(), held.leased),
        ("Kernel", false),
        "{what}"
    );
    let number = quiet_number();
    let exact = agent.reserve(&format!("port={number}")).held();
    assert_eq!(
        (exact.guarantee.as_str(), exact.leased),
        ("Kernel", false),
        "{what}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{what}: {:?}",
        begun.elapsed()
    );
    let mut other = Agent::new(&folder.locks());
    for port in [held.port(), number] {
        other.reserve(&format!("port={port}")).refused("InUse");
    }
    agent.drop("all");
    other.reserve(&format!("port={number}")).held();
}

#[test]
fn a_lock_folder_that_is_read_only_leaves_the_kernels_guarantee() {
    // Permissions do not bind root.
    if is_root() {
        need!(capability::nobody());
    }
    let folder = Folder::new();
    std::fs::create_dir(folder.locks()).unwrap();
    std::fs::set_permissions(folder.locks(), Permissions::from_mode(0o555)).unwrap();
    let launch = Agent::launch(&folder.locks());
    goes_on_without_a_lease(
        Agent::of(if is_root() {
            launch.run_by_nobody()
        } else {
            launch
        }),
        "mode 0555",
    );
}

#[test]
fn a_lock_folder_on_a_read_only_file_system_leaves_the_kernels_guarantee() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let mount = format!("mount -t tmpfs -o ro none '{}'", folder.path().display());
    goes_on_without_a_lease(
        Agent::of(Agent::launch(&folder.locks()).in_mounts(mount)),
        "read-only",
    );
}

#[test]
fn a_lock_folder_without_room_for_a_file_leaves_the_kernels_guarantee() {
    need!(capability::mount_namespace());
    // Room for no folder at all, then for the folders alone: the root of the file system counts.
    for inodes in [1, 3] {
        let folder = Folder::new();
        let mount = format!(
            "mount -t tmpfs -o mode=1777,nr_inodes={inodes} none '{}'",
            folder.path().display()
        );
        let agent = Agent::of(Agent::launch(&folder.locks()).in_mounts(mount));
        goes_on_without_a_lease(agent, &format!("{inodes} inodes"));
    }
}

#[test]
fn a_lock_folder_without_room_for_a_record_keeps_the_lease() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let path = folder.path().display();
    let full = format!(
        "mount -t tmpfs -o mode=1777,size=16k none '{path}' && {{ cat /dev/zero > '{path}/ballast' 2>/dev/null; \
         test -s '{path}/ballast'; }}"
    );
    let mut agent = Agent::of(Agent::launch(&folder.locks()).in_mounts(full));
    let held = agent.reserve("").held();
    assert_eq!((held.guarantee.as_str(), held.leased), ("Kernel", true));
    agent.drop("all");
    agent.reserve(&format!("port={}", held.port())).held();
}

/// What the kernel answers there is put into its mouth.
#[test]
fn a_file_system_without_locks_leaves_the_kernels_guarantee_and_nothing_else() {
    need!(capability::strace());
    for error in ["ENOLCK", "EOPNOTSUPP"] {
        let folder = Folder::new();
        let inject = format!("inject=flock:error={error}");
        let without =
            ["-f", "-o", "/dev/null", "-e", "trace=flock", "-e", &inject].map(String::from);
        let launch = || Agent::launch(&folder.locks()).traced(without.clone());
        goes_on_without_a_lease(Agent::of(launch()), error);
        // What rests on cooperation alone is not to be had.
        let message = Agent::of(launch()).reserve("udp=1").refused("Lease");
        let scope = folder.scope().display().to_string();
        assert!(
            message.contains(&scope) && message.contains("PORTLEASE_DIR"),
            "{message}"
        );
    }
}

#[test]
fn a_lock_folder_deleted_while_in_use_is_made_again() {
    let folder = Folder::new();
    let (mut holder, mut other) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = holder.reserve("").held().port();
    other.reserve("").held();
    std::fs::remove_dir_all(folder.locks()).unwrap();
    // The lock is gone with the folder; the claim is not.
    let exactly = format!("port={port}");
    other.reserve(&exactly).refused("InUse");
    Agent::new(&folder.locks())
        .reserve(&exactly)
        .refused("InUse");
    let again = holder.reserve("").held();
    assert!(again.leased, "made again");
    assert!(folder.lock_file(again.port()).exists());
    // Of those that met in the old folder, all meet in the new one.
    let message = other
        .reserve(&format!("port={}", again.port()))
        .refused("InUse");
    assert!(
        message.contains(&format!("pid {}", holder.pid())),
        "{message}"
    );
    holder.drop("all");
    other.reserve(&exactly).held();
}

/// What has no claim is kept by its name in the network namespace then.
#[test]
fn a_number_without_a_claim_is_kept_while_its_lock_folder_is_deleted() {
    for kind in ["udp=1", "plain=1", "pair=1"] {
        let folder = Folder::new();
        let (mut holder, mut other) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
        let held = holder.reserve(kind).held();
        assert_eq!(held.guarantee, "Cooperative", "{kind}");
        std::fs::remove_dir_all(folder.locks()).unwrap();
        let exactly = format!("port={} {kind}", held.port());
        other.reserve(&exactly).refused("InUse");
        holder.drop("all");
        assert!(other.reserve(&exactly).held().leased, "{kind}");
    }
}

#[test]
fn a_process_without_descriptors_is_told_so_and_goes_on_once_it_has_some() {
    let folder = Folder::new();
    let mut agent = Agent::of(Agent::launch(&folder.locks()).setup("ulimit -n 64"));
    for _ in 0..2 {
        let answer = agent.command("fill");
        let words: Vec<&str> = answer.splitn(4, ' ').collect();
        let [_, count, kind, message] = words[..] else {
            panic!("{answer}")
        };
        assert_eq!(kind, "Io", "{message}");
        assert!(message.contains("ulimit -n"), "{message}");
        assert!(count.parse::<u32>().unwrap() >= 20, "{answer}");
        let message = agent
            .reserve(&format!("port={}", quiet_number()))
            .refused("Io");
        assert!(message.contains("ulimit -n"), "{message}");
        agent.drop("all");
    }
    assert!(agent.reserve("").held().leased);
}

#[test]
fn a_process_that_has_no_descriptors_from_the_start_is_told_so() {
    // At each of these limits the first reservation fails at another step, or none does.
    let mut refused = 0;
    for limit in 4..16 {
        let folder = Folder::new();
        let mut agent =
            Agent::of(Agent::launch(&folder.locks()).setup(format!("ulimit -n {limit}")));
        match agent.reserve("") {
            crate::agent::Answer::Held(held) => assert!(held.leased, "limit {limit}: {held:?}"),
            crate::agent::Answer::Refused { kind, message } => {
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
fn an_ephemeral_range_that_is_used_up_is_told_and_leaves_connections_possible() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    Launch::new("used-up", &folder.locks())
        .with_ephemeral_ports(16)
        .start()
        .succeed();
}

pub(crate) fn used_up_range_in_namespace() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let answer = agent.command("fill");
    let words: Vec<&str> = answer.splitn(4, ' ').collect();
    let [_, count, kind, message] = words[..] else {
        panic!("{answer}")
    };
    assert_eq!(kind, "NoFreePort", "{message}");
    assert!(
        message.starts_with("cannot reserve a port from the ephemeral range: "),
        "{message}"
    );
    assert!(
        message.contains("in use") && message.contains("outgoing connections"),
        "{message}"
    );
    let count: usize = count.parse().unwrap();
    assert!((12..16).contains(&count), "{answer}");
    // One more connection can be made, to a server outside as to one of the reserved ports.
    let outside = TcpListener::bind((V4, EPHEMERAL_LOW + 1000)).unwrap();
    let reserved = (EPHEMERAL_LOW..EPHEMERAL_LOW + 16)
        .find(|port| outsider::bind(V4, *port, Reuse::Neither).is_err())
        .unwrap();
    assert_eq!(agent.command(&format!("serve={reserved}")), "serves");
    let _one = TcpStream::connect(outside.local_addr().unwrap()).unwrap();
    let _another = TcpStream::connect((V4, reserved)).unwrap();
    // When the kernel has nothing left at all, a process that asks it for the first time has a number it never assigns.
    let _rest: Vec<_> = std::iter::from_fn(|| outsider::bind(V4, 0, Reuse::Neither).ok()).collect();
    let held = Agent::new(&folder.locks()).reserve("").held();
    assert_eq!(held.guarantee, "Kernel");
    assert!(
        !(EPHEMERAL_LOW..EPHEMERAL_LOW + 16).contains(&held.port()),
        "{held:?}"
    );
}

#[test]
fn without_proc_a_port_is_reserved_and_no_more_is_promised_than_is_known() {
    need!(capability::mount_namespace());
    let folder = Folder::new();
    let hide = "mount -t tmpfs none /proc";
    let mut agent = Agent::of(Agent::launch(&folder.locks()).in_mounts(hide));
    let held = agent.reserve("").held();
    assert_ne!(held.guarantee, "Kernel");
    assert!(held.leased);
    let mut other = Agent::of(Agent::launch(&folder.locks()).in_mounts(hide));
    other
        .reserve(&format!("port={}", held.port()))
        .refused("InUse");
}
