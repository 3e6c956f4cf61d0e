//! The self-test: binds a few sockets to find out whether the kernel keeps what a claim promises.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use super::{Claim, system, unbound};
use crate::namespace::PerNamespace;
use crate::retry::{SELF_TEST_NUMBERS, SELF_TESTS};

/// Whether this kernel keeps what a [`Claim`] promises; the inner error says why not. The answer of
/// the test is kept per process and network namespace. The setting `ip_autobind_reuse` lets the
/// kernel assign a claimed number, so it is read each time.
///
/// If the test fails for another reason (a sandbox, a lack of descriptors), there is no answer to
/// keep, and the next call repeats the test.
pub(crate) fn kernel_keeps_claims() -> io::Result<Result<(), &'static str>> {
    static ANSWER: PerNamespace<Answer> = PerNamespace::new();
    let test = || {
        for _ in 1..SELF_TESTS {
            let answer = self_test()?;
            if answer.is_ok() {
                return Ok(answer);
            }
        }
        self_test()
    };
    match ANSWER.get_or_try_init(test) {
        Ok(answer) => Ok(answer.and_then(|()| assigns_no_claimed_port())),
        Err(Untested::Forbidden) => Ok(Err("a sandbox forbids the binds that test the kernel")),
        Err(Untested::Failed(cause)) => Err(cause),
    }
}

type Answer = Result<(), &'static str>;

/// Why there is no answer.
#[derive(Debug)]
enum Untested {
    /// A sandbox forbids this process to bind a number that the test needs: EACCES on a number that
    /// needs no privilege.
    Forbidden,
    Failed(io::Error),
}

impl From<io::Error> for Untested {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Untested::Forbidden,
            _ => Untested::Failed(error),
        }
    }
}

fn self_test() -> Result<Answer, Untested> {
    if !cfg!(target_os = "linux") {
        return Ok(Err("this crate tests claims on Linux only"));
    }
    let claim = match Claim::any() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => outside_ephemeral_range(e)?,
        other => other?,
    };
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let wildcards = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    match Claim::exact(claim.port) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        Err(e) => return Err(e.into()),
        Ok(_) => return Ok(Err("the kernel lets a second socket claim a port")),
    }
    // The kernel must also refuse a plain socket of one family alone.
    for ip in loopback.into_iter().chain(wildcards) {
        match bind_one_family(ip, claim.port) {
            Ok(()) => {
                return Ok(Err(
                    "the kernel lets a server without SO_REUSEADDR bind a claimed port",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse || is_missing_address(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    for ip in loopback.into_iter().chain(wildcards) {
        match serve_over(ip, claim.port) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Ok(Err(
                    "the kernel refuses a server with SO_REUSEADDR on a claimed port",
                ));
            }
            Err(e) if is_missing_address(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Ok(()))
}

/// Whether this machine lacks the address or its family.
fn is_missing_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || system::is_missing_family(error)
}

fn bind_one_family(ip: IpAddr, port: u16) -> io::Result<()> {
    let family = Domain::for_address(SocketAddr::new(ip, port));
    let socket = Socket::new(family, Type::STREAM, None)?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(ip, port).into())
}

/// Claims a random number, for a test while the ephemeral range is used up. The kernel treats
/// claims of all numbers alike.
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

/// Whether the kernel's present settings forbid it to assign a claimed number to a `bind(…, 0)`
/// with SO_REUSEADDR. The error says why not.
///
/// It reads the setting. A trial would be a bind with IP_LOCAL_PORT_RANGE set to one number, but no
/// safe call sets that option.
pub(crate) fn assigns_no_claimed_port() -> Answer {
    let folder = std::path::Path::new("/proc/sys/net/ipv4");
    match std::fs::read_to_string(folder.join("ip_autobind_reuse")) {
        Ok(text) if text.trim() == "0" => Ok(()),
        Ok(_) => {
            Err("the setting net.ipv4.ip_autobind_reuse lets the kernel assign a claimed port")
        }
        // Kernels before 5.7 lack the setting, and never assign a claimed port.
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && folder.join("ip_local_port_range").exists() =>
        {
            Ok(())
        }
        Err(_) => Err("the setting net.ipv4.ip_autobind_reuse cannot be read"),
    }
}
