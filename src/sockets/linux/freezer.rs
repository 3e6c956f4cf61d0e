//! Whether the control group of a process is frozen, and which command thaws it (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

use super::super::decode::cgroup::{Membership, membership};
use crate::model::process::ContainerManager;
use crate::shell_word::shell_word;

/// A hierarchy of control groups with a freezer: its usual mount point, and the names of its files.
struct Freezer {
    root: &'static str,
    /// The file that shows whether a group is frozen, directly or through a group above it.
    state: &'static str,
    frozen: &'static [&'static str],
    /// The file that contains "1" if the group was frozen directly.
    own: &'static str,
    /// The text that thaws a group, and the file to write it to.
    thaw: (&'static str, &'static str),
}

const VERSION_2: [Freezer; 2] = [
    version_2("/sys/fs/cgroup"),
    // The mount point of version 2 if version 1 is mounted too.
    version_2("/sys/fs/cgroup/unified"),
];

const VERSION_1: Freezer = Freezer {
    root: "/sys/fs/cgroup/freezer",
    state: "freezer.state",
    frozen: &["FROZEN", "FREEZING"],
    own: "freezer.self_freezing",
    thaw: ("THAWED", "freezer.state"),
};

const fn version_2(root: &'static str) -> Freezer {
    Freezer {
        root,
        state: "cgroup.events",
        frozen: &["frozen 1"],
        own: "cgroup.freeze",
        thaw: ("0", "cgroup.freeze"),
    }
}

/// A command that thaws the control group of the process PID. `groups` is the content of
/// `/proc/PID/cgroup`. Returns `None` if the group is not frozen, or if the files of the group
/// cannot be found.
pub(super) fn thaw_command(groups: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(groups);
    let command = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        // The root cannot be frozen. A path with ".." leads out of this cgroup namespace.
        if path == "/" || path.contains("/..") {
            return None;
        }
        let mut version_2 = VERSION_2.iter();
        let freezer = match controllers {
            "" => version_2.find(|freezer| freezer.has_frozen(path)),
            other if other.split(',').any(|name| name == "freezer") => {
                Some(&VERSION_1).filter(|freezer| freezer.has_frozen(path))
            }
            _ => None,
        };
        freezer?.command(path, &membership(groups))
    };
    // A process can be in a frozen group of version 1 and in a frozen group of version 2.
    let commands: Vec<String> = text.lines().filter_map(command).collect();
    (!commands.is_empty()).then(|| commands.join(" && "))
}

impl Freezer {
    fn has_frozen(&self, path: &str) -> bool {
        let text = fs::read_to_string(self.file(path, self.state)).unwrap_or_default();
        text.lines().any(|line| self.frozen.contains(&line))
    }

    fn command(&self, path: &str, process: &Membership) -> Option<String> {
        let is_frozen = |group: &&Path| {
            let group = group.to_str().unwrap_or_default();
            fs::read_to_string(self.file(group, self.own)).is_ok_and(|text| text.trim() == "1")
        };
        let group = Path::new(path).ancestors().find(is_frozen)?;
        let name = group.file_name()?.to_str()?;
        let is_unit = [".service", ".scope", ".slice"]
            .iter()
            .any(|suffix| name.ends_with(suffix));
        Some(match &process.container {
            Some(id) if name.contains(id) && process.manager == ContainerManager::Engine => {
                let short = id.get(..12).unwrap_or(id);
                format!("docker unpause {short} or podman unpause {short}")
            }
            None if is_unit && process.user_manager.is_none() => {
                format!("systemctl thaw {}", shell_word(name))
            }
            _ => {
                let (text, file) = self.thaw;
                let file = self.file(group.to_str()?, file);
                format!("echo {text} > {}", shell_word(&file.to_string_lossy()))
            }
        })
    }

    fn file(&self, group: &str, name: &str) -> PathBuf {
        let root = Path::new(self.root);
        root.join(group.trim_start_matches('/')).join(name)
    }
}
