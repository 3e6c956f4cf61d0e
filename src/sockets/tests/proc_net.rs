//! Tests of `/proc/net`, which this crate reads on systems without sock_diag(7).

use super::*;

#[test]
fn the_fallback_reports_the_same_rows_as_sock_diag() {
    let (server, port) = listener(V4);
    let client = connect(V4, port);
    let accepted = server.accept().unwrap();
    let udp = UdpSocket::bind((V4, 0)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    for (protocol, port) in [
        (Tcp, port),
        (Udp, udp_port),
        (Tcp, client.local_addr().unwrap().port()),
    ] {
        let mut fallback = linux::sockets_from_proc_net(port, Some(protocol)).unwrap();
        row::label_clients(&mut fallback.rows);
        let mut expected = sockets(port, Some(protocol)).unwrap();
        expected.rows.sort_by_key(|row| row.inode);
        // The files of `/proc/net` do not show whether the queue of a listener is full.
        for row in &mut expected.rows {
            row.queue = None;
        }
        fallback.rows.sort_by_key(|row| row.inode);
        assert_eq!(fallback.rows, expected.rows);
        assert!(!fallback.rows.is_empty());
        assert_eq!(
            fallback.unseen,
            if protocol == Tcp {
                vec![Incompleteness::Bound(UnseenBound::NoSockDiag)]
            } else {
                vec![]
            }
        );
    }
    assert_eq!(
        linux::sockets_from_proc_net(udp_port, Some(Protocol::UdpLite))
            .unwrap()
            .rows,
        []
    );
    drop(accepted);
}

#[test]
fn the_fallback_does_not_report_a_bound_port_as_free() {
    // The socket is bound on every address, so that no other test can get the number.
    let any = if has_ipv6("the fallback on IPv6") {
        ANY6
    } else {
        ANY4
    };
    let (_socket, port) = bound(any, false, Type::STREAM);
    let fallback = linux::sockets_from_proc_net(port, Some(Tcp)).unwrap();
    assert_eq!(
        (fallback.rows, fallback.unseen),
        (vec![], vec![Incompleteness::Bound(UnseenBound::NoSockDiag)])
    );
}
