//! The effective user ID, from the C library.
#![expect(unsafe_code, reason = "geteuid(2) is a C function")]

/// The effective user ID of this process. The files that this process creates belong to that user,
/// unless a thread has called setfsuid(2).
pub(crate) fn user() -> u32 {
    // SAFETY: the call takes no argument, touches no memory of this process and cannot fail.
    unsafe { libc::geteuid() }
}
