//! Quotes a text as one word of a shell command.

/// The text as one word for a POSIX shell. A systemd unit can have a backslash in its name, as
/// `serve@my\x2dapp.service` has, and a shell would remove an unquoted backslash.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_a_shell_would_change_is_quoted() {
        assert_eq!(shell_word("nginx@1.service"), "nginx@1.service");
        assert_eq!(
            shell_word(r"serve@my\x2dapp.service"),
            r"'serve@my\x2dapp.service'"
        );
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
