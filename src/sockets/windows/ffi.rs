//! The calls of Windows that have no safe form. The functions return values that own their memory.
#![expect(unsafe_code, reason = "the functions of Windows are unsafe to call")]

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::{ptr, slice};

use windows_sys::Win32::Foundation::{
    ERROR_INSUFFICIENT_BUFFER, ERROR_MORE_DATA, ERROR_NO_MORE_FILES, FILETIME,
    INVALID_HANDLE_VALUE, NO_ERROR, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, GetExtendedUdpTable, TCP_TABLE_OWNER_PID_ALL,
    TCP_TABLE_OWNER_PID_LISTENER, UDP_TABLE_OWNER_PID,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Services::{
    CloseServiceHandle, ENUM_SERVICE_STATUS_PROCESSW, EnumServicesStatusExW, OpenSCManagerW,
    SC_ENUM_PROCESS_INFO, SC_HANDLE, SC_MANAGER_ENUMERATE_SERVICE, SERVICE_ACTIVE, SERVICE_WIN32,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE,
    QueryFullProcessImageNameW, WaitForSingleObject,
};

/// The table of TCP sockets. With `listening`, the table contains only sockets that listen.
pub(super) fn tcp_table(v6: bool, listening: bool) -> io::Result<Vec<u8>> {
    let class = if listening {
        TCP_TABLE_OWNER_PID_LISTENER
    } else {
        TCP_TABLE_OWNER_PID_ALL
    };
    read_table(|buffer, size| {
        // SAFETY: the buffer is writable for `size` bytes, and has the alignment of the table, four
        // bytes. The call writes at most `size` bytes to the buffer, and a new value to `size`.
        unsafe { GetExtendedTcpTable(buffer.as_mut_ptr().cast(), size, 0, family(v6), class, 0) }
    })
}

pub(super) fn udp_table(v6: bool) -> io::Result<Vec<u8>> {
    read_table(|buffer, size| {
        // SAFETY: the buffer is writable for `size` bytes, and has the alignment of the table, four
        // bytes. The call writes at most `size` bytes to the buffer, and a new value to `size`.
        unsafe {
            GetExtendedUdpTable(
                buffer.as_mut_ptr().cast(),
                size,
                0,
                family(v6),
                UDP_TABLE_OWNER_PID,
                0,
            )
        }
    })
}

fn family(v6: bool) -> u32 {
    u32::from(if v6 { AF_INET6 } else { AF_INET })
}

/// Repeats the call with a larger buffer until the table fits. Zero bytes can follow the table in
/// the result.
fn read_table(call: impl Fn(&mut [u32], &mut u32) -> u32) -> io::Result<Vec<u8>> {
    const TRIES: usize = 8;
    const SPARE_WORDS: usize = 4096;
    let mut buffer = vec![0u32; SPARE_WORDS];
    for _ in 0..TRIES {
        let mut size = u32::try_from(buffer.len() * 4).map_err(|_| io::ErrorKind::OutOfMemory)?;
        match call(&mut buffer, &mut size) {
            NO_ERROR => return Ok(buffer.iter().flat_map(|word| word.to_ne_bytes()).collect()),
            // The spare words are for sockets that other processes open before the next call.
            ERROR_INSUFFICIENT_BUFFER => buffer = vec![0; size as usize / 4 + SPARE_WORDS],
            code => return Err(io::Error::from_raw_os_error(code as i32)),
        }
    }
    Err(io::Error::other(
        "the socket table grew faster than it could be read",
    ))
}

/// A process in a snapshot of the system.
pub(super) struct Listed {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) name: String,
}

pub(super) fn processes() -> io::Result<Vec<Listed>> {
    // SAFETY: the call takes no pointers.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only this `OwnedHandle` closes it.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..Default::default()
    };
    // SAFETY: the snapshot is open, and the entry is writable and contains its own size.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle(), &mut entry) };
    let mut listed = Vec::new();
    while more != 0 {
        let length = entry
            .szExeFile
            .iter()
            .position(|unit| *unit == 0)
            .unwrap_or(entry.szExeFile.len());
        listed.push(Listed {
            pid: entry.th32ProcessID,
            parent: entry.th32ParentProcessID,
            name: String::from_utf16_lossy(&entry.szExeFile[..length]),
        });
        // SAFETY: the snapshot is open, and the entry is writable and contains its own size.
        more = unsafe { Process32NextW(snapshot.as_raw_handle(), &mut entry) };
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(ERROR_NO_MORE_FILES as i32) => Ok(listed),
        e => Err(e),
    }
}

