//! [`Remedy`]: an action that helps with a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::endpoint::{Endpoint, Protocol};
use super::process::ContainerManager;
use super::text::{AddrText, IpText};
use crate::printable::printable;

/// An action that helps with a port. [`Diagnosis::remedies`](crate::Diagnosis::remedies) returns
/// the actions for one report.
///
/// `Display` prints the action for a user of this crate, as a call where one exists. The command
/// `portlease` prints the same action as a command line.
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
    /// of control groups, not even SIGKILL ends it. A remedy that follows for the same process is
    /// the next step, not an alternative.
    #[non_exhaustive]
    Thaw {
        /// The id of the process.
        pid: u32,
        /// A command line that thaws the group, such as `systemctl thaw nginx.service`. For a
        /// container of Docker or Podman the text has one command line for each of the two.
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
    },
    /// Find and stop the systemd socket unit that holds the port.
    #[non_exhaustive]
    ListSocketUnits {
        /// Whether a user's service manager has the socket unit (`systemctl --user`).
        user: bool,
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
    /// Find and stop the program for which the kernel of Windows accepts HTTP connections (the
    /// driver HTTP.sys). IIS is such a program. The socket table shows the kernel as the holder.
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
    /// End the reservation. Stands instead of [`Queue`](Remedy::Queue) in the report of a call that
    /// has waited for the port.
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
        /// The id of the process that the port is reserved for. `None` if the process that holds
        /// the reservation reserved the port for itself.
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
        /// The index of the network interface that the checked endpoint names. 0 if it names none.
        /// Only a link-local address, or a multicast address of one link or interface, has one.
        scope_id: u32,
    },
    /// Let the new server listen on a loopback address on which the number is free. Other servers
    /// have the number, but only on other addresses.
    #[non_exhaustive]
    ListenOnFreeAddress {
        /// The loopback address and the port number.
        addr: SocketAddr,
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
    /// Check the command that the call started and has ended: which server it runs, and on which
    /// port.
    CheckSpawnedCommand,
    /// Start the server in the foreground. It may be a daemon that its first process left, and a
    /// wait goes on only for a moment after that process has ended.
    StartInForeground,
    /// Name another process to the wait or the assertion, if that process is the server. One of
    /// these is true for the other process:
    ///
    /// - It is an ancestor of the expected process, such as its parent.
    /// - A shell started both processes as parts of one pipeline.
    /// - It may be a daemon of the expected process, which has ended.
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
    /// Lower the first number that can be bound without a privilege.
    #[non_exhaustive]
    LowerUnprivilegedPortStart {
        /// The number of the port. The new setting must not be higher than this number.
        port: u16,
    },
    /// Use an address that this machine has.
    UseLocalAddress,
    /// Name the port with another protocol. A server has the same number with that protocol, and
    /// may be the server that is meant.
    #[non_exhaustive]
    NameOtherProtocol {
        /// The endpoint that was checked, with the protocol of the server.
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

/// The first process of a system or a container. The texts about a watcher or a shell do not advise
/// to stop this process. The kernel drops the signals that the process does not handle, and the
/// whole system or container would end with the process.
const INIT: u32 = 1;

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::StopProcess { pid } => write!(f, "stop pid {pid}"),
            Remedy::StopMaster { pid, name } => write!(
                f,
                "stop {} (pid {pid}) to end its workers too: it replaces a worker that is stopped \
                 alone",
                printable(name)
            ),
            Remedy::InterruptProcess { pid } => write!(f, "stop pid {pid} with kill -INT {pid}"),
            Remedy::CloseOwnSocket => f.write_str("close the socket: this process has it"),
            Remedy::CloseSocketOfAncestor { pid } => {
                write!(
                    f,
                    "close the socket in pid {pid}, an ancestor of this process"
                )
            }
            Remedy::ResumeOrKill { pid } => write!(
                f,
                "resume pid {pid} with kill -CONT {pid}, or end it with kill -KILL {pid}"
            ),
            Remedy::KillProcess { pid, traced: false } => write!(
                f,
                "end pid {pid}, which ignores SIGTERM, with kill -KILL {pid}"
            ),
            Remedy::KillProcess { pid, traced: true } => write!(
                f,
                "resume pid {pid} in its debugger, or end it with kill -KILL {pid}"
            ),
            Remedy::ReceiveOrStop { pid } => write!(
                f,
                "if the socket is one of the descriptors that were sent to pid {pid}, let pid \
                 {pid} receive them, or stop pid {pid}"
            ),
            Remedy::WaitForCoreDump { pid } => {
                write!(
                    f,
                    "wait until the kernel has written the core file of pid {pid}"
                )
            }
            Remedy::StopUnit { unit, .. } if cfg!(windows) => {
                write!(f, "stop the service with net stop {}", printable(unit))
            }
            Remedy::StopUnit { unit, user } => {
                write!(
                    f,
                    "stop the service with systemctl{} stop {}",
                    of_user(*user),
                    printable(unit)
                )
            }
            Remedy::ListSocketUnits { user } => write!(
                f,
                "find the socket unit with systemctl{} list-sockets, and stop it",
                of_user(*user)
            ),
            Remedy::StopContainer { id, manager } => {
                let id = printable(id);
                let short = id.get(..12).unwrap_or(&id);
                match manager {
                    ContainerManager::Engine => write!(
                        f,
                        "stop the container with docker stop {short} or podman stop {short}"
                    ),
                    ContainerManager::Kubernetes => write!(
                        f,
                        "delete the pod in Kubernetes, which may start the container again: crictl \
                         ps --id {short} shows the pod"
                    ),
                    ContainerManager::Machined => {
                        write!(f, "stop the container with machinectl poweroff {id}")
                    }
                    ContainerManager::Lxc => write!(
                        f,
                        "stop the container with incus stop {id} (Incus), lxc stop {id} (LXD) or \
                         lxc-stop -n {id} (LXC)"
                    ),
                }
            }
            Remedy::StopPublishingContainer { podman: true, .. } => {
                f.write_str("stop the container that publishes the port: podman ps shows it")
            }
            // The filter `publish` of Docker matches TCP ports if it names no protocol.
            Remedy::StopPublishingContainer { port, udp, .. } => write!(
                f,
                "stop the container that publishes the port: docker ps --filter publish={port}{} \
                 shows it",
                if *udp { "/udp" } else { "" }
            ),
            Remedy::StopServerInWsl { pid } => write!(
                f,
                "stop the server in WSL to which pid {pid} forwards the port: wsl ss -tlnp lists \
                 the servers of the default distribution"
            ),
            Remedy::FindProgramOfHttpSys => f.write_str(
                "find the program with netsh http show servicestate view=requestq, and stop it: \
                 Windows accepts its connections (HTTP.sys)",
            ),
            Remedy::DeletePortProxy { port } => write!(
                f,
                "find the rule for port {port} with netsh interface portproxy show all, and delete \
                 it with netsh interface portproxy delete"
            ),
            Remedy::TurnOffAirPlayReceiver => f.write_str(
                "turn off AirPlay Receiver in the System Settings of macOS (General, AirDrop & \
                 Handoff)",
            ),
            Remedy::StopBySupervisor {
                pid,
                supervisor,
                name,
                command,
                may_remain,
                sigkill,
            } => {
                let name = printable(name);
                if pid == supervisor {
                    write!(f, "stop the program for which {name} (pid {pid}) listens")?;
                } else {
                    write!(
                        f,
                        "stop pid {pid} through its supervisor {name} (pid {supervisor}), which \
                         may otherwise start it again"
                    )?;
                }
                if let Some(command) = command {
                    write!(f, ": {}", printable(command))?;
                }
                match may_remain {
                    true => write!(f, ", and then {} if it still runs", end(*pid, *sigkill)),
                    false => Ok(()),
                }
            }
            Remedy::StopWatcherFirst {
                pid,
                watcher: INIT,
                name,
                ..
            } => write!(
                f,
                "stop the container from outside of it, because its pid 1, {}, may start pid {pid} \
                 again",
                printable(name)
            ),
            Remedy::StopWatcherFirst {
                pid,
                watcher,
                name,
                sigkill,
            } => write!(
                f,
                "stop {} (pid {watcher}) first, because it may start pid {pid} again; then {} if \
                 it still runs",
                printable(name),
                end(*pid, *sigkill)
            ),
            Remedy::StopProcessOfScript {
                pid,
                shell: INIT,
                name,
                sigkill,
            } => write!(
                f,
                "{}; if {} (pid 1), whose script has a loop, starts it again, stop the container \
                 from outside of it",
                end(*pid, *sigkill),
                printable(name)
            ),
            Remedy::StopProcessOfScript {
                pid,
                shell,
                name,
                sigkill,
            } => write!(
                f,
                "{}; if {} (pid {shell}), whose script has a loop, starts it again, stop pid \
                 {shell} and then the new process",
                end(*pid, *sigkill),
                printable(name)
            ),
            Remedy::ReserveAnotherPort { endpoint } => {
                let call = match endpoint.protocol {
                    Some(Protocol::Udp) => "reserve_udp_port()",
                    _ => "reserve_port()",
                };
                write!(f, "reserve another port with {call}")
            }
            Remedy::Queue { endpoint, .. } => {
                let udp = match endpoint.protocol {
                    Some(Protocol::Udp) => ".udp()",
                    _ => "",
                };
                let port = endpoint.port;
                write!(
                    f,
                    "wait for the port with ReserveOptions::new(){udp}.port({port}).wait(..)"
                )
            }
            Remedy::EndReservation { pid, .. } => write!(f, "end the reservation of pid {pid}"),
            Remedy::UseOwnReservation { pid: None, .. } => f.write_str(
                "use the reservation of the port that this process already has, or drop it first",
            ),
            Remedy::UseOwnReservation {
                pid: Some(pid),
                on_behalf_of: None,
                ..
            } => write!(
                f,
                "use the port, which pid {pid}, an ancestor of this process, has already reserved"
            ),
            Remedy::UseOwnReservation {
                pid: Some(pid),
                on_behalf_of: Some(beneficiary),
                ..
            } => write!(
                f,
                "use the port, which pid {pid} has already reserved for pid {beneficiary}"
            ),
            Remedy::StartServer => f.write_str("start the server if it does not run"),
            Remedy::WaitUntilListening { endpoint } => match endpoint {
                Endpoint {
                    port,
                    ip: None,
                    protocol: None | Some(Protocol::Tcp),
                    ..
                } => write!(
                    f,
                    "wait for the server with wait_until_listening({port}, ..)"
                ),
                other => {
                    let operand = other.to_string();
                    write!(
                        f,
                        "wait for the server with wait_until_listening({operand:?}, ..)"
                    )
                }
            },
            Remedy::UseListenersAddress { addr } => {
                let mut addr = *addr;
                // A server on ::ffff:127.0.0.1 accepts the clients of 127.0.0.1.
                addr.set_ip(addr.ip().to_canonical());
                match addr.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => {
                        addr.set_ip(Ipv4Addr::LOCALHOST.into())
                    }
                    IpAddr::V6(ip) if ip.is_unspecified() => {
                        addr.set_ip(Ipv6Addr::LOCALHOST.into())
                    }
                    _ => {}
                }
                write!(f, "connect to {}", AddrText(addr))
            }
            Remedy::ListenOn { ip, scope_id } => {
                write!(f, "let the server listen on {}", IpText(*ip, *scope_id))
            }
            Remedy::ListenOnFreeAddress { addr } => {
                write!(f, "let the new server listen on {addr}, which is free")
            }
            Remedy::ListenOnEveryInterface { interface } => write!(
                f,
                "let the server accept connections from every interface: its socket is bound to {} \
                 only (SO_BINDTODEVICE)",
                printable(interface)
            ),
            Remedy::ReserveForPlainServer => f.write_str(
                "reserve the port with ReserveOptions::new().reuse_addr(false) if the server \
                 reported \"address already in use\" for it: some servers do not set SO_REUSEADDR",
            ),
            Remedy::WaitForTimeWait => f.write_str("wait up to 60 s until TIME_WAIT ends"),
            Remedy::WaitForKernel => f.write_str("wait until the kernel has closed the socket"),
            Remedy::ListPacketFilter => f.write_str(
                "list the rules of the packet filter with `nft list ruleset` or `iptables-save`",
            ),
            Remedy::Resume {
                pid, traced: true, ..
            } => write!(f, "resume pid {pid} in its debugger"),
            Remedy::Resume {
                pid,
                in_background: true,
                ..
            } => write!(
                f,
                "resume pid {pid} with fg in its shell, because after kill -CONT {pid} its \
                 terminal may suspend it again"
            ),
            Remedy::Resume { pid, .. } => write!(f, "resume pid {pid} with kill -CONT {pid}"),
            Remedy::StartWithoutTerminal => f.write_str(
                "start the program without a terminal as its stdin: command.stdin(Stdio::null())",
            ),
            Remedy::Thaw { pid, command } => write!(
                f,
                "thaw pid {pid}, whose control group is frozen, with {}",
                printable(command)
            ),
            Remedy::MountProc => f.write_str(
                "mount the file system proc on /proc, so that processes are visible, and retry",
            ),
            Remedy::InspectFromHost => {
                f.write_str("retry outside of this container, where every process is visible")
            }
            Remedy::InspectInNetworkNamespace { pid } => write!(
                f,
                "retry in the network namespace of pid {pid}: nsenter --net=/proc/{pid}/ns/net \
                 enters it (rootless: nsenter --target {pid} --user --preserve-credentials --net)"
            ),
            Remedy::FindKernelSocket => f.write_str(
                "run `ip -d link` (VXLAN), `wg show` (WireGuard) or `rpcinfo -p` (NFS) to find the \
                 part of the kernel that uses the port, or `ls -l /proc/*/fd/* | grep io_uring` to \
                 find a process that uses io_uring",
            ),
            Remedy::InspectWithPermission => {
                let user = if cfg!(windows) {
                    "an administrator"
                } else {
                    "root"
                };
                write!(
                    f,
                    "retry with permission to inspect processes (for example as {user})"
                )
            }
            Remedy::ReserveInSysctl { ports, .. } => write!(
                f,
                "keep later outgoing connections off the port with sysctl -w \
                 net.ipv4.ip_local_reserved_ports={ports}"
            ),
            Remedy::ShowExcludedRanges => f.write_str(
                "list the excluded ranges with `netsh interface ipv4 show excludedportrange tcp`, \
                 or with udp for a UDP port",
            ),
            Remedy::CheckCommand { pid } => write!(
                f,
                "check that the command of pid {pid} starts its server on this port"
            ),
            Remedy::CheckSpawnedCommand => {
                f.write_str("check that the command starts its server on this port")
            }
            Remedy::StartInForeground => f.write_str(
                "start the server in the foreground, without its option to run as a daemon",
            ),
            Remedy::ExpectProcess { pid, instead_of } => write!(
                f,
                "name pid {pid} instead of pid {instead_of}, if pid {pid} is your server"
            ),
            Remedy::ExpectAnyListener { instead_of } => write!(
                f,
                "accept a listener of any process instead of pid {instead_of}, if the container is \
                 your server"
            ),
            Remedy::ReadServerOutput => f.write_str(
                "read the output of the server, which closed its socket or opened it late",
            ),
            Remedy::StopServersBeforeTestEnds => {
                f.write_str("stop each server before its test ends")
            }
            Remedy::RunAsRoot => f.write_str("run as root"),
            Remedy::LowerUnprivilegedPortStart { port } => write!(
                f,
                "set the sysctl net.ipv4.ip_unprivileged_port_start to {port} or less"
            ),
            Remedy::UseLocalAddress => {
                f.write_str("name an address that this machine has, or omit the address")
            }
            Remedy::NameOtherProtocol { endpoint } => {
                write!(f, "name the port as {endpoint} if that server is meant")
            }
            Remedy::NamePort => f.write_str(
                "write the port as 60315, 60315/udp, 127.0.0.1:60315 or [::1]:60315/tcp",
            ),
            Remedy::AskWhoHolds { endpoint } => {
                let operand = endpoint.to_string();
                write!(f, "find out who holds the port with who_holds({operand:?})")
            }
            Remedy::UnblockRuntime { call } => write!(
                f,
                "this wait blocks its thread, and so every task of a current-thread runtime: await \
                 portlease::tokio::{call} instead"
            ),
        }
    }
}

