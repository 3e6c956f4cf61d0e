//! `portlease check`.

#[cfg(target_os = "linux")]
use std::io::Read;
use std::net::TcpListener;
#[cfg(target_os = "linux")]
use std::net::TcpStream;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::process::Command;

use portlease::{ReserveOptions, reserve_port};
use serde_json::json;

use crate::program::{Running, finish, for_everybody, plain, portlease, ran, silent};
use crate::support::capability::{self, unshare_flags};
use crate::support::program::python;
#[cfg(target_os = "linux")]
use crate::support::{DEADLINE, eventually};
use crate::support::{Folder, need, show_owner};

#[test]
fn free_ports_are_counted_unless_quiet() {
    let ports = [silent(), silent()].map(|p| (p.to_string(), p));
    let udp = portlease::reserve_udp_port();
    let list = format!("{},{}", ports[0].0, ports[1].0);
    let ran = ran(&["check", &list, &format!("127.0.0.1:{udp}/udp")]).code(0);
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("3 ports are free\n", "")
    );
    let one = crate::program::ran(&["check", &ports[0].0]).code(0);
    assert_eq!(one.out, format!("port {}/tcp is free\n", ports[0].0));
    assert_eq!(crate::program::ran(&["check", "-q", &list]).code(0).out, "");
}

#[test]
fn each_busy_port_is_reported_with_its_holder_and_a_help_line() {
    let block = ReserveOptions::new().reserve_block(3).unwrap();
    let server = block[1].listen().unwrap();
    show_owner(&server);
    let pid = std::process::id();
    let (first, middle, last) = (block[0].port(), block[1].port(), block[2].port());
    let ran = ran(&["check", &format!("{first}-{last}")]).code(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    let [holder, help] = lines[..] else {
        panic!("{ran:#?}")
    };
    assert!(
        holder.starts_with(&format!("port {middle}/tcp is in use: ")),
        "{holder}"
    );
    assert!(
        holder.ends_with(&format!("(pid {pid}) listens on 127.0.0.1:{middle}")),
        "{holder}"
    );
    assert!(
        help.starts_with(&format!(
            "help: close the socket in pid {pid}, an ancestor of this process, or "
        )),
        "{help}"
    );
    drop(server);
    crate::program::ran(&["check", &format!("{first}-{last}")]).code(0);
}

/// A check retries for 100 ms while no owner is visible. These ports share that time.
#[test]
fn many_ports_without_a_visible_owner_cost_little_more_than_one() {
    need!(capability::pid_namespace());
    const PORTS: u16 = 60;
    let block = ReserveOptions::new().reserve_block(PORTS.into()).unwrap();
    let _servers: Vec<_> = block.iter().map(|p| p.listen().unwrap()).collect();
    let range = format!("{}-{}", block[0].port(), block[0].port() + PORTS - 1);
    let one_by_one = std::time::Duration::from_millis(100) * PORTS.into();
    for (args, ports) in [
        (&["check"][..], PORTS),
        (&["check", "--wait", "100ms"], PORTS),
        (&["wait", "--free", "--timeout", "100ms"], 10),
        (&["stop"], PORTS),
    ] {
        let mut command = Command::new("unshare");
        command.args([
            "-pf",
            "--mount-proc",
            "sh",
            "-c",
            "exec \"$BIN\" \"$@\"",
            "sh",
        ]);
        plain(command.args(args).arg(&range));
        let started = std::time::Instant::now();
        let ran = finish(&mut command);
        let took = started.elapsed();
        assert!(took < one_by_one, "{args:?}: {took:?}: {ran:#?}");
        let hidden = ran.code(1).out.matches(" is in use: held by ").count();
        assert_eq!(hidden, usize::from(ports), "{args:?}");
    }
}

/// Ten lines, of which five are the same help line, would hide the answer.
#[test]
fn the_remedies_of_many_busy_ports_come_in_one_line_at_the_end() {
    let block = ReserveOptions::new().reserve_block(5).unwrap();
    let servers: Vec<_> = block.iter().map(|p| p.listen().unwrap()).collect();
    servers.iter().for_each(show_owner);
    let range = format!("{}-{}", block[0], block[4]);
    let output = ran(&["check", &range]).code(1).out;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 6, "{output}");
    for (line, p) in lines.iter().zip(&block) {
        assert!(
            line.starts_with(&format!("port {p}/tcp is in use: ")),
            "{output}"
        );
    }
    let help = format!(
        "help: close the socket in pid {}, an ancestor of this process, or reserve another port \
         with `portlease reserve`",
        std::process::id()
    );
    assert_eq!(lines[5], help);
    drop(servers);
}

