//! Prints the library's remedies as commands of `portlease`.

use portlease::{Endpoint, Protocol, Remedy};
use serde::Serialize;

use crate::keeper::client::can_release;

/// The facts about a command that decide which remedies its help line prints.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// `true` if the command waited. The help line then omits the `portlease` commands that wait.
    pub(crate) waited: bool,
    /// `true` if `check` or `wait` has the option `--no-reuse-addr`.
    pub(crate) no_reuse_addr: bool,
    /// `true` if the command is `run` or `reserve`. The help line then suggests other options of
    /// this command, not a separate `portlease reserve`.
    pub(crate) reserves: bool,
    /// `true` if the command is `run` without `--leaks`, on a system where `--leaks` exists.
    pub(crate) lacks_leaks: bool,
}

/// Returns `true` if the remedy resumes or thaws a process, or inspects the network namespace of a
/// process. The remedy is useless once the process has ended.
pub(crate) fn needs_running_process(remedy: &Remedy) -> bool {
    matches!(
        remedy,
        Remedy::Resume { .. } | Remedy::Thaw { .. } | Remedy::InspectInNetworkNamespace { .. }
    )
}

/// Joins the remedies into one line. Returns `None` if none of them applies to this command.
pub(crate) fn in_one_line(remedies: &[Remedy], asked: Asked) -> Option<String> {
    let mut text = String::new();
    let mut earlier: Option<&Remedy> = None;
    for remedy in applicable(remedies, asked) {
        let release = release(remedy).map(|(_, text)| text);
        let texts: Vec<String> = command(remedy, asked).into_iter().chain(release).collect();
        if texts.is_empty() {
            continue;
        }
        text += match (earlier, remedy) {
            (None, _) => "",
            // Each of the two remedies ends one holder of the port, and both holders must end.
            (Some(Remedy::StopProcess { .. }), Remedy::StopProcess { .. }) => " and ",
            (Some(Remedy::Thaw { .. }), remedy) if remedy.ends_a_holder() => "; then ",
            (Some(earlier), remedy) if earlier.ends_a_holder() && remedy.concerns_a_holder() => {
                "; and "
            }
            // `WaitUntilListening` is the second step after `StartServer`, not an alternative to
            // it.
            (_, Remedy::WaitUntilListening { .. }) => ", and ",
            _ => ", or ",
        };
        text += &texts.join(", or ");
        earlier = Some(remedy);
    }
    (!text.is_empty()).then_some(text)
}

/// The remedies that apply to this command.
fn applicable(remedies: &[Remedy], asked: Asked) -> impl Iterator<Item = &Remedy> {
    // The command's own socket closes when the command ends. So the help line gives no advice about
    // this socket if another holder of the port must end.
    let is_other = |remedy: &Remedy| *remedy != Remedy::CloseOwnSocket && remedy.ends_a_holder();
    let has_other = remedies.iter().any(is_other);
    remedies.iter().filter(move |remedy| match remedy {
        Remedy::CloseOwnSocket => !has_other,
        Remedy::WaitUntilListening { .. } => !asked.waited,
        _ => true,
    })
}

