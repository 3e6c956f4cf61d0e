//! Sockets, processes and reservations for the unit tests of reports.

use std::num::NonZeroU64;
use std::time::{Duration, UNIX_EPOCH};

use super::endpoint::Protocol;
use super::holder::{Holder, UnseenOwner};
use super::holders::Holders;
use super::incompleteness::Incompleteness;
use super::lease_info::Lease;
use super::process::Process;
use super::record::Record;
use super::state::State;

/// The time of every report in these tests, as the time since the Unix epoch. Each process started
/// 200 s earlier.
const NOW: Duration = Duration::from_secs(1_769_860_800);

pub(super) fn process(pid: u32, name: &str) -> Process {
    Process {
        parent: Some(1),
        uid: Some(1000),
        user: Some("ci".to_owned()),
        started: Some(UNIX_EPOCH + NOW - Duration::from_secs(200)),
        ticks: NonZeroU64::new(pid.into()),
        ..Process::unknown(pid, name.to_owned())
    }
}

pub(super) fn holder(state: State, local: &str, remote: &str, processes: &[Process]) -> Holder {
    Holder {
        protocol: Protocol::Tcp,
        local: local.parse().unwrap(),
        remote: remote.parse().ok(),
        state,
        uid: Some(1000),
        user: Some("ci".to_owned()),
        inode: 77,
        dual_stack: local.starts_with("[::]"),
        client: false,
        interface: None,
        shared: false,
        hidden: processes.is_empty(),
        processes: processes.to_vec(),
        unseen_owner: UnseenOwner {
            is_denied: true,
            ..UnseenOwner::default()
        },
        may_be_client: false,
        is_past: false,
    }
}

pub(super) fn time_wait(port: u16) -> Holder {
    let socket = holder(
        State::TimeWait,
        "127.0.0.1:60315",
        &format!("127.0.0.1:{port}"),
        &[],
    );
    Holder {
        inode: 0,
        uid: None,
        user: None,
        hidden: false,
        ..socket
    }
}

pub(super) fn lease(socket: u64) -> Lease {
    let record = Record {
        pid: 4100,
        test: "restart::keeps_its_port".to_owned(),
        at: "tests/restart.rs:17".to_owned(),
        socket: NonZeroU64::new(socket),
        ..Record::default()
    };
    Lease::new(Protocol::Tcp, 60315, Some(record))
}

pub(super) fn report(
    sockets: Vec<Holder>,
    leases: Vec<Lease>,
    unseen: Vec<Incompleteness>,
) -> String {
    let holders = Holders::new(60315, None, sockets, leases, unseen);
    let mut text = holders.headline();
    let headline = holders.headline();
    for line in holders.lines(&headline, UNIX_EPOCH + NOW, "they end within 60 s") {
        text += "\n";
        text += &line;
    }
    text
}