#[test]
fn verbose_prints_the_full_report_and_quiet_nothing() {
    let p = reserve_port();
    let _server = p.listen().unwrap();
    let output = ran(&["check", "-v", &p.to_string()]).code(1).out;
    assert!(
        output.contains("\n  listening ") && output.contains("\n  reserved "),
        "{output}"
    );
    let output = ran(&["check", "-q", &p.to_string()]).code(1);
    assert_eq!((output.out.as_str(), output.err.as_str()), ("", ""));
    let free = silent();
    let output = ran(&["check", "-v", &free.to_string()]).code(0);
    assert_eq!(output.out, format!("port {free}/tcp is free\n"));
    let headline = format!("portlease: port {free}/tcp is free: nobody holds it\n");
    assert!(output.err.starts_with(&headline), "{}", output.err);
    assert!(
        output.err.contains("\n  a server     could bind "),
        "{}",
        output.err
    );
}

#[test]
fn listening_checks_for_servers_instead() {
    let (quiet, p) = (silent(), reserve_port());
    let _server = p.listen().unwrap();
    ran(&["check", "--listening", &p.to_string()]).code(0);
    let output = ran(&["check", "--listening", &p.to_string(), &quiet.to_string()])
        .code(1)
        .out;
    assert!(
        output.starts_with(&format!("port {quiet}/tcp is not listening: ")),
        "{output}"
    );
}

#[test]
fn a_port_that_cannot_be_checked_is_neither_yes_nor_no() {
    let (free, busy) = (silent(), reserve_port());
    let _server = busy.listen().unwrap();
    let unchecked = format!("{free}/udplite");
    let output = ran(&["check", &free.to_string(), &unchecked]).code(3).out;
    assert!(
        output.starts_with(&format!("cannot check port {unchecked}: ")),
        "{output}"
    );
    ran(&["check", &unchecked, &busy.to_string()]).code(1);
    let output = ran(&["check", "--json", &unchecked]).code(3).json();
    assert_eq!(output["ports"][0]["free"], json!(null));
}

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn a_reservation_without_a_server_makes_the_port_busy() {
    let folder = Folder::new();
    let mut sleeper = portlease(&["run", "--label", "not yours", "--", "sh", "-c"]);
    let file = folder.path().join("port");
    sleeper
        .arg("echo $PORT > \"$FILE\"; exec sleep 600")
        .env("FILE", &file);
    let mut sleeper = Running::start(sleeper.env("PORTLEASE_DIR", folder.locks()));
    let port = crate::program::line_in(&file);
    let output = finish(portlease(&["check", &port]).env("PORTLEASE_DIR", folder.locks()))
        .code(1)
        .out;
    let expected = format!("port {port}/tcp is in use: reserved by portlease (");
    assert!(
        output.starts_with(&expected) && output.contains("labelled \"not yours\""),
        "{output}"
    );
    assert!(sleeper.runs());
}

