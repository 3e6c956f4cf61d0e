//! `portlease reserve` and `portlease release`.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::keeper::children_of;
use crate::keepers::{Sleeper, command, ends, keeper, leases, number, zombie};
use crate::program::{Running, becomes_free, finish, line_in, plain, portlease, silent};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, eventually, need};

/// A script for every shell.
const SCRIPT: &str = "\
set -e
PORT=$(\"$BIN\" reserve)
BOTH=$(\"$BIN\" reserve --udp -n 2 2>&1 | cat)
LISTED=$(true; \"$BIN\" reserve --label listed; true)
test \"$(echo \"$BOTH\" | wc -l)\" -eq 2
\"$BIN\" check -q \"$PORT\" \"$LISTED\" \"$(echo \"$BOTH\" | head -n 1)/udp\"
python3 -c 'import socket, sys; socket.create_server((\"127.0.0.1\", int(sys.argv[1])))' \"$PORT\"
\"$BIN\" release \"$PORT\"
\"$BIN\" release \"$PORT\" && exit 90
\"$BIN\" release \"$BOTH\"
\"$BIN\" list --json
echo \"$LISTED\" > \"$FILE\"
read _ < \"$FIFO\"
echo \"$LISTED\"
";

fn serves_scripts_of(shell: &str) {
    let folder = Folder::new();
    let (script, file, fifo) = (
        folder.path().join("script"),
        folder.path().join("file"),
        folder.path().join("fifo"),
    );
    std::fs::write(&script, SCRIPT).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut command = Command::new(shell);
    plain(
        command
            .arg(&script)
            .env("PORTLEASE_DIR", folder.locks())
            .env("FILE", &file)
            .env("FIFO", &fifo),
    );
    let mut run = Running::start(&mut command);
    eventually("the script waits", DEADLINE, || {
        match file.exists() || !run.runs() {
            true => Ok(()),
            false => Err("it is not there yet".to_owned()),
        }
    });
    if !file.exists() {
        panic!("{shell}: {:#?}", run.finish());
    }
    // The subshell that called `reserve` has ended.
    let port: u16 = line_in(&file).parse().unwrap();
    let keeper = keeper(&folder, port);
    assert_eq!(leases(&folder).len(), 1, "the others are released");
    std::fs::write(&fifo, "\n").unwrap();
    let output = run.finish().code(0);
    let lines: Vec<&str> = output.out.lines().collect();
    let none = "no reservation of port ";
    assert!(lines[0].starts_with(none), "{output:#?}");
    assert_eq!(lines[2], port.to_string(), "{output:#?}");
    ends(keeper);
    becomes_free(port, &folder);
    assert_eq!(leases(&folder), Vec::<Value>::new());
}

#[test]
fn a_bash_script_keeps_its_ports_until_it_ends() {
    need!(installed("bash"), installed("python3"));
    serves_scripts_of("bash");
}

#[test]
fn a_dash_script_keeps_its_ports_until_it_ends() {
    need!(installed("dash"), installed("python3"));
    serves_scripts_of("dash");
}

#[test]
fn a_zsh_script_keeps_its_ports_until_it_ends() {
    need!(installed("zsh"), installed("python3"));
    serves_scripts_of("zsh");
}

#[test]
fn reserve_grants_the_requested_ports() {
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let pid = sleeper.pid();
    let reserve = |args: &[&str]| {
        finish(&mut command(
            &folder,
            &[&["reserve", "--pid", &pid], args].concat(),
        ))
    };
    let block: Vec<u16> = reserve(&["-n", "3", "--block", "-q"])
        .code(0)
        .out
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(block, [block[0], block[0] + 1, block[0] + 2]);
    let released = finish(&mut command(
        &folder,
        &["release", &format!("{}-{}", block[0], block[2])],
    ));
    assert_eq!(released.code(0).out, "");

    let fixed = silent().port();
    let output = reserve(&["--port", &fixed.to_string(), "--label", "primary"]).code(0);
    assert_eq!(number(&output), fixed);
    let refused = reserve(&["--port", &fixed.to_string()]).code(2);
    assert!(
        refused.err.starts_with(&format!(
            "portlease: cannot reserve {fixed}/tcp: address already in use: "
        )),
        "{refused:#?}"
    );
    assert!(
        refused.err.contains("labelled \"primary\"") && refused.out.is_empty(),
        "{refused:#?}"
    );

    let output = reserve(&["--udp", "--json"]).code(0).json();
    let port = output["ports"][0]["port"].as_u64().unwrap();
    let keeper = keeper(&folder, u16::try_from(port).unwrap());
    let row =
        json!({"port": port, "protocols": ["udp"], "guarantee": output["ports"][0]["guarantee"]});
    let expected = json!({"version": 1, "keeper": keeper, "pid": sleeper.0.id(), "ports": [row]});
    assert_eq!(output, expected);
    let args = [
        "release",
        "--json",
        &format!("{port}/udp"),
        &format!("{port}/tcp"),
        &fixed.to_string(),
    ];
    let output = finish(&mut command(&folder, &args)).code(1).json();
    let (released, not_held) = (
        [format!("{port}/udp"), fixed.to_string()],
        [format!("{port}/tcp")],
    );
    assert_eq!(
        output,
        json!({"version": 1, "released": released, "not_held": not_held})
    );
}

#[test]
fn a_pid_that_does_not_exist_is_a_failure() {
    let folder = Folder::new();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let pid = gone.id();
    let output = finish(&mut command(
        &folder,
        &["reserve", "--pid", &pid.to_string()],
    ))
    .code(2);
    assert_eq!(
        output.err,
        format!("portlease: cannot reserve for pid {pid}: no such process\n")
    );
}

#[test]
fn a_process_that_has_ended_is_a_failure() {
    let folder = Folder::new();
    let zombie = zombie();
    let pid = zombie.pid();
    let output = finish(&mut command(&folder, &["reserve", "--pid", &pid])).code(2);
    let expected =
        format!("portlease: cannot reserve for pid {pid}: the process has ended, and its parent ");
    let own = format!(
        " (pid {}) has not read its exit status\n",
        std::process::id()
    );
    assert!(
        output.out.is_empty() && output.err.starts_with(&expected) && output.err.ends_with(&own),
        "{output:#?}"
    );
}

#[test]
fn a_process_that_ends_during_the_wait_is_a_failure() {
    let (folder, mut sleeper) = (Folder::new(), Sleeper::new());
    let busy = portlease::reserve_port();
    let (pid, port) = (sleeper.pid(), busy.port());
    let number = port.to_string();
    let args = ["reserve", "--pid", &pid, "--port", &number, "--wait", "10m"];
    let waiting = Running::start(&mut command(&folder, &args));
    eventually("a keeper that waits", DEADLINE, || {
        match children_of(waiting.pid()).is_empty() {
            true => Err("no child".to_owned()),
            false => Ok(()),
        }
    });
    sleeper.0.kill().unwrap();
    sleeper.0.wait().unwrap();
    drop(busy);
    let output = waiting.finish().code(2);
    let expected = format!("cannot reserve for pid {pid}: ");
    assert!(output.err.contains(&expected), "{output:#?}");
    assert_eq!(output.out, "");
    becomes_free(port, &folder);
}

#[test]
fn a_number_that_could_not_be_printed_is_released() {
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let mut command = command(&folder, &["reserve", "--pid", &sleeper.pid()]);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let process = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (
            output.status.code(),
            text.contains("cannot write the answer: ")
        ),
        (Some(2), true),
        "{text}"
    );
    eventually("nothing is held", DEADLINE, || match leases(&folder) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}

#[test]
fn a_reservation_without_a_keeper_is_not_released() {
    let p = silent();
    let output = finish(&mut portlease(&["release", &p.to_string()]))
        .code(1)
        .out;
    assert!(
        output.contains("this user did not reserve it with `portlease reserve`, or a port server ")
            && output.contains("is reserved by test "),
        "{output}"
    );
}

#[test]
fn a_release_of_one_protocol_reports_the_other_one_of_the_reservation() {
    let folder = Folder::new();
    let reserve = || {
        number(&finish(&mut command(
            &folder,
            &["reserve", "--both", "--for", "10m"],
        )))
    };
    let port = reserve();
    let released = finish(&mut command(&folder, &["release", &format!("{port}/udp")])).code(0);
    let note =
        format!("portlease: released {port}/tcp and {port}/udp, which were reserved together\n");
    assert_eq!(released.err, note);
    let port = reserve();
    let args = ["release", "--json", &format!("{port}/tcp")];
    let released = finish(&mut command(&folder, &args)).code(0);
    let both = json!([format!("{port}/tcp"), format!("{port}/udp")]);
    assert!(
        released.json()["released"] == both && released.err.is_empty(),
        "{released:#?}"
    );
    // The control: a number without a protocol is the whole reservation.
    let port = reserve();
    let released = finish(&mut command(&folder, &["release", &port.to_string()])).code(0);
    assert_eq!(released.err, "");
}

#[test]
fn a_reservation_for_a_time_outlives_every_process_of_the_script() {
    let folder = Folder::new();
    let over = finish(&mut command(&folder, &["reserve", "--for", "0s", "-v"])).code(0);
    assert!(
        over.err.contains("no keeper process holds the ports"),
        "{}",
        over.err
    );
    let brief = number(&finish(&mut command(&folder, &["reserve", "--for", "1s"])).code(0));
    let long = number(&finish(&mut command(&folder, &["reserve", "--for", "10m"])).code(0));
    let long_keeper = keeper(&folder, long);
    // The second of `brief` is over long before the ten minutes of `long`.
    becomes_free(brief, &folder);
    assert_eq!(leases(&folder).len(), 1);
    finish(&mut command(&folder, &["release", &long.to_string()])).code(0);
    ends(long_keeper);
    // With `--for` and `--pid`, the reservation ends at the earlier of the two ends.
    let sleeper = Sleeper::new();
    let args = ["reserve", "--for", "10m", "--pid", &sleeper.pid()];
    let port = number(&finish(&mut command(&folder, &args)).code(0));
    drop(sleeper);
    becomes_free(port, &folder);
}

#[test]
fn a_report_on_a_port_of_a_keeper_offers_to_release_it() {
    let folder = Folder::new();
    let port = number(&finish(&mut command(&folder, &["reserve", "--for", "10m"])).code(0));
    let text = port.to_string();
    let keeper = keeper(&folder, port);
    let check = finish(&mut command(&folder, &["check", &text])).code(1);
    let start = format!(
        "port {port}/tcp is in use: reserved by portlease, pid {keeper}\n\
         help: wait for the port with `portlease reserve --port {port} --wait 60s`, or release it \
         with `portlease release {port}/tcp`, or "
    );
    assert!(check.out.starts_with(&start), "{check:#?}");
    assert_eq!(leases(&folder)[0]["command"], json!(null));
    // A command that has waited does not advise to wait.
    let release = format!("release it with `portlease release {port}/tcp`");
    for waited in [
        &["check", "--wait", "1ms", &text][..],
        &["wait", "--free", "--timeout", "1ms", &text],
        &["reserve", "--wait", "1ms", "--port", &text],
    ] {
        let waited = finish(&mut command(&folder, waited));
        let shown = format!("{}{}", waited.out, waited.err);
        assert!(
            shown.contains(&format!("\nhelp: {release}, or ")),
            "{waited:#?}"
        );
    }
    let waited = ["wait", "--free", "--timeout", "1ms", "--json", &text];
    let waited = finish(&mut command(&folder, &waited)).code(1).json();
    assert_eq!(
        waited["problems"][0]["remedies"][0],
        json!({"kind": "release", "text": release, "pid": keeper})
    );
    // The remedy, followed.
    finish(&mut command(&folder, &["release", &text])).code(0);
    finish(&mut command(&folder, &["check", &text])).code(0);
}

/// `run` and `reserve` reserve a number on every address, so an address on which it is free is of
/// no use to them.
#[test]
fn a_command_that_reserves_offers_no_free_address() {
    let folder = Folder::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let is_offered = |args: &[&str]| {
        let ran = finish(&mut command(&folder, args));
        assert_ne!(ran.status.code(), Some(0), "{ran:#?}");
        format!("{}{}", ran.out, ran.err).contains("let the new server listen on")
    };
    let [text, named] = [port.to_string(), format!("A={port}")];
    assert!(!is_offered(&["reserve", "--port", &text]));
    assert!(!is_offered(&["run", "--port", &named, "--", "true"]));
    // The control. Without IPv6 no other loopback address is free.
    let has_other = TcpListener::bind(("::1", port)).is_ok();
    assert_eq!(is_offered(&["check", &text]), has_other);
}

#[test]
fn a_job_must_be_an_ancestor() {
    let folder = Folder::new();
    let output = finish(&mut command(&folder, &["reserve", "--pid", "job"])).code(2);
    let message = "portlease: cannot find the CI job: no ancestor of this process is named \
                   Runner.Worker or";
    assert!(output.err.starts_with(message), "{output:#?}");
    need!(installed("bash"));
    // A copy of the shell, with the name of the process that runs a job of GitHub Actions.
    let worker = folder.path().join("Runner.Worker");
    let shell = crate::support::program::path_of("bash").unwrap();
    assert!(
        Command::new("cp")
            .arg(shell)
            .arg(&worker)
            .status()
            .unwrap()
            .success()
    );
    let mut job = Command::new(&worker);
    let script = "sh -c 'GITHUB_ACTIONS=true \"$BIN\" reserve --pid job; :' && \"$BIN\" list; :";
    plain(
        job.args(["-c", script])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let output = finish(&mut job).code(0);
    let port = output.out.lines().next().unwrap();
    assert!(
        output.out.matches(port).count() == 2 && output.err.is_empty(),
        "{output:#?}"
    );
}

#[test]
fn the_help_on_an_own_reservation_is_to_use_it_or_to_release_it() {
    let folder = Folder::new();
    let own = std::process::id().to_string();
    let port = number(&finish(&mut command(&folder, &["reserve", "--pid", &own])).code(0));
    let text = port.to_string();
    let help = format!(
        "\nhelp: use the port, which is already reserved for pid {own}, or release it with \
         `portlease release {port}/tcp`, or omit the number to reserve another port\n"
    );
    let again = finish(&mut command(
        &folder,
        &["reserve", "--port", &text, "--pid", &own],
    ));
    assert!(again.err.ends_with(&help), "{again:#?}");
    let named = format!("X={port}");
    let run = finish(&mut command(&folder, &["run", "--port", &named, "--", "x"]));
    assert!(run.code(125).err.ends_with(&help));
    finish(&mut command(&folder, &["release", &text])).code(0);
}

#[test]
fn the_help_on_a_reserved_port_keeps_the_options_of_the_command() {
    let folder = Folder::new();
    let sleeper = Sleeper::new();
    let pid = sleeper.pid();
    let held = finish(&mut command(&folder, &["reserve", "--udp", "--pid", &pid]));
    let port = number(&held.code(0)).to_string();
    let help = |args: &[&str]| {
        let ran = finish(&mut command(&folder, args));
        let all = format!("{}{}", ran.out, ran.err);
        let line = all.lines().find(|line| line.starts_with("help: "));
        line.unwrap_or_else(|| panic!("{ran:#?}")).to_owned()
    };
    let omit = "omit the number to reserve another port";
    let release = format!("release it with `portlease release {port}/udp`");
    let wait = format!(
        "help: wait for the port: add `--wait 60s` to this command, or {release}, or {omit}"
    );
    assert_eq!(help(&["reserve", "--both", "--port", &port]), wait);
    let named = format!("X={port}/udp");
    assert_eq!(help(&["run", "--port", &named, "--", "x"]), wait);
    let waited = ["reserve", "--both", "--port", &port, "--wait", "0s"];
    assert_eq!(help(&waited), format!("help: {release}, or {omit}"));
    assert_eq!(
        help(&["check", "--no-reuse-addr", &format!("{port}/udp")]),
        format!(
            "help: wait for the port with `portlease reserve --port {port} --udp --no-reuse-addr \
             --wait 60s`, or {release}, or reserve another port with `portlease reserve --udp \
             --no-reuse-addr`"
        )
    );
}

/// The socket of a reservation keeps servers without SO_REUSEADDR from the port. A user who may not
/// replace the reservation must wait for it or take another port.
#[test]
fn only_for_ones_own_reservation_the_help_is_to_reserve_again_without_reuse_addr() {
    let folder = Folder::new();
    let sleeper = Sleeper::new();
    let (own, pid) = (std::process::id().to_string(), sleeper.pid());
    for (holder, expected) in [
        (own, "help: release the port"),
        (pid, "help: wait for the port"),
    ] {
        let held = finish(&mut command(&folder, &["reserve", "--pid", &holder]));
        let port = number(&held.code(0)).to_string();
        for args in [
            &["check", "--no-reuse-addr", &port][..],
            &[
                "reserve",
                "--no-reuse-addr",
                "--pid",
                &holder,
                "--port",
                &port,
            ],
        ] {
            let ran = finish(&mut command(&folder, args));
            let all = format!("{}{}", ran.out, ran.err);
            let help = all.lines().find(|line| line.starts_with("help: "));
            assert!(
                help.is_some_and(|help| help.starts_with(expected)),
                "{ran:#?}"
            );
        }
        let wait = [
            "wait",
            "--free",
            "--no-reuse-addr",
            "--timeout",
            "0s",
            &port,
        ];
        let waited = finish(&mut command(&folder, &wait)).code(1);
        let again = "reserve it again with --no-reuse-addr";
        assert_eq!(
            waited.out.contains(again),
            expected.contains("release"),
            "{waited:#?}"
        );
        finish(&mut command(&folder, &["release", &port])).code(0);
    }
}
