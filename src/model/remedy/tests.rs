//! The text of every remedy.

use std::net::Ipv4Addr;

use super::*;
use crate::model::endpoint::Protocol;

const ENDPOINT: Endpoint = Endpoint {
    port: 60315,
    ip: None,
    protocol: Some(Protocol::Tcp),
};

/// Returns a value of the next variant, in the order of the match; `None` after the last
/// variant. The match does not compile if it lacks a variant.
fn next(remedy: &Remedy) -> Option<Remedy> {
    let (pid, port, endpoint) = (4242, 60315, ENDPOINT);
    let addr = (Ipv4Addr::LOCALHOST, port).into();
    let name = || "name".to_owned();
    Some(match remedy {
        Remedy::StopProcess { .. } => Remedy::StopMaster { pid, name: name() },
        Remedy::StopMaster { .. } => Remedy::InterruptProcess { pid },
        Remedy::InterruptProcess { .. } => Remedy::CloseOwnSocket,
        Remedy::CloseOwnSocket => Remedy::CloseSocketOfAncestor { pid },
        Remedy::CloseSocketOfAncestor { .. } => Remedy::ResumeOrKill { pid },
        Remedy::ResumeOrKill { .. } => Remedy::KillProcess { pid, traced: true },
        Remedy::KillProcess { .. } => Remedy::Resume {
            pid,
            traced: true,
            in_background: false,
        },
        Remedy::Resume { .. } => Remedy::StartWithoutTerminal,
        Remedy::StartWithoutTerminal => Remedy::Thaw {
            pid,
            command: name(),
        },
        Remedy::Thaw { .. } => Remedy::ReceiveOrStop { pid },
        Remedy::ReceiveOrStop { .. } => Remedy::WaitForCoreDump { pid },
        Remedy::WaitForCoreDump { .. } => Remedy::StopUnit {
            unit: name(),
            user: true,
            uid: None,
        },
        Remedy::StopUnit { .. } => Remedy::ListSocketUnits {
            user: false,
            uid: None,
        },
        Remedy::ListSocketUnits { .. } => Remedy::StopContainer {
            id: name(),
            manager: ContainerManager::Machined,
        },
        Remedy::StopContainer { .. } => Remedy::StopPublishingContainer {
            port,
            udp: true,
            podman: false,
        },
        Remedy::StopPublishingContainer { .. } => Remedy::StopServerInWsl { pid },
        Remedy::StopServerInWsl { .. } => Remedy::FindProgramOfHttpSys,
        Remedy::FindProgramOfHttpSys => Remedy::DeletePortProxy { port },
        Remedy::DeletePortProxy { .. } => Remedy::TurnOffAirPlayReceiver,
        Remedy::TurnOffAirPlayReceiver => Remedy::StopBySupervisor {
            pid,
            supervisor: 1,
            name: name(),
            command: Some(name()),
            may_remain: true,
            sigkill: false,
        },
        Remedy::StopBySupervisor { .. } => Remedy::StopWatcherFirst {
            pid,
            watcher: 1,
            name: name(),
            watcher_sigkill: false,
            sigkill: false,
        },
        Remedy::StopWatcherFirst { .. } => Remedy::NameOtherProtocol { endpoint },
        Remedy::NameOtherProtocol { .. } => Remedy::StopProcessOfScript {
            pid,
            shell: 1,
            name: name(),
            shell_sigkill: false,
            sigkill: true,
        },
        Remedy::StopProcessOfScript { .. } => Remedy::ReserveAnotherPort { endpoint },
        Remedy::ReserveAnotherPort { .. } => Remedy::Queue {
            endpoint,
            pid: None,
        },
        Remedy::Queue { .. } => Remedy::EndReservation { endpoint, pid },
        Remedy::EndReservation { .. } => Remedy::UseOwnReservation {
            endpoint,
            pid: None,
            on_behalf_of: None,
        },
        Remedy::UseOwnReservation { .. } => Remedy::StartServer,
        Remedy::StartServer => Remedy::WaitUntilListening { endpoint },
        Remedy::WaitUntilListening { .. } => Remedy::UseListenersAddress { addr },
        Remedy::UseListenersAddress { .. } => Remedy::ListenOn {
            ip: addr.ip(),
            scope_id: 0,
        },
        Remedy::ListenOn { .. } => Remedy::ListenOnFreeAddress { addr, udp: true },
        Remedy::ListenOnFreeAddress { .. } => Remedy::ListenOnEveryInterface { interface: name() },
        Remedy::ListenOnEveryInterface { .. } => Remedy::ReserveForPlainServer,
        Remedy::ReserveForPlainServer => Remedy::WaitForTimeWait,
        Remedy::WaitForTimeWait => Remedy::WaitForKernel,
        Remedy::WaitForKernel => Remedy::InspectWithPermission,
        Remedy::InspectWithPermission => Remedy::MountProc,
        Remedy::MountProc => Remedy::InspectFromHost,
        Remedy::InspectFromHost => Remedy::InspectInNetworkNamespace { pid },
        Remedy::InspectInNetworkNamespace { .. } => Remedy::ListPacketFilter,
        Remedy::ListPacketFilter => Remedy::FindKernelSocket,
        Remedy::FindKernelSocket => Remedy::ReserveInSysctl {
            port,
            ports: name(),
        },
        Remedy::ReserveInSysctl { .. } => Remedy::ShowExcludedRanges,
        Remedy::ShowExcludedRanges => Remedy::CheckCommand { pid },
        Remedy::CheckCommand { .. } => Remedy::CheckSpawnedCommand,
        Remedy::CheckSpawnedCommand => Remedy::StartInForeground,
        Remedy::StartInForeground => Remedy::ExpectProcess {
            pid,
            instead_of: pid,
        },
        Remedy::ExpectProcess { .. } => Remedy::ExpectAnyListener { instead_of: pid },
        Remedy::ExpectAnyListener { .. } => Remedy::ReadServerOutput,
        Remedy::ReadServerOutput => Remedy::StopServersBeforeTestEnds,
        Remedy::StopServersBeforeTestEnds => Remedy::RunAsRoot,
        Remedy::RunAsRoot => Remedy::LowerUnprivilegedPortStart { port },
        Remedy::LowerUnprivilegedPortStart { .. } => Remedy::UseLocalAddress,
        Remedy::UseLocalAddress => Remedy::NamePort,
        Remedy::NamePort => Remedy::AskWhoHolds { endpoint },
        Remedy::AskWhoHolds { .. } => Remedy::UnblockRuntime {
            call: "wait_until_free",
        },
        Remedy::UnblockRuntime { .. } => return None,
    })
}

