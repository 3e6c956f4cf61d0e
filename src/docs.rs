//! Pages beside the API reference: what is guaranteed, how it works, which systems were tested, the
//! command, test frameworks, other crates, and measurements.

// Each page defines its links to other pages and to pictures as file names. If a link is defined
// twice, rustdoc uses the first definition. So the definitions below come before the page.
macro_rules! links {
    () => {
        "[platforms]: crate::docs::platforms
[command]: crate::docs::command
[integrations]: crate::docs::integrations
[rounds.svg]: #pictures
[cost.svg]: #pictures
[who.svg]: #pictures

"
    };
}

#[doc = links!()]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

#[doc = links!()]
#[doc = include_str!("../docs/how-it-works.md")]
pub mod how_it_works {}

#[doc = links!()]
#[doc = include_str!("../docs/platforms.md")]
pub mod platforms {}

#[doc = links!()]
#[doc = include_str!("../docs/command.md")]
pub mod command {}

#[doc = links!()]
#[doc = include_str!("../docs/integrations.md")]
pub mod integrations {}

#[doc = links!()]
#[doc = include_str!("../docs/migration.md")]
pub mod migration {}

#[doc = links!()]
#[doc = include_str!("../docs/performance.md")]
#[doc = "# Pictures\n\n"]
#[doc = include_str!("../docs/figures/rounds.svg")]
#[doc = include_str!("../docs/figures/cost.svg")]
#[doc = include_str!("../docs/figures/who.svg")]
pub mod performance {}
