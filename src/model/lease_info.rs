//! [`Lease`]: a reservation as its lock file describes it, and its text form.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::endpoint::Protocol;
use super::process::Process;
use super::record::{Record, StableName};
use crate::printable::printable;

/// A live reservation on this machine, of this process or another, as its lock file describes it.
///
/// A lease is live while the kernel reports its file as locked. A file that this user may not open
/// counts as locked. The content of the file is a record for people, and does not decide whether
/// the lease is live. The record can be missing or unreadable, for example if the disk was full or
/// if a newer release of this crate wrote it. In that case only the port and the protocol are
/// known, and each method that returns an `Option` returns `None`. A record limits each text to 200
/// bytes, in which a backslash or a line break counts as two. The environment and the command line
/// of the process are never recorded, because they can contain secrets.
///
/// ```
/// let p = portlease::reserve_port();
/// for lease in portlease::reservations()? {
///     println!("{lease}"); // 41023/tcp is reserved by test …
/// }
/// # drop(p);
/// # Ok::<(), portlease::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    protocol: Protocol,
    port: u16,
    record: Option<Record>,
    /// The user that owns the file with the record. Only this user and root can write the file.
    recorded_by: Option<u32>,
    /// The visible processes that still hold the reservation although the recorded process has
    /// ended. Empty if the reservation has no socket that could show them. `None`:
    ///
    /// - for a lease without a record, except one that [`unrecorded`](Lease::unrecorded) made
    /// - if the recorded process may still run
    /// - if no owner of the reservation's socket is visible
    /// - on Windows
    inherited_by: Option<Vec<Process>>,
    /// Set if the recorded pids belong to another pid namespace than that of this process. `None`
    /// also if one of the two namespaces is unknown.
    foreign: Option<Foreign>,
    /// Whether the recorded working directory differs from that of this process.
    is_in_other_folder: bool,
}

/// A record that was written in another pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The pid that the recorded process has in the pid namespace of this process; `None` if it is
    /// unknown.
    pub(crate) pid_here: Option<u32>,
}

impl Lease {
    pub(crate) fn new(protocol: Protocol, port: u16, record: Option<Record>) -> Self {
        Lease {
            protocol,
            port,
            record,
            recorded_by: None,
            inherited_by: None,
            foreign: None,
            is_in_other_folder: false,
        }
    }

    /// A reservation whose lock file this process does not find. `holders` are the processes that
    /// have the port's abstract Unix socket name.
    pub(crate) fn unrecorded(protocol: Protocol, port: u16, holders: Vec<Process>) -> Self {
        Lease {
            inherited_by: Some(holders),
            ..Lease::new(protocol, port, None)
        }
    }

    /// Notes that the record was written in another pid namespace.
    pub(crate) fn set_foreign(&mut self, foreign: Foreign) {
        self.foreign = Some(foreign);
    }

    pub(crate) fn recorded_by(mut self, user: u32) -> Self {
        self.recorded_by = Some(user);
        self
    }

    /// Whether a record can be trusted if it names a process of `user`. The record can be trusted
    /// if `user` or root wrote it, or if its writer is unknown. Another user could name any
    /// process.
    pub(crate) fn speaks_for(&self, user: Option<u32>) -> bool {
        const ROOT: u32 = 0;
        self.recorded_by
            .is_none_or(|owner| owner == ROOT || Some(owner) == user)
    }

    /// Notes that the recorded process has ended, and which processes still hold the reservation.
    /// Pass an empty list if those processes are unknown.
    pub(crate) fn set_inherited_by(&mut self, processes: Vec<Process>) {
        self.inherited_by = Some(processes);
    }

    /// Notes whether the working directory of the lease differs from `own`. `own` is the working
    /// directory of this process, in the form that a record has. Reports name the directory of the
    /// lease only if it differs.
    pub(crate) fn compare_folder(&mut self, own: &str) {
        self.is_in_other_folder = self.working_directory().is_some_and(|folder| folder != own);
    }

    /// The visible processes that still hold the reservation although the recorded process has
    /// ended. They are usually forked children that have not called exec. Empty if the recorded
    /// process runs, or if it is unknown who holds the reservation. Always empty on systems other
    /// than Linux.
    ///
    /// If the lock file is in another lock folder, the lease has no record. The result is then the
    /// visible processes that hold the reservation.
    pub fn inherited_by(&self) -> &[Process] {
        self.inherited_by.as_deref().unwrap_or_default()
    }

