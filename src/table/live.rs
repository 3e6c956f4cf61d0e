//! Real sockets of this machine, asked about through the table.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::*;
use crate::endpoint::Protocol::{Tcp, Udp};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// For a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(60);

fn me() -> u32 {
    std::process::id()
}

/// Everything about a row that a test holds on to: `listen 127.0.0.1:P by [7]`.
fn told(holder: &Holder, port: u16) -> String {
    let mut text = format!("{} {}", holder.state.name(), holder.local);
    if let Some(remote) = holder.remote {
        text += &format!(" - {remote}");
    }
    for (word, said) in [("client", holder.client), ("dual", holder.dual_stack), ("hidden", holder.hidden)] {
        if said {
            text += &format!(" {word}");
        }
    }
    let pids: Vec<u32> = holder.processes.iter().map(|process| process.pid).collect();
    text += &format!(" by {pids:?}");
    text.replace(&format!(":{port} "), ":P ")
}

fn ask(port: u16, protocol: Protocol) -> (Vec<Holder>, Vec<Unseen>) {
    let table = sockets(port, Some(protocol)).unwrap();
    let owned = owners(table.rows, Sight::Complete).unwrap();
    (owned.holders, [table.unseen, owned.unseen].concat())
}

/// Exactly these rows, in any order, but for what others have on the number: a TIME_WAIT, and a socket on another
/// address. A child that another test starts has all of this process's sockets until it execs, and the states of a
/// closing connection take their time: hence the patience.
#[track_caller]
fn expect(port: u16, protocol: Protocol, expected: &[&str]) {
    let mut expected: Vec<String> =
        expected.iter().map(|row| row.replace(" by me", &format!(" by [{}]", me()))).collect();
    expected.sort();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (holders, unseen) = ask(port, protocol);
        let mut rows: Vec<String> = holders.iter().map(|holder| told(holder, port)).collect();
        let address = |row: &str| row.split(' ').nth(1).map(str::to_owned);
        let is_elsewhere = |row: &String| {
            let others = !row.ends_with("by []") && !row.contains(&format!("{}", me()));
            others && !expected.iter().any(|known| address(known) == address(row))
        };
        rows.retain(|row| expected.contains(row) || !(row.starts_with("time_wait") || is_elsewhere(row)));
        rows.sort();
        if rows == expected {
            return;
        }
        assert!(Instant::now() < deadline, "port {port}: {rows:#?}, not {expected:#?}; unseen {unseen:?}");
    }
}

fn listener(ip: IpAddr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn bound(ip: IpAddr, reuse: bool, kind: Type) -> (Socket, u16) {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), kind, None).unwrap();
    if ip.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.set_reuse_address(reuse).unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// A client whose port is its own. One that connect(2) chooses, other tests' clients of other servers can have too.
fn dial(ip: IpAddr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    socket.connect(&SocketAddr::new(ip, port).into()).unwrap();
    socket.into()
}

fn has_ipv6(test: &str) -> bool {
    let has = TcpListener::bind((V6, 0)).is_ok();
    if !has {
        eprintln!("skipped: {test}: no IPv6");
    }
    has
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: not root");
    }
    root
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // The child may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nobody_is_on_a_port_that_nobody_has() {
    let (listener, port) = listener(V4);
    drop(listener);
    expect(port, Tcp, &[]);
    assert_eq!(ask(port, Tcp).1, []);
}

#[test]
fn listeners_are_told_on_each_kind_of_address() {
    let (_v4, port) = listener(V4);
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
    let (_any, port) = listener(ANY4);
    expect(port, Tcp, &["listen 0.0.0.0:P by me"]);
    if has_ipv6("listeners on IPv6") {
        let (_v6, port) = listener(V6);
        expect(port, Tcp, &["listen [::1]:P by me"]);
        assert_eq!(listening(port, Tcp).unwrap().len(), 1);
        assert_eq!(glance(port, Tcp).unwrap().rows.len(), 1);
        assert!(all_listeners().unwrap().iter().any(|row| row.local.port() == port));
    }
}

#[test]
fn a_dual_stack_listener_has_its_ipv4_clients() {
    if !has_ipv6("dual stack") {
        return;
    }
    let (socket, port) = bound(ANY6, true, Type::STREAM);
    socket.listen(8).unwrap();
    let client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    let accepted = socket.accept().unwrap();
    expect(
        port,
        Tcp,
        &[
            "listen [::]:P dual by me",
            &format!("established [::ffff:127.0.0.1]:P - [::ffff:127.0.0.1]:{source} by me"),
        ],
    );
    expect(source, Tcp, &[&format!("established 127.0.0.1:P - 127.0.0.1:{port} client by me")]);
    drop(accepted);
}

