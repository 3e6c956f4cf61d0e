//! The network interface of an IPv6 link-local address (RFC 4007). A scope id is the index of that
//! interface.
//!
//! Multicast addresses of one link or one interface, such as `ff02::1` and `ff01::1`, have a scope
//! id too (RFC 4291, section 2.7). Here they count as link-local addresses.
//!
//! bind(2) and connect(2) refuse a link-local address without a scope id. Several interfaces of a
//! machine can have the same link-local address. For example, every bridge of a container engine
//! may have `fe80::1`.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::localhost::{LOCALHOST, LOOPBACKS};

mod ffi;

/// Whether bind(2) and connect(2) need a scope id for the address.
pub(crate) fn needs_interface(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || is_multicast_on_link(ip))
}

/// Whether the address is a multicast address of one interface or of one link.
fn is_multicast_on_link(ip: Ipv6Addr) -> bool {
    const INTERFACE_LOCAL: u8 = 1;
    const LINK_LOCAL: u8 = 2;
    let [_, flags_and_scope, ..] = ip.octets();
    ip.is_multicast() && [INTERFACE_LOCAL, LINK_LOCAL].contains(&(flags_and_scope & 0xf))
}

/// Whether the address is link-local and its bytes 4 to 7 (counted from 0) can store a scope id. In
/// a multicast address that is made from a network prefix (RFC 3306), these bytes belong to the
/// prefix. Such an address has the length of the prefix in byte 3, so byte 3 is not zero.
fn has_room_for_scope(ip: Ipv6Addr) -> bool {
    needs_interface(ip.into()) && ip.octets()[2..4] == [0, 0]
}

/// Writes the scope id into bytes 4 to 7 of a link-local address, which are usually zero (RFC 4291,
/// section 2.5.6). If these bytes are in use, or if the address is not link-local, returns the
/// address unchanged.
pub(crate) fn with_scope(ip: IpAddr, scope_id: u32) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if has_room_for_scope(v6) && v6.octets()[4..8] == [0; 4] => {
            let mut octets = v6.octets();
            octets[4..8].copy_from_slice(&scope_id.to_be_bytes());
            Ipv6Addr::from(octets).into()
        }
        other => other,
    }
}

/// Undoes [`with_scope`]: returns the address without the scope id, and the scope id.
pub(crate) fn without_scope(ip: IpAddr) -> (IpAddr, u32) {
    match ip {
        IpAddr::V6(v6) if has_room_for_scope(v6) => {
            let mut octets = v6.octets();
            let scope_id = [octets[4], octets[5], octets[6], octets[7]];
            octets[4..8].fill(0);
            (Ipv6Addr::from(octets).into(), u32::from_be_bytes(scope_id))
        }
        other => (other, 0),
    }
}

/// Usually returns one socket address: `ip` with this port number. Exceptions:
///
/// - For `localhost`: one for each loopback address.
/// - For a link-local unicast address with scope id 0: one for each interface that has the address.
/// - For a link-local multicast address with scope id 0: one for each interface that has an IPv6
///   address.
///
/// This crate lists the interfaces on Linux only, from `/proc`. If it finds no interface, the scope
/// id stays 0, and the kernel refuses the bind or the connection.
pub(crate) fn socket_addrs(ip: IpAddr, scope_id: u32, number: u16) -> Vec<SocketAddr> {
    if ip == LOCALHOST {
        // If no address accepts a connection, the result of the last address counts. A machine may
        // lack ::1, so the last address is 127.0.0.1.
        let addrs = LOOPBACKS.map(|ip| SocketAddr::new(ip, number));
        return addrs.into_iter().rev().collect();
    }
    let IpAddr::V6(ip) = ip else {
        return vec![SocketAddr::new(ip, number)];
    };
    let mut scope_ids = if needs_interface(ip.into()) && scope_id == 0 {
        interfaces_with(ip)
    } else {
        Vec::new()
    };
    if scope_ids.is_empty() {
        scope_ids.push(scope_id);
    }
    scope_ids
        .into_iter()
        .map(|scope_id| SocketAddrV6::new(ip, number, 0, scope_id).into())
        .collect()
}

