//! [`Process`]: a process that owns a socket.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::SystemTime;

/// A process that owns a socket, as it was when its data was read.
///
/// The command line is not a field, because it can contain secrets:
/// [`command_line`](Process::command_line) reads it on request.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// let holders = portlease::who_holds(&p)?;
/// let listener = holders.iter().find(|holder| holder.state == portlease::State::Listen).unwrap();
/// let process = &listener.processes[0];
/// assert_eq!(process.pid, std::process::id());
/// println!("{}, {:?}", process.name, process.program);
/// # drop(server);
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The id of the parent process. The parent started the process, or adopted it after the first
    /// parent had ended. `None` if the process has no parent, or if the parent is unknown.
    pub parent: Option<u32>,
    /// The name by which the kernel knows the process. On Linux it has at most 15 bytes, and the
    /// process can change it.
    ///
    /// The name can contain any character. The reports of this crate print it escaped.
    pub name: String,
    /// The path of the program; `None` if it cannot be read, usually because this user may not read
    /// it.
    pub program: Option<PathBuf>,
    /// The id of the user that the process runs as; `None` on Windows, and for a user outside of
    /// the user namespace of this process.
    pub uid: Option<u32>,
    /// The name of the user `uid` in `/etc/passwd`. `None` if the user is not listed there, and on
    /// macOS and Windows.
    pub user: Option<String>,
    /// When the process started. On Linux it is `None` if `/proc/uptime` is missing, as with the
    /// mount option `subset=pid` of proc(5).
    pub started: Option<SystemTime>,
    /// Whether the process runs. On systems other than Linux it is always
    /// [`ProcessState::Running`].
    pub state: ProcessState,
    /// `true` if SIGTERM has no effect on the process, so that it must be ended with SIGKILL. The
    /// process ignores SIGTERM, or it has no handler for SIGTERM and one of these conditions holds:
    ///
    /// - Every thread blocks SIGTERM, and the process has no signalfd(2) that receives it.
    /// - The process does not block SIGTERM, and it is the first process of another pid namespace
    ///   (pid_namespaces(7)).
    ///
    /// Always `false` on systems other than Linux.
    pub ignores_sigterm: bool,
    /// The working directory; `None` if this user may not read it, and on systems other than Linux.
    pub working_directory: Option<PathBuf>,
    /// The service that the process belongs to. systemd, or the service control manager of Windows,
    /// may start the process again if it is killed.
    ///
    /// On Linux it is a systemd service, such as `nginx.service`, and `None` for a process in a
    /// container. On Windows it is the service that the process runs, such as `MySQL80`, and `None`
    /// if the process runs several services. On other systems it is always `None`.
    pub unit: Option<String>,
    /// The full id of the container that the process runs in, as `docker ps --no-trunc` and `podman
    /// ps --no-trunc` print it. For a container of systemd-nspawn or LXC it is the name. `None` if
    /// the process runs in no container, and on systems other than Linux.
    pub container: Option<String>,
    /// The relation of the process to the calling process. `None` if they are different processes
    /// and neither is an ancestor of the other. Also `None` if their parents cannot be read.
    pub relation: Option<Relation>,
    /// Whether the process and the calling process run in the same systemd unit and container.
    /// Stopping that unit or container would stop the calling process too. The field is also `true`
    /// if both processes run in no unit and in no container.
    pub(crate) shares_unit: bool,
    /// Whether the process is in the session (setsid(2)) of the first process of its unit. `false`
    /// suggests that the process runs in a terminal, an editor or a job that the unit runs. Always
    /// `true` if the process has no unit, or if it shares the unit of the calling process.
    pub(crate) in_session_of_unit: bool,
    /// The systemd service that starts the container, such as a service that Quadlet of Podman
    /// makes.
    pub(crate) container_unit: Option<String>,
    /// The user whose service manager (`systemd --user`) runs the process. `None` if the system's
    /// service manager runs it.
    pub(crate) user_manager: Option<u32>,
    /// Whether `user_manager` is another user than the user of the calling process.
    pub(crate) is_other_users: bool,
    /// Who manages the container.
    pub(crate) manager: ContainerManager,
    /// Whether the process has a handler for SIGTERM. On SIGTERM, a server with a handler usually
    /// ends its workers too. `true` on systems other than Linux, where this crate does not read
    /// handlers.
    pub(crate) handles_sigterm: bool,
    /// The supervisor that starts, or may start, the process again when the process ends.
    pub(crate) supervisor: Option<Supervisor>,
    /// What [`Process::master`] returns.
    pub(crate) master: Option<Box<Process>>,
    /// When the process started, in the system's own unit; `None` if the system does not report
    /// it. The value distinguishes the process from a later one with the same pid.
    pub(crate) ticks: Option<NonZeroU64>,
    /// A command that thaws the control group of the process. `None` if the group is not frozen, or
    /// if its files cannot be found.
    pub(crate) thaw: Option<String>,
    /// Whether the process is the first one of another pid namespace. If it ends, the kernel kills
    /// all processes of that namespace.
    pub(crate) is_init_elsewhere: bool,
    /// Whether the process is a forked child that has not completed exec.
    pub(crate) forked: bool,
}

