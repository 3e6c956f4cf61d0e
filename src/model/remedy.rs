//! [`Remedy`]: an action that helps, as a value.

use std::fmt;

use super::endpoint::{Endpoint, Protocol};

/// An action that helps with a port: see [`Diagnosis::remedies`](crate::Diagnosis::remedies).
///
/// `Display` prints it for a user of this crate, as a call where there is one. The command
/// `portlease` prints the same value as a command.
///
/// ```
/// let p = portlease::reserve_port();
/// let server = p.listen()?;
/// for remedy in portlease::diagnose(&p).remedies() {
///     println!("{remedy}"); // stop pid 4100
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
        /// Its process id.
        pid: u32,
    },
    /// Reserve another port: any free number.
    #[non_exhaustive]
    ReserveAnotherPort {
        /// What was asked about.
        endpoint: Endpoint,
    },
    /// Queue for the port until its reservation ends.
    #[non_exhaustive]
    Queue {
        /// What was asked about.
        endpoint: Endpoint,
    },
    /// Start the server first.
    StartServer,
    /// Wait until something listens.
    #[non_exhaustive]
    WaitUntilListening {
        /// What was asked about.
        endpoint: Endpoint,
    },
    /// Wait until the connections in TIME_WAIT end: within 60 s.
    WaitForTimeWait,
    /// Wait until the kernel has closed the socket.
    WaitForKernel,
    /// Repeat the question with permission to inspect processes.
    InspectWithPermission,
    /// Keep the kernel from choosing the number for outgoing connections.
    #[non_exhaustive]
    ReserveInSysctl {
        /// The number.
        port: u16,
    },
    /// Show the ranges that Windows excludes from use.
    ShowExcludedRanges,
    /// Check which server the process was started with, and on which port.
    #[non_exhaustive]
    CheckCommand {
        /// Its process id.
        pid: u32,
    },
    /// Stop each server before its test ends.
    StopServersBeforeTestEnds,
    /// Run as root.
    RunAsRoot,
    /// Lower the first port that needs no privilege.
    #[non_exhaustive]
    LowerUnprivilegedPortStart {
        /// The number to lower it to.
        port: u16,
    },
    /// Use an address that this machine has.
    UseLocalAddress,
    /// Write the port in one of the accepted forms.
    NamePort,
    /// Look the port up instead of binding it.
    #[non_exhaustive]
    AskWhoHolds {
        /// What was asked about.
        endpoint: Endpoint,
    },
    /// A note rather than a remedy: the wait blocked its thread. On a current-thread async runtime
    /// nothing else ran meanwhile.
    UnblockRuntime,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::StopProcess { pid } => write!(f, "stop pid {pid}"),
            Remedy::ReserveAnotherPort { endpoint } => {
                let call = match endpoint.protocol {
                    Some(Protocol::Udp) => "reserve_udp_port()",
                    _ => "reserve_port()",
                };
                write!(f, "reserve another port with {call}")
            }
            Remedy::Queue { endpoint } => {
                let of = match endpoint.protocol {
                    Some(Protocol::Udp) => ".udp()",
                    _ => "",
                };
                let port = endpoint.port;
                write!(
                    f,
                    "queue for it with ReserveOptions::new(){of}.port({port}).wait(..)"
                )
            }
            Remedy::StartServer => f.write_str("start the server first"),
            Remedy::WaitUntilListening { endpoint } => match endpoint {
                Endpoint {
                    port,
                    ip: None,
                    protocol: None | Some(Protocol::Tcp),
                } => write!(f, "wait for it with wait_until_listening({port}, ..)"),
                other => {
                    let operand = other.to_string();
                    write!(f, "wait for it with wait_until_listening({operand:?}, ..)")
                }
            },
            Remedy::WaitForTimeWait => f.write_str("wait until TIME_WAIT ends, within 60 s"),
            Remedy::WaitForKernel => f.write_str("wait until the kernel has closed it"),
            Remedy::InspectWithPermission => {
                f.write_str("retry with permission to inspect processes (for example as root)")
            }
            Remedy::ReserveInSysctl { port } => write!(
                f,
                "it is a client's outgoing port: withhold the number with sysctl \
                 net.ipv4.ip_local_reserved_ports={port}"
            ),
            Remedy::ShowExcludedRanges => {
                f.write_str("see netsh interface ipv4 show excludedportrange tcp")
            }
            Remedy::CheckCommand { pid } => write!(
                f,
                "check which server pid {pid} was started with, and on which port"
            ),
            Remedy::StopServersBeforeTestEnds => {
                f.write_str("stop each server before its test ends")
            }
            Remedy::RunAsRoot => f.write_str("run as root"),
            Remedy::LowerUnprivilegedPortStart { port } => write!(
                f,
                "set net.ipv4.ip_unprivileged_port_start to {port} or less"
            ),
            Remedy::UseLocalAddress => {
                f.write_str("name an address that this machine has, or none")
            }
            Remedy::NamePort => {
                f.write_str("name a port as 60315, 60315/udp, 127.0.0.1:60315 or [::1]:60315/tcp")
            }
            Remedy::AskWhoHolds { endpoint } => {
                let operand = endpoint.to_string();
                write!(f, "look it up with who_holds({operand:?})")
            }
            Remedy::UnblockRuntime => f.write_str(
                "on a current-thread async runtime nothing else runs while this thread waits",
            ),
        }
    }
}

/// `stop pid 7, or reserve another port with reserve_port()`.
pub(super) fn in_one_line(remedies: &[Remedy]) -> Option<String> {
    let mut text = remedies.first()?.to_string();
    for remedy in &remedies[1..] {
        text += match remedy {
            Remedy::UnblockRuntime => "; ",
            // The second half of one remedy.
            Remedy::WaitUntilListening { .. } => ", and ",
            _ => ", or ",
        };
        text += &remedy.to_string();
    }
    Some(text)
}
