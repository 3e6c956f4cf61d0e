//! The order of the library's rooms, as CONTRIBUTING.md lists them: an import points down, never up
//! and never to a room of the same floor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The floor of each room: the rows `| 4 | ... | `claim`, `lease`, ... |` of CONTRIBUTING.md.
fn floors() -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", floor, rooms, _, ""] = cells.as_slice() else {
            continue;
        };
        let Ok(floor) = floor.parse() else { continue };
        for room in rooms.split('`').skip(1).step_by(2) {
            floors.insert(room.to_owned(), floor);
        }
    }
    floors
}

/// The Rust files below a folder that are not tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        if is_test {
            continue;
        }
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    files
}

/// The imports that do not point down, as `claim/mod.rs imports inspect`.
fn wrong_imports(
    room: &str,
    file: &str,
    code: &str,
    floors: &BTreeMap<String, usize>,
) -> Vec<String> {
    let code = code.split("\nmod tests {").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut wrong = Vec::new();
    for target in lines.flat_map(|line| line.split("crate::").skip(1)) {
        let name: String = target
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let points_down = match (floors.get(&name), floors.get(room)) {
            (Some(there), Some(here)) => there < here,
            // A re-export of lib.rs, which is above every room.
            _ => false,
        };
        if name != room && !points_down {
            wrong.push(format!("{file} imports {name}"));
        }
    }
    wrong
}

#[test]
fn every_import_of_the_library_points_down() {
    let floors = floors();
    let source = root().join("src");
    let mut wrong = Vec::new();
    let mut rooms = std::collections::BTreeSet::new();
    for path in files(&source) {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.iter().next().unwrap().to_string_lossy();
        let room = first.trim_end_matches(".rs").to_owned();
        // `lib.rs` re-exports from every room, `docs` has only pages, and `fuzzing` is compiled for
        // tests only.
        if ["lib", "docs", "fuzzing"].contains(&room.as_str()) {
            continue;
        }
        assert!(
            floors.contains_key(&room),
            "CONTRIBUTING.md does not list {room}"
        );
        let code = std::fs::read_to_string(&path).unwrap();
        wrong.extend(wrong_imports(
            &room,
            &inside.display().to_string(),
            &code,
            &floors,
        ));
        rooms.insert(room);
    }
    assert_eq!(wrong, Vec::<String>::new());
    for room in floors.keys() {
        assert!(
            rooms.contains(room),
            "CONTRIBUTING.md lists {room}, which is not there"
        );
    }
}

#[test]
fn an_import_that_does_not_point_down_is_noticed() {
    let floors = floors();
    let wrong = |room: &str, code: &str| wrong_imports(room, "file", code, &floors).len();
    assert_eq!(wrong("claim", "use crate::inspect::who;"), 1, "up");
    assert_eq!(
        wrong("claim", "use crate::lease::Refusal;"),
        1,
        "the same floor"
    );
    assert_eq!(
        wrong("claim", "fn f() -> crate::Result<()>"),
        1,
        "a re-export"
    );
    assert_eq!(wrong("claim", "use crate::model::port::Port;"), 0, "down");
    assert_eq!(
        wrong("claim", "/// [`crate::who_holds`]"),
        0,
        "a link in the docs"
    );
}
