//! `portlease wait --http`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portlease::reserve_port;
use rustix::process::Signal;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::program::{
    Ran, Running, filtered, finish, for_everybody, plain, portlease, ran, silent,
};
use crate::support::capability::unshare_flags;
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, need};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// The head of a request.
fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while !bytes.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Answers one request after another in a thread, and repeats the last answer. The returned
/// receiver gets the head of each request.
fn answering(listener: TcpListener, answers: &'static [&'static str]) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.iter().peekable();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = head(&mut stream);
            let answer = answers.peek().copied().unwrap();
            if answers.len() > 1 {
                answers.next();
            }
            // The other side closes early if it has read the status.
            let _sent = stream.write_all(answer.as_bytes());
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn the_wait_ends_when_the_request_is_answered_as_expected() {
    let p = reserve_port();
    let requests = answering(p.listen().unwrap(), &[UNAVAILABLE, NO_CONTENT, OK]);
    let args = [
        "wait",
        "--http",
        "/health?a=1=200",
        "--timeout",
        "10m",
        &p.to_string(),
    ];
    let output = ran(&args).code(0);
    assert_eq!(output.out, "");
    let first = requests.recv().unwrap();
    let expected = format!(
        "GET /health?a=1 HTTP/1.1\r\nHost: localhost:{p}\r\nUser-Agent: portlease/{}\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(first, expected);
    assert_eq!(requests.try_iter().count(), 2, "three requests in all");
    // If no status is requested, 204 is accepted too. The `Host` header has the requested address.
    let p = reserve_port();
    let requests = answering(p.listen().unwrap(), &[NO_CONTENT]);
    ran(&["wait", "--http", "/", &format!("127.0.0.1:{p}")]).code(0);
    let host = format!("\r\nHost: 127.0.0.1:{p}\r\n");
    assert!(requests.recv().unwrap().contains(&host));
    // The process listens on 127.0.0.1 only, so the request goes there. No address was requested.
    let p = reserve_port();
    let requests = answering(p.listen().unwrap(), &[OK]);
    let (pid, port) = (std::process::id().to_string(), p.to_string());
    ran(&["wait", "--http", "/", "--pid", &pid, &port]).code(0);
    let host = format!("\r\nHost: localhost:{p}\r\n");
    assert!(requests.recv().unwrap().contains(&host));
}

#[test]
fn with_for_the_request_follows_that_time() {
    let p = reserve_port();
    let requests = answering(p.listen().unwrap(), &[OK]);
    let started = Instant::now();
    let args = ["wait", "--http", "/", "--for", "300ms", "--timeout", "10m"];
    ran(&[&args[..], &[&p.to_string()]].concat()).code(0);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(requests.try_iter().count(), 1);
    // The control: nothing listens.
    let args = ["wait", "--http", "/", "--for", "1ms", "--timeout", "10ms"];
    let output = ran(&[&args[..], &[&silent().to_string()]].concat()).code(1);
    assert!(output.out.contains("is not listening"), "{output:#?}");
}

/// The kernel has one port to choose from as the source of the request, and connects it to itself.
#[test]
fn a_request_that_is_connected_to_itself_has_met_no_server() {
    need!(capability::network_namespace());
    let script = "ip link set lo up && echo 41000 41000 > /proc/sys/net/ipv4/ip_local_port_range \
                  && exec \"$BIN\" wait --http / --timeout 300ms 127.0.0.1:41000";
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", script]);
    plain(&mut command);
    let output = finish(&mut command).code(1);
    let expected = "does not answer GET / as expected: 127.0.0.1:41000: connection refused\n";
    assert!(output.out.contains(expected), "{output:#?}");
    assert!(!output.out.contains("packet filter"), "{output:#?}");
}

#[test]
fn a_server_on_the_ipv6_loopback_alone_is_found() {
    need!(capability::ipv6());
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let _requests = answering(listener, &[OK]);
    ran(&["wait", "--http", "/", &port]).code(0);
    ran(&["wait", "--http", "/", &format!("localhost:{port}")]).code(0);
}

#[test]
fn a_silent_server_on_one_loopback_does_not_hide_the_other() {
    need!(capability::ipv6());
    let p = reserve_port();
    let _silent = p.listen().unwrap();
    let listener = TcpListener::bind(("::1", p.port())).unwrap();
    let _requests = answering(listener, &[OK]);
    let args = ["wait", "--http", "/", "--timeout", "10m", &p.to_string()];
    ran(&args).code(0);
}

/// The first server accepts the request and never answers. The second one answers the second
/// request as expected.
#[test]
fn a_silent_port_delays_no_request_to_another_port() {
    let (silent, other) = (reserve_port(), reserve_port());
    let _silent = silent.listen().unwrap();
    let _requests = answering(other.listen().unwrap(), &[UNAVAILABLE, OK]);
    let ports = format!("{silent},{other}");
    // On a slow machine the second server needs more time.
    let limits = ["1s", "8s", "64s"].iter();
    let mut outputs =
        limits.map(|limit| ran(&["wait", "--http", "/", "--timeout", limit, &ports]).code(1));
    let is_answered = |output: &Ran| !output.out.contains(&format!("port {other}/tcp"));
    let output = outputs.find(is_answered).unwrap();
    let start = format!("port {silent}/tcp does not answer GET / as expected: 127.0.0.1:{silent}");
    assert!(output.out.starts_with(&start), "{output:#?}");
}

/// `run` listens on all three ports.
#[test]
fn a_packet_filter_that_keeps_connections_from_a_listener_is_named() {
    need!(capability::network_namespace(), capability::nft());
    let run = |command: &str| {
        let options = "--listen A=4000 --listen B=4001 --listen C=4002";
        filtered(&format!(
            "exec \"$BIN\" run {options} -- \"$BIN\" {command}"
        ))
    };
    let help = "list the rules of the packet filter with `nft list ruleset` or `iptables-save`";
    let output = run("wait --http / --timeout 300ms 4000-4001,127.0.0.1:4002").code(1);
    let expected: Vec<String> = [
        ("", 4000, "no answer in time", "drops"),
        ("", 4001, "connection refused", "rejects"),
        ("127.0.0.1:", 4002, "connection refused", "rejects"),
    ]
    .iter()
    .map(|(address, port, problem, verb)| {
        format!(
            "port {address}{port}/tcp does not answer GET / as expected: \
             127.0.0.1:{port}: {problem}\n\
             a socket listens on 127.0.0.1:{port}, but a packet filter probably {verb} the \
             connections\nhelp: {help}\n"
        )
    })
    .collect();
    assert_eq!(output.out, expected.concat());
    let answer = run("wait --http / --timeout 300ms --json 4001")
        .code(1)
        .json();
    assert_eq!(answer["http"][0]["help"], json!(help), "{answer:#}");

    let output = run("who --probe 4000").code(0);
    let expected = "of 127.0.0.1:4000 gets no answer, although a socket listens: a packet filter \
                    probably drops the connections\n";
    let help_line = format!("\nhelp: {help}\n");
    assert!(output.out.contains(expected), "{output:#?}");
    assert!(output.out.ends_with(&help_line), "{output:#?}");
    let answer = run("who --probe --json 4001").code(0).json();
    let expected = json!({
        "address": "127.0.0.1:4001", "result": "refuses", "help": help,
        "cause": "a packet filter probably rejects the connections",
    });
    assert_eq!(answer["probes"][0], expected);
    // The control: nothing listens on the port.
    let answer = filtered("exec \"$BIN\" who --probe --json 4001")
        .code(1)
        .json();
    assert_eq!(answer["probes"][0]["cause"], json!(null), "{answer:#}");
}

/// If the requests were sent one after another, this wait would take 12 seconds.
#[test]
fn many_silent_ports_do_not_extend_the_wait() {
    need!(capability::network_namespace(), capability::nft());
    let started = Instant::now();
    let wait = filtered("exec \"$BIN\" wait --http / --timeout 2s 9000-9100").code(1);
    assert!(started.elapsed() < Duration::from_secs(8), "{wait:#?}");
    let first =
        "port 9000/tcp does not answer GET / as expected: 127.0.0.1:9000: no answer in time\n";
    assert!(wait.out.starts_with(first), "{wait:#?}");
    let last = "\nand 91 more: to see every port, add --json\n";
    assert!(wait.out.ends_with(last), "{wait:#?}");
    let note = "portlease: waiting up to 2s for GET / on 9000/tcp, 9001/tcp, 9002/tcp, 9003/tcp \
                and 97 more\n";
    assert_eq!(wait.err, note);
}

#[test]
fn the_last_problem_of_each_port_is_reported() {
    let (wrong, none) = (reserve_port(), silent());
    let _requests = answering(wrong.listen().unwrap(), &[UNAVAILABLE]);
    let other = reserve_port();
    let listener = other.listen().unwrap();
    // Sends a line that is not HTTP.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _sent = stream.unwrap().write_all(b"SSH-2.0-x\r\n");
        }
    });
    let ports = format!("{wrong},{none},{other}");
    let args = ["wait", "--http", "/", "--timeout", "1s", &ports];
    let output = ran(&args).code(1);
    let start = format!(
        "port {wrong}/tcp does not answer GET / as expected: 127.0.0.1:{wrong} has answered 503, \
         but 2xx is expected\n\
         port {none}/tcp does not answer GET / as expected: 127.0.0.1:{none}: connection refused\n\
         port {none}/tcp is not listening: "
    );
    assert!(output.out.starts_with(&start), "{output:#?}");
    let not_http = format!("127.0.0.1:{other} did not answer in HTTP\n");
    assert!(output.out.contains(&not_http), "{output:#?}");
    assert!(
        output.err.contains("waiting up to 1s for GET / on "),
        "{output:#?}"
    );

    let port = wrong.to_string();
    let args = [
        "wait",
        "--http",
        "/=201",
        "--timeout",
        "200ms",
        "--json",
        &port,
    ];
    let problem = format!("127.0.0.1:{wrong} has answered 503, but 201 is expected");
    let expected = json!({
        "version": 1, "ports": [format!("{wrong}/tcp")], "outcome": "timed_out",
        "problems": [], "http": [{"endpoint": format!("{wrong}/tcp"), "problem": problem}],
    });
    assert_eq!(ran(&args).code(1).json(), expected);
}

