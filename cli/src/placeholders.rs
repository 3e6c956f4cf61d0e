//! [`Placeholders`]: replaces each `{NAME}` in the arguments of `run` by the number of a port.

use std::ffi::{OsStr, OsString};

use crate::ffi::os_text;

/// The names of the ports, with their numbers.
#[derive(Debug)]
pub(crate) struct Placeholders<'a>(pub(crate) Vec<(&'a str, String)>);

impl Placeholders<'_> {
    /// Replaces the `{NAME}` of each port by its number, and `{{NAME}}` by `{NAME}`. `${NAME}`
    /// stays, because a shell or another program expands it. Other braces stay too.
    pub(crate) fn fill(&self, argument: &OsStr) -> OsString {
        let mut rest = argument.as_encoded_bytes();
        let mut out = Vec::with_capacity(rest.len());
        while let Some((first, after)) = rest.split_first() {
            let word = self.0.iter().find_map(|(name, number)| {
                let (plain, escaped) = (format!("{{{name}}}"), format!("{{{{{name}}}}}"));
                if rest.starts_with(escaped.as_bytes()) {
                    Some((escaped.len(), plain))
                } else if rest.starts_with(plain.as_bytes()) && out.last() != Some(&b'$') {
                    Some((plain.len(), number.clone()))
                } else {
                    None
                }
            });
            match word {
                Some((length, text)) => {
                    out.extend(text.into_bytes());
                    rest = &rest[length..];
                }
                None => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        // `joined` requires that each cut of `argument` is next to an ASCII character. The loop
        // cuts only beside the braces of a placeholder, and inserts only ASCII text.
        os_text::joined(out)
    }

    /// Returns the words in braces that are probably misspelled names: words that differ from a
    /// name only in case, and words that contain `PORT`.
    pub(crate) fn unknown(&self, argument: &OsStr) -> Vec<String> {
        let text = argument.to_string_lossy();
        let mut words = Vec::new();
        for (at, _) in text.match_indices('{') {
            let Some((word, _)) = text[at + 1..].split_once('}') else {
                continue;
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_known = self.0.iter().any(|(name, _)| *name == word);
            let is_close = word.contains("PORT")
                || self
                    .0
                    .iter()
                    .any(|(name, _)| name.eq_ignore_ascii_case(word));
            let is_other_syntax = text[..at].ends_with(['$', '{']);
            if word.chars().all(is_name) && !is_known && is_close && !is_other_syntax {
                words.push(word.to_owned());
            }
        }
        words
    }

    pub(crate) fn unknown_note(&self, word: &str) -> String {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|(name, _)| format!("{{{name}}}"))
            .collect();
        format!(
            "{{{word}}} in the command stays as it is, because no --port or --listen has this \
             name: expected {}",
            names.join(" or ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_braces_becomes_the_number_and_other_braces_stay() {
        let ports = Placeholders(vec![("A", "1".to_owned()), ("AB", "22".to_owned())]);
        for (argument, expected) in [
            ("{A}{AB}x{A}", "122x1"),
            ("${A} $${A} $A", "${A} $${A} $A"),
            ("{{A}}", "{A}"),
            ("{{{A}}}", "{{A}}"),
            ("{\"port\":{A}}", "{\"port\":1}"),
            ("{{.Names}} {B} {A {", "{{.Names}} {B} {A {"),
            ("{a}", "{a}"),
            ("", ""),
        ] {
            assert_eq!(ports.fill(OsStr::new(argument)), expected, "{argument}");
        }
        assert_eq!(
            ports.fill(OsStr::new("\u{e4}{A}\u{1f600}")),
            "\u{e4}1\u{1f600}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_utf_8_stay() {
        use std::os::unix::ffi::OsStrExt;
        let ports = Placeholders(vec![("A", "1".to_owned())]);
        let bytes = ports.fill(OsStr::from_bytes(b"\xff{A}\xfe"));
        assert_eq!(bytes.as_bytes(), b"\xff1\xfe");
    }

    #[cfg(windows)]
    #[test]
    fn a_surrogate_without_its_pair_stays() {
        use std::os::windows::ffi::{OsStrExt, OsStringExt};
        let ports = Placeholders(vec![("A", "1".to_owned())]);
        let units = |text: &OsStr| text.encode_wide().collect::<Vec<u16>>();
        let argument: Vec<u16> = [0xd800].into_iter().chain("{A}".encode_utf16()).collect();
        let filled = ports.fill(&OsString::from_wide(&argument));
        assert_eq!(units(&filled), [0xd800, 0x31]);
    }

    #[test]
    fn a_word_that_looks_like_a_name_is_found() {
        let ports = Placeholders(vec![("REDIS", "1".to_owned())]);
        for (argument, expected) in [
            ("--port={PORT}", vec!["PORT"]),
            ("{redis}:{HTTP_PORT}", vec!["redis", "HTTP_PORT"]),
            ("{REDIS} ${PORT} {{PORT}} {X} {NF} {PORT x}", vec![]),
        ] {
            assert_eq!(ports.unknown(OsStr::new(argument)), expected, "{argument}");
        }
    }
}
