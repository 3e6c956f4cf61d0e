//! Windows: reads the command line of a process from the memory of that process.
#![expect(unsafe_code, reason = "calls of the Windows API")]

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Wdk::System::Threading::{NtQueryInformationProcess, ProcessBasicInformation};
use windows_sys::Win32::Foundation::RtlNtStatusToDosError;
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Threading::{
    OpenProcess, PEB, PROCESS_BASIC_INFORMATION, PROCESS_QUERY_INFORMATION, PROCESS_VM_READ,
    RTL_USER_PROCESS_PARAMETERS,
};

/// The command line of the process, as one text. `ProcessCommandLineInformation` is not used,
/// because wine 8 lacks it.
pub(crate) fn command_line(pid: u32) -> io::Result<OsString> {
    // SAFETY: the call takes no pointers.
    let process = unsafe { OpenProcess(PROCESS_QUERY_INFORMATION | PROCESS_VM_READ, 0, pid) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only this value closes it.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    let mut basic = PROCESS_BASIC_INFORMATION::default();
    // SAFETY: the process is open with the right to query it, and the structure is writable.
    let status = unsafe {
        NtQueryInformationProcess(
            process.as_raw_handle(),
            ProcessBasicInformation,
            (&raw mut basic).cast(),
            size_of_val(&basic) as u32,
            std::ptr::null_mut(),
        )
    };
    if status != 0 {
        // SAFETY: the call takes only a number.
        let code = unsafe { RtlNtStatusToDosError(status) };
        return Err(io::Error::from_raw_os_error(code.cast_signed()));
    }
    let mut block = [PEB::default()];
    read(&process, basic.PebBaseAddress, &mut block)?;
    let mut parameters = [RTL_USER_PROCESS_PARAMETERS::default()];
    read(&process, block[0].ProcessParameters, &mut parameters)?;
    let line = parameters[0].CommandLine;
    let mut units = vec![0u16; usize::from(line.Length) / 2];
    read(&process, line.Buffer, &mut units)?;
    Ok(OsString::from_wide(&units))
}

/// Types for which any bytes are a valid value.
trait Plain {}
impl Plain for u16 {}
impl Plain for PEB {}
impl Plain for RTL_USER_PROCESS_PARAMETERS {}

/// Copies memory of the process into `to`. The handle must have the right PROCESS_VM_READ.
fn read<T: Plain>(process: &OwnedHandle, from: *const T, to: &mut [T]) -> io::Result<()> {
    // SAFETY: `to` is writable for its size, and any bytes are valid for it. The call fails if the
    // process has no memory at `from`.
    let done = unsafe {
        ReadProcessMemory(
            process.as_raw_handle(),
            from.cast(),
            to.as_mut_ptr().cast(),
            size_of_val(to),
            std::ptr::null_mut(),
        )
    };
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
