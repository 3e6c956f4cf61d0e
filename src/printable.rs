//! Escapes names that other processes chose.

/// Escapes control characters, and the characters that embed, override or isolate a text direction.
/// With such characters, a name from another process could move the cursor of the terminal or forge
/// a line.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
