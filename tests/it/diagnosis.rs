//! What a check of a port says, and why: the verdicts, and the line that a panic names.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use portlease::{ErrorKind, ReserveOptions, reserve_port};

use crate::agent::{Agent, own_locks};
use crate::outsider::{self, Reuse, V4, V6, port_of};
use crate::support::{DEADLINE, Folder, capability, eventually, need, show_owner};

#[test]
fn ones_own_reservation_is_free_and_a_siblings_is_not() {
    let folder = Folder::new();
    let (mut one, mut two) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = one.reserve("label=primary").held().port();
    assert_eq!(one.command(&format!("free={port}")), "true");
    assert_eq!(two.command(&format!("free={port}")), "false");
    let text = two.command(&format!("check={port}"));
    assert!(
        text.starts_with(&format!(
            "port {port}/tcp is in use: reserved by test role ("
        )),
        "{text}"
    );
    assert!(
        text.contains(&format!("pid {}, labelled \"primary\"", one.pid())),
        "{text}"
    );
    assert!(
        text.contains("help: queue for it with ReserveOptions::new().port("),
        "{text}"
    );
}

#[test]
fn an_ancestors_reservation_does_not_stop_its_children() {
    let p = reserve_port();
    let mut child = Agent::new(&own_locks());
    assert_eq!(child.command(&format!("free={p}")), "true");
    let server = p.listen().unwrap();
    assert_eq!(child.command(&format!("free={p}")), "false");
    drop(server);
}

#[test]
fn by_reference_this_reservation_is_ones_own_and_no_other() {
    let (p, q) = (reserve_port(), reserve_port());
    assert!(portlease::is_port_free(&p) && portlease::is_port_free(&q));
    let server = p.listen().unwrap();
    assert!(!portlease::is_port_free(&p) && portlease::is_port_free(&q));
    drop(server);
    let pair = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
    let udp = pair.udp_socket().unwrap();
    let text = portlease::check_port_free(&pair).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("port {pair}/udp is in use: ")),
        "{text}"
    );
    drop(udp);
    portlease::assert_port_free(&pair);
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "without a claim no socket tells of it"
)]
fn a_strangers_claim_is_in_use_although_a_server_could_bind() {
    need!(capability::sock_diag());
    let (mine, theirs) = (Folder::new(), Folder::new());
    let (mut one, mut other) = (Agent::new(&mine.locks()), Agent::new(&theirs.locks()));
    let port = one.reserve("").held().port();
    assert_eq!(other.command(&format!("free={port}")), "false");
    let text = other.command(&format!("check={port}"));
    assert!(text.contains("has it bound on [::]:"), "{text}");
}

/// Without a claim only the name in the network namespace tells of it.
#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "names that a network namespace keeps are of Linux"
)]
fn a_reservation_of_another_lock_folder_is_in_use_also_without_a_socket() {
    for (how, protocol) in [("udp=1", "udp"), ("plain=1", "tcp")] {
        let (mine, theirs) = (Folder::new(), Folder::new());
        let (mut one, mut other) = (Agent::new(&mine.locks()), Agent::new(&theirs.locks()));
        let port = one.reserve(how).held().port();
        let operand = format!("{port}/{protocol}");
        assert_eq!(
            one.command(&format!("free={operand}")),
            "true",
            "it is its own"
        );
        assert_eq!(other.command(&format!("free={operand}")), "false");
        let text = other.command(&format!("check={operand}"));
        let expected =
            format!("port {operand} is in use: reserved by a process whose record cannot be seen");
        assert!(text.starts_with(&expected), "{text}");
        let who = other.command(&format!("who={operand}"));
        assert!(
            who.starts_with("complete=false ") && who.contains("is reserved by a process"),
            "{who}"
        );
        one.drop("all");
        assert_eq!(
            other.command(&format!("free={operand}")),
            "true",
            "the control: it was let go"
        );
    }
}

