//! Decodes the bytes and texts in which systems report sockets and processes. No I/O.

#[cfg(any(target_os = "linux", test))]
pub(crate) mod cgroup;
#[cfg(any(windows, test, fuzzing))]
pub(crate) mod iphlpapi;
#[cfg(any(target_os = "macos", test, fuzzing))]
pub(crate) mod libproc;
#[cfg(any(target_os = "linux", test, fuzzing))]
mod linux_state;
#[cfg(any(target_os = "linux", test, fuzzing))]
pub(crate) mod procfs;
#[cfg(any(target_os = "linux", test, fuzzing))]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the tests of this module run on every system")
)]
pub(crate) mod sock_diag;
#[cfg(any(target_os = "linux", test, fuzzing))]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "the tests of this module run on every system")
)]
pub(crate) mod sockstat;