fn every_remedy() -> Vec<Remedy> {
    let first = Remedy::StopProcess { pid: 4242 };
    std::iter::successors(Some(first), next).collect()
}

#[test]
fn every_remedy_prints_one_plain_line() {
    let remedies = every_remedy();
    assert_eq!(remedies.len(), 58);
    for remedy in remedies {
        let text = remedy.to_string();
        assert_eq!(text.trim(), text, "{remedy:?}");
        assert!(
            !text.is_empty() && !text.contains('\n'),
            "{remedy:?}: {text:?}"
        );
        assert!(!text.ends_with('.') && !text.contains("  "), "{text:?}");
        assert!(
            text.starts_with(|c: char| c.is_ascii_lowercase()),
            "{text:?}"
        );
    }
}

#[test]
fn every_remedy_prints_something_else() {
    let mut texts: Vec<String> = every_remedy().iter().map(ToString::to_string).collect();
    let count = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), count);
}

#[test]
fn the_calls_name_the_protocol_and_the_address() {
    let udp = Endpoint {
        protocol: Some(Protocol::Udp),
        ..ENDPOINT
    };
    let local = Endpoint {
        ip: Some([127, 0, 0, 1].into()),
        ..ENDPOINT
    };
    for (remedy, text) in [
        (
            Remedy::ReserveAnotherPort { endpoint: ENDPOINT },
            "reserve another port with reserve_port()",
        ),
        (
            Remedy::ReserveAnotherPort { endpoint: udp },
            "reserve another port with reserve_udp_port()",
        ),
        (
            Remedy::Queue {
                endpoint: ENDPOINT,
                pid: None,
            },
            "wait for the port with ReserveOptions::new().port(60315).wait(..)",
        ),
        (
            Remedy::Queue {
                endpoint: udp,
                pid: None,
            },
            "wait for the port with ReserveOptions::new().udp().port(60315).wait(..)",
        ),
        (
            Remedy::WaitUntilListening { endpoint: ENDPOINT },
            "wait for the server with wait_until_listening(60315, ..)",
        ),
        (
            Remedy::WaitUntilListening { endpoint: local },
            "wait for the server with wait_until_listening(\"127.0.0.1:60315/tcp\", ..)",
        ),
    ] {
        assert_eq!(remedy.to_string(), text);
    }
}

