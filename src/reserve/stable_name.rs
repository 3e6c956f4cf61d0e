//! Computes the seed of a stable name from the user, the project and the name itself.

use std::path::{Path, PathBuf};

use crate::acquire::NumberName;
use crate::lease;
use crate::model::error::{Error, Result};

/// The environment variable that identifies the project, instead of the path of the project's
/// folder.
const PROJECT: &str = "PORTLEASE_PROJECT";

/// Adds a seed to the name. The seed decides the order in which a pick tries the port numbers.
pub(super) fn resolve(name: String) -> Result<NumberName> {
    if name.is_empty() {
        return Err(Error::empty_name());
    }
    let project = project()?;
    let seed = seed(&[&user(), &project, name.as_bytes()]);
    Ok(NumberName::new(name, seed))
}

/// Identifies the user. On Windows the path of the temporary folder stands for the user, because
/// the path usually differs between users.
fn user() -> Vec<u8> {
    if cfg!(windows) {
        return std::env::temp_dir().into_os_string().into_encoded_bytes();
    }
    lease::user().to_string().into_bytes()
}

/// Identifies the project: the value of [`PROJECT`], else the nearest folder with `.git`, else the
/// working directory.
fn project() -> Result<Vec<u8>> {
    if let Some(project) = std::env::var_os(PROJECT) {
        if project.is_empty() {
            return Err(Error::empty_project_variable());
        }
        return Ok(project.into_encoded_bytes());
    }
    let directory = std::env::current_dir().map_err(Error::no_project)?;
    let root = repository(&directory).unwrap_or(directory);
    Ok(root.into_os_string().into_encoded_bytes())
}

/// Returns the nearest folder that contains `.git`, which can also be a file: in a linked worktree
/// (git-worktree(1)) and in a submodule.
fn repository(directory: &Path) -> Option<PathBuf> {
    let mut folders = directory.ancestors();
    let root = folders.find(|folder| folder.join(".git").exists());
    root.map(Path::to_owned)
}

/// A hash of these texts, the same on every system and in every release. It is FNV-1a, then the
/// finalizer of SplitMix64, because FNV-1a alone mixes the last bytes poorly.
fn seed(texts: &[&[u8]]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = OFFSET;
    for text in texts {
        // The length comes first, so that two different lists of texts never yield the same bytes.
        let length = (text.len() as u64).to_le_bytes();
        for byte in length.iter().chain(*text) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
    NumberName::mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_never_changes_and_depends_on_where_each_text_ends() {
        assert_eq!(
            seed(&[b"1000", b"/home/a/app", b"db"]),
            0xfd99_3d31_2844_1d81
        );
        assert_ne!(seed(&[b"ab", b"c"]), seed(&[b"a", b"bc"]));
    }

    #[test]
    fn the_project_is_the_nearest_folder_with_a_git_folder_or_file() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let inner = root.join("one/two/three");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        assert_eq!(repository(&inner).unwrap(), root);
        std::fs::write(root.join("one/two/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(repository(&inner).unwrap(), root.join("one/two"));
    }
}
