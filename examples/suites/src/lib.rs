//! No public items. The suites are in `tests`. This file compiles and runs the Rust code of the
//! README and of the documentation pages. `tests/pages.rs` has the tests that they show.

#[doc = include_str!("../../../README.md")]
pub mod readme {}

#[doc = include_str!("../../../docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("../../../docs/how-it-works.md")]
pub mod how_it_works {}

#[doc = include_str!("../../../docs/platforms.md")]
pub mod platforms {}

#[doc = include_str!("../../../docs/command.md")]
pub mod command {}

#[doc = include_str!("../../../docs/integrations.md")]
pub mod integrations {}

#[doc = include_str!("../../../docs/migration.md")]
pub mod migration {}

#[doc = include_str!("../../../docs/performance.md")]
pub mod performance {}
