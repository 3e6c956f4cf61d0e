//! [`socket_addrs`] adds the scope id (the index of a network interface) to an IPv6 link-local
//! address (RFC 4007).
//!
//! bind(2) and connect(2) refuse a link-local address without a scope id. Several interfaces of a
//! machine can have the same link-local address. For example, every bridge of a container engine
//! may have `fe80::1`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The socket addresses of `ip` with this number. There is one, except for a link-local address
/// with scope id 0: then there is one for each interface that has the address.
///
/// This crate lists the interfaces on Linux only. On other systems, and for an address that no
/// interface has, the scope id stays 0. The kernel then refuses the bind or the connection.
pub(crate) fn socket_addrs(ip: IpAddr, scope_id: u32, number: u16) -> Vec<SocketAddr> {
    let IpAddr::V6(ip) = ip else {
        return vec![SocketAddr::new(ip, number)];
    };
    let mut scope_ids = if ip.is_unicast_link_local() && scope_id == 0 {
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

/// The indexes of the interfaces that have this address, in the thread's network namespace.
#[cfg(target_os = "linux")]
fn interfaces_with(ip: Ipv6Addr) -> Vec<u32> {
    let list = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    indexes(&list, ip)
}

/// The name of the network interface with this index, in the thread's network namespace. `None` if
/// neither of two lists in `/proc` has it, and on systems other than Linux.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let read = |list| std::fs::read_to_string(format!("/proc/thread-self/net/{list}"));
    // Interfaces with an IPv4 stack are in `igmp`, and those with an IPv6 address in `if_inet6`.
    named(&read("igmp").unwrap_or_default(), index, 0, 10)
        .or_else(|| named(&read("if_inet6").unwrap_or_default(), index, 1, 16))
}

/// The name in the line that has the index in the field `at`. `igmp` has the index in the first
/// field and the name in the second. `if_inet6` has the name in the last field.
fn named(list: &str, index: u32, at: usize, radix: u32) -> Option<String> {
    list.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let found = u32::from_str_radix(fields.get(at)?, radix).ok()?;
        let name = if at == 0 {
            fields.get(1)
        } else {
            fields.last()
        };
        // The kernel prints `%-10s:`, so the colon follows a long name without a space.
        name.filter(|_| found == index)
            .map(|name| name.trim_end_matches(':').to_owned())
    })
}

#[cfg(not(target_os = "linux"))]
fn interfaces_with(_: Ipv6Addr) -> Vec<u32> {
    Vec::new()
}

/// The interface indexes in those lines of `if_inet6` that have this address. A line such as
/// `fe800000000000000000000000000001 0d 40 20 80 eth0` starts with the address and the index, both
/// in hexadecimal.
#[cfg_attr(not(target_os = "linux"), cfg(test))]
fn indexes(list: &str, ip: Ipv6Addr) -> Vec<u32> {
    let address = format!("{:032x}", ip.to_bits());
    list.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let is_asked = fields.next() == Some(address.as_str());
            let index = fields.next().filter(|_| is_asked)?;
            u32::from_str_radix(index, 16).ok()
        })
        .collect()
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
    }

    #[test]
    fn an_interface_is_named_by_either_list() {
        let igmp = "\
            Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\
            \t\t\t\t010000E0     1 0:00000000\t\t0\n\
            12\teth0      :     1      V3\n\
            13\tdocker_gwbridge:     1      V3\n";
        assert_eq!(named(igmp, 12, 0, 10).as_deref(), Some("eth0"));
        assert_eq!(named(igmp, 13, 0, 10).as_deref(), Some("docker_gwbridge"));
        assert_eq!(named(igmp, 2, 0, 10), None);
        let inet6 = "fe800000000000000000000000000001 0d 40 20 80     eth1\n";
        assert_eq!(named(inet6, 13, 1, 16).as_deref(), Some("eth1"));
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
