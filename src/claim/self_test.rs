//! The self-test: asks the kernel, by trying, whether it keeps a claim.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use once_cell::sync::OnceCell;
use socket2::Type;

use super::{Claim, is_exhaustion, unbound};
use crate::retry::{SELF_TEST_NUMBERS, SELF_TESTS};

/// Whether this kernel keeps a claim, and why not. Tested once per process.
pub(crate) fn kernel_keeps_claims() -> io::Result<Result<(), &'static str>> {
    static ANSWER: OnceCell<Result<(), &'static str>> = OnceCell::new();
    let test = || {
        for _ in 1..SELF_TESTS {
            let answer = self_test()?;
            if answer.is_ok() {
                return Ok(answer);
            }
        }
        self_test()
    };
    ANSWER.get_or_try_init(test).copied()
}

fn self_test() -> io::Result<Result<(), &'static str>> {
    if !cfg!(target_os = "linux") {
        return Ok(Err("claims have not been measured on this system"));
    }
    let claim = match Claim::any() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => outside_ephemeral_range(e)?,
        other => other?,
    };
    match Claim::exact(claim.port) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        Err(e) => return Err(e),
        Ok(_) => return Ok(Err("the kernel admits a second claim of a port")),
    }
    match assigns_shared_ports() {
        Some(false) => {}
        Some(true) => {
            return Ok(Err(
                "net.ipv4.ip_autobind_reuse lets the kernel assign a claimed port",
            ));
        }
        None => return Ok(Err("net.ipv4.ip_autobind_reuse cannot be read")),
    }
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let wildcards = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    for ip in loopback.into_iter().chain(wildcards) {
        match serve_over(ip, claim.port) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Ok(Err(
                    "the kernel refuses a server with SO_REUSEADDR over a claim",
                ));
            }
            Err(e) if is_exhaustion(&e) => return Err(e),
            // This machine does not have the address family or the loopback address.
            Err(_) => {}
        }
    }
    Ok(Ok(()))
}

/// A claim of any number, for a kernel whose ephemeral range is used up: it treats all numbers
/// alike.
fn outside_ephemeral_range(exhausted: io::Error) -> io::Result<Claim> {
    const UNPRIVILEGED: u16 = 1024;
    for _ in 0..SELF_TEST_NUMBERS {
        match Claim::exact(fastrand::u16(UNPRIVILEGED..)) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome,
        }
    }
    Err(exhausted)
}

fn serve_over(ip: IpAddr, port: u16) -> io::Result<()> {
    let server = unbound(Type::STREAM, ip)?;
    server.set_reuse_address(true)?;
    server.bind(&SocketAddr::new(ip, port).into())?;
    server.listen(1)
}

/// Whether the kernel may assign a number that another socket with SO_REUSEADDR has to `bind(…, 0)`
/// with SO_REUSEADDR; `None` is unknown.
///
/// A bind within IP_LOCAL_PORT_RANGE of one number would answer it, but no safe call sets that
/// option.
fn assigns_shared_ports() -> Option<bool> {
    let folder = std::path::Path::new("/proc/sys/net/ipv4");
    match std::fs::read_to_string(folder.join("ip_autobind_reuse")) {
        Ok(text) => Some(text.trim() != "0"),
        // Kernels before 5.7 lack the setting, and do not share.
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && folder.join("ip_local_port_range").exists() =>
        {
            Some(false)
        }
        Err(_) => None,
    }
}
