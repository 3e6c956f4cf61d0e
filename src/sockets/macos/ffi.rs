//! The calls of `libproc`, which have no safe form. Each call writes into an initialised buffer.
#![expect(unsafe_code, reason = "calls of the system")]

use std::io;

use libc::{PROC_PIDLISTFDS, PROC_PIDPATHINFO_MAXSIZE, PROC_PIDTBSDINFO, c_int};

use super::libproc::{DESCRIPTOR_SIZE, PROCESS_SIZE, SOCKET_SIZE};

/// From `sys/proc_info.h`. The crate `libc` lacks it.
const PROC_PIDFDSOCKETINFO: c_int = 3;

/// The pids of all processes.
pub(super) fn processes() -> io::Result<Vec<u32>> {
    const PID_SIZE: usize = 4;
    let bytes = read_list(PID_SIZE, |buffer| {
        // SAFETY: the buffer is writable for the size that is passed with it, and the call writes
        // no more.
        let count =
            unsafe { libc::proc_listallpids(buffer.as_mut_ptr().cast(), size_of_buffer(buffer)) };
        // The call returns the number of processes, not of bytes.
        count.saturating_mul(PID_SIZE as c_int)
    })?;
    let pid = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).unwrap_or(0);
    Ok(bytes.chunks_exact(PID_SIZE).map(pid).collect())
}

/// The descriptors of a process, as a list of `proc_fdinfo`.
pub(super) fn descriptors(pid: u32) -> io::Result<Vec<u8>> {
    read_list(DESCRIPTOR_SIZE, |buffer| info(pid, PROC_PIDLISTFDS, buffer))
}

/// The `proc_bsdinfo` of a process.
pub(super) fn process(pid: u32) -> io::Result<[u8; PROCESS_SIZE]> {
    let mut buffer = [0; PROCESS_SIZE];
    whole(info(pid, PROC_PIDTBSDINFO, &mut buffer), buffer)
}

/// The `socket_fdinfo` of a process's descriptor. Fails if the descriptor is not a socket.
pub(super) fn socket(pid: u32, descriptor: i32) -> io::Result<[u8; SOCKET_SIZE]> {
    let mut buffer = [0_u8; SOCKET_SIZE];
    let size = size_of_buffer(&buffer);
    let into = buffer.as_mut_ptr().cast();
    // SAFETY: the buffer is writable for the size that is passed with it, and the call writes no
    // more.
    let written = unsafe {
        libc::proc_pidfdinfo(
            pid.cast_signed(),
            descriptor,
            PROC_PIDFDSOCKETINFO,
            into,
            size,
        )
    };
    whole(written, buffer)
}

pub(super) fn program(pid: u32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; PROC_PIDPATHINFO_MAXSIZE as usize];
    let size = size_of_buffer(&buffer).cast_unsigned();
    // SAFETY: the buffer is writable for the size that is passed with it, and the call writes no
    // more.
    let written =
        unsafe { libc::proc_pidpath(pid.cast_signed(), buffer.as_mut_ptr().cast(), size) };
    match usize::try_from(written) {
        Ok(length @ 1..) => {
            buffer.truncate(length);
            Ok(buffer)
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn info(pid: u32, what: c_int, buffer: &mut [u8]) -> c_int {
    let size = size_of_buffer(buffer);
    // SAFETY: the buffer is writable for the size that is passed with it, and the call writes no
    // more.
    unsafe { libc::proc_pidinfo(pid.cast_signed(), what, 0, buffer.as_mut_ptr().cast(), size) }
}

fn size_of_buffer(buffer: &[u8]) -> c_int {
    c_int::try_from(buffer.len()).unwrap_or(c_int::MAX)
}

/// Fails if the call did not write the whole structure. If `written` is 0 or negative, the call
/// itself failed.
fn whole<const SIZE: usize>(written: c_int, buffer: [u8; SIZE]) -> io::Result<[u8; SIZE]> {
    match usize::try_from(written) {
        Ok(length) if length == SIZE => Ok(buffer),
        Ok(1..) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the system returned a structure of an unexpected size",
        )),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Repeats the call with a larger buffer while the list fills the whole buffer, because such a list
/// may be cut off. The call returns 0 both for an empty list and for an error, but only an error
/// sets errno.
fn read_list(entry: usize, call: impl Fn(&mut [u8]) -> c_int) -> io::Result<Vec<u8>> {
    const TRIES: usize = 8;
    let mut buffer = vec![0; entry * 1024];
    for _ in 0..TRIES {
        // SAFETY: the call takes no argument.
        let errno = unsafe { libc::__error() };
        // SAFETY: the pointer leads to the errno of this thread, and is valid while the thread
        // runs.
        unsafe { *errno = 0 };
        match usize::try_from(call(&mut buffer)) {
            Ok(length @ 1..) if length < buffer.len() => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Ok(1..) => buffer.resize(buffer.len() * 4, 0),
            _ => {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(0) => Ok(Vec::new()),
                    _ => Err(error),
                };
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::OutOfMemory,
        "the list of processes or descriptors grew faster than it could be read",
    ))
}
