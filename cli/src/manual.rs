//! `portlease completions` and `portlease man`: both from the definition itself.

use clap::CommandFactory;

use crate::args::{Args, Completions, Man};
use crate::console::Console;
use crate::exit;
use crate::failure::Failure;

pub(crate) fn completions(console: &Console, args: &Completions) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "portlease", &mut script);
    deliver(console, &script)
}

pub(crate) fn man(console: &Console, args: &Man) -> Result<u8, Failure> {
    let mut all = Args::command();
    all.build();
    let page = match &args.command {
        None => all,
        Some(name) => {
            let named = all
                .get_subcommands()
                .find(|command| command.get_name() == name);
            let named = named
                .ok_or_else(|| Failure::new(format!("there is no command {name:?}")))?
                .clone();
            let title = format!("portlease-{name}");
            named.name(title)
        }
    };
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(page).render(&mut text);
    rendered.map_err(|e| Failure::system("write the man page", &e))?;
    deliver(console, &text)
}

/// Files, rather than answers: nothing is taken out of them or added.
fn deliver(console: &Console, text: &[u8]) -> Result<u8, Failure> {
    console.deliver(String::from_utf8_lossy(text).trim_end())?;
    Ok(exit::YES)
}
