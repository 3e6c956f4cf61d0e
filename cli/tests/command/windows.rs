//! Windows: `run`, `reserve`, `release`, `serve` and `stop`, with `cmd` as the shell.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::keepers::{Sleeper, command, leases, number};
use crate::program::{BINARY, Running, finish, kill, line_in, plain, portlease, ran};
use crate::support::args::Args;
use crate::support::helper::{self, Launch};
use crate::support::{DEADLINE, Folder, eventually, show_owner};

/// A helper process that listens, and whose socket wine shows with its owner.
pub(crate) fn serve(args: &Args) {
    let port = args.number("port").unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    show_owner(&listener);
    helper::reply("up");
    while helper::next_line().is_some() {}
}

/// Runs a batch file in the folder.
fn batch(folder: &Folder, name: &str, text: &str) -> Command {
    let file = folder.path().join(name);
    std::fs::write(&file, text.replace('\n', "\r\n")).unwrap();
    let mut cmd = Command::new("cmd");
    plain(
        cmd.arg("/c")
            .arg(&file)
            .env("PORTLEASE_DIR", folder.locks()),
    );
    cmd
}

#[test]
fn run_passes_the_number_and_returns_the_exit_code_of_32_bits() {
    let script = "if {PORT}==%PORT% exit 70000";
    ran(&["run", "--", "cmd", "/c", script]).code(70_000);
    ran(&["run", "--", "cmd", "/c", "exit 7"]).code(7);
    let missing = ran(&["run", "--", "portlease-no-such-command"]).code(127);
    assert!(
        missing.err.contains("portlease-no-such-command"),
        "{missing:#?}"
    );
}

#[test]
fn run_finds_a_batch_file_without_its_extension() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("start-it.cmd"), "@echo %1 %PORT%\r\n").unwrap();
    let mut run = portlease(&["run", "--", "start-it", "{PORT}"]);
    let output = finish(run.env("PATH", folder.path())).code(0);
    let numbers: Vec<&str> = output.out.split_whitespace().collect();
    assert!(
        numbers.len() == 2 && numbers[0] == numbers[1],
        "{output:#?}"
    );
}

