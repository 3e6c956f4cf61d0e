//! A Landlock sandbox that forbids `bind(2)` to TCP numbers (landlock(7)).

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use crate::support::helper::Launch;
use crate::support::ports::non_ephemeral_ports;
use crate::support::program::python;
use crate::support::reserver::Reserver;
use crate::support::{Folder, capability, need};

/// Executes a program in a sandbox. The first argument is a list of the admitted numbers, separated
/// by commas. The program and its arguments follow.
const SANDBOX: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
attr = struct.pack("QQQ", 0, 1, 0)  # LANDLOCK_ACCESS_NET_BIND_TCP
fd = libc.syscall(444, attr, len(attr), 0)
if fd < 0:
    sys.exit("no landlock: " + os.strerror(ctypes.get_errno()))
for port in sys.argv[1].split(","):
    if port:
        rule = struct.pack("=QQ", 1, int(port))
        assert libc.syscall(445, fd, 2, rule, 0) == 0
libc.prctl(38, 1, 0, 0, 0)
if libc.syscall(446, fd, 0) < 0:
    sys.exit("landlock: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"#;

fn sandbox(admitted: &str) -> [String; 4] {
    [&python(), "-c", SANDBOX, admitted].map(str::to_owned)
}

fn landlock() -> Result<(), String> {
    let [python, script @ ..] = sandbox("");
    let output = std::process::Command::new(python)
        .args(script)
        .arg("true")
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn launch_sandboxed(folder: &Folder, admitted: &[u16]) -> Launch {
    let admitted: Vec<String> = admitted.iter().map(u16::to_string).collect();
    let launch = Reserver::launch(&folder.locks());
    launch.wrapped(sandbox(&admitted.join(",")))
}

fn sandboxed(folder: &Folder, admitted: &[u16]) -> Reserver {
    Reserver::start(launch_sandboxed(folder, admitted))
}

/// The file with which the processes of this user share that the kernel passed the self-test.
fn mark(folder: &Folder) -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    folder.scope().join(format!("self-test-passed-1.{user}"))
}

#[test]
fn a_number_that_a_sandbox_admits_is_reserved_without_the_kernels_guarantee() {
    need!(landlock());
    let folder = Folder::new();
    let [one, two] = non_ephemeral_ports(2)[..] else {
        unreachable!()
    };
    let mut other = Reserver::new(&folder.locks());
    for how in ["port", "prefer", "range"] {
        let mut reserver = sandboxed(&folder, &[one]);
        let asked = match how {
            "range" => format!("range={one}-{one}"),
            how => format!("{how}={one}"),
        };
        let held = reserver.reserve(&asked).held();
        assert_eq!((held.port(), held.leased), (one, true));
        assert_eq!(held.guarantee, "Cooperative", "{how}");
        assert_eq!(reserver.command(&format!("serve={one}")), "serves");
        other.reserve(&format!("port={one}")).refused("InUse");
    }
    // The sandbox admits both numbers of the block, but forbids `bind(…, 0)`.
    let held = sandboxed(&folder, &[one, two])
        .reserve(&format!("port={one} block=2"))
        .held();
    assert_eq!(held.guarantee, "Cooperative");
    // The control: a number that the sandbox forbids.
    let message = sandboxed(&folder, &[one])
        .reserve(&format!("port={two}"))
        .refused("PermissionDenied");
    let expected = format!(
        "cannot reserve {two}/tcp: permission denied: this number requires no privilege, so a \
         sandbox or a security policy forbids the bind (on Linux for example Landlock)"
    );
    assert_eq!(message, expected);
    // A privilege would not help, so no remedy names one.
    let text = sandboxed(&folder, &[one]).command(&format!("check={two}/tcp"));
    assert!(
        text.contains("a sandbox or a security policy forbids"),
        "{text}"
    );
    assert!(!text.contains("root"), "{text}");
    // The sandbox does not restrict UDP.
    let held = sandboxed(&folder, &[]).reserve("udp=").held();
    assert_eq!(held.guarantee, "Cooperative");
    // The control: without a sandbox.
    let held = other.reserve(&format!("port={one}")).held();
    assert_eq!(held.guarantee, "Kernel");
}

/// Executes a program for which seccomp(2) refuses listen(2). The self-test calls it, and a claim
/// does not.
const WITHOUT_LISTEN: &str = r#"
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
listen = {"x86_64": 50, "aarch64": 201}[platform.machine()]
# Load the number of the system call. If it is that of listen(2), refuse it with EACCES.
program = [(0x20, 0, 0, 0), (0x15, 0, 1, listen), (6, 0, 0, 0x50000 | 13), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
filter = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, filter, 0, 0) < 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
"#;

fn without_listen() -> [String; 3] {
    [&python(), "-c", WITHOUT_LISTEN].map(str::to_owned)
}

/// Without listen(2) a process cannot test the kernel, so the guarantee shows which mark it
/// believes.
#[test]
fn a_process_believes_the_self_test_of_its_own_user_and_no_planted_one() {
    let folder = Folder::in_memory();
    need!(capability::root(), folder.as_ref());
    let folder = folder.unwrap();
    let guarantee = |launch: Launch| {
        let held = Reserver::start(launch).reserve("").held();
        held.guarantee.clone()
    };
    let untested = || Reserver::launch(&folder.locks()).wrapped(without_listen());
    assert_eq!(guarantee(untested()), "Cooperative", "without a mark");
    assert_eq!(guarantee(Reserver::launch(&folder.locks())), "Kernel");
    assert_eq!(guarantee(untested()), "Kernel", "with a mark");

    // A preloaded library can replace bind(2).
    let preloaded = ["LD_PRELOAD=/nonexistent.so".to_owned()];
    assert_eq!(guarantee(untested().innermost(preloaded)), "Cooperative");

    let mark = mark(&folder);
    std::fs::set_permissions(&mark, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(guarantee(untested()), "Cooperative", "everybody may write");
    std::fs::set_permissions(&mark, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(guarantee(untested()), "Kernel");

    let nobody = 65534;
    chown(&mark, Some(nobody), None).unwrap();
    assert_eq!(guarantee(untested()), "Cooperative", "of another user");
    chown(&mark, Some(0), None).unwrap();
    std::fs::write(&mark, "portlease self-test 0: passed\n").unwrap();
    assert_eq!(guarantee(untested()), "Cooperative", "of an older test");
    // A process that was killed left an empty mark. The next test replaces it.
    std::fs::write(&mark, "").unwrap();
    assert_eq!(guarantee(Reserver::launch(&folder.locks())), "Kernel");
    assert_eq!(guarantee(untested()), "Kernel");
}

/// A mark must not lead a process in a sandbox to binds that the sandbox forbids.
#[test]
fn in_a_sandbox_a_port_is_reserved_with_a_mark_as_without_one() {
    let folder = Folder::in_memory();
    need!(landlock(), folder.as_ref());
    let folder = folder.unwrap();
    let admitted = non_ephemeral_ports(12);
    let guarantee = || {
        let held = sandboxed(&folder, &admitted).reserve("").held();
        held.guarantee.clone()
    };
    assert_eq!(guarantee(), "Cooperative");
    Reserver::new(&folder.locks()).reserve("").held();
    assert!(mark(&folder).exists());
    assert_eq!(guarantee(), "Cooperative");
}
