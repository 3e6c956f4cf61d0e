//! Runs the console blocks of the pages for users, which are the README and `docs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{BINARY, finish, plain};
use crate::support::capability::{self, unshare_flags};
use crate::support::program::installed;
use crate::support::{DEADLINE, Folder, need};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let mut pages = vec![root.join("README.md")];
    pages.extend(
        docs.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "md")),
    );
    pages
}

fn console_blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```console\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
}

/// Runs the commands of a block, one after another, in a network namespace and a folder of its own.
/// Returns the block as a terminal would show it.
fn run(block: &str) -> String {
    let folder = Folder::new();
    let directory = folder.path().join("app");
    std::fs::create_dir_all(&directory).unwrap();
    let mut script = "ip link set lo up || exit 99\nexec 2>&1\n".to_owned();
    for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let shown = command.replace('\'', r"'\''");
        writeln!(script, "printf '%s\\n' '$ {shown}'\n{command}").unwrap();
    }
    // A block may have ended its own jobs.
    script += "jobs=$(jobs -p)\n[ -z \"$jobs\" ] || kill $jobs 2> /dev/null\nwait\n";
    let binary = Path::new(BINARY).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap();
    let mut bash = Command::new("unshare");
    plain(
        bash.args(unshare_flags())
            .args(["-n", "bash", "-c", &script])
            .current_dir(&directory)
            .env("PATH", format!("{binary}:{path}"))
            .env("PORTLEASE_DIR", folder.locks()),
    );
    let output = finish(&mut bash);
    output
        .out
        .replace(directory.to_str().unwrap(), "/home/ci/app")
}

/// Replaces each number by `N`, and each run of spaces by one space. Numbers and the alignment
/// differ from run to run. Replaces the user root by the user of the pages.
fn comparable(text: &str) -> String {
    let mut comparable = String::new();
    let mut before = ' ';
    for c in text.chars() {
        let c = if c.is_ascii_digit() { 'N' } else { c };
        if !(c == before && (c == 'N' || c == ' ')) {
            comparable.push(c);
        }
        before = c;
    }
    let user = rustix::process::geteuid();
    match user.is_root() {
        true => comparable.replace("user root", "user ci"),
        false => comparable,
    }
}

#[test]
fn the_commands_of_the_pages_print_what_the_pages_show() {
    need!(
        capability::network_namespace(),
        installed("bash"),
        installed("python3")
    );
    let mut blocks = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in console_blocks(&text) {
            let shown = run(block);
            let page = page.file_name().unwrap().display();
            assert_eq!(
                comparable(&shown),
                comparable(block),
                "{page} shows:\n{block}\nthe commands print:\n{shown}"
            );
            blocks += 1;
        }
    }
    assert!(blocks > 5, "the control: {blocks} blocks were run");
}

#[test]
fn the_readme_shows_the_report_of_a_failed_assertion() {
    need!(installed("python3"));
    let p = portlease::reserve_port();
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &p.to_string()]);
    let server = p.spawn(command, DEADLINE).unwrap();
    let diagnosis = portlease::check_port_free(server.port()).unwrap_err();
    let readme = std::fs::read_to_string(&pages()[0]).unwrap();
    let shown = readme.split("```text\n").nth(1).unwrap();
    let shown = shown.split_once("\n```").unwrap().0;
    let report = diagnosis
        .to_string()
        .replace(
            "pages::the_readme_shows_the_report_of_a_failed_assertion",
            "restart::keeps_its_port",
        )
        .replace(file!(), "tests/restart.rs");
    assert_eq!(comparable(&report), comparable(shown));
}
