//! What `/proc` of Linux reports: namespaces, the settings of the calling thread's network
//! namespace, and the release of the kernel.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use once_cell::sync::OnceCell;

/// The folder with the settings of the calling thread's network namespace.
const SETTINGS: &str = "/proc/sys/net/ipv4";

/// The size of the first read in bytes. Only the text of a list of ports can be longer. The kernel
/// clears a buffer of the requested size, so a long read takes much longer than a short one.
const SHORT: usize = 512;

/// A read of this many bytes returns even the longest list of ports, which has 254,738 bytes on
/// Linux 6.18. The kernel prints adjacent numbers as a range. So the longest list consists of pairs
/// of adjacent numbers, with one number left out after each pair.
const LONGEST: usize = 256 * 1024;

/// The text of the setting, such as `32768\t60999\n`.
pub(crate) fn setting(name: &str) -> io::Result<String> {
    read_setting(&open_setting(name)?)
}

pub(crate) fn open_setting(name: &str) -> io::Result<File> {
    File::open(Path::new(SETTINGS).join(name))
}

pub(crate) fn read_setting(file: &File) -> io::Result<String> {
    let mut short = [0; SHORT];
    let length = file.read_at(&mut short, 0)?;
    let mut bytes = short[..length].to_vec();
    if length == SHORT {
        // The kernel returns a list of ports only to a read at offset 0, and no bytes to a later
        // read. So this function reads the list again from its start, into a longer buffer.
        bytes = vec![0; LONGEST];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
    }
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Whether `/proc` has this setting.
pub(crate) fn has_setting(name: &str) -> bool {
    Path::new(SETTINGS).join(name).exists()
}

/// Whether `/proc` reports a kernel release before `major.minor`. `false` if `/proc` reports no
/// release.
pub(crate) fn is_release_below(major: u32, minor: u32) -> bool {
    release().is_some_and(|release| release < (major, minor))
}

/// Whether `/proc` reports the kernel release `major.minor` or a later release. `false` if `/proc`
/// reports no release.
pub(crate) fn is_release_at_least(major: u32, minor: u32) -> bool {
    release().is_some_and(|release| release >= (major, minor))
}

/// The first two numbers of the kernel's release. The process reads them once. If the read fails,
/// for example for a lack of descriptors, the next call reads again.
fn release() -> Option<(u32, u32)> {
    static RELEASE: OnceCell<(u32, u32)> = OnceCell::new();
    let read = || parse_release(&std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?);
    RELEASE.get_or_try_init(|| read().ok_or(())).ok().copied()
}

/// The first two numbers of a release such as `6.1.0-50-cloud-amd64`.
fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// Whether the pids in `/proc` are those that the system calls of this process use. `false` without
/// `/proc`. Also `false` if `/proc` was mounted for another pid namespace, for example after
/// `unshare --pid --fork` without `--mount-proc`.
pub(crate) fn shows_own_processes() -> bool {
    let own = rustix::fs::readlink("/proc/self", Vec::new());
    own.is_ok_and(|own| own.to_bytes() == std::process::id().to_string().as_bytes())
}

/// The inode of the namespace to which a link such as `/proc/self/ns/pid` leads.
///
/// Reads the link, whose text is `pid:[4026531836]`. A stat(2) of the link takes twice as long.
///
/// `None` if the link cannot be read, or if the inode is too small for a namespace of Linux. gVisor
/// makes up a small inode for each read, so two processes would not agree on the inode.
pub(crate) fn namespace(link: &str) -> Option<u64> {
    let text = rustix::fs::readlink(link, Vec::new()).ok()?;
    parse_namespace(text.to_str().ok()?)
}

fn parse_namespace(text: &str) -> Option<u64> {
    /// The kernel gives the first namespace of most types an inode just below 0xf000_0000, and
    /// every other namespace an inode from 0xf000_0000 on (`PROC_DYNAMIC_FIRST`).
    const LOWEST: u64 = 0xefff_fff0;
    let (_, inode) = text.split_once('[')?;
    let inode = inode.strip_suffix(']')?.parse().ok()?;
    (inode >= LOWEST).then_some(inode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_text_of_a_namespaces_link_has_the_inode_that_stat_reports() {
        for link in ["/proc/self/ns/pid", "/proc/thread-self/ns/net"] {
            let inode = std::fs::metadata(link).unwrap().ino();
            assert_eq!(namespace(link), Some(inode), "{link}");
        }
        assert_eq!(namespace("/proc/self/exe"), None);
        assert_eq!(namespace("/proc/self/ns/none"), None);
        assert_eq!(parse_namespace("net:[4026531840]"), Some(4026531840));
        assert_eq!(parse_namespace("net:[1092]"), None, "gVisor");
    }

    #[test]
    fn proc_shows_this_process_under_its_own_pid() {
        assert!(shows_own_processes());
    }

    #[test]
    fn a_release_is_compared_by_its_first_two_numbers() {
        assert_eq!(parse_release("6.1.0-50-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(parse_release("7.2-rc3"), Some((7, 2)));
        assert!((5, 10) > (5, 7) && parse_release("unknown").is_none());
        assert_ne!(is_release_below(5, 7), is_release_at_least(5, 7));
    }

    #[test]
    fn a_setting_is_read_whole() {
        let range = setting("ip_local_port_range").unwrap();
        let read = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        assert_eq!(range, read);
        let missing = setting("no_such_setting").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(has_setting("ip_local_port_range") && !has_setting("no_such_setting"));
    }
}
