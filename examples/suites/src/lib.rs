//! Nothing to use: the suites are in `tests`, and here the code on two pages of the documentation is compiled and run.

#[doc = include_str!("../../../docs/migration.md")]
pub mod migration {}

#[doc = include_str!("../../../docs/suites.md")]
pub mod suites {}
