//! `portlease serve` with Python's portpicker as its client, and `PORTSERVER_ADDRESS` with
//! portpicker's server.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use portlease::ReserveOptions;
use rustix::process::Signal;
use serde_json::json;

use crate::keepers::{Sleeper, leases, zombie};
use crate::program::{Running, becomes_free, finish, line_in, plain, portlease, silent};
use crate::support::program::{python, python_has};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// portpicker's own port server, which its package installs in Python's folder of scripts.
fn portserver() -> Result<PathBuf, String> {
    python_has("portpicker")?;
    python_has("psutil")?;
    let find = "import sysconfig; print(sysconfig.get_path('scripts'))";
    let output = Command::new(python())
        .args(["-c", find])
        .output()
        .map_err(|e| e.to_string())?;
    let script = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("portserver.py");
    if script.is_file() {
        Ok(script)
    } else {
        Err(format!("{} is not installed", script.display()))
    }
}

/// An abstract address that no other test uses.
pub(crate) fn name(test: &str) -> String {
    format!("@portlease-test-{}-{test}", std::process::id())
}

pub(crate) fn serve(address: &str, folder: &Folder) -> Running {
    let mut command = portlease(&["serve", "--json", "--address", address]);
    let log = folder.path().join("serve.log");
    let (server, line) = Running::with_log(command.env("PORTLEASE_DIR", folder.locks()), &log);
    assert_eq!(line, format!("portlease: serving on {address}"));
    server
}

/// Sends a request, and returns the answer.
fn request_answer(address: &str, request: &str) -> String {
    let address = SocketAddr::from_abstract_name(address.trim_start_matches('@')).unwrap();
    let mut stream = UnixStream::connect_addr(&address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn pythons_portpicker_gets_reservations_that_end_with_its_process() {
    need!(python_has("portpicker"));
    let (folder, address) = (Folder::new(), name("portpicker"));
    let _server = serve(&address, &folder);
    let file = folder.path().join("ports");
    let script = "import os, portpicker, socket, time\n\
        ports = [portpicker.pick_unused_port() for _ in range(5)]\n\
        assert all(portpicker.is_port_free(p) for p in ports)\n\
        s = socket.create_server(('', ports[0]))\n\
        u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('', ports[0]))\n\
        s.close(); u.close()\n\
        print(*ports, file=open(os.environ['FILE'], 'w'))\n\
        time.sleep(600)\n";
    let mut client = Command::new(python());
    plain(client.args(["-c", script]));
    let mut client = Running::start(
        client
            .env("FILE", &file)
            .env("PORTSERVER_ADDRESS", &address),
    );
    eventually("five ports", DEADLINE, || {
        match file.exists() || !client.runs() {
            true => Ok(()),
            false => Err("no file".to_owned()),
        }
    });
    if !file.exists() {
        panic!("{:#?}", client.finish());
    }
    let ports: Vec<u16> = line_in(&file)
        .split(' ')
        .map(|port| port.parse().unwrap())
        .collect();
    let pid = client.pid();
    for port in &ports {
        // An unrelated process finds both protocols of the number busy.
        for protocol in ["tcp", "udp"] {
            let args = ["check", &format!("{port}/{protocol}")];
            let output = finish(portlease(&args).env("PORTLEASE_DIR", folder.locks()))
                .code(1)
                .out;
            assert!(
                output.contains(": reserved by portlease, pid ")
                    && output.contains(&format!(" (pid {pid})")),
                "{output}"
            );
        }
        let another = ReserveOptions::new().port(*port).reserve();
        assert!(
            another.is_err(),
            "the claim refuses a process with another lock folder: {another:?}"
        );
    }
    crate::program::kill(pid);
    for port in ports {
        becomes_free(port, &folder);
    }
}

/// `release` asks keepers alone, so the help does not suggest it for this number.
#[test]
fn the_help_on_a_granted_port_is_to_use_it() {
    let (folder, address) = (Folder::new(), name("granted"));
    let server = serve(&address, &folder);
    let granted = request_answer(&address, &format!("{}\n", std::process::id()));
    let port = granted.trim();
    let mut again = portlease(&["reserve", "--port", port]);
    let again = finish(again.env("PORTLEASE_DIR", folder.locks()));
    let help = format!(
        "\nhelp: use the port that pid {} has already reserved for pid {}, or omit the number to \
         reserve another port\n",
        server.pid(),
        std::process::id()
    );
    assert!(again.err.ends_with(&help), "{again:#?}");
    let released = finish(portlease(&["release", port]).env("PORTLEASE_DIR", folder.locks()));
    assert_eq!(
        released.status.code(),
        Some(1),
        "the control: {released:#?}"
    );
}

#[test]
fn a_bad_request_gets_no_answer_and_a_killed_server_holds_nothing() {
    let (folder, address) = (Folder::new(), name("refusals"));
    let server = serve(&address, &folder);
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    for request in [
        "x\n",
        "1\n",
        "0\n",
        "-5\n",
        "99999999999999999999999\n",
        &format!("{}\n", gone.id()),
    ] {
        assert_eq!(request_answer(&address, request), "", "{request:?}");
    }
    let port: u16 = request_answer(&address, &format!("{}\n", std::process::id()))
        .trim()
        .parse()
        .unwrap();
    let output =
        finish(portlease(&["check", &port.to_string()]).env("PORTLEASE_DIR", folder.locks()))
            .code(0);
    assert_eq!(
        output.out,
        format!("port {port}/tcp is free\n"),
        "the process that requested the port, and its children, see it as free"
    );
    crate::program::kill(server.pid());
    becomes_free(port, &folder);
}

#[test]
fn a_refusal_of_pid_1_says_why() {
    let (folder, address) = (Folder::new(), name("init"));
    let _server = serve(&address, &folder);
    assert_eq!(request_answer(&address, "1\n"), "");
    let log = folder.path().join("serve.log");
    let expected = "portlease: refused a port for pid 1: every process of this system ";
    eventually("the refusal", DEADLINE, || {
        let text = std::fs::read_to_string(&log).unwrap();
        match text.lines().any(|line| line.starts_with(expected)) {
            true => Ok(()),
            false => Err(text),
        }
    });
}

#[test]
fn the_server_removes_its_socket_on_a_signal() {
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let address = path.to_str().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let server = serve(address, &folder);
        assert!(path.exists());
        let second = finish(&mut portlease(&["serve", "--address", address])).code(2);
        // The text depends on the C library: musl and glibc differ.
        let cause = UnixListener::bind(&path)
            .unwrap_err()
            .to_string()
            .to_lowercase();
        let cause = cause.split(" (os error").next().unwrap();
        assert_eq!(
            second.err,
            format!("portlease: cannot serve on {address}: {cause}\n")
        );
        server.signal(signal);
        let output = server.finish().killed_by(signal).json();
        assert_eq!(output, json!({"version": 1, "address": address}));
        assert!(!path.exists());
    }
    let server = serve(address, &folder);
    crate::program::kill(server.pid());
    server.finish();
    assert!(path.exists(), "control: a killed server leaves it");
    let server = serve(address, &folder);
    assert!(path.exists());
    drop(server);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "not a socket").unwrap();
    finish(&mut portlease(&["serve", "--address", address])).code(2);
    assert!(path.exists());
}

