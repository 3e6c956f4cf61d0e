//! stub
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Listen,
    Bound,
    TimeWait,
}
