//! The language of the repository: no banned phrase, and lines of at most 100 columns.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the repository below a folder, without built files and captured data.
fn files(folder: &Path) -> Vec<PathBuf> {
    const LEFT_OUT: [&str; 6] = [
        "target",
        "corpus",
        "artifacts",
        "seeds",
        "node_modules",
        "banned_phrases.txt",
    ];
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_hidden = name.starts_with('.') && ![".ci", ".config", ".github"].contains(&name);
        if LEFT_OUT.contains(&name) || is_hidden {
            continue;
        }
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn extension(path: &Path) -> &str {
    path.extension()
        .and_then(|kind| kind.to_str())
        .unwrap_or("")
}

/// Every phrase of the list, and what to write instead.
fn banned_phrases() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("banned_phrases.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" = ").unwrap())
}

/// The words of a text in lower case, and the line of each. A name with underscores is one word.
/// Line ends, comment marks and punctuation separate words, so that a phrase is found across lines.
fn words(text: &str) -> Vec<(usize, String)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        // The escape `\n` in a literal separates words.
        let line = line.replace("\\n", " ").replace('’', "'").to_lowercase();
        for word in line.split(|c: char| !is_part(c)) {
            let word = word.trim_matches('\'');
            if !word.is_empty() {
                words.push((at + 1, word.to_owned()));
            }
        }
    }
    words
}

/// The line of each banned phrase, as `12: "PHRASE"; write OTHER`.
fn banned_in(text: &str) -> Vec<String> {
    let words = words(text);
    let mut found = Vec::new();
    for (phrase, instead) in banned_phrases() {
        let phrase_words: Vec<&str> = phrase.split(' ').collect();
        for window in words.windows(phrase_words.len()) {
            if window.iter().map(|(_, word)| word).eq(&phrase_words) {
                found.push(format!("{}: \"{phrase}\"; write {instead}", window[0].0));
            }
        }
    }
    found
}

#[test]
fn no_text_uses_a_banned_phrase() {
    let mut found = Vec::new();
    let mut searched = 0;
    for path in files(root()) {
        if ["rs", "md", "sh", "yml", "toml"].contains(&extension(&path)) {
            searched += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let here = banned_in(&text).into_iter();
            found.extend(here.map(|line| format!("{}:{line}", path.display())));
        }
    }
    assert!(
        searched > 100,
        "the control: {searched} files were searched"
    );
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_banned_phrase_is_found_in_comments_literals_and_across_lines() {
    for (phrase, _) in banned_phrases() {
        let across_lines = phrase.replacen(' ', "\n    /// ", 1);
        for text in [
            format!("// It is {phrase}, here."),
            format!("    /// {}", across_lines.to_uppercase()),
            format!("g(\"a\\n{phrase} b\")"),
        ] {
            assert!(
                !banned_in(&text).is_empty(),
                "{phrase} is not found in {text:?}"
            );
        }
        let name = format!("is_{}()", phrase.replace([' ', '\''], "_"));
        assert!(banned_in(&name).is_empty(), "{name} is a name");
    }
}

#[test]
fn no_line_of_code_exceeds_100_columns() {
    const COLUMNS: usize = 100;
    let mut found = Vec::new();
    let mut searched = 0;
    for path in files(root()) {
        let is_script = extension(&path).is_empty();
        if !["rs", "sh"].contains(&extension(&path)) && !is_script {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if is_script && !text.starts_with("#!") {
            continue;
        }
        searched += 1;
        // Captured bytes, and captured tables of /proc/net, may have longer lines.
        let is_captured = |line: &str| {
            let is_table = line.contains(":00000000 ") || line.contains(" local_address ");
            let is_hex = |word: &str| word.bytes().filter(u8::is_ascii_hexdigit).count() > 60;
            is_table || line.split(' ').any(is_hex)
        };
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS && !is_captured(line) {
                found.push(format!("{}:{}: {columns} columns", path.display(), at + 1));
            }
        }
    }
    assert!(
        searched > 100,
        "the control: {searched} files were searched"
    );
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