    /// The first visible process that still holds the reservation although the recorded process has
    /// ended.
    pub(crate) fn heir(&self) -> Option<&Process> {
        self.inherited_by().first()
    }

    /// The reserved number.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.port(), p.port());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The protocol that the number is reserved for.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.protocol(), portlease::Protocol::Tcp);
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The id of the process that reserved the port.
    ///
    /// The id is valid in the pid namespace of the process that reserved the port. In another pid
    /// namespace, the same id belongs to another process or to none: see
    /// [`is_foreign`](Lease::is_foreign).
    ///
    /// A forked child can keep the reservation after the process that reserved the port has ended.
    /// `pid` then still returns the id of the ended process. `Display` usually names the child as
    /// well.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.pid(), Some(std::process::id()));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn pid(&self) -> Option<u32> {
        self.record.as_ref().map(|r| r.pid)
    }

    /// Returns `true` if the ids [`pid`](Lease::pid) and [`on_behalf_of`](Lease::on_behalf_of)
    /// belong to another pid namespace than that of the caller, for example to that of a container.
    /// `false` if one of the two namespaces is unknown. Always `false` on systems other than Linux.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert!(!lease.is_foreign());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// The id of the process that the port is reserved for, as passed to
    /// [`ReserveOptions::on_behalf_of`](crate::ReserveOptions::on_behalf_of). `None` if a process
    /// reserved the port for itself, if that option had no effect, or if the lease has no readable
    /// record.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.on_behalf_of(), None); // for itself
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn on_behalf_of(&self) -> Option<u32> {
        self.record
            .as_ref()
            .and_then(|r| r.on_behalf_of)
            .map(|process| process.pid)
    }

    /// The path of the program that reserved the port. In a path longer than 200 bytes, `…`
    /// replaces the middle. `None` if the process could not read its path, or if the lease has no
    /// readable record.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert!(lease.program().is_some());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn program(&self) -> Option<&str> {
        self.text(|r| &r.program)
    }

    /// The name of the test that reserved the port: the name of the thread that made the call. For
    /// the main thread and unnamed threads, the result is the variable `NEXTEST_TEST_NAME` of
    /// `cargo nextest`, or `None` if the variable is missing. In a name longer than 200 bytes, `…`
    /// replaces the middle.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// println!("{:?}", lease.test()); // the thread's name, which libtest sets
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn test(&self) -> Option<&str> {
        self.text(|r| &r.test)
    }

    /// The source line of the call that reserved the port, such as `tests/restart.rs:17`. `None` if
    /// the reservation has a [`command`](Lease::command). Also `None` if this crate's function was
    /// passed as a value, as in `LazyLock::new(reserve_port)`. Pass a closure to get the line.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// println!("{:?}", lease.at()); // tests/restart.rs:17
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn at(&self) -> Option<&str> {
        self.text(|r| &r.at)
    }

    /// The label that was passed to [`ReserveOptions::label`](crate::ReserveOptions::label). In a
    /// text longer than 200 bytes, `…` replaces the middle.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.label(), Some("docs"));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn label(&self) -> Option<&str> {
        self.text(|r| &r.label)
    }

    /// The command that runs under the reservation, as passed to
    /// [`ReserveOptions::command`](crate::ReserveOptions::command). In a text longer than 200
    /// bytes, `…` replaces the middle.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().command("redis-server").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.command(), Some("redis-server"));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn command(&self) -> Option<&str> {
        self.text(|r| &r.command)
    }

    /// The working directory that the process had when it reserved the port. In a path longer than
    /// 200 bytes, `…` replaces the middle.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// println!("{:?}", lease.working_directory()); // /home/ci/project
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn working_directory(&self) -> Option<&str> {
        self.text(|r| &r.working_directory)
    }

    /// The stable name of the port, as passed to
    /// [`ReserveOptions::named`](crate::ReserveOptions::named). In a name longer than 200 bytes,
    /// `…` replaces the middle. `None` without a name, or if [`first_choice`](Lease::first_choice)
    /// is unknown, for example because the options allow only preferred numbers.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().named("docs of lease").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.name(), Some("docs of lease"));
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn name(&self) -> Option<&str> {
        Some(self.stable_name()?.name.as_str())
    }

    /// The number that the [name](Lease::name) stands for. A call with the name tries its
    /// [preferred](crate::ReserveOptions::prefer) numbers, then this number, then others. So
    /// [`port`](Lease::port) can be a different number. `None` if `name` returns `None`.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().named("docs of choice").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert_eq!(lease.first_choice(), p.first_choice());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn first_choice(&self) -> Option<u16> {
        Some(self.stable_name()?.first_choice)
    }

    fn stable_name(&self) -> Option<&StableName> {
        self.record.as_ref()?.name.as_ref()
    }

    /// When the port was reserved, by the system clock at that time.
    ///
    /// ```
    /// let p = portlease::ReserveOptions::new().label("docs").reserve()?;
    /// let leases = portlease::reservations()?;
    /// let lease = leases.iter().find(|lease| lease.port() == p.port()).unwrap();
    /// assert!(lease.since().is_some());
    /// # Ok::<(), portlease::Error>(())
    /// ```
    pub fn since(&self) -> Option<SystemTime> {
        self.record.as_ref().map(|r| UNIX_EPOCH + r.since)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    fn text(&self, field: impl Fn(&Record) -> &String) -> Option<&str> {
        self.record
            .as_ref()
            .map(|r| field(r).as_str())
            .filter(|text| !text.is_empty())
    }
}