#[test]
fn a_server_that_accepts_and_is_silent_does_not_extend_the_wait() {
    let p = reserve_port();
    let _listener = p.listen().unwrap();
    let args = ["wait", "--http", "/", "--timeout", "100ms", &p.to_string()];
    let output = ran(&args).code(1);
    assert!(output.out.contains("no answer in time"), "{output:#?}");
}

#[test]
fn the_wait_ends_when_the_process_ends() {
    need!(capability::native());
    let p = reserve_port();
    // `--pid` names this process, which listens and does not end. So the wait times out.
    let _requests = answering(p.listen().unwrap(), &[UNAVAILABLE]);
    let own = std::process::id().to_string();
    let args = [
        "wait",
        "--http",
        "/",
        "--pid",
        &own,
        "--timeout",
        "300ms",
        &p.to_string(),
    ];
    ran(&args).code(1);

    need!(installed("python3"));
    // Listens, and ends when the request arrives.
    let serve = "import socket, sys\n\
        s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
        s.accept()[0].recv(1)";
    let p = reserve_port();
    let mut python = Command::new("python3");
    let server = Running::start(python.args(["-c", serve, &p.to_string()]));
    let pid = server.pid().to_string();
    let args = [
        "wait",
        "--http",
        "/",
        "--pid",
        &pid,
        "--timeout",
        "10m",
        &p.to_string(),
    ];
    let waiting = Running::start(&mut portlease(&args));
    server.finish().code(0);
    let output = waiting.finish().code(2);
    let start = format!("port {p}/tcp does not answer GET / as expected: ");
    assert!(output.out.starts_with(&start), "{output:#?}");
    let note = format!("portlease: stopped waiting: pid {pid} ended");
    assert!(output.err.contains(&note), "{output:#?}");
}

