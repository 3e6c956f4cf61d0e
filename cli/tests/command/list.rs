//! `portlease list`.

use std::process::Command;

use serde_json::json;

use crate::program::{Running, finish, line_in, plain, portlease};
use crate::support::program::installed;
use crate::support::{Folder, capability, need};

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn each_reservation_is_listed_with_its_owner() {
    let folder = Folder::new();
    let command = |args: &[&str]| {
        let mut command = portlease(args);
        command.env("PORTLEASE_DIR", folder.locks());
        command
    };
    let empty = finish(&mut command(&["list"])).code(0);
    assert_eq!(
        (empty.out.as_str(), empty.err.as_str()),
        ("", "portlease: no reservation was found\n")
    );
    assert_eq!(
        finish(&mut command(&["list", "--json"])).code(0).json(),
        json!({"version": 1, "leases": [], "complete": true, "unseen": []})
    );

    let file = folder.path().join("ports");
    let script = "echo $WEB $DNS > \"$FILE\"; exec sleep 600";
    let mut run = command(&[
        "run", "--port", "WEB", "--port", "DNS/udp", "--label", "a\tb", "--", "sh", "-c", script,
    ]);
    let run = Running::start(run.env("FILE", &file));
    let line = line_in(&file);
    let (web, dns) = line.split_once(' ').unwrap();

    let text = finish(&mut command(&["list"])).code(0).out;
    let heads: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heads,
        [
            "PORT",
            "PROTOCOL",
            "PID",
            "COMMAND",
            "FOR",
            "DIRECTORY",
            "TEST",
            "AT",
            "LABEL",
            "NAME",
            "AGE"
        ]
    );
    let mut rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    rows.sort_by_key(|row| row[1]);
    let pid = run.pid().to_string();
    let here = std::env::current_dir().unwrap().display().to_string();
    assert_eq!(rows.len(), 2, "{text}");
    for (row, (port, protocol)) in rows.iter().zip([(web, "tcp"), (dns, "udp")]) {
        let command = "sh -c 'echo $WEB $DNS > \"$FILE\"; exec sleep 600'";
        assert_eq!(row[..4], [port, protocol, &pid, command], "{text}");
        assert_eq!(row[4..8], ["-", here.as_str(), "-", "-"], "{text}");
        assert!(
            row[8] == "a\\tb" && row[9] == "-" && row[10].ends_with('s'),
            "{text}"
        );
    }
    let output = finish(&mut command(&["list", "--json"])).code(0).json();
    let row = output["leases"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["protocol"] == "udp")
        .unwrap();
    assert_eq!(
        (&row["port"], &row["pid"]),
        (&json!(dns.parse::<u16>().unwrap()), &json!(run.pid()))
    );
    assert_eq!(row["label"], json!("a\tb"));
    assert_eq!(row["working_directory"], json!(here));
    assert_eq!((&row["at"], &row["foreign"]), (&json!(null), &json!(false)));
    assert_eq!(row.as_object().unwrap().len(), 16, "{row}");
}

#[test]
#[cfg_attr(windows, ignore = "the script is for a shell of Unix")]
fn each_pid_is_listed_with_the_name_of_its_process() {
    let folder = Folder::new();
    let file = folder.path().join("port");
    // The keeper of `reserve` holds the port for the shell.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "\"$BIN\" reserve --pid $$ > \"$FILE\"; exec sleep 600",
    ]);
    plain(&mut shell);
    let shell = shell.env("PORTLEASE_DIR", folder.locks());
    let shell = Running::start(shell.env("FILE", &file));
    line_in(&file);
    let list = |args: &[&str]| {
        let mut command = portlease(args);
        finish(command.env("PORTLEASE_DIR", folder.locks())).code(0)
    };
    let row = list(&["list", "--json"]).json()["leases"][0].clone();
    let keeper = row["pid"].as_u64().unwrap();
    assert_ne!(keeper, u64::from(shell.pid()));
    let program = row["program"].as_str().unwrap();
    assert!(program.ends_with("/portlease"), "{row}");
    assert_eq!(row["on_behalf_of"], json!(shell.pid()));
    assert_eq!(row["on_behalf_of_name"], json!("sh"));
    assert_eq!(row["command"], json!(null));
    let text = list(&["list"]).out;
    let expected = format!("  {keeper}  portlease  {} sh  ", shell.pid());
    assert!(text.contains(&expected), "{text}");
}

