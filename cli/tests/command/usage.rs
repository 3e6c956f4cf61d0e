//! Usage errors, help, colours, and closed or full outputs.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::program::{BINARY, finish, plain, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{need, test_name};

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
        (&["reserve", "-n", "0"], "0 is not in 1.."),
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
fn a_usage_error_of_run_exits_with_125() {
    for (args, message) in [
        (&["run", "--"][..], "required"),
        (&["run"], "required"),
        (&["run", "--frobnicate", "--", "true"], "--frobnicate"),
        (&["--color", "never", "run", "true"], "true"),
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
            &["run", "--port", "A/sctp", "--", "true"],
            "expected tcp or udp",
        ),
        (
            &["run", "--port", "A", "--port", "A/udp", "--", "true"],
            "use this name twice",
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