#[test]
fn a_port_of_a_hidden_process_is_busy() {
    need!(capability::nobody());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let (binary, _folder) = for_everybody();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(args);
        plain(&mut command);
        finish(&mut command)
    };
    let output = as_nobody(&["check", &port]).code(1).out;
    assert!(
        output.contains(
            "held by uid 0 (root): the owner is a process that this user may not inspect"
        ),
        "{output}"
    );
    let output = as_nobody(&["who", "--json", &port]).code(0).json();
    assert_eq!(
        (&output["complete"], &output["holders"][0]["hidden"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(output["holders"][0]["processes"], json!([]));
    // The listener is on another address than the one that is checked.
    let other = format!("127.0.0.2:{port}");
    let output = as_nobody(&["check", "--listening", &other]).code(1).out;
    let expected = format!(
        "port {other}/tcp is not listening: a socket listens on 127.0.0.1:{port} only, held by uid \
         0 (root): the owner is a process that this user may not inspect, or the kernel itself; \
         connections to 127.0.0.2 are refused\n"
    );
    assert!(output.starts_with(&expected), "{output}");
}

/// Both processes must end before the port is free.
#[cfg(target_os = "linux")]
#[test]
fn a_hidden_holder_beside_a_visible_one_is_reported_too() {
    need!(capability::nobody(), capability::ipv6());
    let visible = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = visible.local_addr().unwrap().port();
    let _hidden = TcpListener::bind(("::1", port)).unwrap();
    let as_nobody = |program: &std::ffi::OsStr, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(program).args(args);
        plain(&mut command);
        command
    };
    let sleep = {
        let mut sleep = as_nobody("sleep".as_ref(), &["600"]);
        Running::start(sleep.stdin(OwnedFd::from(visible)))
    };
    let (binary, _folder) = for_everybody();
    let check = || {
        finish(&mut as_nobody(
            binary.as_ref(),
            &["check", &port.to_string()],
        ))
    };
    let has_both = |output: &str| {
        let cause = format!(
            "sleep (pid {}) listens on 127.0.0.1:{port}, and a socket on [::1]:{port}",
            sleep.pid()
        );
        let help = format!("help: stop pid {}; and retry with permission", sleep.pid());
        output.contains(&cause) && output.contains(&help)
    };
    // setpriv(1) may not have executed sleep(1) yet.
    eventually("both holders are reported", DEADLINE, || {
        let output = check().code(1).out;
        has_both(&output).then_some(()).ok_or(output)
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_json_answer_has_this_shape() {
    need!(capability::native());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let free = silent();
    crate::who::eventually_equal(|| {
        let output = ran(&[
            "check",
            "--json",
            &port.to_string(),
            &format!("127.0.0.1:{free}"),
        ])
        .code(1)
        .json();
        let rows = output["ports"].as_array().unwrap();
        let cause = rows[0]["cause"].as_str().unwrap();
        assert!(
            cause.ends_with(&format!(
                " (pid {}) listens on 127.0.0.1:{port}",
                std::process::id()
            )),
            "{cause}"
        );
        let pid = std::process::id();
        // Without IPv6 this remedy is missing.
        let other = std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, port)).ok();
        let other = other.map(|_| {
            json!({
                "kind": "listen_on_free_address",
                "text": format!("let the new server listen on [::1]:{port}, which is free"),
            })
        });
        let close = json!({
            "kind": "close_socket_of_ancestor",
            "text": format!("close the socket in pid {pid}, an ancestor of this process"),
            "pid": pid,
        });
        let reserve = json!({
            "kind": "reserve_another_port",
            "text": "reserve another port with `portlease reserve`",
        });
        let remedies: Vec<_> = [Some(close), other, Some(reserve)]
            .into_iter()
            .flatten()
            .collect();
        let mut expected = json!({"version": 1, "ports": [
            {
                "endpoint": format!("{port}/tcp"), "free": false,
                "holders": [crate::who::listener_row(port, &rows[0])],
                "cause": cause, "help": rows[0]["help"].as_str().unwrap(),
                "remedies": remedies,
            },
            {
                "endpoint": format!("127.0.0.1:{free}/tcp"), "free": true, "holders": [],
                "cause": null, "help": null,
            },
        ]});
        // Present if other users' processes cannot be read.
        if let Some(unseen) = rows[0].get("unseen") {
            expected["ports"][0]["unseen"] = unseen.clone();
        }
        (output, expected)
    });
    let output = ran(&["check", "--json", "--listening", &port.to_string()])
        .code(0)
        .json();
    let row = json!({
        "endpoint": format!("{port}/tcp"), "listening": true, "holders": [],
        "cause": null, "help": null,
    });
    assert_eq!(output, json!({"version": 1, "ports": [row]}));
}

#[test]
fn a_check_that_times_out_reports_the_port() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let output = ran(&["check", "--wait", "50ms", &p.to_string()]).code(1);
    assert!(
        output.out.starts_with(&format!("port {p}/tcp is in use: ")),
        "{output:#?}"
    );
    assert!(
        output.err.starts_with(&format!(
            "portlease: waiting up to 50ms for {p}/tcp to be free\n"
        )),
        "{output:#?}"
    );
    assert!(
        output.err.contains("\nportlease: timed out after "),
        "{output:#?}"
    );

    let folder = Folder::new();
    let mut command = portlease(&["check", "--wait", "10m", &p.to_string()]);
    let (waiting, line) = Running::with_log(&mut command, &folder.path().join("log"));
    assert_eq!(
        line,
        format!("portlease: waiting up to 10m for {p}/tcp to be free")
    );
    drop(server);
    let output = waiting.finish().code(0);
    assert_eq!(output.out, format!("port {p}/tcp is free\n"));
}

#[test]
fn a_waiting_check_reports_ports_that_cannot_be_checked_as_a_check_does() {
    let folder = Folder::new();
    let p = reserve_port();
    let _server = p.listen().unwrap();
    let busy = p.to_string();
    for (ports, code) in [
        (&["9/udplite"][..], 3),
        (&["192.0.2.9:9"], 1),
        (&["9/udplite", &busy], 1),
        (&[&busy, "9/udplite"], 1),
    ] {
        let file = folder.path().join("new").join("junit.xml");
        let junit = ["--json", "--junit", file.to_str().unwrap()];
        let now = ran(&[&["check"], &junit[..], ports].concat()).code(code);
        let waiting = ["check", "--wait", "50ms"];
        std::fs::remove_file(&file).unwrap();
        let waited = ran(&[&waiting[..], &junit, ports].concat()).code(code);
        assert!(file.exists());
        let answers = |ran: &crate::program::Ran| -> Vec<_> {
            let rows = ran.json()["ports"].as_array().unwrap().clone();
            rows.into_iter()
                .map(|row| (row["endpoint"].clone(), row["free"].clone()))
                .collect()
        };
        assert_eq!(answers(&now), answers(&waited), "{ports:?}");
    }
}

/// Starts servers on `busy`, and ends them once the command has begun to wait. The command runs as
/// the user nobody in a network namespace in which ports below 1024 are privileged.
fn while_servers_end(busy: &str, args: &str) -> crate::program::Ran {
    const SERVERS: &str = "import socket, sys, time
servers = [socket.create_server(('', int(port))) for port in sys.argv[1].split(',')]
print('listening', flush=True)
time.sleep(600)";
    let (binary, folder) = for_everybody();
    let script = format!(
        "ip link set lo up || exit 99
        echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start || exit 99
        {python} -c \"$SERVERS\" {busy} > servers & servers=$!
        while kill -0 $servers && ! test -s servers; do sleep 0.01; done
        setpriv --reuid=65534 --regid=65534 --clear-groups {binary:?} {args} 2> notes & command=$!
        while kill -0 $command && ! test -s notes; do sleep 0.01; done
        kill $servers
        wait $command; code=$?
        cat notes >&2; exit $code",
        python = python(),
    );
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", &script])
        .env("SERVERS", SERVERS)
        .env("PORTLEASE_DIR", folder.locks())
        .current_dir(folder.path());
    plain(&mut command);
    finish(&mut command)
}

/// The command has the socket too, but only until it ends.
#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_the_command_has_inherited_is_that_of_its_parent() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut check = portlease(&["check", &port.to_string()]);
    let inherited = OwnedFd::from(server.try_clone().unwrap());
    let output = finish(check.stdin(inherited)).code(1).out;
    let help = format!(
        "\nhelp: close the socket in pid {}, an ancestor of this process, or ",
        std::process::id()
    );
    assert!(
        output.contains(&help) && !output.contains("this process has it"),
        "{output}"
    );
}

