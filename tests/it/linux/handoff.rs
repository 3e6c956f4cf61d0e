//! The sockets that a child inherits, and those that it does not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portlease::{ErrorKind, Reservation, ReserveOptions};

use crate::support::helper::{self, LIBTEST_ARGS, MARK, NAME};
use crate::support::{DEADLINE, capability, eventually, need};

pub(crate) mod descriptors;
pub(crate) mod environment;

/// The helper process: a server that takes the sockets which `listenfd` finds. It replies with
/// their names and addresses, and serves one client on each.
pub(crate) fn serve_inherited() {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let variable = std::env::var("PORTLEASE_TEST_VARIABLE").unwrap_or_default();
    let mut inherited = listenfd::ListenFd::from_env();
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for i in 0..inherited.len() {
        match inherited.take_tcp_listener(i) {
            Ok(listener) => tcp.extend(listener),
            Err(_) => udp.extend(inherited.take_udp_socket(i).unwrap()),
        }
    }
    let addrs: Vec<String> = tcp
        .iter()
        .map(|l| l.local_addr().unwrap().to_string())
        .collect();
    let udp_addrs: Vec<String> = udp
        .iter()
        .map(|u| u.local_addr().unwrap().to_string())
        .collect();
    helper::reply(&format!(
        "{names}|{}|{}|{variable}",
        addrs.join(","),
        udp_addrs.join(",")
    ));
    for listener in &tcp {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"inherited").unwrap();
    }
    for socket in &udp {
        let mut bytes = [0; 16];
        let (n, from) = socket.recv_from(&mut bytes).unwrap();
        socket.send_to(&bytes[..n], from).unwrap();
    }
}

fn server() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(LIBTEST_ARGS);
    command
}

/// A running child. Dropping the value kills the child.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        command
            .env(NAME, "inherits")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // `command` has the sockets open too, until this function returns.
        Running(command.spawn().unwrap())
    }

    fn reply(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let line = text
            .lines()
            .find_map(|line| line.split_once(MARK))
            .unwrap_or_else(|| panic!("{text}"));
        line.1.to_owned()
    }

    fn succeeds(&mut self) {
        let status = eventually("the server ends", DEADLINE, || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The child may have exited already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn answer_of(reservation: &Reservation) -> String {
    let mut stream = TcpStream::connect(reservation).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_child_takes_its_listener_systemd_style_and_accepts_clients_from_before_its_start() {
    let p = ReserveOptions::new().label("web: one").reserve().unwrap();
    let mut command = server();
    p.pass_to(&mut command).unwrap();
    // The backlog accepts the client before the child is started.
    let early = TcpStream::connect(&p).unwrap();
    drop(early);
    let mut child = Running::start(command);
    let reply = child.reply();
    assert_eq!(reply, format!("web__one|{}||", p.addr()));
    child.succeeds();
    p.release().unwrap();
}

#[test]
fn several_reservations_go_to_one_child_in_order_with_their_names() {
    let first = ReserveOptions::new().label("first").reserve().unwrap();
    let pair = ReserveOptions::new()
        .tcp_and_udp()
        .label("pair")
        .reserve()
        .unwrap();
    let mut command = server();
    first.pass_to(&mut command).unwrap();
    pair.pass_to(&mut command).unwrap();
    let mut child = Running::start(command);
    assert_eq!(answer_of(&first), "inherited");
    assert_eq!(answer_of(&pair), "inherited");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"echo", pair.addr()).unwrap();
    let mut bytes = [0; 16];
    assert_eq!(client.recv(&mut bytes).unwrap(), 4);
    assert_eq!(
        child.reply(),
        format!(
            "first:pair:pair|{},{}|{}|",
            first.addr(),
            pair.addr(),
            pair.addr()
        )
    );
    child.succeeds();
}

#[test]
fn listen_pid_is_the_childs_own_though_its_variables_are_changed() {
    need!(capability::native());
    for clear in [false, true] {
        let p = portlease::reserve_port();
        let mut command = server();
        command.env("PORTLEASE_TEST_VARIABLE", "before");
        p.pass_to(&mut command).unwrap();
        if clear {
            command.env_clear();
        }
        command
            .env("PORTLEASE_TEST_VARIABLE", "after")
            .env("LISTEN_PID", "1")
            .env("LISTEN_FDS", "9");
        let mut child = Running::start(command);
        assert_eq!(answer_of(&p), "inherited");
        assert_eq!(
            child.reply(),
            format!("{}|{}||after", p.port(), p.addr()),
            "cleared: {clear}"
        );
        child.succeeds();
    }
}

#[test]
fn a_setting_that_cannot_be_carried_over_is_an_error() {
    let p = portlease::reserve_port();
    for set in [
        (|c| c.stdout(Stdio::null())) as fn(&mut Command) -> &mut Command,
        |c| c.env_clear(),
        |c| std::os::unix::process::CommandExt::process_group(c, 0),
    ] {
        let mut command = Command::new("true");
        set(&mut command);
        let error = p.pass_to(&mut command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(
            command.status().unwrap().success(),
            "the command is unchanged"
        );
    }
    // These settings are carried over: the arguments, the folder and the variables.
    let mut command = Command::new("sh");
    command.args(["-c", "test $PWD = / && test $A = b && test -z $HOME"]);
    command.current_dir("/").env("A", "b").env_remove("HOME");
    p.pass_to(&mut command).unwrap();
    assert!(command.status().unwrap().success());
}

#[test]
fn a_port_that_is_in_use_or_passed_already_is_named_with_its_cause() {
    let p = portlease::reserve_port();
    let listener = p.listen().unwrap();
    let mut command = Command::new("true");
    let error = p.pass_to(&mut command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    let own = format!("(pid {}) listens on {}", std::process::id(), p.addr());
    assert!(error.to_string().ends_with(&own), "{error}");
    let help = error.diagnosis().unwrap().help().unwrap();
    assert!(
        help.starts_with("close the socket: this process has it"),
        "{help}"
    );
    drop(listener);
    p.pass_to(&mut command).unwrap();
    let error = p.pass_to(&mut command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().ends_with("pass each port once"),
        "{error}"
    );
}

#[test]
fn a_chosen_descriptor_number_is_what_the_child_gets() {
    for number in [0, 3, 9, 100] {
        let p = portlease::reserve_port();
        let mut command = Command::new("readlink");
        command.arg(format!("/proc/self/fd/{number}"));
        p.pass_to_fd(&mut command, number).unwrap();
        let output = command.output().unwrap();
        assert!(
            output.stdout.starts_with(b"socket:["),
            "{number}: {output:?}"
        );
    }
    let error = portlease::reserve_port()
        .pass_to_fd(&mut Command::new("true"), -1)
        .unwrap_err();
    assert!(error.to_string().contains("cannot pass"), "{error}");
}

/// A wrapper that starts the server as its child, as a shell script does.
fn wrapped_server() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "\"$@\"; exit $?", "wrapper"])
        .arg(std::env::current_exe().unwrap())
        .args(LIBTEST_ARGS);
    command
}

#[test]
fn a_server_behind_a_wrapper_takes_the_sockets() {
    let first = ReserveOptions::new().label("first").reserve().unwrap();
    let pair = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    let mut command = wrapped_server();
    command.env("LISTEN_PID", "1");
    first.pass_to_wrapper(&mut command).unwrap();
    pair.pass_to_wrapper(&mut command).unwrap();
    let mut child = Running::start(command);
    assert_eq!(answer_of(&first), "inherited");
    assert_eq!(answer_of(&pair), "inherited");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"echo", pair.addr()).unwrap();
    assert_eq!(client.recv(&mut [0; 16]).unwrap(), 4);
    let (web, both) = (first.addr(), pair.addr());
    assert_eq!(
        child.reply(),
        format!("first:{pair}:{pair}|{web},{both}|{both}|")
    );
    child.succeeds();

    // The control: `LISTEN_PID` is the wrapper's, so `listenfd` ignores the sockets.
    let mut command = wrapped_server();
    first.pass_to(&mut command).unwrap();
    let mut child = Running::start(command);
    assert_eq!(child.reply(), "first|||");
    child.succeeds();
}

