//! Writes the tables into `benches/RESULTS.md`, between two marks. The rest of the file stays.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::cost::{Cost, FILLS, PROCESSES};
use crate::helper::Outcome;
use crate::peer::{ALL, Peer};
use crate::rounds::{LOADS, Losses};
use crate::who::{BACKGROUNDS, Timing};

const BEGIN: &str = "<!-- peers: begin -->\n";
const END: &str = "<!-- peers: end -->\n";

pub(crate) fn write(
    seconds: f64,
    losses: &[Losses],
    costs: &[Cost],
    timings: &[Timing],
) -> Outcome<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("RESULTS.md");
    let old = std::fs::read_to_string(&path)?;
    let (before, rest) = old
        .split_once(BEGIN)
        .ok_or("RESULTS.md has no mark before the tables")?;
    let (_, after) = rest
        .split_once(END)
        .ok_or("RESULTS.md has no mark after the tables")?;
    let text = tables(seconds, losses, costs, timings)?;
    // A crash must not leave half a file.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().ok_or("no folder")?)?;
    std::io::Write::write_all(
        &mut file,
        format!("{before}{BEGIN}{text}{END}{after}").as_bytes(),
    )?;
    file.persist(&path)?;
    print!("{text}");
    Ok(())
}

fn tables(seconds: f64, losses: &[Losses], costs: &[Cost], timings: &[Timing]) -> Outcome<String> {
    let mut text = format!("{}\n", machine());
    writeln!(
        text,
        "### Rounds lost\n\n{seconds} s for each peer and load. Cells: rounds lost of all rounds.\n"
    )?;
    let titles: Vec<&str> = LOADS.iter().map(|load| load.title).collect();
    head(&mut text, "", &titles)?;
    for peer in ALL {
        let cell = |i: usize| {
            losses
                .iter()
                .find(|one| one.load == i && one.peer == peer)
                .map(lost)
        };
        row(&mut text, peer.name(), (0..LOADS.len()).map(cell))?;
    }
    let losses: Vec<&Losses> = losses
        .iter()
        .filter(|one| one.load == 0 && one.lost > 0)
        .collect();
    writeln!(text, "\nThe first loss of each peer, {}:\n", LOADS[0].title)?;
    for one in losses {
        writeln!(text, "- {}: {}", one.peer.name(), one.first_loss)?;
    }
    writeln!(
        text,
        "\n### What one port costs\n\nPicked or reserved, then released; medians."
    )?;
    for processes in PROCESSES {
        let plural = if processes == 1 {
            "process"
        } else {
            "processes at once"
        };
        writeln!(
            text,
            "\n{processes} {plural}, by the share of the ephemeral range that others have \
             claimed:\n"
        )?;
        let titles: Vec<String> = FILLS.iter().map(|fill| format!("{fill} %")).collect();
        head(
            &mut text,
            "",
            &titles.iter().map(String::as_str).collect::<Vec<_>>(),
        )?;
        for peer in ALL.into_iter().filter(|peer| peer.has_reusable_ports()) {
            let cell = |fill: usize| {
                let matches = |cost: &&Cost| {
                    cost.peer == peer && cost.fill == fill && cost.processes == processes
                };
                costs
                    .iter()
                    .find(matches)
                    .map(|cost| duration(cost.median_us))
            };
            row(&mut text, peer.name(), FILLS.into_iter().map(cell))?;
        }
    }
    writeln!(
        text,
        "\nThe TIME_WAIT trick is not in these tables: each of its numbers stays used up for a \
         minute."
    )?;
    writeln!(text, "\n### Who holds a port\n\nMedians.\n")?;
    let titles: Vec<&str> = BACKGROUNDS
        .iter()
        .map(|background| background.name)
        .collect();
    head(&mut text, "", &titles)?;
    let mut methods: Vec<&str> = Vec::new();
    for one in timings {
        if !methods.contains(&one.method.as_str()) {
            methods.push(&one.method);
        }
    }
    for method in methods {
        let cell = |i: usize| {
            timings
                .iter()
                .find(|one| one.background == i && one.method == method)
                .map(|one| duration(one.median_us))
        };
        row(&mut text, method, (0..BACKGROUNDS.len()).map(cell))?;
    }
    let ratio = |ours: &str, theirs: &str, i: usize| -> Option<String> {
        let of = |method: &str| {
            timings
                .iter()
                .find(|one| one.background == i && one.method == method)
        };
        Some(format!(
            "{:.2}",
            of(ours)?.median_us / of(theirs)?.median_us
        ))
    };
    for (ours, theirs) in [
        ("who_holds, whole process", "ss -tulpn"),
        ("who_holds, whole process", "lsof -nP -i :PORT"),
        ("who_holds, in process", "system calls alone, in process"),
    ] {
        let cells = (0..BACKGROUNDS.len()).map(|i| ratio(ours, theirs, i));
        row(&mut text, &format!("{ours} / {theirs}"), cells)?;
    }
    text.push('\n');
    Ok(text)
}

fn head(text: &mut String, corner: &str, titles: &[&str]) -> std::fmt::Result {
    writeln!(text, "| {corner} | {} |", titles.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(titles.len()))
}

fn row(
    text: &mut String,
    name: &str,
    cells: impl Iterator<Item = Option<String>>,
) -> std::fmt::Result {
    let cells: Vec<String> = cells
        .map(|cell| cell.unwrap_or_else(|| "–".to_owned()))
        .collect();
    writeln!(text, "| {name} | {} |", cells.join(" | "))
}

fn lost(one: &Losses) -> String {
    let share = match one.lost {
        0 if one.peer == Peer::Portlease => "**0**".to_owned(),
        0 => "0".to_owned(),
        lost => format!("{} ({:.2} %)", count(lost), one.percent()),
    };
    format!("{share} of {}", count(one.rounds))
}

/// Formats as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// Formats with up to three digits and a unit.
pub(crate) fn duration(us: f64) -> String {
    match us {
        ..10.0 => format!("{us:.1} µs"),
        10.0..1_000.0 => format!("{us:.0} µs"),
        1_000.0..10_000.0 => format!("{:.1} ms", us / 1_000.0),
        _ => format!("{:.0} ms", us / 1_000.0),
    }
}

fn machine() -> String {
    let output_of = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        String::from_utf8(output.stdout)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = output_of("uname", &["-srm"]).unwrap_or_else(|| "an unknown kernel".to_owned());
    let rust = output_of("rustc", &["--version"]).unwrap_or_else(|| "an unknown Rust".to_owned());
    let date = output_of("date", &["-u", "+%F"]).unwrap_or_default();
    format!("{kernel}, {cores} processors, {rust}; {date}.\n")
}
