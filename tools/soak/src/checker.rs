//! The process that checks ports from outside: by the socket table, and by a bind that must fail.

use std::io::{self, BufRead, Write};
use std::net::{Ipv6Addr, SocketAddr};

use portlease::State;
use socket2::{Domain, Socket, Type};

use crate::clock::now;

/// Runs the checker. It reads one port from each line, and reports what it saw, with the times at
/// which the check began and ended.
pub(crate) fn check() {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let Ok(port) = line.parse::<u16>() else {
            continue;
        };
        let began = now();
        let bindable = binds_plainly(port);
        let mut claims = Vec::new();
        let mut lease_pids = Vec::new();
        if let Ok(holders) = portlease::who_holds((Ipv6Addr::UNSPECIFIED, port)) {
            let bound = holders
                .iter()
                .filter(|h| h.state == State::Bound && h.local.ip().is_unspecified());
            let bound = bound.filter(|holder| holder.protocol == portlease::Protocol::Tcp);
            claims.extend(bound.map(|holder| {
                let pids: Vec<String> = holder
                    .processes
                    .iter()
                    .map(|process| process.pid.to_string())
                    .collect();
                pids.join("+")
            }));
            let tcp = holders
                .leases()
                .iter()
                .filter(|lease| lease.protocol() == portlease::Protocol::Tcp);
            lease_pids
                .extend(tcp.map(|lease| lease.pid().map_or("-".to_owned(), |pid| pid.to_string())));
        }
        let ended = now();
        let report = format!(
            "seen {began} {ended} {port} {bindable} [{}] [{}]\n",
            claims.join(","),
            lease_pids.join(",")
        );
        if io::stdout().write_all(report.as_bytes()).is_err() {
            return;
        }
    }
}

/// Whether a bind without the reuse options succeeds. A program that picks a port binds like this.
pub(crate) fn binds_plainly(port: u16) -> bool {
    let bind = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())
    };
    bind().is_ok()
}
