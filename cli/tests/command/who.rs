//! `portlease who`.

#[cfg(target_os = "linux")]
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Command;
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

use portlease::reserve_port;
use serde_json::{Value, json};

use crate::program::{BINARY, finish, plain, portlease, ran, silent};
#[cfg(target_os = "linux")]
use crate::program::{Running, filtered, for_everybody};
#[cfg(target_os = "linux")]
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// The JSON of a listener of this process on 127.0.0.1.
#[cfg(target_os = "linux")]
pub(crate) fn listener_row(port: u16, answer: &Value) -> Value {
    let process = &answer["holders"][0]["processes"][0];
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then_some(name)
    });
    json!({
        "protocol": "tcp", "local": format!("127.0.0.1:{port}"), "remote": null,
        "state": "listen", "uid": uid, "user": name, "hidden": false, "client": false,
        "interface": null, "shared": false,
        "owner": "processes",
        "processes": [{
            "pid": std::process::id(), "name": comm.trim_end_matches('\n'),
            "program": std::env::current_exe().unwrap().to_str().unwrap(),
            "parent": std::os::unix::process::parent_id(), "uid": uid, "user": name,
            "started": process["started"].as_str().unwrap(), "state": "running",
            "ignores_sigterm": false,
            "working_directory": std::env::current_dir().unwrap().to_str().unwrap(),
            // These values depend on the machine that runs the test.
            "unit": process["unit"], "container": process["container"],
            "relation": "ancestor",
        }],
    })
}

