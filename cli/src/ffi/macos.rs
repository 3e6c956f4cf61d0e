//! macOS: the calls of libproc, which have no safe form.
#![expect(
    unsafe_code,
    reason = "proc_pidinfo and proc_listallpids are C functions"
)]

use std::io;
use std::mem::MaybeUninit;

use libc::{PROC_PIDTBSDINFO, c_int, proc_bsdinfo};

/// `None` if the process does not exist or is a zombie, or if this user may not inspect it.
pub(crate) fn process(pid: u32) -> Option<proc_bsdinfo> {
    let size = size_of::<proc_bsdinfo>() as c_int;
    let mut info = MaybeUninit::<proc_bsdinfo>::zeroed();
    let buffer = info.as_mut_ptr().cast();
    // SAFETY: the buffer is writable for `size` bytes.
    let written =
        unsafe { libc::proc_pidinfo(pid.cast_signed(), PROC_PIDTBSDINFO, 0, buffer, size) };
    // SAFETY: every field is a number or an array of numbers, for which zero is valid.
    let info = unsafe { info.assume_init() };
    (written == size).then_some(info)
}

pub(crate) fn pids() -> io::Result<Vec<u32>> {
    // Room for processes that start between the two calls.
    const SPARE: usize = 256;
    // SAFETY: without a buffer the call returns the number of processes, and writes nothing.
    let count = unsafe { libc::proc_listallpids(std::ptr::null_mut(), 0) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut pids = vec![0u32; count + SPARE];
    let size = c_int::try_from(size_of_val(pids.as_slice()))
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // SAFETY: the buffer is writable for `size` bytes. A pid has the size of a u32.
    let count = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), size) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    pids.truncate(count);
    Ok(pids)
}