/// The text of a remedy for a user of the command. Returns `None` for a remedy that the user cannot
/// follow, for example because it applies only to Rust programs.
fn command(remedy: &Remedy, asked: Asked) -> Option<String> {
    let text = match remedy {
        Remedy::ReserveAnotherPort { .. } if asked.reserves => {
            "omit the number to reserve another port".to_owned()
        }
        Remedy::ReserveAnotherPort { endpoint, .. } => {
            let (udp, plain) = (udp(endpoint), plain(asked));
            format!("reserve another port with `portlease reserve{udp}{plain}`")
        }
        Remedy::Queue { .. } if asked.waited => return None,
        Remedy::Queue { .. } if asked.reserves => {
            "wait for the port: add `--wait 60s` to this command".to_owned()
        }
        Remedy::Queue { endpoint, .. } => {
            let (port, udp, plain) = (endpoint.port, udp(endpoint), plain(asked));
            format!(
                "wait for the port with `portlease reserve --port {port}{udp}{plain} --wait 60s`"
            )
        }
        // The function `release` returns the text of this remedy.
        Remedy::EndReservation { .. } => return None,
        Remedy::UseOwnReservation {
            endpoint,
            pid: Some(keeper),
            on_behalf_of: Some(pid),
            ..
        } if can_release(*keeper) => {
            let port = release_operand(endpoint);
            format!(
                "use the port, which is already reserved for pid {pid}, or release it with \
                 `portlease release {port}`"
            )
        }
        // This command itself opens no socket on the port, so it has inherited the socket.
        Remedy::CloseOwnSocket => {
            "start this command so that it inherits no socket on the port".to_owned()
        }
        Remedy::WaitUntilListening { endpoint, .. } => {
            let operand = operand(endpoint);
            format!("wait for the server with `portlease wait --listening {operand}`")
        }
        Remedy::AskWhoHolds { endpoint, .. } => {
            format!("find out who holds the port with `portlease who {endpoint}`")
        }
        // The user's own reservation prevents a server without SO_REUSEADDR from binding the port.
        Remedy::ReserveForPlainServer if asked.no_reuse_addr || asked.reserves => {
            let text = "release the port, and reserve it again with --no-reuse-addr; if \
                        `portlease run` has reserved it, add --no-reuse-addr to that command";
            format!("{text}{}", to_port_server())
        }
        Remedy::ReserveForPlainServer => {
            let text = "reserve the port with --no-reuse-addr if the server reported \"address \
                        already in use\" for it: some servers do not set SO_REUSEADDR";
            format!("{text}{}", to_port_server())
        }
        Remedy::StartWithoutTerminal => {
            "start the program without a terminal as its stdin: add `</dev/null`".to_owned()
        }
        // `run` and `reserve` reserve the number on every address, so one free address is not
        // enough.
        Remedy::ListenOnFreeAddress { .. } if asked.reserves => return None,
        Remedy::UnblockRuntime { .. } => return None,
        // `run` releases the port after its command has ended.
        Remedy::StopServersBeforeTestEnds => {
            let or_leaks = match asked.lacks_leaks {
                true => ", or add --leaks=stop",
                false => "",
            };
            format!("stop each server before the command ends{or_leaks}")
        }
        // The library's texts of the other remedies name no Rust function, so they fit the command.
        other => other.to_string(),
    };
    Some(text)
}

/// How to release a port that another process has reserved, and the pid of that process. Returns
/// `None` for other remedies, and if `portlease release` cannot release the port for this user.
fn release(remedy: &Remedy) -> Option<(u32, String)> {
    let (endpoint, pid) = match remedy {
        Remedy::Queue { endpoint, pid, .. } => (endpoint, (*pid)?),
        Remedy::EndReservation { endpoint, pid, .. } => (endpoint, *pid),
        _ => return None,
    };
    let port = release_operand(endpoint);
    can_release(pid).then(|| (pid, format!("release it with `portlease release {port}`")))
}

/// A remedy in the JSON output.
#[derive(Debug, Serialize)]
pub(crate) struct RemedyRow {
    kind: &'static str,
    text: String,
    /// The process that the remedy is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// The name of the master, unit, supervisor, watcher, shell or interface that the remedy is
    /// about, or the id of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The user whose service manager the remedy needs, if another user runs the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
}

/// The remedies that [`in_one_line`] prints, as objects of the JSON output.
pub(crate) fn rows(remedies: &[Remedy], asked: Asked) -> Vec<RemedyRow> {
    let rows = |remedy: &Remedy| {
        let (kind, pid, name) = parts(remedy);
        let uid = match remedy {
            Remedy::StopUnit { uid, .. } | Remedy::ListSocketUnits { uid, .. } => *uid,
            _ => None,
        };
        let of_command = command(remedy, asked).map(|text| RemedyRow {
            kind,
            text,
            pid,
            name,
            uid,
        });
        let of_release = release(remedy).map(|(pid, text)| RemedyRow {
            kind: "release",
            text,
            pid: Some(pid),
            name: None,
            uid: None,
        });
        of_command.into_iter().chain(of_release)
    };
    applicable(remedies, asked).flat_map(rows).collect()
}