/// The pid that a process has in a container can be the pid of another process outside.
#[test]
fn a_pid_of_another_pid_namespace_is_not_printed_as_one_of_this_machine() {
    need!(capability::pid_namespace(), installed("unshare"));
    let folder = Folder::new();
    let command = |args: &[&str]| {
        let mut command = portlease(args);
        command.env("PORTLEASE_DIR", folder.locks());
        command
    };
    let file = folder.path().join("port");
    let script = "\"$BIN\" reserve --pid $$ > \"$FILE\"; exec sleep 600";
    let mut inside = Command::new("unshare");
    inside.args(["-pf", "--mount-proc", "--kill-child", "sh", "-c", script]);
    plain(&mut inside);
    let inside = inside.env("PORTLEASE_DIR", folder.locks());
    let _inside = Running::start(inside.env("FILE", &file));
    let port = line_in(&file);

    let row = finish(&mut command(&["list", "--json"])).code(0).json()["leases"][0].clone();
    assert_eq!(
        (&row["foreign"], &row["on_behalf_of"]),
        (&json!(true), &json!(1))
    );
    let text = finish(&mut command(&["who", &port])).code(0).out;
    // Root sees the keeper, so the text has its pid here before its pid in the container.
    let there = row["pid"].as_u64().unwrap();
    let expected = format!(" (pid {there} in its own pid namespace) for sh (pid 1 there)");
    assert!(text.contains(&expected), "{text}");
}

#[test]
#[cfg_attr(
    windows,
    ignore = "a mode does not keep a user from reading on Windows"
)]
fn a_lock_folder_that_cannot_be_read_is_not_an_empty_list() {
    need!(capability::root());
    let folder = Folder::new();
    let script = |script: &str| {
        let mut command = Command::new("sh");
        plain(command.args(["-c", script]));
        finish(command.env("PORTLEASE_DIR", folder.locks())).code(3)
    };
    // Without CAP_DAC_OVERRIDE, modes apply to root too. The owner of the folder is another user.
    let list = "\"$BIN\" run -- sh -c ':' && chown -R 65534 \"$PORTLEASE_DIR\" && \
                chmod 700 $LOCKED && setpriv --bounding-set=-all --inh-caps=-all \"$BIN\" list";
    for locked in ["\"$PORTLEASE_DIR\"", "\"$PORTLEASE_DIR\"/net-*[0-9]"] {
        let open = "chmod 755 \"$PORTLEASE_DIR\" \"$PORTLEASE_DIR\"/*; ";
        let list = list.replace("$LOCKED", locked);
        let ran = script(&format!("{list}; CODE=$?; {open} exit $CODE"));
        let cause = "for reservations: permission denied: retry as a user who may read the folder";
        assert!(ran.err.contains(cause) && ran.out.is_empty(), "{ran:#?}");
        let ran = script(&format!("{list} --json; CODE=$?; {open} exit $CODE"));
        let json = ran.json();
        assert_eq!(
            (&json["leases"], &json["complete"]),
            (&json!([]), &json!(false))
        );
        assert!(
            json["unseen"][0].as_str().unwrap().contains(cause),
            "{json}"
        );
    }
}

#[test]
fn a_relative_lock_folder_is_a_failure() {
    let output = finish(portlease(&["list"]).env("PORTLEASE_DIR", "relative")).code(2);
    assert!(
        output
            .err
            .starts_with("portlease: cannot use the lock folder \"relative\": "),
        "{output:#?}"
    );
}
