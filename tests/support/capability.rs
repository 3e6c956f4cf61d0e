//! What a test may need from the machine. Each function tries it out.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

use super::is_root;

type Capability = Result<(), String>;

pub(crate) fn root() -> Capability {
    if is_root() {
        Ok(())
    } else {
        Err("not root".to_owned())
    }
}

/// Whether this process can start another one as the user nobody.
pub(crate) fn nobody() -> Capability {
    root()?;
    try_command(
        "setpriv",
        &["--reuid=65534", "--regid=65534", "--clear-groups", "true"],
    )
}

pub(crate) fn network_namespace() -> Capability {
    let mut args = unshare_flags();
    args.extend([
        "-n",
        "sh",
        "-c",
        "ip link set lo up && test -w /proc/sys/net/ipv4/ip_local_port_range",
    ]);
    try_command("unshare", &args)
}

pub(crate) fn pid_namespace() -> Capability {
    let mut args = unshare_flags();
    args.extend(["-p", "-f", "--kill-child", "--mount-proc", "true"]);
    try_command("unshare", &args)
}

pub(crate) fn mount_namespace() -> Capability {
    let mut args = unshare_flags();
    args.extend(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    try_command("unshare", &args)
}

/// Without it the crate reads `/proc/net`. The request is for TCP sockets: some kernels have
/// sock_diag, but not the module for TCP.
pub(crate) fn sock_diag() -> Capability {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    sockets_in_states(1 << LISTEN)
        .map(drop)
        .map_err(|e| format!("no sock_diag: {e}"))
}

/// Whether the kernel shows a TCP socket that is bound and does not listen, as Linux does since
/// 6.8. This function binds such a socket and asks the kernel for it.
pub(crate) fn bound_sockets() -> Capability {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    let hidden = |reason: &str| format!("bound sockets are not shown: {reason}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(|e| e.to_string())?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).map_err(|e| e.to_string())?;
    let addr = socket.local_addr().map_err(|e| e.to_string())?;
    let port = addr.as_socket().map(|addr| addr.port());
    match sockets_in_states(1 << BOUND) {
        Ok(ports) if port.is_some_and(|port| ports.contains(&port)) => Ok(()),
        Ok(_) => Err(hidden("this kernel is older than Linux 6.8")),
        Err(e) => Err(hidden(&format!("no sock_diag: {e}"))),
    }
}

/// States of a TCP socket in the kernel (TCP_LISTEN, TCP_BOUND_INACTIVE).
const LISTEN: u32 = 10;
const BOUND: u32 = 13;

/// The local ports of the TCP sockets over IPv4 in one of these states, from sock_diag(7). This
/// function does not use the crate, so that an error in the crate is not taken for a missing
/// feature of the kernel.
fn sockets_in_states(states: u32) -> io::Result<Vec<u16>> {
    const NETLINK: i32 = 16;
    const SOCK_DIAG: i32 = 4;
    /// SOCK_DIAG_BY_FAMILY, with the flags NLM_F_REQUEST and NLM_F_DUMP.
    const REQUEST: [u16; 2] = [20, 0x301];
    const DONE: u16 = 3;
    const ERROR: u16 = 2;
    const HEADER: usize = 16;
    const AF_INET: u8 = 2;
    const IPPROTO_TCP: u8 = 6;
    /// `struct inet_diag_req_v2`, of which only the first eight bytes are not zero.
    const BODY: usize = 56;
    let mut request = Vec::from(((HEADER + BODY) as u32).to_ne_bytes());
    request.extend(REQUEST.iter().flat_map(|part| part.to_ne_bytes()));
    request.extend([0; 8]);
    request.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.resize(HEADER + BODY, 0);
    let socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(SOCK_DIAG.into()))?;
    socket.set_read_timeout(Some(super::DEADLINE))?;
    socket.send(&request)?;
    let mut ports = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = io::Read::read(&mut &socket, &mut buffer)?;
        let mut rest = &buffer[..length];
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            match u16::from_ne_bytes([header[4], header[5]]) {
                DONE => return Ok(ports),
                ERROR => return Err(io::ErrorKind::Unsupported.into()),
                // The port follows the family, the state, the timer and the retransmits.
                _ => ports.push(u16::from_be_bytes([rest[HEADER + 4], rest[HEADER + 5]])),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Whether this program runs without an emulator. An emulator appears to other processes in place
/// of the program. It makes up `/proc/self` and handles the system calls itself.
pub(crate) fn native() -> Capability {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    // Read by another process: an emulator changes what this one reads.
    let link = format!("/proc/{}/exe", std::process::id());
    let shown = Command::new("readlink")
        .arg(&link)
        .output()
        .map_err(|e| format!("readlink: {e}"))?;
    let shown = String::from_utf8_lossy(&shown.stdout).trim_end().to_owned();
    if Path::new(&shown) == std::env::current_exe().unwrap() {
        Ok(())
    } else {
        Err(format!("run by {shown}"))
    }
}

pub(crate) fn strace() -> Capability {
    native()?;
    try_command(
        "strace",
        &[
            "-o",
            "/dev/null",
            "-e",
            "inject=all:signal=CONT:when=1",
            "true",
        ],
    )
}

/// Whether nftables accepts rules that redirect connections.
pub(crate) fn nft() -> Capability {
    let mut args = unshare_flags();
    args.extend(["-n", "nft", "add", "table", "ip", "nat"]);
    try_command("unshare", &args)
}

pub(crate) fn ipv6() -> Capability {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
        .map(drop)
        .map_err(|e| format!("no IPv6: {e}"))
}

/// Without root, `unshare` needs a user namespace in which the process is root.
pub(crate) fn unshare_flags() -> Vec<&'static str> {
    if is_root() { Vec::new() } else { vec!["-r"] }
}

fn try_command(program: &str, args: &[&str]) -> Capability {
    let line = || format!("{program} {}", args.join(" "));
    match Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!(
                "{}: {}",
                line(),
                text.lines().next().unwrap_or("failed")
            ))
        }
        Err(e) => Err(format!("{}: {e}", line())),
    }
}
