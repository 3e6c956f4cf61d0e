//! Sweeps: concurrent ones, those that the folder forbids, and those of network namespaces that
//! have ended.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use portlease::ReserveOptions;

use crate::support::args::Args;
use crate::support::helper::{self, Launch};
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, capability, need};

const SWEEPS_FOR: Duration = Duration::from_secs(3);
const LISTERS: usize = 4;

/// The helper process: lists the reservations again and again. It replies with the number of lists.
pub(crate) fn list_for_some_seconds() {
    let begun = Instant::now();
    let mut lists = 0;
    while begun.elapsed() < SWEEPS_FOR {
        portlease::reservations().unwrap();
        lists += 1;
    }
    helper::reply(&format!("lists={lists}"));
}

/// The helper process: reserves and releases `port` over UDP. `file` is the lock file or the record
/// that the sweeps must leave while the reservation lives.
pub(crate) fn reserve_beside_sweeps(args: &Args) {
    let port: u16 = args.number("port").unwrap();
    let file = Path::new(args.get("file").unwrap());
    let has_lost_its_file = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let deleted = format!("{} (deleted)", file.display());
        targets.any(|target| target.as_os_str() == deleted.as_str())
    };
    let begun = Instant::now();
    let (mut rounds, mut lost, mut unlisted, mut swept) = (0, 0, 0, 0);
    while begun.elapsed() < SWEEPS_FOR {
        // The listers lock the port's lock file for reading, without a pause. On a busy machine
        // that can refuse a reservation for longer than a call retries, so this call waits.
        let options = ReserveOptions::new().port(port).udp().wait(DEADLINE);
        let reservation = options.reserve().unwrap();
        rounds += 1;
        lost += u32::from(!file.exists() || has_lost_its_file());
        if rounds % 16 == 0 {
            let live = portlease::reservations().unwrap();
            unlisted += u32::from(live.iter().all(|lease| lease.port() != port));
        }
        lost += u32::from(!file.exists());
        drop(reservation);
        // A pause in which the other processes can sweep the file.
        let pause = Instant::now();
        while file.exists() && pause.elapsed() < Duration::from_micros(300) {
            std::thread::yield_now();
        }
        swept += u32::from(!file.exists());
    }
    helper::reply(&format!(
        "rounds={rounds} lost={lost} unlisted={unlisted} swept={swept}"
    ));
}

fn sweep_beside_a_reserver(start: impl Fn(Launch) -> Launch, folder: &Folder, args: &str) {
    let launch = |name| start(Launch::new(name, &folder.locks()));
    let reserver = launch("reserves-beside-sweeps").args(args).start();
    let listers: Vec<_> = (0..LISTERS)
        .map(|_| launch("lists-reservations").start())
        .collect();
    let [counts] = &reserver.succeed()[..] else {
        unreachable!()
    };
    for lister in listers {
        let lists = lister.succeed();
        assert!(
            Args::parse(&lists[0]).number::<u32>("lists") > Some(10),
            "{lists:?}"
        );
    }
    let counts = Args::parse(counts);
    let count = |name| counts.number::<u32>(name).unwrap();
    assert_eq!((count("lost"), count("unlisted")), (0, 0), "{counts:?}");
    assert!(count("swept") > 0, "the control: {counts:?}");
}

#[test]
fn concurrent_sweeps_leave_the_lock_file_of_a_live_lease() {
    let folder = Folder::new();
    let port = non_ephemeral_port();
    let file = folder.scope().join(format!("{port}.udp"));
    let args = format!("port={port} file={}", file.display());
    sweep_beside_a_reserver(|launch| launch, &folder, &args);
}

#[test]
fn concurrent_sweeps_leave_the_record_of_a_live_lease() {
    need!(capability::nobody());
    let folder = Folder::new();
    let port = non_ephemeral_port();
    // The record of a reservation of nobody goes beside a lock file of root.
    Reserver::new(&folder.locks()).reserve("").held();
    File::create(folder.scope().join(format!("{port}.udp"))).unwrap();
    let records = folder.scope().with_extension("records");
    let file = records.join(format!("65534/{port}.udp"));
    let args = format!("port={port} file={}", file.display());
    sweep_beside_a_reserver(Launch::run_as_nobody, &folder, &args);
}

/// Creates a live lease in `folder`, and a lock file that a killed process left. Returns the holder
/// of the lease, its port, and that lock file.
fn with_a_dead_file(folder: &Folder) -> (Reserver, u16, std::path::PathBuf) {
    let (mut live, mut killed) = (
        Reserver::new(&folder.locks()),
        Reserver::new(&folder.locks()),
    );
    let port = live.reserve("label=alive").held().port();
    let dead = killed.reserve("").held().port();
    killed.process().kill();
    (live, port, folder.lock_file(dead))
}

#[track_caller]
fn assert_lists(launch: Launch, folder: &Folder, what: &str) {
    let (_live, port, dead) = with_a_dead_file(folder);
    let lease = Reserver::start(launch).command(&format!("lease={port}"));
    assert!(lease.contains("alive"), "{what}: {lease}");
    assert!(dead.exists(), "{what}: {} was swept", dead.display());
    // The control.
    let lease = Reserver::new(&folder.locks()).command(&format!("lease={port}"));
    assert!(lease.contains("alive"), "{what}: {lease}");
    assert!(!dead.exists(), "{what}: {} is left", dead.display());
}

