//! Real programs on what the kernel's claim cannot serve, and on sockets that they inherit.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use portlease::{Reservation, ReserveOptions, reserve_port, reserve_udp_port};

use crate::support::program::{Program, command, installed, python, python_has};
use crate::support::{self, DEADLINE, Folder, need};

fn http_get(p: &Reservation) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(p)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(text)
    }
}

const ASGI: &str = "\
async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'hello from asgi'})
";

const WSGI: &str = "\
def app(environ, start_response):
    start_response('200 OK', [])
    return [b'hello from wsgi']
";

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
    if support::is_root() {
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

#[test]
fn uvicorn_takes_a_chosen_descriptor() {
    need!(python_has("uvicorn"));
    let folder = Folder::new();
    std::fs::write(folder.path().join("hello.py"), ASGI).unwrap();
    let p = reserve_port();
    let mut uvicorn = Command::new(python());
    uvicorn
        .args(["-m", "uvicorn", "--fd", "7", "--no-access-log", "hello:app"])
        .current_dir(folder.path());
    p.pass_to_fd(&mut uvicorn, 7).unwrap();
    let mut uvicorn = Program::start(uvicorn, folder);
    let text = uvicorn.answers(|| http_get(&p));
    assert!(text.ends_with("hello from asgi"), "{text}");
}

#[test]
fn gunicorn_takes_its_listener_systemd_style() {
    need!(python_has("gunicorn"));
    let folder = Folder::new();
    std::fs::write(folder.path().join("hello.py"), WSGI).unwrap();
    let p = reserve_port();
    let mut gunicorn = Command::new(python());
    gunicorn
        .args(["-m", "gunicorn", "hello:app"])
        .current_dir(folder.path());
    p.pass_to(&mut gunicorn).unwrap();
    let mut gunicorn = Program::start(gunicorn, folder);
    let text = gunicorn.answers(|| http_get(&p));
    assert!(text.ends_with("hello from wsgi"), "{text}");
}

#[test]
fn nginx_takes_a_descriptor_by_its_own_variable() {
    need!(installed("nginx"));
    let folder = Folder::new();
    let p = reserve_port();
    let conf = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; \
         client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; \
         server {{ listen 127.0.0.1:{p}; return 200 inherited; }} }}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
    let mut nginx = command("nginx", &["-e", "stderr", "-c", "nginx.conf", "-p", "."]);
    nginx.current_dir(folder.path()).env("NGINX", "9;");
    p.pass_to_fd(&mut nginx, 9).unwrap();
    let mut nginx = Program::start(nginx, folder);
    let text = nginx.answers(|| http_get(&p));
    assert!(text.ends_with("inherited"), "{text}");
    assert!(
        nginx.log().contains("using inherited sockets from \"9;\""),
        "{}",
        nginx.log()
    );
    drop(nginx);
    // Its worker too: the master alone being gone, the port would go on listening.
    p.wait_until_free(DEADLINE).unwrap();
}

/// `reuse_addr(false)` is for these: over an ordinary claim the same program is refused.
fn starts_on_a_quiet_number_alone(start: impl Fn(&Reservation) -> Program) {
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
fn pythons_bare_tcpserver_starts_where_the_reservation_says_so() {
    need!(installed(&python()));
    starts_on_a_quiet_number_alone(|p| {
        let script = format!(
            "import socketserver\n\
             class Hello(socketserver.BaseRequestHandler):\n    def handle(self): self.request.sendall(b'hello')\n\
             socketserver.TCPServer(('127.0.0.1', {p}), Hello).serve_forever()\n"
        );
        Program::start(command(&python(), &["-c", &script]), Folder::new())
    });
}

#[test]
fn erlangs_gen_tcp_starts_where_the_reservation_says_so() {
    need!(installed("erl"));
    starts_on_a_quiet_number_alone(|p| {
        let script = format!(
            "{{ok, L}} = gen_tcp:listen({p}, [{{ip, {{127,0,0,1}}}}]), \
             Serve = fun S() -> {{ok, C}} = gen_tcp:accept(L), gen_tcp:send(C, \"hello\"), gen_tcp:close(C), S() end, \
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
    if support::is_root() {
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
