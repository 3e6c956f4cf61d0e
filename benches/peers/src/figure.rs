//! The figures. They have no background, and colours that work on light and on dark pages.

use std::path::{Path, PathBuf};

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::cost::{Cost, FILLS};
use crate::helper::Outcome;
use crate::peer::Peer;
use crate::report::{count, duration};
use crate::rounds::{LOADS, Losses};
use crate::who::{BACKGROUNDS, Timing};

const TEXT: RGBColor = RGBColor(118, 131, 144);
const OURS: RGBColor = RGBColor(47, 129, 247);
const THEIRS: RGBColor = RGBColor(139, 148, 158);

const WIDTH: u32 = 760;
const BAR_LEFT: i32 = 220;
const BAR_RIGHT: i32 = 600;
const ROW: i32 = 19;

pub(crate) fn draw(losses: &[Losses], costs: &[Cost], timings: &[Timing]) -> Outcome<()> {
    std::fs::create_dir_all(folder())?;
    draw_rounds(losses)?;
    draw_costs(costs)?;
    draw_who(timings)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/figures")
}

struct Bar {
    name: String,
    /// 0 to 1.
    length: f64,
    label: String,
    ours: bool,
}

fn draw_rounds(losses: &[Losses]) -> Outcome<()> {
    let most = losses
        .iter()
        .map(Losses::percent)
        .fold(f64::MIN_POSITIVE, f64::max);
    let bar = |one: &Losses| Bar {
        name: one.peer.name().to_owned(),
        length: one.percent() / most,
        label: format!("{} of {}", count(one.lost), count(one.rounds)),
        ours: one.peer == Peer::Portlease,
    };
    let group = |(i, load): (usize, &crate::rounds::Load)| {
        (
            load.title.to_owned(),
            losses.iter().filter(|one| one.load == i).map(bar).collect(),
        )
    };
    let groups: Vec<(String, Vec<Bar>)> = LOADS.iter().enumerate().map(group).collect();
    bars(
        "rounds.svg",
        "Rounds lost (each round starts a server twice on one port)",
        &groups,
    )
}

/// On a logarithmic scale.
fn draw_who(timings: &[Timing]) -> Outcome<()> {
    const SHOWN: [&str; 7] = [
        "who_holds, whole process",
        "ss -tulpn",
        "lsof -nP -i :PORT",
        "netstat -tulpn",
        "fuser PORT/tcp",
        "listeners, in process",
        "netstat2, in process",
    ];
    let shown = || {
        timings
            .iter()
            .filter(|one| SHOWN.contains(&one.method.as_str()))
    };
    let least = shown().map(|one| one.median_us).fold(f64::MAX, f64::min) / 2.0;
    let most = shown()
        .map(|one| one.median_us)
        .fold(f64::MIN_POSITIVE, f64::max);
    let bar = |one: &Timing| Bar {
        name: one.method.clone(),
        length: (one.median_us / least).ln() / (most / least).ln(),
        label: duration(one.median_us),
        ours: one.method == SHOWN[0],
    };
    let group = |(i, background): (usize, &crate::who::Background)| {
        (
            background.name.to_owned(),
            shown().filter(|one| one.background == i).map(bar).collect(),
        )
    };
    let groups: Vec<(String, Vec<Bar>)> = BACKGROUNDS.iter().enumerate().map(group).collect();
    bars("who.svg", "Who holds a port (median; logarithmic)", &groups)
}

fn bars(file: &str, title: &str, groups: &[(String, Vec<Bar>)]) -> Outcome<()> {
    let rows: usize = groups.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = (rows as i32 + 2) * ROW;
    let path = folder().join(file);
    let area = SVGBackend::new(&path, (WIDTH, height.unsigned_abs())).into_drawing_area();
    let text = |size: i32, h: HPos| {
        TextStyle::from(("sans-serif", size))
            .color(&TEXT)
            .pos(Pos::new(h, VPos::Center))
    };
    area.draw_text(title, &text(17, HPos::Left), (8, ROW))?;
    let mut y = 2 * ROW;
    for (name, bars) in groups {
        y += ROW;
        area.draw_text(name, &text(15, HPos::Left), (8, y - ROW / 2))?;
        for bar in bars {
            let end = BAR_LEFT + (f64::from(BAR_RIGHT - BAR_LEFT) * bar.length).round() as i32;
            let colour = if bar.ours { OURS } else { THEIRS };
            area.draw_text(
                &bar.name,
                &text(13, HPos::Right),
                (BAR_LEFT - 8, y + ROW / 2),
            )?;
            // A bar of length 0 stays visible.
            let end = end.max(BAR_LEFT + 2);
            area.draw(&Rectangle::new(
                [(BAR_LEFT, y + 3), (end, y + ROW - 3)],
                colour.filled(),
            ))?;
            area.draw_text(&bar.label, &text(13, HPos::Left), (end + 8, y + ROW / 2))?;
            y += ROW;
        }
        y += ROW;
    }
    Ok(area.present()?)
}

/// The costs of one process, on a logarithmic scale.
fn draw_costs(costs: &[Cost]) -> Outcome<()> {
    let path = folder().join("cost.svg");
    let area = SVGBackend::new(&path, (WIDTH, 380)).into_drawing_area();
    let text = |size: i32| TextStyle::from(("sans-serif", size)).color(&TEXT);
    let of = |peer: Peer| -> Vec<(f64, f64)> {
        let alone = costs
            .iter()
            .filter(|cost| cost.processes == 1 && cost.peer == peer);
        alone
            .map(|cost| (cost.fill as f64, cost.median_us))
            .collect()
    };
    let all = || {
        costs
            .iter()
            .filter(|cost| cost.processes == 1)
            .map(|cost| cost.median_us)
    };
    let (least, most) = (
        all().fold(f64::MAX, f64::min),
        all().fold(f64::MIN_POSITIVE, f64::max),
    );
    let last = FILLS[FILLS.len() - 1] as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "One port, picked or reserved, then released (median of one process)",
            text(17),
        )
        .margin(8)
        .margin_right(190)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, (least / 1.5..most * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(TEXT)
        .label_style(text(13))
        .x_desc("% of the ephemeral range claimed by others")
        .y_label_formatter(&|us| duration(*us))
        .x_label_formatter(&|percent| format!("{percent:.0}"))
        .draw()?;
    let mut peers: Vec<(Peer, f64)> = crate::peer::ALL
        .into_iter()
        .filter_map(|peer| of(peer).last().map(|(_, cost)| (peer, *cost)))
        .collect();
    peers.sort_by(|a, b| b.1.total_cmp(&a.1));
    // Labels of lines that end close to each other must not overlap.
    let mut lowest = i32::MIN;
    for (peer, end) in peers {
        let (colour, width) = if peer == Peer::Portlease {
            (OURS, 3)
        } else {
            (THEIRS, 1)
        };
        chart.draw_series(LineSeries::new(of(peer), colour.stroke_width(width)))?;
        let (x, y) = chart.backend_coord(&(last, end));
        lowest = y.max(lowest.saturating_add(15));
        let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(peer.name(), &style, (x + 8, lowest))?;
    }
    Ok(area.present()?)
}
