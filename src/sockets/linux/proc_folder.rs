//! Folders of `/proc`. What is read through an open one belongs to the same process, even if its
//! pid has been reused since.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat};

pub(super) fn open(at: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    openat(
        at,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The entries that are numbers, in the reverse of the kernel's order: the highest first.
pub(super) fn numbers(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<u32>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    numbers.reverse();
    Ok(numbers)
}
