//! Sockets of tokio, on a port that stays reserved.

use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::time::Duration;

use portlease::{reserve_port, reserve_udp_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::support::DEADLINE;

async fn talk(listener: &TcpListener, p: &portlease::Reservation) {
    let client = async {
        let mut stream = TcpStream::connect(p.addr()).await?;
        stream.write_all(b"hello").await
    };
    let server = async {
        let (mut stream, _) = listener.accept().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let (text, ()) = timeout(DEADLINE, async { tokio::try_join!(server, client) })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn a_listener_leaves_the_thread_to_its_clients_again_and_again() {
    let p = reserve_port();
    for _ in 0..3 {
        let listener = p.listen_tokio().unwrap();
        talk(&listener, &p).await;
        // No other client connects, and accepting does not block the thread.
        assert!(
            timeout(Duration::from_millis(5), listener.accept())
                .await
                .is_err()
        );
    }
    // A child that another test has forked may share the last listener until it calls exec. The
    // check waits for that, for up to 2 s.
    portlease::assert_port_free(&p);
    // A server that binds by port number itself.
    talk(&TcpListener::bind(p.addr()).await.unwrap(), &p).await;
    portlease::assert_port_free(&p);
}

#[tokio::test]
async fn a_port_that_is_served_already_is_refused() {
    let p = reserve_port();
    let server = TcpListener::bind(p.addr()).await.unwrap();
    assert_eq!(p.listen_tokio().unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(server);
    drop(p.listen_tokio().unwrap());
}

#[tokio::test]
async fn a_udp_socket_leaves_the_thread_to_its_peers() {
    let p = reserve_udp_port();
    let socket = p.udp_socket_tokio().unwrap();
    assert_eq!(socket.local_addr().unwrap(), p.addr());
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 16];
    assert!(
        timeout(Duration::from_millis(5), socket.recv_from(&mut buffer))
            .await
            .is_err()
    );
    let received = async {
        timeout(DEADLINE, socket.recv_from(&mut buffer))
            .await
            .unwrap()
    };
    let (received, sent) = tokio::join!(received, peer.send_to(b"hello", p.addr()));
    assert_eq!(
        (received.unwrap(), sent.unwrap()),
        ((5, peer.local_addr().unwrap()), 5)
    );
}

#[tokio::test]
async fn a_socket_of_the_other_protocol_is_refused() {
    assert_eq!(
        reserve_udp_port().listen_tokio().unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        reserve_port().udp_socket_tokio().unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn the_listener_is_not_on_every_address() {
    let p = reserve_port();
    let listener = p.listen_tokio().unwrap();
    assert_eq!(listener.local_addr().unwrap(), p.addr());
    let elsewhere = TcpStream::connect(p.addr_on(Ipv6Addr::LOCALHOST)).await;
    assert!(elsewhere.is_err(), "{elsewhere:?}");
}
