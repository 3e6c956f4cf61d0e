//! `portlease reserve` and `portlease release`: shells, and the keeper behind them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use portlease::reserve_port;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Ran, Running, becomes_free, finish, for_everybody, kill, line_in, plain};
use crate::program::{portlease, silent};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, capability, eventually, need};

fn command(folder: &Folder, args: &[&str]) -> Command {
    let mut command = portlease(args);
    command.env("PORTLEASE_DIR", folder.locks());
    command
}

/// A process that lives until the value is dropped, for a keeper to hold for.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(
            Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn leases(folder: &Folder) -> Vec<Value> {
    let said = finish(&mut command(folder, &["list", "--json"]))
        .code(0)
        .json();
    said["leases"].as_array().unwrap().clone()
}

/// The keeper of a port.
fn keeper(folder: &Folder, port: u16) -> u32 {
    let leases = leases(folder);
    let lease = leases
        .iter()
        .find(|lease| lease["port"] == json!(port))
        .unwrap_or_else(|| panic!("{leases:?}"));
    u32::try_from(lease["pid"].as_u64().unwrap()).unwrap()
}

fn ends(pid: u32) {
    eventually(
        "the process ends",
        DEADLINE,
        || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            // Nobody's child any more, it is reaped when init comes to it.
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        },
    );
}

fn number(ran: &Ran) -> u16 {
    ran.out
        .strip_suffix('\n')
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("{ran:#?}"))
}