#[test]
fn a_privileged_port_does_not_decide_for_the_other_ports_of_a_waiting_check() {
    need!(capability::nobody());
    need!(capability::network_namespace());
    for (busy, ports) in [
        ("18080", "81 18080"),
        ("18080", "18080 81"),
        // Port 81 cannot be checked once its server has ended.
        ("81,18080", "81 18080"),
        ("81,18080", "18080 81"),
    ] {
        let ran = while_servers_end(busy, &format!("check --wait 10m {ports}")).code(1);
        let findings: Vec<&str> = ran.out.lines().collect();
        assert!(
            findings.len() == 2 && findings[0].starts_with("port 81/tcp cannot be bound: "),
            "{busy}: {ports}: {ran:#?}"
        );
        assert!(
            ran.err.contains("\nportlease: 18080/tcp free after "),
            "{busy}: {ports}: {ran:#?}"
        );
        // A wait needs an answer for every port.
        let ran = while_servers_end(busy, &format!("wait --free --timeout 10m {ports}")).code(2);
        assert!(
            ran.out.is_empty() && ran.err.contains(" 81/tcp"),
            "{busy}: {ports}: {ran:#?}"
        );
    }
}

#[test]
fn a_privileged_port_that_is_taken_is_in_use() {
    need!(capability::nobody());
    need!(capability::network_namespace());
    let ran = while_servers_end("81", "reserve --port 81").code(2);
    let expected = "portlease: cannot reserve 81/tcp: address already in use: held by uid 0";
    assert!(ran.err.contains(expected), "{ran:#?}");
    // The control: the same user, and a privileged port that is free.
    let ran = while_servers_end("82", "reserve --port 81").code(2);
    let expected = "portlease: cannot reserve 81/tcp: permission denied: ";
    assert!(ran.err.contains(expected), "{ran:#?}");
    assert!(ran.err.contains(", or run as root, or "), "{ran:#?}");
}

