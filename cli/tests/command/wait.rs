//! `portlease wait`.

use std::net::TcpListener;
use std::process::Command;

use portlease::reserve_port;
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::program::plain;
use crate::program::{Running, finish, idle, line_in, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{Folder, capability, need, show_owner};

#[test]
fn wait_ends_when_a_server_listens() {
    let p = reserve_port();
    let folder = Folder::new();
    let mut command = portlease(&["wait", "--listening", "--timeout", "10m", &p.to_string()]);
    let (waiting, line) = Running::with_log(&mut command, &folder.path().join("log"));
    assert_eq!(
        line,
        format!("portlease: waiting up to 10m for {p}/tcp to be listening")
    );
    let server = TcpListener::bind(p.addr()).unwrap();
    let output = waiting.finish().code(0);
    assert_eq!(output.out, "");
    // A condition that is met already prints nothing.
    let output = ran(&["wait", "--listening", &p.to_string()]).code(0);
    assert_eq!((output.out.as_str(), output.err.as_str()), ("", ""));
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "wait connected to the server");
}

#[test]
fn a_wait_that_times_out_exits_with_1_and_reports_why() {
    let (free, busy) = (silent(), reserve_port());
    let server = busy.listen().unwrap();
    show_owner(&server);
    let output = ran(&[
        "wait",
        "--free",
        "--timeout",
        "30ms",
        &free.to_string(),
        &busy.to_string(),
    ])
    .code(1);
    let lines: Vec<&str> = output.out.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with(&format!("port {busy}/tcp is in use: ")),
        "{output:#?}"
    );
    assert!(
        lines[1].starts_with("help: close the socket in pid "),
        "{output:#?}"
    );
    assert!(
        output.err.starts_with("portlease: waiting up to 30ms for "),
        "{output:#?}"
    );
    assert!(
        output.err.lines().count() == 2 && output.err.contains("\nportlease: timed out after "),
        "{output:#?}"
    );
    let output = ran(&[
        "wait",
        "--free",
        "--timeout",
        "1ms",
        "--json",
        "-q",
        &busy.to_string(),
    ])
    .code(1);
    let answer = output.json();
    assert_eq!(answer["ports"], json!([format!("{busy}/tcp")]));
    assert_eq!(
        (&answer["outcome"], output.err.as_str()),
        (&json!("timed_out"), "")
    );
    let problem = &answer["problems"][0];
    assert_eq!(
        (&problem["free"], &problem["endpoint"]),
        (&json!(false), &answer["ports"][0])
    );
    assert_eq!(
        problem["holders"][0]["state"],
        json!("listen"),
        "{answer:#}"
    );
    assert!(
        problem["cause"].as_str().unwrap().contains(" listens on "),
        "{answer:#}"
    );
    ran(&["wait", "--free", &free.to_string()]).code(0);
    ran(&["wait", "--listening", "--timeout", "0s", &free.to_string()]).code(1);
}

#[test]
fn wait_ends_with_the_process_of_its_pid_option() {
    let p = reserve_port();
    let mut server = idle().spawn().unwrap();
    let pid = server.id().to_string();
    let args = [
        "wait",
        "--listening",
        "--timeout",
        "10m",
        "--pid",
        &pid,
        &p.to_string(),
    ];
    let folder = Folder::new();
    let log = folder.path().join("log");
    let (mut waiting, _) = Running::with_log(&mut portlease(&args), &log);
    assert!(waiting.runs());
    server.kill().unwrap();
    // The process is a zombie: its parent has not reaped it yet.
    waiting.finish().code(2);
    let output = std::fs::read_to_string(log).unwrap();
    assert!(
        output.contains("portlease: stopped waiting after ")
            && output.contains(&format!(" s: pid {pid} ended")),
        "{output}"
    );
    server.wait().unwrap();
    let output = ran(&[&["--json"], &args[..]].concat()).code(2);
    assert_eq!(output.json()["outcome"], json!("ended"));
}