/// The indexes of the interfaces that have this address, in the thread's network namespace. For a
/// multicast address, every interface that has an IPv6 address counts.
#[cfg(target_os = "linux")]
fn interfaces_with(ip: Ipv6Addr) -> Vec<u32> {
    let list = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    indexes(&list, ip)
}

/// The index of the network interface with this name, in the thread's network namespace. A `name`
/// that is a decimal number is read as an index. Fails with `NotFound` if there is no such
/// interface.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    match name.parse() {
        Ok(index) => ffi::name_of(index).map(|_| index),
        Err(_) => ffi::index_of(name),
    }
}

/// The name of the interface with this index, or the index if the name is unknown.
pub(crate) fn interface_text(index: u32) -> String {
    ffi::name_of(index).unwrap_or_else(|_| index.to_string())
}

/// Whether the loopback interface is down, in the thread's network namespace. Linux delivers the
/// packets from the machine to its own addresses through this interface.
#[cfg(target_os = "linux")]
pub(crate) fn is_loopback_down() -> bool {
    ffi::is_up(c"lo").is_ok_and(|is_up| !is_up)
}

/// Always `false`: this crate reads the flags of an interface on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_loopback_down() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn interfaces_with(_: Ipv6Addr) -> Vec<u32> {
    Vec::new()
}

/// The interface indexes in those lines of `if_inet6` that have this address. A multicast address
/// matches every line. The result then has each index once. A line such as
/// `fe800000000000000000000000000001 0d 40 20 80 eth0` starts with the address and the index, both
/// in hexadecimal.
#[cfg_attr(not(target_os = "linux"), cfg(test))]
fn indexes(list: &str, ip: Ipv6Addr) -> Vec<u32> {
    let address = format!("{:032x}", ip.to_bits());
    let is_asked = |of: &str| of == address || ip.is_multicast();
    let index = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let of = fields.next()?;
        let index = fields.next().filter(|_| is_asked(of))?;
        u32::from_str_radix(index, 16).ok()
    };
    let mut indexes: Vec<u32> = list.lines().filter_map(index).collect();
    if ip.is_multicast() {
        indexes.sort_unstable();
        indexes.dedup();
    }
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_on_each_interface_that_has_it() {
        let list = "\
            00000000000000000000000000000001 01 80 10 80       lo\n\
            fe800000000000000000000000000001 0d 40 20 80     eth0\n\
            fe800000000000000000000000000002 02 40 20 80     eth1\n\
            fe800000000000000000000000000001 100 40 20 80  bridge\n";
        assert_eq!(indexes(list, "fe80::1".parse().unwrap()), [13, 256]);
        assert_eq!(indexes(list, "fe80::3".parse().unwrap()), [0; 0]);
        let multicast = "ff02::1".parse().unwrap();
        assert_eq!(indexes(list, multicast), [1, 2, 13, 256]);
    }

    #[test]
    fn a_link_local_address_keeps_its_scope_id() {
        for ip in [
            "fe80::1",
            "ff02::1",
            "ff01::fb",
            "ff12::8384",
            "ff02::1:ff00:1",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(without_scope(with_scope(ip, 7)), (ip, 7));
        }
        // None of these addresses can store a scope id. The last one is made from a network prefix,
        // and the others are not link-local.
        for ip in [
            "10.0.0.1",
            "2001:db8::1",
            "::1",
            "ff05::2",
            "ff32:40:2001:db8::1",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(with_scope(ip, 7), ip);
            assert_eq!(without_scope(ip), (ip, 0));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_interface_has_a_name_and_an_index() {
        let index = interface_index("lo").unwrap();
        assert_eq!(interface_text(index), "lo");
        assert_eq!(interface_index(&index.to_string()).unwrap(), index);
        for missing in ["no-such-interface-0", "nosuch0", "4294967295", "0", "a\0b"] {
            interface_index(missing).unwrap_err();
        }
    }

    #[test]
    fn other_addresses_and_given_scope_ids_stay_as_they_are() {
        for (ip, scope_id, text) in [
            ("127.0.0.1", 0, "127.0.0.1:80"),
            ("::1", 0, "[::1]:80"),
            ("fe80::1", 7, "[fe80::1%7]:80"),
        ] {
            let addrs = socket_addrs(ip.parse().unwrap(), scope_id, 80);
            assert_eq!(
                addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [text]
            );
        }
    }
}