#[test]
fn if_run_is_killed_its_command_and_what_that_started_end() {
    let folder = Folder::new();
    let mut run = command(
        &folder,
        &["run", "--", BINARY, "run", "--", "cmd", "/c", "pause"],
    );
    let run = Running::start(run.stdin(std::process::Stdio::piped()));
    eventually("both ports are reserved", DEADLINE, || {
        match leases(&folder).len() {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    kill(run.pid());
    run.finish();
    eventually("no port is reserved", DEADLINE, || {
        match leases(&folder).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn a_command_that_does_not_listen_in_time_is_ended() {
    let idle = [BINARY, "wait", "--listening", "--timeout", "10m", "{PORT}"];
    let args = [&["run", "--wait-listening=200ms", "--"], &idle[..]].concat();
    let output = ran(&args).code(125);
    assert!(
        output.err.contains("stopped the command after 200ms"),
        "{output:#?}"
    );
}

#[test]
fn what_windows_lacks_is_refused_with_a_sentence() {
    let leaks = ran(&["run", "--leaks=fail", "--", "cmd", "/c", "exit"]).code(125);
    assert!(leaks.err.contains("--leaks needs Linux"), "{leaks:#?}");
    let listen = ran(&["run", "--listen", "WEB", "--", "cmd", "/c", "exit"]).code(125);
    assert!(listen.err.contains("on Unix only"), "{listen:#?}");
    let serve = ran(&["serve", "--address", r"C:\ports"]).code(2);
    assert!(serve.err.contains("the name of a pipe"), "{serve:#?}");
}

/// `for /f` starts a `cmd /c` of its own, which ends before the number is used.
#[test]
fn ports_are_held_for_the_batch_file_that_reads_the_number() {
    let folder = Folder::new();
    let text = format!(
        "@echo off\n\
         for /f %%i in ('{BINARY} reserve') do set P=%%i\n\
         echo %P% > {file}\n\
         {BINARY} list --json\n\
         pause\n",
        file = folder.path().join("port").display()
    );
    let mut script = batch(&folder, "hold.cmd", &text);
    let script = Running::start(script.stdin(std::process::Stdio::piped()));
    let port: u16 = line_in(&folder.path().join("port")).trim().parse().unwrap();
    let held = leases(&folder);
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0]["port"], json!(port));
    assert_eq!(held[0]["on_behalf_of"], json!(script.pid()));
    // Dropping the value kills the script.
    drop(script);
    eventually("the port is released", DEADLINE, || {
        match leases(&folder).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn a_keeper_holds_until_its_process_ends_or_release() {
    let (folder, process) = (Folder::new(), Sleeper::new());
    let reserve = |port: &mut Command| number(&finish(port).code(0));
    let args = ["reserve", "--pid", &process.pid()];
    let first = reserve(&mut command(&folder, &args));
    let second = reserve(&mut command(&folder, &args));
    assert_eq!(leases(&folder).len(), 2);
    finish(&mut command(&folder, &["release", &first.to_string()])).code(0);
    let again = finish(&mut command(&folder, &["release", &first.to_string()])).code(1);
    let none = format!("no reservation of port {first} was found\n");
    assert_eq!(again.out, none);
    let left = leases(&folder);
    assert_eq!((left.len(), &left[0]["port"]), (1, &json!(second)));
    drop(process);
    eventually("the port is released", DEADLINE, || {
        match leases(&folder).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
    let error = finish(&mut command(&folder, &["reserve", "--pid", "1"]))
        .code(2)
        .err;
    assert_eq!(
        error,
        "portlease: cannot reserve for pid 1: no such process\n"
    );
}

/// The job is like a step of a CI system, which ends all processes of its job object.
#[test]
fn a_keeper_leaves_the_job_object_of_its_caller() {
    let folder = Folder::new();
    let text = format!("@{BINARY} reserve --for 10m\n@pause\n");
    let file = folder.path().join("step.cmd");
    std::fs::write(&file, text.replace('\n', "\r\n")).unwrap();
    let mut job = command(&folder, &["run", "--", "cmd", "/c"]);
    let job = Running::start(job.arg(&file).stdin(std::process::Stdio::piped()));
    let reserved = || {
        let held = leases(&folder).into_iter();
        held.filter(|lease| lease["command"].is_null())
            .collect::<Vec<_>>()
    };
    eventually("a keeper", DEADLINE, || match reserved().len() {
        1 => Ok(()),
        _ => Err(format!("{:?}", leases(&folder))),
    });
    kill(job.pid());
    job.finish();
    let held = leases(&folder);
    assert_eq!(held.len(), 1, "the keeper alone: {held:?}");
    let port = held[0]["port"].to_string();
    finish(&mut command(&folder, &["release", &port])).code(0);
}

#[test]
fn a_port_of_another_process_is_not_released() {
    let (folder, port) = (Folder::new(), crate::program::silent());
    let mut release = portlease(&["release", &port.to_string()]);
    let output = finish(&mut release).code(1);
    assert!(
        output
            .out
            .contains("did not reserve it with `portlease reserve`"),
        "{output:#?}"
    );
    drop(folder);
}

/// Does what a client of portpicker does: opens the pipe, writes the request, and reads the answer.
fn ask_pipe(name: &str, request: &str) -> std::io::Result<String> {
    let path = format!(r"\\.\pipe\{name}");
    let mut pipe = OpenOptions::new().read(true).write(true).open(path)?;
    pipe.write_all(request.as_bytes())?;
    let mut answer = String::new();
    pipe.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn serve_grants_ports_on_a_named_pipe() {
    let (folder, process) = (Folder::new(), Sleeper::new());
    let name = format!("portlease-test-{}", std::process::id());
    let address = format!("@{name}");
    let mut serve = command(&folder, &["serve", "--address", &address]);
    let log = folder.path().join("log");
    let (_server, line) = Running::with_log(&mut serve, &log);
    assert_eq!(line, format!("portlease: serving on {address}"));
    let port = ask_pipe(&name, &format!("{}\n", process.pid())).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let held = leases(&folder);
    assert!(
        held.iter().all(|lease| lease["port"] == json!(port)),
        "{held:?}"
    );
    assert_eq!(held.len(), 2, "TCP and UDP: {held:?}");
    assert_eq!(ask_pipe(&name, "nonsense\n").unwrap(), "");
    // `portlease run` as a client gets another number.
    let mut run = command(&folder, &["run", "--", "cmd", "/c", "echo %PORT%"]);
    let other = number(&finish(run.env("PORTSERVER_ADDRESS", &address)).code(0));
    assert_ne!(other, port);
    drop(process);
    eventually("the port is released", DEADLINE, || {
        match leases(&folder).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn a_server_that_nobody_runs_is_an_error() {
    let mut run = portlease(&["run", "--", "cmd", "/c", "exit"]);
    let output = finish(run.env("PORTSERVER_ADDRESS", "@portlease-no-such-pipe")).code(125);
    let start = "portlease: cannot get a port from the port server @portlease-no-such-pipe";
    assert!(output.err.starts_with(start), "{output:#?}");
}

#[test]
fn stop_ends_the_server_of_a_port() {
    let folder = Folder::new();
    let port = crate::support::ports::non_ephemeral_port();
    let start = |locks: &Path| {
        let args = format!("port={port}");
        let mut server = Launch::new("owned-server", locks).args(args).start();
        assert_eq!(server.receive(), "up");
        server
    };
    let server = start(&folder.locks());
    let dry = command(&folder, &["stop", "--dry-run", &port.to_string()]);
    let dry = finish(&mut { dry }).code(0);
    assert!(
        dry.out.contains(&format!("(pid {})", server.pid())),
        "{dry:#?}"
    );
    let stopped = finish(&mut command(&folder, &["stop", &port.to_string()])).code(0);
    assert!(
        stopped.out.starts_with("stopped ") && stopped.out.ends_with("is free\n"),
        "{stopped:#?}"
    );
}