/// What a script of any shell does with its ports.
const SCRIPT: &str = "\
set -e
PORT=$(\"$BIN\" reserve)
BOTH=$(\"$BIN\" reserve --udp -n 2 2>&1 | cat)
LISTED=$(true; \"$BIN\" reserve --label listed; true)
test \"$(echo \"$BOTH\" | wc -l)\" -eq 2
\"$BIN\" check \"$PORT\" \"$LISTED\" \"$(echo \"$BOTH\" | head -n 1)/udp\"
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
    // The subshell that called is long gone.
    let port: u16 = line_in(&file).parse().unwrap();
    let keeper = keeper(&folder, port);
    assert_eq!(leases(&folder).len(), 1, "the others are released");
    std::fs::write(&fifo, "\n").unwrap();
    let said = run.finish().code(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(
        lines[0].contains("is not held by a keeper of yours: it is not reserved"),
        "{said:#?}"
    );
    assert_eq!(lines[2], port.to_string(), "{said:#?}");
    ends(keeper);
    becomes_free(port, &folder);
    assert_eq!(leases(&folder), Vec::<Value>::new());
}

#[test]
fn a_script_of_bash_has_its_ports_until_it_ends() {
    need!(installed("bash"), installed("python3"));
    serves_scripts_of("bash");
}

#[test]
fn a_script_of_dash_has_its_ports_until_it_ends() {
    need!(installed("dash"), installed("python3"));
    serves_scripts_of("dash");
}

#[test]
fn a_script_of_zsh_has_its_ports_until_it_ends() {
    need!(installed("zsh"), installed("python3"));
    serves_scripts_of("zsh");
}

#[test]
fn a_kill_of_the_shell_or_of_the_keeper_leaves_nothing_held() {
    let folder = Folder::new();
    for victim in ["shell", "keeper"] {
        let file = folder.path().join(format!("kill {victim}"));
        let mut sh = Command::new("sh");
        plain(sh.args([
            "-c",
            "PORT=$(\"$BIN\" reserve | cat); echo $PORT > \"$FILE\"; read _ < \"$FIFO\"",
        ]));
        let fifo = folder.path().join(victim);
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let shell = Running::start(
            sh.env("FILE", &file)
                .env("FIFO", &fifo)
                .env("PORTLEASE_DIR", folder.locks()),
        );
        let port = line_in(&file).parse().unwrap();
        let keeper = keeper(&folder, port);
        kill(if victim == "shell" {
            shell.pid()
        } else {
            keeper
        });
        ends(keeper);
        becomes_free(port, &folder);
    }
}

#[test]
fn a_keeper_lives_as_long_as_the_process_it_is_told() {
    let folder = Folder::new();
    let mut sleeper = Sleeper::new();
    let port =
        number(&finish(&mut command(&folder, &["reserve", "--pid", &sleeper.pid()])).code(0));
    let keeper = keeper(&folder, port);
    let session = || {
        let stat = std::fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
        stat.rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    // Neither Ctrl-C nor the end of the terminal reaches a session of its own.
    eventually("its own session", DEADLINE, || {
        if session() == keeper {
            Ok(())
        } else {
            Err(session().to_string())
        }
    });
    assert_eq!(
        std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap(),
        Path::new("/")
    );
    // To a stranger it is taken, to what it is held for it is not: this test is no descendant of the sleeper.
    let said = finish(&mut command(&folder, &["check", &port.to_string()]))
        .code(1)
        .out;
    let expected = format!("pid {keeper} for pid {}", sleeper.pid());
    assert!(
        said.contains("reserved by portlease (") && said.contains(&expected),
        "{said}"
    );
    sleeper.0.kill().unwrap();
    // Dead, and not waited for by its parent yet.
    ends(keeper);
    becomes_free(port, &folder);
}

#[test]
fn the_numbers_are_as_they_were_asked_for() {
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
    let told = finish(&mut command(
        &folder,
        &["release", &format!("{}-{}", block[0], block[2])],
    ));
    assert_eq!(told.code(0).out, "");

    let fixed = silent().port();
    let said = reserve(&["--port", &fixed.to_string(), "--label", "primary"]).code(0);
    assert_eq!(number(&said), fixed);
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

    let said = reserve(&["--udp", "--json"]).code(0).json();
    let port = said["ports"][0]["port"].as_u64().unwrap();
    let keeper = keeper(&folder, u16::try_from(port).unwrap());
    let row =
        json!({"port": port, "protocols": ["udp"], "guarantee": said["ports"][0]["guarantee"]});
    let expected = json!({"version": 1, "keeper": keeper, "pid": sleeper.0.id(), "ports": [row]});
    assert_eq!(said, expected);
    let args = [
        "release",
        "--json",
        &format!("{port}/udp"),
        &format!("{port}/tcp"),
        &fixed.to_string(),
    ];
    let said = finish(&mut command(&folder, &args)).code(1).json();
    let (released, not_held) = (
        [format!("{port}/udp"), fixed.to_string()],
        [format!("{port}/tcp")],
    );
    assert_eq!(
        said,
        json!({"version": 1, "released": released, "not_held": not_held})
    );
}

#[test]
fn a_process_that_is_not_there_is_held_for_by_nobody() {
    let folder = Folder::new();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let pid = gone.id();
    let said = finish(&mut command(
        &folder,
        &["reserve", "--pid", &pid.to_string()],
    ))
    .code(2);
    assert_eq!(
        said.err,
        format!("portlease: cannot reserve for pid {pid}: no such process\n")
    );
}

#[test]
fn a_number_that_nobody_could_read_is_not_held() {
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
fn an_interrupted_queue_leaves_nothing_behind() {
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let busy = reserve_port();
    for signal in [Signal::INT, Signal::KILL] {
        let args = [
            "reserve",
            "--pid",
            &sleeper.pid(),
            "--port",
            &busy.to_string(),
            "--wait",
            "10m",
        ];
        let run = Running::start(&mut command(&folder, &args));
        let keeper = eventually("a keeper", DEADLINE, || {
            children_of(run.pid())
                .first()
                .copied()
                .ok_or_else(|| "no child".to_owned())
        });
        run.signal(signal);
        let code = run.finish().shell_code();
        assert!([130, 137].contains(&code), "{code}");
        ends(keeper);
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let is_child = |stat: &str| {
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        // As a copy of its parent it is not the keeper yet.
        parent == Some(&pid.to_string())
    };
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = pids.filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_child(&stat))
    })
    .collect()
}

#[test]
fn a_keeper_has_nothing_of_what_its_caller_had_open() {
    need!(installed("flock"), installed("bash"));
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let lock = folder.path().join("lock");
    let script = "exec 9>\"$LOCK\"; flock -n 9 || exit 91; \"$BIN\" reserve --pid \"$HOLDER\"";
    let mut bash = Command::new("bash");
    plain(
        bash.args(["-c", script])
            .env("LOCK", &lock)
            .env("HOLDER", sleeper.pid()),
    );
    let port = number(&finish(bash.env("PORTLEASE_DIR", folder.locks())).code(0));
    let free = Command::new("flock")
        .arg("-n")
        .arg(&lock)
        .arg("true")
        .status()
        .unwrap();
    assert!(free.success(), "the caller's lock lives on");
    assert!(keeper(&folder, port) > 0, "the keeper is still there");
}

#[test]
fn only_its_own_user_ends_a_keepers_hold() {
    need!(capability::nobody());
    let (folder, sleeper) = (Folder::new(), Sleeper::new());
    let port =
        number(&finish(&mut command(&folder, &["reserve", "--pid", &sleeper.pid()])).code(0));
    let (binary, _copy) = for_everybody();
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary);
    plain(
        nobody
            .args(["release", &port.to_string()])
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let said = finish(&mut nobody).code(1).out;
    assert!(
        said.starts_with(&format!(
            "port {port} is not held by a keeper of yours: {port}/tcp is reserved by "
        )),
        "{said}"
    );
    finish(&mut command(&folder, &["check", "-q", &port.to_string()])).code(1);
    finish(&mut command(&folder, &["release", &port.to_string()])).code(0);
}

#[test]
fn what_is_no_keepers_is_not_released() {
    let p = silent();
    let said = finish(&mut portlease(&["release", &p.to_string()]))
        .code(1)
        .out;
    assert!(
        said.contains("is not held by a keeper of yours: ")
            && said.contains("is reserved by test "),
        "{said}"
    );
}