#[test]
fn a_file_that_is_not_a_socket_is_named_and_stays() {
    let folder = Folder::new();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "text").unwrap();
    std::os::unix::fs::symlink(folder.path().join("missing"), &link).unwrap();
    let no_socket = "the path exists and is not a socket";
    let dangling = "the path is a symbolic link to a file that does not exist";
    for (path, cause) in [
        (&file, no_socket),
        (&link, dangling),
        (&folder.path().to_owned(), no_socket),
    ] {
        let address = path.to_str().unwrap();
        let output = finish(&mut portlease(&["serve", "--address", address])).code(2);
        let expected = format!("portlease: cannot serve on {address}: {cause}\n");
        assert_eq!(output.err, expected);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    assert!(link.is_symlink());
}

#[test]
fn automatic_picks_come_from_the_server_of_the_environment() {
    let (folder, address) = (Folder::new(), name("own"));
    let mut server = portlease(&["serve", "-v", "--address", &address]);
    let log = folder.path().join("log");
    // The server has another lock folder, so its claim refuses the number to the client. After
    // each refusal the client requests another number. It reports the refusal of the last one.
    let (_server, _) = Running::with_log(server.env("PORTLEASE_DIR", folder.locks()), &log);
    let output =
        finish(portlease(&["run", "--", "true"]).env("PORTSERVER_ADDRESS", &address)).code(125);
    assert!(
        output.err.starts_with("portlease: cannot reserve "),
        "{output:#?}"
    );
    let granted = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        granted
            .lines()
            .filter(|line| line.contains(" for pid "))
            .count(),
        16,
        "{granted}"
    );

    let unserved = name("unserved");
    let output =
        finish(portlease(&["run", "--", "true"]).env("PORTSERVER_ADDRESS", &unserved)).code(125);
    let expected = format!(
        "portlease: cannot get a port from the port server {unserved} (PORTSERVER_ADDRESS): \
         connection refused\n"
    );
    assert_eq!(output.err, expected);
    // An empty address means no server. An exact number needs none.
    finish(portlease(&["run", "--", "true"]).env("PORTSERVER_ADDRESS", "")).code(0);
    let fixed = silent().port();
    let args = ["run", "--port", &format!("A={fixed}"), "--", "true"];
    finish(portlease(&args).env("PORTSERVER_ADDRESS", &unserved)).code(0);
}

