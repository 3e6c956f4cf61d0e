//! macOS and the BSDs: the calls about kqueue(2) that have no safe form.
#![expect(
    unsafe_code,
    reason = "rustix cannot prove that an event refers to open descriptors"
)]

use std::os::fd::OwnedFd;

use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use rustix::io::Errno;
use rustix::process::Pid;

/// A queue that becomes readable when the process ends. Fails with ESRCH if the process does not
/// exist, and on macOS and NetBSD also if it is a zombie.
pub(crate) fn exit_of(pid: Pid) -> Result<OwnedFd, Errno> {
    let queue = kqueue()?;
    let filter = EventFilter::Proc {
        pid,
        flags: ProcessEvents::EXIT,
    };
    let event = Event::new(filter, EventFlags::ADD, std::ptr::null_mut());
    let mut received: [Event; 0] = [];
    // SAFETY: the filter names a process and no descriptor.
    unsafe { kevent(&queue, &[event], &mut received, None) }?;
    Ok(queue)
}
