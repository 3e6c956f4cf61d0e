//! What a test may need of the machine, each found out by trying it.

use std::net::{Ipv6Addr, TcpListener};
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

/// To run a process as the user nobody.
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

/// Without it the crate reads `/proc/net`, which shows no TCP socket that is bound and does not
/// listen.
pub(crate) fn sock_diag() -> Capability {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    const NETLINK: i32 = 16;
    const SOCK_DIAG: i32 = 4;
    Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(SOCK_DIAG.into()))
        .map(drop)
        .map_err(|e| format!("no sock_diag: {e}"))
}

/// That no emulator runs this program. Under one, other processes see the emulator instead,
/// `/proc/self` is made up, and the system calls are the emulator's.
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

/// nftables, with rules that redirect connections.
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
