//! Escapes names that other processes chose.

/// Escapes control characters, and the characters that mark, embed, override or isolate a text
/// direction. In a name from another process, such characters could move the cursor of the terminal
/// or forge a line.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || sets_direction(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn sets_direction(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_move_the_cursor_or_set_a_direction_are_escaped() {
        assert_eq!(printable("nginx: worker é"), "nginx: worker é");
        let forged = "a\n\u{1b}[2K\u{61c}\u{200f}\u{202e}\u{2066}b";
        let escaped = r"a\n\u{1b}[2K\u{61c}\u{200f}\u{202e}\u{2066}b";
        assert_eq!(printable(forged), escaped);
    }
}