fn end(pid: u32, sigkill: bool) -> String {
    match sigkill {
        true => format!("end pid {pid} with kill -KILL {pid}"),
        false => format!("stop pid {pid}"),
    }
}

fn of_user(is_user: bool) -> &'static str {
    if is_user { " --user" } else { "" }
}

impl Remedy {
    /// Whether the remedy frees the port from one of its holders. If a report names several such
    /// remedies, all of them must be followed.
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
    /// several holders with "and", because all of them must be followed.
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

/// Joins the remedies of one report to text such as `stop pid 7, or reserve another port with
/// reserve_port()`. Returns `None` if there are no remedies.
pub(super) fn in_one_line(remedies: &[Remedy]) -> Option<String> {
    let mut text = remedies.first()?.to_string();
    for (earlier, remedy) in remedies.iter().zip(&remedies[1..]) {
        text += match (earlier, remedy) {
            (_, Remedy::UnblockRuntime { .. }) => "; ",
            (Remedy::StopProcess { .. }, Remedy::StopProcess { .. }) => " and ",
            (Remedy::Thaw { .. }, remedy) if remedy.ends_a_holder() => "; then ",
            // The two remedies are for two holders, and both holders must end.
            _ if earlier.ends_a_holder() && remedy.concerns_a_holder() => "; and ",
            // The wait is the second step after `StartServer`, not an alternative to it.
            (_, Remedy::WaitUntilListening { .. }) => ", and ",
            _ => ", or ",
        };
        text += &remedy.to_string();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: Endpoint = Endpoint {
        port: 60315,
        ip: None,
        protocol: Some(Protocol::Tcp),
    };

    /// Returns a value of the next variant, in the order of the match; `None` after the last
    /// variant. The match does not compile if it lacks a variant.
    fn next(remedy: &Remedy) -> Option<Remedy> {
        let (pid, port, endpoint) = (4242, 60315, ENDPOINT);
        let addr = (Ipv4Addr::LOCALHOST, port).into();
        let name = || "name".to_owned();
        Some(match remedy {
            Remedy::StopProcess { .. } => Remedy::StopMaster { pid, name: name() },
            Remedy::StopMaster { .. } => Remedy::InterruptProcess { pid },
            Remedy::InterruptProcess { .. } => Remedy::CloseOwnSocket,
            Remedy::CloseOwnSocket => Remedy::CloseSocketOfAncestor { pid },
            Remedy::CloseSocketOfAncestor { .. } => Remedy::ResumeOrKill { pid },
            Remedy::ResumeOrKill { .. } => Remedy::KillProcess { pid, traced: true },
            Remedy::KillProcess { .. } => Remedy::Resume {
                pid,
                traced: true,
                in_background: false,
            },
            Remedy::Resume { .. } => Remedy::StartWithoutTerminal,
            Remedy::StartWithoutTerminal => Remedy::Thaw {
                pid,
                command: name(),
            },
            Remedy::Thaw { .. } => Remedy::ReceiveOrStop { pid },
            Remedy::ReceiveOrStop { .. } => Remedy::WaitForCoreDump { pid },
            Remedy::WaitForCoreDump { .. } => Remedy::StopUnit {
                unit: name(),
                user: true,
            },
            Remedy::StopUnit { .. } => Remedy::ListSocketUnits { user: false },
            Remedy::ListSocketUnits { .. } => Remedy::StopContainer {
                id: name(),
                manager: ContainerManager::Machined,
            },
            Remedy::StopContainer { .. } => Remedy::StopPublishingContainer {
                port,
                udp: true,
                podman: false,
            },
            Remedy::StopPublishingContainer { .. } => Remedy::StopServerInWsl { pid },
            Remedy::StopServerInWsl { .. } => Remedy::FindProgramOfHttpSys,
            Remedy::FindProgramOfHttpSys => Remedy::DeletePortProxy { port },
            Remedy::DeletePortProxy { .. } => Remedy::TurnOffAirPlayReceiver,
            Remedy::TurnOffAirPlayReceiver => Remedy::StopBySupervisor {
                pid,
                supervisor: 1,
                name: name(),
                command: Some(name()),
                may_remain: true,
                sigkill: false,
            },
            Remedy::StopBySupervisor { .. } => Remedy::StopWatcherFirst {
                pid,
                watcher: 1,
                name: name(),
                sigkill: false,
            },
            Remedy::StopWatcherFirst { .. } => Remedy::NameOtherProtocol { endpoint },
            Remedy::NameOtherProtocol { .. } => Remedy::StopProcessOfScript {
                pid,
                shell: 1,
                name: name(),
                sigkill: true,
            },
            Remedy::StopProcessOfScript { .. } => Remedy::ReserveAnotherPort { endpoint },
            Remedy::ReserveAnotherPort { .. } => Remedy::Queue {
                endpoint,
                pid: None,
            },
            Remedy::Queue { .. } => Remedy::EndReservation { endpoint, pid },
            Remedy::EndReservation { .. } => Remedy::UseOwnReservation {
                endpoint,
                pid: None,
                on_behalf_of: None,
            },
            Remedy::UseOwnReservation { .. } => Remedy::StartServer,
            Remedy::StartServer => Remedy::WaitUntilListening { endpoint },
            Remedy::WaitUntilListening { .. } => Remedy::UseListenersAddress { addr },
            Remedy::UseListenersAddress { .. } => Remedy::ListenOn {
                ip: addr.ip(),
                scope_id: 0,
            },
            Remedy::ListenOn { .. } => Remedy::ListenOnFreeAddress { addr },
            Remedy::ListenOnFreeAddress { .. } => {
                Remedy::ListenOnEveryInterface { interface: name() }
            }
            Remedy::ListenOnEveryInterface { .. } => Remedy::ReserveForPlainServer,
            Remedy::ReserveForPlainServer => Remedy::WaitForTimeWait,
            Remedy::WaitForTimeWait => Remedy::WaitForKernel,
            Remedy::WaitForKernel => Remedy::InspectWithPermission,
            Remedy::InspectWithPermission => Remedy::MountProc,
            Remedy::MountProc => Remedy::InspectFromHost,
            Remedy::InspectFromHost => Remedy::InspectInNetworkNamespace { pid },
            Remedy::InspectInNetworkNamespace { .. } => Remedy::ListPacketFilter,
            Remedy::ListPacketFilter => Remedy::FindKernelSocket,
            Remedy::FindKernelSocket => Remedy::ReserveInSysctl {
                port,
                ports: name(),
            },
            Remedy::ReserveInSysctl { .. } => Remedy::ShowExcludedRanges,
            Remedy::ShowExcludedRanges => Remedy::CheckCommand { pid },
            Remedy::CheckCommand { .. } => Remedy::CheckSpawnedCommand,
            Remedy::CheckSpawnedCommand => Remedy::StartInForeground,
            Remedy::StartInForeground => Remedy::ExpectProcess {
                pid,
                instead_of: pid,
            },
            Remedy::ExpectProcess { .. } => Remedy::ExpectAnyListener { instead_of: pid },
            Remedy::ExpectAnyListener { .. } => Remedy::ReadServerOutput,
            Remedy::ReadServerOutput => Remedy::StopServersBeforeTestEnds,
            Remedy::StopServersBeforeTestEnds => Remedy::RunAsRoot,
            Remedy::RunAsRoot => Remedy::LowerUnprivilegedPortStart { port },
            Remedy::LowerUnprivilegedPortStart { .. } => Remedy::UseLocalAddress,
            Remedy::UseLocalAddress => Remedy::NamePort,
            Remedy::NamePort => Remedy::AskWhoHolds { endpoint },
            Remedy::AskWhoHolds { .. } => Remedy::UnblockRuntime {
                call: "wait_until_free",
            },
            Remedy::UnblockRuntime { .. } => return None,
        })
    }

    fn every_remedy() -> Vec<Remedy> {
        let first = Remedy::StopProcess { pid: 4242 };
        std::iter::successors(Some(first), next).collect()
    }

    #[test]
    fn every_remedy_prints_one_plain_line() {
        let remedies = every_remedy();
        assert_eq!(remedies.len(), 58);
        for remedy in remedies {
            let text = remedy.to_string();
            assert_eq!(text.trim(), text, "{remedy:?}");
            assert!(
                !text.is_empty() && !text.contains('\n'),
                "{remedy:?}: {text:?}"
            );
            assert!(!text.ends_with('.') && !text.contains("  "), "{text:?}");
            assert!(
                text.starts_with(|c: char| c.is_ascii_lowercase()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn every_remedy_prints_something_else() {
        let mut texts: Vec<String> = every_remedy().iter().map(ToString::to_string).collect();
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }

    #[test]
    fn the_calls_name_the_protocol_and_the_address() {
        let udp = Endpoint {
            protocol: Some(Protocol::Udp),
            ..ENDPOINT
        };
        let local = Endpoint {
            ip: Some([127, 0, 0, 1].into()),
            ..ENDPOINT
        };
        for (remedy, text) in [
            (
                Remedy::ReserveAnotherPort { endpoint: ENDPOINT },
                "reserve another port with reserve_port()",
            ),
            (
                Remedy::ReserveAnotherPort { endpoint: udp },
                "reserve another port with reserve_udp_port()",
            ),
            (
                Remedy::Queue {
                    endpoint: ENDPOINT,
                    pid: None,
                },
                "wait for the port with ReserveOptions::new().port(60315).wait(..)",
            ),
            (
                Remedy::Queue {
                    endpoint: udp,
                    pid: None,
                },
                "wait for the port with ReserveOptions::new().udp().port(60315).wait(..)",
            ),
            (
                Remedy::WaitUntilListening { endpoint: ENDPOINT },
                "wait for the server with wait_until_listening(60315, ..)",
            ),
            (
                Remedy::WaitUntilListening { endpoint: local },
                "wait for the server with wait_until_listening(\"127.0.0.1:60315/tcp\", ..)",
            ),
        ] {
            assert_eq!(remedy.to_string(), text);
        }
    }

    #[test]
    fn the_remedy_for_a_supervised_process_says_what_may_remain() {
        let through = |supervisor, may_remain, sigkill| Remedy::StopBySupervisor {
            pid: 7,
            supervisor,
            name: "runsv".to_owned(),
            command: Some("`sv down /web`".to_owned()),
            may_remain,
            sigkill,
        };
        let script = |shell, sigkill| Remedy::StopProcessOfScript {
            pid: 7,
            shell,
            name: "sh".to_owned(),
            sigkill,
        };
        let command = "stop pid 7 through its supervisor runsv (pid 6), which may otherwise start \
                       it again: `sv down /web`";
        for (remedy, text) in [
            (through(6, false, false), command.to_owned()),
            (
                through(6, true, false),
                format!("{command}, and then stop pid 7 if it still runs"),
            ),
            (
                through(6, true, true),
                format!("{command}, and then end pid 7 with kill -KILL 7 if it still runs"),
            ),
            (
                through(7, false, false),
                "stop the program for which runsv (pid 7) listens: `sv down /web`".to_owned(),
            ),
            (
                script(6, true),
                "end pid 7 with kill -KILL 7; if sh (pid 6), whose script has a loop, starts it \
                 again, stop pid 6 and then the new process"
                    .to_owned(),
            ),
            (
                script(1, false),
                "stop pid 7; if sh (pid 1), whose script has a loop, starts it again, stop the \
                 container from outside of it"
                    .to_owned(),
            ),
            (
                Remedy::StopWatcherFirst {
                    pid: 7,
                    watcher: 1,
                    name: "nodemon".to_owned(),
                    sigkill: false,
                },
                "stop the container from outside of it, because its pid 1, nodemon, may start pid \
                 7 again"
                    .to_owned(),
            ),
        ] {
            assert_eq!(remedy.to_string(), text);
        }
    }

    #[test]
    fn several_remedies_make_one_sentence() {
        let endpoint = ENDPOINT;
        let wait = Remedy::WaitUntilListening { endpoint };
        let another = Remedy::ReserveAnotherPort { endpoint };
        assert_eq!(in_one_line(&[]), None);
        assert_eq!(
            in_one_line(&[Remedy::StopProcess { pid: 7 }, another]).unwrap(),
            "stop pid 7, or reserve another port with reserve_port()"
        );
        assert_eq!(
            in_one_line(&[
                Remedy::ResumeOrKill { pid: 7 },
                Remedy::StopProcess { pid: 8 },
                Remedy::StopProcess { pid: 9 },
            ])
            .unwrap(),
            "resume pid 7 with kill -CONT 7, or end it with kill -KILL 7; and stop pid 8 and stop \
             pid 9"
        );
        let unblock = Remedy::UnblockRuntime {
            call: "wait_until_listening",
        };
        assert_eq!(
            in_one_line(&[Remedy::StartServer, wait, unblock]).unwrap(),
            "start the server if it does not run, and wait for the server with \
             wait_until_listening(60315, ..); this wait blocks its thread, and so every task of \
             a current-thread runtime: await portlease::tokio::wait_until_listening instead"
        );
    }
}
