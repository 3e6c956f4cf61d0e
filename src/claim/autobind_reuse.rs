//! Whether the kernel can assign a claimed number (one that a socket of this crate is bound to) to
//! a `bind(…, 0)` with SO_REUSEADDR. It can if the setting `net.ipv4.ip_autobind_reuse` of Linux is
//! on.
//!
//! The self-test tries such a bind once. The setting can change later, so each reservation with a
//! claim reads it.

pub(super) use system::assigned;
pub(crate) use system::assigns_no_claimed_port;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod ffi;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use socket2::Socket;

    use super::ffi;
    use crate::kept_setting::KeptSetting;
    use crate::os_error::is_exhaustion;
    use crate::proc_fs;

    /// The number that the kernel assigns to a `bind(ip, 0)` of this socket, if it may choose only
    /// the number `only`. `None` if it assigns no number. The socket is then still unbound.
    ///
    /// The answer is also `None` on Linux before 6.3, which cannot limit a bind to one number. If
    /// the ephemeral range lacks `only`, the kernel ignores the limit and assigns another number.
    pub(crate) fn assigned(socket: &Socket, ip: IpAddr, only: u16) -> io::Result<Option<u16>> {
        match ffi::allow_only(socket, only) {
            Err(error) if is_exhaustion(&error) => return Err(error),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        match socket.bind(&SocketAddr::new(ip, 0).into()) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Ok(None),
            outcome => {
                outcome?;
                Ok(socket.local_addr()?.as_socket().map(|addr| addr.port()))
            }
        }
    }

    /// Whether the setting is off, or this Linux is too old to have it. The inner error says that
    /// the setting is on, or that the system does not show it. A lack of descriptors or memory is
    /// the outer error.
    pub(crate) fn assigns_no_claimed_port() -> io::Result<Result<(), &'static str>> {
        static SETTING: KeptSetting = KeptSetting::new("ip_autobind_reuse");
        let text = match SETTING.read() {
            Err(error) if is_exhaustion(&error) => return Err(error),
            text => text,
        };
        Ok(match text {
            Ok(text) if text.trim() == "0" => Ok(()),
            Ok(_) => {
                Err("the setting net.ipv4.ip_autobind_reuse lets the kernel assign a reserved port")
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_linux_before_5_7() => Ok(()),
            Err(_) => Err("the setting net.ipv4.ip_autobind_reuse cannot be read"),
        })
    }

    /// Linux before 5.7 lacks the setting, and never assigns a claimed port.
    ///
    /// A kernel that only imitates Linux lacks it too, and calls itself an old Linux: gVisor is
    /// "4.4.0". On the host's network gVisor passes each bind on to a kernel that may have the
    /// setting on. So this function also checks for settings that every Linux has in each network
    /// namespace.
    fn is_linux_before_5_7() -> bool {
        let settings = [
            "conf/all/forwarding",
            "ip_local_reserved_ports",
            "tcp_timestamps",
        ];
        proc_fs::is_release_below(5, 7) && settings.into_iter().all(proc_fs::has_setting)
    }
}

/// Other systems lack the setting, and this crate makes no claims there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::io;
    use std::net::IpAddr;

    use socket2::Socket;

    pub(crate) fn assigned(_: &Socket, _: IpAddr, _: u16) -> io::Result<Option<u16>> {
        Ok(None)
    }

    pub(crate) fn assigns_no_claimed_port() -> io::Result<Result<(), &'static str>> {
        Ok(Ok(()))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use socket2::Type;

    use super::super::{Claim, unbound};
    use super::{assigned, ffi};

    #[test]
    fn the_kernel_assigns_a_released_number_and_no_claimed_one() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = || {
            let server = unbound(Type::STREAM, ip).unwrap();
            server.set_reuse_address(true).unwrap();
            server
        };
        let mut is_assigned_if_released = false;
        let mut can_limit = true;
        // Another process can take the released number first, so the test tries several.
        for _ in 0..64 {
            let claim = Claim::any().unwrap();
            let port = claim.port();
            assert_eq!(assigned(&server(), ip, port).unwrap(), None);
            drop(claim);
            is_assigned_if_released |= assigned(&server(), ip, port).unwrap() == Some(port);
            can_limit &= ffi::allow_only(&server(), port).is_ok();
        }
        // The kernel must assign a released number. Without this control, the test would also pass
        // if `assigned` always returned `None`, as it does on Linux before 6.3 and on emulators.
        assert_eq!(is_assigned_if_released, can_limit);
    }
}
