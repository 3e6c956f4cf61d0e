//! Who holds a port: the process of another program, where the crate reads the socket table.

use std::time::{Duration, Instant};

use portlease::{ErrorKind, Holders, State, reserve_port};

use crate::support::helper::Launch;
use crate::support::ports::non_ephemeral_port;
use crate::support::reserver::Reserver;
use crate::support::{DEADLINE, Folder, capability, eventually, need, own_locks};

/// `None` where the crate cannot read the socket table; checks that the error says so.
pub(super) fn holders(port: u16) -> Option<Holders> {
    match portlease::who_holds(port) {
        Ok(holders) => Some(holders),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            let expected = "portlease cannot read the socket table of this system";
            assert_eq!(e.to_string(), format!("cannot inspect {port}: {expected}"));
            None
        }
    }
}

#[test]
fn an_argument_that_names_no_port_is_quoted() {
    let error = portlease::who_holds("seventy").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("\"seventy\" does not name a port"),
        "{error}"
    );
}

#[test]
fn a_server_of_another_process_is_named() {
    need!(capability::native());
    let p = portlease::reserve_port();
    let mut server = Reserver::new(&own_locks());
    assert_eq!(server.command(&format!("serve={p}")), "serves");
    let Some(holders) = holders(p.port()) else {
        return;
    };
    let listener = holders
        .iter()
        .find(|holder| holder.state == State::Listen)
        .unwrap();
    assert_eq!(listener.local, p.addr());
    let [process] = &listener.processes[..] else {
        panic!("{holders}")
    };
    assert_eq!(process.pid, server.pid());
    let program = std::env::current_exe().unwrap();
    assert_eq!(
        process.program.as_ref().unwrap().file_name(),
        program.file_name()
    );
    let age = process.started.unwrap().elapsed().unwrap_or_default();
    assert!(age.as_secs() < 600, "{age:?}");
    // Linux keeps 15 bytes of a process name.
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(&process.name), "{process:?}");
    let report = portlease::check_port_free(&p).unwrap_err().to_string();
    let who = format!(
        "{} (pid {}) listens on {}",
        process.name,
        process.pid,
        p.addr()
    );
    assert!(report.contains(&who), "{report}");
    portlease::check_port_held_by(&p, server.pid()).unwrap();
    portlease::check_port_held_by(&p, std::process::id()).unwrap();
    let mut other = Reserver::new(&own_locks());
    portlease::check_port_held_by(&p, other.pid()).unwrap_err();
    assert_eq!(other.command("stop"), "stopped");
}

#[test]
fn a_udp_socket_of_another_process_is_named() {
    let p = portlease::reserve_udp_port();
    let mut server = Reserver::new(&own_locks());
    assert_eq!(server.command(&format!("serve-udp={p}")), "serves");
    let Some(holders) = holders(p.port()) else {
        return;
    };
    let socket = holders
        .iter()
        .find(|holder| holder.state == State::Bound)
        .unwrap();
    assert_eq!(socket.processes[0].pid, server.pid(), "{holders}");
    let report = portlease::check_port_free(&p).unwrap_err().to_string();
    assert!(
        report.contains(&format!(
            "(pid {}) is bound to {}/udp",
            server.pid(),
            p.addr()
        )),
        "{report}"
    );
}

/// Without a lease nothing distinguishes a claim from the bound socket of another program.
#[test]
fn held_by_refuses_a_claim_without_a_lease() {
    let folder = Folder::new();
    std::fs::write(folder.locks(), "a file").unwrap();
    let mut reserver = Reserver::new(&folder.locks());
    if !cfg!(target_os = "linux") {
        reserver.reserve("").refused("Lease");
        return;
    }
    let held = reserver.reserve("").held();
    assert!(!held.leased, "control");
    let (port, pid) = (held.port(), reserver.pid());
    let text = portlease::check_port_held_by(port, pid)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!("is not held by pid {pid}")),
        "{text}"
    );
    assert_eq!(reserver.command(&format!("serve={port}")), "serves");
    portlease::assert_port_held_by(port, pid);
}

#[test]
fn held_by_accepts_a_udp_socket_that_is_bound() {
    let p = portlease::reserve_udp_port();
    if holders(p.port()).is_none() {
        return;
    }
    let mut server = Reserver::new(&own_locks());
    portlease::check_port_held_by(&p, std::process::id()).unwrap_err();
    assert_eq!(server.command(&format!("serve-udp={p}")), "serves");
    portlease::assert_port_held_by(&p, server.pid());
}

#[test]
fn held_by_accepts_the_process_and_its_descendants() {
    let folder = Folder::new();
    let mut reserver = Reserver::new(&own_locks());
    let port = reserver.reserve("").held().port();
    let this = std::process::id();
    let text = portlease::check_port_held_by(port, this)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!("is not held by pid {this}")),
        "a claim is no server: {text}"
    );
    assert_eq!(reserver.command(&format!("serve={port}")), "serves");
    portlease::assert_port_held_by(port, reserver.pid());
    portlease::assert_port_held_by(port, this);
    let mut other = Reserver::new(&folder.locks());
    let text = portlease::check_port_held_by(port, other.pid())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!(
            "(pid {}) listens on 127.0.0.1:{port}",
            reserver.pid()
        )),
        "{text}"
    );
    assert_eq!(
        other.command("reserve_port").split(' ').next(),
        Some("held")
    );
}