/// A stranger has the listener of the last port.
#[test]
fn after_the_end_of_the_process_every_port_without_its_listener_is_reported() {
    need!(capability::native());
    let block = portlease::ReserveOptions::new().reserve_block(3).unwrap();
    let server = block[2].listen().unwrap();
    show_owner(&server);
    let ports = format!("{}-{}", block[0].port(), block[2].port());
    let folder = Folder::new();
    for options in [
        &["--listening"][..],
        &["--http", "/"],
        &["--json", "--http", "/"],
    ] {
        let mut process = idle().spawn().unwrap();
        let pid = process.id().to_string();
        let wait = ["wait", "--timeout", "10m", "--pid", &pid, &ports];
        let log = folder.path().join(&pid);
        let mut command = portlease(&[&wait[..], options].concat());
        let (waiting, _) = Running::with_log(&mut command, &log);
        process.kill().unwrap();
        process.wait().unwrap();
        let output = waiting.finish().code(2);
        if options.contains(&"--json") {
            let answer = output.json();
            let problems = answer["problems"].as_array().unwrap();
            let endpoints: Vec<_> = problems.iter().map(|of| of["endpoint"].clone()).collect();
            let expected = [2, 0, 1].map(|at: usize| json!(format!("{}/tcp", block[at].port())));
            assert_eq!(endpoints, expected, "{output:#?}");
            assert_eq!(answer["http"], json!([]), "{output:#?}");
        } else {
            let is_reported = |port| output.out.contains(&format!("port {port}/tcp is not "));
            assert!(block.iter().all(is_reported), "{output:#?}");
        }
    }
}

#[test]
fn a_process_whose_end_frees_the_port_meets_the_condition() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let mut process = idle().spawn().unwrap();
    let pid = process.id().to_string();
    let folder = Folder::new();
    let mut command = portlease(&[
        "wait",
        "--free",
        "--timeout",
        "10m",
        "--pid",
        &pid,
        &p.to_string(),
    ]);
    let (waiting, _) = Running::with_log(&mut command, &folder.path().join("log"));
    drop(server);
    process.kill().unwrap();
    process.wait().unwrap();
    waiting.finish().code(0);
}

/// The server behaves like a database in a container, which listens for some moments while it
/// initializes.
#[test]
fn a_wait_for_a_steady_listener_starts_again_after_each_break() {
    need!(installed("python3"));
    let p = reserve_port();
    let folder = Folder::new();
    let (up, done) = (folder.path().join("up"), folder.path().join("done"));
    let serve = "import socket, sys, time
port, up, done = int(sys.argv[1]), sys.argv[2], sys.argv[3]
for n in range(10):
    s = socket.create_server(('127.0.0.1', port))
    open(up, 'w').write('up\\n')
    time.sleep(0.05); s.close()
s = socket.create_server(('127.0.0.1', port))
open(done, 'w').write('done\\n')
time.sleep(600)
";
    let mut server = Command::new("python3");
    server
        .args(["-c", serve, &p.to_string()])
        .args([&up, &done]);
    let _server = Running::start(&mut server);
    line_in(&up);
    // The control: a wait without `--for` ends at the first listener.
    ran(&["wait", "--listening", "--timeout", "10m", &p.to_string()]).code(0);
    assert!(!done.exists());
    let steady = ["wait", "--listening", "--for", "2s", "--timeout", "10m"];
    ran(&[&steady[..], &[&p.to_string()]].concat()).code(0);
    assert!(done.exists());

    let args = [
        "wait",
        "--listening",
        "--for",
        "30s",
        "--timeout",
        "1s",
        &p.to_string(),
    ];
    let refused = ran(&args).code(2);
    assert!(refused.err.contains("raise --timeout"), "{refused:#?}");
    ran(&["wait", "--free", "--for", "1s", &p.to_string()]).code(2);
}

