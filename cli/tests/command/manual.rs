//! Completions and man pages.

use std::process::{Command, Stdio};

use crate::program::ran;
use crate::support::program::installed;
use crate::support::{Folder, need};

const COMMANDS: [&str; 10] = [
    "check",
    "who",
    "run",
    "wait",
    "list",
    "reserve",
    "release",
    "serve",
    "completions",
    "man",
];

#[test]
fn every_command_is_completed_and_described() {
    let pages = ran(&["man"]).code(0).out;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ran(&["completions", shell]).code(0).out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
            assert!(pages.contains(command), "{command}");
        }
        assert!(
            !script.contains("keeper\n") && !script.contains("keeper)"),
            "{shell}: what nobody is to type"
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
    let said = ran(&["man", "keeper"]).code(2);
    assert_eq!(said.err, "portlease: there is no command \"keeper\"\n");
    ran(&["completions", "tcsh"]).code(2);
}

#[test]
fn the_completions_are_scripts_of_their_shells() {
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
        "source {}; COMP_WORDS=(portlease re); COMP_CWORD=1; _portlease portlease re portlease; echo \"${{COMPREPLY[@]}}\"",
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
fn a_keeper_started_by_hand_has_nothing_to_do() {
    ran(&["keeper"]).code(2);
    ran(&["keeper", "x"]).code(2);
}
