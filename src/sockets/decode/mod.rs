//! Bytes and texts of the systems, decoded. No I/O.

#[cfg(any(windows, test, fuzzing))]
pub(crate) mod iphlpapi;
#[cfg(any(target_os = "macos", test, fuzzing))]
pub(crate) mod libproc;
#[cfg(any(target_os = "linux", test, fuzzing))]
pub(crate) mod procfs;
#[cfg(any(target_os = "linux", test, fuzzing))]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "there for its tests alone")
)]
pub(crate) mod sock_diag;
