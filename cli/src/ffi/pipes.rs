//! Windows: the calls for named pipes, which have no safe form.
#![expect(unsafe_code, reason = "calls of the Windows API")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{
    ERROR_NO_DATA, ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_FIRST_PIPE_INSTANCE, PIPE_ACCESS_DUPLEX};
use windows_sys::Win32::System::IO::CancelSynchronousIo;
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, GetNamedPipeServerProcessId, PIPE_READMODE_BYTE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// The size of the buffers of a pipe. The messages of a keeper and of a port server are shorter.
const BUFFER_BYTES: u32 = 512;

/// Memory that Windows allocated with `LocalAlloc` for this process.
struct Allocated(*mut c_void);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: Windows allocated this memory, and only this value frees it.
        unsafe { LocalFree(self.0) };
    }
}

/// A security descriptor that lets only the user of this process open a pipe.
pub(crate) struct OwnerOnly(Allocated);

impl OwnerOnly {
    pub(crate) fn new() -> io::Result<OwnerOnly> {
        // GA: all rights. P: no entries are inherited from a parent object.
        let text = format!("D:P(A;;GA;;;{})\0", own_sid()?);
        let text: Vec<u16> = text.encode_utf16().collect();
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and `descriptor` is writable. The last pointer may be
        // null, because this function does not need the size.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                std::ptr::null_mut(),
            )
        };
        check(done)?;
        Ok(OwnerOnly(Allocated(descriptor)))
    }
}

/// The user of this process as text, such as `S-1-5-21-…`.
fn own_sid() -> io::Result<String> {
    /// The length of the buffer, in words of 8 bytes. A `TOKEN_USER` with the longest SID (68
    /// bytes) fits.
    const WORDS: usize = 32;
    let mut token = std::ptr::null_mut();
    // SAFETY: the call has no argument, and returns a constant.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: `own` is valid, and the pointer is writable.
    check(unsafe { OpenProcessToken(own, TOKEN_QUERY, &mut token) })?;
    // SAFETY: the call above made the handle. It is valid, and only this value closes it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut user = [0u64; WORDS];
    let (size, mut needed) = (size_of_val(&user) as u32, 0);
    // SAFETY: the token is open with the right to query it. `user` is writable for `size` bytes.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            user.as_mut_ptr().cast(),
            size,
            &mut needed,
        )
    };
    check(done)?;
    // SAFETY: the call filled `user` with a `TOKEN_USER`, and its u64s are aligned for that type.
    let sid = unsafe { user.as_ptr().cast::<TOKEN_USER>().read() }
        .User
        .Sid;
    let mut text = std::ptr::null_mut();
    // SAFETY: the SID points into `user`, which still exists, and the pointer is writable.
    check(unsafe { ConvertSidToStringSidW(sid, &mut text) })?;
    let text_owner = Allocated(text.cast());
    let mut units = Vec::new();
    loop {
        // SAFETY: the text ends with a zero, and the loop ends there.
        let unit = unsafe { text.wrapping_add(units.len()).read() };
        if unit == 0 {
            break;
        }
        units.push(unit);
    }
    drop(text_owner);
    Ok(String::from_utf16_lossy(&units))
}

/// Creates an instance of the pipe `path`, for one client. With `is_first`, fails if the
/// pipe already exists.
pub(crate) fn create(path: &str, is_first: bool, owner: &OwnerOnly) -> io::Result<OwnedHandle> {
    let path: Vec<u16> = path.encode_utf16().chain([0]).collect();
    let first = if is_first {
        FILE_FLAG_FIRST_PIPE_INSTANCE
    } else {
        0
    };
    let attributes = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: owner.0.0,
        bInheritHandle: 0,
    };
    // SAFETY: the path ends with a zero, and the attributes and their descriptor exist during the
    // call.
    let pipe = unsafe {
        CreateNamedPipeW(
            path.as_ptr(),
            PIPE_ACCESS_DUPLEX | first,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER_BYTES,
            BUFFER_BYTES,
            0,
            &attributes,
        )
    };
    if pipe == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only the returned value closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(pipe) })
}

const OPENED_BEFORE: [u32; 2] = [ERROR_PIPE_CONNECTED, ERROR_NO_DATA];

/// Waits until a client has opened this instance of the pipe.
pub(crate) fn wait_for_client(pipe: &OwnedHandle) -> io::Result<()> {
    // SAFETY: the pipe is open and synchronous, so the second pointer may be null.
    match check(unsafe { ConnectNamedPipe(pipe.as_raw_handle(), std::ptr::null_mut()) }) {
        // The client opened the instance before this call. If the client has also closed its end,
        // a later read reports the end of the file.
        Err(e) if OPENED_BEFORE.contains(&e.raw_os_error().unwrap_or_default().cast_unsigned()) => {
            Ok(())
        }
        outcome => outcome,
    }
}

/// The pid of the process that created the pipe. `client` is the client's end of the pipe.
pub(crate) fn server_of(client: &File) -> io::Result<u32> {
    let mut pid = 0;
    // SAFETY: the pipe is open, and the number is writable.
    check(unsafe { GetNamedPipeServerProcessId(client.as_raw_handle(), &mut pid) })?;
    Ok(pid)
}

/// Ends the system call in which the thread waits for a pipe. Fails if the thread is not waiting.
pub(crate) fn interrupt(thread: &impl AsHandle) -> io::Result<()> {
    // SAFETY: the thread is open, and the handle of a started thread has all rights.
    check(unsafe { CancelSynchronousIo(thread.as_handle().as_raw_handle()) })
}

fn check(done: windows_sys::core::BOOL) -> io::Result<()> {
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
