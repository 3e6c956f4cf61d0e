//! A claimed number is a port number to which a socket of this crate is bound. This module finds
//! out whether the kernel can assign a claimed number to a `bind(…, 0)` with SO_REUSEADDR. The
//! kernel can do so if the Linux setting `net.ipv4.ip_autobind_reuse` is on.
//!
//! The self-test (`self_test.rs`) tries a `bind(…, 0)` with SO_REUSEADDR. The process caches the
//! answer. The setting can change later, so each reservation with a claim also reads the setting.

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

    /// Binds the socket to port 0 of `ip`, and returns the number that the kernel assigns. The
    /// kernel may assign only the number `only`. If this number is in use, returns `None`, and the
    /// socket is still unbound.
    ///
    /// Also returns `None` if the kernel cannot limit a bind to one number, as on Linux before 6.3.
    /// If `only` is outside the ephemeral range, the kernel ignores the limit and assigns another
    /// number.
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

    /// Returns `Ok(Ok(()))` if the setting is off, or if this Linux is too old to have it. The
    /// inner error says that the setting is on or unreadable. The outer error is a lack of
    /// descriptors or memory.
    pub(crate) fn assigns_no_claimed_port() -> io::Result<Result<(), &'static str>> {
        static SETTING: KeptSetting = KeptSetting::new("ip_autobind_reuse");
        let text = match SETTING.read() {
            Err(error) if is_exhaustion(&error) => return Err(error),
            text => text,
        };
        Ok(match text {
            Ok(text) if text.trim() == "0" => Ok(()),
            Ok(_) => Err(
                "the setting net.ipv4.ip_autobind_reuse lets the kernel assign a reserved port to \
                 another socket",
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_linux_before_5_7() => Ok(()),
            Err(_) => Err("the setting net.ipv4.ip_autobind_reuse cannot be read"),
        })
    }

    /// Linux before 5.7 lacks the setting, and never assigns a claimed port.
    ///
    /// gVisor also lacks the setting, and reports the old release 4.4.0. But if gVisor uses the
    /// network of the host, it forwards each bind to the kernel of the host. There the setting may
    /// be on. So the result must be `false` on gVisor. It is `false`, because gVisor lacks at least
    /// one of the `settings` below.
    ///
    /// Linux has all `settings` in its first network namespace. In other network namespaces an old
    /// Linux such as 4.9 lacks `tcp_timestamps`. There the result is `false`, although the kernel
    /// is older than 5.7.
    fn is_linux_before_5_7() -> bool {
        let settings = [
            "conf/all/forwarding",
            "ip_local_reserved_ports",
            "tcp_timestamps",
        ];
        proc_fs::is_release_below(5, 7) && settings.into_iter().all(proc_fs::has_setting)
    }
}

/// Other systems lack the setting. This crate also has no claims (sockets that keep ports) there.
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
        // Another process can take the released number first, so the test tries several numbers.
        for _ in 0..64 {
            let claim = Claim::any().unwrap();
            let port = claim.port();
            assert_eq!(assigned(&server(), ip, port).unwrap(), None);
            drop(claim);
            is_assigned_if_released |= assigned(&server(), ip, port).unwrap() == Some(port);
            can_limit &= ffi::allow_only(&server(), port).is_ok();
        }
        // A kernel that can limit a bind to one number has assigned a released number at least
        // once. Without this check, the test would also pass if `assigned` always returned `None`.
        assert_eq!(is_assigned_if_released, can_limit);
    }
}
