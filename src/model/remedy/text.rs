//! The text of a remedy, and of several remedies in one line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Remedy;
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::process::ContainerManager;
use crate::model::text::{AddrText, IpText};
use crate::printable::printable;
use crate::shell_word::shell_word;

/// The first process of a system or a container. The texts about a watcher or a shell do not advise
/// to stop this process, for two reasons. The kernel drops the signals that the process does not
/// handle. If the process ended, the whole system or container would end too.
const INIT: u32 = 1;

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::StopProcess { pid } => write!(f, "stop pid {pid}"),
            Remedy::StopMaster { pid, name } => write!(
                f,
                "stop {name} (pid {pid}) to end its workers too: if you stop only a worker, {name} \
                 starts a new worker",
                name = printable(name)
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
                "let pid {pid} receive the descriptors that were sent to it (the socket may be one \
                 of them), or stop pid {pid}"
            ),
            Remedy::WaitForCoreDump { pid } => {
                write!(
                    f,
                    "wait until the kernel has written the core file of pid {pid}"
                )
            }
            Remedy::StopUnit { unit, .. } if cfg!(windows) => {
                write!(f, "stop the service with net stop \"{}\"", printable(unit))
            }
            Remedy::StopUnit { unit, user, uid } => {
                let (unit, as_user) = (shell_word(&printable(unit)), as_user(*uid));
                let of_user = of_user(*user);
                write!(
                    f,
                    "{as_user}stop the service with systemctl{of_user} stop {unit}"
                )
            }
            Remedy::ListSocketUnits { user, uid } => write!(
                f,
                "{}find the socket unit with systemctl{} list-sockets, and stop it",
                as_user(*uid),
                of_user(*user)
            ),
            Remedy::StopContainer { id, manager } => {
                let id = shell_word(&printable(id));
                let short = id.get(..12).unwrap_or(&id);
                match manager {
                    ContainerManager::Engine => write!(
                        f,
                        "stop the container with docker stop {short} or podman stop {short}"
                    ),
                    ContainerManager::Kubernetes => write!(
                        f,
                        "delete the pod, because Kubernetes may start a stopped container again: \
                         crictl ps --id {short} shows the pod"
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
                "stop the program for which Windows (HTTP.sys) accepts the connections: netsh http \
                 show servicestate view=requestq shows it",
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
                watcher_sigkill,
                sigkill,
            } => {
                let name = printable(name);
                match watcher_sigkill {
                    true => write!(
                        f,
                        "end {name} (pid {watcher}) first, with kill -KILL {watcher}, because it \
                         may start pid {pid} again"
                    ),
                    false => write!(
                        f,
                        "stop {name} (pid {watcher}) first, because it may start pid {pid} again"
                    ),
                }?;
                write!(f, "; then {} if it still runs", end(*pid, *sigkill))
            }
            Remedy::StopProcessOfScript {
                pid,
                shell: INIT,
                name,
                sigkill,
                ..
            } => write!(
                f,
                "{}; if the loop in the script of {} (pid 1) starts the program again, stop the \
                 container from outside of it",
                end(*pid, *sigkill),
                printable(name)
            ),
            Remedy::StopProcessOfScript {
                pid,
                shell,
                name,
                shell_sigkill,
                sigkill,
            } => write!(
                f,
                "{}; if the loop in the script of {} (pid {shell}) starts the program again, {}, \
                 and then the new process",
                end(*pid, *sigkill),
                printable(name),
                end(*shell, *shell_sigkill)
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
                "use the port that an ancestor of this process (pid {pid}) has already reserved"
            ),
            Remedy::UseOwnReservation {
                pid: Some(pid),
                on_behalf_of: Some(beneficiary),
                ..
            } => write!(
                f,
                "use the port that pid {pid} has already reserved for pid {beneficiary}"
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
            Remedy::ListenOnFreeAddress { addr, udp } => {
                let protocol = if *udp { "/udp" } else { "" };
                write!(
                    f,
                    "let the new server listen on {addr}{protocol}, which is free"
                )
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
                 find a process whose io_uring request may use the port",
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
                "if the container is your server, accept a listener of any process, not only of \
                 pid {instead_of}"
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
                write!(
                    f,
                    "name the port as {endpoint} if your server uses that port"
                )
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
                "this wait blocks its thread, so no other task of a current-thread runtime can \
                 run: await portlease::tokio::{call} instead"
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

/// The words that say which user must run `systemctl --user`. The command reaches only the service
/// manager of the user who runs it.
fn as_user(uid: Option<u32>) -> String {
    uid.map(|uid| format!("as user {uid}, "))
        .unwrap_or_default()
}

fn of_user(is_user: bool) -> &'static str {
    if is_user { " --user" } else { "" }
}

/// Joins the remedies of one report to text such as `stop pid 7, or reserve another port with
/// reserve_port()`. Returns `None` if there are no remedies.
pub(in crate::model) fn in_one_line(remedies: &[Remedy]) -> Option<String> {
    let mut text = remedies.first()?.to_string();
    for (earlier, remedy) in remedies.iter().zip(&remedies[1..]) {
        text += match (earlier, remedy) {
            (_, Remedy::UnblockRuntime { .. }) => "; ",
            (Remedy::StopProcess { .. }, Remedy::StopProcess { .. }) => " and ",
            (Remedy::Thaw { .. }, remedy) if remedy.ends_a_holder() => "; then ",
            // The two remedies are for different holders of the port, and both holders must end.
            _ if earlier.ends_a_holder() && remedy.concerns_a_holder() => "; and ",
            // The wait is the second step after `StartServer`, not an alternative to it.
            (_, Remedy::WaitUntilListening { .. }) => ", and ",
            _ => ", or ",
        };
        text += &remedy.to_string();
    }
    Some(text)
}
