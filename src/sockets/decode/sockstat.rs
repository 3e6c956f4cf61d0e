//! Decodes `/proc/net/sockstat`, which counts the sockets by protocol (proc(5)). No I/O.

/// An upper limit of the number of TCP sockets in this network namespace. Connection requests
/// (SYN_RECV) have no socket yet and do not count. `None` if the text lacks `alloc` or `tw`, or if
/// their sum overflows.
///
/// In the line `TCP:`, `alloc` counts the sockets of the whole machine, except those in TIME_WAIT.
/// `tw` counts the sockets in TIME_WAIT, and since Linux 4.11 only those of this network namespace.
/// This function does not use `inuse`, because `inuse` omits bound sockets.
pub(crate) fn tcp_at_most(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let count = |name| {
        let pair = words.chunks_exact(2).find(|pair| pair[0] == name)?;
        pair[1].parse::<usize>().ok()
    };
    count("alloc")?.checked_add(count("tw")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_sockets_and_those_in_time_wait_count() {
        let text =
            "sockets: used 43\nTCP: inuse 1 orphan 0 tw 6 alloc 300 mem 0\nUDP: inuse 0 mem 256\n";
        assert_eq!(tcp_at_most(text), Some(306));
    }

    #[test]
    fn a_text_without_both_counts_gives_no_limit() {
        let most = usize::MAX;
        for text in [
            "",
            "UDP: inuse 0 mem 256\n",
            "TCP: inuse 1 tw 6\n",
            "TCP: tw x alloc 3\n",
            &format!("TCP: tw {most} alloc 1\n"),
        ] {
            assert_eq!(tcp_at_most(text), None, "{text}");
        }
    }
}
