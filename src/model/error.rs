//! [`Error`], [`ErrorKind`], and every sentence an error says.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::diagnosis::Diagnosis;
use crate::model::endpoint::{Endpoint, Protocol};

/// What this crate's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed: one line, the act and its operand first, then the cause.
///
/// [`kind`](Error::kind) is for programs, [`diagnosis`](Error::diagnosis) for people: where a port is in use, it
/// says by whom. `Debug` prints what `Display` does, followed by the diagnosis, so that `unwrap()` in a test reads
/// well.
///
/// ```
/// let p = portlease::reserve_port();
/// let error = portlease::ReserveOptions::new().port(p.port()).reserve().unwrap_err();
/// assert_eq!(error.kind(), portlease::ErrorKind::InUse);
/// println!("{error}"); // cannot reserve 41023/tcp: address already in use: reserved by …
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    diagnosis: Option<Diagnosis>,
    cause: Option<io::Error>,
}

/// The kinds of [`Error`].
///
/// ```
/// use portlease::ErrorKind;
///
/// let error = portlease::who_holds("no port").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidPort);
/// // It converts, for code that returns std::io::Error.
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Somebody has the port: a socket, or another reservation.
    InUse,
    /// None of the numbers that were allowed could be had.
    NoFreePort,
    /// The operand names no port, or none that could ever be reserved.
    InvalidPort,
    /// This machine does not have the address.
    AddressNotAvailable,
    /// The system refuses the port to this user: it is privileged.
    PermissionDenied,
    /// The time given ran out.
    TimedOut,
    /// This system, or this release, cannot do it.
    Unsupported,
    /// The lock folder, or the lock file of one port, cannot be used.
    Lease,
    /// Any other failure of the operating system.
    Io,
}

