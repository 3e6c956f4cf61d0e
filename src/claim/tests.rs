use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::*;
use crate::model::endpoint::Protocol;
use crate::model::port::Port;
use crate::retry::RetryBudget;

fn refusal(port: Port, mode: BindMode) -> io::ErrorKind {
    let probed = try_bind(port, mode, &mut RetryBudget::new());
    probed.unwrap_err().kind()
}

#[test]
fn a_probe_of_every_address_is_refused_by_a_server_on_any_one() {
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let tcp = TcpListener::bind((ip, 0)).unwrap();
        let port = Port::new(tcp.local_addr().unwrap().port(), Protocol::Tcp);
        assert_eq!(
            refusal(port, BindMode::Exclusive),
            io::ErrorKind::AddrInUse,
            "{ip}"
        );
        let udp = UdpSocket::bind((ip, 0)).unwrap();
        let port = Port::new(udp.local_addr().unwrap().port(), Protocol::Udp);
        assert_eq!(
            refusal(port, BindMode::Exclusive),
            io::ErrorKind::AddrInUse,
            "{ip}"
        );
    }
}

#[test]
fn a_probe_is_refused_while_a_socket_of_this_crate_exists_and_admitted_after() {
    let at = |addr: SocketAddr, protocol| Port {
        ip: Some(addr.ip()),
        ..Port::new(addr.port(), protocol)
    };
    let server = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = at(server.local_addr().unwrap(), Protocol::Tcp);
    assert_eq!(refusal(port, BindMode::Exclusive), io::ErrorKind::AddrInUse);
    drop(server);
    try_bind(port, BindMode::Exclusive, &mut RetryBudget::new()).unwrap();
    let server = udp_socket((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = at(server.local_addr().unwrap(), Protocol::Udp);
    assert_eq!(refusal(port, BindMode::Exclusive), io::ErrorKind::AddrInUse);
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_also_while_a_server_listens_over_the_first() {
        let first = Claim::any().unwrap();
        let again = || Claim::exact(first.port()).unwrap_err().kind();
        assert_eq!(again(), io::ErrorKind::AddrInUse);
        let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, first.port())).unwrap();
        assert_eq!(again(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_plain_bind_over_a_claim_is_refused_and_a_server_is_admitted() {
        let claim = Claim::any().unwrap();
        let port = Port::new(claim.port(), Protocol::Tcp);
        assert_eq!(refusal(port, BindMode::Exclusive), io::ErrorKind::AddrInUse);
        try_bind(port, BindMode::Server, &mut RetryBudget::new()).unwrap();
    }

    #[test]
    fn a_name_excludes_a_second_taker_until_it_is_dropped() {
        let claim = Claim::any().unwrap();
        let is_taken = || ExclusiveName::is_taken(Protocol::Tcp, claim.port()).unwrap();
        assert!(!is_taken());
        let name = ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap();
        assert!(is_taken());
        let again = ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        drop(name);
        assert!(!is_taken());
        ExclusiveName::take(Protocol::Tcp, claim.port()).unwrap();
    }

    /// All threads use the one socket that `is_taken` keeps.
    #[test]
    fn threads_that_ask_for_names_at_once_get_their_own_answers() {
        let claims = [(); 8].map(|()| Claim::any().unwrap());
        let take = |claim: &Claim| ExclusiveName::take(Protocol::Udp, claim.port()).unwrap();
        let _names: Vec<_> = claims.iter().step_by(2).map(take).collect();
        std::thread::scope(|scope| {
            for (at, claim) in claims.iter().enumerate() {
                scope.spawn(move || {
                    for _ in 0..1000 {
                        let is_taken =
                            ExclusiveName::is_taken(Protocol::Udp, claim.port()).unwrap();
                        assert_eq!(is_taken, at % 2 == 0);
                    }
                });
            }
        });
    }
}