#[test]
fn with_a_pid_the_answer_of_another_process_does_not_count() {
    need!(capability::ipv6());
    // This process answers on ::1. The process of `--pid` listens on 127.0.0.1 and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let _requests = answering(TcpListener::bind(("::1", port)).unwrap(), &[OK]);
    let mut sleep = Command::new("sleep");
    plain(sleep.arg("600"));
    let sleep = Running::start(sleep.stdin(OwnedFd::from(silent)));
    let pid = sleep.pid().to_string();
    let wait = ["wait", "--http", "/", "--timeout", "1s", &port.to_string()];
    let with_pid = [&wait[..], &["--pid", &pid]].concat();
    let output = ran(&with_pid).code(1);
    assert!(
        output.out.contains(&format!("127.0.0.1:{port}")),
        "{output:#?}"
    );
    // The control: without the pid, the answer counts.
    ran(&wait).code(0);
}

/// The parent has closed the socket on which its child listens. This process listens there too.
#[test]
fn a_port_that_a_stranger_shares_with_a_child_is_reported_as_shared() {
    need!(installed("python3"), capability::native());
    let listen = "import os, socket, sys\n\
        s = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
        s.bind(('127.0.0.1', int(sys.argv[1])))\n\
        s.listen()\n\
        if os.fork(): s.close()\n\
        sys.stdin.read()";
    let p = reserve_port();
    let mut python = Command::new("python3");
    python.args(["-c", listen, &p.to_string()]);
    let mut parent = python.stdin(Stdio::piped()).spawn().unwrap();
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    stranger.set_reuse_port(true).unwrap();
    stranger.bind(&p.addr().into()).unwrap();
    stranger.listen(1).unwrap();
    let (pid, port) = (parent.id().to_string(), p.to_string());
    p.wait_for(&mut parent, DEADLINE).unwrap();
    let wait = ["wait", "--http", "/", "--json", "--pid", &pid, &port];
    let expected = format!(
        "another process, which pid {pid} did not start, also listens on 127.0.0.1:{p}/tcp"
    );
    // The parent may not have closed its socket yet, which changes no answer. On a slow machine the
    // search for the listener may leave no time for a request.
    let mut answers = ["1s", "8s", "64s"].iter().map(|limit| {
        ran(&[&wait[..], &["--timeout", limit]].concat())
            .code(1)
            .json()
    });
    assert!(answers.any(|answer| answer["http"][0]["problem"] == json!(expected)));
    // The child reads the same stdin, so this ends both.
    drop(parent.stdin.take());
    parent.wait().unwrap();
}

