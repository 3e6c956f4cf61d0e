//! The search for the processes that own sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The scan can skip a process whose folder `/proc/PID/fd` has size 0, because such a process has
/// no descriptors.
#[test]
fn the_size_of_a_folder_of_descriptors_is_their_number() {
    if !crate::proc_fs::is_release_at_least(6, 2) {
        return skip("the number of descriptors", "needs Linux 6.2");
    }
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let folder = format!("/proc/{}/fd", child.id());
    let size = std::fs::metadata(&folder).map(|about| about.len());
    let listed = std::fs::read_dir(&folder).map(Iterator::count);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(size.unwrap(), listed.unwrap() as u64);
}

#[test]
fn every_process_that_shares_a_socket_is_reported() {
    let (listener, port) = listener(V4);
    let start = || {
        let own = OwnedFd::from(listener.try_clone().unwrap());
        KillOnDrop(Command::new("sleep").arg("600").stdin(own).spawn().unwrap())
    };
    let workers = [start(), start()];
    let pids = [me(), workers[0].0.id(), workers[1].0.id()];
    expect(port, Tcp, &[&format!("listen 127.0.0.1:P by {pids:?}")]);
    let (holders, _) = holders_of(port, Tcp);
    let worker = &holders[0].processes[1];
    assert_eq!(
        (worker.name.as_str(), worker.parent, worker.uid),
        (
            "sleep",
            Some(me()),
            Some(rustix::process::geteuid().as_raw())
        )
    );
    assert!(
        worker
            .program
            .as_ref()
            .is_some_and(|path| path.is_absolute())
    );
    let age = worker
        .started
        .unwrap()
        .elapsed()
        .map_or(Duration::ZERO, |age| age);
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(worker.command_line().unwrap(), ["sleep", "600"]);
    assert_eq!(
        (parent(worker.pid), started(worker.pid).unwrap()),
        (Some(me()), worker.ticks)
    );

    let first = owners(sockets(port, Some(Tcp)).unwrap().rows, ScanDepth::FirstHit).unwrap();
    assert!(!first.holders[0].processes.is_empty());
}

/// During an exec, `/proc` still shows the descriptors that the exec is about to close. The child
/// must count as forked until the exec is complete.
#[test]
fn a_child_has_its_parents_sockets_until_its_exec_and_not_after() {
    let (_listener, port) = listener(V4);
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    let done = AtomicBool::new(false);
    let (copies, programs) = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        let (mut copies, mut programs) = (0, Vec::new());
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1)
            || copies == 0 && started.elapsed() < TIMEOUT
        {
            let holders = owners(rows.clone(), ScanDepth::Complete).unwrap().holders;
            let others = holders
                .into_iter()
                .flat_map(|holder| holder.processes)
                .filter(|p| p.pid != me());
            let (forked, exec): (Vec<_>, Vec<_>) = others.partition(|process| process.forked);
            copies += forked.len();
            programs.extend(exec);
        }
        done.store(true, Ordering::Relaxed);
        (copies, programs)
    });
    assert_eq!(programs, []);
    assert!(
        copies > 0,
        "control: no scan saw a child between fork and exec"
    );
}

#[test]
fn the_report_names_this_process_and_a_child_that_shares_its_socket() {
    let (listener, port) = listener(V4);
    let own = OwnedFd::from(listener.try_clone().unwrap());
    let child = KillOnDrop(Command::new("sleep").arg("600").stdin(own).spawn().unwrap());
    expect(
        port,
        Tcp,
        &[&format!("listen 127.0.0.1:P by {:?}", [me(), child.0.id()])],
    );
    let (rows, unseen) = holders_of(port, Tcp);
    let holders = crate::model::holders::Holders::new(port, Some(Tcp), rows, Vec::new(), unseen);
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let report = holders.to_string();
    let first = format!(
        "port {port}/tcp: {} (pid {}) listens on 127.0.0.1:{port}\n  listening    ",
        name.trim(),
        me()
    );
    assert!(report.starts_with(&first), "{report}");
    assert!(
        report.contains(&format!("shared with sleep (pid {})", child.0.id())),
        "{report}"
    );
}