#[test]
fn two_addresses_and_a_reuseport_group_are_told_socket_by_socket() {
    let (first, port) = bound(V4, true, Type::STREAM);
    first.listen(8).unwrap();
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    expect(port, Tcp, &["listen 127.0.0.1:P by me", "listen 127.0.0.2:P by me"]);
    drop(second);

    let group = |port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::new(V4, port).into()).unwrap();
        socket.listen(8).unwrap();
        socket
    };
    let one = group(0);
    let port = one.local_addr().unwrap().as_socket().unwrap().port();
    let _two = group(port);
    expect(port, Tcp, &["listen 127.0.0.1:P by me", "listen 127.0.0.1:P by me"]);
}

#[test]
fn udp_sockets_are_told_with_and_without_a_peer() {
    let socket = UdpSocket::bind((V4, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    expect(port, Udp, &["bound 127.0.0.1:P by me"]);
    socket.connect((V4, 9)).unwrap();
    expect(port, Udp, &["connected 127.0.0.1:P - 127.0.0.1:9 client by me"]);
    if has_ipv6("UDP over IPv6") {
        let socket = UdpSocket::bind((V6, 0)).unwrap();
        expect(socket.local_addr().unwrap().port(), Udp, &["bound [::1]:P by me"]);
    }
}

#[test]
fn one_number_has_its_tcp_and_its_udp_holder() {
    let (_listener, port) = listener(V4);
    let Ok(socket) = UdpSocket::bind((V4, port)) else {
        eprintln!("skipped: TCP and UDP on one number: somebody has {port}/udp");
        return;
    };
    let child = Killed(Command::new("sleep").arg("600").stdin(OwnedFd::from(socket)).spawn().unwrap());
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
    expect(port, Udp, &[&format!("bound 127.0.0.1:P by [{}]", child.0.id())]);
    let both = sockets(port, None).unwrap();
    assert_eq!(both.rows.iter().map(|row| row.protocol).collect::<Vec<_>>(), [Tcp, Udp]);
}

#[test]
fn a_bound_socket_that_does_not_listen_is_told() {
    for reuse in [false, true] {
        let (_socket, port) = bound(V4, reuse, Type::STREAM);
        expect(port, Tcp, &["bound 127.0.0.1:P by me"]);
        if has_ipv6("bound on IPv6") {
            let (_socket, port) = bound(ANY6, reuse, Type::STREAM);
            expect(port, Tcp, &["bound [::]:P dual by me"]);
        }
    }
}

#[test]
fn the_client_on_a_port_is_told_beside_a_server_on_another_address() {
    let (server, there) = listener(V4);
    let client = dial(V4, there);
    let _accepted = server.accept().unwrap();
    let port = client.local_addr().unwrap().port();
    let mut rows = vec![format!("established 127.0.0.1:P - 127.0.0.1:{there} client by me")];
    let _beside = has_ipv6("a server beside a client").then(|| TcpListener::bind((V6, port)).unwrap());
    if _beside.is_some() {
        rows.push("listen [::1]:P by me".to_owned());
    }
    expect(port, Tcp, &rows.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn each_state_of_a_closing_connection_is_told() {
    for ip in [V4, V6] {
        if ip == V6 && !has_ipv6("closing over IPv6") {
            return;
        }
        let (server, port) = listener(ip);
        let own = server.local_addr().unwrap().to_string().replace(&format!(":{port}"), ":P");
        let client = dial(ip, port);
        let source = client.local_addr().unwrap();
        let (accepted, _) = server.accept().unwrap();
        drop(server);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        expect(port, Tcp, &[&format!("close_wait {own} - {source} client by me")]);
        let from = source.to_string().replace(&format!(":{}", source.port()), ":P");
        let to = SocketAddr::new(ip, port);
        expect(source.port(), Tcp, &[&format!("fin_wait2 {from} - {to} client by me")]);
        drop(accepted);
        expect(source.port(), Tcp, &[&format!("time_wait {from} - {to} by []")]);
        expect(port, Tcp, &[]);
        assert_eq!(ask(source.port(), Tcp).1, [], "nothing was to be searched");
    }
}

/// Its end is not heard of: what was written before fills the peer's window.
#[test]
fn a_connection_whose_end_cannot_be_sent_is_told_owned_and_orphaned() {
    let (server, port) = listener(V4);
    let mut client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    let accepted = server.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    // The window opens a little as the peer's buffer grows.
    let full = Instant::now() + Duration::from_millis(50);
    while Instant::now() < full {
        drop(client.write(&[0; 65536]));
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let row = format!("fin_wait1 127.0.0.1:P - 127.0.0.1:{port}");
    expect(source, Tcp, &[&format!("{row} client by me")]);
    drop(client);
    expect(source, Tcp, &[&format!("{row} by []")]);
    assert_eq!(ask(source, Tcp).1, [], "nothing was to be searched");
    drop(accepted);
}

#[test]
fn an_orphan_has_no_process_and_is_not_hidden() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    let (mut accepted, _) = server.accept().unwrap();
    drop(client);
    expect(source, Tcp, &[&format!("fin_wait2 127.0.0.1:P - 127.0.0.1:{port} by []")]);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop(accepted.write(b"x"));
}

#[test]
fn a_connection_that_nobody_accepted_is_its_listeners() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
    let source = client.local_addr().unwrap().port();
    expect(
        port,
        Tcp,
        &["listen 127.0.0.1:P by me", &format!("established 127.0.0.1:P - 127.0.0.1:{source} by me")],
    );
    let row = ask(port, Tcp).0.into_iter().find(|holder| holder.state == State::Established).unwrap();
    assert_eq!((row.inode, row.uid), (0, Some(rustix::process::geteuid().as_raw())));
    drop(server);
}

#[test]
fn a_connection_that_is_asked_for_is_a_clients() {
    let (server, there) = bound(V4, false, Type::STREAM);
    server.listen(0).unwrap();
    let mut asking = Vec::new();
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(V4, 0).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        drop(socket.connect(&SocketAddr::new(V4, there).into()));
        asking.push(socket);
    }
    let port = asking[3].local_addr().unwrap().as_socket().unwrap().port();
    expect(port, Tcp, &[&format!("syn_sent 127.0.0.1:P - 127.0.0.1:{there} client by me")]);
}

#[test]
fn every_process_that_shares_a_socket_is_told() {
    let (listener, port) = listener(V4);
    let start = || {
        let own = OwnedFd::from(listener.try_clone().unwrap());
        Killed(Command::new("sleep").arg("600").stdin(own).spawn().unwrap())
    };
    let workers = [start(), start()];
    let pids = [me(), workers[0].0.id(), workers[1].0.id()];
    expect(port, Tcp, &[&format!("listen 127.0.0.1:P by {pids:?}")]);
    let (holders, _) = ask(port, Tcp);
    let worker = &holders[0].processes[1];
    assert_eq!(
        (worker.name.as_str(), worker.parent, worker.uid),
        ("sleep", Some(me()), Some(rustix::process::geteuid().as_raw()))
    );
    assert!(worker.program.as_ref().is_some_and(|path| path.is_absolute()));
    let age = worker.started.unwrap().elapsed().map_or(Duration::ZERO, |age| age);
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(worker.command_line().unwrap(), ["sleep", "600"]);
    assert_eq!((parent(worker.pid), started(worker.pid)), (Some(me()), Some(worker.ticks)));

    let first = owners(sockets(port, Some(Tcp)).unwrap().rows, Sight::FirstHit).unwrap();
    assert!(!first.holders[0].processes.is_empty());
}

#[test]
fn the_report_names_this_process_and_a_child_that_shares() {
    let (listener, port) = listener(V4);
    let own = OwnedFd::from(listener.try_clone().unwrap());
    let child = Killed(Command::new("sleep").arg("600").stdin(own).spawn().unwrap());
    expect(port, Tcp, &[&format!("listen 127.0.0.1:P by {:?}", [me(), child.0.id()])]);
    let (rows, unseen) = ask(port, Tcp);
    let holders = crate::holder::Holders::new(port, Some(Tcp), rows, Vec::new(), unseen);
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let report = holders.to_string();
    let first = format!(
        "port {port}/tcp: {} (pid {}) listens on 127.0.0.1:{port}\n  listening    ",
        name.trim(),
        me()
    );
    assert!(report.starts_with(&first), "{report}");
    assert!(report.contains(&format!("shared with sleep (pid {})", child.0.id())), "{report}");
}

#[test]
fn a_recycled_number_is_not_taken_for_the_process() {
    let (_listener, port) = listener(V4);
    let mut process = ask(port, Tcp).0[0].processes[0].clone();
    process.ticks += 1;
    let error = process.command_line().unwrap_err();
    assert!(error.to_string().contains("the process has ended"), "{error}");
}

#[test]
fn a_strange_name_is_told_whole() {
    let (listener, port) = listener(V4);
    let script = "printf 'a) b\\n(c' > /proc/$$/comm; read x";
    let mut child = Command::new("sh");
    let _child = Killed(
        child.args(["-c", script]).stdin(Stdio::piped()).stdout(OwnedFd::from(listener)).spawn().unwrap(),
    );
    drop(child);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let names: Vec<String> =
            ask(port, Tcp).0.iter().flat_map(|h| &h.processes).map(|p| p.name.clone()).collect();
        if names == ["a) b\n(c"] {
            break;
        }
        assert!(Instant::now() < deadline, "{names:?}");
    }
}

#[test]
fn an_mptcp_listener_is_told() {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::MPTCP)) else {
        eprintln!("skipped: MPTCP: the kernel has none");
        return;
    };
    socket.bind(&SocketAddr::new(V4, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    expect(port, Tcp, &["bound 127.0.0.1:P by me"]);
    socket.listen(8).unwrap();
    expect(port, Tcp, &["listen 127.0.0.1:P by me"]);
}

#[test]
fn the_fall_back_tells_the_same_of_what_it_sees() {
    let (server, port) = listener(V4);
    let client = dial(V4, port);
    let accepted = server.accept().unwrap();
    let udp = UdpSocket::bind((V4, 0)).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    for (protocol, port) in [(Tcp, port), (Udp, udp_port), (Tcp, client.local_addr().unwrap().port())] {
        let mut told = linux::fall_back(port, Some(protocol)).unwrap();
        label_clients(&mut told.rows);
        let mut asked = sockets(port, Some(protocol)).unwrap();
        asked.rows.sort_by_key(|row| row.inode);
        told.rows.sort_by_key(|row| row.inode);
        assert_eq!(told.rows, asked.rows);
        assert!(!told.rows.is_empty());
        assert_eq!(told.unseen, if protocol == Tcp { vec![Unseen::Bound] } else { vec![] });
    }
    assert_eq!(linux::fall_back(udp_port, Some(Protocol::UdpLite)).unwrap().rows, []);
    drop(accepted);
}

#[test]
fn the_fall_back_does_not_call_a_bound_port_free() {
    let (_socket, port) = bound(V4, false, Type::STREAM);
    let told = linux::fall_back(port, Some(Tcp)).unwrap();
    assert_eq!((told.rows, told.unseen), (vec![], vec![Unseen::Bound]));
}

#[test]
fn a_socket_that_was_closed_during_the_search_is_not_called_hidden() {
    let (listener, port) = listener(V4);
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    drop(listener);
    let deadline = Instant::now() + PATIENCE;
    while !owners(rows.clone(), Sight::Complete).unwrap().holders.is_empty() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn where_proc_hides_other_users_the_answer_is_not_complete() {
    if !is_root("hidepid") {
        return;
    }
    let (_listener, port) = listener(V4);
    for level in ["1", "2"] {
        let script =
            format!("mount -t proc -o hidepid={level} proc /proc && exec {} \"$@\"", NOBODY.join(" "));
        let said = asked_by(&["unshare", "--mount", "sh", "-c", &script, "sh"], port);
        assert_eq!(
            said,
            ["row listen 127.0.0.1:P hidden by [] uid Some(0)", "unseen [Processes]"],
            "hidepid={level}"
        );
    }
}

#[test]
fn a_descriptor_in_flight_is_hinted_at() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    if !is_root("a descriptor in flight") {
        return;
    }
    let (listener, port) = listener(V4);
    let (sender, _receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(&listener)];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&sender, &[std::io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    drop(listener);
    expect(port, Tcp, &["listen 127.0.0.1:P hidden by []"]);
    let unseen = ask(port, Tcp).1;
    assert!(unseen.contains(&Unseen::InFlight(me())), "{unseen:?}");
}

/// Runs a Python program that prints a port and then has it, by ways that Rust's std does not offer.
fn python(test: &str, program: &str) -> Option<(Killed, u16)> {
    let child =
        Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: {test}: no python3");
        return None;
    };
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    let child = Killed(child);
    match line.trim().parse() {
        Ok(port) => Some((child, port)),
        Err(_) => {
            eprintln!("skipped: {test}: {line:?}");
            None
        }
    }
}

#[test]
fn a_process_whose_first_thread_has_ended_is_told() {
    let program = "
import ctypes, socket, sys, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
threading.Thread(target=sys.stdin.read).start()
print(s.getsockname()[1], flush=True)
ctypes.CDLL(None).syscall(60, 0)
";
    if let Some((child, port)) = python("first thread ended", program) {
        expect(port, Tcp, &[&format!("listen 127.0.0.1:P by [{}]", child.0.id())]);
    }
}

#[test]
fn a_socket_that_only_an_io_uring_has_is_told() {
    let program = "
import ctypes, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
params = (ctypes.c_char * 120)()
ring = libc.syscall(425, 4, params)
files = (ctypes.c_int * 1)(s.fileno())
if ring < 0 or libc.syscall(427, ring, 2, files, 1) < 0:
    print('no io_uring', flush=True); sys.exit()
port = s.getsockname()[1]
s.close()
print(port, flush=True)
sys.stdin.read()
";
    if let Some((child, port)) = python("io_uring", program) {
        expect(port, Tcp, &[&format!("listen 127.0.0.1:P by [{}]", child.0.id())]);
    }
}

/// The environment variable that makes [`the_other_asker`] ask.
const ASKED: &str = "PORTLEASE_TEST_ASKED";

/// The one that makes it use up its descriptors first.
const STARVED: &str = "PORTLEASE_TEST_STARVED";

fn starve(port: u16) {
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    let mut files: Vec<std::fs::File> = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let table = sockets(port, None).unwrap_err();
    let quick = listening(port, Tcp).unwrap_err();
    // The folder of all processes can be opened now, and none of theirs.
    drop(files.pop());
    let search = owners(rows, Sight::Complete).unwrap_err();
    println!("row {:?}", [table, quick, search].map(|error| error.raw_os_error()));
}

#[test]
fn without_descriptors_every_look_fails_and_says_so() {
    let (_listener, port) = listener(V4);
    let said = asked_by(&["env", &format!("{STARVED}=1"), "prlimit", "--nofile=64"], port);
    assert_eq!(said, ["row [Some(24), Some(24), Some(24)]"]);
}

#[test]
fn the_other_asker() {
    let Ok(port) = std::env::var(ASKED) else {
        return;
    };
    let port = port.parse().unwrap();
    if std::env::var_os(STARVED).is_some() {
        return starve(port);
    }
    let (holders, unseen) = ask(port, Tcp);
    for holder in &holders {
        println!("row {} uid {:?}", told(holder, port), holder.uid);
    }
    println!("unseen {unseen:?}");
}

/// What this test binary says when it is run by another command line.
fn asked_by(wrapper: &[&str], port: u16) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("asker");
    // By another process: a child forked at this moment would keep the copy open for writing, and so from being run.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(&program).args([
        "--exact",
        "table::live::the_other_asker",
        "--nocapture",
    ]);
    let output = command.env(ASKED, port.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let told =
        |line: &&str| (line.contains("row ") && !line.contains("row time_wait")) || line.contains("unseen ");
    text.lines()
        .filter(told)
        .map(|line| line.trim_start_matches("test table::live::the_other_asker ... ").to_owned())
        .collect()
}