#[test]
fn root_without_the_capability_is_not_advised_to_run_as_root() {
    need!(capability::network_namespace());
    let script = "echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start || exit 99
                  exec setpriv --bounding-set=-net_bind_service \"$BIN\" reserve --port 81";
    let folder = Folder::new();
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", script]);
    plain(&mut command);
    let ran = finish(command.env("PORTLEASE_DIR", folder.locks())).code(2);
    assert!(
        ran.err.contains(" requires CAP_NET_BIND_SERVICE"),
        "{ran:#?}"
    );
    assert!(!ran.err.contains("run as root"), "{ran:#?}");
}

#[test]
fn a_report_that_cannot_be_written_does_not_withhold_the_answer() {
    let p = silent();
    let output = ran(&["check", "--junit", "/dev/full", &p.to_string()]).code(2);
    assert_eq!(output.out, format!("port {p}/tcp is free\n"));
    assert!(
        output.err.contains("cannot write /dev/full: "),
        "{output:#?}"
    );
}

#[test]
fn a_check_after_a_wait_reports_a_redirected_port() {
    need!(capability::network_namespace(), capability::nft());
    // The rule redirects one of two ports to a server on a third port.
    let script = "ip link set lo up && nft add table ip nat && \
                  nft 'add chain ip nat out { type nat hook output priority -100; }' && \
                  nft add rule ip nat out tcp dport 8080 redirect to :9090 || exit 99
                  exec \"$BIN\" run --listen A=9090 -- \
                  \"$BIN\" check --listening --wait 1ms 8080 8081";
    let folder = Folder::new();
    let mut command = Command::new("unshare");
    command
        .args(unshare_flags())
        .args(["-n", "sh", "-c", script]);
    plain(&mut command);
    let output = finish(command.env("PORTLEASE_DIR", folder.locks())).code(1);
    let lines: Vec<&str> = output.out.lines().collect();
    let expected = "port 8080/tcp is not listening: no socket listens, but a connection to \
                    127.0.0.1:8080 is accepted: a packet filter, such as ";
    assert!(lines[0].starts_with(expected), "{output:#?}");
    let help = "help: list the rules of the packet filter";
    assert!(lines[1].starts_with(help), "{output:#?}");
    let control = "port 8081/tcp is not listening: nobody holds it";
    assert_eq!(
        lines[2..],
        [control, "help: start the server if it does not run"]
    );
}

