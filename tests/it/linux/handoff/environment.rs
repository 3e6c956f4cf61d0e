//! The variables of a child that inherits sockets. The child is started through a shell, which must
//! not change its variables.

use std::collections::BTreeSet;
use std::process::Command;

use portlease::{ErrorKind, reserve_port};

use super::server;
use crate::support::Folder;
use crate::support::helper::NAME;

/// Names that dash drops, and names to which shells assign by themselves.
const SET: [&str; 8] = [
    "npm-config",
    "server.port",
    "-dash",
    "1st",
    "IFS",
    "OPTIND",
    "PPID",
    "PLAIN",
];

/// The variables of the child, without those that `pass_to` sets and those that describe the shell.
fn environment_of(command: &mut Command) -> BTreeSet<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = ["LISTEN_", "PWD=", "OLDPWD=", "SHLVL=", "_="];
    String::from_utf8(output.stdout)
        .unwrap()
        .split_terminator('\0')
        .filter(|variable| !expected.iter().any(|name| variable.starts_with(name)))
        .map(str::to_owned)
        .collect()
}

fn env() -> Command {
    let mut command = Command::new("/usr/bin/env");
    command.arg("-0");
    for name in SET {
        // dash ends with an error if OPTIND is no number.
        let value = if name == "OPTIND" {
            "7".to_owned()
        } else {
            format!("a 'value' of\n\"${name}\"")
        };
        command.env(name, value);
    }
    command.env_remove("removed.name");
    command
}

/// The helper process: it has inherited variables whose names are no identifiers.
pub(crate) fn pass_variables() {
    let p = reserve_port();
    let plain = environment_of(&mut env());
    assert!(plain.contains("inherited.name=1"), "control: {plain:?}");
    for times in 1..=2 {
        let q = reserve_port();
        let mut command = env();
        p.pass_to(&mut command).unwrap();
        if times == 2 {
            q.pass_to(&mut command).unwrap();
        }
        assert_eq!(environment_of(&mut command), plain, "{times}");
    }

    let mut cleared = env();
    p.pass_to(&mut cleared).unwrap();
    cleared.env_clear().env("LATER", "1");
    assert_eq!(
        environment_of(&mut cleared).into_iter().collect::<Vec<_>>(),
        ["LATER=1"]
    );

    // A program whose name starts with a dash, and one whose name env(1) takes for a variable.
    drop(cleared);
    let folder = Folder::new();
    let program = |name: &str| {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink("/bin/true", &path).unwrap();
        path
    };
    program("-true");
    let mut command = Command::new("-true");
    command.env("PATH", folder.path());
    p.pass_to(&mut command).unwrap();
    assert!(command.status().unwrap().success());
    drop(command);

    let mut command = Command::new(program("a=b"));
    let error = p.pass_to(&mut command).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"inherited.name\""), "{error}");
    assert!(command.status().unwrap().success(), "it is unchanged");
    for name in ["inherited.name", "removed.name"] {
        command.env_remove(name);
    }
    p.pass_to(&mut command).unwrap();
    assert!(command.status().unwrap().success());
    drop(command);

    let mut command = Command::new("true");
    command.env("", "value");
    let error = p.pass_to(&mut command).unwrap_err();
    assert!(error.to_string().contains("the variable \"\""), "{error}");
}

/// Starts a helper process, because no test may change the variables of the test process.
#[test]
fn no_variable_is_lost_on_the_way_through_the_shell() {
    let known = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    let mut command = server();
    for (name, _) in known {
        command.env_remove(name);
    }
    let output = command
        .env(NAME, "passes-variables")
        .env("inherited.name", "1")
        .env("removed.name", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
