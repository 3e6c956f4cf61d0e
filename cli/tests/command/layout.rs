//! Checks the source text of the command: which modules may import which others, and that every
//! limit is in `limits.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules of `cli/src`, floor by floor from the top. A module may import from lower floors
/// only. A folder has no floor: each of its files has one. A file with a name of [`SYSTEMS`]
/// belongs to the module with the name of its folder.
const FLOORS: [&[&str]; 19] = [
    &["main"],
    &["dispatch"],
    &[
        "commands::check",
        "commands::completions",
        "commands::list",
        "commands::man",
        "commands::release",
        "commands::reserve",
        "commands::run",
        "commands::serve",
        "commands::stop",
        "commands::wait",
        "commands::who",
    ],
    &["keeper::hold", "supervise"],
    &[
        "http_wait",
        "keeper::release",
        "keeper::releases",
        "keeper::start",
        "leaks",
        "listen_wait",
        "silent_ports",
        "stop_plan",
        "wait_loop",
    ],
    &[
        "ending",
        "inherited_sockets",
        "keeper::holding",
        "keeper::link",
        "output::annotations",
        "output::console",
        "output::junit",
        "output::port_row",
        "reserve_options",
        "watcher",
    ],
    &["interruption", "restarts"],
    &[
        "caller",
        "command_end",
        "keeper::messages",
        "orphans",
        "output::report",
        "port_server",
        "process_tree",
        "starters",
        "survey",
    ],
    &["process", "server_address"],
    &["signals"],
    &["args", "finding", "output::table", "refusal"],
    &["number_args", "output::variables"],
    &["http_probe", "ports"],
    &["failure", "placeholders", "process_stat", "spawning"],
    &["condition", "stdout"],
    &["output::remedy"],
    &["keeper::client"],
    &["keeper::address", "named_pipe"],
    &[
        "duration",
        "exit",
        "ffi::command_line",
        "ffi::freebsd",
        "ffi::kqueue",
        "ffi::macos",
        "ffi::netbsd",
        "ffi::os_text",
        "ffi::pipes",
        "ffi::unix",
        "ffi::windows",
        "help",
        "limits",
        "output::ephemeral_usage",
        "output::json",
        "received_signals",
        "text",
    ],
];

/// The names of the files that implement a module for some systems.
const SYSTEMS: [&str; 8] = [
    "bsd", "freebsd", "linux", "macos", "netbsd", "others", "unix", "windows",
];

/// The module that a file belongs to: the path of the file without the system that it is for.
fn without_system(module: &str) -> &str {
    match module.rsplit_once("::") {
        Some((owner, system)) if SYSTEMS.contains(&system) && owner != "ffi" => owner,
        _ => module,
    }
}

/// The text of each module by its path, such as `output::table`.
type Sources = BTreeMap<String, String>;

fn sources() -> Sources {
    fn read(folder: &Path, prefix: &str, sources: &mut Sources) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() {
                read(&path, &format!("{prefix}{name}::"), sources);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                sources.insert(format!("{prefix}{name}"), text);
            }
        }
    }
    let mut sources = Sources::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read(&root, "", &mut sources);
    sources
}

/// The text without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The paths that follow each `crate::`, such as `output::console::Console`. A group is expanded.
fn imports(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut paths = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let path: String = rest.chars().take_while(|c| is_path(*c)).collect();
        match rest[path.len()..].strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                let items = group.split(',').map(str::trim);
                let items = items.filter(|item| !item.is_empty());
                paths.extend(items.map(|item| format!("{path}{item}")));
            }
            None => paths.push(path),
        }
    }
    paths
}

/// The module that a path names: the longest prefix of the path that has a floor.
fn module_of(import: &str) -> Option<String> {
    let parts: Vec<&str> = import.split("::").filter(|part| !part.is_empty()).collect();
    (1..=parts.len())
        .rev()
        .map(|n| parts[..n].join("::"))
        .find(|path| floor(path).is_some())
}

