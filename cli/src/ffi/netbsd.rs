//! NetBSD: sysctl(3), which has no safe form.
#![expect(unsafe_code, reason = "sysctl is a C function")]

use std::io;
use std::mem::MaybeUninit;

use libc::{c_int, kinfo_proc2};

/// Lists processes. `argument` is the pid for the request KERN_PROC_PID, and 0 for KERN_PROC_ALL.
pub(crate) fn processes(request: c_int, argument: c_int) -> io::Result<Vec<kinfo_proc2>> {
    let size = size_of::<kinfo_proc2>() as c_int;
    let name = [
        libc::CTL_KERN,
        libc::KERN_PROC2,
        request,
        argument,
        size,
        MOST,
    ];
    read(&name)
}

/// The maximum number of entries that the call returns. A system normally has fewer processes.
const MOST: c_int = 100_000;

fn read(name: &[c_int]) -> io::Result<Vec<kinfo_proc2>> {
    // Room for processes that start between the two calls.
    const SPARE: usize = 64;
    let mut bytes = 0;
    call(name, std::ptr::null_mut(), &mut bytes)?;
    let mut all =
        vec![MaybeUninit::<kinfo_proc2>::zeroed(); bytes / size_of::<kinfo_proc2>() + SPARE];
    let mut bytes = size_of_val(all.as_slice());
    call(name, all.as_mut_ptr(), &mut bytes)?;
    let written = all.into_iter().take(bytes / size_of::<kinfo_proc2>());
    // SAFETY: each field is a number, a pointer or an array of these, for which zero is valid.
    Ok(written
        .map(|process| unsafe { process.assume_init() })
        .collect())
}

/// Writes at most `bytes` bytes to `buffer`, and sets `bytes` to the number written. If `buffer` is
/// null, sets `bytes` to the number needed.
fn call(
    name: &[c_int],
    buffer: *mut MaybeUninit<kinfo_proc2>,
    bytes: &mut usize,
) -> io::Result<()> {
    let length = name.len() as libc::c_uint;
    // SAFETY: the name is readable for its length, and the buffer is null or writable for `bytes`
    // bytes. The call sets no new value.
    let failed = unsafe {
        libc::sysctl(
            name.as_ptr(),
            length,
            buffer.cast(),
            bytes,
            std::ptr::null(),
            0,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
