//! [`Remedy`]: an action that helps with a port.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::Endpoint;
use super::process::ContainerManager;

#[cfg(test)]
mod tests;
mod text;

pub(super) use text::in_one_line;

/// An action that helps with a port. [`Diagnosis::remedies`](crate::Diagnosis::remedies) returns
/// the actions for one report.
///
/// `Display` prints the action for a user of this crate. If a call of this crate does the action,
/// `Display` prints that call. The command `portlease` prints the same action as a command line.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// for remedy in portlease::diagnose(&p).remedies() {
///     println!("{remedy}"); // close the socket: this process has it
/// }
/// # drop(server);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// End the process that holds the port.
    #[non_exhaustive]
    StopProcess {
        /// The id of the process.
        pid: u32,
    },
    /// End the [master](crate::Process::master) of the workers that hold the port. If only a worker
    /// ends, the master starts a new one.
    #[non_exhaustive]
    StopMaster {
        /// The id of the master.
        pid: u32,
        /// The name of the master.
        name: String,
    },
    /// Send SIGINT to the process that holds the port, because SIGTERM does not end the process
    /// soon. PostgreSQL waits for its clients after SIGTERM, and uWSGI starts its workers again.
    #[non_exhaustive]
    InterruptProcess {
        /// The id of the process.
        pid: u32,
    },
    /// Close the socket that holds the port. The socket belongs to the calling process.
    CloseOwnSocket,
    /// Close the socket in the process that holds the port. That process is an ancestor of the
    /// calling process, so ending it could also end the calling process.
    #[non_exhaustive]
    CloseSocketOfAncestor {
        /// The id of the process.
        pid: u32,
    },
    /// Resume or kill the process that holds the port. That process is suspended, so SIGTERM alone
    /// does not end it.
    #[non_exhaustive]
    ResumeOrKill {
        /// The id of the process.
        pid: u32,
    },
    /// Kill the process that holds the port, because SIGTERM does not end it.
    #[non_exhaustive]
    KillProcess {
        /// The id of the process.
        pid: u32,
        /// Whether a debugger or another tracer (ptrace(2)) has stopped the process. If not,
        /// [`Process::ignores_sigterm`](crate::Process::ignores_sigterm) is `true`.
        traced: bool,
    },
    /// Let the process `pid` receive the descriptors that were sent to it (unix(7)), because the
    /// socket may be one of them. Or stop the process: the kernel then closes the descriptors.
    #[non_exhaustive]
    ReceiveOrStop {
        /// The id of the process.
        pid: u32,
    },
    /// Resume the process that is expected to listen, because it is stopped.
    #[non_exhaustive]
    Resume {
        /// The id of the process.
        pid: u32,
        /// Whether a debugger or another tracer (ptrace(2)) has stopped the process. If not, a
        /// signal has suspended it.
        traced: bool,
        /// Whether the process is in the background of its terminal. A terminal suspends a
        /// background process that reads from it or configures it.
        in_background: bool,
    },
    /// Start the server without a terminal as its stdin, so that the terminal does not suspend the
    /// server.
    StartWithoutTerminal,
    /// Thaw the control group of the process. A frozen process runs no signal handler. In version 1
    /// of control groups, not even SIGKILL ends it. If a later remedy of the list is for the same
    /// process, it is the next step, not an alternative.
    #[non_exhaustive]
    Thaw {
        /// The id of the process.
        pid: u32,
        /// A command line that thaws the group, such as `systemctl thaw nginx.service`. For a
        /// container of Docker or Podman, the text has a command line of Docker and one of Podman.
        command: String,
    },
    /// Wait until the kernel has written the core file of the process that holds the port.
    #[non_exhaustive]
    WaitForCoreDump {
        /// The id of the process.
        pid: u32,
    },
    /// Stop the service that holds the port: a service of systemd or, on Windows, of the service
    /// control manager. If only its process is stopped, the manager may start the process again.
    #[non_exhaustive]
    StopUnit {
        /// The name of the service.
        unit: String,
        /// Whether a user's service manager runs the service (`systemctl --user`). Always `false`
        /// on Windows.
        user: bool,
        /// The id of the user whose service manager runs the service. `None` if `user` is `false`.
        /// Also `None` for the user of the calling process.
        uid: Option<u32>,
    },
    /// Find and stop the systemd socket unit that holds the port.
    #[non_exhaustive]
    ListSocketUnits {
        /// Whether a user's service manager has the socket unit (`systemctl --user`).
        user: bool,
        /// The id of the user whose service manager has the socket unit. `None` if `user` is
        /// `false`. Also `None` for the user of the calling process.
        uid: Option<u32>,
    },
    /// Stop the container in which the holder of the port runs.
    #[non_exhaustive]
    StopContainer {
        /// The id of the container, or its name if systemd-nspawn or LXC runs it.
        id: String,
        /// Who manages the container.
        manager: ContainerManager,
    },
    /// Stop the container that publishes the port. The holder only forwards connections to that
    /// container, or keeps the port for the container.
    #[non_exhaustive]
    StopPublishingContainer {
        /// The number of the port.
        port: u16,
        /// Whether the port is a UDP port. If not, it is a TCP port.
        udp: bool,
        /// Whether the holder is a program of Podman. If not, it is a program of Docker.
        podman: bool,
    },
    /// Stop the server in WSL (the Windows Subsystem for Linux). The holder of the port is a
    /// program of Windows that only forwards connections to that server.
    #[non_exhaustive]
    StopServerInWsl {
        /// The id of the holder.
        pid: u32,
    },
    /// Find and stop the program that uses the driver HTTP.sys, such as IIS. HTTP.sys accepts the
    /// HTTP connections of the program in the kernel of Windows. So the socket table shows the
    /// kernel as the holder.
    FindProgramOfHttpSys,
    /// Delete the rule of Windows that forwards the port (`netsh interface portproxy`). The service
    /// iphlpsvc, which applies these rules, is the holder of the port.
    #[non_exhaustive]
    DeletePortProxy {
        /// The number of the port.
        port: u16,
    },
    /// Turn off AirPlay Receiver, a service of macOS that has the ports 5000 and 7000. macOS starts
    /// its process again after a kill.
    TurnOffAirPlayReceiver,
    /// Stop the process through its supervisor, such as supervisord. Otherwise the supervisor may
    /// start the process again.
    #[non_exhaustive]
    StopBySupervisor {
        /// The id of the process.
        pid: u32,
        /// The id of the supervisor. It is `pid` if the supervisor itself owns the socket for a
        /// program that it runs, as pm2 does in cluster mode.
        supervisor: u32,
        /// The name of the supervisor.
        name: String,
        /// A text that says how to stop the process through the supervisor. It has the command line
        /// in backticks, such as "`sv down /etc/service/web`". `None` if the command line is not
        /// known.
        command: Option<String>,
        /// Whether the process may still run after the supervisor was used to stop it. The process
        /// may need SIGKILL, or the supervisor may stop only another program, such as a shell that
        /// runs the process. Always `false` if `supervisor` is `pid`.
        may_remain: bool,
        /// Whether the process needs SIGKILL: it ignores SIGTERM, is suspended or is traced.
        sigkill: bool,
    },
    /// Stop the watcher, and then the process. The watcher is a program, such as nodemon, that runs
    /// the process and may start it again.
    #[non_exhaustive]
    StopWatcherFirst {
        /// The id of the process.
        pid: u32,
        /// The process id of the watcher.
        watcher: u32,
        /// The name of the watcher.
        name: String,
        /// Whether the watcher needs SIGKILL: it ignores SIGTERM, is suspended or is traced.
        watcher_sigkill: bool,
        /// Whether the process needs SIGKILL: it ignores SIGTERM, is suspended or is traced.
        sigkill: bool,
    },
    /// Stop the process. A shell whose script has a loop runs the process. If the shell starts the
    /// process again, stop the shell, and then the new process.
    #[non_exhaustive]
    StopProcessOfScript {
        /// The id of the process.
        pid: u32,
        /// The process id of the shell.
        shell: u32,
        /// The name of the shell.
        name: String,
        /// Whether the shell needs SIGKILL: it ignores SIGTERM, is suspended or is traced.
        shell_sigkill: bool,
        /// Whether the process needs SIGKILL: it ignores SIGTERM, is suspended or is traced.
        sigkill: bool,
    },
    /// Reserve any other free port.
    #[non_exhaustive]
    ReserveAnotherPort {
        /// The endpoint that was checked.
        endpoint: Endpoint,
    },
    /// Queue for the port until its reservation ends.
    #[non_exhaustive]
    Queue {
        /// The endpoint that was checked.
        endpoint: Endpoint,
        /// The id of the process that holds the reservation. `None` if it is unknown, or if the
        /// process is in another pid namespace.
        pid: Option<u32>,
    },
    /// End the reservation. If a call waited for the port and then failed, the report of the call
    /// has this remedy instead of [`Queue`](Remedy::Queue).
    #[non_exhaustive]
    EndReservation {
        /// The endpoint that was requested.
        endpoint: Endpoint,
        /// The id of the process that holds the reservation.
        pid: u32,
    },
    /// Use the port, because it is already reserved for this process or for an ancestor. Do not
    /// wait for the port: its reservation may last as long as this process.
    #[non_exhaustive]
    UseOwnReservation {
        /// The endpoint that was requested.
        endpoint: Endpoint,
        /// The id of the process that holds the reservation. `None` if this process holds it.
        pid: Option<u32>,
        /// The id of the process that the port is reserved for. `None` if the holder of the
        /// reservation has reserved the port for itself.
        on_behalf_of: Option<u32>,
    },
    /// Start the server if it does not run.
    StartServer,
    /// Wait until a server listens on the port.
    #[non_exhaustive]
    WaitUntilListening {
        /// The endpoint that was checked.
        endpoint: Endpoint,
    },
    /// Connect to the address on which the server listens.
    #[non_exhaustive]
    UseListenersAddress {
        /// The address of the listener.
        addr: SocketAddr,
    },
    /// Let the server listen on the address that was checked.
    #[non_exhaustive]
    ListenOn {
        /// The address of the endpoint that was checked; 127.0.0.1 for `localhost`.
        ip: IpAddr,
        /// The index of the network interface that the checked endpoint names, or 0. Only two kinds
        /// of address name an interface: a link-local address, and a multicast address of one link
        /// or interface.
        scope_id: u32,
    },
    /// Let the new server listen on a loopback address on which the number is free. Other servers
    /// have the number, but only on other addresses.
    #[non_exhaustive]
    ListenOnFreeAddress {
        /// The loopback address and the port number.
        addr: SocketAddr,
        /// Whether the port is a UDP port. If not, it is a TCP port.
        udp: bool,
    },
    /// Let the server accept connections from every network interface. The server has bound its
    /// socket to one interface (SO_BINDTODEVICE of socket(7)).
    #[non_exhaustive]
    ListenOnEveryInterface {
        /// The name of the interface.
        interface: String,
    },
    /// Reserve the port for a server that does not set SO_REUSEADDR, if the server reported
    /// "address already in use".
    ReserveForPlainServer,
    /// Wait until the connections in TIME_WAIT end, which takes at most 60 s on Linux.
    WaitForTimeWait,
    /// Wait until the kernel has closed the socket.
    WaitForKernel,
    /// Retry with permission to inspect the processes of other users.
    InspectWithPermission,
    /// List the rules of the packet filter. One of them redirects, rejects or drops the connections
    /// of the port.
    ListPacketFilter,
    /// Mount the file system proc on `/proc`, so that processes are visible.
    MountProc,
    /// Retry outside of this container, because a process outside may own the socket.
    InspectFromHost,
    /// Retry in the network namespace of the process that is expected to listen. The sockets of
    /// that process are visible only there. nsenter(1) enters the namespace.
    #[non_exhaustive]
    InspectInNetworkNamespace {
        /// The id of the process.
        pid: u32,
    },
    /// Find the part of the kernel that owns the socket, or a process whose call on the socket is
    /// in progress.
    FindKernelSocket,
    /// Keep the kernel from choosing the number for outgoing connections.
    #[non_exhaustive]
    ReserveInSysctl {
        /// The number of the port.
        port: u16,
        /// The value to set for `net.ipv4.ip_local_reserved_ports`: its current value and this
        /// port.
        ports: String,
    },
    /// List the port ranges that Windows excludes from use.
    ShowExcludedRanges,
    /// Check the command line of the process: which server it runs, and on which port.
    #[non_exhaustive]
    CheckCommand {
        /// The id of the process.
        pid: u32,
    },
    /// Check the command that the failed call itself started, and has ended since. Find out which
    /// server the command runs, and on which port.
    CheckSpawnedCommand,
    /// Start the server in the foreground. The server may be a daemon: its first process ended and
    /// left another process behind. A wait goes on only for a moment after the first process has
    /// ended.
    StartInForeground,
    /// If the process that listens is the server, pass that process to the wait or the assertion.
    /// One of these statements is true for the process that listens:
    ///
    /// - It is an ancestor of the expected process, such as its parent.
    /// - A shell started both processes as parts of one pipeline.
    /// - It may be a daemon of the expected process. The expected process has ended.
    #[non_exhaustive]
    ExpectProcess {
        /// The id of the process that listens.
        pid: u32,
        /// The id of the expected process.
        instead_of: u32,
    },
    /// Accept a listener of any process, because the listener belongs to a container, or to the
    /// program that publishes the port of a container. The process that started the container, such
    /// as `docker run`, does not listen itself.
    #[non_exhaustive]
    ExpectAnyListener {
        /// The id of the expected process.
        instead_of: u32,
    },
    /// Read the output of the server, which closed its socket or opened it late.
    ReadServerOutput,
    /// Stop each server before its test ends.
    StopServersBeforeTestEnds,
    /// Run as root.
    RunAsRoot,
    /// Lower the first port number that can be bound without a privilege.
    #[non_exhaustive]
    LowerUnprivilegedPortStart {
        /// The number of the port. The new setting must not be higher than this number.
        port: u16,
    },
    /// Use an address that this machine has.
    UseLocalAddress,
    /// Name the port with another protocol. A server uses the same number with that protocol, and
    /// the caller may mean that server.
    #[non_exhaustive]
    NameOtherProtocol {
        /// The endpoint that was checked, but with the protocol that the server uses.
        endpoint: Endpoint,
    },
    /// Write the port in one of the accepted text forms.
    NamePort,
    /// Call [`who_holds`](crate::who_holds). This crate does not bind ports of the endpoint's
    /// protocol, so it cannot check whether they are free.
    #[non_exhaustive]
    AskWhoHolds {
        /// The endpoint that was checked.
        endpoint: Endpoint,
    },
    /// Await a function of `portlease::tokio` in place of the wait that timed out. That wait
    /// blocked its thread, and with the thread every task of a current-thread runtime. The server
    /// may be one of these tasks.
    #[non_exhaustive]
    UnblockRuntime {
        /// The name of the function in `portlease::tokio`.
        call: &'static str,
    },
}

