//! Port numbers that no automatic pick yields: those that browsers refuse to connect to, and 65535.

/// The blocked ports of the Fetch standard (fetch.spec.whatwg.org, section 2.9). Browsers and
/// Node's `fetch` refuse to connect to these ports.
const BLOCKED_BY_FETCH: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
    103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
    512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
    995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 10080,
];

/// Whether an automatic pick avoids the number. Clients refuse to connect to the number, or it is
/// 65535. Some programs use 65535 for "none", or add 1 to it.
pub(crate) fn is_blocked(port: u16) -> bool {
    port == u16::MAX || BLOCKED_BY_FETCH.binary_search(&port).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_as_the_search_needs_it() {
        assert!(BLOCKED_BY_FETCH.is_sorted());
        assert!([6000, 6667, 10080, 65535].into_iter().all(is_blocked));
        assert!(!is_blocked(8080));
    }
}