#[test]
fn a_folder_that_cannot_be_swept_is_listed_all_the_same() {
    need!(capability::mount_namespace(), capability::nobody());
    let folder = Folder::new();
    let path = folder.path().display().to_string();
    let read_only = format!("mount --bind '{path}' '{path}' && mount -o remount,ro,bind '{path}'");
    let launch = || Reserver::launch(&folder.locks());
    assert_lists(launch().in_mounts(read_only), &folder, "read-only mount");
    assert_lists(launch().run_as_nobody(), &folder, "another user");
    let in_user_namespace = ["unshare", "-r"].map(str::to_owned);
    let launched = launch().run_as_nobody().wrapped(in_user_namespace);
    assert_lists(launched, &folder, "user namespace");
}

/// strace injects the error into the open of one lock file. Another thread that has taken the last
/// descriptor causes the same error.
#[test]
fn a_list_without_descriptors_is_an_error_and_never_a_shorter_list() {
    need!(capability::strace());
    let folder = Folder::new();
    let mut live = Reserver::new(&folder.locks());
    let port = live.reserve("label=alive").held().port();
    let list = |error: &str| {
        let file = format!("{port}.tcp");
        let inject = format!("inject=openat:error={error}");
        let trace = ["-f", "-o", "/dev/null", "-P", &file, "-e", &inject].map(String::from);
        let launch = Reserver::launch(&folder.locks()).traced(trace);
        Reserver::start(launch).command(&format!("lease={port}"))
    };
    let lease = list("EMFILE");
    assert!(
        lease.starts_with("refused") && lease.contains("ulimit -n"),
        "{lease}"
    );
    // The control: a file that only its owner can open is a lease without a visible record.
    let lease = list("EACCES");
    assert!(lease.starts_with(&port.to_string()), "{lease}");
    assert!(!lease.contains("alive"), "{lease}");
}

#[test]
fn an_append_only_folder_is_listed_all_the_same() {
    need!(capability::root(), append_only());
    let folder = Folder::new();
    let (_live, port, dead) = with_a_dead_file(&folder);
    chattr("+a", &folder.scope()).unwrap();
    let lease = Reserver::new(&folder.locks()).command(&format!("lease={port}"));
    chattr("-a", &folder.scope()).unwrap();
    assert!(lease.contains("alive"), "{lease}");
    assert!(dead.exists());
}

fn chattr(change: &str, path: &Path) -> Result<(), String> {
    let output = std::process::Command::new("chattr")
        .arg(change)
        .arg(path)
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        other => Err(format!("chattr: {other:?}")),
    }
}

fn append_only() -> Result<(), String> {
    let folder = Folder::new();
    chattr("+a", folder.path())?;
    chattr("-a", folder.path())
}

/// Makes a file or folder look unused for an hour.
fn age(path: &Path) {
    let before = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(before).unwrap();
}

#[test]
fn the_files_of_network_namespaces_that_have_ended_are_swept() {
    need!(capability::network_namespace(), capability::nobody());
    // In memory, the folder of the namespace also has the mark of a passed self-test.
    let folder = Folder::in_memory().unwrap_or_else(|_| Folder::new());
    let in_namespace = || {
        let launch = Reserver::launch(&folder.locks());
        launch.in_network("ip link set lo up")
    };
    let scopes = || -> std::collections::BTreeSet<_> {
        let entries = std::fs::read_dir(folder.locks()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    // The files of a namespace that ends below: lock files, and a record of root beside them.
    let mut ended = Reserver::start(in_namespace());
    let port = ended.reserve("many=3").held().ports[0];
    let gone = scopes();
    let scope = gone.iter().next().unwrap().clone();
    // The second namespace is created before the first one ends. Otherwise it could get the same
    // inode number, and so the same folder.
    let mut living = Reserver::start(in_namespace());
    let live_port = living.reserve("label=there").held().port();
    ended.release("all");
    drop(ended);
    let records = scope.with_extension("records");
    std::fs::create_dir_all(records.join("0")).unwrap();
    std::fs::write(records.join(format!("0/{port}.tcp")), "-").unwrap();
    let living_scope = scopes()
        .into_iter()
        .find(|path| *path != scope && *path != records)
        .unwrap();
    let mut here = Reserver::new(&folder.locks());
    here.reserve("").held();
    here.command("lease=1");
    assert!(scope.exists(), "the control: it was in use a moment ago");
    let below = |path: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    for place in [&scope, &living_scope, &records.join("0")] {
        below(place).iter().for_each(|file| age(file));
    }
    for place in [&records.join("0"), &records, &scope, &living_scope] {
        age(place);
    }
    here.command("lease=1");
    assert!(!scope.exists(), "{:?}", below(&scope));
    assert!(!records.exists(), "{} is left", records.display());
    let lock = living_scope.join(format!("{live_port}.tcp"));
    assert!(lock.exists(), "{} belongs to a live lease", lock.display());
    let lease = living.command(&format!("lease={live_port}"));
    assert!(lease.contains("there"), "{lease}");
}