#[test]
fn a_command_is_passed_to_a_server_or_to_a_wrapper() {
    let (a, b) = (portlease::reserve_port(), portlease::reserve_port());
    let mut command = Command::new("true");
    a.pass_to(&mut command).unwrap();
    let error = b.pass_to_wrapper(&mut command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    drop(command);
    let mut command = Command::new("true");
    a.pass_to_wrapper(&mut command).unwrap();
    let error = b.pass_to(&mut command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    drop(command);
    let mut missing = Command::new("/nonexistent/program");
    a.pass_to_wrapper(&mut missing).unwrap();
    let error = missing.spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn an_ordinary_child_inherits_neither_the_claim_nor_the_lock() {
    need!(capability::native());
    let p = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    let (_listener, _socket) = (p.listen().unwrap(), p.udp_socket().unwrap());
    let lock = format!("{}.tcp", p.port());
    let links = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        // A descriptor that was closed since it was listed is skipped.
        entries
            .filter_map(|e| {
                Some(
                    std::fs::read_link(e.ok()?.path())
                        .ok()?
                        .to_string_lossy()
                        .into_owned(),
                )
            })
            .collect()
    };
    let has = |links: &[String], what: &str| links.iter().any(|link| link.contains(what));
    let own = links("/proc/self/fd");
    assert!(
        has(&own, "socket:") && has(&own, &lock),
        "the control: this process has them\n{own:?}"
    );

    let mut child = Command::new("sleep");
    child
        .arg("60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Running(child.spawn().unwrap());
    let of_child = links(&format!("/proc/{}/fd", child.0.id()));
    assert!(has(&of_child, "/dev/null"), "{of_child:?}");
    assert!(
        !has(&of_child, "socket:") && !has(&of_child, &lock),
        "{of_child:?}"
    );
}

#[test]
fn a_port_without_a_server_refuses_at_once_again_and_again() {
    let p = portlease::reserve_port();
    for _ in 0..2_000 {
        let error = TcpStream::connect_timeout(&p.addr(), Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let _late: TcpListener = p.listen().unwrap();
}
