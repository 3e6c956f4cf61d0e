//! Completions and man pages.

use std::process::{Command, Stdio};

use crate::program::ran;
use crate::support::program::installed;
use crate::support::{Folder, need};

const COMMANDS: [&str; 11] = [
    "check",
    "who",
    "run",
    "wait",
    "list",
    "reserve",
    "release",
    "serve",
    "stop",
    "completions",
    "man",
];

/// The help of a command begins with the line that `portlease --help` shows for it.
#[test]
fn the_help_of_each_command_describes_that_command() {
    let list = ran(&["--help"]).code(0).out;
    for command in COMMANDS {
        let mut lines = list.lines().map(str::trim_start);
        let line = lines.find_map(|line| line.strip_prefix(&format!("{command} ")));
        let described = line.unwrap().trim_start();
        for help in ["-h", "--help"] {
            let text = ran(&[command, help]).code(0).out;
            let text = text.replace('\n', " ");
            assert!(text.starts_with(described), "{command} {help}: {text}");
        }
    }
}

#[test]
fn every_command_has_completions_and_a_man_page() {
    let pages = ran(&["man"]).code(0).out;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ran(&["completions", shell]).code(0).out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
            assert!(pages.contains(command), "{command}");
        }
        assert!(
            !script.contains("keeper\n") && !script.contains("keeper)"),
            "{shell}: completes the internal argument"
        );
    }
    for command in COMMANDS {
        let page = ran(&["man", command]).code(0).out;
        assert!(
            page.contains(&format!(".TH portlease-{command} 1")),
            "{page}"
        );
        assert!(page.contains("\\-\\-json"), "{page}");
    }
    let output = ran(&["man", "keeper"]).code(2);
    assert_eq!(
        output.err,
        "portlease: cannot print a man page: portlease has no command \"keeper\"\n"
    );
    ran(&["completions", "tcsh"]).code(2);
}

#[test]
fn each_shell_accepts_its_completion_script() {
    need!(installed("bash"));
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        if installed(shell).is_err() {
            continue;
        }
        let file = folder.path().join(shell);
        std::fs::write(&file, ran(&["completions", shell]).code(0).out).unwrap();
        let read = Command::new(shell)
            .arg("-n")
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(read.status.success(), "{shell}: {read:?}");
    }
    let complete = format!(
        "source {}; COMP_WORDS=(portlease re); COMP_CWORD=1; \
         _portlease portlease re portlease; echo \"${{COMPREPLY[@]}}\"",
        folder.path().join("bash").display()
    );
    let read = Command::new("bash")
        .args(["-c", &complete])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&read.stdout).into_owned();
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.sort_unstable();
    assert_eq!(words, ["release", "reserve"], "{read:?}");
}

#[test]
fn a_keeper_started_by_a_user_exits_with_2() {
    ran(&["keeper"]).code(2);
    ran(&["keeper", "x"]).code(2);
}