/// One line for each violation: an import that does not lead to a lower floor, that names no module
/// or that uses `super`; a `mod.rs` with imports; a module without a floor, or a floor without its
/// module.
fn violations(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (module, text) in sources {
        let code = code(text);
        if let Some(folder) = module.strip_suffix("::mod") {
            if code.contains("use ") {
                found.push(format!("{folder}/mod.rs may declare modules only"));
            }
            continue;
        }
        let owner = without_system(module);
        let Some(own) = floor(owner) else {
            found.push(format!("{module} has no floor"));
            continue;
        };
        if code.contains("super::") {
            found.push(format!("{module} uses a path with `super`"));
        }
        // `main` is the root of the crate, so its paths need no `crate::`.
        let mut imports = imports(&code);
        if module == "main" {
            imports.push("dispatch::main".to_owned());
        }
        for import in imports {
            match module_of(&import) {
                None => found.push(format!("{module} imports {import}, which is no module")),
                // A file for one system may use what its module defines for all systems.
                Some(target) if target == owner && owner != module => {}
                Some(target) if floor(&target) <= Some(own) => {
                    found.push(format!("{module} imports {target}, which is not below it"));
                }
                Some(_) => {}
            }
        }
    }
    let known = FLOORS.iter().flat_map(|floor| floor.iter());
    let missing = known.filter(|module| !sources.contains_key(**module));
    found.extend(missing.map(|module| format!("{module} has a floor, but no file")));
    found
}

#[test]
fn every_import_of_the_command_leads_down() {
    assert_eq!(violations(&sources()), Vec::<String>::new());
}

#[test]
fn an_import_that_leads_up_or_sideways_is_found() {
    for (module, line, expected) in [
        (
            "text",
            "use crate::commands::run;",
            "text imports commands::run, which is not below it",
        ),
        (
            "text",
            "use crate::output::{report};",
            "text imports output::report, which is not below it",
        ),
        (
            "text",
            "use crate::output;",
            "text imports output, which is no module",
        ),
        (
            "text",
            "let _ = crate::exit::YES;",
            "text imports exit, which is not below it",
        ),
        ("text", "use super::args;", "text uses a path with `super`"),
        (
            "commands::wait",
            "use crate::commands::check::check;",
            "commands::wait imports commands::check, which is not below it",
        ),
        (
            "output::mod",
            "pub(crate) use table::Table;",
            "output/mod.rs may declare modules only",
        ),
        ("new_module", "", "new_module has no floor"),
    ] {
        let mut sources = sources();
        sources
            .entry(module.to_owned())
            .or_default()
            .insert_str(0, &format!("{line}\n"));
        assert_eq!(violations(&sources), [expected], "{line}");
    }
}

/// One line for each timeout, sleep or number of attempts outside `limits.rs`.
fn stray_limits(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (module, text) in sources.iter().filter(|(module, _)| *module != "limits") {
        for line in code(text).lines() {
            let constant = line.contains("const ") && line.contains(": Duration");
            // A duration made of a literal. One that is computed is no limit.
            let literal = line.split("Duration::from_").skip(1).any(|rest| {
                let argument = rest.split_once('(').map_or("", |(_, argument)| argument);
                argument.starts_with(|c: char| c.is_ascii_digit())
            });
            let sleep = line.contains("thread::sleep") || line.contains("park_timeout");
            let attempts = line.contains("const ") && line.contains("ATTEMPTS");
            if constant || literal || sleep || attempts {
                found.push(format!("{module}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn timeouts_sleeps_and_attempts_stand_in_limits_alone() {
    assert_eq!(stray_limits(&sources()), Vec::<String>::new());
    for line in [
        "const GRACE: Duration = HOUR;",
        "child.wait(Duration::from_millis(10))?;",
        "std::thread::sleep(delay);",
        "const ATTEMPTS: usize = 3;",
    ] {
        let mut sources = sources();
        let text = format!("{line}\n{}", sources["text"]);
        sources.insert("text".to_owned(), text);
        assert_eq!(stray_limits(&sources), [format!("text: {line}")]);
    }
}