/// Prints text such as `60315/tcp is reserved by test restarts (tests/restart.rs:17), pid 4100`.
impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} is reserved {}",
            self.port,
            self.protocol,
            self.by()
        )
    }
}

impl Lease {
    /// Who reserved the port, such as `by test restarts (tests/restart.rs:17), pid 4100`.
    pub(crate) fn by(&self) -> String {
        let Some(record) = &self.record else {
            if let Some(process) = self.heir() {
                return format!("by {}", process.name_and_pid());
            }
            return "by an unknown process: the reservation has no readable record".to_owned();
        };
        let mut text = match (self.test(), self.program()) {
            (Some(test), _) => format!("by test {}", printable(test)),
            (None, Some(path)) => {
                let file_name = path.rsplit('/').next().unwrap_or(path);
                format!("by {}", printable(file_name))
            }
            (None, None) => "by a process".to_owned(),
        };
        // If the port is reserved for another process, that process runs the command. The code
        // below prints the command with the pid of that process.
        match (self.command(), self.at(), record.on_behalf_of) {
            (Some(command), _, None) => text += &format!(" (running `{}`)", printable(command)),
            (None, Some(at), _) => text += &format!(" ({})", printable(at)),
            _ => {}
        }
        text += &self.pid_text(record.pid);
        if self.inherited_by.is_some() {
            text += ", which has ended";
        }
        if let Some(process) = record.on_behalf_of {
            let there = match self.foreign {
                Some(_) => " there",
                None => "",
            };
            text += &match self.command() {
                Some(name) => format!(" for {} (pid {}{there})", printable(name), process.pid),
                None => format!(" for pid {}{there}", process.pid),
            };
        }
        if let Some(label) = self.label() {
            text += &format!(", labelled \"{}\"", printable(label));
        }
        if let Some(StableName { name, first_choice }) = self.stable_name() {
            text += &format!(", named \"{}\"", printable(name));
            if *first_choice != self.port {
                text += &format!(" (first choice of this name: {first_choice})");
            }
        }
        text + &self.heirs_text()
    }

    /// Returns text such as `, pid 4100`. The text marks a pid of another pid namespace, because in
    /// the namespace of this process the pid may belong to another process.
    fn pid_text(&self, pid: u32) -> String {
        match self.foreign {
            None => format!(", pid {pid}"),
            Some(Foreign { pid_here: None }) => format!(", pid {pid} in another pid namespace"),
            Some(Foreign {
                pid_here: Some(here),
            }) => format!(", pid {here} (pid {pid} in its own pid namespace)"),
        }
    }

    /// The text of [`by`](Lease::by), and the recorded working directory if it differs from that of
    /// this process.
    pub(crate) fn by_in_folder(&self) -> String {
        match self.working_directory() {
            Some(folder) if self.is_in_other_folder => {
                format!("{}, in {}", self.by(), printable(folder))
            }
            _ => self.by(),
        }
    }

    /// Returns text such as `; pid 4101 (restart), a forked child, still holds it`. The text is
    /// empty if no visible process has inherited the reservation.
    fn heirs_text(&self) -> String {
        let Some((first, others)) = self.inherited_by().split_first() else {
            return String::new();
        };
        let mut text = format!("; pid {} ({})", first.pid, printable(&first.name));
        if first.forked {
            text += ", a forked child,";
        }
        text += &match others.len() {
            0 => " still holds it".to_owned(),
            1 => " and 1 other process still hold it".to_owned(),
            count => format!(" and {count} other processes still hold it"),
        };
        text
    }
}
