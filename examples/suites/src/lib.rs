//! No public items. The suites are in `tests`. This file compiles and runs the code of two
//! documentation pages.

#[doc = include_str!("../../../docs/migration.md")]
pub mod migration {}

#[doc = include_str!("../../../docs/suites.md")]
pub mod suites {}
