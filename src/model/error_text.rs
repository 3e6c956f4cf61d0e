//! The messages of [`Error`]: one constructor for each way to fail.

use std::ffi::OsStr;
use std::io;
use std::ops::{Bound, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use super::attempt_stats::AttemptStats;
use super::diagnosis::Diagnosis;
use super::endpoint::Protocol;
use super::ephemeral_usage::EphemeralUsage;
use super::error::Error;
use super::error_kind::ErrorKind;
use super::offsets::Offsets;
use super::port::Port;
use super::text::{DurationText, FORBIDDEN, RangeText};
use crate::os_error::{OsMessage, descriptor_limit, is_out_of_descriptors};

/// Errors for invalid requests and for invalid environment variables.
impl Error {
    /// The message writes the range as the caller wrote it, except a range with an excluded start:
    /// Rust has no notation for that range.
    pub(crate) fn empty_range(low: Bound<u16>, high: Bound<u16>) -> Self {
        let low = match low {
            Bound::Included(low) => low.to_string(),
            Bound::Excluded(low) => (u32::from(low) + 1).to_string(),
            Bound::Unbounded => String::new(),
        };
        let high = match high {
            Bound::Included(high) => format!("={high}"),
            Bound::Excluded(high) => high.to_string(),
            Bound::Unbounded => String::new(),
        };
        let message =
            format!("range {low}..{high} is empty: expected LOW..=HIGH with 1 <= LOW <= HIGH");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn range_all_excluded(range: &RangeInclusive<u16>) -> Self {
        let message = format!("range {} contains only excluded ports", RangeText(range));
        Self::new(ErrorKind::InvalidPort, message)
    }

    /// Adds that `PORTLEASE_RANGE` limits the numbers, because the caller may have set no range.
    pub(crate) fn limited_by(self, env_range: Option<&RangeInclusive<u16>>) -> Self {
        match env_range {
            Some(range) => self.with_note(&format!(
                "; PORTLEASE_RANGE allows only {}",
                RangeText(range)
            )),
            None => self,
        }
    }

    pub(crate) fn range_outside_firewall(
        range: &RangeInclusive<u16>,
        firewall: &RangeInclusive<u16>,
    ) -> Self {
        let message = format!(
            "range {} has no port within PORTLEASE_RANGE ({})",
            RangeText(range),
            RangeText(firewall)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn bad_range_variable(text: &str) -> Self {
        let message = format!(
            "PORTLEASE_RANGE is {text:?}: expected LOW-HIGH with 1 <= LOW <= HIGH <= 65535, as in \
             20000-20999"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn bad_leak_variable(text: &str) -> Self {
        let message = format!("PORTLEASE_ON_LEAK is {text:?}: expected \"warn\" or \"panic\"");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn exact_port_ruled_out(port: u16) -> Self {
        let message = format!("port {port} was requested, but `range` or `exclude` rules it out");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn block_outside_firewall(port: u16, firewall: &RangeInclusive<u16>) -> Self {
        let message = format!(
            "port {port}, one of the requested ports, is outside PORTLEASE_RANGE ({})",
            RangeText(firewall)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn port_and_ports(port: u16, first: u16) -> Self {
        let message = format!(
            "port {port} was requested with `port`, and port {first} with `ports`: request all \
             exact ports with `ports`"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn port_twice(port: u16) -> Self {
        let message = format!("port {port} is requested twice: expected distinct ports");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn more_ports_than(n: usize, count: usize) -> Self {
        let message = format!(
            "{count} exact ports were requested, but the call reserves {n}: expected \
             `reserve_many({count})` or more"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn several_bases(ports: &[u16]) -> Self {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let message = format!(
            "ports {} were requested, but a block or a list of offsets takes only one exact port: \
             its base number",
            ports.join(", ")
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn many_of_one_number(port: u16, n: usize) -> Self {
        let message = format!(
            "port {port} cannot be reserved {n} times: request a block, or do not request an \
             exact port"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn block_cannot_fit(n: usize, range: &RangeInclusive<u16>) -> Self {
        let message = format!(
            "cannot reserve {n} ports from {}: the range has fewer allowed ports",
            RangeText(range)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn offsets_cannot_fit(
        offsets: &Offsets,
        aligned: u16,
        range: &RangeInclusive<u16>,
    ) -> Self {
        let multiple = match aligned {
            1 => String::new(),
            aligned => format!(" that is a multiple of {aligned}"),
        };
        let remedy = match *range.start() == 1 && *range.end() == u16::MAX {
            true => "request offsets that are closer together, or exclude fewer ports",
            false => "widen the range or exclude fewer ports",
        };
        let message = format!(
            "cannot reserve {offsets} in {}: for every base number{multiple}, at least one port \
             is outside the range or excluded; {remedy}",
            RangeText(range)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn too_few_multiples(
        n: usize,
        count: usize,
        aligned: u16,
        range: &RangeInclusive<u16>,
    ) -> Self {
        let few = match count {
            0 => "none that is allowed".to_owned(),
            _ => format!("only {count} that are allowed, and {n} are requested"),
        };
        let range = RangeText(range);
        let message = format!("cannot reserve multiples of {aligned}: range {range} has {few}");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn block_exceeds(n: usize, base: u16) -> Self {
        let message =
            format!("cannot reserve a block of {n} ports from {base}: port numbers end at 65535");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn offsets_exceed(offsets: &Offsets, base: u16) -> Self {
        let message =
            format!("cannot reserve {offsets} above base {base}: port numbers end at 65535");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn offset_twice(offset: u16) -> Self {
        let message = format!("offset {offset} is requested twice: expected distinct offsets");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn aligned_to_zero() -> Self {
        let message = "cannot reserve multiples of 0: expected a number from 1 to 65535";
        Self::new(ErrorKind::InvalidPort, message.to_owned())
    }

    pub(crate) fn exact_port_not_aligned(port: u16, aligned: u16) -> Self {
        let message =
            format!("port {port} was requested, but `aligned` requires a multiple of {aligned}");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn empty_name() -> Self {
        let message = "the stable name is empty: expected a name such as \"db\"";
        Self::new(ErrorKind::InvalidPort, message.to_owned())
    }

    pub(crate) fn empty_project_variable() -> Self {
        let message = "PORTLEASE_PROJECT is empty: expected a text that identifies the project";
        Self::new(ErrorKind::InvalidPort, message.to_owned())
    }

    pub(crate) fn exact_and_named(port: u16, name: &str) -> Self {
        let message = format!(
            "port {port} was requested together with the stable name {name:?}, but the name \
             determines the number: request only the port or only the name"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn not_reserved_for(port: Port, protocol: Protocol) -> Self {
        let message = format!(
            "the reservation of {port} does not include {}/{protocol}: reserve both protocols \
             with ReserveOptions::new().tcp_and_udp()",
            port.number
        );
        Self::new(ErrorKind::InvalidPort, message)
    }
}

/// Errors for ports that are taken, and for reservations that found no port.
impl Error {
    pub(crate) fn cannot_reserve(
        port: Port,
        waited: Option<Duration>,
        diagnosis: Diagnosis,
    ) -> Self {
        let message = format!(
            "cannot reserve {port}{}: address already in use: {}",
            within(waited),
            diagnosis.cause()
        );
        match waited {
            Some(_) => Self::diagnosed(ErrorKind::TimedOut, message, diagnosis.without_waits()),
            None => Self::diagnosed(ErrorKind::InUse, message, diagnosis),
        }
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix passes sockets"))]
    pub(crate) fn cannot_pass_used(port: Port, diagnosis: Diagnosis) -> Self {
        let message = format!(
            "cannot pass {port}: address already in use: {}",
            diagnosis.cause()
        );
        Self::diagnosed(ErrorKind::InUse, message, diagnosis)
    }

    pub(crate) fn no_free_port(
        range: Option<&RangeInclusive<u16>>,
        waited: Option<Duration>,
        stats: &AttemptStats,
        taken: &[(u16, String)],
        usage: Option<&EphemeralUsage>,
    ) -> Self {
        let what = match &stats.offsets {
            Some(offsets) => offsets.to_string(),
            None if stats.requested > 1 => format!("{} ports", stats.requested),
            None => "a port".to_owned(),
        };
        let place = match range {
            Some(range) => format!(" from {}", RangeText(range)),
            None => String::new(),
        };
        let kind = match waited {
            Some(_) => ErrorKind::TimedOut,
            None => ErrorKind::NoFreePort,
        };
        let after = within(waited);
        let mut message = format!("cannot reserve {what}{place}{after}: {stats}");
        if stats.not_permitted > 0 && stats.not_permitted == stats.tried() {
            message += ": a sandbox or a security policy forbids binding, or binding these ports \
                        requires a privilege";
        }
        for (number, cause) in taken {
            message += &format!("; {number}: {cause}");
        }
        if let Some(usage) = usage {
            message += &format!("; {usage}");
        }
        Self::new(kind, message)
    }
}

fn within(waited: Option<Duration>) -> String {
    waited.map_or(String::new(), |time| {
        format!(" within {}", DurationText(time))
    })
}

/// Errors of waits that ended before their condition was met.
impl Error {
    pub(crate) fn timed_out(waited: Duration, diagnosis: Diagnosis) -> Self {
        let message = format!(
            "timed out after {}: {}",
            DurationText(waited),
            diagnosis.headline()
        );
        Self::diagnosed(ErrorKind::TimedOut, message, diagnosis)
    }

    /// `how` is the verb phrase of the message, such as "ended (exit status: 3)".
    pub(crate) fn ended_first(
        pid: Option<u32>,
        how: &str,
        port: Port,
        diagnosis: Diagnosis,
    ) -> Self {
        let process = pid.map_or("the process".to_owned(), |pid| format!("process {pid}"));
        let mut message = format!(
            "{process} {how} before it listened on port {}",
            port.endpoint()
        );
        if let Some(listeners) = diagnosis.listeners_headline() {
            message += &format!(": {listeners}");
        }
        Self::diagnosed(ErrorKind::Io, message, diagnosis)
    }
}

/// Errors about the programs that this crate starts.
impl Error {
    pub(crate) fn cannot_start(program: &OsStr, cause: io::Error) -> Self {
        // If the user lacks the permission to execute a program, exec fails with EACCES. So EPERM
        // usually comes from another call, such as setsid(2).
        const EPERM: i32 = 1;
        let is_forbidden_call = cfg!(unix) && cause.raw_os_error() == Some(EPERM);
        let error = Self::of_system("start", &format!("{program:?}"), cause);
        match is_forbidden_call {
            true => error.with_note(
                "; if a pre_exec hook calls setsid(2), remove the call: the program already leads \
                 a process group, and the kernel refuses setsid to the leader of a group",
            ),
            false => error,
        }
    }

    /// `operand` is the port whose sockets the command owns.
    pub(crate) fn cannot_restart(operand: &str) -> Self {
        let message = format!(
            "cannot restart the server on {operand}: the `Command` of the server owns sockets that \
             keep the port in use: call `stop`, pass the port to a new `Command`, and spawn the \
             new `Command`"
        );
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn not_ended(pid: u32, waited: Duration) -> Self {
        let message = format!(
            "process {pid} has not ended {} after SIGKILL: it is probably in a system call that \
             cannot be interrupted",
            DurationText(waited)
        );
        Self::new(ErrorKind::TimedOut, message)
    }

    /// Appends a note that the pipe of the program's `stream` (stdout or stderr) is full.
    pub(crate) fn with_full_pipe(self, stream: &str) -> Self {
        self.with_note(&format!(
            "; the {stream} pipe of the program is full, so the program blocks when it writes \
             there: redirect {stream} to a file, or use Stdio::inherit() or Stdio::null()"
        ))
    }

    /// Appends `lines`, the last lines of the program's stderr, to the message of this error.
    pub(crate) fn with_stderr(self, lines: &[String]) -> Self {
        if lines.is_empty() {
            return self;
        }
        self.with_note(&format!(
            "; stderr of the program ends with {:?}",
            lines.join("\n")
        ))
    }
}

/// Errors from the operating system.
impl Error {
    /// `unprivileged_from` is the first number that can be bound without a privilege.
    pub(crate) fn not_permitted(
        port: Port,
        unprivileged_from: u16,
        diagnosis: Diagnosis,
        cause: io::Error,
    ) -> Self {
        let reason = if port.number >= unprivileged_from {
            FORBIDDEN.to_owned()
        } else if cfg!(any(target_os = "linux", target_os = "android")) {
            format!(
                "binding a port below {unprivileged_from} (net.ipv4.ip_unprivileged_port_start) \
                 requires CAP_NET_BIND_SERVICE, which root usually has"
            )
        } else {
            format!("binding a port below {unprivileged_from} requires root")
        };
        let message = format!("cannot reserve {port}: {}: {reason}", OsMessage(&cause));
        Self::caused(ErrorKind::PermissionDenied, message, cause).with_diagnosis(diagnosis)
    }

    pub(crate) fn planted(path: &Path, cause: io::Error) -> Self {
        let message = format!(
            "cannot lock {}: {}: expected a regular file that every user can open; reserve \
             another port",
            path.display(),
            OsMessage(&cause)
        );
        Self::caused(ErrorKind::Lease, message, cause)
    }

    pub(crate) fn no_project(cause: io::Error) -> Self {
        let message = format!(
            "cannot read the working directory to find the project of a stable name: {}: set \
             PORTLEASE_PROJECT",
            OsMessage(&cause)
        );
        Self::caused(ErrorKind::Io, message, cause)
    }

    pub(crate) fn lock_folder(path: &Path, cause: io::Error) -> Self {
        let cause_text = match cause.kind() {
            io::ErrorKind::InvalidInput => "expected an absolute path in PORTLEASE_DIR".to_owned(),
            io::ErrorKind::FileTooLarge => {
                "the file size limit of this process forbids the write (raise it with ulimit -f)"
                    .to_owned()
            }
            _ => format!(
                "{}: set PORTLEASE_DIR to a writable folder",
                OsMessage(&cause)
            ),
        };
        let message = format!(
            "cannot use the lock folder {:?}: {cause_text}",
            path.display().to_string()
        );
        Self::caused(ErrorKind::Lease, message, cause)
    }

    pub(crate) fn unread_lock_folder(path: &Path, cause: io::Error) -> Self {
        let advice = match cause.kind() {
            io::ErrorKind::Unsupported => "mount the file system proc on /proc, and retry",
            io::ErrorKind::PermissionDenied => "retry as a user who may read the folder",
            _ => return Self::lock_folder(path, cause),
        };
        let message = format!(
            "cannot search the lock folder {:?} for reservations: {}: {advice}",
            path.display().to_string(),
            OsMessage(&cause)
        );
        Self::caused(ErrorKind::Lease, message, cause)
    }

    /// `act` is the verb in the message "cannot ACT PORT". Without a port the message says
    /// "a port".
    pub(crate) fn system(act: &str, port: Option<Port>, cause: io::Error) -> Self {
        let operand = port.map_or("a port".to_owned(), |port| port.to_string());
        Self::of_system(act, &operand, cause)
    }

    pub(crate) fn of_system(act: &str, operand: &str, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::InUse,
            io::ErrorKind::AddrNotAvailable => ErrorKind::AddressNotAvailable,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        let advice = match kind {
            _ if is_out_of_descriptors(&cause) => {
                let limit = descriptor_limit(&cause);
                match act {
                    "inspect" | "wait for" => format!(": {limit}"),
                    // On systems other than Linux, a reservation may need only one descriptor.
                    _ if cfg!(not(target_os = "linux")) => format!(": {limit}"),
                    _ => format!(": {limit}; each reservation uses at least two descriptors"),
                }
            }
            ErrorKind::AddressNotAvailable => ": this machine does not have the address".to_owned(),
            _ => String::new(),
        };
        let message = format!("cannot {act} {operand}: {}{advice}", OsMessage(&cause));
        Self::caused(kind, message, cause)
    }

    #[cfg_attr(not(unix), allow(dead_code, reason = "only Unix passes sockets"))]
    pub(crate) fn cannot_pass(operand: &str, why: &str) -> Self {
        let message = format!("cannot pass {operand}: {why}");
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn command_line(pid: u32, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        let message = format!(
            "cannot read the command line of pid {pid}: {}",
            OsMessage(&cause)
        );
        Self::caused(kind, message, cause)
    }
}
