//! One file for each command of the command line.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod release;
pub(crate) mod reserve;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod stop;
pub(crate) mod wait;
pub(crate) mod who;