/// The server holds the number until the process of the request ends, so no keeper is named.
#[test]
fn reserve_names_the_server_that_holds_the_port() {
    let (folder, address) = (Folder::new(), name("names"));
    let _server = serve(&address, &folder);
    let reserve = |option| {
        let mut command = portlease(&["reserve", option, "--pid", &std::process::id().to_string()]);
        command.env("PORTLEASE_DIR", folder.locks());
        finish(command.env("PORTSERVER_ADDRESS", &address)).code(0)
    };
    assert_eq!(reserve("--json").json()["keeper"], json!(null));
    let output = reserve("--verbose");
    let holder = "portlease: the port server of PORTSERVER_ADDRESS holds the ports until pid ";
    assert!(output.err.starts_with(holder), "{output:#?}");
    let port = output.out.trim_end();
    let release = finish(portlease(&["release", port]).env("PORTLEASE_DIR", folder.locks()));
    let release = release.code(1).out;
    assert!(release.contains("or a port server holds it: "), "{release}");
}

#[test]
fn run_reports_that_the_server_which_holds_its_port_has_ended() {
    let (folder, address) = (Folder::new(), name("killed"));
    let server = serve(&address, &folder);
    let [log, file] = ["run.log", "port"].map(|name| folder.path().join(name));
    let script = "echo $PORT > \"$FILE\"; kill -9 $SERVER; exec sleep 600";
    let mut command = portlease(&["run", "--", "sh", "-c", script]);
    command
        .env("FILE", &file)
        .env("SERVER", server.pid().to_string())
        .env("PORTSERVER_ADDRESS", &address)
        .env("PORTLEASE_DIR", folder.locks());
    let (_run, line) = Running::with_log(&mut command, &log);
    let expected = format!(
        "portlease: the port server (pid {}) has ended, so these ports are no longer reserved: \
         {}/tcp",
        server.pid(),
        line_in(&file)
    );
    assert_eq!(line, expected);
}