/// In a shell, `$!` is the last process of a pipeline, and the server is often the first one.
#[cfg(target_os = "linux")]
#[test]
fn the_help_on_the_server_of_a_pipeline_is_to_name_it() {
    need!(installed("python3"), capability::native());
    let p = reserve_port();
    let port = p.to_string();
    let folder = Folder::new();
    let up = folder.path().join("up");
    let server = "import os, socket, time\n\
        s = socket.create_server(('127.0.0.1', int(os.environ['SERVE'])))\n\
        open(os.environ['UP'], 'w').write('%d\\n' % os.getpid())\n\
        time.sleep(600)";
    let script = "python3 -c \"$SERVER\" | cat & echo $! > \"$UP.last\"; wait";
    let mut shell = Command::new("sh");
    plain(
        shell
            .args(["-c", script])
            .env("SERVER", server)
            .env("SERVE", &port),
    );
    let mut shell = Running::start(shell.env("UP", &up));
    let server = line_in(&up);
    let last = line_in(&folder.path().join("up.last"));
    let wait = |pid: &str| {
        let args = [
            "wait",
            "--listening",
            "--timeout",
            "100ms",
            "--pid",
            pid,
            &port,
        ];
        ran(&args)
    };
    let output = wait(&last).code(1);
    let help = format!(
        "\nhelp: name pid {server} instead of pid {last}, if pid {server} is your server, or \
         reserve another port with `portlease reserve`\n"
    );
    assert!(output.out.ends_with(&help), "{output:#?}");
    // The advice is followed.
    wait(&server).code(0);
    crate::program::kill(server.parse().unwrap());
    assert!(shell.runs() || shell.finish().status.success());
}

/// A stranger explains why the server of the process is missing.
#[test]
fn every_port_without_a_listener_of_the_process_is_reported_that_of_a_stranger_first() {
    need!(capability::native());
    let block = portlease::ReserveOptions::new().reserve_block(3).unwrap();
    let stranger = block[1].listen().unwrap();
    show_owner(&stranger);
    let idle = Running::start(&mut idle());
    let pid = idle.pid().to_string();
    let ports = format!("{}-{}", block[0].port(), block[2].port());
    let args = ["wait", "--listening", "--json", "--timeout", "100ms"];
    let output = ran(&[&args[..], &["--pid", &pid, &ports]].concat()).code(1);
    let problems = output.json()["problems"].clone();
    let of = |at: usize| json!(format!("{}/tcp", block[at].port()));
    let endpoints: Vec<_> = (0..3).map(|at| problems[at]["endpoint"].clone()).collect();
    assert_eq!(endpoints, [of(1), of(0), of(2)]);
    for at in 1..3 {
        assert_eq!(
            problems[at]["remedies"][0]["kind"], "check_command",
            "{output:#?}"
        );
    }
}

/// A Python server on `host`, and its pid.
#[cfg(target_os = "linux")]
fn python_server(host: &str, port: &str, folder: &Folder) -> (Running, String) {
    let server = "import os, socket, sys, time\n\
        family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n\
        s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, \
                                 reuse_port=True)\n\
        open(sys.argv[3], 'w').write('%d\\n' % os.getpid())\n\
        time.sleep(600)";
    let mut python = Command::new("python3");
    plain(python.args(["-c", server, host, port]));
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    let up = folder.path().join(format!("up{entries}"));
    let server = Running::start(python.arg(&up));
    let pid = line_in(&up);
    (server, pid)
}