#[test]
fn the_address_that_was_asked_about_is_the_one_that_counts() {
    need!(capability::ipv6());
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    for (held, asked, free) in [
        (V4, None, false),
        (V4, Some(V4), false),
        (V4, Some(other), true),
        (V4, Some(V6), true),
        (V6, Some(V4), true),
        (V6, None, false),
    ] {
        let socket = outsider::bind(held, 0, Reuse::Address).unwrap();
        socket.listen(1).unwrap();
        let port = port_of(&socket);
        let endpoint = portlease::Endpoint {
            port,
            ip: asked,
            protocol: None,
        };
        assert_eq!(
            portlease::is_port_free(endpoint),
            free,
            "{held} held, {asked:?} asked"
        );
        assert_eq!(
            portlease::check_port_listening(endpoint).is_ok(),
            !free,
            "{held} held, {asked:?} asked"
        );
    }
}

#[test]
fn tcp_and_udp_of_one_number_are_two_ports() {
    let p = reserve_port();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, p.port())).unwrap();
    assert!(portlease::is_port_free(&p));
    assert!(!portlease::is_port_free(format!("{p}/udp")));
    portlease::assert_port_listening(format!("{p}/udp"));
    drop(udp);
    assert!(portlease::is_port_free(format!("{p}/udp")));
}

#[test]
fn what_cannot_be_bound_says_why_and_what_helps() {
    let text = portlease::check_port_free("203.0.113.7:8080")
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("port 203.0.113.7:8080/tcp cannot be bound: this machine does not have"),
        "{text}"
    );
    assert!(
        text.contains("help: name an address that this machine has"),
        "{text}"
    );
    let text = portlease::check_port_free("70000").unwrap_err().to_string();
    assert!(text.starts_with("\"70000\" does not name a port"), "{text}");
    let text = portlease::check_port_listening(0).unwrap_err().to_string();
    assert!(text.starts_with("port 0 names no port"), "{text}");

    need!(capability::nobody());
    let folder = Folder::new();
    let mut nobody = Agent::of(Agent::launch(&folder.locks()).run_by_nobody());
    let text = nobody.command("check=1/tcp");
    assert!(text.starts_with("port 1/tcp cannot be bound: "), "{text}");
    assert!(text.contains("ip_unprivileged_port_start"), "{text}");
}

#[test]
fn a_hidden_owner_holds_and_is_said_to_be_hidden() {
    need!(capability::nobody(), capability::sock_diag());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let folder = Folder::new();
    let mut nobody = Agent::of(Agent::launch(&folder.locks()).run_by_nobody());
    let text = nobody.command(&format!("check={p}"));
    assert!(
        text.starts_with(&format!(
            "port {p}/tcp is in use: held by uid 0 (root); its process is hidden"
        )),
        "{text}"
    );
    assert!(text.contains("help: ask again as root"), "{text}");
    // What another user has is not about to pass: nobody is patient with it.
    let patience = Duration::from_millis(100);
    let quickest = (0..5).map(|_| {
        let begun = std::time::Instant::now();
        nobody.command(&format!("check={p}"));
        begun.elapsed()
    });
    assert!(quickest.min().unwrap() < patience);
    let text = nobody.command(&format!("who={p}"));
    assert!(text.starts_with("complete=false "), "{text}");
    drop(server);
}

#[test]
fn held_by_means_the_process_or_one_that_descends_from_it() {
    let folder = Folder::new();
    let mut agent = Agent::new(&own_locks());
    let port = agent.reserve("").held().port();
    let this = std::process::id();
    let text = portlease::check_port_held_by(port, this)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!("is not held by pid {this}")),
        "a claim is no server: {text}"
    );
    assert_eq!(agent.command(&format!("serve={port}")), "serves");
    portlease::assert_port_held_by(port, agent.pid());
    portlease::assert_port_held_by(port, this);
    let mut other = Agent::new(&folder.locks());
    let text = portlease::check_port_held_by(port, other.pid())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!(
            "(pid {}) listens on 127.0.0.1:{port}",
            agent.pid()
        )),
        "{text}"
    );
    assert_eq!(
        other.command("reserve_port").split(' ').next(),
        Some("held")
    );
}