/// The handle of the service control manager.
struct ServiceManager(SC_HANDLE);

impl Drop for ServiceManager {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and only this value closes it.
        unsafe { CloseServiceHandle(self.0) };
    }
}

/// The names of the active services, each with the id of the process that runs the service. Every
/// user may list them.
pub(super) fn services() -> io::Result<Vec<(u32, String)>> {
    const WORDS: usize = 8192;
    // SAFETY: the null pointers stand for this machine and its active database.
    let manager = unsafe { OpenSCManagerW(ptr::null(), ptr::null(), SC_MANAGER_ENUMERATE_SERVICE) };
    if manager.is_null() {
        return Err(io::Error::last_os_error());
    }
    let manager = ServiceManager(manager);
    // The entries contain pointers, so the buffer is aligned to eight bytes.
    let mut buffer = vec![0u64; WORDS];
    let size = (WORDS * size_of::<u64>()) as u32;
    let mut services = Vec::new();
    // Each call continues where the last one ended.
    let mut resume = 0;
    loop {
        let (mut needed, mut returned) = (0, 0);
        // SAFETY: the handle is open, the buffer is writable for `size` bytes, and the other
        // pointers lead to writable values.
        let done = unsafe {
            EnumServicesStatusExW(
                manager.0,
                SC_ENUM_PROCESS_INFO,
                SERVICE_WIN32,
                SERVICE_ACTIVE,
                buffer.as_mut_ptr().cast(),
                size,
                &mut needed,
                &mut returned,
                &mut resume,
                ptr::null(),
            )
        };
        let error = io::Error::last_os_error();
        let has_more = done == 0 && error.raw_os_error() == Some(ERROR_MORE_DATA as i32);
        if done == 0 && !has_more {
            return Err(error);
        }
        let entries = buffer.as_ptr().cast::<ENUM_SERVICE_STATUS_PROCESSW>();
        // SAFETY: the call wrote `returned` entries to the buffer, which is aligned for them.
        let entries = unsafe { slice::from_raw_parts(entries, returned as usize) };
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        services.extend(entries.iter().filter_map(|entry| {
            let offset = entry
                .lpServiceName
                .addr()
                .checked_sub(buffer.as_ptr().addr())?;
            let name = text_at(bytes.get(offset..)?);
            Some((entry.ServiceStatusProcess.dwProcessId, name))
        }));
        // A call without an entry makes no progress.
        if !has_more || returned == 0 {
            return Ok(services);
        }
    }
}

/// The text of UTF-16 units at the start of these bytes. It ends at the first zero.
fn text_at(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2);
    let units = units.map(|unit| u16::from_ne_bytes([unit[0], unit[1]]));
    let text: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&text)
}

pub(super) fn open(pid: u32) -> io::Result<OwnedHandle> {
    // SAFETY: the call takes no pointers.
    let process = unsafe {
        OpenProcess(
            PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE,
            0,
            pid,
        )
    };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only the returned value closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(process) })
}

pub(super) fn program(process: &OwnedHandle) -> io::Result<OsString> {
    // This is the length of the longest path that Windows supports.
    let mut path = vec![0u16; 32_768];
    let mut length = path.len() as u32;
    // SAFETY: the process is open with the right to query it, and `path` is writable for `length`
    // units.
    let done = unsafe {
        QueryFullProcessImageNameW(process.as_raw_handle(), 0, path.as_mut_ptr(), &mut length)
    };
    match path.get(..length as usize) {
        Some(path) if done != 0 => Ok(OsString::from_wide(path)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// When the process was created, in units of 100 ns since 1601.
pub(super) fn created(process: &OwnedHandle) -> io::Result<u64> {
    let none = FILETIME {
        dwLowDateTime: 0,
        dwHighDateTime: 0,
    };
    let (mut created, mut ended, mut kernel, mut user) = (none, none, none, none);
    // SAFETY: the process is open with the right to query it, and the four times are writable.
    let done = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            &mut created,
            &mut ended,
            &mut kernel,
            &mut user,
        )
    };
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok((u64::from(created.dwHighDateTime) << 32) | u64::from(created.dwLowDateTime)),
    }
}

/// Whether the process still runs. `open` also succeeds for an ended process, as long as any
/// process has a handle to it.
pub(super) fn is_running(process: &OwnedHandle) -> io::Result<bool> {
    // SAFETY: the process is open with the right to wait for it. With a timeout of 0 the call only
    // polls.
    match unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } {
        WAIT_TIMEOUT => Ok(true),
        WAIT_OBJECT_0 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}
