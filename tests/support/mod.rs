//! What the test binaries share, one module per noun.
//!
//! Each test binary includes this folder, and uses a part of it.

pub(crate) mod args;
pub(crate) mod capability;
mod folder;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "only the tests of forked children need it")]
pub(crate) mod fork;
pub(crate) mod helper;
mod poll;
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod reserver;
pub(crate) mod server;
mod skip;
pub(crate) mod socket;
#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[allow(
    unused_imports,
    reason = "each test binary uses only a part of the shared code"
)]
pub(crate) use {
    folder::{Folder, own_locks},
    poll::{DEADLINE, eventually},
    skip::{need, print_line, skip, test_name},
    system::{is_root, set_mode, show_owner, was_killed},
};
