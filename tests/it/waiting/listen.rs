//! Waiting until a server listens, until it has stopped, and probing it as a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use portlease::{ErrorKind, Reachability, probe, reserve_port};

use crate::support::socket::{self, Reuse, V4};
use crate::support::{DEADLINE, Folder, capability, need, print_line, server, test_name};

#[test]
fn a_listener_is_noticed_soon_and_sees_no_connection() {
    let mut took = Vec::new();
    for _ in 0..50 {
        let p = reserve_port();
        let (begun, go) = channel();
        let addr = p.addr();
        let server = std::thread::spawn(move || {
            go.recv().unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let listener = TcpListener::bind(addr).unwrap();
            (listener, Instant::now())
        });
        begun.send(()).unwrap();
        p.wait_until_listening(DEADLINE).unwrap();
        let noticed = Instant::now();
        let (listener, listens) = server.join().unwrap();
        took.push(noticed.saturating_duration_since(listens));
        listener.set_nonblocking(true).unwrap();
        let client = listener.accept().map(|(_, peer)| peer);
        assert_eq!(
            client.unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "no client connected"
        );
    }
    took.sort();
    print_line(&format!(
        "{}: median {:?}, slowest {:?}",
        test_name!(),
        took[25],
        took[49]
    ));
    // Wine takes tens of milliseconds to show a socket, and so does /proc/net under an emulator.
    let quick = cfg!(not(windows)) && capability::sock_diag().is_ok();
    let soon = Duration::from_millis(if quick { 50 } else { 500 });
    assert!(took[25] < soon, "{took:?}");
}

/// Clients of a test connect to the address of its reservation, which is 127.0.0.1.
#[test]
fn only_a_listener_on_the_address_of_a_reservation_counts() {
    need!(capability::ipv6());
    let p = reserve_port();
    let elsewhere = TcpListener::bind(p.addr_on(Ipv6Addr::LOCALHOST)).unwrap();
    let at_most = Duration::from_millis(30);
    let checked = portlease::check_port_listening(&p);
    for error in [
        checked.map_err(portlease::Error::from),
        portlease::wait_until_listening(&p, at_most),
        portlease::wait_until_all_listening([&p], Duration::ZERO, at_most),
        p.wait_until_listening(at_most),
    ] {
        let text = error.unwrap_err().to_string();
        let address = format!("port 127.0.0.1:{p}/tcp ");
        assert!(text.contains(&address), "{text}");
    }
    // The controls: any address counts for the number, and a wildcard contains 127.0.0.1.
    portlease::assert_port_listening(p.port());
    drop(elsewhere);
    let everywhere = p.listen_on(Ipv4Addr::UNSPECIFIED).unwrap();
    portlease::assert_port_listening(&p);
    portlease::wait_until_listening(&p, DEADLINE).unwrap();
    drop(everywhere);
}

#[test]
fn a_wait_that_times_out_reports_what_it_saw() {
    let p = reserve_port();
    let begun = Instant::now();
    let error = p
        .wait_until_listening(Duration::from_millis(30))
        .unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "timed out after 30 ms: port {}/tcp is not listening: reserved by",
            p.addr()
        )),
        "{text}"
    );
    // No runtime is in this process.
    let report = format!("{error:?}");
    assert!(!report.contains("runtime"), "{report}");
    assert_eq!(
        p.wait_until_listening(Duration::ZERO).unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    assert_eq!(
        portlease::wait_until_free("x", DEADLINE)
            .unwrap_err()
            .kind(),
        ErrorKind::InvalidPort
    );
}

#[test]
fn a_wait_until_free_ends_when_the_server_stops() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let client = TcpStream::connect(&p).unwrap();
    socket::reset_on_close(&client);
    let stopping = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop((client, server));
    });
    let begun = Instant::now();
    p.wait_until_free(DEADLINE).unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(20),
        "{:?}",
        begun.elapsed()
    );
    stopping.join().unwrap();
}

#[test]
#[cfg_attr(not(unix), ignore = "the child is a shell")]
fn a_child_that_ends_first_ends_the_wait_at_once() {
    let p = reserve_port();
    let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
    let begun = Instant::now();
    let error = p.wait_for(&mut child, DEADLINE).unwrap_err();
    assert!(begun.elapsed() < DEADLINE / 2);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "process {} ended (exit status: 3) before it listened on port 127.0.0.1:{p}/tcp",
            child.id()
        )),
        "{text}"
    );

    // Other code has reaped the child.
    #[cfg(unix)]
    {
        use rustix::process::{Pid, WaitOptions, waitpid};
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = child.id();
        waitpid(Pid::from_raw(pid as i32), WaitOptions::empty()).unwrap();
        let error = p.wait_for(&mut child, DEADLINE).unwrap_err().to_string();
        let expected = format!("process {pid} ended before it listened on port ");
        assert!(error.starts_with(&expected), "{error}");
    }

    let mut child = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let killed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        child.kill().unwrap();
        child
    });
    // The process has been killed, and its parent has not reaped it yet.
    let error = p.wait_for_pid(pid, DEADLINE).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("process {pid} ended before it listened on port ")),
        "{error}"
    );
    killed.join().unwrap().wait().unwrap();
}

#[test]
fn a_wait_for_a_child_ends_when_it_listens() {
    let folder = Folder::new();
    let p = reserve_port();
    let server = server::start(&folder.locks(), p.port());
    p.wait_for_pid(server.pid(), DEADLINE).unwrap();
    portlease::wait_until_listening(p.port(), DEADLINE).unwrap();
    // A listener on another address does not count for a reservation, and counts for a bare port.
    drop(server);
    p.wait_until_free(DEADLINE).unwrap();
    let elsewhere = socket::bind(
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
        p.port(),
        Reuse::Address,
    )
    .unwrap();
    elsewhere.listen(1).unwrap();
    assert_eq!(
        p.wait_until_listening(Duration::from_millis(5))
            .unwrap_err()
            .kind(),
        ErrorKind::TimedOut
    );
    portlease::wait_until_listening(p.port(), DEADLINE).unwrap();
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "relies on Linux, where a server with a full backlog does not answer"
)]
fn a_probe_reports_what_a_client_would_get() {
    let p = reserve_port();
    assert_eq!(probe(&p, DEADLINE), Reachability::Refuses);
    let server = p.listen().unwrap();
    assert_eq!(probe(&p, DEADLINE), Reachability::Accepts);
    drop(server);
    p.wait_until_free(DEADLINE).unwrap();
    // A server with a full backlog answers no client.
    let socket = socket::bind(V4, p.port(), Reuse::Address).unwrap();
    socket.listen(0).unwrap();
    let mut queued = Vec::new();
    let full = (0..64).find_map(|_| {
        match TcpStream::connect_timeout(&p.addr(), Duration::from_millis(200)) {
            Ok(stream) => {
                queued.push(stream);
                None
            }
            Err(_) => Some(()),
        }
    });
    assert_eq!(full, Some(()), "the queue of one took {}", queued.len());
    assert_eq!(
        probe(&p, Duration::from_millis(200)),
        Reachability::NoAnswer
    );
    assert_eq!(
        probe("x", DEADLINE),
        Reachability::Failed(std::io::ErrorKind::InvalidInput)
    );
    assert_eq!(
        probe("1/udp", DEADLINE),
        Reachability::Failed(std::io::ErrorKind::Unsupported)
    );
}
