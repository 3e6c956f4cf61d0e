//! Replaces the library's functions in a help line by commands of the same effect.

/// The report, with commands instead of functions.
pub(crate) fn for_shells(report: &str) -> String {
    let text = report
        .replace("reserve_port()", "`portlease reserve`")
        .replace("ask who_holds", "ask `portlease who`");
    let text = calls(&text, "ReserveOptions::new().port(", ").wait(..)", |port| {
        format!("`portlease reserve --port {port} --wait 60s`")
    });
    let text = calls(&text, "wait_until_listening(", ", ..)", |port| {
        format!("`portlease wait --listening {port}`")
    });
    // The advice about async runtimes does not apply to a command.
    let lines = text.split('\n').map(|line| {
        line.split("; on a current-thread async runtime")
            .next()
            .unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces each call that has a port number between `before` and `after`.
fn calls(text: &str, before: &str, after: &str, command: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once(before) {
        out += head;
        match tail.split_once(after) {
            Some((number, tail)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                out += &command(number);
                rest = tail;
            }
            _ => {
                out += before;
                rest = tail;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_become_commands_and_other_text_stays() {
        for (written, read) in [
            (
                "stop pid 7, or take any free port with reserve_port()",
                "stop pid 7, or take any free port with `portlease reserve`",
            ),
            (
                "queue for it with ReserveOptions::new().port(80).wait(..), or",
                "queue for it with `portlease reserve --port 80 --wait 60s`, or",
            ),
            (
                "wait_until_listening(80, ..) waits; on a current-thread async runtime \
                 nothing\nmore",
                "`portlease wait --listening 80` waits\nmore",
            ),
            (
                "wait_until_listening(x, ..) wait_until_listening(",
                "wait_until_listening(x, ..) wait_until_listening(",
            ),
            ("", ""),
        ] {
            assert_eq!(for_shells(written), read);
        }
    }

    /// Covers every help line that a test can provoke.
    #[test]
    fn no_help_line_names_a_function() {
        let p = portlease::reserve_port();
        let _server = p.listen().unwrap();
        let taken = portlease::ReserveOptions::new()
            .port(p.port())
            .reserve()
            .unwrap_err();
        let queued = portlease::ReserveOptions::new()
            .port(p.port())
            .wait(std::time::Duration::from_millis(1));
        let quiet = portlease::ReserveOptions::new()
            .reuse_addr(false)
            .reserve()
            .unwrap();
        let reports = [
            format!("{taken:?}"),
            format!("{:?}", queued.reserve().unwrap_err()),
            portlease::check_port_free(p.port())
                .unwrap_err()
                .to_string(),
            portlease::check_port_listening(quiet.port())
                .unwrap_err()
                .to_string(),
            portlease::check_port_free("9/udplite")
                .unwrap_err()
                .to_string(),
            format!(
                "{:?}",
                portlease::ReserveOptions::new()
                    .port(quiet.port())
                    .reserve()
                    .unwrap_err()
            ),
        ];
        for report in reports {
            let read = for_shells(&report);
            assert_ne!(read, report);
            let functions = ["()", "(..)", "::new", "..)", "who_holds", "async"];
            assert!(
                functions.iter().all(|function| !read.contains(function)),
                "{read}"
            );
        }
    }
}
