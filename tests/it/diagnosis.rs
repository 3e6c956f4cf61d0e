//! What a check of a port says, and why: the verdicts, the reports to the letter, the line that a panic names.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use portlease::{ErrorKind, Reservation, ReserveOptions, reserve_port};

use crate::agent::Agent;
use crate::outsider::{self, Reuse, V4, V6, port_of};
use crate::support::{DEADLINE, Folder, capability, eventually, need};

/// The lock folder of this process.
fn own_locks() -> PathBuf {
    std::env::var_os("PORTLEASE_DIR").map_or_else(|| PathBuf::from("/tmp/portlease"), PathBuf::from)
}

/// A connection that `server` accepted, closed by the server's side first: what is left is in TIME_WAIT there.
fn leave_time_wait(server: &TcpListener) {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    drop(server.accept().unwrap());
    // Its end has come: the server's side has closed.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
}

fn only_time_wait_is_left(port: u16) {
    eventually("TIME_WAIT", DEADLINE, || {
        let holders = portlease::who_holds(port).unwrap();
        let states: Vec<_> = holders.iter().map(|holder| holder.state).collect();
        let waits = |state: &portlease::State| *state == portlease::State::TimeWait;
        if !states.is_empty() && states.iter().all(waits) { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

fn listener(reuse: Reuse) -> (TcpListener, u16) {
    let socket = outsider::bind(V4, 0, reuse).unwrap();
    socket.listen(8).unwrap();
    let port = port_of(&socket);
    (TcpListener::from(socket), port)
}

#[test]
fn time_wait_of_a_server_with_so_reuseaddr_is_free_and_said() {
    let (server, port) = listener(Reuse::Address);
    leave_time_wait(&server);
    drop(server);
    only_time_wait_is_left(port);
    portlease::assert_port_free(port);
    let text = portlease::diagnose(port).to_string();
    assert!(text.contains("is free: what its server left in TIME_WAIT does not stop"), "{text}");
    assert!(text.contains("with SO_REUSEADDR could bind everywhere; without it ::1"), "{text}");
    // A number that is asked for outright can be had, by the kernel's guarantee.
    let p = ReserveOptions::new().port(port).reserve().unwrap();
    assert_eq!(p.guarantee(), portlease::Guarantee::Kernel);
    portlease::assert_port_free(&p);
    let again = ReserveOptions::new().port(port).reserve().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InUse, "one of two such claims only");
    drop(p.listen().unwrap());
}

#[test]
fn time_wait_of_a_plain_server_and_of_a_client_keeps_everybody_out() {
    let (server, plain) = listener(Reuse::Neither);
    leave_time_wait(&server);
    drop(server);
    // A client that closes first keeps its own number.
    let (server, _) = listener(Reuse::Address);
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let dialled = client.local_addr().unwrap().port();
    let (mut accepted, _) = server.accept().unwrap();
    drop(client);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop((accepted, server));
    for port in [plain, dialled] {
        only_time_wait_is_left(port);
        assert!(!portlease::is_port_free(port));
        let text = portlease::check_port_free(port).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("port {port}/tcp is in use: TIME_WAIT of 1 connection, left by")),
            "{text}"
        );
        assert!(text.contains("help: wait until it ends, within 60 s"), "{text}");
        let error = ReserveOptions::new().port(port).reserve().unwrap_err();
        assert!(error.to_string().contains("TIME_WAIT"), "{error}");
    }
}

#[test]
fn ones_own_reservation_is_free_and_a_siblings_is_not() {
    let folder = Folder::new();
    let (mut one, mut two) = (Agent::new(&folder.locks()), Agent::new(&folder.locks()));
    let port = one.reserve("label=primary").held().port();
    assert_eq!(one.command(&format!("free={port}")), "true");
    assert_eq!(two.command(&format!("free={port}")), "false");
    let text = two.command(&format!("check={port}"));
    assert!(text.starts_with(&format!("port {port}/tcp is in use: reserved by test role (")), "{text}");
    assert!(text.contains(&format!("pid {}, labelled \"primary\"", one.pid())), "{text}");
    assert!(text.contains("help: queue for it with ReserveOptions::new().port("), "{text}");
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
    assert!(text.starts_with(&format!("port {pair}/udp is in use: ")), "{text}");
    drop(udp);
    portlease::assert_port_free(&pair);
}

#[test]
fn a_strangers_claim_is_in_use_although_a_server_could_bind() {
    let (mine, theirs) = (Folder::new(), Folder::new());
    let (mut one, mut other) = (Agent::new(&mine.locks()), Agent::new(&theirs.locks()));
    let port = one.reserve("").held().port();
    assert_eq!(other.command(&format!("free={port}")), "false");
    let text = other.command(&format!("check={port}"));
    assert!(text.contains("has it bound on [::]:"), "{text}");
}

/// Without a claim only the name in the network namespace tells of it.
#[test]
fn a_reservation_of_another_lock_folder_is_in_use_also_without_a_socket() {
    for (how, protocol) in [("udp=1", "udp"), ("plain=1", "tcp")] {
        let (mine, theirs) = (Folder::new(), Folder::new());
        let (mut one, mut other) = (Agent::new(&mine.locks()), Agent::new(&theirs.locks()));
        let port = one.reserve(how).held().port();
        let operand = format!("{port}/{protocol}");
        assert_eq!(one.command(&format!("free={operand}")), "true", "it is its own");
        assert_eq!(other.command(&format!("free={operand}")), "false");
        let text = other.command(&format!("check={operand}"));
        let expected = format!("port {operand} is in use: reserved by a process whose record cannot be seen");
        assert!(text.starts_with(&expected), "{text}");
        let who = other.command(&format!("who={operand}"));
        assert!(who.starts_with("complete=false ") && who.contains("is reserved by a process"), "{who}");
        one.drop("all");
        assert_eq!(other.command(&format!("free={operand}")), "true", "the control: it was let go");
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
        let endpoint = portlease::Endpoint { port, ip: asked, protocol: None };
        assert_eq!(portlease::is_port_free(endpoint), free, "{held} held, {asked:?} asked");
        assert_eq!(portlease::check_port_listening(endpoint).is_ok(), !free, "{held} held, {asked:?} asked");
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
    let text = portlease::check_port_free("203.0.113.7:8080").unwrap_err().to_string();
    assert!(
        text.starts_with("port 203.0.113.7:8080/tcp cannot be bound: this machine does not have"),
        "{text}"
    );
    assert!(text.contains("help: name an address that this machine has"), "{text}");
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
    need!(capability::nobody());
    let p = reserve_port();
    let server = p.listen().unwrap();
    let folder = Folder::new();
    let mut nobody = Agent::of(Agent::launch(&folder.locks()).run_by_nobody());
    let text = nobody.command(&format!("check={p}"));
    assert!(
        text.starts_with(&format!("port {p}/tcp is in use: held by uid 0 (root); its process is hidden")),
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
    let text = portlease::check_port_held_by(port, this).unwrap_err().to_string();
    assert!(text.contains(&format!("is not held by pid {this}")), "a claim is no server: {text}");
    assert_eq!(agent.command(&format!("serve={port}")), "serves");
    portlease::assert_port_held_by(port, agent.pid());
    portlease::assert_port_held_by(port, this);
    let mut other = Agent::new(&folder.locks());
    let text = portlease::check_port_held_by(port, other.pid()).unwrap_err().to_string();
    assert!(text.contains(&format!("(pid {}) listens on 127.0.0.1:{port}", agent.pid())), "{text}");
    assert_eq!(other.command("reserve_port").split(' ').next(), Some("held"));
}

#[test]
fn what_no_process_has_is_not_said_to_be_hidden_nor_judged_where_it_was_not_asked() {
    let (server, port) = listener(Reuse::Address);
    leave_time_wait(&server);
    drop(server);
    only_time_wait_is_left(port);
    let this = std::process::id();
    let text = portlease::check_port_held_by(port, this).unwrap_err().to_string();
    assert!(text.contains("help: start the server first") && !text.contains("root"), "{text}");
    for text in [text, portlease::check_port_listening(port).unwrap_err().to_string()] {
        assert!(text.contains("  TIME_WAIT    1 connection, no process; they end within 60 s\n"), "{text}");
    }
}

#[test]
fn a_connection_that_a_server_left_open_is_said_beside_free() {
    let (server, port) = listener(Reuse::Address);
    let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let _accepted = server.accept().unwrap();
    drop(server);
    portlease::assert_port_free(port);
    let text = portlease::diagnose(port).to_string();
    let expected =
        "is free: 1 connection of a server that has stopped listening, in the way of no server that";
    assert!(text.lines().next().unwrap().contains(expected), "{text}");
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
    note(line!(), &|| portlease::assert_port_listening(reserve_port().leak()));
    note(line!(), &|| portlease::assert_no_leaked_listeners(|| std::mem::forget(reserve_port().listen())));
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

#[test]
fn a_panic_of_reserve_port_names_the_callers_line_and_the_variable() {
    let folder = Folder::new();
    let mut agent = Agent::of(Agent::launch(&folder.locks()).variable("PORTLEASE_RANGE", "9-3"));
    agent.process().tell("reserve_port");
    assert_eq!(agent.process().hear_or_end(), None);
    let said = agent.process().said();
    assert!(said.contains("tests/it/agent.rs:") && said.contains("PORTLEASE_RANGE is \"9-3\""), "{said}");
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
    });
    left.unwrap_err().to_string()
}

#[test]
fn leaked_listeners_are_told_one_by_one() {
    let folder = Folder::new();
    let mut agent = Agent::new(&folder.locks());
    let text = agent.command("leaks");
    assert_eq!(text.matches("was left listening: ").count(), 2, "{text}");
    assert_eq!(text.matches("help: stop each server before its test ends").count(), 2, "{text}");
}

/// A reservation that ends beside a server that was left running.
#[test]
fn release_tells_of_the_server_that_was_left_by_name() {
    let p = reserve_port();
    let addr = p.addr();
    let server = p.listen().unwrap();
    let error = p.release().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let text = error.to_string();
    assert!(text.contains("was left listening: ") && text.ends_with(&format!("listens on {addr}")), "{text}");
    drop(server);
    reserve_port().release().unwrap();
}

// What the reports say to the letter. Ports, process ids, names and times are this process's own.

struct Names {
    comm: String,
    pid: u32,
    user: String,
}

fn names() -> Names {
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned();
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    Names { comm, pid: std::process::id(), user: String::from_utf8(id.stdout).unwrap().trim_end().to_owned() }
}

fn number_line(port: u16) -> String {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let class = if port >= 49152 { "dynamic (RFC 6335)" } else { "user port (RFC 6335)" };
    let place = if (range[0]..=range[1]).contains(&port) { "inside" } else { "outside" };
    format!("  the number   {class}, {place} this machine's ephemeral range {}-{}", range[0], range[1])
}

/// `started 3 min before` differs from run to run.
fn ageless(text: &str) -> String {
    text.lines()
        .map(|line| match line.split_once(", started ") {
            Some((head, tail)) => {
                format!(
                    "{head}, started AGE before{}",
                    tail.split_once(" before").map_or("", |(_, rest)| rest)
                )
            }
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Under `cargo test` the thread has the test's name, under nextest the variable.
fn reserved_by(p: &Reservation, test: &str) -> String {
    let lease = p.holders().unwrap().leases()[0].clone();
    let pid = std::process::id();
    let by = format!("by test diagnosis::{test} ({}), pid {pid}", lease.at().unwrap());
    assert!(lease.at().unwrap().starts_with("tests/it/diagnosis.rs:"), "{lease}");
    by
}

#[test]
fn the_report_of_a_server_reads_like_this() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    leave_time_wait(&server);
    let dial = || {
        let client = TcpStream::connect(&p).unwrap();
        let accepted = server.accept().unwrap();
        (client, accepted)
    };
    let connections = [dial(), dial(), dial()];
    let Names { comm, pid, user } = names();
    let reserved = reserved_by(&p, "the_report_of_a_server_reads_like_this");
    let number = number_line(p.port());
    let mut peers: Vec<SocketAddr> =
        connections.iter().map(|(client, _)| client.local_addr().unwrap()).collect();
    peers.sort();
    let first = peers[0];
    let text = ageless(&portlease::check_port_free(&p).unwrap_err().to_string());
    assert_eq!(
        text,
        format!(
            "\
port {p}/tcp is in use: {comm} (pid {pid}) listens on 127.0.0.1:{p}
  listening    127.0.0.1:{p}    {comm}, pid {pid}, user {user}, started AGE before
  connected    127.0.0.1:{p} <- {first}    {comm}, pid {pid} (and 2 more)
  TIME_WAIT    1 connection, no process; they end within 60 s and do not stop a server that sets SO_REUSEADDR
  reserved     {reserved}
{number}
help: stop pid {pid}, or take any free port with reserve_port()"
        )
    );
}

#[test]
fn the_report_of_an_outgoing_port_reads_like_this() {
    let p = reserve_port();
    let server = p.listen().unwrap();
    let client = TcpStream::connect(&p).unwrap();
    let _accepted = server.accept().unwrap();
    let from = client.local_addr().unwrap();
    let port = from.port();
    let Names { comm, pid, user } = names();
    let number = number_line(port);
    let text = ageless(&portlease::check_port_free(port).unwrap_err().to_string());
    // The number may be in TIME_WAIT towards another address too.
    let text: String = text.lines().filter(|l| !l.starts_with("  TIME_WAIT")).collect::<Vec<_>>().join("\n");
    assert_eq!(
        text,
        format!(
            "\
port {port}/tcp is in use: outgoing connection of {comm} (pid {pid}) to 127.0.0.1:{p}
  outgoing     {from} -> 127.0.0.1:{p}    {comm}, pid {pid}, user {user}, started AGE before
{number}
help: it is a client's outgoing port: take any free port with reserve_port(), or withhold the number with sysctl \
net.ipv4.ip_local_reserved_ports={port}"
        )
    );
}

#[test]
fn the_reports_of_a_reserved_port_read_like_this() {
    let p = reserve_port();
    let Names { comm, pid, .. } = names();
    let test = "the_reports_of_a_reserved_port_read_like_this";
    let (reserved, number) = (reserved_by(&p, test), number_line(p.port()));
    assert_eq!(
        portlease::check_port_listening(&p).unwrap_err().to_string(),
        format!(
            "\
port {p}/tcp is not listening: reserved {reserved}
  reserved     {reserved}
{number}
help: start the server first; wait_until_listening({p}, ..) waits until it listens"
        )
    );
    assert_eq!(
        format!("{:?}", ReserveOptions::new().port(p.port()).reserve().unwrap_err()),
        format!(
            "\
cannot reserve {p}/tcp: address already in use: reserved {reserved}
  reserved     {reserved}
{number}
help: queue for it with ReserveOptions::new().port({p}).wait(..), or take any free port with reserve_port()"
        )
    );
    assert_eq!(
        portlease::diagnose(&p).to_string(),
        format!(
            "\
port {p}/tcp is free: nobody holds it
  reserved     {reserved}
  a server     with SO_REUSEADDR could bind everywhere; without it nowhere
{number}"
        )
    );
    assert_eq!(
        portlease::who_holds(&p).unwrap().to_string(),
        format!("port {p}/tcp: reserved {reserved}\n  reserved     {reserved}")
    );
    let server = p.listen().unwrap();
    let error = p.wait_until_free(Duration::from_millis(20)).unwrap_err();
    assert_eq!(
        ageless(&format!("{error:?}")).lines().collect::<Vec<_>>()[..1],
        [format!("waited 20ms in vain: port {p}/tcp is in use: {comm} (pid {pid}) listens on 127.0.0.1:{p}")]
    );
    assert!(
        format!("{error:?}").ends_with(&format!(
            "help: stop pid {pid}, or take any free port with reserve_port(); on a current-thread async runtime \
             nothing else runs while this thread waits"
        )),
        "{error:?}"
    );
    drop(server);
}

#[test]
fn the_report_of_a_port_that_nobody_has_reads_like_this() {
    // Free since just now, and nobody's: what is reserved is not nobody's.
    let port = crate::guarantee::quiet_number();
    assert_eq!(portlease::who_holds(port).unwrap().to_string(), format!("port {port}: nobody holds it"));
    let text = portlease::diagnose(port).to_string();
    assert!(text.starts_with(&format!("port {port}/tcp is free: nobody holds it\n")), "{text}");
    assert!(
        text.contains("\n  a server     could bind everywhere, with SO_REUSEADDR and without\n"),
        "{text}"
    );
}

#[test]
fn several_ports_are_told_together() {
    let (p, q, free) = (reserve_port(), reserve_port(), reserve_port());
    let (one, two) = (p.listen().unwrap(), q.listen().unwrap());
    let text = portlease::check_ports_free([&p, &free, &q]).unwrap_err().to_string();
    assert!(text.starts_with(&format!("port {p}/tcp is in use: ")), "{text}");
    assert!(text.contains(&format!("\nport {q}/tcp is in use: ")), "{text}");
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
    let mut nobody = Agent::of(Agent::launch(&folder.locks()).in_mounts(hide).run_by_nobody());
    let text = nobody.command(&format!("who={p}"));
    assert!(
        text.starts_with(&format!("complete=false port {p}: held by uid 0 (root); its process is hidden")),
        "{text}"
    );
    drop(server);
}

#[test]
fn a_socket_that_users_share_is_every_ones() {
    need!(capability::nobody());
    let p = reserve_port();
    let mut child = std::process::Command::new("setpriv");
    child.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"]);
    p.pass_to_fd(&mut child, 5).unwrap();
    let mut child = child.stdin(std::process::Stdio::null()).spawn().unwrap();
    let text = eventually("the child has it as another user", DEADLINE, || {
        let holders = portlease::who_holds(&p).unwrap();
        let users: Vec<_> =
            holders.iter().flat_map(|h| &h.processes).filter_map(|process| process.uid).collect();
        if users.contains(&65534) { Ok(holders.to_string()) } else { Err(holders.to_string()) }
    });
    assert!(
        text.contains(&format!("(pid {})", child.id())) || text.contains(&format!("pid {}", child.id())),
        "{text}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
