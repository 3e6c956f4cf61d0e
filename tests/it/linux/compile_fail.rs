//! Code that must not compile. The compiler must print exactly the text of the `.stderr` file.
//!
//! The test starts the compiler itself. A crate for such tests would run cargo, which would build
//! every dependency once more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::support::{Folder, capability, need, skip, test_name};

#[test]
fn a_signed_number_and_a_reservation_by_value_name_no_port() {
    need!(capability::native());
    let binary = std::env::current_exe().unwrap();
    let libraries = binary.parent().unwrap();
    let (Some(library), Some(compiler)) = (newest_library(libraries), compiler()) else {
        return skip(
            test_name!(),
            "no library beside this binary, or no compiler",
        );
    };
    for name in ["signed_number", "reservation_by_value"] {
        let case = format!("tests/compile_fail/{name}");
        let folder = Folder::new();
        let mut command = Command::new(&compiler);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--edition=2024", "--emit=metadata", "--color=never"])
            .args(["--diagnostic-width=140", "--extern"])
            .arg(argument("portlease=", &library))
            .arg(argument("-Ldependency=", libraries))
            .arg(argument("--out-dir=", folder.path()))
            .arg(format!("{case}.rs"));
        if let Some(target) = target(&compiler, libraries) {
            command.args(["--target", &target]);
        }
        let output = command.output().unwrap();
        let printed = without_line_numbers(&String::from_utf8(output.stderr).unwrap());
        let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{case}.stderr"));
        let expected = std::fs::read_to_string(expected).unwrap();
        assert!(!output.status.success(), "{case} compiles");
        assert_eq!(printed, expected, "{case}:\n{printed}");
    }
}

/// The newest library in the folder of this binary. Cargo also keeps libraries that it built with
/// other features, or from earlier sources. Only the newest library is certain to come from the
/// present sources.
fn newest_library(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let is_library = name.starts_with("libportlease-") && name.ends_with(".rlib");
        let modified: SystemTime = entry.metadata().ok()?.modified().ok()?;
        is_library.then_some((modified, entry.path()))
    });
    files.max().map(|(_, path)| path)
}

/// The compiler that cargo uses: `RUSTC`, or the one beside cargo.
fn compiler() -> Option<PathBuf> {
    let beside_cargo = || Some(Path::new(&std::env::var_os("CARGO")?).with_file_name("rustc"));
    let compiler = std::env::var_os("RUSTC").map(PathBuf::from);
    let compiler = compiler.or_else(beside_cargo)?;
    let answer = Command::new(&compiler).arg("--version").output().ok()?;
    answer.status.success().then_some(compiler)
}

/// The target of `cargo test --target`, which names the folder of the build.
fn target(compiler: &Path, libraries: &Path) -> Option<String> {
    let folder = libraries.ancestors().nth(2)?.file_name()?.to_str()?;
    let mut known = Command::new(compiler);
    let known = known.args(["--print", "target-list"]).output().unwrap();
    let known = String::from_utf8(known.stdout).unwrap();
    known
        .lines()
        .any(|target| target == folder)
        .then(|| folder.to_owned())
}

fn argument(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

/// The text without the line numbers of the library's source files, because they change, and
/// without the margin that shows line numbers.
fn without_line_numbers(text: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let mut short = String::new();
    for line in text.replace(root, "").lines() {
        let line = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        let line = match line.split_once(".rs:") {
            Some((file, _)) if file.starts_with("--> src/") => format!("{file}.rs"),
            _ => line.trim_start().to_owned(),
        };
        short += line.trim_end();
        short.push('\n');
    }
    short
}
