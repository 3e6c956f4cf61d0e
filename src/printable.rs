//! Escapes names that other processes chose.

/// Escapes control characters and direction marks: a name from another process must not move the
/// cursor or forge a line.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
            {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            out
        })
}
