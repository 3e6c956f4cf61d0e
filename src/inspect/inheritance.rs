//! Reservations that outlive the process that made them. A forked child that never calls exec
//! shares the claim (the bound socket of the reservation), the abstract Unix socket name and the
//! lock. The child keeps them until it exits.

use std::io;

use super::relation;
use crate::lease::{as_recorded, lock_file_name};
use crate::model::holder::Holder;
use crate::model::lease_info::{Foreign, Lease};
use crate::model::port::Port;
use crate::model::process::Process;
use crate::model::record::Record;
use crate::process_id::ProcessId;
use crate::residual;
use crate::sockets::{self, Inode, Row, ScanDepth};

/// Notes for each lease whether its working directory differs from the working directory of this
/// process. Adds what this process can see of the owner of the lease:
///
/// - If the recorded process has ended: the processes that still hold the reservation.
/// - If the record is from another pid namespace: the pid under which this process sees the
///   recorded process, if it is visible.
///
/// If the owners cannot be read, no process and no pid is added.
pub(crate) fn of_leases(mut leases: Vec<Lease>) -> Vec<Lease> {
    let folder = std::env::current_dir().unwrap_or_default();
    let folder = as_recorded(&folder.to_string_lossy());
    for lease in &mut leases {
        lease.compare_folder(&folder);
    }
    if !sockets::CHILDREN_SHARE {
        return leases;
    }
    let own = ProcessId::current().namespace();
    let mut inherited: Vec<(&mut Lease, Row)> = Vec::new();
    for lease in &mut leases {
        let namespace = lease.record().and_then(|record| record.pid_namespace);
        if namespace.is_some() && own.is_some() && namespace != own {
            lease.set_foreign(Foreign { pid_here: None });
        }
        let is_foreign = lease.is_foreign();
        // A record from another pid namespace contains a pid of that namespace. In this namespace
        // the same pid belongs to another process, or to none.
        if lease
            .record()
            .is_none_or(|record| !is_foreign && runs(record))
        {
            continue;
        }
        match socket_of(lease) {
            Ok(Some(socket)) => inherited.push((lease, socket)),
            // It is unknown whether a process of another pid namespace still runs.
            Ok(None) if !is_foreign => lease.set_inherited_by(Vec::new()),
            Ok(None) | Err(_) => {}
        }
    }
    if inherited.is_empty() {
        return leases;
    }
    let rows = inherited.iter().map(|(_, row)| row.clone()).collect();
    // If the owners of the sockets cannot be read, the report names only the recorded process.
    let Ok(mut owned) = sockets::owners(rows, ScanDepth::Complete) else {
        return leases;
    };
    relation::note(owned.holders.iter_mut());
    for (lease, row) in inherited {
        let inode = row.inode.map_or(0, Inode::get);
        let holder = owned.holders.iter().find(|holder| holder.inode == inode);
        if let Some(heirs) = holder.and_then(|holder| heirs(lease, holder)) {
            lease.set_inherited_by(heirs);
        }
        if lease.is_foreign() {
            let pid_here = holder.and_then(|holder| pid_here(lease, holder));
            lease.set_foreign(Foreign { pid_here });
        }
    }
    leases
}

/// Does what [`of_leases`] does, for the leases of several ports. One scan of the processes serves
/// all of them.
pub(crate) fn of_each(ports: Vec<Vec<Lease>>) -> Vec<Vec<Lease>> {
    let lengths: Vec<usize> = ports.iter().map(Vec::len).collect();
    let mut all = of_leases(ports.into_iter().flatten().collect()).into_iter();
    let next = |length| all.by_ref().take(length).collect();
    lengths.into_iter().map(next).collect()
}

/// The processes that have the port's abstract Unix socket name. Empty if no process has the name,
/// or if the processes cannot be read. A report then says "an unknown process". A forked child that
/// has made the reservation itself does not count as [`forked`](Process::forked), because it
/// inherited nothing.
pub(crate) fn of_name(port: Port) -> Vec<Process> {
    let row = residual::name(port).ok().flatten();
    let owned = row.and_then(|row| sockets::owners(vec![row], ScanDepth::Complete).ok());
    let mut holders = owned.map(|owned| owned.holders).unwrap_or_default();
    relation::note(holders.iter_mut());
    let processes = holders.into_iter().flat_map(|holder| holder.processes);
    let as_reserver = |mut process: Process| {
        process.forked = process.forked && !sockets::has_locked(process.pid, &lock_file_name(port));
        process
    };
    processes.map(as_reserver).collect()
}

/// Returns the claim (the bound socket of the reservation). If the record has no claim, returns the
/// socket that has the abstract Unix socket name, or `None` if no socket has the name.
fn socket_of(lease: &Lease) -> io::Result<Option<Row>> {
    let port = Port::new(lease.port(), lease.protocol());
    match lease.record().and_then(|record| record.socket) {
        Some(claim) => Ok(Some(sockets::by_inode(claim, port))),
        None => residual::name(port),
    }
}

/// The processes that still hold the reservation after the recorded process has ended. Call this if
/// the recorded process does not run in this pid namespace. The recorded process may still run in
/// another pid namespace. Returns `None` in three cases:
///
/// - The lease has no record.
/// - No owner of the socket is visible.
/// - The recorded process is itself an owner. So it has not ended, and runs in another pid
///   namespace.
fn heirs(lease: &Lease, holder: &Holder) -> Option<Vec<Process>> {
    let record = lease.record()?;
    let mut processes = holder.processes.iter();
    let is_known = !holder.hidden && !processes.any(|process| is_recorded(process, record));
    is_known.then(|| holder.processes.clone())
}

/// The pid under which this process sees the recorded process of another pid namespace. `None` if
/// the recorded process is not visible.
fn pid_here(lease: &Lease, holder: &Holder) -> Option<u32> {
    let record = lease.record()?;
    let mut processes = holder.processes.iter();
    let found = processes.find(|process| is_recorded(process, record));
    found.map(|process| process.pid)
}

fn runs(record: &Record) -> bool {
    // If the system does not report whether a process runs, the process counts as running. Such a
    // system reports no owners of sockets either, so the report could name no other process.
    let is_same = |started| record.started.is_none() || started == record.started;
    sockets::is_running(record.pid).unwrap_or(true)
        && sockets::started(record.pid).map_or(true, is_same)
}

/// Whether the process is the recorded one. In its own pid namespace, the process must have the
/// recorded pid. If the record has a start time, the process must have started at that time.
fn is_recorded(process: &Process, record: &Record) -> bool {
    let has_start = record.started.is_none() || process.ticks == record.started;
    has_start && sockets::innermost_pid(process.pid) == Some(record.pid)
}