const NOBODY: [&str; 7] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];

#[test]
fn another_users_process_is_hidden_and_its_user_is_told() {
    if !is_root("another user's socket") {
        return;
    }
    let (listener, port) = listener(V4);
    assert_eq!(
        asked_by(&NOBODY, port),
        ["row listen 127.0.0.1:P hidden by [] uid Some(0)", "unseen [Processes]"]
    );

    // And the other way round: root sees all.
    let mut child = Command::new(NOBODY[0]);
    child.args(&NOBODY[1..]).args(["sleep", "600"]).stdin(OwnedFd::from(listener));
    let child_process = Killed(child.spawn().unwrap());
    drop(child);
    expect(port, Tcp, &[&format!("listen 127.0.0.1:P by [{}]", child_process.0.id())]);
    let deadline = Instant::now() + PATIENCE;
    while ask(port, Tcp).0[0].processes[0].uid != Some(65534) {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn from_another_pid_namespace_the_process_is_hidden() {
    if !is_root("another PID namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    let said = asked_by(&["unshare", "--pid", "--fork", "--mount-proc"], port);
    assert_eq!(said[0], "row listen 127.0.0.1:P hidden by [] uid Some(0)");
}

#[test]
fn without_proc_the_process_is_hidden_and_the_answer_says_why() {
    if !is_root("no /proc") {
        return;
    }
    let (_listener, port) = listener(V4);
    let said =
        asked_by(&["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"], port);
    assert_eq!(said, ["row listen 127.0.0.1:P hidden by [] uid Some(0)", "unseen [Proc]"]);
}

#[test]
fn another_network_namespace_is_another_machine() {
    if !is_root("another network namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    assert_eq!(asked_by(&["unshare", "--net"], port), ["unseen []"]);
}
