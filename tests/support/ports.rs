//! Free ports, and the guarantee that a test expects of a reservation.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::sync::Mutex;

use portlease::{Guarantee, ReserveOptions, ServerKind, check_port_free_for};

/// Whether a TCP reservation may have this guarantee. On Linux a claim keeps the port. Elsewhere
/// the guarantee is `Cooperative`, or `BestEffort` where the ephemeral range cannot be read, as
/// under wine.
pub(crate) fn is_tcp_guarantee(guarantee: Guarantee) -> bool {
    match guarantee {
        Guarantee::Kernel => cfg!(target_os = "linux"),
        _ => !cfg!(target_os = "linux"),
    }
}

/// A free port, which this function returns to no other test. On most machines it is outside the
/// ephemeral range, so the kernel assigns it to no process.
pub(crate) fn non_ephemeral_port() -> u16 {
    non_ephemeral_ports(1)[0]
}

/// `count` consecutive free ports, each as in [`non_ephemeral_port`].
pub(crate) fn non_ephemeral_ports(count: usize) -> Vec<u16> {
    loop {
        let ports = allot(count.try_into().unwrap());
        let first_to_last = ports.start..=ports.end - 1;
        let Ok(block) = ReserveOptions::new()
            .range(first_to_last)
            .reserve_block(count)
        else {
            // Another program uses one of them.
            continue;
        };
        drop(block);
        // An earlier test process may have left connections on a number. They refuse a server
        // without SO_REUSEADDR. A child that another test has just forked shares the claims until
        // it calls exec, so the check retries.
        let is_free = |port| check_port_free_for(port, ServerKind::Plain).is_ok();
        if ports.clone().all(is_free) {
            return ports.collect();
        }
    }
}

/// The numbers are divided into slices. Each test process locks the slices that it needs and allots
/// each number once. So no two tests use the same number, in one process or in several.
const FIRST_SLICE: u16 = 20000;
const SLICE: u16 = 320;
const SLICES: u16 = 31;

/// The numbers of the last locked slice that are not allotted yet, and the locks of all slices.
static SLICE_IN_USE: Mutex<Option<(Range<u16>, Vec<File>)>> = Mutex::new(None);

/// Numbers that are allotted to no other test. Panics if the test processes have locked all slices.
fn allot(count: u16) -> Range<u16> {
    assert!(count <= SLICE);
    let mut in_use = SLICE_IN_USE.lock().unwrap();
    let (left, locks) = in_use.get_or_insert_default();
    if left.len() < count.into() {
        let start = fastrand::u16(..SLICES);
        let order = (start..SLICES).chain(0..start);
        let (slice, lock) = order
            .filter_map(|slice| Some((slice, lock(slice)?)))
            .next()
            .expect("a slice that no test process has locked");
        let first = FIRST_SLICE + slice * SLICE;
        *left = first..first + SLICE;
        locks.push(lock);
    }
    let allotted = left.start..left.start + count;
    left.start = allotted.end;
    allotted
}

fn lock(slice: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("portlease-test-numbers-{slice}"));
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&path);
    // A file of another user can only be read. That is enough to lock it.
    let file = file.or_else(|_| File::open(&path)).ok()?;
    file.try_lock().ok()?;
    Some(file)
}
