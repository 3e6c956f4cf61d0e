//! Programs that this crate knows by name. For them the usual remedy is wrong: stopping the process
//! would not free the port, or would end other programs too.

use crate::model::endpoint::Protocol;
use crate::model::process::Process;
use crate::model::remedy::Remedy;

/// Whether a systemd unit starts programs for others, such as jobs, sessions and containers.
///
/// If the unit were stopped, the programs of others would end too. So the remedy stops only the
/// process that holds the port. The unit usually does not start that process again.
pub(super) fn starts_others(unit: &str) -> bool {
    let name = unit.split(['@', '.']).next().unwrap_or_default();
    LAUNCHERS.contains(&name) || RUNNERS.iter().any(|runner| unit.starts_with(runner))
}

const LAUNCHERS: [&str; 34] = [
    "act_runner",
    "amazon-ssm-agent",
    "atd",
    "buildkite-agent",
    "code-server",
    "containerd",
    "cron",
    "crond",
    "docker",
    "dropbear",
    "emacs",
    "forgejo-runner",
    "gdm",
    "gitlab-runner",
    "gnome-shell",
    "gnome-terminal-server",
    "jenkins",
    "jupyter",
    "jupyterhub",
    "lightdm",
    "nomad",
    "podman",
    "rstudio-server",
    "ssh",
    "sshd",
    "systemd-logind",
    "tailscaled",
    "teamcity-agent",
    "teleport",
    "tmux",
    "ttyd",
    "woodpecker-agent",
    "xrdp",
    "xrdp-sesman",
];

/// The units that run jobs of GitHub Actions and of Azure Pipelines have names that start with one
/// of these texts.
const RUNNERS: [&str; 2] = ["actions.runner.", "vsts.agent."];

/// The remedy if the process holds the port for another program or for a forwarding rule. The usual
/// remedy, to stop the process, would be wrong. `None` for any other process.
pub(super) fn remedy(process: &Process, port: u16, protocol: Protocol) -> Option<Remedy> {
    let pid = process.pid;
    // On Windows, the name ends in `.exe`.
    let name = process.name.as_str();
    let name = name.strip_suffix(".exe").unwrap_or(name);
    let podman = PROXIES_OF_PODMAN.contains(&name);
    if podman || PROXIES_OF_DOCKER.contains(&name) {
        return Some(Remedy::StopPublishingContainer {
            port,
            udp: protocol == Protocol::Udp,
            podman,
        });
    }
    match name {
        _ if RELAYS_OF_WSL.contains(&name) => Some(Remedy::StopServerInWsl { pid }),
        // The ports of AirPlay Receiver, which is on by default.
        "ControlCenter" if matches!(port, 5000 | 7000) => Some(Remedy::TurnOffAirPlayReceiver),
        _ if process.unit.as_deref() == Some("iphlpsvc") => Some(Remedy::DeletePortProxy { port }),
        // The kernel itself serves shared files on the ports 139 and 445.
        _ if is_windows_kernel(process) && !matches!(port, 139 | 445) => {
            Some(Remedy::FindProgramOfHttpSys)
        }
        _ => None,
    }
}

/// Programs of Docker that forward a published port into a container, or into the virtual machine
/// of the containers (Docker Desktop, OrbStack, Rancher Desktop). The names are those that the
/// kernel shows. Linux cuts a name after 15 bytes.
const PROXIES_OF_DOCKER: [&str; 8] = [
    "docker-proxy",
    "rootlesskit",
    "com.docker.backend",
    "com.docker.back",
    "com.docker.vpnkit",
    "vpnkit-bridge",
    "OrbStack Helper",
    "host-switch",
];

/// Programs of Podman that forward a published port into a container, and conmon. conmon forwards
/// nothing. It keeps the published port bound if a packet filter forwards the packets.
const PROXIES_OF_PODMAN: [&str; 7] = [
    "conmon",
    "gvproxy",
    "rootlessport",
    "rootlessport-ch",
    "slirp4netns",
    "pasta",
    "pasta.avx2",
];

/// Programs of Windows that forward a port of localhost to a server in WSL.
const RELAYS_OF_WSL: [&str; 2] = ["wslrelay", "wslhost"];

/// Whether this is the process `System`, which stands for the kernel of Windows.
pub(super) fn is_windows_kernel(process: &Process) -> bool {
    process.pid == 4 && process.name == "System" && process.uid.is_none()
}

/// Whether the server ends at once after SIGINT, but not after SIGTERM. After SIGTERM, PostgreSQL
/// waits for its clients (section "Shutting Down the Server" of its manual). After SIGTERM, uWSGI
/// starts its workers again (section "Managing the uWSGI server" of its manual).
pub(super) fn is_ended_by_sigint(name: &str) -> bool {
    matches!(name, "postgres" | "uwsgi")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_holders::process;

    fn remedy_for(pid: u32, name: &str, port: u16) -> Option<Remedy> {
        let process = Process {
            uid: None,
            ..process(pid, name)
        };
        remedy(&process, port, Protocol::Tcp)
    }

    #[test]
    fn a_program_that_forwards_a_port_is_not_stopped() {
        for name in [
            "docker-proxy",
            "com.docker.backend",
            "com.docker.backend.exe",
        ] {
            let of_docker = Some(Remedy::StopPublishingContainer {
                port: 8080,
                udp: false,
                podman: false,
            });
            assert_eq!(remedy_for(4242, name, 8080), of_docker, "{name}");
        }
        assert!(matches!(
            remedy_for(4242, "gvproxy", 8080),
            Some(Remedy::StopPublishingContainer { podman: true, .. })
        ));
        let relay = Some(Remedy::StopServerInWsl { pid: 4242 });
        assert_eq!(remedy_for(4242, "wslrelay.exe", 3000), relay);
        assert_eq!(remedy_for(4242, "python3", 8080), None);
    }

    #[test]
    fn the_programs_of_macos_and_windows_that_cannot_be_stopped_are_known() {
        let airplay = Some(Remedy::TurnOffAirPlayReceiver);
        assert_eq!(remedy_for(612, "ControlCenter", 5000), airplay);
        assert_eq!(remedy_for(612, "ControlCenter", 7000), airplay);
        assert_eq!(remedy_for(612, "ControlCenter", 60315), None);
        let helper = Process {
            unit: Some("iphlpsvc".to_owned()),
            ..process(4242, "svchost.exe")
        };
        let proxy = Some(Remedy::DeletePortProxy { port: 3000 });
        assert_eq!(remedy(&helper, 3000, Protocol::Tcp), proxy);
        let http_sys = Some(Remedy::FindProgramOfHttpSys);
        assert_eq!(remedy_for(4, "System", 80), http_sys);
        assert_eq!(remedy_for(4, "System", 445), None);
        assert_eq!(remedy_for(4242, "System", 80), None);
    }
}
