//! Which numbers `reserve` and `run` choose, and the formats in which `reserve` prints them.

use std::process::Command;

use serde_json::json;

use crate::keepers::{Sleeper, command};
use crate::program::{Ran, finish, plain, portlease, ran, silent};
use crate::support::ports::non_ephemeral_ports;
use crate::support::program::installed;
use crate::support::{Folder, need};

/// `portlease reserve` for a process that runs as long as the test.
struct Reserve {
    folder: Folder,
    sleeper: Sleeper,
}

impl Reserve {
    fn new() -> Reserve {
        Reserve {
            folder: Folder::new(),
            sleeper: Sleeper::new(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let pid = self.sleeper.pid();
        command(&self.folder, &[&["reserve", "--pid", &pid], args].concat())
    }

    fn ran(&self, args: &[&str]) -> Ran {
        finish(&mut self.command(args))
    }
}

fn numbers(text: &str) -> Vec<u16> {
    text.split_whitespace()
        .map(|word| word.parse().unwrap_or_else(|e| panic!("{e}: {text:?}")))
        .collect()
}

#[test]
fn a_range_a_preference_and_exclusions_choose_the_numbers() {
    let ports = non_ephemeral_ports(5);
    let [first, second, third, fourth, last] = ports[..] else {
        panic!("{ports:?}")
    };
    let range = format!("{first}-{last}");
    let excluded = format!("{first},{third}-{last}");
    let reserve = Reserve::new();
    let one = reserve
        .ran(&["--range", &range, "--exclude", &excluded])
        .code(0);
    assert_eq!(numbers(&one.out), [second]);
    // The first of the two preferred numbers is already reserved.
    let preferred = format!("{second},{fourth}");
    let one = reserve
        .ran(&["--range", &range, "--prefer", &preferred])
        .code(0);
    assert_eq!(numbers(&one.out), [fourth]);
    let rest = reserve.ran(&["-n", "3", "--range", &range]).code(0);
    let mut rest = numbers(&rest.out);
    rest.sort_unstable();
    assert_eq!(rest, [first, third, last]);
    let none = reserve.ran(&["--range", &range]).code(2);
    assert!(none.err.contains("cannot reserve"), "{none:#?}");
}

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn run_chooses_its_numbers_in_the_same_way() {
    let ports = non_ephemeral_ports(3);
    let [first, second, third] = ports[..] else {
        panic!("{ports:?}")
    };
    let range = format!("{first}-{third}");
    let args = [
        "run",
        "--port",
        "A",
        "--port",
        "B",
        "--range",
        &range,
        "--prefer",
        &third.to_string(),
        "--exclude",
        &first.to_string(),
        "--",
        "echo",
        "{A} {B}",
    ];
    assert_eq!(numbers(&ran(&args).code(0).out), [third, second]);
}

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn both_reserves_one_number_for_tcp_and_udp() {
    let reserve = Reserve::new();
    let answer = reserve.ran(&["--both", "--json"]).code(0).json();
    assert_eq!(answer["ports"][0]["protocols"], json!(["tcp", "udp"]));
    let port = answer["ports"][0]["port"].to_string();
    for protocol in ["tcp", "udp"] {
        // The sleeper is no ancestor of this test, so its reservation makes the port busy here.
        let port = format!("{port}/{protocol}");
        let check = portlease(&["check", &port])
            .env("PORTLEASE_DIR", reserve.folder.locks())
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(1), "{port}: {check:?}");
    }
    let output = ran(&["run", "--json", "--both", "--port", "DNS", "--", "true"]).code(0);
    assert!(
        output.err.contains(r#""protocols":["tcp","udp"]"#),
        "{output:#?}"
    );
    let output = ran(&["run", "--both", "--port", "DNS/udp", "--", "true"]).code(125);
    assert!(
        output.err.contains("cannot reserve DNS/udp: --both"),
        "{output:#?}"
    );
    reserve.ran(&["--both", "--udp"]).code(2);
}

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn multiples_and_offsets_are_reserved() {
    let reserve = Reserve::new();
    let even = reserve.ran(&["--aligned", "16"]).code(0);
    assert_eq!(numbers(&even.out)[0] % 16, 0);
    let pair = reserve
        .ran(&["--udp", "--aligned", "2", "--block", "-n", "2"])
        .code(0);
    let pair = numbers(&pair.out);
    assert_eq!((pair[0] % 2, pair[1]), (0, pair[0] + 1));
    let node = reserve.ran(&["--offsets", "10000,0"]).code(0);
    let node = numbers(&node.out);
    assert_eq!(node[0], node[1] + 10000);
    let base = reserve.ran(&["--offsets", "0,2", "--aligned", "4"]).code(0);
    let base = numbers(&base.out);
    assert_eq!((base[0] % 4, base[1]), (0, base[0] + 2));
    let exact = silent().port();
    let at = reserve
        .ran(&["--port", &exact.to_string(), "--offsets", "0"])
        .code(0);
    assert_eq!(numbers(&at.out), [exact]);
    let output = ran(&["run", "--aligned", "8", "--", "sh", "-c", "echo $PORT"]).code(0);
    assert_eq!(numbers(&output.out)[0] % 8, 0);
}

#[test]
#[cfg_attr(windows, ignore = "the command under `run` is a program of Unix")]
fn a_name_stands_for_the_same_number_in_each_run() {
    let folder = Folder::new();
    let run = |options: &[&str]| {
        let args = [
            &["run", "--stable"],
            options,
            &["--", "sh", "-c", "echo $WEB $API"],
        ]
        .concat();
        let mut command = command(&folder, &args);
        // Each run of this test has a project of its own.
        finish(command.env("PORTLEASE_PROJECT", folder.path())).code(0)
    };
    let first = run(&["--port", "WEB", "--port", "API"]);
    assert_eq!(first.err, "");
    let [web, api] = numbers(&first.out)[..] else {
        panic!("{first:#?}")
    };
    assert_ne!(web, api);
    assert_eq!(numbers(&run(&["--port", "WEB"]).out), [web]);
    assert_eq!(numbers(&run(&["--port", "API"]).out), [api]);

    // `reserve --name` chooses the same numbers. If it cannot, it prints a note.
    let sleeper = Sleeper::new();
    let pid = sleeper.pid();
    let reserve = || {
        let mut command = command(&folder, &["reserve", "--name", "WEB", "--pid", &pid]);
        finish(command.env("PORTLEASE_PROJECT", folder.path())).code(0)
    };
    assert_eq!(numbers(&reserve().out), [web]);
    let other = reserve();
    let note = format!(
        "portlease: reserved {} instead of {web}: {web} is the usual number of this name, but \
         cannot be reserved\n",
        other.out.trim()
    );
    assert_eq!(other.err, note);
    let other = run(&["--port", "WEB"]);
    let note = format!(
        "portlease: WEB is {} instead of {web}: {web} is the usual number of this name, but cannot \
         be reserved\n",
        other.out.trim()
    );
    assert_eq!(other.err, note);
    let json = run(&["--json", "--port", "WEB", "--port", "API"]).err;
    assert!(json.contains(&format!(r#""first_choice":{web}"#)), "{json}");
}

#[test]
fn a_choice_that_cannot_be_met_is_refused_with_the_reason() {
    for (args, reason) in [
        (
            &["--range", "20000"][..],
            "expected LOW-HIGH, as in 20000-29999",
        ),
        (&["--range", "9-8"], "is empty"),
        (&["--prefer", "80/udp"], "expected numbers such as"),
        (&["--exclude", "127.0.0.1:80"], "expected numbers such as"),
        (&["--exclude", "x"], "\"x\" does not name a port"),
        (
            &["--variable", "1X", "--format", "env"],
            "is not a variable name",
        ),
        (
            &["--variable", "PATH", "--format", "env"],
            "the system needs the variable PATH to start programs",
        ),
        (&["--format", "toml"], "invalid value 'toml'"),
        (
            &["--aligned", "0"],
            "0 is out of range: expected a number from 1 to",
        ),
        (&["--offsets", "0,0"], "offset 0 is requested twice"),
        (
            &["--offsets", "0,70000"],
            "70000 is out of range: expected a number from 0 to 65535",
        ),
        (
            &["--offsets", "0,x"],
            "\"x\" is not a number: expected a number from 0 to 65535",
        ),
        (
            &["--aligned", "65535"],
            "1 not tried (port 65535, or ports that browsers refuse); to reserve such a port, \
             request its exact number",
        ),
        (
            &["--offsets", "0,65535"],
            "request offsets that are closer together",
        ),
        (&["--offsets", "0,1", "-n", "2"], "cannot be used with"),
        (&["--offsets", "0,1", "--block"], "cannot be used with"),
        (&["--name", "db", "--port", "80"], "cannot be used with"),
        (&["--name", ""], "the stable name is empty"),
        (&["--format", "env", "--json"], "cannot be used with"),
    ] {
        let output = ran(&[&["reserve"], args].concat()).code(2);
        assert!(output.err.contains(reason), "{args:?}: {output:#?}");
    }
    let reserve = Reserve::new();
    let refused = |command: &mut Command, option: &str, code| {
        let output = finish(command.env("PORTSERVER_ADDRESS", "@no-such-port-server")).code(code);
        let reason = format!("cannot apply {option}: the port server of PORTSERVER_ADDRESS");
        assert!(output.err.contains(&reason), "{output:#?}");
    };
    for (option, value) in [
        ("--range", "1024-2000"),
        ("--prefer", "1024"),
        ("--exclude", "1024"),
        ("--aligned", "2"),
    ] {
        refused(&mut reserve.command(&[option, value]), option, 2);
        let mut run = portlease(&["run", option, value, "--", "true"]);
        refused(&mut run, option, 125);
    }
    refused(&mut reserve.command(&["--name", "db"]), "--name", 2);
    refused(&mut reserve.command(&["--offsets", "0,1"]), "--offsets", 2);
    let mut run = portlease(&["run", "--stable", "--", "true"]);
    refused(&mut run, "--stable", 125);
    // The port server does not choose an exact number, so the option is accepted.
    let exact = silent().port().to_string();
    let args = ["--port", &exact, "--prefer", "1024"];
    let mut command = reserve.command(&args);
    let output = finish(command.env("PORTSERVER_ADDRESS", "@no-such-port-server")).code(0);
    assert_eq!(output.out.trim(), exact);
}

#[test]
fn each_format_prints_the_numbers_in_its_own_way() {
    let reserve = Reserve::new();
    let plain = reserve.ran(&["-n", "2", "--format", "plain"]).code(0);
    assert_eq!(numbers(&plain.out).len(), 2);
    let dotenv = reserve.ran(&["--format", "dotenv"]).code(0).out;
    let number = dotenv.trim_end().strip_prefix("PORT=").unwrap();
    assert_eq!(numbers(number).len(), 1);
    let args = [
        "-n",
        "2",
        "--block",
        "--format",
        "env",
        "--variable",
        "DB_PORT",
    ];
    let env = reserve.ran(&args).code(0).out;
    let lines: Vec<&str> = env.lines().collect();
    let first: u16 = lines[0]
        .strip_prefix("export DB_PORT_1=")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(lines[1], format!("export DB_PORT_2={}", first + 1));
}

#[test]
fn github_and_nextest_read_the_numbers_from_their_files() {
    for (format, variable, program) in [
        ("github", "GITHUB_ENV", "a job of GitHub Actions"),
        ("nextest", "NEXTEST_ENV", "a setup script of nextest"),
    ] {
        let reserve = Reserve::new();
        let file = reserve.folder.path().join("file");
        std::fs::write(&file, "EARLIER=1\n").unwrap();
        let append = |args: &[&str]| {
            let args = [&["--format", format], args].concat();
            finish(reserve.command(&args).env(variable, &file))
                .code(0)
                .out
        };
        let one = append(&[]);
        let two = append(&["-n", "2", "--variable", "DB"]);
        let two = numbers(&two);
        let expected = format!(
            "EARLIER=1\nPORT={}\nDB_1={}\nDB_2={}\n",
            one.trim(),
            two[0],
            two[1]
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);

        let leases = || crate::keepers::leases(&reserve.folder).len();
        let before = leases();
        let mut without = reserve.command(&["--format", format]);
        let output = finish(without.env_remove(variable)).code(2);
        let reason =
            format!("${variable} is not set; use this format only in {program}, which sets it");
        assert!(output.err.contains(&reason), "{output:#?}");
        assert_eq!(leases(), before, "nothing is reserved");
        let folder = reserve.folder.path();
        let mut unwritable = reserve.command(&["--format", format]);
        let output = finish(unwritable.env(variable, folder)).code(2);
        let cause = match cfg!(windows) {
            true => "access denied",
            false => "is a directory",
        };
        let reason = format!("cannot append to {folder:?} (${variable}): {cause}");
        assert!(output.err.contains(&reason), "{output:#?}");
        crate::support::eventually("nothing is left", crate::support::DEADLINE, || {
            match leases() == before {
                true => Ok(()),
                false => Err("a reservation is left".to_owned()),
            }
        });
    }
}

#[test]
fn shells_evaluate_the_variables() {
    need!(installed("bash"));
    let folder = Folder::new();
    for shell in ["bash", "dash", "zsh", "busybox"] {
        let Some(path) = crate::support::program::path_of(shell) else {
            continue;
        };
        let script = "eval \"$(\"$BIN\" reserve --format env --variable A --pid $$)\" && \
                      sh -c 'echo $A' && \"$BIN\" check -q \"$A\"";
        let mut command = Command::new(path);
        if shell == "busybox" {
            command.arg("sh");
        }
        plain(
            command
                .args(["-c", script])
                .env("PORTLEASE_DIR", folder.locks()),
        );
        let output = finish(&mut command).code(0);
        assert_eq!(numbers(&output.out).len(), 1, "{shell}: {output:#?}");
    }
}
