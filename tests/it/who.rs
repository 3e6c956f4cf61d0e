//! Who has a port: the process of another program, on systems whose table is read.

use portlease::{ErrorKind, Holders, State};

use crate::agent::{Agent, own_locks};
use crate::support::{capability, need};

/// `None`, said, where this system's table is not read.
fn holders(port: u16) -> Option<Holders> {
    match portlease::who_holds(port) {
        Ok(holders) => Some(holders),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
            let expected = "portlease cannot read the socket table of this system";
            assert_eq!(e.to_string(), format!("cannot look at {port}: {expected}"));
            None
        }
    }
}

#[test]
fn an_operand_that_names_no_port_is_named() {
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
    let mut server = Agent::new(&own_locks());
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
    // Linux keeps 15 bytes of a name.
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(&process.name), "{process:?}");
    let said = portlease::check_port_free(&p).unwrap_err().to_string();
    let who = format!(
        "{} (pid {}) listens on {}",
        process.name,
        process.pid,
        p.addr()
    );
    assert!(said.contains(&who), "{said}");
    portlease::check_port_held_by(&p, server.pid()).unwrap();
    portlease::check_port_held_by(&p, std::process::id()).unwrap();
    let mut other = Agent::new(&own_locks());
    portlease::check_port_held_by(&p, other.pid()).unwrap_err();
    assert_eq!(other.command("stop"), "stopped");
}

#[test]
fn a_udp_socket_of_another_process_is_named() {
    let p = portlease::reserve_udp_port();
    let mut server = Agent::new(&own_locks());
    assert_eq!(server.command(&format!("serve-udp={p}")), "serves");
    let Some(holders) = holders(p.port()) else {
        return;
    };
    let socket = holders
        .iter()
        .find(|holder| holder.state == State::Bound)
        .unwrap();
    assert_eq!(socket.processes[0].pid, server.pid(), "{holders}");
    let said = portlease::check_port_free(&p).unwrap_err().to_string();
    assert!(
        said.contains(&format!(
            "(pid {}) is bound to {}/udp",
            server.pid(),
            p.addr()
        )),
        "{said}"
    );
}

#[test]
fn a_listener_that_is_left_behind_is_told_and_one_from_before_is_not() {
    let (before, p) = (portlease::reserve_port(), portlease::reserve_port());
    if holders(p.port()).is_none() {
        return;
    }
    let mut server = Agent::new(&own_locks());
    assert_eq!(server.command(&format!("serve={before}")), "serves");
    let left = portlease::check_no_leaked_listeners(|| {
        assert_eq!(server.command(&format!("serve={p}")), "serves");
    });
    let said = left.unwrap_err().to_string();
    assert!(
        said.contains(&format!("port {}/tcp was left listening", p.port())),
        "{said}"
    );
    assert!(
        !said.contains(&format!("port {}/tcp", before.port())),
        "{said}"
    );
    let released = p.release().unwrap_err();
    assert!(
        released.to_string().contains("was left listening"),
        "{released}"
    );
}