#[test]
fn a_reused_pid_is_not_taken_for_the_process() {
    let (_listener, port) = listener(V4);
    let mut process = holders_of(port, Tcp).0[0].processes[0].clone();
    process.ticks = process.ticks.and_then(|ticks| ticks.checked_add(1));
    let error = process.command_line().unwrap_err();
    assert!(
        error.to_string().contains("the process has ended"),
        "{error}"
    );
}

#[test]
fn a_name_with_brackets_and_a_line_end_is_reported_whole() {
    let (listener, port) = listener(V4);
    let script = "printf 'a) b\\n(c' > /proc/$$/comm; read x";
    let mut child = Command::new("sh");
    let _child = KillOnDrop(
        child
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(listener))
            .spawn()
            .unwrap(),
    );
    drop(child);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let names: Vec<String> = holders_of(port, Tcp)
            .0
            .iter()
            .flat_map(|h| &h.processes)
            .map(|p| p.name.clone())
            .collect();
        if names == ["a) b\n(c"] {
            break;
        }
        assert!(Instant::now() < deadline, "{names:?}");
    }
}

#[test]
fn a_socket_closed_during_the_search_is_not_reported_as_hidden() {
    let (listener, port) = listener(V4);
    let rows = sockets(port, Some(Tcp)).unwrap().rows;
    drop(listener);
    let deadline = Instant::now() + TIMEOUT;
    while !owners(rows.clone(), ScanDepth::Complete)
        .unwrap()
        .holders
        .is_empty()
    {
        assert!(Instant::now() < deadline);
    }
}

/// Runs a Python program that owns a socket in a way that Rust's std does not offer. The program
/// prints the port of the socket, or a reason to skip the test.
fn python(test: &str, program: &str) -> Option<(KillOnDrop, u16)> {
    let child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        skip(test, "no python3");
        return None;
    };
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let child = KillOnDrop(child);
    match line.trim().parse() {
        Ok(port) => Some((child, port)),
        Err(_) => {
            skip(test, line.trim());
            None
        }
    }
}

#[test]
fn a_process_whose_first_thread_has_ended_is_reported() {
    let program = "
import ctypes, socket, sys, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
threading.Thread(target=sys.stdin.read).start()
print(s.getsockname()[1], flush=True)
ctypes.CDLL(None).syscall(60, 0)
";
    if let Some((child, port)) = python("first thread ended", program) {
        expect(
            port,
            Tcp,
            &[&format!("listen 127.0.0.1:P by [{}]", child.0.id())],
        );
    }
}

/// unshare(2) with CLONE_FILES gives a thread its own descriptors.
#[test]
fn a_thread_with_its_own_descriptors_is_reported() {
    let program = "
import ctypes, socket, sys, threading
def serve():
    if ctypes.CDLL(None).unshare(0x400) != 0:
        print('no unshare', flush=True); return
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    print(s.getsockname()[1], flush=True)
    sys.stdin.read()
threading.Thread(target=serve).start()
";
    if let Some((child, port)) = python("unshare", program) {
        expect(
            port,
            Tcp,
            &[&format!("listen 127.0.0.1:P by [{}]", child.0.id())],
        );
    }
}

#[test]
fn a_socket_that_only_an_io_uring_owns_is_reported() {
    let program = "
import ctypes, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
params = (ctypes.c_char * 120)()
ring = libc.syscall(425, 4, params)
files = (ctypes.c_int * 1)(s.fileno())
if ring < 0 or libc.syscall(427, ring, 2, files, 1) < 0:
    print('no io_uring', flush=True); sys.exit()
port = s.getsockname()[1]
s.close()
print(port, flush=True)
sys.stdin.read()
";
    if let Some((child, port)) = python("io_uring", program) {
        expect(
            port,
            Tcp,
            &[&format!("listen 127.0.0.1:P by [{}]", child.0.id())],
        );
    }
}
