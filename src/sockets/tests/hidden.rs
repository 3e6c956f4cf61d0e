//! What cannot be seen, or not by everybody.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn where_proc_hides_other_users_the_answer_is_not_complete() {
    if !is_root("hidepid") || !has_sock_diag("hidepid") {
        return;
    }
    let (_listener, port) = listener(V4);
    for level in ["1", "2"] {
        let script = format!(
            "mount -t proc -o hidepid={level} proc /proc && exec {} \"$@\"",
            NOBODY.join(" ")
        );
        let said = asked_by(&["unshare", "--mount", "sh", "-c", &script, "sh"], port);
        assert_eq!(
            said,
            [
                "row listen 127.0.0.1:P hidden by [] uid Some(0)",
                "unseen [Processes]"
            ],
            "hidepid={level}"
        );
    }
}

#[test]
fn a_descriptor_in_flight_is_hinted_at() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    if !is_root("a descriptor in flight") {
        return;
    }
    let (listener, port) = listener(V4);
    let (sender, _receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(&listener)];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        &sender,
        &[std::io::IoSlice::new(b"x")],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
    drop(listener);
    expect(port, Tcp, &["listen 127.0.0.1:P hidden by []"]);
    let unseen = ask(port, Tcp).1;
    assert!(
        unseen.contains(&Incompleteness::InFlight(me())),
        "{unseen:?}"
    );
}

/// The environment variable that makes [`the_other_asker`] ask.
const ASKED: &str = "PORTLEASE_TEST_ASKED";

/// The one that makes it use up its descriptors first.
const STARVED: &str = "PORTLEASE_TEST_STARVED";

fn starve(port: u16) {
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    let mut files: Vec<std::fs::File> = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let table = sockets(port, None).unwrap_err();
    let quick = listening(port, Tcp).unwrap_err();
    // The folder of all processes can be opened now, and none of theirs.
    drop(files.pop());
    let search = owners(rows, ScanDepth::Complete).unwrap_err();
    println!(
        "row {:?}",
        [table, quick, search].map(|error| error.raw_os_error())
    );
}

#[test]
fn without_descriptors_every_look_fails_and_says_so() {
    let (_listener, port) = listener(V4);
    let said = asked_by(
        &["env", &format!("{STARVED}=1"), "prlimit", "--nofile=64"],
        port,
    );
    assert_eq!(said, ["row [Some(24), Some(24), Some(24)]"]);
}

#[test]
fn the_other_asker() {
    let Ok(port) = std::env::var(ASKED) else {
        return;
    };
    let port = port.parse().unwrap();
    if std::env::var_os(STARVED).is_some() {
        return starve(port);
    }
    let (holders, unseen) = ask(port, Tcp);
    for holder in &holders {
        println!("row {} uid {:?}", told(holder, port), holder.uid);
    }
    println!("unseen {unseen:?}");
}

/// What this test binary says when it is run by another command line.
fn asked_by(wrapper: &[&str], port: u16) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("asker");
    // By another process: a child forked at this moment would keep the copy open for writing, and so from being run.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(&program).args([
        "--exact",
        "sockets::tests::hidden::the_other_asker",
        "--nocapture",
    ]);
    let output = command.env(ASKED, port.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told = |line: &&str| {
        (line.contains("row ") && !line.contains("row time_wait")) || line.contains("unseen ")
    };
    text.lines()
        .filter(told)
        .map(|line| {
            line.trim_start_matches("test sockets::tests::hidden::the_other_asker ... ")
                .to_owned()
        })
        .collect()
}

const NOBODY: [&str; 7] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--",
];

#[test]
fn another_users_process_is_hidden_and_its_user_is_told() {
    if !is_root("another user's socket") || !has_sock_diag("another user's socket") {
        return;
    }
    let (listener, port) = listener(V4);
    assert_eq!(
        asked_by(&NOBODY, port),
        [
            "row listen 127.0.0.1:P hidden by [] uid Some(0)",
            "unseen [Processes]"
        ]
    );

    // And the other way round: root sees all.
    let mut child = Command::new(NOBODY[0]);
    child
        .args(&NOBODY[1..])
        .args(["sleep", "600"])
        .stdin(OwnedFd::from(listener));
    let child_process = Killed(child.spawn().unwrap());
    drop(child);
    expect(
        port,
        Tcp,
        &[&format!("listen 127.0.0.1:P by [{}]", child_process.0.id())],
    );
    let deadline = Instant::now() + PATIENCE;
    while ask(port, Tcp).0[0].processes[0].uid != Some(65534) {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn from_another_pid_namespace_the_process_is_hidden() {
    if !is_root("another PID namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    let said = asked_by(&["unshare", "--pid", "--fork", "--mount-proc"], port);
    assert_eq!(said[0], "row listen 127.0.0.1:P hidden by [] uid Some(0)");
}

#[test]
fn without_proc_the_process_is_hidden_and_the_answer_says_why() {
    if !is_root("no /proc") || !has_sock_diag("no /proc") {
        return;
    }
    let (_listener, port) = listener(V4);
    let said = asked_by(
        &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /proc && exec \"$@\"",
            "sh",
        ],
        port,
    );
    assert_eq!(
        said,
        [
            "row listen 127.0.0.1:P hidden by [] uid Some(0)",
            "unseen [Proc]"
        ]
    );
}

#[test]
fn another_network_namespace_is_another_machine() {
    if !is_root("another network namespace") || !has_sock_diag("another network namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    assert_eq!(asked_by(&["unshare", "--net"], port), ["unseen []"]);
}