/// The two servers have the same parent and start together, like the parts of a pipeline. But the
/// process of `--pid` has a listener, so it is not the wrong part of one.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_shares_the_port_of_the_server_is_to_be_stopped() {
    need!(installed("python3"), capability::native());
    let (p, folder) = (reserve_port(), Folder::new());
    let port = p.to_string();
    let (_other, other) = python_server("127.0.0.1", &port, &folder);
    let (_own, own) = python_server("127.0.0.1", &port, &folder);
    let wait = ["wait", "--timeout", "100ms", "--pid", &own, &port];
    let met = ran(&[&wait[..], &["--listening"]].concat()).code(0);
    let note = format!("port {port}/tcp is not held by pid {own} alone: python3 (pid {other}) ");
    assert!(met.err.contains(&note), "{met:#?}");
    let met = ran(&[&wait[..], &["--listening", "--json"]].concat()).code(0);
    let in_json = met.json()["note"].as_str().unwrap().to_owned();
    assert!(in_json.starts_with(&note), "{met:#?}");
    let output = ran(&[&wait[..], &["--http", "/"]].concat()).code(1);
    let help = format!("\nhelp: stop pid {other}, or ");
    assert!(output.out.contains(&help), "{output:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn beside_a_stranger_the_other_address_of_the_server_is_named() {
    need!(
        installed("python3"),
        capability::native(),
        capability::ipv6()
    );
    let (p, folder) = (reserve_port(), Folder::new());
    let (_other, other) = python_server("127.0.0.1", &p.to_string(), &folder);
    let (_own, own) = python_server("::1", &p.to_string(), &folder);
    let asked = format!("127.0.0.1:{p}");
    let wait = [
        "wait",
        "--listening",
        "--timeout",
        "100ms",
        "--pid",
        &own,
        &asked,
    ];
    let output = ran(&wait).code(1);
    let expected = format!(
        "python3 (pid {other}) listens on {asked}; python3 (pid {own}) listens on [::1]:{p} \
         only\nhelp: connect to [::1]:{p}, or stop pid {other}, or "
    );
    assert!(output.out.contains(&expected), "{output:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_id_of_a_thread_is_refused_with_that_of_its_process() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (_keep, end) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let own = std::fs::read_link("/proc/thread-self").unwrap();
        sender.send(own.file_name().unwrap().to_owned()).unwrap();
        let _ended = end.recv();
    });
    let thread = receiver.recv().unwrap().into_string().unwrap();
    let p = silent();
    let output = ran(&["wait", "--listening", "--pid", &thread, &p.to_string()]).code(2);
    let pid = std::process::id();
    let message = format!(
        "portlease: cannot wait for pid {thread} to end: it is a thread of pid {pid}; pass \
         {pid} instead\n"
    );
    assert_eq!(output.err, message);
}

#[cfg(unix)]
#[test]
fn an_interrupted_wait_dies_by_the_signal() {
    let (folder, p) = (Folder::new(), reserve_port());
    let args = ["wait", "--listening", "--timeout", "10m", &p.to_string()];
    let (waiting, _) = Running::with_log(&mut portlease(&args), &folder.path().join("log"));
    use rustix::process::Signal;
    waiting.signal(Signal::INT);
    let output = waiting.finish().killed_by(Signal::INT);
    assert_eq!(output.out, "");
}

#[test]
fn a_wait_for_every_port_ends_in_time() {
    need!(capability::network_namespace());
    let inside = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        crate::program::plain(command.args(["-n", "sh", "-c", script]));
        let started = std::time::Instant::now();
        (finish(&mut command), started.elapsed())
    };
    // In a new namespace every port is free. One query to the kernel for each port would take
    // longer than a minute in total.
    let (ran, took) = inside("ip link set lo up; exec \"$BIN\" wait --free --timeout 20s 1-65535");
    assert!(
        ran.code(0).err.is_empty() && took.as_secs() < 60,
        "{took:?}"
    );
    let (ran, took) = inside("exec \"$BIN\" wait --listening --timeout 1s 20000-29999");
    let output = ran.code(1).out;
    assert!(
        output.starts_with("port 20000/tcp is not listening"),
        "{output}"
    );
    // On a busy machine the search for further ports to report ends early.
    let (_, rest) = output.split_once("\nand up to ").unwrap();
    let left: usize = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(
        (9990..10_000).contains(&left) && took.as_secs() < 60,
        "{output}"
    );
}