impl Error {
    /// What kind of failure this is.
    ///
    /// ```
    /// let error = portlease::ReserveOptions::new().port(0).reserve().unwrap_err();
    /// assert_eq!(error.kind(), portlease::ErrorKind::InvalidPort);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is known about the port that the call was about, where that is the cause.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let error = portlease::ReserveOptions::new().port(p.port()).reserve().unwrap_err();
    /// println!("{}", error.diagnosis().unwrap().cause());
    /// ```
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        self.0.diagnosis.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.diagnosis {
            // Its first line is in the message.
            Some(diagnosis) => diagnosis.fmt_facts(f),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The cause itself is in the message already.
        self.0.cause.as_ref().and_then(|cause| cause.source())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InUse | ErrorKind::NoFreePort => io::ErrorKind::AddrInUse,
            ErrorKind::InvalidPort => io::ErrorKind::InvalidInput,
            ErrorKind::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Lease | ErrorKind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// The texts: one constructor per way to fail.
impl Error {
    fn new(kind: ErrorKind, message: String) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: None,
            cause: None,
        }))
    }

    pub(crate) fn invalid_endpoint(text: &str) -> Self {
        let message = format!(
            "{text:?} does not name a port: expected a number from 1 to 65535, as in 60315, 60315/udp, \
             127.0.0.1:60315 or [::1]:60315/tcp"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn port_zero() -> Self {
        let message =
            "port 0 names no port (to bind(2) it means \"any\"): expected a number from 1 to 65535";
        Self::new(ErrorKind::InvalidPort, message.to_owned())
    }

    pub(crate) fn empty_range(low: Option<u16>, high: Option<u16>) -> Self {
        let end = |end: Option<u16>| end.map_or("?".to_owned(), |n| n.to_string());
        let message = format!(
            "range {}-{} is empty: expected LOW..=HIGH with 1 <= LOW <= HIGH",
            end(low),
            end(high)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn range_all_excluded(range: &RangeInclusive<u16>) -> Self {
        let message = format!("range {} holds only excluded ports", RangeText(range));
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn range_outside_firewall(
        range: &RangeInclusive<u16>,
        firewall: &RangeInclusive<u16>,
    ) -> Self {
        let message = format!(
            "range {} has no port within PORTLEASE_RANGE, {}",
            RangeText(range),
            RangeText(firewall)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn bad_range_variable(text: &str) -> Self {
        let message = format!(
            "PORTLEASE_RANGE is {text:?}: expected LOW-HIGH with 1 <= LOW <= HIGH <= 65535, as in 20000-20999"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn exact_port_ruled_out(port: u16) -> Self {
        let message =
            format!("port {port} is asked for and ruled out, by the range or by an exclusion");
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn many_of_one_number(port: u16, n: usize) -> Self {
        let message = format!(
            "port {port} cannot be reserved {n} times: ask for a block, or for no exact port"
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn block_cannot_fit(n: usize, range: &RangeInclusive<u16>) -> Self {
        let message = format!(
            "{n} ports cannot fit in {}: too few are allowed",
            RangeText(range)
        );
        Self::new(ErrorKind::InvalidPort, message)
    }

    pub(crate) fn cannot_reserve(
        endpoint: Endpoint,
        waited: Option<Duration>,
        diagnosis: Diagnosis,
    ) -> Self {
        let after = waited.map_or(String::new(), |time| format!(" within {time:?}"));
        let message = format!(
            "cannot reserve {endpoint}{after}: address already in use: {}",
            diagnosis.cause()
        );
        match waited {
            Some(_) => Self::diagnosed(ErrorKind::TimedOut, message, diagnosis.after_a_wait()),
            None => Self::diagnosed(ErrorKind::InUse, message, diagnosis),
        }
    }

    pub(crate) fn not_reserved_for(endpoint: Endpoint, protocol: Protocol) -> Self {
        let message = format!("port {endpoint} is not reserved for {protocol}");
        Self::new(ErrorKind::InvalidPort, message)
    }

    #[allow(dead_code, reason = "only Unix passes sockets")]
    pub(crate) fn cannot_pass(endpoint: Endpoint) -> Self {
        let message = format!(
            "cannot pass {endpoint}: the command has settings that cannot be carried over (standard streams, user, \
             process group or env_clear): pass first, set them then"
        );
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn left_listening(diagnosis: Diagnosis) -> Self {
        Self::diagnosed(ErrorKind::InUse, diagnosis.answer(), diagnosis)
    }

    pub(crate) fn timed_out(waited: Duration, diagnosis: Diagnosis) -> Self {
        let message = format!("waited {waited:?} in vain: {}", diagnosis.answer());
        Self::diagnosed(ErrorKind::TimedOut, message, diagnosis)
    }

    pub(crate) fn ended_first(pid: Option<u32>, how: &str, diagnosis: Diagnosis) -> Self {
        let process = pid.map_or("the process".to_owned(), |pid| format!("process {pid}"));
        let message = format!("{process} ended ({how}) first: {}", diagnosis.answer());
        Self::diagnosed(ErrorKind::Io, message, diagnosis)
    }

    pub(crate) fn cannot_tell(diagnosis: Diagnosis) -> Self {
        Self::diagnosed(ErrorKind::Io, diagnosis.answer(), diagnosis)
    }

    pub(crate) fn command_line(pid: u32, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        Self::caused(
            kind,
            format!(
                "cannot read the command line of pid {pid}: {}",
                OsMessage(&cause)
            ),
            cause,
        )
    }

    fn diagnosed(kind: ErrorKind, message: String, diagnosis: Diagnosis) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: Some(diagnosis),
            cause: None,
        }))
    }

    pub(crate) fn no_free_port(
        range: Option<&RangeInclusive<u16>>,
        waited: Option<Duration>,
        stats: &AttemptStats,
    ) -> Self {
        let what = match stats.block {
            Some(n) => format!("{n} consecutive ports"),
            None => "a port".to_owned(),
        };
        let place = match range {
            Some(range) => format!(" from {}", RangeText(range)),
            None if stats.ephemeral => " from the ephemeral range".to_owned(),
            None => String::new(),
        };
        let after = waited.map_or(String::new(), |time| format!(" within {time:?}"));
        let kind = if waited.is_some() {
            ErrorKind::TimedOut
        } else {
            ErrorKind::NoFreePort
        };
        Self::new(
            kind,
            format!("cannot reserve {what}{place}{after}: {stats}"),
        )
    }

    pub(crate) fn privileged(endpoint: Endpoint, cause: io::Error) -> Self {
        let message = format!(
            "cannot reserve {endpoint}: {}: ports below net.ipv4.ip_unprivileged_port_start, 1024 unless it was \
             changed, take root or CAP_NET_BIND_SERVICE",
            OsMessage(&cause)
        );
        Self::caused(ErrorKind::PermissionDenied, message, cause)
    }

    pub(crate) fn planted(path: &Path, cause: io::Error) -> Self {
        let message = format!(
            "cannot lock {}: {}: this is not a lock file that can be shared",
            path.display(),
            OsMessage(&cause)
        );
        Self::caused(ErrorKind::Lease, message, cause)
    }

    pub(crate) fn lock_folder(path: &Path, cause: io::Error) -> Self {
        let cause_text = match cause.kind() {
            io::ErrorKind::InvalidInput => "expected an absolute path in PORTLEASE_DIR".to_owned(),
            _ => format!(
                "{}: name a folder that can be written in PORTLEASE_DIR",
                OsMessage(&cause)
            ),
        };
        let message = format!(
            "cannot use the lock folder {:?}: {cause_text}",
            path.display().to_string()
        );
        Self::caused(ErrorKind::Lease, message, cause)
    }

    pub(crate) fn system(act: &str, endpoint: Option<Endpoint>, cause: io::Error) -> Self {
        let operand = endpoint.map_or("a port".to_owned(), |endpoint| endpoint.to_string());
        let kind = match cause.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::InUse,
            io::ErrorKind::AddrNotAvailable => ErrorKind::AddressNotAvailable,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        let advice = match kind {
            _ if is_out_of_descriptors(&cause) => {
                ": this process is at its limit of file descriptors (ulimit -n), of which each reservation takes two"
            }
            ErrorKind::AddressNotAvailable => ": this machine does not have the address",
            _ => "",
        };
        Self::caused(
            kind,
            format!("cannot {act} {operand}: {}{advice}", OsMessage(&cause)),
            cause,
        )
    }

    fn caused(kind: ErrorKind, message: String, cause: io::Error) -> Self {
        Error(Box::new(Inner {
            kind,
            message,
            diagnosis: None,
            cause: Some(cause),
        }))
    }
}

/// EMFILE, ENFILE and WSAEMFILE, which `io::ErrorKind` does not name.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) if cfg!(windows) => code == 10024,
        Some(code) => matches!(code, 23 | 24),
        None => false,
    }
}

/// What an automatic pick met on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptStats {
    pub(crate) in_use: usize,
    pub(crate) reserved: usize,
    pub(crate) privileged: usize,
    pub(crate) excluded: usize,
    planted: usize,
    /// One of the planted ones, by name.
    example: Option<PathBuf>,
    /// So few were left that connections need them.
    pub(crate) spared: bool,
    /// The numbers were the kernel's own.
    pub(crate) ephemeral: bool,
    /// The length of the block that was asked for.
    block: Option<usize>,
}

impl AttemptStats {
    pub(crate) fn of_block(n: usize) -> Self {
        AttemptStats {
            block: Some(n),
            ..Self::default()
        }
    }

    pub(crate) fn tried(&self) -> usize {
        self.in_use + self.reserved + self.privileged + self.excluded + self.planted
    }

    pub(crate) fn note_planted(&mut self, path: PathBuf) {
        self.planted += 1;
        self.example.get_or_insert(path);
    }
}

/// `12 tried: 9 in use, 3 reserved by others`.
impl fmt::Display for AttemptStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planted = match &self.example {
            Some(path) => format!("with a lock file that cannot be used ({})", path.display()),
            None => String::new(),
        };
        let counts = [
            (self.in_use, "in use"),
            (self.reserved, "reserved by others"),
            (self.privileged, "privileged"),
            (self.excluded, "excluded"),
            (self.planted, planted.as_str()),
        ];
        write!(f, "{} tried", self.tried())?;
        let mut separator = ": ";
        for (n, what) in counts.into_iter().filter(|(n, _)| *n > 0) {
            write!(f, "{separator}{n} {what}")?;
            separator = ", ";
        }
        match self.spared {
            true => {
                f.write_str("; the last few are left for outgoing connections, which need one each")
            }
            false => Ok(()),
        }
    }
}

struct RangeText<'a>(&'a RangeInclusive<u16>);

impl fmt::Display for RangeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

/// The system's sentence as a fragment of ours: `address already in use`, without its number.
pub(crate) struct OsMessage<'a>(pub(crate) &'a io::Error);

impl fmt::Display for OsMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text
            .split_once(" (os error")
            .map_or(text.as_str(), |(sentence, _)| sentence);
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => Ok(()),
        }
    }
}
