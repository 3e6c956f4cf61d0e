//! `localhost`: the two loopback addresses 127.0.0.1 and ::1. An [`Endpoint`](crate::Endpoint) has
//! room for one address only, so it stores `localhost` as `::ffff:127.0.0.1`. If a caller passes
//! `::ffff:127.0.0.1` as text, as a `SocketAddr` or as an `IpAddr`, the endpoint stores 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that stands for both loopback addresses.
pub(crate) const LOCALHOST: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

pub(crate) const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// The addresses that `ip` stands for: both loopback addresses, or `ip` itself.
pub(crate) fn addresses(ip: IpAddr) -> Vec<IpAddr> {
    if ip == LOCALHOST {
        LOOPBACKS.to_vec()
    } else {
        vec![ip]
    }
}

/// Replaces `::ffff:127.0.0.1`, which would stand for `localhost`, by 127.0.0.1. Returns any other
/// address unchanged.
pub(crate) fn one_address(ip: IpAddr) -> IpAddr {
    if ip == LOCALHOST {
        ip.to_canonical()
    } else {
        ip
    }
}
