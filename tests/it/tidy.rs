//! The texts and the source of the repository: links, names, language, width of lines.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn texts() -> Vec<(PathBuf, String)> {
    let folders = [root().to_owned(), root().join("benches")];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    texts
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// All code below a folder, in one piece.
fn code(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &code(&path);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            all += &std::fs::read_to_string(&path).unwrap();
        }
    }
    all
}

/// Every part of `text` between two marks.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(end)?.0))
}

#[test]
fn every_file_that_a_text_links_to_is_there() {
    let mut links = 0;
    for (path, text) in texts() {
        for target in between(&text, "](", ")").filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap();
            assert!(
                path.with_file_name(file).exists(),
                "{}: {target} is not there",
                path.display()
            );
            links += 1;
        }
    }
    assert!(links > 10, "the control: {links} links were found");
}

/// A file is named between backquotes, by its path from the root.
#[test]
fn every_file_that_a_text_names_is_there() {
    let mut names = 0;
    for (path, text) in texts() {
        let is_file = |word: &&str| {
            [
                "tests/",
                "src/",
                "cli/",
                "benches/",
                "examples/",
                "docs/",
                "tools/",
            ]
            .iter()
            .any(|at| word.starts_with(at))
                && !word.contains(|c: char| c.is_whitespace() || c == '*')
        };
        for name in text.split('`').filter(is_file) {
            assert!(
                root().join(name).exists(),
                "{}: there is no {name}",
                path.display()
            );
            names += 1;
        }
    }
    assert!(names > 10, "the control: {names} files were named");
}

/// A test is named between backquotes. Nothing else that the texts quote has three underscores.
#[test]
fn every_test_that_a_text_names_is_there() {
    let code = code(&root().join("tests")) + &code(&root().join("src"));
    let mut names = 0;
    for (path, text) in texts() {
        let is_name = |word: &&str| {
            word.matches('_').count() >= 3
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        };
        for name in text.split('`').filter(is_name) {
            let is_there = ["fn", "mod"]
                .iter()
                .any(|kind| code.contains(&format!("{kind} {name}")));
            assert!(is_there, "{}: there is no {name}", path.display());
            names += 1;
        }
    }
    assert!(names > 10, "the control: {names} names were found");
}

/// Where the language is not yet plain. These three test files quote messages of the library.
const LANGUAGE_NOT_YET: &[&str] = &[
    "src",
    "cli",
    "docs",
    "examples",
    "benches",
    "fuzz",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "PLATFORMS.md",
    "README.md",
    "SECURITY.md",
    "tests/it/report/text.rs",
    "tests/it/waiting/listen.rs",
    "tests/tokio/waits.rs",
];

/// Where lines still exceed 100 columns.
const COLUMNS_NOT_YET: &[&str] = &[
    ".ci",
    "Cargo.toml",
    "benches",
    "cli",
    "deny.toml",
    "examples",
    "src",
];

/// The files of the repository below `folder`, without what is built or generated.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_generated = ["target", "corpus", "artifacts", "seeds", "node_modules"];
        let is_hidden = name.starts_with('.') && ![".ci", ".config", ".github"].contains(&name);
        if is_generated.contains(&name) || is_hidden {
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

/// The path from the root, with slashes on every system.
fn name_of(path: &Path) -> String {
    let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
    name.replace('\\', "/")
}

fn is_below(name: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| {
        name.strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A word of a text, in lower case, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Text(usize, String),
    /// The end of a clause, of a literal or of a comment: no phrase goes over it.
    Break,
}

/// Appends the words of one line.
fn push_words(words: &mut Vec<Word>, line: usize, text: &str) {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '\'' || c == '’';
    for clause in text.split_inclusive(['.', ',', ';', ':', '!', '?', '(', ')', '|']) {
        for word in clause.split(|c: char| !is_part(c)) {
            let word = word.trim_matches('\'').replace('’', "'").to_lowercase();
            if !word.is_empty() {
                words.push(Word::Text(line, word));
            }
        }
        if !clause.ends_with(|c: char| is_part(c) || c.is_whitespace()) {
            words.push(Word::Break);
        }
    }
}

/// The words of Rust's comments and string literals. Arguments of format strings are code.
fn words_of_rust(source: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut line = 1;
    let mut rest = source;
    let mut comment_line = 0;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            let comment = rest.lines().next().unwrap();
            if comment_line + 1 != line {
                words.push(Word::Break);
            }
            comment_line = line;
            push_words(&mut words, line, comment.trim_start_matches(['/', '!']));
            rest = &rest[comment.len()..];
        } else if let Some((quote, end)) = string_start(rest) {
            words.push(Word::Break);
            let body = &rest[quote.len()..];
            let length = string_length(body, &end);
            let text = without_format_arguments(&body[..length]);
            for (at, text) in text.split('\n').enumerate() {
                push_words(&mut words, line + at, text.trim_end_matches('\\'));
            }
            words.push(Word::Break);
            line += body[..length].matches('\n').count();
            rest = &body[(length + end.len()).min(body.len())..];
        } else if let Some(length) = char_length(rest) {
            rest = &rest[length..];
        } else {
            line += usize::from(c == '\n');
            rest = &rest[c.len_utf8()..];
        }
    }
    words
}

