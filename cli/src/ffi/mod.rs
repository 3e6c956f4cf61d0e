//! The calls for which std and the crates in use have no safe function. Each file contains calls
//! for one system or for one purpose.

#[cfg(windows)]
pub(crate) mod command_line;
#[cfg(target_os = "freebsd")]
pub(crate) mod freebsd;
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) mod kqueue;
#[cfg(target_os = "macos")]
pub(crate) mod macos;
#[cfg(target_os = "netbsd")]
pub(crate) mod netbsd;
pub(crate) mod os_text;
#[cfg(windows)]
pub(crate) mod pipes;
#[cfg(unix)]
pub(crate) mod unix;
#[cfg(windows)]
pub(crate) mod windows;
