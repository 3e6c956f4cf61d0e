//! Maps memory that the kernel clears in a forked child. The standard library has no call for this.
#![expect(unsafe_code, reason = "mmap(2) and madvise(2) are C functions")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The pid of this process and the inode of its pid namespace. Both are 0 until the process sets
/// them. The kernel clears them in a forked child.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) namespace: AtomicU64,
    /// A thread sets `pid` after `namespace`. So if another thread finds the pid here, `namespace`
    /// is set too.
    pub(super) pid: AtomicU32,
}

/// The memory that the kernel clears in a forked child. Every call returns the same memory. `None`
/// if a system call fails, as in some sandboxes. Also `None` before Linux 4.14, which cannot clear
/// memory at a fork.
pub(super) fn cleared_by_fork() -> Option<&'static Kept> {
    static KEPT: OnceLock<Option<&'static Kept>> = OnceLock::new();
    *KEPT.get_or_init(map)
}

fn map() -> Option<&'static Kept> {
    const SIZE: usize = size_of::<Kept>();
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: without an address, mmap(2) maps memory that this process does not use yet.
    let page = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: `page` is the start of the mapping above, to which nothing has a reference yet.
    // madvise(2) rounds the size up to the end of the page, as mmap(2) did.
    if unsafe { libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: nothing has a reference to the mapping.
        unsafe { libc::munmap(page, SIZE) };
        return None;
    }
    // SAFETY: the mapping starts at the start of a page, holds `SIZE` bytes, and is never unmapped
    // from here on. A `Kept` may consist of zeros, as the mapping does. Its fields are atomic, so
    // threads may share it.
    Some(unsafe { &*page.cast::<Kept>() })
}
