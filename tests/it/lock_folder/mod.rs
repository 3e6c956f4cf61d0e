//! The lock folder: what is in it, and what happens when it is deleted, unusable or hostile.

#[cfg(target_os = "linux")]
mod default; // mounts
mod deleted;
mod list;
mod unusable;

#[cfg(target_os = "linux")]
pub(crate) mod forks; // fork
#[cfg(target_os = "linux")]
mod planted; // setpriv, links, fifos
#[cfg(target_os = "linux")]
mod record; // start times from /proc; a lock that lets others write the file
#[cfg(target_os = "linux")]
pub(crate) mod sweep; // deleted files in /proc/self/fd; network namespaces
#[cfg(target_os = "linux")]
mod users; // setpriv
