//! Finds the systemd service and the container of a process, by the names of its control groups
//! (cgroups(7)).

use crate::model::process::ContainerManager;

/// The systemd service and the container of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) unit: Option<String>,
    /// The systemd service that starts the container.
    pub(crate) container_unit: Option<String>,
    /// The user whose service manager runs the process. `None` if the system's service manager runs
    /// it.
    pub(crate) user_manager: Option<u32>,
    /// The id or name of the container.
    pub(crate) container: Option<String>,
    pub(crate) manager: ContainerManager,
}

/// Decodes `/proc/PID/cgroup`, which has a line `ID:CONTROLLERS:PATH` for each hierarchy. systemd
/// and the container runtimes choose the names in the paths: `nginx.service`, `docker-ID.scope`,
/// `libpod-ID.scope`, `cri-containerd-ID.scope`, `lxc.payload.NAME`, or the id alone.
pub(crate) fn membership(text: &[u8]) -> Membership {
    let text = String::from_utf8_lossy(text);
    let mut membership = Membership::default();
    for line in text.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        let mut outer = "";
        let mut unit = None;
        for name in path.split('/') {
            if name.starts_with("kubepods") {
                membership.manager = ContainerManager::Kubernetes;
            }
            if let Some(id) = container_id(name) {
                // Quadlet of Podman makes a service for each container. The container runs in the
                // group of its service: `web.service/libpod-payload-ID`.
                if name.starts_with("libpod-") && membership.container.is_none() {
                    membership.container_unit = unit.take();
                }
                membership.container.get_or_insert(id);
            } else if let Some(machine) = machine(outer, name) {
                membership.manager = ContainerManager::Machined;
                membership.container.get_or_insert(machine);
            } else if let Some(container) = name.strip_prefix("lxc.payload.") {
                membership.manager = ContainerManager::Lxc;
                membership.container.get_or_insert(container.to_owned());
            } else if let Some(manager) = name.strip_prefix("user@") {
                // `user@UID.service` is the service manager of a user. The manager runs many
                // programs, so its name does not identify one.
                let uid = manager.strip_suffix(".service").unwrap_or(manager);
                membership.user_manager = uid.parse().ok();
            } else if name.ends_with(".service") {
                unit = Some(name.to_owned());
            }
            outer = name;
        }
        membership.unit = unit.or(membership.unit);
    }
    // A service within a container is unknown to the systemd of the host, so reports omit the
    // service.
    if membership.container.is_some() {
        membership.unit = None;
    }
    membership
}

/// The name of a machine of systemd-nspawn. The processes of the machine are in the folder
/// `payload` of its unit, which is `machine-NAME.scope` or `systemd-nspawn@NAME.service`.
fn machine(unit: &str, name: &str) -> Option<String> {
    if name != "payload" {
        return None;
    }
    let scope = unit
        .strip_prefix("machine-")
        .and_then(|rest| rest.strip_suffix(".scope"));
    let service = || {
        unit.strip_prefix("systemd-nspawn@")?
            .strip_suffix(".service")
    };
    // In the unit's name, systemd escapes each dash of the machine's name.
    Some(scope.or_else(service)?.replace("\\x2d", "-"))
}

fn container_id(name: &str) -> Option<String> {
    const LENGTH: usize = 64;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // `cri-containerd-ID.scope`, or `SLICE:cri-containerd:ID` where the kubelet uses systemd and
    // containerd does not.
    let id = name.rsplit(['-', ':']).next()?;
    let is_id = id.len() == LENGTH && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c9a0b7d5e4c2f8a6b1d0e9f7c5a3b2d4e6f8091a2b3c4d5e6f708192a3b4c";

    fn of(text: &str) -> (Option<String>, Option<String>) {
        let found = membership(text.as_bytes());
        (found.unit, found.container)
    }

    #[test]
    fn units_and_containers_are_found_by_the_names_that_their_managers_give() {
        let unit = |name: &str| (Some(name.to_owned()), None);
        assert_eq!(
            of("0::/system.slice/nginx.service\n"),
            unit("nginx.service")
        );
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vite.service\n";
        assert_eq!(of(user), unit("vite.service"));
        assert_eq!(membership(user.as_bytes()).user_manager, Some(1000));
        let session = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-a.scope\n";
        assert_eq!(of(session), (None, None));
        let of_container = (None, Some(ID.to_owned()));
        for path in [
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("12:memory:/docker/{ID}\n11:cpu:/docker/{ID}\n0::/system.slice/x.service\n"),
            format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/system.slice/docker-{ID}.scope/system.slice/nginx.service\n"),
        ] {
            assert_eq!(of(&path), of_container, "{path}");
        }
    }

    #[test]
    fn the_service_that_starts_a_container_is_found() {
        let unit = |path: String| membership(path.as_bytes()).container_unit;
        let quadlet = format!("0::/system.slice/web.service/libpod-payload-{ID}\n");
        assert_eq!(unit(quadlet).as_deref(), Some("web.service"));
        for other in [
            format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
            format!("0::/system.slice/docker.service/docker/{ID}\n"),
            format!("0::/machine.slice/libpod-{ID}.scope/system.slice/nginx.service\n"),
        ] {
            assert_eq!(unit(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn a_container_is_found_with_its_manager() {
        for (path, container, manager) in [
            (
                format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
                ID,
                ContainerManager::Kubernetes,
            ),
            (
                format!(
                    "0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}\n"
                ),
                ID,
                ContainerManager::Kubernetes,
            ),
            (
                "0::/machine.slice/machine-my\\x2dbox.scope/payload/system.slice/nginx.service\n"
                    .to_owned(),
                "my-box",
                ContainerManager::Machined,
            ),
            (
                "0::/machine.slice/systemd-nspawn@box.service/payload/init.scope\n".to_owned(),
                "box",
                ContainerManager::Machined,
            ),
            (
                "0::/lxc.payload.web/system.slice/nginx.service\n".to_owned(),
                "web",
                ContainerManager::Lxc,
            ),
            (
                format!("0::/system.slice/docker-{ID}.scope\n"),
                ID,
                ContainerManager::Engine,
            ),
        ] {
            let found = membership(path.as_bytes());
            assert_eq!(found.container.as_deref(), Some(container), "{path}");
            assert_eq!((found.unit, found.manager), (None, manager), "{path}");
        }
    }

    #[test]
    fn other_paths_and_odd_lines_name_nothing() {
        for text in [
            "",
            "0::/\n",
            "x",
            "0::/../../a-b.scope\n",
            "::::\n",
            "0::/0123.scope\n",
        ] {
            assert_eq!(of(text), (None, None), "{text:?}");
        }
        let odd = [b"0::/a\xff.service\n".as_slice(), b"\xff\xfe"].concat();
        assert_eq!(membership(&odd).unit.as_deref(), Some("a\u{fffd}.service"));
    }
}
