//! Texts of others, made fit for ours.

use std::io;

/// The system's sentence as a fragment of ours, without its number.
pub(crate) fn os_message(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// Control characters escaped: a name from another process must not move the cursor or forge a line.
pub(crate) fn escape(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}