/// The `kind`, `pid` and `name` of the [`RemedyRow`] for a remedy.
fn parts(remedy: &Remedy) -> (&'static str, Option<u32>, Option<String>) {
    match remedy {
        Remedy::StopProcess { pid, .. } => ("stop_process", Some(*pid), None),
        Remedy::StopMaster { pid, name, .. } => ("stop_master", Some(*pid), Some(name.clone())),
        Remedy::InterruptProcess { pid, .. } => ("interrupt_process", Some(*pid), None),
        Remedy::CloseOwnSocket => ("close_own_socket", None, None),
        Remedy::CloseSocketOfAncestor { pid, .. } => ("close_socket_of_ancestor", Some(*pid), None),
        Remedy::ResumeOrKill { pid, .. } => ("resume_or_kill", Some(*pid), None),
        Remedy::KillProcess { pid, .. } => ("kill_process", Some(*pid), None),
        Remedy::Resume { pid, .. } => ("resume", Some(*pid), None),
        Remedy::StartWithoutTerminal => ("start_without_terminal", None, None),
        Remedy::ReceiveOrStop { pid, .. } => ("receive_or_stop", Some(*pid), None),
        Remedy::Thaw { pid, .. } => ("thaw", Some(*pid), None),
        Remedy::WaitForCoreDump { pid, .. } => ("wait_for_core_dump", Some(*pid), None),
        Remedy::StopUnit { unit, .. } => ("stop_unit", None, Some(unit.clone())),
        Remedy::ListSocketUnits { .. } => ("list_socket_units", None, None),
        Remedy::StopContainer { id, .. } => ("stop_container", None, Some(id.clone())),
        Remedy::StopPublishingContainer { .. } => ("stop_publishing_container", None, None),
        Remedy::StopServerInWsl { pid, .. } => ("stop_server_in_wsl", Some(*pid), None),
        Remedy::FindProgramOfHttpSys => ("find_program_of_http_sys", None, None),
        Remedy::DeletePortProxy { .. } => ("delete_port_proxy", None, None),
        Remedy::TurnOffAirPlayReceiver => ("turn_off_airplay_receiver", None, None),
        Remedy::StopBySupervisor { pid, name, .. } => {
            ("stop_by_supervisor", Some(*pid), Some(name.clone()))
        }
        Remedy::StopWatcherFirst { pid, name, .. } => {
            ("stop_watcher_first", Some(*pid), Some(name.clone()))
        }
        Remedy::StopProcessOfScript { pid, name, .. } => {
            ("stop_process_of_script", Some(*pid), Some(name.clone()))
        }
        Remedy::ReserveAnotherPort { .. } => ("reserve_another_port", None, None),
        Remedy::Queue { .. } => ("queue", None, None),
        Remedy::EndReservation { pid, .. } => ("end_reservation", Some(*pid), None),
        Remedy::UseOwnReservation { pid, .. } => ("use_own_reservation", *pid, None),
        Remedy::StartServer => ("start_server", None, None),
        Remedy::WaitUntilListening { .. } => ("wait_until_listening", None, None),
        Remedy::UseListenersAddress { .. } => ("use_listeners_address", None, None),
        Remedy::ListenOn { .. } => ("listen_on", None, None),
        Remedy::ListenOnFreeAddress { .. } => ("listen_on_free_address", None, None),
        Remedy::ListenOnEveryInterface { interface, .. } => {
            ("listen_on_every_interface", None, Some(interface.clone()))
        }
        Remedy::ReserveForPlainServer => ("reserve_for_plain_server", None, None),
        Remedy::WaitForTimeWait => ("wait_for_time_wait", None, None),
        Remedy::WaitForKernel => ("wait_for_kernel", None, None),
        Remedy::InspectWithPermission => ("inspect_with_permission", None, None),
        Remedy::ListPacketFilter => ("list_packet_filter", None, None),
        Remedy::MountProc => ("mount_proc", None, None),
        Remedy::InspectFromHost => ("inspect_from_host", None, None),
        Remedy::InspectInNetworkNamespace { pid, .. } => {
            ("inspect_in_network_namespace", Some(*pid), None)
        }
        Remedy::FindKernelSocket => ("find_kernel_socket", None, None),
        Remedy::ReserveInSysctl { .. } => ("reserve_in_sysctl", None, None),
        Remedy::CheckCommand { pid, .. } => ("check_command", Some(*pid), None),
        Remedy::CheckSpawnedCommand => ("check_spawned_command", None, None),
        Remedy::StartInForeground => ("start_in_foreground", None, None),
        Remedy::ExpectProcess { pid, .. } => ("expect_process", Some(*pid), None),
        Remedy::ExpectAnyListener { .. } => ("expect_any_listener", None, None),
        Remedy::ReadServerOutput => ("read_server_output", None, None),
        Remedy::RunAsRoot => ("run_as_root", None, None),
        Remedy::LowerUnprivilegedPortStart { .. } => ("lower_unprivileged_port_start", None, None),
        Remedy::UseLocalAddress => ("use_local_address", None, None),
        Remedy::AskWhoHolds { .. } => ("ask_who_holds", None, None),
        Remedy::NameOtherProtocol { .. } => ("name_other_protocol", None, None),
        Remedy::ShowExcludedRanges => ("show_excluded_ranges", None, None),
        Remedy::NamePort => ("name_port", None, None),
        Remedy::StopServersBeforeTestEnds => ("stop_servers_before_test_ends", None, None),
        _ => ("other", None, None),
    }
}

