//! `portlease run --listen`: the command inherits a socket.

use std::process::Command;

use crate::program::{Ran, Running, ask, finish, line_in, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, need, set_mode};

fn script(options: &[&str], script: &str) -> Command {
    portlease(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

fn words(ran: &Ran) -> Vec<&str> {
    ran.out.split_whitespace().collect()
}

#[test]
fn the_command_finds_the_socket_as_with_systemd() {
    need!(installed("python3"), capability::native());
    let folder = Folder::new();
    let file = folder.path().join("port");
    // Checks the variables, writes the port to a file, and answers one client on the inherited
    // socket.
    let serve = "import os, socket\n\
        e = os.environ\n\
        assert e['LISTEN_PID'] == str(os.getpid()), e['LISTEN_PID']\n\
        assert (e['LISTEN_FDS'], e['LISTEN_FDNAMES']) == ('1', 'WEB'), e\n\
        s = socket.socket(fileno=3)\n\
        assert s.getsockname() == ('127.0.0.1', int(e['WEB'])), s.getsockname()\n\
        open(e['FILE'], 'w').write(e['WEB'] + '\\n')\n\
        c, _ = s.accept(); c.recv(100); c.sendall(b'hello from ' + e['OTHER'].encode())";
    let other = silent().port().to_string();
    let options = [
        "run",
        "--listen",
        "WEB",
        "--port",
        &format!("OTHER={other}"),
        "--",
        "python3",
        "-c",
        serve,
    ];
    let run = Running::start(portlease(&options).env("FILE", &file));
    let port: u16 = line_in(&file).parse().unwrap();
    let text = eventually("an answer", DEADLINE, || {
        ask(port, b"hello").map_err(|e| e.to_string())
    });
    assert_eq!(text, format!("hello from {other}"));
    run.finish().code(0);
}

#[test]
fn several_sockets_have_the_order_of_their_options() {
    need!(installed("python3"));
    let shows = "python3 -c \"import socket, os\n\
        print(os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'])\n\
        for fd in 3, 4: s = socket.socket(fileno=fd); print(s.getsockname()[1], s.type.name)\"; \
        echo $B $A $LISTEN_PID $$";
    let output = finish(&mut script(&["--listen", "B", "--listen", "A/udp"], shows)).code(0);
    let [fds, names, b, b_type, a, a_type, b_env, a_env, for_pid, pid] = words(&output)[..] else {
        panic!("{output:#?}")
    };
    assert_eq!((fds, names), ("2", "B:A"), "{output:#?}");
    assert_eq!(
        (b, b_type, a, a_type),
        (b_env, "SOCK_STREAM", a_env, "SOCK_DGRAM")
    );
    assert_eq!(for_pid, pid);
}

#[test]
fn fd_chooses_the_descriptors() {
    need!(installed("python3"));
    let shows = "python3 -c 'import socket\n\
        for fd in 7, 8: print(socket.socket(fileno=fd).getsockname()[1])'; \
        echo $A $B; test -z \"$LISTEN_FDS$LISTEN_PID\"";
    let options = ["--listen", "A", "--listen", "B", "--fd", "7"];
    let output = finish(&mut script(&options, shows)).code(0);
    let [seventh, eighth, a, b] = words(&output)[..] else {
        panic!("{output:#?}")
    };
    assert_eq!((seventh, eighth), (a, b), "{output:#?}");
}

#[test]
fn portlease_does_not_keep_the_socket_that_it_passed() {
    need!(installed("python3"), capability::native());
    // The command closes its copy of the socket. Then nothing listens on the port.
    let check = "exec 3>&-; \"$BIN\" check $WEB && ! \"$BIN\" check -q --listening $WEB";
    finish(&mut script(&["--listen", "WEB"], check)).code(0);
    // The control: with the socket the port has a listener.
    finish(&mut script(
        &["--listen", "WEB"],
        "\"$BIN\" check --listening $WEB",
    ))
    .code(0);
}

/// The kernel refuses a bind of the port, even with SO_REUSEADDR, because the socket listens.
#[test]
fn a_command_that_does_not_use_the_socket_is_explained() {
    need!(installed("python3"), capability::native());
    let binds = "import os, socket\n\
        socket.create_server(('127.0.0.1', int(os.environ['WEB'])), backlog=1)";
    let help = "help: let the server use the socket of --listen WEB (LISTEN_FDS: descriptor 3), \
                or pass --port instead of --listen if the server binds the port itself\n";
    let http = |limit| [limit, "--http", "/"];
    let run = |options: &[&str], command: &[&str]| {
        ran(&[&["run", "--listen", "WEB"], options, &["--"], command].concat())
    };
    let bind = ["python3", "-c", binds];
    let output = run(&[], &bind).code(1);
    let failed = "portlease: the command failed: if it reported \"address already in use\", it may \
                  not have used the inherited socket\n";
    assert!(
        output.err.ends_with(&format!("{failed}{help}")),
        "{output:#?}"
    );
    // --no-reuse-addr would not help.
    assert!(!output.err.contains("--no-reuse-addr"), "{output:#?}");
    let output = run(&http("--wait-listening=10m"), &bind).code(1);
    assert!(output.err.ends_with(help), "{output:#?}");
    let output = run(&["--port", "X", "--wait-listening=10m"], &bind).code(1);
    assert!(output.err.ends_with(help), "{output:#?}");
    let output = run(&http("--wait-listening=200ms"), &["sleep", "600"]).code(125);
    assert!(output.err.ends_with(help), "{output:#?}");
    let output = run(&["--fd", "7"], &bind).code(1);
    let help = help.replace("LISTEN_FDS: descriptor 3", "descriptor 7");
    assert!(output.err.ends_with(&help), "{output:#?}");
}

#[test]
fn a_command_that_does_not_exist_exits_with_127() {
    for options in [&["--listen", "WEB"][..], &["--listen", "WEB", "--fd", "3"]] {
        let args = [&["run"], options, &["--", "portlease-no-such-command"]].concat();
        let output = ran(&args).code(127);
        assert!(
            output.err.contains("portlease-no-such-command"),
            "{output:#?}"
        );
    }
}

#[test]
fn options_that_contradict_are_refused() {
    for (options, message) in [
        (&["--fd", "3"][..], "--listen"),
        (&["--listen", "A", "--fd", "-1"], "-1"),
        (&["--listen", "A", "--label", "x"], "cannot be used with"),
        (&["--listen", "A", "--port", "A"], "cannot reserve A: "),
        (&["--listen", "8080"], "is not a variable name"),
        (&["--listen", "A", "--fd", "65535"], "descriptor"),
    ] {
        let args = [&["run"], options, &["--", "true"]].concat();
        let output = ran(&args).code(125);
        assert!(output.err.contains(message), "{options:?}: {output:#?}");
    }
}

/// execve(2) refuses a script without an interpreter line, so `run` starts it through /bin/sh.
#[test]
fn a_script_without_an_interpreter_line_inherits_the_socket() {
    need!(installed("python3"));
    let folder = Folder::new();
    let file = folder.path().join("serve");
    let script = "python3 -c 'import socket; print(socket.socket(fileno=7).getsockname()[1])'\n\
        echo $WEB\n\
        env | grep -c ^PORTLEASE_PASSED || true\n";
    std::fs::write(&file, script).unwrap();
    set_mode(&file, 0o755);
    let run = finish(&mut portlease(&[
        "run",
        "--listen",
        "WEB",
        "--fd",
        "7",
        "--",
        file.to_str().unwrap(),
    ]));
    let run = run.code(0);
    let [socket, variable, markers] = words(&run)[..] else {
        panic!("{run:?}");
    };
    assert_eq!((socket, markers), (variable, "0"));
}