/// Each panicking call, in the role's process: the file and line it names, and how many lines after the marker.
pub(crate) fn panics() -> Vec<String> {
    static AT: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().unwrap();
        *AT.lock().unwrap() = format!("{}:{}", at.file(), at.line());
    }));
    let p = reserve_port();
    let server = p.listen().unwrap();
    let mut told = Vec::new();
    let mut note = |line: u32, panicking: &dyn Fn()| {
        let panicked = catch_unwind(AssertUnwindSafe(panicking)).is_err();
        let expected = format!("{}:{line}", file!());
        let at = AT.lock().unwrap().clone();
        told.push(if panicked && at == expected {
            "ok".to_owned()
        } else {
            format!("{at} instead of {expected}")
        });
    };
    note(line!(), &|| portlease::assert_port_free(&p));
    note(line!(), &|| portlease::assert_ports_free([&p]));
    note(line!(), &|| portlease::assert_port_held_by(&p, u32::MAX));
    note(line!(), &|| assert!(portlease::is_port_free("x")));
    note(line!(), &|| {
        portlease::assert_port_listening(reserve_port().leak())
    });
    let forget = || {
        let forgotten = reserve_port().listen().unwrap();
        show_owner(&forgotten);
        std::mem::forget(forgotten);
    };
    note(line!(), &|| portlease::assert_no_leaked_listeners(forget));
    drop(server);
    // The last hook stays for as long as this process plays no other part.
    drop(std::panic::take_hook());
    told
}

#[test]
fn a_panic_names_the_callers_file_and_line() {
    let folder = Folder::new();
    let told = Agent::new(&folder.locks()).command("panics");
    assert_eq!(told, ["ok"; 6].join("|"));
}

/// In the role's process, which does nothing else.
pub(crate) fn leaks() -> String {
    let kept = reserve_port();
    let none = portlease::check_no_leaked_listeners(|| drop(kept.listen()));
    assert!(none.is_ok(), "{none:?}");
    let mut forgotten = Vec::new();
    let left = portlease::check_no_leaked_listeners(|| {
        forgotten.push(kept.listen().unwrap());
        forgotten.push(TcpListener::bind("127.0.0.1:0").unwrap());
        forgotten.iter().for_each(show_owner);
    });
    left.unwrap_err().to_string()
}

#[test]
fn leaked_listeners_are_told_one_by_one() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let text = agent.command("leaks");
    assert_eq!(text.matches("was left listening: ").count(), 2, "{text}");
    assert_eq!(
        text.matches("help: stop each server before its test ends")
            .count(),
        2,
        "{text}"
    );
}

/// A reservation that ends beside a server that was left running.
#[test]
fn release_tells_of_the_server_that_was_left_by_name() {
    let p = reserve_port();
    let addr = p.addr();
    let server = p.listen().unwrap();
    show_owner(&server);
    let error = p.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(
        text.contains("was left listening: ") && text.ends_with(&format!("listens on {addr}")),
        "{text}"
    );
    drop(server);
    reserve_port().release().unwrap();
}

#[test]
fn several_ports_are_told_together() {
    let (p, q, free) = (reserve_port(), reserve_port(), reserve_port());
    let (one, two) = (p.listen().unwrap(), q.listen().unwrap());
    let text = portlease::check_ports_free([&p, &free, &q])
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with(&format!("port {p}/tcp is in use: ")),
        "{text}"
    );
    assert!(
        text.contains(&format!("\nport {q}/tcp is in use: ")),
        "{text}"
    );
    assert!(!text.contains(&format!("port {free}/tcp")), "{text}");
    drop((one, two));
    portlease::assert_ports_free([&p, &free, &q]);
}

#[test]
fn with_hidepid_an_owner_is_hidden_and_its_socket_is_not() {
    need!(capability::nobody(), capability::mount_namespace());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let folder = Folder::new();
    let hide = "mount -t proc -o hidepid=2 proc /proc";
    let mut nobody = Agent::of(
        Agent::launch(&folder.locks())
            .in_mounts(hide)
            .run_by_nobody(),
    );
    let text = nobody.command(&format!("who={p}"));
    assert!(
        text.starts_with(&format!(
            "complete=false port {p}: held by uid 0 (root); its process is hidden"
        )),
        "{text}"
    );
    drop(server);
}

#[test]
fn a_socket_that_users_share_is_every_ones() {
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
    let text = eventually("the child has it as another user", DEADLINE, || {
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
