//! Durations as users type them.

use std::time::Duration;

/// A duration with units, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let has_digits_only = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if text.starts_with(|c: char| c.is_ascii_digit())
        && has_digits_only(&text.replacen('.', "", 1))
        && let Ok(seconds) = text.parse()
    {
        return Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string());
    }
    humantime::parse_duration(text).map_err(|e| {
        format!(
            "{e}: expected a number of seconds, or numbers with units, as in 30, 500ms or \
                 1m 30s"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_means_seconds() {
        for (text, millis) in [
            ("5", 5000),
            ("0.5", 500),
            ("500ms", 500),
            ("1m 30s", 90_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "-1", "-1s", "soon", "1.2.3", "1e9", ".", "inf"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let too_long = "9".repeat(400);
        assert!(parse_duration(&too_long).is_err());
    }
}