/// Waits until both values are equal. They can differ while a child that another test forked shares
/// the sockets of this process, until the child calls exec.
#[cfg(target_os = "linux")]
pub(crate) fn eventually_equal(query: impl Fn() -> (Value, Value)) {
    eventually("what was expected", DEADLINE, || {
        let (output, expected) = query();
        if output == expected {
            Ok(())
        } else {
            Err(format!("{output:#}\nexpected: {expected:#}"))
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_with_its_process_has_this_json_shape() {
    need!(capability::native());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    eventually_equal(|| {
        let output = ran(&["who", "--json", &format!("{port}/tcp")])
            .code(0)
            .json();
        // False if other users' processes or descriptors in transit cannot be read.
        let complete = output["complete"].as_bool().unwrap();
        let unseen = output["unseen"].as_array().unwrap();
        assert!(complete == unseen.is_empty(), "{output}");
        let expected = json!({
            "version": 1, "port": port, "complete": complete, "unseen": unseen,
            "holders": [listener_row(port, &output)], "leases": [],
        });
        (output, expected)
    });
    let text = ran(&["who", &port.to_string()]).code(0).out;
    assert!(
        text.starts_with(&format!("port {port}: ")) && text.contains("\n  listening    127.0.0.1:"),
        "{text}"
    );
}

#[test]
fn a_lease_without_a_socket_has_this_json_shape() {
    let options = portlease::ReserveOptions::new()
        .reuse_addr(false)
        .label("primary");
    let p = options.reserve().unwrap();
    let at = format!("{}:{}", file!(), line!() - 1);
    let output = ran(&["who", "--json", &p.to_string()]).code(0).json();
    let since = output["leases"][0]["since"].as_str().unwrap();
    assert!(
        since.len() == 20 && since.ends_with('Z') && since.as_bytes()[10] == b'T',
        "{since}"
    );
    let expected = json!([{
        "protocol": "tcp", "port": p.port(), "pid": std::process::id(),
        "foreign": false, "inherited_by": [], "on_behalf_of": null,
        "on_behalf_of_name": null, "command": null,
        "working_directory": std::env::current_dir().unwrap().to_str().unwrap(),
        "program": std::env::current_exe().unwrap().to_str().unwrap(),
        "test": "who::a_lease_without_a_socket_has_this_json_shape", "at": at,
        "label": "primary", "name": null, "first_choice": null, "since": since,
    }]);
    assert_eq!(output["leases"], expected);
    assert_eq!(output["holders"], json!([]));
}

#[test]
#[cfg_attr(
    windows,
    ignore = "Windows lists no socket that is bound without listening"
)]
fn a_port_without_a_holder_exits_with_1() {
    need!(capability::bound_sockets());
    // Only the UDP port of this number is reserved.
    let (p, folder) = (portlease::reserve_udp_port(), Folder::new());
    let without_holder = |args: &[&str]| {
        let port = format!("{p}/tcp");
        finish(portlease(&[&["who", &port], args].concat()).env("PORTLEASE_DIR", folder.locks()))
            .code(1)
    };
    assert_eq!(
        without_holder(&[]).out,
        format!("port {p}/tcp: nobody holds it\n")
    );
    assert_eq!(without_holder(&["-q"]).out, "");
    let expected = json!({
        "version": 1, "port": p.port(), "complete": true, "unseen": [], "holders": [],
        "leases": [],
    });
    assert_eq!(without_holder(&["--json"]).json(), expected);
}

#[test]
fn nothing_found_and_something_unreadable_exits_with_3() {
    need!(capability::strace());
    // Only the UDP port of this number is reserved.
    let (p, folder) = (portlease::reserve_udp_port(), Folder::new());
    // strace refuses sock_diag(7), as a sandbox does.
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendto",
        "-e",
        "inject=sendto:error=EPERM",
    ]);
    plain(
        strace
            .args([BINARY, "who", &format!("{p}/tcp")])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let output = finish(&mut strace).code(3).out;
    assert!(
        output.starts_with(&format!("port {p}/tcp: nothing found, but ")),
        "{output}"
    );
}

#[test]
#[cfg_attr(
    windows,
    ignore = "Windows lists no socket that is bound without listening"
)]
fn sockets_are_shown_with_lower_case_states_and_peers() {
    need!(capability::bound_sockets());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let client = TcpStream::connect(&p).unwrap();
    let (accepted, peer) = server.accept().unwrap();
    let output = ran(&["who", "--json", &p.to_string()]).code(0).json();
    let rows = output["holders"].as_array().unwrap();
    let states: Vec<&str> = rows
        .iter()
        .map(|row| row["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["listen", "bound", "established"], "{output}");
    assert_eq!(rows[2]["remote"], json!(peer.to_string()));
    let output = ran(&["who", "--json", &peer.port().to_string()])
        .code(0)
        .json();
    assert!(
        output["holders"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["client"] == true),
        "{output}"
    );

    // The server closes first, so its side of the connection stays in TIME_WAIT for a minute.
    drop(accepted);
    drop(client);
    let time_wait = |output: &Value| {
        let rows = output["holders"].as_array().unwrap();
        let row = rows.iter().find(|row| row["state"] == "time_wait")?;
        Some((
            row["hidden"].clone(),
            row["processes"].clone(),
            row["uid"].clone(),
        ))
    };
    let row = eventually("TIME_WAIT", DEADLINE, || {
        let output = ran(&["who", "--json", &p.to_string()]).code(0).json();
        time_wait(&output).ok_or_else(|| output.to_string())
    });
    assert_eq!(row, (json!(false), json!([]), json!(null)));
}

#[test]
#[cfg_attr(windows, ignore = "the library does not read command lines there")]
fn command_lines_and_a_probe_are_shown_on_request() {
    need!(capability::native());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let port = format!("{p}/tcp");
    let arguments: Vec<String> = std::env::args().collect();
    let output = ran(&["who", "--json", "--command-line", "--probe", &port])
        .code(0)
        .json();
    assert_eq!(
        output["holders"][0]["processes"][0]["command_line"],
        json!(arguments)
    );
    assert_eq!(output["probe"], json!("accepts"));
    let text = ran(&["who", "--command-line", "--probe", &port])
        .code(0)
        .out;
    let pid = format!("\n  {:<13}", format!("pid {}", std::process::id()));
    assert!(
        text.contains(&pid)
            && text.contains(&format!("\n  a client     of 127.0.0.1:{p} is accepted\n")),
        "{text}"
    );
    drop(server);
    let text = ran(&["who", "--probe", &port]).code(0).out;
    let refused = format!("\n  a client     of 127.0.0.1:{p} is refused\n");
    assert!(text.contains(&refused), "{text}");
    let text = ran(&["who", &port]).code(0).out;
    assert!(!text.contains(&pid), "{text}");
}

#[test]
#[cfg_attr(windows, ignore = "wine shows no owner of some listeners")]
fn several_ports_and_every_listener_are_shown() {
    need!(capability::native());
    let (one, other) = (reserve_port(), reserve_port());
    let servers = [one.listen().unwrap(), other.listen().unwrap()];
    let both = format!("{one},{other}");
    let text = ran(&["who", &both]).code(0).out;
    for p in [&one, &other] {
        assert!(text.contains(&format!("port {p}: ")), "{text}");
    }
    let answer = ran(&["who", "--json", &both]).code(0).json();
    assert_eq!(answer["ports"].as_array().unwrap().len(), 2, "{answer:#}");
    let own = std::process::id().to_string();
    let here = std::env::current_dir().unwrap();
    let mut queries = vec![vec!["who"], vec!["who", "--pid", &own]];
    if cfg!(target_os = "linux") {
        queries.push(vec!["who", "--under", here.to_str().unwrap()]);
    }
    for args in queries {
        let text = ran(&args).code(0).out;
        for p in [&one, &other] {
            assert!(
                text.contains(&format!("127.0.0.1:{p} ")),
                "{args:?}: {text}"
            );
        }
    }
    // An answer about another address names that address, and also the listener on 127.0.0.1.
    let text = ran(&["who", &format!("127.0.0.2:{one}")]).code(0).out;
    let listener = format!("\n  listening    127.0.0.1:{one} ");
    assert!(
        text.starts_with(&format!("port 127.0.0.2:{one}: ")),
        "{text}"
    );
    assert!(text.contains(&listener), "{text}");
    // Queries that may find nothing: about process 1, and about a folder in which no process runs.
    let folder = Folder::new();
    let empty = folder.path().to_str().unwrap();
    let answer = ran(&["who", "--pid", "1", "--json"]).json();
    assert!(
        answer["complete"].is_boolean() && answer["unseen"].is_array(),
        "{answer:#}"
    );
    let nothing = ran(&["who", "--under", empty]);
    if cfg!(target_os = "linux") {
        let is_certain = nothing.err == "portlease: no matching process listens\n";
        nothing.code(if is_certain { 1 } else { 3 });
        let error = ran(&["who", "--under", "/no/such/folder"]).code(2).err;
        assert!(error.contains("cannot read \"/no/such/folder\""), "{error}");
    } else {
        let error = nothing.code(2).err;
        assert!(error.contains("--under does not work"), "{error}");
    }
    drop(servers);
}

/// The answer must not name an old kernel as the cause, or say that no process holds the port.
#[test]
#[cfg(target_os = "linux")]
fn a_lack_of_file_descriptors_is_named() {
    let p = reserve_port();
    let _server = p.listen().unwrap();
    let call = |limit: u32, args: &str| {
        let script = format!("ulimit -n {limit}; exec \"$BIN\" {args} {p}");
        let mut command = std::process::Command::new("sh");
        crate::program::plain(command.args(["-c", &script]));
        finish(&mut command)
    };
    let mut failed = 0;
    for limit in 4..10 {
        for args in [
            "who",
            "who --json",
            "check --wait 0s",
            "check",
            "wait --free --timeout 0s",
        ] {
            let ran = call(limit, args);
            let text = format!("{}{}", ran.out, ran.err);
            let is_short = text.contains("file descriptors");
            failed += u32::from(is_short);
            if matches!(ran.status.code(), Some(2 | 3)) {
                assert!(
                    is_short && !text.contains("6.8"),
                    "{limit} {args}: {ran:#?}"
                );
            }
            let unnamed = "sockets could not be read\n";
            assert!(!text.contains(unnamed), "{limit} {args}: {ran:#?}");
        }
    }
    assert!(failed > 0, "control: some limit is too low");
}

#[test]
fn a_probe_skips_udp_ports() {
    let port = silent().to_string();
    let udp = format!("{port}/udp");
    let output = ran(&["who", "--probe", "--json", &udp, &port]).json();
    assert_eq!(output["ports"][0]["probe"], json!("not_probed"));
    assert_eq!(output["ports"][1]["probe"], json!("refuses"));
    let text = ran(&["who", "--probe", &udp]).out;
    assert!(
        text.ends_with("  a client     not probed: a probe makes a TCP connection\n"),
        "{text}"
    );
}

/// If the probes were made one after another, they would take two minutes.
#[cfg(target_os = "linux")]
#[test]
fn many_silent_ports_are_probed_at_the_same_time() {
    need!(capability::network_namespace(), capability::nft());
    let started = Instant::now();
    let output = filtered("exec \"$BIN\" who --probe 9000-9030").code(1);
    assert!(started.elapsed() < Duration::from_secs(20), "{output:#?}");
    let silent = "\n  a client     of 127.0.0.1:90";
    assert_eq!(output.out.matches(silent).count(), 31, "{output:#?}");
    let last = "\n  a client     of 127.0.0.1:9030 gets no answer\n";
    assert!(output.out.contains(last), "{output:#?}");
}

/// The listeners of that process cannot be seen from here, so the answer is not "no".
#[cfg(target_os = "linux")]
#[test]
fn a_process_in_another_network_namespace_is_named_as_such() {
    need!(capability::network_namespace());
    let mut sleep = Command::new("unshare");
    sleep
        .args(capability::unshare_flags())
        .args(["-n", "sleep", "600"]);
    plain(&mut sleep);
    let sleep = Running::start(&mut sleep);
    let pid = sleep.pid().to_string();
    let note = format!("portlease: pid {pid} is in another network namespace, whose listeners");
    // unshare(1) may not have entered its namespace yet.
    eventually("the other namespace is reported", DEADLINE, || {
        let output = ran(&["who", "--pid", &pid]);
        let is_named = output.status.code() == Some(3) && output.err.starts_with(&note);
        is_named.then_some(()).ok_or(format!("{output:#?}"))
    });
    let answer = ran(&["who", "--json", "--pid", &pid]).code(3).json();
    assert_eq!(answer["complete"], json!(false), "{answer}");
    // The control: a process in this namespace that does not listen.
    let mut sleep = Command::new("sleep");
    plain(sleep.arg("600"));
    let sleep = Running::start(&mut sleep);
    let output = ran(&["who", "--pid", &sleep.pid().to_string()]);
    assert!(!output.err.contains("namespace"), "{output:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_pid_that_no_running_process_has_is_an_error() {
    let error = |pid: &str, cause: &str| {
        let text = format!("portlease: cannot show the listeners of pid {pid}: {cause}\n");
        for format in [&[][..], &["--json"]] {
            let output = ran(&[&["who", "--pid", pid], format].concat()).code(2);
            assert_eq!((output.out.as_str(), &output.err), ("", &text));
        }
    };
    // This id is above the highest one that Linux assigns.
    error("2147483647", "no such process");
    // A thread of this process, which runs during the call.
    let own = std::process::id();
    let thread = || {
        let path = std::fs::read_link("/proc/thread-self").unwrap();
        let cause = format!("it is a thread of pid {own}; pass {own} instead");
        error(path.file_name().unwrap().to_str().unwrap(), &cause);
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap());
    // A child of this process that has ended, and is a zombie.
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let parent = format!("its parent {} (pid {own})", name.trim_end());
    eventually("the child has ended", DEADLINE, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") Z ").then_some(()).ok_or(stat)
    });
    let cause = format!("the process has ended, and {parent} has not read its exit status");
    error(&pid, &cause);
    child.wait().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_whose_network_namespace_cannot_be_read_may_listen() {
    need!(capability::nobody());
    let mut sleep = Command::new("sleep");
    plain(sleep.arg("600"));
    let sleep = Running::start(&mut sleep);
    let pid = sleep.pid().to_string();
    let (binary, _copy) = for_everybody();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    // Root without this capability gets no advice to retry as root.
    let root = ["--bounding-set=-sys_ptrace"];
    let lacks = "this process is root, but lacks the capability CAP_SYS_PTRACE";
    for (user, reason) in [(&nobody[..], "retry as root"), (&root[..], lacks)] {
        let mut who = Command::new("setpriv");
        plain(who.args(user).arg(&binary));
        let answer = finish(who.args(["who", "--json", "--pid", &pid]));
        let answer = answer.code(3).json();
        let unseen = answer["unseen"].as_array().unwrap();
        let text = format!(
            "the network namespace of pid {pid} cannot be read, so its listeners may not be \
             visible here; {reason}"
        );
        assert!(unseen.contains(&json!(text)), "{answer}");
        assert_eq!(answer["complete"], json!(false), "{answer}");
    }
}

/// The sockets still listen, and no packet filter is in the way.
#[cfg(target_os = "linux")]
#[test]
fn an_address_that_gets_no_packets_is_named_by_a_probe() {
    need!(
        installed("python3"),
        capability::network_namespace(),
        capability::sock_diag()
    );
    let script = "ip link set lo up && ip addr add 10.9.9.1/32 dev lo || exit 99\n\
        python3 -c \"import socket, time; lost = socket.create_server(('10.9.9.1', 4004)); \
        local = socket.create_server(('127.0.0.1', 4003)); time.sleep(600)\" &\n\
        \"$BIN\" wait -q --listening --timeout 60s 4003 4004 || exit 98\n\
        ip addr del 10.9.9.1/32 dev lo\n\
        \"$BIN\" who --probe 10.9.9.1:4004\n\
        \"$BIN\" wait --http / --timeout 100ms 10.9.9.1:4004\n\
        ip link set lo down\n\
        \"$BIN\" who --probe 4003; kill $!";
    let folder = Folder::new();
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(["-n", "sh", "-c", script])
        .env("PORTLEASE_DIR", folder.locks());
    plain(&mut command);
    let output = finish(&mut command).code(0);
    let missing = "although a socket listens: this machine does not have the address\n";
    assert!(output.out.contains(missing), "{output:#?}");
    let missing = "a socket listens on 10.9.9.1:4004, but this machine does not have the address\n";
    assert!(output.out.contains(missing), "{output:#?}");
    let down = "although a socket listens: the network interface lo is down: `ip link set lo up` ";
    assert!(output.out.contains(down), "{output:#?}");
    assert!(!output.out.contains("packet filter"), "{output:#?}");
}
