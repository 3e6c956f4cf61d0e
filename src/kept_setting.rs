//! [`KeptSetting`]: a setting of the kernel for a network namespace, such as the ephemeral range.

use std::fs::File;
use std::io;

use crate::kept_fd::KeptFd;
use crate::namespace::{Namespace, PerNamespace};
use crate::proc_fs;

/// A setting that each reservation reads, because the setting can change at any time. Its file
/// stays open between reads: opening and closing a file takes five times as long as reading it.
#[derive(Debug)]
pub(crate) struct KeptSetting {
    name: &'static str,
    kept: PerNamespace<KeptFd<File>>,
}

impl KeptSetting {
    pub(crate) const fn new(name: &'static str) -> Self {
        KeptSetting {
            name,
            kept: PerNamespace::new(),
        }
    }

    /// The text of the setting. If the kept file can no longer be read, for example because its
    /// namespace has ended, the call opens the setting again. If `/proc` does not show the
    /// namespace of the thread, the call keeps no file: a later call could be in another namespace.
    pub(crate) fn read(&self) -> io::Result<String> {
        if Namespace::current().inode().is_none() {
            return proc_fs::setting(self.name);
        }
        let kept = self.kept.get();
        let text = kept.and_then(|kept| proc_fs::read_setting(kept.intact()?).ok());
        if let Some(text) = text {
            return Ok(text);
        }
        let file = proc_fs::open_setting(self.name)?;
        let text = proc_fs::read_setting(&file)?;
        self.kept.set(KeptFd::new(file)?);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::in_unknown_namespace;

    #[test]
    fn a_file_is_kept_only_for_a_namespace_that_proc_shows() {
        let setting = KeptSetting::new("ip_local_port_range");
        let is_kept_after_read = || {
            setting.read().unwrap();
            setting.kept.get().is_some()
        };
        assert!(!in_unknown_namespace(is_kept_after_read));
        // The file is kept if `/proc` shows the namespace. An emulator such as gVisor shows no
        // namespace.
        let is_shown = Namespace::current().inode().is_some();
        assert_eq!(is_kept_after_read(), is_shown);
    }
}
