//! Opens and lists folders of `/proc`. All reads through one open folder `/proc/PID` are about the
//! same process, even if its pid is reused meanwhile.

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

/// Counts the entries whose names start with a digit, up to `limit`. The count ends at an entry
/// that cannot be read.
pub(super) fn count_numbers(folder: BorrowedFd<'_>, limit: usize) -> usize {
    let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut count = 0;
    while count < limit
        && let Some(Ok(entry)) = entries.next()
    {
        let name = entry.file_name().to_bytes();
        count += usize::from(name.first().is_some_and(u8::is_ascii_digit));
    }
    count
}

/// The entries whose names are numbers, in the reverse of the kernel's order. The kernel lists pids
/// in ascending order, so the highest pid comes first.
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
