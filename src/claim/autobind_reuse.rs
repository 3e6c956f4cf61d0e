//! The setting `net.ipv4.ip_autobind_reuse` of Linux. If it is on, the kernel can assign a claimed
//! number (one that a socket of this crate is bound to) to a `bind(…, 0)` with SO_REUSEADDR.
//!
//! This module reads the setting and does not try such a bind. A bind would need the socket option
//! IP_LOCAL_PORT_RANGE, which no safe function sets.

pub(crate) use system::assigns_no_claimed_port;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::fs::File;
    use std::io;

    use crate::kept_fd::KeptFd;
    use crate::namespace::PerNamespace;
    use crate::proc_fs;

    /// Whether the setting is off. The error says that it is on, or that it cannot be read.
    pub(crate) fn assigns_no_claimed_port() -> Result<(), &'static str> {
        match read() {
            Ok(text) if text.trim() == "0" => Ok(()),
            Ok(_) => {
                Err("the setting net.ipv4.ip_autobind_reuse lets the kernel assign a reserved port")
            }
            // Linux before 5.7 lacks the setting, and never assigns a claimed port.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && proc_fs::has_setting("ip_local_port_range") =>
            {
                Ok(())
            }
            Err(_) => Err("the setting net.ipv4.ip_autobind_reuse cannot be read"),
        }
    }

    /// Reads the setting. The file stays open for the next call, because opening it takes five
    /// times as long as reading it. If the kept file can no longer be read, for example because its
    /// namespace has ended, the call opens it again.
    fn read() -> io::Result<String> {
        static KEPT: PerNamespace<KeptFd<File>> = PerNamespace::new();
        let kept = KEPT.get();
        let text = kept.and_then(|kept| proc_fs::read_setting(kept.intact()?).ok());
        if let Some(text) = text {
            return Ok(text);
        }
        let file = proc_fs::open_setting("ip_autobind_reuse")?;
        let text = proc_fs::read_setting(&file)?;
        KEPT.set(KeptFd::new(file)?);
        Ok(text)
    }
}

/// Other systems lack the setting.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    pub(crate) fn assigns_no_claimed_port() -> Result<(), &'static str> {
        Ok(())
    }
}
