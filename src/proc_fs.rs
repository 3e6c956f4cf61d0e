//! What `/proc` of Linux reports about the calling thread: its namespaces, and the settings of its
//! network namespace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The settings of the calling thread's network namespace.
const SETTINGS: &str = "/proc/sys/net/ipv4";

/// The size of the first read. Every setting is shorter, except a list of ports. The kernel clears
/// a buffer of the requested size, so a long read takes much longer than a short one.
const SHORT: usize = 512;

/// Longer than the longest list of ports. The kernel joins adjacent numbers to a range. So the
/// longest list has pairs of numbers with one number left out between two pairs: 254,738 bytes on
/// Linux 6.18.
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
        // The kernel returns nothing for a read that continues a list of ports. So this reads the
        // whole list again.
        bytes.resize(LONGEST, 0);
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
    }
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Whether the kernel has this setting.
pub(crate) fn has_setting(name: &str) -> bool {
    Path::new(SETTINGS).join(name).exists()
}

/// The inode of the namespace to which this link leads, such as `/proc/self/ns/pid`.
///
/// Reads the link, whose text is `pid:[4026531836]`. A stat(2) of the link takes twice as long.
pub(crate) fn namespace(link: &str) -> Option<u64> {
    let text = rustix::fs::readlink(link, Vec::new()).ok()?;
    let (_, inode) = text.to_str().ok()?.split_once('[')?;
    inode.strip_suffix(']')?.parse().ok()
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
