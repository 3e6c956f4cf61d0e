//! Usage errors, help, colours, and closed or full outputs.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::keepers::leases;
use crate::program::{BINARY, finish, plain, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, eventually, need, test_name};

#[test]
fn a_usage_error_exits_with_2_and_quotes_the_input() {
    for (args, message) in [
        (&["check", "0"][..], "port 0 names no port"),
        (&["check", "70000"], "\"70000\" does not name a port"),
        (&["check", "80-70"], "range \"80-70\" is empty"),
        (&["check", "5432,x"], "\"x\" does not name a port"),
        (&["check", "80", "--wait", "soon"], "soon"),
        (&["check", "80", "--frobnicate"], "--frobnicate"),
        (&["check"], "required"),
        (&["who", "0"], "port 0 names no port"),
        (&["who", "80", "--pid", "1"], "cannot be used with"),
        (&["wait", "80"], "--listening"),
        (
            &["wait", "80", "--listening", "--free"],
            "cannot be used with",
        ),
        (&["wait", "80", "--free", "--pid", "0"], "0"),
        (&["wait", "--free"], "required"),
        (
            &["reserve", "-n", "0"],
            "0 is out of range: expected a number from 1 to ",
        ),
        (&["reserve", "--port", "0"], "port 0 names no port"),
        (
            &["reserve", "--port", "70000"],
            "\"70000\" does not name a port",
        ),
        (
            &["reserve", "--port", "127.0.0.1:80"],
            "reserved on every address",
        ),
        (&["reserve", "--port", "4711", "-n", "2"], "request a block"),
        (&["reserve", "80"], "80"),
        (&["release"], "required"),
        (&["release", "70000"], "\"70000\" does not name a port"),
        (
            &["release", "192.0.2.7:8910"],
            "192.0.2.7:8910 names an address, but reservations have no address: write 8910\n",
        ),
        (
            &["release", "80", "localhost:8910/udp"],
            "reservations have no address: write 8910/udp\n",
        ),
        (&["list", "80"], "80"),
        (&["list", "-q", "-v"], "cannot be used with"),
        (&["frobnicate"], "frobnicate"),
        (&[], "Usage: portlease"),
    ] {
        let ran = ran(args).code(2);
        assert!(ran.err.contains(message), "{args:?}: {ran:#?}");
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn a_negative_number_is_reported_with_its_option_and_what_is_expected() {
    let duration = "'--wait <DURATION>': expected a number of seconds";
    for (args, message) in [
        (&["check", "--wait", "-1", "8080"][..], duration),
        (&["check", "--wait", "-5s", "8080"], duration),
        (&["reserve", "--wait", "-1"], duration),
        (
            &["reserve", "-n", "-1"],
            "'--count <N>': -1 is out of range: expected a number from 1 to ",
        ),
        (
            &["reserve", "--offsets", "-1,5"],
            "'--offsets <N,N...>': -1 ",
        ),
        (&["reserve", "--range", "-5-9"], "'--range <LOW-HIGH>': "),
        (&["reserve", "--exclude", "-1"], "'--exclude <PORTS>': "),
        (
            &["reserve", "--port", "-1"],
            "'--port <N>': \"-1\" does not name a port",
        ),
        (
            &["reserve", "--pid", "-1"],
            "'--pid <PID|job>': expected a process id from 1 to 2147483647, or \"job\"",
        ),
        (
            &["who", "--pid", "-1"],
            "'--pid <PID>': expected a process id from 1 to 2147483647",
        ),
        (&["check", "-1"], "'<PORT>...': range \"-1\" lacks a number"),
    ] {
        let ran = ran(args).code(2);
        let is_expected = ran.err.contains(message) && !ran.err.contains("tip:");
        assert!(is_expected, "{args:?}: {ran:#?}");
    }
}

#[test]
fn a_usage_error_of_run_exits_with_125() {
    for (args, message) in [
        (&["run", "--"][..], "required"),
        (&["run"], "required"),
        (&["run", "--frobnicate", "--", "true"], "--frobnicate"),
        (
            &["--color", "never", "run", "--nothing", "true"],
            "--nothing",
        ),
        (
            &["run", "--port", "A=70000", "--", "true"],
            "\"70000\" does not name a port",
        ),
        (
            &["run", "--port", "A=0", "--", "true"],
            "port 0 names no port",
        ),
        (
            &["run", "--port", "8080", "--", "true"],
            "\"8080\" is not a variable name",
        ),
        (
            &["run", "--port", "PATH", "--", "true"],
            "'--port <NAME[=N][/udp]>': the system needs the variable PATH to start programs",
        ),
        (
            &["run", "--listen", "PATH=4711", "--", "true"],
            "the system needs the variable PATH to start programs",
        ),
        (
            &["run", "--port", "A/sctp", "--", "true"],
            "expected tcp or udp",
        ),
        (
            &["run", "--port", "A", "--port", "A/udp", "--", "true"],
            "options use this name; give each its own name",
        ),
        (
            &["run", "--port", "A=4711", "--port", "B=4711", "--", "true"],
            "cannot reserve port 4711 twice: --port A=4711 and --port B=4711 name the same port",
        ),
        (
            &[
                "run", "--port", "A=4711", "--listen", "B=4711", "--", "true",
            ],
            "--port A=4711 and --listen B=4711 name the same port",
        ),
        (
            &["run", "--port=A=4711/udp", "--port=B=4711/udp", "true"],
            "--port A=4711/udp and --port B=4711/udp name the same port",
        ),
        (
            &[
                "run",
                "--range=4711-4711",
                "--port=A=4711",
                "--port=B",
                "true",
            ],
            "cannot reserve B from --range 4711-4711: it has 0 numbers besides --port A=4711, and \
             1 is needed",
        ),
        (
            &[
                "run",
                "--range=4711-4712",
                "--port=A",
                "--port=B",
                "--port=C",
                "true",
            ],
            "cannot reserve A, B, C from --range 4711-4712: it has 2 numbers, and 3 are needed",
        ),
    ] {
        let ran = ran(args).code(125);
        assert!(ran.err.contains(message), "{args:?}: {ran:#?}");
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn help_goes_to_stdout() {
    for args in [
        &["--help"][..],
        &["help", "run"],
        &["check", "--help"],
        &["--version"],
        &["run", "--help"],
    ] {
        let ran = ran(args).code(0);
        assert!(
            ran.out.contains("portlease") && ran.err.is_empty(),
            "{args:?}: {ran:#?}"
        );
    }
}

#[test]
fn a_closed_pipe_is_neither_a_panic_nor_a_failure() {
    need!(installed("bash"));
    let p = silent();
    let script = format!(
        "set -o pipefail; \"$BIN\" check {p} -v --listening | true; echo \"${{PIPESTATUS[0]}}\"; \
         \"$BIN\" who {p} --json | head -c 1 >/dev/null; echo \"${{PIPESTATUS[0]}}\"; \
         \"$BIN\" --help | true; echo \"${{PIPESTATUS[0]}}\"; \"$BIN\" list >&-; echo $?"
    );
    let mut bash = Command::new("bash");
    plain(bash.args(["-c", &script]));
    let ran = finish(&mut bash);
    assert!(!ran.err.contains("panicked"), "{ran:#?}");
    assert_eq!(
        ran.out.lines().collect::<Vec<_>>(),
        ["1", "0", "0", "0"],
        "{ran:#?}"
    );
}

#[test]
#[cfg_attr(windows, ignore = "Windows has no /dev/full")]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return crate::support::skip(test_name!(), "there is no /dev/full");
    };
    let mut command = portlease(&["list", "--json"]);
    let process = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        text,
        "portlease: cannot write the answer: no space left on device\n"
    );
}

#[test]
fn colours_need_a_terminal_or_the_option() {
    let p = silent();
    let args = ["check", &p.to_string(), "--listening"];
    assert!(!ran(&args).code(1).out.contains('\u{1b}'));
    let always = [&args[..], &["--color", "always"]].concat();
    assert!(
        ran(&always).code(1).out.contains("\u{1b}[1mport "),
        "{BINARY}"
    );
    let never = finish(
        portlease(&args)
            .args(["--color", "never"])
            .env("CLICOLOR_FORCE", "1"),
    )
    .code(1);
    assert!(!never.out.contains('\u{1b}'), "{never:#?}");
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return crate::support::skip(test_name!(), "there is no /dev/full");
    };
    let status = portlease(&["--help"]).stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
#[cfg_attr(windows, ignore = "only a shell of Unix closes stdout")]
fn a_reservation_is_not_made_without_a_stdout_for_its_number() {
    let folder = Folder::new();
    let mut sh = Command::new("sh");
    plain(
        sh.args(["-c", "\"$BIN\" reserve --for 10m >&-"])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let output = finish(&mut sh).code(2);
    assert_eq!(
        output.err,
        "portlease: cannot write the answer: stdout is closed\n"
    );
    eventually("no port is left reserved", DEADLINE, || {
        match leases(&folder).as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn a_duration_may_be_a_bare_number_of_seconds() {
    let p = portlease::reserve_port();
    let _server = p.listen().unwrap();
    let port = p.to_string();
    for args in [
        &["wait", "--free", "--timeout", "0.02", &port][..],
        &["check", "--wait", "0.02", &port],
        &["check", "--timeout", "0.02", &port],
    ] {
        let output = ran(args).code(1);
        assert!(
            output.err.contains("waiting up to 20ms"),
            "{args:?}: {output:#?}"
        );
    }
    let output = ran(&["reserve", "--wait", "0.02", "--port", &port]).code(2);
    assert!(output.err.contains("within 20 ms"), "{output:#?}");
}

#[test]
fn an_address_without_a_name_is_an_error() {
    for address in ["", "@"] {
        let output = ran(&["serve", "--address", address]).code(2);
        let start = format!("portlease: cannot serve on {address:?}: expected ");
        assert!(output.err.starts_with(&start), "{output:#?}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = std::ffi::OsStr::from_bytes(b"@\xff");
        let output = finish(portlease(&["run", "--", "true"]).env("PORTSERVER_ADDRESS", bytes));
        let output = output.code(125);
        assert!(
            output.err.contains("(PORTSERVER_ADDRESS): expected UTF-8"),
            "{output:#?}"
        );
    }
}
