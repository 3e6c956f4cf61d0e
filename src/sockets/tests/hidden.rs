//! Sockets whose owners the search cannot see: the owner belongs to another user or namespace,
//! `/proc` is missing, or the socket is in flight between processes.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn where_proc_hides_other_users_the_answer_is_incomplete() {
    if !is_root("hidepid") || !shows_bound("hidepid") {
        return;
    }
    let (_listener, port) = listener(V4);
    for level in ["1", "2"] {
        let script = format!(
            "mount -t proc -o hidepid={level} proc /proc && exec {} \"$@\"",
            AS_NOBODY.join(" ")
        );
        let output = run_wrapped(&["unshare", "--mount", "sh", "-c", &script, "sh"], port);
        assert_eq!(
            output,
            [
                "row listen 127.0.0.1:P hidden by [] uid Some(0)",
                "unseen [Processes]"
            ],
            "hidepid={level}"
        );
    }
}

#[test]
fn a_user_outside_of_the_user_namespace_has_no_uid() {
    if !is_root("user namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    let wrapper: Vec<&str> = AS_NOBODY.into_iter().chain(["unshare", "-Ur"]).collect();
    if !Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .status()
        .unwrap()
        .success()
    {
        skip("user namespace", "no user namespaces");
        return;
    }
    let output = run_wrapped(&wrapper, port);
    assert_eq!(output[0], "row listen 127.0.0.1:P hidden by [] uid None");
}

#[test]
fn a_descriptor_in_flight_is_reported_as_a_possible_owner() {
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
    let unseen = holders_of(port, Tcp).1;
    assert!(
        unseen.contains(&Incompleteness::InFlight(me())),
        "{unseen:?}"
    );
}

/// The environment variable with the port for which [`the_helper`] prints the holders.
const HELPER_PORT: &str = "PORTLEASE_TEST_HELPER_PORT";

/// The environment variable that makes [`the_helper`] use up its descriptors first.
const HELPER_STARVES: &str = "PORTLEASE_TEST_HELPER_STARVES";

fn report_without_descriptors(port: u16) {
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    let mut files: Vec<std::fs::File> = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let table = sockets(port, None).unwrap_err();
    let listeners = listening(port, Tcp).unwrap_err();
    // This drop frees one descriptor. The search needs two: one for `/proc`, and one to read a file
    // there.
    drop(files.pop());
    let search = owners(rows, ScanDepth::Complete).unwrap_err();
    println!(
        "row {:?}",
        [table, listeners, search].map(|error| error.raw_os_error())
    );
}

#[test]
fn without_descriptors_every_function_fails_with_that_error() {
    let (_listener, port) = listener(V4);
    let output = run_wrapped(
        &[
            "env",
            &format!("{HELPER_STARVES}=1"),
            "prlimit",
            "--nofile=64",
        ],
        port,
    );
    assert_eq!(output, ["row [Some(24), Some(24), Some(24)]"]);
}

#[test]
fn the_helper() {
    let Ok(port) = std::env::var(HELPER_PORT) else {
        return;
    };
    let port = port.parse().unwrap();
    if std::env::var_os(HELPER_STARVES).is_some() {
        return report_without_descriptors(port);
    }
    let (holders, unseen) = holders_of(port, Tcp);
    for holder in &holders {
        println!("row {} uid {:?}", summary(holder, port), holder.uid);
    }
    println!("unseen {unseen:?}");
}

/// Runs [`the_helper`] of this test binary under the command `wrapper`, and returns the lines of
/// its report.
fn run_wrapped(wrapper: &[&str], port: u16) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("helper");
    // cp(1) writes the copy. If this process wrote it, a child that another test forks could
    // inherit the open file. execve(2) of the copy would then fail with ETXTBSY.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(&program).args([
        "--exact",
        "sockets::tests::hidden::the_helper",
        "--nocapture",
    ]);
    let output = command.env(HELPER_PORT, port.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let is_report = |line: &&str| {
        (line.contains("row ") && !line.contains("row time_wait")) || line.contains("unseen ")
    };
    text.lines()
        .filter(is_report)
        .map(|line| {
            line.trim_start_matches("test sockets::tests::hidden::the_helper ... ")
                .to_owned()
        })
        .collect()
}

/// The start of a command line that runs a command as the user `nobody`.
const AS_NOBODY: [&str; 7] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--",
];

#[test]
fn another_users_process_is_hidden_and_its_user_is_reported() {
    if !is_root("another user's socket") || !shows_bound("another user's socket") {
        return;
    }
    let (listener, port) = listener(V4);
    assert_eq!(
        run_wrapped(&AS_NOBODY, port),
        [
            "row listen 127.0.0.1:P hidden by [] uid Some(0)",
            "unseen [Processes]"
        ]
    );

    // This process is root, so it sees the owner although the owner runs as `nobody`.
    let mut child = Command::new(AS_NOBODY[0]);
    child
        .args(&AS_NOBODY[1..])
        .args(["sleep", "600"])
        .stdin(OwnedFd::from(listener));
    let process = KillOnDrop(child.spawn().unwrap());
    drop(child);
    expect(
        port,
        Tcp,
        &[&format!("listen 127.0.0.1:P by [{}]", process.0.id())],
    );
    let deadline = Instant::now() + TIMEOUT;
    while holders_of(port, Tcp).0[0].processes[0].uid != Some(65534) {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn from_another_pid_namespace_the_process_is_hidden() {
    if !is_root("another pid namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    let output = run_wrapped(&["unshare", "--pid", "--fork", "--mount-proc"], port);
    assert_eq!(output[0], "row listen 127.0.0.1:P hidden by [] uid Some(0)");
}

#[test]
fn without_proc_the_process_is_hidden_and_the_answer_states_the_reason() {
    if !is_root("no /proc") || !shows_bound("no /proc") {
        return;
    }
    let (_listener, port) = listener(V4);
    let output = run_wrapped(
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
        output,
        [
            "row listen 127.0.0.1:P hidden by [] uid Some(0)",
            "unseen [Proc]"
        ]
    );
}

#[test]
fn a_proc_of_another_pid_namespace_shows_no_process() {
    if !is_root("another pid namespace") || !shows_bound("another pid namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    // `/proc` still shows the processes of the outer namespace, one of which is the owner.
    let output = run_wrapped(&["unshare", "--pid", "--fork"], port);
    assert_eq!(
        output,
        [
            "row listen 127.0.0.1:P hidden by [] uid Some(0)",
            "unseen [ForeignProc]"
        ]
    );
}

#[test]
fn another_network_namespace_shows_no_row() {
    if !is_root("another network namespace") || !shows_bound("another network namespace") {
        return;
    }
    let (_listener, port) = listener(V4);
    assert_eq!(run_wrapped(&["unshare", "--net"], port), ["unseen []"]);
}
