//! Where a soak runs: its own namespaces if root runs it, and a folder that every user reaches.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use tempfile::TempDir;

/// Set in a process that is in its namespaces already.
const INSIDE: &str = "PORTLEASE_SOAK_INSIDE";

/// Runs the soak. As root it enters a network and a mount namespace first, so that every socket
/// there belongs to the soak.
pub(crate) fn inside(minutes: f64, run: impl FnOnce() -> ExitCode) -> ExitCode {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-n", "-m", "sh", "-c", script, "sh"]);
        command
    };
    if std::env::var_os(INSIDE).is_some() || !is_root() {
        return run();
    }
    let can = unshare("ip link set lo up")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("soak: cannot create namespaces, so it runs in the machine's network");
        return run();
    }
    let mut again = unshare("ip link set lo up && exec \"$@\"");
    let failed = again
        .arg(own_program())
        .arg(minutes.to_string())
        .env(INSIDE, "1")
        .exec();
    eprintln!("soak: {failed}");
    ExitCode::from(2)
}

pub(crate) fn is_alone() -> bool {
    std::env::var_os(INSIDE).is_some()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn own_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// The files of a soak: copies of its program and of the command, which every user can run, and the
/// lock folder.
pub(crate) struct Place {
    folder: TempDir,
    /// Whether the `portlease` command is built, and its keepers take part.
    pub(crate) has_command: bool,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::Builder::new()
            .prefix("portlease-soak-")
            .tempdir_in("/tmp")
            .unwrap();
        set_mode(folder.path(), 0o1777);
        let mut place = Place {
            folder,
            has_command: false,
        };
        place.copy(&own_program(), "soak");
        let command = own_program().with_file_name("portlease");
        if command.is_file() {
            place.copy(&command, "portlease");
            place.has_command = true;
        }
        place
    }

    fn copy(&self, from: &Path, name: &str) {
        std::fs::copy(from, self.program(name)).unwrap();
        set_mode(&self.program(name), 0o755);
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `PORTLEASE_DIR`.
    pub(crate) fn locks(&self) -> PathBuf {
        self.folder.path().join("locks")
    }

    /// `PORTLEASE_DIR` of the process that enters more network namespaces. Nothing harms this
    /// folder.
    pub(crate) fn locks_elsewhere(&self) -> PathBuf {
        self.folder.path().join("elsewhere")
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    // Another process may delete the file or folder meanwhile.
    let _gone = std::fs::set_permissions(path, Permissions::from_mode(mode));
}
