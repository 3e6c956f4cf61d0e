//! Durations as users type them.

use std::time::Duration;

use humantime::DurationError as Error;

/// Parses a duration with units, or a bare number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let has_digits_only = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if text.starts_with(|c: char| c.is_ascii_digit())
        && has_digits_only(&text.replacen('.', "", 1))
        && let Ok(seconds) = text.parse()
    {
        let duration = Duration::try_from_secs_f64(seconds);
        return duration.map_err(|_| "the number of seconds is too large".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| match error {
        // These errors already state the cause: a unit is unknown or missing, or a number is too
        // large.
        Error::UnknownUnit { .. } | Error::NumberOverflow => error.to_string(),
        _ => "expected a number of seconds, or numbers with units, as in 30, 500ms or 1m 30s"
            .to_owned(),
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
        for (text, expected) in [
            ("soon", "expected a number of seconds, or "),
            ("5parsecs", "unknown time unit \"parsecs\""),
            (&too_long, "the number of seconds is too large"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
