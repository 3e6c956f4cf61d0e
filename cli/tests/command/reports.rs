//! What `check` writes for CI servers.

use std::process::Command;

use portlease::reserve_port;

use crate::program::{finish, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{Folder, need};

#[test]
fn github_is_told_beside_the_answer() {
    let (busy, free) = (reserve_port(), silent());
    let _server = busy.listen().unwrap();
    let args = ["check", &busy.to_string(), &free.to_string()];
    let said = finish(portlease(&args).env("GITHUB_ACTIONS", "true")).code(1);
    let annotation = format!("::error::{}\n", said.out.trim_end().replace('\n', "%0A"));
    assert_eq!(said.err, annotation);
    assert!(
        annotation.contains("%0Ahelp: ") && said.out.contains("\nhelp: "),
        "{said:#?}"
    );
    // On one line with JSON too, whose object stays alone on stdout.
    let said =
        finish(portlease(&[&args[..], &["--json"]].concat()).env("GITHUB_ACTIONS", "true")).code(1);
    assert_eq!(
        (said.json()["ports"][1]["free"].clone(), said.err),
        (true.into(), annotation)
    );
    assert_eq!(
        finish(portlease(&args).env("GITHUB_ACTIONS", "false"))
            .code(1)
            .err,
        ""
    );
}

#[test]
fn a_junit_report_counts_and_names() {
    need!(installed("python3"));
    let folder = Folder::new();
    let file = folder.path().join("junit.xml");
    let (busy, free) = (reserve_port(), silent());
    let _server = busy.listen().unwrap();
    let untold = format!("{free}/udplite");
    let path = file.to_str().unwrap();
    ran(&[
        "check",
        "-q",
        "--junit",
        path,
        &busy.to_string(),
        &free.to_string(),
        &untold,
    ])
    .code(1);
    // Read by a parser of its own.
    let read = "import sys, xml.etree.ElementTree as E\n\
        suite = E.parse(sys.argv[1]).getroot().find('testsuite')\n\
        print(suite.get('tests'), suite.get('failures'), suite.get('errors'))\n\
        for case in suite: print(case.get('name'), *['%s %s' % (p.tag, p.text.startswith(p.get('message'))) for p in case])\n";
    let mut python = Command::new("python3");
    let said = finish(python.args(["-c", read, path])).code(0).out;
    let expected = format!("3 1 1\n{busy}/tcp failure True\n{free}/tcp\n{untold} error True\n");
    assert_eq!(said, expected);
    let said = ran(&["check", "--junit", "/nowhere/junit.xml", &free.to_string()]).code(2);
    assert_eq!(
        said.err,
        "portlease: cannot write /nowhere/junit.xml: no such file or directory\n"
    );
}
