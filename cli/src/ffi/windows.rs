//! Calls of Windows that have no safe form: processes, inherited handles, the job object of `run`,
//! and Ctrl-C.
#![expect(unsafe_code, reason = "calls of the Windows API")]

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, ERROR_NO_MORE_FILES, FILETIME, HANDLE_FLAG_INHERIT,
    INVALID_HANDLE_VALUE, SetHandleInformation, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessId, GetProcessTimes, OpenProcess, PROCESS_ACCESS_RIGHTS,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, TerminateProcess,
    WaitForSingleObject,
};

/// A process as the snapshot of the system lists it.
pub(crate) struct Listed {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
}

pub(crate) fn processes() -> io::Result<Vec<Listed>> {
    // SAFETY: the call takes no pointers.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only this value closes it.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..Default::default()
    };
    // SAFETY: the snapshot is open, and the entry is writable and contains its own size.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle(), &mut entry) };
    let mut listed = Vec::new();
    while more != 0 {
        let name = entry.szExeFile.split(|unit| *unit == 0).next();
        listed.push(Listed {
            pid: entry.th32ProcessID,
            parent: entry.th32ParentProcessID,
            name: String::from_utf16_lossy(name.unwrap_or_default()),
        });
        // SAFETY: the snapshot is open, and the entry is writable and contains its own size.
        more = unsafe { Process32NextW(snapshot.as_raw_handle(), &mut entry) };
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(ERROR_NO_MORE_FILES.cast_signed()) => Ok(listed),
        e => Err(e),
    }
}

fn open(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> io::Result<OwnedHandle> {
    // SAFETY: the call takes no pointers.
    let process = unsafe { OpenProcess(rights, 0, pid) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made the handle. It is valid, and only the returned value closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(process) })
}

/// Opens a handle with the right to wait for the process.
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedHandle> {
    let process = open(pid, PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION)?;
    // SAFETY: the process is open with the right to query it.
    let opened = unsafe { GetProcessId(process.as_raw_handle()) };
    // `OpenProcess` ignores the lowest two bits of the pid, so it can open a process with another
    // pid.
    match opened == pid {
        true => Ok(process),
        false => Err(no_such_process()),
    }
}

fn no_such_process() -> io::Error {
    io::Error::from_raw_os_error(ERROR_INVALID_PARAMETER.cast_signed())
}

/// Whether [`open_process`] failed because no process has the pid.
pub(crate) fn is_no_such_process(error: &io::Error) -> bool {
    error.raw_os_error() == no_such_process().raw_os_error()
}

/// Waits up to `timeout` for the process of the handle to end.
pub(crate) fn is_signaled_within(process: &OwnedHandle, timeout: Duration) -> io::Result<bool> {
    // u32::MAX would mean a wait without a limit.
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX - 1);
    // SAFETY: the process is open with the right to wait for it.
    match unsafe { WaitForSingleObject(process.as_raw_handle(), millis) } {
        WAIT_TIMEOUT => Ok(false),
        WAIT_OBJECT_0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a handle with the right to end the process.
pub(crate) fn open_to_end(pid: u32) -> io::Result<OwnedHandle> {
    open(pid, PROCESS_TERMINATE)
}

/// Ends the process with this exit code.
pub(crate) fn terminate(pid: u32, code: u32) -> io::Result<()> {
    let process = open_to_end(pid)?;
    // SAFETY: the process is open with the right to end it.
    check(unsafe { TerminateProcess(process.as_raw_handle(), code) })
}

/// When the process was created, in units of 100 ns since 1601. `None` if the process does not
/// exist, or if this user may not read the time.
pub(crate) fn created(pid: u32) -> Option<u64> {
    let process = open(pid, PROCESS_QUERY_LIMITED_INFORMATION).ok()?;
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the process is open with the right to query it, and the four times are writable.
    let done = unsafe { GetProcessTimes(process.as_raw_handle(), created, ended, kernel, user) };
    let created = times[0];
    (done != 0)
        .then(|| (u64::from(created.dwHighDateTime) << 32) | u64::from(created.dwLowDateTime))
}

/// A job object. When its last handle is closed, Windows ends the processes in it, except after
/// [`Job::release`].
#[derive(Debug)]
pub(crate) struct Job(OwnedHandle);

impl Job {
    /// Puts this process into a new job. Later children of this process enter the job too. A child
    /// that starts with CREATE_BREAKAWAY_FROM_JOB stays outside. The keeper, the process that holds
    /// the ports of `portlease reserve`, starts in this way.
    pub(crate) fn enter() -> io::Result<Job> {
        // SAFETY: both pointers may be null: no attributes, and no name.
        let job = unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) };
        if job.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made the handle. It is valid, and only this value closes it.
        let job = Job(unsafe { OwnedHandle::from_raw_handle(job) });
        job.limit(JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_BREAKAWAY_OK)?;
        // SAFETY: the call has no argument, and returns a constant.
        let own = unsafe { GetCurrentProcess() };
        // SAFETY: the job is open, and so is this process.
        check(unsafe { AssignProcessToJobObject(job.0.as_raw_handle(), own) })?;
        Ok(job)
    }

    /// Lets the processes in the job outlive this process. If the call fails, these processes
    /// end when this process ends.
    pub(crate) fn release(self) -> io::Result<()> {
        let released = self.limit(JOB_OBJECT_LIMIT_BREAKAWAY_OK);
        if released.is_err() {
            // Closing the handle would end every process in the job at once, also this process.
            std::mem::forget(self);
        }
        released
    }

    fn limit(&self, flags: JOB_OBJECT_LIMIT) -> io::Result<()> {
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = flags;
        // SAFETY: the job is open, and the call reads one structure of the given size.
        check(unsafe {
            SetInformationJobObject(
                self.0.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_val(&limits) as u32,
            )
        })
    }
}

/// Makes this process survive Ctrl-C and Ctrl-Break. The console still sends both events to the
/// children of this process.
pub(crate) fn survive_ctrl_c() -> io::Result<()> {
    // SAFETY: the handler may be called in any thread at any time. It only compares numbers.
    check(unsafe { SetConsoleCtrlHandler(Some(survive), 1) })
}

extern "system" fn survive(event: u32) -> windows_sys::core::BOOL {
    [CTRL_C_EVENT, CTRL_BREAK_EVENT].contains(&event).into()
}

/// Keeps later children of this process from inheriting its handles with the `count` lowest values.
///
/// `count` must be high even if this process has few handles. This process may have inherited
/// handles, and an inherited handle keeps the value that it had in the parent. That value is high
/// if the parent had many handles.
pub(crate) fn keep_handles_from_children(count: usize) {
    /// The values of handles are multiples of this number.
    const STEP: usize = 4;
    for value in (STEP..=count * STEP).step_by(STEP) {
        let handle = std::ptr::without_provenance_mut(value);
        // SAFETY: the call fails if the value is no handle of this process. The call changes only
        // what children inherit.
        let _kept = unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
    }
}

fn check(done: windows_sys::core::BOOL) -> io::Result<()> {
    match done {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
