//! Reservations that outlive the process which made them: a forked child that never calls exec
//! shares the claim, the abstract name and the lock, and keeps them for its life.

use std::io;

use crate::model::holder::Holder;
use crate::model::lease_info::{Lease, Record};
use crate::model::port::Port;
use crate::model::process::Process;
use crate::residual;
use crate::sockets::{self, Inode, Row, ScanDepth};

/// Notes in each lease whether its recorded process has ended, and who holds the reservation now.
pub(crate) fn of_leases(mut leases: Vec<Lease>) -> Vec<Lease> {
    if !sockets::CHILDREN_SHARE {
        return leases;
    }
    let mut inherited: Vec<(&mut Lease, Row)> = Vec::new();
    for lease in &mut leases {
        if lease.record().is_none_or(runs) {
            continue;
        }
        match socket_of(lease) {
            Ok(Some(socket)) => inherited.push((lease, socket)),
            Ok(None) => lease.set_inherited_by(Vec::new()),
            Err(_) => {}
        }
    }
    if inherited.is_empty() {
        return leases;
    }
    let rows = inherited.iter().map(|(_, row)| row.clone()).collect();
    // If the processes cannot be read, the report names the recorded process alone.
    let Ok(owned) = sockets::owners(rows, ScanDepth::Complete) else {
        return leases;
    };
    for (lease, row) in inherited {
        let inode = row.inode.map_or(0, Inode::get);
        let holder = owned.holders.iter().find(|holder| holder.inode == inode);
        if let Some(heirs) = holder.and_then(|holder| heirs(lease, holder)) {
            lease.set_inherited_by(heirs);
        }
    }
    leases
}

/// A socket that every holder of the reservation has: its claim, else its abstract name.
fn socket_of(lease: &Lease) -> io::Result<Option<Row>> {
    let port = Port::new(lease.port(), lease.protocol());
    match lease.record().and_then(|record| record.socket) {
        Some(claim) => Ok(Some(sockets::by_inode(claim, port))),
        None => residual::name(port),
    }
}

/// The processes that hold the reservation in place of the recorded one. `None` if the recorded
/// process may still run in another pid namespace: it is hidden here, or has another pid here.
fn heirs(lease: &Lease, holder: &Holder) -> Option<Vec<Process>> {
    let record = lease.record()?;
    let mut processes = holder.processes.iter();
    let is_known = !holder.hidden && !processes.any(|process| is_recorded(process, record));
    is_known.then(|| holder.processes.clone())
}

fn runs(record: &Record) -> bool {
    // A system that does not report whether a process runs reports no owner of a socket either.
    sockets::is_running(record.pid).unwrap_or(true)
        && (record.started.is_none() || sockets::started(record.pid) == record.started)
}

fn is_recorded(process: &Process, record: &Record) -> bool {
    let has_start = record.started.is_none() || process.ticks == record.started;
    has_start && sockets::innermost_pid(process.pid) == Some(record.pid)
}