#[test]
fn ports_of_portpickers_own_server_are_claimed_and_leased() {
    let script = portserver();
    need!(script.as_ref().map(drop).map_err(Clone::clone));
    let (folder, address) = (Folder::new(), name("portserver"));
    // Finds free numbers for the server: this test reserves them, and releases them again.
    let block = ReserveOptions::new()
        .reuse_addr(false)
        .reserve_block(24)
        .unwrap();
    let (first, last) = (block[0].port(), block[23].port());
    drop(block);
    let mut server = Command::new(python());
    server
        .arg(script.unwrap())
        .args(["--portserver_static_pool", &format!("{first}-{last}")]);
    plain(server.args(["--portserver_address", &address]));
    let (_server, line) = Running::with_log(&mut server, &folder.path().join("portserver.log"));
    assert!(line.contains("Serving on"), "{line}");

    let command = |args: &[&str]| {
        let mut command = portlease(args);
        command
            .env("PORTSERVER_ADDRESS", &address)
            .env("PORTLEASE_DIR", folder.locks());
        command
    };
    let script = "echo $A $B; \"$BIN\" list --json";
    let output = finish(&mut command(&[
        "run", "--port", "A", "--port", "B/udp", "--", "sh", "-c", script,
    ]))
    .code(0);
    let (numbers, list) = output.out.split_once('\n').unwrap();
    let mut numbers: Vec<u16> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(
        numbers.iter().all(|n| (first..=last).contains(n)),
        "{numbers:?} of {first}-{last}"
    );
    numbers.sort_unstable();
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let leased: Vec<_> = list["leases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| lease["port"].clone())
        .collect();
    assert_eq!(leased, numbers.iter().map(|n| json!(n)).collect::<Vec<_>>());

    let pid = std::process::id().to_string();
    let output = finish(&mut command(&["reserve", "-n", "2", "--pid", &pid]))
        .code(0)
        .out;
    let held: Vec<u16> = output.lines().map(|n| n.parse().unwrap()).collect();
    assert!(
        held.len() == 2 && held[0] != held[1] && held.iter().all(|n| (first..=last).contains(n)),
        "{held:?}"
    );
    finish(&mut command(&[
        "reserve", "-n", "2", "--block", "--pid", &pid,
    ]))
    .code(2);
    // More ports than the server has left. The refusal of the server is an error: the command picks
    // no other number instead.
    let output = finish(&mut command(&["reserve", "-n", "24", "--pid", &pid])).code(2);
    assert!(
        output
            .err
            .contains("the server refused, and sent no port number"),
        "{output:#?}"
    );
    finish(&mut command(&["release", &port_list(&held)])).code(0);
}

fn port_list(ports: &[u16]) -> String {
    ports
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn a_process_that_has_ended_gets_no_port() {
    let (folder, address) = (Folder::new(), name("ended"));
    let _server = serve(&address, &folder);
    let (zombie, sleeper) = (zombie(), Sleeper::new());
    assert_eq!(request_answer(&address, &format!("{}\n", zombie.pid())), "");
    // The control.
    assert_ne!(
        request_answer(&address, &format!("{}\n", sleeper.pid())),
        ""
    );
}

/// In another pid namespace, the id of a client stands for another process of the server's machine.
#[test]
fn a_refusal_names_the_pid_namespace_or_pid_1() {
    need!(capability::pid_namespace());
    let (folder, address) = (Folder::new(), name("container"));
    let _server = serve(&address, &folder);
    // The shell is pid 1 there. The second server is in the same pid namespace as its clients.
    let script = "\"$BIN\" run -- true; \"$BIN\" reserve; mkfifo up\n\
        export PORTSERVER_ADDRESS=$INNER\n\
        \"$BIN\" serve --json --address $INNER 2> serve.log > up & read line < up\n\
        \"$BIN\" run -- echo granted; \"$BIN\" reserve";
    let inner = name("inner");
    let mut command = Command::new("unshare");
    command
        .args(capability::unshare_flags())
        .args(["-pf", "--kill-child", "--mount-proc", "sh", "-c", script])
        .current_dir(folder.path());
    plain(&mut command);
    command.env("PORTLEASE_DIR", folder.locks());
    let output = finish(
        command
            .env("PORTSERVER_ADDRESS", &address)
            .env("INNER", &inner),
    )
    .code(2);
    assert_eq!(output.out, "granted\n");
    let outside = "it is in another pid namespace, where it cannot see pid ";
    let causes = [
        (&address, outside),
        (&address, outside),
        (
            &inner,
            "it holds no port for pid 1; unset PORTSERVER_ADDRESS",
        ),
    ];
    let lines: Vec<&str> = output.err.lines().collect();
    assert_eq!(lines.len(), causes.len(), "{output:#?}");
    for (line, (address, cause)) in lines.iter().zip(causes) {
        let start = format!(
            "portlease: cannot get a port from the port server {address} (PORTSERVER_ADDRESS): the \
             server refused, because {cause}"
        );
        assert!(line.starts_with(&start), "{output:#?}");
    }
}

#[test]
fn run_and_reserve_take_the_reservations_of_the_server() {
    let (folder, address) = (Folder::new(), name("self"));
    let _server = serve(&address, &folder);
    let script = "ONE=$(\"$BIN\" reserve) && TWO=$(\"$BIN\" reserve -n 2) || exit 90\n\
        \"$BIN\" check $ONE $TWO\n\
        \"$BIN\" run --port A --port B/udp -- sh -c '\"$BIN\" check $A $B/udp'\n\
        \"$BIN\" reserve --for 10m --pid $HOLDER\n";
    let sleeper = Sleeper::new();
    let mut sh = Command::new("sh");
    plain(sh.args(["-c", script]));
    sh.env("PORTSERVER_ADDRESS", &address)
        .env("HOLDER", sleeper.pid());
    let output = finish(sh.env("PORTLEASE_DIR", folder.locks())).code(0);
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(
        lines[..2],
        ["3 ports are free", "2 ports are free"],
        "{output:#?}"
    );
    // Each other reservation ends with the shell, with `run`, or with a keeper. A keeper ends at
    // once if the server holds its ports for the shell.
    let last: u16 = lines[2].parse().unwrap();
    eventually("only the last number is reserved", DEADLINE, || {
        let leases = leases(&folder);
        let is_last = |lease: &serde_json::Value| lease["port"] == json!(last);
        match leases.len() == 2 && leases.iter().all(is_last) {
            true => Ok(()),
            false => Err(format!("{leases:?}")),
        }
    });
}