#[test]
fn the_remedy_for_a_supervised_process_says_what_may_remain() {
    let through = |supervisor, may_remain, sigkill| Remedy::StopBySupervisor {
        pid: 7,
        supervisor,
        name: "runsv".to_owned(),
        command: Some("`sv down /web`".to_owned()),
        may_remain,
        sigkill,
    };
    let script = |shell, shell_sigkill, sigkill| Remedy::StopProcessOfScript {
        pid: 7,
        shell,
        name: "sh".to_owned(),
        shell_sigkill,
        sigkill,
    };
    let watcher = |watcher, watcher_sigkill| Remedy::StopWatcherFirst {
        pid: 7,
        watcher,
        name: "nodemon".to_owned(),
        watcher_sigkill,
        sigkill: false,
    };
    let command = "stop pid 7 through its supervisor runsv (pid 6), which may otherwise start \
                   it again: `sv down /web`";
    for (remedy, text) in [
        (through(6, false, false), command.to_owned()),
        (
            through(6, true, false),
            format!("{command}, and then stop pid 7 if it still runs"),
        ),
        (
            through(6, true, true),
            format!("{command}, and then end pid 7 with kill -KILL 7 if it still runs"),
        ),
        (
            through(7, false, false),
            "stop the program for which runsv (pid 7) listens: `sv down /web`".to_owned(),
        ),
        (
            script(6, false, true),
            "end pid 7 with kill -KILL 7; if the loop in the script of sh (pid 6) starts the \
             program again, stop pid 6, and then the new process"
                .to_owned(),
        ),
        (
            script(6, true, true),
            "end pid 7 with kill -KILL 7; if the loop in the script of sh (pid 6) starts the \
             program again, end pid 6 with kill -KILL 6, and then the new process"
                .to_owned(),
        ),
        (
            script(1, false, false),
            "stop pid 7; if the loop in the script of sh (pid 1) starts the program again, \
             stop the container from outside of it"
                .to_owned(),
        ),
        (
            watcher(6, false),
            "stop nodemon (pid 6) first, because it may start pid 7 again; then stop pid 7 if it \
             still runs"
                .to_owned(),
        ),
        (
            watcher(6, true),
            "end nodemon (pid 6) first, with kill -KILL 6, because it may start pid 7 again; then \
             stop pid 7 if it still runs"
                .to_owned(),
        ),
        (
            watcher(1, true),
            "stop the container from outside of it, because its pid 1, nodemon, may start pid \
             7 again"
                .to_owned(),
        ),
    ] {
        assert_eq!(remedy.to_string(), text);
    }
}

#[test]
fn a_unit_is_one_word_of_a_shell_and_its_manager_is_named() {
    let stop = |user, uid| Remedy::StopUnit {
        unit: r"serve@my\x2dapp.service".to_owned(),
        user,
        uid,
    };
    let system = stop(false, None).to_string();
    if cfg!(windows) {
        let text = r#"stop the service with net stop "serve@my\x2dapp.service""#;
        assert_eq!(system, text);
        return;
    }
    let text = r"stop the service with systemctl stop 'serve@my\x2dapp.service'";
    assert_eq!(system, text);
    assert_eq!(
        stop(true, Some(1000)).to_string(),
        r"as user 1000, stop the service with systemctl --user stop 'serve@my\x2dapp.service'"
    );
    let sockets = Remedy::ListSocketUnits {
        user: true,
        uid: Some(1000),
    };
    assert_eq!(
        sockets.to_string(),
        "as user 1000, find the socket unit with systemctl --user list-sockets, and stop it"
    );
}

#[test]
fn several_remedies_make_one_sentence() {
    let endpoint = ENDPOINT;
    let wait = Remedy::WaitUntilListening { endpoint };
    let another = Remedy::ReserveAnotherPort { endpoint };
    assert_eq!(in_one_line(&[]), None);
    assert_eq!(
        in_one_line(&[Remedy::StopProcess { pid: 7 }, another]).unwrap(),
        "stop pid 7, or reserve another port with reserve_port()"
    );
    assert_eq!(
        in_one_line(&[
            Remedy::ResumeOrKill { pid: 7 },
            Remedy::StopProcess { pid: 8 },
            Remedy::StopProcess { pid: 9 },
        ])
        .unwrap(),
        "resume pid 7 with kill -CONT 7, or end it with kill -KILL 7; and stop pid 8 and stop \
         pid 9"
    );
    let unblock = Remedy::UnblockRuntime {
        call: "wait_until_listening",
    };
    assert_eq!(
        in_one_line(&[Remedy::StartServer, wait, unblock]).unwrap(),
        "start the server if it does not run, and wait for the server with \
         wait_until_listening(60315, ..); this wait blocks its thread, so no other task of a \
         current-thread runtime can run: await portlease::tokio::wait_until_listening instead"
    );
}
