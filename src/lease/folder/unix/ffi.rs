//! The effective user ID and the limit of the file size, from the C library.
#![expect(unsafe_code, reason = "geteuid(2) and getrlimit(2) are C functions")]

use std::sync::OnceLock;

/// The effective user ID of this process. The files that this process creates belong to that user,
/// unless a thread has called setfsuid(2).
pub(crate) fn user() -> u32 {
    // SAFETY: the call takes no argument, touches no memory of this process and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether this process may write a file of this size (RLIMIT_FSIZE). The process reads the limit
/// once. `true` if the limit cannot be read.
pub(super) fn may_write(size: usize) -> bool {
    static LIMIT: OnceLock<Option<i128>> = OnceLock::new();
    let limit = LIMIT.get_or_init(|| {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the call writes to `limit`, which has the layout that it expects.
        let outcome = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
        (outcome == 0).then(|| i128::from(limit.rlim_cur))
    });
    limit.is_none_or(|limit| i128::try_from(size).is_ok_and(|size| size <= limit))
}
