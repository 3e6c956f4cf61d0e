//! Folders: a temporary one for each test, with a lock folder in it, and the lock folder that this
//! process itself uses.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::system;

/// A folder that every user can reach and create files in, like `/tmp`. Dropping it deletes it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        let usual = std::env::temp_dir();
        let parent = if system::others_reach(&usual) {
            usual
        } else {
            PathBuf::from("/tmp")
        };
        Self::below(&parent)
    }

    fn below(parent: &Path) -> Folder {
        let folder = tempfile::Builder::new()
            .prefix("portlease-test-")
            .tempdir_in(parent)
            .unwrap();
        system::set_mode(folder.path(), 0o1777);
        Folder(folder)
    }

    /// A folder on the tmpfs(5) at `/dev/shm`, or the reason why there is none.
    #[cfg(target_os = "linux")]
    #[allow(dead_code, reason = "some tests need it")]
    pub(crate) fn in_memory() -> Result<Folder, String> {
        const TMPFS_MAGIC: i128 = 0x0102_1994;
        let parent = Path::new("/dev/shm");
        let mount = rustix::fs::statfs(parent).map_err(|e| format!("/dev/shm: {e}"))?;
        if i128::from(mount.f_type) != TMPFS_MAGIC {
            return Err("/dev/shm is not a tmpfs".to_owned());
        }
        Ok(Self::below(parent))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path for `PORTLEASE_DIR`. It does not exist yet, like `/tmp/portlease` on a fresh
    /// machine.
    pub(crate) fn locks(&self) -> PathBuf {
        self.path().join("portlease")
    }

    /// The lock folder of this network namespace.
    pub(crate) fn scope(&self) -> PathBuf {
        self.locks().join(system::scope())
    }

    pub(crate) fn lock_file(&self, port: u16) -> PathBuf {
        self.scope().join(format!("{port}.tcp"))
    }
}

/// The lock folder of this process, which it shares with every process that has the same
/// environment.
pub(crate) fn own_locks() -> PathBuf {
    if let Some(folder) = std::env::var_os("PORTLEASE_DIR") {
        return folder.into();
    }
    let reserved = portlease::reserve_port();
    let file = format!("{}.tcp", reserved.port());
    let defaults = if cfg!(unix) {
        vec!["/dev/shm".into(), "/tmp".into()]
    } else {
        vec![std::env::temp_dir()]
    };
    let mut roots = defaults.into_iter().map(|folder| folder.join("portlease"));
    roots
        .find(|root| root.join(system::scope()).join(&file).exists())
        .expect("a default lock folder with the lock file of a reserved port")
}
