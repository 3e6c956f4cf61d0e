//! A lock folder that is deleted while processes use it.

use crate::support::helper::EPHEMERAL_LOW;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

#[test]
#[cfg_attr(windows, ignore = "a file that a process has open cannot be deleted")]
fn a_process_that_only_reads_finds_the_recreated_lock_folder() {
    let folder = Folder::new();
    let (mut holder, mut reader) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let lease = |reader: &mut Reserver, port: u16| reader.command(&format!("lease={port}"));
    let port = holder.reserve("label=before").held().port();
    assert!(lease(&mut reader, port).contains("before"));
    std::fs::remove_dir_all(folder.locks()).unwrap();
    assert_eq!(
        lease(&mut reader, port),
        "none",
        "the control: the lease is gone with the folder"
    );
    let port = holder.reserve("udp=1 label=after").held().port();
    assert!(lease(&mut reader, port).contains("after"));
    let report = reader.command(&format!("check={port}/udp"));
    assert!(report.contains("after"), "{report}");
}

#[test]
fn a_deleted_lock_folder_is_created_again() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&folder.locks());
    let port = reserver.reserve("").held().port();
    reserver.release(port);
    std::fs::remove_dir_all(folder.locks()).unwrap();
    reserver.reserve(&format!("port={port}")).held();
    assert!(folder.lock_file(port).exists());
    let mut other = Reserver::new(&folder.locks());
    other.reserve(&format!("port={port}")).refused("InUse");
}

#[test]
#[cfg_attr(windows, ignore = "a file that a process has open cannot be deleted")]
fn a_lock_folder_deleted_while_in_use_is_created_again() {
    let folder = Folder::new();
    let (mut holder, mut other) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = holder.reserve("").held().port();
    other.reserve("").held();
    std::fs::remove_dir_all(folder.locks()).unwrap();
    // The lock is gone with the folder; the claim is not.
    let exactly = format!("port={port}");
    other.reserve(&exactly).refused("InUse");
    Reserver::new(&folder.locks())
        .reserve(&exactly)
        .refused("InUse");
    let again = holder.reserve("").held();
    assert!(again.leased, "the folder was not created again");
    assert!(folder.lock_file(again.port()).exists());
    // Processes that used the old folder all use the new one.
    let message = other
        .reserve(&format!("port={}", again.port()))
        .refused("InUse");
    assert!(
        message.contains(&format!("pid {}", holder.pid())),
        "{message}"
    );
    holder.release("all");
    other.reserve(&exactly).held();
}

/// Without its lock file and without a claim, only the abstract name in the network namespace keeps
/// a port.
#[test]
#[cfg_attr(windows, ignore = "a file that a process has open cannot be deleted")]
fn a_port_without_a_claim_stays_reserved_while_its_lock_folder_is_deleted() {
    for kind in ["udp=1", "plain=1", "pair=1"] {
        let folder = Folder::new();
        let (mut holder, mut other) = (
            Reserver::new(&folder.locks()),
            Reserver::new(&folder.locks()),
        );
        let held = holder.reserve(kind).held();
        assert_eq!(held.guarantee, "Cooperative", "{kind}");
        std::fs::remove_dir_all(folder.locks()).unwrap();
        let exactly = format!("port={} {kind}", held.port());
        other.reserve(&exactly).refused("InUse");
        holder.release("all");
        assert!(other.reserve(&exactly).held().leased, "{kind}");
    }
}

/// The claim of an ephemeral number usually needs no abstract name. But it must not take a number
/// whose name a reservation without a claim has.
#[test]
fn a_port_without_a_claim_is_not_claimed_from_another_lock_folder() {
    need!(capability::network_namespace());
    let folder = Folder::new();
    let mut holder = Reserver::start(Reserver::launch(&folder.locks()).with_ephemeral_ports(10));
    let port = EPHEMERAL_LOW + 3;
    holder.reserve(&format!("port={port} plain=")).held();
    let elsewhere = format!("elsewhere={port}");
    assert_eq!(holder.command(&elsewhere), "InUse");
    holder.release("all");
    assert_eq!(holder.command(&elsewhere), "held", "the control");
}