/// A server that has stopped leaves TIME_WAIT. A server without SO_REUSEADDR cannot bind then.
#[test]
#[cfg(target_os = "linux")]
fn a_port_that_is_free_only_with_reuse_addr_is_reported_as_such() {
    need!(capability::native());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    let client = TcpStream::connect(addr).unwrap();
    let (connection, _) = server.accept().unwrap();
    drop((server, connection));
    let mut rest = Vec::new();
    (&client).read_to_end(&mut rest).unwrap();
    drop(client);
    let port = addr.port().to_string();
    let cause = "TIME_WAIT of 1 connection keeps servers without SO_REUSEADDR from binding; a \
                 server that sets SO_REUSEADDR can bind";
    let text = format!(
        "port {port}/tcp is free only for a server that sets SO_REUSEADDR: {cause}\n\
         help: for other servers, wait up to 60 s until TIME_WAIT ends\n"
    );
    assert_eq!(ran(&["check", &port]).code(0).out, text);
    let free = silent().to_string();
    let both = ran(&["check", &port, &free]).code(0).out;
    let end = "2 ports are free, 1 of them only for servers that set SO_REUSEADDR\n";
    assert_eq!(both, format!("{text}{end}"));
    let rows = ran(&["check", "--json", &port, &free]).code(0).json();
    assert_eq!(rows["ports"][0]["free"], json!(true));
    assert_eq!(rows["ports"][0]["needs_reuse_addr"], json!(cause));
    assert_eq!(rows["ports"][1].get("needs_reuse_addr"), None);
}

/// An automatic port has no abstract name, so only its process shows that it is reserved.
#[cfg(target_os = "linux")]
#[test]
fn a_reservation_in_another_lock_folder_is_no_process_to_stop() {
    need!(capability::native(), capability::bound_sockets());
    let (folder, other) = (Folder::new(), Folder::new());
    // The ancestor of the check reserved the port.
    let script = "PORTLEASE_DIR=\"$OTHER\" \"$0\" check $PORT; echo $? $PPID $PORT";
    let mut command = portlease(&[
        "run",
        "--",
        "sh",
        "-c",
        script,
        env!("CARGO_BIN_EXE_portlease"),
    ]);
    command
        .env("PORTLEASE_DIR", folder.locks())
        .env("OTHER", other.locks());
    let output = finish(&mut command).code(0).out;
    let last: Vec<&str> = output.lines().last().unwrap().split(' ').collect();
    let [code, pid, port] = last[..] else {
        panic!("{output}");
    };
    assert_eq!(code, "1", "{output}");
    let cause = format!("port {port}/tcp is in use: reserved by portlease (pid {pid}): the lock ");
    assert!(output.starts_with(&cause), "{output}");
    let help =
        format!("help: use the port that an ancestor of this process (pid {pid}) has already");
    assert!(output.contains(&help), "{output}");
    // Another process reserved the port.
    let mut sleep = Command::new("sleep");
    plain(sleep.arg("600"));
    let sleep = Running::start(&mut sleep);
    let mut reserve = portlease(&["reserve", "--pid", &sleep.pid().to_string()]);
    let port = finish(reserve.env("PORTLEASE_DIR", folder.locks())).code(0);
    let mut check = portlease(&["check", port.out.trim_end()]);
    let output = finish(check.env("PORTLEASE_DIR", other.locks())).code(1);
    assert!(
        output.out.contains("reserved by portlease (pid "),
        "{output:#?}"
    );
    assert!(
        output.out.contains("help: wait for the port with"),
        "{output:#?}"
    );
}