/// Only the port server can apply `--no-reuse-addr` to a port that it holds.
fn to_port_server() -> &'static str {
    match std::env::var_os("PORTSERVER_ADDRESS").is_some_and(|address| !address.is_empty()) {
        true => {
            "; if the port server of PORTSERVER_ADDRESS holds the port, start `portlease serve` \
                 with --no-reuse-addr"
        }
        false => "",
    }
}

fn udp(endpoint: &Endpoint) -> &'static str {
    match endpoint.protocol {
        Some(Protocol::Udp) => " --udp",
        _ => "",
    }
}

fn plain(asked: Asked) -> &'static str {
    match asked.no_reuse_addr {
        true => " --no-reuse-addr",
        false => "",
    }
}

/// The endpoint as `release` takes it: without an address, because a reservation has none. The
/// protocol stays. Without it, `release` would also release a UDP reservation of the number.
fn release_operand(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        ip: None,
        ..*endpoint
    }
}

/// The endpoint without `/tcp`, which `wait` means by default.
fn operand(endpoint: &Endpoint) -> Endpoint {
    Endpoint {
        protocol: endpoint
            .protocol
            .filter(|protocol| *protocol != Protocol::Tcp),
        ..*endpoint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portlease::{Diagnosis, ReserveOptions, check_port_free, check_port_listening};

    use super::*;

    fn help(diagnosis: &Diagnosis) -> String {
        in_one_line(diagnosis.remedies(), Asked::default()).unwrap()
    }

    #[test]
    fn protocol_and_address_of_the_question_are_kept() {
        let udp = portlease::reserve_udp_port();
        let taken = ReserveOptions::new().udp().port(udp.port()).reserve();
        let error = taken.unwrap_err();
        let expected = "use the reservation of the port that this process already has, or drop it \
                        first, or reserve another port with `portlease reserve --udp`";
        assert_eq!(help(error.diagnosis().unwrap()), expected);

        let p = portlease::reserve_port();
        let waits = check_port_listening(format!("127.0.0.1:{p}").as_str()).unwrap_err();
        let expected = format!(
            "start the server if it does not run, and wait for the server with \
             `portlease wait --listening 127.0.0.1:{p}`"
        );
        assert_eq!(help(&waits), expected);
    }

    /// The test checks only some of the help lines.
    #[test]
    fn no_help_line_names_a_function() {
        let p = portlease::reserve_port();
        let _server = p.listen().unwrap();
        let again = || ReserveOptions::new().port(p.port());
        let taken = again().reserve().unwrap_err();
        let queued = again().wait(Duration::from_millis(1)).reserve();
        let queued = queued.unwrap_err();
        let plain = ReserveOptions::new().reuse_addr(false).reserve().unwrap();
        let reserved = ReserveOptions::new().port(plain.port()).reserve();
        let reserved = reserved.unwrap_err();
        let helps = [
            help(taken.diagnosis().unwrap()),
            help(queued.diagnosis().unwrap()),
            help(&check_port_free(p.port()).unwrap_err()),
            help(&check_port_listening(plain.port()).unwrap_err()),
            help(&check_port_free("9/udplite").unwrap_err()),
            help(reserved.diagnosis().unwrap()),
        ];
        for help in helps {
            let functions = ["()", "(..)", "::new", "..)", "who_holds", "async"];
            let names_one = functions.iter().any(|function| help.contains(function));
            assert!(!names_one, "{help}");
        }
    }
}
