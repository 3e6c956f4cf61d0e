//! `portlease man`: prints a man page. clap generates the page from the definition of the command
//! line.

use clap::CommandFactory;

use crate::args::{Args, ManArgs};
use crate::exit;
use crate::failure::Failure;
use crate::output::console::Console;

pub(crate) fn man(console: &Console, args: &ManArgs) -> Result<u8, Failure> {
    let mut all = Args::command();
    all.build();
    let page = match &args.command {
        None => all,
        Some(name) => {
            let named = all
                .get_subcommands()
                .find(|command| command.get_name() == name);
            let named = named
                .ok_or_else(|| {
                    Failure::new(format!(
                        "cannot print a man page: portlease has no command {name:?}"
                    ))
                })?
                .clone();
            let title = format!("portlease-{name}");
            named.name(title)
        }
    };
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(page).render(&mut text);
    rendered.map_err(|e| Failure::system("write the man page", &e))?;
    console.document(&text)?;
    Ok(exit::YES)
}
