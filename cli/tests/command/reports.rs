//! The reports of `check` for CI servers.

use std::process::Command;

use portlease::reserve_port;

use crate::program::{finish, portlease, ran, silent};
use crate::support::program::installed;
use crate::support::{Folder, need};

#[test]
fn annotations_go_to_stderr_beside_the_answer() {
    let (busy, free) = (reserve_port(), silent());
    let _server = busy.listen().unwrap();
    let args = ["check", &busy.to_string(), &free.to_string()];
    let output = finish(portlease(&args).env("GITHUB_ACTIONS", "true")).code(1);
    let annotation = format!("::error::{}\n", output.out.trim_end().replace('\n', "%0A"));
    assert_eq!(output.err, annotation);
    assert!(
        annotation.contains("%0Ahelp: ") && output.out.contains("\nhelp: "),
        "{output:#?}"
    );
    // The same with --json: stdout has the object alone.
    let output =
        finish(portlease(&[&args[..], &["--json"]].concat()).env("GITHUB_ACTIONS", "true")).code(1);
    assert_eq!(
        (output.json()["ports"][1]["free"].clone(), output.err),
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
fn a_junit_report_has_a_case_per_port_and_the_counts() {
    need!(installed("python3"));
    let folder = Folder::new();
    let file = folder.path().join("junit.xml");
    let (busy, free) = (reserve_port(), silent());
    let _server = busy.listen().unwrap();
    let unchecked = format!("{free}/udplite");
    let path = file.to_str().unwrap();
    ran(&[
        "check",
        "-q",
        "--junit",
        path,
        &busy.to_string(),
        &free.to_string(),
        &unchecked,
    ])
    .code(1);
    // An independent parser reads the report.
    let read = "import sys, xml.etree.ElementTree as E\n\
        suite = E.parse(sys.argv[1]).getroot().find('testsuite')\n\
        print(suite.get('tests'), suite.get('failures'), suite.get('errors'))\n\
        def shown(p): return '%s %s' % (p.tag, p.text.startswith(p.get('message')))\n\
        for case in suite: print(case.get('name'), *map(shown, case))\n";
    let mut python = Command::new("python3");
    let output = finish(python.args(["-c", read, path])).code(0).out;
    let expected = format!("3 1 1\n{busy}/tcp failure True\n{free}/tcp\n{unchecked} error True\n");
    assert_eq!(output, expected);
    let output = ran(&[
        "check",
        "--junit",
        "/dev/null/x/junit.xml",
        &free.to_string(),
    ])
    .code(2);
    assert_eq!(
        output.err,
        "portlease: cannot write /dev/null/x/junit.xml: not a directory\n"
    );
}
