//! The texts and the source of the repository: links, names, language, width of lines.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn texts() -> Vec<(PathBuf, String)> {
    let folders = [
        root().to_owned(),
        root().join("benches"),
        root().join("docs"),
    ];
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
            // The page on test frameworks names files of the suites.
            let is_there = [root().to_owned(), root().join("examples/suites")]
                .iter()
                .any(|folder| folder.join(name).exists());
            assert!(is_there, "{}: there is no {name}", path.display());
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
        if path.ends_with("docs/migration.md") {
            continue; // It names functions of other crates.
        }
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

/// The README and the documentation pages, which a code host shows as they are.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = texts();
    let docs = root().join("docs");
    pages.retain(|(path, _)| path.starts_with(&docs) || path.ends_with("README.md"));
    assert!(pages.len() > 7, "the control: {pages:?}");
    pages
}

/// rustdoc takes an indented block for Rust.
#[test]
fn the_pages_have_no_indented_blocks() {
    for (path, text) in pages() {
        let mut in_block = false;
        let mut after_blank = true;
        for line in text.lines() {
            in_block ^= line.starts_with("```");
            let is_block = after_blank && !in_block && line.starts_with("    ");
            assert!(!is_block, "{}: {line}", path.display());
            after_blank = line.is_empty();
        }
    }
}

#[test]
fn the_pages_have_no_lines_that_only_rustdoc_hides() {
    for (path, text) in pages() {
        for block in between(&text, "```rust\n", "```") {
            for line in block.lines() {
                let hidden = line == "#" || line.starts_with("# ");
                assert!(!hidden, "{}: {line}", path.display());
            }
        }
    }
}

/// rustdoc compiles no function with `#[test]`, so `examples/suites` runs a copy.
#[test]
fn every_test_of_the_pages_is_run() {
    let copies = std::fs::read_to_string(root().join("examples/suites/tests/pages.rs")).unwrap();
    let mut blocks = 0;
    for (path, text) in pages() {
        for block in between(&text, "```rust\n", "```").filter(|block| block.contains("test]")) {
            assert!(copies.contains(block), "{}: {block}", path.display());
            blocks += 1;
        }
    }
    assert!(
        blocks > 1,
        "the control: {blocks} blocks with tests were found"
    );
}

#[test]
fn the_readme_has_at_most_120_lines() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 120, "{lines} lines");
}