/// The suspended child shares the listener of its parent, which runs and never accepts.
#[test]
fn a_suspended_process_that_shares_the_listener_is_named() {
    need!(installed("python3"), capability::native());
    let listen = "import os, signal, socket, sys\n\
        s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
        child = os.fork()\n\
        if not child: os.kill(os.getpid(), signal.SIGSTOP)\n\
        os.waitpid(child, os.WUNTRACED)\n\
        print(child, flush=True)\n\
        sys.stdin.read()\n\
        os.kill(child, signal.SIGKILL)";
    let p = reserve_port();
    let mut python = Command::new("python3");
    python.args(["-c", listen, &p.to_string()]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parent = python.spawn().unwrap();
    let mut child = String::new();
    let mut lines = BufReader::new(parent.stdout.take().unwrap());
    lines.read_line(&mut child).unwrap();
    let child = child.trim_end();
    let output = ran(&["wait", "--http", "/", "--timeout", "100ms", &p.to_string()]).code(1);
    drop(parent.stdin.take());
    parent.wait().unwrap();
    let cause = format!(
        "(pid {child}), which shares the listener on port {p}/tcp, is suspended: the kernel may \
         give the connection to this process\nhelp: resume pid {child} with kill -CONT {child}\n"
    );
    assert!(output.out.ends_with(&cause), "{output:#?}");
}

/// Of this process, the user nobody sees neither the listener nor the descriptors.
#[test]
fn with_a_pid_the_answer_of_a_hidden_process_counts() {
    need!(capability::nobody());
    let p = reserve_port();
    let _requests = answering(p.listen().unwrap(), &[OK]);
    let (binary, _folder) = for_everybody();
    let (pid, port) = (std::process::id().to_string(), p.to_string());
    let mut wait = Command::new("setpriv");
    wait.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    wait.arg(binary)
        .args(["wait", "--http", "/", "--pid", &pid, &port]);
    plain(&mut wait);
    finish(&mut wait).code(0);
}

#[test]
fn requests_that_cannot_be_sent_are_refused() {
    for (args, message) in [
        (
            &["--http", "health", "80"][..],
            "has no path that starts with /",
        ),
        (&["--http", "/=99", "80"], "not from 100 to 599"),
        (
            &["--http", "/", "53/udp"],
            "cannot send GET / to port 53/udp: expected a TCP port",
        ),
        (&["--http", "/", "--free", "80"], "cannot be used with"),
        (&["80"], "--http"),
    ] {
        let output = ran(&[&["wait"], args].concat()).code(2);
        assert!(output.err.contains(message), "{args:?}: {output:#?}");
    }
}

/// Answers 503 for the first two requests, and 200 from then on.
const SERVER: &str = "import http.server, os, sys\n\
    class Handler(http.server.BaseHTTPRequestHandler):\n\
    \x20   asked = 0\n\
    \x20   def do_GET(self):\n\
    \x20       Handler.asked += 1\n\
    \x20       self.send_response(200 if Handler.asked > 2 else 503)\n\
    \x20       self.end_headers()\n\
    \x20   def log_message(self, *args): pass\n\
    http.server.HTTPServer(('127.0.0.1', int(os.environ['WEB'])), Handler).serve_forever()";

#[test]
fn run_waits_until_its_command_answers() {
    need!(installed("python3"), capability::native());
    let folder = Folder::new();
    for probe in ["/health", "WEB:/health=200"] {
        let args = [
            "run", "--port", "WEB", "--http", probe, "--", "python3", "-c", SERVER,
        ];
        let (run, line) = Running::with_log(&mut portlease(&args), &folder.path().join("log"));
        assert!(
            line.starts_with("portlease: the command started to listen after "),
            "{line}"
        );
        run.signal(Signal::TERM);
        assert_eq!(run.finish().shell_code(), 143);
    }
}

#[test]
fn run_stops_a_command_that_does_not_answer_as_expected() {
    need!(installed("python3"), capability::native());
    // On a slow machine the server needs more time until it listens.
    let outputs = ["1s", "8s", "64s"].iter().map(|limit| {
        let limit = format!("--wait-listening={limit}");
        let options = ["--port", "WEB", "--http", "/=418", &limit];
        let command = ["--", "python3", "-c", SERVER];
        ran(&[&["run"][..], &options, &command].concat()).code(125)
    });
    let mut outputs = outputs.skip_while(|output| output.err.contains("is not listening"));
    let output = outputs.next().unwrap();
    let start = "portlease: stopped the command after ";
    let problem = "/tcp does not answer GET / as expected: 127.0.0.1:";
    assert!(
        output.err.starts_with(start)
            && output.err.contains(problem)
            && output.err.ends_with(", but 418 is expected\n"),
        "{output:#?}"
    );
    // The command ends first: its exit code counts.
    ran(&["run", "--http", "/", "--", "sh", "-c", "exit 3"]).code(3);
    for (options, message) in [
        (
            &["--http", "WEB:/"][..],
            "cannot send GET / to WEB: no --port or --listen option has this name",
        ),
        (
            &["--port", "A/udp", "--http", "/"],
            "no TCP port is reserved",
        ),
        (&["--port", "A/udp", "--http", "A:/"], "expected a TCP port"),
        (&["--http", "A:health"], "has no path that starts with /"),
    ] {
        let output = ran(&[&["run"], options, &["--", "true"]].concat()).code(125);
        assert!(output.err.contains(message), "{options:?}: {output:#?}");
    }
}

/// The first address has no server. The second server listens on an address that gets no request.
/// The third one is suspended.
#[test]
#[cfg(target_os = "linux")]
fn the_report_says_why_no_server_answers() {
    let wait = |port: &str| ran(&["wait", "--http", "/", "--timeout", "20ms", port]).code(1);
    let output = wait("[fe80::1%lo]:1");
    assert!(
        output.out.contains(" as expected: [fe80::1%lo]:1"),
        "{output:#?}"
    );
    let listener = TcpListener::bind("127.0.0.5:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output = wait(&port);
    let expected = format!(" listens on 127.0.0.5:{port} only");
    assert!(output.out.contains(&expected), "{output:#?}");
    assert!(output.out.contains("\nhelp: "), "{output:#?}");

    need!(installed("python3"), capability::native());
    let serve = "import socket, sys\n\
        s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
        s.accept()[0].recv(1)";
    let p = reserve_port();
    let mut python = Command::new("python3");
    let server = Running::start(python.args(["-c", serve, &p.to_string()]));
    p.wait_until_listening(DEADLINE).unwrap();
    server.signal(Signal::STOP);
    let output = wait(&p.to_string());
    let pid = server.pid();
    let expected = format!("help: resume pid {pid} with kill -CONT {pid}\n");
    assert!(output.out.ends_with(&expected), "{output:#?}");
}