impl Remedy {
    /// Whether the remedy frees the port from one of its holders. If a report names several such
    /// remedies, the user must follow all of them.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert!(diagnosis.remedies()[0].ends_a_holder()); // close the socket
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ends_a_holder(&self) -> bool {
        matches!(
            self,
            Remedy::StopProcess { .. }
                | Remedy::StopMaster { .. }
                | Remedy::InterruptProcess { .. }
                | Remedy::CloseOwnSocket
                | Remedy::CloseSocketOfAncestor { .. }
                | Remedy::ResumeOrKill { .. }
                | Remedy::KillProcess { .. }
                | Remedy::WaitForCoreDump { .. }
                | Remedy::StopUnit { .. }
                | Remedy::ListSocketUnits { .. }
                | Remedy::StopContainer { .. }
                | Remedy::StopPublishingContainer { .. }
                | Remedy::StopServerInWsl { .. }
                | Remedy::FindProgramOfHttpSys
                | Remedy::DeletePortProxy { .. }
                | Remedy::TurnOffAirPlayReceiver
                | Remedy::StopBySupervisor { .. }
                | Remedy::StopWatcherFirst { .. }
                | Remedy::StopProcessOfScript { .. }
        )
    }

    /// Returns `true` if the remedy concerns one holder of the port: it frees the port from the
    /// holder, thaws the holder, or helps to find the holder. A report joins the remedies for
    /// several holders with "and", because the user must follow all of them.
    ///
    /// ```
    /// let p = portlease::reserve_port();
    /// let server = p.listen()?;
    /// let diagnosis = portlease::diagnose(&p);
    /// assert!(diagnosis.remedies()[0].concerns_a_holder()); // close the socket
    /// # drop(server);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn concerns_a_holder(&self) -> bool {
        self.ends_a_holder()
            || matches!(
                self,
                Remedy::Thaw { .. }
                    | Remedy::ReceiveOrStop { .. }
                    | Remedy::InspectWithPermission
                    | Remedy::InspectFromHost
                    | Remedy::FindKernelSocket
                    | Remedy::MountProc
            )
    }
}