/// The opening of a string literal that `rest` starts with, and the text that closes it.
fn string_start(rest: &str) -> Option<(&str, String)> {
    let after_prefix = rest.trim_start_matches(['b', 'c']);
    if rest.len() - after_prefix.len() > 1 {
        return None;
    }
    if after_prefix.starts_with('"') {
        return Some((&rest[..=rest.len() - after_prefix.len()], "\"".to_owned()));
    }
    let hashes = after_prefix.strip_prefix('r')?;
    let body = hashes.trim_start_matches('#');
    let count = hashes.len() - body.len();
    let is_raw = body.starts_with('"') && (count > 0 || hashes.starts_with('"'));
    is_raw.then(|| {
        (
            &rest[..=rest.len() - body.len()],
            format!("\"{}", "#".repeat(count)),
        )
    })
}

/// How far the text of a literal goes, before its `end`.
fn string_length(body: &str, end: &str) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if !escaped && body[at..].starts_with(end) {
            return at;
        }
        // A raw literal has no escapes.
        escaped = end == "\"" && c == '\\' && !escaped;
    }
    body.len()
}

/// The length of a character literal, such as `'"'`, which starts no string. A lifetime is none.
fn char_length(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let length = if first == '\\' {
        2 + body[2..].find('\'')?
    } else {
        first.len_utf8()
    };
    body[length..].starts_with('\'').then_some(length + 2)
}

fn without_format_arguments(text: &str) -> String {
    let mut kept = String::new();
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = 0,
            _ if depth == 1 && c != '\n' => {}
            _ => {
                depth = 0;
                kept.push(c);
            }
        }
    }
    kept
}

fn words_of_text(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            words.push(Word::Break);
        }
        push_words(&mut words, at + 1, line);
    }
    words
}

/// Every banned phrase, and what to write instead.
fn banned_phrases() -> Vec<(Vec<&'static str>, &'static str)> {
    include_str!("banned_phrases.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" = ").unwrap())
        .map(|(phrase, instead)| (phrase.split(' ').collect(), instead))
        .collect()
}

/// The line of each banned phrase among these words, the phrase, and what to write instead.
fn find_banned(words: &[Word]) -> Vec<(usize, String, &'static str)> {
    let mut found = Vec::new();
    for (phrase, instead) in banned_phrases() {
        for window in words.windows(phrase.len()) {
            let is_phrase = window.iter().zip(&phrase).all(
                |(word, banned)| matches!(word, Word::Text(_, word) if word.as_str() == *banned),
            );
            if let (true, Word::Text(line, _)) = (is_phrase, &window[0]) {
                found.push((*line, phrase.join(" "), instead));
            }
        }
    }
    found
}

#[test]
fn no_text_uses_a_banned_phrase() {
    for (phrase, _) in banned_phrases() {
        let phrase = phrase.join(" ");
        let split = phrase.replacen(' ', "\n    /// ", 1);
        for planted in [
            format!("fn f() {{\n    // It is {phrase}, here.\n}}"),
            format!("\n    /// {}", split.to_uppercase()),
            format!("fn f() {{ let c = '\"'; g(\"x\", r#\"a \"{phrase}\"\"#); }}"),
            format!("g(\"one \\\"\\\n  {phrase} {{x}}\")"),
        ] {
            let found = find_banned(&words_of_rust(&planted));
            assert!(
                found.iter().any(|(_, found, _)| *found == phrase),
                "control: {phrase} is not found in {planted:?}"
            );
        }
        let code = format!(
            "let {} = g(\"{{{}}}\");",
            phrase.replace(' ', "_"),
            phrase.replace(' ', "_")
        );
        assert_eq!(
            find_banned(&words_of_rust(&code)),
            [],
            "control: this is code"
        );
    }

    let mut found = Vec::new();
    let mut searched = 0;
    for path in files(root()) {
        let name = name_of(&path);
        if is_below(&name, LANGUAGE_NOT_YET) {
            continue;
        }
        let words: fn(&str) -> Vec<Word> = match path.extension().and_then(|kind| kind.to_str()) {
            Some("rs") => words_of_rust,
            Some("md") => words_of_text,
            _ => continue,
        };
        searched += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, phrase, instead) in find_banned(&words(&text)) {
            found.push(format!("{name}:{line}: \"{phrase}\"; write {instead}"));
        }
    }
    assert!(
        searched > 20,
        "control: only {searched} files were searched"
    );
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_line_exceeds_100_columns() {
    const COLUMNS: usize = 100;
    let mut found = Vec::new();
    let mut searched = 0;
    for path in files(root()) {
        let name = name_of(&path);
        let kind = path.extension().and_then(|kind| kind.to_str());
        let is_code = matches!(kind, Some("rs" | "sh" | "toml"));
        if is_below(&name, COLUMNS_NOT_YET) || !(is_code || kind.is_none()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // Scripts have no extension here.
        if !(is_code || text.starts_with("#!")) {
            continue;
        }
        searched += 1;
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS {
                found.push(format!("{name}:{}: {columns} columns", at + 1));
            }
        }
    }
    assert!(
        searched > 20,
        "control: only {searched} files were searched"
    );
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
