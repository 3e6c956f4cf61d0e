//! The lock folder: what is in it, and what happens when it is deleted, unusable or hostile.

#[cfg(target_os = "linux")]
mod default; // needs mounts
mod deleted;
mod list;
mod unusable;

#[cfg(target_os = "linux")]
pub(crate) mod forks; // needs fork
#[cfg(target_os = "linux")]
mod planted; // needs setpriv, links and fifos
#[cfg(target_os = "linux")]
mod record; // needs start times from /proc, and locks that let others write the file
#[cfg(target_os = "linux")]
pub(crate) mod sweep; // needs deleted files in /proc/self/fd, and network namespaces
#[cfg(target_os = "linux")]
mod users; // needs setpriv
