//! Real servers on ports that are reserved without a claim: UDP, UDP with TCP, and TCP without
//! SO_REUSEADDR.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use portlease::{Reservation, ReserveOptions, reserve_port, reserve_udp_port};

use crate::support::program::{Program, command, installed, python};
use crate::support::{Folder, is_root, need};

#[test]
fn dnsmasq_serves_both_protocols_of_one_number() {
    need!(installed("dnsmasq"));
    let p = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    let port = format!("--port={p}");
    let args = [
        "--no-daemon",
        &port,
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--no-resolv",
        "--no-hosts",
    ];
    let mut dns = command("dnsmasq", &args);
    dns.args([
        "--conf-file=/dev/null",
        "--address=/x.test/127.0.0.9",
        "--pid-file",
    ]);
    if is_root() {
        dns.args(["--user=root", "--group=root"]);
    }
    let mut dns = Program::start(dns, Folder::new());
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\x04test\0\0\x01\0\x01";
    let has_answer =
        |bytes: &[u8]| bytes.starts_with(b"\x12\x34") && bytes.ends_with(&[127, 0, 0, 9]);
    dns.answers(|| {
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.connect(&p)?;
        client.send(query)?;
        let mut answer = [0; 512];
        let length = client.recv(&mut answer)?;
        assert!(has_answer(&answer[..length]), "{:?}", &answer[..length]);
        Ok(())
    });
    dns.answers(|| {
        let mut stream = TcpStream::connect(&p)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        assert!(has_answer(&answer), "{answer:?}");
        Ok(())
    });
}

/// Checks that a program starts on a port reserved with `reuse_addr(false)`, and that it cannot
/// start over a claim.
fn assert_starts_only_without_a_claim(start: impl Fn(&Reservation) -> Program) {
    let p = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
    let mut server = start(&p);
    let answer = server.answers(|| {
        let mut stream = TcpStream::connect(&p)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    assert_eq!(answer, "hello");

    let claimed = reserve_port();
    let (status, log) = start(&claimed).ends();
    assert!(
        !status.success(),
        "control: it starts over a claim too\n{log}"
    );
    assert!(
        log.to_lowercase().contains("in use") || log.contains("eaddrinuse"),
        "{log}"
    );
}

#[test]
fn pythons_bare_tcpserver_starts_on_a_port_without_a_claim() {
    need!(installed(&python()));
    assert_starts_only_without_a_claim(|p| {
        let script = format!(
            "import socketserver\n\
             class Hello(socketserver.BaseRequestHandler):\n\
             \x20   def handle(self): self.request.sendall(b'hello')\n\
             socketserver.TCPServer(('127.0.0.1', {p}), Hello).serve_forever()\n"
        );
        Program::start(command(&python(), &["-c", &script]), Folder::new())
    });
}

#[test]
fn erlangs_gen_tcp_starts_on_a_port_without_a_claim() {
    need!(installed("erl"));
    assert_starts_only_without_a_claim(|p| {
        let script = format!(
            "{{ok, L}} = gen_tcp:listen({p}, [{{ip, {{127,0,0,1}}}}]), \
             Serve = fun S() -> {{ok, C}} = gen_tcp:accept(L), gen_tcp:send(C, \"hello\"), \
             gen_tcp:close(C), S() end, \
             Serve()."
        );
        let folder = Folder::new();
        let mut erl = command("erl", &["-noinput", "-eval", &script]);
        erl.env("HOME", folder.path())
            .env("ERL_CRASH_DUMP_BYTES", "0");
        Program::start(erl, folder)
    });
}

#[test]
fn memcached_answers_by_udp() {
    need!(installed("memcached"));
    let p = reserve_udp_port();
    let mut memcached = command(
        "memcached",
        &["-l", "127.0.0.1", "-p", "0", "-U", &p.to_string()],
    );
    if is_root() {
        memcached.args(["-u", "nobody"]);
    }
    let mut memcached = Program::start(memcached, Folder::new());
    let text = memcached.answers(|| {
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.connect(&p)?;
        client.send(b"\0\x01\0\0\0\x01\0\0version\r\n")?;
        let mut answer = [0; 512];
        let length = client.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[8..length]).into_owned())
    });
    assert!(text.starts_with("VERSION "), "{text}");
}