#[test]
fn a_hidden_owner_is_reported_as_hidden() {
    need!(capability::nobody(), capability::bound_sockets());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let folder = Folder::new();
    let mut nobody = Reserver::start(Reserver::launch(&folder.locks()).run_as_nobody());
    let text = nobody.command(&format!("check={p}"));
    assert!(
        text.starts_with(&format!(
            "port {p}/tcp is in use: held by uid 0 (root): the owner is a process that this user \
             may not inspect"
        )),
        "{text}"
    );
    assert!(
        text.contains("help: retry with permission to inspect processes"),
        "{text}"
    );
    // A check does not retry because an owner is hidden. Retries would take this time.
    let retry = Duration::from_millis(100);
    let visible = nobody.reserve("").held().port();
    assert_eq!(nobody.command(&format!("serve={visible}")), "serves");
    let mut quickest = |port: u16| {
        let checks = (0..10).map(|_| {
            let begun = Instant::now();
            nobody.command(&format!("check={port}"));
            begun.elapsed()
        });
        checks.min().unwrap()
    };
    let (seen, hidden) = (quickest(visible), quickest(p.port()));
    assert!(
        hidden < seen + retry,
        "{hidden:?} with a hidden owner, {seen:?} with a visible one"
    );
    let text = nobody.command(&format!("who={p}"));
    assert!(text.starts_with("complete=false "), "{text}");
    drop(server);
}

#[test]
fn with_hidepid_an_owner_is_hidden_and_its_socket_is_not() {
    need!(capability::nobody(), capability::mount_namespace());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let folder = Folder::new();
    let hide = "mount -t proc -o hidepid=2 proc /proc";
    let mut nobody = Reserver::start(
        Reserver::launch(&folder.locks())
            .in_mounts(hide)
            .run_as_nobody(),
    );
    let text = nobody.command(&format!("who={p}"));
    assert!(
        text.starts_with(&format!(
            "complete=false port {p}: held by uid 0 (root): the owner is a process that this user \
             may not inspect"
        )),
        "{text}"
    );
    drop(server);
}

#[test]
fn a_socket_shared_by_users_belongs_to_each_of_them() {
    need!(capability::nobody());
    let p = reserve_port();
    let mut child = std::process::Command::new("setpriv");
    child.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sleep",
        "60",
    ]);
    p.pass_to_fd(&mut child, 5).unwrap();
    let mut child = child.stdin(std::process::Stdio::null()).spawn().unwrap();
    let text = eventually("the child has the socket as nobody", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let users: Vec<_> = holders
            .iter()
            .flat_map(|h| &h.processes)
            .filter_map(|process| process.uid)
            .collect();
        if users.contains(&65534) {
            Ok(holders.to_string())
        } else {
            Err(holders.to_string())
        }
    });
    assert!(
        text.contains(&format!("(pid {})", child.id()))
            || text.contains(&format!("pid {}", child.id())),
        "{text}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_sock_diag_the_report_comes_from_proc_net() {
    need!(capability::strace());
    let folder = Folder::new();
    let (mut holder, port) = (Reserver::new(&folder.locks()), non_ephemeral_port());
    holder.reserve(&format!("port={port}")).held();
    assert_eq!(holder.command(&format!("serve={port}")), "serves");
    // strace refuses sock_diag(7), as a sandbox does.
    let trace = [
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendto",
        "-e",
        "inject=sendto:error=EPERM",
    ];
    let launch: Launch = Reserver::launch(&folder.locks()).traced(trace.map(str::to_owned));
    let mut reader = Reserver::start(launch);
    let text = reader.command(&format!("who={port}"));
    assert!(
        text.contains(&format!(
            "(pid {}) listens on 127.0.0.1:{port}",
            holder.pid()
        )),
        "{text}"
    );
    assert!(
        text.contains("bound without listening could not be read"),
        "{text}"
    );
    let text = reader.command(&format!("check={port}"));
    assert!(
        text.contains("is in use: ") && text.contains("listens on"),
        "{text}"
    );
}

/// SO_REUSEADDR lets UDP servers share an address without an error.
#[cfg(target_os = "linux")]
#[test]
fn sockets_that_share_an_address_are_reported_as_shared() {
    use socket2::{Domain, Socket, Type};
    let bind = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        socket.bind(&addr.into()).unwrap();
        socket
    };
    let one = bind(0);
    let port = one.local_addr().unwrap().as_socket().unwrap().port();
    let shared = || {
        let holders = portlease::who_holds(format!("{port}/udp").as_str()).unwrap();
        holders
            .iter()
            .map(|holder| holder.shared)
            .collect::<Vec<_>>()
    };
    assert_eq!(shared(), [false]);
    let other = bind(port);
    assert_eq!(shared(), [true, true]);
    drop((one, other));
}

#[cfg(target_os = "linux")]
#[test]
fn the_interface_of_a_listener_is_reported() {
    use socket2::{Domain, Socket, Type};
    need!(capability::sock_diag());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Linux before 5.7 lets only root bind a socket to an interface.
    need!(socket.bind_device(Some(b"lo")).map_err(|e| e.to_string()));
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&addr.into()).unwrap();
    socket.listen(1).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let holders = portlease::who_holds(port).unwrap();
    let listener = holders.iter().next().unwrap();
    assert_eq!(listener.interface.as_deref(), Some("lo"));
    let text = holders.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{port} (interface lo only)")),
        "{text}"
    );
}
