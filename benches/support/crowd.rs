//! Other processes that claim part of the ephemeral range.

use std::net::{Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::helper::{Helper, Outcome, print_ready_and_wait};

pub(crate) fn claim(port: u16) -> Outcome<(Socket, u16)> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    let port = socket
        .local_addr()?
        .as_socket()
        .ok_or("not an internet socket")?
        .port();
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok((socket, port))
}

fn ephemeral_range() -> Outcome<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let (low, high) = text
        .trim()
        .split_once('\t')
        .ok_or("an unexpected ip_local_port_range")?;
    Ok((low.parse()?, high.parse()?))
}

/// The order in which reservations use up the range: first the parity that `bind(…, 0)` prefers.
pub(crate) fn ports_in_fill_order() -> Outcome<Vec<u16>> {
    let (low, high) = ephemeral_range()?;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut preferred: Vec<u16> = (low + 1..=high).step_by(2).collect();
    let mut others: Vec<u16> = (low..=high).step_by(2).collect();
    rng.shuffle(&mut preferred);
    rng.shuffle(&mut others);
    preferred.append(&mut others);
    Ok(preferred)
}

pub(crate) fn claim_and_hold(from: usize, to: usize) -> Outcome<()> {
    let ports = ports_in_fill_order()?;
    let _claims = ports[from..to]
        .iter()
        .map(|port| claim(*port))
        .collect::<Outcome<Vec<_>>>()?;
    print_ready_and_wait()
}

/// Below the usual limit on descriptors of a process.
const CLAIMS_PER_PROCESS: usize = 800;

/// Claims `percent` of the range until the helpers are dropped.
pub(crate) fn claim_percent(percent: usize) -> Outcome<Vec<Helper>> {
    let count = ports_in_fill_order()?.len() * percent / 100;
    (0..count)
        .step_by(CLAIMS_PER_PROCESS)
        .map(|from| {
            let to = (from + CLAIMS_PER_PROCESS).min(count);
            Helper::start(&["hold", &from.to_string(), &to.to_string()])?.when_ready()
        })
        .collect()
}