/// Who manages a container, and so can stop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContainerManager {
    /// Docker or Podman. This is also the value if the manager is unknown.
    #[default]
    Engine,
    /// A node of Kubernetes, which may start a stopped container again.
    Kubernetes,
    /// systemd-machined, which manages the containers of systemd-nspawn.
    Machined,
    /// LXC, or a manager that uses it: Incus or LXD.
    Lxc,
}

/// A program that starts, or may start, a process again when the process ends. It usually runs as
/// an ancestor of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supervisor {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) kind: SupervisorKind,
    /// Whether the supervisor is the parent of the process. If not, the supervisor usually runs the
    /// process through another program, such as a shell. If that program ends, the process may keep
    /// running.
    pub(crate) is_parent: bool,
    /// Whether SIGTERM does not end the supervisor: it ignores SIGTERM, is suspended or is traced.
    pub(crate) sigkill: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SupervisorKind {
    /// A service manager. The text says how to stop the service of the process; `None` if that is
    /// unknown. The daemon of pm2 counts as its own manager, because in cluster mode it owns the
    /// listeners of its programs.
    Manager(Option<String>),
    /// A program that runs a command, such as a file watcher. If the program is stopped, it usually
    /// stops its command too.
    Watcher,
    /// A shell that runs a script with a loop. It is unknown whether the loop starts the process.
    Loop,
}

/// Whether a process runs, or what keeps it from running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProcessState {
    /// The process runs, or sleeps until it has something to do.
    #[default]
    Running,
    /// A signal (Ctrl-Z, SIGSTOP) has stopped the process. The process keeps its sockets and
    /// answers no client. SIGTERM takes effect only after SIGCONT.
    Suspended,
    /// A debugger or another tracer (ptrace(2)) has stopped the process. The process keeps its
    /// sockets and answers no client. Only SIGKILL takes effect before the tracer resumes it.
    Traced,
    /// The control group of the process is frozen (cgroups(7)), for example by `docker pause` or
    /// `systemctl freeze`. The process keeps its sockets and answers no client. Until the group is
    /// thawed:
    ///
    /// - The process calls no signal handler.
    /// - In version 1 of control groups, not even SIGKILL ends the process.
    /// - In version 2, SIGKILL ends the process at once, and so does SIGTERM if the process neither
    ///   handles nor ignores it.
    ///
    /// If the files of the control group cannot be found, the state is
    /// [`Running`](ProcessState::Running) instead.
    Frozen,
    /// The kernel writes the memory of the process to a core file. The process ends after that.
    DumpingCore,
    /// The process has ended, and its parent has not waited for it yet (wait(2)).
    Zombie,
}

/// Why a process that has not ended does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "only Linux shows why a process does not run")
)]
pub(crate) enum Halt {
    /// A signal has stopped the process.
    Suspended,
    /// A signal has stopped the process, which is in the background of its terminal. A terminal
    /// sends such a signal to a background process that reads from it or configures it.
    SuspendedInBackground,
    /// A debugger has stopped the process.
    Traced,
    /// The control group of the process is frozen. The text is a command that thaws the group.
    Frozen(String),
}

/// The relation of a process to the calling process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Relation {
    /// The process is the calling process.
    ThisProcess,
    /// The process is the parent of the calling process, or an ancestor of that parent. Examples
    /// are a shell and a test runner.
    Ancestor,
    /// The calling process is the parent of the process, or an ancestor of that parent.
    Descendant,
}

impl Process {
    /// The parent of the process, if that parent is a master. A master starts a new worker when a
    /// worker ends. An example is `gunicorn --reuse-port`. A parent counts as a master if all of
    /// these hold:
    ///
    /// - It has the same command line as the process.
    /// - It has a handler for SIGTERM.
    /// - It owns none of the sockets that the same call reported.
    /// - It is neither the calling process nor an ancestor of the calling process.
    ///
    /// Always `None` on systems other than Linux.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// for holder in &portlease::who_holds(&p)? {
    ///     assert!(holder.processes.iter().all(|process| process.master().is_none()));
    /// }
    /// # drop(server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn master(&self) -> Option<&Process> {
        self.master.as_deref()
    }

    /// Whether SIGTERM does not end the process: it ignores SIGTERM, is suspended or is traced.
    pub(crate) fn needs_sigkill(&self) -> bool {
        let is_stopped = matches!(self.state, ProcessState::Suspended | ProcessState::Traced);
        self.ignores_sigterm || is_stopped
    }

    /// A process of which only the pid and the name are known.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "macos", windows)),
        allow(dead_code, reason = "this system shows no processes")
    )]
    pub(crate) fn unknown(pid: u32, name: String) -> Process {
        Process {
            pid,
            parent: None,
            name,
            program: None,
            uid: None,
            user: None,
            started: None,
            state: ProcessState::default(),
            ignores_sigterm: false,
            working_directory: None,
            unit: None,
            container: None,
            relation: None,
            shares_unit: false,
            in_session_of_unit: true,
            container_unit: None,
            user_manager: None,
            is_other_users: false,
            manager: ContainerManager::default(),
            handles_sigterm: cfg!(not(target_os = "linux")),
            supervisor: None,
            master: None,
            ticks: None,
            thaw: None,
            is_init_elsewhere: false,
            forked: false,
        }
    }
}
